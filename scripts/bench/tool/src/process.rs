//! The kernel's figures on a process: CPU time, memory, threads, and the time it takes to start.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;

use crate::args::Args;
use crate::client::Connection;
use crate::{Result, http, tls};

/// CPU time of all threads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cpu {
    /// In nanoseconds, exactly.
    ns: u64,
    /// In steps of 10 ms, in user mode and in the kernel: only good for their ratio.
    user: u64,
    kernel: u64,
}

/// The CPU time of a process so far.
pub(crate) fn cpu(pid: u32) -> Result<Cpu> {
    let mut ns = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end between the listing and the read.
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else {
            continue;
        };
        ns += text.split(' ').next().unwrap_or("0").parse::<u64>()?;
    }
    // The name of the program, which comes first, may have spaces.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |at: usize| Ok::<u64, crate::Error>(fields.get(at).ok_or("short /proc/PID/stat")?.parse()?);
    Ok(Cpu { ns, user: ticks(11)?, kernel: ticks(12)? })
}

impl Cpu {
    /// Nanoseconds since `before`: all of them, and those in the kernel.
    pub(crate) fn since(self, before: Cpu) -> (u64, u64) {
        let ns = self.ns.saturating_sub(before.ns);
        let (user, kernel) =
            (self.user.saturating_sub(before.user), self.kernel.saturating_sub(before.kernel));
        (ns, (ns as f64 * kernel as f64 / (user + kernel).max(1) as f64) as u64)
    }
}

/// Resident memory in KiB.
pub(crate) fn rss_kib(pid: u32) -> Result<u64> {
    status(pid, "VmRSS:")
}

/// The most resident memory since the start, or since [`forget_peak`], in KiB.
pub(crate) fn peak_kib(pid: u32) -> Result<u64> {
    status(pid, "VmHWM:")
}

/// Sets the peak back to the present resident size.
pub(crate) fn forget_peak(pid: u32) {
    // Only the owner of the process may. For others the peak stays that since the start.
    let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
}

/// Number of threads.
pub(crate) fn threads(pid: u32) -> Result<u64> {
    status(pid, "Threads:")
}

/// Lets this process open as many files as the system grants it.
pub(crate) fn raise_file_limit() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    // A lower limit shows as a failed connection, which says more than an error here.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// Starts a server, measures until its first 200 to `/version`, lets it settle, reads its memory
/// and threads, and ends it.
pub(crate) fn start(args: &Args) -> Result<()> {
    let addr = args.text("addr")?.parse()?;
    let config = tls::Client::new(args)?.config(false);
    let settle = Duration::from_secs_f64(args.number("settle", 1.0)?);
    let (program, words) = args.rest.split_first().ok_or("no command after --")?;
    let request = http::request("GET", "/version", "");

    let began = Instant::now();
    let mut server = Command::new(program).args(words).stdout(Stdio::null()).spawn()?;
    let answered = loop {
        let answer = Connection::open(addr, &config).and_then(|mut c| c.ask(&request));
        if answer.is_ok_and(|answer| http::status(&answer) == 200) {
            break Ok(began.elapsed());
        }
        if let Some(status) = server.try_wait()? {
            break Err(format!("{program} ended before it answered: {status}"));
        }
        if began.elapsed() > Duration::from_secs(20) {
            break Err(format!("{program} did not answer within 20 s"));
        }
        std::thread::sleep(Duration::from_micros(200));
    };
    let figures = answered.map_err(Into::into).and_then(|answered| {
        std::thread::sleep(settle);
        Ok(json!({
            "kind": "start",
            "start_ms": answered.as_secs_f64() * 1e3,
            "rss_kib": rss_kib(server.id())?,
            "threads": threads(server.id())?,
        }))
    });
    server.kill()?;
    server.wait()?;
    figures.map(|figures| println!("{figures}"))
}

fn status(pid: u32, field: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    Ok(number.ok_or_else(|| format!("no {field} for process {pid}"))?.parse()?)
}
