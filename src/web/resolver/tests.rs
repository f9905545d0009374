//! Lookups against name servers of our own.

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::TcpListener,
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

#[test]
fn addresses_and_names_of_the_hosts_file_need_no_name_server() {
    let hosts = "# 10.0.0.9 bao\n10.0.0.1\tbao.example Bao # one\n::2 bao\n10.0.0.1 bao\n";
    let resolver = resolver("hosts", hosts, NAMESERVER, |_, _| panic!("it was asked"));
    assert_eq!(["10.0.0.1", "::2"], *lookup(&resolver, "bao").unwrap());
    assert_eq!(["10.0.0.1"], *lookup(&resolver, "BAO.example.").unwrap());
    assert_eq!(["10.0.0.7"], *lookup(&resolver, "10.0.0.7").unwrap());
    assert_eq!(["::7"], *lookup(&resolver, "[::7]").unwrap());
    assert_eq!(["127.0.0.1", "::1"], *lookup(&resolver, "localhost").unwrap());
}

#[test]
fn a_name_server_is_asked_for_addresses_of_both_kinds() {
    let resolver = resolver("both", "", NAMESERVER, |name, kind| match (name, kind) {
        // An alias, then its address.
        ("bao.example", 1) => (0, false, vec![(5, vec![1, b'x', 0]), (1, vec![10, 0, 0, 1])]),
        ("bao.example", _) => (0, false, vec![(28, [[0; 15].as_slice(), &[3]].concat())]),
        _ => (3, false, Vec::new()),
    });
    assert_eq!(["10.0.0.1", "::3"], *lookup(&resolver, "bao.example").unwrap());
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
    for bytes in [&[][..], &[0xc0], &[3, b'a'], &[0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 1]] {
        let question = Question::new([1, 2], "bao", Kind::Four).unwrap();
        let mut answer = question.plain().to_vec();
        answer[2] |= 0x80;
        answer[7] = 1;
        answer.extend(bytes);
        assert!(question.read(&answer).unwrap().0.is_err());
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
    serve_udp(other, Arc::new(|_: &Seen| Some((3, false, Vec::new()))));
    for _ in 0..3 {
        assert_eq!(["10.0.0.6"], *lookup(&resolver, "bao").unwrap());
    }
    // Not even if it was the one that answered.
    resolver.memory.first.store(1, Relaxed);
    assert_eq!(["10.0.0.6"], *lookup(&resolver, "bao").unwrap());
}

#[test]
fn a_server_that_sends_a_byte_now_and_then_costs_no_more_than_the_deadline() {
    let (udp, tcp) = sockets();
    let resolver = Resolver {
        port: udp.local_addr().unwrap().port(),
        ..resolver("drip", "", NAMESERVER, |_, _| (0, false, Vec::new()))
    };
    serve_udp(udp, Arc::new(|_: &Seen| Some((0, true, Vec::new()))));
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
    let nobody = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
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
    assert!(matches!(silent, ureq::Error::Timeout(Timeout::Resolve)), "{silent:?}");
}

#[test]
fn name_servers_are_read_whatever_else_the_file_holds() {
    let text = "# a comment\nnameserver\nnameserver somewhere\nnameserver 10.0.0.1 # first\n\
                nameserver fe80::1%lo\nnameserver fe80::1%nowhere\nnameserver fe80::2%7\n\
                nameserver 10.0.0.2\nsearch .\noptions ndots ndots:x rotate timeout:0 attempts:99\n";
    let settings = Settings::parse(text, "", 53);
    let servers: Vec<_> = settings.servers.iter().map(ToString::to_string).collect();
    assert_eq!(["10.0.0.1:53", "[fe80::1%1]:53", "[fe80::2%7]:53"], *servers);
    assert_eq!((1, 5), (settings.dots, settings.attempts));
    assert_eq!(Duration::from_secs(1), settings.timeout);
    assert!(settings.rotates);
    let nothing = Settings::parse("\0\n%\n;\n", "", 53);
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
    let names: BTreeSet<_> = std::iter::from_fn(|| {
        let mut query = [0; 512];
        let length = socket.recv(&mut query).ok()?;
        let mut name = None;
        answer(
            &query[..length],
            |seen| {
                name = Some(seen.name.clone());
                None
            },
            true,
        );
        name
    })
    .collect();
    assert_eq!(["bao.example"], *names.into_iter().collect::<Vec<_>>());
}

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

#[test]
fn an_answer_of_1232_bytes_needs_no_connection() {
    let resolver = resolver_of("edns", NAMESERVER, |seen: &Seen| match seen.kind {
        1 => {
            assert!(seen.is_udp);
            // 12 of the head, 9 of the question, 11 of EDNS: 75 records of 16 bytes fit.
            Some((0, !seen.has_edns, vec![(1, vec![10, 0, 0, 4]); 75]))
        }
        _ => NOTHING,
    });
    assert_eq!(75, lookup(&resolver, "bao").unwrap().len());
}

#[test]
fn a_server_that_does_not_know_edns_is_asked_without_it() {
    // It can't read the question, doesn't do that, fails; each in its own way. Or it is silent.
    for (number, code) in
        [Some(16 + 1), Some(1), Some(16 + 4), Some(16 + 2), None].into_iter().enumerate()
    {
        let (log, server) = logged(move |seen: &Seen| match (seen.has_edns, seen.kind) {
            (true, _) => Some((code?, false, Vec::new())),
            (false, 1) => Some((16, false, vec![(1, vec![10, 0, 0, 3])])),
            (false, _) => Some((16, false, Vec::new())),
        });
        let settings = format!("{NAMESERVER}options timeout:2 attempts:1\n");
        let resolver = resolver_of(&format!("plain-{number}"), &settings, server);
        assert_eq!(["10.0.0.3"], *lookup(&resolver, "bao").unwrap());
        let first = log.lock().unwrap().split_off(0);
        assert!(first.iter().any(|seen| seen.has_edns), "{first:?}");
        // The next time it is known.
        assert_eq!(["10.0.0.3"], *lookup(&resolver, "bao").unwrap());
        let second = log.lock().unwrap().split_off(0);
        assert!(second.iter().all(|seen| !seen.has_edns), "{second:?}");
        assert_eq!(2, second.len());
    }
}

#[test]
fn a_server_that_does_not_repeat_the_question_it_can_not_read_is_asked_without_edns() {
    let (udp, tcp) = sockets();
    drop(tcp);
    let resolver = Resolver {
        port: udp.local_addr().unwrap().port(),
        ..resolver("headless", "", NAMESERVER, |_, _| panic!("it was asked"))
    };
    thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, client)) = udp.recv_from(&mut query) {
            let query = &query[..length];
            let message = match query[HEAD - 1] {
                0 => answer(query, |_| four(8), true).unwrap(),
                _ => vec![query[0], query[1], 0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0],
            };
            udp.send_to(&message, client).unwrap();
        }
    });
    let start = Instant::now();
    assert!(lookup(&resolver, "bao").unwrap().contains(&"10.0.0.8".to_owned()));
    assert!(start.elapsed() < SECOND_WAIT);
}

