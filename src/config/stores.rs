//! Which key store is configured, and its settings.

use std::{
    net::Ipv6Addr,
    num::NonZero,
    path::{Path, PathBuf},
};

use super::{
    findings::{At, cut},
    settings::{parse_number, parse_switch},
    source::Reader,
    types::KeyStoreConfig,
};
use crate::{
    base::secret::Secret,
    keystore::{
        ClientCert, Start, keysecure,
        vault::{self, Jwt, Login, Transit, Version},
    },
};

/// A kind of key store, which a field (path or endpoint) selects that is filled in.
struct Store {
    field: &'static str,
    name: &'static str,
    /// Reads its settings. Without it, the key store is known by name only.
    read: Option<fn(&mut Reader<'_>) -> Option<KeyStoreConfig>>,
}

const FS: &str = "keystore.fs.path";
const VAULT: &str = "keystore.vault.endpoint";
const KEY_SECURE: &str = "keystore.gemalto.keysecure.endpoint";

#[rustfmt::skip] // a row is a line
const STORES: &[Store] = &[
    Store { field: FS, name: "FS", read: Some(|reader| reader.fs()) },
    Store { field: VAULT, name: "Hashicorp Vault", read: Some(|reader| reader.vault()) },
    Store { field: KEY_SECURE, name: "Gemalto KeySecure", read: Some(|reader| reader.key_secure()) },
    Store { field: "keystore.generic.endpoint", name: "a generic plugin", read: None },
    Store { field: "keystore.aws.secretsmanager.endpoint", name: "AWS Secrets Manager", read: None },
    Store { field: "keystore.gcp.secretmanager.project_id", name: "GCP Secret Manager", read: None },
];

impl Reader<'_> {
    /// The key store, and whether the server needs it to start. In the place of one that is wrong is
    /// that in memory.
    pub(super) fn key_store(&mut self) -> (KeyStoreConfig, Start) {
        let start = match self.get("keystore.required", parse_switch) {
            true => Start::Required,
            false => Start::Optional,
        };
        (self.selected().unwrap_or_default(), start)
    }

