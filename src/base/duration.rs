//! Durations as configuration files and flags write them: `1h30m`, `250ms`, `0`.
//!
//! The syntax, the error texts and the canonical form are those of Go's `time.ParseDuration` and
//! `Duration.String`, for which existing files were written.

use std::{fmt, time::Duration};

const SECOND: u64 = 1_000_000_000;

/// The largest magnitude that fits, 2^63 ns: reached by negative durations only.
const LIMIT: u64 = 1 << 63;

/// The units and their nanoseconds. Micro is written with either of the two Unicode signs.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", SECOND),
    ("m", 60 * SECOND),
    ("h", 3600 * SECOND),
];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    text: String,
    pub mistake: Mistake,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// It is no sequence of numbers with units, or out of range (about 292 years).
    Invalid,
    MissingUnit,
    /// This is none of the units `ns`, `us`, `µs`, `ms`, `s`, `m`, `h`.
    UnknownUnit(String),
    Negative,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = quote(&self.text);
        match &self.mistake {
            Mistake::Invalid => write!(f, "time: invalid duration {text}"),
            Mistake::MissingUnit => write!(f, "time: missing unit in duration {text}"),
            Mistake::UnknownUnit(unit) => {
                write!(f, "time: unknown unit {} in duration {text}", quote(unit))
            }
            Mistake::Negative => write!(f, "time: negative duration {text}"),
        }
    }
}

impl std::error::Error for Error {}

/// The nanoseconds that `text` stands for; they must fit in an `i64`.
pub fn parse(text: &str) -> Result<i64, Error> {
    let wrong = |mistake| Error { text: text.into(), mistake };
    let invalid = || wrong(Mistake::Invalid);
    let negative = text.starts_with('-');
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }

    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (whole, after) = split_digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => split_digits(after),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let end = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        if unit.is_empty() {
            return Err(wrong(Mistake::MissingUnit));
        }
        let known = UNITS.iter().find(|(name, _)| *name == unit);
        let (_, unit) = known.ok_or_else(|| wrong(Mistake::UnknownUnit(unit.into())))?;
        total = number(whole)
            .and_then(|whole| whole.checked_mul(*unit))
            .and_then(|whole| whole.checked_add(part_of(fraction, *unit)))
            .and_then(|part| total.checked_add(part))
            .filter(|total| *total <= LIMIT)
            .ok_or_else(invalid)?;
        rest = after;
    }

    if negative {
        return Ok(0_i64.wrapping_sub_unsigned(total));
    }
    i64::try_from(total).map_err(|_| invalid())
}

/// The length of time that `text` stands for.
pub fn parse_non_negative(text: &str) -> Result<Duration, Error> {
    let nanoseconds = parse(text)?;
    u64::try_from(nanoseconds)
        .map(Duration::from_nanos)
        .map_err(|_| Error { text: text.into(), mistake: Mistake::Negative })
}

