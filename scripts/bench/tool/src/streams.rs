//! The cost of subscribers of the audit stream for other requests, and the events that they see.
//!
//! Requests are sent at a fixed rate, in turns without and with subscribers, some of which never
//! read. Every connection uses a key of its own, so an event of a key is that of a known request.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use serde_json::{Value, json};

use crate::args::Args;
use crate::client::Connection;
use crate::{Result, http, load, process, tls};

/// An event that comes later than this is lost.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs the turns, prints the figures, and fails if an event was lost or out of order.
pub(crate) fn run(args: &Args) -> Result<()> {
    let plan = Plan {
        addr: args.text("addr")?.parse()?,
        client: tls::Client::new(args)?,
        connections: args.number("connections", 16)?,
        rate: args.number("rate", 2000.0)?,
    };
    let (subscribers, silent) = (args.number("subscribers", 50)?, args.number("silent", 10)?);
    let (requests, rounds) = (args.number("requests", 20_000)?, args.number("rounds", 20)?);
    let pid = load::pid(args)?.ok_or("--pid is missing")?;
    let mut connections = plan.open_all()?;
    plan.drive(&mut connections, 500)?; // warms the cache and both processes

    let (mut without, mut with) = (Latencies::default(), Latencies::default());
    let (mut delays, mut seen) = (Vec::new(), 0);
    let before = process::rss_kib(pid)?;
    let mut largest = before;
    for _ in 0..rounds {
        without.add(&plan.drive(&mut connections, requests / rounds)?);

        let sleepers = (0..silent).map(|_| plan.subscribe()).collect::<Result<Vec<_>>>()?;
        let followers = (0..subscribers - silent).map(|_| plan.subscribe()).collect::<Result<Vec<_>>>()?;
        let is_done = AtomicBool::new(false);
        let (turn, followers, memory) = std::thread::scope(|scope| {
            let reader = scope.spawn(|| follow(followers, requests / rounds, &is_done));
            let meter = scope.spawn(|| watch_memory(pid, &is_done));
            let turn = plan.drive(&mut connections, requests / rounds);
            is_done.store(true, Ordering::Relaxed);
            (turn, reader.join(), meter.join())
        });
        let (turn, followers) = (turn?, followers.map_err(|_| "the reader panicked")??);
        largest = largest.max(memory.map_err(|_| "the meter panicked")?);
        with.add(&turn);
        drop(sleepers);
        let order: Vec<usize> = followers[0].events.iter().map(|(key, _)| *key).collect();
        for (number, follower) in followers.iter().enumerate() {
            if follower.events.len() != requests / rounds {
                let count = follower.events.len();
                return Err(format!("subscriber {number} got {count} of {} events", requests / rounds).into());
            }
            if !follower.events.iter().map(|(key, _)| *key).eq(order.iter().copied()) {
                return Err(format!("subscriber {number} got another order than the first").into());
            }
            seen += follower.events.len();
            let mut next = vec![0; plan.connections];
            for (key, arrived) in &follower.events {
                let (_, answered) = turn.answers[*key][next[*key]];
                next[*key] += 1;
                delays.push(arrived.saturating_duration_since(answered).as_nanos() as u64);
            }
        }
    }
    let ratio = quantile(&mut with.p99, 0.5) / quantile(&mut without.p99, 0.5);
    println!(
        "{}",
        json!({
            "kind": "streams",
            "requests": with.all.len(),
            "rate": plan.rate,
            "subscribers": subscribers,
            "silent": silent,
            "events": seen,
            "without": without.json(),
            "with": with.json(),
            "p99_ratio": ratio,
            "event_delay_ms": {
                "p50": quantile(&mut delays, 0.5) / 1e3,
                "p99": quantile(&mut delays, 0.99) / 1e3,
                "max": quantile(&mut delays, 1.0) / 1e3,
            },
            "rss_kib": {"before": before, "largest": largest},
        })
    );
    Ok(())
}

/// The latencies of the requests, and the 99th percentile of each turn: their median is steadier than that
/// of all requests on a machine where something else goes on now and then.
#[derive(Default)]
struct Latencies {
    all: Vec<u64>,
    p99: Vec<u64>,
}

impl Latencies {
    fn add(&mut self, turn: &Turn) {
        let mut latencies: Vec<u64> = turn.latencies().collect();
        self.p99.push((quantile(&mut latencies, 0.99) * 1e3) as u64);
        self.all.append(&mut latencies);
    }

    fn json(&mut self) -> Value {
        json!({
            "p50_us": quantile(&mut self.all, 0.5),
            "p99_us": quantile(&mut self.p99, 0.5),
            "p99_of_all_us": quantile(&mut self.all, 0.99),
        })
    }
}

struct Plan {
    addr: SocketAddr,
    client: tls::Client,
    connections: usize,
    /// Requests a second, all connections together.
    rate: f64,
}

/// For each connection, how long each answer took and when it was there.
struct Turn {
    answers: Vec<Vec<(Duration, Instant)>>,
}

