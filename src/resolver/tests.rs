//! Lookups against name servers of our own.

use std::{net::TcpListener, thread};

use super::*;

const SOON: Duration = Duration::from_secs(10);

/// What a name server says to a question of this type: code, whether it is cut off, records as
/// type and data.
type Says = fn(name: &str, kind: u16) -> (u8, bool, Vec<(u16, Vec<u8>)>);

/// Sockets for UDP and TCP with the same port.
fn sockets() -> (UdpSocket, TcpListener) {
    loop {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()) {
            return (udp, tcp);
        }
    }
}

/// A resolver that reads files of these texts and asks a name server of this answer.
fn resolver(name: &str, hosts: &str, settings: &str, says: Says) -> Resolver {
    let directory =
        std::env::temp_dir().join(format!("kes-resolver-{}-{name}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("hosts"), hosts).unwrap();
    fs::write(directory.join("settings"), settings).unwrap();
    let (udp, tcp) = sockets();
    let port = udp.local_addr().unwrap().port();
    thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, client)) = udp.recv_from(&mut query) {
            let answer = answer(&query[..length], says, true);
            // A forged answer with another number comes first.
            let mut forged = answer.clone();
            forged[0] ^= 1;
            forged[3] = 3;
            udp.send_to(&forged, client).unwrap();
            // So does one to another question, and one that is no answer.
            forged[0] ^= 1;
            forged[HEAD + 1] ^= 1;
            udp.send_to(&forged, client).unwrap();
            udp.send_to(&query[..length], client).unwrap();
            udp.send_to(&answer, client).unwrap();
        }
    });
    thread::spawn(move || {
        for stream in tcp.incoming() {
            let mut stream = stream.unwrap();
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut query = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut query).unwrap();
            let answer = answer(&query, says, false);
            let length = u16::try_from(answer.len()).unwrap();
            stream.write_all(&length.to_be_bytes()).unwrap();
            stream.write_all(&answer).unwrap();
        }
    });
    Resolver {
        hosts: directory.join("hosts"),
        settings: directory.join("settings"),
        port,
        first: Box::leak(Box::default()),
    }
}

fn answer(query: &[u8], says: Says, is_udp: bool) -> Vec<u8> {
    let (mut name, mut at) = (Vec::new(), HEAD);
    while query[at] != 0 {
        let end = at + 1 + usize::from(query[at]);
        name.push(std::str::from_utf8(&query[at + 1..end]).unwrap());
        at = end;
    }
    let kind = u16::from_be_bytes([query[at + 1], query[at + 2]]);
    let (code, is_cut_off, records) = says(&name.join("."), kind);
    let mut answer = query.to_vec();
    answer[2] |= 0x80;
    answer[3] = code;
    if is_udp && is_cut_off {
        answer[2] |= 2;
        return answer;
    }
    answer[7] = u8::try_from(records.len()).unwrap();
    for (kind, data) in records {
        answer.extend([0xc0, 12]);
        answer.extend(kind.to_be_bytes());
        answer.extend([0, 1, 0, 0, 0, 60]);
        answer.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        answer.extend(data);
    }
    answer
}

fn lookup(resolver: &Resolver, host: &str) -> Result<Vec<String>, Error> {
    let found = resolver.lookup(host, Deadline::after(Instant::now(), SOON))?;
    let mut found: Vec<_> = found.iter().map(ToString::to_string).collect();
    found.sort();
    Ok(found)
}

const NAMESERVER: &str = "nameserver 127.0.0.1\n";

#[test]
fn addresses_and_names_of_the_hosts_file_need_no_name_server() {
    let hosts = "# 10.0.0.9 bao\n10.0.0.1\tbao.example Bao # one\n::2 bao\n10.0.0.1 bao\n";
    let resolver = resolver("hosts", hosts, NAMESERVER, |_, _| panic!("it was asked"));
    assert_eq!(["10.0.0.1", "::2"], *lookup(&resolver, "bao").unwrap());
    assert_eq!(["10.0.0.1"], *lookup(&resolver, "BAO.example.").unwrap());
    assert_eq!(["10.0.0.7"], *lookup(&resolver, "10.0.0.7").unwrap());
    assert_eq!(["::7"], *lookup(&resolver, "[::7]").unwrap());
    assert_eq!(
        ["127.0.0.1", "::1"],
        *lookup(&resolver, "localhost").unwrap()
    );
}

