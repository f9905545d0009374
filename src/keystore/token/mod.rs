//! The token that a key store hands out for a while: when to renew it, when to log in again, and which
//! one to use.
//!
//! [`Life`] is the whole of it and takes the time as an argument; [`Keeper`] lets it happen.

mod life;
#[cfg(test)]
mod tests;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{Error, Notices};
use crate::base::deadline::Deadline;
pub(super) use life::{Lease, Refusal, Rules, Token};
use life::{Life, Step};

/// A login or renewal must be done within this time.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(15);
/// Nobody has to be told how to shorten a shorter pause.
const WORTH_A_SIGNAL: Duration = Duration::from_secs(60);

/// Why a login gave no token.
pub(super) struct NoLease {
    pub(super) error: Error,
    pub(super) refusal: Refusal,
}

/// Who hands out tokens.
pub(super) trait Authority: Send + Sync + 'static {
    /// Asks for a new token.
    fn login(&self, deadline: Deadline) -> Result<Lease, NoLease>;

    /// Asks for a longer life of `token`.
    fn renew(&self, token: &Token, deadline: Deadline) -> Result<Lease, Error>;
}

/// Keeps a token that can be used, on a thread of its own.
pub(super) struct Keeper(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    notices: Arc<Notices>,
}

struct State {
    life: Life,
    /// An attempt is under way.
    is_asking: bool,
    is_over: bool,
    /// Why the last attempt failed, if it did, and how long it was to the next.
    failure: Option<(String, Duration)>,
}

impl Keeper {
    /// A keeper without a token.
    pub(super) fn new(rules: Rules, notices: Arc<Notices>) -> Self {
        Self(Arc::new(Shared {
            state: Mutex::new(State {
                life: Life::new(rules),
                is_asking: false,
                is_over: false,
                failure: None,
            }),
            changed: Condvar::new(),
            notices,
        }))
    }

    /// Logs in for the first time.
    ///
    /// # Errors
    /// Why there is no token. A keeper that is started goes on trying.
    pub(super) fn log_in(
        &self,
        authority: &impl Authority,
        deadline: Deadline,
    ) -> Result<(), Error> {
        let asked = Instant::now();
        let result = authority.login(deadline);
        let mut state = self.0.lock();
        match result {
            Ok(lease) => {
                state.life.logged_in(lease, asked, Instant::now());
                Ok(())
            }
            Err(NoLease { error, refusal }) => {
                let pause = state.life.login_failed(refusal, Instant::now());
                state.failure = Some((error.to_string(), pause));
                Err(error)
            }
        }
    }

    /// Lets the next login come at once, however many were refused: somebody may have mended it.
    pub(super) fn retry(&self) {
        self.0.lock().life.retry();
        self.0.changed.notify_all();
    }

    /// Starts the thread; it ends when the keeper is dropped.
    pub(super) fn start(&self, authority: impl Authority) -> std::io::Result<()> {
        if let Some((_, pause)) = &self.0.lock().failure {
            let next = format!("the next login is tried in {}", Rough(*pause));
            self.0.notices.add(next);
        }
        let shared = self.0.clone();
        std::thread::Builder::new()
            .name("key-store-token".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || shared.run(&authority))?;
        Ok(())
    }