impl Turn {
    fn latencies(&self) -> impl Iterator<Item = u64> + '_ {
        self.answers.iter().flatten().map(|(took, _)| took.as_nanos() as u64)
    }
}

impl Plan {
    fn open(&self) -> Result<Connection> {
        Ok(Connection::open(self.addr, &self.client.config(false))?)
    }

    /// The connections that requests are sent over, and a key for each.
    fn open_all(&self) -> Result<Vec<Connection>> {
        let open = |number| {
            let mut connection = self.open()?;
            connection.ask(&http::request("POST", &format!("/v1/key/create/s{number}"), ""))?;
            Ok(connection)
        };
        (0..self.connections).map(open).collect()
    }

    /// Sends `requests` in all, each connection at its share of the rate.
    fn drive(&self, connections: &mut [Connection], requests: usize) -> Result<Turn> {
        let interval = Duration::from_secs_f64(self.connections as f64 / self.rate);
        let start = Instant::now() + Duration::from_millis(100);
        std::thread::scope(|scope| {
            let drivers: Vec<_> = connections
                .iter_mut()
                .enumerate()
                .map(|(number, connection)| {
                    scope.spawn(move || {
                        let request = http::request("POST", &format!("/v1/key/generate/s{number}"), "{}");
                        let share =
                            requests / self.connections + usize::from(number < requests % self.connections);
                        let mut answers = Vec::with_capacity(share);
                        let mut due = start + interval.mul_f64(number as f64 / self.connections as f64);
                        for _ in 0..share {
                            std::thread::sleep(due.saturating_duration_since(Instant::now()));
                            due += interval;
                            let sent = Instant::now();
                            let answer = connection.ask(&request)?;
                            let status = http::status(&answer);
                            if status != 200 {
                                return Err(format!("generate: status {status}").into());
                            }
                            answers.push((sent.elapsed(), Instant::now()));
                        }
                        Ok(answers)
                    })
                })
                .collect();
            let joined = drivers.into_iter().map(|driver| driver.join().map_err(|_| "a driver panicked")?);
            Ok(Turn { answers: joined.collect::<Result<_>>()? })
        })
    }

    fn subscribe(&self) -> Result<Follower> {
        let mut connection = self.open()?;
        let answer = connection.ask(&http::request("GET", "/v1/log/audit/trace", ""))?;
        match http::status(&answer) {
            200 => Ok(Follower { connection, input: Vec::new(), events: Vec::new() }),
            status => Err(format!("subscribe: status {status}").into()),
        }
    }
}

struct Follower {
    connection: Connection,
    input: Vec<u8>,
    /// Number of the key and arrival of each event.
    events: Vec<(usize, Instant)>,
}

impl Follower {
    fn read(&mut self) -> Result<()> {
        let bytes = self.connection.receive()?;
        let now = Instant::now();
        self.input.extend_from_slice(&bytes);
        let end = self.input.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        for line in self.input[..end].split(|byte| *byte == b'\n') {
            // The lines between the events belong to the transfer coding.
            let text = std::str::from_utf8(line)?;
            if let Some((_, rest)) = text.split_once("/v1/key/generate/s") {
                let digits = rest.split('"').next().unwrap_or("");
                self.events.push((digits.parse()?, now));
            }
        }
        self.input.drain(..end);
        Ok(())
    }
}

/// Reads until every follower has `count` events, or a while after the requests are done.
fn follow(mut followers: Vec<Follower>, count: usize, is_done: &AtomicBool) -> Result<Vec<Follower>> {
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    for (number, follower) in followers.iter().enumerate() {
        follower.connection.stream.set_nonblocking(true)?;
        epoll::add(&epoll, &follower.connection.stream, EventData::new_u64(number as u64), EventFlags::IN)?;
    }
    let tick = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
    let mut events = Vec::with_capacity(64);
    let mut last = Instant::now();
    while followers.iter().any(|follower| follower.events.len() < count) && last.elapsed() < PATIENCE {
        events.clear();
        epoll::wait(&epoll, spare_capacity(&mut events), Some(&tick))?;
        for event in &events {
            let number = event.data;
            followers[number.u64() as usize].read()?;
            // Real subscribers run elsewhere and take no time from the clients.
            std::thread::yield_now();
        }
        if !events.is_empty() || !is_done.load(Ordering::Relaxed) {
            last = Instant::now();
        }
    }
    Ok(followers)
}

/// The largest resident size that was seen, in KiB.
fn watch_memory(pid: u32, is_done: &AtomicBool) -> u64 {
    let mut largest = 0;
    while !is_done.load(Ordering::Relaxed) {
        largest = largest.max(process::rss_kib(pid).unwrap_or(0));
        std::thread::sleep(Duration::from_millis(50));
    }
    largest
}

/// In microseconds.
fn quantile(values: &mut [u64], share: f64) -> f64 {
    values.sort_unstable();
    let at = (values.len().saturating_sub(1) as f64 * share).round() as usize;
    values.get(at).map_or(0.0, |ns| *ns as f64 / 1e3)
}
