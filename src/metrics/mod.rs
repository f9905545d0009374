//! The counters of the server, and the page that Prometheus reads.
//!
//! Each thread counts in a shard of its own, so that threads do not compete for cache lines; the page adds
//! the shards up. Every family has one sample and no label, as clients of KES 0.14 expect; clients of the
//! newest generation expect requests by the status of their answers. Knows nothing of
//! HTTP.

mod connections;
mod process;

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

pub use self::{
    connections::Connections,
    process::{Process, process},
};
use crate::tls::Group;

/// How a request or a call of the key store ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was served.
    Success,
    /// The request was wrong.
    Error,
    /// The server or the key store failed.
    Failure,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    KeyStore(Outcome),
    FullHandshake,
    ResumedHandshake,
    FailedHandshake,
    KeyExchange(Group),
    NotAudited,
    Http2Flood,
    RefusedConnection,
    Limited,
}

/// The events in the order of their places, with the families that tell how many there were.
#[rustfmt::skip]
const EVENTS: &[(Event, &str, &str)] = &[
    (Event::KeyStore(Outcome::Success), "kes_keystore_success", "Calls of the key store that did what they should."),
    (Event::KeyStore(Outcome::Error), "kes_keystore_error", "Calls of the key store about a key that exists already or does not exist."),
    (Event::KeyStore(Outcome::Failure), "kes_keystore_failure", "Calls of the key store that failed."),
    (Event::FullHandshake, "kes_tls_handshake_full", "Full TLS handshakes."),
    (Event::ResumedHandshake, "kes_tls_handshake_resumed", "TLS handshakes that resumed an earlier session."),
    (Event::FailedHandshake, "kes_tls_handshake_failed", "TLS handshakes that failed."),
    (Event::KeyExchange(Group::X25519MlKem768), "kes_tls_handshake_x25519mlkem768", "TLS handshakes, full and resumed, with the key exchange X25519MLKEM768."),
    (Event::KeyExchange(Group::X25519), "kes_tls_handshake_x25519", "TLS handshakes, full and resumed, with the key exchange X25519."),
    (Event::KeyExchange(Group::P256), "kes_tls_handshake_p256", "TLS handshakes, full and resumed, with the key exchange P-256."),
    (Event::KeyExchange(Group::P384), "kes_tls_handshake_p384", "TLS handshakes, full and resumed, with the key exchange P-384."),
    (Event::NotAudited, "kes_log_audit_refused", "Requests refused because their audit lines could not be written."),
    (Event::Http2Flood, "kes_http2_flood", "HTTP/2 connections closed because the client sent too much that asks for nothing, or did not take its answers."),
    (Event::RefusedConnection, "kes_connections_refused", "Connections of clients that were refused because there were enough."),
    (Event::Limited, "kes_http_request_limited", "Requests answered 429 because their identity had reached a limit."),
];

/// The families that count requests by their outcomes, each for the statuses below the next one's.
const REQUESTS: [(&str, &str, u16); 3] = [
    ("kes_http_request_success", "Requests answered with status 200.", 400),
    ("kes_http_request_error", "Requests answered with a status from 400 to 499.", 500),
    ("kes_http_request_failure", "Requests answered with a status from 500 to 599.", 600),
];

/// The statuses that are counted, the most frequent first. Others count as the last one.
const STATUSES: [u16; 19] =
    [200, 404, 400, 403, 301, 307, 405, 406, 417, 422, 431, 501, 502, 503, 504, 505, 409, 429, 500];

const RESPONSE_TIME: &str = "kes_http_response_time";

/// The upper bounds of the histogram, in milliseconds and as text in seconds.
#[rustfmt::skip]
const BOUNDS: [(u64, &str); 10] = [
    (10, "0.01"), (50, "0.05"), (100, "0.1"), (250, "0.25"), (500, "0.5"),
    (1_000, "1"), (1_500, "1.5"), (3_000, "3"), (5_000, "5"), (10_000, "10"),
];

impl Event {
    fn place(self) -> usize {
        match self {
            Self::KeyStore(outcome) => outcome as usize,
            Self::FullHandshake => 3,
            Self::ResumedHandshake => 4,
            Self::FailedHandshake => 5,
            Self::KeyExchange(group) => 6 + group as usize,
            Self::NotAudited => 10,
            Self::Http2Flood => 11,
            Self::RefusedConnection => 12,
            Self::Limited => 13,
        }
    }
}

pub struct Metrics {
    pub connections: Connections,
    shards: Box<[Shard]>,
    started: Instant,
}

/// The counts of a thread, or of a few. Apart from each other by two cache lines, since processors
/// fetch them in pairs.
#[derive(Default)]
#[repr(align(128))]
struct Shard {
    events: [AtomicU64; EVENTS.len()],
    /// Answers by status.
    statuses: [AtomicU64; STATUSES.len()],
    begun: AtomicU64,
    /// Answers by time; the last is for those above all bounds.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    /// The time of all answers, in nanoseconds.
    nanos: AtomicU64,
}

