//! Hostile clients of HTTP/2: each is disconnected while honest ones are served, and
//! costs the server neither memory nor lines of its log.

use std::time::Instant;

use crate::common::{
    Client, Crowd, Http2, PATIENCE, Server,
    hpack::{literal, number, remembered},
    http2::{
        COMPRESSION_ERROR, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, FLOW_CONTROL_ERROR,
        FRAME_SIZE_ERROR, HEADER_TABLE_SIZE, INITIAL_WINDOW_SIZE, PADDED, PREFACE, PROTOCOL_ERROR,
        REFUSED_STREAM, STREAM_CLOSED, block, frame, head, kind, request, reset, settings,
        window_update,
    },
    stored_key, wait_for, wait_until,
};

const GENERATE: &str = "/v1/key/generate/my-key";
/// The memory that an attack may make a fresh server hold, in KiB.
const MEMORY: u64 = 32 * 1024;
/// A client may send this before it is disconnected, in bytes; [`PATIENCE`] if it does not look.
const ENOUGH: usize = 24 << 20;

/// A server with honest clients.
struct Scene {
    server: Server,
    crowd: Crowd,
    memory: u64,
}

fn scene() -> Scene {
    let server = Server::start(|config| {
        std::fs::write(config.keys().join("my-key"), stored_key(&[1; 32])).unwrap();
        config.audit = "off";
    });
    let crowd = Crowd::start_http2(&server, 8);
    wait_for(PATIENCE, || (crowd.served() > 50).then_some(()));
    let memory = server.memory();
    Scene { server, crowd, memory }
}

impl Scene {
    fn client(&self) -> Client {
        self.server.root()
    }

    /// Asserts that no other client noticed anything: `floods` were counted.
    #[track_caller]
    fn goes_on(self, what: &str, floods: u64) {
        let before = self.crowd.served();
        let more = wait_for(PATIENCE, || (self.crowd.served() > before + 20).then_some(()));
        assert!(more.is_some(), "{what}: nobody is served any more");
        let memory = self.server.peak_memory();
        eprintln!("{what}: {} KiB, at most {memory} KiB", self.memory);
        assert!(memory < self.memory + MEMORY, "{what}: {memory} KiB");
        assert_eq!(floods, self.server.metric("kes_http2_flood"), "{what}");
        self.crowd.stop();
        assert_eq!("", self.server.stderr(), "{what}");
    }
}

/// Sends what `next` gives for 0, 1, 2 ... until the server has had enough. `is_reading`: whether
/// the client looks at what it is sent meanwhile. Returns the code of the GOAWAY, if one came.
#[track_caller]
fn attack(
    what: &str,
    client: &Client,
    is_reading: bool,
    opening: &[u8],
    next: impl Fn(u32) -> Vec<u8>,
) -> Option<u32> {
    let mut http2 = Http2::open(client);
    // Before the server has heard the hello, there is no GOAWAY.
    http2.is_acknowledged().unwrap();
    http2.send(opening);
    let began = Instant::now();
    let (mut sent, mut batch) = (0, Vec::new());
    for turn in 0.. {
        batch.extend(next(turn));
        if batch.len() < 4096 && turn % 64 != 63 {
            continue;
        }
        sent += batch.len();
        let is_sent = http2.try_send(&batch).is_ok();
        batch.clear();
        // A client that does not read learns of its end by a write that fails.
        if !is_sent || (is_reading && !http2.catch_up()) || http2.goaway.is_some() {
            break;
        }
        // A disconnected client that goes on is listened to for a moment.
        let is_enough = match is_reading {
            true => sent > ENOUGH,
            false => began.elapsed() > PATIENCE,
        };
        assert!(!is_enough, "{what}: the server takes everything");
    }
    // A connection that is cut off may lose the GOAWAY on the way.
    let _ = http2.end();
    http2.goaway
}

/// The stream of the turn with this number.
fn stream(turn: u32) -> u32 {
    2 * turn + 1
}

