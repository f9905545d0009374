//! Clients of HTTP/1.1 and HTTP/2 that send in pieces, stall, reset streams and vanish.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use base64::Engine as _;

use super::{
    identities::client_of,
    model::{SLACK, Shared},
    sent::{Sealed, Sent, What},
};
use crate::{
    base::sync::{
        thread,
        world::{self, ensure},
    },
    crypto::{BASE64, MasterKey, stored},
    io::{door::Door, memory::Pair},
};

/// A request that waits for the key store is answered after this time, whatever happens: the timeout of its route,
/// the next round of the sweeper, and the wait for its audit line.
const LONGEST: Duration = Duration::from_secs(15 + 1 + 3);
/// A stream that was reset is dropped within this time.
const RESET: Duration = Duration::from_secs(1);
const NAMES: [&str; 2] = ["a", "b"];

const HEADERS: u8 = 1;
const DATA: u8 = 0;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
/// The server has not looked at the request, for want of memory.
const REFUSED: [u8; 4] = [0, 0, 0, 7];
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

pub struct Client {
    pub model: Shared,
    pub door: Arc<Door>,
    /// The number of its connection.
    pub connection: u32,
    /// Connections, and requests on each.
    pub rounds: u64,
    pub requests: u64,
}

/// A connection of a client.
struct Wire {
    pair: Arc<Pair>,
    received: Vec<u8>,
    is_end: bool,
    /// All answers find room on the way, so that the server always reads on.
    is_roomy: bool,
}

impl Wire {
    /// Says when the first of them were on their way.
    fn send(&mut self, bytes: &[u8]) -> Duration {
        let (mut rest, mut begun) = (bytes, None);
        while !rest.is_empty() {
            let count = match world::below(4) {
                0 => 1 + world::below(rest.len() as u64) as usize,
                _ => rest.len(),
            };
            self.pair.send(&rest[..count]);
            begun.get_or_insert_with(world::elapsed);
            rest = &rest[count..];
            if !rest.is_empty() && world::one_in(3) {
                thread::sleep(Duration::from_millis(world::below(400)));
            }
        }
        begun.unwrap_or_else(world::elapsed)
    }

    /// More bytes have come, or it is the end; `false` if nothing comes in this time.
    fn receive(&mut self, timeout: Duration) -> bool {
        let (bytes, is_end) = self.pair.receive(timeout);
        self.received.extend_from_slice(&bytes);
        self.is_end |= is_end;
        is_end || !bytes.is_empty()
    }
}

impl Client {
    pub fn run(mut self) {
        for _ in 0..self.rounds {
            thread::sleep(Duration::from_millis(world::below(2000)));
            if self.model.is_ending() {
                return;
            }
            let room = [200, 4096, 1 << 20][world::below(3) as usize];
            let speaks_http2 = world::one_in(2);
            let Ok((pair, number)) = self.door.enter(room, speaks_http2) else { return };
            self.connection = number;
            let wire = Wire { pair, received: Vec::new(), is_end: false, is_roomy: room > 4096 };
            world::note(|| format!("connection {} http2 {speaks_http2}", self.connection));
            match speaks_http2 {
                true => self.talk_two(wire),
                false => self.talk_one(wire),
            }
        }
    }

    fn choose(&self) -> (Sent, Vec<u8>) {
        let mut what = match world::below(14) {
            0 | 1 => What::Create,
            2 | 3 => What::Import,
            4 | 5 => What::Delete,
            6..=8 => What::Generate,
            9 => What::Encrypt,
            10 | 11 => What::Decrypt,
            12 => What::Describe,
            _ => What::List,
        };
        let name = NAMES[world::below(2) as usize].to_owned();
        let sealed = (what == What::Decrypt).then(|| self.model.sealed(&name)).flatten();
        if what == What::Decrypt && sealed.is_none() {
            what = What::Encrypt;
        }
        let mut bytes = [0; 32];
        bytes.iter_mut().for_each(|byte| *byte = world::below(256) as u8);
        let text = BASE64.encode(bytes);
        let key = MasterKey::from_bytes(&bytes).expect("it has 32 bytes");
        let value = (what == What::Import).then(|| stored::encode(&key));
        value.iter().for_each(|value| self.model.import(value));
        let sealed = sealed.unwrap_or_else(|| Sealed { plaintext: text.clone(), ..<_>::default() });
        let body = match what {
            What::Import => format!("{{\"bytes\":\"{text}\"}}"),
            What::Encrypt => format!("{{\"plaintext\":\"{text}\"}}"),
            What::Decrypt => format!("{{\"ciphertext\":\"{}\"}}", sealed.ciphertext),
            What::Generate => "{}".to_owned(),
            _ => String::new(),
        };
        let (at, client) = (world::elapsed(), client_of(self.connection));
        let sent = Sent { what, name, client, value, sealed, at, begun: at, whole: at };
        (sent, body.into_bytes())
    }

