//! From what the file and the flags say to what it means: expands environment variables, picks
//! the value that wins, parses it, and names file, line and field if it is wrong.

use std::{
    cell::RefCell,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    Cache, Config, DEFAULT_ADDRESS, DEFAULT_PORT, Error, Flags, KeyStoreConfig, Place, Problem,
    Proxy,
    expand::{Env, expand, expand_always},
    file::{self, Fault, Step},
    stores::Section,
};
use crate::{
    duration,
    keystore::{KeyName, Start},
    log::{self, AuditMode},
    policy::Policies,
    tls::Group,
};

/// Errors that are found in the file beyond these come without their place.
const MAX_LOCATED: usize = 200;

/// Puts the settings together from `source` (the file's path and text) and `flags`. The error is the
/// first of [`load_all`].
pub(super) fn load(
    source: Option<(&Path, &str)>,
    flags: &Flags,
    env: Env<'_>,
) -> Result<Config, Error> {
    let (config, errors) = load_all(source, flags, env);
    match errors.into_iter().next() {
        None => Ok(config),
        Some(error) => Err(error),
    }
}

/// As [`load`], but finds all errors. The settings that they are about have their defaults then.
pub(super) fn load_all(
    source: Option<(&Path, &str)>,
    flags: &Flags,
    env: Env<'_>,
) -> (Config, Vec<Error>) {
    let text = source.map_or("", |(_, text)| text);
    let file = file::parse(text);
    let is_readable = file.is_ok();
    let loader = Loader {
        path: source.map(|(path, _)| path),
        // Nothing is looked up in what the parser refused: it may do so only after a very long time.
        text: if matches!(file, Err(Fault::Syntax(..))) {
            ""
        } else {
            text
        },
        env,
        errors: RefCell::default(),
    };
    let file = file.map_err(|fault| loader.rejected(fault));
    let config = loader.config(loader.note(file, file::File::default()), flags);
    let mut errors = loader.errors.into_inner();
    if !is_readable {
        // The others say only that what could not be read is missing.
        errors.truncate(1);
    }
    (config, errors)
}

/// A flag's value, unless it is empty: a script's `--root "$ROOT"` may well be.
fn given(flag: Option<&str>) -> Option<&str> {
    flag.filter(|value| !value.is_empty())
}

/// The address that `text` stands for: `IP`, `IP:PORT`, `:PORT`, `[IPv6]` or `[IPv6]:PORT`.
pub(super) fn parse_address(text: &str) -> Option<SocketAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    if let Ok(ip) = text.parse() {
        return Some(SocketAddr::new(ip, DEFAULT_PORT));
    }
    if let Some(ip) = text.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')) {
        let ip = ip.parse().ok()?;
        return Some(SocketAddr::new(IpAddr::V6(ip), DEFAULT_PORT));
    }
    // Only digits: the number parser would take a sign too.
    let port = text.strip_prefix(':')?;
    let port = port.parse().ok().filter(|_| !port.starts_with('+'))?;
    Some(SocketAddr::new(DEFAULT_ADDRESS.ip(), port))
}

/// Whether nobody can listen on both. Port 0 is another one every time.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let is_same_ip = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && a.port() != 0 && is_same_ip
}

/// `on` or `off` in any case.
fn parse_switch(text: &str) -> Option<bool> {
    if text.eq_ignore_ascii_case("on") {
        Some(true)
    } else if text.eq_ignore_ascii_case("off") {
        Some(false)
    } else {
        None
    }
}

fn parse_audit(text: &str) -> Option<AuditMode> {
    if text.eq_ignore_ascii_case("required") {
        return Some(AuditMode::Required);
    }
    Some(match parse_switch(text)? {
        true => AuditMode::On,
        false => AuditMode::Off,
    })
}

/// Whether `name` can be the name of an HTTP header: a token (RFC 9110, 5.6.2).
fn is_header_name(name: &str) -> bool {
    name.bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// Reads values, and words what is wrong with them.
pub(super) struct Loader<'a> {
    path: Option<&'a Path>,
    text: &'a str,
    env: Env<'a>,
    /// What is wrong, in the order in which it was found.
    errors: RefCell<Vec<Error>>,
}

