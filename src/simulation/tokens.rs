//! The life of tokens: a key store that hands them out, and at times fails, refuses, hangs, panics and revokes; and
//! requests that need one. No token is used that has expired, failed logins are not repeated at once, and
//! where nothing is wrong no request waits or fails.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use super::model::SLACK;
use crate::{
    base::{
        clock,
        deadline::Deadline,
        secret::Secret,
        sync::{
            thread,
            world::{self, ensure},
        },
    },
    keystore::{
        Error, Notices,
        remote::{Answer, Failed},
        token::{Authority, Blame, Keeper, Lease, NoLease, Refusal, Rules, Token},
    },
};

const SECOND: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(15);
const RETRY: Duration = Duration::from_secs(5);
const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// When the last trouble is so long ago, all is well again: the longest pause, and a login that hangs.
const RECOVERY: Duration = Duration::from_secs(60 + 15 + 3);
/// A request that need not wait takes less than this, and so does one that waits for a login without trouble.
const PROMPT: Duration = Duration::from_secs(3);

/// What hands out tokens, and takes them.
struct Issuer {
    state: Mutex<State>,
    lifetime: Duration,
    /// From the login on, renewals included.
    longest: Duration,
    /// There is no trouble after this time.
    sick_until: Duration,
}

#[derive(Default)]
struct State {
    /// The tokens, whose numbers are their texts.
    grants: Vec<Grant>,
    /// Logins and renewals under way.
    asking: usize,
    /// When a login failed last.
    failed: Option<Duration>,
    /// When one succeeded.
    logged_in: Option<Duration>,
    /// When something went wrong last.
    trouble: Duration,
}

struct Grant {
    until: Duration,
    end: Duration,
    is_revoked: bool,
}

/// A login or renewal under way; one at a time.
struct Attempt<'a>(&'a Issuer);

impl<'a> Attempt<'a> {
    fn begin(issuer: &'a Issuer) -> Self {
        let mut state = issuer.lock();
        state.asking += 1;
        ensure!(state.asking == 1, "two logins or renewals at once");
        Self(issuer)
    }

    /// The way there or back: it takes its time, or ends in an error.
    fn travel(&self, what: &str, deadline: Deadline) -> Result<(), NoLease> {
        let issuer = self.0;
        let is_slow = issuer.is_sick() && world::one_in(4);
        let most = if is_slow { 10_000 } else { 150 };
        let pause = Duration::from_millis(world::below(most));
        thread::sleep(pause.min(deadline.remaining(clock::now())));
        if is_slow {
            issuer.trouble();
        }
        let is_late = deadline.has_passed(clock::now());
        if issuer.is_sick() && world::one_in(20) {
            issuer.trouble();
            world::note(|| format!("{what} panics"));
            world::inject_panic();
        }
        if is_late || issuer.is_sick() && world::one_in(5) {
            return Err(issuer.refuse(what, Refusal::No));
        }
        Ok(())
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.0.lock().asking -= 1;
    }
}

impl Issuer {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn is_sick(&self) -> bool {
        world::elapsed() < self.sick_until
    }

    fn trouble(&self) {
        self.lock().trouble = world::elapsed();
    }

    fn refuse(&self, what: &str, refusal: Refusal) -> NoLease {
        self.trouble();
        world::note(|| format!("{what} fails: {refusal:?}"));
        NoLease { error: Error::during(what)("it wants to"), refusal }
    }

    fn try_login(&self, deadline: Deadline) -> Result<Lease, NoLease> {
        let attempt = Attempt::begin(self);
        attempt.travel("log in", deadline)?;
        if self.is_sick() && world::one_in(5) {
            return Err(self.refuse("log in", Refusal::Yes));
        }
        let now = world::elapsed();
        let number = {
            let mut state = self.lock();
            let (until, end) = (now + self.lifetime, now + self.longest);
            state.grants.push(Grant { until, end, is_revoked: false });
            state.grants.len() - 1
        };
        attempt.travel("answer the login", deadline)?;
        world::note(|| format!("token {number} lasts until {:?}", now + self.lifetime));
        Ok(Lease {
            token: Some(Secret::new(number.to_string().into_bytes())),
            lifetime: Some(self.lifetime),
            is_renewable: self.longest > self.lifetime,
        })
    }

    /// The answer to a request.
    fn serve(&self, token: &Token) -> Answer {
        let number: usize = token.text().parse().expect("it is a number");
        let now = world::elapsed();
        let is_revoked = {
            let grant = &self.lock().grants[number];
            ensure!(
                now < grant.until,
                "token {number} is used at {now:?}: it expired {:?}",
                grant.until
            );
            grant.is_revoked
        };
        thread::sleep(Duration::from_millis(world::below(20)));
        Answer::fake(if is_revoked { 403 } else { 200 }, "")
    }
}

