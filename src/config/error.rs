//! What can be wrong with a configuration, and where.
//!
//! Every message says what is wrong, where (file, line, column and field, or flag), and what would
//! be right. None repeats the value of a field that may hold a secret.

use std::{
    borrow::Cow,
    fmt, io,
    path::{Path, PathBuf},
};

use crate::{base::duration, policy};

/// Why there is no [`Config`](super::Config).
#[derive(Debug)]
pub enum Error {
    /// The file can't be read.
    Read {
        /// The file.
        file: PathBuf,
        /// Why it can't be read.
        source: io::Error,
    },
    /// The file is not what a configuration file looks like.
    Syntax {
        /// The file.
        file: PathBuf,
        /// Where in the file, if known.
        position: Option<Position>,
        /// What is wrong, and in which field.
        reason: String,
    },
    /// A value makes no sense or is missing.
    Invalid {
        /// Where it is or should be.
        place: Place,
        /// What is wrong with it.
        problem: Box<Problem>,
    },
    /// What a setting names outside the file can't be used.
    Unusable {
        /// Where it is named.
        place: Place,
        /// What is wrong with it.
        reason: String,
        /// What would be right; may be empty.
        advice: &'static str,
    },
}

/// A place in a text. Both numbers count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The line.
    pub line: u32,
    /// The column, in characters.
    pub column: u32,
}

impl Position {
    /// The place after so many whole lines, and so many characters of the next one.
    pub(super) fn after(lines: usize, characters: usize) -> Self {
        let next = |count| u32::try_from(count).map_or(u32::MAX, |count| count.saturating_add(1));
        Self { line: next(lines), column: next(characters) }
    }
}

/// Where a setting comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A field of the file, such as `policy.my-app.paths[0]`.
    Field {
        /// The file.
        file: PathBuf,
        /// The field's value in the file, unless the field is missing.
        position: Option<Position>,
        /// The path to the field.
        field: String,
    },
    /// A flag, such as `--addr`.
    Flag(&'static str),
}

