//! Audit and error events: one line each, to stdout and stderr, from a thread of its own.
//!
//! A request hands its line to a bounded queue and goes on. If whoever reads stdout does not keep
//! up, lines are dropped and counted; a request never waits for a reader.

use std::{
    io::{self, Write},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde::Serialize;

/// Lines that may wait for a slow reader, per stream.
const QUEUE: usize = 8192;

/// One answered request.
#[derive(Debug)]
pub struct AuditEvent<'a> {
    /// When the request arrived.
    pub time: SystemTime,
    /// The decoded path.
    pub path: &'a str,
    /// The client's identity, empty if it has none.
    pub identity: &'a str,
    /// The status of the answer.
    pub status: u16,
    /// From arrival to answer.
    pub took: Duration,
}

/// Where audit and error events go.
pub struct Log {
    audit: Option<Sink>,
    error: Option<Sink>,
    error_is_plain: bool,
    /// Lost audit lines that the error log knows of.
    reported: AtomicU64,
    zone: tz::TimeZone,
}

impl Log {
    /// Starts the writers for the streams that are on. Error events are plain text lines if
    /// `error_is_plain` (stderr is a terminal) and JSON lines otherwise.
    ///
    /// # Errors
    /// If a thread can't be started.
    pub fn start(audit: bool, error: bool, error_is_plain: bool) -> io::Result<Self> {
        let zone = tz::TimeZone::local().unwrap_or_else(|_| tz::TimeZone::utc());
        Ok(Self {
            audit: if audit {
                Some(Sink::start("log-audit", io::stdout())?)
            } else {
                None
            },
            error: if error {
                Some(Sink::start("log-error", io::stderr())?)
            } else {
                None
            },
            error_is_plain,
            reported: AtomicU64::new(0),
            zone,
        })
    }

    /// Whether audit events are wanted.
    pub fn audits(&self) -> bool {
        self.audit.is_some()
    }

    /// Writes one audit event (`api.md` 1.5, log streams).
    pub fn audit(&self, event: &AuditEvent<'_>) {
        let Some(sink) = &self.audit else { return };
        let line = AuditLine {
            time: self.rfc3339(event.time),
            request: AuditRequest {
                path: event.path,
                identity: event.identity,
            },
            response: AuditResponse {
                code: event.status,
                time: event.took.as_nanos(),
            },
        };
        if let Ok(mut text) = serde_json::to_vec(&line) {
            text.push(b'\n');
            sink.send(text);
        }
    }

    /// Writes one error event with the local date and time before `message`.
    pub fn error(&self, message: &str) {
        let Some(sink) = &self.error else { return };
        let message = format!("{} {}", self.stamp(SystemTime::now()), message.trim_end());
        let mut text = if self.error_is_plain {
            message.into_bytes()
        } else {
            serde_json::to_vec(&ErrorLine { message: &message }).unwrap_or_default()
        };
        text.push(b'\n');
        sink.send(text);
    }

    /// Audit lines that nobody could read.
    pub fn audit_lost(&self) -> u64 {
        let audit = self.audit.as_ref();
        audit.map_or(0, |audit| audit.lost.load(Ordering::Relaxed))
    }

    /// Writes one error event if audit lines were lost since the last call.
    pub fn report_lost(&self) {
        let Some(audit) = &self.audit else { return };
        let lost = audit.lost.load(Ordering::Relaxed);
        let new = lost - self.reported.swap(lost, Ordering::Relaxed).min(lost);
        if new > 0 {
            self.error(&format!(
                "{new} audit lines are lost: whoever reads stdout does not keep up or has gone"
            ));
        }
    }

    /// Writes what is queued, for at most `patience`, and ends the writers.
    pub fn finish(&self, patience: Duration) {
        let until = Instant::now() + patience;
        self.report_lost();
        for sink in [&self.audit, &self.error].into_iter().flatten() {
            sink.finish(until);
        }
    }

    fn local(&self, time: SystemTime) -> Option<tz::DateTime> {
        let seconds = time.duration_since(UNIX_EPOCH).ok()?.as_secs();
        tz::DateTime::from_timespec(i64::try_from(seconds).ok()?, 0, self.zone.as_ref()).ok()
    }

    /// `2021-05-03T10:00:00+02:00`, whole seconds.
    fn rfc3339(&self, time: SystemTime) -> String {
        let Some(local) = self.local(time) else {
            return "1970-01-01T00:00:00Z".to_owned();
        };
        let offset = local.local_time_type().ut_offset();
        let zone = match offset {
            0 => "Z".to_owned(),
            _ => {
                let sign = if offset < 0 { '-' } else { '+' };
                let minutes = offset.abs() / 60;
                format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60)
            }
        };
        date_and_time(&local, '-', 'T') + &zone
    }

    /// `2021/05/03 10:00:00`.
    fn stamp(&self, time: SystemTime) -> String {
        match self.local(time) {
            Some(local) => date_and_time(&local, '/', ' '),
            None => "1970/01/01 00:00:00".to_owned(),
        }
    }
}

fn date_and_time(t: &tz::DateTime, in_date: char, between: char) -> String {
    let (year, month, day) = (t.year(), t.month(), t.month_day());
    let (hour, minute, second) = (t.hour(), t.minute(), t.second());
    format!(
        "{year:04}{in_date}{month:02}{in_date}{day:02}{between}{hour:02}:{minute:02}:{second:02}"
    )
}

#[derive(Serialize)]
struct AuditLine<'a> {
    time: String,
    request: AuditRequest<'a>,
    response: AuditResponse,
}

#[derive(Serialize)]
struct AuditRequest<'a> {
    path: &'a str,
    identity: &'a str,
}

#[derive(Serialize)]
struct AuditResponse {
    code: u16,
    time: u128,
}

#[derive(Serialize)]
struct ErrorLine<'a> {
    message: &'a str,
}

/// A writer thread with a bounded queue in front.
struct Sink {
    // Taken out by `finish`, so that the writer sees the end of its queue.
    queue: Mutex<Option<SyncSender<Vec<u8>>>>,
    lost: Arc<AtomicU64>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Sink {
    fn start(name: &str, to: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, lines) = sync_channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let counter = lost.clone();
        let writer = std::thread::Builder::new()
            .name(name.to_owned())
            .stack_size(128 * 1024)
            .spawn(move || write_lines(&lines, to, &counter))?;
        Ok(Self {
            queue: Mutex::new(Some(queue)),
            lost,
            writer: Mutex::new(Some(writer)),
        })
    }

    fn send(&self, line: Vec<u8>) {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        match queue.as_ref().map(|queue| queue.try_send(line)) {
            Some(Ok(())) => {}
            Some(Err(TrySendError::Full(_) | TrySendError::Disconnected(_))) | None => {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn finish(&self, until: Instant) {
        drop(
            self.queue
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        let writer = self
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(writer) = writer else { return };
        while !writer.is_finished() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        // A writer that is stuck in a blocked write ends with the process.
        if writer.is_finished() {
            let _ = writer.join();
        }
    }
}

/// Writes lines until the queue ends; what is waiting is written at once.
fn write_lines(lines: &Receiver<Vec<u8>>, mut to: impl Write, lost: &AtomicU64) {
    while let Ok(mut block) = lines.recv() {
        let mut count = 1;
        while block.len() < 64 * 1024 {
            let Ok(more) = lines.try_recv() else { break };
            block.extend_from_slice(&more);
            count += 1;
        }
        if to.write_all(&block).and_then(|()| to.flush()).is_err() {
            lost.fetch_add(count, Ordering::Relaxed);
        }
    }
}
