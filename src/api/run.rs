//! An admitted request, from its handler to its answer.
//!
//! A waiting request is owned by its [`Running`]; the cache, the key store threads and the log have a
//! [`Waiter`](super::slot::Waiter) only, so the secrets of a request go when it does. Only a change of a
//! key outlives its request ([`changes`](super::changes)).

use std::{
    task::Waker,
    time::{Duration, Instant},
};

use super::{
    call::{Call, Check, Job, KeyUse, Outcome},
    changes::{Change, Claim, Party},
    core::{Answer, Core, Fetched},
    exchange::Exchange,
    failure::Failure,
    follow::Follower,
    routes::{self, Argument, Route},
    slot::Slot,
    status,
    threads::guarded,
};
use crate::{
    base::clock,
    cache::{Found, Lookup},
    crypto::MasterKey,
    http::reply::Reply,
    keystore::KeyName,
};

/// The log decides about a held answer in less time than this.
const HOLD_TIMEOUT: Duration = Duration::from_secs(3);

type Result<T> = std::result::Result<T, Failure>;
type NewWaker<'a> = &'a dyn Fn() -> Waker;

/// The body of a request.
pub struct Body<'a> {
    /// All of it.
    pub bytes: &'a [u8],
    /// The client announced neither a body nor its type.
    pub is_unannounced: bool,
}

/// A request whose handler has run.
pub struct Running {
    /// When it has waited long enough.
    pub deadline: Instant,
    /// The answer may be a key, a ciphertext or a name: it waits for its audit line if audit is required.
    has_keys: bool,
    stage: Stage,
}

/// What a request waits for.
enum Stage {
    Key(Exchange, KeyUse, Slot<Fetched>),
    /// What the key store says, and the size that it is taken to have, in bytes.
    Asked(Exchange, usize, Slot<Result<Reply>>),
    Change(Claim, Slot<Reply>),
    /// The audit line of this answer: whether it is written.
    Line(Exchange, Reply, Slot<bool>),
    /// The answer is a log stream.
    Lines(Box<Follower>),
    /// The answer is there.
    Done(Reply),
    Over,
}

impl Running {
    /// Runs the handler of `route` for a request with this `body`, or the failure if it was not whole. Policies
    /// are checked once more by `check` where it matters.
    pub fn start(
        core: &'static Core,
        exchange: Exchange,
        route: &Route,
        body: Body<'_>,
        check: Check,
        waker: NewWaker<'_>,
    ) -> Self {
        let state = core.state();
        let path = route.slashed(&exchange.path);
        let argument = match route.argument {
            Argument::None => "",
            _ => path.strip_prefix(route.path).unwrap_or_default(),
        };
        let call = Call {
            core,
            state: &state,
            identity: &exchange.identity,
            path: &path,
            argument,
            body: body.bytes,
            announces_no_body: body.is_unannounced,
            check,
        };
        let outcome = (route.handler)(&call);
        drop(path);
        let mut running = Self {
            deadline: exchange.deadline.instant(),
            has_keys: route.answers_with_keys(),
            stage: Stage::Over,
        };
        match outcome {
            Err(failure) => running.finish(exchange, Err(failure), waker),
            Ok(Outcome::Done(reply)) => running.finish(exchange, Ok(reply), waker),
            Ok(Outcome::Key(then)) => running.get_key(core, exchange, then, waker),
            Ok(Outcome::Ask(job, size)) => running.ask(core, exchange, job, size, waker),
            Ok(Outcome::Status(answer)) => running.ask_status(core, exchange, answer, waker),
            Ok(Outcome::Change(change)) => running.change(core, exchange, change, waker),
            Ok(Outcome::Lines(stream)) => {
                running.stage = Stage::Lines(Box::new(Follower::new(exchange, stream, waker())));
            }
            Ok(Outcome::Routes) => {
                let json = routes::as_json(state.generation, &state.apis);
                running.finish(exchange, Ok(Reply::json(json.into_bytes())), waker);
            }
        }
        running
    }

