//! Followers of the log that read at once, slowly or never, or vanish, while requests are answered and stdout is
//! stuck now and then. No request waits for any of them, queues are bounded, and a follower sees each request once and in
//! order, or hears that lines are missing.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Waker,
    time::Duration,
};

use rustix::io::Errno;

use crate::{
    api::{
        exchange::{Exchange, Manner},
        follow::{End, Follower},
    },
    base::{
        clock,
        generation::Generation,
        sync::{
            thread,
            world::{self, ensure},
        },
    },
    http::reply::Reply,
    log::{AuditMode, Log, Settings, Sink, Stream},
};

const SECOND: Duration = Duration::from_secs(1);
/// What a follower and what stdout may leave unread, in bytes.
const MOST_UNREAD: usize = 1 << 20;
/// A thread stalls now and then; whatever takes longer than this has waited for something.
const PROMPT: Duration = Duration::from_millis(500);
const WRITERS: usize = 3;
/// Paths are so long that what a follower leaves unread is soon too much.
const PADDING: usize = 16_000;

pub fn run() {
    let written = Arc::new(AtomicUsize::new(0));
    let is_stuck = world::one_in(2);
    let stdout = Drain { written: written.clone(), is_stuck };
    let stderr = Drain { written: Arc::default(), is_stuck: false };
    let settings = Settings { audit: AuditMode::On, error: true };
    let log = Log::start_on(settings, false, stdout, stderr).unwrap();
    let log: &'static Log = Box::leak(Box::new(log));
    let count = 20 + world::below(60) as usize;
    let followers: Vec<_> = (0..1 + world::below(3) as usize)
        .map(|number| spawn(format!("follower-{number}"), move || follow(log, number, count)))
        .collect();
    let sent = followers.len() + WRITERS * count;
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| spawn(format!("writer-{writer}"), move || write(log, writer, count)))
        .collect();
    writers.into_iter().for_each(|thread| drop(thread.join()));
    // Some followers come late.
    thread::sleep(5 * SECOND);
    log.end_streams();
    log.finish(60 * SECOND);
    followers.into_iter().for_each(|thread| drop(thread.join()));
    let (written, lost) = (written.load(Ordering::Relaxed), log.audit_lost() as usize);
    ensure!(written + lost == sent, "{sent} requests, but {written} lines and {lost} lost");
    ensure!(is_stuck || lost == 0, "{lost} lines are lost though stdout is read");
}

fn spawn(name: String, action: impl FnOnce() + Send + 'static) -> thread::JoinHandle<()> {
    thread::Builder::new().name(name).spawn(action).unwrap()
}

fn request(log: &'static Log, path: String) -> Exchange {
    let manner = Manner { texts: Generation::V0_14, generation: Generation::V0_14 };
    let client = ("client".into(), IpAddr::V4(Ipv4Addr::LOCALHOST));
    Exchange::begin(log, manner, path, client, clock::now(), 15 * SECOND)
}

/// Answers requests, one after the other.
fn write(log: &'static Log, writer: usize, count: usize) {
    let padding = "x".repeat(PADDING);
    for number in 0..count {
        if world::one_in(4) {
            thread::sleep(Duration::from_millis(world::below(100)));
        }
        let request = request(log, format!("/{writer}/{number}/{padding}"));
        let before = world::elapsed();
        request.answer(Ok(Reply::empty()));
        let took = world::elapsed() - before;
        ensure!(took < PROMPT, "an answer waits for the log: {took:?}");
        let unwritten = log.unwritten();
        ensure!(unwritten <= MOST_UNREAD, "{unwritten} bytes wait for stdout");
    }
}

/// Reads a stream as this follower does, and checks what comes.
fn follow(log: &'static Log, own: usize, count: usize) {
    thread::sleep(Duration::from_millis(world::below(1000)));
    let pause = [20, 200, 3000, 600_000][world::below(4) as usize];
    let request = request(log, format!("/follower/{own}/"));
    let mut follower = Follower::new(request, Stream::Audit, Waker::noop().clone());
    let (mut next, mut is_first) = (BTreeMap::new(), true);
    loop {
        if world::one_in(200) {
            world::note(|| "vanishes".to_owned());
            return;
        }
        let unread = follower.unread();
        ensure!(unread <= MOST_UNREAD, "{unread} bytes wait for follower {own}");
        let (lines, end) = follower.next_lines();
        let text = lines.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
        for line in text.lines() {
            let path = line.split("\"path\":\"").nth(1).expect("it has a path");
            let parts: Vec<_> = path.splitn(4, '/').collect();
            let number: usize = parts[2].parse().expect("it has a number");
            let is_own = parts[1] == "follower" && number == own;
            ensure!(!is_first || is_own, "the first line of follower {own} is {}", &path[..10]);
            is_first = false;
            if parts[1] == "follower" {
                continue;
            }
            let next = next.entry(parts[1].to_owned()).or_insert(number);
            ensure!(*next == number, "follower {own} gets {number} after {next} of {}", parts[1]);
            *next = number + 1;
        }
        match (lines, end) {
            (None, Some(End::Complete)) => {
                let is_whole = next.values().all(|next| *next == count);
                ensure!(is_whole, "follower {own} ends at {next:?}, not at {count}");
                return;
            }
            (None, Some(End::CutOff)) => {
                world::note(|| format!("follower {own} is cut off"));
                ensure!(pause > 20, "follower {own} reads all, and is cut off");
                return;
            }
            (Some(_), _) => {}
            (None, None) => {
                let pause = pause.min(1 + (count as u64) * 1000);
                thread::sleep(Duration::from_millis(pause));
            }
        }
    }
}

/// What takes the lines.
struct Drain {
    written: Arc<AtomicUsize>,
    is_stuck: bool,
}

impl Sink for Drain {
    fn limit(&self) -> usize {
        4096
    }

    fn wait_for_room(&self) {
        let is_stuck = self.is_stuck && world::one_in(50);
        thread::sleep(Duration::from_micros(if is_stuck { 5_000_000 } else { 100 }));
    }

    fn write(&self, block: &[u8]) -> Result<usize, Errno> {
        let lines = block.iter().filter(|byte| **byte == b'\n').count();
        self.written.fetch_add(lines, Ordering::Relaxed);
        Ok(block.len())
    }
}
