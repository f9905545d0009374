//! Connections that cost the server something without asking for much: idle ones, and slow ones
//! that stop halfway. Both are held while a few others work, whose latency and errors are the point.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use serde_json::{Value, json};

use crate::args::Args;
use crate::client::Connection;
use crate::http2::Http2;
use crate::load::{Plan, pid};
use crate::{Result, http, process, tls};

/// Opens `--connections` connections, one request each, and holds them for `--seconds` while
/// `--active` others work. At the end each must still answer. `--proto h2` makes them HTTP/2.
pub(crate) fn idle(args: &Args) -> Result<Value> {
    let pid = pid(args)?.ok_or("--pid is missing")?;
    let plan = Plan::new(args, "version", args.number("active", 8)?)?;
    let (rss_before, threads_before) = (process::rss_kib(pid)?, process::threads(pid)?);
    let mut held: Box<dyn Held> = match args.find("proto") {
        Some("h2") => match Http2::open(args)? {
            Ok(held) => Box::new(held),
            Err(reason) => return Ok(json!({ "unavailable": reason.to_string() })),
        },
        _ => Box::new(Http1::open(args)?),
    };
    let (rss_after, threads_after) = (process::rss_kib(pid)?, process::threads(pid)?);
    let count: u64 = args.number("connections", 8)?;
    let open = held.count() as u64;
    let mut figures = plan.run(Some(pid))?.json();
    figures["refused"] = json!(count - open);
    figures["broken"] = json!(held.broken());
    figures["rss_kib"] = json!([rss_before, rss_after]);
    figures["threads"] = json!([threads_before, threads_after]);
    figures["bytes_per_connection"] = json!(rss_after.saturating_sub(rss_before) * 1024 / open.max(1));
    Ok(figures)
}

/// Connections that were opened and asked once.
pub(crate) trait Held {
    /// How many there are.
    fn count(&self) -> usize;
    /// Asks each again; how many do not answer with 200.
    fn broken(&mut self) -> usize;
}

struct Http1 {
    request: Vec<u8>,
    connections: Vec<Connection>,
}

impl Http1 {
    fn open(args: &Args) -> Result<Http1> {
        let addr = args.text("addr")?.parse()?;
        let config = tls::Client::new(args)?.config(false);
        let request = http::request("GET", "/version", "");
        let count = args.number("connections", 8)?;
        let open = |_| {
            let mut connection = Connection::open(addr, &config).ok()?;
            connection.ask(&request).is_ok().then_some(connection)
        };
        let connections = (0..count).filter_map(open).collect();
        Ok(Http1 { request, connections })
    }
}

impl Held for Http1 {
    fn count(&self) -> usize {
        self.connections.len()
    }

    fn broken(&mut self) -> usize {
        let works = |connection: &mut Connection| {
            connection.ask(&self.request).is_ok_and(|answer| http::status(&answer) == 200)
        };
        self.connections.iter_mut().map(|connection| !works(connection)).filter(|broken| *broken).count()
    }
}

/// Opens `--connections` connections that send a byte a second, half of them inside the
/// ClientHello and half inside a request's head, for `--seconds` while `--active` others ask for data keys.
/// Says after how many seconds the server closed them.
pub(crate) fn slow(args: &Args) -> Result<Value> {
    let addr = args.text("addr")?.parse()?;
    let count: usize = args.number("connections", 200)?;
    let config = tls::Client::new(args)?.config(false);
    let plan = Plan::new(args, "generate", args.number("active", 8)?)?;
    let pid = pid(args)?;

    let hellos = (0..count / 2).map(|_| Slow::in_hello(addr, &config)).collect::<Result<Vec<_>>>()?;
    let heads = (count / 2..count).map(|_| Slow::in_head(addr, &config)).collect::<Result<Vec<_>>>()?;
    let seconds: f64 = args.number("seconds", 2.0)?;
    let until = Instant::now() + Duration::from_secs_f64(seconds);
    std::thread::scope(|scope| {
        let hellos = scope.spawn(move || drip(hellos, until));
        let heads = scope.spawn(move || drip(heads, until));
        let mut figures = plan.run(pid)?.json();
        figures["hello"] = hellos.join().map_err(|_| "a slow thread panicked")?;
        figures["head"] = heads.join().map_err(|_| "a slow thread panicked")?;
        Ok(figures)
    })
}

/// A connection that sends `bytes` one a second.
struct Slow {
    stream: TcpStream,
    /// Seals the bytes, once the handshake is over.
    tls: Option<Connection>,
    bytes: Vec<u8>,
    sent: usize,
    began: Instant,
    closed: Option<Duration>,
}

impl Slow {
    fn in_hello(addr: SocketAddr, config: &Arc<ClientConfig>) -> Result<Slow> {
        let mut connection = Connection::open(addr, config)?;
        let mut bytes = Vec::new();
        connection.tls.write_tls(&mut bytes)?;
        Slow::new(connection.stream.try_clone()?, None, bytes)
    }

    fn in_head(addr: SocketAddr, config: &Arc<ClientConfig>) -> Result<Slow> {
        let mut connection = Connection::open(addr, config)?;
        while connection.tls.is_handshaking() {
            connection.tls.complete_io(&mut connection.stream)?;
        }
        let stream = connection.stream.try_clone()?;
        let padding = "a".repeat(4096); // the head must not end before the run does
        let bytes = format!("GET /version HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Padding: {padding}");
        Slow::new(stream, Some(connection), bytes.into_bytes())
    }

    fn new(stream: TcpStream, tls: Option<Connection>, bytes: Vec<u8>) -> Result<Slow> {
        stream.set_nonblocking(true)?;
        Ok(Slow { stream, tls, bytes, sent: 0, began: Instant::now(), closed: None })
    }

    /// Sends the next byte if a second has passed since the last, and looks for the end.
    fn step(&mut self) {
        let due = self.began.elapsed().as_secs() as usize;
        let sent = if self.sent <= due && self.sent < self.bytes.len() {
            let byte = [self.bytes[self.sent]];
            self.sent += 1;
            match &mut self.tls {
                Some(connection) => connection.send(&byte),
                None => self.stream.write_all(&byte),
            }
        } else {
            Ok(())
        };
        if sent.is_err() || self.ended() {
            self.closed = Some(self.began.elapsed());
        }
    }

    /// Reads and drops what the server sent (tickets, alerts, an answer) up to its close.
    fn ended(&mut self) -> bool {
        let mut dropped = [0; 4096];
        loop {
            match self.stream.read(&mut dropped) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() != ErrorKind::WouldBlock,
            }
        }
    }
}

fn drip(mut slow: Vec<Slow>, until: Instant) -> Value {
    while Instant::now() < until {
        slow.iter_mut().filter(|slow| slow.closed.is_none()).for_each(Slow::step);
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut closed: Vec<f64> = slow.iter().filter_map(|slow| Some(slow.closed?.as_secs_f64())).collect();
    closed.sort_by(f64::total_cmp);
    json!({
        "connections": slow.len(),
        "open": slow.len() - closed.len(),
        "closed_first_s": closed.first(),
        "closed_last_s": closed.last(),
    })
}
