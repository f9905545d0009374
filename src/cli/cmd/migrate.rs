//! `kes tool migrate`: copies the keys of one key store into another.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _, Write as _},
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    base::{
        deadline::Deadline,
        glob::{Effort, Pattern},
    },
    cli::{
        args::{Args, Argument, Command, JSON, Kind, flag, value},
        output::{Failure, Paint, Result, Style, complain, harmless, print},
    },
    config::{self, Flags, KeyStoreConfig, Origin},
    crypto::{MasterKey, stored},
    keystore::{self, KeyName, KeyStore, Start},
};

pub(crate) const MIGRATE: Command = Command {
    path: &["tool", "migrate"],
    aliases: &[&["migrate"]],
    arguments: &[Argument::pattern(Kind::Text)],
    summary: "Copy the keys of one key store into another",
    details: "\
The files are those of a server; only their key store section matters. Each key is
read back and compared. A key that is the same at the target already is done, so a
migration that was interrupted goes on when it is started again. A key that is
different there ends the migration, unless --merge or --force says what to do. What
is no key is left where it is. Servers should not create keys in the source
meanwhile.",
    flags: &[
        value(&["from"], "file", "configuration file with the key store to copy from"),
        value(&["to"], "file", "configuration file with the key store to copy to"),
        flag(&["force", "f"], "replace keys that are different at the target"),
        flag(&["merge"], "leave keys that are different at the target as they are"),
        flag(&["quiet", "q"], "print errors only"),
        JSON,
    ],
    examples: &[
        "kes tool migrate --from fs.yml --to vault.yml",
        "kes tool migrate --from old.yml --to new.yml --merge 'my-*'",
    ],
    run: migrate,
    ..Command::NEW
};

/// Keys that are copied at the same time.
const THREADS: usize = 8;
/// One step with one key may take this time.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The progress is drawn anew after this time.
const REDRAW: Duration = Duration::from_millis(100);

/// What to do with a key that is different at the target.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Clash {
    Fail,
    Keep,
    Replace,
}

/// What was done with a key.
enum Done {
    Copied,
    /// It was there already.
    Same,
    /// Another key of this name was there, and is left alone.
    Kept,
    /// What is stored is no key.
    NoKey(stored::Error),
    /// It was deleted meanwhile, or is only marked as deleted.
    Gone,
}

/// How far a migration is.
#[derive(Default)]
struct Progress {
    copied: AtomicUsize,
    same: AtomicUsize,
    kept: AtomicUsize,
    /// What could not be copied, and why.
    warnings: Mutex<Vec<String>>,
    /// Why the migration ends early: the key and the reason.
    failure: Mutex<Option<(String, String)>>,
    is_over: AtomicBool,
}

fn migrate(args: &Args) -> Result<()> {
    let clash = match (args.is_set("force"), args.is_set("merge")) {
        (true, true) => {
            return Err("-f or --force cannot be used together with --merge. They are mutually \
                 exclusive"
                .into());
        }
        (true, false) => Clash::Replace,
        (false, true) => Clash::Keep,
        (false, false) => Clash::Fail,
    };
    let pattern = Pattern::parse(args.pattern())?;
    let file = |flag, what| {
        args.value(flag).ok_or_else(|| {
            format!("no migration {what} specified. Use '--{flag}' to specify a config file")
        })
    };
    let (from, to) = (file("from", "source")?, file("to", "target")?);
    let (source_config, target_config) = (key_store_of(from)?, key_store_of(to)?);
    if source_config.settings().place() == target_config.settings().place() {
        return Err(format!("{from:?} and {to:?} have the same key store").into());
    }
    let source = source_config.settings().open_for_reading()?;
    let target = target_config.settings().open(Start::Required)?;
    let names = source
        .list(Deadline::after(Instant::now(), TIMEOUT))
        .map_err(|e| format!("failed to list the keys to migrate: {e}"))?;
    let mut effort = Effort::for_names(names.len());
    let progress = Progress::default();
    let (mut found, mut keys) = (0, Vec::new());
    for name in names {
        if !pattern.matches(&name, &mut effort) {
            continue;
        }
        found += 1;
        match KeyName::parse(&name) {
            Some(key) => keys.push(key),
            None => {
                progress.warn(format!("{name:?} is left where it is: no key can have that name"))
            }
        }
    }
    keys.sort();
    if effort.is_exhausted() {
        return Err("pattern takes too long to match".into());
    }

    if clash == Clash::Replace {
        // Before anything is deleted there.
        check_writable(target.as_ref())
            .map_err(|e| format!("{to:?}: no key can be created there: {e}"))?;
    }
    let shows_progress =
        !args.is_set("quiet") && !args.is_set("json") && io::stdout().is_terminal();
    copy_all(&keys, source.as_ref(), target.as_ref(), clash, &progress, shows_progress);
    report(args, &progress, found)
}

/// Copies `names` on a few threads; returns when all is done, or after the first failure.
fn copy_all(
    names: &[KeyName],
    source: &dyn KeyStore,
    target: &dyn KeyStore,
    clash: Clash,
    progress: &Progress,
    shows_progress: bool,
) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        let copiers: Vec<_> = (0..THREADS.min(names.len()))
            .map(|_| {
                scope.spawn(|| {
                    while !progress.is_over.load(Ordering::Relaxed)
                        && let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed))
                    {
                        progress.note(name, copy(name, source, target, clash));
                    }
                })
            })
            .collect();
        while shows_progress && !copiers.iter().all(thread::ScopedJoinHandle::is_finished) {
            let _ = write!(io::stdout(), "\r\x1b[KMigrated keys: {}", progress.done());
            let _ = io::stdout().flush();
            thread::sleep(REDRAW);
        }
    });
    if shows_progress {
        let _ = write!(io::stdout(), "\r\x1b[K");
    }
}