struct Shared(Arc<Issuer>);

impl Authority for Shared {
    fn login(&self, deadline: Deadline) -> Result<Lease, NoLease> {
        let (issuer, now) = (&self.0, world::elapsed());
        let (failed, logged_in, trouble) = {
            let state = issuer.lock();
            (state.failed, state.logged_in, state.trouble)
        };
        ensure!(
            failed.is_none_or(|at| now >= at + RETRY),
            "a login at {now:?} follows at once on one that failed at {failed:?}"
        );
        ensure!(
            logged_in.is_none_or(|at| at < trouble + RECOVERY || now >= at + issuer.lifetime / 2),
            "a login at {now:?} without need: the last was at {logged_in:?}"
        );
        // A panic is a failure, too.
        issuer.lock().failed = Some(now);
        let lease = issuer.try_login(deadline);
        let now = world::elapsed();
        let mut state = issuer.lock();
        match lease {
            Ok(_) => (state.failed, state.logged_in) = (None, Some(now)),
            Err(_) => state.failed = Some(now),
        }
        drop(state);
        lease
    }

    fn renew(&self, token: &Token, deadline: Deadline) -> Result<Lease, Error> {
        let issuer = &self.0;
        let number: usize = token.text().parse().expect("it is a number");
        let attempt = Attempt::begin(issuer);
        attempt.travel("renew", deadline).map_err(|e| e.error)?;
        let now = world::elapsed();
        let lifetime = {
            let grant = &mut issuer.lock().grants[number];
            if grant.is_revoked || now >= grant.until {
                return Err(Error::during("renew")("no such token"));
            }
            let lifetime = issuer.lifetime.min(grant.end - now);
            grant.until = now + lifetime;
            lifetime
        };
        attempt.travel("answer the renewal", deadline).map_err(|e| e.error)?;
        world::note(|| format!("token {number} lasts until {:?}", now + lifetime));
        Ok(Lease { token: None, lifetime: Some(lifetime), is_renewable: true })
    }
}

pub fn run() {
    let lifetime = SECOND * [10, 60, 300][world::below(3) as usize];
    let issuer = Arc::new(Issuer {
        state: Mutex::default(),
        lifetime,
        longest: lifetime * [1, 3, 100][world::below(3) as usize],
        sick_until: SECOND * [0, 60, 200][world::below(3) as usize],
    });
    let rules = Rules {
        renew_after: 80,
        retry: RETRY,
        longest_retry: LONGEST_RETRY,
        settles: world::one_in(2),
    };
    let notices: Arc<Notices> = Arc::default();
    let keeper = Arc::new(Keeper::new(rules, notices));
    keeper.start(Shared(issuer.clone())).unwrap();
    let users: Vec<_> = (0..1 + world::below(4))
        .map(|number| {
            let (keeper, issuer) = (keeper.clone(), issuer.clone());
            let spawn = thread::Builder::new().name(format!("user-{number}"));
            spawn.spawn(move || (0..20).for_each(|_| ask(&keeper, &issuer))).unwrap()
        })
        .collect();
    while issuer.is_sick() {
        thread::sleep(SECOND * (1 + world::below(40) as u32));
        if issuer.is_sick() && world::one_in(2) {
            world::note(|| "all tokens are revoked".to_owned());
            issuer.trouble();
            issuer.lock().grants.iter_mut().for_each(|grant| grant.is_revoked = true);
        }
    }
    users.into_iter().for_each(|user| drop(user.join()));
}

/// A request that needs a token.
fn ask(keeper: &Keeper, issuer: &Issuer) {
    let most = issuer.lifetime.as_millis() as u64;
    thread::sleep(Duration::from_millis(world::below(most)));
    let sent = world::elapsed();
    let result = keeper.ask(
        Deadline::after(clock::now(), TIMEOUT),
        |token| Ok::<_, Failed>(issuer.serve(token)),
        |answer| (answer.status == 403).then_some(Blame::Token),
    );
    let (took, trouble) = (world::elapsed() - sent, issuer.lock().trouble);
    ensure!(took < TIMEOUT + SLACK, "a request that needs a token took {took:?}");
    // Before the first trouble there is none, either.
    let is_well = trouble.is_zero() || sent > trouble + RECOVERY;
    if !is_well {
        return;
    }
    ensure!(took < PROMPT, "a request that needs a token took {took:?}, and all is well");
    let is_done = result.as_ref().is_ok_and(|answer| answer.status == 200);
    ensure!(is_done, "a request has no token, and all is well since {trouble:?}");
}
