//! `kes config check`: all that keeps a server from starting with a file, and all that looks wrong.

use std::path::Path;

use serde_json::json;

use super::{
    Args, Failure, print,
    server::settings,
    stdin,
    style::{Paint, Style, harmless},
};
use crate::{
    config::{self, Finding, Origin, Severity},
    server::{room, routes::ROUTES},
};

type Result<T> = std::result::Result<T, Failure>;

pub(super) const DETAILS: &str = "\
Finds what a server that is started with this file and these flags would refuse, and
what it would take but is hardly meant. Nothing is changed. Exit codes: 0 if a server
would start, 78 if not (with --strict: if there is anything to say). '-' reads the file
from standard input.";

/// The exit code for a wrong configuration: `EX_CONFIG` of sysexits.h.
const EX_CONFIG: u8 = 78;

/// `kes config check <file>`
pub(super) fn check(args: &Args) -> Result<()> {
    let file = match args.positional.as_slice() {
        [] => return Err("no configuration file specified".into()),
        [file] => file,
        _ => return Err("too many arguments".into()),
    };
    let flags = settings(args)?;
    let endpoints: Vec<_> = ROUTES.iter().map(|route| route.pattern).collect();
    let (file, origin) = match file.as_str() {
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
    let count = |severity| {
        let same = findings.iter().filter(|found| found.severity == severity);
        same.count()
    };
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
