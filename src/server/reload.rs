//! Changes without a restart: SIGHUP applies the configuration, and so does a change of its files where
//! they are watched; the server's certificate is read again when its files change.
//!
//! All that is new is read and checked before any of it is used: it takes effect as a whole, or nothing
//! changes and the error log says why.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::sign::CertifiedKey;
use rustls_pki_types::UnixTime;

use super::{
    notify::{Notifier, Trouble},
    options::{Error, Options, check_audit},
    room,
    watch::{self, Contents, Files, Snapshot},
};
use crate::{
    api::{core::Core, state::State, wanted},
    base::{
        clock,
        generation::Generation,
        panics::survive,
        sync::{
            self,
            mpsc::{Receiver, RecvTimeoutError},
        },
    },
    config::Config,
    tls,
};

/// How often the files are looked at.
const INTERVAL: Duration = Duration::from_secs(2);
/// Changed settings that can't be used are tried again after this time, since the reason may be elsewhere: in
/// a file that they name, or in the key store.
const RETRY: Duration = Duration::from_secs(5);

/// The thread that reloads.
pub struct Reloader {
    core: &'static Core,
    notifier: &'static Notifier,
    options: Options,
    /// The settings at the start, some of which last until the end.
    started: Config,
    /// The settings in use.
    config: Config,
    certificate: Arc<CertifiedKey>,
    /// The files that `certificate` and `config` were read from, as they were then.
    read: Snapshot,
    /// The files as they were at the last look.
    seen: Files,
    /// The latest complaint about a certificate that can't be used.
    complaint: String,
    /// The files that it is about, and the time before which reading them again is of no use.
    unfit: Option<(Files, UnixTime)>,
    /// The latest settings that can't be used.
    refused: Option<Refused>,
}

/// Settings that can't be used.
struct Refused {
    files: Files,
    since: Instant,
    complaint: String,
}

impl Reloader {
    /// A reloader for a server that runs with `config` and `certificate`, which were read from files
    /// like `read`.
    pub fn new(
        core: &'static Core,
        notifier: &'static Notifier,
        options: &Options,
        config: Config,
        certificate: Arc<CertifiedKey>,
        read: Snapshot,
    ) -> Self {
        Self {
            core,
            notifier,
            options: options.clone(),
            started: config.clone(),
            config,
            certificate,
            read,
            seen: read.files,
            complaint: String::new(),
            unfit: None,
            refused: None,
        }
    }

    /// Starts the thread; each message asks for a reload.
    pub fn start(self, asked: Receiver<()>) -> std::io::Result<()> {
        sync::start("reload", 512 * 1024, Box::new(move || self.run(&asked))).map(drop)
    }

