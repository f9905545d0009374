//! Which key store is configured: a table of all that there are, one file each.

mod fs;
mod keysecure;
mod vault;

use std::{net::Ipv6Addr, num::NonZero, sync::Arc};

use super::{
    fields::{FOREIGN, Field, field},
    files::Look,
    findings::{At, cut},
    settings::{parse_number, parse_switch},
    source::{Reader, Source},
};
use crate::{
    keystore::{Settings, Start, mem},
    web::proxy::is_this_machine,
};

/// A kind of key store, and its section in the file.
pub(super) struct Store {
    /// What messages call it.
    name: &'static str,
    /// The fields of its section. The first one (path or endpoint) selects it if it is filled in.
    pub(super) fields: &'static [Field],
    /// Reads the section. Without it, the key store is known by name only.
    read: Option<Read>,
    /// Looks at the files that the section names.
    look: fn(&mut Look<'_>),
}

/// A key store that other versions of KES have.
macro_rules! elsewhere {
    ($name:literal, $section:literal, $field:literal, $kind:literal) => {
        Store {
            name: $name,
            fields: &[
                field(
                    concat!("keystore.", $section, ".", $field),
                    $kind,
                    concat!($name, ": not supported"),
                ),
                field(concat!("keystore.", $section, ".*"), FOREIGN, ""),
            ],
            read: None,
            look: |_| {},
        }
    };
}

type Read = fn(&mut Reader<'_>) -> Option<Arc<dyn Settings>>;

/// All key stores.
pub(super) const STORES: &[Store] = &[
    fs::STORE,
    vault::STORE,
    keysecure::STORE,
    elsewhere!("a generic plugin", "generic", "endpoint", "URL"),
    elsewhere!("AWS Secrets Manager", "aws.secretsmanager", "endpoint", "URL"),
    elsewhere!("GCP Secret Manager", "gcp.secretmanager", "project_id", "text"),
    elsewhere!("Azure Key Vault", "azure.keyvault", "endpoint", "URL"),
    elsewhere!("Fortanix SDKMS", "fortanix.sdkms", "endpoint", "URL"),
    elsewhere!("Entrust KeyControl", "entrust.keycontrol", "endpoint", "URL"),
    elsewhere!("another KES server", "kes", "endpoint[]", "URLs"),
];

/// The time between attempts to log in.
const RETRY: &str = "5s";

/// What an endpoint has to be.
const URL: &str = "write a URL without credentials, such as https://127.0.0.1:8200";

/// The field for the authorities that issue a key store's certificate.
const fn authorities(path: &'static str) -> Field {
    let about = "authorities to trust: a PEM file, or a directory of such files";
    field(path, "file", about).unset("those of the system")
}

impl Store {
    /// The field that selects it.
    fn field(&self) -> &'static str {
        self.fields[0].path.trim_end_matches("[]")
    }

    /// The name of its section.
    fn section(&self) -> &'static str {
        let section = self.field().rsplit_once('.').map_or("", |(section, _)| section);
        section.trim_start_matches("keystore.")
    }

    fn is_selected(&self, source: &Source) -> bool {
        match self.fields[0].path {
            list if list.ends_with("[]") => source.items(list).any(|(_, text)| !text.is_empty()),
            path => source.is_set(path),
        }
    }
}

/// The key stores that this server has.
fn ours() -> impl Iterator<Item = &'static Store> {
    STORES.iter().filter(|store| store.read.is_some())
}

/// The key stores that `source` selects.
fn selected(source: &Source) -> Vec<&'static Store> {
    STORES.iter().filter(|store| store.is_selected(source)).collect()
}

/// Looks at the files that the section of the key store names.
pub(super) fn look(look: &mut Look<'_>) {
    if let [store] = *selected(look.source) {
        (store.look)(look);
    }
}