/// A server that answers the first question when the second one has come.
fn patient_server() -> impl Server {
    let both = Arc::new((Mutex::new(BTreeSet::new()), Condvar::new()));
    move |seen: &Seen| {
        let (kinds, changed) = &*both;
        let mut kinds = kinds.lock().unwrap();
        kinds.insert(seen.kind);
        changed.notify_all();
        let _kinds = changed.wait_while(kinds, |kinds| kinds.len() < 2).unwrap();
        match seen.kind {
            1 => four(5),
            _ => Some((0, false, vec![(28, [[0; 15].as_slice(), &[5]].concat())])),
        }
    }
}

#[test]
fn addresses_of_both_kinds_are_asked_for_at_the_same_time() {
    let resolver = resolver_of("both-at-once", NAMESERVER, patient_server());
    assert_eq!(["10.0.0.5", "::5"], *lookup(&resolver, "bao").unwrap());
}

#[test]
fn one_question_follows_the_other_if_the_settings_say_so() {
    let settings = format!("{NAMESERVER}options single-request timeout:1 attempts:1\n");
    let resolver = resolver_of("one-by-one", &settings, patient_server());
    let late = lookup(&resolver, "bao");
    // The one that comes when the other has timed out is answered.
    assert_eq!(["::5"], *late.unwrap());
}

#[test]
fn a_name_that_does_not_exist_is_asked_for_once() {
    // How often one is asked for each kind of address, if the answer for IPv6 never comes.
    let asked = |tag, options: &str| {
        let (log, server) = logged(|seen: &Seen| match seen.kind {
            1 => Some((3, false, Vec::new())),
            _ => None,
        });
        let resolver = resolver_of(tag, &format!("{NAMESERVER}{options}"), server);
        let start = Instant::now();
        let unknown = lookup(&resolver, "bao");
        assert!(matches!(unknown, Err(Error::NotFound)), "{unknown:?}");
        assert!(start.elapsed() < SECOND_WAIT);
        let log = log.lock().unwrap();
        let fours = log.iter().filter(|seen| seen.kind == 1).count();
        (fours, log.len() - fours)
    };
    assert_eq!(1, asked("denied", "").0);
    let one_by_one = asked("denied-single", "options single-request\n");
    assert_eq!((1, 0), one_by_one);
}

