//! The life of tokens, without a clock.

use std::time::{Duration, Instant};

use super::{
    life::{Life, Step},
    *,
};
use crate::base::secret::Secret;

const SECOND: Duration = Duration::from_secs(1);

const RULES: Rules = Rules {
    renew_after: 80,
    retry: Duration::from_secs(5),
    longest_retry: Duration::from_secs(300),
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
    life.renewal_failed(&token, at(80));
    assert!(matches!(life.step(at(80)), Step::Login));
    life.login_failed(Refusal::No, at(81));
    assert!(matches!(life.step(at(82)), Step::Wait(Some(wait)) if wait == 3 * SECOND));
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
    assert!(life.refused(&token, false, start), "another request waits for the same");
    assert!(matches!(life.step(start), Step::Login));
    life.logged_in(lease(100), start, start);
    let newer = life.token(start).unwrap();
    assert_eq!(2, newer.number, "it does not settle: the old one is of no use");
    assert!(life.refused(&token, false, start), "there is a newer one");
}

#[test]
fn each_token_that_is_revoked_is_replaced_but_a_storm_of_refusals_is_believed() {
    let start = Instant::now();
    let at = |seconds| start + seconds * SECOND;
    let mut life = logged_in(100, start);
    // Whatever it gets, the key store refuses it at once.
    let logins_until = |life: &mut Life, until: u32| {
        let mut logins = 0;
        for second in 0..until {
            for _ in 0..10 {
                let token = life.token(at(second)).unwrap();
                if life.refused(&token, false, at(second)) {
                    assert!(matches!(life.step(at(second)), Step::Login));
                    life.logged_in(lease(10_000), at(second), at(second));
                    logins += 1;
                }
            }
        }
        logins
    };
    assert_eq!(3, logins_until(&mut life, 15), "three revocations heal");
    assert_eq!(0, logins_until(&mut life, 15));
    assert_eq!(3 * 19, logins_until(&mut life, 300), "one in five seconds");
}

/// Fails to log in with `refusals`; the seconds between the attempts.
fn pauses(refusals: &[Refusal]) -> Vec<u64> {
    let mut now = Instant::now();
    let mut life = Life::new(RULES);
    let pauses = refusals.iter().map(|refusal| {
        assert!(matches!(life.step(now), Step::Login));
        let said = life.login_failed(*refusal, now);
        let Step::Wait(Some(wait)) = life.step(now) else {
            panic!("the next attempt comes at once");
        };
        assert_eq!(said, wait);
        now += wait;
        wait.as_secs()
    });
    pauses.collect()
}

#[test]
fn logins_that_nobody_answers_are_tried_at_a_steady_pace_and_refused_ones_less_and_less() {
    use Refusal::{Counted, No, Yes};
    assert_eq!(vec![5; 100], pauses(&[No; 100]));
    assert_eq!(vec![5, 10, 20, 40, 80, 160, 300, 300], pauses(&[Yes; 8]), "no more than the bound");
    assert_eq!(vec![5, 5, 10, 5, 20], pauses(&[No, Yes, Yes, No, Yes]));
    assert_eq!(vec![5, 960, 960, 5, 960], pauses(&[Counted, Counted, Counted, No, Counted]));
    assert_eq!(300, pauses(&[Yes; 100])[99]);
}

