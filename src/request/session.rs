//! A client's connection, and a request on it.

use std::{net::SocketAddr, sync::Arc, task::Waker, time::Instant};

use rustls_pki_types::CertificateDer;

use super::{
    admit::{Arrival, admit, allows, begin, check_nothing, check_policy},
    client::Client,
    explain,
    proxy::{self, Forwarded},
};
use crate::{
    api::{
        call::Check,
        core::Core,
        exchange::Exchange,
        failure::Failure,
        follow::{End, Follower},
        routes::{self, Access, Route},
        run::{Body, Running},
        state::State,
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

    fn count(&self, handshake: &Handshake<'_>) {
        let metrics = self.core.metrics;
        metrics.count(match handshake.is_resumed {
            true => Event::ResumedHandshake,
            false => Event::FullHandshake,
        });
        if let Some(group) = handshake.group {
            metrics.count(Event::KeyExchange(group));
        }
    }
}

impl Session for ApiSession {
    fn established(&mut self, handshake: &Handshake<'_>) -> Result<(), NotAccepted> {
        let (core, chain) = (self.core, handshake.chain);
        let state = core.state();
        // A full handshake was checked against the trust that it began with. A resumed one brings its old
        // certificate unchecked, so it is checked now.
        if chain.is_empty() && state.takes_clients_without_certificate() {
            self.client = Some(Client::without_certificate(state.trust_generation));
            self.count(handshake);
            return Ok(());
        }
        let (checked, generation) = match handshake.is_resumed {
            true => (state.trust.verify(chain, clock::unix()), state.trust_generation),
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
        self.count(handshake);
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
        let (state, failure) = (self.core.state(), Failure::Malformed(malformed));
        match &self.client {
            Some(client) => {
                let arrival = Arrival { ip: self.address.ip(), now };
                let exchange = begin(self.core, &state, None, path, client.identity(), arrival);
                exchange.answer(Err(failure))
            }
            None => state.manner().reply(&failure),
        }
    }

    fn begin(&mut self, head: Head, chain: &[CertificateDer<'static>], now: Instant) -> Begun {
        let core = self.core;
        let state = core.state();
        let Some(client) = &mut self.client else {
            let failure = Failure::Internal("the client is not known");
            return Begun::Answer(state.manner().reply(&failure), true);
        };
        let arrival = Arrival { ip: self.address.ip(), now };
        if !client.is_still_trusted(&state, chain, clock::unix()) {
            let (path, identity) = (head.path, client.identity());
            let route = routes::find(&path, state.generation);
            let exchange = begin(core, &state, route, path, identity, arrival);
            let failure = explain::distrusted(core.log, identity, &exchange.path);
            return Begun::Answer(exchange.answer(Err(failure)), true);
        }
        let sender = proxy::sender(&state, client, &head, &mut self.forwarded, |reason| {
            let address = self.address;
            core.log.error_from_outside(Cause::Forwarded, || {
                format!("http: client certificate forwarded by TLS proxy {address}: {reason}")
            });
        });
        let ip = proxy::address(&state, client, &head, self.address.ip());
        let arrival = Arrival { ip, now };
        let announces_no_body = head.announces_no_body();
        match admit(core, &state, client, sender, head, arrival) {
            Err(reply) => Begun::Answer(reply, false),
            Ok((exchange, route)) => {
                let witness = || Box::new((client.clone(), self.forwarded.clone()));
                let request = ApiRequest {
                    core,
                    deadline: exchange.deadline.instant(),
                    witness: route.is_endless().then(witness),
                    announces_no_body,
                    check: match route.access(&state.apis) {
                        Access::Policy => check_policy,
                        Access::Anyone | Access::Certificate => check_nothing,
                    },
                    phase: Phase::Body(exchange, route),
                };
                Begun::Request(Box::new(request), route.max_body(state.generation))
            }
        }
    }
}

/// Whether a client with this identity may still call `path`.
fn may_call(state: &State, identity: &str, path: &str) -> bool {
    let Some(route) = routes::find(path, state.generation) else {
        return false;
    };
    route.access(&state.apis) == Access::Anyone || allows(state, identity, path)
}

/// A request that was admitted.
struct ApiRequest {
    core: &'static Core,
    deadline: Instant,
    /// For a log stream, which must end with its client's rights: the client and what it forwarded.
    witness: Option<Box<(Client, Option<Box<Forwarded>>)>>,
    announces_no_body: bool,
    /// What has admitted it, and does so once more if it changes policies.
    check: Check,
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
            let Some(bytes) = body else {
                return Progress::Reply(exchange.answer(Err(route.invalid_body())));
            };
            let body = Body { bytes, is_unannounced: self.announces_no_body };
            let running = Running::start(self.core, exchange, route, body, self.check, waker);
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
        let ((client, forwarded), now) = (&mut **witness, clock::unix());
        let state = self.core.state();
        let may = client.is_still_trusted(&state, chain, now)
            && proxy::still_speaks_for(&state, client, forwarded, now)
            && may_call(&state, &follower.identity, &follower.path);
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
        if let Phase::Body(exchange, route) = self.take_phase() {
            exchange.answer(Err(route.invalid_body()));
        }
    }
}
