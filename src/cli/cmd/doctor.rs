//! `kes doctor`: what keeps a server, or a client, from working, and what to do about it.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::{
    base::checkup::{Checkup, Line, Outcome},
    cli::{
        args::{Args, Command, INSECURE, JSON, flag, value},
        doctor::{client, drop_consequences, server},
        environment,
        output::{Failure, Paint, Result, Style, harmless, print},
        settings::{ADDR, AUTH, CERT, INSTALLED, KEY, ROOT, settings},
    },
    server::start,
};

pub(crate) const DOCTOR: Command = Command {
    path: &["doctor"],
    summary: "Look for what keeps a server or a client from working",
    details: "\
With --config, or with /etc/kes/config.yaml where that is, looks at the set-up of a
server: configuration, certificate and the names that clients use (--server, KES_SERVER
or the name of this machine), ports, the key store and what its token may do, clocks
and limits. Otherwise, or if flags or variables name a server and a client, looks at
each server from here: is it there, is it trusted, who is this client there, and what
may it do. The first line that failed is the cause; what only follows from it is left
out. A login to Vault counts as one of the server. Nothing is changed without --write.",
    flags: &[
        value(&["config"], "file", "configuration file of the server"),
        flag(
            &["write"],
            "create, read and delete a key in the key store, with a name that nobody else has",
        ),
        flag(&["strict"], "warnings count as failures"),
        ADDR,
        ROOT,
        KEY,
        CERT,
        AUTH,
        INSECURE,
        JSON,
    ],
    exit_codes: &[
        (0, "nothing failed, though there may be warnings"),
        (1, "something failed (with --strict: or there are warnings)"),
    ],
    examples: &[
        "kes doctor",
        "kes doctor --config /etc/kes/config.yaml --write",
        "kes doctor --server https://kes.example.com:7373 --json",
    ],
    run,
    ..Command::NEW
};

fn run(args: &Args) -> Result<()> {
    let _ = start::protect_memory(); // it reads keys
    let flags = settings(args)?;
    let has_client = environment::has_client(args);
    // One that is named wrongly is named, too.
    let names_server = environment::servers(args).map_or(true, |found| found.named.is_some());
    let file = match args.value("config") {
        Some(file) => Some(PathBuf::from(file)),
        None => {
            let installed = Path::new(INSTALLED);
            // A client of a server on its own machine may not read it.
            let is_meant = match has_client {
                true => std::fs::File::open(installed).is_ok(),
                false => installed.exists(),
            };
            is_meant.then(|| installed.to_owned())
        }
    };
    if file.is_none() && args.is_set("write") {
        return Err("--write tries the key store of a server: name its file with --config".into());
    }
    let mut sides = Vec::new();
    let mut look = |side, examine: &dyn Fn(&mut Checkup)| {
        let mut found = Checkup::default();
        examine(&mut found);
        drop_consequences(&mut found);
        sides.push((side, found));
    };
    if let Some(file) = &file {
        look("server", &|found| server::examine(args, &flags, file, found));
    }
    if file.is_none() || has_client && names_server {
        look("client", &|found| client::examine(args, found));
    }
    let count = |outcome| sides.iter().map(|(_, found)| found.count(outcome)).sum::<usize>();
    let (failed, warnings) = (count(Outcome::Failed), count(Outcome::Warning));
    let lines =
        sides.iter().flat_map(|(side, found)| found.0.iter().map(move |line| (*side, line)));
    print(&match args.is_set("json") {
        true => {
            let lines: Vec<_> = lines.map(as_json).collect();
            format!("{}\n", json!({ "checks": lines, "failed": failed, "warnings": warnings }))
        }
        false => {
            let lines: String = lines.map(|(_, line)| as_text(line)).collect();
            let number = |count, what| match count {
                1 => format!("1 {what}"),
                count => format!("{count} {what}s"),
            };
            lines + &format!("{failed} failed, {}\n", number(warnings, "warning"))
        }
    })?;
    match failed > 0 || warnings > 0 && args.is_set("strict") {
        true => Err(Failure::Exit(1)),
        false => Ok(()),
    }
}

fn word(outcome: Outcome) -> (&'static str, Paint) {
    match outcome {
        Outcome::Ok => ("ok", Paint::Green),
        Outcome::Warning => ("warning", Paint::Yellow),
        Outcome::Failed => ("failed", Paint::Red),
    }
}

fn as_text(line: &Line) -> String {
    let (word, paint) = word(line.outcome);
    let word = Style::of_stdout().paint(paint, &format!("{word:<8}"));
    let one_line =
        |text: &str| harmless(&text.lines().map(str::trim).collect::<Vec<_>>().join(" "));
    let advice = match line.advice.is_empty() {
        true => String::new(),
        false => format!(" ({})", one_line(&line.advice)),
    };
    format!("{word} {}: {}{advice}\n", line.about, one_line(&line.text))
}

fn as_json((side, line): (&str, &Line)) -> serde_json::Value {
    json!({
        "side": side,
        "about": line.about,
        "outcome": word(line.outcome).0,
        "text": line.text,
        "advice": line.advice,
    })
}