/// The canonical text of `ns` nanoseconds: `1h30m0s`, `1.5s`, `100ms`, `0s`.
pub fn format(ns: i64) -> String {
    let sign = if ns < 0 { "-" } else { "" };
    let length = ns.unsigned_abs();
    match length {
        0 => "0s".into(),
        1..1_000 => format!("{sign}{length}ns"),
        1_000..1_000_000 => format!("{sign}{}\u{b5}s", decimal(length, 1_000)),
        1_000_000..SECOND => format!("{sign}{}ms", decimal(length, 1_000_000)),
        _ => {
            let minutes = length / (60 * SECOND);
            let seconds = decimal(length % (60 * SECOND), SECOND);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{sign}{seconds}s"),
                (0, minutes) => format!("{sign}{minutes}m{seconds}s"),
                (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

fn split_digits(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

/// The value of decimal digits, where none are zero; `None` above [`LIMIT`].
fn number(digits: &str) -> Option<u64> {
    if digits.is_empty() {
        return Some(0);
    }
    digits.parse().ok().filter(|value| *value <= LIMIT)
}

/// The nanoseconds of `0.<digits>` units, without digits that are too fine for a `u64`. Computed in
/// floating point as in Go, so that the last nanosecond is the same.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn part_of(digits: &str, unit: u64) -> u64 {
    let mut value: u64 = 0;
    let mut scale = 1.0;
    for digit in digits.bytes() {
        let longer = value
            .checked_mul(10)
            .and_then(|value| value.checked_add(u64::from(digit - b'0')))
            .filter(|value| *value < LIMIT);
        let Some(longer) = longer else { break };
        value = longer;
        scale *= 10.0;
    }
    (value as f64 * (unit as f64 / scale)) as u64
}

/// `value / unit` as a decimal number without trailing zeros; `unit` is a power of ten.
fn decimal(value: u64, unit: u64) -> String {
    let (whole, part) = (value / unit, value % unit);
    if part == 0 {
        return whole.to_string();
    }
    let width = unit.ilog10() as usize;
    let part = format!("{part:0width$}");
    format!("{whole}.{}", part.trim_end_matches('0'))
}

/// `text` in double quotes, with control and non-ASCII bytes as `\xNN`.
fn quote(text: &str) -> String {
    let mut quoted = String::from('"');
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => quoted.extend(['\\', char::from(byte)]),
            b' '..0x80 => quoted.push(char::from(byte)),
            _ => quoted.push_str(&format!("\\x{byte:02x}")),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_of_the_test_data_comes_out_the_same() {
        let data: serde_json::Value =
            serde_json::from_str(include_str!("../../testdata/durations.json")).unwrap();
        for case in data["cases"].as_array().unwrap() {
            let input = case["input"].as_str().unwrap();
            match case["nanoseconds"].as_i64() {
                Some(nanoseconds) => {
                    assert_eq!(Ok(nanoseconds), parse(input), "{input:?}");
                    assert_eq!(case["canonical"].as_str().unwrap(), format(nanoseconds));
                }
                None => {
                    let error = parse(input).unwrap_err().to_string();
                    assert_eq!(case["error"].as_str().unwrap(), error, "{input:?}");
                }
            }
        }
    }

    #[test]
    fn the_range_is_that_of_64_signed_bits() {
        assert_eq!(Ok(i64::MAX), parse("9223372036854775807ns"));
        assert_eq!(Ok(i64::MIN), parse("-9223372036854775808ns"));
        assert_eq!(Ok(i64::MIN), parse("-9223372036854775.808us"), "2^63 ns in another unit");
        for text in [
            "9223372036854775808ns",
            "-9223372036854775809ns",
            "99999999999999999999999h",
            "9223372036854775.808us",
            "2562047h47m16.854775808s",
        ] {
            assert_eq!(
                Err(Error { text: text.to_owned(), mistake: Mistake::Invalid }),
                parse(text)
            );
        }
    }

    #[test]
    fn digits_too_fine_to_count_are_dropped() {
        assert_eq!(Ok(333_333_333), parse("0.3333333333333333333333s"));
        assert_eq!(Ok(0), parse("0.9ns"));
        assert_eq!(Ok(540_000_000_000), parse("0.100000000000000000000h3m"));
    }

    #[test]
    fn canonical_texts_parse_to_the_same_duration() {
        for ns in [0, 1, -1, 1_500, 1_500_000, 60_000_000_001, i64::MAX] {
            assert_eq!(Ok(ns), parse(&format(ns)), "{ns}");
        }
        assert_eq!("-2562047h47m16.854775808s", format(i64::MIN));
    }

    #[test]
    fn odd_bytes_are_escaped_in_error_texts() {
        assert_eq!(
            r#"time: unknown unit "\xc2\xb5\"" in duration "1\xc2\xb5\"""#,
            parse("1µ\"").unwrap_err().to_string()
        );
    }

    #[test]
    fn negative_lengths_of_time_are_refused() {
        assert_eq!(Duration::from_secs(90), parse_non_negative("1.5m").expect("a length of time"));
        assert_eq!(
            "time: negative duration \"-1s\"",
            parse_non_negative("-1s").unwrap_err().to_string()
        );
    }
}
