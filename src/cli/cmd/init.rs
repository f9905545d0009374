//! `kes init`: from nothing to a server that may be kept.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, UNIX_EPOCH},
};

use rustix::process::geteuid;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    flag as signals,
};
use zeroize::Zeroizing;

use crate::{
    base::clock,
    cli::{
        args::{Args, Argument, Command, Flag, JSON, Kind, Takes, flag, value},
        init::{
            dialog,
            folder::{Made, User, remove_leftovers},
            names::Names,
            pairs::{Client, Pair},
            report::{Report, start},
            text::{self, Facts, Keys},
            vault::{self, Place, Vault},
        },
        output::{Failure, Result, write},
        pair::{self, Wanted, addresses, sync_folder, validity},
    },
    config::parse_address,
    tls::self_signed::{Holder, KeyKind, Usage},
    web::proxy::to_loopback,
};

pub(crate) const INIT: Command = Command {
    path: &["init"],
    arguments: &[Argument::new("folder", "folder", Kind::File).optional()],
    summary: "Make configuration, certificate and keys of a server to keep",
    details: "\
Writes config.yaml, whose comments say what to change and why, private.key and public.crt
into the folder ('kes'; with --systemd '/etc/kes'), and prints what the command line, curl
and MinIO need. At a terminal it asks; elsewhere flags and defaults count. Nothing is
overwritten; a private key and a certificate that are there are used. The certificate names
this host and its addresses. The admin and MinIO get an API key each, which is shown once, or
files with --cert. With --vault, keys go to Vault or OpenBao: with a token in BAO_TOKEN or
VAULT_TOKEN, it is asked what it has mounted. The policy for it is written, too, and the
commands that make policy and AppRole are printed. BAO_CACERT and BAO_NAMESPACE count.",
    flags: &[
        value(&["address", "addr"], "IP:port", "listen there (default 0.0.0.0:7373)"),
        value(&["ip"], "IP", "another IP address in the certificate; may be repeated"),
        value(&["dns"], "name", "another host name in the certificate; may be repeated"),
        Flag {
            names: &["expiry"],
            takes: Takes::Duration,
            help: "how long certificates are valid (default 87600h, ten years)",
        },
        flag(&["cert"], "files with private keys and certificates for clients, not API keys"),
        value(&["vault"], "URL", "keys in this Vault or OpenBao"),
        value(&["vault-ca"], "file", "authorities that its certificate is checked with"),
        value(&["vault-engine"], "path", "key-value engine to use there"),
        flag(&["systemd"], "for the service of the package: /etc/kes, /var/lib/kes, user kes"),
        flag(&["yes", "y"], "ask nothing"),
        JSON,
    ],
    examples: &[
        "kes init",
        "kes init --yes --dns kes.example.com /srv/kes",
        "kes init --vault https://vault.example.com:8200 --systemd",
    ],
    run,
    ..Command::NEW
};

/// The configuration, and the policy for Vault.
const CONFIG: &str = "config.yaml";
const POLICY: &str = "vault-policy.hcl";
/// What id and secret for Vault are kept in. The printed commands make it.
const SECRETS: &str = "vault.env";
/// The secret alone, for the service: systemd gives it what is there.
const SYSTEM_SECRET: &str = "/etc/credstore/kes.vault-secret";
/// Private keys and certificates: of the server, the admin and MinIO.
const SERVER: [&str; 2] = ["private.key", "public.crt"];
const ADMIN: [&str; 2] = ["admin.key", "admin.crt"];
const MINIO: [&str; 2] = ["minio.key", "minio.crt"];
/// All of these, in the order in which messages name them.
const ALL: &[&str] =
    &[CONFIG, POLICY, SERVER[0], SERVER[1], ADMIN[0], ADMIN[1], MINIO[0], MINIO[1]];
/// The service of the package.
const USER: &str = "kes";
const ADDRESS: &str = "0.0.0.0:7373";
const SYSTEM_FOLDER: &str = "/etc/kes";
const SYSTEM_KEYS: &str = "/var/lib/kes/keys";

