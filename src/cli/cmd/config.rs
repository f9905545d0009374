//! `kes config check`: all that keeps a server from starting with a file, and all that looks wrong.
//! `kes config convert`: a file in the newest format.

use std::path::Path;

use crate::{
    api::routes::ROUTES,
    base::generation::Generation,
    cli::{
        args::{Args, Argument, Command, JSON, Kind, flag, value},
        check::{self, EX_CONFIG},
        output::{Failure, Paint, Result, Style, complain, harmless, print, stdin},
        pair::{self, Wanted},
        settings::{ADDR, AUTH, CERT, KEY, ROOT, settings},
    },
    config::{self, Converted, Note, Origin, Weight},
};

pub(crate) const CHECK: Command = Command {
    path: &["config", "check"],
    arguments: &[Argument::new("file", "configuration file", Kind::File)],
    summary: "Look for errors and oddities in a configuration file",
    details: "\
Finds what a server that is started with this file and these flags would refuse, and
what it would accept but is probably a mistake, such as a certificate with less than 30
days and less than a third of its life left. Changes nothing, and tries neither the key
store nor the ports, as 'kes doctor' does. '-' reads the file from standard input.",
    flags: &[ADDR, ROOT, KEY, CERT, AUTH, flag(&["strict"], "warnings count as errors"), JSON],
    exit_codes: &[
        (0, "the settings are right"),
        (EX_CONFIG, "they are wrong (with --strict: there is anything to say)"),
    ],
    examples: &["kes config check --strict /etc/kes/config.yaml"],
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
    examples: &["kes config convert /etc/kes/config.yaml --auth off -o new.yml"],
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
    let (file, origin) = origin(args);
    check::check(args, file, origin)
}
