//! Asks one name server several questions at the same time, over UDP or TCP. Knows nothing of other
//! name servers and of search lists.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use super::message::{Answer, Kind, MAX_DATAGRAM, Question, malformed};
use crate::base::deadline::Deadline;

/// How long to wait for the second answer after the first: some servers ignore questions for IPv6.
pub const SECOND_WAIT: Duration = Duration::from_secs(1);

pub struct Asked {
    pub question: Question,
    pub answer: Option<io::Result<Answer>>,
}

impl Asked {
    /// Whether there is no such name. The answer about IPv6 addresses does not count, since some servers
    /// deny names that have IPv4 ones only (RFC 4074).
    pub fn is_denied(&self) -> bool {
        self.question.kind == Kind::Four && matches!(self.answer, Some(Ok(Answer::NoSuchName)))
    }
}

/// Asks `server`. What has no answer afterwards got none in time.
///
/// `is_plain` says that the server does not know EDNS. It is set when the server shows that.
pub fn ask(
    server: SocketAddr,
    asked: &mut [Asked],
    uses_tcp: bool,
    is_plain: &AtomicBool,
    by: Deadline,
) {
    let mut result = match uses_tcp {
        true => Ok(()),
        false => over_udp(server, asked, is_plain, by),
    };
    let mut long: Vec<_> = asked
        .iter_mut()
        .filter(|asked| uses_tcp || matches!(asked.answer, Some(Ok(Answer::CutOff))))
        .collect();
    if !long.is_empty() {
        result = over_tcp(server, &mut long, by);
    }
    let Err(e) = result else { return };
    if !is_timeout(&e) {
        for asked in asked.iter_mut().filter(|asked| asked.answer.is_none()) {
            asked.answer = Some(Err(io::Error::new(e.kind(), e.to_string())));
        }
    }
}

fn is_done<'a>(mut asked: impl Iterator<Item = &'a Asked> + Clone) -> bool {
    asked.clone().any(Asked::is_denied) || asked.all(|asked| asked.answer.is_some())
}

/// `by`, or sooner if there is an answer already.
fn patience<'a>(by: Deadline, mut asked: impl Iterator<Item = &'a Asked>) -> Deadline {
    let says_something =
        |asked: &Asked| matches!(&asked.answer, Some(Ok(a)) if !matches!(a, Answer::Failed(_)));
    match asked.any(says_something) {
        true => by.min(Deadline::after(Instant::now(), SECOND_WAIT)),
        false => by,
    }
}

struct Datagram<'a> {
    asked: &'a mut Asked,
    socket: UdpSocket,
    has_edns: bool,
}

/// A UDP socket that is connected to `address`. Nothing is sent.
pub fn connected(address: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(address)?;
    Ok(socket)
}

