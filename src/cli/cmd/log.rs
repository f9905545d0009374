//! `kes log trace`: what a server logs and counts, as it happens; lines for programs, a table that
//! fills the screen for people.

use std::{
    io::{self, BufRead as _, BufReader, Read},
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
            screen::{self, Message, Sender},
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
        Kind::Metric => Source::Metrics(client, rate),
        kind => {
            let stream = client
                .stream(&format!("/v1/log/{}/trace", kind.name()))
                .map_err(|e| format!("failed to connect to {} log: {e}", kind.name()))?;
            Source::Log(kind, Box::new(BufReader::new(stream)))
        }
    };
    // Only a terminal can show a table.
    match args.wants_json() || !is_terminal() {
        true => source.each(&mut |item| print(&item)),
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
    fn each(self, take: &mut dyn FnMut(Item) -> io::Result<()>) -> Result<()> {
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
                let answer = client.get("/v1/metrics")?;
                let sample = Sample::parse(&String::from_utf8_lossy(&answer))?;
                if let Err(e) = take(Item::Sample(sample)) {
                    return enough(&e);
                }
                thread::sleep(rate);
            },
        }
    }
}

/// Prints one item as JSON.
fn print(item: &Item) -> io::Result<()> {
    match item {
        // A server may send what it likes; a terminal takes some of that as commands.
        Item::Line(line) if is_terminal() => {
            let line = String::from_utf8_lossy(line);
            write(format!("{}\n", harmless(line.trim_end_matches('\n'))).as_bytes())
        }
        Item::Line(line) => write(line),
        Item::Sample(sample) => write(format!("{}\n", sample.as_json()).as_bytes()),
    }
}

/// Shows everything in a table until the user has seen enough.
fn on_screen(kind: Kind, source: Source) -> Result<()> {
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
