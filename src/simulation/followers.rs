//! Followers of the log that read at once, slowly or never, or vanish, while requests are answered and stdout is
//! stuck now and then. No request waits for any of them, queues are bounded, and a follower sees each request once and in
//! order, or hears that lines are missing.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc, Mutex,
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
/// A line is no longer than this.
const LINE: usize = PADDING + 400;

pub fn run() {
    let lines: Arc<Mutex<Seen>> = Arc::default();
    let is_stuck = world::one_in(2);
    let stdout = Drain { lines: Some(lines.clone()), rest: Mutex::default(), is_stuck };
    let stderr = Drain { lines: None, rest: Mutex::default(), is_stuck: false };
    let settings = Settings { audit: AuditMode::On, error: true };
    let log = Log::start_on(settings, false, stdout, stderr).unwrap();
    let log: &'static Log = Box::leak(Box::new(log));
    let begun: Arc<AtomicUsize> = Arc::default();
    let count = 20 + world::below(60) as usize;
    let followers: Vec<_> = (0..1 + world::below(3) as usize)
        .map(|number| {
            let begun = begun.clone();
            spawn(format!("follower-{number}"), move || follow(log, &begun, number, count))
        })
        .collect();
    let sent = followers.len() + WRITERS * count;
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let begun = begun.clone();
            spawn(format!("writer-{writer}"), move || write(log, &begun, writer, count))
        })
        .collect();
    writers.into_iter().for_each(|thread| drop(thread.join()));
    // Some followers come late.
    thread::sleep(5 * SECOND);
    log.end_streams();
    log.finish(60 * SECOND);
    followers.into_iter().for_each(|thread| drop(thread.join()));
    let (written, lost) = (lines.lock().unwrap().count, log.audit_lost() as usize);
    ensure!(written + lost == sent, "{sent} requests, but {written} lines and {lost} lost");
    ensure!(is_stuck || lost == 0, "{lost} lines are lost though stdout is read");
}

fn spawn(name: String, action: impl FnOnce() + Send + 'static) -> thread::JoinHandle<()> {
    thread::Builder::new().name(name).spawn(action).unwrap()
}

fn request(log: &'static Log, begun: &AtomicUsize, path: String) -> Exchange {
    begun.fetch_add(1, Ordering::Relaxed);
    let manner = Manner { texts: Generation::V0_14, generation: Generation::V0_14 };
    let client = ("client".into(), IpAddr::V4(Ipv4Addr::LOCALHOST));
    Exchange::begin(log, manner, path, client, clock::now(), 15 * SECOND)
}

/// The lines that a reader has seen.
#[derive(Default)]
struct Seen {
    count: usize,
    /// The last number of each writer and follower.
    last: BTreeMap<String, usize>,
}

impl Seen {
    /// Takes a line of `reader`, which must come after the others of its writer. Returns its writer, and whether
    /// lines of that are missing since the last one.
    fn take(&mut self, reader: &str, line: &str) -> (String, bool) {
        let path = line.split("\"path\":\"/").nth(1).expect("it has a path");
        let mut parts = path.splitn(3, '/').map(str::to_owned);
        let (writer, number) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let number = number.parse().expect("it has a number");
        let last = self.last.insert(writer.clone(), number);
        let is_later = last.is_none_or(|last| number > last);
        ensure!(is_later, "{reader} gets {number} after {last:?} of {writer}");
        self.count += 1;
        (writer, last.is_some_and(|last| number > last + 1))
    }
}

/// Answers requests, one after the other.
fn write(log: &'static Log, begun: &AtomicUsize, writer: usize, count: usize) {
    let padding = "x".repeat(PADDING);
    for number in 0..count {
        if world::one_in(4) {
            thread::sleep(Duration::from_millis(world::below(100)));
        }
        let request = request(log, begun, format!("/writer-{writer}/{number}/{padding}"));
        let before = world::elapsed();
        request.answer(Ok(Reply::empty()));
        let took = world::elapsed() - before;
        ensure!(took < PROMPT, "an answer waits for the log: {took:?}");
        let unwritten = log.unwritten();
        ensure!(unwritten <= MOST_UNREAD, "{unwritten} bytes wait for stdout");
    }
}

/// Reads a stream as this follower does, and checks what comes.
fn follow(log: &'static Log, begun: &AtomicUsize, own: usize, count: usize) {
    let name = format!("follower-{own}");
    thread::sleep(Duration::from_millis(world::below(1000)));
    let pause = [20, 200, 3000, 600_000][world::below(4) as usize];
    // Each writer may have begun one that is yet to come.
    let before = begun.load(Ordering::Relaxed).saturating_sub(WRITERS);
    let request = request(log, begun, format!("/{name}/0/"));
    let mut follower = Follower::new(request, Stream::Audit, Waker::noop().clone());
    let mut seen = Seen::default();
    loop {
        if world::one_in(200) {
            world::note(|| "vanishes".to_owned());
            return;
        }
        let unread = follower.unread();
        ensure!(unread <= MOST_UNREAD, "{unread} bytes wait for {name}");
        let (lines, end) = follower.next_lines();
        let text = lines.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
        for line in text.lines() {
            let (writer, has_gap) = seen.take(&name, line);
            ensure!(!has_gap, "{name} misses lines of {writer} before {:?}", seen.last);
            ensure!(seen.count > 1 || writer == name, "the first line of {name} is of {writer}");
        }
        match (lines, end) {
            (None, Some(End::Complete)) => {
                let mut writers =
                    seen.last.iter().filter(|(writer, _)| writer.starts_with("writer"));
                let is_whole = writers.all(|(_, last)| last + 1 == count);
                ensure!(is_whole, "{name} ends at {:?}, not at {count}", seen.last);
                return;
            }
            (None, Some(End::CutOff)) => {
                world::note(|| format!("{name} is cut off"));
                let unseen = begun.load(Ordering::Relaxed) - before - seen.count;
                ensure!(
                    unseen * LINE > MOST_UNREAD,
                    "{name} is cut off, but has left no more than {unseen} lines unread"
                );
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
    /// `None` if nobody looks at them.
    lines: Option<Arc<Mutex<Seen>>>,
    /// The beginning of the next.
    rest: Mutex<Vec<u8>>,
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
        let Some(lines) = &self.lines else { return Ok(block.len()) };
        let mut rest = self.rest.lock().unwrap();
        for part in block.split_inclusive(|byte| *byte == b'\n') {
            rest.extend_from_slice(part);
            if part.ends_with(b"\n") {
                lines.lock().unwrap().take("stdout", &String::from_utf8_lossy(&rest));
                rest.clear();
            }
        }
        Ok(block.len())
    }
}
