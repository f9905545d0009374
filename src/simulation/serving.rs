//! The main scenario: a whole server but for its sockets, its key store and what it writes its log to. Clients
//! create, import, delete, use and list the same keys, the key store and its other users do what they like, and in
//! the end the server drains.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock},
    task::Waker,
    time::{Duration, Instant},
};

use rustix::io::Errno;
use rustls_pki_types::CertificateDer;

use super::{
    client::Client,
    identities::{chain_of, prepared},
    model::{Model, Shared, Terms},
    store::{Faults, Store},
};
use crate::{
    api::{core::Core, state::State},
    base::{
        clock,
        generation::Generation,
        secret::Secret,
        sync::{
            thread,
            world::{self, ensure},
        },
    },
    cache::Expiry,
    crypto::{MasterKey, stored},
    http::{Malformed, reply::Reply, request::Head},
    io::{
        Sockets,
        door::Door,
        service::{Begun, Handshake, Lines, NotAccepted, Progress, Request, Service, Session},
        transport::{Plain, Transport},
    },
    log::{AuditMode, Log, Settings, Sink},
    metrics::Connections,
    request::{Api, session::ApiSession},
    server::{background, notify::Notifier},
};

const SECOND: Duration = Duration::from_secs(1);
/// Requests that wait for the key store, at most.
const MOST_JOBS: usize = 1024;
/// A server that drains for so long owes nothing in the end.
const LONG_PATIENCE: Duration = Duration::from_secs(25);

pub fn run() {
    let audit = [AuditMode::On, AuditMode::Required][world::below(2) as usize];
    let failing = if audit == AuditMode::Required && world::one_in(2) { 6 } else { 0 };
    let faults = match world::below(3) {
        0 => Faults { error: 0, panic: 0, hang: 0 },
        1 => Faults { error: 12, panic: 40, hang: 20 },
        _ => Faults { error: 30, panic: 0, hang: 200 },
    };
    let expiry = Expiry {
        any: Some([SECOND, 5 * SECOND, 300 * SECOND][world::below(3) as usize]),
        unused: world::one_in(3).then_some(SECOND),
        offline: world::one_in(4).then_some(20 * SECOND),
    };
    let is_audit_required = audit == AuditMode::Required;
    let is_healthy = faults.is_none() && !is_audit_required;
    let model: Shared = Arc::new(Model::new(Terms { expiry, is_audit_required, is_healthy }));
    let stdout = Paper::new(model.clone(), failing);
    let stderr = Paper::new(Arc::default(), 0);
    let log = Log::start_on(Settings { audit, error: true }, false, stdout, stderr).unwrap();
    let log: &'static Log = Box::leak(Box::new(log));
    let store = Arc::new(Store { model: model.clone(), faults });
    let core = Core::start(prepared().state.clone(), expiry, store, log, 2).unwrap();
    let (sockets, workers) = Sockets::start(2, log, core.metrics).unwrap();
    background::start(core, &sockets, false, notifier()).unwrap();
    let service = Gate { api: Api(core), model: model.clone() };
    let door = Arc::new(Door::new(&sockets, Box::new(service)));

    let clients: Vec<_> = (0..2 + world::below(3) as u32)
        .map(|number| {
            let client = Client {
                model: model.clone(),
                door: door.clone(),
                connection: 0,
                rounds: 1 + world::below(2),
                requests: 2 + world::below(6),
            };
            spawn(&format!("client-{number}"), move || client.run())
        })
        .collect();
    let mut others = Vec::new();
    if world::one_in(2) {
        let model = model.clone();
        others.push(spawn("other-server", move || use_elsewhere(&model)));
    }
    if world::one_in(4) {
        let model = model.clone();
        others.push(spawn("operator", move || operate(core, &model)));
    }
    // In the midst of it, or after all is answered.
    if world::one_in(3) {
        thread::sleep(SECOND * world::below(8) as u32);
    } else {
        while !clients.iter().all(thread::JoinHandle::is_finished) {
            thread::sleep(SECOND / 2);
            let depth = core.threads.depth();
            ensure!(depth <= MOST_JOBS, "{depth} requests wait for the key store");
        }
    }
    world::note(|| "the server ends".to_owned());
    model.end();
    door.close();
    let until = clock::now() + if world::one_in(3) { LONG_PATIENCE } else { 2 * SECOND };
    sockets.drain(until, || log.end_streams());
    if clock::now() >= until {
        world::note(|| "its patience is over".to_owned());
        model.cut_off();
    }
    sockets.stop(&workers);
    core.changes.give_up();
    drop(sockets);
    clients.into_iter().chain(others).for_each(|thread| drop(thread.join()));
    log.finish(10 * SECOND);
    ensure!(log.audit_lost() == 0, "{} audit lines are lost", log.audit_lost());
    model.check_end();
}

