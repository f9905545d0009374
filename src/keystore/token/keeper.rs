//! Keeps a token that can be used, on a thread of its own.

use std::{
    fmt,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use super::{
    backoff::{Refusal, Rules},
    life::{Lease, Life, Step, Token},
};
use crate::{
    base::{
        clock,
        deadline::Deadline,
        panics::survive,
        sync::{self, Condvar, Mutex, MutexGuard},
    },
    keystore::{
        remote::{Answer, Failed},
        store::{Error, Notices},
    },
};

/// A login or renewal must be done within this time.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(15);
/// From a pause of this length on, the error log says how to shorten it.
const WORTH_A_SIGNAL: Duration = Duration::from_secs(60);

/// Why a login gave no token.
pub(crate) struct NoLease {
    pub(crate) error: Error,
    pub(crate) refusal: Refusal,
}

impl NoLease {
    /// The reason, and what it says about the credentials; the key store failed to do `what`.
    pub(crate) fn during(what: &str) -> impl FnOnce((Failed, Refusal)) -> Self {
        move |(failed, refusal)| Self { error: failed.during(what), refusal }
    }
}

/// What hands out tokens.
pub(crate) trait Authority: Send + Sync + 'static {
    /// Asks for a new token.
    fn login(&self, deadline: Deadline) -> Result<Lease, NoLease>;

    /// Asks for a longer life of `token`.
    fn renew(&self, token: &Token, deadline: Deadline) -> Result<Lease, Error>;
}

/// What a refused request is blamed on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blame {
    Token,
    /// Most likely a policy: then it logs in once a minute at most.
    Unclear,
}

/// Keeps a token that can be used, on a thread of its own.
pub(crate) struct Keeper(Arc<Shared>);

struct Shared {
    logins: Mutex<Logins>,
    changed: Condvar,
    notices: Arc<Notices>,
}

/// The tokens, and how asking for them goes.
struct Logins {
    life: Life,
    /// An attempt is under way.
    is_asking: bool,
    is_over: bool,
    /// Why the last attempt failed, if it did, and how long it was to the next.
    failure: Option<(String, Duration)>,
}

