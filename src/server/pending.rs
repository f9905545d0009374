//! A request whose answer comes later: what it waits for, and what is to be done when that comes.
//!
//! All that a waiting request holds is here, in its connection. The cache and the key store threads
//! know its [`Address`] only, so a request that goes away takes its memory along. The one exception is
//! a change of a key, whose job has the [`Exchange`], too: it tells the audit log what really happened,
//! also when nobody waits any more.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{Server, connection::Address, exchange::Exchange, failure::Failure, pipeline::KeyUse};
use crate::{crypto::MasterKey, http::reply::Reply, log::Stream};

/// The log decides about a held answer in less time than this.
const HOLD_TIMEOUT: Duration = Duration::from_secs(3);

type Result<T> = std::result::Result<T, Failure>;

/// What a request comes to.
pub(super) enum Answer {
    /// This.
    Now(Reply),
    /// It is not there yet.
    Later(Pending),
    /// Events as they come.
    Stream(Exchange, Stream),
}

/// The exchange of a change, which two can answer: the job that carries it out, and the deadline. The
/// first does. What came of a change is audited then, whoever hears of it: it holds nothing secret for
/// which an answer would have to wait.
#[derive(Clone)]
pub(super) struct Claim(Arc<Mutex<Option<Exchange>>>);

impl Claim {
    pub(super) fn new(exchange: Exchange) -> Self {
        Self(Arc::new(Mutex::new(Some(exchange))))
    }

    /// Answers the exchange; `None` if it has been.
    pub(super) fn answer(&self, result: Result<Reply>) -> Option<Reply> {
        let exchange = self.lock().take()?;
        Some(exchange.answer(result))
    }

    pub(super) fn is_answered(&self) -> bool {
        self.lock().is_none()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Exchange>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What comes for a request that waits.
pub(super) enum Delivery {
    /// The key that it needs.
    Key(Result<Arc<MasterKey>>),
    /// The names that it asked for.
    Names(Result<Reply>),
    /// What came of its change, which is audited.
    Change(Reply),
    /// Whether its audit line is written.
    Line(bool),
}

/// A request that waits.
pub(super) struct Pending {
    /// When it has waited long enough.
    pub(super) deadline: Instant,
    waits: Waits,
}

/// What a request waits for, and what came.
enum Waits {
    Key(Exchange, KeyUse, Option<Result<Arc<MasterKey>>>),
    Names(Exchange, Option<Result<Reply>>),
    Change(Claim, Option<Reply>),
    Line(Exchange, Reply, Option<bool>),
}

impl Pending {
    /// Waits for a key, to do this with it.
    pub(super) fn for_key(exchange: Exchange, then: KeyUse) -> Self {
        Self { deadline: exchange.deadline.instant(), waits: Waits::Key(exchange, then, None) }
    }

    /// Waits for names.
    pub(super) fn for_names(exchange: Exchange) -> Self {
        Self { deadline: exchange.deadline.instant(), waits: Waits::Names(exchange, None) }
    }

    /// Waits until `deadline` for the job that has this claim, too.
    pub(super) fn for_change(claim: Claim, deadline: Instant) -> Self {
        Self { deadline, waits: Waits::Change(claim, None) }
    }

    /// Holds `reply` until its audit line is written.
    pub(super) fn for_line(exchange: Exchange, reply: Reply) -> Self {
        Self { deadline: Instant::now() + HOLD_TIMEOUT, waits: Waits::Line(exchange, reply, None) }
    }

    /// What it holds, in bytes.
    pub(super) fn held(&self) -> usize {
        match &self.waits {
            Waits::Key(_, then, _) => then.size,
            Waits::Names(_, Some(Ok(reply))) | Waits::Line(_, reply, _) => reply.body.capacity(),
            Waits::Names(..) | Waits::Change(..) => 0,
        }
    }

    /// Whether what it waits for is there.
    pub(super) fn is_answered(&self) -> bool {
        match &self.waits {
            Waits::Key(_, _, came) => came.is_some(),
            Waits::Names(_, came) => came.is_some(),
            Waits::Change(_, came) => came.is_some(),
            Waits::Line(_, _, came) => came.is_some(),
        }
    }

    /// Takes what it waits for. `false` if that is for somebody else, or comes too late.
    pub(super) fn take(&mut self, delivery: Delivery) -> bool {
        match (&mut self.waits, delivery) {
            (Waits::Key(_, _, came @ None), Delivery::Key(key)) => *came = Some(key),
            (Waits::Names(_, came @ None), Delivery::Names(names)) => *came = Some(names),
            (Waits::Change(_, came @ None), Delivery::Change(reply)) => *came = Some(reply),
            (Waits::Line(_, _, came @ None), Delivery::Line(is_written)) => {
                *came = Some(is_written)
            }
            _ => return false,
        }
        true
    }

    /// Its time is over: unless its answer is there or on its way, it is that it took too long.
    pub(super) fn expire(&mut self) {
        match &mut self.waits {
            Waits::Key(_, _, came) => {
                came.get_or_insert(Err(Failure::Timeout));
            }
            Waits::Names(_, came) => {
                came.get_or_insert(Err(Failure::Timeout));
            }
            Waits::Line(_, _, came) => {
                came.get_or_insert(false);
            }
            // One that has been answered is on its way.
            Waits::Change(claim, came @ None) => *came = claim.answer(Err(Failure::Timeout)),
            Waits::Change(..) => {}
        }
    }

    /// The answer, which may have to wait for its audit line now.
    pub(super) fn finish(self, server: &Server, address: &impl Fn() -> Address) -> Answer {
        let late = Failure::Timeout;
        let (exchange, result) = match self.waits {
            Waits::Key(exchange, then, Some(Ok(key))) => (exchange, then.with(&key)),
            Waits::Key(exchange, _, Some(Err(failure))) => (exchange, Err(failure)),
            Waits::Names(exchange, Some(result)) => (exchange, result),
            Waits::Key(exchange, _, None) | Waits::Names(exchange, None) => (exchange, Err(late)),
            Waits::Change(_, Some(reply)) => return Answer::Now(reply),
            Waits::Change(claim, None) => {
                let reply = claim.answer(Err(Failure::Timeout));
                return Answer::Now(reply.unwrap_or_else(|| late.reply()));
            }
            Waits::Line(exchange, reply, Some(true)) => (exchange, Ok(reply)),
            Waits::Line(exchange, ..) => (exchange, Err(Failure::NotAudited)),
        };
        server.finish(exchange, result, address)
    }

    /// Ends it where nobody will hear the answer, and the audit log hears that there was none. A change
    /// is answered by its job.
    pub(super) fn abandon(self) {
        match self.waits {
            Waits::Key(exchange, ..) | Waits::Names(exchange, _) | Waits::Line(exchange, ..) => {
                exchange.answer(Err(Failure::Timeout));
            }
            Waits::Change(..) => {}
        }
    }
}
