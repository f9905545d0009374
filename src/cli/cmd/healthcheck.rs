//! `kes healthcheck`, for containers without curl: one question to the probe of a server.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    path::Path,
    time::Duration,
};

use serde_json::json;

use crate::{
    cli::{
        args::{Args, Command, JSON, flag, value},
        output::{Failure, harmless, print},
        settings::first_error,
    },
    config::{self, Flags, Origin, parse_address},
    tls::words::Hints,
    web::{
        agent::{self, Agent, Call, Options},
        errors,
    },
};

/// The server has to answer within this time.
const TIMEOUT: Duration = Duration::from_secs(5);
/// And it has to have said what it speaks within this one, if it did not.
const GLANCE: Duration = Duration::from_secs(1);
/// More than this is not read of an answer, in bytes.
const MAX_ANSWER: u64 = 1024;

pub(crate) const HEALTHCHECK: Command = Command {
    path: &["healthcheck"],
    summary: "Ask the probe of a server whether it is healthy",
    details: "\
Without --live, the server must also be ready: its key store is available and it is not ending.
Of the configuration file, which may be a newer one than the server's, only the field
probe.address matters.",
    flags: &[
        value(&["config"], "file", "configuration file of the server, for its probe.address"),
        value(&["probe"], "IP:port", "ask there"),
        flag(&["live"], "ask only whether the server runs"),
        JSON,
    ],
    exit_codes: &[(0, "healthy"), (1, "not, or it is not clear whom to ask")],
    examples: &[
        "kes healthcheck --config /etc/kes/config.yml",
        "kes healthcheck --probe 127.0.0.1:7374 --live",
    ],
    run,
    ..Command::NEW
};

/// What the port for clients says to one that speaks no TLS.
const NEEDS_TLS: &str = "Client sent an HTTP request to an HTTPS server.";

fn is_for_clients(address: SocketAddr) -> String {
    format!("unhealthy: {address} speaks TLS, so it is not the address of the probe")
}

fn run(args: &Args) -> Result<(), Failure> {
    let address = address(args)?;
    let path = if args.is_set("live") { "live" } else { "ready" };
    let url = format!("http://{address}/{path}");
    let (status, text) = ask(&url).map_err(|e| match speaks_tls(address) {
        true => is_for_clients(address),
        false => format!("unhealthy: {url} does not answer: {}", harmless(e.trim())),
    })?;
    let says = text.trim().replace(char::is_control, " ");
    if status == 400 && says == NEEDS_TLS {
        return Err(is_for_clients(address).into());
    }
    let is_healthy = status == 200;
    if args.is_set("json") {
        let answer = json!({ "healthy": is_healthy, "url": url, "status": status, "says": says });
        print(&format!("{answer}\n"))?;
        return if is_healthy { Ok(()) } else { Err(Failure::Exit(1)) };
    }
    match status {
        200 => print(&format!("healthy: {url} says {says}\n")),
        503 => Err(format!("unhealthy: {url} says {says}").into()),
        _ => Err(format!("unhealthy: {url} answers with status {status}").into()),
    }
}

/// The address to ask, or why there is none.
fn address(args: &Args) -> Result<SocketAddr, String> {
    let address = match (args.value("probe"), args.value("config")) {
        (Some(probe), _) => parse_address(probe).ok_or_else(|| {
            format!("invalid probe address: {probe:?}: write IP:PORT, or :PORT for this machine")
        })?,
        (None, Some(file)) => configured(Path::new(file))?,
        (None, None) => {
            return Err("no probe address: use --config with the server's file, or --probe".into());
        }
    };
    // A probe on all addresses is also on this machine's own.
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    Ok(SocketAddr::new(ip, address.port()))
}

/// The address in a file that may have become wrong elsewhere since the server read it.
fn configured(file: &Path) -> Result<SocketAddr, String> {
    let loaded =
        config::load(Origin::File(file), &Flags::default(), &[]).map_err(|e| e.to_string())?;
    if let Some(address) = loaded.config().probe {
        return Ok(address);
    }
    let why = match first_error(&loaded.findings(), &["probe"]) {
        Some(found) => {
            let line = found.position.map_or(0, |at| at.line);
            format!(": line {line}: {}", found.message)
        }
        None => String::new(),
    };
    Err(format!("no probe.address in {}{why}", file.display()))
}

/// Status and text of the answer.
fn ask(url: &str) -> Result<(u16, String), String> {
    let hints =
        Hints { trust: "", endpoint: "the address of the probe", certificate: "", or_skip: "" };
    let agent = Agent::new(Options {
        tls: None,
        proxy: None,
        connect_timeout: TIMEOUT,
        response_timeout: None,
    });
    let why = |e| errors::reason(&e, &hints, TIMEOUT);
    let call = Call { method: "GET", url, headers: &[], body: None, timeout: Some(TIMEOUT) };
    let mut answer = agent.send(call).map_err(why)?;
    let text = agent::read(&mut answer, MAX_ANSWER).map_err(why)?;
    Ok((answer.status().as_u16(), String::from_utf8_lossy(&text).into_owned()))
}

/// Whether `address` answers plain text with a TLS alert.
fn speaks_tls(address: SocketAddr) -> bool {
    let mut start = [0; 2];
    let mut ask = || -> io::Result<()> {
        let mut stream = TcpStream::connect_timeout(&address, GLANCE)?;
        stream.set_read_timeout(Some(GLANCE))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        stream.read_exact(&mut start)
    };
    ask().is_ok() && start == [0x15, 3]
}
