//! How to reach and use Vault.

use std::{path::PathBuf, time::Duration};

use crate::{base::secret::Secret, keystore::store::ClientCert, web::escape};

/// How to reach and use Vault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// An http or https URL without credentials and trailing slash.
    pub endpoint: String,
    /// Where the key-value engine is mounted; `kv` by default.
    pub engine: String,
    /// The version of the engine.
    pub version: Version,
    /// The namespace; none if empty.
    pub namespace: String,
    /// The path inside the engine; its top if empty.
    pub prefix: String,
    /// The engine and the key that values are encrypted with before they are stored.
    pub transit: Option<Transit>,
    /// How to get a token.
    pub login: Login,
    /// Where to log in; the same as `namespace` if `None`.
    pub login_namespace: Option<String>,
    /// The time between attempts to log in; 5 s by default. Never zero.
    pub retry: Duration,
    /// The certificate to show to Vault.
    pub client_cert: Option<ClientCert>,
    /// A file or a directory of PEM files to trust instead of the system's authorities.
    pub ca: Option<PathBuf>,
    /// How often to ask for Vault's status; 10 s by default. Never zero.
    pub ping: Duration,
}

impl Settings {
    /// The path of the keys as policies write it, in the part of the engine that is called `kind`.
    pub(crate) fn directory(&self, kind: &str) -> String {
        let parts = [&self.engine, kind, &self.prefix].into_iter().flat_map(|part| part.split('/'));
        parts.filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
    }

    /// Those that tests begin with.
    #[cfg(test)]
    pub(crate) fn for_tests(endpoint: &str, version: Version) -> Self {
        Self {
            endpoint: endpoint.to_owned(),
            engine: "kv".to_owned(),
            version,
            namespace: String::new(),
            prefix: String::new(),
            transit: None,
            login: Login::AppRole {
                engine: "approle".to_owned(),
                id: "id".to_owned(),
                secret: Secret::new(Vec::new()),
            },
            login_namespace: None,
            retry: Duration::from_secs(5),
            client_cert: None,
            ca: None,
            ping: Duration::from_secs(10),
        }
    }
}

/// The version of the key-value engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// `v1`, which can't tell a server that creates a key from one that replaces it.
    #[default]
    V1,
    /// `v2`, with versions and check-and-set.
    V2,
}

/// The engine that encrypts values before they are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transit {
    /// Where it is mounted; `transit` by default.
    pub engine: String,
    /// Its key.
    pub key: String,
}

/// How to get a token from Vault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    /// With a role id and its secret.
    AppRole {
        /// Where the method is mounted; `approle` by default.
        engine: String,
        /// The role id.
        id: String,
        /// The secret id.
        secret: Secret,
    },
    /// With the token of a Kubernetes service account.
    Kubernetes {
        /// Where the method is mounted; `kubernetes` by default.
        engine: String,
        /// The role.
        role: String,
        /// The token, or where it is.
        jwt: Jwt,
    },
}

/// The token of a Kubernetes service account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Jwt {
    /// The token itself.
    Token(Secret),
    /// A file that holds it; Kubernetes replaces its content now and then. Errors do not repeat the
    /// path: what begins with a slash may be a token after all.
    File(PathBuf),
}

/// `text` as a path: each part escaped, empty ones left out.
pub(crate) fn path(text: &str) -> String {
    let parts = text.split('/').filter(|part| !part.is_empty());
    parts.map(escape::segment).collect::<Vec<_>>().join("/")
}
