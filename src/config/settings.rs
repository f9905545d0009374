//! What the fields mean, but those of policies and key stores, and what is wrong with their values.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use super::{
    findings::{At, cut},
    source::Reader,
    tree::Value,
    types::{Auth, DEFAULT_PORT, Limits, Proxy, Shutdown},
};
use crate::{
    base::{duration, generation::Generation, glob::Pattern, name, secret::Secret},
    cache::Expiry,
    identity::is_identity,
    keystore::{self, KeyName, Start},
    log::{self, AuditMode},
    policy::Policies,
    tls::{ApiKey, ClientCertificate, Group, ServerTls},
};

/// All settings of the server.
#[derive(Clone, Debug)]
pub struct Config {
    /// The generation that the file is of.
    pub generation: Generation,
    /// The generation whose error texts clients get.
    pub texts: Generation,
    /// What the file says of single APIs, by their paths.
    pub apis: Apis,
    /// Where to listen.
    pub address: SocketAddr,
    /// The identity that may do everything, which is called root or admin; never empty. Text that is no
    /// identity disables it.
    pub root: String,
    /// The file with the private key.
    pub tls_key: PathBuf,
    /// The file with the certificate chain.
    pub tls_cert: PathBuf,
    /// The key exchange groups that clients may choose from; never empty, none of them twice.
    pub tls_groups: Vec<Group>,
    /// The password of the private key.
    pub tls_password: Option<Secret>,
    /// Whether client certificates are verified.
    pub auth: Auth,
    /// Authorities of client certificates beside those of the system: a file or a directory.
    pub tls_ca: Option<PathBuf>,
    /// The TLS proxies in front of the server.
    pub proxy: Proxy,
    /// Which identities may call which APIs.
    pub policies: Policies,
    /// How long keys stay cached; no time is zero.
    pub cache: Expiry,
    /// What is logged.
    pub log: log::Settings,
    /// Where to listen for probes; not where clients do.
    pub probe: Option<SocketAddr>,
    /// Whether the settings are read again when their files change; `None` is only where Kubernetes mounts them.
    pub watch: Option<bool>,
    /// How much clients may ask for.
    pub limits: Limits,
    /// How the server ends.
    pub shutdown: Shutdown,
    /// The keys that are created at start if they don't exist.
    pub keys: Vec<KeyName>,
    /// Where keys are stored.
    pub key_store: Arc<dyn keystore::Settings>,
    /// Whether the server needs the key store to start.
    pub key_store_start: Start,
}

impl Config {
    /// What TLS demands of clients. They need no certificate for APIs that skip its check.
    pub fn server_tls(&self) -> ServerTls {
        let is_optional = self.apis.iter().any(|(_, api)| api.skip_auth);
        ServerTls {
            versions: self.generation,
            client_certificate: match is_optional {
                true => ClientCertificate::Optional,
                false => ClientCertificate::Required,
            },
        }
    }
}

/// What the configuration says of single APIs, with their paths.
pub type Apis = Vec<(String, ApiOptions)>;

/// What the file says of an API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ApiOptions {
    /// Clients need no certificate, and no policy.
    pub skip_auth: bool,
    /// How long an answer may take, in the place of the API's own time.
    pub timeout: Option<Duration>,
}

/// Words in the place of an identity that mean no one.
const NOBODY: [&str; 9] = ["_", "-", "disabled", "disable", "none", "nobody", "no", "off", "false"];

/// The header of the templates, which is there whether there are TLS proxies or not.
const DEFAULT_HEADER: &str = "X-Tls-Client-Cert";

/// The levels of the newest format. Error events have the last one, audit events that of `INFO`.
const LEVELS: [(&str, i64); 6] =
    [("on", INFO), ("off", i64::MAX), ("debug", -4), ("info", INFO), ("warn", 4), ("error", ERROR)];
const INFO: i64 = 0;
const ERROR: i64 = 8;

