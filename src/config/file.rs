//! The configuration file as it is written: YAML in, optional strings out.
//!
//! Reads the two formats that have a `root` (key store under `keys`, or under `keystore` with a list
//! of key names under `keys`), strictly: an unknown or repeated field is an error. Only this file
//! knows the YAML parser; what the strings mean is decided in `load`.

use std::{cell::Cell, collections::HashSet, fmt};

use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};

use super::{
    check::{self, Check, Shape},
    error::Position,
    fill::{Either, Fill, List, Map, Place, Slot, Value},
};
use crate::words;

/// Declares the maps of the file. Every field may be missing or null. Other fields are an error in
/// the maps that are marked as strict, and ignored in the others.
macro_rules! maps {
    ($($(#[$doc:meta])* $kind:ident $name:ident { $($field:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Default)]
        pub(super) struct $name { $(pub(super) $field: Option<$type>,)* }

        impl Value for $name {
            fn place(&mut self) -> Place<'_> {
                Place::Map(self)
            }
        }

        impl Map for $name {
            fn names(&self) -> Option<&'static [&'static str]> {
                maps!(@$kind $($field)*)
            }

            fn field(&mut self, name: &str) -> Option<&mut dyn Slot> {
                match name {
                    $(stringify!($field) => Some(&mut self.$field),)*
                    _ => None,
                }
            }
        }
    )*};
    (@strict $($field:ident)*) => { Some(&[$(stringify!($field)),*]) };
    (@lenient $($field:ident)*) => { None };
}

maps! {
    /// The whole file.
    strict File {
        address: String,
        root: String,
        tls: Tls,
        policy: PolicyMap,
        cache: Cache,
        log: Log,
        probe: Probe,
        keys: Keys,
        keystore: Stores,
    }
    strict Tls { key: String, cert: String, groups: Vec<Option<String>>, proxy: Proxy, }
    strict Proxy { identities: Vec<Option<String>>, header: Header, }
    strict Header { cert: String, }
    strict Policy { paths: Vec<Option<String>>, identities: Vec<Option<String>>, }
    strict Cache { expiry: Expiry, }
    strict Expiry { any: String, unused: String, offline: String, }
    strict Log { error: String, audit: String, }
    strict Probe { address: String, }
    strict Key { name: String, }
    /// The key store section: at most one of them is filled in.
    strict Stores {
        required: String,
        fs: Fs,
        vault: Vault,
        gemalto: Gemalto,
        generic: Generic,
        aws: Aws,
        gcp: Gcp,
    }
    strict Fs { path: String, }
    strict Vault {
        endpoint: String,
        engine: String,
        version: String,
        namespace: String,
        prefix: String,
        transit: Transit,
        approle: AppRole,
        kubernetes: Kubernetes,
        tls: VaultTls,
        status: Status,
    }
    strict Transit { engine: String, key: String, }
    strict AppRole { engine: String, namespace: String, id: String, secret: String, retry: String, }
    strict Kubernetes { engine: String, namespace: String, role: String, jwt: String, retry: String, }
    strict VaultTls { key: String, cert: String, ca: String, }
    strict Status { ping: String, }
    strict Gemalto { keysecure: KeySecure, }
    strict KeySecure { endpoint: String, credentials: Credentials, tls: Ca, }
    strict Credentials { token: String, domain: String, retry: String, }
    strict Ca { ca: String, }
    strict Aws { secretsmanager: SecretsManager, }
    strict Gcp { secretmanager: SecretManager, }

    // The key stores that are known by name only keep their one telling field.
    lenient Generic { endpoint: String, }
    lenient SecretsManager { endpoint: String, }
    lenient SecretManager { project_id: String, }
}

/// `keys` is the key store in the older format and a list of key names in the newer one: of the two
/// there is the one that was read.
#[derive(Default)]
pub(super) struct Keys {
    pub(super) stores: Option<Box<Stores>>,
    pub(super) names: Option<Vec<Option<Key>>>,
}

impl Value for Keys {
    fn place(&mut self) -> Place<'_> {
        Place::Either(self)
    }
}

