use std::{io::Write as _, net::TcpListener};

use super::*;
use crate::{keystore::mem::Mem, request::Api, server::tests::start};

/// A connection without TLS, and the client's end of it.
fn pair(server: &Server) -> (Inner, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (socket, _) = listener.accept().unwrap();
    socket.set_nonblocking(true).unwrap();
    let inner = Inner {
        socket,
        transport: Transport::plain(),
        session: Api(server.core).open(client.local_addr().unwrap()).unwrap().1,
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
    let server = start(Arc::new(Mem::new()));
    let (mut inner, mut client) = pair(&server);
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

/// A panic closes the connection, and others may still hold it.
#[test]
fn a_panic_closes_the_connection() {
    let server = start(Arc::new(Mem::new()));
    let (inner, mut client) = pair(&server);
    let connection = server.registry.insert(|token| Connection {
        token,
        is_probe: false,
        service: Arc::new(Api(server.core)),
        // It has passed.
        deadline: AtomicU64::new(0),
        inner: Mutex::new(inner),
    });
    assert_eq!(1, server.core.metrics.connections.open());
    assert!(connection.with(&server, |_| -> () { panic!("a bug") }).is_none());
    assert_eq!(0, server.core.metrics.connections.open());
    assert_eq!(0, client.read(&mut [0]).unwrap());
    connection.drive(&server);
    connection.on_deadline(&server, Instant::now());
    connection.drain(&server, true);
}
