//! Lookups against name servers of our own.

mod questions;
mod servers;
mod settings;

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{TcpListener, UdpSocket},
    process::Command,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
};

use super::{
    exchange::SECOND_WAIT,
    message::{HEAD, Kind, Question},
    *,
};

const SOON: Duration = Duration::from_secs(10);

/// A question as a name server sees it.
#[derive(Clone, Debug)]
struct Seen {
    name: String,
    kind: u16,
    is_udp: bool,
    has_edns: bool,
}

/// What a name server says: code, whether it is cut off over UDP, records as type and data.
type Says = (u8, bool, Vec<(u16, Vec<u8>)>);

/// A name server that does not answer if it says nothing.
trait Server: Fn(&Seen) -> Option<Says> + Send + Sync + 'static {}
impl<F: Fn(&Seen) -> Option<Says> + Send + Sync + 'static> Server for F {}

/// Sockets for UDP and TCP with the same port.
fn sockets() -> (UdpSocket, TcpListener) {
    loop {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()) {
            return (udp, tcp);
        }
    }
}

/// A resolver that reads files of these texts and asks a name server that says this.
fn resolver(
    name: &str,
    hosts: &str,
    settings: &str,
    says: impl Fn(&str, u16) -> Says + Send + Sync + 'static,
) -> Resolver {
    let resolver =
        resolver_of(name, settings, move |seen: &Seen| Some(says(&seen.name, seen.kind)));
    fs::write(&resolver.hosts, hosts).unwrap();
    resolver
}

/// A resolver without hosts file.
fn resolver_of(name: &str, settings: &str, server: impl Server) -> Resolver {
    let directory =
        std::env::temp_dir().join(format!("kes-resolver-{}-{name}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("settings"), settings).unwrap();
    let (udp, tcp) = sockets();
    let port = udp.local_addr().unwrap().port();
    let server = Arc::new(server);
    serve_udp(udp, Arc::clone(&server));
    thread::spawn(move || {
        for stream in tcp.incoming() {
            let (mut stream, server) = (stream.unwrap(), Arc::clone(&server));
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut query = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut query).unwrap();
            // The connection ends with the answer.
            if let Some(answer) = answer(&query, &*server, false) {
                let length = u16::try_from(answer.len()).unwrap();
                stream.write_all(&length.to_be_bytes()).unwrap();
                stream.write_all(&answer).unwrap();
            }
        }
    });
    Resolver {
        hosts: directory.join("hosts"),
        settings: directory.join("settings"),
        port,
        options: String::new(),
        memory: Box::leak(Box::new(Memory::new())),
    }
}

/// Answers each question in a thread of its own, after what others may send in its place.
fn serve_udp(udp: UdpSocket, server: Arc<impl Server>) {
    thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, client)) = udp.recv_from(&mut query) {
            let (query, server) = (query[..length].to_vec(), Arc::clone(&server));
            let udp = udp.try_clone().unwrap();
            thread::spawn(move || {
                let Some(answer) = answer(&query, &*server, true) else {
                    return;
                };
                // A forged answer with another number comes first.
                let mut forged = answer.clone();
                forged[0] ^= 1;
                forged[3] = 3;
                udp.send_to(&forged, client).unwrap();
                // So does one to another question, and one that is no answer.
                forged[0] ^= 1;
                if let Some(byte) = forged.get_mut(HEAD + 1) {
                    *byte ^= 1;
                    udp.send_to(&forged, client).unwrap();
                }
                udp.send_to(&query, client).unwrap();
                udp.send_to(&answer, client).unwrap();
            });
        }
    });
}

/// The answer of a server, which knows EDNS if it says so: code 16 and more is for one that does not.
fn answer(
    query: &[u8],
    mut server: impl FnMut(&Seen) -> Option<Says>,
    is_udp: bool,
) -> Option<Vec<u8>> {
    let (mut name, mut at) = (Vec::new(), HEAD);
    while query[at] != 0 {
        let end = at + 1 + usize::from(query[at]);
        name.push(std::str::from_utf8(&query[at + 1..end]).unwrap());
        at = end;
    }
    let edns = &query[at + 5..];
    assert_eq!(usize::from(query[HEAD - 1]) * 11, edns.len());
    let (code, is_cut_off, records) = server(&Seen {
        name: name.join("."),
        kind: u16::from_be_bytes([query[at + 1], query[at + 2]]),
        is_udp,
        has_edns: !edns.is_empty(),
    })?;
    let mut answer = query[..at + 5].to_vec();
    answer[2] |= 0x80;
    answer[3] = code & 15;
    let knows_edns = code < 16;
    if !knows_edns {
        answer[HEAD - 1] = 0;
    }
    let records = match is_udp && is_cut_off {
        true => {
            answer[2] |= 2;
            Vec::new()
        }
        false => records,
    };
    answer[7] = u8::try_from(records.len()).unwrap();
    for (kind, data) in records {
        answer.extend([0xc0, 12]);
        answer.extend(kind.to_be_bytes());
        answer.extend([0, 1, 0, 0, 0, 60]);
        answer.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        answer.extend(data);
    }
    if knows_edns {
        answer.extend(edns);
    }
    Some(answer)
}

fn lookup(resolver: &Resolver, host: &str) -> Result<Vec<String>, Error> {
    let found = resolver.lookup(host, Deadline::after(Instant::now(), SOON))?;
    let mut found: Vec<_> = found.iter().map(ToString::to_string).collect();
    found.sort();
    Ok(found)
}

const NAMESERVER: &str = "nameserver 127.0.0.1\n";

/// What a name server was asked.
type Log = Arc<Mutex<Vec<Seen>>>;

/// A server that is logged.
fn logged(server: impl Server) -> (Log, impl Server) {
    let log = Log::default();
    let kept = Arc::clone(&log);
    (log, move |seen: &Seen| {
        kept.lock().unwrap().push(seen.clone());
        server(seen)
    })
}

fn four(last: u8) -> Option<Says> {
    Some((0, false, vec![(1, vec![10, 0, 0, last])]))
}

const NOTHING: Option<Says> = Some((0, false, Vec::new()));
