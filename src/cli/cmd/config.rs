//! `kes config check`: all that keeps a server from starting with a file, and all that looks wrong.
//! `kes config convert`: a file in the newest format.

use std::path::Path;

use serde_json::json;

use crate::{
    api::routes::ROUTES,
    base::generation::Generation,
    cli::{
        args::{Args, Argument, Command, JSON, Kind, flag, value},
        output::{Failure, Paint, Result, Style, complain, harmless, print, stdin},
        pair::{self, Wanted},
        settings::{ADDR, AUTH, CERT, KEY, ROOT, settings},
    },
    config::{self, Converted, Finding, Note, Origin, Severity, Weight},
    server::room,
};

/// The exit code for a wrong configuration: `EX_CONFIG` of sysexits.h.
const EX_CONFIG: u8 = 78;

pub(crate) const CHECK: Command = Command {
    path: &["config", "check"],
    arguments: &[Argument::new("file", "configuration file", Kind::File)],
    summary: "Look for errors and oddities in a configuration file",
    details: "\
Finds what a server that is started with this file and these flags would refuse, and
what it would accept but is probably a mistake, such as a certificate with less than 30
days and less than a third of its life left. Changes nothing. '-' reads the file from
standard input.",
    flags: &[ADDR, ROOT, KEY, CERT, AUTH, flag(&["strict"], "warnings count as errors"), JSON],
    exit_codes: &[
        (0, "a server would start"),
        (EX_CONFIG, "it would not (with --strict: there is anything to say)"),
    ],
    examples: &["kes config check --strict /etc/kes/config.yml"],
    run: check,
    ..Command::NEW
};

/// The exit code of a file that is converted, but allows less.
const INCOMPLETE: u8 = 3;

pub(crate) const CONVERT: Command = Command {
    path: &["config", "convert"],
    arguments: &[Argument::new("file", "configuration file", Kind::File)],
    summary: "Write a configuration file in the newest format",
    details: "\
Reads a file with 'root', of any KES up to 0.14, and writes one with 'admin', of KES since
0.18. Comments and references to variables stay. The flags are those that the server was
started with; without '--auth off', certificates of clients must be trusted. Standard error
has all that changes in meaning. No request is allowed that was not: rules of policies that
the newest format can't say are left out, with a warning. '-' reads the file from standard
input.",
    flags: &[
        value(&["output", "o"], "file", "write it there, and not to standard output"),
        flag(&["force", "f"], "replace the output file if it exists"),
        ADDR,
        ROOT,
        KEY,
        CERT,
        AUTH,
    ],
    exit_codes: &[
        (0, "the same requests are allowed"),
        (INCOMPLETE, "some requests will be refused that were allowed"),
        (EX_CONFIG, "the file is wrong, or can't be converted"),
    ],
    examples: &["kes config convert /etc/kes/config.yml --auth off -o new.yml"],
    run: convert,
    ..Command::NEW
};

fn convert(args: &Args) -> Result<()> {
    let flags = settings(args)?;
    let (file, origin) = origin(args);
    let newest = Generation::Newest;
    let apis: Vec<_> =
        ROUTES.iter().map(|route| (route.pattern, route.is_served(newest))).collect();
    let (text, notes) = match config::convert(origin, &flags, &apis) {
        Ok(Converted { text, notes }) => (Some(text), notes),
        Err(notes) => (None, notes),
    };
    for note in &notes {
        complain(&as_line(file, note));
    }
    let Some(text) = text else { return Err(Failure::Exit(EX_CONFIG)) };
    match args.value("output") {
        None => print(&text)?,
        Some(path) => {
            // It may hold credentials.
            let wanted = Wanted { path: Path::new(path), content: &text, mode: 0o600 };
            pair::write_one(wanted, "configuration", args.is_set("force"))?;
        }
    }
    match notes.iter().any(|note| note.weight == Weight::Loss) {
        true => Err(Failure::Exit(INCOMPLETE)),
        false => Ok(()),
    }
}

fn as_line(file: &str, note: &Note) -> String {
    let (paint, weight) = match note.weight {
        Weight::Refusal => (Paint::Red, "error:"),
        Weight::Loss => (Paint::Yellow, "WARNING:"),
        Weight::Change => (Paint::Green, "note:"),
    };
    let place = note.position.map_or_else(String::new, |at| format!(":{}:{}", at.line, at.column));
    let weight = Style::of_stderr().paint(paint, weight);
    format!("{}{place}: {weight} {}\n", harmless(file), harmless(&note.text))
}

/// The file that is meant, and what messages call it.
fn origin(args: &Args) -> (&str, Origin<'_>) {
    match args.get(0) {
        "-" => {
            stdin("configuration file");
            ("<stdin>", Origin::Stdin)
        }
        file => (file, Origin::File(Path::new(file))),
    }
}

fn check(args: &Args) -> Result<()> {
    let flags = settings(args)?;
    let endpoints: Vec<_> = ROUTES.iter().map(|route| route.pattern).collect();
    let (file, origin) = origin(args);
    let findings = match config::load(origin, &flags, &endpoints) {
        Err(error) => vec![error.finding],
        Ok(loaded) => room::check(loaded).with_files(None).findings(),
    };
    let count = |severity| findings.iter().filter(|found| found.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    print(&match args.is_set("json") {
        true => as_json(file, &findings),
        false => as_text(file, &findings, errors, warnings),
    })?;
    match errors > 0 || (warnings > 0 && args.is_set("strict")) {
        true => Err(Failure::Exit(EX_CONFIG)),
        false => Ok(()),
    }
}

/// One line for each, in the form that editors and CI systems know.
fn as_text(file: &str, findings: &[Finding], errors: usize, warnings: usize) -> String {
    let style = Style::of_stdout();
    let mut text = String::new();
    for found in findings {
        text += &harmless(file);
        if let Some(at) = found.position {
            text += &format!(":{}:{}", at.line, at.column);
        }
        let severity = format!("{}:", found.severity);
        let paint = match found.severity {
            Severity::Error => Paint::Red,
            Severity::Warning => Paint::Yellow,
        };
        text += &format!(": {} ", style.paint(paint, &severity));
        if !found.field.is_empty() {
            text += &format!("{}: ", harmless(&found.field));
        }
        text += &harmless(&found.message);
        if !found.advice.is_empty() {
            text += &format!(" ({})", harmless(&found.advice));
        }
        text.push('\n');
    }
    let number = |count, what| match count {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    };
    if findings.is_empty() {
        text += &format!("{}: {}\n", harmless(file), style.paint(Paint::Green, "ok"));
    } else {
        let (errors, warnings) = (number(errors, "error"), number(warnings, "warning"));
        text += &format!("{errors}, {warnings}\n");
    }
    text
}

fn as_json(file: &str, findings: &[Finding]) -> String {
    let findings: Vec<_> = findings
        .iter()
        .map(|found| {
            json!({
                "severity": found.severity.to_string(),
                "line": found.position.map(|at| at.line),
                "column": found.position.map(|at| at.column),
                "field": found.field,
                "message": found.message,
                "advice": found.advice,
            })
        })
        .collect();
    format!("{}\n", json!({ "file": file, "findings": findings }))
}