    /// The answer if it is there; it may have to wait for its audit line first.
    pub fn poll(&mut self, waker: NewWaker<'_>) -> Option<Reply> {
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Key(exchange, then, slot) => match slot.take() {
                None => self.stage = Stage::Key(exchange, then, slot),
                Some(key) => {
                    let result = key.and_then(|key| (then.then)(&key, &then));
                    self.finish(exchange, result, waker);
                }
            },
            Stage::Asked(exchange, size, slot) => match slot.take() {
                None => self.stage = Stage::Asked(exchange, size, slot),
                Some(result) => self.finish(exchange, result, waker),
            },
            Stage::Line(exchange, reply, slot) => {
                self.stage = match slot.take() {
                    None => Stage::Line(exchange, reply, slot),
                    Some(true) => Stage::Done(exchange.answer(Ok(reply))),
                    Some(false) => Stage::Done(exchange.answer(Err(Failure::NotAudited))),
                }
            }
            Stage::Change(claim, slot) => match slot.take() {
                None => self.stage = Stage::Change(claim, slot),
                Some(reply) => self.stage = Stage::Done(reply),
            },
            stage => self.stage = stage,
        }
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Done(reply) => Some(reply),
            stage => {
                self.stage = stage;
                None
            }
        }
    }

    /// Ends the wait: the answer is a timeout unless another is there or on its way.
    pub fn expire(&mut self) {
        match &self.stage {
            Stage::Key(_, _, slot) => drop(slot.put(Err(Failure::Timeout))),
            Stage::Asked(_, _, slot) => drop(slot.put(Err(Failure::Timeout))),
            Stage::Line(_, _, slot) => drop(slot.put(false)),
            Stage::Change(claim, slot) => {
                if let Some(reply) = claim.answer(Err(Failure::Timeout)) {
                    slot.put(reply);
                }
            }
            Stage::Lines(_) | Stage::Done(_) | Stage::Over => {}
        }
    }

    /// What it holds while it waits, or may come to hold, in bytes.
    pub fn held(&self) -> usize {
        match &self.stage {
            Stage::Key(_, then, _) => then.held(),
            Stage::Asked(_, size, slot) => {
                let size_of = |reply: &Reply| reply.body.capacity();
                slot.look(|result| result.as_ref().map_or(0, size_of)).unwrap_or(*size)
            }
            Stage::Line(_, reply, _) => reply.body.capacity(),
            _ => 0,
        }
    }

    /// The log stream that is its answer, if it is one.
    pub fn follower(&mut self) -> Option<&mut Follower> {
        match &mut self.stage {
            Stage::Lines(follower) => Some(follower),
            _ => None,
        }
    }

    /// Answers the request, unless the answer must wait for its audit line.
    fn finish(&mut self, mut exchange: Exchange, result: Result<Reply>, waker: NewWaker<'_>) {
        let is_held = self.has_keys
            && exchange.must_be_held()
            && matches!(&result, Ok(reply) if reply.status == 200 && !reply.body.is_empty());
        self.stage = match result {
            Ok(reply) if is_held => {
                let (slot, waiter) = Slot::new(waker());
                match exchange.hold(waiter) {
                    true => {
                        self.deadline = clock::now() + HOLD_TIMEOUT;
                        Stage::Line(exchange, reply, slot)
                    }
                    false => Stage::Done(exchange.answer(Err(Failure::NotAudited))),
                }
            }
            result => Stage::Done(exchange.answer(result)),
        };
    }

    fn get_key(
        &mut self,
        core: &'static Core,
        exchange: Exchange,
        then: KeyUse,
        waker: NewWaker<'_>,
    ) {
        // Not when its head came: the body may have taken its time, in which the key came due.
        let now = clock::now();
        let use_key = |key: &MasterKey| (then.then)(key, &then);
        if let Some(key) = core.cache.get(&then.name, now) {
            return self.finish(exchange, use_key(&key), waker);
        }
        let Some(permit) = core.threads.reserve(&exchange.identity) else {
            return self.finish(exchange, Err(Failure::Overloaded), waker);
        };
        let (slot, waiter) = Slot::new(waker());
        let (party, until) = (&exchange.identity, exchange.key_store_deadline());
        match core.cache.get_or_wait(&then.name, waiter, party, until, now) {
            Lookup::Hit(key, _) => return self.finish(exchange, use_key(&key), waker),
            Lookup::Waiting => {}
            Lookup::Queue => {
                let name = then.name.clone();
                core.threads.submit(permit, move |_| fetch(core, &name));
            }
        }
        self.stage = Stage::Key(exchange, then, slot);
    }

    fn ask(
        &mut self,
        core: &'static Core,
        exchange: Exchange,
        job: Job,
        size: usize,
        waker: NewWaker<'_>,
    ) {
        let Some(permit) = core.threads.reserve(&exchange.identity) else {
            return self.finish(exchange, Err(Failure::Overloaded), waker);
        };
        let (slot, waiter) = Slot::new(waker());
        let deadline = exchange.key_store_deadline();
        core.threads.submit(permit, move |_| {
            waiter.deliver(match deadline.has_passed(clock::now()) {
                true => Err(Failure::Timeout),
                false => guarded(|| job(deadline)),
            });
        });
        self.stage = Stage::Asked(exchange, size, slot);
    }

    fn ask_status(
        &mut self,
        core: &'static Core,
        exchange: Exchange,
        answer: Answer,
        waker: NewWaker<'_>,
    ) {
        let (slot, waiter) = Slot::new(waker());
        match status::ask(core, answer, waiter) {
            true => self.stage = Stage::Asked(exchange, 0, slot),
            false => self.finish(exchange, Err(Failure::Overloaded), waker),
        }
    }

    fn change(
        &mut self,
        core: &'static Core,
        exchange: Exchange,
        change: Change,
        waker: NewWaker<'_>,
    ) {
        let Some(permit) = core.threads.reserve(&exchange.identity) else {
            return self.finish(exchange, Err(Failure::Overloaded), waker);
        };
        let deadline = exchange.key_store_deadline();
        let claim = Claim::new(exchange);
        let (slot, waiter) = Slot::new(waker());
        let party = Party { claim: claim.clone(), waiter };
        if !core.changes.submit(change, party, deadline, permit)
            && let Some(reply) = claim.answer(Err(Failure::Overloaded))
        {
            slot.put(reply);
        }
        self.stage = Stage::Change(claim, slot);
    }
}