fn run(args: &Args) -> Result<()> {
    let is_system = args.is_set("systemd");
    if is_system && !geteuid().is_root() {
        return Err("--systemd makes files of root: run it as root, such as with sudo".into());
    }
    let folder = folder(args)?;
    let file = |name: &str| folder.join(name);
    let may_ask = !args.is_set("yes") && !args.is_set("json") && dialog::is_possible();

    let address = match (args.value("address"), may_ask) {
        (None, true) => {
            let check = |text: &str| to_address(text).map(drop);
            dialog::ask("Address to listen on", ADDRESS, &check)?
        }
        (text, _) => text.unwrap_or(ADDRESS).to_owned(),
    };
    let address = to_address(&address)?;
    let old = Pair::find(SERVER.map(file))?;
    let (names, outer) = match &old {
        None => names(args, address, may_ask)?,
        Some(old) => (Names::default(), old_name(args, address.ip(), old)?),
    };
    let vault = vault(args, may_ask)?;
    if may_ask {
        let question = format!("Write the server to {}? (yes or no)", folder.display());
        let answer = dialog::ask(&question, "yes", &|answer| match answer {
            "y" | "yes" | "n" | "no" => Ok(()),
            _ => Err("answer yes or no".to_owned()),
        })?;
        if answer.starts_with('n') {
            return Err("nothing was written".into());
        }
    }

    remove_leftovers(&folder, ALL);
    let validity = match args.value("expiry") {
        None => Duration::from_secs(10 * 365 * 24 * 60 * 60),
        Some(_) => validity(args, "expiry")?,
    };
    let name = names.dns.first().map_or("kes", String::as_str);
    let addresses = names.to_addresses();
    let holder = Holder { name, usage: Usage::Server, addresses, validity };
    let server = match old {
        Some(old) => old,
        None => Pair::find_or_make(SERVER.map(file), holder, KeyKind::P256)?,
    };
    let client = |name, files: [&str; 2]| match args.is_set("cert") {
        false => Client::with_api_key(),
        true => {
            let holder = Holder { name, usage: Usage::Client, addresses: Vec::new(), validity };
            Pair::find_or_make(files.map(file), holder, KeyKind::Ed25519).map(Client::Files)
        }
    };
    let (admin, minio) = (client("admin", ADMIN)?, client("minio", MINIO)?);

    let (config, policy) = (file(CONFIG), file(POLICY));
    let secrets = if is_system { PathBuf::from(SYSTEM_SECRET) } else { file(SECRETS) };
    let keys = if is_system { PathBuf::from(SYSTEM_KEYS) } else { file("keys") };
    let expires = clock::rfc3339(UNIX_EPOCH + Duration::from_secs(server.expires));
    let text = text::configuration(&Facts {
        address: &address.to_string(),
        admin: admin.identity(),
        minio: minio.identity(),
        file: &config,
        key: &server.key,
        cert: &server.cert,
        expires: &expires[..10],
        keys: match &vault {
            None => Keys::In(&keys),
            Some((vault, place)) => Keys::Vault { vault, place, secrets: &secrets, is_system },
        },
    });
    let policy_text = vault.as_ref().map(|(_, place)| place.policy());
    // Its folder is for the group.
    let mode = if is_system { 0o640 } else { 0o600 };
    let mut files = server.wanted(mode);
    files.extend([&admin, &minio].into_iter().flat_map(Client::wanted));
    if args.value("expiry").is_some() && files.iter().all(|(_, what)| *what != "certificate") {
        let why = format!("expires on {}", &expires[..10]);
        return Err(not_new("expiry", &server, &why));
    }
    if let Some(content) = &policy_text {
        match fs::read_to_string(&policy) {
            Ok(there) if there == *content => {}
            Ok(_) => return Err(in_the_way(&folder, &[POLICY], is_system)),
            Err(_) => files.push((Wanted { path: &policy, content, mode: 0o644 }, "policy")),
        }
    }
    // The last one: without it there is no server that misses something.
    files.push((Wanted { path: &config, content: &text, mode }, "configuration"));

    let user = if is_system { User::find(USER) } else { None };
    let report = Report {
        folder: &folder,
        config: &config,
        server: &server,
        expires: &expires[..10],
        local: SocketAddr::new(to_loopback(address.ip()), address.port()),
        outer: &outer,
        admin: &admin,
        minio: &minio,
        vault: vault.as_ref().map(|(vault, place)| (vault, place, &*policy, &*secrets)),
        is_system,
        lacks_user: is_system && user.is_none(),
    };
    let report = match args.is_set("json") {
        true => report.as_json(),
        false => report.as_text(),
    };
    let keys = (vault.is_none() && user.is_some()).then_some(&*keys);
    put(&folder, is_system, user, keys, &files, &report)
}

