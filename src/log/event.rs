//! Events and their lines: one line of JSON for each event.

use std::{
    fmt::Write as _,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::base::clock::{local_zone, put_fraction};

/// The length of `2021-05-03T10:00:00`.
const SECOND: usize = 19;

#[derive(Debug)]
pub struct AuditEvent {
    /// When the request arrived.
    pub time: SystemTime,
    /// The decoded path.
    pub path: String,
    /// The client's identity, empty if it has none.
    pub identity: Arc<str>,
    /// The client's address, if the event is one of the newest generation, which has it and finer times.
    pub ip: Option<IpAddr>,
    /// A key was created or deleted.
    pub is_change: bool,
    pub status: u16,
    /// From arrival to answer.
    pub took: Duration,
}

/// A line with its line feed.
pub struct Line {
    pub text: String,
    /// Where the part about the response begins, which may have to be written anew.
    response_at: usize,
}

impl Line {
    /// The line of an audit event as KES writes it.
    pub fn audit(event: &AuditEvent, clock: &mut Clock) -> Self {
        let mut text = String::with_capacity(200 + event.path.len());
        text.push_str("{\"time\":\"");
        let (second, zone) = clock.rfc3339(event.time).split_at(SECOND);
        text.push_str(second);
        if event.ip.is_some() {
            let since = event.time.duration_since(UNIX_EPOCH).unwrap_or_default();
            put_fraction(since.subsec_nanos(), &mut text);
        }
        text.push_str(zone);
        text.push_str("\",\"request\":{");
        if let Some(ip) = event.ip {
            // Writing to a string can't fail.
            let _ = write!(text, "\"ip\":\"{}\",", ip.to_canonical());
        }
        text.push_str("\"path\":");
        text.push_str(&quoted(&event.path));
        text.push_str(",\"identity\":");
        text.push_str(&quoted(&event.identity));
        text.push_str("},\"response\":{");
        let mut line = Self { response_at: text.len(), text };
        line.set_response(event.status, event.took);
        line
    }

    /// Says in an audit line what the client was really answered.
    pub fn set_response(&mut self, status: u16, took: Duration) {
        self.text.truncate(self.response_at);
        // Writing to a string can't fail.
        let _ = writeln!(self.text, "\"code\":{status},\"time\":{}}}}}", took.as_nanos());
    }

    /// The line of an error event: local date and time before `message`.
    pub fn error(time: SystemTime, message: &str, clock: &mut Clock) -> Self {
        let message = format!("{} {}", clock.stamp(time), message.trim_end());
        Self::plain(format!("{{\"message\":{}}}", quoted(&message)))
    }

    /// The line of an error event for people: date, time and text.
    pub fn error_for_people(time: SystemTime, message: &str, clock: &mut Clock) -> Self {
        Self::plain(format!("{} {}", clock.stamp(time), message.trim_end()))
    }

    fn plain(mut text: String) -> Self {
        text.push('\n');
        Self { response_at: text.len(), text }
    }
}

fn quoted(text: &str) -> String {
    // A string is always valid JSON.
    serde_json::to_string(text).unwrap_or_default()
}

/// Local time as text. Events come in the order of time, so the text of the last second is kept.
pub struct Clock {
    zone: tz::TimeZone,
    second: i64,
    rfc3339: String,
}

impl Clock {
    pub fn local() -> Self {
        Self::new(local_zone().unwrap_or_else(|_| tz::TimeZone::utc()))
    }

    fn new(zone: tz::TimeZone) -> Self {
        Self { zone, second: -1, rfc3339: "1970-01-01T00:00:00Z".to_owned() }
    }

    /// `2021-05-03T10:00:00+02:00`, whole seconds.
    fn rfc3339(&mut self, time: SystemTime) -> &str {
        let second = seconds(time);
        if second != self.second
            && let Some(local) = self.at(second)
        {
            let offset = local.local_time_type().ut_offset();
            let zone = match offset {
                0 => "Z".to_owned(),
                _ => {
                    let sign = if offset < 0 { '-' } else { '+' };
                    let minutes = offset.abs() / 60;
                    format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60)
                }
            };
            self.rfc3339 = date_and_time(&local, '-', 'T') + &zone;
            self.second = second;
        }
        &self.rfc3339
    }

    /// `2021/05/03 10:00:00`.
    fn stamp(&self, time: SystemTime) -> String {
        match self.at(seconds(time)) {
            Some(local) => date_and_time(&local, '/', ' '),
            None => "1970/01/01 00:00:00".to_owned(),
        }
    }

    fn at(&self, second: i64) -> Option<tz::DateTime> {
        tz::DateTime::from_timespec(second, 0, self.zone.as_ref()).ok()
    }
}

fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or_default()
}

fn date_and_time(t: &tz::DateTime, in_date: char, between: char) -> String {
    let (year, month, day) = (t.year(), t.month(), t.month_day());
    let (hour, minute, second) = (t.hour(), t.minute(), t.second());
    format!(
        "{year:04}{in_date}{month:02}{in_date}{day:02}{between}{hour:02}:{minute:02}:{second:02}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(path: &str, seconds: u64) -> AuditEvent {
        AuditEvent {
            time: UNIX_EPOCH + Duration::from_secs(seconds),
            path: path.to_owned(),
            identity: "ab".into(),
            ip: None,
            is_change: false,
            status: 200,
            took: Duration::from_nanos(52_067),
        }
    }

    #[test]
    fn an_audit_line_tells_who_asked_for_what_and_what_came_of_it() {
        let mut clock = Clock::new(tz::TimeZone::utc());
        let mut line = Line::audit(&event("/v1/key/create/\"ä\n", 1_620_036_000), &mut clock);
        let request = r#"{"time":"2021-05-03T10:00:00Z","request":{"path":"/v1/key/create/\"ä\n","identity":"ab"},"#;
        assert_eq!(format!("{request}\"response\":{{\"code\":200,\"time\":52067}}}}\n"), line.text);
        line.set_response(503, Duration::from_nanos(7));
        assert_eq!(format!("{request}\"response\":{{\"code\":503,\"time\":7}}}}\n"), line.text);
    }

    #[test]
    fn an_audit_line_of_the_newest_generation_has_an_address_and_a_finer_time() {
        let mut clock = Clock::new(tz::TimeZone::fixed(7200).expect("an offset"));
        for (nanos, fraction) in [(0, ""), (120_000_000, ".12"), (1, ".000000001")] {
            let event = AuditEvent {
                time: UNIX_EPOCH + Duration::new(1_620_028_800, nanos),
                ip: Some("::ffff:127.0.0.1".parse().expect("an address")),
                ..event("/version", 0)
            };
            let wanted = format!(
                "{{\"time\":\"2021-05-03T10:00:00{fraction}+02:00\",\"request\":\
                 {{\"ip\":\"127.0.0.1\",\"path\":\"/version\",\"identity\":\"ab\"}},\
                 \"response\":{{\"code\":200,\"time\":52067}}}}\n"
            );
            assert_eq!(wanted, Line::audit(&event, &mut clock).text);
        }
    }

    #[test]
    fn times_carry_the_offset_of_the_zone() {
        let zone = |minutes| tz::TimeZone::fixed(minutes * 60).expect("an offset");
        for (offset, text) in [
            (0, "1970-01-02T00:00:00Z"),
            (150, "1970-01-02T02:30:00+02:30"),
            (-60, "1970-01-01T23:00:00-01:00"),
        ] {
            let mut clock = Clock::new(zone(offset));
            let day = UNIX_EPOCH + Duration::from_secs(86_400);
            assert_eq!(text, clock.rfc3339(day));
            assert_eq!(
                text.replace("-02T", "-03T").replace("-01T", "-02T"),
                clock.rfc3339(day + Duration::from_secs(86_400))
            );
        }
    }

    #[test]
    fn an_error_line_is_json_for_programs_and_text_for_people() {
        let mut clock = Clock::new(tz::TimeZone::utc());
        assert_eq!(
            "{\"message\":\"1970/01/01 00:00:00 a\\nb\"}\n",
            Line::error(UNIX_EPOCH, "a\nb\n", &mut clock).text
        );
        assert_eq!(
            "1970/01/01 00:00:00 a\n",
            Line::error_for_people(UNIX_EPOCH, "a", &mut clock).text
        );
    }
}