impl Either for Keys {
    fn expected(&self) -> &'static str {
        "a list of key names or a key store"
    }

    fn list(&mut self) -> &mut dyn List {
        self.names.insert(Vec::new())
    }

    fn map(&mut self) -> &mut dyn Map {
        &mut **self.stores.insert(Box::default())
    }
}

/// Policies by name, in the order of the file.
#[derive(Default)]
pub(super) struct PolicyMap(pub(super) Vec<(String, Option<Policy>)>);

impl Value for PolicyMap {
    fn place(&mut self) -> Place<'_> {
        Place::Map(self)
    }
}

impl Map for PolicyMap {
    fn expected(&self) -> &'static str {
        "a map of policies by name"
    }

    fn names(&self) -> Option<&'static [&'static str]> {
        None
    }

    fn field(&mut self, name: &str) -> Option<&mut dyn Slot> {
        self.0.push((name.to_owned(), None));
        Some(&mut self.0.last_mut()?.1)
    }
}

/// What keeps a text from being a configuration file.
#[derive(Debug, PartialEq)]
pub(super) enum Fault {
    /// It has a field (`admin` or `version`) that only the format of newer versions has.
    NewerFormat(&'static str),
    /// It is not YAML, or not of the right shape.
    Syntax(Option<Position>, String),
}

/// Reads a file. One that holds no YAML value is the same as an empty one.
pub(super) fn parse(text: &str) -> Result<File, Fault> {
    let fields = first_look(text)?;
    if let Some(field) = ["admin", "version"]
        .into_iter()
        .find(|field| fields.contains(*field))
    {
        return Err(Fault::NewerFormat(field));
    }
    if fields.is_empty() {
        return Ok(File::default());
    }
    let mut file: Option<File> = None;
    let document = serde_yaml_ng::Deserializer::from_str(text);
    Fill(&mut file).deserialize(document).map_err(|error| {
        let mut fault = Fault::from(error, text);
        if let Fault::Syntax(_, reason) = &mut fault
            && reason.starts_with("keys: unknown field")
            && fields.contains("keystore")
        {
            *reason = "keys: beside \"keystore\", this is a list of key names such as \
                       \"- name: my-key\""
                .into();
        }
        fault
    })?;
    Ok(file.unwrap_or_default())
}

/// Whether `text` is YAML whose fields can be looked at, or would be if none were repeated.
pub(super) fn is_readable(text: &str) -> bool {
    match first_look(text) {
        Err(Fault::Syntax(_, reason)) => reason.contains(check::TWICE),
        _ => true,
    }
}

/// The names of the outermost fields.
fn first_look(text: &str) -> Result<HashSet<String>, Fault> {
    let fault = |error| Fault::from(error, text);
    if check::nesting(text) > check::MAX_NESTING {
        let reason = "brackets are nested too deeply; close them or leave them out";
        return Err(Fault::Syntax(None, reason.into()));
    }
    let mut documents = serde_yaml_ng::Deserializer::from_str(text);
    let Some(first) = documents.next() else {
        return Ok(HashSet::new());
    };
    let values_left = Cell::new(check::most_values(text));
    let shape = Check::new(&values_left).deserialize(first);
    let fields = match shape.map_err(fault)? {
        Shape::Nothing => HashSet::new(),
        Shape::Value => {
            let reason = "expected a map of fields such as \"root: disabled\"".into();
            return Err(Fault::Syntax(locate(text, &[]), reason));
        }
        Shape::Map(fields) => fields,
    };
    if let Some(second) = documents.next() {
        let reason = "more than one YAML document; keep one and remove the \"---\" after it";
        return Err(Fault::Syntax(locate_in(second, &[]), reason.into()));
    }
    Ok(fields)
}

impl Fault {
    /// Rewords an error of the YAML parser: the place apart from the text, and without the value
    /// that has the wrong type, which may be a secret.
    fn from(error: serde_yaml_ng::Error, text: &str) -> Self {
        let mut reason = error.to_string();
        let position = error.location().map(|location| Position {
            line: location.line(),
            column: location.column(),
        });
        if let Some(Position { line, column }) = position {
            reason = reason.replacen(&format!(" at line {line} column {column}"), "", 1);
            let indent_has_tab = text
                .lines()
                .nth(line - 1)
                .is_some_and(|line| line.trim_start_matches(' ').starts_with('\t'));
            match words::of_yaml(&reason) {
                Some(_) if indent_has_tab => reason = "the line begins with a tab".into(),
                Some(words) => reason = words,
                None => {}
            }
            if indent_has_tab {
                reason += "; indent with spaces, not with tabs";
            }
        }
        if reason.starts_with("repetition limit exceeded") {
            reason = check::TOO_MANY.into();
        }
        for kind in ["invalid type: ", "invalid value: "] {
            let Some((before, after)) = reason.split_once(kind) else {
                continue;
            };
            let (found, expected) = after.rsplit_once(", expected ").unwrap_or((after, ""));
            let found = found.split([' ', ',']).next().unwrap_or("value");
            let (expected, found) = (plain(expected), plain(found));
            reason = format!("{before}expected {expected}, found {found}");
            break;
        }
        Self::Syntax(position, reason)
    }
}

/// The word for a type of value as the message should have it.
fn plain(found: &str) -> &str {
    match found {
        "sequence" | "a sequence" => "a list",
        "map" => "a map",
        "string" => "a string",
        "integer" | "floating" => "a number",
        "boolean" => "true or false",
        "unit" => "nothing",
        other => other,
    }
}

/// Shows `look` all texts of a file that can be parsed, with the paths to them.
pub(super) fn each_text(text: &str, mut look: impl FnMut(&[Step<'_>], &str)) {
    fn walk<'a>(
        value: &'a serde_yaml_ng::Value,
        path: &mut Vec<Step<'a>>,
        look: &mut dyn FnMut(&[Step<'_>], &str),
    ) {
        use serde_yaml_ng::Value;
        match value {
            Value::String(text) => look(path, text),
            Value::Sequence(items) => {
                for (index, item) in items.iter().enumerate() {
                    path.push(Step::Item(index));
                    walk(item, path, look);
                    path.pop();
                }
            }
            Value::Mapping(fields) => {
                for (name, value) in fields {
                    path.push(Step::Field(name.as_str().unwrap_or_default()));
                    walk(value, path, look);
                    path.pop();
                }
            }
            _ => {}
        }
    }
    if let Ok(value) = serde_yaml_ng::from_str(text) {
        walk(&value, &mut Vec::new(), &mut look);
    }
}

/// One step from a value to a value inside it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Step<'a> {
    Field(&'a str),
    Item(usize),
}

/// Where in `text` the value at the end of `path` is; `None` if it isn't there.
///
/// The parser tells places with errors only, so this walks down the path and fails at its end.
pub(super) fn locate(text: &str, path: &[Step<'_>]) -> Option<Position> {
    locate_in(serde_yaml_ng::Deserializer::from_str(text), path)
}

fn locate_in(document: serde_yaml_ng::Deserializer<'_>, path: &[Step<'_>]) -> Option<Position> {
    let location = Walk(path).deserialize(document).err()?.location()?;
    Some(Position {
        line: location.line(),
        column: location.column(),
    })
}

/// See [`locate`].
struct Walk<'a>(&'a [Step<'a>]);

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// At the end of the path every value has the wrong type, and the error has its place.
impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("to be elsewhere")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        if self.0.is_empty() {
            return Err(E::custom("found"));
        }
        Ok(())
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<(), E> {
        self.visit_unit()
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((Step::Field(wanted), rest)) = self.0.split_first() else {
            return Err(A::Error::custom("found"));
        };
        while let Some(field) = map.next_key::<String>()? {
            if field == *wanted {
                map.next_value_seed(Walk(rest))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Some((Step::Item(wanted), rest)) = self.0.split_first() else {
            return Err(A::Error::custom("found"));
        };
        for _ in 0..*wanted {
            list.next_element::<IgnoredAny>()?;
        }
        list.next_element_seed(Walk(rest))?;
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }
}