impl Loader<'_> {
    /// All settings; what is wrong with them is noted.
    fn config(&self, file: file::File, flags: &Flags) -> Config {
        let tls = file.tls.unwrap_or_default();
        let address = self.note(self.address(file.address, flags), DEFAULT_ADDRESS);
        let root = match given(flags.root.as_deref()) {
            Some(root) => root.to_owned(),
            None => self.text(file.root),
        };
        if root.is_empty() {
            self.refuse(self.missing("root", "--root", Problem::NoRoot));
        }
        let tls_key = self.path(tls.key, flags.key.as_deref());
        if tls_key.is_none() {
            self.refuse(self.missing("tls.key", "--key", Problem::NoKey));
        }
        let tls_cert = self.path(tls.cert, flags.cert.as_deref());
        if tls_cert.is_none() {
            self.refuse(self.missing("tls.cert", "--cert", Problem::NoCertificate));
        }
        let tls_groups = self.groups(tls.groups);
        let proxy = self.proxy(tls.proxy.unwrap_or_default(), &root);
        let policies = self.policies(file.policy.unwrap_or_default(), &root, &proxy);
        let cache = self.cache(file.cache.unwrap_or_default());
        let log = self.log(file.log.unwrap_or_default());
        let probe = self.probe(file.probe.unwrap_or_default(), address);
        let connections = self.connections(file.limits.unwrap_or_default());

        let file::Keys { stores, names } = file.keys.unwrap_or_default();
        let (section, stores) = match (file.keystore, stores) {
            (None, Some(stores)) => ("keys", *stores),
            (Some(stores), Some(_)) => {
                self.refuse(self.invalid("keys", Problem::MixedFormats));
                ("keystore", stores)
            }
            // A section without content is hardly there for the key store in memory.
            (None, None) if names.is_none() && self.has("keys") && !self.has("keystore") => {
                ("keys", file::Stores::default())
            }
            (stores, None) => ("keystore", stores.unwrap_or_default()),
        };
        let keys = self.keys(names.unwrap_or_default());
        let section = Section {
            loader: self,
            name: section,
        };
        let start = section.start(stores.required.clone());
        let mut key_store_start = self.note(start, Start::Required);
        if cache.offline.is_some() {
            key_store_start = Start::Optional;
        }
        let key_store = self.note(section.key_store(stores), KeyStoreConfig::Memory);

        Config {
            address,
            root,
            tls_key: tls_key.unwrap_or_default(),
            tls_cert: tls_cert.unwrap_or_default(),
            tls_groups,
            auth: flags.auth,
            proxy,
            policies,
            cache,
            log,
            probe,
            connections,
            keys,
            key_store,
            key_store_start,
        }
    }

    /// Goes on with `instead` after an error, so that one run finds all of them.
    fn note<T>(&self, result: Result<T, Error>, instead: T) -> T {
        result.unwrap_or_else(|error| {
            self.refuse(error);
            instead
        })
    }

    fn refuse(&self, error: Error) {
        self.errors.borrow_mut().push(error);
    }

    /// Whether the file has this field, be it null.
    pub(super) fn has(&self, field: &str) -> bool {
        file::locate(self.text, &fields(field)).is_some()
    }

    /// The value of a field; empty if it is missing.
    pub(super) fn text(&self, value: Option<String>) -> String {
        expand(value.unwrap_or_default(), self.env)
    }

    /// The value of a field; `default` if it is missing or empty.
    pub(super) fn text_or(&self, value: Option<String>, default: &str) -> String {
        let text = self.text(value);
        if text.is_empty() {
            default.into()
        } else {
            text
        }
    }

    /// A path from a flag or a field, unless neither is filled in.
    pub(super) fn path(&self, value: Option<String>, flag: Option<&Path>) -> Option<PathBuf> {
        flag.map(PathBuf::from)
            .filter(|path| !path.as_os_str().is_empty())
            .or_else(|| Some(PathBuf::from(self.text(value))))
            .filter(|path| !path.as_os_str().is_empty())
    }

    /// A length of time; `None` if it is missing or zero.
    pub(super) fn duration(
        &self,
        field: &str,
        value: Option<String>,
    ) -> Result<Option<Duration>, Error> {
        let Some(value) = value else { return Ok(None) };
        match duration::parse_non_negative(&expand(value, self.env)) {
            Ok(duration) => Ok(Some(duration).filter(|duration| !duration.is_zero())),
            Err(error) => Err(self.invalid(field, Problem::Duration(error))),
        }
    }

    fn address(&self, value: Option<String>, flags: &Flags) -> Result<SocketAddr, Error> {
        if let Some(flag) = given(flags.addr.as_deref()) {
            return parse_address(flag).ok_or_else(|| Error::Invalid {
                place: Place::Flag("--addr"),
                problem: Box::new(Problem::Address(flag.into())),
            });
        }
        let text = self.text(value);
        if text.is_empty() {
            return Ok(DEFAULT_ADDRESS);
        }
        parse_address(&text).ok_or_else(|| self.invalid("address", Problem::Address(text)))
    }

    /// The key exchange groups of a list, each once; all if there is none.
    fn groups(&self, list: Option<Vec<Option<String>>>) -> Vec<Group> {
        if list.as_ref().is_some_and(Vec::is_empty) {
            self.refuse(self.invalid("tls.groups", Problem::NoGroup));
        }
        let mut groups = Vec::new();
        for (index, name) in list.into_iter().flatten().enumerate() {
            let name = self.text(name);
            match Group::parse(&name) {
                Some(group) if groups.contains(&group) => {}
                Some(group) => groups.push(group),
                None => {
                    let path = [&fields("tls.groups")[..], &[Step::Item(index)]].concat();
                    self.refuse(self.invalid_at(&path, Problem::Group(name)));
                }
            }
        }
        match groups.is_empty() {
            true => Group::ALL.into(),
            false => groups,
        }
    }

    fn proxy(&self, proxy: file::Proxy, root: &str) -> Proxy {
        let mut identities = Vec::new();
        for (index, identity) in proxy.identities.into_iter().flatten().enumerate() {
            let identity = self.text(identity);
            if identity == root {
                let path = [&fields("tls.proxy.identities")[..], &[Step::Item(index)]].concat();
                self.refuse(self.invalid_at(&path, Problem::ProxyIsRoot { index, identity }));
            } else if !identity.is_empty() {
                identities.push(identity);
            }
        }
        let header = self.text(proxy.header.unwrap_or_default().cert);
        if !is_header_name(&header) {
            let problem = Problem::HeaderName(header.clone());
            self.refuse(self.invalid("tls.proxy.header.cert", problem));
        }
        Proxy {
            identities,
            header_cert: Some(header).filter(|header| !header.is_empty()),
        }
    }

    /// Policy names and paths are taken as they are, without environment variables.
    fn policies(&self, policies: file::PolicyMap, root: &str, proxy: &Proxy) -> Policies {
        let mut builder = Policies::builder(root, &proxy.identities);
        for (name, policy) in policies.0 {
            let policy = policy.unwrap_or_default();
            let refused = |list, index| {
                let path = [
                    Step::Field("policy"),
                    Step::Field(&name),
                    Step::Field(list),
                    Step::Item(index),
                ];
                move |error| self.invalid_at(&path, Problem::Policy(error))
            };
            builder.define(&name);
            for (index, path) in policy.paths.into_iter().flatten().enumerate() {
                let done = builder.allow(&name, &path.unwrap_or_default());
                self.note(done.map_err(refused("paths", index)), ());
            }
            for (index, identity) in policy.identities.into_iter().flatten().enumerate() {
                let done = builder.assign(&name, &self.text(identity));
                self.note(done.map_err(refused("identities", index)), ());
            }
        }
        builder.build()
    }

    fn cache(&self, cache: file::Cache) -> Cache {
        let expiry = cache.expiry.unwrap_or_default();
        let duration = |field, value| self.note(self.duration(field, value), None);
        Cache {
            any: duration("cache.expiry.any", expiry.any),
            unused: duration("cache.expiry.unused", expiry.unused),
            offline: duration("cache.expiry.offline", expiry.offline),
        }
    }

    /// `log.error` is expanded even if it is only partly a variable, as it always was.
    fn log(&self, log: file::Log) -> log::Settings {
        let error = expand_always(log.error.as_deref().unwrap_or_default(), self.env);
        let audit = self.text(log.audit);
        let default = log::Settings::default();
        let error = match error.trim() {
            "" => Ok(default.error),
            text => parse_switch(text)
                .ok_or_else(|| self.invalid("log.error", Problem::ErrorLog(text.into()))),
        };
        let audit = match audit.as_str() {
            "" => Ok(default.audit),
            text => parse_audit(text)
                .ok_or_else(|| self.invalid("log.audit", Problem::AuditLog(text.into()))),
        };
        log::Settings {
            error: self.note(error, default.error),
            audit: self.note(audit, default.audit),
        }
    }

    /// The address for probes; `api` is that for clients.
    fn probe(&self, probe: file::Probe, api: SocketAddr) -> Option<SocketAddr> {
        let text = self.text(probe.address);
        if text.is_empty() {
            return None;
        }
        let problem = match parse_address(&text) {
            Some(address) if !overlap(address, api) => return Some(address),
            Some(_) => Problem::ProbeIsApi(text),
            None => Problem::ProbeAddress(text),
        };
        self.refuse(self.invalid("probe.address", problem));
        None
    }

    fn connections(&self, limits: file::Limits) -> Option<usize> {
        let text = self.text(limits.connections);
        if text.is_empty() {
            return None;
        }
        // Only digits: the number parser would take a sign too.
        let number = text.parse().ok().filter(|number| *number > 0);
        let number = number.filter(|_| !text.starts_with('+'));
        if number.is_none() {
            self.refuse(self.invalid("limits.connections", Problem::Connections(text)));
        }
        number
    }

    fn keys(&self, keys: Vec<Option<file::Key>>) -> Vec<KeyName> {
        let read = |(index, key): (usize, Option<file::Key>)| {
            let name = self.text(key.and_then(|key| key.name));
            let key = KeyName::parse(&name);
            if key.is_none() {
                let path = [Step::Field("keys"), Step::Item(index), Step::Field("name")];
                self.refuse(self.invalid_at(&path, Problem::KeyName(name)));
            }
            key
        };
        keys.into_iter().enumerate().filter_map(read).collect()
    }

    /// The error for a file that can't be parsed.
    fn rejected(&self, fault: Fault) -> Error {
        match fault {
            Fault::NewerFormat(field) => self.invalid(field, Problem::NewerFormat),
            Fault::Syntax(position, reason) => Error::Syntax {
                file: self.path.unwrap_or(Path::new("")).into(),
                position,
                reason,
            },
        }
    }

    /// The error for a setting that neither the file nor a flag gives.
    fn missing(&self, field: &str, flag: &'static str, problem: Problem) -> Error {
        match self.path {
            Some(_) => self.invalid(field, problem),
            None => Error::Invalid {
                place: Place::Flag(flag),
                problem: Box::new(problem),
            },
        }
    }

    /// The error for a field of the file, such as `log.error`.
    pub(super) fn invalid(&self, field: &str, problem: Problem) -> Error {
        self.invalid_at(&fields(field), problem)
    }

    fn invalid_at(&self, path: &[Step<'_>], problem: Problem) -> Error {
        // To find a place means to read the file again.
        let is_worth_it = self.errors.borrow().len() < MAX_LOCATED;
        // Where a key store should be, what there is of it is its place.
        let shortest = match problem {
            Problem::NoKeyStore => 1,
            _ => path.len(),
        };
        let position = (shortest..=path.len())
            .rev()
            .filter(|_| is_worth_it)
            .find_map(|length| file::locate(self.text, &path[..length]));
        let place = Place::Field {
            file: self.path.unwrap_or(Path::new("")).into(),
            position,
            field: dotted(path),
        };
        let problem = Box::new(problem);
        Error::Invalid { place, problem }
    }
}

/// The name of a field, such as `policy.my-app.paths[0]`.
pub(super) fn dotted(path: &[Step<'_>]) -> String {
    let mut field = String::new();
    for step in path {
        match step {
            Step::Field(name) if field.is_empty() => field += name,
            Step::Field(name) => field.extend([".", name]),
            Step::Item(index) => field += &format!("[{index}]"),
        }
    }
    field
}

/// The steps to a field from its dotted name.
pub(super) fn fields(dotted: &str) -> Vec<Step<'_>> {
    dotted.split('.').map(Step::Field).collect()
}