    fn selected(&mut self) -> Option<KeyStoreConfig> {
        let is_set = |store: &&Store| self.source.is_set(store.field);
        let stores: Vec<_> = STORES.iter().filter(is_set).collect();
        if let Some(Store { field, name, .. }) = stores.iter().find(|store| store.read.is_none()) {
            let message = format_args!("{name} is not supported as key store");
            let advice = "use fs, vault or gemalto.keysecure";
            self.findings.refuse(self.source.at(field), message, advice);
            return None;
        }
        match stores.as_slice() {
            [] => self.in_memory(),
            [store] => return store.read.and_then(|read| read(self)),
            [first, second, ..] => {
                let are = if second.field == VAULT { "" } else { " are" };
                let (first, field, second) = (first.name, second.field, second.name);
                self.findings.refuse(
                    self.source.at(field),
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
        if self.source.find("keystore").is_none() {
            if self.findings.is_whole {
                self.findings.warn(
                    At::new("keystore", None),
                    "no key store: keys live in memory and are gone when the server ends",
                    "set \"keystore.fs.path\" to a directory for them",
                );
            }
            return;
        }
        let is_there = |store: &&Store| {
            let end = store.field.match_indices('.').nth(1).map_or(0, |(end, _)| end);
            store.read.is_some() && self.source.find(&store.field[..end]).is_some()
        };
        let field = STORES.iter().find(is_there).map_or(FS, |store| store.field);
        // What there is of the way to the field has a place.
        let mut way = std::iter::successors(Some(field), |part| Some(part.rsplit_once('.')?.0));
        let position = way.find_map(|part| self.source.at(part).position);
        self.findings.miss(
            At::new(self.source.spelled(field), position),
            "no key store: a section is there but does not say where",
            "fill in the field, or that of another key store, or leave out the section for an \
             in-memory key store",
        );
    }

    fn fs(&mut self) -> Option<KeyStoreConfig> {
        Some(KeyStoreConfig::Fs { path: self.source.text(FS).into() })
    }

    fn vault(&mut self) -> Option<KeyStoreConfig> {
        let endpoint = self.endpoint(VAULT, "Hashicorp Vault", ["v1", "ui"]);
        let version = self.get("keystore.vault.version", |text| match text {
            "v1" => Some(Version::V1),
            "v2" => Some(Version::V2),
            _ => None,
        });
        let transit = self.transit();
        let (login, method) = self.login()?;
        let client_cert = self.client_cert();
        let login_namespace = self.namespace(&format!("keystore.vault.{method}.namespace"));
        Some(KeyStoreConfig::Vault(Box::new(vault::Settings {
            endpoint: endpoint?,
            engine: self.source.text("keystore.vault.engine"),
            version,
            namespace: self.namespace("keystore.vault.namespace"),
            prefix: self.source.text("keystore.vault.prefix"),
            transit,
            login,
            login_namespace: Some(login_namespace).filter(|namespace| !namespace.is_empty()),
            retry: self.time(&format!("keystore.vault.{method}.retry")),
            client_cert,
            ca: self.source.filled("keystore.vault.tls.ca").map(PathBuf::from),
            ping: self.time("keystore.vault.status.ping"),
        })))
    }

    fn transit(&mut self) -> Option<Transit> {
        let (engine, key) = ("keystore.vault.transit.engine", "keystore.vault.transit.key");
        let is_meant = self.source.is_set(engine) || self.source.is_set(key);
        let key = if is_meant { self.required(key) } else { None };
        Some(Transit { engine: self.source.text(engine), key: key? })
    }

    /// How to log in to Vault, and the part of the section that says so.
    fn login(&mut self) -> Option<(Login, &'static str)> {
        let filled = |field| self.source.filled(&format!("keystore.vault.{field}"));
        let engine = |method| self.source.text(&format!("keystore.vault.{method}.engine"));
        let (id, secret) = (filled("approle.id"), filled("approle.secret"));
        let (role, jwt) = (filled("kubernetes.role"), filled("kubernetes.jwt"));
        let has_both = (id.is_some() || secret.is_some()) && (role.is_some() || jwt.is_some());
        let at = self.source.at("keystore.vault");
        match (id, secret, role, jwt) {
            _ if has_both => self.findings.refuse(
                at,
                "invalid configuration: Vault AppRole and Kubernetes credentials are specified at \
                 the same time",
                "keep either \"approle\" or \"kubernetes\"",
            ),
            (Some(id), Some(secret), ..) => {
                let secret = Secret::new(secret.into_bytes());
                return Some((Login::AppRole { engine: engine("approle"), id, secret }, "approle"));
            }
            (_, _, Some(role), Some(jwt)) => {
                let jwt = token_or_file(Secret::new(jwt.into_bytes()));
                let engine = engine("kubernetes");
                return Some((Login::Kubernetes { engine, role, jwt }, "kubernetes"));
            }
            _ => self.findings.miss(
                at,
                "failed to connect to Vault: vault: no or empty authentication credentials \
                 specified",
                "set \"id\" and \"secret\" of \"approle\", or \"role\" and \"jwt\" of \"kubernetes\"",
            ),
        }
        None
    }

    fn client_cert(&mut self) -> Option<ClientCert> {
        let path = |field| self.source.filled(field).map(PathBuf::from);
        let (key, cert) = (path("keystore.vault.tls.key"), path("keystore.vault.tls.cert"));
        if key.is_some() != cert.is_some() {
            self.findings.miss(
                self.source.at("keystore.vault.tls"),
                "invalid configuration: Vault TLS private key and certificate are not specified \
                 together",
                "set both \"key\" and \"cert\", or neither",
            );
        }
        Some(ClientCert { key: key?, cert: cert? })
    }

    fn key_secure(&mut self) -> Option<KeyStoreConfig> {
        let endpoint = self.endpoint(KEY_SECURE, "Gemalto KeySecure", ["api", "v1"]);
        let token = self.required("keystore.gemalto.keysecure.credentials.token")?;
        Some(KeyStoreConfig::KeySecure(Box::new(keysecure::Settings {
            endpoint: endpoint?,
            token: Secret::new(token.into_bytes()),
            domain: self.source.text("keystore.gemalto.keysecure.credentials.domain"),
            retry: self.time("keystore.gemalto.keysecure.credentials.retry"),
            ca: self.source.filled("keystore.gemalto.keysecure.tls.ca").map(PathBuf::from),
        })))
    }

    /// The URL of `store`, whose API has paths that begin with one of `own`.
    fn endpoint(&mut self, field: &str, store: &str, own: [&str; 2]) -> Option<String> {
        let (text, at) = (self.source.text(field), self.source.at(field));
        let endpoint = match parse_endpoint(&text) {
            Ok(endpoint) => endpoint,
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

    /// A namespace, which is sent as a header.
    fn namespace(&mut self, field: &str) -> String {
        let parse = |text: &str| {
            let is_line = !text.contains(|c: char| c.is_control());
            is_line.then(|| text.to_owned())
        };
        self.read(field, parse).unwrap_or_default()
    }
}

/// Why a text is no endpoint.
enum Wrong {
    Url,
    Port,
}

/// An http or https URL with a host and without credentials, its trailing slashes removed.
fn parse_endpoint(text: &str) -> Result<String, Wrong> {
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
    let is_sound = (scheme.eq_ignore_ascii_case("https") || scheme.eq_ignore_ascii_case("http"))
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
        true => Ok(text.to_owned()),
        false => Err(Wrong::Port),
    }
}

/// What `jwt` is: the path of a file that is there or that can only be meant as one, or the token.
/// Opaque tokens may have slashes, too.
fn token_or_file(jwt: Secret) -> Jwt {
    match str::from_utf8(jwt.expose()) {
        Ok(text)
            if ["/", "./", "../"].iter().any(|start| text.starts_with(start))
                || Path::new(text).is_file() =>
        {
            Jwt::File(PathBuf::from(text))
        }
        _ => Jwt::Token(jwt),
    }
}