/// Writes all files, and prints `report`, or none: what it has of secrets is nowhere else.
fn put(
    folder: &Path,
    is_system: bool,
    user: Option<User>,
    keys: Option<&Path>,
    files: &[(Wanted<'_>, &'static str)],
    report: &Zeroizing<String>,
) -> Result<()> {
    // From here on, what would interrupt it comes too late.
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signals::register(signal, Arc::new(AtomicBool::new(false)))?;
    }
    let mut made = Made::default();
    let (group, mode) = match is_system {
        true => (Some(user.map_or(0, |user| user.gid)), 0o750),
        false => (None, 0o700),
    };
    let owner = user.map(|user| user.uid);
    let result = made.make(folder, mode, (None, group)).map_err(Failure::from).and_then(|()| {
        // The user may only enter its own folder.
        for path in keys.into_iter().flat_map(|keys| [keys.parent().unwrap_or(keys), keys]) {
            made.make(path, 0o700, (owner, group))?;
            sync_folder(path).map_err(|e| format!("failed to make the folder {path:?}: {e}"))?;
        }
        let mut written = pair::write_all(files, group, false)?;
        write(report.as_bytes()).map_err(|e| {
            written.take_back();
            format!("failed to write to standard output, so nothing is kept: {e}").into()
        })
    });
    result.inspect_err(|_| made.take_back())
}

/// The folder, as an absolute path.
///
/// # Errors
/// If a server is there.
fn folder(args: &Args) -> Result<PathBuf> {
    let default = if args.is_set("systemd") { SYSTEM_FOLDER } else { "kes" };
    let name = args.optional(0).unwrap_or(default);
    let folder = std::path::absolute(name).map_err(|e| format!("invalid folder {name:?}: {e}"))?;
    if folder.to_str().is_none_or(|path| path.contains(char::is_control)) {
        return Err(
            format!("{folder:?} has characters that a configuration file can't have").into()
        );
    }
    if folder.exists() && !folder.is_dir() {
        return Err(format!("{folder:?} is no folder: name one, as in 'kes init my-server'").into());
    }
    match folder.join(CONFIG).symlink_metadata() {
        Ok(_) => Err(in_the_way(&folder, ALL, args.is_set("systemd"))),
        Err(_) => Ok(folder),
    }
}

/// What to say of those of `names` that are in the folder.
fn in_the_way(folder: &Path, names: &[&str], is_system: bool) -> Failure {
    let there = names.iter().filter(|name| folder.join(name).symlink_metadata().is_ok());
    let there = there.copied().collect::<Vec<_>>().join(", ");
    format!(
        "nothing is overwritten, and {} has {there} already. To start the server that is there: {}. To make \
         another one, name another folder, or move these files away",
        folder.display(),
        start(&folder.join(CONFIG), is_system)
    )
    .into()
}

fn to_address(text: &str) -> std::result::Result<SocketAddr, String> {
    match parse_address(text) {
        Some(address) if address.port() != 0 => Ok(address),
        _ => Err(format!(
            "invalid address {text:?}: write IP:port, such as 0.0.0.0:7373 or 127.0.0.1:7373"
        )),
    }
}

