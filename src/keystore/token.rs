//! The token that a key store hands out for a while: when to renew it, when to log in again, and which
//! one to use.
//!
//! [`Life`] is the whole of it and takes the time as an argument; [`Keeper`] lets it happen.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{Error, Notices};
use crate::{deadline::Deadline, secret::Secret};

/// A new token is used at the latest after this time, so that replicas know it when it comes.
const MAX_SETTLING: Duration = Duration::from_secs(30);
/// A forced login comes no sooner than this after the one before, whatever the retry interval.
const MIN_FORCED: Duration = Duration::from_secs(1);
/// The same where the refusal most likely has another reason than the token.
const MIN_FORCED_IN_DOUBT: Duration = Duration::from_secs(60);
/// A login or renewal must be done within this time.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(15);

/// A token and its number: later ones have higher numbers.
#[derive(Debug)]
pub(super) struct Token {
    pub(super) number: u64,
    pub(super) secret: Secret,
}

impl Token {
    /// The token as text for a header.
    pub(super) fn text(&self) -> &str {
        str::from_utf8(self.secret.expose()).unwrap_or_default()
    }
}

/// What a login or a renewal gave.
#[derive(Debug)]
pub(super) struct Lease {
    /// The token; a renewal gives none.
    pub(super) token: Option<Secret>,
    /// How long it lasts; `None` is for ever.
    pub(super) lifetime: Option<Duration>,
    /// Whether it can be renewed.
    pub(super) is_renewable: bool,
}

/// How a key store wants its tokens treated.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// A token is renewed after this many percent of its lifetime.
    pub(super) renew_after: u32,
    /// The time from a login that failed to the next.
    pub(super) retry: Duration,
    /// Whether a new token needs time to be known everywhere.
    pub(super) settles: bool,
}

/// What to do now.
#[derive(Debug)]
pub(super) enum Step {
    /// Renew this token.
    Renew(Arc<Token>),
    /// Log in.
    Login,
    /// Nothing for this time; `None` is until something happens.
    Wait(Option<Duration>),
}

/// A token that the key store has given.
#[derive(Debug)]
struct Held {
    token: Arc<Token>,
    /// When its lifetime began, at the latest.
    since: Instant,
    lifetime: Option<Duration>,
    is_renewable: bool,
    /// It can't be renewed (any more) and another one is wanted.
    is_ending: bool,
    /// The key store has refused it.
    is_refused: bool,
}

impl Held {
    /// A token is not used in the last moments of its life: it must not expire on its way.
    fn is_usable(&self, now: Instant) -> bool {
        match self.lifetime {
            None => true,
            // A clock that went back says nothing about the token.
            Some(_) if now < self.since => false,
            Some(lifetime) => now - self.since < lifetime - margin(lifetime),
        }
    }

    /// The time until `percent` of its life are over.
    fn until(&self, percent: u32, now: Instant) -> Option<Duration> {
        let at = self.since + self.lifetime? * percent / 100;
        Some(at.saturating_duration_since(now))
    }
}

fn margin(lifetime: Duration) -> Duration {
    (lifetime / 20).min(Duration::from_secs(1))
}

/// The life of the tokens of one key store.
#[derive(Debug)]
pub(super) struct Life {
    rules: Rules,
    current: Option<Held>,
    /// A newer one, and when it takes the place of the current one at the latest.
    next: Option<(Held, Instant)>,
    /// When the last login failed, if it did.
    failed_at: Option<Instant>,
    /// When a login was forced last, and when in doubt.
    forced_at: Option<Instant>,
    forced_in_doubt_at: Option<Instant>,
    number: u64,
}

