//! The configuration file that `kes init` writes, with comments that say why one would change it.

use std::path::Path;

use super::{
    quote::yaml,
    vault::{self, Place, Vault},
};

/// What the file is about.
pub(crate) struct Facts<'a> {
    pub(crate) address: &'a str,
    /// The identity of the admin and the one of the object server.
    pub(crate) admin: &'a str,
    pub(crate) minio: &'a str,
    /// The file itself, and those of the server.
    pub(crate) file: &'a Path,
    pub(crate) key: &'a Path,
    pub(crate) cert: &'a Path,
    /// The day on which the certificate expires.
    pub(crate) expires: &'a str,
    pub(crate) keys: Keys<'a>,
}

/// Where keys are.
pub(crate) enum Keys<'a> {
    In(&'a Path),
    Vault { vault: &'a Vault, place: &'a Place, secrets: &'a Path },
}

/// The first part, up to the key store. Without `# ` before them, the fields in comments count, too.
const TEXT: &str = "\
# A key encryption server: made by 'kes init'. Look for mistakes with
#   kes config check {FILE}
# and let a running server take up a change with SIGHUP. docs/configuration.md has all fields.
version: v1

# Where clients connect. 0.0.0.0 is all addresses of this machine; 127.0.0.1:7373 hides the server from others.
# Clients must find the name or address that they use in the certificate.
address: {ADDRESS}

# The holder of this identity may do everything. Keep the API key or private key behind it for yourself, and give
# each application one of its own and a policy. \"disabled\" in its place leaves nobody who may do everything.
admin:
  identity: {ADMIN}

# The certificate expires on {EXPIRES}. Replace both files, or the certificate alone, before; SIGHUP takes them up
# without a lost request. A new private key is a new identity (KES_SERVER_IDENTITY) for clients.
tls:
  key: {KEY}
  cert: {CERT}
  # With \"on\", only clients with a certificate of an authority that the system or \"ca\" trusts may connect, so
  # not those with an API key. With \"off\" all may, and their identities decide what they may do.
  auth: off
  # ca: /etc/kes/clients.crt

# A policy for each application: the calls that it may make. A * at the end stands for anything. Who is in no
# policy may do nothing. 'kes identity new' makes an identity; 'kes policy why' says why a call is refused.
policy:
  # MinIO, for keys that begin with minio-. Without MinIO, delete this, or make your own application of it.
  minio:
    allow:
    - /v1/key/create/minio-*
    - /v1/key/generate/minio-*
    - /v1/key/decrypt/minio-*
    - /v1/key/bulk/decrypt/minio-*
    - /v1/key/describe/minio-*
    - /v1/key/hmac/minio-*
    - /v1/key/list*
    - /v1/status
    - /v1/metrics
    - /v1/api
    identities:
    - {MINIO}

# Keys in memory save the key store a read for each request. Shorter times let a key that was deleted in the key
# store go sooner. With \"offline\", keys in memory stay usable for so long while the key store is not available.
cache:
  expiry:
    any: 5m
    unused: 30s
    # offline: 1h

# \"audit\" writes a line to stdout for each key that is created or deleted (changes), for each request (on), or
# refuses requests whose line can't be written (required). Errors go to stderr.
log:
  error: on
  audit: changes

# Whether the server lives and is ready, without TLS and certificate: for load balancers and 'kes healthcheck'.
# probe:
#   address: 127.0.0.1:7374
";

const FS: &str = "
# Master keys, a file each. Back up this folder: without a key, what it has encrypted is lost. Who reads the
# folder has the keys; Vault or OpenBao (docs/vault.md) keep them apart. 'kes migrate' moves keys.
keystore:
  fs:
    path: {PATH}
";

const VAULT: &str = "
# Master keys are in Vault or OpenBao, which has to have the policy and the role that 'kes init' has printed.
# Id and secret of the role come from the environment: {SECRETS} has them.
keystore:
  # With \"off\", the server starts while Vault can't be reached, and uses it as soon as it can.
  required: on
  vault:
    endpoint: {ENDPOINT}
    engine: {ENGINE}
    version: {VERSION}
{NAMESPACE}{PREFIX}    approle:
      engine: {APPROLE}
      id: ${{ROLE_ID}}
      secret: ${{SECRET_ID}}
{CA}";

/// The configuration file.
pub(crate) fn configuration(facts: &Facts<'_>) -> String {
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let line = |indent: &str, name: &str, value: &str| match value {
        "" => String::new(),
        value => format!("{indent}{name}: {}\n", yaml(value)),
    };
    let mut values = vec![
        ("{FILE}", path(facts.file)),
        ("{ADDRESS}", yaml(facts.address)),
        ("{ADMIN}", facts.admin.to_owned()),
        ("{MINIO}", facts.minio.to_owned()),
        ("{KEY}", yaml(&path(facts.key))),
        ("{CERT}", yaml(&path(facts.cert))),
        ("{EXPIRES}", facts.expires.to_owned()),
    ];
    let keys = match &facts.keys {
        Keys::In(folder) => {
            values.push(("{PATH}", yaml(&path(folder))));
            FS
        }
        Keys::Vault { vault, place, secrets } => {
            let ca = vault.ca.as_deref().map(path).unwrap_or_default();
            let ca = line("      ", "ca", &ca);
            let namespace = vault.namespace.as_deref().unwrap_or_default();
            values.extend([
                ("{SECRETS}", path(secrets)),
                ("{ENDPOINT}", yaml(&vault.url)),
                ("{ENGINE}", yaml(&place.engine)),
                ("{VERSION}", if place.is_old { "v1" } else { "v2" }.to_owned()),
                ("{NAMESPACE}", line("    ", "namespace", namespace)),
                ("{PREFIX}", line("    ", "prefix", place.prefix)),
                ("{APPROLE}", yaml(&place.approle)),
                ("{ROLE_ID}", vault::ROLE_ID.to_owned()),
                ("{SECRET_ID}", vault::SECRET_ID.to_owned()),
                ("{CA}", if ca.is_empty() { ca } else { format!("    tls:\n{ca}") }),
            ]);
            VAULT
        }
    };
    // A path may look like another of these words, so each piece of the text is looked at once.
    let mut text = String::new();
    let mut rest = &*(TEXT.to_owned() + keys);
    while let Some(at) = rest.find('{') {
        let (before, after) = rest.split_at(at);
        let value = values.iter().find(|(name, _)| after.starts_with(name));
        let (length, value) = value.map_or((1, "{"), |(name, value)| (name.len(), value));
        text += before;
        text += value;
        rest = &after[length..];
    }
    text + rest
}
