//! What the service manager hears of the server: that it serves, reloads, stops, and is alive (the protocol of
//! `sd_notify`). Without `NOTIFY_SOCKET` nothing is sent.

use std::{
    ffi::OsStr,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

use crate::log::cut;

/// A service manager that takes nothing holds up the server for this time at most.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of a status: a datagram may have 4096.
const MAX_STATUS: usize = 1000;

/// The way to the service manager.
#[derive(Default)]
pub struct Notifier {
    manager: Option<(UnixDatagram, SocketAddr)>,
    status: Mutex<Status>,
}

/// What `systemctl status` shows.
#[derive(Default)]
struct Status {
    /// What the server does.
    doing: String,
    /// Why the key store can't be used.
    key_store: String,
    /// Why the last reload failed.
    reload: String,
}

/// A part of the status that goes when it no longer holds.
#[derive(Clone, Copy, Debug)]
pub enum Trouble {
    /// The key store can't be used.
    KeyStore,
    /// The last reload failed.
    Reload,
}

impl Notifier {
    /// The service manager that the environment names, or none.
    ///
    /// # Errors
    /// If it names one that can't be reached.
    pub fn from_env() -> (Self, Result<(), String>) {
        let (manager, found) = match std::env::var_os("NOTIFY_SOCKET").map(|name| open(&name)) {
            None => (None, Ok(())),
            Some(Ok(manager)) => (Some(manager), Ok(())),
            Some(Err(e)) => {
                let what = "the service manager hears nothing of this server: NOTIFY_SOCKET";
                (None, Err(format!("{what}: {e}")))
            }
        };
        (Self { manager, status: Mutex::default() }, found)
    }

    /// Says what the server does from now on, after `state`, which is empty or a line such as `READY=1`.
    pub fn does(&self, state: &str, doing: &str) {
        self.tell(state, |status| doing.clone_into(&mut status.doing));
    }

    /// Says that a part of the server is in trouble, or with an empty text that it is not, after `state`.
    pub fn has(&self, state: &str, trouble: Trouble, text: &str) {
        self.tell(state, |status| {
            let part = match trouble {
                Trouble::KeyStore => &mut status.key_store,
                Trouble::Reload => &mut status.reload,
            };
            text.clone_into(part);
        });
    }

    /// Says that a reload begins.
    pub fn reloads(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    /// Says that the server is alive.
    pub fn is_alive(&self) {
        self.send("WATCHDOG=1");
    }

    fn tell(&self, state: &str, change: impl FnOnce(&mut Status)) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut status);
        self.send(&format!("{state}STATUS={}", status.line()));
    }

    fn send(&self, message: &str) {
        if let Some((socket, address)) = &self.manager {
            // A service manager that is gone is no reason to stop.
            let _ = socket.send_to_addr(message.as_bytes(), address);
        }
    }
}

impl Status {
    fn line(&self) -> String {
        let parts = [&self.doing, &self.key_store, &self.reload];
        let parts = parts.map(|part| cut(part.replace(char::is_control, " "), MAX_STATUS));
        let parts: Vec<_> = parts.iter().filter(|part| !part.is_empty()).map(|s| &**s).collect();
        parts.join("; ")
    }
}

/// How often the service manager wants to hear that the server is alive, if it does.
pub fn watchdog() -> Option<Duration> {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let is_ours = std::env::var_os("WATCHDOG_PID").is_none()
        || number("WATCHDOG_PID") == Some(std::process::id().into());
    let micros = number("WATCHDOG_USEC").filter(|micros| *micros > 0 && is_ours)?;
    Some(Duration::from_micros(micros))
}

/// A socket, and where to send: a path, or behind `@` a name in the abstract namespace.
fn open(name: &OsStr) -> std::io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok((socket, address))
}
