//! The life of `kes server`: from its flags to a listening server, and from a signal to exit 0.

use std::{
    fmt,
    io::{self, IsTerminal as _, Write as _},
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::{Arc, mpsc::SyncSender},
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

use super::{
    Limits, Listeners, Server, State,
    banner::Banner,
    reload::{Files, Reloader},
    room,
    routes::ROUTES,
    wanted,
};
use crate::{
    base::deadline::Deadline,
    config::{self, Config, Flags, KeyStoreConfig, Loaded, Origin},
    crypto::{MasterKey, stored},
    keystore::{self, KeyName, KeyStore, Start},
    log::{AuditMode, Cause, Log},
    tls,
};

/// Running requests may finish within this time after a signal (`api.md` 1.1).
const DRAIN_TIMEOUT: Duration = Duration::from_millis(800);
/// What is still in the log queues may be written within this time after that.
const LOG_TIMEOUT: Duration = Duration::from_millis(500);
/// A pre-defined key must be there within this time.
const KEY_TIMEOUT: Duration = Duration::from_secs(15);

/// What `kes server` was told on its command line.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The configuration file.
    pub config: Option<PathBuf>,
    /// The flags that stand for fields of the file.
    pub flags: Flags,
    /// Lock all memory, so that no key is ever swapped out.
    pub mlock: bool,
    /// Print nothing at start.
    pub quiet: bool,
}