impl Keeper {
    /// A keeper without a token.
    pub(crate) fn new(rules: Rules, notices: Arc<Notices>) -> Self {
        Self(Arc::new(Shared {
            logins: Mutex::new(Logins {
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
    pub(crate) fn log_in(
        &self,
        authority: &impl Authority,
        deadline: Deadline,
    ) -> Result<(), Error> {
        let asked = clock::now();
        let result = authority.login(deadline);
        let mut logins = self.0.lock();
        match result {
            Ok(lease) => {
                logins.life.logged_in(lease, asked, clock::now());
                Ok(())
            }
            Err(NoLease { error, refusal }) => {
                let pause = logins.life.login_failed(refusal, clock::now());
                logins.failure = Some((error.to_string(), pause));
                Err(error)
            }
        }
    }

    /// Lets the next login come at once, however many were refused: somebody may have mended it.
    pub(crate) fn retry(&self) {
        self.0.lock().life.retry();
        self.0.changed.notify_all();
    }

    /// Starts the thread; it ends when the keeper is dropped.
    pub(crate) fn start(&self, authority: impl Authority) -> std::io::Result<()> {
        if let Some((_, pause)) = &self.0.lock().failure {
            let next = format!("the next login is tried in {}", Rough(*pause));
            self.0.notices.add(next);
        }
        let shared = self.0.clone();
        sync::start("key-store-token", 256 * 1024, Box::new(move || shared.run(&authority)))?;
        Ok(())
    }

    /// Asks with a token, and once more with a newer one if the first is to `blame` for the answer.
    ///
    /// # Errors
    /// Why there is no token, or no answer.
    pub(crate) fn ask(
        &self,
        deadline: Deadline,
        ask: impl Fn(&Token) -> Result<Answer, Failed>,
        blame: impl FnOnce(&Answer) -> Option<Blame>,
    ) -> Result<Answer, Failed> {
        let token = self.token(deadline)?;
        let answer = ask(&token)?;
        let Some(blame) = blame(&answer) else {
            return Ok(answer);
        };
        if let Some(newer) = self.replace(&token, blame, deadline) {
            return ask(&newer);
        }
        match self.failure() {
            // The token is wrong, and why there is no other one is what helps.
            Some(why) if blame == Blame::Token => Err(why.into()),
            _ => Ok(answer),
        }
    }

    /// A token that can be used. Waits until the deadline if one is being asked for.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) fn token(&self, deadline: Deadline) -> Result<Arc<Token>, Error> {
        self.0.wait(0, deadline).ok_or_else(|| {
            self.failure()
                .unwrap_or_else(|| Error::during("get an auth token")("no answer to the login yet"))
        })
    }

    /// Whether the last login failed.
    pub(crate) fn is_failing(&self) -> bool {
        self.0.lock().failure.is_some()
    }

    /// Why logins fail, if they do.
    fn failure(&self) -> Option<Error> {
        let logins = self.0.lock();
        let (why, _) = logins.failure.as_ref()?;
        // A sealed key store takes no logins either, and clients are to see the cause.
        Some(match *why == Error::Sealed.to_string() {
            true => Error::Sealed,
            false => Error::during("get an auth token")(why.clone()),
        })
    }

    /// A newer token than `token`, which the key store has refused. Logs in for that, but not over
    /// and over: `None` if there is none, and the refusal is to be believed.
    fn replace(&self, token: &Token, blame: Blame, deadline: Deadline) -> Option<Arc<Token>> {
        let is_doubtful = blame == Blame::Unclear;
        if !self.0.lock().life.refused(token, is_doubtful, clock::now()) {
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
    fn lock(&self) -> MutexGuard<'_, Logins> {
        self.logins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for `timeout`, or until something changes.
    fn sleep<'a>(
        &self,
        logins: MutexGuard<'a, Logins>,
        timeout: Option<Duration>,
    ) -> MutexGuard<'a, Logins> {
        let timeout = timeout.unwrap_or(Duration::from_secs(3600));
        let woken = self.changed.wait_timeout(logins, timeout);
        woken.unwrap_or_else(PoisonError::into_inner).0
    }

    /// A token whose number is at least `number`, by the deadline or until no attempt is due.
    fn wait(&self, number: u64, deadline: Deadline) -> Option<Arc<Token>> {
        let mut logins = self.lock();
        loop {
            let now = clock::now();
            let token = logins.life.token(now);
            if let Some(token) = token.filter(|token| token.number >= number) {
                return Some(token);
            }
            let is_hopeless = !logins.is_asking && matches!(logins.life.step(now), Step::Wait(_));
            if is_hopeless || deadline.has_passed(now) {
                return None;
            }
            logins = self.sleep(logins, Some(deadline.remaining(now)));
        }
    }

    fn run(&self, authority: &impl Authority) {
        let mut logins = self.lock();
        while !logins.is_over {
            let asked = clock::now();
            let step = logins.life.step(asked);
            if let Step::Wait(timeout) = step {
                logins = self.sleep(logins, timeout);
                continue;
            }
            logins.is_asking = true;
            drop(logins);
            let deadline = Deadline::after(asked, ATTEMPT_TIMEOUT);
            // The panic hook has logged it; threads that wait for a token must not wait for ever.
            let unrefused = |error| NoLease { error, refusal: Refusal::No };
            let result = survive(|| match &step {
                Step::Renew(token) => authority.renew(token, deadline).map_err(unrefused),
                _ => authority.login(deadline),
            })
            .unwrap_or_else(|| {
                let error = Error::during("get an auth token")("internal error");
                Err(unrefused(error))
            });
            logins = self.lock();
            logins.is_asking = false;
            self.finish(&mut logins, step, result, asked);
            self.changed.notify_all();
        }
    }

    fn finish(
        &self,
        logins: &mut Logins,
        step: Step,
        result: Result<Lease, NoLease>,
        asked: Instant,
    ) {
        let now = clock::now();
        match (step, result) {
            (Step::Renew(token), Ok(lease)) => logins.life.renewed(&token, &lease, asked),
            (Step::Renew(token), Err(NoLease { error, .. })) => {
                // The login that follows says whether there is something to worry about.
                logins.life.renewal_failed(&token, now);
                self.notices
                    .add(format!("failed to renew the auth token, logging in again: {error}"));
            }
            (_, Ok(lease)) => {
                logins.life.logged_in(lease, asked, now);
                if logins.failure.take().is_some() {
                    self.notices.add("logged in to the key store again".to_owned());
                }
            }
            (_, Err(NoLease { error, refusal })) => {
                let pause = logins.life.login_failed(refusal, now);
                // Logged once, not with each try, and again when the next try is later.
                let failure = (error.to_string(), pause);
                if logins.failure.as_ref() != Some(&failure) {
                    let hint = match pause > WORTH_A_SIGNAL {
                        true => ", or at once on SIGHUP",
                        false => "",
                    };
                    let next = Rough(pause);
                    self.notices.add(format!("{}; next attempt in {next}{hint}", failure.0));
                }
                logins.failure = Some(failure);
            }
        }
    }
}

/// A time for people.
struct Rough(Duration);

impl fmt::Display for Rough {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs_f64().ceil();
        match seconds < 120.0 {
            true => write!(f, "{seconds} s"),
            false => write!(f, "{} min", (seconds / 60.0).ceil()),
        }
    }
}
