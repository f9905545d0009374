//! The life of tokens with the time as an argument.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::base::secret::Secret;

/// A new token is used at the latest after this time, so that replicas know it when it comes.
const MAX_SETTLING: Duration = Duration::from_secs(30);
/// So many logins may be forced one after the other, each by the refusal of another token.
const MAX_FORCED: usize = 3;
/// Forced logins are this far apart on average, whatever the retry interval.
const MIN_FORCED: Duration = Duration::from_secs(1);
/// The same where the refusal most likely has another reason than the token: then it is the least.
const MIN_FORCED_IN_DOUBT: Duration = Duration::from_secs(60);
/// Vault counts a refused login if it comes within 15 minutes of the one before, and locks the role
/// at the fifth for all who share it. After this time it begins to count anew.
const UNCOUNTED: Duration = Duration::from_secs(16 * 60);
/// So many refusals that are counted may follow each other sooner: two servers with the same wrong
/// credentials don't lock the role between them.
const MAX_COUNTED: u32 = 2;

/// A token and its number: later ones have higher numbers.
#[derive(Debug)]
pub(in crate::keystore) struct Token {
    pub(in crate::keystore) number: u64,
    pub(in crate::keystore) secret: Secret,
}

impl Token {
    /// The token as text for a header.
    pub(in crate::keystore) fn text(&self) -> &str {
        str::from_utf8(self.secret.expose()).unwrap_or_default()
    }
}

/// What a login or a renewal gave.
#[derive(Debug)]
pub(in crate::keystore) struct Lease {
    /// The token; a renewal gives none.
    pub(in crate::keystore) token: Option<Secret>,
    /// How long it lasts; `None` is for ever.
    pub(in crate::keystore) lifetime: Option<Duration>,
    /// Whether it can be renewed.
    pub(in crate::keystore) is_renewable: bool,
}

/// How a key store wants its tokens treated.
#[derive(Clone, Copy, Debug)]
pub(in crate::keystore) struct Rules {
    /// A token is renewed after this many percent of its lifetime.
    pub(in crate::keystore) renew_after: u32,
    /// The time from a login that failed to the next; from one that was refused at first.
    pub(in crate::keystore) retry: Duration,
    /// The longest time from a login that was refused to the next, unless refusals are counted.
    pub(in crate::keystore) longest_retry: Duration,
    /// Whether a new token needs time to be known everywhere.
    pub(in crate::keystore) settles: bool,
}

/// Whether a login that has failed was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::keystore) enum Refusal {
    /// Nobody has said anything about the credentials.
    No,
    /// The credentials are refused.
    Yes,
    /// The same, and the key store locks out who is refused too often.
    Counted,
}

/// Forced logins: a few at once, and a steady rate in the long run.
#[derive(Debug)]
struct Forced<const N: usize> {
    /// When the last ones were, the oldest first.
    last: [Option<Instant>; N],
    /// N of them take at least this time.
    window: Duration,
}

impl<const N: usize> Forced<N> {
    fn new(gap: Duration) -> Self {
        Self { last: [None; N], window: gap * N as u32 }
    }

    /// Whether one may be forced at `now`; then it is.
    fn take(&mut self, now: Instant) -> bool {
        if self.last[0].is_some_and(|at| at <= now && now - at < self.window) {
            return false;
        }
        self.last.rotate_left(1);
        self.last[N - 1] = Some(now);
        true
    }
}

/// What to do now.
#[derive(Debug)]
pub(in crate::keystore) enum Step {
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
pub(in crate::keystore) struct Life {
    rules: Rules,
    current: Option<Held>,
    /// A newer one, and when it takes the place of the current one at the latest.
    next: Option<(Held, Instant)>,
    /// When the last login failed, if it did, and how long after that the next one comes.
    failed: Option<(Instant, Duration)>,
    /// Logins that were refused since one succeeded, and those of them that were counted.
    refusals: u32,
    counted: u32,
    /// When a renewal was tried last.
    renewed_at: Option<Instant>,
    forced: Forced<MAX_FORCED>,
    forced_in_doubt: Forced<1>,
    number: u64,
}

impl Life {
    pub(in crate::keystore) fn new(rules: Rules) -> Self {
        Self {
            rules,
            current: None,
            next: None,
            failed: None,
            refusals: 0,
            counted: 0,
            renewed_at: None,
            forced: Forced::new(rules.retry.max(MIN_FORCED)),
            forced_in_doubt: Forced::new(rules.retry.max(MIN_FORCED_IN_DOUBT)),
            number: 0,
        }
    }

    /// The token to use at `now`; never one that is known to be expired.
    pub(in crate::keystore) fn token(&mut self, now: Instant) -> Option<Arc<Token>> {
        self.advance(now);
        let current = self.current.as_ref().filter(|held| held.is_usable(now));
        current.map(|held| held.token.clone())
    }

