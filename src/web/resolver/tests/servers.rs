//! Which name servers are asked, and what becomes of those that fail or are silent.

use super::*;

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
    let deadline = || Deadline::after(Instant::now(), Duration::from_secs(20));
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
            after: Duration::from_secs(10).into(),
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

#[test]
fn a_name_that_does_not_exist_is_asked_for_once() {
    // How often one is asked for each kind of address, if the answer for IPv6 never comes.
    let ask = |tag, options: &str| {
        let (log, server) = logged(|seen: &Seen| match seen.kind {
            1 => Some((3, false, Vec::new())),
            _ => None,
        });
        let resolver = resolver_of(tag, &format!("{NAMESERVER}{options}"), server);
        let start = Instant::now();
        let unknown = lookup(&resolver, "bao");
        assert!(matches!(unknown, Err(Error::NotFound)), "{unknown:?}");
        let is_quick = start.elapsed() < SECOND_WAIT;
        let log = log.lock().unwrap();
        let fours = log.iter().filter(|seen| seen.kind == 1).count();
        is_quick.then(|| (fours, log.len() - fours))
    };
    // A busy machine may be too slow for once.
    let asked = |tag, options| {
        (0..10).find_map(|_| ask(tag, options)).expect("it waits for the other answer")
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
