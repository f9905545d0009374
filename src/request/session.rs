//! A client's connection, and a request on it.

use std::{net::SocketAddr, sync::Arc, task::Waker, time::Instant};

use rustls_pki_types::{CertificateDer, UnixTime};

use super::{
    admit::{admit, begin, check_policy},
    client::Client,
    explain,
    proxy::{self, Forwarded},
};
use crate::{
    api::{
        core::Core,
        exchange::Exchange,
        failure::Failure,
        follow::{End, Follower},
        routes::{self, Route},
        run::Running,
    },
    base::clock,
    http::{
        reply::Reply,
        request::{Head, Malformed},
    },
    io::service::{Begun, Handshake, Lines, NotAccepted, Progress, Request, Session},
    log::Cause,
    metrics::Event,
    tls::words,
};

/// A client's connection.
pub struct ApiSession {
    core: &'static Core,
    address: SocketAddr,
    /// The generation of the trust that the handshake works with.
    trust_generation: u64,
    /// The client at the other end, once the handshake has ended.
    client: Option<Client>,
    /// The certificate that a TLS proxy forwarded last.
    forwarded: Option<Box<Forwarded>>,
}

impl ApiSession {
    /// A connection from `address` whose handshake begins.
    pub fn new(core: &'static Core, address: SocketAddr, trust_generation: u64) -> Self {
        Self { core, address, trust_generation, client: None, forwarded: None }
    }
}

impl Session for ApiSession {
    fn established(&mut self, handshake: &Handshake<'_>) -> Result<(), NotAccepted> {
        let (core, chain) = (self.core, handshake.chain);
        let state = core.state();
        // A full handshake was checked against the trust that it began with. A resumed one brings its old
        // certificate unchecked, so it is checked now.
        let (checked, generation) = match handshake.is_resumed {
            true => (state.trust.verify(chain, UnixTime::now()), state.trust_generation),
            false => (Ok(()), self.trust_generation),
        };
        let client = checked.map_err(|e| words::of_client(&e));
        match client.and_then(|()| Client::new(chain, generation)) {
            Ok(client) => self.client = Some(client),
            Err(reason) => {
                self.handshake_failed(&reason);
                return Err(NotAccepted);
            }
        }
        core.metrics.count(match handshake.is_resumed {
            true => Event::ResumedHandshake,
            false => Event::FullHandshake,
        });
        if let Some(group) = handshake.group {
            core.metrics.count(Event::KeyExchange(group));
        }
        Ok(())
    }

    fn handshake_failed(&mut self, reason: &str) {
        self.core.metrics.count(Event::FailedHandshake);
        self.core.log.error_from_outside(Cause::Handshake, || {
            format!("http: TLS handshake error from {}: {reason}", self.address)
        });
    }

    fn kept_header(&self) -> Option<Arc<str>> {
        proxy::header_of(&self.core.state(), self.client.as_ref()?)
    }

    fn malformed(&mut self, malformed: Malformed, path: String, now: Instant) -> Reply {
        let failure = Failure::Malformed(malformed);
        match &self.client {
            Some(client) => {
                begin(self.core, None, path, client.identity(), now).answer(Err(failure))
            }
            None => failure.reply(),
        }
    }