type Attack = (&'static str, Vec<u8>, fn(u32) -> Vec<u8>);

/// A head without its end, and a request whose body does not come.
fn open_block() -> Vec<u8> {
    let block = block("POST", GENERATE, &[]);
    frame(kind::HEADERS, END_STREAM, 1, block)
}

#[test]
fn frames_that_ask_for_nothing_are_answered_with_goaway_and_counted() {
    let attacks: [Attack; 14] = [
        ("rapid reset", vec![], |turn| {
            // Each of them waits for the key store.
            let (stream, path) = (stream(turn), format!("/v1/key/create/reset-{turn}"));
            [head(stream, "POST", &path, true), reset(stream, 8)].concat()
        }),
        ("rapid reset of bodies", vec![], |turn| {
            let stream = stream(turn);
            [head(stream, "POST", GENERATE, false), reset(stream, 8)].concat()
        }),
        ("PING", vec![], |_| frame(kind::PING, 0, 0, [7; 8])),
        ("acknowledged PING", vec![], |_| frame(kind::PING, 1, 0, [7; 8])),
        ("SETTINGS", vec![], |_| settings(&[])),
        ("SETTINGS with values", vec![], |turn| {
            settings(&[(INITIAL_WINDOW_SIZE, turn), (HEADER_TABLE_SIZE, turn)])
        }),
        ("empty DATA", head(1, "POST", GENERATE, false), |_| frame(kind::DATA, 0, 1, [])),
        ("DATA of nothing but padding", head(1, "POST", GENERATE, false), |_| {
            frame(kind::DATA, PADDED, 1, [0])
        }),
        ("DATA of one byte", head(1, "POST", GENERATE, false), |_| frame(kind::DATA, 0, 1, b" ")),
        ("WINDOW_UPDATE", vec![], |_| window_update(0, 1)),
        ("PRIORITY", vec![], |turn| frame(kind::PRIORITY, 0, stream(turn), [0, 0, 0, 0, 1])),
        ("unknown frames", vec![], |_| frame(0xfa, 0xff, 0, [0; 16])),
        ("tiny CONTINUATION", open_block(), |_| frame(kind::CONTINUATION, 0, 1, literal("a", ""))),
        ("empty CONTINUATION", open_block(), |_| frame(kind::CONTINUATION, 0, 1, [])),
    ];
    let scene = scene();
    let count = attacks.len() as u64;
    let began = Instant::now();
    for (floods, (what, opening, next)) in (1..).zip(attacks) {
        let code = attack(what, &scene.client(), true, &opening, next);
        assert_eq!(Some(ENHANCE_YOUR_CALM), code, "{what}");
        let counted = scene.server.metric("kes_http2_flood");
        assert_eq!(floods, counted, "{what}");
    }
    // The burst, and some seconds' worth: most of what was sent was not looked at.
    let created = scene.server.key_files().len();
    let most = 1500 + 100 * began.elapsed().as_secs() as usize;
    assert!((100..most).contains(&created), "{created} of {most}");
    scene.goes_on("floods", count);
}

#[test]
fn whoever_floods_without_looking_at_the_answers_is_cut_off() {
    let attacks: [Attack; 3] = [
        ("PING", vec![], |_| frame(kind::PING, 0, 0, [7; 8])),
        ("SETTINGS", vec![], |_| settings(&[])),
        ("requests", vec![], |turn| head(stream(turn), "GET", "/version", true)),
    ];
    let scene = scene();
    std::thread::scope(|scope| {
        for (what, opening, next) in attacks {
            let client = scene.client();
            scope.spawn(move || attack(what, &client, false, &opening, next));
        }
    });
    let floods = scene.server.metric("kes_http2_flood");
    assert!((2..=3).contains(&floods), "{floods}");
    scene.goes_on("floods of the blind", floods);
}

#[test]
fn a_header_block_without_end_is_cut_off() {
    let scene = scene();
    let large = |_| frame(kind::CONTINUATION, 0, 1, literal("a", vec![b'a'; 16_000]));
    let code = attack("CONTINUATION", &scene.client(), true, &open_block(), large);
    let accepted = [ENHANCE_YOUR_CALM, PROTOCOL_ERROR, COMPRESSION_ERROR];
    assert!(code.is_some_and(|code| accepted.contains(&code)), "{code:?}");
    let floods = u64::from(code == Some(ENHANCE_YOUR_CALM));
    scene.goes_on("endless CONTINUATION", floods);
}

/// How a server got rid of a request that it does not want to understand.
#[derive(Debug)]
enum Refusal {
    Status(u16),
    Reset(u32),
    Goaway(Option<u32>),
}

fn refusal(http2: &mut Http2, stream: u32) -> Refusal {
    match http2.status(stream) {
        Ok(status) => Refusal::Status(status),
        Err(_) => match http2.was_reset(stream) {
            Some(code) => Refusal::Reset(code),
            None => Refusal::Goaway(http2.goaway),
        },
    }
}

/// The frames of a header block, each as large as it may be.
fn split(stream: u32, block: &[u8]) -> Vec<u8> {
    let mut parts = block.chunks(16_384).peekable();
    let mut bytes = Vec::new();
    let (mut kind, mut flags) = (kind::HEADERS, END_STREAM);
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            flags |= END_HEADERS;
        }
        bytes.extend(frame(kind, flags, stream, part));
        (kind, flags) = (kind::CONTINUATION, 0);
    }
    bytes
}