    fn check(&self, sent: &Sent, status: u16, body: &[u8]) {
        world::note(|| format!("answer to {:?} {}: {status}", sent.what, sent.name));
        self.model.check(sent, status, body);
    }

    /// The time in which an answer must come; the server has no more than its end.
    fn left(&self, sent: &Sent) -> Duration {
        (sent.whole + LONGEST + SLACK).saturating_sub(world::elapsed())
    }

    fn is_late(&self, sent: &Sent) {
        let waited = world::elapsed() - sent.whole;
        ensure!(
            self.model.is_cut_off(),
            "{:?} {} has no answer after {waited:?}: its deadline has passed",
            sent.what,
            sent.name
        );
    }

    fn talk_one(&self, mut wire: Wire) {
        for number in 0..self.requests {
            if world::one_in(3) {
                thread::sleep(Duration::from_millis(world::below(3000)));
            }
            let (mut sent, body) = self.choose();
            let path = sent.what.path(&sent.name);
            let (method, length) = (sent.what.method(), body.len());
            let head = format!(
                "{method} {path}?{number} HTTP/1.1\r\nHost: kes\r\nContent-Length: {length}\r\n\r\n"
            );
            world::note(|| format!("sends {:?} {}", sent.what, sent.name));
            sent.begun = wire.send(head.as_bytes());
            if world::one_in(12) {
                // In the middle of it, or before the answer.
                if world::one_in(2) {
                    wire.send(&body);
                }
                return self.leave(&wire);
            }
            wire.send(&body);
            sent.whole = world::elapsed();
            let is_last = world::one_in(20);
            if is_last {
                wire.pair.finish();
            }
            loop {
                if let Some((status, body, used)) = answer_of(&wire.received) {
                    self.check(&sent, status, &body);
                    wire.received.drain(..used);
                    if is_last {
                        return;
                    }
                    break;
                }
                if wire.is_end {
                    let may_close = self.model.may_close(&sent);
                    ensure!(may_close, "the server closes without an answer to {path}");
                    return;
                }
                let left = self.left(&sent);
                if left.is_zero() || !wire.receive(left) {
                    self.is_late(&sent);
                    return;
                }
            }
        }
        if world::one_in(2) {
            wire.pair.finish();
        } else {
            wire.pair.vanish();
        }
    }

    /// The client is gone: nothing of its requests but changes of keys may stay.
    fn leave(&self, wire: &Wire) {
        world::note(|| "vanishes".to_owned());
        wire.pair.vanish();
    }

    fn talk_two(&self, mut wire: Wire) {
        wire.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
        let mut open: BTreeMap<u32, (Sent, Option<u16>, Vec<u8>)> = BTreeMap::new();
        let mut resets: Vec<(u32, Duration)> = Vec::new();
        let mut number = 0;
        let mut is_goaway = false;
        loop {
            let now = world::elapsed();
            resets.retain(|(number, at)| {
                let is_due = now > *at + RESET;
                if is_due {
                    self.model.check_dropped(self.connection, *number);
                }
                !is_due
            });
            if u64::from(number) < self.requests && !is_goaway && open.len() < 4 {
                let id = 2 * number + 1;
                let (mut sent, body) = self.choose();
                number += 1;
                let flags = if body.is_empty() { END_HEADERS | END_STREAM } else { END_HEADERS };
                world::note(|| format!("sends {:?} {} on stream {id}", sent.what, sent.name));
                sent.begun = wire.send(&frame(HEADERS, flags, id, &fields(&sent, number - 1)));
                let is_reset = world::one_in(6);
                let half = body.len() / 2;
                if !body.is_empty() {
                    wire.send(&frame(DATA, 0, id, &body[..half]));
                    if world::one_in(4) {
                        thread::sleep(Duration::from_millis(world::below(2000)));
                    }
                    // One that is reset has only begun, now and then.
                    if !is_reset || world::one_in(2) {
                        wire.send(&frame(DATA, END_STREAM, id, &body[half..]));
                    }
                }
                sent.whole = world::elapsed();
                if is_reset {
                    world::note(|| format!("resets stream {id}"));
                    wire.send(&frame(RST_STREAM, 0, id, &[0, 0, 0, 8]));
                    if wire.is_roomy && (!sent.what.is_change() || !body.is_empty()) {
                        resets.push((number - 1, world::elapsed()));
                    }
                } else {
                    open.insert(id, (sent, None, Vec::new()));
                }
                if world::one_in(3) {
                    continue;
                }
            } else if open.is_empty() && resets.is_empty() {
                break;
            }
            if world::one_in(60) {
                return self.leave(&wire);
            }
            let due = open.values().map(|(sent, ..)| self.left(sent)).min();
            let wait = match resets.first() {
                Some((_, at)) => (*at + RESET + Duration::from_millis(1)).saturating_sub(now),
                None => due.unwrap_or_default(),
            };
            let wait = match u64::from(number) < self.requests && open.len() < 4 && !is_goaway {
                true => wait.min(Duration::from_millis(500)),
                false => wait,
            };
            wire.receive(wait);
            is_goaway |= self.take_frames(&mut wire, &mut open);
            if wire.is_end {
                let is_owed = |(sent, ..): &&(Sent, _, _)| !self.model.may_close(sent);
                let owed = open.values().filter(is_owed).count();
                ensure!(owed == 0, "the server closes without an answer to {owed} requests");
                return;
            }
            if let Some((sent, ..)) = open.values().find(|(sent, ..)| self.left(sent).is_zero()) {
                return self.is_late(sent);
            }
        }
        wire.pair.finish();
    }

