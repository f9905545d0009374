//! Closed-loop load: every connection sends its next request when the answer to the last is there.
//!
//! Latency is measured per request (for handshakes: connect to answer), CPU is the server's, read
//! from the kernel at both ends of the measured window.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustls::ClientConfig;
use serde_json::{Value, json};

use crate::args::Args;
use crate::client::Connection;
use crate::{Result, hold, http, process, tls};

/// Runs one operation and prints its figures.
pub(crate) fn run(args: &Args) -> Result<()> {
    process::raise_file_limit();
    let op = args.text("op")?;
    let mut figures = match op {
        "idle" => hold::idle(args)?,
        "slow" => hold::slow(args)?,
        _ => {
            let plan = Plan::new(args, op, args.number("connections", 8)?)?;
            plan.run(pid(args)?)?.json()
        }
    };
    figures["kind"] = json!("load");
    figures["client"] = json!(match (op, args.find("proto")) {
        ("idle", Some("h2")) => "HTTP/2",
        ("idle", _) => "HTTP/1.1",
        ("slow", _) => "8, slow ones too",
        (op, _) if op.starts_with("handshake") => "new",
        _ => "keep-alive",
    });
    figures["op"] = json!(op);
    figures["connections"] = json!(args.number("connections", 8)?);
    figures["label"] = json!(args.find("label").unwrap_or("kes"));
    figures["round"] = json!(args.number("round", 1)?);
    println!("{figures}");
    Ok(())
}

/// Sends one request, prints the answer's body, and fails unless its status is 200.
pub(crate) fn once(args: &Args) -> Result<()> {
    let config = tls::Client::new(args)?.config(false);
    let method = args.find("method").unwrap_or("GET");
    let path = args.find("path").unwrap_or("/version");
    let request = http::request(method, path, args.find("body").unwrap_or(""));
    let answer = Connection::open(args.text("addr")?.parse()?, &config)?.ask(&request)?;
    println!("{}", String::from_utf8_lossy(http::body(&answer)).trim_end());
    match http::status(&answer) {
        200 => Ok(()),
        status => Err(format!("{method} {path}: status {status}").into()),
    }
}

/// `--pid`, the server's.
pub(crate) fn pid(args: &Args) -> Result<Option<u32>> {
    args.find("pid").map(|pid| pid.parse().map_err(|_| "--pid is not a number".into())).transpose()
}

/// The request, the number of connections, and the duration.
pub(crate) struct Plan {
    addr: SocketAddr,
    /// One per connection, so that each keeps its own tickets.
    configs: Vec<Arc<ClientConfig>>,
    /// Sent in turn.
    requests: Vec<Vec<u8>>,
    /// A new connection for every request.
    reconnect: bool,
    threads: usize,
    warmup: Duration,
    window: Duration,
}

/// The result of a [`Plan`].
#[derive(Debug, Default)]
pub(crate) struct Figures {
    /// Nanoseconds, of requests answered with 200; sorted.
    latencies: Vec<u64>,
    errors: u64,
    resumed: u64,
    reconnect: bool,
    seconds: f64,
    /// Nanoseconds of the server: all of them, and those in the kernel.
    cpu_ns: Option<(u64, u64)>,
    peak_kib: Option<u64>,
}

const WARMUP: u8 = 0;
const MEASURE: u8 = 1;
const STOP: u8 = 2;

impl Plan {
    /// Prepares `op`, which for decrypt asks the server for ciphertexts first.
    pub(crate) fn new(args: &Args, op: &str, connections: usize) -> Result<Plan> {
        let addr = args.text("addr")?.parse()?;
        let client = tls::Client::new(args)?;
        let reconnect = op.starts_with("handshake");
        let resume = op == "handshake-resumed";
        Ok(Plan {
            addr,
            configs: (0..connections).map(|_| client.config(resume)).collect(),
            requests: requests(op, addr, &client)?,
            reconnect,
            threads: args.number("threads", 1)?,
            warmup: Duration::from_secs_f64(args.number("warmup", 0.5)?),
            window: Duration::from_secs_f64(args.number("seconds", 2.0)?),
        })
    }

    /// Drives the connections for the warm-up and the measured window.
    pub(crate) fn run(&self, pid: Option<u32>) -> Result<Figures> {
        let phase = AtomicU8::new(WARMUP);
        std::thread::scope(|scope| {
            let share = self.configs.len().div_ceil(self.threads.max(1)).max(1);
            let drivers: Vec<_> = self
                .configs
                .chunks(share)
                .map(|configs| scope.spawn(|| self.drive(configs, &phase)))
                .collect();

            std::thread::sleep(self.warmup);
            pid.inspect(|pid| process::forget_peak(*pid));
            let before = pid.map(process::cpu).transpose();
            let began = Instant::now();
            phase.store(MEASURE, Ordering::Relaxed);
            std::thread::sleep(self.window);
            let after = pid.map(process::cpu).transpose();
            let seconds = began.elapsed().as_secs_f64();
            phase.store(STOP, Ordering::Relaxed);

            let mut total = Figures { reconnect: self.reconnect, seconds, ..Figures::default() };
            for driver in drivers {
                let part = driver.join().map_err(|_| "a load thread panicked")??;
                total.latencies.extend(part.latencies);
                total.errors += part.errors;
                total.resumed += part.resumed;
            }
            total.latencies.sort_unstable();
            total.peak_kib = pid.map(process::peak_kib).transpose()?;
            total.cpu_ns = before?.zip(after?).map(|(before, after)| after.since(before));
            Ok(total)
        })
    }

