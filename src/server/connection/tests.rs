use std::{io::Write as _, net::TcpListener};

use super::*;
use crate::{
    http::reply::Reply,
    keystore::mem::Mem,
    server::{
        pending::{Claim, Delivery},
        routes,
        tests::start,
    },
};

/// A connection without TLS, and the client's end of it.
fn pair() -> (Inner, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (socket, _) = listener.accept().unwrap();
    socket.set_nonblocking(true).unwrap();
    let inner = Inner {
        socket,
        place: None,
        transport: Transport::plain(),
        peer: None,
        forwarded: None,
        stage: Stage::Head,
        input: Vec::new(),
        scanned: 0,
        empty_lines: 0,
        output: Vec::new(),
        taken: 0,
        requests: 0,
        is_eof: false,
        has_received: false,
        is_closing: false,
        is_stalled: false,
        now: Instant::now(),
    };
    (inner, client)
}

#[test]
fn output_for_a_client_that_is_always_behind_does_not_grow() {
    const PART: usize = 64 * 1024;
    let (mut inner, mut client) = pair();
    let mut sent = 0_usize;
    let mut write = |inner: &mut Inner| {
        let part = [(sent / PART) as u8; PART];
        sent += PART;
        inner.output.write_all(&part).unwrap();
        inner.flush().unwrap()
    };
    while write(&mut inner) {}
    for _ in 0..64 {
        write(&mut inner);
    }
    let mut received = vec![0; PART];
    for number in 0..300_usize {
        // What comes out is what went in, in its order.
        client.read_exact(&mut received).unwrap();
        assert_eq!(vec![number as u8; PART], received);
        write(&mut inner);
        let held = inner.output.capacity();
        assert!(held <= 4 * PART, "{held} bytes after {number} parts");
    }
}

/// A request that is under way.
fn exchange(server: &Server, path: &str) -> Exchange {
    let (path, route) = (path.to_owned(), routes::find(path));
    Exchange::begin(server, route, path, &"app".into(), Instant::now())
}

/// A connection whose request waits for names, and the client's end of it. No worker knows it.
fn waiting(server: &Server) -> (Arc<Connection>, TcpStream) {
    waiting_for(server, Pending::for_names(exchange(server, "/v1/key/list/*")))
}

fn waiting_for(server: &Server, pending: Pending) -> (Arc<Connection>, TcpStream) {
    let (mut inner, client) = pair();
    inner.requests = 1;
    inner.stage = Stage::Waiting(Box::new(Waiting {
        pending,
        unread: None,
        frame: Frame { is_http11: true, is_head: false, keep_alive: true },
    }));
    let connection = server.registry.insert(|token| Connection {
        token,
        is_probe: false,
        peer_address: client.local_addr().unwrap(),
        trust_generation: 0,
        // It has passed.
        deadline: AtomicU64::new(0),
        inner: Mutex::new(inner),
    });
    (connection, client)
}

/// How many requests succeeded, and how many failed.
fn counts(server: &Server) -> [u64; 2] {
    let page = server.metrics.page([], 0, Instant::now());
    ["success", "failure"].map(|outcome| {
        let name = format!("kes_http_request_{outcome} ");
        let mut lines = page.lines();
        let value = lines.find_map(|line| line.strip_prefix(&name));
        value.unwrap().parse().unwrap()
    })
}

#[test]
fn a_panic_closes_the_connection_and_what_it_waits_for_has_failed() {
    let server = start(Arc::new(Mem::new()));
    let (connection, mut client) = waiting(&server);
    assert!(connection.with(&server, |_| -> () { panic!("a bug") }).is_none());
    assert_eq!(0, server.registry.len());
    assert_eq!(0, client.read(&mut [0]).unwrap());
    assert_eq!([0, 1], counts(&server));
    // Others may still hold it.
    connection.drive(&server);
    connection.on_deadline(&server, Instant::now());
    connection.drain(&server, true);
    assert_eq!([0, 1], counts(&server));
}

#[test]
fn an_answer_that_comes_at_its_deadline_is_given() {
    let server = start(Arc::new(Mem::new()));
    let (connection, mut client) = waiting(&server);
    let names = Reply::json(b"names".to_vec());
    let address = connection.address(1);
    address.deliver(&server, Delivery::Names(Ok(names)));
    connection.on_deadline(&server, Instant::now());
    connection.drive(&server);
    let mut answer = [0; 1000];
    let count = client.read(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer[..count]);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.ends_with("names"), "{answer}");
    assert_eq!([1, 0], counts(&server));
}

#[test]
fn an_answer_that_nobody_hears_is_no_success() {
    let server = start(Arc::new(Mem::new()));
    let (connection, mut client) = waiting(&server);
    let names = Reply::json(b"names".to_vec());
    let address = connection.address(1);
    address.deliver(&server, Delivery::Names(Ok(names)));
    connection.drain(&server, true);
    assert_eq!(0, client.read(&mut [0]).unwrap());
    assert_eq!([0, 1], counts(&server));
}

#[test]
fn a_change_that_was_done_is_a_success_also_if_a_bug_closes_its_connection() {
    let server = start(Arc::new(Mem::new()));
    let claim = Claim::new(exchange(&server, "/v1/key/create/my-key"));
    let pending = Pending::for_change(claim.clone(), Instant::now());
    let (connection, mut client) = waiting_for(&server, pending);
    let reply = claim.answer(Ok(Reply::empty())).unwrap();
    connection.address(1).deliver(&server, Delivery::Change(reply));
    connection.with(&server, |_| -> () { panic!("a bug") });
    assert_eq!(0, client.read(&mut [0]).unwrap());
    assert_eq!([1, 0], counts(&server));
}