    /// Looks at the frames that have come. `true` if the server ends the connection.
    fn take_frames(
        &self,
        wire: &mut Wire,
        open: &mut BTreeMap<u32, (Sent, Option<u16>, Vec<u8>)>,
    ) -> bool {
        let mut is_goaway = false;
        while let [a, b, c, kind, flags, i, j, k, l, rest @ ..] = &*wire.received {
            let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            if rest.len() < length {
                break;
            }
            let (kind, flags) = (*kind, *flags);
            let id = u32::from_be_bytes([*i, *j, *k, *l]);
            let payload = rest[..length].to_vec();
            wire.received.drain(..9 + length);
            match (kind, open.get_mut(&id)) {
                (GOAWAY, _) => {
                    is_goaway = true;
                    let last = u32::from_be_bytes([payload[0], payload[1], payload[2], payload[3]]);
                    for id in open.split_off(&(last + 1)).into_keys() {
                        self.model.check_not_begun(self.connection, (id - 1) / 2);
                    }
                }
                (SETTINGS, _) if flags == 0 => drop(wire.send(&frame(SETTINGS, 1, 0, &[]))),
                (HEADERS, Some((_, status @ None, _))) => *status = Some(status_of(&payload)),
                (DATA, Some((_, _, body))) => body.extend_from_slice(&payload),
                (RST_STREAM, Some((sent, ..))) => {
                    ensure!(payload == REFUSED, "the server resets {:?} {}", sent.what, sent.name);
                    self.model.check_not_begun(self.connection, (id - 1) / 2);
                    open.remove(&id);
                    continue;
                }
                _ => {}
            }
            if flags & END_STREAM != 0
                && (kind == HEADERS || kind == DATA)
                && let Some((sent, status, body)) = open.remove(&id)
            {
                self.check(&sent, status.unwrap_or_default(), &body);
            }
        }
        is_goaway
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// Fields that refer to the static table only.
fn fields(sent: &Sent, number: u32) -> Vec<u8> {
    let path = format!("{}?{number}", sent.what.path(&sent.name));
    let mut fields = vec![0x87];
    for (index, text) in [(1, "kes"), (2, sent.what.method()), (4, &path)] {
        fields.extend([index, text.len() as u8]);
        fields.extend_from_slice(text.as_bytes());
    }
    fields
}

fn status_of(block: &[u8]) -> u16 {
    match block {
        [0x88, ..] => 200,
        [0x8C, ..] => 400,
        [0x8D, ..] => 404,
        [0x8E, ..] => 500,
        [0x08, 3, digits @ ..] => {
            std::str::from_utf8(&digits[..3]).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
        }
        _ => 0,
    }
}

/// The status and the body of a whole answer of HTTP/1.1, and its length.
fn answer_of(bytes: &[u8]) -> Option<(u16, Vec<u8>, usize)> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&bytes[..end]).ok()?.to_ascii_lowercase();
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let field = |name: &str| {
        let line = head.lines().find_map(|line| line.strip_prefix(name));
        line.map(str::trim)
    };
    if let Some(length) = field("content-length:") {
        let length: usize = length.parse().ok()?;
        let body = bytes.get(end..end + length)?;
        return Some((status, body.to_vec(), end + length));
    }
    // In chunks, perhaps with trailers.
    let (mut at, mut body) = (end, Vec::new());
    loop {
        let rest = bytes.get(at..)?;
        let line = rest.windows(2).position(|window| window == b"\r\n")?;
        let size = std::str::from_utf8(&rest[..line]).ok()?;
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        at += line + 2;
        if size == 0 {
            let rest = bytes.get(at..)?;
            if rest.starts_with(b"\r\n") {
                return Some((status, body, at + 2));
            }
            let end = rest.windows(4).position(|window| window == b"\r\n\r\n")?;
            return Some((status, body, at + end + 4));
        }
        body.extend_from_slice(bytes.get(at..at + size)?);
        at += size + 2;
        bytes.get(at - 1)?;
    }
}
