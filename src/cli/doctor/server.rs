//! The set-up of a server: its configuration, certificate and ports, its key store, and this machine.

use std::{
    fs, io,
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    time::{Duration, Instant},
};

use rustix::process::{Resource, geteuid, getrlimit};
use rustls::sign::CertifiedKey;
use ureq::http::Uri;

use super::{
    PROBE_KEY, at_clock,
    look::{self, Way},
    probe_key,
};
use crate::{
    api::wanted,
    base::{arena, checkup::Checkup, deadline::Deadline, name},
    cli::{args::Args, environment, stranger},
    config::{Config, Flags},
    crypto::stored,
    keystore::{self, KeyName, KeyStore, trial},
    server::{
        options::{Error, Options},
        room, start,
    },
    tls::{self, ServerTrust},
};

/// Where a unit that runs has its credentials.
const CREDENTIALS: &str = "/run/credentials/kes.service";
const CONFIGURATION: &str = "configuration";
const CERTIFICATE: &str = "certificate";
const PORT: &str = "port";
const LIMITS: &str = "limits";
const KEY_NAMES: &str = "key names";
/// What listens on this machine takes a connection within this time.
const GLANCE: Duration = Duration::from_secs(1);
/// A step with the probe key may take this time.
const STEP: Duration = Duration::from_secs(15);
/// So many values of keys with strange names are looked at.
const MAX_READ: usize = 1000;
/// Connections that a server should be able to take.
const MANY: usize = 4096;

/// Looks at the server that `file` and `flags` configure.
pub(crate) fn examine(args: &Args, flags: &Flags, file: &Path, found: &mut Checkup) {
    let options = Options { config: Some(file.into()), flags: flags.clone(), ..Options::default() };
    let loaded = match options.load() {
        Ok(loaded) => loaded,
        Err(e) => {
            let advice = match geteuid().is_root() {
                true => "",
                false => "run this as root, or as the user of the server",
            };
            return found.fail(CONFIGURATION, &e, advice);
        }
    };
    // A wrong clock makes good certificates expire, so it comes first.
    if let Some(url) = loaded.config().key_store.look() {
        let looked =
            look::look(&url, "the endpoint", &ServerTrust::Anything, None, Way::Direct).ok();
        let host = url.parse::<Uri>().ok();
        let host = host.as_ref().and_then(Uri::host).unwrap_or_default();
        at_clock(looked.and_then(|look| look.ahead), host, found);
    }
    let file = file.display();
    let (config, material, warnings) = match loaded.accept_with_files(None) {
        Ok(accepted) => accepted,
        Err(e) => {
            let (text, check) =
                (e.to_string(), format!("'kes config check {file}' shows all errors"));
            // A unit gives its credentials to its own process alone.
            let is_of_unit =
                text.contains("CREDENTIALS_DIRECTORY") && Path::new(CREDENTIALS).exists();
            let advice = match is_of_unit {
                true => &format!("set CREDENTIALS_DIRECTORY={CREDENTIALS} for this, as root"),
                false => &check,
            };
            return found.fail(CONFIGURATION, &text, advice);
        }
    };
    found.ok(CONFIGURATION, &format_args!("the settings in {file} are right"));
    for warning in warnings {
        let text = warning.trim_start_matches("Warning: ");
        found.warn(CONFIGURATION, &text, "");
    }
    at_names(args, &config, &material.certificate, found);
    let is_running = at_ports(&config, &tls::server_identity(&material.certificate), found);
    let store = config.key_store.examine(found, is_running);
    let is_missing = store.is_none() && config.key_store.place().is_some();
    if let Some(store) = &store {
        at_key_names(&**store, &config, found);
    }
    match store {
        Some(store) if args.is_set("write") => at_writing(&*store, &config, found),
        None if is_missing && args.is_set("write") => {
            let (why, advice) = match is_running {
                true => ("none was written: the key store can't be used", ""),
                false => (
                    "none was written: there is no key store yet, or it can't be used",
                    "try again once the server has been started",
                ),
            };
            found.warn(PROBE_KEY, &why, advice);
        }
        _ => {}
    }
    at_limits(&config, found);
}

