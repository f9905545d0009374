//! `kes log trace`: what a server logs and counts, as it happens; lines for programs, a table that
//! fills the screen for people.

mod metrics;
mod screen;
mod table;
mod view;

use std::{
    io::{self, BufRead as _, BufReader, Read, Write as _},
    thread,
    time::{Duration, SystemTime},
};

use self::{
    metrics::Sample,
    screen::{Message, Sender},
    view::View,
};
use super::{
    Args, Failure,
    args::{Flag, Takes},
    client,
    commands::{INSECURE, JSON},
    is_terminal,
    style::harmless,
    wants_json,
};
use crate::{
    base::duration,
    client::{Client, MAX_ANSWER},
};

pub(super) const DETAILS: &str = "\
On a terminal, a table shows what comes in; Ctrl-C or Esc ends it. Elsewhere, and
with --json, each event is a line of JSON. Events of the past are not shown.";

#[rustfmt::skip]
pub(super) const FLAGS: &[Flag] = &[
    Flag { names: &["type"], takes: Takes::Value("audit|error|metric"), help: "what to show (default audit)" },
    Flag { names: &["audit"], takes: Takes::Bool, help: "the same as --type audit" },
    Flag { names: &["error"], takes: Takes::Bool, help: "the same as --type error" },
    Flag { names: &["rate"], takes: Takes::Duration, help: "how often to ask for metrics (default 3s)" },
    INSECURE,
    JSON,
];

/// The longest line that is taken as one, in bytes.
const MAX_LINE: u64 = 1 << 20;
/// However short `--rate` is, a server has this time between two questions.
const MIN_RATE: Duration = Duration::from_millis(50);

/// What is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Audit,
    Error,
    Metric,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Audit => "audit",
            Self::Error => "error",
            Self::Metric => "metric",
        }
    }
}

/// `kes log trace`
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    if !args.positional.is_empty() {
        return Err("too many arguments".into());
    }
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
    let client = client(args)?;
    let source: Source = match kind {
        Kind::Metric => Source::Metrics(client, rate),
        kind => {
            let stream = client
                .stream(&format!("/v1/log/{}/trace", kind.name()))
                .map_err(|e| format!("failed to connect to {} log: {e}", kind.name()))?;
            Source::Log(kind, Box::new(BufReader::new(stream)))
        }
    };
    let is_terminal = is_terminal();
    // Only a terminal can show a table.
    match wants_json(args) || !is_terminal {
        true => source.each(&mut |item| print(&item, is_terminal)),
        false => on_screen(kind, source),
    }
}

/// Where events come from.
enum Source {
    Log(Kind, Box<BufReader<dyn Read + Send>>),
    Metrics(Client, Duration),
}

/// What comes from there.
enum Item {
    /// A line with its end, as it was received.
    Line(Vec<u8>),
    Sample(Sample),
}

impl Source {
    /// Hands all items to `take` until that says that it is enough.
    ///
    /// # Errors
    /// Why there are no more. A log never ends by itself.
    fn each(self, take: &mut dyn FnMut(Item) -> io::Result<()>) -> Result<(), Failure> {
        match self {
            Self::Log(kind, mut stream) => loop {
                let mut line = Vec::new();
                let reason = match (&mut stream).take(MAX_LINE).read_until(b'\n', &mut line) {
                    Ok(0) => "<nil>".to_owned(),
                    Ok(_) => match take(Item::Line(line)) {
                        Ok(()) => continue,
                        Err(e) => return enough(&e),
                    },
                    Err(e) => e.to_string(),
                };
                return Err(format!("{} log closed with: {reason}", kind.name()).into());
            },
            Self::Metrics(client, rate) => loop {
                let answer = client.send("GET", "/v1/metrics", None, MAX_ANSWER)?;
                let sample = Sample::parse(&String::from_utf8_lossy(&answer))?;
                if let Err(e) = take(Item::Sample(sample)) {
                    return enough(&e);
                }
                thread::sleep(rate);
            },
        }
    }
}

/// A reader that went away is no error.
fn enough(error: &io::Error) -> Result<(), Failure> {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Ok(()),
        _ => Err(format!("failed to write to standard output: {error}").into()),
    }
}

/// Prints one item as JSON.
fn print(item: &Item, is_terminal: bool) -> io::Result<()> {
    let mut out = io::stdout();
    match item {
        // A server may send what it likes; a terminal takes some of that as commands.
        Item::Line(line) if is_terminal => {
            let line = String::from_utf8_lossy(line);
            out.write_all(format!("{}\n", harmless(line.trim_end_matches('\n'))).as_bytes())?;
        }
        Item::Line(line) => out.write_all(line)?,
        Item::Sample(sample) => out.write_all(format!("{}\n", sample.as_json()).as_bytes())?,
    }
    out.flush()
}

/// Shows everything in a table until the user has seen enough.
fn on_screen(kind: Kind, source: Source) -> Result<(), Failure> {
    let zone = tz::TimeZone::local().unwrap_or_else(|_| tz::TimeZone::utc());
    let view = View::new(kind, zone);
    let feed = move |sender: Sender| {
        let ended = source.each(&mut |item| {
            let now = SystemTime::now();
            let message = match item {
                Item::Line(line) => Message::Line(line, now),
                Item::Sample(sample) => Message::Sample(sample),
            };
            sender.send(message).map_err(|_| io::ErrorKind::BrokenPipe.into())
        });
        let reason = match ended {
            Err(Failure::Message(reason) | Failure::Plain(reason)) => reason,
            Ok(()) | Err(Failure::Exit(_)) => String::new(),
        };
        let _ = sender.send(Message::End(reason));
    };
    screen::run(view, feed)
}
