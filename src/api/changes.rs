//! Changes of keys: one at a time for each name, those of an identity in their order. A change that waits takes no
//! thread. It waits for the turn of its own identity, and then for the change that runs and for one of each identity
//! whose turn came before.
//!
//! A change is carried out even if its client goes away: its job shares the [`Exchange`] with the request
//! that waits, and audits the result.

use std::{
    collections::VecDeque,
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
        panics::survive,
        secret,
        sync::{Mutex, MutexGuard},
    },
    http::reply::Reply,
    keystore::KeyName,
    log::Log,
};

/// Changes of one name that may wait, and of one identity half as many: a slow name must leave room for the others.
const MAX_PARKED: usize = 256;

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
    identity: Arc<str>,
    /// Its room at the key store threads, until a turn is queued: for the first order of each identity.
    permit: Option<Permit>,
}

/// The changes that run and wait, by name.
pub struct Changes {
    /// Sorted by their names.
    lines: Mutex<Vec<Line>>,
    threads: Threads,
    log: &'static Log,
}

/// Changes of one name. An identity that has orders has a turn that is queued or due.
struct Line {
    name: KeyName,
    running: Option<Claim>,
    orders: VecDeque<Order>,
    /// Turns that came while a change ran, in their order.
    due: VecDeque<Permit>,
    /// So many of the orders came before the change that runs began.
    early: usize,
}

/// Where the line of `name` is, or belongs.
fn place(lines: &[Line], name: &KeyName) -> std::result::Result<usize, usize> {
    lines.binary_search_by(|line| line.name.cmp(name))
}

impl Line {
    fn new(name: KeyName) -> Self {
        Self { name, running: None, orders: VecDeque::new(), due: VecDeque::new(), early: 0 }
    }

    fn of<'a>(&'a mut self, identity: &'a str) -> impl Iterator<Item = &'a mut Order> {
        self.orders.iter_mut().filter(move |order| *order.identity == *identity)
    }

    /// What to queue for the first order of `identity`, unless it is queued.
    fn turn(&mut self, identity: &str) -> Option<Permit> {
        self.of(identity).next()?.permit.take()
    }

    /// Begins the first order of the identity whose turn this is; `None` if it was answered meanwhile.
    fn begin(&mut self, permit: Permit) -> Option<Order> {
        let at = self.orders.iter().position(|order| order.identity == *permit.identity())?;
        let order = self.orders.remove(at)?;
        self.running = Some(order.party.claim.clone());
        self.early = self.orders.len();
        Some(Order { permit: Some(permit), ..order })
    }
}

impl Changes {
    /// Changes that are carried out on `threads`.
    pub fn new(threads: Threads, log: &'static Log) -> Self {
        Self { lines: Mutex::default(), threads, log }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Line>> {
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
        let name = change.name.clone();
        let identity = permit.identity().clone();
        let mut lines = self.lock();
        let at = place(&lines, &name).unwrap_or_else(|at| {
            lines.insert(at, Line::new(name.clone()));
            at
        });
        let line = &mut lines[at];
        let own = line.of(&identity).count();
        if line.orders.len() + own >= MAX_PARKED {
            return false;
        }
        let order =
            Order { change, party, deadline, identity: identity.clone(), permit: Some(permit) };
        line.orders.push_back(order);
        let turn = if own == 0 { line.turn(&identity) } else { None };
        drop(lines);
        self.queue(&name, turn);
        true
    }

    fn queue(&'static self, name: &KeyName, turn: Option<Permit>) {
        let Some(permit) = turn else { return };
        let name = name.clone();
        self.threads.submit(permit, move |permit| {
            let mut order = self.take(&name, permit);
            while let Some(due) = order {
                order = self.carry_out(due);
                secret::wipe_stack();
            }
        });
    }

    /// The change of `name` that begins at this turn of an identity. If another runs, the turn is due after it.
    fn take(&'static self, name: &KeyName, permit: Permit) -> Option<Order> {
        let mut lines = self.lock();
        let at = place(&lines, name).ok()?;
        let line = &mut lines[at];
        if line.running.is_some() {
            // It may have another, of a create that needed none any more.
            if line.due.iter().all(|due| due.identity() != permit.identity()) {
                line.due.push_back(permit);
            }
            return None;
        }
        let order = line.begin(permit)?;
        let turn = line.turn(&order.identity);
        drop(lines);
        self.queue(name, turn);
        Some(order)
    }

    /// Returns the change that is due then.
    fn carry_out(&'static self, order: Order) -> Option<Order> {
        let Order { change: Change { name, task, job }, party, deadline, .. } = order;
        let result = match party.claim.is_answered() || deadline.has_passed(clock::now()) {
            true => Err(Failure::Timeout),
            false => guarded(|| job(&name, deadline)),
        };
        // Creates that have waited all the time fail, too: the name was taken meanwhile.
        let is_taken = task == Task::Create && matches!(result, Ok(_) | Err(Failure::KeyExists));
        let (settled, next) = self.leave(&name, is_taken);
        // A panic must not lose the change that begins.
        survive(|| {
            self.settle(&name, task, party, result);
            for Order { party, .. } in settled {
                self.settle(&name, task, party, Err(Failure::KeyExists));
            }
        });
        next
    }

    /// Ends the turn of a change of `name`. Returns the creates that need no turn any more, since the
    /// name `is_taken`, and the change that begins.
    fn leave(&'static self, name: &KeyName, is_taken: bool) -> (Vec<Order>, Option<Order>) {
        let mut lines = self.lock();
        let Ok(at) = place(&lines, name) else {
            return (Vec::new(), None);
        };
        let line = &mut lines[at];
        let needs_turn = |order: &Order| !is_taken || order.change.task != Task::Create;
        let first = line.orders.iter().take(line.early).position(needs_turn).unwrap_or(line.early);
        let settled = line.orders.drain(..first).collect();
        line.running = None;
        let mut next = None;
        while next.is_none()
            && let Some(permit) = line.due.pop_front()
        {
            next = line.begin(permit);
        }
        let turn = next.as_ref().and_then(|order| line.turn(&order.identity));
        if line.running.is_none() && line.orders.is_empty() {
            lines.remove(at);
        }
        drop(lines);
        self.queue(name, turn);
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
        for Line { running, orders, .. } in std::mem::take(&mut *self.lock()) {
            let orders = orders.into_iter().map(|order| order.party.claim);
            for claim in running.into_iter().chain(orders) {
                claim.answer(Err(Failure::Timeout));
            }
        }
    }
}