    fn begin(&mut self, head: Head, chain: &[CertificateDer<'static>], now: Instant) -> Begun {
        let core = self.core;
        let state = core.state();
        let Some(client) = &mut self.client else {
            return Begun::Answer(Failure::Internal("the client is not known").reply(), true);
        };
        if !client.is_still_trusted(&state, chain, clock::unix()) {
            let (path, identity) = (head.path, client.identity());
            let exchange = begin(core, routes::find(&path), path, identity, now);
            let failure = explain::distrusted(core.log, identity, &exchange.path);
            return Begun::Answer(exchange.answer(Err(failure)), true);
        }
        let sender = proxy::sender(&state, client, &head, &mut self.forwarded, |reason| {
            let address = self.address;
            core.log.error_from_outside(Cause::Forwarded, || {
                format!("http: client certificate forwarded by TLS proxy {address}: {reason}")
            });
        });
        match admit(core, &state, client, sender, head, now) {
            Err(reply) => Begun::Answer(reply, false),
            Ok((exchange, route)) => {
                let witness = || Box::new((client.clone(), self.forwarded.clone()));
                let request = ApiRequest {
                    core,
                    deadline: exchange.deadline.instant(),
                    witness: route.is_endless().then(witness),
                    phase: Phase::Body(exchange, route),
                };
                Begun::Request(Box::new(request), route.max_body)
            }
        }
    }
}

/// A request that was admitted.
struct ApiRequest {
    core: &'static Core,
    deadline: Instant,
    /// For a log stream, which must end with its client's rights: the client and what it forwarded.
    witness: Option<Box<(Client, Option<Box<Forwarded>>)>>,
    phase: Phase,
}

/// Where a request is.
enum Phase {
    /// Its body is coming in.
    Body(Exchange, &'static Route),
    /// Its handler has run.
    Running(Running),
    /// It is answered.
    Over,
}

impl ApiRequest {
    fn take_phase(&mut self) -> Phase {
        std::mem::replace(&mut self.phase, Phase::Over)
    }

    fn running(&mut self) -> Option<&mut Running> {
        match &mut self.phase {
            Phase::Running(running) => Some(running),
            _ => None,
        }
    }
}

impl Request for ApiRequest {
    fn run(&mut self, body: Option<&[u8]>, now: Instant, waker: &dyn Fn() -> Waker) -> Progress {
        if let Phase::Body(exchange, route) = self.take_phase() {
            let Some(body) = body else {
                return Progress::Reply(exchange.answer(Err(Failure::InvalidJson)));
            };
            let running = Running::start(self.core, exchange, route, body, check_policy, waker);
            self.phase = Phase::Running(running);
        }
        self.poll(now, waker)
    }

    fn poll(&mut self, _now: Instant, waker: &dyn Fn() -> Waker) -> Progress {
        let Some(running) = self.running() else {
            return Progress::Wait;
        };
        if running.follower().is_some() {
            return Progress::Lines;
        }
        let reply = running.poll(waker);
        let deadline = running.deadline;
        match reply {
            None => {
                self.deadline = deadline;
                Progress::Wait
            }
            Some(reply) => {
                self.phase = Phase::Over;
                Progress::Reply(reply)
            }
        }
    }

    fn expire(&mut self) {
        if let Some(running) = self.running() {
            running.expire();
        }
    }

    fn deadline(&self) -> Instant {
        self.deadline
    }

    fn held(&self) -> usize {
        match &self.phase {
            Phase::Running(running) => running.held(),
            _ => 0,
        }
    }

    fn next_lines(&mut self) -> Lines {
        match self.running().and_then(Running::follower).map(Follower::next_lines) {
            Some((Some(block), _)) => Lines::Block(block),
            Some((None, None)) => Lines::Nothing,
            Some((None, Some(End::CutOff))) => Lines::CutOff,
            Some((None, Some(End::Complete))) | None => Lines::End,
        }
    }

    fn may_go_on(&mut self, chain: &[CertificateDer<'static>]) -> bool {
        let (Phase::Running(running), Some(witness)) = (&mut self.phase, &mut self.witness) else {
            return false;
        };
        let Some(follower) = running.follower() else {
            return false;
        };
        let ((client, forwarded), now) = (&mut **witness, UnixTime::now());
        let state = self.core.state();
        let may = client.is_still_trusted(&state, chain, now)
            && proxy::still_speaks_for(&state, client, forwarded, now)
            && state.policies.allows(&follower.identity, &follower.path);
        if !may {
            follower.end();
        }
        may
    }

    fn count_drop(&mut self) {
        if let Some(follower) = self.running().and_then(Running::follower) {
            follower.count_drop();
        }
    }
}

/// A body that is not complete is no valid JSON; a request that runs ends by itself.
impl Drop for ApiRequest {
    fn drop(&mut self) {
        if let Phase::Body(exchange, _) = self.take_phase() {
            exchange.answer(Err(Failure::InvalidJson));
        }
    }
}
