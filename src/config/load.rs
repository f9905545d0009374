//! From what the file and the flags say to what it means: expands environment variables, picks
//! the value that wins, parses it, and names file, line and field if it is wrong.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use zeroize::Zeroizing;

use super::{
    Cache, Config, DEFAULT_ADDRESS, DEFAULT_PORT, Error, Flags, KeyStoreConfig, Place, Position,
    Problem, Proxy,
    expand::{Env, Expansion},
    fields::{self, FILE, Found, Step, dotted, steps, walk},
    stores::Section,
    tree::{self, Node, Value},
};
use crate::{
    base::{duration, glob::Pattern},
    keystore::{KeyName, Start},
    log::{self, AuditMode},
    policy::{self, Policies, Policy},
    tls::Group,
};

/// Beyond so many errors the others are only counted.
const MAX_ERRORS: usize = 100;

/// What a file and flags mean, and all that is wrong with them.
pub(super) struct Loaded {
    /// The settings that are wrong have their defaults.
    pub(super) config: Config,
    /// In the order in which they were found.
    pub(super) errors: Vec<Error>,
    /// There are so many more.
    pub(super) more_errors: usize,
    /// Where the key store is or should be: `keys` or `keystore`.
    pub(super) section: &'static str,
    /// That is in the file, be it empty.
    pub(super) has_section: bool,
    /// What is in the file; nothing if it can't be read.
    pub(super) file: Node,
    /// No field of the file is unknown, of the wrong type, or empty by mistake.
    pub(super) is_whole: bool,
}

impl Loaded {
    /// The settings, unless something is wrong.
    pub(super) fn accept(self) -> Result<Config, Error> {
        match self.errors.into_iter().next() {
            None => Ok(self.config),
            Some(error) => Err(error),
        }
    }

    /// Where the value of a field is.
    pub(super) fn position(&self, field: &str) -> Option<Position> {
        self.file.find(field).map(|node| node.position)
    }
}

/// Puts the settings together from `source` (the file's path and text) and `flags`.
pub(super) fn load(source: Option<(&Path, &str)>, flags: &Flags, env: Env<'_>) -> Loaded {
    let path = source.map(|(path, _)| path);
    let text = source.map_or("", |(_, text)| text);
    let (mut file, fault) = match tree::parse(text) {
        Ok(file) => (file, None),
        Err(fault) => {
            // What is right elsewhere may be all that matters, as to a health check.
            let rest = without_field(text, fault.position);
            (tree::parse(&rest).unwrap_or_default(), Some(fault))
        }
    };
    let fault = fault.map(|fault| Error::Syntax {
        file: path.unwrap_or(Path::new("")).into(),
        position: Some(fault.position),
        reason: fault.reason,
    });
    let foreign = not_ours(path, &file);
    if foreign.is_some() {
        file = Node::default();
    }
    let loader = Loader {
        path,
        file: &file,
        env,
        is_whole: Cell::new(fault.is_none() && foreign.is_none()),
        errors: RefCell::default(),
        more_errors: Cell::new(0),
    };
    for error in [fault, foreign].into_iter().flatten() {
        loader.refuse(|| error);
    }
    loader.check_fields(flags);
    let section = loader.store_section();
    let config = loader.config(section, flags);
    Loaded {
        config,
        section,
        has_section: loader.is_store_section(section),
        errors: loader.errors.into_inner(),
        more_errors: loader.more_errors.get(),
        is_whole: loader.is_whole.get(),
        file,
    }
}

/// `text` with the line at `position` and the deeper ones below it made empty, so that all others
/// keep their places.
fn without_field(text: &str, position: Position) -> Zeroizing<String> {
    let indent = |line: &str| line.len() - line.trim_start_matches(' ').len();
    let mut rest = Zeroizing::new(String::with_capacity(text.len()));
    let mut cut_at = None;
    for (number, line) in (1..).zip(text.split_inclusive('\n')) {
        let is_blank = line.trim().is_empty();
        if number == position.line {
            cut_at = Some(indent(line));
        } else if cut_at.is_some_and(|depth| !is_blank && indent(line) <= depth) {
            cut_at = None;
        }
        rest.push_str(match cut_at {
            Some(_) if line.ends_with('\n') => "\n",
            Some(_) => "",
            None => line,
        });
    }
    rest
}

