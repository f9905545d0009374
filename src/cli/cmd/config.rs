//! `kes config check`: all that keeps a server from starting with a file, and all that looks wrong.

use std::path::Path;

use serde_json::json;

use crate::{
    api::routes::ROUTES,
    cli::{
        args::{Args, Argument, Command, JSON, Kind, flag},
        output::{Failure, Paint, Result, Style, harmless, print, stdin},
        settings::{ADDR, AUTH, CERT, KEY, ROOT, settings},
    },
    config::{self, Finding, Origin, Severity},
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

fn check(args: &Args) -> Result<()> {
    let flags = settings(args)?;
    let endpoints: Vec<_> = ROUTES.iter().map(|route| route.pattern).collect();
    let (file, origin) = match args.get(0) {
        "-" => {
            stdin("configuration file");
            ("<stdin>", Origin::Stdin)
        }
        file => (file, Origin::File(Path::new(file))),
    };
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