fn over_udp(
    server: SocketAddr,
    asked: &mut [Asked],
    is_plain: &AtomicBool,
    mut by: Deadline,
) -> io::Result<()> {
    let mut datagrams = Vec::new();
    for asked in asked {
        datagrams.push(Datagram::send(server, asked, !is_plain.load(Relaxed))?);
    }
    // Networks lose datagrams; some firewalls and servers drop those with EDNS.
    let start = Instant::now();
    let again = Deadline::after(start, by.remaining(start) / 2);
    while !is_done(datagrams.iter().map(|datagram| &*datagram.asked)) {
        let now = Instant::now();
        if by.has_passed(now) {
            return Ok(());
        }
        let mut until = by;
        let mut ready = Vec::new();
        for datagram in &mut datagrams {
            if datagram.asked.answer.is_some() {
                continue;
            }
            if datagram.has_edns && again.has_passed(now) {
                datagram.send_plain()?;
            }
            if datagram.has_edns {
                until = by.min(again);
            }
            ready.push(PollFd::new(&datagram.socket, PollFlags::IN));
        }
        let wait = Timespec::try_from(until.remaining(now)).map_err(io::Error::other)?;
        match poll(&mut ready, Some(&wait)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        drop(ready);
        for datagram in &mut datagrams {
            datagram.receive(is_plain);
        }
        by = patience(by, datagrams.iter().map(|datagram| &*datagram.asked));
    }
    Ok(())
}

impl<'a> Datagram<'a> {
    /// Uses a connected socket with a random port for each question: other hosts can't answer, and routers
    /// don't confuse two questions.
    fn send(server: SocketAddr, asked: &'a mut Asked, has_edns: bool) -> io::Result<Self> {
        let socket = connected(server)?;
        socket.set_nonblocking(true)?;
        match has_edns {
            true => socket.send(&asked.question.with_edns())?,
            false => socket.send(asked.question.plain())?,
        };
        Ok(Self { asked, socket, has_edns })
    }

    fn send_plain(&mut self) -> io::Result<()> {
        self.has_edns = false;
        self.socket.send(self.asked.question.plain()).map(drop)
    }

    fn receive(&mut self, is_plain: &AtomicBool) {
        let mut message = [0; MAX_DATAGRAM];
        while self.asked.answer.is_none() {
            let length = match self.socket.recv(&mut message) {
                Ok(length) => length,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return self.asked.answer = Some(Err(e)),
            };
            let Some((answer, knows_edns)) = self.asked.question.read(&message[..length]) else {
                continue;
            };
            if !knows_edns {
                is_plain.store(true, Relaxed);
            }
            // It may fail at EDNS alone (RFC 6891 7).
            let may_know = self.has_edns && !knows_edns && matches!(answer, Ok(Answer::Failed(_)));
            self.asked.answer = match may_know {
                true => self.send_plain().err().map(Err),
                false => Some(answer),
            };
        }
    }
}

fn over_tcp(server: SocketAddr, asked: &mut [&mut Asked], by: Deadline) -> io::Result<()> {
    for asked in &mut *asked {
        asked.answer = None;
    }
    let mut at_once = asked.len();
    while !is_done(asked.iter().map(|asked| &**asked)) {
        let mut open: Vec<_> = asked
            .iter_mut()
            .map(|asked| &mut **asked)
            .filter(|asked| asked.answer.is_none())
            .take(at_once)
            .collect();
        match converse(server, &mut open, by) {
            // Some servers take one question from a connection.
            Err(e) if at_once > 1 && !is_timeout(&e) => at_once = 1,
            result => result?,
        }
    }
    Ok(())
}

fn converse(server: SocketAddr, asked: &mut [&mut Asked], mut by: Deadline) -> io::Result<()> {
    let stream = TcpStream::connect_timeout(&server, left(by)?)?;
    stream.set_write_timeout(Some(left(by)?))?;
    let mut messages = Vec::new();
    for asked in &*asked {
        let message = asked.question.plain();
        let length = u16::try_from(message.len()).expect("a name has 255 bytes at most");
        messages.extend_from_slice(&length.to_be_bytes());
        messages.extend_from_slice(message);
    }
    (&stream).write_all(&messages)?;
    while !is_done(asked.iter().map(|asked| &**asked)) {
        let message = receive(&stream, by)?;
        let (asked_for, answer) = asked
            .iter_mut()
            .filter(|asked| asked.answer.is_none())
            .find_map(|asked| {
                let (answer, _) = asked.question.read(&message)?;
                Some((asked, answer))
            })
            .ok_or_else(malformed)?;
        asked_for.answer = Some(match answer {
            Ok(Answer::CutOff) => Err(malformed()),
            answer => answer,
        });
        by = patience(by, asked.iter().map(|asked| &**asked));
    }
    Ok(())
}

/// One message. The time is for all of it, not for each byte.
fn receive(mut stream: &TcpStream, by: Deadline) -> io::Result<Vec<u8>> {
    let mut read = |mut buffer: &mut [u8]| {
        while !buffer.is_empty() {
            stream.set_read_timeout(Some(left(by)?))?;
            match stream.read(buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => buffer = &mut buffer[count..],
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    };
    let mut length = [0; 2];
    read(&mut length)?;
    let mut message = vec![0; u16::from_be_bytes(length).into()];
    read(&mut message)?;
    Ok(message)
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn left(by: Deadline) -> io::Result<Duration> {
    match by.remaining(Instant::now()) {
        Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
        left => Ok(left),
    }
}