    /// A token that can be used. Waits until the deadline if one is being asked for.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn token(&self, deadline: Deadline) -> Result<Arc<Token>, Error> {
        self.0.wait(0, deadline).ok_or_else(|| {
            self.failure()
                .unwrap_or_else(|| Error::during("get an auth token")("no answer to the login yet"))
        })
    }

    /// Why logins fail, if they do.
    pub(super) fn failure(&self) -> Option<Error> {
        let state = self.0.lock();
        let (why, _) = state.failure.as_ref()?;
        Some(Error::during("get an auth token")(why.clone()))
    }

    /// A newer token than `token`, which the key store has refused. Logs in for that, but not over
    /// and over: `None` if there is none, and the refusal is to be believed.
    pub(super) fn replace(&self, token: &Token, deadline: Deadline) -> Option<Arc<Token>> {
        self.replace_if(token, false, deadline)
    }

    /// As [`replace`](Self::replace) where most likely something else was refused: then it logs in
    /// once a minute at most.
    pub(super) fn replace_in_doubt(&self, token: &Token, deadline: Deadline) -> Option<Arc<Token>> {
        self.replace_if(token, true, deadline)
    }

    fn replace_if(
        &self,
        token: &Token,
        is_doubtful: bool,
        deadline: Deadline,
    ) -> Option<Arc<Token>> {
        let now = Instant::now();
        if !self.0.lock().life.refused(token, is_doubtful, now) {
            return None;
        }
        self.0.changed.notify_all();
        self.0.wait(token.number + 1, deadline)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.lock().is_over = true;
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for `timeout`, or until something changes.
    fn sleep<'a>(
        &self,
        state: MutexGuard<'a, State>,
        timeout: Option<Duration>,
    ) -> MutexGuard<'a, State> {
        let timeout = timeout.unwrap_or(Duration::from_secs(3600));
        let woken = self.changed.wait_timeout(state, timeout);
        woken.unwrap_or_else(PoisonError::into_inner).0
    }

    /// A token whose number is at least `number`, by the deadline or until no attempt is due.
    fn wait(&self, number: u64, deadline: Deadline) -> Option<Arc<Token>> {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            let token = state.life.token(now);
            if let Some(token) = token.filter(|token| token.number >= number) {
                return Some(token);
            }
            let is_hopeless = !state.is_asking && matches!(state.life.step(now), Step::Wait(_));
            if is_hopeless || deadline.has_passed(now) {
                return None;
            }
            state = self.sleep(state, Some(deadline.remaining(now)));
        }
    }

    fn run(&self, authority: &impl Authority) {
        let mut state = self.lock();
        while !state.is_over {
            let asked = Instant::now();
            let step = state.life.step(asked);
            if let Step::Wait(timeout) = step {
                state = self.sleep(state, timeout);
                continue;
            }
            state.is_asking = true;
            drop(state);
            let deadline = Deadline::after(asked, ATTEMPT_TIMEOUT);
            // The panic hook has told the log; whoever waits for a token must not wait for ever.
            let unrefused = |error| NoLease { error, refusal: Refusal::No };
            let result = catch_unwind(AssertUnwindSafe(|| match &step {
                Step::Renew(token) => authority.renew(token, deadline).map_err(unrefused),
                _ => authority.login(deadline),
            }))
            .unwrap_or_else(|_| {
                let error = Error::during("get an auth token")("internal error");
                Err(unrefused(error))
            });
            state = self.lock();
            state.is_asking = false;
            self.finish(&mut state, step, result, asked);
            self.changed.notify_all();
        }
    }

    fn finish(
        &self,
        state: &mut State,
        step: Step,
        result: Result<Lease, NoLease>,
        asked: Instant,
    ) {
        let now = Instant::now();
        match (step, result) {
            (Step::Renew(token), Ok(lease)) => state.life.renewed(&token, &lease, asked),
            (Step::Renew(token), Err(NoLease { error, .. })) => {
                // The login that follows says whether there is something to worry about.
                state.life.renewal_failed(&token, now);
                self.notices
                    .add(format!("failed to renew the auth token, logging in again: {error}"));
            }
            (_, Ok(lease)) => {
                state.life.logged_in(lease, asked, now);
                if state.failure.take().is_some() {
                    self.notices.add("logged in to the key store again".to_owned());
                }
            }
            (_, Err(NoLease { error, refusal })) => {
                let pause = state.life.login_failed(refusal, now);
                // Said once, not with each try, and again when the next try is later.
                let failure = (error.to_string(), pause);
                if state.failure.as_ref() != Some(&failure) {
                    let hint = match pause > WORTH_A_SIGNAL {
                        true => ", or at once on SIGHUP",
                        false => "",
                    };
                    let next = Rough(pause);
                    self.notices.add(format!("{}; next attempt in {next}{hint}", failure.0));
                }
                state.failure = Some(failure);
            }
        }
    }
}

/// A time for people.
struct Rough(Duration);

impl std::fmt::Display for Rough {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = self.0.as_secs_f64().ceil();
        match seconds < 120.0 {
            true => write!(f, "{seconds} s"),
            false => write!(f, "{} min", (seconds / 60.0).ceil()),
        }
    }
}
