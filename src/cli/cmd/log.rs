//! `kes log` and `kes log trace`: what a server logs, as it happens.

use crate::{
    base::duration,
    cli::{
        args::{Args, Command, Flag, INSECURE, JSON, Takes, flag, value},
        client::Client,
        output::{Paint, Result, Style, harmless, is_terminal, print},
        trace::{
            feed,
            screen::Message,
            view::{self, Kind},
        },
    },
};

pub(crate) const LOG: Command = Command {
    path: &["log"],
    summary: "Print audit events or errors of a server as they happen",
    details: "\
A line for each event; with --json as the server sent it. Events of the past are not shown.",
    flags: &[
        flag(&["audit"], "audit events (default)"),
        flag(&["error"], "errors"),
        TYPE,
        RATE,
        INSECURE,
        JSON,
    ],
    examples: &["kes log", "kes log --error", "kes log --json | jq .request.path"],
    run: log,
    ..Command::NEW
};

pub(crate) const TRACE: Command = Command {
    path: &["log", "trace"],
    summary: "Show audit events, errors or metrics of a server as they happen",
    details: "\
On a terminal, a table shows what comes in; Ctrl-C or Esc ends it. Elsewhere, and
with --json, each event is a line of JSON. Events of the past are not shown.",
    flags: &[
        Flag { help: "what to show (default audit)", ..TYPE },
        flag(&["audit"], "the same as --type audit"),
        flag(&["error"], "the same as --type error"),
        Flag { help: "how often to ask for metrics (default 3s)", ..RATE },
        INSECURE,
        JSON,
    ],
    examples: &[
        "kes log trace",
        "kes log trace --type metric --rate 1s",
        "kes log trace --json | jq .request.path",
    ],
    run: trace,
    ..Command::NEW
};

const TYPE: Flag = value(&["type"], "audit|error|metric", "");
const RATE: Flag = Flag { names: &["rate"], takes: Takes::Duration, help: "" };

fn kind(args: &Args) -> Result<Kind> {
    let others = ["type", "audit", "error"].into_iter().filter(|flag| match *flag {
        "type" => args.value(flag).is_some(),
        flag => args.is_set(flag),
    });
    if others.count() > 1 {
        return Err("--type, --audit and --error can't be used together".into());
    }
    match args.value("type") {
        None if args.is_set("error") => Ok(Kind::Error),
        None => Ok(Kind::Audit),
        Some(name) => {
            let kinds = [Kind::Audit, Kind::Error, Kind::Metric];
            let found = kinds.into_iter().find(|kind| kind.name().eq_ignore_ascii_case(name));
            Ok(found.ok_or_else(|| {
                format!("invalid log type --type: {name:?}: use audit, error or metric")
            })?)
        }
    }
}

fn trace(args: &Args) -> Result<()> {
    let kind = kind(args)?;
    let rate = args.value("rate").unwrap_or("3s");
    let rate = duration::parse_non_negative(rate)
        .map_err(|e| format!("invalid value {rate:?} for --rate: {e}"))?;
    let client = Client::new(args)?;
    let source = match kind {
        Kind::Error => feed::log(&client, kind, ["/v1/log/error/trace", "/v1/log/error"])?,
        Kind::Audit => feed::log(&client, kind, ["/v1/log/audit/trace", "/v1/log/audit"])?,
        _ => feed::metrics(client, rate)?,
    };
    // Only a terminal can show a table.
    match args.wants_json() || !is_terminal() {
        true => feed::print(source, line),
        false => feed::on_screen(kind, source),
    }
}

fn log(args: &Args) -> Result<()> {
    let kind = kind(args)?;
    let paths = match kind {
        Kind::Error => ["/v1/log/error", "/v1/log/error/trace"],
        Kind::Audit => ["/v1/log/audit", "/v1/log/audit/trace"],
        _ => return trace(args),
    };
    let source = feed::log(&Client::new(args)?, kind, paths)?;
    if args.is_set("json") {
        return feed::print(source, line);
    }
    let style = Style::of_stdout();
    if kind == Kind::Audit {
        print(&format!("{}\n", style.paint(Paint::Bold, view::HEADER)))?;
    }
    feed::print(source, move |item| match item {
        Message::Line(line, _) => (view::event_line(kind, &line, style) + "\n").into_bytes(),
        _ => Vec::new(),
    })
}

/// An item as a line of JSON.
fn line(item: Message) -> Vec<u8> {
    match item {
        // A server may send what it likes; a terminal takes some of that as commands.
        Message::Line(line, _) if is_terminal() => {
            let line = String::from_utf8_lossy(&line);
            format!("{}\n", harmless(line.trim_end_matches('\n'))).into_bytes()
        }
        Message::Line(line, _) => line,
        Message::Sample(sample, _) => (sample.as_json() + "\n").into_bytes(),
        _ => Vec::new(),
    }
}
