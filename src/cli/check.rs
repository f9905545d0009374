//! What `kes config check` and `kes server --check` find in a configuration.

use serde_json::json;

use super::{
    args::Args,
    output::{Failure, Paint, Result, Style, harmless, print},
    settings::settings,
};
use crate::{
    api::routes::ROUTES,
    config::{self, Finding, Origin, Severity},
    server::room,
};

/// The exit code for a wrong configuration: `EX_CONFIG` of sysexits.h.
pub(crate) const EX_CONFIG: u8 = 78;

/// Checks the configuration at `origin`, which is called `file`, with the flags of a server.
pub(crate) fn check(args: &Args, file: &str, origin: Origin<'_>) -> Result<()> {
    let flags = settings(args)?;
    let endpoints: Vec<_> = ROUTES.iter().map(|route| route.pattern).collect();
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