impl Reader<'_> {
    /// The key store, and whether the server needs it to start. In the place of one that is wrong is
    /// that in memory.
    pub(super) fn key_store(&mut self) -> (Arc<dyn Settings>, Start) {
        let start = match self.get("keystore.required", parse_switch) {
            true => Start::Required,
            false => Start::Optional,
        };
        (self.selected().unwrap_or_else(|| Arc::new(mem::Settings)), start)
    }

    fn selected(&mut self) -> Option<Arc<dyn Settings>> {
        let stores = selected(self.source);
        if let Some(store) = stores.iter().find(|store| store.read.is_none()) {
            let message = format_args!("{} is not supported as key store", store.name);
            let ours: Vec<_> = ours().map(Store::section).collect();
            let advice = format!(
                "use one of {}, and copy the keys there with the 'migrate' command of the KES that \
                 has used this one",
                ours.join(", ")
            );
            self.findings.refuse(self.source.at(store.field()), message, &advice);
            return None;
        }
        match *stores {
            [] => self.in_memory(),
            [store] => return store.read.and_then(|read| read(self)),
            [first, second, ..] => {
                let are = if second.field() == vault::ENDPOINT { "" } else { " are" };
                let (first, at, second) = (first.name, self.source.at(second.field()), second.name);
                self.findings.refuse(
                    at,
                    format_args!(
                        "ambiguous configuration: {first} and {second} endpoint{are} specified at the \
                         same time"
                    ),
                    "keep the one key store that holds the keys",
                );
            }
        }
        None
    }

    /// The key store in memory is an error if the section is there, if only its name. Templates list
    /// all stores and leave those empty that are not meant, so this is asked where none is filled in.
    fn in_memory(&mut self) {
        let is_optional = !self.source.format.is_newest();
        if is_optional && self.source.find("keystore").is_none() {
            if self.findings.is_whole {
                self.findings.warn(
                    At::new("keystore", None),
                    "no key store: keys live in memory and are gone when the server ends",
                    "set \"keystore.fs.path\" to a directory for them",
                );
            }
            return;
        }
        let is_there = |field: &&str| {
            let end = field.match_indices('.').nth(1).map_or(0, |(end, _)| end);
            self.source.find(&field[..end]).is_some()
        };
        let field = ours().map(Store::field).find(is_there).unwrap_or(fs::PATH);
        // What there is of the way to the field has a place.
        let mut way = std::iter::successors(Some(field), |part| Some(part.rsplit_once('.')?.0));
        let position = way.find_map(|part| self.source.at(part).position);
        let (message, advice) = match is_optional {
            true => (
                "no key store: a section is there but does not say where",
                "fill in the field, or that of another key store, or leave out the section for an \
                 in-memory key store",
            ),
            false => ("no key store specified", "fill in the field, or that of another key store"),
        };
        self.findings.miss(At::new(self.source.spelled(field), position), message, advice);
    }

    /// The URL of `store`, whose API has paths that begin with one of `own`.
    fn endpoint(&mut self, field: &str, store: &str, own: [&str; 2]) -> Option<String> {
        let (text, at) = (self.source.text(field), self.source.at(field));
        let (endpoint, is_readable) = match parse_endpoint(&text) {
            Ok(found) => found,
            Err(Wrong::Url) => {
                self.refuse(field, at, &text);
                return None;
            }
            Err(Wrong::Port) => {
                let message = format_args!("invalid port in the {store} endpoint");
                let advice = "write a number from 1 to 65535 after the host, such as :8200";
                self.findings.refuse(at, message, advice);
                return None;
            }
        };
        if is_readable {
            let message = format_args!("keys and the token go to {store} unencrypted");
            self.findings.warn(self.source.at(field), message, "write https://");
        }
        // Another path may be that of a proxy in front of it.
        let path = endpoint.split_once("://").and_then(|(_, rest)| rest.split_once('/'));
        if let Some((_, path)) = path
            && path.split('/').any(|segment| own.contains(&segment))
        {
            let message = format_args!(
                "the server adds the path of the API itself, behind \"/{}\"",
                cut(path)
            );
            self.findings.warn(at, message, "end the URL after host and port");
        }
        Some(endpoint)
    }
}

/// Why a text is no endpoint.
enum Wrong {
    Url,
    Port,
}

/// An http or https URL with a host and without credentials, its trailing slashes removed, and whether others can read
/// what goes there: without TLS, to another machine.
fn parse_endpoint(text: &str) -> Result<(String, bool), Wrong> {
    let text = text.trim_end_matches('/');
    let (scheme, rest) = text.split_once("://").ok_or(Wrong::Url)?;
    let authority = rest.split('/').next().unwrap_or_default();
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (ip, port) = rest.split_once(']').ok_or(Wrong::Url)?;
            ip.parse::<Ipv6Addr>().map_err(|_| Wrong::Url)?;
            (ip, port)
        }
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let is_http = scheme.eq_ignore_ascii_case("http");
    let is_sound = (scheme.eq_ignore_ascii_case("https") || is_http)
        && !host.is_empty()
        && !authority.contains('@')
        && !rest.contains(['?', '#'])
        && !rest.contains(|c: char| c.is_whitespace() || c.is_control());
    if !is_sound {
        return Err(Wrong::Url);
    }
    let is_port =
        |port: &str| port.strip_prefix(':').and_then(parse_number::<NonZero<u16>>).is_some();
    match port.is_empty() || is_port(port) {
        true => Ok((text.to_owned(), is_http && !is_this_machine(&host.to_ascii_lowercase()))),
        false => Err(Wrong::Port),
    }
}
