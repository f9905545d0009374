//! A file of an older format in the newest one: the same text, comments too, with as few changes as can be,
//! and what they mean.
//!
//! No request is allowed that was not: what the newest format can't say is left out, with a warning. The
//! result is read again, and is only given if it has the same settings.

mod edit;
mod policies;
mod prefix;

use std::{collections::HashSet, path::Path};

use zeroize::Zeroizing;

use self::{
    edit::{Edits, quoted},
    prefix::Api,
};
use super::{
    Error, Loaded, Origin,
    expand::Env,
    findings::{Position, Severity, cut},
    load_text, read_from,
    settings::Config,
    source::Source,
    tree::{Node, Value, merge},
    types::{Auth, Flags, Format},
};
use crate::{
    base::{duration, name},
    keystore::{Settings, mem},
    log::AuditMode,
};

/// A time that stands for ever: in the newest format, zero is the default.
const EVER: &str = "87600h";

/// A file in the newest format.
#[derive(Debug)]
pub struct Converted {
    /// Its text.
    pub text: Zeroizing<String>,
    /// What it means.
    pub notes: Vec<Note>,
}

/// Something that is, or can't be, as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// How much it matters.
    pub weight: Weight,
    /// Where it is in the older file, if it is there.
    pub position: Option<Position>,
    /// What it is.
    pub text: String,
}

/// How much a [`Note`] matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// The file can't be converted like this.
    Refusal,
    /// Requests that were allowed will be refused, or more.
    Loss,
    /// Something means another thing, or is done in another way.
    Change,
}

/// What differs between the generations whatever a file says.
const ALWAYS: &[&str] = &[
    "clients may also use TLS 1.2",
    "policies, and the identities that have them, change with the file only: there are no APIs for that",
    "keys, policies and identities have names of 1 to 80 letters, digits, - and _, no - at either end, and not only _; \
     others can't be used or asked for, and a path that goes on is part of the name",
    "lists find names by their start, and are one JSON object each, as are policies that are read: see docs/api.md",
    "a key to delete that is not there is answered with 404, and a generate without a body is as one with {}",
    "answers have other headers, limits and times, and metrics tell status codes apart: see docs/api.md",
    "new keys and ciphertexts have formats that KES up to 0.14 can't read; all older ones can still be used",
    "audit lines have the newest format",
];

/// Converts the file at `origin`, which a server with these `flags` would be started with. `apis` are the patterns of all API
/// paths, and whether the newest generation has them.
///
/// # Errors
/// What keeps it from being converted.
pub fn convert(
    origin: Origin<'_>,
    flags: &Flags,
    apis: &[(&str, bool)],
) -> Result<Converted, Vec<Note>> {
    let unreadable = |error: Error| {
        // The command names the file.
        let text = error.finding.message;
        vec![Note { weight: Weight::Refusal, position: None, text }]
    };
    let (_, text) = read_from(origin).map_err(unreadable)?;
    convert_with(&text, flags, apis, |name| std::env::var(name).ok())
}

pub fn convert_with(
    text: &str,
    flags: &Flags,
    apis: &[(&str, bool)],
    env: Env,
) -> Result<Converted, Vec<Note>> {
    let before = load_text(Some(Path::new("")), text, flags, &[], env);
    let refuse = |position, text: String| Note { weight: Weight::Refusal, position, text };
    if before.source.format.is_newest() {
        return Err(vec![refuse(None, "the file has the newest format already".to_owned())]);
    }
    if let Some(at) = merge(text) {
        let text = "\"<<\" adds fields of another map: write them out";
        return Err(vec![refuse(Some(at), text.to_owned())]);
    }
    let wrong = errors(&before);
    if !wrong.is_empty() {
        return Err(wrong);
    }
    let apis = apis.iter().map(|(pattern, is_newest)| Api::new(pattern, *is_newest)).collect();
    let edits = Edits::new(text);
    let mut conversion =
        Conversion { before: &before, apis, edits, notes: Vec::new(), has_new_path: false };
    conversion.run();
    let Conversion { edits, mut notes, has_new_path, .. } = conversion;
    let text = edits.apply();
    if notes.iter().all(|note| note.weight != Weight::Refusal) {
        let addr = Flags { addr: flags.addr.clone(), ..Flags::default() };
        let after = load_text(Some(Path::new("")), &text, &addr, &[], env);
        notes.extend(differences(&before, &after, has_new_path));
    }
    notes.sort_by_cached_key(|note| (note.weight as u64, note.position.map_or(0, Position::rank)));
    match notes.iter().any(|note| note.weight == Weight::Refusal) {
        true => {
            notes.retain(|note| note.weight == Weight::Refusal);
            Err(notes)
        }
        false => Ok(Converted { text, notes }),
    }
}

