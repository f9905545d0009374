//! The life of `kes server`: from its flags to a listening server, and from a signal to exit 0.

use std::{
    io::{self, IsTerminal as _, Write as _},
    net::{SocketAddr, TcpListener},
    sync::mpsc::SyncSender,
    time::Duration,
};

use rustix::process::{Resource, Rlimit};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

use super::{
    banner::{Banner, say_goodbye},
    dev,
    options::{Error, Options, check_audit},
    reload::Reloader,
    room,
    serve::{Limits, Listeners, Server},
    stores,
    watch::{self, Snapshot},
};
use crate::{
    api::{state::State, wanted},
    keystore::Start,
    log::{Cause, Log},
    tls::{self, ApiKey},
};

/// Running requests may finish within this time after a signal.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(800);
/// The log queues may be written out within this time after that.
const LOG_TIMEOUT: Duration = Duration::from_millis(500);

/// Runs a server until SIGTERM or SIGINT; a second signal ends the process at once. SIGHUP reloads.
///
/// # Errors
/// [`Error`] if the server can't start. Nothing listens then.
pub fn run(options: &Options) -> Result<(), Error> {
    let _ = protect_memory();
    let (config, material, kind) = match options.dev {
        true => {
            let (config, material, admin) = dev::settings(options.flags.addr.as_deref())?;
            lock_memory(options)?;
            (config, material, Kind::Dev(admin))
        }
        false => {
            let (loaded, read) = watch::load(options)?;
            lock_memory(options)?;
            let (config, material, warnings) =
                loaded.accept_with_files(None).map_err(Error::Config)?;
            check_audit(&config)?;
            for warning in warnings {
                // A closed stderr is no reason not to start.
                let _ = writeln!(io::stderr(), "{warning}");
            }
            (config, material, Kind::Configured(Box::new(read)))
        }
    };
    let certificate = material.certificate.clone();
    let state = State::new(&config, material);
    let store = stores::open(&*config.key_store, config.key_store_start, options.quiet)?;
    let maker = wanted::maker(config.generation, &config.root);
    let missing_keys = match config.keys.iter().try_for_each(|name| {
        wanted::create(name, store.as_ref(), maker, |_| {})
            .map_err(|why| Error::Key(name.clone(), why))
    }) {
        Ok(()) => Vec::new(),
        Err(e) if config.key_store_start == Start::Required => return Err(e),
        Err(_) => config.keys.clone(),
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
            identity: &tls::server_identity(&certificate),
            generation: config.generation,
            checks_certificates: state.trust.is_checked(),
            key_store: &store.describe(),
            logs: config.log,
            locks_memory: options.mlock,
            is_coloured: is_coloured(),
        };
        // Nor is a closed stdout.
        let _ = match &kind {
            Kind::Configured(_) => banner.write(&mut io::stdout()),
            Kind::Dev(admin) => dev::tell(banner.address, &certificate, admin, &mut io::stdout()),
        };
    }
    let log = Log::start(config.log, io::stderr().is_terminal()).map_err(Error::System)?;
    // Lives as long as the process, so that no request has to count references to it.
    let log: &'static Log = Box::leak(Box::new(log));
    log_panics(log);
    let workers = std::thread::available_parallelism().map_or(2, usize::from).max(2);
    let limits = Limits { workers, connections: room::connections(config.connections) };
    let expiry = config.cache;
    let server =
        Server::start(listeners, limits, state, expiry, store, log).map_err(Error::System)?;
    wanted::start(server.core, missing_keys).map_err(Error::System)?;
    let is_newest = config.generation.is_newest();
    let reload = match kind {
        Kind::Configured(read) => {
            let reloader = Reloader::new(server.core, options, config, certificate, *read);
            Some(reloader.start().map_err(Error::System)?)
        }
        Kind::Dev(_) => None,
    };

    wait_for_end(signals, reload.as_ref(), log);
    server.stop(DRAIN_TIMEOUT);
    log.finish(LOG_TIMEOUT);
    if is_newest && !options.quiet {
        say_goodbye();
    }
    Ok(())
}

/// What sets servers apart while they run.
enum Kind {
    /// A server whose settings can be read again. They come from these files.
    Configured(Box<Snapshot>),
    /// A server to try things out with, and the key of its admin.
    Dev(ApiKey),
}

fn lock_memory(options: &Options) -> Result<(), Error> {
    use rustix::mm::{MlockAllFlags, mlockall};
    match options.mlock {
        true => mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE)
            .map_err(|e| Error::Mlock(e.into())),
        false => Ok(()),
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
///
/// # Errors
/// What the system refuses.
pub fn protect_memory() -> io::Result<()> {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior, setrlimit};
    let limited = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(limited?)
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
fn wait_for_end(mut signals: Signals, reload: Option<&SyncSender<()>>, log: &Log) {
    for signal in signals.forever() {
        if signal != SIGHUP {
            break;
        }
        match reload {
            // If it can't be sent, one is waiting already, which will see the same files.
            Some(reload) => drop(reload.try_send(())),
            None => log.error("nothing is reloaded: this server has no configuration file"),
        }
    }
    std::thread::spawn(move || {
        if signals.forever().any(|signal| signal != SIGHUP) {
            std::process::exit(1);
        }
    });
}
