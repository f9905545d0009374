//! `kes healthcheck`, for containers without curl, and for scripts: one question to the probe of a server,
//! or to the server itself.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    time::Duration,
};

use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::json;

use crate::{
    cli::{
        args::{Args, Command, JSON, flag, value},
        doctor::look::{self, Look, Way},
        environment,
        output::{Failure, harmless, print},
        settings::{INSTALLED, first_error},
    },
    config::{self, Flags, Origin, parse_address},
    identity,
    tls::ServerTrust,
};

/// A server has to say what it speaks within this time, if it did not answer.
const GLANCE: Duration = Duration::from_secs(1);

pub(crate) const HEALTHCHECK: Command = Command {
    path: &["healthcheck"],
    summary: "Ask a server whether it is healthy",
    details: "\
Asks the probe at --probe, or at probe.address of the file. Without --live, the server must
also be ready: its key store is available and it is not ending. A file without
probe.address, or else KES_SERVER, names the server itself: without an API key or
certificate, it is healthy if it answers and has the certificate of the file, ready or
not, and with 'tls.auth: on' each such question is a line in its error log. Of the
file, which may be a newer one than the server's, only these addresses and tls.cert
matter. Without flags and KES_SERVER, it is /etc/kes/config.yaml. Prints nothing if all
is well.",
    flags: &[
        value(&["config"], "file", "configuration file of the server"),
        value(&["probe"], "IP:port", "ask there"),
        flag(&["live"], "ask only whether the server runs"),
        JSON,
    ],
    exit_codes: &[(0, "healthy"), (1, "not, or it is not clear whom to ask")],
    examples: &[
        "kes healthcheck",
        "kes healthcheck --config /etc/kes/config.yaml",
        "kes healthcheck --probe 127.0.0.1:7374 --live",
    ],
    run,
    ..Command::NEW
};

/// What the port for clients says to one that speaks no TLS.
const NEEDS_TLS: &str = "Client sent an HTTP request to an HTTPS server.";

/// What can be asked.
enum Target {
    Probe(SocketAddr),
    /// These URLs, of which one answer will do.
    Servers(Vec<String>, ServerTrust, Way),
}

fn is_for_clients(address: SocketAddr) -> String {
    format!("unhealthy: {address} speaks TLS, so it is not the address of the probe")
}

fn run(args: &Args) -> Result<(), Failure> {
    match target(args)? {
        Target::Probe(address) => {
            let path = if args.is_set("live") { "live" } else { "ready" };
            let url = format!("http://{address}/{path}");
            let looked = look::look(
                &url,
                "the address of the probe",
                &ServerTrust::Anything,
                None,
                Way::Direct,
            )?;
            let (status, text) = match looked.answer {
                Ok(answer) => answer,
                Err(_) if speaks_tls(address) => return Err(is_for_clients(address).into()),
                Err(why) => return tell(args, &url, None, false, &why),
            };
            let says = said(&text);
            if status == 400 && says == NEEDS_TLS {
                return Err(is_for_clients(address).into());
            }
            tell(args, &url, Some(status), status == 200, &says)
        }
        Target::Servers(urls, trust, way) => at_servers(args, &urls, &trust, way),
    }
}

/// Asks servers that stand in for each other, over TLS.
fn at_servers(
    args: &Args,
    servers: &[String],
    trust: &ServerTrust,
    way: Way,
) -> Result<(), Failure> {
    let (certificate, path) = match environment::has_client(args) {
        true => {
            let shown = environment::certificate(args, false)?;
            (Some(shown.certificate), if args.is_set("live") { "version" } else { "v1/ready" })
        }
        false => (look::nobody(), "version"),
    };
    for (at, server) in servers.iter().enumerate() {
        let url = format!("{server}/{path}");
        let Look { identity, answer, is_picky, .. } =
            look::look(&url, "its address", trust, certificate.clone(), way)?;
        let (status, is_healthy, says) = match answer {
            Ok((status, text)) => {
                // Others than its clients may not ask whether it is ready, and 0.14 does not tell.
                let answers = path != "version" && [403, 404].contains(&status);
                (Some(status), status == 200 || answers, said(&text))
            }
            // It speaks TLS, and takes other clients.
            Err(_) if is_picky && identity.is_some() => {
                (None, true, "it takes no unknown clients".to_owned())
            }
            Err(why) => (None, false, why),
        };
        if is_healthy || at + 1 == servers.len() {
            return tell(args, &url, status, is_healthy, &says);
        }
    }
    Ok(())
}

fn said(text: &str) -> String {
    text.trim().replace(char::is_control, " ")
}

fn tell(
    args: &Args,
    url: &str,
    status: Option<u16>,
    is_healthy: bool,
    says: &str,
) -> Result<(), Failure> {
    if args.is_set("json") {
        let answer = json!({ "healthy": is_healthy, "url": url, "status": status, "says": says });
        print(&format!("{answer}\n"))?;
        return if is_healthy { Ok(()) } else { Err(Failure::Exit(1)) };
    }
    match status {
        _ if is_healthy => Ok(()),
        Some(status) if status < 500 => {
            Err(format!("unhealthy: {url} answers with status {status}").into())
        }
        Some(_) => Err(format!("unhealthy: {url} says {says}").into()),
        None => Err(format!("unhealthy: {url} does not answer: {}", harmless(says.trim())).into()),
    }
}

/// What to ask, or why there is nothing.
fn target(args: &Args) -> Result<Target, Failure> {
    let servers = || environment::servers(args).map(|found| found.named.map(|_| found.urls));
    match (args.value("probe"), args.value("config")) {
        (Some(probe), _) => match parse_address(probe) {
            Some(address) => Ok(Target::Probe(look::from_here(address))),
            None => Err(format!(
                "invalid probe address: {probe:?}: write IP:PORT, or :PORT for this machine"
            )
            .into()),
        },
        (None, Some(file)) => configured(Path::new(file)),
        (None, None) => match servers()? {
            Some(urls) => {
                // Nothing secret is sent: that the system does not know the server is no reason not to ask.
                let trust = match environment::trust(args)? {
                    ServerTrust::System => ServerTrust::Anything,
                    trust => trust,
                };
                Ok(Target::Servers(urls, trust, Way::Proxy))
            }
            None if Path::new(INSTALLED).exists() => configured(Path::new(INSTALLED)),
            None => {
                Err("no probe address: use --config with the server's file, or --probe, or set \
                         KES_SERVER"
                    .into())
            }
        },
    }
}

/// The address in a file that may have become wrong elsewhere since the server read it.
fn configured(file: &Path) -> Result<Target, Failure> {
    let loaded = config::load(Origin::File(file), &Flags::default(), &[])?;
    let config = loaded.config();
    if let Some(address) = config.probe {
        return Ok(Target::Probe(look::from_here(address)));
    }
    if let Some(found) = first_error(&loaded.findings(), &["probe", "address"]) {
        let line = found.position.map_or(0, |at| at.line);
        return Err(format!(
            "no probe.address in {}: line {line}: {}",
            file.display(),
            found.message
        )
        .into());
    }
    let certificate = CertificateDer::from_pem_file(&config.tls_cert).ok();
    let identity = certificate.and_then(|leaf| identity::of_certificate(&leaf).ok());
    let trust = identity.map_or(ServerTrust::Anything, ServerTrust::Identity);
    let server = format!("https://{}", look::from_here(config.address));
    Ok(Target::Servers(vec![server], trust, Way::Direct))
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
