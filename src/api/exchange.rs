//! A request from its arrival to its answer: each is audited and counted, once.
//!
//! Answers are made here and nowhere else: [`Exchange::answer`] turns a result into a reply.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::{failure::Failure, quota::UnderWay, slot::Waiter};
use crate::{
    base::{clock, deadline::Deadline, generation::Generation},
    http::reply::Reply,
    log::{AuditEvent, Log, Stream, Subscriber, Subscription},
    metrics::{Event, Metrics},
};

/// The key store must answer so long before the request's deadline; with a timeout below a second, after half of it.
const HEAD_START: Duration = Duration::from_millis(500);

/// What the answer to a request looks like.
#[derive(Clone, Copy)]
pub struct Manner {
    /// The generation in whose words failures are told.
    pub texts: Generation,
    /// The generation in whose form answers are given.
    pub generation: Generation,
}

impl Manner {
    /// The answer to a request that has failed.
    pub fn reply(self, failure: &Failure) -> Reply {
        failure.reply(self.texts, self.generation)
    }
}

/// A request on its way to its one answer.
pub struct Exchange {
    /// When it arrived.
    pub arrived: Instant,
    arrived_at: SystemTime,
    /// Its path, decoded.
    pub path: String,
    /// The identity of its client.
    pub identity: Arc<str>,
    /// The address of its client, if audit events have it.
    ip: Option<IpAddr>,
    manner: Manner,
    log: &'static Log,
    /// `None` if the request is not counted.
    metrics: Option<&'static Metrics>,
    /// Until it is answered, if requests under way are limited.
    pub under_way: Option<UnderWay>,
    is_answered: bool,
    /// The log has its event, or is responsible for it.
    is_audited: bool,
    /// When the answer is due.
    pub deadline: Deadline,
}

impl Exchange {
    /// A request by `identity` to `path`, which arrived `now` and is to be answered within `timeout`. It is
    /// not counted yet.
    pub fn begin(
        log: &'static Log,
        manner: Manner,
        path: String,
        (identity, ip): (Arc<str>, IpAddr),
        now: Instant,
        timeout: Duration,
    ) -> Self {
        Self {
            arrived: now,
            arrived_at: clock::wall(),
            path,
            identity,
            ip: (manner.generation == Generation::Newest).then_some(ip),
            manner,
            log,
            metrics: None,
            under_way: None,
            is_answered: false,
            is_audited: false,
            deadline: Deadline::after(now, timeout),
        }
    }

    /// Counts it.
    pub fn count(&mut self, metrics: &'static Metrics) {
        metrics.request_begins();
        self.metrics = Some(metrics);
    }

    /// The reply for `result`, audited and counted.
    pub fn answer(mut self, result: Result<Reply, Failure>) -> Reply {
        if let (Err(Failure::NotAudited), Some(metrics)) = (&result, self.metrics) {
            metrics.count(Event::NotAudited);
        }
        let mut reply = result.unwrap_or_else(|failure| self.manner.reply(&failure));
        reply.announces_trailers &= self.manner.generation == Generation::V0_14;
        self.record(reply.status);
        reply
    }

    fn record(&mut self, status: u16) {
        self.is_answered = true;
        let took = clock::now() - self.arrived;
        if let Some(metrics) = self.metrics {
            metrics.request_ends(status, took);
        }
        if self.log.audits(self.is_change(status)) && !std::mem::replace(&mut self.is_audited, true)
        {
            let event = self.event(status, took);
            self.log.audit(event);
        }
    }

    /// Whether an answer with `status` says that a key was created or deleted.
    fn is_change(&self, status: u16) -> bool {
        let api = self.path.strip_prefix("/v1/key/").unwrap_or_default();
        status == 200 && ["create/", "import/", "delete/"].iter().any(|name| api.starts_with(name))
    }

    /// Takes the path along: there is one event for each exchange.
    fn event(&mut self, status: u16, took: Duration) -> AuditEvent {
        AuditEvent {
            time: self.arrived_at,
            is_change: self.is_change(status),
            path: std::mem::take(&mut self.path),
            identity: self.identity.clone(),
            ip: self.ip,
            status,
            took,
        }
    }

    /// Whether a reply with a key may not leave before its audit line is written.
    pub fn must_be_held(&self) -> bool {
        self.log.requires_audit() && !self.is_audited
    }

    /// When the key store must have answered, so that the client gets the reason rather than a timeout.
    pub fn key_store_deadline(&self) -> Deadline {
        self.deadline.earlier(HEAD_START.min(self.deadline.remaining(self.arrived) / 2))
    }

    /// Hands the audit event over ahead of the answer; `waiter` gets whether its line is written.
    /// `false` if the log can't take it.
    pub fn hold(&mut self, waiter: Waiter<bool>) -> bool {
        let event = self.event(200, clock::now() - self.arrived);
        match self.log.hold(event, move |is_written| waiter.deliver(is_written)) {
            Ok(()) => self.is_audited = true,
            Err(event) => self.path = event.path,
        }
        self.is_audited
    }

    /// Answers the request by making `subscriber` one.
    pub fn subscribe(mut self, stream: Stream, subscriber: Box<dyn Subscriber>) -> Subscription {
        let event = self.event(200, clock::now() - self.arrived);
        self.is_audited = true;
        self.record(200);
        self.log.subscribe(stream, subscriber, event)
    }
}

/// A request that a panic ends without an answer is audited and counted all the same.
impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.is_answered {
            self.record(500);
        }
    }
}