/// The error about a file that is no map of fields, or one of the format of newer versions.
fn not_ours(path: Option<&Path>, file: &Node) -> Option<Error> {
    if !matches!(file.value, Value::Null | Value::Map(_)) {
        return Some(Error::Syntax {
            file: path.unwrap_or(Path::new("")).into(),
            position: Some(file.position),
            reason: "expected a map of fields such as \"root: disabled\"".into(),
        });
    }
    ["admin", "version"].into_iter().find_map(|field| {
        let node = file.get(field)?;
        Some(Error::Invalid {
            place: Place::Field {
                file: path.unwrap_or(Path::new("")).into(),
                position: Some(node.position),
                field: field.into(),
            },
            problem: Box::new(Problem::NewerFormat),
        })
    })
}

/// A flag's value, unless it is empty: a script's `--root "$ROOT"` may well be.
fn given(flag: Option<&str>) -> Option<&str> {
    flag.filter(|value| !value.is_empty())
}

/// The fields that are not read as flags win over them.
pub(super) fn overridden(flags: &Flags) -> impl Iterator<Item = &'static str> {
    let is_path = |flag: &Option<PathBuf>| flag.as_ref().is_some_and(|p| !p.as_os_str().is_empty());
    [
        ("address", given(flags.addr.as_deref()).is_some()),
        ("root", given(flags.root.as_deref()).is_some()),
        ("tls.key", is_path(&flags.key)),
        ("tls.cert", is_path(&flags.cert)),
    ]
    .into_iter()
    .filter_map(|(field, is_given)| is_given.then_some(field))
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
    name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// Reads values, and words what is wrong with them.
pub(super) struct Loader<'a> {
    path: Option<&'a Path>,
    file: &'a Node,
    env: Env<'a>,
    is_whole: Cell<bool>,
    errors: RefCell<Vec<Error>>,
    more_errors: Cell<usize>,
}

