//! The key store section of the file: which key store is configured, and its settings.

use std::{
    net::Ipv6Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Error, KeyStoreConfig, Problem, file, load::Loader};
use crate::{
    keystore::{
        ClientCert, Start, keysecure,
        vault::{self, Jwt, Login, Transit, Version},
    },
    secret::Secret,
};

/// The time between attempts to log in to a key store.
const DEFAULT_RETRY: Duration = Duration::from_secs(5);

/// The time between looks at the status of Vault.
const DEFAULT_PING: Duration = Duration::from_secs(10);

/// The section that holds the key store.
pub(super) struct Section<'a> {
    pub(super) loader: &'a Loader<'a>,
    /// `keys` or `keystore`.
    pub(super) name: &'static str,
}

impl Section<'_> {
    /// The key store whose telling field (path or endpoint) is filled in; in memory without a section.
    pub(super) fn key_store(&self, stores: file::Stores) -> Result<KeyStoreConfig, Error> {
        let fs = stores.fs.unwrap_or_default();
        let vault = stores.vault.unwrap_or_default();
        let key_secure = stores.gemalto.unwrap_or_default().keysecure;
        let key_secure = key_secure.unwrap_or_default();

        let path = self.telling("fs.path", fs.path.as_ref())?;
        let vault_endpoint = self.telling("vault.endpoint", vault.endpoint.as_ref())?;
        let gemalto_field = "gemalto.keysecure.endpoint";
        let key_secure_endpoint = self.telling(gemalto_field, key_secure.endpoint.as_ref())?;

        let generic = stores.generic.and_then(|store| store.endpoint);
        let aws = stores.aws.unwrap_or_default().secretsmanager;
        let gcp = stores.gcp.unwrap_or_default().secretmanager;
        for (field, name, value) in [
            ("generic.endpoint", "a generic plugin", generic),
            (
                "aws.secretsmanager.endpoint",
                "AWS Secrets Manager",
                aws.and_then(|store| store.endpoint),
            ),
            (
                "gcp.secretmanager.project_id",
                "GCP Secret Manager",
                gcp.and_then(|store| store.project_id),
            ),
        ] {
            if self.telling(field, value.as_ref())?.is_some() {
                return Err(self.invalid(field, Problem::NotSupported(name)));
            }
        }

        match (path, vault_endpoint, key_secure_endpoint) {
            (None, None, None) => self.in_memory(),
            (Some(path), None, None) => Ok(KeyStoreConfig::Fs { path: path.into() }),
            (None, Some(endpoint), None) => self.vault(&endpoint, vault),
            (None, None, Some(endpoint)) => self.key_secure(&endpoint, key_secure),
            (Some(_), Some(_), _) => {
                Err(self.ambiguous("vault.endpoint", "FS and Hashicorp Vault endpoint"))
            }
            (Some(_), None, Some(_)) => {
                Err(self.ambiguous(gemalto_field, "FS and Gemalto KeySecure endpoint are"))
            }
            (None, Some(_), Some(_)) => Err(self.ambiguous(
                gemalto_field,
                "Hashicorp Vault and Gemalto KeySecure endpoint are",
            )),
        }
    }

    /// Whether the server needs the key store to start.
    pub(super) fn start(&self, required: Option<String>) -> Result<Start, Error> {
        match self.loader.text(required).to_ascii_lowercase().as_str() {
            "" | "on" => Ok(Start::Required),
            "off" => Ok(Start::Optional),
            _ => Err(self.invalid("required", Problem::Required)),
        }
    }

    /// The key store in memory, unless the section is there, if only its name. Templates list all
    /// stores and leave those empty that are not meant, so this is asked where none is filled in.
    fn in_memory(&self) -> Result<KeyStoreConfig, Error> {
        if !self.loader.has(self.name) {
            return Ok(KeyStoreConfig::Memory);
        }
        let field = [
            ("fs", "fs.path"),
            ("vault", "vault.endpoint"),
            ("gemalto", "gemalto.keysecure.endpoint"),
        ]
        .into_iter()
        .find(|(store, _)| self.loader.has(&format!("{}.{store}", self.name)))
        .map_or("fs.path", |(_, field)| field);
        Err(self.invalid(field, Problem::NoKeyStore))
    }

    fn vault(&self, endpoint: &str, vault: file::Vault) -> Result<KeyStoreConfig, Error> {
        let loader = self.loader;
        let endpoint = parse_endpoint(endpoint, "Hashicorp Vault")
            .map_err(|problem| self.invalid("vault.endpoint", problem))?;
        let version = match loader.text(vault.version).as_str() {
            "" | "v1" => Version::V1,
            "v2" => Version::V2,
            _ => return Err(self.invalid("vault.version", Problem::VaultVersion)),
        };
        let transit = vault.transit.unwrap_or_default();
        if let Some(e) = self.unset(&[("vault.transit.key", transit.key.as_ref())]) {
            return Err(e);
        }
        let transit = match loader.text(transit.key) {
            key if !key.is_empty() => Some(Transit {
                engine: loader.text_or(transit.engine, "transit"),
                key,
            }),
            _ if transit.engine.is_some_and(|engine| !engine.is_empty()) => {
                return Err(self.invalid("vault.transit.key", Problem::NoTransitKey));
            }
            _ => None,
        };
        let (login, login_namespace, retry) = self.vault_login(
            vault.approle.unwrap_or_default(),
            vault.kubernetes.unwrap_or_default(),
        )?;
        let tls = vault.tls.unwrap_or_default();
        let client_cert = match (loader.path(tls.key, None), loader.path(tls.cert, None)) {
            (None, None) => None,
            (Some(key), Some(cert)) => Some(ClientCert { key, cert }),
            _ => return Err(self.invalid("vault.tls", Problem::HalfVaultCertificate)),
        };
        let ping = vault.status.unwrap_or_default().ping;
        Ok(KeyStoreConfig::Vault(Box::new(vault::Settings {
            endpoint,
            engine: loader.text_or(vault.engine, "kv"),
            version,
            namespace: self.namespace("vault.namespace", vault.namespace)?,
            prefix: loader.text(vault.prefix),
            transit,
            login,
            login_namespace: (!login_namespace.is_empty()).then_some(login_namespace),
            retry,
            client_cert,
            ca: loader.path(tls.ca, None),
            ping: self.duration("vault.status.ping", ping, DEFAULT_PING)?,
        })))
    }

    fn vault_login(
        &self,
        approle: file::AppRole,
        kubernetes: file::Kubernetes,
    ) -> Result<(Login, String, Duration), Error> {
        let loader = self.loader;
        let unset = self.unset(&[
            ("vault.approle.id", approle.id.as_ref()),
            ("vault.approle.secret", approle.secret.as_ref()),
            ("vault.kubernetes.role", kubernetes.role.as_ref()),
            ("vault.kubernetes.jwt", kubernetes.jwt.as_ref()),
        ]);
        let id = loader.text(approle.id);
        let secret = Secret::new(loader.text(approle.secret).into_bytes());
        let role = loader.text(kubernetes.role);
        let jwt = Secret::new(loader.text(kubernetes.jwt).into_bytes());
        let has_approle = !id.is_empty() || !secret.is_empty();
        let has_kubernetes = !role.is_empty() || !jwt.is_empty();
        match (has_approle, has_kubernetes) {
            (true, true) => Err(self.invalid("vault", Problem::TwoVaultLogins)),
            (true, false) if !id.is_empty() && !secret.is_empty() => {
                let retry = self.duration("vault.approle.retry", approle.retry, DEFAULT_RETRY)?;
                let engine = loader.text_or(approle.engine, "approle");
                let login = Login::AppRole { engine, id, secret };
                let namespace = self.namespace("vault.approle.namespace", approle.namespace)?;
                Ok((login, namespace, retry))
            }
            (false, true) if !role.is_empty() && !jwt.is_empty() => {
                let retry = kubernetes.retry;
                let retry = self.duration("vault.kubernetes.retry", retry, DEFAULT_RETRY)?;
                let login = Login::Kubernetes {
                    engine: loader.text_or(kubernetes.engine, "kubernetes"),
                    role,
                    jwt: token_or_file(jwt),
                };
                let field = "vault.kubernetes.namespace";
                Ok((login, self.namespace(field, kubernetes.namespace)?, retry))
            }
            _ => Err(unset.unwrap_or_else(|| self.invalid("vault", Problem::NoVaultLogin))),
        }
    }

    fn key_secure(&self, endpoint: &str, store: file::KeySecure) -> Result<KeyStoreConfig, Error> {
        let loader = self.loader;
        let endpoint = parse_endpoint(endpoint, "Gemalto KeySecure")
            .map_err(|problem| self.invalid("gemalto.keysecure.endpoint", problem))?;
        let credentials = store.credentials.unwrap_or_default();
        let written = credentials.token.clone();
        let token = Secret::new(loader.text(credentials.token).into_bytes());
        if token.is_empty() {
            let field = "gemalto.keysecure.credentials.token";
            let unset = self.unset(&[(field, written.as_ref())]);
            return Err(unset.unwrap_or_else(|| self.invalid(field, Problem::NoToken)));
        }
        let retry = "gemalto.keysecure.credentials.retry";
        Ok(KeyStoreConfig::KeySecure(Box::new(keysecure::Settings {
            endpoint,
            token,
            domain: loader.text(credentials.domain),
            retry: self.duration(retry, credentials.retry, DEFAULT_RETRY)?,
            ca: loader.path(store.tls.unwrap_or_default().ca, None),
        })))
    }

    /// The value of a field that tells which key store is configured; `None` if it is empty.
    ///
    /// A variable that is not set is refused here: going on with another key store, or the one in
    /// memory, would lose keys.
    fn telling(&self, field: &str, value: Option<&String>) -> Result<Option<String>, Error> {
        let Some(written) = value.filter(|value| !value.is_empty()) else {
            return Ok(None);
        };
        let text = self.loader.text(Some(written.clone()));
        if text.is_empty() {
            return Err(self.invalid(field, Problem::NotSet(written.trim().into())));
        }
        Ok(Some(text))
    }

    /// The error about the first of these fields that is there but refers to variables that are not
    /// set.
    fn unset(&self, fields: &[(&str, Option<&String>)]) -> Option<Error> {
        fields.iter().find_map(|(field, value)| {
            let written = value.filter(|value| !value.is_empty())?;
            let is_empty = self.loader.text(Some(written.clone())).is_empty();
            let problem = Problem::VariableNotSet(written.trim().into());
            is_empty.then(|| self.invalid(field, problem))
        })
    }

    /// A namespace, which is sent as a header.
    fn namespace(&self, field: &str, value: Option<String>) -> Result<String, Error> {
        let text = self.loader.text(value);
        match text.contains(|c: char| c.is_control()) {
            true => Err(self.invalid(field, Problem::Namespace)),
            false => Ok(text),
        }
    }

    fn duration(
        &self,
        field: &str,
        value: Option<String>,
        default: Duration,
    ) -> Result<Duration, Error> {
        let field = format!("{}.{field}", self.name);
        Ok(self.loader.duration(&field, value)?.unwrap_or(default))
    }

    fn ambiguous(&self, field: &str, stores: &'static str) -> Error {
        self.invalid(field, Problem::Ambiguous(stores))
    }

    /// The error for a field of the section.
    fn invalid(&self, field: &str, problem: Problem) -> Error {
        self.loader
            .invalid(&format!("{}.{field}", self.name), problem)
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
            if ["/", "./", "../"]
                .iter()
                .any(|start| text.starts_with(start))
                || Path::new(text).is_file() =>
        {
            Jwt::File(PathBuf::from(text))
        }
        _ => Jwt::Token(jwt),
    }
}