impl Metrics {
    /// Counters for about so many threads. More threads share places, which costs time only.
    pub fn new(threads: usize) -> Self {
        let shards = threads.next_power_of_two();
        Self {
            connections: Connections::new(0),
            shards: (0..shards).map(|_| Shard::default()).collect(),
            started: Instant::now(),
        }
    }

    /// Counts a request that has begun; [`request_ends`](Self::request_ends) must follow.
    pub fn request_begins(&self) {
        add(&self.shard().begun, 1);
    }

    pub fn request_ends(&self, status: u16, took: Duration) {
        let shard = self.shard();
        let bucket = BOUNDS
            .iter()
            .position(|(millis, _)| took <= Duration::from_millis(*millis))
            .unwrap_or(BOUNDS.len());
        let at = STATUSES.iter().position(|known| *known == status);
        add(&shard.statuses[at.unwrap_or(STATUSES.len() - 1)], 1);
        add(&shard.buckets[bucket], 1);
        add(&shard.nanos, u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    pub fn count(&self, event: Event) {
        add(&self.shard().events[event.place()], 1);
    }

    fn shard(&self) -> &Shard {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static THREAD: usize = THREADS.fetch_add(1, Ordering::Relaxed);
        }
        &self.shards[THREAD.with(|thread| thread & (self.shards.len() - 1))]
    }

    fn sum(&self, counter: impl Fn(&Shard) -> &AtomicU64) -> u64 {
        self.shards
            .iter()
            .fold(0, |sum, shard| sum.wrapping_add(counter(shard).load(Ordering::Relaxed)))
    }

    /// The page at `now`: what was counted here, and `readings` of what others know. `streams` have
    /// been answered but go on. Requests are told apart `by_status` or not.
    pub fn page(
        &self,
        readings: impl IntoIterator<Item = Family>,
        streams: usize,
        by_status: bool,
        now: Instant,
    ) -> String {
        let mut families: Vec<_> = readings.into_iter().collect();
        for (event, name, help) in EVENTS {
            let count = self.sum(|shard| &shard.events[event.place()]);
            families.push(Family::counter(name, help, count));
        }
        let (mut ended, mut from) = (0, 0);
        for (name, help, end) in REQUESTS {
            let place = |status| STATUSES.iter().position(|counted| *counted == status);
            let counts: Vec<_> = (from..end)
                .filter_map(|status| Some((status, place(status)?)))
                .map(|(status, at)| (status, self.sum(|shard| &shard.statuses[at])))
                .collect();
            let sum = counts.iter().map(|(_, count)| count).sum();
            let value = if by_status { Value::ByStatus(counts) } else { Value::Counter(sum) };
            families.push(Family { name, help, value });
            (ended, from) = (ended + sum, end);
        }
        // The ends were read first, so there are never fewer beginnings.
        let active = self.sum(|shard| &shard.begun).saturating_sub(ended) + streams as u64;
        let up = now.saturating_duration_since(self.started).as_millis() / 10;
        families.extend([
            Family::gauge(
                "kes_http_request_active",
                "Requests that are not answered yet, and open log streams.",
                active as f64,
            ),
            Family::gauge(
                "kes_system_up_time",
                "Seconds since the start of the server.",
                up as f64 / 100.0,
            ),
            Family {
                name: RESPONSE_TIME,
                help: "Seconds from the arrival of a request to its answer.",
                value: Value::Histogram {
                    buckets: (0..=BOUNDS.len())
                        .map(|at| self.sum(|shard| &shard.buckets[at]))
                        .collect(),
                    nanos: self.sum(|shard| &shard.nanos),
                },
            },
        ]);
        // Each begins with its name.
        let mut texts: Vec<_> = families.iter().map(Family::text).collect();
        texts.sort_unstable();
        texts.concat()
    }
}

fn add(counter: &AtomicU64, number: u64) {
    counter.fetch_add(number, Ordering::Relaxed);
}

/// One family of the page, with its one sample.
#[derive(Clone, Debug)]
pub struct Family {
    name: &'static str,
    help: &'static str,
    value: Value,
}

#[derive(Clone, Debug)]
enum Value {
    Counter(u64),
    /// A counter for each status; a status that never was has none.
    ByStatus(Vec<(u16, u64)>),
    Gauge(f64),
    Histogram {
        buckets: Vec<u64>,
        nanos: u64,
    },
}

impl Family {
    pub fn counter(name: &'static str, help: &'static str, value: u64) -> Self {
        let value = Value::Counter(value);
        Self { name, help, value }
    }