/// Sends header blocks that are too large in one way or another, over and over: none is taken for a
/// request, and none costs much. `first` comes once on a connection, `more` from then on.
#[track_caller]
fn are_refused(what: &str, first: &[u8], more: &[u8]) {
    const CREATE: &str = "/v1/key/create/smuggled";
    let scene = scene();
    for _ in 0..8 {
        let mut http2 = Http2::open(&scene.client());
        let opening = [&block("POST", CREATE, &[]), first].concat();
        let _ = http2.try_send(&split(1, &opening));
        let refused = refusal(&mut http2, 1);
        let codes = [PROTOCOL_ERROR, ENHANCE_YOUR_CALM, COMPRESSION_ERROR];
        let is_right = match refused {
            Refusal::Status(status) => [400, 431].contains(&status),
            Refusal::Reset(code) => codes.contains(&code),
            Refusal::Goaway(code) => code.is_some_and(|code| codes.contains(&code)),
        };
        assert!(is_right, "{what}: {refused:?}");
        // Again, as long as the connection is open.
        let again = [&block("POST", CREATE, &[]), more].concat();
        for turn in 1..50 {
            if http2.try_send(&split(stream(turn), &again)).is_err() || !http2.catch_up() {
                break;
            }
        }
    }
    let keys = scene.server.key_files();
    assert_eq!(["my-key"], *keys, "{what} was taken for a request");
    let floods = scene.server.metric("kes_http2_flood");
    assert!(floods <= 8, "{what}: {floods}");
    scene.goes_on(what, floods);
}

#[test]
fn header_lists_over_the_limit_are_refused() {
    let value = vec![b'v'; 8000];
    let many: Vec<u8> = (0..40).flat_map(|at| literal(format!("x-{at}"), &value)).collect();
    are_refused("large header list", &many, &many);
}

#[test]
fn a_header_that_is_remembered_and_repeated_is_no_bomb() {
    let one = remembered("x", vec![b'v'; 4000]);
    let again = vec![0x80 | 62; 16_000];
    are_refused("HPACK bomb", &[&one[..], &again].concat(), &again);
}

#[test]
fn headers_without_names_are_refused() {
    let nameless = literal("", "").repeat(5000);
    are_refused("headers without names", &nameless, &nameless);
    are_refused("a header without name", &literal("", "a"), &literal("", "a"));
}

#[test]
fn a_table_that_changes_its_size_all_the_time_is_refused() {
    // RFC 7541 4.2 wants it at the beginning of a block.
    let sizes = [number(0x20, 5, 0), number(0x20, 5, 4096)].concat().repeat(4000);
    are_refused("table sizes", &sizes, &sizes);
    let large = number(0x20, 5, 1 << 24);
    are_refused("a large table", &large, &large);
}

