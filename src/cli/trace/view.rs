//! The views: from lines and samples to tables.

use std::{
    collections::VecDeque,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde_json::Value;

use super::{
    metrics::Sample,
    table::{self, Align, Cell, Column},
};
use crate::{
    base::duration,
    cli::{
        layout,
        output::{Paint, Style, harmless},
    },
};

const MAX_ROWS: usize = 1000;
/// Characters that are kept of a cell: as wide as no terminal is.
const MAX_TEXT: usize = 1000;
/// Lines of a screen that are no rows: the head and the end of the table, and the cursor's.
const NO_ROWS: usize = 5;

#[rustfmt::skip]
const AUDIT: &[Column] = &[
    Column { title: "Time", share: 12, least: 10, align: Align::Center },
    Column { title: "Identity", share: 15, least: 10, align: Align::Center },
    Column { title: "Status", share: 15, least: 8, align: Align::Center },
    Column { title: "API Operations", share: 45, least: 12, align: Align::Left },
    Column { title: "Response", share: 12, least: 10, align: Align::Center },
];

#[rustfmt::skip]
const ERROR: &[Column] = &[
    Column { title: "Time", share: 12, least: 10, align: Align::Center },
    Column { title: "Error", share: 87, least: 5, align: Align::Left },
];

/// Titles and upper bounds, in milliseconds.
const BUCKETS: &[(&str, u64)] = &[
    ("0-10ms", 10),
    ("10-50ms", 50),
    ("50-100ms", 100),
    ("100-250ms", 250),
    ("250-500ms", 500),
    ("500ms-1s", 1000),
    ("1-1.5s", 1500),
    ("1.5-3s", 3000),
    ("3-5s", 5000),
    ("5-10s", 10_000),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Audit,
    Error,
    Metric,
    /// As [`Self::Metric`], with what the process needs.
    System,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Audit => "audit",
            Self::Error => "error",
            Self::Metric | Self::System => "metric",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub width: usize,
    pub height: usize,
}

pub struct View {
    kind: Kind,
    zone: tz::TimeZone,
    rows: VecDeque<Vec<Cell>>,
    sample: Sample,
    /// When that was.
    at: Option<Instant>,
    /// Requests each second between the last two.
    rate: f64,
}

impl View {
    pub fn new(kind: Kind, zone: tz::TimeZone) -> Self {
        Self { kind, zone, rows: VecDeque::new(), sample: Sample::default(), at: None, rate: 0.0 }
    }

    pub fn add(&mut self, line: &[u8], now: SystemTime) {
        let mut row = match self.kind {
            Kind::Audit => audit_row(line),
            _ => error_row(line, || self.clock(now)),
        };
        for cell in &mut row {
            cell.text = cell.text.chars().take(MAX_TEXT).collect();
        }
        if self.rows.len() == MAX_ROWS {
            self.rows.pop_front();
        }
        self.rows.push_back(row);
    }

    pub fn set(&mut self, sample: Sample, now: Instant) {
        let since = self.at.replace(now).map_or(Duration::ZERO, |at| now.duration_since(at));
        let requests = sample.requests().saturating_sub(self.sample.requests());
        self.rate = if since.is_zero() { 0.0 } else { requests as f64 / since.as_secs_f64() };
        self.sample = sample;
    }

    /// The lines that fit on a terminal, none of them wider than it.
    pub fn lines(&self, size: Size, style: Style) -> Vec<String> {
        let columns = match self.kind {
            Kind::Metric | Kind::System => return self.metric_lines(size, style),
            Kind::Audit => AUDIT,
            Kind::Error => ERROR,
        };
        let room = size.height.saturating_sub(NO_ROWS);
        let newest = self.rows.len().saturating_sub(room);
        let rows = self.rows.range(newest..).map(Vec::as_slice);
        let mut lines = table::lines(columns, rows, size.width, style);
        lines.truncate(size.height);
        lines
    }

    fn metric_lines(&self, size: Size, style: Style) -> Vec<String> {
        let columns: Vec<_> = BUCKETS
            .iter()
            .map(|(title, _)| Column { title, share: 10, least: 3, align: Align::Center })
            .collect();
        let mut before = 0;
        let in_bucket = |(_, bound): &(&str, u64)| {
            let count = self.sample.within(Duration::from_millis(*bound)).max(before);
            Cell::new((count - std::mem::replace(&mut before, count)).to_string())
        };
        let counts: Vec<_> = BUCKETS.iter().map(in_bucket).collect();
        let mut lines = table::lines(&columns, [&counts[..]].into_iter(), size.width, style);
        let Sample { success, error, failure, active, .. } = self.sample;
        let all = self.sample.requests().max(1);
        let part = |count: u64| format!("{:05.2} %  {count}", count as f64 * 100.0 / all as f64);
        let up_time = i64::try_from(self.sample.up_time().as_nanos()).unwrap_or(i64::MAX);
        let mut facts = vec![
            ("Active", active.to_string()),
            ("Success", part(success)),
            ("Error", part(error)),
            ("Failure", part(failure)),
            ("UpTime", duration::format(up_time)),
        ];
        if self.kind == Kind::System {
            self.add_system(&mut facts);
        }
        for (label, value) in facts {
            let line: String = format!("  {label:<9}{value}").chars().take(size.width).collect();
            lines.push(line.replacen(label, &style.paint(Paint::Bold, label), 1));
        }
        lines.truncate(size.height);
        lines
    }

    /// What `kes metric` shows besides.
    fn add_system(&self, facts: &mut Vec<(&'static str, String)>) {
        let get = |name: &str| self.sample.get(&format!("kes_{name}"));
        facts.push(("Rate", format!("{:.1} requests/s", self.rate)));
        facts.push(("Latency", format!("{} on average", short(self.sample.latency()))));
        let cpus =
            || Some(format!("{} of {}", get("system_num_cpu_used")?, get("system_num_cpu")?));
        let events = |count| match count {
            1 => "1 event was sent".to_owned(),
            count => format!("{count} events were sent"),
        };
        let more = [
            ("CPUs", cpus()),
            ("Threads", get("system_num_threads").map(|count| count.to_string())),
            ("Heap", get("system_mem_heap_used").map(layout::bytes)),
            ("Stack", get("system_mem_stack_used").map(layout::bytes)),
            ("Audited", get("log_audit_events").map(events)),
            ("Errors", get("log_error_events").map(events)),
        ];
        facts.extend(more.into_iter().filter_map(|(label, value)| Some((label, value?))));
    }

    /// `hh:mm:ss` here.
    fn clock(&self, now: SystemTime) -> String {
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let seconds = i64::try_from(seconds).unwrap_or_default();
        match tz::DateTime::from_timespec(seconds, 0, self.zone.as_ref()) {
            Ok(t) => format!("{:02}:{:02}:{:02}", t.hour(), t.minute(), t.second()),
            Err(_) => String::new(),
        }
    }
}

/// The titles above [`event_line`]s of the audit log.
pub const HEADER: &str = "Time      Status  Identity      IP               API                                       Latency";

/// An event as one line of text.
pub fn event_line(kind: Kind, line: &[u8], style: Style) -> String {
    let event: Value = serde_json::from_slice(line).unwrap_or_default();
    let raw = || harmless(String::from_utf8_lossy(line).trim_end());
    if kind == Kind::Error {
        return event["message"].as_str().map_or_else(raw, |text| harmless(text.trim_end()));
    }
    let Some(AuditEvent { clock, code, identity, ip, path, time }) = AuditEvent::read(&event)
    else {
        return raw();
    };
    let identity = match identity.char_indices().nth(11) {
        Some((end, _)) => format!("{}…", &identity[..end]),
        None => identity.to_owned(),
    };
    let code = style.paint(paint(code), &format!("{code:<6}"));
    let texts = harmless(&format!("{identity:<12}  {ip:<15}  {path:<40}"));
    format!("{clock:<8}  {code}  {texts}  {}", short(time))
}

/// What an audit event says.
struct AuditEvent<'a> {
    clock: String,
    code: u16,
    identity: &'a str,
    /// Empty if the event has none.
    ip: &'a str,
    path: &'a str,
    /// In nanoseconds.
    time: u64,
}

impl<'a> AuditEvent<'a> {
    fn read(event: &'a Value) -> Option<Self> {
        let (request, response) = (&event["request"], &event["response"]);
        let text = |member: &'a Value| member.as_str().unwrap_or_default();
        // `2021-05-03T10:00:00Z`: the server's clock, as it has it.
        let clock = event["time"].as_str()?.split(['T', 't']).nth(1).unwrap_or_default();
        Some(Self {
            clock: harmless(&clock.chars().take(8).collect::<String>()),
            code: u16::try_from(response["code"].as_u64()?).ok()?,
            identity: text(&request["identity"]),
            ip: text(&request["ip"]),
            path: request["path"].as_str()?,
            time: response["time"].as_u64()?,
        })
    }
}

fn paint(code: u16) -> Paint {
    if code == 200 { Paint::Green } else { Paint::Red }
}

/// A row of the audit view. A line that is no audit event is shown as it is.
fn audit_row(line: &[u8]) -> Vec<Cell> {
    let event: Value = serde_json::from_slice(line).unwrap_or_default();
    match AuditEvent::read(&event) {
        Some(AuditEvent { clock, code, identity, path, time, .. }) => {
            let text = format!("{code} {}", reason_phrase(code)).trim_end().to_owned();
            vec![
                Cell::new(clock),
                Cell::new(identity),
                Cell { text, paint: Some(paint(code)) },
                Cell::new(path),
                Cell::new(short(time)),
            ]
        }
        None => {
            let line = String::from_utf8_lossy(line);
            ["", "", "", line.trim_end(), ""].into_iter().map(Cell::new).collect()
        }
    }
}

fn reason_phrase(code: u16) -> &'static str {
    let code = ureq::http::StatusCode::from_u16(code).ok();
    code.and_then(|code| code.canonical_reason()).unwrap_or_default()
}