/// Whether clients find their server's name in the certificate.
fn at_names(args: &Args, config: &Config, certificate: &CertifiedKey, found: &mut Checkup) {
    let advice = "make one with all names that clients use ('kes identity new --dns HOST --ip IP'), or let \
                  them set KES_SERVER_IDENTITY";
    let own = tls::server_identity(certificate);
    let is_pinned = environment::trust(args).is_ok_and(|trust| trust == ServerTrust::Identity(own));
    let servers = environment::servers(args).ok().filter(|servers| servers.named.is_some());
    let Some(servers) = servers else {
        let node = rustix::system::uname();
        let host = node.nodename().to_string_lossy();
        let is_for_others = !config.address.ip().is_loopback();
        match tls::is_for_host(certificate, &host) {
            true => found.ok(CERTIFICATE, &format_args!("it is for host {host:?}")),
            false if is_for_others && !is_pinned => {
                let text = format!("it is not for the name of this machine, {host:?}");
                found.warn(CERTIFICATE, &text, advice);
            }
            false => found.ok(CERTIFICATE, &"it belongs to its private key"),
        }
        return;
    };
    for url in &servers.urls {
        let uri: Uri = url.parse().unwrap_or_default();
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        match tls::is_for_host(certificate, host) {
            true => found.ok(CERTIFICATE, &format_args!("it is for {host:?}")),
            false if is_pinned => {
                let text = format!("it is not for {host:?}, but clients know its identity");
                found.ok(CERTIFICATE, &text);
            }
            false => {
                let text = format!("it is not for {host:?}, where clients ask");
                found.fail(CERTIFICATE, &text, advice);
            }
        }
    }
}

/// Whether the addresses are free, or this server listens there already, as it returns.
fn at_ports(config: &Config, own: &str, found: &mut Checkup) -> bool {
    let is_ours = at_port(config.address, "--addr", found, &|address| {
        let url = format!("https://{address}");
        let asked = format!("{url}/version");
        let look =
            look::look(&asked, "--addr", &ServerTrust::Anything, look::nobody(), Way::Direct);
        match look.ok().and_then(|look| look.identity) {
            Some(identity) if identity == own => Ok(format!("the identity {own}")),
            Some(other) => Err(format!("a TLS server with another identity, {other}, has it")),
            None => {
                let who = stranger::in_plain(&url);
                Err(who.unwrap_or_else(|| "another program has it".to_owned()))
            }
        }
    });
    if let Some(address) = config.probe {
        at_port(address, "probe.address", found, &|address| {
            let url = format!("http://{address}/live");
            let look = look::look(&url, "probe.address", &ServerTrust::Anything, None, Way::Direct);
            match look.map(|look| look.answer) {
                Ok(Ok((200, text))) if is_ours && text == "ok\n" => Ok("its probe".to_owned()),
                _ => Err("another program has it".to_owned()),
            }
        });
    }
    is_ours
}

/// Whether this server has `address` already: `who` says by what it is recognised, or who has it.
fn at_port(
    address: SocketAddr,
    setting: &'static str,
    found: &mut Checkup,
    who: &dyn Fn(SocketAddr) -> Result<String, String>,
) -> bool {
    let here = look::from_here(address);
    if address.port() == 0 {
        return false;
    }
    let error = match TcpListener::bind(address) {
        Ok(_) => {
            found.ok(PORT, &format_args!("{address} is free"));
            return false;
        }
        Err(error) => error,
    };
    // What answers at an address that this machine does not have is another one.
    let is_of_user = error.kind() == io::ErrorKind::PermissionDenied;
    let may_be_taken = is_of_user || error.kind() == io::ErrorKind::AddrInUse;
    if may_be_taken && TcpStream::connect_timeout(&here, GLANCE).is_ok() {
        match who(here) {
            Ok(sign) => {
                found.ok(PORT, &format_args!("this server listens on {address} already ({sign})"))
            }
            Err(who) => {
                let text = format!("{address} is taken: {who}");
                let advice = format!(
                    "'ss -ltnp sport = :{}' names the program: stop it, or choose another port with \
                     {setting}",
                    address.port()
                );
                found.fail(PORT, &text, &advice);
                return false;
            }
        }
        return true;
    }
    let text = Error::Listen(address, setting, error).to_string();
    match is_of_user {
        true => found.warn(PORT, &text, "run this as the user of the server"),
        false => found.fail(PORT, &text, ""),
    }
    false
}

