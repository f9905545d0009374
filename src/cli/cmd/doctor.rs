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
    let mut found = Checkup::default();
    if let Some(file) = &file {
        found.side = "server";
        server::examine(args, &flags, file, &mut found);
    }
    if file.is_none() || has_client && names_server {
        found.side = "client";
        client::examine(args, &mut found);
    }
    drop_consequences(&mut found);
    let (failed, warnings) = (found.count(Outcome::Failed), found.count(Outcome::Warning));
    let mut text = String::new();
    if args.is_set("json") {
        let lines: Vec<_> = found.lines.iter().map(as_json).collect();
        text = json!({ "checks": lines, "failed": failed, "warnings": warnings }).to_string();
        text.push('\n');
    } else {
        found.lines.iter().for_each(|line| put_line(line, &mut text));
        let end = if warnings == 1 { "" } else { "s" };
        text += &format!("{failed} failed, {warnings} warning{end}\n");
    }
    print(&text)?;
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

fn put_line(line: &Line, text: &mut String) {
    let (word, paint) = word(line.outcome);
    *text += &Style::of_stdout().paint(paint, &format!("{word:<8}"));
    let mut rest = format!(" {}: {}", line.about, line.text);
    if !line.advice.is_empty() {
        rest += &format!(" ({})", line.advice);
    }
    *text += &harmless(&rest.replace('\n', " "));
    text.push('\n');
}

fn as_json(line: &Line) -> serde_json::Value {
    json!({
        "side": line.side,
        "about": line.about,
        "outcome": word(line.outcome).0,
        "text": line.text,
        "advice": line.advice,
    })
}
