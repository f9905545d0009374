//! Looks up the addresses of a host name: in the hosts file, then with DNS (RFC 1035).
//!
//! The C library's lookup is no good in a static program: it would load more of itself at run time,
//! in exactly its own version, wait for as long as it likes, and is 120 KB. This one reads the same
//! two files, `/etc/hosts` and `/etc/resolv.conf`, and keeps to a deadline. It asks for no proof: who
//! answers proves in TLS who it is. Knows nothing of what the addresses
//! are for.

#[cfg(test)]
mod tests;

use std::{
    fs,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::{Duration, Instant},
};

use ureq::{
    Timeout,
    config::Config,
    http::Uri,
    unversioned::{resolver::ResolvedSocketAddrs, transport::NextTimeout},
};

use crate::deadline::Deadline;

/// Types of records: an IPv4 and an IPv6 address.
const KINDS: [u16; 2] = [1, 28];

/// Size of the head of a message, in bytes.
const HEAD: usize = 12;

/// The most bytes that an answer over UDP has.
const MAX_DATAGRAM: usize = 512;

/// The most name servers that are asked, as in the C library, and the most domains that are tried, as
/// in Kubernetes.
const MAX_SERVERS: usize = 3;
const MAX_DOMAINS: usize = 32;

/// How long to wait for addresses of one kind when there are some of the other.
const SECOND_WAIT: Duration = Duration::from_secs(1);

/// The longest lookup without a deadline.
const LONGEST: Duration = Duration::from_secs(60);

/// The most addresses that the HTTP client tries.
const MAX_ADDRESSES: usize = 16;

/// The name server that told an address last, of the system's.
static LAST: AtomicUsize = AtomicUsize::new(0);

/// Why there is no address.
#[derive(Debug)]
pub enum Error {
    /// There is no host of this name.
    NotFound,
    /// No name server told in time.
    Timeout,
    /// Name servers can't be asked, or answer that they can't tell.
    Unavailable(io::Error),
}

/// Where names are looked up.
#[derive(Clone, Debug)]
pub struct Resolver {
    hosts: PathBuf,
    settings: PathBuf,
    /// The port of name servers.
    port: u16,
    /// The number of the name server to begin with. One that is dead costs its time once, not with each
    /// lookup.
    first: &'static AtomicUsize,
}

impl Default for Resolver {
    fn default() -> Self {
        Self {
            hosts: "/etc/hosts".into(),
            settings: "/etc/resolv.conf".into(),
            port: 53,
            first: &LAST,
        }
    }
}

impl Resolver {
    /// The addresses of `host`, a name or an address, those that can be reached first. At least one.
    ///
    /// # Errors
    /// [`Error`] says why there is none.
    pub fn lookup(&self, host: &str, deadline: Deadline) -> Result<Vec<IpAddr>, Error> {
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        if let Ok(address) = bare.unwrap_or(host).parse() {
            return Ok(vec![address]);
        }
        let mut found = in_hosts(&text(&self.hosts), host);
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        if found.is_empty() && (name == "localhost" || name.ends_with(".localhost")) {
            found = vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()]; // RFC 6761 6.3
        }
        if found.is_empty() {
            found = Settings::parse(&text(&self.settings), self.port)
                .ask(host, self.first, deadline)?;
        }
        // In the order of RFC 6724, as far as it matters: what no route leads to comes last.
        let (near, far): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|address| has_route(*address));
        let in_order = |addresses: Vec<IpAddr>| {
            let (six, four): (Vec<_>, Vec<_>) = addresses.into_iter().partition(IpAddr::is_ipv6);
            [six, four]
        };
        Ok([in_order(near), in_order(far)].concat().concat())
    }
}

impl ureq::unversioned::resolver::Resolver for Resolver {
    fn resolve(
        &self,
        uri: &Uri,
        _: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().ok_or(ureq::Error::HostNotFound)?;
        let port = uri.port_u16().unwrap_or(match uri.scheme_str() {
            Some("http") => 80,
            _ => 443,
        });
        let deadline = Deadline::after(Instant::now(), LONGEST.min(*timeout.after));
        let addresses = self.lookup(host, deadline).map_err(|e| match e {
            Error::NotFound => ureq::Error::HostNotFound,
            Error::Timeout => ureq::Error::Timeout(Timeout::Resolve),
            // Of another kind, lest a name server that refuses is taken for a host that does.
            Error::Unavailable(e) => {
                let why = format!("the host name can't be looked up with DNS: {e}");
                ureq::Error::Io(io::Error::other(why))
            }
        })?;
        let mut found = self.empty();
        for address in addresses.into_iter().take(MAX_ADDRESSES) {
            found.push(SocketAddr::new(address, port));
        }
        Ok(found)
    }
}

/// The text of a file; none if it can't be read. A comment in another encoding hides nothing.
fn text(file: &Path) -> String {
    String::from_utf8_lossy(&fs::read(file).unwrap_or_default()).into_owned()
}

