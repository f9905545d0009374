//! A server of the pipeline, with keys in memory.

use std::{
    net::{TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, OnceLock},
    task::Wake,
    time::{Duration, Instant},
};

use rustls_pki_types::CertificateDer;

use crate::{
    api::{
        core::Core,
        state::{self, State},
    },
    base::{deadline::Deadline, generation::Generation},
    cache::Expiry,
    identity,
    io::socket::Socket,
    keystore::{KeyName, KeyStore, mem::Mem},
    log::{AuditMode, Log, Settings},
    policy::{Policies, Policy, Rule},
};

/// The longest that anything may take on a machine that is busy.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A server.
pub struct Site {
    pub core: &'static Core,
    store: Arc<Mem>,
    /// The certificates of root and of another client.
    pub chains: [Vec<CertificateDer<'static>>; 2],
    policies: Policies,
    pub wakes: Arc<Wakes>,
    /// Log streams want one.
    pub socket: Socket,
}

#[derive(Default)]
pub struct Wakes {
    pub has_come: Mutex<bool>,
    pub arrived: Condvar,
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        *self.has_come.lock().expect("nobody panics with it") = true;
        self.arrived.notify_all();
    }
}

impl Site {
    pub fn get(generation: usize) -> &'static Self {
        static SITES: OnceLock<[Site; 2]> = OnceLock::new();
        let start = || [Generation::V0_14, Generation::Newest].map(Self::start);
        &SITES.get_or_init(start)[generation]
    }

    fn start(generation: Generation) -> Self {
        let chains = [(); 2].map(|()| {
            let key = rcgen::KeyPair::generate().expect("a key");
            let params = rcgen::CertificateParams::new(vec![]).expect("no names");
            vec![params.self_signed(&key).expect("a certificate").der().clone()]
        });
        let identity = |at: usize| identity::of_certificate(&chains[at][0]).expect("a certificate");
        let mut builder = Policies::builder(&identity(0), &[]);
        let rule = |text| match generation {
            Generation::V0_14 => Rule::glob(text).expect("a pattern"),
            Generation::Newest => Rule::prefix(text),
        };
        let policy = Policy {
            allow: ["/v1/key/*", "/v1/key/generate/*", "/v1/log/*"].map(rule).into(),
            deny: ["/v1/key/delete/*"].map(rule).into(),
        };
        builder.define(&"my-policy".into(), Arc::new(policy));
        builder.assign(&"my-policy".into(), &identity(1)).expect("it has none yet");
        let policies = builder.build();
        let state = State {
            policies: policies.clone(),
            generation,
            texts: generation,
            ..state::for_tests().0
        };
        let log = Log::without_threads(Settings { audit: AuditMode::On, error: false });
        let store = Arc::new(Mem::default());
        let core = Core::start(state, Expiry::default(), store.clone(), Box::leak(log.into()), 1);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let socket = TcpStream::connect(listener.local_addr().expect("it is bound"));
        Self {
            core: core.expect("threads"),
            store,
            chains,
            policies,
            wakes: Arc::default(),
            #[allow(clippy::useless_conversion, reason = "tests have sockets of other kinds, too")]
            socket: socket.expect("a connection").into(),
        }
    }

    /// Forgets what the input before this one has left.
    pub fn reset(&self) {
        let deadline = Deadline::after(Instant::now(), PATIENCE);
        for name in self.store.list(deadline).expect("it is in memory") {
            let name = KeyName::parse(&name).expect("it was stored");
            self.core.cache.remove(&name);
            self.store.delete(&name, deadline).expect("it is there");
        }
        let Ok(()) = self.core.change_state(|state| {
            state.policies = self.policies.clone();
            Ok::<_, std::convert::Infallible>(())
        });
    }

    pub fn identity(&self, is_root: bool) -> String {
        identity::of_certificate(&self.chains[usize::from(!is_root)][0]).expect("a certificate")
    }
}
