//! The types of the standard library, with the same methods. In a simulation they ask the world.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::{LockResult, PoisonError, TryLockError, TryLockResult},
    time::Duration,
};

use super::world;

#[derive(Default)]
pub struct Mutex<T>(std::sync::Mutex<T>);

pub struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    /// `None` while it waits for a condition.
    guard: Option<std::sync::MutexGuard<'a, T>>,
}

impl<T> Mutex<T> {
    pub const fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    fn key(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    pub fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        if world::step("lock") && !world::is_over() {
            loop {
                match self.0.try_lock() {
                    Ok(guard) => return Ok(self.guard(guard)),
                    Err(TryLockError::Poisoned(e)) => {
                        return Err(PoisonError::new(self.guard(e.into_inner())));
                    }
                    Err(TryLockError::WouldBlock) if world::is_over() => break,
                    Err(TryLockError::WouldBlock) => {
                        world::wait(self.key(), None, "locked");
                    }
                }
            }
        }
        match self.0.lock() {
            Ok(guard) => Ok(self.guard(guard)),
            Err(e) => Err(PoisonError::new(self.guard(e.into_inner()))),
        }
    }

    pub fn try_lock(&self) -> TryLockResult<MutexGuard<'_, T>> {
        world::step("try lock");
        match self.0.try_lock() {
            Ok(guard) => Ok(self.guard(guard)),
            Err(TryLockError::Poisoned(e)) => {
                Err(TryLockError::Poisoned(PoisonError::new(self.guard(e.into_inner()))))
            }
            Err(TryLockError::WouldBlock) => Err(TryLockError::WouldBlock),
        }
    }

    fn guard<'a>(&'a self, guard: std::sync::MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        MutexGuard { mutex: self, guard: Some(guard) }
    }
}

impl<T: fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'a, T> MutexGuard<'a, T> {
    fn open(&mut self) -> Option<std::sync::MutexGuard<'a, T>> {
        self.guard.take()
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        if self.open().is_some() {
            world::wake(self.mutex.key(), true);
        }
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.guard.as_ref().expect("it is locked")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.guard.as_mut().expect("it is locked")
    }
}

#[derive(Default)]
pub struct Condvar(std::sync::Condvar);

impl Condvar {
    pub const fn new() -> Self {
        Self(std::sync::Condvar::new())
    }

    fn key(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        if world::is_simulated() {
            return self
                .wait_simulated(guard, None)
                .map_or_else(|e| Err(PoisonError::new(e.into_inner().0)), |(guard, _)| Ok(guard));
        }
        let (mutex, guard) = taken(guard);
        match self.0.wait(guard) {
            Ok(guard) => Ok(mutex.guard(guard)),
            Err(e) => Err(PoisonError::new(mutex.guard(e.into_inner()))),
        }
    }

    pub fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        timeout: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, bool)> {
        if world::is_simulated() {
            return self.wait_simulated(guard, Some(timeout));
        }
        let (mutex, guard) = taken(guard);
        match self.0.wait_timeout(guard, timeout) {
            Ok((guard, result)) => Ok((mutex.guard(guard), result.timed_out())),
            Err(e) => {
                let (guard, result) = e.into_inner();
                Err(PoisonError::new((mutex.guard(guard), result.timed_out())))
            }
        }
    }

    fn wait_simulated<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        timeout: Option<Duration>,
    ) -> LockResult<(MutexGuard<'a, T>, bool)> {
        let mutex = guard.mutex;
        drop(guard);
        // No other thread runs before this one waits.
        let timed_out = world::wait(self.key(), timeout, "wait").unwrap_or(true);
        match mutex.lock() {
            Ok(guard) => Ok((guard, timed_out)),
            Err(e) => Err(PoisonError::new((e.into_inner(), timed_out))),
        }
    }

    pub fn notify_one(&self) {
        match world::step("notify one") {
            true => world::wake(self.key(), false),
            false => self.0.notify_one(),
        }
    }

    pub fn notify_all(&self) {
        match world::step("notify all") {
            true => world::wake(self.key(), true),
            false => self.0.notify_all(),
        }
    }
}

fn taken<'a, T>(mut guard: MutexGuard<'a, T>) -> (&'a Mutex<T>, std::sync::MutexGuard<'a, T>) {
    (guard.mutex, guard.open().expect("it is locked"))
}

pub mod thread {
    use std::{io, sync::Arc, time::Duration};

    use super::{super::world, Mutex};

    #[derive(Default)]
    pub struct Builder {
        name: String,
        stack_size: Option<usize>,
    }

    impl Builder {
        pub fn new() -> Self {
            Self::default()
        }

        pub fn name(self, name: String) -> Self {
            Self { name, ..self }
        }

        pub fn stack_size(self, size: usize) -> Self {
            Self { stack_size: Some(size), ..self }
        }

