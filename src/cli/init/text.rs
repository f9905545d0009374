//! The configuration file that `kes init` writes, with comments that say why one would change it.

use std::path::Path;

use super::{
    quote::yaml,
    vault::{CREDENTIAL, Place, ROLE_ID, SECRET_ID, Vault},
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
    /// The secret is in the file `secrets`, for the environment or for the service.
    Vault {
        vault: &'a Vault,
        place: &'a Place,
        secrets: &'a Path,
        is_system: bool,
    },
}

/// The configuration file. Without `# ` before them, the fields in comments count, too.
pub(crate) fn configuration(facts: &Facts<'_>) -> String {
    let Facts { address, admin, minio, expires, file, .. } = facts;
    let path = |path: &Path| yaml(&path.to_string_lossy());
    let (file, address) = (file.display(), yaml(address));
    let [key, cert] = [facts.key, facts.cert].map(path);
    let keys = match &facts.keys {
        Keys::In(folder) => in_files(&path(folder)),
        Keys::Vault { vault, place, secrets, is_system } => {
            in_vault(vault, place, secrets, *is_system)
        }
    };
    format!(
        "\
# A key encryption server: made by 'kes init'. Look for mistakes with
#   kes config check {file}
# and let a running server take up a change with SIGHUP. docs/configuration.md has all fields.
version: v1

# Where clients connect. 0.0.0.0 is all addresses of this machine; 127.0.0.1:7373 hides the server from others.
# Clients must find the name or address that they use in the certificate.
address: {address}

# The holder of this identity may do everything. Keep the API key or private key behind it for yourself, and give
# each application one of its own and a policy. \"disabled\" in its place leaves nobody who may do everything.
admin:
  identity: {admin}

# The certificate expires on {expires}. Replace both files, or the certificate alone, before; the server takes the new
# pair up within seconds. A new private key is a new identity (KES_SERVER_IDENTITY) for clients.
tls:
  key: {key}
  cert: {cert}
  # With \"on\", only clients with a certificate of an authority that the system or \"ca\" trusts may connect, so
  # not those with an API key. With \"off\" all may, and their identities decide what they may do.
  auth: off
  # ca: /etc/kes/clients.crt

# A policy for each application: the calls that it may make. A * at the end stands for anything. An identity in
# no policy may use no key. 'kes identity new' makes one; 'kes policy why' says why a call is refused.
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
    - {minio}

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
{keys}"
    )
}

fn in_files(folder: &str) -> String {
    format!(
        "
# Master keys, a file each. Back up this folder: without a key, what it has encrypted is lost. Anyone who can read
# the folder has the keys; Vault or OpenBao (docs/vault.md) keep them apart. 'kes migrate' moves keys.
keystore:
  fs:
    path: {folder}
"
    )
}

fn in_vault(vault: &Vault, place: &Place, secrets: &Path, is_system: bool) -> String {
    let line = |start: &str, value: &str| match value {
        "" => String::new(),
        value => format!("    {start}: {}\n", yaml(value)),
    };
    let ca = vault.ca.as_deref().map_or_else(Default::default, Path::to_string_lossy);
    let ca = line("tls:\n      ca", &ca);
    let namespace = line("namespace", vault.namespace.as_deref().unwrap_or_default());
    let prefix = line("prefix", place.prefix);
    let [endpoint, engine, approle] =
        [&vault.url, &place.engine, &place.approle].map(|text| yaml(text));
    let version = if place.is_old { "v1" } else { "v2" };
    let file = secrets.display();
    let (source, secret) = match is_system {
        true => (
            format!("The secret of the role comes from {file}, which systemd hands on."),
            CREDENTIAL,
        ),
        false => (
            format!("Id and secret of the role come from the environment: {file} has them."),
            SECRET_ID,
        ),
    };
    format!(
        "
# Master keys are in Vault or OpenBao, which has to have the policy and the role that 'kes init' has printed.
# {source}
keystore:
  # With \"off\", the server starts while Vault can't be reached, and uses it as soon as it can.
  required: on
  vault:
    endpoint: {endpoint}
    engine: {engine}
    version: {version}
{namespace}{prefix}    approle:
      engine: {approle}
      id: ${{{ROLE_ID}}}
      secret: ${{{secret}
{ca}"
    )
}
