//! Which name server is asked when, and for which of the names that a host may mean.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    time::Instant,
};

use super::{
    exchange::{Asked, SECOND_WAIT, ask},
    message::{Answer, Kind, Question},
    settings::{MAX_SERVERS, Settings},
};
use crate::base::deadline::Deadline;

#[derive(Debug)]
pub enum Error {
    NotFound,
    Timeout,
    /// Name servers can't be asked, or answer that they can't tell.
    Unavailable(io::Error),
}

/// Experience with the name servers, by their numbers in the settings.
#[derive(Debug)]
pub struct Memory {
    /// The server that gave an address last is asked first, so that a dead one does not delay each lookup.
    pub first: AtomicUsize,
    /// Those that do not know EDNS.
    is_plain: [AtomicBool; MAX_SERVERS],
}

impl Memory {
    pub const fn new() -> Self {
        Self {
            first: AtomicUsize::new(0),
            is_plain: [const { AtomicBool::new(false) }; MAX_SERVERS],
        }
    }
}

impl Settings {
    /// The addresses of `host`. If the server that is asked first is not the first of all and does not
    /// know the name, those before it may.
    pub fn find(
        &self,
        host: &str,
        memory: &Memory,
        deadline: Deadline,
    ) -> Result<Vec<IpAddr>, Error> {
        let is_in_order = self.rotates || memory.first.load(Relaxed) == 0;
        let found = self.find_from_first(host, memory, deadline);
        if found.is_ok() || is_in_order {
            return found;
        }
        memory.first.store(0, Relaxed);
        match found {
            Err(Error::NotFound) => self.find_from_first(host, memory, deadline),
            found => found,
        }
    }

    /// The addresses of the first name that has any.
    fn find_from_first(
        &self,
        host: &str,
        memory: &Memory,
        deadline: Deadline,
    ) -> Result<Vec<IpAddr>, Error> {
        let mut failure = Error::NotFound;
        for name in self.names(host) {
            match self.addresses(&name, memory, deadline) {
                Ok(found) if found.is_empty() => {}
                // Servers that are silent now are so a moment later.
                found @ (Ok(_) | Err(Error::Timeout)) => return found,
                Err(e) => failure = e,
            }
        }
        Err(failure)
    }

    /// The addresses of `name`, from the first server that can tell; none if it has none. [`Error::Timeout`]
    /// only if no server says anything.
    fn addresses(
        &self,
        name: &str,
        memory: &Memory,
        mut deadline: Deadline,
    ) -> Result<Vec<IpAddr>, Error> {
        let count = self.servers.len();
        let begin = match self.rotates {
            true => random::<1>()?[0].into(),
            false => memory.first.load(Relaxed),
        };
        let mut kinds = vec![Kind::Four, Kind::Six];
        let mut failure = Error::Timeout;
        let mut tries_left = self.attempts * count as u32;
        for number in
            (begin..begin + count).map(|number| number % count).cycle().take(tries_left as usize)
        {
            let server = self.servers[number];
            let left = deadline.remaining(Instant::now());
            if left.is_zero() {
                break;
            }
            // One that is silent must not use up the time of the others.
            let wait = (left / tries_left).min(self.timeout);
            tries_left -= 1;
            let Some(mut asked) = questions(name, &kinds)? else {
                return Ok(Vec::new());
            };
            let at_once = if self.is_one_by_one { 1 } else { asked.len() };
            for asked in asked.chunks_mut(at_once) {
                let by = Deadline::after(Instant::now(), wait);
                ask(server, asked, self.uses_tcp, &memory.is_plain[number], by);
                if asked.iter().any(Asked::is_denied) {
                    break;
                }
            }

            let is_denied = asked.iter().any(Asked::is_denied);
            let mut found = Vec::new();
            for Asked { question, answer } in asked {
                match answer {
                    Some(Ok(Answer::Addresses(addresses))) => {
                        kinds.retain(|kind| *kind != question.kind);
                        found.extend(addresses);
                    }
                    Some(Ok(Answer::NoSuchName)) => kinds.retain(|kind| *kind != question.kind),
                    Some(Ok(Answer::Failed(code))) => {
                        let why = format!("the name server says error {code}");
                        failure = unavailable(server, &why);
                    }
                    Some(Err(e)) => failure = unavailable(server, &e),
                    Some(Ok(Answer::CutOff)) | None => {}
                }
            }
            if !found.is_empty() {
                memory.first.store(number, Relaxed);
            }
            if !found.is_empty() || is_denied || kinds.is_empty() {
                return Ok(found);
            }
            if let [kind] = kinds[..] {
                deadline = deadline.min(Deadline::after(Instant::now(), SECOND_WAIT));
                if matches!(failure, Error::Timeout) {
                    let why = format!("no answer for {} addresses", kind.name());
                    failure = unavailable(server, &why);
                }
            }
        }
        Err(failure)
    }
}

/// The questions for these addresses of `name`; `None` if there can be no such name.
fn questions(name: &str, kinds: &[Kind]) -> Result<Option<Vec<Asked>>, Error> {
    let mut asked = Vec::new();
    for kind in kinds {
        let Some(question) = Question::new(random()?, name, *kind) else {
            return Ok(None);
        };
        asked.push(Asked { question, answer: None });
    }
    Ok(Some(asked))
}

fn unavailable(server: SocketAddr, why: &dyn fmt::Display) -> Error {
    Error::Unavailable(io::Error::other(format!("{}: {why}", server.ip())))
}

fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| Error::Unavailable(e.into()))?;
    Ok(bytes)
}
