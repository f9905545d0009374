//! The `Date` header.

use std::{
    cell::RefCell,
    io::Write as _,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::base::clock;

thread_local! {
    static DATE: RefCell<Date> = const { RefCell::new(Date { second: u64::MAX, text: [0; 29] }) };
}

/// Shows `look` the value of the `Date` header of now (RFC 9110 5.6.7).
pub fn with_date<T>(look: impl FnOnce(&[u8]) -> T) -> T {
    DATE.with_borrow_mut(|date| look(date.at(clock::wall())))
}

/// The date of one second, formatted once per thread.
struct Date {
    second: u64,
    text: [u8; 29],
}

impl Date {
    fn at(&mut self, now: SystemTime) -> &[u8] {
        let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if second != self.second {
            self.second = second;
            let _ = write!(self.text.as_mut_slice(), "{}", http_date(second));
        }
        &self.text
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date(second: u64) -> String {
    const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let second = i64::try_from(second).unwrap_or_default();
    let Ok(utc) = tz::UtcDateTime::from_timespec(second, 0) else {
        return "Thu, 01 Jan 1970 00:00:00 GMT".to_owned();
    };
    format!(
        "{}, {:02} {} {:04} {:02}:{:02}:{:02} GMT",
        DAYS[usize::from(utc.week_day()) % 7],
        utc.month_day(),
        MONTHS[usize::from(utc.month().saturating_sub(1)) % 12],
        utc.year(),
        utc.hour(),
        utc.minute(),
        utc.second()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_rfc() {
        assert_eq!("Sun, 06 Nov 1994 08:49:37 GMT", http_date(784_111_777));
    }
}
