//! The life of `kes server`: from its flags to a listening server, and from a signal to exit 0.

use std::{
    io::{self, IsTerminal as _, Write as _},
    process::exit,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use rustix::process::{Resource, Rlimit};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2},
    flag,
    iterator::Signals,
};

use super::{
    banner::{Banner, StartText},
    dev,
    listen::listen,
    notify::{Notifier, Trouble},
    options::{Error, Options, check_audit},
    reload::Reloader,
    room,
    serve::{Limits, Server},
    stores,
    watch::{self, Snapshot},
};
use crate::{
    api::{state::State, wanted},
    base::{
        arena, clock,
        sync::{
            self,
            mpsc::{Receiver, sync_channel},
        },
    },
    keystore::Start,
    log::{Cause, Log},
    tls::{self, ApiKey},
};

/// The log queues may be written out within this time after all requests.
const LOG_TIMEOUT: Duration = Duration::from_millis(500);

/// What a server locks with --mlock, and more.
pub const ENOUGH_LOCKED: u64 = 256 << 20;

/// How to let a server lock the keys that it keeps.
pub const MEMLOCK: &str = "LimitMEMLOCK=8M in a unit, 'ulimit -l 8192' in a shell";

/// Runs a server until SIGTERM or SIGINT; a second signal, or one during the start, ends the process at once. SIGHUP
/// reloads, after the start at the earliest, SIGUSR1 and SIGUSR2 mean nothing. The service manager hears of all of it.
///
/// # Errors
/// [`Error`] if the server can't start. Nothing listens then.
pub fn run(options: &Options) -> Result<(), Error> {
    let (notifier, found) = Notifier::from_env();
    // Lives as long as the process, as its threads do.
    let notifier: &'static Notifier = Box::leak(Box::new(notifier));
    for why in [found.err(), clock::local_zone().err()].into_iter().flatten() {
        let _ = writeln!(io::stderr(), "Warning: {why}");
    }
    let result = serve(options, notifier);
    if let Err(error) = &result {
        notifier.does("", &error.to_string());
    }
    result
}