/// `ns` nanoseconds with as many digits as one wants to see.
pub fn short(ns: u64) -> String {
    let unit = match ns {
        0..1_000_000 => 1_000,
        1_000_000..1_000_000_000 => 10_000,
        _ => 10_000_000,
    };
    duration::format(i64::try_from(ns - ns % unit).unwrap_or(i64::MAX))
}

/// A row of the error view; `now` is for messages without date.
fn error_row(line: &[u8], now: impl FnOnce() -> String) -> Vec<Cell> {
    let event: Value = serde_json::from_slice(line).unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let message = event["message"].as_str().unwrap_or(&line);
    let (time, text) = match split_date(message) {
        Some((time, text)) => (time.to_owned(), text),
        None => (now(), message),
    };
    let text = text.trim_end().replace(['\n', '\r'], " ");
    vec![Cell::new(time), Cell::new(short_identities(&text))]
}

/// `text` with identities as short as the audit view has them, so that more of the rest is seen.
fn short_identities(text: &str) -> String {
    let is_hex = |c: char| matches!(c, '0'..='9' | 'a'..='f');
    let words = text.split_inclusive(|c| !is_hex(c));
    words
        .map(|word| match word.trim_end_matches(|c| !is_hex(c)) {
            identity if identity.len() == 64 => word.replacen(&identity[11..], "…", 1),
            _ => word.to_owned(),
        })
        .collect()
}