/// What is wrong with a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The file is of the format of newer versions; it has this field.
    NewerFormat,
    /// `keys` is a map, as in the older format, but there is a `keystore` too.
    MixedFormats,
    /// Not an address to listen on.
    Address(String),
    /// Not an address to listen on for probes.
    ProbeAddress(String),
    /// The address for probes is that for clients.
    ProbeIsApi(String),
    /// Not a number of connections.
    Connections(String),
    /// There is no root identity.
    NoRoot,
    /// There is no private key file.
    NoKey,
    /// There is no certificate file.
    NoCertificate,
    /// Not a key exchange group.
    Group(String),
    /// There is no key exchange group in the list.
    NoGroup,
    /// A TLS proxy is root.
    ProxyIsRoot {
        /// Its place in the list, from 0.
        index: usize,
        /// The identity of both.
        identity: String,
    },
    /// Not the name of an HTTP header.
    HeaderName(String),
    /// A policy or an assignment is refused.
    Policy(policy::Error),
    /// Not a duration, or a negative one.
    Duration(duration::Error),
    /// `log.error` is neither on nor off.
    ErrorLog(String),
    /// `log.audit` is neither on nor off.
    AuditLog(String),
    /// Not the name of a key.
    KeyName(String),
    /// Two key stores are configured; these words name them.
    Ambiguous(&'static str),
    /// A kind of key store that this server does not speak to.
    NotSupported(&'static str),
    /// A key store is described, but the field that selects it is empty.
    NoKeyStore,
    /// The endpoint of this key store is not an http or https URL.
    Endpoint(&'static str),
    /// The endpoint of this key store has a port that there is not.
    EndpointPort(&'static str),
    /// A namespace of Vault that no header can hold.
    Namespace,
    /// The field consists of environment variables, and is empty as these are not set.
    NotSet(Vec<String>),
    /// Vault has AppRole and Kubernetes credentials.
    TwoVaultLogins,
    /// Vault has no complete credentials.
    NoVaultLogin,
    /// The key-value engine of Vault has another version.
    VaultVersion,
    /// The transit engine of Vault has no key.
    NoTransitKey,
    /// Whether the key store is required is neither `on` nor `off`.
    Required,
    /// Vault has a client certificate or a private key for it, but not both.
    HalfVaultCertificate,
    /// KeySecure has no refresh token.
    NoToken,
}

impl Problem {
    /// What would be right.
    pub(super) fn advice(&self) -> &'static str {
        match self {
            Self::NewerFormat => "write \"root\" instead of \"admin\" and leave out \"version\"",
            Self::MixedFormats => {
                "beside \"keystore\", \"keys\" is a list of key names such as \"- name: my-key\""
            }
            Self::Address(_) => "write IP, IP:PORT, :PORT or [IPv6]:PORT, such as 0.0.0.0:7373",
            Self::ProbeAddress(_) => "write IP:PORT, :PORT or [IPv6]:PORT, such as 127.0.0.1:7374",
            Self::ProbeIsApi(_) => "choose another port, such as 7374",
            Self::Connections(_) => {
                "write a whole number of at least 1, such as 10000, or leave out the field for as many \
                 as there is memory for"
            }
            Self::NoRoot => "set \"root\" in the file or use --root; \"disabled\" means no root",
            Self::NoKey => "set \"tls.key\" in the file or use --key",
            Self::NoCertificate => "set \"tls.cert\" in the file or use --cert",
            Self::Group(_) => "use X25519MLKEM768, X25519, P-256 and P-384",
            Self::NoGroup => {
                "list some of X25519MLKEM768, X25519, P-256 and P-384, or leave out the field for all \
                 of them"
            }
            Self::ProxyIsRoot { .. } => "take the identity out of the list",
            Self::HeaderName(_) => "write the name of an HTTP header, such as X-Tls-Client-Cert",
            Self::Policy(policy::Error::Pattern { .. }) => {
                "close every \"[\", and write \"\\\" before a literal \"[\", \"-\" or \"]\""
            }
            Self::Policy(policy::Error::Assigned { .. }) => {
                "an identity has one policy at most, and root has none"
            }
            Self::Policy(policy::Error::Proxy { .. }) => "a TLS proxy has no policy",
            Self::Duration(duration::Error::Negative { .. }) => "write 0 or more, such as 5m",
            Self::Duration(_) => "write numbers with units, such as 30s, 5m or 1h30m",
            Self::ErrorLog(_) => "write on or off",
            Self::AuditLog(_) => "write on, off or required",
            Self::KeyName(_) => "use 1 to 255 bytes without slashes, not \".\" or \"..\"",
            Self::Ambiguous(_) => "keep the one key store that holds the keys",
            Self::NotSupported(_) => "use fs, vault or gemalto.keysecure",
            Self::NotSet(_) => {
                "set the variable in the environment of the server, or write \"\" for nothing"
            }
            Self::NoKeyStore => {
                "fill in the field, or that of another key store, or leave out the section for an \
                 in-memory key store"
            }
            Self::Endpoint(_) => "write a URL without credentials, such as https://127.0.0.1:8200",
            Self::EndpointPort(_) => "write a number from 1 to 65535 after the host, such as :8200",
            Self::Namespace => "write one line without control characters, such as team/kes",
            Self::VaultVersion => "write v1 or v2, as the engine is",
            Self::NoTransitKey => "set the key, or leave out \"transit\"",
            Self::Required => "write on or off",
            Self::TwoVaultLogins => "keep either \"approle\" or \"kubernetes\"",
            Self::NoVaultLogin => {
                "set \"id\" and \"secret\" of \"approle\", or \"role\" and \"jwt\" of \"kubernetes\""
            }
            Self::HalfVaultCertificate => "set both \"key\" and \"cert\", or neither",
            Self::NoToken => "set \"credentials.token\" to the refresh token",
        }
    }
}

impl Problem {
    /// Whether a value is missing; it may be in a part of the file that can't be read.
    pub(super) fn is_absence(&self) -> bool {
        matches!(
            self,
            Self::NoRoot
                | Self::NoKey
                | Self::NoCertificate
                | Self::NoKeyStore
                | Self::NoVaultLogin
                | Self::NoTransitKey
                | Self::HalfVaultCertificate
                | Self::NoToken
        )
    }

    /// What is wrong, in a sentence of bounded length.
    pub(super) fn sentence(&self) -> String {
        cut(&self.to_string()).into_owned()
    }
}

/// Says that these environment variables are not set.
pub(super) fn variables(names: &[String]) -> String {
    let mut names: Vec<_> = names.iter().map(|name| format!("${{{name}}}")).collect();
    names.sort();
    names.dedup();
    match names.as_slice() {
        [one] => format!("environment variable {one} is empty or not set"),
        names => format!("environment variables {} are empty or not set", names.join(" and ")),
    }
}

/// A longer text is repeated with its beginning and its end only, of so many characters each.
const LONG: usize = 150;

/// `text`, without its middle if it is very long.
pub(super) fn cut(text: &str) -> Cow<'_, str> {
    let start = text.char_indices().nth(LONG);
    let end = text.char_indices().rev().nth(LONG - 1);
    match (start, end) {
        (Some((start, _)), Some((end, _))) if start < end => {
            format!("{}…{}", &text[..start], &text[end..]).into()
        }
        _ => text.into(),
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NewerFormat => f.write_str(
                "the file has the format of newer versions, which this version does not read yet",
            ),
            Self::MixedFormats => f.write_str("the file mixes two formats"),
            Self::Address(value) => write!(f, "invalid server address: \"{value}\""),
            Self::ProbeAddress(value) => write!(f, "invalid probe address: \"{value}\""),
            Self::ProbeIsApi(value) => write!(
                f,
                "the server can't listen for probes where it listens for clients: \"{value}\""
            ),
            Self::Connections(value) => write!(f, "invalid number of connections: \"{value}\""),
            Self::NoRoot => f.write_str("no root identity has been specified"),
            Self::NoKey => f.write_str("no private key file has been specified"),
            Self::NoCertificate => f.write_str("no certificate file has been specified"),
            Self::Group(name) => write!(f, "unknown key exchange group: \"{name}\""),
            Self::NoGroup => f.write_str("no key exchange group, so no client could connect"),
            Self::ProxyIsRoot { index, identity } => write!(
                f,
                "The {index}-th TLS proxy identity is equal to the root identity \"{identity}\". \
                 The root identity cannot be used as TLS proxy"
            ),
            Self::HeaderName(value) => write!(f, "invalid TLS proxy header name: \"{value}\""),
            Self::Policy(error) => error.fmt(f),
            Self::Duration(error) => write!(f, "failed to read config file: {error}"),
            Self::ErrorLog(value) => {
                write!(f, "\"{value}\" is an invalid error log configuration")
            }
            Self::AuditLog(value) => {
                write!(f, "\"{value}\" is an invalid audit log configuration")
            }
            Self::KeyName(name) => {
                write!(f, "failed to create key \"{name}\": invalid key name")
            }
            Self::Ambiguous(stores) => {
                write!(f, "ambiguous configuration: {stores} specified at the same time")
            }
            Self::NotSupported(store) => write!(f, "{store} is not supported as key store"),
            Self::NotSet(names) => f.write_str(&variables(names)),
            Self::NoKeyStore => f.write_str("no key store: a section is there but says not where"),
            Self::Endpoint(store) => write!(f, "invalid {store} endpoint"),
            Self::EndpointPort(store) => write!(f, "invalid port in the {store} endpoint"),
            Self::Namespace => f.write_str("invalid namespace of Vault"),
            Self::VaultVersion => f.write_str("invalid version of the Vault engine"),
            Self::NoTransitKey => {
                f.write_str("invalid vault keystore: invalid transit config: no key name specified")
            }
            Self::Required => {
                f.write_str("whether the key store is required is neither on nor off")
            }
            Self::TwoVaultLogins => f.write_str(
                "invalid configuration: Vault AppRole and Kubernetes credentials are specified at \
                 the same time",
            ),
            Self::NoVaultLogin => f.write_str(
                "failed to connect to Vault: vault: no or empty authentication credentials \
                 specified",
            ),
            Self::HalfVaultCertificate => f.write_str(
                "invalid configuration: Vault TLS private key and certificate are not specified \
                 together",
            ),
            Self::NoToken => f.write_str(
                "failed to connect to Gemalto KeySecure: no refresh token has been specified",
            ),
        }
    }
}

