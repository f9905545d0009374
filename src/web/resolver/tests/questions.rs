//! How questions are asked, over UDP and TCP.

use super::*;

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
fn long_answers_come_over_tcp() {
    let resolver = resolver("tcp", "", NAMESERVER, |_, kind| match kind {
        1 => (0, true, vec![(1, vec![10, 0, 0, 4]); 60]),
        _ => (0, false, Vec::new()),
    });
    assert_eq!(60, lookup(&resolver, "bao").unwrap().len());
}

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
    // A busy machine may be too slow for once.
    let is_quick = (0..10).any(|_| {
        let start = Instant::now();
        assert!(lookup(&resolver, "bao").unwrap().contains(&"10.0.0.8".to_owned()));
        start.elapsed() < SECOND_WAIT
    });
    assert!(is_quick);
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