/// Fetches the key for those that wait for it, unless it was fetched at the turn of another identity.
fn fetch(core: &'static Core, name: &KeyName) {
    let Some(ticket) = core.cache.begin(name, clock::now()) else { return };
    let (until, early) = (ticket.until, ticket.early);
    let get = |until: crate::base::deadline::Deadline| match until.has_passed(clock::now()) {
        true => Err(Failure::Timeout),
        false => guarded(|| core.fetch(name, until)),
    };
    let mut key = get(until);
    let found = match &key {
        Ok(key) => Found::Value(key.clone()),
        Err(Failure::KeyNotFound) => Found::Nothing,
        Err(_) => Found::Unknown,
    };
    let (waiters, last, kept) = core.cache.complete(ticket, found, clock::now());
    key = kept.map_or(key, Ok);
    let is_late = until.has_passed(clock::now());
    for (at, waiter) in waiters.into_iter().enumerate() {
        // The key may have been created after it was found missing, and before these asked, all of which have
        // asked by now. They also have more time.
        if at == early && (is_late && key.is_err() || matches!(key, Err(Failure::KeyNotFound))) {
            key = get(last);
        }
        waiter.deliver(key.clone());
    }
}

/// A request that ends while it waits has failed, even if its answer has come. A change is answered by
/// its job.
impl Drop for Running {
    fn drop(&mut self) {
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Key(exchange, ..) | Stage::Asked(exchange, ..) | Stage::Line(exchange, ..) => {
                exchange.answer(Err(Failure::Timeout));
            }
            _ => {}
        }
    }
}
