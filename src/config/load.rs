//! From what the file and the flags say to what it means: expands environment variables, picks
//! the value that wins, parses it, and names file, line and field if it is wrong.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    Cache, Config, DEFAULT_ADDRESS, DEFAULT_PORT, Error, Flags, Log, Place, Problem, Proxy,
    expand::{Env, expand, expand_always},
    file::{self, Fault, Step},
    stores::Section,
};
use crate::{duration, keystore::KeyName, policy::Policies};

/// Puts the settings together from `source` (the file's path and text) and `flags`.
pub(super) fn load(
    source: Option<(&Path, &str)>,
    flags: &Flags,
    env: Env<'_>,
) -> Result<Config, Error> {
    let loader = Loader {
        path: source.map(|(path, _)| path),
        text: source.map_or("", |(_, text)| text),
        env,
    };
    let file = match file::parse(loader.text) {
        Ok(file) => file,
        Err(fault) => return Err(loader.rejected(fault)),
    };

    let tls = file.tls.unwrap_or_default();
    let address = loader.address(file.address, flags)?;
    let root = match given(flags.root.as_deref()) {
        Some(root) => root.to_owned(),
        None => loader.text(file.root),
    };
    if root.is_empty() {
        return Err(loader.missing("root", "--root", Problem::NoRoot));
    }
    let tls_key = loader
        .path(tls.key, flags.key.as_deref())
        .ok_or_else(|| loader.missing("tls.key", "--key", Problem::NoKey))?;
    let tls_cert = loader
        .path(tls.cert, flags.cert.as_deref())
        .ok_or_else(|| loader.missing("tls.cert", "--cert", Problem::NoCertificate))?;
    let proxy = loader.proxy(tls.proxy.unwrap_or_default(), &root)?;
    let policies = loader.policies(file.policy.unwrap_or_default(), &root, &proxy)?;
    let cache = loader.cache(file.cache.unwrap_or_default())?;
    let log = loader.log(file.log.unwrap_or_default())?;
    let probe = loader.probe(file.probe.unwrap_or_default(), address)?;

    let (section, stores, keys) = match (file.keystore, file.keys) {
        (None, Some(file::Keys::Stores(stores))) => ("keys", *stores, Vec::new()),
        (Some(_), Some(file::Keys::Stores(_))) => {
            return Err(loader.invalid("keys", Problem::MixedFormats));
        }
        (stores, Some(file::Keys::Names(keys))) => ("keystore", stores.unwrap_or_default(), keys),
        (stores, None) => ("keystore", stores.unwrap_or_default(), Vec::new()),
    };
    let keys = loader.keys(keys)?;
    let key_store = Section {
        loader: &loader,
        name: section,
    }
    .key_store(stores)?;

    Ok(Config {
        address,
        root,
        tls_key,
        tls_cert,
        auth: flags.auth,
        proxy,
        policies,
        cache,
        log,
        probe,
        keys,
        key_store,
    })
}

/// A flag's value, unless it is empty: a script's `--root "$ROOT"` may well be.
fn given(flag: Option<&str>) -> Option<&str> {
    flag.filter(|value| !value.is_empty())
}

/// The address that `text` stands for: `IP`, `IP:PORT`, `:PORT`, `[IPv6]` or `[IPv6]:PORT`.
fn parse_address(text: &str) -> Option<SocketAddr> {
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
}

impl Loader<'_> {
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

    fn proxy(&self, proxy: file::Proxy, root: &str) -> Result<Proxy, Error> {
        let mut identities = Vec::new();
        for (index, identity) in proxy.identities.into_iter().flatten().enumerate() {
            let identity = self.text(identity);
            if identity == root {
                let path = [&fields("tls.proxy.identities")[..], &[Step::Item(index)]].concat();
                return Err(self.invalid_at(&path, Problem::ProxyIsRoot { index, identity }));
            }
            if !identity.is_empty() {
                identities.push(identity);
            }
        }
        let header = self.text(proxy.header.unwrap_or_default().cert);
        if !is_header_name(&header) {
            return Err(self.invalid("tls.proxy.header.cert", Problem::HeaderName(header)));
        }
        Ok(Proxy {
            identities,
            header_cert: Some(header).filter(|header| !header.is_empty()),
        })
    }

    /// Policy names and paths are taken as they are, without environment variables.
    fn policies(
        &self,
        policies: file::PolicyMap,
        root: &str,
        proxy: &Proxy,
    ) -> Result<Policies, Error> {
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
                builder
                    .allow(&name, &path.unwrap_or_default())
                    .map_err(refused("paths", index))?;
            }
            for (index, identity) in policy.identities.into_iter().flatten().enumerate() {
                builder
                    .assign(&name, &self.text(identity))
                    .map_err(refused("identities", index))?;
            }
        }
        Ok(builder.build())
    }

    fn cache(&self, cache: file::Cache) -> Result<Cache, Error> {
        let expiry = cache.expiry.unwrap_or_default();
        Ok(Cache {
            any: self.duration("cache.expiry.any", expiry.any)?,
            unused: self.duration("cache.expiry.unused", expiry.unused)?,
        })
    }

    /// `log.error` is expanded even if it is only partly a variable, as it always was.
    fn log(&self, log: file::Log) -> Result<Log, Error> {
        let error = expand_always(log.error.as_deref().unwrap_or_default(), self.env);
        let error = error.trim();
        let audit = self.text(log.audit);
        let default = Log::default();
        Ok(Log {
            error: match error {
                "" => default.error,
                text => parse_switch(text)
                    .ok_or_else(|| self.invalid("log.error", Problem::ErrorLog(text.into())))?,
            },
            audit: match audit.as_str() {
                "" => default.audit,
                text => parse_switch(text)
                    .ok_or_else(|| self.invalid("log.audit", Problem::AuditLog(text.into())))?,
            },
        })
    }

    /// The address for probes; `api` is that for clients.
    fn probe(&self, probe: file::Probe, api: SocketAddr) -> Result<Option<SocketAddr>, Error> {
        let text = self.text(probe.address);
        if text.is_empty() {
            return Ok(None);
        }
        let wrong = |problem| self.invalid("probe.address", problem);
        let address =
            parse_address(&text).ok_or_else(|| wrong(Problem::ProbeAddress(text.clone())))?;
        match overlap(address, api) {
            true => Err(wrong(Problem::ProbeIsApi(text))),
            false => Ok(Some(address)),
        }
    }

    fn keys(&self, keys: Vec<Option<file::Key>>) -> Result<Vec<KeyName>, Error> {
        let read = |(index, key): (usize, Option<file::Key>)| {
            let name = self.text(key.and_then(|key| key.name));
            KeyName::parse(&name).ok_or_else(|| {
                let path = [Step::Field("keys"), Step::Item(index), Step::Field("name")];
                self.invalid_at(&path, Problem::KeyName(name))
            })
        };
        keys.into_iter().enumerate().map(read).collect()
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
        let mut field = String::new();
        for step in path {
            match step {
                Step::Field(name) if field.is_empty() => field += name,
                Step::Field(name) => field.extend([".", name]),
                Step::Item(index) => field += &format!("[{index}]"),
            }
        }
        let place = Place::Field {
            file: self.path.unwrap_or(Path::new("")).into(),
            position: file::locate(self.text, path),
            field,
        };
        let problem = Box::new(problem);
        Error::Invalid { place, problem }
    }
}

/// The steps to a field from its dotted name.
fn fields(dotted: &str) -> Vec<Step<'_>> {
    dotted.split('.').map(Step::Field).collect()
}