fn serve(options: &Options, notifier: &'static Notifier) -> Result<(), Error> {
    let signals = Signalled::start().map_err(Error::System)?;
    if let Err(e) = arena::can_lock() {
        let _ = writeln!(
            io::stderr(),
            "Warning: keys in memory may be swapped to a disk: {e}: {MEMLOCK}"
        );
    }
    for signal in [SIGUSR1, SIGUSR2] {
        // Nothing looks at the flag, so the signal means nothing.
        flag::register(signal, Arc::default()).map_err(Error::System)?;
    }
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
    let mut text = StartText::new(config.log.audit, options.quiet);
    notifier.does("", "Opening the key store");
    let store = stores::open(&*config.key_store, config.key_store_start, &mut text)?;
    let maker = wanted::maker(config.generation, &config.root);
    let missing_keys = match config.keys.iter().try_for_each(|name| {
        wanted::create(name, store.as_ref(), maker, wanted::deadline(), |_| {})
            .map_err(|why| Error::Key(name.clone(), why))
    }) {
        Ok(()) => Vec::new(),
        Err(e) if config.key_store_start == Start::Required => return Err(e),
        Err(_) => config.keys.clone(),
    };

    room::raise_descriptor_limit();
    let listeners = listen(&config)?;
    let address = listeners.api.socket.local_addr().unwrap_or(config.address);
    let banner = Banner {
        address,
        root: &config.root,
        identity: &tls::server_identity(&certificate),
        generation: config.generation,
        checks_certificates: state.trust.is_checked(),
        key_store: &store.describe(),
        logs: config.log,
        locks_memory: options.mlock,
        is_coloured: text.is_coloured(),
    };
    // Nor is a closed stdout.
    let _ = match &kind {
        Kind::Configured(_) => banner.write(&mut text),
        Kind::Dev(admin) => dev::tell(address, &certificate, admin, &mut text),
    };
    let log = Log::start(config.log, io::stderr().is_terminal()).map_err(Error::System)?;
    // Lives as long as the process, so that no request has to count references to it.
    let log: &'static Log = Box::leak(Box::new(log));
    log_panics(log);
    let workers = std::thread::available_parallelism().map_or(2, usize::from).max(2);
    let limits = Limits { workers, connections: room::connections(config.limits.connections) };
    let expiry = config.cache;
    // Until here there is no client that would wait for an answer.
    signals.is_listening.store(true, Relaxed);
    let server = Server::start(listeners, limits, state, expiry, store, log, notifier)
        .map_err(Error::System)?;
    wanted::start(server.core, missing_keys).map_err(Error::System)?;
    let is_newest = config.generation.is_newest();
    match kind {
        Kind::Configured(read) => {
            let reloader =
                Reloader::new(server.core, notifier, options, config, certificate, *read);
            reloader.start(signals.reload)
        }
        Kind::Dev(_) => refuse_reloads(signals.reload, log, notifier),
    }
    .map_err(Error::System)?;

    notifier.does("READY=1\n", &format!("Serving clients at {address}"));

    let _ = signals.end.recv();
    notifier.does("STOPPING=1\n", "Stopping");
    server.stop();
    log.finish(LOG_TIMEOUT);
    if is_newest {
        text.say_goodbye();
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
    use rustix::{
        io::Errno,
        mm::{MlockAllFlags, mlockall},
        process::{getrlimit, setrlimit},
        thread::{CapabilitySet, capabilities},
    };
    if !options.mlock {
        return Ok(());
    }
    let maximum = getrlimit(Resource::Memlock).maximum;
    let _ = setrlimit(Resource::Memlock, Rlimit { current: maximum, maximum });
    let is_free =
        || capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK));
    // Within a limit that is too low, the server would not get its threads.
    match maximum.is_none_or(|most| most >= ENOUGH_LOCKED) || is_free() {
        true => mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE),
        false => Err(Errno::NOMEM),
    }
    .map_err(|e| Error::Mlock(e.into()))
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

/// What signals ask for, from the beginning of the start to the end of the process. As the first process of a
/// container, the server would not even notice signals that it has no handler for.
struct Signalled {
    /// SIGHUP. One message may wait: a second one would find the same files.
    reload: Receiver<()>,
    /// The first SIGTERM or SIGINT of a server that listens.
    end: Receiver<()>,
    is_listening: Arc<AtomicBool>,
}

impl Signalled {
    fn start() -> io::Result<Self> {
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
        let ((ask, reload), (finish, end)) = (sync_channel(1), sync_channel(1));
        let is_listening = Arc::new(AtomicBool::new(false));
        let listens = is_listening.clone();
        let mut is_ending = false;
        let run = move || {
            for signal in signals.forever() {
                match signal {
                    SIGHUP => drop(ask.try_send(())),
                    // The key store may keep the start waiting, and nobody waits for an answer.
                    _ if !listens.load(Relaxed) => exit(0),
                    _ if is_ending => exit(1),
                    _ => {
                        is_ending = true;
                        let _ = finish.try_send(());
                    }
                }
            }
        };
        sync::start("signals", 64 * 1024, Box::new(run))?;
        Ok(Self { reload, end, is_listening })
    }
}

/// Says that a server without a configuration file reloads nothing, each time it is asked.
fn refuse_reloads(
    asked: Receiver<()>,
    log: &'static Log,
    notifier: &'static Notifier,
) -> io::Result<()> {
    let run = move || {
        while asked.recv().is_ok() {
            let complaint = "nothing is reloaded: this server has no configuration file";
            notifier.reloads();
            log.error(complaint);
            notifier.has("READY=1\n", Trouble::Reload, complaint);
        }
    };
    sync::start("reload", 64 * 1024, Box::new(run)).map(drop)
}
