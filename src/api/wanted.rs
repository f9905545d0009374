//! Keys that the configuration asks for. A thread creates those that could not be created at the start.

use std::{
    io,
    sync::{Arc, PoisonError},
    time::Duration,
};

use super::core::Core;
use crate::{
    base::{
        clock,
        deadline::Deadline,
        generation::Generation,
        panics::survive,
        secret,
        sync::{self, Mutex, mpsc::sync_channel, thread},
    },
    crypto::{MasterKey, stored},
    keystore::{self, KeyName, KeyStore},
};

/// How often the thread looks whether the key store is available.
const INTERVAL: Duration = Duration::from_secs(1);
/// After a failure it leaves the key store alone for this time.
const RETRY: Duration = Duration::from_secs(5);
/// A key, or all the new ones of a reload, must be there within this time.
const TIMEOUT: Duration = Duration::from_secs(15);

/// When a key that is asked for now must be there.
pub fn deadline() -> Deadline {
    Deadline::after(clock::now(), TIMEOUT)
}

/// The identity that a new key names as its maker: the administrator, in the newest generation. Keys of 0.14
/// name none.
pub fn maker(generation: Generation, root: &str) -> Option<&str> {
    (generation == Generation::Newest).then_some(root)
}

/// A fresh key of this maker.
///
/// # Errors
/// If the system has no randomness to give.
pub fn new_key(maker: Option<&str>) -> Result<MasterKey, getrandom::Error> {
    with_origin(MasterKey::generate()?, maker)
}

/// `key` as it is stored: with its origin, if it names its maker.
///
/// # Errors
/// If the system has no randomness to give.
pub fn with_origin(key: MasterKey, maker: Option<&str>) -> Result<MasterKey, getrandom::Error> {
    match maker {
        Some(maker) => key.with_origin(maker, clock::wall()),
        None => Ok(key),
    }
}

/// Creates the key `name` of this maker if there is none; `count` sees how the call ended.
///
/// # Errors
/// Why that is not possible.
pub fn create(
    name: &KeyName,
    store: &dyn KeyStore,
    maker: Option<&str>,
    deadline: Deadline,
    count: impl FnOnce(&Result<(), keystore::Error>),
) -> Result<(), String> {
    let key = new_key(maker).map_err(|e| e.to_string())?;
    let created = store.create(name, &stored::encode(&key), deadline);
    count(&created);
    match created {
        Ok(()) | Err(keystore::Error::Exists) => Ok(()),
        Err(e) => Err(e.to_string()),
    }
}

impl Core {
    /// As [`create_key`](Self::create_key), on a key store thread: a key store that hangs must not keep others waiting
    /// beyond the deadline.
    ///
    /// # Errors
    /// Why that is not possible. The key may be created nevertheless, or later.
    pub fn ask_for_key(
        &'static self,
        name: &KeyName,
        maker: Option<&str>,
        deadline: Deadline,
    ) -> Result<(), String> {
        let nobody = Arc::from("");
        let Some(permit) = self.threads.reserve(&nobody) else {
            return Err("too many requests wait for the key store".to_owned());
        };
        let (done, is_done) = sync_channel(1);
        let created = Arc::new(Mutex::new(Err("the key store does not answer".to_owned())));
        let (outcome, own, maker) = (created.clone(), name.clone(), maker.map(str::to_owned));
        self.threads.submit(permit, move |_| {
            if !deadline.has_passed(clock::now()) {
                let created = self.create_key(&own, maker.as_deref(), deadline);
                *outcome.lock().unwrap_or_else(PoisonError::into_inner) = created;
                let _ = done.try_send(());
            }
        });
        // It also ends if the job does without an outcome.
        let _ = is_done.recv_timeout(deadline.remaining(clock::now()));
        created.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Creates the key `name` if there is none.
    ///
    /// # Errors
    /// Why that is not possible.
    fn create_key(
        &self,
        name: &KeyName,
        maker: Option<&str>,
        deadline: Deadline,
    ) -> Result<(), String> {
        let created = create(name, &*self.store, maker, deadline, |created| {
            self.count(created);
            self.has_created(name, created);
        });
        secret::wipe_stack();
        created
    }
}

/// A missing key, and the last line that was logged about it.
struct Missing {
    name: KeyName,
    complaint: Option<String>,
}

/// Creates `names` on a thread, which ends when all are there. Those that a reload takes out of the configuration are
/// wanted no more.
///
/// # Errors
/// If the system refuses the thread.
pub fn start(core: &'static Core, names: Vec<KeyName>) -> io::Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let missing = |name| Missing { name, complaint: None };
    let mut missing: Vec<_> = names.into_iter().map(missing).collect();
    let run = move || {
        let mut next = clock::now();
        while !missing.is_empty() {
            thread::sleep(INTERVAL);
            let state = core.state();
            missing.retain(|key| state.keys.contains(&key.name));
            drop(state);
            if clock::now() >= next && core.health.is_fit() {
                survive(|| missing.retain_mut(|key| !key.is_created(core)));
                next = clock::now() + RETRY;
            }
        }
    };
    sync::start("wanted-keys", 256 * 1024, Box::new(run)).map(drop)
}

impl Missing {
    /// Tries to create the key, and logs what is new.
    fn is_created(&mut self, core: &Core) -> bool {
        let name = self.name.as_str();
        let maker = {
            let state = core.state();
            maker(state.generation, state.policies.root()).map(str::to_owned)
        };
        match core.create_key(&self.name, maker.as_deref(), deadline()) {
            Ok(()) => {
                if self.complaint.is_some() {
                    core.log.error(&format!("key {name:?}, which was missing, is there now"));
                }
                true
            }
            Err(why) => {
                if self.complaint.as_ref() != Some(&why) {
                    core.log.error(&format!("failed to create key {name:?}: {why}"));
                    self.complaint = Some(why);
                }
                false
            }
        }
    }
}
