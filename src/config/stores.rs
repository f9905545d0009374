//! The key store section of the file: which key store is configured, and its settings.

use std::{
    net::Ipv6Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Error, KeyStoreConfig, Problem, load::Loader};
use crate::{
    base::secret::Secret,
    keystore::{
        ClientCert, Start, keysecure,
        vault::{self, Jwt, Login, Transit, Version},
    },
};

/// The time between attempts to log in to a key store.
const DEFAULT_RETRY: Duration = Duration::from_secs(5);

/// The time between looks at the status of Vault.
const DEFAULT_PING: Duration = Duration::from_secs(10);

/// The key stores that are known by name only, with the field that selects each.
const NAMED_ONLY: [(&str, &str); 3] = [
    ("generic.endpoint", "a generic plugin"),
    ("aws.secretsmanager.endpoint", "AWS Secrets Manager"),
    ("gcp.secretmanager.project_id", "GCP Secret Manager"),
];

const FS: &str = "fs.path";
const VAULT: &str = "vault.endpoint";
const KEY_SECURE: &str = "gemalto.keysecure.endpoint";

/// The section that holds the key store.
pub(super) struct Section<'a> {
    pub(super) loader: &'a Loader<'a>,
    /// `keys` or `keystore`.
    pub(super) name: &'static str,
}