#[test]
fn more_streams_than_allowed_are_refused_and_harm_nobody() {
    const STREAMS: u32 = 3000;
    let scene = scene();
    let mut http2 = Http2::open(&scene.client());
    for turn in 0..STREAMS {
        let is_open = http2.try_send(&head(stream(turn), "POST", GENERATE, false));
        if is_open.is_err() || !http2.catch_up() {
            break;
        }
    }
    wait_until("streams are refused", || {
        let is_open = http2.catch_up();
        let codes = (0..STREAMS).filter_map(|turn| http2.was_reset(stream(turn)));
        let refused = codes.filter(|&code| code == REFUSED_STREAM).count();
        let is_gone = [ENHANCE_YOUR_CALM, PROTOCOL_ERROR].map(Some).contains(&http2.goaway);
        assert!(is_open || is_gone, "{refused} were refused, with {:?}", http2.goaway);
        is_gone || refused >= STREAMS as usize - 1000
    });
    let floods = scene.server.metric("kes_http2_flood");
    assert!(floods <= 1);
    scene.goes_on("too many streams", floods);
}

#[test]
fn windows_that_open_and_close_while_answers_wait_are_a_flood() {
    let scene = scene();
    // A window of 1 holds the answers back.
    let mut opening = settings(&[(INITIAL_WINDOW_SIZE, 1)]);
    for turn in 0..200 {
        opening.extend(request(stream(turn), "POST", GENERATE, b"{}"));
    }
    let code = attack("windows", &scene.client(), true, &opening, |turn| {
        settings(&[(INITIAL_WINDOW_SIZE, turn % 2)])
    });
    assert_eq!(Some(ENHANCE_YOUR_CALM), code);
    scene.goes_on("windows", 1);
}

#[test]
fn a_window_that_overflows_ends_the_connection() {
    let scene = scene();
    let all = (1 << 31) - 1;
    let mut http2 = Http2::open(&scene.client());
    http2.send(window_update(0, all));
    assert_eq!(Some(FLOW_CONTROL_ERROR), http2.end().unwrap());
    // On a stream it ends the stream, or all of it.
    let mut http2 = Http2::open(&scene.client());
    http2.send(head(1, "POST", GENERATE, false));
    http2.send(window_update(1, all));
    let refused = refusal(&mut http2, 1);
    let is_right = matches!(
        refused,
        Refusal::Reset(FLOW_CONTROL_ERROR) | Refusal::Goaway(Some(FLOW_CONTROL_ERROR))
    );
    assert!(is_right, "{refused:?}");
    scene.goes_on("overflowing windows", 0);
}

#[test]
fn a_client_that_offers_a_huge_table_costs_nothing() {
    let scene = scene();
    let mut clients: Vec<_> = (0..20)
        .map(|_| {
            let mut http2 = Http2::silent(&scene.client()).unwrap();
            http2.send(PREFACE);
            http2.send(settings(&[(HEADER_TABLE_SIZE, u32::MAX)]));
            http2
        })
        .collect();
    for round in 0..20 {
        for http2 in &mut clients {
            // Each answer has another location to be remembered.
            let path = format!("/{}//{round}", "a".repeat(2000));
            assert_eq!(301, http2.request("GET", &path, "").status);
        }
    }
    scene.goes_on("a huge table", 0);
}

#[test]
fn data_on_closed_streams_ends_the_connection() {
    let scene = scene();
    let mut floods = 0;
    for (what, opening) in [
        ("without body", request(1, "GET", "/version", b"")),
        ("with body", request(1, "POST", GENERATE, b"{}")),
        ("reset", [head(1, "POST", GENERATE, false), reset(1, 8)].concat()),
    ] {
        let code = attack(what, &scene.client(), true, &opening, |_| frame(kind::DATA, 0, 1, b" "));
        let accepted = [STREAM_CLOSED, PROTOCOL_ERROR, FLOW_CONTROL_ERROR, ENHANCE_YOUR_CALM];
        assert!(code.is_some_and(|code| accepted.contains(&code)), "{code:?}");
        floods += u64::from(code == Some(ENHANCE_YOUR_CALM));
    }
    scene.goes_on("data on closed streams", floods);
}