/// What the certificate names, and the host by which other machines know the server: the first name that is
/// given, or an address that fits.
fn names(args: &Args, address: SocketAddr, may_ask: bool) -> Result<(Names, String)> {
    let mut names = Names::of_host();
    let ip = address.ip();
    if !ip.is_unspecified() {
        names.add(&ip.to_string())?;
    }
    // Which are wrong, and how.
    addresses(args)?;
    let mut given: Vec<_> = ["dns", "ip"].iter().flat_map(|flag| args.values(flag)).collect();
    let list;
    if may_ask && given.is_empty() {
        let question = format!(
            "The certificate is for {}.\nMore host names or IP addresses that clients use, with commas",
            names.list().join(", ")
        );
        let words = |text: &str| {
            let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
            words.filter(|word| *word != "none").map(str::to_owned).collect::<Vec<_>>()
        };
        let check = |text: &str| words(text).iter().try_for_each(|word| Names::default().add(word));
        list = words(&dialog::ask(&question, "none", &check)?);
        given = list.iter().map(String::as_str).collect();
    }
    given.iter().try_for_each(|name| names.add(name))?;
    let outer = match given.iter().find(|name| !name.starts_with('*')) {
        Some(name) => (*name).to_owned(),
        None if ip.is_unspecified() => names.outer().unwrap_or(to_loopback(ip)).to_string(),
        None => ip.to_string(),
    };
    Ok((names, outer))
}

/// The host by which other machines know the server, whose certificate is there.
fn old_name(args: &Args, ip: IpAddr, old: &Pair) -> Result<String> {
    let mut names = Names::default();
    // A certificate may have names that no other can be made for.
    old.names.iter().for_each(|name| drop(names.add(name)));
    let all = names.list();
    let mut outer = None;
    for flag in ["dns", "ip"] {
        for name in args.values(flag) {
            let mut given = Names::default();
            given.add(name)?;
            let given = given.list().swap_remove(0);
            if !all.contains(&given) {
                return Err(not_new(flag, old, &format!("is for {}", old.names.join(", "))));
            }
            if !given.starts_with('*') {
                outer.get_or_insert(given);
            }
        }
    }
    let is_outer = |name: &&String| !name.starts_with('*') && *name != "localhost";
    Ok(match outer {
        Some(name) => name,
        None if names.ips.contains(&ip) => ip.to_string(),
        None => match names.outer() {
            Some(ip) => ip.to_string(),
            None => names.dns.iter().find(is_outer).cloned().unwrap_or(to_loopback(ip).to_string()),
        },
    })
}

/// What to say of a flag for the certificate that is there.
fn not_new(flag: &str, old: &Pair, why: &str) -> Failure {
    format!(
        "--{flag} is for a new certificate, and the one that is there, {:?}, {why}: move it away, or leave \
         out --{flag}",
        old.cert
    )
    .into()
}

/// The Vault, and what a server uses of it, if keys are to be there.
fn vault(args: &Args, may_ask: bool) -> Result<Option<(Vault, Place)>> {
    let url = match (args.value("vault"), may_ask) {
        (None, true) => {
            let question = "URL of a Vault or OpenBao for the keys, or files of this machine";
            let check =
                |text: &str| if text == "files" { Ok(()) } else { vault::url(text).map(drop) };
            Some(dialog::ask(question, "files", &check)?).filter(|answer| answer != "files")
        }
        (url, _) => url.map(str::to_owned),
    };
    let Some(url) = url else {
        return match ["vault-ca", "vault-engine"].iter().find(|flag| args.value(flag).is_some()) {
            Some(flag) => Err(format!("--{flag} goes with --vault").into()),
            None => Ok(None),
        };
    };
    let vault = Vault::new(vault::url(&url)?, args.value("vault-ca"))?;
    let place = vault.look(args.value("vault-engine"))?;
    Ok(Some((vault, place)))
}
