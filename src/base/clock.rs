//! The time: the clock that runs evenly, and the time of day, cheap enough for each request. Inside a simulation
//! both are the simulation's.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};
use rustls_pki_types::UnixTime;

/// The time by the clock that runs evenly.
pub fn now() -> Instant {
    #[cfg(test)]
    if let Some(now) = super::sync::world::now() {
        return now;
    }
    Instant::now()
}

/// The time of day, a few milliseconds late at most.
pub fn wall() -> SystemTime {
    UNIX_EPOCH + since_epoch()
}

/// The zone of times that people read: `TZ`, as in POSIX the name of a zone or a rule, or the one of the
/// machine. Without either it is UTC, as it is if `TZ` is empty.
///
/// # Errors
/// If `TZ` is set and means nothing here.
pub fn local_zone() -> Result<tz::TimeZone, String> {
    match std::env::var("TZ") {
        Err(_) => Ok(tz::TimeZone::local().unwrap_or_else(|_| tz::TimeZone::utc())),
        Ok(zone) if zone.is_empty() => Ok(tz::TimeZone::utc()),
        Ok(zone) => tz::TimeZone::from_posix_tz(&zone).map_err(|_| {
            format!(
                "TZ is {zone:?}, which is no time zone here, so times are in UTC: install the time zones \
                 (tzdata), or write a rule, which needs no file, such as CET-1CEST,M3.5.0,M10.5.0/3"
            )
        }),
    }
}

pub fn unix() -> UnixTime {
    UnixTime::since_unix_epoch(since_epoch())
}

/// `time` as Go writes it in JSON (RFC 3339): in UTC, without zeros at the end of its fraction.
pub fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or_default();
    let time = tz::UtcDateTime::from_timespec(seconds, 0).ok();
    let mut text = time.map_or_else(
        || "0001-01-01T00:00:00".to_owned(),
        |t| {
            let (year, month, day) = (t.year(), t.month(), t.month_day());
            let (hour, minute, second) = (t.hour(), t.minute(), t.second());
            format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
        },
    );
    put_fraction(since.subsec_nanos(), &mut text);
    text.push('Z');
    text
}

/// Appends `nanos` as the fraction of a second, without zeros at its end; nothing if there are none.
pub fn put_fraction(nanos: u32, text: &mut String) {
    if nanos != 0 {
        text.push_str(format!(".{nanos:09}").trim_end_matches('0'));
    }
}

fn since_epoch() -> Duration {
    #[cfg(test)]
    if let Some(wall) = super::sync::world::wall() {
        return wall.duration_since(UNIX_EPOCH).unwrap_or_default();
    }
    // The kernel updates it at each tick; reading a precise clock costs ten times as much.
    let now = clock_gettime(ClockId::RealtimeCoarse);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    let nanos = u32::try_from(now.tv_nsec).unwrap_or_default();
    Duration::new(seconds, nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_go_writes_them() {
        for (nanos, text) in [
            (0, "2021-05-03T10:00:00Z"),
            (120_000_000, "2021-05-03T10:00:00.12Z"),
            (7, "2021-05-03T10:00:00.000000007Z"),
        ] {
            assert_eq!(text, rfc3339(UNIX_EPOCH + Duration::new(1_620_036_000, nanos)));
        }
    }

    #[test]
    fn the_clock_tells_the_time() {
        let precise = SystemTime::now();
        let coarse = wall();
        let apart = coarse.duration_since(precise).unwrap_or_else(|e| e.duration());
        assert!(apart < Duration::from_secs(5), "{apart:?}");
    }
}
