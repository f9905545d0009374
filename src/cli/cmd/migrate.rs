//! `kes tool migrate` and `kes migrate`: copies the keys of one key store into another.

use std::{path::Path, sync::Arc, time::Instant};

use crate::{
    base::{
        deadline::Deadline,
        generation::Generation,
        glob::{Effort, Pattern},
    },
    cli::{
        args::{Args, Argument, Command, JSON, Kind, flag, value},
        output::{
            Failure, Paint, Result, Style, complain, harmless, is_terminal, print, warn, write,
        },
        settings::first_error,
    },
    config::{self, Config, Flags, Origin},
    keystore::{
        KeyName, Settings, Start,
        copy::{Clash, Migration, Progress, TIMEOUT},
    },
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
is no key is left where it is. Stored values are copied as they are, whatever the
generations of the files. Servers should not create keys in the source meanwhile.",
    flags: &[
        value(&["from"], "file", "configuration file with the key store to copy from"),
        value(&["to"], "file", "configuration file with the key store to copy to"),
        flag(&["force", "f"], "replace keys that are different at the target"),
        flag(&["merge"], "leave keys that are different at the target as they are"),
        flag(&["quiet", "q"], "print errors only"),
        JSON,
        // Of newer versions, which can copy to a server of a commercial KMS: refused below.
        value(&["server", "s"], "host:port", ""),
        value(&["enclave", "e"], "name", ""),
        value(&["api-key", "a"], "key", ""),
        flag(&["insecure", "k"], ""),
    ],
    exit_codes: &[
        (0, "all keys are at the target"),
        (1, "something failed, or is left where it is, as standard error says"),
        (
            DIFFERENT,
            "with --merge, the target keeps other keys of the names that standard error has",
        ),
    ],
    examples: &[
        "kes tool migrate --from fs.yml --to vault.yml",
        "kes tool migrate --from old.yml --to new.yml --merge 'my-*'",
    ],
    run: migrate,
};

/// The exit code where keys of the target were kept.
const DIFFERENT: u8 = 3;

