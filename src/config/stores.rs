//! Which key store is configured, and its settings.

use std::{
    net::Ipv6Addr,
    num::NonZero,
    path::{Path, PathBuf},
    time::Duration,
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

/// The key stores that are known by name only, with the field that selects each.
const NAMED_ONLY: [(&str, &str); 3] = [
    ("keystore.generic.endpoint", "a generic plugin"),
    ("keystore.aws.secretsmanager.endpoint", "AWS Secrets Manager"),
    ("keystore.gcp.secretmanager.project_id", "GCP Secret Manager"),
];

const FS: &str = "keystore.fs.path";
const VAULT: &str = "keystore.vault.endpoint";
const KEY_SECURE: &str = "keystore.gemalto.keysecure.endpoint";

/// A key store that a file can select.
struct Store {
    /// The field that selects it.
    field: &'static str,
    /// The section with its fields.
    section: &'static str,
    name: &'static str,
    /// What stands behind "and" where two are selected.
    as_second: &'static str,
    /// Reads its settings, and notes what is wrong with them.
    read: fn(&mut Reader<'_>) -> Option<KeyStoreConfig>,
}

/// The key stores. A new one is a row here.
const STORES: [Store; 3] = [
    Store {
        field: FS,
        section: "keystore.fs",
        name: "FS",
        as_second: "FS path",
        read: |reader| Some(KeyStoreConfig::Fs { path: reader.source.filled(FS)?.into() }),
    },
    Store {
        field: VAULT,
        section: "keystore.vault",
        name: "Hashicorp Vault",
        as_second: "Hashicorp Vault endpoint",
        read: |reader| reader.vault(),
    },
    Store {
        field: KEY_SECURE,
        section: "keystore.gemalto",
        name: "Gemalto KeySecure",
        as_second: "Gemalto KeySecure endpoint are",
        read: |reader| reader.key_secure(),
    },
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

    /// The key store whose telling field (path or endpoint) is filled in.
    fn selected(&mut self) -> Option<KeyStoreConfig> {
        let filled = |field| self.source.filled(field);
        if let Some((field, name)) =
            NAMED_ONLY.into_iter().find(|(field, _)| filled(field).is_some())
        {
            let message = format_args!("{name} is not supported as key store");
            self.findings.refuse(
                self.source.at(field),
                message,
                "use fs, vault or gemalto.keysecure",
            );
            return None;
        }
        let mut found = STORES.iter().filter(|store| filled(store.field).is_some());
        match (found.next(), found.next()) {
            (None, _) => {
                self.in_memory();
                None
            }
            (Some(store), None) => (store.read)(self),
            (Some(one), Some(other)) => {
                let message = format!(
                    "ambiguous configuration: {} and {} specified at the same time",
                    one.name, other.as_second
                );
                let advice = "keep the one key store that holds the keys";
                self.findings.refuse(self.source.at(other.field), message, advice);
                None
            }
        }
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
        let mut stores = STORES.iter().filter(|store| self.source.find(store.section).is_some());
        let field = stores.next().map_or(FS, |store| store.field);
        // What there is of it has a place.
        let parents = field.rmatch_indices('.').map(|(end, _)| &field[..end]);
        let mut parts = std::iter::once(field).chain(parents);
        let position = parts.find_map(|part| self.source.at(part).position);
        self.findings.miss(
            At::new(self.source.spelled(field), position),
            "no key store: a section is there but says not where",
            "fill in the field, or that of another key store, or leave out the section for an \
             in-memory key store",
        );
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
        let engine = "keystore.vault.transit.engine";
        let key = self.source.filled("keystore.vault.transit.key");
        if key.is_none() && self.source.is_set(engine) {
            self.findings.miss(
                self.source.at("keystore.vault.transit.key"),
                "invalid vault keystore: invalid transit config: no key name specified",
                "set the key, or leave out \"transit\"",
            );
        }
        Some(Transit { engine: self.source.text(engine), key: key? })
    }

    /// How to log in to Vault, and the part of the section that says so.
    fn login(&mut self) -> Option<(Login, &'static str)> {
        let text = |field| self.source.text(field);
        let secret = |field| Secret::new(text(field).into_bytes());
        let id = text("keystore.vault.approle.id");
        let approle_secret = secret("keystore.vault.approle.secret");
        let role = text("keystore.vault.kubernetes.role");
        let jwt = secret("keystore.vault.kubernetes.jwt");
        let has_approle = !id.is_empty() || !approle_secret.is_empty();
        let has_kubernetes = !role.is_empty() || !jwt.is_empty();
        if has_approle && has_kubernetes {
            self.findings.refuse(
                self.source.at("keystore.vault"),
                "invalid configuration: Vault AppRole and Kubernetes credentials are specified at \
                 the same time",
                "keep either \"approle\" or \"kubernetes\"",
            );
            return None;
        }
        if !id.is_empty() && !approle_secret.is_empty() {
            let engine = text("keystore.vault.approle.engine");
            return Some((Login::AppRole { engine, id, secret: approle_secret }, "approle"));
        }
        if !role.is_empty() && !jwt.is_empty() {
            let engine = text("keystore.vault.kubernetes.engine");
            let jwt = token_or_file(jwt);
            return Some((Login::Kubernetes { engine, role, jwt }, "kubernetes"));
        }
        self.findings.miss(
            self.source.at("keystore.vault"),
            "failed to connect to Vault: vault: no or empty authentication credentials specified",
            "set \"id\" and \"secret\" of \"approle\", or \"role\" and \"jwt\" of \"kubernetes\"",
        );
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
        let field = "keystore.gemalto.keysecure.credentials.token";
        let token = Secret::new(self.source.text(field).into_bytes());
        if token.is_empty() {
            self.findings.miss(
                self.source.at(field),
                "failed to connect to Gemalto KeySecure: no refresh token has been specified",
                "set \"credentials.token\" to the refresh token",
            );
            return None;
        }
        Some(KeyStoreConfig::KeySecure(Box::new(keysecure::Settings {
            endpoint: endpoint?,
            token,
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

    /// A time that has a default.
    fn time(&mut self, field: &str) -> Duration {
        self.duration(field).expect("the defaults of the table are right")
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
