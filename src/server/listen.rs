//! The sockets that the server listens on: its own, or those that a service manager has opened before
//! (socket activation), which stay open while the server restarts.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::fd::{AsFd as _, OwnedFd},
};

use rustix::{
    net::{SocketType, sockopt},
    process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open},
};

use super::{Listeners, options::Error};
use crate::{config::Config, io::Listening};

/// The descriptor of the first socket.
const FIRST: i32 = 3;

/// A socket that the service manager has opened.
struct Passed {
    socket: TcpListener,
    address: SocketAddr,
    /// What messages call it.
    name: String,
}

/// Listens where `config` says. All sockets that the service manager has opened must be for one of its
/// addresses.
///
/// # Errors
/// [`Error::Listen`], [`Error::Activation`]
pub fn listen(config: &Config) -> Result<Listeners, Error> {
    let mut passed = passed().map_err(Error::Activation)?;
    let mut open = |address: SocketAddr, setting: &'static str| -> Result<_, Error> {
        if let Some(at) = passed.iter().position(|passed| is_same(passed.address, address)) {
            return Ok(Listening { socket: passed.swap_remove(at).socket, is_shared: true });
        }
        let socket = TcpListener::bind(address).map_err(|e| Error::Listen(address, setting, e))?;
        Ok(socket.into())
    };
    let api = open(config.address, "--addr");
    let probe = config.probe.map(|address| open(address, "probe.address"));
    if let Some(Passed { name, address, .. }) = passed.first() {
        let probe = match config.probe {
            Some(probe) => format!(" or probe.address {probe}"),
            None => String::new(),
        };
        return Err(Error::Activation(format!(
            "{name} listens on {address}, and the configuration has address {}{probe}: make \
             ListenStream= of the socket unit and the configuration the same",
            config.address
        )));
    }
    Ok(Listeners { api: api?, probe: probe.transpose()? })
}

/// Whether both are the same place; IPv6 addresses have more than that.
fn is_same(a: SocketAddr, b: SocketAddr) -> bool {
    a.ip() == b.ip() && a.port() == b.port()
}

/// The sockets that the service manager has opened for this process. The variables stay in the environment:
/// the server starts no other program that could take them for its own.
fn passed() -> Result<Vec<Passed>, String> {
    let variable = |name| std::env::var(name).unwrap_or_default();
    if variable("LISTEN_PID") != std::process::id().to_string() {
        return Ok(Vec::new());
    }
    let count = variable("LISTEN_FDS");
    let count: i32 = count
        .parse()
        .ok()
        .filter(|count| (0..=1000).contains(count))
        .ok_or_else(|| format!("LISTEN_FDS is {count:?}, not a number of sockets"))?;
    let names = variable("LISTEN_FDNAMES");
    let mut names = names.split(':');
    (FIRST..FIRST + count)
        .map(|descriptor| {
            let unit = names.next().filter(|name| !name.is_empty());
            let unit = unit.map_or(String::new(), |unit| format!(" ({unit})"));
            let name = format!("descriptor {descriptor}{unit}");
            let socket = take(descriptor).map_err(|e| {
                format!(
                    "{name} can't be used: {e}; a filter of system calls must allow pidfd_open and \
                     pidfd_getfd"
                )
            })?;
            match socket_address(&socket) {
                Some(address) => Ok(Passed { socket: socket.into(), address, name }),
                None => Err(format!(
                    "{name} is no listening TCP socket: use ListenStream= with IP and port, and Accept=no"
                )),
            }
        })
        .collect()
}

/// A copy of a descriptor that this process has. Only the kernel can say whether it is open, so the copy is
/// made by a system call for descriptors of any process.
fn take(descriptor: i32) -> io::Result<OwnedFd> {
    let this = pidfd_open(getpid(), PidfdFlags::empty())?;
    Ok(pidfd_getfd(this, descriptor, PidfdGetfdFlags::empty())?)
}

/// Where a listening TCP socket listens.
fn socket_address(socket: &OwnedFd) -> Option<SocketAddr> {
    let socket = socket.as_fd();
    let is_listening = sockopt::socket_type(socket) == Ok(SocketType::STREAM)
        && sockopt::socket_acceptconn(socket) == Ok(true);
    let address = rustix::net::getsockname(socket).ok().filter(|_| is_listening)?;
    SocketAddr::try_from(address).ok()
}
