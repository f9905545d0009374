//! The scene of the tests: a server that is the real binary, certificates, and a client that sends
//! exactly the bytes it is told to.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

pub mod appliance;
pub mod certificates;
pub mod client;
pub mod comparison;
pub mod crowd;
pub mod hpack;
pub mod http2;
pub mod inside;
pub mod keysecure;
pub mod openssl;
pub mod server;
pub mod site;
pub mod stream;
pub mod transcript;

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::Value;

pub use self::{
    appliance::Appliance,
    certificates::{Authority, Identity, Profile},
    client::{Client, Connection, Response},
    crowd::Crowd,
    http2::Http2,
    inside::Inside,
    openssl::OpenSsl,
    server::{Config, Server},
    site::Site,
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
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

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

/// How long it takes until the server closes, which must not be before `from` or after `to`.
#[track_caller]
pub fn closes_between(from: Duration, to: Duration, is_closed: impl FnOnce() -> bool) {
    let start = Instant::now();
    assert!(is_closed());
    let took = start.elapsed();
    assert!((from..to).contains(&took), "closed after {took:?}");
}

pub const AT_5_SECONDS: (Duration, Duration) =
    (Duration::from_millis(4300), Duration::from_millis(7500));

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
