//! The options of `kes server`, and the errors of its start.

use std::{fmt, io, net::SocketAddr, path::PathBuf};

use super::room;
use crate::{
    api::routes::ROUTES,
    config::{self, Config, Flags, Loaded, Origin},
    keystore::{self, KeyName},
    log::AuditMode,
    tls,
};

/// The command line of `kes server`.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The configuration file.
    pub config: Option<PathBuf>,
    /// A server to try things out with, without a file.
    pub dev: bool,
    /// The flags that stand for fields of the file.
    pub flags: Flags,
    /// Lock all memory, so that no key is ever swapped out.
    pub mlock: bool,
    /// Print nothing at start.
    pub quiet: bool,
}

impl Options {
    /// Reads the settings, in which flags win over the file, and checks them.
    ///
    /// # Errors
    /// [`Error::Config`]
    pub fn load(&self) -> Result<Loaded, Error> {
        let endpoints: Vec<_> = ROUTES.iter().map(|route| route.pattern).collect();
        let origin = self.config.as_deref().map_or(Origin::Flags, Origin::File);
        let loaded = config::load(origin, &self.flags, &endpoints).map_err(Error::Config)?;
        Ok(room::check(loaded))
    }
}

/// Why the server did not start, or does not take up new settings.
#[derive(Debug)]
pub enum Error {
    /// The configuration is wrong.
    Config(config::Error),
    /// Memory can't be locked.
    Mlock(io::Error),
    /// Certificate, key or trusted authorities are wrong.
    Tls(tls::Error),
    /// The key store can't be used.
    KeyStore(keystore::Error),
    /// A pre-defined key can't be made.
    Key(KeyName, String),
    /// The address can't be listened on; this is where to change it.
    Listen(SocketAddr, &'static str, io::Error),
    /// The sockets that the service manager has opened do not fit.
    Activation(String),
    /// An audit log is required, and what is written to stdout is thrown away.
    NoAuditLog,
    /// A file is a pipe or a device, which can't be read again.
    Pipe(PathBuf),
    /// The files are being changed while they are read.
    Changing,
    /// The system refuses threads, descriptors or signals.
    System(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(e) => e.fmt(f),
            Self::Mlock(e) => write!(
                f,
                "failed to lock memory: {e}: --mlock needs LimitMEMLOCK=infinity in a unit, or 'ulimit -l \
                 unlimited' in a shell"
            ),
            Self::Tls(e) => e.fmt(f),
            Self::KeyStore(e) => e.fmt(f),
            Self::Key(name, why) => write!(f, "failed to create key {:?}: {why}", name.as_str()),
            Self::Listen(address, setting, e) => {
                let hint = match e.kind() {
                    io::ErrorKind::AddrInUse => format!(
                        ": another program uses this port; stop it or choose another with {setting}"
                    ),
                    io::ErrorKind::PermissionDenied => {
                        ": ports below 1024 need more rights".to_owned()
                    }
                    io::ErrorKind::AddrNotAvailable => {
                        ": this machine has no such address".to_owned()
                    }
                    _ => String::new(),
                };
                write!(f, "failed to start server: listen tcp {address}: {e}{hint}")
            }
            Self::Activation(why) => {
                write!(f, "failed to start server: socket activation: {why}")
            }
            Self::NoAuditLog => f.write_str(
                "log.audit is required, but stdout is closed or /dev/null: \
                 connect it to whatever keeps the audit log",
            ),
            Self::Changing => f.write_str("its files are being changed"),
            Self::Pipe(path) => {
                write!(f, "{path:?} is a pipe or a device: only a file can be read again")
            }
            Self::System(e) => write!(f, "failed to start server: {e}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<tls::Error> for Error {
    fn from(error: tls::Error) -> Self {
        Self::Tls(error)
    }
}

/// Checks that stdout can take the audit log that `config` requires. A program that starts with a closed
/// stdout finds `/dev/null` there.
///
/// # Errors
/// [`Error::NoAuditLog`]
pub fn check_audit(config: &Config) -> Result<(), Error> {
    if config.log.audit != AuditMode::Required {
        return Ok(());
    }
    let stdout = rustix::fs::fstat(io::stdout());
    match (stdout, rustix::fs::stat("/dev/null")) {
        (Ok(stdout), Ok(null)) if stdout.st_rdev == null.st_rdev && stdout.st_rdev != 0 => {
            Err(Error::NoAuditLog)
        }
        _ => Ok(()),
    }
}