#[test]
fn a_name_server_is_asked_for_addresses_of_both_kinds() {
    let resolver = resolver("both", "", NAMESERVER, |name, kind| match (name, kind) {
        // An alias, then its address.
        ("bao.example", 1) => (
            0,
            false,
            vec![(5, vec![1, b'x', 0]), (1, vec![10, 0, 0, 1])],
        ),
        ("bao.example", _) => (0, false, vec![(28, [[0; 15].as_slice(), &[3]].concat())]),
        _ => (3, false, Vec::new()),
    });
    assert_eq!(
        ["10.0.0.1", "::3"],
        *lookup(&resolver, "bao.example").unwrap()
    );
    let unknown = lookup(&resolver, "nobody.example");
    assert!(matches!(unknown, Err(Error::NotFound)), "{unknown:?}");
    let impossible = lookup(&resolver, "bao..example");
    assert!(matches!(impossible, Err(Error::NotFound)), "{impossible:?}");
}

#[test]
fn short_names_are_looked_up_in_the_domains_first() {
    let settings = format!("{NAMESERVER}search a.test b.test.\noptions ndots:2\n");
    let resolver = resolver("search", "", &settings, |name, kind| match (name, kind) {
        ("bao.ns.b.test", 1) => (0, false, vec![(1, vec![10, 0, 0, 2])]),
        ("bao.ns", 1) => (0, false, vec![(1, vec![10, 0, 0, 9])]),
        _ => (3, false, Vec::new()),
    });
    assert_eq!(["10.0.0.2"], *lookup(&resolver, "bao.ns").unwrap());
    assert_eq!(["10.0.0.9"], *lookup(&resolver, "bao.ns.").unwrap());
}

#[test]
fn long_answers_come_over_tcp() {
    let resolver = resolver("tcp", "", NAMESERVER, |_, kind| match kind {
        1 => (0, true, vec![(1, vec![10, 0, 0, 4]); 60]),
        _ => (0, false, Vec::new()),
    });
    assert_eq!(60, lookup(&resolver, "bao").unwrap().len());
}

#[test]
fn a_server_that_fails_or_answers_nonsense_is_an_error_not_an_unknown_name() {
    let failing = resolver("fails", "", NAMESERVER, |_, _| (2, false, Vec::new()));
    let failed = lookup(&failing, "bao");
    assert!(matches!(failed, Err(Error::Unavailable(_))), "{failed:?}");
    for bytes in [
        &[][..],
        &[0xc0],
        &[3, b'a'],
        &[0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 1],
    ] {
        let query = query([1, 2], "bao", 1).unwrap();
        let mut answer = query.clone();
        answer[7] = 1;
        answer.extend(bytes);
        assert!(addresses(&answer, &query).is_err());
    }
}

#[test]
fn bytes_in_another_encoding_hide_nothing() {
    let resolver = resolver("latin", "", NAMESERVER, |_, _| (3, false, Vec::new()));
    fs::write(&resolver.hosts, b"# B\xfcro\n10.0.0.5 bao\n").unwrap();
    assert_eq!(["10.0.0.5"], *lookup(&resolver, "bao").unwrap());
}

#[test]
fn a_silent_name_server_leaves_time_for_the_next_one() {
    let settings = "nameserver 127.0.0.2\nnameserver 127.0.0.1\n";
    let resolver = resolver("next", "", settings, |name, kind| match (name, kind) {
        ("bao", 1) => (0, false, vec![(1, vec![10, 0, 0, 6])]),
        _ => (0, false, Vec::new()),
    });
    let silent = UdpSocket::bind(("127.0.0.2", resolver.port)).unwrap();
    silent.set_nonblocking(true).unwrap();
    let is_asked = || {
        let query = silent.recv(&mut [0; 512]).is_ok();
        while silent.recv(&mut [0; 512]).is_ok() {}
        query
    };
    let deadline = || Deadline::after(Instant::now(), Duration::from_secs(2));
    // It is not asked again as long as the other answers.
    for is_first in [true, false, false] {
        let found = resolver.lookup("bao", deadline()).unwrap();
        assert_eq!([IpAddr::from([10, 0, 0, 6])], *found);
        assert_eq!(is_first, is_asked());
    }
    // It is when the other does not know a name, and from then on.
    let unknown = resolver.lookup("nobody", deadline());
    assert!(unknown.is_err(), "{unknown:?}");
    assert!(is_asked());
    resolver.lookup("bao", deadline()).unwrap();
    assert!(is_asked());
}

#[test]
fn a_server_that_does_not_know_the_name_is_not_asked_first_the_next_time() {
    let settings = "nameserver 127.0.0.1\nnameserver 127.0.0.2\n";
    let resolver = resolver("knows", "", settings, |_, kind| match kind {
        1 => (0, false, vec![(1, vec![10, 0, 0, 6])]),
        _ => (2, false, Vec::new()),
    });
    let other = UdpSocket::bind(("127.0.0.2", resolver.port)).unwrap();
    thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, client)) = other.recv_from(&mut query) {
            let unknown = answer(&query[..length], |_, _| (3, false, Vec::new()), true);
            other.send_to(&unknown, client).unwrap();
        }
    });
    for _ in 0..3 {
        assert_eq!(["10.0.0.6"], *lookup(&resolver, "bao").unwrap());
    }
    // Not even if it was the one that answered.
    resolver.first.store(1, Relaxed);
    assert_eq!(["10.0.0.6"], *lookup(&resolver, "bao").unwrap());
}

