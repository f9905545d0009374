//! The section of HashiCorp Vault.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{RETRY, Store, URL, authorities, field};
use crate::{
    base::secret::Secret,
    config::{files::Look, source::Reader},
    keystore::{
        self, ClientCert, Start,
        vault::{self, Jwt, Login, Transit, Version},
    },
};

pub(super) const ENDPOINT: &str = "keystore.vault.endpoint";
const JWT: &str = "keystore.vault.kubernetes.jwt";
const KEY: &str = "keystore.vault.tls.key";
const CERT: &str = "keystore.vault.tls.cert";
const CA: &str = "keystore.vault.tls.ca";

/// How errors about the way to Vault begin, as in KES.
const CONNECT: &str = "failed to connect to Vault: ";
const NAMESPACE: &str = "invalid namespace of Vault";
const ONE_LINE: &str = "write one line without control characters, such as team/kes";

#[rustfmt::skip] // a row is a line or two
pub(super) const STORE: Store = Store {
    name: "Hashicorp Vault",
    fields: &[
        field(ENDPOINT, "URL", "keys are in [Vault or OpenBao](vault.md)")
            .check("invalid Hashicorp Vault endpoint", URL),
        field("keystore.vault.engine", "path", "where the key-value engine is mounted").default("kv"),
        field("keystore.vault.version", "version", "version of that engine: `v1` or `v2`").default("v1").since_0_18()
            .check("invalid version of the Vault engine", "write v1 or v2, as the engine is"),
        field("keystore.vault.namespace", "namespace", "namespace of the engine").check(NAMESPACE, ONE_LINE),
        field("keystore.vault.prefix", "path", "path of the keys inside the engine").unset("its top"),
        field("keystore.vault.transit.engine", "path", "where the transit engine is mounted").default("transit").since_0_18(),
        field("keystore.vault.transit.key", "text", "key of the transit engine that encrypts values before they are stored").unset("values are not encrypted").since_0_18()
            .check("invalid vault keystore: invalid transit config: no key name specified", "set the key, or leave out \"transit\""),
        field("keystore.vault.approle.engine", "path", "where AppRole is mounted").default("approle"),
        field("keystore.vault.approle.namespace", "namespace", "namespace to log in to; `/` is none").unset("that of the engine").since_0_18().check(NAMESPACE, ONE_LINE),
        field("keystore.vault.approle.id", "text", "role ID"),
        field("keystore.vault.approle.secret", "secret", "secret ID"),
        field("keystore.vault.approle.retry", "duration", "time between attempts to log in").default(RETRY),
        field("keystore.vault.kubernetes.engine", "path", "where the Kubernetes method is mounted").default("kubernetes"),
        field("keystore.vault.kubernetes.namespace", "namespace", "namespace to log in to; `/` is none").unset("that of the engine").since_0_18().check(NAMESPACE, ONE_LINE),
        field("keystore.vault.kubernetes.role", "text", "role"),
        field(JWT, "secret", "token of the service account, or the file that has it, which is read at each login"),
        field("keystore.vault.kubernetes.retry", "duration", "time between attempts to log in").default(RETRY),
        field(KEY, "file", "private key for Vault").unset("no client certificate"),
        field(CERT, "file", "client certificate for Vault"),
        authorities(CA),
        field("keystore.vault.status.ping", "duration", "time between looks at the status of Vault").default("10s").newest_default("15s"),
    ],
    read: Some(|reader| reader.vault()),
    look,
};

impl Reader<'_> {
    fn vault(&mut self) -> Option<Arc<dyn keystore::Settings>> {
        let endpoint = self.endpoint(ENDPOINT, "Hashicorp Vault", ["v1", "ui"]);
        let version = self.get("keystore.vault.version", |text| match text {
            "v1" => Some(Version::V1),
            "v2" => Some(Version::V2),
            _ => None,
        });
        let transit = self.transit();
        let (login, method) = self.login()?;
        let client_cert = self.client_cert();
        let login_namespace = self.namespace(&format!("keystore.vault.{method}.namespace"));
        Some(Arc::new(vault::Settings {
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
            ca: self.source.filled(CA).map(PathBuf::from),
            ping: self.time("keystore.vault.status.ping"),
        }))
    }

    fn transit(&mut self) -> Option<Transit> {
        let section = self.source.find("keystore.vault.transit");
        let is_meant = section.is_some_and(|section| !section.is_null());
        let key = if is_meant { self.required("keystore.vault.transit.key") } else { None };
        Some(Transit { engine: self.source.text("keystore.vault.transit.engine"), key: key? })
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
                let is_newest = self.source.format.is_newest();
                let jwt = token_or_file(Secret::new(jwt.into_bytes()), is_newest);
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
        let (key, cert) = (path(KEY), path(CERT));
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

    /// A namespace, which is sent as a header.
    fn namespace(&mut self, field: &str) -> String {
        let parse = |text: &str| {
            let is_line = !text.contains(|c: char| c.is_control());
            is_line.then(|| text.to_owned())
        };
        self.read(field, parse).unwrap_or_default()
    }
}

/// Looks at the files of TLS and at that of a service account's token.
fn look(look: &mut Look<'_>) {
    let source = look.source;
    look.at_authorities(CONNECT, CA);
    let path = |field| source.filled(field).map(PathBuf::from);
    if let (Some(cert), Some(key)) = (path(CERT), path(KEY))
        && let Some(certified) = look.pair(CONNECT, "keystore.vault.tls", &cert, &key, None)
    {
        look.at_validity(CERT, &certified, 0);
    }
    // Its text is not repeated: what looks like a path may be a token after all.
    let Some(text) = source.filled(JWT) else { return };
    let is_newest = source.format.is_newest();
    let path = match token_or_file(Secret::new(text.clone().into_bytes()), is_newest) {
        Jwt::File(path) => path,
        // A directory is no token, whatever it is called.
        Jwt::Token(_) if Path::new(&text).is_dir() => PathBuf::from(text),
        Jwt::Token(_) => return,
    };
    let reason = match fs::read(&path) {
        Ok(token) if !token.trim_ascii().is_empty() => return,
        Ok(_) => "the file of vault.kubernetes.jwt is empty".to_owned(),
        Err(e) => format!("failed to read the file of vault.kubernetes.jwt: {e}"),
    };
    let advice = "name a file with a token: what begins with /, ./ or ../ is a path, anything else a \
                  token unless there is such a file";
    match look.config.key_store_start {
        Start::Required => look.refuse(JWT, format!("{CONNECT}{reason}"), advice),
        // The server tries again until the file is there.
        Start::Optional => look.warn(JWT, reason, advice),
    }
}

/// What `jwt` is: the path of a file that is there or that can only be meant as one, or the token.
/// Opaque tokens may have slashes, too; in the newest format all that has one is a path.
fn token_or_file(jwt: Secret, is_newest: bool) -> Jwt {
    match str::from_utf8(jwt.expose()) {
        Ok(text)
            if ["/", "./", "../"].iter().any(|start| text.starts_with(start))
                || is_newest && text.contains('/')
                || Path::new(text).is_file() =>
        {
            Jwt::File(PathBuf::from(text))
        }
        _ => Jwt::Token(jwt),
    }
}
