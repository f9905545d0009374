use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

use super::*;

/// Workers whose connections read one byte a turn, and remember who gave each its turns.
struct Bench {
    poller: Poller,
    connections: Mutex<Vec<Arc<Connection>>>,
}

struct Connection {
    place: Place,
    watch: Mutex<Watch>,
    socket: Socket,
    /// What it waits for after a turn.
    wanted: Interest,
    /// Bytes it has read.
    bytes: AtomicUsize,
    turns: AtomicUsize,
    last_thread: Mutex<String>,
}

impl Connection {
    fn read(&self) -> io::Result<usize> {
        match &self.socket {
            Socket::Tcp(socket) => (&mut &*socket).read(&mut [0]),
            Socket::Memory(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    fn hand_over(&self, poller: &Poller, worker: usize) {
        let watch = &mut self.watch.lock().unwrap();
        poller.hand_over(&self.place, watch, &self.socket, worker).unwrap();
    }
}

impl Driver for Bench {
    fn drive(&self, token: u64) {
        let connection = self.connections.lock().unwrap()[token as usize].clone();
        let (place, mut watch) = (&connection.place, connection.watch.lock().unwrap());
        place.begin_turn();
        *connection.last_thread.lock().unwrap() = thread::current().name().unwrap().to_owned();
        if connection.wanted == Interest::Read && connection.read().is_ok() {
            connection.bytes.fetch_add(1, Ordering::SeqCst);
        }
        self.poller.set_interest(place, &mut watch, &connection.socket, connection.wanted).unwrap();
        self.poller.end_turn(place, &mut watch, &connection.socket).unwrap();
        connection.turns.fetch_add(1, Ordering::SeqCst);
    }

    fn hand_over(&self, token: u64, worker: usize) {
        let connection = self.connections.lock().unwrap()[token as usize].clone();
        connection.hand_over(&self.poller, worker);
    }
}

impl Bench {
    /// Workers that do not follow packets, so that only the test moves connections.
    fn new(workers: usize) -> Arc<Self> {
        let mut poller = Poller::new(workers).unwrap();
        poller.follows = false;
        Arc::new(Self { poller, connections: Mutex::default() })
    }

    fn start(self: &Arc<Self>) -> Vec<JoinHandle<()>> {
        let run = |number| {
            let bench = self.clone();
            let named = thread::Builder::new().name(number_name(number));
            named.spawn(move || bench.poller.run(number, &*bench).unwrap()).unwrap()
        };
        (0..self.poller.workers.len()).map(run).collect()
    }

    fn stop(&self, threads: Vec<JoinHandle<()>>) {
        self.poller.stop();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }

    /// A connection and its client's end.
    fn connect(&self, wanted: Interest) -> (Arc<Connection>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, _) = listener.accept().unwrap();
        socket.set_nonblocking(true).unwrap();
        let socket = Socket::from(socket);
        let mut connections = self.connections.lock().unwrap();
        let (place, mut watch) = (Place::new(connections.len() as u64), Watch::default());
        self.poller.register(&place, &mut watch, &socket).unwrap();
        let connection = Arc::new(Connection {
            place,
            watch: Mutex::new(watch),
            socket,
            wanted,
            bytes: AtomicUsize::new(0),
            turns: AtomicUsize::new(0),
            last_thread: Mutex::default(),
        });
        connections.push(connection.clone());
        (connection, client)
    }
}

fn number_name(number: usize) -> String {
    format!("worker-{number}")
}

fn until(is_done: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is_done() {
        assert!(Instant::now() < end, "it does not happen");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn bytes_that_a_turn_leaves_are_reported_again() {
    let bench = Bench::new(1);
    let (connection, mut client) = bench.connect(Interest::Read);
    let threads = bench.start();
    client.write_all(&[0; 100]).unwrap();
    until(|| connection.bytes.load(Ordering::SeqCst) == 100);
    bench.stop(threads);
}

#[test]
fn new_connections_go_to_the_worker_with_the_fewest() {
    let bench = Bench::new(3);
    let all: Vec<_> = (0..7).map(|_| bench.connect(Interest::Read)).collect();
    let counts = || {
        let workers = bench.poller.workers.iter();
        workers.map(|worker| worker.connections.load(Ordering::Relaxed)).collect::<Vec<_>>()
    };
    assert_eq!(vec![3, 2, 2], counts());
    let (connection, _) = &all[1];
    connection.hand_over(&bench.poller, 2);
    assert_eq!(vec![3, 1, 3], counts());
}

#[test]
fn a_connection_that_waits_to_be_woken_is_not_driven_by_bytes_or_errors() {
    let bench = Bench::new(1);
    let (connection, mut client) = bench.connect(Interest::Wake);
    let threads = bench.start();
    client.write_all(b"x").unwrap();
    until(|| connection.turns.load(Ordering::SeqCst) > 0);
    let after = |expected| {
        thread::sleep(Duration::from_millis(50));
        assert_eq!(expected, connection.turns.load(Ordering::SeqCst));
    };
    // The first event is why epoll forgets the socket: at most one more was under way.
    thread::sleep(Duration::from_millis(50));
    let turns = connection.turns.load(Ordering::SeqCst);
    assert!(turns <= 2, "{turns} turns");
    client.write_all(b"y").unwrap();
    after(turns);
    // With unread bytes at the other end this resets the connection.
    drop(client);
    after(turns);
    bench.poller.wake(&connection.place);
    until(|| connection.turns.load(Ordering::SeqCst) == turns + 1);
    bench.stop(threads);
}

#[test]
fn no_wake_up_is_lost() {
    let bench = Bench::new(2);
    let all: Vec<_> = (0..8).map(|_| bench.connect(Interest::Read)).collect();
    let threads = bench.start();
    thread::scope(|scope| {
        for (connection, _) in &all {
            let poller = &bench.poller;
            scope.spawn(move || {
                for round in 0..5_000 {
                    let before = connection.turns.load(Ordering::SeqCst);
                    if round % 7 == 0 {
                        // A wake-up reaches a connection that moves at the same moment.
                        connection.hand_over(poller, 1 - connection.place.worker());
                    }
                    poller.wake(&connection.place);
                    while connection.turns.load(Ordering::SeqCst) == before {
                        thread::yield_now();
                    }
                }
            });
        }
    });
    bench.stop(threads);
}

#[test]
fn unread_bytes_move_along_with_a_connection() {
    let bench = Bench::new(2);
    let (connection, mut client) = bench.connect(Interest::Read);
    client.write_all(b"x").unwrap();
    connection.hand_over(&bench.poller, 1);
    let threads = bench.start();
    until(|| connection.bytes.load(Ordering::SeqCst) == 1);
    assert_eq!("worker-1", *connection.last_thread.lock().unwrap());
    bench.stop(threads);
}

#[test]
fn a_place_that_was_left_is_silent() {
    let bench = Bench::new(1);
    let (connection, mut client) = bench.connect(Interest::Read);
    let watch = &mut connection.watch.lock().unwrap();
    bench.poller.leave(&connection.place, watch, &connection.socket);
    let threads = bench.start();
    client.write_all(b"x").unwrap();
    thread::sleep(Duration::from_millis(50));
    assert_eq!(0, connection.turns.load(Ordering::SeqCst));
    bench.stop(threads);
}

#[test]
fn a_worker_that_hangs_is_noticed_and_one_that_has_nothing_to_do_or_too_much_is_not() {
    let bench = Bench::new(2);
    let (connection, mut client) = bench.connect(Interest::Read);
    let threads = bench.start();
    let all_turn = || until(|| bench.poller.have_all_turned());
    all_turn();
    // Its worker waits in the turn for as long as this is locked.
    let hang = connection.watch.lock().unwrap();
    client.write_all(b"x").unwrap();
    until(|| {
        let mut looks = (0..10).map(|_| {
            thread::sleep(Duration::from_millis(1));
            bench.poller.have_all_turned()
        });
        looks.all(|have_all_turned| !have_all_turned)
    });
    drop(hang);
    all_turn();
    client.set_nonblocking(true).unwrap();
    let end = Instant::now() + Duration::from_millis(200);
    while Instant::now() < end {
        let _ = client.write(&[0; 4096]);
    }
    all_turn();
    bench.stop(threads);
}