    pub fn gauge(name: &'static str, help: &'static str, value: f64) -> Self {
        let value = Value::Gauge(value);
        Self { name, help, value }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a `String` cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, page: &mut String) -> std::fmt::Result {
        let Self { name, help, value } = self;
        let kind = match value {
            Value::ByStatus(counts) if counts.iter().all(|(_, count)| *count == 0) => return Ok(()),
            Value::Counter(_) | Value::ByStatus(_) => "counter",
            Value::Gauge(_) => "gauge",
            Value::Histogram { .. } => "histogram",
        };
        writeln!(page, "# HELP {name} {help}\n# TYPE {name} {kind}")?;
        match value {
            Value::Counter(value) => writeln!(page, "{name} {value}"),
            Value::Gauge(value) => writeln!(page, "{name} {value}"),
            Value::ByStatus(counts) => {
                let mut counts = counts.iter().filter(|(_, count)| *count > 0);
                counts.try_for_each(|(status, count)| {
                    writeln!(page, "{name}{{code=\"{status}\"}} {count}")
                })
            }
            Value::Histogram { buckets, nanos } => {
                let mut count = 0;
                let bounds = BOUNDS.iter().map(|(_, text)| *text).chain(["+Inf"]);
                for (bound, answers) in bounds.zip(buckets) {
                    count += answers;
                    writeln!(page, "{name}_bucket{{le=\"{bound}\"}} {count}")?;
                }
                let (seconds, rest) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
                writeln!(page, "{name}_sum {seconds}.{rest:09}\n{name}_count {count}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(page: &str, name: &str) -> String {
        let found = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        found.unwrap_or_else(|| panic!("{name} is not in\n{page}")).to_owned()
    }

    #[test]
    fn every_event_has_a_place_of_its_own() {
        for (at, (event, name, _)) in EVENTS.iter().enumerate() {
            assert_eq!(at, event.place(), "{name}");
        }
    }

    #[test]
    fn all_families_are_there_from_the_start_sorted_and_once() {
        let metrics = Metrics::new(2);
        let page = metrics.page([Family::gauge("kes_a", "A.", -1.5)], 0, false, metrics.started);
        let names: Vec<_> = page
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
            .collect();
        let mut sorted = names.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted, names);
        assert_eq!(EVENTS.len() + REQUESTS.len() + 4, names.len());
        assert!(page.starts_with("# HELP kes_a A.\n# TYPE kes_a gauge\nkes_a -1.5\n"));
        for (_, name, _) in EVENTS {
            assert_eq!("0", sample(&page, name));
        }
    }

    #[test]
    fn the_newest_generation_sees_requests_by_the_status_of_their_answers() {
        let metrics = Metrics::new(1);
        for status in [200, 404, 400, 404, 599] {
            metrics.request_begins();
            metrics.request_ends(status, Duration::ZERO);
        }
        let page = |by_status| metrics.page([], 0, by_status, Instant::now());
        let counted = |page: &str, start: &str| -> Vec<String> {
            page.lines().filter_map(|line| line.strip_prefix(start)).map(str::to_owned).collect()
        };
        let newest = page(true);
        assert_eq!(["{code=\"200\"} 1"], *counted(&newest, "kes_http_request_success"));
        assert_eq!(
            ["{code=\"400\"} 1", "{code=\"404\"} 2"],
            *counted(&newest, "kes_http_request_error")
        );
        assert_eq!(["{code=\"500\"} 1"], *counted(&newest, "kes_http_request_failure"));
        assert_eq!([" 3"], *counted(&page(false), "kes_http_request_error"));
        let fresh = Metrics::new(1).page([], 0, true, Instant::now());
        assert!(!fresh.contains("kes_http_request_success"), "{fresh}");
    }

    #[test]
    fn answers_stand_in_the_bucket_of_their_time_and_all_above() {
        let metrics = Metrics::new(1);
        for millis in [0, 10, 11, 10_000, 10_001] {
            metrics.request_begins();
            metrics.request_ends(200, Duration::from_millis(millis));
        }
        metrics.request_begins();
        let page = metrics.page([], 2, false, metrics.started + Duration::from_millis(12_349));
        let bucket = |bound| sample(&page, &format!("{RESPONSE_TIME}_bucket{{le=\"{bound}\"}}"));
        assert_eq!("2", bucket("0.01"));
        assert_eq!("3", bucket("0.05"));
        assert_eq!("3", bucket("5"));
        assert_eq!("4", bucket("10"));
        assert_eq!("5", bucket("+Inf"));
        assert_eq!("5", sample(&page, "kes_http_response_time_count"));
        assert_eq!("20.022000000", sample(&page, "kes_http_response_time_sum"));
        assert_eq!("3", sample(&page, "kes_http_request_active"));
        assert_eq!("12.34", sample(&page, "kes_system_up_time"));
    }

    #[test]
    fn what_threads_count_is_added_up() {
        let metrics = Metrics::new(4);
        std::thread::scope(|scope| {
            for _ in 0..9 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        metrics.count(Event::FullHandshake);
                        metrics.request_begins();
                        metrics.request_ends(404, Duration::ZERO);
                    }
                });
            }
        });
        let page = metrics.page([], 0, false, Instant::now());
        assert_eq!("9000", sample(&page, "kes_tls_handshake_full"));
        assert_eq!("9000", sample(&page, "kes_http_request_error"));
        assert_eq!("9000", sample(&page, "kes_http_response_time_count"));
        assert_eq!("0", sample(&page, "kes_http_request_active"));
    }
}