impl Options {
    /// Reads the settings, in which flags win over the file, and checks them.
    pub(super) fn load(&self) -> Result<Loaded, Error> {
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
    /// An audit log is required, and what is written to stdout is thrown away.
    NoAuditLog,
    /// The system refuses threads, descriptors or signals.
    System(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(e) => e.fmt(f),
            Self::Mlock(e) => write!(f, "failed to lock memory: {e} - See: 'man mlockall'"),
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
            Self::NoAuditLog => f.write_str(
                "log.audit is required, but stdout is closed or /dev/null: \
                 connect it to whatever keeps the audit log",
            ),
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

/// Runs a server until SIGTERM or SIGINT; a second signal ends the process at once. SIGHUP reloads.
///
/// # Errors
/// [`Error`] if the server can't start. Nothing listens then.
pub fn run(options: &Options) -> Result<(), Error> {
    protect_memory();
    let loaded = options.load()?;
    if options.mlock {
        use rustix::mm::{MlockAllFlags, mlockall};
        mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE)
            .map_err(|e| Error::Mlock(e.into()))?;
    }
    // Looked at before they are read: whatever happens to them from now on is a change.
    let files = Files::of(loaded.config());
    let (config, material, warnings) = loaded.accept_with_files(None).map_err(Error::Config)?;
    let certificate = material.certificate.clone();
    let state = State::new(&config, material);
    check_audit(&config)?;
    for warning in warnings {
        // Whoever closed stderr does not want to know.
        let _ = writeln!(io::stderr(), "{warning}");
    }
    let store = open_key_store(&config.key_store, config.key_store_start, options.quiet)?;
    let missing_keys = match (
        (config.keys.iter()).try_for_each(|name| create_key(name, store.as_ref())),
        config.key_store_start,
    ) {
        (Ok(()), _) => Vec::new(),
        (Err(e), Start::Required) => return Err(e),
        (Err(_), Start::Optional) => config.keys.clone(),
    };

    // Until here a signal simply ends the process.
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(Error::System)?;
    room::raise_descriptor_limit();
    let listeners = Listeners {
        api: listen(config.address, "--addr")?,
        probe: config.probe.map(|address| listen(address, "probe.address")).transpose()?,
    };
    if !options.quiet {
        let banner = Banner {
            address: listeners.api.local_addr().unwrap_or(config.address),
            root: &config.root,
            checks_certificates: state.trust.is_checked(),
            key_store: &store.describe(),
            is_coloured: is_coloured(),
        };
        // Whoever closed stdout does not want the banner; that is no reason to end.
        let _ = banner.write(&mut io::stdout());
    }
    let log = Log::start(config.log, io::stderr().is_terminal()).map_err(Error::System)?;
    // Lives as long as the process, so that no request has to count references to it.
    let log: &'static Log = Box::leak(Box::new(log));
    log_panics(log);
    let workers = std::thread::available_parallelism().map_or(2, usize::from).max(2);
    let limits = Limits { workers, connections: room::connections(config.connections) };
    let expiry = config.cache;
    let (server, threads) =
        Server::start(listeners, limits, state, expiry, store, log).map_err(Error::System)?;
    wanted::start(&server, missing_keys).map_err(Error::System)?;
    let reload = Reloader::new(&server, options, config, certificate, files)
        .start()
        .map_err(Error::System)?;

    wait_for_end(signals, &reload);
    server.stop(threads, DRAIN_TIMEOUT);
    log.finish(LOG_TIMEOUT);
    Ok(())
}

/// Checks that somebody can get the audit log that `config` requires. A program whose stdout is
/// closed when it starts finds `/dev/null` there.
pub(super) fn check_audit(config: &Config) -> Result<(), Error> {
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

/// Listens on `address`, which comes from this setting.
fn listen(address: SocketAddr, setting: &'static str) -> Result<TcpListener, Error> {
    TcpListener::bind(address).map_err(|e| Error::Listen(address, setting, e))
}

fn is_coloured() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// No core file and no debugger of the same user shall see the keys.
fn protect_memory() {
    let _ =
        rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
}

/// Prints to stdout; whoever closed it does not want to know.
fn tell(text: &str) {
    let mut out = io::stdout();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Opens the key store that `config` describes, and says so unless `quiet`.
///
/// # Errors
/// Why it can't be used.
pub(crate) fn open_key_store(
    config: &KeyStoreConfig,
    start: Start,
    quiet: bool,
) -> Result<Arc<dyn KeyStore>, Error> {
    let settings = config.settings();
    let what = settings.opening().filter(|_| !quiet);
    if let Some(what) = &what {
        tell(&format!("{what} ... "));
    }
    let store = settings.open(start);
    if what.is_some() {
        // On a terminal the line is erased, elsewhere it is ended.
        tell(match io::stdout().is_terminal() {
            true => "\r\x1b[K",
            false => "\n",
        });
    }
    store.map_err(Error::KeyStore)
}

impl Server {
    /// Makes the key `name`, which the configuration asks for, if there is none. The cache may still
    /// hold an older key of this name that another server has deleted: it must not seal anything from
    /// now on.
    pub(super) fn create_key(&self, name: &KeyName) -> Result<(), Error> {
        let created = create_key(name, self.store.as_ref());
        self.cache.remove(name);
        created
    }
}

/// Makes the key `name` if there is none.
fn create_key(name: &KeyName, store: &dyn KeyStore) -> Result<(), Error> {
    let fail = |why: String| Error::Key(name.clone(), why);
    let key = MasterKey::generate().map_err(|e| fail(e.to_string()))?;
    let deadline = Deadline::after(Instant::now(), KEY_TIMEOUT);
    match store.create(name, &stored::encode(&key), deadline) {
        Ok(()) | Err(keystore::Error::Exists) => Ok(()),
        Err(e) => Err(fail(e.to_string())),
    }
}

/// A panic is a bug: the log says where, and not with which values.
fn log_panics(log: &'static Log) {
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        log.error_from_outside(Cause::Panic, || {
            format!("panic in thread {} at {place}", thread.name().unwrap_or("?"))
        });
    }));
}

/// Passes SIGHUP on to `reload` until another signal comes.
fn wait_for_end(mut signals: Signals, reload: &SyncSender<()>) {
    for signal in signals.forever() {
        if signal != SIGHUP {
            break;
        }
        // If it can't be sent, one is waiting already, which will see the same files.
        let _ = reload.try_send(());
    }
    std::thread::spawn(move || {
        if signals.forever().any(|signal| signal != SIGHUP) {
            std::process::exit(1);
        }
    });
}