impl Place {
    /// Whether the file has a value there.
    fn is_in_file(&self) -> bool {
        matches!(self, Self::Field { position: Some(_), .. })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field { file, position, field } => {
                write_place(f, file, *position)?;
                write!(f, ", field {field}")
            }
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// Writes `kes.yml line 3 column 5`.
fn write_place(f: &mut fmt::Formatter<'_>, file: &Path, at: Option<Position>) -> fmt::Result {
    write!(f, "{}", file.display())?;
    match at {
        Some(Position { line, column }) => write!(f, " line {line} column {column}"),
        None => Ok(()),
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { file, source } => {
                write!(f, "failed to read config file: {}: {source}", file.display())
            }
            Self::Syntax { file, position, reason } => {
                f.write_str("failed to read config file: ")?;
                write_place(f, file, *position)?;
                write!(f, ": {reason}")
            }
            Self::Invalid { place, problem } => {
                write!(f, "{} ({place}: {})", problem.sentence(), problem.advice())
            }
            Self::Unusable { place, reason, advice } => {
                match (place.is_in_file(), advice.is_empty()) {
                    (true, true) => write!(f, "{reason} ({place})"),
                    (true, false) => write!(f, "{reason} ({place}: {advice})"),
                    (false, true) => f.write_str(reason),
                    (false, false) => write!(f, "{reason}: {advice}"),
                }
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read { source, .. } => Some(source),
            Self::Invalid { problem, .. } => match problem.as_ref() {
                Problem::Policy(source) => Some(source),
                Problem::Duration(source) => Some(source),
                _ => None,
            },
            Self::Syntax { .. } | Self::Unusable { .. } => None,
        }
    }
}
