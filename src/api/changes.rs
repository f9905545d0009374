//! Changes of keys: one at a time for each name, in their order. A change that waits takes no thread.
//!
//! A change is carried out even if its client goes away: its job shares the [`Exchange`] with the request
//! that waits, and audits the result.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::{Arc, PoisonError},
};

use super::{
    exchange::Exchange,
    failure::{Failure, Task},
    slot::Waiter,
    threads::{Permit, Threads, guarded},
};
use crate::{
    base::{
        clock,
        deadline::Deadline,
        sync::{Mutex, MutexGuard},
    },
    http::reply::Reply,
    keystore::KeyName,
    log::Log,
};

/// Changes of one name that may wait: a slow name must leave room for the others.
const MAX_PARKED: usize = 128;

type Result<T> = std::result::Result<T, Failure>;
/// Changes a key before the deadline.
pub type Job = Box<dyn FnOnce(&KeyName, Deadline) -> Result<Reply> + Send>;

/// The exchange of a change, which its job or its deadline answers, whichever comes first. The answer
/// holds nothing secret, so it need not wait for its audit line.
#[derive(Clone)]
pub struct Claim(Arc<Mutex<Option<Exchange>>>);

impl Claim {
    /// The claim on `exchange`.
    pub fn new(exchange: Exchange) -> Self {
        Self(Arc::new(Mutex::new(Some(exchange))))
    }

    /// Answers the exchange; `None` if it has been.
    pub fn answer(&self, result: Result<Reply>) -> Option<Reply> {
        let exchange = self.lock().take()?;
        Some(exchange.answer(result))
    }

    fn is_answered(&self) -> bool {
        self.lock().is_none()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Exchange>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A change of a key.
pub struct Change {
    /// The key.
    pub name: KeyName,
    /// [`Task::Create`] or [`Task::Delete`].
    pub task: Task,
    /// What changes it.
    pub job: Job,
}

/// The client of a change.
pub struct Party {
    /// For its answer.
    pub claim: Claim,
    /// Gets the answer.
    pub waiter: Waiter<Reply>,
}

/// A change that waits for its turn.
struct Order {
    change: Change,
    party: Party,
    /// When the key store has to be done.
    deadline: Deadline,
    permit: Permit,
}

/// The changes that run and wait, by name.
pub struct Changes {
    lines: Mutex<HashMap<KeyName, Line>>,
    threads: Threads,
    log: &'static Log,
}

/// Changes of one name.
struct Line {
    running: Claim,
    parked: VecDeque<Order>,
}

impl Changes {
    /// Changes that are carried out on `threads`.
    pub fn new(threads: Threads, log: &'static Log) -> Self {
        Self { lines: Mutex::default(), threads, log }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<KeyName, Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries out `change` when its turn comes. `false` if too many changes of its key wait.
    pub fn submit(
        &'static self,
        change: Change,
        party: Party,
        deadline: Deadline,
        permit: Permit,
    ) -> bool {
        let order = Order { change, party, deadline, permit };
        match self.lock().entry(order.change.name.clone()) {
            Entry::Vacant(entry) => {
                let running = order.party.claim.clone();
                entry.insert(Line { running, parked: VecDeque::new() });
            }
            Entry::Occupied(entry) if entry.get().parked.len() >= MAX_PARKED => return false,
            Entry::Occupied(mut entry) => {
                entry.get_mut().parked.push_back(order);
                return true;
            }
        }
        self.carry_out(order);
        true
    }

    fn carry_out(&'static self, order: Order) {
        let Order { change: Change { name, task, job }, party, deadline, permit } = order;
        self.threads.submit(permit, move || {
            let result = match party.claim.is_answered() || deadline.has_passed(clock::now()) {
                true => Err(Failure::Timeout),
                false => guarded(|| job(&name, deadline)),
            };
            // Creates that wait fail, too, as if they had been sent now.
            let is_taken =
                task == Task::Create && matches!(result, Ok(_) | Err(Failure::KeyExists));
            let (settled, next) = self.leave(&name, is_taken);
            if let Some(next) = next {
                self.carry_out(next);
            }
            self.settle(&name, task, party, result);
            for Order { party, .. } in settled {
                self.settle(&name, task, party, Err(Failure::KeyExists));
            }
        });
    }

    /// Ends the turn of a change of `name`. Returns the creates that need no turn any more, since the
    /// name `is_taken`, and the change whose turn it is.
    fn leave(&self, name: &KeyName, is_taken: bool) -> (Vec<Order>, Option<Order>) {
        let mut lines = self.lock();
        let Some(line) = lines.get_mut(name) else {
            return (Vec::new(), None);
        };
        let needs_turn = |order: &Order| !is_taken || order.change.task != Task::Create;
        let first = line.parked.iter().position(needs_turn).unwrap_or(line.parked.len());
        let settled = line.parked.drain(..first).collect();
        let next = line.parked.pop_front();
        match &next {
            Some(order) => line.running = order.party.claim.clone(),
            None => drop(lines.remove(name)),
        }
        (settled, next)
    }

    /// Answers a change. If the client was already answered that it took too long, the error log says
    /// that the key was changed after all.
    fn settle(&self, name: &KeyName, task: Task, party: Party, result: Result<Reply>) {
        let is_done = result.is_ok();
        match party.claim.answer(result) {
            Some(reply) => party.waiter.deliver(reply),
            None if is_done => {
                let done = if task == Task::Delete { "deleted" } else { "created" };
                // Not limited, so that lines about other requests do not hide it. There are at most as
                // many as threads.
                self.log.error(&format!(
                    "key {:?} was {done} after its client had been answered 503: the key store took \
                     too long",
                    name.as_str()
                ));
            }
            None => {}
        }
    }

    /// Answers all changes that are not done, at the end of the server. Those that wait never begin.
    pub fn give_up(&self) {
        for Line { running, parked } in std::mem::take(&mut *self.lock()).into_values() {
            running.answer(Err(Failure::Timeout));
            for order in parked {
                order.party.claim.answer(Err(Failure::Timeout));
            }
        }
    }
}
