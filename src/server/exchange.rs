//! A request from its arrival to its answer: what it is, and that it is audited and counted.
//!
//! Answers are made here and nowhere else: [`Exchange::answer`] turns a result into a reply, audits
//! and counts it, once.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::{Server, connection::Address, failure::Failure, pending::Delivery, routes::Route};
use crate::{
    base::{clock, deadline::Deadline},
    http::reply::Reply,
    log::{AuditEvent, Log, Stream, Subscriber, Subscription},
    metrics::{self, Metrics},
};

/// How long an answer may take that no route serves.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// A request on its way to its one answer.
pub(super) struct Exchange {
    /// When it arrived.
    pub(super) arrived: Instant,
    arrived_at: SystemTime,
    /// Its path, decoded.
    pub(super) path: String,
    /// Who asks.
    pub(super) identity: Arc<str>,
    /// What serves it, if anything.
    pub(super) route: Option<&'static Route>,
    log: &'static Log,
    /// `None` if the request is not counted.
    metrics: Option<&'static Metrics>,
    is_answered: bool,
    /// The log has its event, or is responsible for it.
    is_audited: bool,
    /// When the answer is due.
    pub(super) deadline: Deadline,
}

impl Exchange {
    /// A request by `identity` to `path`, which arrived `now` and is served by `route`.
    pub(super) fn begin(
        server: &Server,
        route: Option<&'static Route>,
        path: String,
        identity: &Arc<str>,
        now: Instant,
    ) -> Self {
        let metrics = route.is_none_or(Route::is_metered).then_some(server.metrics);
        if let Some(metrics) = metrics {
            metrics.request_begins();
        }
        let timeout = route.map_or(DEFAULT_TIMEOUT, |route| route.timeout);
        Self {
            arrived: now,
            arrived_at: clock::wall(),
            path,
            identity: identity.clone(),
            route,
            log: server.log,
            metrics,
            is_answered: false,
            is_audited: false,
            deadline: Deadline::after(now, timeout),
        }
    }

    /// The reply for `result`, audited and counted. Consumes the exchange: nothing is answered
    /// twice.
    pub(super) fn answer(mut self, result: Result<Reply, Failure>) -> Reply {
        if let (Err(Failure::NotAudited), Some(metrics)) = (&result, self.metrics) {
            metrics.count(metrics::Event::NotAudited);
        }
        let reply = result.unwrap_or_else(|failure| failure.reply());
        self.is_answered = true;
        self.record(reply.status);
        reply
    }

    fn record(&mut self, status: u16) {
        let took = self.arrived.elapsed();
        self.count(status, took);
        self.audit(status, took);
    }

    fn count(&self, status: u16, took: Duration) {
        if let Some(metrics) = self.metrics {
            let outcome = match status {
                ..400 => metrics::Outcome::Success,
                400..500 => metrics::Outcome::Error,
                500.. => metrics::Outcome::Failure,
            };
            metrics.request_ends(outcome, took);
        }
    }

    fn audit(&mut self, status: u16, took: Duration) {
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

    /// Whether `reply` may not leave before its audit line is written. All that the key API
    /// answers is treated alike, also ciphertexts and names: that is easy to know and to check.
    pub(super) fn must_be_held(&self, reply: &Reply) -> bool {
        self.log.requires_audit()
            && !self.is_audited
            && self.route.is_some_and(Route::answers_with_keys)
            && reply.status == 200
            && !reply.body.is_empty()
    }

    /// Hands the audit event over ahead of the answer, which is let go or refused at `address` when the
    /// log knows what became of the line. `false` if the log can't take it.
    pub(super) fn hold(&mut self, address: Address, server: &Server) -> bool {
        let took = self.arrived.elapsed();
        let (event, server) = (self.event(200, took), server.me());
        let held = self.log.hold(event, move |is_written| {
            if let Some(server) = server.upgrade() {
                address.deliver(&server, Delivery::Line(is_written));
            }
        });
        match held {
            Ok(()) => self.is_audited = true,
            Err(event) => self.path = event.path,
        }
        self.is_audited
    }

    /// Makes a subscriber of the client, and answers the request with that.
    pub(super) fn subscribe(
        mut self,
        stream: Stream,
        subscriber: Box<dyn Subscriber>,
    ) -> Subscription {
        self.is_answered = true;
        self.is_audited = true;
        let took = self.arrived.elapsed();
        self.count(200, took);
        let event = self.event(200, took);
        self.log.subscribe(stream, subscriber, event)
    }

    /// Who asked for what.
    pub(super) fn subject(&self) -> (Arc<str>, String) {
        (self.identity.clone(), self.path.clone())
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