        pub fn spawn<T: Send + 'static>(
            self,
            action: impl FnOnce() -> T + Send + 'static,
        ) -> io::Result<JoinHandle<T>> {
            if world::is_simulated() {
                let result = Arc::new(Mutex::new(None));
                let place = result.clone();
                let id = world::spawn(self.name, move || {
                    let done = action();
                    *place.lock().expect("it is not poisoned") = Some(done);
                });
                return Ok(JoinHandle::Simulated(id, result));
            }
            let mut builder = std::thread::Builder::new().name(self.name);
            if let Some(size) = self.stack_size {
                builder = builder.stack_size(size);
            }
            builder.spawn(action).map(JoinHandle::Real)
        }
    }

    pub enum JoinHandle<T> {
        Real(std::thread::JoinHandle<T>),
        Simulated(usize, Arc<Mutex<Option<T>>>),
    }

    impl<T> JoinHandle<T> {
        pub fn is_finished(&self) -> bool {
            match self {
                Self::Real(handle) => handle.is_finished(),
                Self::Simulated(id, _) => world::has_ended(*id),
            }
        }

        pub fn join(self) -> std::thread::Result<T> {
            let (id, result) = match self {
                Self::Real(handle) => return handle.join(),
                Self::Simulated(id, result) => (id, result),
            };
            while !world::has_ended(id) {
                world::wait(world::end_of(id), None, "join");
            }
            let done = result.lock().ok().and_then(|mut done| done.take());
            done.ok_or_else(|| Box::new("it has panicked") as _)
        }
    }

    pub fn sleep(time: Duration) {
        if world::wait(usize::MAX, Some(time), "sleep").is_none() {
            std::thread::sleep(time);
        }
    }
}

pub mod mpsc {
    use std::{
        collections::VecDeque,
        sync::{Arc, PoisonError},
        time::Duration,
    };

    pub use std::sync::mpsc::{RecvError, RecvTimeoutError, SendError, TrySendError};

    use super::{Condvar, Mutex, MutexGuard};

    struct Channel<T> {
        queue: Mutex<Queue<T>>,
        changed: Condvar,
    }

    struct Queue<T> {
        values: VecDeque<T>,
        limit: usize,
        senders: usize,
        has_receiver: bool,
    }

    impl<T> Channel<T> {
        fn lock(&self) -> MutexGuard<'_, Queue<T>> {
            self.queue.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    pub struct Sender<T>(Arc<Channel<T>>);
    pub struct Receiver<T>(Arc<Channel<T>>);

    /// A queue with room for `limit` values.
    pub fn sync_channel<T>(limit: usize) -> (Sender<T>, Receiver<T>) {
        let queue = Queue { values: VecDeque::new(), limit, senders: 1, has_receiver: true };
        let channel = Arc::new(Channel { queue: Mutex::new(queue), changed: Condvar::new() });
        (Sender(channel.clone()), Receiver(channel))
    }

    impl<T> Sender<T> {
        pub fn send(&self, value: T) -> Result<(), SendError<T>> {
            let mut queue = self.0.lock();
            while queue.has_receiver && queue.values.len() >= queue.limit {
                queue = self.0.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            if !queue.has_receiver {
                return Err(SendError(value));
            }
            queue.values.push_back(value);
            drop(queue);
            self.0.changed.notify_all();
            Ok(())
        }

        pub fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
            let mut queue = self.0.lock();
            if !queue.has_receiver {
                return Err(TrySendError::Disconnected(value));
            }
            if queue.values.len() >= queue.limit {
                return Err(TrySendError::Full(value));
            }
            queue.values.push_back(value);
            drop(queue);
            self.0.changed.notify_all();
            Ok(())
        }
    }

    impl<T> Clone for Sender<T> {
        fn clone(&self) -> Self {
            self.0.lock().senders += 1;
            Self(self.0.clone())
        }
    }

    impl<T> Drop for Sender<T> {
        fn drop(&mut self) {
            self.0.lock().senders -= 1;
            self.0.changed.notify_all();
        }
    }

    impl<T> Drop for Receiver<T> {
        fn drop(&mut self) {
            let mut queue = self.0.lock();
            queue.has_receiver = false;
            let left = std::mem::take(&mut queue.values);
            drop(queue);
            drop(left);
            self.0.changed.notify_all();
        }
    }

    impl<T> Receiver<T> {
        pub fn recv(&self) -> Result<T, RecvError> {
            loop {
                match self.recv_timeout(Duration::from_secs(3600)) {
                    Err(RecvTimeoutError::Timeout) => {}
                    received => return received.map_err(|_| RecvError),
                }
            }
        }

        pub fn recv_timeout(&self, timeout: Duration) -> Result<T, RecvTimeoutError> {
            let mut queue = self.0.lock();
            let until = crate::base::clock::now() + timeout;
            loop {
                if let Some(value) = queue.values.pop_front() {
                    drop(queue);
                    self.0.changed.notify_all();
                    return Ok(value);
                }
                if queue.senders == 0 {
                    return Err(RecvTimeoutError::Disconnected);
                }
                let left = until.saturating_duration_since(crate::base::clock::now());
                if left.is_zero() {
                    return Err(RecvTimeoutError::Timeout);
                }
                let waited = self.0.changed.wait_timeout(queue, left);
                queue = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }
}
