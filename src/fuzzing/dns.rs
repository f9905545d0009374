//! Answers of name servers, against a plain reader, and `resolv.conf`.

use std::net::IpAddr;

use super::cursor::Cursor;
use crate::web::resolver::{
    message::{Answer, Kind, Question},
    settings::{MAX_SERVERS, Settings},
};

/// A name, and what is sent back: the question with a head of any kind and any records behind it, or any bytes.
pub fn dns(data: &[u8]) {
    let mut cursor = Cursor(data);
    let choice = cursor.byte();
    if choice & 3 == 3 {
        return settings(&String::from_utf8_lossy(cursor.0));
    }
    let name = cursor.text();
    let kind = if choice & 4 == 0 { Kind::Four } else { Kind::Six };
    let question = Question::new([1, 2], &name, kind);
    let is_name = name.len() <= 253 && name.split('.').all(|part| (1..=63).contains(&part.len()));
    assert_eq!(is_name, question.is_some(), "{name:?}");
    let Some(question) = question else { return };
    let asked = question.plain();
    let labels: Vec<_> =
        name.split('.').flat_map(|part| [&[part.len() as u8], part.as_bytes()].concat()).collect();
    let wanted =
        [&[1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0], &labels[..], &[0, 0, kind as u8, 0, 1]].concat();
    assert_eq!(wanted, asked, "the question");
    assert!(question.with_edns().starts_with(&asked[..11]));
    let message = match choice & 3 {
        0 => cursor.0.to_vec(),
        _ => {
            let mut message = asked.to_vec();
            message[2] = cursor.byte() | 0x80;
            message[3] = cursor.byte();
            message[7] = cursor.byte() % 8;
            message[11] = cursor.byte() % 4;
            // One bit of what was asked, or of what the head says, is another.
            if choice & 8 != 0 {
                let (place, bit) = (usize::from(cursor.short()), cursor.byte() % 8);
                message[place % asked.len()] ^= 1 << bit;
            }
            message.extend_from_slice(cursor.0);
            message
        }
    };
    let wanted = plain(&message, asked);
    let found = question.read(&message).map(|(answer, knows_edns)| {
        let said = match answer {
            Ok(Answer::Addresses(addresses)) => Said::Addresses(addresses),
            Ok(Answer::NoSuchName) => Said::NoSuchName,
            Ok(Answer::CutOff) => Said::CutOff,
            Ok(Answer::Failed(code)) => Said::Failed(code),
            Err(_) => Said::Malformed,
        };
        (said, knows_edns)
    });
    assert_eq!(wanted, found, "{message:?}");
}

/// What an answer says.
#[derive(Debug, PartialEq)]
enum Said {
    Addresses(Vec<IpAddr>),
    NoSuchName,
    CutOff,
    Failed(u8),
    Malformed,
}

/// What `message` says about the question `asked`, and whether its sender knows EDNS; `None` if it is about something
/// else.
fn plain(message: &[u8], asked: &[u8]) -> Option<(Said, bool)> {
    let short = |at: usize| usize::from(message[at]) << 8 | usize::from(message[at + 1]);
    if message.len() < 12 || message[..2] != asked[..2] || message[2] < 0x80 {
        return None;
    }
    let code = message[3] & 15;
    if short(4) == 0 && code != 0 && code != 3 {
        return Some((Said::Failed(code), false));
    }
    let same = |(a, b): (&u8, &u8)| a.eq_ignore_ascii_case(b);
    let is_same = message.len() >= asked.len() && message[12..].iter().zip(&asked[12..]).all(same);
    if short(4) != 1 || !is_same {
        return None;
    }
    let (answers, all) = (short(6), short(6) + short(8) + short(10));
    let (mut at, mut records) = (asked.len(), Vec::new());
    while records.len() < all
        && let Some((kind, data, end)) = record(message, at)
    {
        records.push((kind, data));
        at = end;
    }
    let knows_edns = code != 1 && records.iter().any(|(kind, _)| *kind == 41);
    let is_cut_off = message[2] & 2 != 0;
    let said = match code {
        _ if is_cut_off => Said::CutOff,
        3 => Said::NoSuchName,
        0 if records.len() < answers => Said::Malformed,
        0 => {
            let of_four = |data| <[u8; 4]>::try_from(data).map(IpAddr::from);
            let of_six = |data| <[u8; 16]>::try_from(data).map(IpAddr::from);
            let addresses = records[..answers].iter().filter_map(|(kind, data)| match kind {
                1 => of_four(*data).ok(),
                28 => of_six(*data).ok(),
                _ => None,
            });
            Said::Addresses(addresses.collect())
        }
        code => Said::Failed(code),
    };
    Some((said, knows_edns))
}

/// Type, data and end of the record at a place.
fn record(message: &[u8], mut at: usize) -> Option<(u16, &[u8], usize)> {
    while *message.get(at)? != 0 && message[at] < 0xc0 {
        at += usize::from(message[at]) + 1;
    }
    at += if message[at] == 0 { 1 } else { 2 };
    let head = message.get(at..at + 10)?;
    let end = at + 10 + (usize::from(head[8]) << 8 | usize::from(head[9]));
    Some((u16::from(head[0]) << 8 | u16::from(head[1]), message.get(at + 10..end)?, end))
}

fn settings(text: &str) {
    let (text, host) = text.split_once('\0').unwrap_or((text, "kes"));
    let settings = Settings::parse(text, "", 53);
    assert!((1..=MAX_SERVERS).contains(&settings.servers.len()));
    assert!(settings.timeout.as_secs() >= 1 && settings.attempts >= 1);
    let names = settings.names(host);
    assert!(names.len() <= 33, "{} names", names.len());
    let host = host.trim_end_matches('.');
    assert!(names.iter().all(|name| name.starts_with(host)), "{host:?}: {names:?}");
}