/// The errors in a file, but for variables that are not set: a file need not be converted where it is used.
fn errors(loaded: &Loaded) -> Vec<Note> {
    let found = loaded.findings().into_iter();
    let errors =
        found.filter(|found| found.severity == Severity::Error && !is_unset(&found.message));
    let notes = errors.map(|found| {
        let field =
            if found.field.is_empty() { String::new() } else { format!("{}: ", found.field) };
        let advice =
            if found.advice.is_empty() { String::new() } else { format!(" ({})", found.advice) };
        let text = format!("{field}{}{advice}", found.message);
        Note { weight: Weight::Refusal, position: found.position, text }
    });
    notes.collect()
}

fn is_unset(message: &str) -> bool {
    message.starts_with("environment variable")
}

/// What makes the file that was written another one than the file that was read, which is a fault.
/// With `has_new_path`, paths of the key store may be written in another way.
fn differences(before: &Loaded, after: &Loaded, has_new_path: bool) -> Vec<Note> {
    let refuse = |text: String| Note { weight: Weight::Refusal, position: None, text };
    let wrong = errors(after);
    if !wrong.is_empty() {
        let text =
            |note: &Note| refuse(format!("the converted file would be wrong: {}", note.text));
        return wrong.iter().map(text).collect();
    }
    let is_unset = |loaded: &Loaded| loaded.findings().iter().any(|found| is_unset(&found.message));
    match (is_unset(before), is_unset(after)) {
        (true, _) => return Vec::new(),
        (false, true) => return vec![refuse("variables would be missing".to_owned())],
        _ => {}
    }
    let (a, b) = (&before.config, &after.config);
    let assigned = |config: &Config| {
        let mut all: Vec<_> =
            config.policies.assigned().map(|(identity, _)| identity.to_owned()).collect();
        all.retain(|identity| name::is_plain(identity));
        all.sort_unstable();
        all
    };
    let differ = [
        ("address", a.address != b.address),
        ("admin.identity", a.root != b.root),
        (
            "tls",
            (&a.tls_key, &a.tls_cert, &a.tls_groups, a.auth)
                != (&b.tls_key, &b.tls_cert, &b.tls_groups, b.auth),
        ),
        ("policy", assigned(a) != assigned(b)),
        ("log", a.log != b.log),
        ("probe", a.probe != b.probe),
        ("limits", a.limits != b.limits),
        (
            "keystore",
            (*a.key_store != *b.key_store && !has_new_path)
                || a.key_store_start != b.key_store_start,
        ),
    ];
    let differ = differ.into_iter().filter(|(_, differ)| *differ);
    differ.map(|(what, _)| refuse(format!("\"{what}\" can't be converted: write it out"))).collect()
}

struct Conversion<'a> {
    before: &'a Loaded,
    apis: Vec<Api<'a>>,
    edits: Edits<'a>,
    notes: Vec<Note>,
    /// A path of the key store is written in another way.
    has_new_path: bool,
}

impl<'a> Conversion<'a> {
    fn note(&mut self, weight: Weight, position: Option<Position>, text: impl Into<String>) {
        self.notes.push(Note { weight, position, text: text.into() });
    }