/// The addresses of `host` in the text of a hosts file.
fn in_hosts(text: &str, host: &str) -> Vec<IpAddr> {
    let host = host.trim_end_matches('.');
    let mut found = Vec::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or("").split_whitespace();
        let Some(Ok(address)) = words.next().map(str::parse) else {
            continue;
        };
        if words.any(|name| name.eq_ignore_ascii_case(host)) && !found.contains(&address) {
            found.push(address);
        }
    }
    found
}

/// Whether the system knows a way to `address`. Nothing is sent.
fn has_route(address: IpAddr) -> bool {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    UdpSocket::bind((any, 0)).is_ok_and(|socket| socket.connect((address, 53)).is_ok())
}

/// The name server of this address; one that is only known on a link has that behind a `%`.
fn name_server(text: &str, port: u16) -> Option<SocketAddr> {
    let Some((address, link)) = text.split_once('%') else {
        return Some(SocketAddr::new(text.parse().ok()?, port));
    };
    let number = link.parse().ok().or_else(|| {
        let file = fs::read_to_string(format!("/sys/class/net/{link}/ifindex"));
        file.ok()?.trim().parse().ok()
    })?;
    Some(SocketAddrV6::new(address.parse().ok()?, port, 0, number).into())
}

/// What `resolv.conf` says.
#[derive(Debug, PartialEq)]
struct Settings {
    servers: Vec<SocketAddr>,
    domains: Vec<String>,
    /// Names with fewer dots are tried in the domains first.
    dots: usize,
    timeout: Duration,
    attempts: u32,
}