impl<'a> Loader<'a> {
    /// Checks that the file has no fields but those of the table, each once and of the right type,
    /// and that none is empty because a variable is not set.
    fn check_fields(&self, flags: &Flags) {
        let unread: Vec<_> = overridden(flags).map(steps).collect();
        let mut look = |path: &[Step<'a>], position: Position, found: Found<'a>| {
            let reason: &dyn Fn() -> String = match found {
                Found::Text(text, expansion) => {
                    if !expansion.applies_to(text) || unread.iter().any(|unread| unread == path) {
                        return;
                    }
                    let expanded = expansion.expand(text, self.env);
                    if expanded.text.trim().is_empty() && !expanded.unset.is_empty() {
                        let problem = Problem::NotSet(expanded.unset);
                        self.refuse(|| self.invalid_at(path, Some(position), problem));
                        self.is_whole.set(false);
                    }
                    return;
                }
                Found::Misfit(expected, node) => {
                    &move || format!("expected {expected}, found {}", node.kind())
                }
                // Who has a key store in both places did not mean a list.
                Found::Unknown(..) if path == [Step::Field("keys")] && self.has("keystore") => {
                    return;
                }
                Found::Unknown(name, fields) => &move || {
                    let (name, names) = (super::error::cut(name), fields::names(fields));
                    format!("unknown field `{name}`, expected {names}")
                },
                Found::Twice(name) => &move || {
                    let name = super::error::cut(name);
                    format!("field `{name}` appears twice; keep one of them")
                },
            };
            self.is_whole.set(false);
            self.refuse(|| {
                let field = dotted(path);
                let separator = if field.is_empty() { "" } else { ": " };
                Error::Syntax {
                    file: self.path.unwrap_or(Path::new("")).into(),
                    position: Some(position),
                    reason: format!("{field}{separator}{}", reason()),
                }
            });
        };
        walk(self.file, FILE, &mut Vec::new(), &mut look);
    }

    /// All settings; what is wrong with them is noted.
    fn config(&self, section: &'static str, flags: &Flags) -> Config {
        let address = self.note(self.address(flags), DEFAULT_ADDRESS);
        let root = match given(flags.root.as_deref()) {
            Some(root) => root.to_owned(),
            None => self.text("root"),
        };
        if root.is_empty() {
            self.refuse(|| self.missing("root", "--root", Problem::NoRoot));
        }
        let tls_key = self.path_or("tls.key", flags.key.as_deref());
        if tls_key.is_none() {
            self.refuse(|| self.missing("tls.key", "--key", Problem::NoKey));
        }
        let tls_cert = self.path_or("tls.cert", flags.cert.as_deref());
        if tls_cert.is_none() {
            self.refuse(|| self.missing("tls.cert", "--cert", Problem::NoCertificate));
        }
        let tls_groups = self.groups();
        let proxy = self.proxy(&root);
        let policies = self.policies(&root, &proxy);
        let cache = self.cache();
        let log = self.log();
        let probe = self.probe(address);
        let connections = self.connections();
        let keys = self.keys();
        let section = Section { loader: self, name: section };
        let mut key_store_start = self.note(section.start(), Start::Required);
        if cache.offline.is_some() {
            key_store_start = Start::Optional;
        }
        let key_store = self.note(section.key_store(), KeyStoreConfig::Memory);

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
            self.refuse(|| error);
            instead
        })
    }

    /// Notes an error, or only counts it.
    fn refuse(&self, error: impl FnOnce() -> Error) {
        let mut errors = self.errors.borrow_mut();
        if errors.len() >= MAX_ERRORS {
            self.more_errors.set(self.more_errors.get() + 1);
            return;
        }
        let error = error();
        // What is missing may be in the part that can't be read.
        let is_absence = matches!(&error, Error::Invalid { problem, .. } if problem.is_absence());
        if self.is_whole.get() || !is_absence {
            errors.push(error);
        }
    }

    /// The value of a field, unless the field is missing.
    fn find(&self, field: &str) -> Option<&'a Node> {
        self.file.find(field)
    }

    /// Whether the file has this field, be it null.
    pub(super) fn has(&self, field: &str) -> bool {
        self.find(field).is_some()
    }

    /// The value of a field; empty if it is missing.
    pub(super) fn text(&self, field: &str) -> String {
        self.find(field).map_or_else(String::new, |node| self.value(node))
    }

    fn value(&self, node: &Node) -> String {
        let text = node.text().map_or("", |text| text);
        Expansion::Whole.expand(text, self.env).text
    }

    /// Whether variables that are not set leave nothing of a value: an error already.
    fn is_unset(&self, node: &Node) -> bool {
        let text = node.text().map_or("", |text| text);
        !text.is_empty() && self.value(node).is_empty()
    }

    /// The value of a field; `default` if it is missing or empty.
    pub(super) fn text_or(&self, field: &str, default: &str) -> String {
        let text = self.text(field);
        if text.is_empty() { default.into() } else { text }
    }

    /// A path, unless the field is missing or empty.
    pub(super) fn path(&self, field: &str) -> Option<PathBuf> {
        let text = self.text(field);
        (!text.is_empty()).then(|| text.into())
    }

    /// A path from a flag or a field, unless neither is filled in.
    fn path_or(&self, field: &str, flag: Option<&Path>) -> Option<PathBuf> {
        let flag = flag.filter(|path| !path.as_os_str().is_empty());
        flag.map(PathBuf::from).or_else(|| self.path(field))
    }

    /// A length of time; `None` if it is missing or zero.
    pub(super) fn duration(&self, field: &str) -> Result<Option<Duration>, Error> {
        let Some(node) = self.find(field) else {
            return Ok(None);
        };
        if node.text().is_none() || self.is_unset(node) {
            return Ok(None);
        }
        match duration::parse_non_negative(&self.value(node)) {
            Ok(duration) => Ok(Some(duration).filter(|duration| !duration.is_zero())),
            Err(error) => Err(self.invalid(field, Problem::Duration(error))),
        }
    }

    fn address(&self, flags: &Flags) -> Result<SocketAddr, Error> {
        if let Some(flag) = given(flags.addr.as_deref()) {
            return parse_address(flag).ok_or_else(|| Error::Invalid {
                place: Place::Flag("--addr"),
                problem: Box::new(Problem::Address(flag.into())),
            });
        }
        let text = self.text("address");
        if text.is_empty() {
            return Ok(DEFAULT_ADDRESS);
        }
        parse_address(&text).ok_or_else(|| self.invalid("address", Problem::Address(text)))
    }

    /// The items of a list with the steps to them, but those that variables leave empty.
    fn items(&self, field: &'a str) -> impl Iterator<Item = (Vec<Step<'a>>, &'a Node)> {
        let list = self.find(field).map_or(&[][..], Node::items);
        list.iter()
            .enumerate()
            .filter(|(_, node)| !self.is_unset(node))
            .map(move |(index, node)| ([&steps(field)[..], &[Step::Item(index)]].concat(), node))
    }

    /// The key exchange groups of the list, each once; all if there is none.
    fn groups(&self) -> Vec<Group> {
        let field = "tls.groups";
        let list = self.find(field);
        if list.is_some_and(|list| matches!(&list.value, Value::List(items) if items.is_empty())) {
            self.refuse(|| self.invalid(field, Problem::NoGroup));
        }
        let mut groups = Vec::new();
        for (path, node) in self.items(field) {
            let name = self.value(node);
            match Group::parse(&name) {
                Some(group) if groups.contains(&group) => {}
                Some(group) => groups.push(group),
                None => self
                    .refuse(|| self.invalid_at(&path, Some(node.position), Problem::Group(name))),
            }
        }
        match groups.is_empty() {
            true => Group::ALL.into(),
            false => groups,
        }
    }

    fn proxy(&self, root: &str) -> Proxy {
        let mut identities = Vec::new();
        for (path, node) in self.items("tls.proxy.identities") {
            let identity = self.value(node);
            if identity == root {
                let Some(&Step::Item(index)) = path.last() else {
                    continue;
                };
                let problem = Problem::ProxyIsRoot { index, identity };
                self.refuse(|| self.invalid_at(&path, Some(node.position), problem));
            } else if !identity.is_empty() {
                identities.push(identity);
            }
        }
        let header = self.text("tls.proxy.header.cert");
        if !is_header_name(&header) {
            let problem = Problem::HeaderName(header.clone());
            self.refuse(|| self.invalid("tls.proxy.header.cert", problem));
        }
        Proxy { identities, header_cert: Some(header).filter(|header| !header.is_empty()) }
    }

    /// Policy names and paths are taken as they are, without environment variables. Policies that
    /// have one list of paths through an alias share it.
    fn policies(&self, root: &str, proxy: &Proxy) -> Policies {
        let mut builder = Policies::builder(root, &proxy.identities);
        let mut read = HashMap::new();
        for policy in self.find("policy").map_or(&[][..], Node::entries) {
            let name = &policy.name;
            let item = |list, index| {
                [Step::Field("policy"), Step::Field(name), Step::Field(list), Step::Item(index)]
            };
            let refuse = |path: [Step<'_>; 4], node: &Node, error| {
                let problem = Problem::Policy(error);
                self.refuse(|| self.invalid_at(&path, Some(node.position), problem));
            };
            let list = |list| policy.node.get(list).map_or(&[][..], Node::items);
            let paths = list("paths");
            let shared: &mut Arc<Policy> = read.entry(paths.as_ptr()).or_insert_with(|| {
                let patterns = paths.iter().enumerate().filter_map(|(index, node)| {
                    let pattern = Pattern::parse(node.text().map_or("", |text| text));
                    let refused = |source| {
                        let policy = name.clone();
                        let error = policy::Error::Pattern { policy, source };
                        refuse(item("paths", index), node, error);
                    };
                    pattern.map_err(refused).ok()
                });
                Arc::new(Policy { paths: patterns.collect() })
            });
            builder.define(name, shared.clone());
            for (index, node) in list("identities").iter().enumerate() {
                if let Err(error) = builder.assign(name, &self.value(node)) {
                    refuse(item("identities", index), node, error);
                }
            }
        }
        builder.build()
    }

    fn cache(&self) -> Cache {
        let duration = |field| self.note(self.duration(field), None);
        Cache {
            any: duration("cache.expiry.any"),
            unused: duration("cache.expiry.unused"),
            offline: duration("cache.expiry.offline"),
        }
    }

    /// `log.error` is expanded even if it is only partly a variable, as it always was.
    fn log(&self) -> log::Settings {
        let error = self.find("log.error").and_then(Node::text);
        let error = error.map_or("", |text| text);
        let error = Expansion::Parts.expand(error, self.env).text;
        let audit = self.text("log.audit");
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
    fn probe(&self, api: SocketAddr) -> Option<SocketAddr> {
        let text = self.text("probe.address");
        if text.is_empty() {
            return None;
        }
        let problem = match parse_address(&text) {
            Some(address) if !overlap(address, api) => return Some(address),
            Some(_) => Problem::ProbeIsApi(text),
            None => Problem::ProbeAddress(text),
        };
        self.refuse(|| self.invalid("probe.address", problem));
        None
    }

    fn connections(&self) -> Option<usize> {
        let text = self.text("limits.connections");
        if text.is_empty() {
            return None;
        }
        // Only digits: the number parser would take a sign too.
        let number = text.parse().ok().filter(|number| *number > 0);
        let number = number.filter(|_| !text.starts_with('+'));
        if number.is_none() {
            self.refuse(|| self.invalid("limits.connections", Problem::Connections(text)));
        }
        number
    }

    fn keys(&self) -> Vec<KeyName> {
        let list = self.find("keys").map_or(&[][..], Node::items);
        let read = |(index, key): (usize, &Node)| {
            let node = key.get("name");
            if node.is_some_and(|node| self.is_unset(node)) {
                return None;
            }
            let name = node.map_or_else(String::new, |node| self.value(node));
            let key_name = KeyName::parse(&name);
            if key_name.is_none() {
                let path = [Step::Field("keys"), Step::Item(index), Step::Field("name")];
                let position = node.map(|node| node.position);
                self.refuse(|| self.invalid_at(&path, position, Problem::KeyName(name)));
            }
            key_name
        };
        list.iter().enumerate().filter_map(read).collect()
    }

    /// Which section has the key store, if any: `keys` is that or a list of key names.
    fn store_section(&self) -> &'static str {
        let keys = self.find("keys");
        let has_stores = keys.is_some_and(|keys| matches!(keys.value, Value::Map(_)));
        match self.find("keystore") {
            Some(stores) if has_stores && !stores.is_null() => {
                self.refuse(|| self.invalid("keys", Problem::MixedFormats));
                "keystore"
            }
            _ if has_stores => "keys",
            // A section without content is hardly there for the key store in memory.
            None if keys.is_some_and(Node::is_null) => "keys",
            _ => "keystore",
        }
    }

    /// Whether this section is there for a key store, be it empty; a list is one of key names.
    pub(super) fn is_store_section(&self, name: &str) -> bool {
        let section = self.find(name);
        section.is_some_and(|section| matches!(section.value, Value::Null | Value::Map(_)))
    }

    /// The error for a setting that neither the file nor a flag gives.
    fn missing(&self, field: &str, flag: &'static str, problem: Problem) -> Error {
        match self.path {
            Some(_) => self.invalid(field, problem),
            None => Error::Invalid { place: Place::Flag(flag), problem: Box::new(problem) },
        }
    }

    /// The error for a field of the file, such as `log.error`.
    pub(super) fn invalid(&self, field: &str, problem: Problem) -> Error {
        let mut position = self.find(field).map(|node| node.position);
        if let Problem::NoKeyStore = problem {
            // Where a key store should be, what there is of it is its place.
            let found = field.rmatch_indices('.').map(|(end, _)| &field[..end]);
            let mut found = found.filter_map(|field| self.find(field));
            position = position.or_else(|| found.next().map(|node| node.position));
        }
        self.invalid_at(&steps(field), position, problem)
    }

    fn invalid_at(&self, path: &[Step<'_>], position: Option<Position>, problem: Problem) -> Error {
        let place = Place::Field {
            file: self.path.unwrap_or(Path::new("")).into(),
            position,
            field: dotted(path),
        };
        let problem = Box::new(problem);
        Error::Invalid { place, problem }
    }
}