    fn source(&self) -> &'a Source {
        &self.before.source
    }

    fn run(&mut self) {
        let top: &'a Node = &self.source().file;
        if top.entries().is_empty() {
            return self.note(Weight::Refusal, None, "the file is empty");
        }
        self.variables(top, &mut String::new());
        self.edits.begin(top, "version", "v1");
        self.settings(top);
        self.policies(top);
        self.cache(top);
        self.key_store(top);
        self.keys();
        for text in ALWAYS {
            self.note(Weight::Change, None, *text);
        }
    }

    /// Root, TLS, log and texts.
    fn settings(&mut self, top: &Node) {
        let source = self.source();
        let flag = |flag| source.flags.get(flag);
        let root =
            top.entries().iter().find(|entry| *entry.name == *"root" && !entry.node.is_null());
        match (flag("--root"), root) {
            (Some(root), Some(entry)) => {
                self.edits.set_text(&entry.node, root);
                self.edits.wrap(top, entry, ["admin", "identity"]);
            }
            (None, Some(entry)) => self.edits.wrap(top, entry, ["admin", "identity"]),
            (Some(root), None) => self.edits.set(top, (&["admin", "identity"], root), ""),
            (None, None) => {} // an error already
        }
        let auth = if self.before.config.auth == Auth::On { "on" } else { "off" };
        let has_tls = source.find("tls").is_some_and(|tls| !tls.entries().is_empty());
        if !has_tls && let (Some(key), Some(cert)) = (flag("--key"), flag("--cert")) {
            let [key, cert] = [key, cert].map(quoted);
            let tls = format!("{{ \"key\": {key}, \"cert\": {cert}, \"auth\": \"{auth}\" }}");
            self.edits.set(top, (&["tls"], &tls), "");
        }
        let comment = match source.flags.auth {
            Some(_) => "",
            None => "the flag --auth, which was on by default",
        };
        for (way, value, comment) in [
            (&["address"][..], flag("--addr"), ""),
            (&["tls", "key"], flag("--key").filter(|_| has_tls), ""),
            (&["tls", "cert"], flag("--cert").filter(|_| has_tls), ""),
            (&["tls", "auth"], Some(auth).filter(|_| has_tls), comment),
        ] {
            if let Some(value) = value {
                self.edits.set(top, (way, value), comment);
            }
        }
        if source.flags.auth.is_none() {
            let text = "certificates of clients must be trusted, as with --auth on, the older default: for a \
                        server that was started with --auth off, convert with --auth off, too";
            self.note(Weight::Change, None, text);
        }
        if !source.is_set("log.audit") && self.before.config.log.audit == AuditMode::Off {
            self.edits.set(top, (&["log", "audit"], "off"), "on by default in this format");
        }
        if !source.is_set("api.texts") {
            let comment = "error texts of KES 0.14, for object servers of 2021 and early 2022";
            self.edits.set(top, (&["api", "texts"], "0.14"), comment);
            let text = "\"api.texts: 0.14\" keeps the words of errors that object servers of 2021 and early 2022 \
                        look for";
            self.note(Weight::Change, None, text);
        }
        if source.items("tls.proxy.identities[]").next().is_some() {
            let position = source.at("tls.proxy.identities").position;
            let text = "the newest KES has no TLS proxies: requests through them count as their own, and are \
                        refused";
            self.note(Weight::Loss, position, text);
        }
    }

    fn cache(&mut self, top: &Node) {
        let source = self.source();
        let text = |path: &str| {
            let node = source.find(path)?;
            let text: &str = node.text()?;
            let is_zero = duration::parse_non_negative(text).is_ok_and(|time| time.is_zero());
            (!text.is_empty() && !is_zero).then_some(text)
        };
        let (any, unused) = (text("cache.expiry.any"), text("cache.expiry.unused"));
        let comment = "never, as before; the default of this format is";
        match (any, unused) {
            (Some(_), Some(_)) => return,
            (Some(any), None) => {
                let comment =
                    "as \"any\", so that only that counts; the default of this format is 30s";
                self.edits.set(top, (&["cache", "expiry", "unused"], any), comment);
            }
            (None, Some(_)) => {
                self.edits.set(top, (&["cache", "expiry", "any"], EVER), &format!("{comment} 5m"));
            }
            (None, None)
                if source
                    .find("cache.expiry")
                    .is_some_and(|expiry| !expiry.entries().is_empty()) =>
            {
                self.edits.set(top, (&["cache", "expiry", "any"], EVER), &format!("{comment} 5m"));
                self.edits.set(
                    top,
                    (&["cache", "expiry", "unused"], EVER),
                    &format!("{comment} 30s"),
                );
            }
            (None, None) => {
                let both = match self.edits.is_json(top) {
                    true => format!("{{ \"any\": \"{EVER}\", \"unused\": \"{EVER}\" }}"),
                    false => format!("{{ any: {EVER}, unused: {EVER} }}"),
                };
                self.edits.set(
                    top,
                    (&["cache", "expiry"], &both),
                    &format!("{comment} 5m and 30s"),
                );
            }
        }
        let text = format!(
            "cached keys stay as long as they did; {EVER} stands for \"never\", since 0 means the defaults of this \
             format, 5m and 30s, which are shorter and worth a thought"
        );
        self.note(Weight::Change, source.at("cache.expiry").position, text);
    }

    fn key_store(&mut self, top: &Node) {
        let source = self.source();
        if source.format == Format::Keys
            && let Some(entry) = top.entries().iter().find(|entry| *entry.name == *"keys")
        {
            self.edits.rename(entry, "keystore");
            // One that is empty may be beside it.
            let empty = top.entries().iter().find(|entry| *entry.name == *"keystore");
            if let Some(empty) = empty.filter(|_| !top.is_flow) {
                self.edits.insert(empty.span.start as usize, "# ");
            }
        }
        let in_memory: &dyn Settings = &mem::Settings;
        let is_in_memory = *self.before.config.key_store == *in_memory;
        if !source.is_set("keystore.vault.endpoint") {
            if is_in_memory && !self.has_unset() {
                let text = "no key store: keys were in memory, and the newest format needs a key store such as \
                            \"keystore.fs.path\"";
                self.note(Weight::Refusal, None, text);
            }
            return;
        }
        let spelled = source.spelled("keystore.vault");
        let way: Vec<&str> = spelled.split('.').collect();
        if !source.is_set("keystore.vault.status.ping") {
            let ping = [&way[..], &["status", "ping"]].concat();
            self.edits.set(top, (&ping, "10s"), "15s by default in this format");
        }
        let Some(jwt) = source.find("keystore.vault.kubernetes.jwt") else { return };
        let Some(text) = jwt.text().filter(|text| !text.contains('$')) else { return };
        let is_path = ["/", "./", "../"].iter().any(|start| text.starts_with(start));
        match (text.contains('/'), is_path || Path::new(&**text).is_file()) {
            (true, false) => {
                let text = "keystore.vault.kubernetes.jwt: what has a \"/\" is a path in the newest format: write the \
                            token to a file";
                self.note(Weight::Refusal, Some(jwt.position), text);
            }
            // Without a slash it would be a token.
            (false, true) => {
                self.edits.set_text(jwt, &format!("./{text}"));
                self.has_new_path = true;
            }
            _ => {}
        }
    }

    /// Whether variables are not set here, so that not all is known.
    fn has_unset(&self) -> bool {
        self.before.findings().iter().any(|found| is_unset(&found.message))
    }

    /// The keys to be created.
    fn keys(&mut self) {
        let source = self.source();
        let Some(list) = source.file.get("keys").filter(|_| source.format == Format::KeyStore)
        else {
            return;
        };
        let mut seen = HashSet::new();
        for (index, item) in list.items().iter().enumerate() {
            let Some(name) = item.get("name").and_then(Node::text) else { continue };
            let (text, why) = match (name::is_plain(name) || name.contains('$'), seen.insert(name))
            {
                (false, _) => {
                    ("can't be used in the newest generation", "no name of the newest generation")
                }
                (_, false) => ("is listed twice", "listed twice"),
                _ => continue,
            };
            let weight = if why == "listed twice" { Weight::Change } else { Weight::Loss };
            self.note(weight, Some(item.position), format!("key \"{}\" {text}", cut(name)));
            self.edits.remove_item(list, index, why);
        }
    }

    /// Refuses values that are made of several variables, or of one and other text.
    fn variables(&mut self, node: &Node, field: &mut String) {
        match &node.value {
            Value::Map(entries) => {
                for entry in entries.iter() {
                    let length = field.len();
                    if !field.is_empty() {
                        field.push('.');
                    }
                    *field += &cut(&entry.name);
                    // Paths of policies have no variables.
                    let is_path = field.starts_with("policy.") && *entry.name == *"paths";
                    if !is_path {
                        self.variables(&entry.node, field);
                    }
                    field.truncate(length);
                }
            }
            Value::List(items) => items.iter().for_each(|item| self.variables(item, field)),
            Value::Text(text) => {
                let trimmed = text.trim();
                let name = trimmed.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
                let is_meant = name.is_some() || (field == "log.error" && text.contains('$'));
                if is_meant && name.is_none_or(|name| name.contains(['$', '{', '}'])) {
                    let text = format!(
                        "{field}: in the newest format a value is at most one variable: put all of it in one, such \
                         as ${{KES_VALUE}}"
                    );
                    self.note(Weight::Refusal, Some(node.position), text);
                }
            }
            Value::Null => {}
        }
    }
}
