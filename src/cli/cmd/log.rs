//! `kes log trace`: what a server logs and counts, as it happens; lines for programs, a table that
//! fills the screen for people.

use std::{
    io::{BufRead, BufReader, Read as _},
    thread,
    time::{Duration, SystemTime},
};

use crate::{
    base::duration,
    cli::{
        args::{Args, Command, Flag, INSECURE, JSON, Takes, flag, value},
        client::Client,
        output::{Failure, Result, enough, harmless, is_terminal, write},
        trace::{
            metrics::Sample,
            screen::{self, Message},
            view::{Kind, View},
        },
    },
};

pub(crate) const TRACE: Command = Command {
    path: &["log", "trace"],
    summary: "Show audit events, errors or metrics of a server as they happen",
    details: "\
On a terminal, a table shows what comes in; Ctrl-C or Esc ends it. Elsewhere, and
with --json, each event is a line of JSON. Events of the past are not shown.",
    flags: &[
        value(&["type"], "audit|error|metric", "what to show (default audit)"),
        flag(&["audit"], "the same as --type audit"),
        flag(&["error"], "the same as --type error"),
        Flag {
            names: &["rate"],
            takes: Takes::Duration,
            help: "how often to ask for metrics (default 3s)",
        },
        INSECURE,
        JSON,
    ],
    examples: &[
        "kes log trace",
        "kes log trace --type metric --rate 1s",
        "kes log trace --json | jq .request.path",
    ],
    run,
    ..Command::NEW
};

/// The longest line that is taken as one, in bytes.
const MAX_LINE: u64 = 1 << 20;
/// However short `--rate` is, a server has this time between two questions.
const MIN_RATE: Duration = Duration::from_millis(50);

fn run(args: &Args) -> Result<()> {
    let kind = match args.value("type") {
        None if args.is_set("error") => Kind::Error,
        None => Kind::Audit,
        Some(name) => [Kind::Audit, Kind::Error, Kind::Metric]
            .into_iter()
            .find(|kind| kind.name().eq_ignore_ascii_case(name))
            .ok_or_else(|| {
                format!("invalid log type --type: {name:?}: use audit, error or metric")
            })?,
    };
    let rate = args.value("rate").unwrap_or("3s");
    let rate = duration::parse_non_negative(rate)
        .map_err(|e| format!("invalid value {rate:?} for --rate: {e}"))?
        .max(MIN_RATE);
    let client = Client::new(args)?;
    let source: Source = match kind {
        Kind::Metric => Box::new(move |take| metrics(&client, rate, take)),
        kind => {
            let name = kind.name();
            let stream = client
                .stream(&format!("/v1/log/{name}/trace"))
                .map_err(|e| format!("failed to connect to {name} log: {e}"))?;
            Box::new(move |take| {
                let why = lines(BufReader::new(stream), take)?;
                Err(format!("{name} log closed with: {why}").into())
            })
        }
    };
    // Only a terminal can show a table.
    match args.wants_json() || !is_terminal() {
        true => source(&mut print),
        false => on_screen(kind, source),
    }
}

/// Hands all there is to show to a function, until that fails; says why there is no more.
type Source = Box<dyn FnOnce(Take<'_>) -> Result<()> + Send>;
type Take<'a> = &'a mut dyn FnMut(Message) -> Result<()>;

/// Why a log that never ends by itself ended.
fn lines(mut stream: impl BufRead, take: Take<'_>) -> Result<String> {
    loop {
        let mut line = Vec::new();
        match (&mut stream).take(MAX_LINE).read_until(b'\n', &mut line) {
            Ok(0) => return Ok("<nil>".to_owned()),
            Ok(_) => take(Message::Line(line, SystemTime::now()))?,
            Err(e) => return Ok(e.to_string()),
        }
    }
}

fn metrics(client: &Client, rate: Duration, take: Take<'_>) -> Result<()> {
    loop {
        let answer = client.get("/v1/metrics")?;
        take(Message::Sample(Sample::parse(&String::from_utf8_lossy(&answer))?))?;
        thread::sleep(rate);
    }
}

/// Prints one item as JSON.
fn print(item: Message) -> Result<()> {
    let written = match item {
        // A server may send what it likes; a terminal takes some of that as commands.
        Message::Line(line, _) if is_terminal() => {
            let line = String::from_utf8_lossy(&line);
            write(format!("{}\n", harmless(line.trim_end_matches('\n'))).as_bytes())
        }
        Message::Line(line, _) => write(&line),
        Message::Sample(sample) => write(format!("{}\n", sample.as_json()).as_bytes()),
        _ => Ok(()),
    };
    // A reader that went away has seen enough.
    written.map_err(|e| enough(&e).err().unwrap_or(Failure::Exit(0)))
}

/// Shows everything in a table until the user has seen enough.
fn on_screen(kind: Kind, source: Source) -> Result<()> {
    let zone = tz::TimeZone::local().unwrap_or_else(|_| tz::TimeZone::utc());
    screen::run(View::new(kind, zone), move |sender| {
        let ended = source(&mut |item| sender.send(item).map_err(|_| Failure::Exit(0)));
        let reason = match ended {
            Err(Failure::Message(reason) | Failure::Plain(reason)) => reason,
            Ok(()) | Err(Failure::Exit(_)) => String::new(),
        };
        let _ = sender.send(Message::End(reason));
    })
}