    /// What to do at `now`.
    pub(in crate::keystore) fn step(&mut self, now: Instant) -> Step {
        self.advance(now);
        let newest = self.next.as_ref().map(|(held, _)| held);
        let newest = newest.or(self.current.as_ref());
        if let Some(held) = newest
            && !(held.is_ending || held.is_refused)
            && held.is_usable(now)
        {
            match held.until(self.rules.renew_after, now) {
                Some(Duration::ZERO) if held.is_renewable => {
                    return Step::Renew(held.token.clone());
                }
                Some(Duration::ZERO) => {}
                wait => return Step::Wait(wait),
            }
        }
        // A login it is. While none succeeds, a token that lives is kept alive.
        let Some(left) = self.pause(now) else {
            return Step::Login;
        };
        match newest.and_then(|held| Some((held, self.until_kept(held, now)?))) {
            Some((held, Duration::ZERO)) => Step::Renew(held.token.clone()),
            Some((_, wait)) => Step::Wait(Some(wait.min(left))),
            None => Step::Wait(Some(left)),
        }
    }

    /// The time until `held` is renewed although another one is wanted; `None` if it can't be.
    fn until_kept(&self, held: &Held, now: Instant) -> Option<Duration> {
        if !held.is_renewable || !held.is_usable(now) {
            return None;
        }
        let left = held.until(self.rules.renew_after, now)?;
        let renewed_at = self.renewed_at.filter(|at| *at <= now);
        let since = renewed_at.map(|at| (at + self.rules.retry).saturating_duration_since(now));
        Some(left.max(since.unwrap_or_default()))
    }

    /// The time until the next login may be tried.
    pub(super) fn pause(&self, now: Instant) -> Option<Duration> {
        let (at, pause) = self.failed.filter(|(at, _)| *at <= now)?;
        let left = (at + pause).saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// A login that was sent at `asked` has succeeded at `now`.
    pub(in crate::keystore) fn logged_in(&mut self, lease: Lease, asked: Instant, now: Instant) {
        self.failed = None;
        (self.refusals, self.counted) = (0, 0);
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
            self.failed = Some((now, self.rules.retry));
        }
        let settling = match held.lifetime {
            Some(lifetime) if self.rules.settles => {
                (lifetime * (100 - self.rules.renew_after) / 200).min(MAX_SETTLING)
            }
            _ => Duration::ZERO,
        };
        let is_old_good =
            self.current.as_ref().is_some_and(|old| old.is_usable(now) && !old.is_refused);
        match is_old_good && !settling.is_zero() {
            true => self.next = Some((held, now + settling)),
            false => (self.current, self.next) = (Some(held), None),
        }
    }

    /// A renewal of `token` that was sent at `asked` has succeeded.
    pub(in crate::keystore) fn renewed(&mut self, token: &Token, lease: &Lease, asked: Instant) {
        self.renewed_at = Some(asked);
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
        }
        held.is_ending = is_short;
        // Whatever was refused, it was not the token.
        held.is_refused = false;
    }

    /// A renewal of `token` has failed at `now`: the next step is a login.
    pub(in crate::keystore) fn renewal_failed(&mut self, token: &Token, now: Instant) {
        self.renewed_at = Some(now);
        if let Some(held) = self.find(token.number) {
            held.is_ending = true;
        }
    }

    /// A login has failed at `now`. The time until the next one, which grows with each refusal in a
    /// row: what is refused is not right a moment later, and others may share the credentials.
    pub(in crate::keystore) fn login_failed(&mut self, refusal: Refusal, now: Instant) -> Duration {
        let retry = self.rules.retry;
        if refusal != Refusal::No {
            self.refusals = self.refusals.saturating_add(1);
        }
        let pause = match refusal {
            Refusal::No => retry,
            Refusal::Yes => {
                let doublings = (self.refusals - 1).min(16);
                let longest = self.rules.longest_retry.max(retry);
                retry.saturating_mul(1 << doublings).min(longest)
            }
            Refusal::Counted => {
                self.counted = self.counted.saturating_add(1);
                match self.counted < MAX_COUNTED {
                    true => retry,
                    false => retry.max(UNCOUNTED),
                }
            }
        };
        self.failed = Some((now, pause));
        pause
    }

    /// Somebody may have mended what was refused: a login may be tried at once. What the key store has
    /// counted it still counts.
    pub(in crate::keystore) fn retry(&mut self) {
        self.failed = None;
        self.refusals = 0;
    }

    /// The key store has refused `token`, or something else if that `is_doubtful`. Whether there is or
    /// will be a newer one.
    pub(in crate::keystore) fn refused(
        &mut self,
        token: &Token,
        is_doubtful: bool,
        now: Instant,
    ) -> bool {
        self.advance(now);
        if let Some((next, _)) = self.next.take() {
            self.current = Some(next);
        }
        let may_log_in = self.pause(now).is_none();
        match &mut self.current {
            Some(current) if current.token.number != token.number => true,
            Some(current) if !current.is_refused => {
                let may_force = match is_doubtful {
                    true => self.forced_in_doubt.take(now),
                    false => self.forced.take(now),
                };
                current.is_refused = may_force;
                may_force && may_log_in
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