impl Reader<'_> {
    /// All settings. Those that are wrong have their defaults. `endpoints` are the patterns of all API
    /// paths.
    pub(super) fn config(&mut self, endpoints: &[Pattern]) -> Config {
        let generation = self.source.format.generation();
        self.read("version", |text| (text == "v1").then_some(()));
        let address = self.get("address", parse_address);
        let root = self.root();
        let tls_key = self.required("tls.key").unwrap_or_default();
        let tls_cert = self.required("tls.cert").unwrap_or_default();
        let tls_password = self.source.filled("tls.password");
        let tls_ca = self.source.filled("tls.ca").map(PathBuf::from);
        let auth = self.auth(tls_ca.is_some());
        let tls_groups = self.groups();
        let texts = self.read("api.texts", parse_texts).unwrap_or(generation);
        let apis = self.apis(endpoints);
        let proxy = self.proxy(&root);
        let policies = self.policies(&root, &proxy, endpoints);
        let cache = Expiry {
            any: self.duration("cache.expiry.any"),
            unused: self.duration("cache.expiry.unused"),
            offline: self.duration("cache.expiry.offline"),
        };
        let log = log::Settings {
            error: self.log("log.error", ERROR) != AuditMode::Off,
            audit: self.log("log.audit", INFO),
        };
        let probe = self.probe(address);
        let watch = self.read("reload.watch", parse_switch);
        let limits = self.limits();
        let shutdown =
            Shutdown { delay: self.time("shutdown.delay"), timeout: self.time("shutdown.timeout") };
        let keys = self.keys();
        let (key_store, key_store_start) = self.key_store();
        self.check_cache(&cache, key_store.is_remote());
        Config {
            generation,
            texts,
            apis,
            address,
            root,
            tls_key: tls_key.into(),
            tls_cert: tls_cert.into(),
            tls_groups,
            tls_password: tls_password.map(|password| Secret::new(password.into_bytes())),
            auth,
            tls_ca,
            proxy,
            policies,
            cache,
            log,
            probe,
            watch,
            limits,
            shutdown,
            keys,
            key_store,
            key_store_start: match cache.offline {
                Some(_) => Start::Optional,
                None => key_store_start,
            },
        }
    }

    fn root(&mut self) -> String {
        let (path, or) = match self.source.format.is_newest() {
            true => ("admin.identity", ", or \"disabled\" for no admin"),
            false => ("root", ", or \"disabled\" for no root"),
        };
        let root = self.required(path).unwrap_or_default();
        let at = self.source.at(path);
        if at.position.is_some() {
            self.check_identity(at, &root, or);
        }
        root
    }

    /// Whether client certificates are verified: a flag says so in older formats, the file in the newest.
    fn auth(&mut self, has_ca: bool) -> Auth {
        if !self.source.format.is_newest() {
            return self.source.flags.auth.unwrap_or_default();
        }
        let is_on = self.get("tls.auth", parse_switch);
        if has_ca && !is_on {
            self.findings.warn(
                self.source.at("tls.ca"),
                "\"tls.auth\" is not on, so client certificates are not verified and \"tls.ca\" means \
                 nothing",
                "set \"tls.auth\" to on, or leave out \"tls.ca\"",
            );
        }
        if is_on { Auth::On } else { Auth::Off }
    }

    /// What is done with events of this level.
    fn log(&mut self, path: &str, level: i64) -> AuditMode {
        let is_audit = level == INFO;
        let by_word = |text: &str| match text.to_ascii_lowercase().as_str() {
            "required" if is_audit => Some(AuditMode::Required),
            "changes" if is_audit => Some(AuditMode::Changes),
            _ => None,
        };
        let mode = |is_on| if is_on { AuditMode::On } else { AuditMode::Off };
        if !self.source.format.is_newest() {
            return self.get(path, |text| parse_switch(text).map(mode).or_else(|| by_word(text)));
        }
        let text = self.source.text(path);
        let parsed =
            parse_level(&text).map(|least| mode(least <= level)).or_else(|| by_word(&text));
        parsed.unwrap_or_else(|| {
            let message = self.source.table.at(path).wrong.replace("{}", &text);
            self.findings.refuse(
                self.source.at(path),
                message,
                match is_audit {
                    true => {
                        "write on, off, changes, required, a number, or DEBUG, INFO, WARN or ERROR, which +1 or \
                         -1 may follow"
                    }
                    false => {
                        "write on, off, a number, or DEBUG, INFO, WARN or ERROR, which +1 or -1 may follow"
                    }
                },
            );
            AuditMode::On
        })
    }

    /// Warns of text that is neither an identity nor one of [`NOBODY`].
    pub(super) fn check_identity(&mut self, at: At, identity: &str, or: &str) {
        let is_nobody = NOBODY.iter().any(|word| identity.eq_ignore_ascii_case(word));
        if identity.is_empty() || is_identity(identity) || is_nobody {
            return;
        }
        match ApiKey::parse(identity) {
            // Clients that may list identities would see it.
            Ok(key) => self.findings.refuse(
                at,
                "an API key is no identity, so no client can have it",
                &format!(
                    "write {}, the identity of this API key, and keep the key out of the file",
                    key.identity()
                ),
            ),
            Err(_) => self.findings.warn(
                at,
                format_args!("\"{}\" is no identity, so no client can have it", cut(identity)),
                format_args!(
                    "write the 64 lower-case hex digits that 'kes identity of' prints for a \
                     certificate or an API key{or}"
                ),
            ),
        }
    }

    /// The key exchange groups of the list, each once; all if there is none.
    fn groups(&mut self) -> Vec<Group> {
        let source = self.source;
        let list = source.find("tls.groups");
        if list.is_some_and(|list| matches!(&list.value, Value::List(items) if items.is_empty())) {
            self.findings.refuse(
                source.at("tls.groups"),
                "no key exchange group, so no client could connect",
                "list some of X25519MLKEM768, X25519, P-256 and P-384, or leave out the field for all \
                 of them",
            );
        }
        let mut groups = Vec::new();
        for (at, name) in source.items("tls.groups[]") {
            match Group::parse(&name) {
                None => self.refuse("tls.groups[]", at, &name),
                Some(group) if groups.contains(&group) => {
                    let message = format_args!("key exchange group \"{name}\" is listed twice");
                    self.findings.warn(at, message, "keep one of them");
                }
                Some(group) => groups.push(group),
            }
        }
        if groups.is_empty() { Group::ALL.into() } else { groups }
    }

    fn proxy(&mut self, root: &str) -> Proxy {
        const LIST: &str = "tls.proxy.identities";
        const HEADER: &str = "tls.proxy.header.cert";
        const HEADER_IP: &str = "tls.proxy.header.ip";
        let mut identities = Vec::new();
        let mut seen = HashSet::new();
        for (index, (at, identity)) in self.source.items("tls.proxy.identities[]").enumerate() {
            if identity.is_empty() {
                continue;
            }
            self.check_identity(at.clone(), &identity, "");
            if !seen.insert(identity.clone()) {
                let message = format_args!("TLS proxy \"{}\" is listed twice", cut(&identity));
                self.findings.warn(at.clone(), message, "keep one of them");
            }
            if identity == root {
                let message = format_args!(
                    "The {index}-th TLS proxy identity is equal to the root identity \"{identity}\". \
                     The root identity cannot be used as TLS proxy"
                );
                self.findings.refuse(at, message, "take the identity out of the list");
            } else {
                identities.push(identity);
            }
        }
        let header_ip = self.read(HEADER_IP, parse_header);
        let has_proxies = !seen.is_empty();
        if self.source.format.is_newest() && has_proxies {
            if header_ip.is_none() {
                self.findings.warn(
                    self.source.at(LIST),
                    "the newest KES has no TLS proxies, so their clients' certificates are ignored here, too",
                    "let clients connect themselves, or use a file with \"root\"",
                );
            }
            return Proxy { identities, header_cert: None, header_ip };
        }
        let header_cert = self.read(HEADER, parse_header);
        let is_own = |header: &String| !header.eq_ignore_ascii_case(DEFAULT_HEADER);
        for (at, is_set) in
            [(HEADER, header_cert.as_ref().is_some_and(is_own)), (HEADER_IP, header_ip.is_some())]
        {
            if is_set && !has_proxies {
                self.findings.warn(
                    self.source.at(at),
                    "without TLS proxies this header means nothing",
                    "list the identities of the proxies in \"tls.proxy.identities\"",
                );
            }
        }
        if has_proxies && header_cert.is_none() && self.source.text(HEADER).is_empty() {
            self.findings.warn(
                self.source.at(LIST),
                "TLS proxies are listed, but not the header with the client's certificate, so all \
                 their requests are refused",
                "set \"tls.proxy.header.cert\"",
            );
        }
        Proxy { identities, header_cert, header_ip }
    }

    /// The address for probes; `api` is that for clients.
    fn probe(&mut self, api: SocketAddr) -> Option<SocketAddr> {
        let probe = self.read("probe.address", parse_address)?;
        if !overlap(probe, api) {
            return Some(probe);
        }
        let text = self.source.text("probe.address");
        self.findings.refuse(
            self.source.at("probe.address"),
            format_args!(
                "the server can't listen for probes where it listens for clients: \"{text}\""
            ),
            "choose another port, such as 7374",
        );
        None
    }

    fn keys(&mut self) -> Vec<KeyName> {
        let mut keys = Vec::new();
        let mut seen = HashSet::new();
        for (at, name) in self.source.items("keys[].name") {
            let is_newest = self.source.format.is_newest();
            if !name.is_empty() && !seen.insert(name.clone()) {
                let message = format_args!("key \"{}\" is listed twice", cut(&name));
                match is_newest {
                    true => self.findings.refuse(at.clone(), message, "keep one of them"),
                    false => self.findings.warn(at.clone(), message, "keep one of them"),
                }
            }
            match KeyName::parse(&name) {
                Some(_) if is_newest && !name::is_plain(&name) => self.findings.refuse(
                    at,
                    format_args!("failed to create key \"{}\": invalid key name", cut(&name)),
                    name::PLAIN,
                ),
                // An item that is no map has been refused already.
                None if at.position.is_none() && !self.findings.is_whole => {}
                None => self.refuse("keys[].name", at, &name),
                Some(key) => keys.push(key),
            }
        }
        keys
    }

    fn check_cache(&mut self, cache: &Expiry, is_remote: bool) {
        if self.source.format.is_newest() {
            for (path, time) in
                [("cache.expiry.any", cache.any), ("cache.expiry.unused", cache.unused)]
            {
                let zero = |text: &str| duration::parse_non_negative(text) == Ok(Duration::ZERO);
                if self.source.is_set(path) && zero(&self.source.text(path)) {
                    let default = time.unwrap_or_default().as_secs();
                    self.findings.warn(
                        self.source.at(path),
                        format_args!("0 is as good as no value: the default, {default}s, counts"),
                        "write a long time, such as 87600h, for keys that stay",
                    );
                }
            }
        }
        if let (Some(any), Some(unused)) = (cache.any, cache.unused)
            && unused > any
            && self.source.is_set("cache.expiry.unused")
        {
            self.findings.warn(
                self.source.at("cache.expiry.unused"),
                "longer than \"cache.expiry.any\", so it means nothing",
                "write a shorter time",
            );
        }
        if is_remote && cache.any.is_none() && self.findings.is_whole {
            self.findings.warn(
                self.source.at("cache.expiry.any"),
                "\"cache.expiry.any\" is not set, so a key that is deleted elsewhere stays usable here \
                 until a restart",
                "write a time such as 5m0s",
            );
        }
    }
}