#[test]
fn frames_that_are_none_end_the_connection() {
    let scene = scene();
    let goaway = [PROTOCOL_ERROR, FRAME_SIZE_ERROR, STREAM_CLOSED, COMPRESSION_ERROR];
    for (what, bytes) in [
        ("DATA on stream 0", frame(kind::DATA, 0, 0, b"a")),
        ("DATA on an idle stream", frame(kind::DATA, 0, 5, b"a")),
        ("HEADERS on stream 0", head(0, "GET", "/version", true)),
        ("HEADERS on an even stream", head(2, "GET", "/version", true)),
        ("HEADERS cut", frame(kind::HEADERS, 0x2c, 1, [0; 4])),
        ("padding without end", frame(kind::HEADERS, 0xd, 1, [9, 0, 0])),
        ("no header block", frame(kind::HEADERS, 5, 1, [0x80])),
        ("no such header", frame(kind::HEADERS, 5, 1, [0x80 | 62])),
        ("a code that ends wrong", frame(kind::HEADERS, 5, 1, [0x44, 0x81, 0])),
        ("CONTINUATION of nothing", frame(kind::CONTINUATION, 4, 1, [])),
        ("RST_STREAM of nothing", reset(1, 8)),
        ("RST_STREAM of 3 bytes", frame(kind::RST_STREAM, 0, 1, [0; 3])),
        ("SETTINGS on a stream", frame(kind::SETTINGS, 0, 1, [])),
        ("SETTINGS of 5 bytes", frame(kind::SETTINGS, 0, 0, [0; 5])),
        ("an acknowledgement with values", frame(kind::SETTINGS, 1, 0, [0; 6])),
        ("PING of 7 bytes", frame(kind::PING, 0, 0, [0; 7])),
        ("PUSH_PROMISE", frame(5, 4, 1, [0, 0, 0, 2])),
        ("WINDOW_UPDATE of nothing", window_update(0, 0)),
        ("WINDOW_UPDATE of 3 bytes", frame(kind::WINDOW_UPDATE, 0, 0, [0; 3])),
        ("a frame that is too large", frame(kind::DATA, 0, 1, [0; 16_385])),
        ("an announcement of 16 MiB", vec![0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]),
        ("a frame amid a header block", [open_block(), frame(kind::PING, 0, 0, [0; 8])].concat()),
        (
            "an old stream",
            [head(5, "GET", "/version", true), head(3, "GET", "/version", true)].concat(),
        ),
    ] {
        let mut http2 = Http2::open(&scene.client());
        http2.send(bytes);
        let code = http2.end().unwrap();
        assert!(code.is_some_and(|code| goaway.contains(&code)), "{what}: {code:?}");
    }
    scene.goes_on("frames that are none", 0);
}

#[test]
fn whoever_does_not_say_hello_in_http2_is_sent_away() {
    let scene = scene();
    for bytes in [
        &b"GET /version HTTP/1.1\r\nHost: kes\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r!",
        &[0; 100],
    ] {
        let mut http2 = Http2::silent(&scene.client()).unwrap();
        http2.send(bytes);
        let code = http2.end().unwrap_or_else(|e| panic!("{bytes:?}: {e}"));
        assert!([None, Some(PROTOCOL_ERROR)].contains(&code), "{code:?}");
    }
    scene.goes_on("other protocols", 0);
}

/// RFC 9113 6.5.2.
#[test]
fn a_first_window_that_is_too_large_is_an_error_of_flow_control() {
    let scene = scene();
    let mut http2 = Http2::open(&scene.client());
    http2.send(settings(&[(INITIAL_WINDOW_SIZE, 1 << 31)]));
    assert_eq!(Some(FLOW_CONTROL_ERROR), http2.end().unwrap());
    scene.goes_on("a window that is too large", 0);
}

/// RFC 9113 3.4.
#[test]
fn a_client_that_does_not_begin_with_settings_is_sent_away() {
    let scene = scene();
    let mut http2 = Http2::silent(&scene.client()).unwrap();
    http2.is_quiet = true;
    http2.send([PREFACE, &frame(kind::PING, 0, 0, [0; 8])].concat());
    http2.read_for(PATIENCE);
    assert_eq!(Some(PROTOCOL_ERROR), http2.goaway);
    scene.goes_on("no settings", 0);
}