#[test]
fn a_login_that_succeeds_or_somebody_who_looks_after_it_lets_the_next_come_at_once() {
    use Refusal::{Counted, Yes};
    let start = Instant::now();
    let refused_often = || {
        let mut life = Life::new(RULES);
        for _ in 0..10 {
            life.login_failed(Yes, start);
            life.login_failed(Counted, start);
        }
        assert!(matches!(life.step(start), Step::Wait(Some(wait)) if wait == 960 * SECOND));
        life
    };
    let mut life = refused_often();
    life.logged_in(lease(0), start, start);
    assert_eq!(None, life.backoff.pause(start));
    assert_eq!(5 * SECOND, life.login_failed(Counted, start));

    let mut life = refused_often();
    life.retry();
    assert_eq!(None, life.backoff.pause(start));
    assert_eq!(5 * SECOND, life.login_failed(Yes, start));
    life.retry();
    // Each look is one login that the key store counts, not two.
    assert_eq!(960 * SECOND, life.login_failed(Counted, start));
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

#[test]
fn while_logins_fail_a_token_that_lives_is_kept_alive() {
    let start = Instant::now();
    let at = |seconds| start + seconds * SECOND;
    let mut life = logged_in(100, start);
    let Step::Renew(token) = life.step(at(80)) else {
        panic!("it is time");
    };
    life.renewal_failed(&token, at(80));
    assert!(matches!(life.step(at(80)), Step::Login));
    life.login_failed(Refusal::No, at(80));
    assert!(matches!(life.step(at(80)), Step::Wait(Some(wait)) if wait == 5 * SECOND));
    assert!(matches!(life.step(at(85)), Step::Login));
    life.login_failed(Refusal::No, at(85));
    assert!(matches!(life.step(at(85)), Step::Renew(_)));
    life.renewed(&token, &lease(100), at(85));
    assert!(matches!(life.step(at(85)), Step::Wait(Some(wait)) if wait == 80 * SECOND));
    assert_eq!(Some(1), number(&mut life, at(180)));
}

#[test]
fn a_refusal_does_not_end_the_life_of_a_token() {
    let start = Instant::now();
    let at = |seconds| start + seconds * SECOND;
    let mut life = logged_in(100, start);
    let token = life.token(start).unwrap();
    assert!(life.refused(&token, true, start));
    for seconds in (0..80).step_by(5) {
        assert!(matches!(life.step(at(seconds)), Step::Login), "{seconds}");
        life.login_failed(Refusal::No, at(seconds));
    }
    assert!(matches!(life.step(at(80)), Step::Login));
    life.login_failed(Refusal::No, at(80));
    assert!(matches!(life.step(at(80)), Step::Renew(_)));
    life.renewed(&token, &lease(100), at(80));
    assert!(matches!(life.step(at(80)), Step::Wait(Some(wait)) if wait == 80 * SECOND));
}

/// What the key store knows of a token.
struct Issued {
    until: Option<u64>,
    asked: u64,
    lifetime: Option<u64>,
}

/// How Vault counts refused logins of a role, measured with OpenBao 2.7. Times are in milliseconds.
#[derive(Default)]
struct Lockout {
    count: u32,
    last: u64,
}

impl Lockout {
    fn refuse(&mut self, at: u64) {
        let is_counted = self.count > 0 && at - self.last <= 15 * 60_000;
        self.count = if is_counted { self.count + 1 } else { 1 };
        self.last = at;
    }
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
        longest_retry: Duration::from_secs(1 + random.below(300)),
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
    let (mut lockout, mut are_wrong) = (Lockout::default(), false);
    for _ in 0..80 {
        // What requests see.
        if let Some(token) = life.token(at(now)) {
            let known = &issued[token.number as usize - 1];
            let is_known_to_be_over =
                (known.lifetime).is_some_and(|lifetime| now >= known.asked + lifetime);
            assert!(!is_known_to_be_over, "seed {seed}: an expired token is used");
            if random.below(20) == 0 {
                life.refused(&token, random.below(2) == 0, at(now));
            }
        }
        if random.below(10) == 0 {
            is_down = random.below(2) == 0;
            are_wrong = random.below(2) == 0;
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
                let slept = if random.below(2) == 0 { wait } else { 1 + random.below(wait) };
                now += slept;
                passed += slept;
            }
            Step::Renew(token) => {
                attempts_at_once = if latency == 0 { attempts_at_once + 1 } else { 0 };
                now += latency;
                passed += latency;
                let known = &mut issued[token.number as usize - 1];
                let is_over = known.until.is_some_and(|until| passed >= until);
                if fails || is_over {
                    life.renewal_failed(&token, at(now));
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
                attempts_at_once = if latency == 0 { attempts_at_once + 1 } else { 0 };
                logins += 1;
                now += latency;
                passed += latency;
                if fails {
                    life.login_failed(Refusal::No, at(now));
                } else if are_wrong {
                    let refusal = match random.below(4) {
                        0 => Refusal::Yes,
                        _ => Refusal::Counted,
                    };
                    if refusal == Refusal::Counted {
                        lockout.refuse(passed);
                    }
                    assert!(
                        lockout.count < 3,
                        "seed {seed}: others who share the role are locked out"
                    );
                    life.login_failed(refusal, at(now));
                } else {
                    lockout = Lockout::default();
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
        assert!(attempts_at_once <= 4, "seed {seed}: attempts follow each other at once");
        if random.below(25) == 0 {
            steps_of_clock += 1;
            attempts_at_once = 0;
            // Attempts come sooner than they should by a clock that goes right.
            lockout = Lockout::default();
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
    assert!(logins <= most, "seed {seed}: {logins} logins, at most {most} are due");
}

#[test]
fn tokens_of_100_000_random_lives_are_never_used_expired_nor_asked_for_over_and_over() {
    let base = Instant::now();
    for seed in 1..=100_000 {
        live(seed, base);
    }
}