fn notifier() -> &'static Notifier {
    static NOTIFIER: OnceLock<Notifier> = OnceLock::new();
    NOTIFIER.get_or_init(Notifier::default)
}

fn spawn(name: &str, action: impl FnOnce() + Send + 'static) -> thread::JoinHandle<()> {
    thread::Builder::new().name(name.to_owned()).spawn(action).unwrap()
}

/// Another server that uses the same key store.
fn use_elsewhere(model: &Model) {
    for _ in 0..1 + world::below(12) {
        thread::sleep(Duration::from_millis(world::below(2000)));
        let name = ["a", "b"][world::below(2) as usize];
        if world::one_in(2) {
            let is_done = model.delete(name, false);
            world::note(|| format!("deletes {name}: {is_done}"));
        } else {
            let bytes: Vec<u8> = (0..32).map(|_| world::below(256) as u8).collect();
            let key = MasterKey::from_bytes(&bytes).expect("it has 32 bytes");
            let value: Secret = stored::encode(&key);
            let is_done = model.create(name, &value, false);
            world::note(|| format!("creates {name}: {is_done}"));
        }
    }
}

/// Takes a client its rights for a while. A request is decided and answered by the state before or the one
/// after.
fn operate(core: &'static Core, model: &Model) {
    let client = world::below(2) as u32;
    for may in [false, true] {
        thread::sleep(Duration::from_millis(world::below(5000)));
        let State { policies, .. } = &prepared().state;
        let policies = if may { policies.clone() } else { prepared().without(client) };
        // Some requests see the one, some the other.
        model.allow(client, may);
        let Ok(()) = core.change_state(|state| {
            state.policies = policies;
            state.texts = if may { Generation::V0_14 } else { Generation::Newest };
            state.trust_generation += 1;
            Ok::<(), std::convert::Infallible>(())
        });
        model.allow(client, may);
        world::note(|| format!("client {client} may call: {may}"));
    }
}

/// What the log writes to: slow, full now and then, and read line by line.
struct Paper {
    model: Shared,
    /// One write in so many fails; 0 is none.
    failing: u64,
    line: Mutex<Vec<u8>>,
}

impl Paper {
    fn new(model: Shared, failing: u64) -> Self {
        Self { model, failing, line: Mutex::default() }
    }
}

impl Sink for Paper {
    fn limit(&self) -> usize {
        4096
    }

    fn wait_for_room(&self) {
        let most = if world::one_in(10) { 1_500 } else { 2 };
        thread::sleep(Duration::from_micros(world::below(most * 1000)));
    }

    fn write(&self, block: &[u8]) -> Result<usize, Errno> {
        if self.failing > 0 && !self.model.is_ending() && world::one_in(self.failing) {
            world::note(|| "writing to the log fails".to_owned());
            return Err(Errno::NOSPC);
        }
        let count = match world::below(4) {
            0 => 1 + world::below(block.len() as u64) as usize,
            _ => block.len(),
        };
        world::note(|| format!("writes {count} of {} bytes", block.len()));
        let mut line = self.line.lock().unwrap();
        for byte in &block[..count] {
            match byte {
                b'\n' => {
                    self.model.line(&String::from_utf8_lossy(&line));
                    line.clear();
                }
                byte => line.push(*byte),
            }
        }
        Ok(count)
    }
}

