//! Probes for load balancers, containers and Prometheus: without TLS, on an address of their own.
//!
//! Requests here are neither audited nor counted, and never wait: the background asks the key store for
//! its status.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use rustls_pki_types::CertificateDer;

use crate::{
    api::{core::Core, failure::Failure, status},
    http::{
        reply::Reply,
        request::{Head, Malformed, Method},
    },
    io::{
        service::{Begun, Handshake, NotAccepted, Service, Session},
        transport::Transport,
    },
    metrics::Connections,
};

/// Open connections at most. They don't count as those of clients, so that neither can keep the other
/// out.
const MAX_CONNECTIONS: usize = 32;
/// Probes are few and come back: idle connections must not keep others out.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);

type Answer = fn(&Core) -> Reply;

/// All that is served.
const PROBES: &[(&str, Answer)] = &[
    ("/live", |_| text(200, "ok\n")),
    ("/ready", ready),
    ("/version", |core| status::version_reply(core.state().generation)),
    ("/v1/metrics", status::metrics_reply),
];

/// The service for probes.
pub struct Probe {
    core: &'static Core,
    connections: Connections,
}

impl Probe {
    /// Probes of the server with this core.
    pub fn new(core: &'static Core) -> Self {
        Self { core, connections: Connections::new(MAX_CONNECTIONS) }
    }
}

impl Service for Probe {
    fn open(&self, _: SocketAddr) -> io::Result<(Transport, Box<dyn Session>)> {
        Ok((Transport::plain(), Box::new(ProbeSession(self.core))))
    }

    fn idle_timeout(&self) -> Duration {
        IDLE_TIMEOUT
    }

    fn connections(&self) -> &Connections {
        &self.connections
    }

    fn refuse(&self) -> &'static str {
        "connections for probes"
    }
}

struct ProbeSession(&'static Core);

impl Session for ProbeSession {
    fn established(&mut self, _: &Handshake<'_>) -> Result<(), NotAccepted> {
        Ok(())
    }

    fn handshake_failed(&mut self, _: &str) {}

    fn kept_header(&self) -> Option<Arc<str>> {
        None
    }

    fn malformed(&mut self, malformed: Malformed, _: String, _: Instant) -> Reply {
        self.0.state().manner().reply(&Failure::Malformed(malformed))
    }

    fn begin(&mut self, head: Head, _: &[CertificateDer<'static>], _: Instant) -> Begun {
        Begun::Answer(answer(self.0, &head), false)
    }
}

fn answer(core: &Core, head: &Head) -> Reply {
    let probe = PROBES.iter().find(|(path, _)| *path == head.path);
    let reply = match (probe, head.method) {
        (Some((_, probe)), Method::Get | Method::Head) => probe(core),
        (Some(_), _) => Reply {
            header: Some(("Allow", "GET, HEAD".to_owned())),
            ..text(405, "method not allowed\n")
        },
        (None, _) => core.state().manner().reply(&Failure::NoSuchPath),
    };
    Reply { announces_trailers: false, ..reply }
}

fn ready(core: &Core) -> Reply {
    match core.health.unfit(core.log, Instant::now()) {
        None => text(200, "ok\n"),
        Some(why) => text(503, why),
    }
}

fn text(status: u16, text: &str) -> Reply {
    Reply {
        status,
        content_type: Some("text/plain; charset=utf-8"),
        is_nosniff: status >= 400,
        ..Reply::json(text.as_bytes().to_vec())
    }
}