    fn run(mut self, asked: &Receiver<()>) {
        loop {
            let is_asked = match asked.recv_timeout(INTERVAL) {
                Ok(()) => true,
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            survive(|| match is_asked {
                true => self.reload(),
                false => self.look(),
            });
        }
    }

    /// Reads all settings again.
    fn reload(&mut self) {
        self.notifier.reloads();
        // First, since new keys can only be created once the key store can be used.
        self.core.store.retry();
        match self.try_reload(None) {
            Ok(notes) => self.tell("READY=1\n", &notes),
            Err(e) => {
                let complaint = e.to_string();
                self.tell_failure("READY=1\n", &complaint);
                self.refuse(self.files(), complaint);
            }
        }
    }

    fn refuse(&mut self, files: Files, complaint: String) {
        self.refused = Some(Refused { files, since: clock::now(), complaint });
    }

    /// Says how a reload went well; the service manager hears it after `state`.
    fn tell(&self, state: &str, notes: &[String]) {
        self.core.log.error("the configuration is reloaded");
        notes.iter().for_each(|note| self.core.log.error(note));
        self.notifier.has(state, Trouble::Reload, "");
    }

    fn tell_failure(&self, state: &str, why: &str) {
        let trouble =
            format!("failed to reload the configuration, everything stays as it was: {why}");
        self.core.log.error(&trouble);
        self.notifier.has(state, Trouble::Reload, &trouble);
    }

    /// The files of the settings in use as they are now.
    fn files(&self) -> Files {
        Files::of(&self.options, &self.config)
    }

    /// Reads the settings and puts them in place, unless their files are no longer as they were `at_rest`.
    /// Returns notes for the error log.
    fn try_reload(&mut self, at_rest: Option<Files>) -> Result<Vec<String>, Error> {
        watch::check(&self.options.config)?;
        let (loaded, mut read) = watch::load(&self.options)?;
        let Config { tls_cert, tls_key, tls_ca, .. } = loaded.config();
        watch::check([tls_cert, tls_key].into_iter().chain(tls_ca))?;
        let in_use = Some(&*self.certificate);
        let (mut config, mut material, mut notes) =
            loaded.accept_with_files(in_use).map_err(Error::Config)?;
        if let Some(at_rest) = at_rest
            && (self.files() != at_rest || Files::of(&self.options, &config) != read.files)
        {
            return Err(Error::Changing);
        }
        if let Some(flaw) = material.trust.new_flaw(&self.core.state().trust) {
            let why =
                format!("the certificate store of the system can't be read as before: {flaw}");
            return Err(tls::Error::Other(why).into());
        }
        if self.valid_until(&material.certificate).is_some() {
            // The next look at the files says so, and waits.
            read.files.pair = [None, None];
            material.certificate = self.certificate.clone();
            material.tls = tls::server_config(
                material.certificate.clone(),
                material.trust.clone(),
                &config.tls_groups,
                config.server_tls(),
            )?;
        }
        let known = &self.config.keys;
        let (mut new_keys, deadline) = (config.keys.clone(), wanted::deadline());
        new_keys.retain(|name| !known.contains(name));
        if *config.key_store != *self.started.key_store {
            // New keys are for the other one: made here, they would not be there after the restart.
            config.keys.retain(|name| known.contains(name));
        }
        let certificate = material.certificate.clone();
        let fresh = State::new(&config, material);
        check_audit(&config)?;
        let maker = wanted::maker(config.generation, &config.root);
        for name in new_keys.iter().filter(|name| config.keys.contains(name)) {
            let created = self.core.ask_for_key(name, maker, deadline);
            created.map_err(|why| Error::Key(name.clone(), why))?;
        }

        // From here on nothing can fail.
        let Ok(()) = self.core.change_state(|state| {
            let mut policies = config.policies.clone();
            // The newest generation has no calls that change policies: its file says all there is.
            if config.generation == Generation::V0_14 {
                policies.keep_calls_of(&state.policies);
            }
            *state = State {
                policies,
                // Sessions and connections of before are checked against what is trusted now.
                trust_generation: state.trust_generation + 1,
                ..fresh
            };
            Ok::<(), Infallible>(())
        });
        self.core.cache.set_expiry(config.cache);
        self.core.log.configure(config.log);
        self.core.metrics.connections.set_limit(room::connections(config.limits.connections));
        let has_all = new_keys.iter().all(|name| config.keys.contains(name));
        notes.extend(self.needs_restart(&config, has_all));
        self.certificate = certificate;
        (self.read, self.seen) = (read, read.files);
        self.complaint.clear();
        self.unfit = None;
        self.refused = None;
        self.config = config;
        Ok(notes)
    }

    /// The changes in `config` that need a restart. `has_all` says whether it has all keys of its file.
    fn needs_restart(&self, config: &Config, has_all: bool) -> Option<String> {
        let started = &self.started;
        let settings = [
            ("address", config.address != started.address),
            ("probe.address", config.probe != started.probe),
            ("the key store", *config.key_store != *started.key_store),
            ("new names under keys", !has_all),
        ];
        let changed: Vec<_> =
            settings.iter().filter_map(|(name, is_changed)| is_changed.then_some(*name)).collect();
        (!changed.is_empty()).then(|| {
            format!(
                "changed since the start, and not in use before a restart: {}",
                changed.join(", ")
            )
        })
    }

    /// Takes up what is new in the files.
    fn look(&mut self) {
        let files = self.files();
        // A file may be half written, and of a pair one file be older: all must have come to rest.
        let is_at_rest = std::mem::replace(&mut self.seen, files) == files;
        if !is_at_rest {
            return;
        }
        if files.settings != self.read.files.settings && watch::is_on(&self.options, &self.config) {
            self.follow(files);
        }
        if files.pair != self.read.files.pair {
            self.renew(files);
        }
    }

    /// Reads the settings again if the contents of their files have changed.
    fn follow(&mut self, files: Files) {
        let is_early =
            |refused: &Refused| refused.files == files && (clock::now() - refused.since) < RETRY;
        if self.refused.as_ref().is_some_and(is_early) {
            return;
        }
        if Contents::of(&self.options, &self.config) == self.read.contents {
            self.read.files.settings = files.settings;
            if self.refused.take().is_some() {
                self.notifier.has("", Trouble::Reload, "");
            }
            return;
        }
        match self.try_reload(Some(files)) {
            Ok(notes) => self.tell("", &notes),
            Err(Error::Changing) => {}
            Err(_) if self.files() != files => {}
            Err(e) => {
                let complaint = e.to_string();
                if self.refused.as_ref().is_none_or(|refused| refused.complaint != complaint) {
                    self.tell_failure("", &complaint);
                }
                self.refuse(files, complaint);
            }
        }
    }

    /// Uses the certificate of changed files. The configuration, which may be half edited, is not read.
    fn renew(&mut self, files: Files) {
        // To decrypt a key takes long.
        let waits = |(unfit, until): &(Files, UnixTime)| {
            unfit.pair == files.pair && UnixTime::now() < *until
        };
        if self.unfit.as_ref().is_some_and(waits) {
            return;
        }
        let (error, until) = match self.load_renewed() {
            Ok(_) if self.files() != files => return,
            Ok(certificate) => match self.valid_until(&certificate) {
                Some(until) => {
                    let cert = &self.config.tls_cert;
                    let why = format!("certificate {cert:?} is not valid yet, and used once it is");
                    (tls::Error::Other(why).into(), until)
                }
                None => {
                    self.read.files.pair = files.pair;
                    self.complaint.clear();
                    if certificate.cert != self.certificate.cert {
                        self.take_up(certificate);
                    }
                    return;
                }
            },
            // The reason may be elsewhere.
            Err(e @ Error::Tls(tls::Error::Unreadable(..))) => (e, UnixTime::now()),
            Err(e) => (e, UnixTime::since_unix_epoch(Duration::MAX)),
        };
        self.unfit = Some((files, until));
        let complaint = error.to_string();
        if complaint != self.complaint {
            self.core.log.error(&format!(
                "the certificate has changed and can't be used, the old one stays in use: {complaint}"
            ));
            self.complaint = complaint;
        }
    }

    /// Until when the certificate in use is to be preferred to this one, which is not valid yet; `None` if it is
    /// not.
    fn valid_until(&self, certificate: &CertifiedKey) -> Option<UnixTime> {
        let ([start, _], now) = (tls::validity(certificate), UnixTime::now());
        let [began, end] = tls::validity(&self.certificate);
        let until = start.min(end);
        (began <= now && now < until).then_some(until)
    }

    fn load_renewed(&self) -> Result<Arc<CertifiedKey>, Error> {
        let Config { tls_cert, tls_key, tls_password, .. } = &self.config;
        watch::check([tls_cert, tls_key])?;
        let certificate =
            tls::load_certificate(tls_cert, tls_key, tls_password.as_ref()).map_err(Error::Tls)?;
        tls::check_expiry(&certificate, tls_cert, UnixTime::now()).map_err(Error::Tls)?;
        Ok(certificate)
    }

    fn take_up(&mut self, certificate: Arc<CertifiedKey>) {
        let taken = self.core.change_state(|state| {
            let Config { tls_groups, .. } = &self.config;
            let (trust, demands) = (state.trust.clone(), self.config.server_tls());
            let tls = tls::server_config(certificate.clone(), trust, tls_groups, demands)?;
            state.set_certificate(&certificate, tls);
            Ok::<(), tls::Error>(())
        });
        match taken {
            Ok(()) => {
                self.core.log.error("the certificate has changed: the new one is in use");
                self.certificate = certificate;
            }
            Err(e) => self.core.log.error(&e.to_string()),
        }
    }
}
