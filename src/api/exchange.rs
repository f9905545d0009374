//! A request from its arrival to its answer: each is audited and counted, once.
//!
//! Answers are made here and nowhere else: [`Exchange::answer`] turns a result into a reply.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::{failure::Failure, slot::Waiter};
use crate::{
    base::{clock, deadline::Deadline},
    http::reply::Reply,
    log::{AuditEvent, Log, Stream, Subscriber, Subscription},
    metrics::{Event, Metrics, Outcome},
};

/// A request on its way to its one answer.
pub struct Exchange {
    /// When it arrived.
    pub arrived: Instant,
    arrived_at: SystemTime,
    /// Its path, decoded.
    pub path: String,
    /// The identity of its client.
    pub identity: Arc<str>,
    log: &'static Log,
    /// `None` if the request is not counted.
    metrics: Option<&'static Metrics>,
    is_answered: bool,
    /// The log has its event, or is responsible for it.
    is_audited: bool,
    /// When the answer is due.
    pub deadline: Deadline,
}

impl Exchange {
    /// A request by `identity` to `path`, which arrived `now` and is to be answered within `timeout`.
    pub fn begin(
        log: &'static Log,
        metrics: Option<&'static Metrics>,
        path: String,
        identity: Arc<str>,
        now: Instant,
        timeout: Duration,
    ) -> Self {
        if let Some(metrics) = metrics {
            metrics.request_begins();
        }
        Self {
            arrived: now,
            arrived_at: clock::wall(),
            path,
            identity,
            log,
            metrics,
            is_answered: false,
            is_audited: false,
            deadline: Deadline::after(now, timeout),
        }
    }

    /// The reply for `result`, audited and counted.
    pub fn answer(mut self, result: Result<Reply, Failure>) -> Reply {
        if let (Err(Failure::NotAudited), Some(metrics)) = (&result, self.metrics) {
            metrics.count(Event::NotAudited);
        }
        let reply = result.unwrap_or_else(|failure| failure.reply());
        self.record(reply.status);
        reply
    }

    fn record(&mut self, status: u16) {
        self.is_answered = true;
        let took = self.arrived.elapsed();
        if let Some(metrics) = self.metrics {
            let outcome = match status {
                ..400 => Outcome::Success,
                400..500 => Outcome::Error,
                500.. => Outcome::Failure,
            };
            metrics.request_ends(outcome, took);
        }
        if self.log.audits() && !std::mem::replace(&mut self.is_audited, true) {
            let event = self.event(status, took);
            self.log.audit(event);
        }
    }

    /// Takes the path along: there is one event for each exchange.
    fn event(&mut self, status: u16, took: Duration) -> AuditEvent {
        AuditEvent {
            time: self.arrived_at,
            path: std::mem::take(&mut self.path),
            identity: self.identity.clone(),
            status,
            took,
        }
    }

    /// Whether a reply with a key may not leave before its audit line is written.
    pub fn must_be_held(&self) -> bool {
        self.log.requires_audit() && !self.is_audited
    }

    /// Hands the audit event over ahead of the answer; `waiter` gets whether its line is written.
    /// `false` if the log can't take it.
    pub fn hold(&mut self, waiter: Waiter<bool>) -> bool {
        let event = self.event(200, self.arrived.elapsed());
        match self.log.hold(event, move |is_written| waiter.deliver(is_written)) {
            Ok(()) => self.is_audited = true,
            Err(event) => self.path = event.path,
        }
        self.is_audited
    }

    /// Answers the request by making `subscriber` one.
    pub fn subscribe(mut self, stream: Stream, subscriber: Box<dyn Subscriber>) -> Subscription {
        let event = self.event(200, self.arrived.elapsed());
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
