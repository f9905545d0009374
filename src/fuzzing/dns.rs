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
    let (choice, id) = (cursor.byte(), [1, 2]);
    if choice & 3 == 3 {
        return settings(&String::from_utf8_lossy(cursor.0));
    }
    let name = cursor.text();
    let kind = if choice & 4 == 0 { Kind::Four } else { Kind::Six };
    let Some(question) = Question::new(id, &name, kind) else { return };
    let asked = question.plain();
    assert!(asked.len() <= 12 + 255 + 4, "a name of more than 255 bytes");
    assert!(question.with_edns().starts_with(&asked[..11]));
    let message = match choice & 3 {
        0 => cursor.0.to_vec(),
        _ => {
            let mut message = asked.to_vec();
            message[2] = cursor.byte() | 0x80;
            message[3] = cursor.byte();
            message[7] = cursor.byte() % 8;
            message[11] = cursor.byte() % 4;
            message.extend_from_slice(cursor.0);
            message
        }
    };
    let Some((answer, _)) = question.read(&message) else { return };
    assert_eq!(id, message[..2], "the answer to another question");
    if let Ok(Answer::Addresses(addresses)) = answer {
        let wanted = addresses_in(
            &message[asked.len()..],
            usize::from(message[7]) + usize::from(message[6]) * 256,
        );
        assert_eq!(wanted, Some(addresses));
        assert_eq!(0, message[3] & 15, "addresses in an answer that failed");
    }
}

/// The addresses in the first `count` records; `None` if there are fewer.
fn addresses_in(bytes: &[u8], count: usize) -> Option<Vec<IpAddr>> {
    let (mut at, mut found) = (0, Vec::new());
    for _ in 0..count {
        while *bytes.get(at)? != 0 && bytes[at] < 0xc0 {
            at += usize::from(bytes[at]) + 1;
        }
        at += if bytes[at] == 0 { 1 } else { 2 };
        let head = bytes.get(at..at + 10)?;
        let length = usize::from(head[8]) * 256 + usize::from(head[9]);
        let data = bytes.get(at + 10..at + 10 + length)?;
        match (head[0], head[1], length) {
            (0, 1, 4) => found.extend(<[u8; 4]>::try_from(data).map(IpAddr::from)),
            (0, 28, 16) => found.extend(<[u8; 16]>::try_from(data).map(IpAddr::from)),
            _ => {}
        }
        at += 10 + length;
    }
    Some(found)
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