    fn drive(&self, configs: &[Arc<ClientConfig>], phase: &AtomicU8) -> Result<Figures> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let mut figures = Figures::default();
        let mut slots: Vec<Slot> = Vec::new();
        slots.resize_with(configs.len(), Slot::default);
        let mut events = Vec::with_capacity(configs.len());
        let tick = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        let mut turn = 0;
        loop {
            for (number, slot) in slots.iter_mut().enumerate().filter(|(_, slot)| slot.connection.is_none()) {
                let request = &self.requests[turn % self.requests.len()];
                turn += 1;
                if slot.open(self.addr, &configs[number], request, &epoll, number).is_err() {
                    figures.errors += 1;
                }
            }
            events.clear();
            epoll::wait(&epoll, spare_capacity(&mut events), Some(&tick))?;
            let phase = phase.load(Ordering::Relaxed);
            if phase == STOP {
                return Ok(figures);
            }
            for event in &events {
                let data = event.data;
                let slot = &mut slots[data.u64() as usize];
                let Some(connection) = slot.connection.as_mut() else {
                    continue;
                };
                let status = match connection.step() {
                    Ok(None) => continue,
                    Ok(Some(status)) => status,
                    Err(_) => 0,
                };
                match status {
                    // Errors count at any time: a warm-up that fails is no warm-up.
                    0..200 | 201.. => figures.errors += 1,
                    200 if phase == MEASURE => {
                        figures.latencies.push(slot.began.elapsed().as_nanos() as u64);
                        figures.resumed += u64::from(self.reconnect && connection.resumed());
                    }
                    200 => {}
                }
                if status == 0 || self.reconnect {
                    if let Some(connection) = slot.connection.take() {
                        connection.close();
                    }
                    continue;
                }
                slot.began = Instant::now();
                if connection.send(&self.requests[turn % self.requests.len()]).is_err() {
                    figures.errors += 1;
                    slot.connection = None;
                }
                turn += 1;
            }
        }
    }
}

/// One of the connections of a load thread.
struct Slot {
    connection: Option<Connection>,
    /// When the request under way was sent, or its connection begun.
    began: Instant,
}

impl Default for Slot {
    fn default() -> Slot {
        Slot { connection: None, began: Instant::now() }
    }
}

impl Slot {
    fn open(
        &mut self,
        addr: SocketAddr,
        config: &Arc<ClientConfig>,
        request: &[u8],
        epoll: &OwnedFd,
        number: usize,
    ) -> Result<()> {
        self.began = Instant::now();
        let mut connection = Connection::open(addr, config)?;
        connection.stream.set_nonblocking(true)?;
        epoll::add(epoll, &connection.stream, EventData::new_u64(number as u64), EventFlags::IN)?;
        connection.send(request)?;
        self.connection = Some(connection);
        Ok(())
    }
}

impl Figures {
    /// The members of a result line. Latencies in microseconds; CPU is per request.
    pub(crate) fn json(&self) -> Value {
        let requests = self.latencies.len();
        let mut value = json!({
            "requests": requests,
            "req_s": requests as f64 / self.seconds,
            "p50_us": self.quantile(0.5),
            "p99_us": self.quantile(0.99),
            "p999_us": self.quantile(0.999),
            "errors": self.errors,
        });
        if let Some((all, kernel)) = self.cpu_ns {
            let each = |ns: u64| json!(ns as f64 / 1e3 / requests.max(1) as f64);
            value["cpu_us"] = each(all);
            value["kernel_us"] = each(kernel);
            value["user_us"] = each(all - kernel);
        }
        if let Some(peak) = self.peak_kib {
            value["peak_kib"] = json!(peak);
        }
        if self.reconnect {
            value["handshakes_per_request"] = json!(1.0);
            value["resumed"] = json!(self.resumed as f64 / requests.max(1) as f64);
        }
        value
    }

    fn quantile(&self, share: f64) -> f64 {
        let last = self.latencies.len().saturating_sub(1);
        let at = (last as f64 * share).round() as usize;
        self.latencies.get(at).map_or(0.0, |ns| *ns as f64 / 1e3)
    }
}

fn requests(op: &str, addr: SocketAddr, client: &tls::Client) -> Result<Vec<Vec<u8>>> {
    let version = || http::request("GET", "/version", "");
    let generate = || http::request("POST", "/v1/key/generate/bench", "{}");
    let encrypt = || {
        let body = "{\"plaintext\":\"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\"}";
        http::request("POST", "/v1/key/encrypt/bench", body)
    };
    let decrypt = || -> Result<Vec<Vec<u8>>> {
        let mut connection = Connection::open(addr, &client.config(false))?;
        let mut requests = Vec::new();
        for _ in 0..16 {
            let answer = connection.ask(&generate())?;
            if http::status(&answer) != 200 {
                return Err(format!("generate: {}", String::from_utf8_lossy(&answer)).into());
            }
            let answer: Value = serde_json::from_slice(http::body(&answer))?;
            let body = json!({ "ciphertext": answer["ciphertext"] }).to_string();
            requests.push(http::request("POST", "/v1/key/decrypt/bench", &body));
        }
        Ok(requests)
    };
    Ok(match op {
        "version" | "handshake-full" | "handshake-resumed" => vec![version()],
        "generate" => vec![generate()],
        "encrypt" => vec![encrypt()],
        "decrypt" => decrypt()?,
        // Data keys are read more often than they are made: 1 generate to 4 decrypt.
        "mixed" => {
            let mut requests = vec![encrypt()];
            for four in decrypt()?.chunks(4) {
                requests.push(generate());
                requests.extend_from_slice(four);
            }
            requests
        }
        _ => return Err(format!("unknown operation {op:?}").into()),
    })
}