/// The time and the text in `2006/01/02 15:04:05 text`.
fn split_date(message: &str) -> Option<(&str, &str)> {
    const FORM: &[u8] = b"dddd/dd/dd dd:dd:dd ";
    let start = message.as_bytes().get(..FORM.len())?;
    let fits = start.iter().zip(FORM).all(|(c, form)| match form {
        b'd' => c.is_ascii_digit(),
        form => c == form,
    });
    fits.then(|| (&message[11..19], &message[FORM.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: SystemTime = UNIX_EPOCH;

    fn view(kind: Kind) -> View {
        View::new(kind, tz::TimeZone::utc())
    }

    fn size(width: usize, height: usize) -> Size {
        Size { width, height }
    }

    fn audit_event(path: &str, code: u16, time: u64) -> String {
        let identity = "ab".repeat(32);
        format!(
            "{{\"time\":\"2021-05-03T10:00:07+02:00\",\"request\":{{\"path\":{path:?},\
             \"identity\":\"{identity}\"}},\"response\":{{\"code\":{code},\"time\":{time}}}}}\n"
        )
    }

    #[test]
    fn the_audit_view_shows_one_row_for_each_event() {
        let mut view = view(Kind::Audit);
        view.add(audit_event("/v1/key/create/my-key", 200, 52_067).as_bytes(), NOW);
        view.add(audit_event("/v1/key/create/a", 403, 1_234_567_890).as_bytes(), NOW);
        view.add(b"no event\n", NOW);
        assert_eq!(
            [
                "┌──────────┬─────────────┬─────────────┬────────────────────────────────────────────┬──────────┐",
                "│   Time   │  Identity   │   Status    │ API Operations                             │ Response │",
                "├──────────┼─────────────┼─────────────┼────────────────────────────────────────────┼──────────┤",
                "│ 10:00:07 │ ababababab… │   200 OK    │ /v1/key/create/my-key                      │   52µs   │",
                "│ 10:00:07 │ ababababab… │ 403 Forbid… │ /v1/key/create/a                           │  1.23s   │",
                "│          │             │             │ no event                                   │          │",
                "└──────────┴─────────────┴─────────────┴────────────────────────────────────────────┴──────────┘",
            ],
            *view.lines(size(96, 24), Style::PLAIN)
        );
        let lines = view.lines(size(96, 24), Style::COLOURED);
        assert!(lines[3].contains("\u{1b}[32m200 OK\u{1b}[0m"), "{}", lines[3]);
        assert!(lines[4].contains("\u{1b}[31m403 Forbid…\u{1b}[0m"), "{}", lines[4]);
        assert!(lines[1].contains("\u{1b}[1mTime\u{1b}[0m"), "{}", lines[1]);
    }

    #[test]
    fn the_error_view_takes_the_time_from_the_message() {
        let mut view = view(Kind::Error);
        for message in [
            r#"{"message":"2021/05/03 10:00:07 first\nsecond"}"#,
            r#"{"message":"without date"}"#,
            r#"{"message":"2021/05/03 10:00:7 short"}"#,
            "plain text",
        ] {
            view.add(message.as_bytes(), NOW);
        }
        assert_eq!(
            [
                "┌──────────┬───────────────────────────────────────────────────────────────────────────┐",
                "│   Time   │ Error                                                                     │",
                "├──────────┼───────────────────────────────────────────────────────────────────────────┤",
                "│ 10:00:07 │ first second                                                              │",
                "│ 00:00:00 │ without date                                                              │",
                "│ 00:00:00 │ 2021/05/03 10:00:7 short                                                  │",
                "│ 00:00:00 │ plain text                                                                │",
                "└──────────┴───────────────────────────────────────────────────────────────────────────┘",
            ],
            *view.lines(size(88, 24), Style::PLAIN)
        );
    }

    #[test]
    fn the_error_view_shows_why_a_request_was_refused() {
        let mut view = view(Kind::Error);
        let identity = "0123456789ab".repeat(8)[..64].to_owned();
        let message = format!(
            "2021/05/03 10:00:07 identity \\\"{identity}\\\" called \\\"/v1/key/delete/my-key\\\": \
             refused: no path of policy \\\"my-app\\\" matches, the nearest is \\\"/v1/x\\\""
        );
        view.add(format!("{{\"message\":\"{message}\"}}").as_bytes(), NOW);
        let line = &view.lines(size(120, 24), Style::PLAIN)[3];
        assert!(
            line.contains(
                "identity \"0123456789a…\" called \"/v1/key/delete/my-key\": \
                 refused: no path of policy \"my-app\""
            ),
            "{line}"
        );
        let others = format!("{identity}0 {} x{identity}", &identity[..63]);
        assert_eq!(
            format!("{identity}0 {} x0123456789a…", &identity[..63]),
            short_identities(&others)
        );
    }

    #[test]
    fn the_metric_view_counts_each_bucket() {
        let mut view = view(Kind::Metric);
        let text = "kes_http_request_success 90\nkes_http_request_error 8\n\
                    kes_http_request_failure 2\nkes_http_request_active 1\n\
                    kes_http_response_time_bucket{le=\"0.01\"} 80\n\
                    kes_http_response_time_bucket{le=\"0.05\"} 95\n\
                    kes_http_response_time_bucket{le=\"0.1\"} 100\nkes_system_up_time 3723.9\n";
        view.set(Sample::parse(text).unwrap(), Instant::now());
        assert_eq!(
            [
                "┌───────────┬───────────┬───────────┬───────────┬───────────┬───────────┬───────────┬───────────┬───────────┬───────────┐",
                "│  0-10ms   │  10-50ms  │ 50-100ms  │ 100-250ms │ 250-500ms │ 500ms-1s  │  1-1.5s   │  1.5-3s   │   3-5s    │   5-10s   │",
                "├───────────┼───────────┼───────────┼───────────┼───────────┼───────────┼───────────┼───────────┼───────────┼───────────┤",
                "│    80     │    15     │     5     │     0     │     0     │     0     │     0     │     0     │     0     │     0     │",
                "└───────────┴───────────┴───────────┴───────────┴───────────┴───────────┴───────────┴───────────┴───────────┴───────────┘",
                "  Active   1",
                "  Success  90.00 %  90",
                "  Error    08.00 %  8",
                "  Failure  02.00 %  2",
                "  UpTime   1h2m3s",
            ],
            *view.lines(size(121, 24), Style::PLAIN)
        );
    }

    #[test]
    fn the_system_view_shows_the_rate_and_what_the_process_needs() {
        let mut view = view(Kind::System);
        let text = |requests| {
            let text = format!(
                "kes_http_request_success {requests}\nkes_http_response_time_sum 1\n\
                 kes_http_response_time_count 400\nkes_system_num_cpu 4\nkes_system_num_cpu_used 2\n\
                 kes_system_num_threads 12\nkes_system_mem_heap_used 5242880\n\
                 kes_log_audit_events 3\nkes_system_up_time 60.5\n"
            );
            Sample::parse(&text).unwrap()
        };
        let now = Instant::now();
        view.set(text(100), now);
        assert_eq!("  Rate     0.0 requests/s", view.lines(size(121, 24), Style::PLAIN)[10]);
        view.set(text(125), now + Duration::from_secs(2));
        assert_eq!(
            [
                "  UpTime   1m0s",
                "  Rate     12.5 requests/s",
                "  Latency  2.5ms on average",
                "  CPUs     2 of 4",
                "  Threads  12",
                "  Heap     5.0 MiB",
                "  Audited  3 events were sent",
            ],
            view.lines(size(121, 24), Style::PLAIN)[9..]
        );
    }

    #[test]
    fn an_event_is_a_line_below_the_titles() {
        let line = |kind, text: &str| event_line(kind, text.as_bytes(), Style::PLAIN);
        let event = audit_event("/v1/key/create/my-key", 200, 52_067)
            .replace("\"path\"", "\"ip\":\"10.0.0.5\",\"path\"");
        assert_eq!(
            "10:00:07  200     abababababa…  10.0.0.5         /v1/key/create/my-key                     52µs",
            line(Kind::Audit, &event)
        );
        assert_eq!("no event", line(Kind::Audit, "no event\n"));
        assert_eq!("a\u{fffd}b", line(Kind::Error, "{\"message\":\"a\\nb\\n\"}\n"));
        assert_eq!(HEADER.find("Latency"), line(Kind::Audit, &event).replace('…', ".").find("52"));
    }

    #[test]
    fn the_newest_rows_are_shown_and_no_more_than_fit() {
        let mut view = view(Kind::Audit);
        for number in 0..MAX_ROWS + 10 {
            view.add(audit_event(&format!("/{number}/"), 200, 1).as_bytes(), NOW);
        }
        assert_eq!(MAX_ROWS, view.rows.len());
        let lines = view.lines(size(100, 9), Style::PLAIN);
        assert_eq!(8, lines.len());
        assert!(lines[3].contains("/1006/") && lines[6].contains("/1009/"));
        for kind in [Kind::Audit, Kind::Error, Kind::Metric] {
            view.kind = kind;
            for (width, height) in [(0, 0), (1, 1), (5, 3), (12, 5), (30, 40), (300, 2)] {
                let lines = view.lines(size(width, height), Style::PLAIN);
                assert!(lines.len() <= height);
                assert!(lines.iter().all(|line| line.chars().count() <= width));
            }
        }
    }

    #[test]
    fn durations_are_cut_to_what_one_wants_to_see() {
        for (ns, text) in [
            (0, "0s"),
            (999, "0s"),
            (52_067, "52µs"),
            (1_234_567, "1.23ms"),
            (999_999_999, "999.99ms"),
            (1_239_999_999, "1.23s"),
            (61_500_000_000, "1m1.5s"),
        ] {
            assert_eq!(text, short(ns));
        }
    }
}