#[test]
fn a_server_that_denies_names_without_ipv6_addresses_hides_no_ipv4_ones() {
    // The first answer for IPv4 fails, the second is slow.
    let failed = AtomicBool::new(false);
    let resolver = resolver_of("rfc4074", NAMESERVER, move |seen: &Seen| match seen.kind {
        1 if !failed.swap(true, Relaxed) => Some((2, false, Vec::new())),
        1 => {
            thread::sleep(Duration::from_millis(100));
            four(6)
        }
        _ => Some((3, false, Vec::new())),
    });
    assert_eq!(["10.0.0.6"], *lookup(&resolver, "bao").unwrap());
}

#[test]
fn a_server_that_is_silent_about_ipv6_ends_no_search() {
    let settings = format!("{NAMESERVER}search a.test b.test\n");
    let resolver =
        resolver_of("silent-six", &settings, |seen: &Seen| match (seen.name.as_str(), seen.kind) {
            ("bao.a.test", 1) => NOTHING,
            ("bao.b.test", 1) => four(7),
            _ => None,
        });
    assert_eq!(["10.0.0.7"], *lookup(&resolver, "bao").unwrap());
    let unknown = lookup(&resolver, "bao.a.test.");
    let why = "127.0.0.1: no answer for IPv6 addresses";
    assert!(matches!(&unknown, Err(Error::Unavailable(e)) if e.to_string() == why), "{unknown:?}");
}

#[test]
fn servers_take_turns_if_the_settings_say_so() {
    for (rotate, expected) in [("", 1), ("options rotate\n", 2)] {
        let settings = format!("nameserver 127.0.0.1\nnameserver 127.0.0.2\n{rotate}");
        let name = format!("turns-{expected}");
        let resolver = resolver_of(&name, &settings, |_: &Seen| four(1));
        let other = UdpSocket::bind(("127.0.0.2", resolver.port)).unwrap();
        serve_udp(other, Arc::new(|_: &Seen| four(2)));
        let answers: BTreeSet<_> =
            (0..60).flat_map(|_| lookup(&resolver, "bao").unwrap()).collect();
        assert_eq!(expected, answers.len());
    }
}

#[test]
fn use_vc_asks_over_tcp_only() {
    let settings = format!("{NAMESERVER}options use-vc\n");
    let (log, server) = logged(|seen: &Seen| match seen.kind {
        1 => four(1),
        _ => Some((0, false, vec![(28, [[0; 15].as_slice(), &[1]].concat())])),
    });
    let resolver = resolver_of("vc", &settings, server);
    assert_eq!(["10.0.0.1", "::1"], *lookup(&resolver, "bao").unwrap());
    assert!(log.lock().unwrap().iter().all(|seen| !seen.is_udp));
}

#[test]
fn both_questions_share_a_connection() {
    let (udp, tcp) = sockets();
    let settings = format!("{NAMESERVER}options use-vc\n");
    let resolver = Resolver {
        port: udp.local_addr().unwrap().port(),
        ..resolver("shared", "", &settings, |_, _| panic!("it was asked"))
    };
    thread::spawn(move || {
        let (mut stream, _) = tcp.accept().unwrap();
        let mut answers = Vec::new();
        for kind in [1, 28] {
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut query = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut query).unwrap();
            let data = vec![9; if kind == 1 { 4 } else { 16 }];
            answers.push(answer(&query, |_| Some((0, false, vec![(kind, data.clone())])), false));
        }
        // In the other order.
        for answer in answers.into_iter().rev().flatten() {
            let length = u16::try_from(answer.len()).unwrap();
            stream.write_all(&length.to_be_bytes()).unwrap();
            stream.write_all(&answer).unwrap();
        }
    });
    assert_eq!(2, lookup(&resolver, "bao").unwrap().len());
}

#[test]
fn the_environment_amends_the_settings() {
    let text = "nameserver 10.0.0.1\noptions ndots:2 timeout:9\n";
    let settings = Settings::parse(text, "ndots:3 use-vc nonsense attempts", 53);
    assert_eq!(3, settings.dots);
    assert_eq!(Duration::from_secs(9), settings.timeout);
    assert!(settings.uses_tcp && !settings.rotates);

    // In a process of its own, for an environment is that of all threads.
    if env::var("RES_OPTIONS").as_deref() == Ok("ndots:3 rotate") {
        assert_eq!("ndots:3 rotate", Resolver::default().options);
        return;
    }
    let again = Command::new(env::current_exe().unwrap())
        .args(["--exact", "web::resolver::tests::the_environment_amends_the_settings"])
        .env("RES_OPTIONS", "ndots:3 rotate")
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&again.stdout);
    assert!(again.status.success() && output.contains("1 passed"), "{output}");
}