impl Section<'_> {
    /// The key store whose telling field (path or endpoint) is filled in; in memory without a section.
    pub(super) fn key_store(&self) -> Result<KeyStoreConfig, Error> {
        let filled = |field| Some(self.text(field)).filter(|text| !text.is_empty());
        for (field, name) in NAMED_ONLY {
            if filled(field).is_some() {
                return Err(self.invalid(field, Problem::NotSupported(name)));
            }
        }
        match (filled(FS), filled(VAULT), filled(KEY_SECURE)) {
            (None, None, None) => self.in_memory(),
            (Some(path), None, None) => Ok(KeyStoreConfig::Fs { path: path.into() }),
            (None, Some(endpoint), None) => self.vault(&endpoint),
            (None, None, Some(endpoint)) => self.key_secure(&endpoint),
            (Some(_), Some(_), _) => Err(self.ambiguous(VAULT, "FS and Hashicorp Vault endpoint")),
            (Some(_), None, Some(_)) => {
                Err(self.ambiguous(KEY_SECURE, "FS and Gemalto KeySecure endpoint are"))
            }
            (None, Some(_), Some(_)) => {
                Err(self
                    .ambiguous(KEY_SECURE, "Hashicorp Vault and Gemalto KeySecure endpoint are"))
            }
        }
    }

    /// Whether the server needs the key store to start.
    pub(super) fn start(&self) -> Result<Start, Error> {
        match self.text("required").to_ascii_lowercase().as_str() {
            "" | "on" => Ok(Start::Required),
            "off" => Ok(Start::Optional),
            _ => Err(self.invalid("required", Problem::Required)),
        }
    }

    /// The key store in memory, unless the section is there, if only its name. Templates list all
    /// stores and leave those empty that are not meant, so this is asked where none is filled in.
    fn in_memory(&self) -> Result<KeyStoreConfig, Error> {
        let has = |field: &str| self.loader.has(&format!("{}.{field}", self.name));
        if !self.loader.is_store_section(self.name) {
            return Ok(KeyStoreConfig::Memory);
        }
        let field = [("fs", FS), ("vault", VAULT), ("gemalto", KEY_SECURE)]
            .into_iter()
            .find(|(store, _)| has(store))
            .map_or(FS, |(_, field)| field);
        Err(self.invalid(field, Problem::NoKeyStore))
    }

    fn vault(&self, endpoint: &str) -> Result<KeyStoreConfig, Error> {
        let endpoint = parse_endpoint(endpoint, "Hashicorp Vault")
            .map_err(|problem| self.invalid(VAULT, problem))?;
        let version = match self.text("vault.version").as_str() {
            "" | "v1" => Version::V1,
            "v2" => Version::V2,
            _ => return Err(self.invalid("vault.version", Problem::VaultVersion)),
        };
        let transit = match self.text("vault.transit.key") {
            key if !key.is_empty() => {
                Some(Transit { engine: self.text_or("vault.transit.engine", "transit"), key })
            }
            _ if !self.text("vault.transit.engine").is_empty() => {
                return Err(self.invalid("vault.transit.key", Problem::NoTransitKey));
            }
            _ => None,
        };
        let (login, login_namespace, retry) = self.vault_login()?;
        let client_cert = match (self.path("vault.tls.key"), self.path("vault.tls.cert")) {
            (None, None) => None,
            (Some(key), Some(cert)) => Some(ClientCert { key, cert }),
            _ => return Err(self.invalid("vault.tls", Problem::HalfVaultCertificate)),
        };
        Ok(KeyStoreConfig::Vault(Box::new(vault::Settings {
            endpoint,
            engine: self.text_or("vault.engine", "kv"),
            version,
            namespace: self.namespace("vault.namespace")?,
            prefix: self.text("vault.prefix"),
            transit,
            login,
            login_namespace: (!login_namespace.is_empty()).then_some(login_namespace),
            retry,
            client_cert,
            ca: self.path("vault.tls.ca"),
            ping: self.duration("vault.status.ping", DEFAULT_PING)?,
        })))
    }

    fn vault_login(&self) -> Result<(Login, String, Duration), Error> {
        let secret = |field| Secret::new(self.text(field).into_bytes());
        let id = self.text("vault.approle.id");
        let approle_secret = secret("vault.approle.secret");
        let role = self.text("vault.kubernetes.role");
        let jwt = secret("vault.kubernetes.jwt");
        let has_approle = !id.is_empty() || !approle_secret.is_empty();
        let has_kubernetes = !role.is_empty() || !jwt.is_empty();
        match (has_approle, has_kubernetes) {
            (true, true) => Err(self.invalid("vault", Problem::TwoVaultLogins)),
            (true, false) if !id.is_empty() && !approle_secret.is_empty() => Ok((
                Login::AppRole {
                    engine: self.text_or("vault.approle.engine", "approle"),
                    id,
                    secret: approle_secret,
                },
                self.namespace("vault.approle.namespace")?,
                self.duration("vault.approle.retry", DEFAULT_RETRY)?,
            )),
            (false, true) if !role.is_empty() && !jwt.is_empty() => Ok((
                Login::Kubernetes {
                    engine: self.text_or("vault.kubernetes.engine", "kubernetes"),
                    role,
                    jwt: token_or_file(jwt),
                },
                self.namespace("vault.kubernetes.namespace")?,
                self.duration("vault.kubernetes.retry", DEFAULT_RETRY)?,
            )),
            _ => Err(self.invalid("vault", Problem::NoVaultLogin)),
        }
    }

    fn key_secure(&self, endpoint: &str) -> Result<KeyStoreConfig, Error> {
        let endpoint = parse_endpoint(endpoint, "Gemalto KeySecure")
            .map_err(|problem| self.invalid(KEY_SECURE, problem))?;
        let field = "gemalto.keysecure.credentials.token";
        let token = Secret::new(self.text(field).into_bytes());
        if token.is_empty() {
            return Err(self.invalid(field, Problem::NoToken));
        }
        Ok(KeyStoreConfig::KeySecure(Box::new(keysecure::Settings {
            endpoint,
            token,
            domain: self.text("gemalto.keysecure.credentials.domain"),
            retry: self.duration("gemalto.keysecure.credentials.retry", DEFAULT_RETRY)?,
            ca: self.path("gemalto.keysecure.tls.ca"),
        })))
    }

    /// A namespace, which is sent as a header.
    fn namespace(&self, field: &str) -> Result<String, Error> {
        let text = self.text(field);
        match text.contains(|c: char| c.is_control()) {
            true => Err(self.invalid(field, Problem::Namespace)),
            false => Ok(text),
        }
    }

    fn duration(&self, field: &str, default: Duration) -> Result<Duration, Error> {
        Ok(self.loader.duration(&self.full(field))?.unwrap_or(default))
    }

    fn text(&self, field: &str) -> String {
        self.loader.text(&self.full(field))
    }

    fn text_or(&self, field: &str, default: &str) -> String {
        self.loader.text_or(&self.full(field), default)
    }

    fn path(&self, field: &str) -> Option<PathBuf> {
        self.loader.path(&self.full(field))
    }

    fn ambiguous(&self, field: &str, stores: &'static str) -> Error {
        self.invalid(field, Problem::Ambiguous(stores))
    }

    /// The error for a field of the section.
    fn invalid(&self, field: &str, problem: Problem) -> Error {
        self.loader.invalid(&self.full(field), problem)
    }

    /// The name of a field of the section in the file.
    fn full(&self, field: &str) -> String {
        format!("{}.{field}", self.name)
    }
}

/// An http or https URL of `store` with a host and without credentials, its trailing slashes removed.
fn parse_endpoint(text: &str, store: &'static str) -> Result<String, Problem> {
    let invalid = || Problem::Endpoint(store);
    let text = text.trim_end_matches('/');
    let (scheme, rest) = text.split_once("://").ok_or_else(invalid)?;
    let authority = rest.split('/').next().unwrap_or_default();
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (ip, port) = rest.split_once(']').ok_or_else(invalid)?;
            ip.parse::<Ipv6Addr>().map_err(|_| invalid())?;
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
        return Err(invalid());
    }
    match port.is_empty() || port.strip_prefix(':').is_some_and(is_port) {
        true => Ok(text.to_owned()),
        false => Err(Problem::EndpointPort(store)),
    }
}

fn is_port(text: &str) -> bool {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    is_number && text.parse::<u16>().is_ok_and(|port| port > 0)
}

/// What `jwt` is: the path of a file that is there or that can only be meant as one, or the token.
/// Opaque tokens may well have slashes.
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
