//! Clients behind TLS proxies, and the addresses that proxies forward.

use super::*;

#[test]
fn a_proxy_speaks_for_the_client_whose_certificate_it_forwards() {
    let [root, app, peer, other] = ["root", "app", "peer", "other"].map(Certified::new);
    let state = State {
        trust: trust(&[&app, &root]),
        policies: policies(&root.identity, &[&peer.identity], &app.identity, "apps"),
        proxy_header: Some("x-cert".into()),
        ..state::for_tests().0
    };
    let client = |chain: &[_]| Client::new(chain, 0).unwrap();
    let (proxy, direct) = (client(&peer.chain), client(&app.chain));
    assert_eq!(Some("x-cert".into()), proxy::header_of(&state, &proxy));
    assert_eq!(None, proxy::header_of(&state, &direct));
    assert_eq!(None, proxy::header_of(&State { proxy_header: None, ..state.clone() }, &proxy));

    let complaints = std::cell::Cell::new(0);
    let sender = |client: &Client, kept: &[Vec<u8>], last: &mut Option<Box<Forwarded>>| {
        let head = Head { kept: kept.to_vec(), ..Head::new(Method::Get, "/version").unwrap() };
        let complain = |_: &str| complaints.set(complaints.get() + 1);
        proxy::sender(&state, client, &head, last, complain).map(|client| client.identity().clone())
    };
    let mut last = None;
    let first = sender(&proxy, &[app.escaped()], &mut last).unwrap();
    assert_eq!(app.identity, *first);
    // The same again is not read again, and another is.
    assert!(Arc::ptr_eq(&first, &sender(&proxy, &[app.escaped()], &mut last).unwrap()));
    assert_eq!(root.identity, *sender(&proxy, &[root.escaped()], &mut last).unwrap());
    assert!(last.is_some());
    let server = Server::new(state.clone());
    assert_eq!(Some("x-cert".into()), server.connect(&peer.chain).kept_header());
    server.end();
    // Others speak for themselves, whatever they send.
    assert_eq!(app.identity, *sender(&direct, &[root.escaped()], &mut last).unwrap());
    assert!(last.is_none());

    // As long as a header may be.
    let padded = |length: usize| {
        let forwarded = app.escaped();
        [vec![b'a'; length - forwarded.len() - 3], b"%0A".to_vec(), forwarded].concat()
    };
    assert_eq!(app.identity, *sender(&proxy, &[padded(16 * 1024)], &mut last).unwrap());
    let both = [app.escaped(), root.escaped()].concat();
    let key = escaped("-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n");
    for (kept, failure) in [
        (vec![], Failure::NoClientCertificate),
        (vec![app.escaped(), app.escaped()], Failure::TooManyClientCertificates),
        (vec![both], Failure::InvalidClientCertificate),
        (vec![key], Failure::InvalidClientCertificate),
        (vec![b"%".to_vec()], Failure::InvalidClientCertificate),
        (vec![padded(16 * 1024 + 1)], Failure::InvalidClientCertificate),
        (vec![other.escaped()], Failure::UntrustedClientCertificate),
    ] {
        assert_eq!(Err(failure), sender(&proxy, &kept, &mut last));
    }
    assert_eq!(1, complaints.get());
    let several = client(&[app.chain.clone(), peer.chain.clone()].concat());
    let found = sender(&several, &[], &mut last);
    assert_eq!(Err(Failure::TooManyClientCertificates), found);
}

#[test]
fn a_proxy_of_the_newest_generation_forwards_the_address_of_its_client() {
    let [root, peer] = ["root", "peer"].map(Certified::new);
    let state = State {
        policies: policies(&root.identity, &[], "app", "apps"),
        proxy_header: Some("x-forwarded-for".into()),
        address_proxies: Arc::new(HashSet::from([peer.identity.clone()])),
        generation: Generation::Newest,
        ..state::for_tests().0
    };
    let client = |certified: &Certified| Client::new(&certified.chain, 0).unwrap();
    let (proxy, direct) = (client(&peer), client(&root));
    assert_eq!(Some("x-forwarded-for".into()), proxy::header_of(&state, &proxy));
    assert_eq!(None, proxy::header_of(&state, &direct));
    let own: IpAddr = "127.0.0.1".parse().unwrap();
    for (kept, address) in [
        (&[][..], "127.0.0.1"),
        (&["192.0.2.1"], "192.0.2.1"),
        (&["192.0.2.1, 192.0.2.2:80"], "192.0.2.2"),
        (&["192.0.2.1", "2001:db8::1"], "2001:db8::1"),
        (&["[2001:db8::1]"], "2001:db8::1"),
        (&["[2001:db8::1]:80 "], "2001:db8::1"),
        (&["unknown"], "127.0.0.1"),
        (&["192.0.2.1,"], "127.0.0.1"),
    ] {
        let head = Head::new(Method::Get, "/version").unwrap();
        let kept = kept.iter().map(|value| value.as_bytes().to_vec()).collect();
        let head = Head { kept, ..head };
        let found = proxy::address(&state, &proxy, &head, own).to_string();
        assert_eq!(address, found, "{:?}", head.kept);
        assert_eq!(own, proxy::address(&state, &direct, &head, own));
    }
    // The audit log has it.
    let server = Server::new(state);
    let head = Head::new(Method::Get, "/version").unwrap();
    let head = Head { kept: vec![b"192.0.2.7".to_vec()], ..head };
    drop(server.connect(&peer.chain).begin(head, &peer.chain, Instant::now()));
    assert!(server.end()[0][0].contains(r#""ip":"192.0.2.7""#));
}
