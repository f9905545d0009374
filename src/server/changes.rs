//! Changes of keys: one at a time for each name, the others in the order in which they came, without a
//! thread for each that waits.
//!
//! A change that was asked for is carried out also when its client goes away; its job tells the audit
//! log what came of it.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::{
    Server,
    blocking::{Permit, guarded},
    connection::Address,
    exchange::Exchange,
    failure::{Failure, Task},
    pending::{Answer, Claim, Delivery, Pending},
    pipeline::{HEAD_START, StoreUse},
};
use crate::{base::deadline::Deadline, http::reply::Reply, keystore::KeyName};

/// Changes of one name that may wait: a name that takes long must leave room for all others.
const MAX_PARKED: usize = 128;

/// What a handler wants to be changed.
pub(super) struct Change {
    pub(super) name: KeyName,
    /// [`Task::Create`] or [`Task::Delete`].
    pub(super) task: Task,
    pub(super) job: StoreUse,
}

/// A change and for whom it is.
struct Order {
    change: Change,
    claim: Claim,
    address: Address,
    /// When the key store has to be done.
    deadline: Deadline,
    permit: Permit,
}

/// The names that are being changed.
#[derive(Default)]
pub(super) struct Changes(Mutex<HashMap<KeyName, Line>>);

/// Changes of one name.
struct Line {
    running: Claim,
    parked: VecDeque<Order>,
}

impl Changes {
    fn lock(&self) -> MutexGuard<'_, HashMap<KeyName, Line>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives `order` back if it is its turn; else it waits for that.
    ///
    /// # Errors
    /// Gives it back if too many wait.
    fn enter(&self, order: Order) -> Result<Option<Order>, Order> {
        match self.lock().entry(order.change.name.clone()) {
            Entry::Vacant(entry) => {
                entry.insert(Line { running: order.claim.clone(), parked: VecDeque::new() });
                Ok(Some(order))
            }
            Entry::Occupied(entry) if entry.get().parked.len() >= MAX_PARKED => Err(order),
            Entry::Occupied(mut entry) => {
                entry.get_mut().parked.push_back(order);
                Ok(None)
            }
        }
    }

    /// Ends the turn of a change of `name`: the next one, and those before it that need none, since the
    /// name `is_taken`.
    fn leave(&self, name: &KeyName, is_taken: bool) -> (Vec<Order>, Option<Order>) {
        let mut lines = self.lock();
        let Some(line) = lines.get_mut(name) else {
            return (Vec::new(), None);
        };
        let needs_turn = |order: &Order| !is_taken || order.change.task != Task::Create;
        let first = line.parked.iter().position(needs_turn);
        let settled = line.parked.drain(..first.unwrap_or(line.parked.len()));
        let settled = settled.collect();
        let next = line.parked.pop_front();
        match &next {
            Some(order) => line.running = order.claim.clone(),
            None => drop(lines.remove(name)),
        }
        (settled, next)
    }

    /// Answers all that is not done yet, at the end of the server. What has not begun does not begin
    /// any more.
    pub(super) fn give_up(&self) {
        let lines = std::mem::take(&mut *self.lock());
        for Line { running, parked } in lines.into_values() {
            let parked = parked.into_iter().map(|order| order.claim);
            for claim in std::iter::once(running).chain(parked) {
                claim.answer(Err(Failure::Timeout));
            }
        }
    }
}

impl Server {
    /// Carries out `change` on a key store thread, after those of the same name that came before.
    pub(super) fn change(
        &self,
        exchange: Exchange,
        change: Change,
        address: &impl Fn() -> Address,
    ) -> Answer {
        let Some(permit) = self.pool.reserve() else {
            return self.finish(exchange, Err(Failure::Overloaded), address);
        };
        let deadline = exchange.deadline;
        let claim = Claim::new(exchange);
        let order = Order {
            change,
            claim: claim.clone(),
            address: address(),
            deadline: deadline.earlier(HEAD_START),
            permit,
        };
        match self.changes.enter(order) {
            Ok(Some(order)) => self.carry_out(order),
            Ok(None) => {}
            Err(_) => {
                if let Some(reply) = claim.answer(Err(Failure::Overloaded)) {
                    return Answer::Now(reply);
                }
            }
        }
        Answer::Later(Pending::for_change(claim, deadline.instant()))
    }

    fn carry_out(&self, order: Order) {
        let server = self.me();
        let Order { change: Change { name, task, job }, claim, address, deadline, permit } = order;
        self.pool.submit(permit, move || {
            let Some(server) = server.upgrade() else {
                return;
            };
            let result = match claim.is_answered() || deadline.has_passed(Instant::now()) {
                true => Err(Failure::Timeout),
                false => guarded(|| job(&server, deadline)),
            };
            // Those who waited for the name to be taken hear that it is: they could have asked at this
            // moment.
            let is_taken =
                task == Task::Create && matches!(result, Ok(_) | Err(Failure::KeyExists));
            let (settled, next) = server.changes.leave(&name, is_taken);
            if let Some(next) = next {
                server.carry_out(next);
            }
            server.tell(&name, task, &claim, &address, result);
            for Order { claim, address, .. } in settled {
                server.tell(&name, task, &claim, &address, Err(Failure::KeyExists));
            }
        });
    }

    /// Answers a change. If its client has heard that it took too long, the error log hears what came
    /// of it.
    fn tell(
        &self,
        name: &KeyName,
        task: Task,
        claim: &Claim,
        address: &Address,
        result: Result<Reply, Failure>,
    ) {
        let is_done = result.is_ok();
        match claim.answer(result) {
            Some(reply) => address.deliver(self, Delivery::Change(reply)),
            None if is_done => {
                let done = match task {
                    Task::Delete => "deleted",
                    _ => "created",
                };
                // Not limited: a key store that is slow makes others fail, too, and their lines must not
                // hide this one. There can be as many as threads that take long.
                self.log_error(&format!(
                    "key {:?} was {done} after its client had been answered 503: the key store took \
                     too long",
                    name.as_str()
                ));
            }
            None => {}
        }
    }
}