/// The API without TLS. Tells the model what begins and ends.
struct Gate {
    api: Api,
    model: Shared,
}

impl Service for Gate {
    fn open(&self, address: SocketAddr) -> io::Result<(Transport, Box<dyn Session>)> {
        let (core, port) = (self.api.0, address.port());
        let session = Box::new(ApiSession::new(core, address, core.state().trust_generation));
        let mut plain = Plain::default();
        plain.speaks_http2 = port % 2 == 1;
        let (model, connection) = (self.model.clone(), u32::from(port / 2));
        Ok((Transport::Plain(plain), Box::new(Watched { session, model, connection })))
    }

    fn idle_timeout(&self) -> Duration {
        self.api.idle_timeout()
    }

    fn connections(&self) -> &Connections {
        self.api.connections()
    }

    fn refuse(&self) -> &'static str {
        self.api.refuse()
    }
}

struct Watched {
    session: Box<ApiSession>,
    model: Shared,
    connection: u32,
}

impl Session for Watched {
    fn established(&mut self, handshake: &Handshake<'_>) -> Result<(), NotAccepted> {
        let chain = chain_of(self.connection);
        let Handshake { is_resumed, group, .. } = *handshake;
        self.session.established(&Handshake { chain, is_resumed, group })
    }

    fn handshake_failed(&mut self, reason: &str) {
        self.session.handshake_failed(reason);
    }

    fn kept_header(&self) -> Option<Arc<str>> {
        self.session.kept_header()
    }

    fn malformed(&mut self, malformed: Malformed, path: String, now: Instant) -> Reply {
        world::fail(format!("a request for {path} is malformed"));
        self.session.malformed(malformed, path, now)
    }

    fn begin(&mut self, head: Head, _: &[CertificateDer<'static>], now: Instant) -> Begun {
        // The server makes nothing of a query.
        let number =
            head.query.as_ref().map(|number| number.parse().expect("clients number theirs"));
        let (connection, number) = (self.connection, number.unwrap_or_default());
        self.model.begin(connection, number, &head.path);
        let model = self.model.clone();
        match self.session.begin(head, chain_of(connection), now) {
            Begun::Request(request, max_body) => {
                let request = Traced { request, model, connection, number };
                Begun::Request(Box::new(request), max_body)
            }
            Begun::Answer(reply, is_last) => {
                model.is_over(connection, number);
                Begun::Answer(reply, is_last)
            }
        }
    }
}

struct Traced {
    request: Box<dyn Request>,
    model: Shared,
    connection: u32,
    number: u32,
}

impl Request for Traced {
    fn run(&mut self, body: Option<&[u8]>, now: Instant, waker: &dyn Fn() -> Waker) -> Progress {
        self.request.run(body, now, waker)
    }

    fn poll(&mut self, now: Instant, waker: &dyn Fn() -> Waker) -> Progress {
        // The last look before it expires finds an answer that nobody was woken for.
        if now >= self.deadline() {
            self.model.check_waiting(self.connection, self.number);
        }
        self.request.poll(now, waker)
    }

    fn expire(&mut self) {
        self.model.check_waiting(self.connection, self.number);
        self.request.expire();
    }

    fn deadline(&self) -> Instant {
        self.request.deadline()
    }

    fn held(&self) -> usize {
        self.request.held()
    }

    fn next_lines(&mut self) -> Lines {
        self.request.next_lines()
    }

    fn may_go_on(&mut self, _: &[CertificateDer<'static>]) -> bool {
        self.request.may_go_on(chain_of(self.connection))
    }

    fn count_drop(&mut self) {
        self.request.count_drop();
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        self.model.is_over(self.connection, self.number);
    }
}
