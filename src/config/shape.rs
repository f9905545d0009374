//! Whether a file keeps to the table of `fields`: no field but those, each once and of the right kind,
//! and none empty because a variable is not set. Knows nothing of what values mean.

use std::{collections::HashSet, fmt};

use super::{
    expand::is_credential,
    fields::{Field, Shape},
    findings::{At, Findings, MAX_ERRORS, Position, cut},
    mixed::{self, Difference},
    source::Source,
    tree::{Entry, Node, Value},
    types::Format,
};
use crate::base::nearest::nearest;

/// Longer names than this, in bytes, are not compared with those of the table.
const MAX_NAME: usize = 40;

/// Looks at all of `source`.
pub(super) fn check(source: &Source, findings: &mut Findings) {
    let mut walk = Walk { source, findings, own: Vec::new(), foreign: Vec::new() };
    walk.walk(&source.file, "", &mut String::new());
    let Walk { own, foreign, .. } = walk;
    if !foreign.is_empty() {
        mixed::refuse(source, findings, own, foreign);
    }
}

struct Walk<'a> {
    source: &'a Source,
    findings: &'a mut Findings,
    /// Fields that only the format of the file has.
    own: Vec<Difference>,
    /// Fields that only the other formats have.
    foreign: Vec<Difference>,
}