#[test]
fn a_server_that_sends_a_byte_now_and_then_costs_no_more_than_the_deadline() {
    let (udp, tcp) = sockets();
    let resolver = Resolver {
        port: udp.local_addr().unwrap().port(),
        ..resolver("drip", "", NAMESERVER, |_, _| (0, false, Vec::new()))
    };
    thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, client)) = udp.recv_from(&mut query) {
            let cut_off = answer(&query[..length], |_, _| (0, true, Vec::new()), true);
            udp.send_to(&cut_off, client).unwrap();
        }
    });
    thread::spawn(move || {
        for stream in tcp.incoming() {
            thread::spawn(move || {
                let mut stream = stream.unwrap();
                while stream.write_all(&[1]).is_ok() {
                    thread::sleep(Duration::from_millis(20));
                }
            });
        }
    });
    let deadline = Deadline::after(Instant::now(), Duration::from_millis(200));
    let late = resolver.lookup("bao", deadline);
    assert!(matches!(late, Err(Error::Timeout)), "{late:?}");
}

#[test]
fn what_a_name_server_does_is_not_taken_for_what_the_host_does() {
    let resolve = |resolver: Resolver| {
        let uri = Uri::from_static("https://bao:8200/");
        let timeout = NextTimeout {
            after: Duration::from_millis(500).into(),
            reason: Timeout::Global,
            per_read: None,
            per_write: None,
        };
        let config = ureq::Agent::config_builder().build();
        ureq::unversioned::resolver::Resolver::resolve(&resolver, &uri, &config, timeout)
            .unwrap_err()
    };
    // Nobody listens where it asks.
    let nobody = UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let refused = resolve(Resolver {
        port: nobody.port(),
        ..resolver("refused", "", NAMESERVER, |_, _| (0, false, Vec::new()))
    });
    assert_eq!(
        "io: the host name can't be looked up with DNS: 127.0.0.1: Connection refused (os error 111)",
        refused.to_string()
    );
    assert!(matches!(refused, ureq::Error::Io(e) if e.kind() == io::ErrorKind::Other));
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let silent = resolve(Resolver {
        port: socket.local_addr().unwrap().port(),
        ..resolver("mute", "", NAMESERVER, |_, _| (0, false, Vec::new()))
    });
    assert!(
        matches!(silent, ureq::Error::Timeout(Timeout::Resolve)),
        "{silent:?}"
    );
}

#[test]
fn name_servers_are_read_whatever_else_the_file_holds() {
    let text = "# a comment\nnameserver\nnameserver somewhere\nnameserver 10.0.0.1 # first\n\
                nameserver fe80::1%lo\nnameserver fe80::1%nowhere\nnameserver fe80::2%7\n\
                nameserver 10.0.0.2\nsearch .\noptions ndots ndots:x rotate timeout:0 attempts:99\n";
    let settings = Settings::parse(text, 53);
    let servers: Vec<_> = settings.servers.iter().map(ToString::to_string).collect();
    assert_eq!(
        ["10.0.0.1:53", "[fe80::1%1]:53", "[fe80::2%7]:53"],
        *servers
    );
    assert_eq!((1, 5), (settings.dots, settings.attempts));
    assert_eq!(Duration::from_secs(1), settings.timeout);
    let nothing = Settings::parse("\0\n%\n;\n", 53);
    assert_eq!("127.0.0.1:53", nothing.servers[0].to_string());
}

#[test]
fn a_silent_server_costs_no_more_than_the_deadline() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let silent = Resolver {
        port: socket.local_addr().unwrap().port(),
        ..resolver("silent", "", NAMESERVER, |_, _| (0, false, Vec::new()))
    };
    let deadline = Deadline::after(Instant::now(), Duration::from_millis(50));
    let late = silent.lookup("bao", deadline);
    assert!(matches!(late, Err(Error::Timeout)), "{late:?}");
}

#[test]
fn a_silent_server_is_not_asked_for_more_once_it_has_used_up_its_time() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let settings = format!("{NAMESERVER}search a.test\noptions timeout:1 attempts:1\n");
    let silent = Resolver {
        port: socket.local_addr().unwrap().port(),
        ..resolver("once", "", &settings, |_, _| (0, false, Vec::new()))
    };
    let late = lookup(&silent, "bao.example");
    assert!(matches!(late, Err(Error::Timeout)), "{late:?}");
    socket.set_nonblocking(true).unwrap();
    let questions = std::iter::from_fn(|| socket.recv(&mut [0; 512]).ok());
    assert_eq!(1, questions.count());
}