impl Settings {
    /// Reads the text of a `resolv.conf`; what is unknown in it is ignored.
    fn parse(text: &str, port: u16) -> Self {
        let mut settings = Self {
            servers: Vec::new(),
            domains: Vec::new(),
            dots: 1,
            timeout: Duration::from_secs(5),
            attempts: 2,
        };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let server = words.next().and_then(|word| name_server(word, port));
                    settings.servers.extend(server);
                }
                Some("domain" | "search") => {
                    settings.domains = words
                        .take(MAX_DOMAINS)
                        .map(|domain| domain.trim_matches('.').to_owned())
                        .collect();
                }
                Some("options") => {
                    for (name, value) in words.filter_map(|word| word.split_once(':')) {
                        let Ok(value) = value.parse::<u32>() else {
                            continue;
                        };
                        match name {
                            "ndots" => settings.dots = value.min(15) as usize,
                            "timeout" => {
                                settings.timeout = Duration::from_secs(value.clamp(1, 30).into());
                            }
                            "attempts" => settings.attempts = value.clamp(1, 5),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        if settings.servers.is_empty() {
            settings.servers = vec![(Ipv4Addr::LOCALHOST, port).into()];
        }
        settings.servers.truncate(MAX_SERVERS);
        settings
    }

    /// The full names that `host` may mean, in the order to try them.
    fn names(&self, host: &str) -> Vec<String> {
        if let Some(full) = host.strip_suffix('.') {
            return vec![full.to_owned()];
        }
        let mut names: Vec<_> = self
            .domains
            .iter()
            .map(|domain| format!("{host}.{domain}"))
            .collect();
        match host.matches('.').count() >= self.dots {
            true => names.insert(0, host.to_owned()),
            false => names.push(host.to_owned()),
        }
        names
    }

    /// The addresses of `host`. If the server that is asked first is not the first of all and does not
    /// know the name, those before it may.
    fn ask(
        &self,
        host: &str,
        first: &AtomicUsize,
        deadline: Deadline,
    ) -> Result<Vec<IpAddr>, Error> {
        let is_in_order = first.load(Relaxed) == 0;
        let found = self.ask_from(first, host, deadline);
        if found.is_ok() || is_in_order {
            return found;
        }
        first.store(0, Relaxed);
        match found {
            Err(Error::NotFound) => self.ask_from(first, host, deadline),
            found => found,
        }
    }

    /// The addresses of the first name that has any.
    fn ask_from(
        &self,
        first: &AtomicUsize,
        host: &str,
        deadline: Deadline,
    ) -> Result<Vec<IpAddr>, Error> {
        let mut failure = Error::NotFound;
        for name in self.names(host) {
            let mut found = Vec::new();
            for kind in KINDS {
                // Some servers don't answer what they don't know: one address is enough then.
                let by = match found.is_empty() {
                    true => deadline,
                    false => deadline.min(Deadline::after(Instant::now(), SECOND_WAIT)),
                };
                match self.records(&name, kind, first, by) {
                    Ok(addresses) => found.extend(addresses),
                    // Servers that are silent now are so a moment later.
                    Err(Error::Timeout) if found.is_empty() => return Err(Error::Timeout),
                    Err(e) => failure = e,
                }
            }
            if !found.is_empty() {
                return Ok(found);
            }
        }
        Err(failure)
    }

    /// The addresses of `name` in records of one type, from the first server that can tell.
    fn records(
        &self,
        name: &str,
        kind: u16,
        first: &AtomicUsize,
        deadline: Deadline,
    ) -> Result<Vec<IpAddr>, Error> {
        let count = self.servers.len();
        let begin = first.load(Relaxed);
        let mut failure = Error::Timeout;
        let mut tries_left = self.attempts * count as u32;
        for _ in 0..self.attempts {
            for number in (begin..begin + count).map(|number| number % count) {
                let server = &self.servers[number];
                let left = deadline.remaining(Instant::now());
                if left.is_zero() {
                    return Err(Error::Timeout);
                }
                // One that is silent must not use up the time of the others.
                let wait = (left / tries_left).min(self.timeout);
                tries_left -= 1;
                let mut id = [0; 2];
                getrandom::fill(&mut id).map_err(|e| Error::Unavailable(e.into()))?;
                let Some(query) = query(id, name, kind) else {
                    return Ok(Vec::new());
                };
                let by = Deadline::after(Instant::now(), wait);
                match exchange(*server, &query, by).and_then(|answer| addresses(&answer, &query)) {
                    Ok(found) => {
                        // One that knows nothing of it is no better than those before it.
                        if !found.is_empty() {
                            first.store(number, Relaxed);
                        }
                        return Ok(found);
                    }
                    Err(e) if is_timeout(&e) => {}
                    Err(e) => {
                        let why = format!("{}: {e}", server.ip());
                        failure = Error::Unavailable(io::Error::other(why));
                    }
                }
            }
        }
        Err(failure)
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

/// The message that asks for the records of one type; `None` if there can be no such name.
fn query(id: [u8; 2], name: &str, kind: u16) -> Option<Vec<u8>> {
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
    message.extend(kind.to_be_bytes());
    message.extend([0, 1]); // class IN
    (message.len() - HEAD - 4 <= 255).then_some(message)
}

/// Sends `query` and returns its answer; over TCP if it does not fit into a datagram.
fn exchange(server: SocketAddr, query: &[u8], by: Deadline) -> io::Result<Vec<u8>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let left = || match by.remaining(Instant::now()) {
        Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
        left => Ok::<_, io::Error>(left),
    };
    // Connected, from a random port: answers of others don't get here.
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    socket.send(query)?;
    let mut answer = vec![0; MAX_DATAGRAM];
    loop {
        socket.set_read_timeout(Some(left()?))?;
        let length = match socket.recv(&mut answer) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            received => received?,
        };
        if answers(&answer[..length], query) {
            answer.truncate(length);
            break;
        }
    }
    let is_cut_off = answer[2] & 2 != 0;
    if !is_cut_off {
        return Ok(answer);
    }
    let mut stream = TcpStream::connect_timeout(&server, left()?)?;
    stream.set_write_timeout(Some(left()?))?;
    let length = u16::try_from(query.len()).expect("a name has 255 bytes at most");
    stream.write_all(&[&length.to_be_bytes(), query].concat())?;
    // The time is for all of it, not for each byte.
    let read = |mut buffer: &mut [u8]| {
        while !buffer.is_empty() {
            stream.set_read_timeout(Some(left()?))?;
            match (&stream).read(buffer) {
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
    let mut answer = vec![0; u16::from_be_bytes(length).into()];
    read(&mut answer)?;
    match answers(&answer, query) {
        true => Ok(answer),
        false => Err(malformed()),
    }
}

/// Whether `message` is an answer to `query`: with its number and its question.
fn answers(message: &[u8], query: &[u8]) -> bool {
    message.len() >= query.len()
        && message[..2] == query[..2]
        && message[2] & 0x80 != 0
        && message[4..6] == query[4..6]
        && message[HEAD..query.len()].eq_ignore_ascii_case(&query[HEAD..])
}

/// The addresses in an answer to `query`; none if there is no such name.
///
/// A name server that is asked to recurse follows aliases itself, so whatever name the addresses
/// have, they are those of the name that was asked for.
fn addresses(answer: &[u8], query: &[u8]) -> io::Result<Vec<IpAddr>> {
    match answer[3] & 15 {
        0 => {}
        3 => return Ok(Vec::new()),
        code => {
            return Err(io::Error::other(format!(
                "the name server says error {code}"
            )));
        }
    }
    let mut found = Vec::new();
    let count = u16::from_be_bytes([answer[6], answer[7]]);
    let mut rest = &answer[query.len()..];
    for _ in 0..count {
        let (kind, data) = record(&mut rest).ok_or_else(malformed)?;
        if let (1, Ok(bytes)) = (kind, <[u8; 4]>::try_from(data)) {
            found.push(bytes.into());
        } else if let (28, Ok(bytes)) = (kind, <[u8; 16]>::try_from(data)) {
            found.push(bytes.into());
        }
    }
    Ok(found)
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

fn malformed() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the name server's answer is malformed",
    )
}
