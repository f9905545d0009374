//! The fields of a configuration file, in one table, and whether a file keeps to it.
//!
//! Knows the shape of a file: names, and what is a single value, a list or a map. What a value means
//! is decided in `load` and `stores`.

use std::collections::HashSet;

use super::{
    Position,
    expand::Expansion,
    tree::{Entry, Node, Value},
};

/// What a field holds. Every field may be missing or null.
pub(super) enum Kind {
    /// A single value, and what becomes of variables in it.
    Text(Expansion),
    /// A list, and what each of its items holds.
    List(&'static Kind),
    /// A map with these fields; others are an error.
    Map(&'static [Field]),
    /// A map with these fields; others are ignored.
    Open(&'static [Field]),
    /// A map with any names; the words for it, and what each of its fields holds.
    Named(&'static str, &'static Kind),
    /// The one or the other: which shows in the file. The words for both.
    Either(&'static str, &'static Kind, &'static Kind),
}

/// The name of a field, and what it holds.
pub(super) struct Field(&'static str, Kind);

use Kind::{Either, List, Map, Named, Open};

/// A value that may be a variable.
const TEXT: Kind = Kind::Text(Expansion::Whole);
/// A list of such values.
const TEXTS: Kind = List(&TEXT);

/// The two formats that have a `root`: with the key store under `keys` (KES up to 0.13.5), and with
/// the key store under `keystore` and a list of key names under `keys` (0.13.6 to 0.14).
pub(super) const FILE: &Kind = &Map(&[
    Field("address", TEXT),
    Field("root", TEXT),
    Field(
        "tls",
        Map(&[
            Field("key", TEXT),
            Field("cert", TEXT),
            Field("groups", TEXTS),
            Field(
                "proxy",
                Map(&[Field("identities", TEXTS), Field("header", Map(&[Field("cert", TEXT)]))]),
            ),
        ]),
    ),
    Field("policy", Named("a map of policies by name", POLICY)),
    Field(
        "cache",
        Map(&[Field(
            "expiry",
            Map(&[Field("any", TEXT), Field("unused", TEXT), Field("offline", TEXT)]),
        )]),
    ),
    Field("log", Map(&[Field("error", Kind::Text(Expansion::Parts)), Field("audit", TEXT)])),
    Field("probe", Map(&[Field("address", TEXT)])),
    Field("limits", Map(&[Field("connections", TEXT)])),
    Field("keys", Either("a list of key names or a key store", KEY_NAMES, STORES)),
    Field("keystore", Map(STORE_FIELDS)),
]);

const POLICY: &Kind =
    &Map(&[Field("paths", List(&Kind::Text(Expansion::Never))), Field("identities", TEXTS)]);

const KEY_NAMES: &Kind = &List(&Map(&[Field("name", TEXT)]));
const STORES: &Kind = &Map(STORE_FIELDS);

/// The key store section: at most one of them is filled in. Those that are known by name only keep
/// their one telling field.
const STORE_FIELDS: &[Field] = &[
    Field("required", TEXT),
    Field("fs", Map(&[Field("path", TEXT)])),
    Field(
        "vault",
        Map(&[
            Field("endpoint", TEXT),
            Field("engine", TEXT),
            Field("version", TEXT),
            Field("namespace", TEXT),
            Field("prefix", TEXT),
            Field("transit", Map(&[Field("engine", TEXT), Field("key", TEXT)])),
            Field(
                "approle",
                Map(&[
                    Field("engine", TEXT),
                    Field("namespace", TEXT),
                    Field("id", TEXT),
                    Field("secret", TEXT),
                    Field("retry", TEXT),
                ]),
            ),
            Field(
                "kubernetes",
                Map(&[
                    Field("engine", TEXT),
                    Field("namespace", TEXT),
                    Field("role", TEXT),
                    Field("jwt", TEXT),
                    Field("retry", TEXT),
                ]),
            ),
            Field("tls", Map(&[Field("key", TEXT), Field("cert", TEXT), Field("ca", TEXT)])),
            Field("status", Map(&[Field("ping", TEXT)])),
        ]),
    ),
    Field(
        "gemalto",
        Map(&[Field(
            "keysecure",
            Map(&[
                Field("endpoint", TEXT),
                Field(
                    "credentials",
                    Map(&[Field("token", TEXT), Field("domain", TEXT), Field("retry", TEXT)]),
                ),
                Field("tls", Map(&[Field("ca", TEXT)])),
            ]),
        )]),
    ),
    Field("generic", Open(&[Field("endpoint", TEXT)])),
    Field("aws", Map(&[Field("secretsmanager", Open(&[Field("endpoint", TEXT)]))])),
    Field("gcp", Map(&[Field("secretmanager", Open(&[Field("project_id", TEXT)]))])),
];

/// One step from a value to a value inside it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Step<'a> {
    Field(&'a str),
    Item(usize),
}

/// What a walk along the table comes across.
pub(super) enum Found<'a> {
    /// A single value, and what becomes of variables in it.
    Text(&'a str, Expansion),
    /// A value that is neither null nor what the field holds; what that is.
    Misfit(&'static str, &'a Node),
    /// A field that the map does not have, and those that it has.
    Unknown(&'a str, &'static [Field]),
    /// A field that the map had before.
    Twice(&'a str),
}

/// Walks through `node`, which should hold `kind`, and tells `look` what is there, with the steps to
/// it and its place. Steps to a field that should not be there end at the map that has it.
pub(super) fn walk<'a>(
    node: &'a Node,
    kind: &'static Kind,
    steps: &mut Vec<Step<'a>>,
    look: &mut dyn FnMut(&[Step<'a>], Position, Found<'a>),
) {
    let expected = match (kind, &node.value) {
        (_, Value::Null) => return,
        (Kind::Text(expansion), Value::Text(text)) => {
            return look(steps, node.position, Found::Text(text, *expansion));
        }
        (List(kind), Value::List(items)) => {
            for (index, item) in items.iter().enumerate() {
                steps.push(Step::Item(index));
                walk(item, kind, steps, look);
                steps.pop();
            }
            return;
        }
        (Map(_) | Open(_) | Named(..), Value::Map(entries)) => {
            return walk_map(entries, kind, steps, look);
        }
        (Either(_, list, _), Value::List(_)) => return walk(node, list, steps, look),
        (Either(_, _, map), Value::Map(_)) => return walk(node, map, steps, look),
        (Kind::Text(_), _) => "a string",
        (List(_), _) => "a list",
        (Map(_) | Open(_), _) => "a map of fields",
        (Named(words, _) | Either(words, ..), _) => words,
    };
    look(steps, node.position, Found::Misfit(expected, node));
}

fn walk_map<'a>(
    entries: &'a [Entry],
    kind: &'static Kind,
    steps: &mut Vec<Step<'a>>,
    look: &mut dyn FnMut(&[Step<'a>], Position, Found<'a>),
) {
    let mut seen = HashSet::new();
    for entry in entries {
        let name: &str = &entry.name;
        let kind = match kind {
            Map(fields) | Open(fields) => {
                let known = fields.iter().find(|field| field.0 == name);
                match (known, kind) {
                    (Some(Field(_, kind)), _) => kind,
                    (None, Open(_)) => continue,
                    (None, _) => {
                        look(steps, entry.position, Found::Unknown(name, fields));
                        continue;
                    }
                }
            }
            Named(_, kind) => kind,
            _ => return,
        };
        if !seen.insert(name) {
            look(steps, entry.position, Found::Twice(name));
            continue;
        }
        steps.push(Step::Field(name));
        walk(&entry.node, kind, steps, look);
        steps.pop();
    }
}

/// The names of `fields` as a message lists them.
pub(super) fn names(fields: &[Field]) -> String {
    let names: Vec<_> = fields.iter().map(|field| format!("`{}`", field.0)).collect();
    match names.as_slice() {
        [one] => one.clone(),
        [one, other] => format!("{one} or {other}"),
        names => format!("one of {}", names.join(", ")),
    }
}

/// The name of a field, such as `policy.my-app.paths[0]`.
pub(super) fn dotted(steps: &[Step<'_>]) -> String {
    let mut field = String::new();
    for step in steps {
        match step {
            Step::Field(name) => {
                if !field.is_empty() {
                    field.push('.');
                }
                field += &super::error::cut(name);
            }
            Step::Item(index) => field += &format!("[{index}]"),
        }
    }
    field
}

/// The steps to a field from its dotted name.
pub(super) fn steps(dotted: &str) -> Vec<Step<'_>> {
    dotted.split('.').map(Step::Field).collect()
}
