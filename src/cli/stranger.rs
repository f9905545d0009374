//! What is where a kes server should be: for the messages of a client that found something else.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use ureq::http::{Response, Uri};

use crate::{base::deadline::Deadline, web::resolver::Resolver};

/// Connecting, and an answer, may take this time each.
const PATIENCE: Duration = Duration::from_secs(1);
/// What greets does so within this time; others wait for a request.
const GREETING: Duration = Duration::from_millis(500);
/// Nobody needs to read more of what a stranger says, in characters.
const MAX_SHOWN: usize = 100;
/// Where an address without a port leads.
const HTTPS_PORT: u16 = 443;

/// Who answered, if `answer` has a head that no kes server sends.
pub(crate) fn behind<B>(answer: &Response<B>) -> Option<String> {
    let kind = header(answer, "content-type");
    let kind = kind.split(';').next().unwrap_or_default().trim();
    let is_known = matches!(
        kind.to_ascii_lowercase().as_str(),
        "" | "application/json" | "application/x-ndjson" | "text/plain"
    );
    if is_known && !answer.status().is_redirection() {
        return None;
    }
    let what = match header(answer, "location") {
        to if answer.status().is_redirection() => format!("leads to {:?}", shown(&to)),
        _ => format!("has the type {:?}", shown(kind)),
    };
    Some(told(answer, &what))
}

/// As [`behind`], for an answer with this JSON `content`, which is none of a kes server.
pub(crate) fn behind_json<B>(answer: &Response<B>, content: &[u8]) -> String {
    let content = String::from_utf8_lossy(content);
    told(answer, &format!("says {:?}", shown(content.trim())))
}

/// What a kes server says to a path that it does not know, and others say, too.
pub(crate) const NO_PAGE: &str = "404 page not found";

fn told<B>(answer: &Response<B>, what: &str) -> String {
    let server = header(answer, "server");
    let by = match server.is_empty() {
        true => String::new(),
        false => format!(" by {:?}", shown(&server)),
    };
    let status = answer.status().as_u16();
    format!("no kes server answers there: the answer{by} with status {status} {what}")
}

fn header<B>(answer: &Response<B>, name: &str) -> String {
    let value = answer.headers().get(name).map(|value| value.as_bytes());
    String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
}

fn shown(text: &str) -> String {
    text.chars().take(MAX_SHOWN).collect()
}

/// What is at `server`, a URL, if it answers without TLS.
pub(crate) fn in_plain(server: &str) -> Option<String> {
    let said = listen(server).ok()?;
    // The head of a TLS record (RFC 8446 5.1).
    if matches!(said[..], [20..=23, 3, ..]) {
        return None;
    }
    let said = String::from_utf8_lossy(&said);
    let line = shown(said.lines().next()?.trim());
    Some(match line.split(['/', '-']).next() {
        Some("HTTP") => "what is there speaks HTTP without TLS, so it is no kes server".to_owned(),
        Some("SSH") => format!("an SSH server is there, and no kes server: it says {line:?}"),
        _ => format!("what is there speaks no TLS, so it is no kes server: it says {line:?}"),
    })
}

/// The first bytes that come from `server`, unasked or as an answer to a request.
fn listen(server: &str) -> io::Result<Vec<u8>> {
    let (host, port) = place(server).ok_or(io::ErrorKind::InvalidInput)?;
    let deadline = Deadline::after(Instant::now(), PATIENCE);
    let addresses = Resolver::default().lookup(&host, deadline);
    let addresses = addresses.map_err(|_| io::ErrorKind::NotFound)?;
    let address = addresses.first().ok_or(io::ErrorKind::NotFound)?;
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(*address, port), PATIENCE)?;
    let mut said = vec![0; 1024];
    stream.set_read_timeout(Some(GREETING))?;
    let mut count = stream.read(&mut said);
    if count.is_err() {
        stream.write_all(format!("GET / HTTP/1.0\r\nHost: {host}\r\n\r\n").as_bytes())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        count = stream.read(&mut said);
    }
    said.truncate(count?);
    Ok(said)
}

/// Why nothing may listen at `server`, a URL, and what to check: the flag or variable `endpoint`, which
/// names the server if `is_named`.
pub(crate) fn nobody(server: &str, endpoint: &str, is_named: bool) -> String {
    let (host, port) = place(server).unwrap_or_default();
    let named = match server.parse::<Uri>().map(|uri| uri.port_u16()) {
        Ok(None) => format!("port {port} ({endpoint} names none; the usual one is 7373)"),
        _ => format!("port {port}"),
    };
    let advice = match is_named {
        true => format!("is the server running, and is {endpoint} right?"),
        false => format!("is the server running? If it is elsewhere, set {endpoint}"),
    };
    format!("nothing listens on host {host}, {named}: {advice}")
}

/// Host and port in a URL.
fn place(server: &str) -> Option<(String, u16)> {
    let uri: Uri = server.parse().ok()?;
    Some((uri.host()?.to_owned(), uri.port_u16().unwrap_or(HTTPS_PORT)))
}