/// Whether clients can use the names of all keys.
fn at_key_names(store: &dyn KeyStore, config: &Config, found: &mut Checkup) {
    if !config.generation.is_newest() {
        return;
    }
    let deadline = || Deadline::after(Instant::now(), STEP);
    let until = deadline();
    // What can't be read, or not in time, counts as a key.
    let is_key = |(at, name): (usize, &String)| match KeyName::parse(name) {
        Some(name) if at < MAX_READ => match store.get(&name, until) {
            Ok(value) => stored::decode(value.expose()).is_ok(),
            Err(keystore::Error::NotFound) => false,
            Err(keystore::Error::Unavailable { source, .. }) => !keystore::is_unfit(&*source),
            Err(_) => true,
        },
        name => name.is_some(),
    };
    let names = store.list(deadline()).unwrap_or_default();
    let strange = names.iter().filter(|name| !name::is_plain(name));
    let unusable: Vec<_> =
        strange.enumerate().filter(|found| is_key(*found)).map(|(_, name)| name).collect();
    if let [first, ..] = &*unusable {
        let text = format!(
            "names that clients can't use with a file of the newest generation: {}, such as {first:?}",
            unusable.len()
        );
        found.warn(
            KEY_NAMES,
            &text,
            "these keys are for a server with a file of KES 0.14 (\"root\")",
        );
    }
}

/// Creates a key, reads it, and deletes it.
fn at_writing(store: &dyn KeyStore, config: &Config, found: &mut Checkup) {
    let key = wanted::new_key(wanted::maker(config.generation, &config.root));
    let (Ok(name), Ok(key)) = (probe_key(), key) else { return };
    match trial::run(store, &name, &stored::encode(&key), STEP) {
        Ok(()) => found.ok(PROBE_KEY, &format_args!("{name} was created, read and deleted")),
        Err(failed) => found.fail(PROBE_KEY, &failed.why, &failed.advice),
    }
}

/// What the system allows this process; a service may be allowed something else.
fn at_limits(config: &Config, found: &mut Checkup) {
    match room::tight_descriptors(MANY) {
        Some(files) => found.warn(
            LIMITS,
            &format_args!(
                "{files} open files allow no more than {} connections",
                room::connections(config.limits.connections)
            ),
            "raise the limit: LimitNOFILE=65536 in a unit, 'ulimit -Hn 65536' of root in a shell",
        ),
        None => {
            let connections = room::connections(config.limits.connections);
            found.ok(LIMITS, &format_args!("files and memory for {connections} connections"));
        }
    }
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    match (swaps.lines().count() > 1, arena::can_lock()) {
        (false, _) => found.ok(LIMITS, &"no swap, so no key gets onto a disk"),
        (true, Ok(())) => {
            let may_lock = getrlimit(Resource::Memlock)
                .maximum
                .is_none_or(|most| most >= start::ENOUGH_LOCKED);
            let may = if may_lock { "as it may" } else { "with LimitMEMLOCK=infinity" };
            let text = format!(
                "the first 2048 keys that are kept are never swapped to a disk; data keys, plaintexts and the private key \
                 may be, unless the server runs with --mlock, {may}"
            );
            found.ok(LIMITS, &text);
        }
        (true, Err(e)) => {
            let text = format!("memory may be swapped to a disk, and keys with it: {e}");
            found.warn(LIMITS, &text, start::MEMLOCK);
        }
    }
    match start::protect_memory() {
        Ok(()) => found.ok(LIMITS, &"no core dumps, as a server switches them off"),
        Err(e) => {
            let text = format!("a crash may write keys into a core dump: {e}");
            found.warn(LIMITS, &text, "LimitCORE=0 in a unit, 'ulimit -c 0' in a shell");
        }
    }
}