/// The address that `text` stands for: `IP`, `IP:PORT`, `:PORT`, `[IPv6]` or `[IPv6]:PORT`.
pub fn parse_address(text: &str) -> Option<SocketAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    if let Ok(ip) = text.parse() {
        return Some(SocketAddr::new(ip, DEFAULT_PORT));
    }
    if let Some(ip) = text.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')) {
        return Some(SocketAddr::new(IpAddr::V6(ip.parse().ok()?), DEFAULT_PORT));
    }
    let port = parse_number(text.strip_prefix(':')?)?;
    Some(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port))
}

/// Whether two listeners on these addresses would collide. Port 0 is a new port every time.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let is_same_ip = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && a.port() != 0 && is_same_ip
}

/// A number of digits alone: Rust's own parser takes a sign too.
pub(super) fn parse_number<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.parse().ok().filter(|_| !text.starts_with('+'))
}

/// `on` or `off` in any case.
pub(super) fn parse_switch(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    }
}

fn parse_texts(text: &str) -> Option<Generation> {
    match text {
        "0.14" => Some(Generation::V0_14),
        "newest" => Some(Generation::Newest),
        _ => None,
    }
}

/// The least level of events that are logged: a word in any case, which `+n` or `-n` may follow, or a number.
fn parse_level(text: &str) -> Option<i64> {
    if let Ok(number) = text.parse::<i64>() {
        return Some(number);
    }
    let (word, more) = text.split_at(text.find(['+', '-']).unwrap_or(text.len()));
    let (_, level) = LEVELS.iter().find(|(name, _)| name.eq_ignore_ascii_case(word))?;
    match more {
        "" => Some(*level),
        more if word.len() > "off".len() => level.checked_add(more.parse().ok()?),
        _ => None,
    }
}

/// The name of an HTTP header: a token (RFC 9110, 5.6.2).
fn parse_header(name: &str) -> Option<String> {
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    name.bytes().all(is_token).then(|| name.to_owned())
}