impl Life {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            rules,
            current: None,
            next: None,
            failed_at: None,
            forced_at: None,
            forced_in_doubt_at: None,
            number: 0,
        }
    }

    /// The token to use at `now`; never one that is known to be expired.
    pub(super) fn token(&mut self, now: Instant) -> Option<Arc<Token>> {
        self.advance(now);
        let current = self.current.as_ref().filter(|held| held.is_usable(now));
        current.map(|held| held.token.clone())
    }

    /// What to do at `now`.
    pub(super) fn step(&mut self, now: Instant) -> Step {
        self.advance(now);
        let newest = self.next.as_ref().map(|(held, _)| held);
        let newest = newest.or(self.current.as_ref());
        let wish = match newest {
            None => Step::Login,
            Some(held) if held.is_ending || held.is_refused || !held.is_usable(now) => Step::Login,
            Some(held) => match held.until(self.rules.renew_after, now) {
                Some(Duration::ZERO) if held.is_renewable => Step::Renew(held.token.clone()),
                Some(Duration::ZERO) => Step::Login,
                wait => return Step::Wait(wait),
            },
        };
        match (&wish, self.pause(now)) {
            (Step::Login, Some(left)) => Step::Wait(Some(left)),
            _ => wish,
        }
    }

    /// The time until the next login may be tried.
    fn pause(&self, now: Instant) -> Option<Duration> {
        let failed_at = self.failed_at.filter(|at| *at <= now)?;
        let left = (failed_at + self.rules.retry).saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// A login that was sent at `asked` has succeeded at `now`.
    pub(super) fn logged_in(&mut self, lease: Lease, asked: Instant, now: Instant) {
        self.failed_at = None;
        self.number += 1;
        let held = Held {
            token: Arc::new(Token {
                number: self.number,
                secret: lease.token.unwrap_or_else(|| Secret::new(Vec::new())),
            }),
            since: asked,
            lifetime: lease.lifetime,
            is_renewable: lease.is_renewable,
            is_ending: false,
            is_refused: false,
        };
        if !held.is_usable(now) {
            // It came too late to be of use; the next try must not follow at once for ever.
            self.failed_at = Some(now);
        }
        let settling = match held.lifetime {
            Some(lifetime) if self.rules.settles => {
                (lifetime * (100 - self.rules.renew_after) / 200).min(MAX_SETTLING)
            }
            _ => Duration::ZERO,
        };
        let is_old_good = self
            .current
            .as_ref()
            .is_some_and(|old| old.is_usable(now) && !old.is_refused);
        match is_old_good && !settling.is_zero() {
            true => self.next = Some((held, now + settling)),
            false => (self.current, self.next) = (Some(held), None),
        }
    }

    /// A renewal of `token` that was sent at `asked` has succeeded.
    pub(super) fn renewed(&mut self, token: &Token, lease: &Lease, asked: Instant) {
        let Some(held) = self.find(token.number) else {
            return;
        };
        let before = held.lifetime;
        held.since = asked;
        held.lifetime = lease.lifetime;
        held.is_renewable = lease.is_renewable;
        // At the end of what the key store allows it gives less and less, or nothing.
        let is_short = match (before, lease.lifetime) {
            (Some(before), Some(lifetime)) => lifetime < before / 2,
            (_, lifetime) => lifetime.is_none(),
        };
        if is_short {
            // Nothing says that a renewed token lasts for ever.
            held.lifetime = lease.lifetime.or(before);
            held.is_ending = true;
        }
    }

    /// A renewal of `token` has failed: the next step is a login.
    pub(super) fn renewal_failed(&mut self, token: &Token) {
        if let Some(held) = self.find(token.number) {
            held.is_ending = true;
        }
    }

    /// A login has failed at `now`.
    pub(super) fn login_failed(&mut self, now: Instant) {
        self.failed_at = Some(now);
    }

    /// The key store has refused `token`, or something else if that `is_doubtful`. Whether there is or
    /// will be a newer one.
    pub(super) fn refused(&mut self, token: &Token, is_doubtful: bool, now: Instant) -> bool {
        self.advance(now);
        if let Some((next, _)) = self.next.take() {
            self.current = Some(next);
        }
        let may_log_in = self.pause(now).is_none();
        let (gap, last) = match is_doubtful {
            true => (MIN_FORCED_IN_DOUBT, &mut self.forced_in_doubt_at),
            false => (MIN_FORCED, &mut self.forced_at),
        };
        let gap = self.rules.retry.max(gap);
        let is_too_soon = last.is_some_and(|at| at <= now && now - at < gap);
        match &mut self.current {
            Some(current) if current.token.number != token.number => true,
            Some(current) if !current.is_refused => {
                if is_too_soon {
                    return false;
                }
                current.is_refused = true;
                *last = Some(now);
                may_log_in
            }
            // The login is under way, or has just failed.
            _ => may_log_in,
        }
    }

    fn find(&mut self, number: u64) -> Option<&mut Held> {
        let next = self.next.as_mut().map(|(held, _)| held);
        let held = self.current.as_mut().into_iter().chain(next);
        held.into_iter().find(|held| held.token.number == number)
    }

    /// Puts the next token in the place of the current one if it is time.
    fn advance(&mut self, now: Instant) {
        let is_due = match (&self.next, &self.current) {
            (Some((_, at)), Some(current)) => *at <= now || !current.is_usable(now),
            (Some(_), None) => true,
            (None, _) => false,
        };
        if is_due {
            self.current = self.next.take().map(|(held, _)| held);
        }
    }
}

