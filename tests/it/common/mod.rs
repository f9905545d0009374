//! The scene of the tests: a server that is the real binary, certificates, and a client that sends
//! exactly the bytes it is told to.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

pub mod appliance;
pub mod bao;
pub mod certificates;
pub mod client;
pub mod comparison;
pub mod crowd;
pub mod go;
pub mod hpack;
pub mod http2;
pub mod inside;
pub mod keysecure;
pub mod openssl;
pub mod server;
pub mod site;
pub mod sockets;
pub mod stream;
pub mod transcript;

use std::{
    cell::Cell,
    io::Write as _,
    net::TcpStream,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU16, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::Value;

pub use self::{
    appliance::Appliance,
    bao::Bao,
    certificates::{Authority, Identity, Profile},
    client::{Client, Connection, Response},
    crowd::Crowd,
    go::Go,
    http2::Http2,
    inside::Inside,
    openssl::OpenSsl,
    server::{Config, Server, probe_address},
    site::Site,
    sockets::Socket,
    stream::Follower,
};

/// A directory that is removed when it is dropped.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("kes-test-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Runs `kes` in this directory, with nothing but `environment`, until it ends.
    pub fn kes(&self, args: &[&str], environment: &[(&str, &str)], stdin: &str) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_kes"))
            .args(args)
            .current_dir(self.path())
            .env_clear()
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that does not read may be gone already.
        let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        child.wait_with_output().unwrap()
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A server starts, answers, logs or ends within this time, even on a very busy machine. Less than the
/// 100 seconds after which it closes idle connections.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Asks `condition` again and again until it gives something, for at most `patience`.
pub fn wait_for<T>(patience: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let until = Instant::now() + patience;
    loop {
        if let Some(found) = condition() {
            return Some(found);
        }
        if Instant::now() > until {
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until `condition` holds.
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let is_met = wait_for(PATIENCE, || condition().then_some(()));
    assert!(is_met.is_some(), "not within {PATIENCE:?}: {what}");
}

/// The time since its last start; none if it does not run.
#[derive(Default)]
pub struct Clock(Cell<Option<Instant>>);

impl Clock {
    pub fn start(&self) {
        self.0.set(Some(Instant::now()));
    }

    /// From now on failures count, however long they take.
    pub fn stop(&self) {
        self.0.set(None);
    }

    pub fn elapsed(&self) -> Duration {
        self.0.get().map_or(Duration::ZERO, |began| began.elapsed())
    }
}

/// Plays a scene that shows something only if the machine lets it go on quickly: a failure counts if it
/// comes within `limit` after the start of the clock, and in the last of thirty tries.
pub fn quickly(limit: Duration, scene: impl Fn(&Clock)) {
    for attempt in 1..=30 {
        let clock = Clock::default();
        let Err(panic) = catch_unwind(AssertUnwindSafe(|| scene(&clock))) else {
            return;
        };
        let took = clock.elapsed();
        if took < limit || attempt == 30 {
            resume_unwind(panic);
        }
        eprintln!("try {attempt} took {took:?}, too long to count");
    }
}

/// What must be over while a server ends, which takes running requests at most 800 milliseconds.
pub const WHILE_IT_ENDS: Duration = Duration::from_millis(750);

/// Asserts that `is_closed` comes true within these times after `began`.
#[track_caller]
pub fn closes_between(
    began: Instant,
    (from, to): (Duration, Duration),
    is_closed: impl FnOnce() -> bool,
) {
    assert!(is_closed());
    let took = began.elapsed();
    assert!((from..to).contains(&took), "closed after {took:?}");
}

/// Before the next longer deadline of the server, which is that of 10 seconds.
pub const AT_5_SECONDS: (Duration, Duration) =
    (Duration::from_millis(4300), Duration::from_millis(9300));

/// A port of 127.0.0.1 that is free. The system gives none of this range to those who do not choose, so
/// nobody else takes it before it is used, or while it is free for a moment.
pub fn free_port() -> u16 {
    free_ports(1)
}

/// The first of so many ports in a row that are free.
pub fn free_ports(count: u16) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const PORTS: u16 = 10_000;
    let first = (std::process::id() % u32::from(PORTS)) as u16;
    // To listen for a moment would not do: a process that another test starts just then holds the port, too,
    // until it has become another program.
    let is_free = |port| TcpStream::connect(("127.0.0.1", port)).is_err();
    loop {
        let number = NEXT.fetch_add(count, Ordering::Relaxed);
        let port = 10_000 + first.wrapping_add(number) % PORTS;
        if (port..port + count).all(is_free) {
            return port;
        }
    }
}

pub fn base64(bytes: impl AsRef<[u8]>) -> String {
    BASE64_STANDARD.encode(bytes)
}

pub fn from_base64(text: &str) -> Vec<u8> {
    BASE64_STANDARD.decode(text).unwrap()
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The cases of a file in `testdata/`.
pub fn cases(file: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(file);
    let data: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    data["cases"].as_array().unwrap().clone()
}

/// The value that KES 0.14 stores for a key.
pub fn stored_key(key: &[u8]) -> String {
    format!("{{\"bytes\":\"{}\"}}", base64(key))
}
