//! What there is to show: lines of a log, or samples of the metrics, as they come; and how programs see it.

use std::{
    io::{BufRead, BufReader, Read as _},
    thread,
    time::{Duration, Instant, SystemTime},
};

use super::{
    metrics::Sample,
    screen::{self, Message},
    view::{Kind, View},
};
use crate::{
    base::clock,
    cli::{
        client::{Client, Error},
        output::{Failure, Result, enough, write},
    },
};

/// The longest line that is taken as one, in bytes.
const MAX_LINE: u64 = 1 << 20;
/// However short the rate is, a server has this time between two questions.
const MIN_RATE: Duration = Duration::from_millis(50);

/// Hands all there is to show to a function, until that fails; says why there is no more.
pub type Source = Box<dyn FnOnce(Take<'_>) -> Result<()> + Send>;
pub type Take<'a> = &'a mut dyn FnMut(Message) -> Result<()>;

/// The lines of a log, from the first of `paths` that the server serves to this client.
///
/// # Errors
/// Why there is no log.
pub fn log(client: &Client, kind: Kind, paths: [&str; 2]) -> Result<Source> {
    let name = kind.name();
    let stream = match (client.stream(paths[0]), paths[1]) {
        (Err(why @ Error::Refused(403 | 404 | 501, _)), other) => match client.stream(other) {
            Err(Error::Refused(404 | 501, _)) => Err(why),
            other => other,
        },
        (stream, _) => stream,
    };
    let stream = stream.map_err(|e| format!("failed to connect to {name} log: {e}"))?;
    Ok(Box::new(move |take| {
        let why = lines(BufReader::new(stream), take)?;
        Err(format!("{name} log closed with: {why}").into())
    }))
}

/// Why a log that never ends by itself ended.
fn lines(mut stream: impl BufRead, take: Take<'_>) -> Result<String> {
    loop {
        let mut line = Vec::new();
        match (&mut stream).take(MAX_LINE).read_until(b'\n', &mut line) {
            Ok(0) => return Ok("its end: has the server stopped?".to_owned()),
            Ok(_) => take(Message::Line(line, SystemTime::now()))?,
            Err(e) => return Ok(e.to_string()),
        }
    }
}

/// The metrics, as often as `rate` says.
///
/// # Errors
/// If the server does not tell them: a table of zeros would be taken for an answer.
pub fn metrics(client: Client, rate: Duration) -> Result<Source> {
    let ask = move || -> Result<Message> {
        let answer = client.get("/v1/metrics")?;
        let sample = Sample::parse(&String::from_utf8_lossy(&answer))?;
        Ok(Message::Sample(sample, Instant::now()))
    };
    let first = ask()?;
    Ok(Box::new(move |take| {
        take(first)?;
        loop {
            thread::sleep(rate.max(MIN_RATE));
            take(ask()?)?;
        }
    }))
}

/// Prints what comes as texts that `text` makes of it, until the reader has gone or no more comes.
///
/// # Errors
/// Why no more comes.
pub fn print(source: Source, text: impl Fn(Message) -> Vec<u8>) -> Result<()> {
    // A reader that went away has seen enough.
    source(&mut |item| write(&text(item)).map_err(|e| enough(&e).err().unwrap_or(Failure::Exit(0))))
}

/// Shows everything in a table until the user has seen enough.
///
/// # Errors
/// Why no more comes.
pub fn on_screen(kind: Kind, source: Source) -> Result<()> {
    let zone = clock::local_zone().unwrap_or_else(|_| tz::TimeZone::utc());
    screen::run(View::new(kind, zone), move |sender| {
        let ended = source(&mut |item| sender.send(item).map_err(|_| Failure::Exit(0)));
        let reason = match ended {
            Err(Failure::Message(reason) | Failure::Plain(reason)) => reason,
            Ok(()) | Err(Failure::Exit(_)) => String::new(),
        };
        let _ = sender.send(Message::End(reason));
    })
}