/// Who hands out tokens.
pub(super) trait Authority: Send + Sync + 'static {
    /// Asks for a new token.
    fn login(&self, deadline: Deadline) -> Result<Lease, Error>;

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
    /// Why the last attempt failed, if it did.
    failure: Option<Arc<Error>>,
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
            Err(e) => {
                state.life.login_failed(Instant::now());
                Err(e)
            }
        }
    }

    /// Starts the thread; it ends when the keeper is dropped.
    pub(super) fn start(&self, authority: impl Authority) -> std::io::Result<()> {
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
            let failure = self.0.lock().failure.clone();
            let why = failure.map_or_else(
                || "no answer to the login yet".to_owned(),
                |failure| failure.to_string(),
            );
            Error::during("log in")(why)
        })
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
            let result = match &step {
                Step::Renew(token) => authority.renew(token, deadline),
                _ => authority.login(deadline),
            };
            state = self.lock();
            state.is_asking = false;
            self.finish(&mut state, step, result, asked);
            self.changed.notify_all();
        }
    }

    fn finish(&self, state: &mut State, step: Step, result: Result<Lease, Error>, asked: Instant) {
        let now = Instant::now();
        match (step, result) {
            (Step::Renew(token), Ok(lease)) => state.life.renewed(&token, &lease, asked),
            (Step::Renew(token), Err(e)) => {
                // The login that follows says whether there is something to worry about.
                state.life.renewal_failed(&token);
                self.notices.add(format!(
                    "failed to renew the auth token, logging in again: {e}"
                ));
            }
            (_, Ok(lease)) => {
                state.life.logged_in(lease, asked, now);
                if state.failure.take().is_some() {
                    self.notices
                        .add("logged in to the key store again".to_owned());
                }
            }
            (_, Err(e)) => {
                state.life.login_failed(now);
                // Said once, not with each try.
                let text = e.to_string();
                let is_known =
                    (state.failure.as_ref()).is_some_and(|known| known.to_string() == text);
                if !is_known {
                    self.notices.add(text);
                }
                state.failure = Some(Arc::new(e));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    const RULES: Rules = Rules {
        renew_after: 80,
        retry: Duration::from_secs(5),
        settles: true,
    };

    fn lease(seconds: u64) -> Lease {
        Lease {
            token: Some(Secret::new(b"token".to_vec())),
            lifetime: (seconds > 0).then(|| Duration::from_secs(seconds)),
            is_renewable: true,
        }
    }

    fn logged_in(seconds: u64, now: Instant) -> Life {
        let mut life = Life::new(RULES);
        assert!(matches!(life.step(now), Step::Login));
        life.logged_in(lease(seconds), now, now);
        life
    }

    fn number(life: &mut Life, now: Instant) -> Option<u64> {
        life.token(now).map(|token| token.number)
    }

    #[test]
    fn a_token_is_renewed_after_four_fifths_of_its_life() {
        let start = Instant::now();
        let mut life = logged_in(100, start);
        assert!(matches!(life.step(start), Step::Wait(Some(wait)) if wait == 80 * SECOND));
        let late = start + 80 * SECOND;
        let Step::Renew(token) = life.step(late) else {
            panic!("it is time");
        };
        life.renewed(&token, &lease(100), late);
        assert!(matches!(life.step(late), Step::Wait(Some(wait)) if wait == 80 * SECOND));
        assert_eq!(Some(1), number(&mut life, start + 170 * SECOND));
    }

    #[test]
    fn a_failed_renewal_is_followed_by_a_login_and_the_old_token_is_used_until_then() {
        let start = Instant::now();
        let mut life = logged_in(100, start);
        let at = |seconds| start + seconds * SECOND;
        let Step::Renew(token) = life.step(at(80)) else {
            panic!("it is time");
        };
        life.renewal_failed(&token);
        assert!(matches!(life.step(at(80)), Step::Login));
        life.login_failed(at(81));
        assert!(matches!(life.step(at(82)), Step::Wait(Some(wait)) if wait == 4 * SECOND));
        assert_eq!(Some(1), number(&mut life, at(86)));
        assert!(matches!(life.step(at(86)), Step::Login));
        life.logged_in(lease(100), at(86), at(87));
        // The new one settles for a tenth of its life.
        assert_eq!(Some(1), number(&mut life, at(96)));
        assert_eq!(Some(2), number(&mut life, at(97)));
    }

    #[test]
    fn a_token_that_gets_less_and_less_is_replaced() {
        let start = Instant::now();
        for seconds in [0, 1, 49] {
            let mut life = logged_in(100, start);
            let late = start + 80 * SECOND;
            let Step::Renew(token) = life.step(late) else {
                panic!("it is time");
            };
            life.renewed(&token, &lease(seconds), late);
            assert!(matches!(life.step(late), Step::Login), "{seconds}");
        }
    }

    #[test]
    fn a_token_without_an_end_is_left_alone() {
        let start = Instant::now();
        let mut life = logged_in(0, start);
        let late = start + 1_000_000 * SECOND;
        assert!(matches!(life.step(late), Step::Wait(None)));
        assert_eq!(Some(1), number(&mut life, late));
    }

    #[test]
    fn an_expired_token_is_not_used() {
        let start = Instant::now();
        let mut life = logged_in(100, start);
        assert_eq!(Some(1), number(&mut life, start + 98 * SECOND));
        assert_eq!(None, number(&mut life, start + 99 * SECOND));
        assert!(matches!(life.step(start + 99 * SECOND), Step::Login));
    }

    #[test]
    fn a_refused_token_is_replaced_once_and_then_the_refusal_is_believed() {
        let start = Instant::now();
        let mut life = logged_in(100, start);
        let token = life.token(start).unwrap();
        assert!(life.refused(&token, false, start));
        assert!(
            life.refused(&token, false, start),
            "another request waits for the same"
        );
        assert!(matches!(life.step(start), Step::Login));
        life.logged_in(lease(100), start, start);
        let newer = life.token(start).unwrap();
        assert_eq!(
            2, newer.number,
            "it does not settle: the old one is of no use"
        );
        assert!(life.refused(&token, false, start), "there is a newer one");
        assert!(!life.refused(&newer, false, start + 4 * SECOND));
        assert!(matches!(life.step(start + 4 * SECOND), Step::Wait(Some(_))));
        assert!(
            life.refused(&newer, false, start + 5 * SECOND),
            "later it may be gone again"
        );
    }

    #[test]
    fn a_refusal_that_is_about_something_else_does_not_keep_a_token_from_being_replaced() {
        let start = Instant::now();
        let mut life = logged_in(100, start);
        let token = life.token(start).unwrap();
        assert!(life.refused(&token, true, start));
        life.logged_in(lease(100), start, start);
        let newer = life.token(start).unwrap();
        assert!(!life.refused(&newer, true, start + 59 * SECOND));
        assert!(life.refused(&newer, false, start + 59 * SECOND));
    }

    /// What the key store knows of a token.
    struct Issued {
        until: Option<u64>,
        asked: u64,
        lifetime: Option<u64>,
    }

    /// xorshift, so that a failure can be repeated.
    struct Random(u64);

    impl Random {
        fn below(&mut self, limit: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % limit
        }
    }

    /// Lets a life pass with random lifetimes, failures, refusals and steps of the clock. Times are in
    /// milliseconds.
    fn live(seed: u64, base: Instant) {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let rules = Rules {
            renew_after: if random.below(2) == 0 { 80 } else { 50 },
            retry: Duration::from_millis(1000 + random.below(10_000)),
            settles: random.below(2) == 0,
        };
        let shortest = 1 + random.below(100);
        let mut life = Life::new(rules);
        let mut issued: Vec<Issued> = Vec::new();
        let at = |millis: u64| base + Duration::from_millis(millis);
        let (mut now, start) = (100_000_000_u64, 100_000_000_u64);
        let (mut passed, mut steps_of_clock, mut logins) = (0_u64, 0_u64, 0_u64);
        let mut attempts_at_once = 0;
        let mut is_down = false;
        for _ in 0..80 {
            // What requests see.
            if let Some(token) = life.token(at(now)) {
                let known = &issued[token.number as usize - 1];
                let is_known_to_be_over =
                    (known.lifetime).is_some_and(|lifetime| now >= known.asked + lifetime);
                assert!(
                    !is_known_to_be_over,
                    "seed {seed}: an expired token is used"
                );
                if random.below(20) == 0 {
                    life.refused(&token, random.below(2) == 0, at(now));
                }
            }
            if random.below(10) == 0 {
                is_down = random.below(2) == 0;
            }
            let asked = now;
            let step = life.step(at(now));
            let latency = match random.below(4) {
                0 => random.below(3000),
                _ => 0,
            };
            let fails = is_down || random.below(10) == 0;
            match step {
                Step::Wait(wait) => {
                    attempts_at_once = 0;
                    assert_ne!(Some(Duration::ZERO), wait, "seed {seed}: a busy loop");
                    // The thread sleeps at most so long; requests come in between. It never wakes up
                    // before a millisecond has passed.
                    let wait = wait.map_or(100_000, |wait| wait.as_micros().div_ceil(1000) as u64);
                    let slept = if random.below(2) == 0 {
                        wait
                    } else {
                        1 + random.below(wait)
                    };
                    now += slept;
                    passed += slept;
                }
                Step::Renew(token) => {
                    attempts_at_once = if latency == 0 {
                        attempts_at_once + 1
                    } else {
                        0
                    };
                    now += latency;
                    passed += latency;
                    let known = &mut issued[token.number as usize - 1];
                    let is_over = known.until.is_some_and(|until| passed >= until);
                    if fails || is_over {
                        life.renewal_failed(&token);
                    } else {
                        let seconds = random.below(3) * (shortest + random.below(50));
                        known.asked = asked;
                        // A renewal that gives nothing leaves the token what it had.
                        if seconds > 0 {
                            known.lifetime = Some(seconds * 1000);
                        }
                        known.until = known.lifetime.map(|lifetime| passed - latency + lifetime);
                        life.renewed(&token, &lease(seconds), at(asked));
                    }
                }
                Step::Login => {
                    attempts_at_once = if latency == 0 {
                        attempts_at_once + 1
                    } else {
                        0
                    };
                    logins += 1;
                    now += latency;
                    passed += latency;
                    if fails {
                        life.login_failed(at(now));
                    } else {
                        let seconds = match random.below(20) {
                            0 => 0,
                            _ => shortest + random.below(100),
                        };
                        let lifetime = (seconds > 0).then_some(seconds * 1000);
                        issued.push(Issued {
                            until: lifetime.map(|lifetime| passed - latency + lifetime),
                            asked,
                            lifetime,
                        });
                        life.logged_in(lease(seconds), at(asked), at(now));
                    }
                }
            }
            assert!(
                attempts_at_once <= 4,
                "seed {seed}: attempts follow each other at once"
            );
            if random.below(25) == 0 {
                steps_of_clock += 1;
                attempts_at_once = 0;
                now = match random.below(2) {
                    0 => now + random.below(3_600_000),
                    _ => start.max(now - random.below(100_000)),
                };
            }
        }
        // Each login but the first is due to a life that has passed, a retry, a refusal (of which
        // there is one in a retry interval), or a clock that was set.
        let rhythm = (rules.retry.as_millis() as u64).min(shortest * 1000 * 45 / 100);
        let most = 3 + 3 * steps_of_clock + 2 * passed / rhythm;
        assert!(
            logins <= most,
            "seed {seed}: {logins} logins, at most {most} are due"
        );
    }

    #[test]
    fn tokens_of_100_000_random_lives_are_never_used_expired_nor_asked_for_over_and_over() {
        let base = Instant::now();
        for seed in 1..=100_000 {
            live(seed, base);
        }
    }
}
