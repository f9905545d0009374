//! Questions to name servers and their answers, as bytes (RFC 1035, EDNS of RFC 6891). Knows nothing
//! of sockets.

use std::{io, net::IpAddr};

/// The most bytes of an answer over UDP: what crosses any network in one piece.
pub const MAX_DATAGRAM: usize = 1232;

/// Size of the head of a message, in bytes.
pub const HEAD: usize = 12;

/// The record that announces [`MAX_DATAGRAM`]: no name, type OPT, the size, version and flags 0, no
/// data.
#[rustfmt::skip]
const EDNS: [u8; 11] = [
    0, 0, OPT as u8, (MAX_DATAGRAM >> 8) as u8, MAX_DATAGRAM as u8, 0, 0, 0, 0, 0, 0,
];
const OPT: u16 = 41;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// IPv4 addresses, `A`.
    Four = 1,
    /// IPv6 addresses, `AAAA`.
    Six = 28,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Four => "IPv4",
            Self::Six => "IPv6",
        }
    }
}

#[derive(Debug)]
pub struct Question {
    pub kind: Kind,
    message: Vec<u8>,
}

#[derive(Debug)]
pub enum Answer {
    Addresses(Vec<IpAddr>),
    NoSuchName,
    /// They do not fit into a datagram.
    CutOff,
    /// It can't tell, for the reason of this code.
    Failed(u8),
}

impl Question {
    /// The question with this number; `None` if there can be no such name.
    pub fn new(id: [u8; 2], name: &str, kind: Kind) -> Option<Self> {
        let mut message = id.to_vec();
        message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]); // recursion is desired; one question
        for label in name.split('.') {
            let length = u8::try_from(label.len()).ok()?;
            if !(1..=63).contains(&length) {
                return None;
            }
            message.push(length);
            message.extend(label.bytes());
        }
        message.push(0);
        message.extend((kind as u16).to_be_bytes());
        message.extend([0, 1]); // class IN
        (message.len() - HEAD - 4 <= 255).then_some(Self { kind, message })
    }

    pub fn plain(&self) -> &[u8] {
        &self.message
    }

    /// The message that asks it, and allows a longer answer than the 512 bytes of RFC 1035.
    pub fn with_edns(&self) -> Vec<u8> {
        let mut message = [self.message.as_slice(), &EDNS].concat();
        message[HEAD - 1] = 1; // one additional record
        message
    }

    /// The answer in `message`, and whether its sender knows EDNS; `None` if it answers something else.
    ///
    /// A recursive name server follows aliases itself, so all addresses in its answer belong to the name
    /// that was asked for.
    pub fn read(&self, message: &[u8]) -> Option<(io::Result<Answer>, bool)> {
        let head = message.get(..HEAD)?;
        let code = head[3] & 15;
        if head[..2] != self.message[..2] || head[2] & 0x80 == 0 {
            return None;
        }
        let count = |at: usize| usize::from(u16::from_be_bytes([head[at], head[at + 1]]));
        let (questions, answers, others) = (count(4), count(6), count(8) + count(10));
        // A server that can't read the question can't repeat it.
        if questions == 0 && ![0, 3].contains(&code) {
            return Some((Ok(Answer::Failed(code)), false));
        }
        let (question, rest) = message.split_at_checked(self.message.len())?;
        if questions != 1 || !question[HEAD..].eq_ignore_ascii_case(&self.message[HEAD..]) {
            return None;
        }
        let records: Vec<_> = records(rest).take(answers + others).collect();
        // A server that does not know the record may send it back with the question.
        let knows_edns = code != 1 && records.iter().any(|(kind, _)| *kind == OPT);
        let answer = match code {
            _ if head[2] & 2 != 0 => Ok(Answer::CutOff),
            0 if records.len() < answers => Err(malformed()),
            0 => Ok(Answer::Addresses(
                records[..answers].iter().filter_map(|(kind, data)| address(*kind, data)).collect(),
            )),
            3 => Ok(Answer::NoSuchName),
            code => Ok(Answer::Failed(code)),
        };
        Some((answer, knows_edns))
    }
}

/// Type and data of each record that `rest` holds, up to one that is malformed.
fn records(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || record(&mut rest))
}

/// Type and data of the record that `rest` begins with; `rest` is then what follows it.
fn record<'a>(rest: &mut &'a [u8]) -> Option<(u16, &'a [u8])> {
    let mut take = |count: usize| {
        let (taken, left) = rest.split_at_checked(count)?;
        *rest = left;
        Some(taken)
    };
    loop {
        match take(1)?[0] {
            0 => break,
            pointer if pointer >= 0xc0 => {
                take(1)?;
                break;
            }
            length => take(length.into())?,
        };
    }
    let head = take(10)?;
    let data = take(u16::from_be_bytes([head[8], head[9]]).into())?;
    Some((u16::from_be_bytes([head[0], head[1]]), data))
}

fn address(kind: u16, data: &[u8]) -> Option<IpAddr> {
    match kind {
        kind if kind == Kind::Four as u16 => Some(<[u8; 4]>::try_from(data).ok()?.into()),
        kind if kind == Kind::Six as u16 => Some(<[u8; 16]>::try_from(data).ok()?.into()),
        _ => None,
    }
}

pub fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the name server's answer is malformed")
}
