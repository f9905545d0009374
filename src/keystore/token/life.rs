//! The life of tokens, with the time as an argument of every function.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::backoff::{Backoff, Refusal, Rules};
use crate::base::secret::Secret;

/// A new token is used at the latest after this time, so that replicas know it when it comes.
const MAX_SETTLING: Duration = Duration::from_secs(30);
/// No token is believed to last longer.
pub(crate) const MAX_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// A token and its number: later ones have higher numbers.
#[derive(Debug)]
pub(crate) struct Token {
    pub(crate) number: u64,
    pub(crate) secret: Secret,
}

impl Token {
    /// The token as text for a header.
    pub(crate) fn text(&self) -> &str {
        str::from_utf8(self.secret.expose()).unwrap_or_default()
    }
}

/// What a login or a renewal gave.
#[derive(Debug)]
pub(crate) struct Lease {
    /// The token; a renewal gives none.
    pub(crate) token: Option<Secret>,
    /// How long it lasts; `None` is for ever.
    pub(crate) lifetime: Option<Duration>,
    /// Whether it can be renewed.
    pub(crate) is_renewable: bool,
}

/// What to do now.
#[derive(Debug)]
pub(crate) enum Step {
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
pub(crate) struct Life {
    rules: Rules,
    current: Option<Held>,
    /// A newer one, and when it takes the place of the current one at the latest.
    next: Option<(Held, Instant)>,
    pub(crate) backoff: Backoff,
    /// When a renewal was tried last.
    renewed_at: Option<Instant>,
    number: u64,
}

impl Life {
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            rules,
            current: None,
            next: None,
            backoff: Backoff::new(rules),
            renewed_at: None,
            number: 0,
        }
    }

    /// The token to use at `now`; never one that is known to be expired.
    pub(crate) fn token(&mut self, now: Instant) -> Option<Arc<Token>> {
        self.advance(now);
        let current = self.current.as_ref().filter(|held| held.is_usable(now));
        current.map(|held| held.token.clone())
    }

    /// What to do at `now`.
    pub(crate) fn step(&mut self, now: Instant) -> Step {
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
        let Some(left) = self.backoff.pause(now) else {
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

    /// A login that was sent at `asked` has succeeded at `now`.
    pub(crate) fn logged_in(&mut self, lease: Lease, asked: Instant, now: Instant) {
        self.backoff.succeeded();
        self.number += 1;
        let held = Held {
            token: Arc::new(Token {
                number: self.number,
                secret: Secret::kept(lease.token.unwrap_or_default().expose()),
            }),
            since: asked,
            lifetime: lease.lifetime,
            is_renewable: lease.is_renewable,
            is_ending: false,
            is_refused: false,
        };
        if !held.is_usable(now) {
            // It came too late to be of use; the next try must not follow at once for ever.
            self.backoff.failed(Refusal::No, now);
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
    pub(crate) fn renewed(&mut self, token: &Token, lease: &Lease, asked: Instant) {
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
    pub(crate) fn renewal_failed(&mut self, token: &Token, now: Instant) {
        self.renewed_at = Some(now);
        if let Some(held) = self.find(token.number) {
            held.is_ending = true;
        }
    }

    /// A login has failed at `now`. The time until the next one.
    pub(crate) fn login_failed(&mut self, refusal: Refusal, now: Instant) -> Duration {
        self.backoff.failed(refusal, now)
    }

    /// Somebody may have mended what was refused: a login may be tried at once.
    pub(crate) fn retry(&mut self) {
        self.backoff.retry();
    }

    /// The key store has refused `token`, or something else if that `is_doubtful`. Whether there is or
    /// will be a newer one.
    pub(crate) fn refused(&mut self, token: &Token, is_doubtful: bool, now: Instant) -> bool {
        self.advance(now);
        if let Some((next, _)) = self.next.take() {
            self.current = Some(next);
        }
        let may_log_in = self.backoff.pause(now).is_none();
        match &mut self.current {
            Some(current) if current.token.number != token.number => true,
            Some(current) if !current.is_refused => {
                let may_force = self.backoff.force(is_doubtful, now);
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