/// Copies one key; creating it includes reading it back.
fn copy(
    name: &KeyName,
    source: &dyn KeyStore,
    target: &dyn KeyStore,
    clash: Clash,
) -> std::result::Result<Done, String> {
    let deadline = || Deadline::after(Instant::now(), TIMEOUT);
    let value = match source.get(name, deadline()) {
        Ok(value) => value,
        Err(keystore::Error::NotFound) => return Ok(Done::Gone),
        Err(e) => return Err(e.to_string()),
    };
    if let Err(e) = stored::decode(value.expose()) {
        return Ok(Done::NoKey(e));
    }
    match target.create(name, &value, deadline()) {
        Ok(()) => return Ok(Done::Copied),
        Err(keystore::Error::Exists) => {}
        Err(e) => return Err(e.to_string()),
    }
    let found = target.get(name, deadline()).map_err(|e| e.to_string())?;
    match clash {
        _ if found == value => Ok(Done::Same),
        Clash::Keep => Ok(Done::Kept),
        Clash::Fail => {
            Err("another key of this name exists at the target: use --merge to keep it, \
             or --force to replace it"
                .to_owned())
        }
        Clash::Replace => {
            target
                .delete(name, deadline())
                .map_err(|e| format!("{e} (the target has its old key)"))?;
            let Err(e) = target.create(name, &value, deadline()) else {
                return Ok(Done::Copied);
            };
            // Nothing is lost: it is put back as it was.
            match target.create(name, &found, deadline()) {
                Ok(()) => Err(format!("{e} (the target has its old key again)")),
                Err(why) => Err(format!(
                    "{e} (the target has neither key now, and its old one can't be put back: {why})"
                )),
            }
        }
    }
}

/// Checks that keys can be created, read and deleted, with one of a name that nobody has.
fn check_writable(target: &dyn KeyStore) -> std::result::Result<(), String> {
    let deadline = || Deadline::after(Instant::now(), TIMEOUT);
    let number = getrandom::u64().map_err(|e| e.to_string())?;
    let name = KeyName::parse(&format!("kes-migrate-{number:016x}"));
    let name = name.ok_or("no name")?;
    let key = MasterKey::generate().map_err(|e| e.to_string())?;
    let created = target.create(&name, &stored::encode(&key), deadline());
    let deleted = target.delete(&name, deadline());
    created.and(deleted).map_err(|e| e.to_string())
}

impl Progress {
    fn note(&self, name: &KeyName, result: std::result::Result<Done, String>) {
        let count = |counter: &AtomicUsize| {
            counter.fetch_add(1, Ordering::Relaxed);
        };
        match result {
            Ok(Done::Copied) => count(&self.copied),
            Ok(Done::Same) => count(&self.same),
            Ok(Done::Kept) => count(&self.kept),
            Ok(Done::Gone) => self.warn(format!(
                "{:?} is not copied: it is listed, but there is no key",
                name.as_str()
            )),
            Ok(Done::NoKey(e)) => {
                self.warn(format!("{:?} is left where it is: {e}", name.as_str()))
            }
            Err(why) => {
                self.is_over.store(true, Ordering::Relaxed);
                let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
                failure.get_or_insert_with(|| (name.as_str().to_owned(), why));
            }
        }
    }

    fn warn(&self, text: String) {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        warnings.push(text);
    }

    /// The keys that are at the target now.
    fn done(&self) -> usize {
        self.copied.load(Ordering::Relaxed) + self.same.load(Ordering::Relaxed)
    }
}

/// Says what was done.
fn report(args: &Args, progress: &Progress, found: usize) -> Result<()> {
    let failure = progress.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
    let warnings =
        std::mem::take(&mut *progress.warnings.lock().unwrap_or_else(PoisonError::into_inner));
    for warning in &warnings {
        complain(&format!("Warning: {}\n", harmless(warning)));
    }
    if let Some((name, why)) = &failure {
        complain(&format!("Failed to migrate {name:?}: Error: {}\n", harmless(why)));
    }
    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    if args.is_set("json") {
        let counts = serde_json::json!({
            "found": found,
            "migrated": count(&progress.copied),
            "same": count(&progress.same),
            "kept": count(&progress.kept),
            "not_copied": warnings.len(),
            "ok": failure.is_none(),
        });
        print(&format!("{counts}\n"))?;
    } else if !args.is_set("quiet") {
        let style = Style::of_stdout();
        let end = match failure {
            None => style.paint(Paint::Green, "[ OK ]"),
            Some(_) => style.paint(Paint::Red, "[ FAIL ]"),
        };
        let mut line = format!("Migrated keys: {} {end}", progress.done());
        for (number, what) in [
            (count(&progress.same), "there already"),
            (count(&progress.kept), "different at the target and kept there"),
        ] {
            if number > 0 {
                let _ = write!(line, "\n  {number} {what}");
            }
        }
        print(&format!("{line}\n"))?;
    }
    match failure.is_some() || !warnings.is_empty() {
        true => Err(Failure::Exit(1)),
        false => Ok(()),
    }
}

/// The key store of the configuration file `file`, whatever else is in it or not.
fn key_store_of(file: &str) -> Result<KeyStoreConfig> {
    let flags = Flags {
        root: Some("_".to_owned()),
        key: Some("-".into()),
        cert: Some("-".into()),
        ..Flags::default()
    };
    let config = config::load(Origin::File(Path::new(file)), &flags, &[])?.accept()?;
    match config.key_store {
        KeyStoreConfig::Memory => {
            Err(format!("{file:?} has no key store that outlives a server: set \"keystore\"")
                .into())
        }
        key_store => Ok(key_store),
    }
}