impl Walk<'_> {
    /// Looks at `node`, the value of the field that a message calls `name`. It should be what the
    /// table has at `path`; null is as good as missing.
    fn walk(&mut self, node: &Node, path: &str, name: &mut String) {
        let shape = self.source.table.shape(path, self.source.format);
        match (&shape, &node.value) {
            (_, Value::Null) => return,
            (Shape::Text(field), _) if field.is_foreign() => return,
            (Shape::Text(field), Value::Text(text)) => {
                return self.variables(field, text, At::new(&**name, Some(node.position)));
            }
            (Shape::List, Value::List(items)) => {
                let (length, path) = (name.len(), format!("{path}[]"));
                for (index, item) in items.iter().enumerate() {
                    *name += &format!("[{index}]");
                    self.walk(item, &path, name);
                    name.truncate(length);
                }
                return;
            }
            (Shape::Map(known), Value::Map(entries)) => {
                return self.walk_map(entries, known, path, name);
            }
            _ => {}
        }
        let expected = match (path, shape) {
            ("keys", _) => "a list of key names or a key store",
            ("policy", _) => "a map of policies by name",
            (_, Shape::Text(_)) => "a string",
            (_, Shape::List) => "a list",
            (_, Shape::Map(_)) => "a map of fields",
        };
        let found = node.kind();
        self.refuse(name, node.position, format_args!("expected {expected}, found {found}"), "");
    }

    fn walk_map(&mut self, entries: &[Entry], known: &[&str], path: &str, name: &mut String) {
        let length = name.len();
        let mut seen = HashSet::new();
        for entry in entries {
            let own: &str = &entry.name;
            let step = match (path, own, self.source.format) {
                ("", "keys", Format::Keys) => "keystore",
                // The key store in its older place.
                ("", "keys", Format::Newest) if matches!(entry.node.value, Value::Map(_)) => {
                    self.foreign.push(Difference::key_store(entry));
                    continue;
                }
                // A file in both formats, which is an error already, or a section without content.
                ("", "keys", _) if matches!(entry.node.value, Value::Map(_)) => continue,
                ("", "keystore", Format::Keys) => continue,
                _ if known.contains(&own) => own,
                _ if known.contains(&"*") => "*",
                _ => {
                    match self.elsewhere(entry, path, name) {
                        Some(difference) if self.foreign.len() < MAX_ERRORS => {
                            self.foreign.push(difference);
                        }
                        Some(_) => {}
                        None => self.unknown(entry, known, path, name),
                    }
                    continue;
                }
            };
            let path = if path.is_empty() { step.to_owned() } else { format!("{path}.{step}") };
            if self.own.len() < MAX_ERRORS
                && let Some(field) = mixed::only_in(self.source, &path)
            {
                self.own.push(Difference::new(field, entry, name));
            }
            if !seen.insert(own) {
                let own = cut(own);
                let reason = format_args!("field `{own}` appears twice; keep one of them");
                self.refuse(name, entry.position, reason, "");
                continue;
            }
            if !name.is_empty() {
                name.push('.');
            }
            *name += &cut(own);
            self.walk(&entry.node, &path, name);
            name.truncate(length);
        }
    }

    /// What `entry` is in the formats that the file does not have.
    fn elsewhere(&self, entry: &Entry, path: &str, name: &str) -> Option<Difference> {
        let other = match self.source.format {
            Format::Newest => Format::KeyStore,
            Format::Keys | Format::KeyStore => Format::Newest,
        };
        let Shape::Map(known) = self.source.table.shape(path, other) else { return None };
        let own: &str = &entry.name;
        let step = known.iter().find(|step| **step == own || **step == "*")?;
        let path = if path.is_empty() { (*step).to_owned() } else { format!("{path}.{step}") };
        Some(Difference::new(self.source.table.first_in(&path, other)?, entry, name))
    }

    /// Names the nearest field, and all that there are.
    fn unknown(&mut self, entry: &Entry, known: &[&str], path: &str, name: &str) {
        let spelled = |known: &&str| match path {
            "" => format!("`{}`", self.source.spelled(known)),
            _ => format!("`{known}`"),
        };
        let meant = Some(&*entry.name).filter(|name| name.len() <= MAX_NAME);
        let meant = meant.and_then(|name| nearest(name, known.iter().copied()));
        let advice =
            meant.map_or_else(String::new, |name| format!("did you mean {}?", spelled(&name)));
        let known: Vec<_> = known.iter().map(spelled).collect();
        let expected = match known.as_slice() {
            [one] => one.clone(),
            [one, other] => format!("{one} or {other}"),
            names => format!("one of {}", names.join(", ")),
        };
        let unknown = cut(&entry.name);
        let reason = format_args!("unknown field `{unknown}`, expected {expected}");
        self.refuse(name, entry.position, reason, &advice);
    }

    fn refuse(&mut self, name: &str, position: Position, reason: fmt::Arguments<'_>, advice: &str) {
        let separator = if name.is_empty() { "" } else { ": " };
        let reason = format_args!("{name}{separator}{reason}");
        self.findings.refuse_text(Some(position), reason, advice);
    }

    /// Finds variables in `text` that are not set, or not replaced. Does not repeat the value, which may
    /// be a secret.
    fn variables(&mut self, field: &Field, text: &str, at: At) {
        if !text.contains('$') || self.source.flags.get(field.flag).is_some() {
            return;
        }
        let expansion = self.source.expansion(field.expansion);
        if !expansion.applies_to(text) {
            if let Some((place, advice)) = expansion.unreplaced(text) {
                let message = format_args!("a variable is not replaced {place}");
                self.findings.warn(at, message, advice);
            }
            return;
        }
        let expanded = expansion.expand(text, self.source.env);
        let is_credential = is_credential(text);
        if expanded.unset.is_empty() {
            if let Err(why) = self.source.filled_in(field, text) {
                let advice = "load it in the unit of the service, such as by LoadCredential=";
                self.findings.refuse(at, why, advice);
                self.findings.is_whole = false;
            }
            return;
        }
        if expanded.text.trim().is_empty() || is_credential {
            let advice = match is_credential {
                true => "systemd sets it for a service whose unit has LoadCredential=",
                false => {
                    "set the variable in the environment of the server, or write \"\" for nothing"
                }
            };
            self.findings.refuse(at, unset(&expanded.unset), advice);
            self.findings.is_whole = false;
        } else {
            let unset = unset(&expanded.unset);
            let message = format_args!("a part of the value is missing: {unset}");
            self.findings.warn(at, message, "set the variable, or remove it");
        }
    }
}

/// Says that these environment variables are not set.
fn unset(names: &[String]) -> String {
    let mut names: Vec<_> = names.iter().map(|name| format!("${{{name}}}")).collect();
    names.sort_unstable();
    names.dedup();
    match names.as_slice() {
        [one] => format!("environment variable {one} is empty or not set"),
        names => format!("environment variables {} are empty or not set", names.join(" and ")),
    }
}