fn migrate(args: &Args) -> Result<()> {
    let mut flags = MIGRATE.flags.iter().filter(|flag| flag.help.is_empty());
    if let Some(flag) = flags.find(|flag| args.value(flag.names[0]).is_some()) {
        let [long, short] = [flag.names[0], flag.names[1]];
        return Err(format!(
            "-{short}, --{long} is for a KMS server as the target, which does not exist in kes: keys are copied \
             to a key store, which the configuration file of '--to' names"
        )
        .into());
    }
    let clash = match (args.is_set("force"), args.is_set("merge")) {
        (true, true) => {
            let why =
                "-f or --force cannot be used together with --merge. They are mutually exclusive";
            return Err(why.into());
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
    let (source_config, _) = key_store_of(from)?;
    let (target_config, generation) = key_store_of(to)?;
    if source_config.place() == target_config.place() {
        return Err(format!("{from:?} and {to:?} have the same key store").into());
    }
    let source = source_config.open_for_reading()?;
    let target = target_config.open(Start::Required)?;
    let mut names = source
        .list(Deadline::after(Instant::now(), TIMEOUT))
        .map_err(|e| format!("failed to list the keys to migrate: {e}"))?;
    names.sort_unstable();
    let mut effort = Effort::for_names(names.len());
    let mut progress = Progress::default();
    let mut keys = Vec::new();
    for name in names.into_iter().filter(|name| pattern.matches(name, &mut effort)) {
        match KeyName::parse(&name) {
            Some(key) => keys.push(key),
            None => {
                let why = "is left where it is: no key can have that name";
                progress.warnings.push(format!("{name:?} {why}"));
            }
        }
    }
    if effort.is_exhausted() {
        return Err("pattern takes too long to match".into());
    }
    let found = keys.len() + progress.warnings.len();
    if found == 0 && args.pattern() != "*" {
        return Err(format!("no key of {from:?} matches {:?}", args.pattern()).into());
    }
    let migration = Migration { source: source.as_ref(), target: target.as_ref(), clash };
    if clash == Clash::Replace {
        // Before anything is deleted there.
        let check = migration.check_writable();
        check.map_err(|e| format!("{to:?}: no key can be created there: {e}"))?;
    }
    let shows_progress = !args.is_set("quiet") && !args.is_set("json") && is_terminal();
    let show = |text: &str| {
        if shows_progress {
            let _ = write(format!("\r\x1b[K{text}").as_bytes());
        }
    };
    let draw = |progress: &Progress| show(&format!("Migrated keys: {}", progress.done()));
    let progress = migration.run(&keys, progress, draw);
    show("");
    if let [first, ..] = &*progress.unusable
        && generation == Some(Generation::Newest)
        && !args.is_set("quiet")
    {
        warn(&format!(
            "{} of the keys have names, such as {first:?}, that clients can't use with a file as {to:?}: it is one of \
             the newest generation",
            progress.unusable.len()
        ));
    }
    if progress.of_newest > 0 && generation == Some(Generation::V0_14) && !args.is_set("quiet") {
        warn(&format!(
            "{} of the keys are stored in the format of newer versions, which KES 0.14 itself can't read; \
             {to:?} has its configuration",
            progress.of_newest
        ));
    }
    report(args, &progress, found)
}

/// Says what was done.
fn report(args: &Args, progress: &Progress, found: usize) -> Result<()> {
    let Progress { copied, same, kept, warnings, failure, .. } = progress;
    for warning in warnings {
        complain(&format!("Warning: {}\n", harmless(warning)));
    }
    for name in kept {
        let what = "is not copied: the target keeps another key of this name";
        complain(&format!("Warning: {name:?} {what}\n"));
    }
    let end = match (failure, warnings.is_empty(), kept.is_empty()) {
        (None, true, true) => Ok(()),
        (None, true, false) => Err(Failure::Exit(DIFFERENT)),
        _ => Err(Failure::Exit(1)),
    };
    if let Some((name, why)) = failure {
        complain(&format!("Failed to migrate {name:?}: Error: {}\n", harmless(why)));
    }
    if args.is_set("json") {
        let counts = serde_json::json!({
            "found": found,
            "migrated": copied,
            "same": same,
            "kept": kept.len(),
            "not_copied": warnings.len(),
            "ok": end.is_ok(),
        });
        print(&format!("{counts}\n"))?;
    } else if !args.is_set("quiet") {
        let style = Style::of_stdout();
        let outcome = match (&end, failure) {
            (Ok(()), _) => style.paint(Paint::Green, "[ OK ]"),
            (Err(_), None) => style.paint(Paint::Yellow, "[ INCOMPLETE ]"),
            (Err(_), Some(_)) => style.paint(Paint::Red, "[ FAIL ]"),
        };
        let mut text = match (args.by_alias, &end) {
            (true, Ok(())) => format!("Migrated {} keys successfully!\n", progress.done()),
            _ => format!("Migrated keys: {} {outcome}\n", progress.done()),
        };
        for (number, what) in
            [(*same, "there already"), (kept.len(), "different at the target and kept there")]
        {
            if number > 0 {
                text += &format!("  {number} {what}\n");
            }
        }
        print(&text)?;
    }
    end
}

/// The key store of the configuration file `file`, whatever else is in it or not, and the generation of a server with
/// it, unless it is no file for one.
fn key_store_of(file: &str) -> Result<(Arc<dyn Settings>, Option<Generation>)> {
    let path = Path::new(file);
    let loaded = config::load(Origin::File(path), &Flags::default(), &[])?;
    if let Some(wrong) = first_error(&loaded.findings(), &["keystore", "keys"]) {
        return Err(wrong.sentence(Some(path)).into());
    }
    let Config { key_store, generation, root, .. } = loaded.config();
    match key_store.place() {
        None => {
            Err(format!("{file:?} has no key store that outlives a server: set \"keystore\"")
                .into())
        }
        Some(_) => {
            let is_of_server = generation.is_newest() || !root.is_empty();
            Ok((key_store.clone(), is_of_server.then_some(*generation)))
        }
    }
}
