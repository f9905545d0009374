//! Noise in HTTP/2: whatever bytes come in, the server goes on.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use crate::common::{
    Client, Http2, PATIENCE, Server,
    hpack::{literal, remembered},
    http2::{
        END_HEADERS, END_STREAM, INITIAL_WINDOW_SIZE, PADDED, PREFACE, block, frame, head, kind,
        request, reset, settings, window_update,
    },
    stored_key, wait_for,
};

const GENERATE: &str = "/v1/key/generate/my-key";
const SEEDS: u64 = 4000;
const THREADS: u64 = 4;

/// The frames of a client that does a bit of everything.
fn recording() -> Vec<Vec<u8>> {
    let (first, rest) = (block("POST", GENERATE, &[("accept", "*/*")]), literal("x", "y"));
    let table = [&[0x82, 0x87, 0x84][..], &remembered("x-new", "value"), &[0xbe]].concat();
    vec![
        PREFACE.to_vec(),
        settings(&[(INITIAL_WINDOW_SIZE, 70_000), (1, 4096), (3, 100), (6, 10_000)]),
        window_update(0, 1 << 20),
        request(1, "GET", "/version", b""),
        request(3, "POST", GENERATE, b"{}"),
        frame(kind::HEADERS, 0, 5, first),
        frame(kind::CONTINUATION, END_HEADERS, 5, rest),
        frame(kind::DATA, PADDED, 5, [3, b'{', 0, 0, 0]),
        frame(kind::PING, 0, 0, [1; 8]),
        frame(kind::DATA, END_STREAM, 5, b"}"),
        frame(kind::HEADERS, END_STREAM | END_HEADERS, 7, table),
        frame(kind::PRIORITY, 0, 9, [0, 0, 0, 3, 200]),
        head(9, "POST", "/v1/key/import/a", false),
        frame(kind::DATA, 0, 9, br#"{"bytes":""#),
        reset(9, 8),
        head(11, "GET", "/v1/log/audit/trace", true),
        settings(&[(INITIAL_WINDOW_SIZE, 10)]),
        head(13, "GET", "/v1/key/list/*", true),
        window_update(13, 1000),
        request(15, "POST", "/v1/key/encrypt/my-key", br#"{"plaintext":"AAAA"}"#),
        frame(0xbb, 7, 0, b"extension"),
        request(17, "DELETE", "/v1/key/delete/none", b""),
        settings(&[(INITIAL_WINDOW_SIZE, 65_535)]),
        head(19, "GET", "/v1//version", true),
    ]
}

/// Numbers that look random, the same ones for the same seed (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit.max(1)
    }
}

/// The recording with a few changes.
fn changed(seed: u64) -> Vec<u8> {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    random.below(1);
    let mut frames = recording();
    // Whole frames first. The preface stays in most cases, or there would be nothing after it.
    let least = usize::from(random.below(20) > 0);
    for _ in 0..random.below(3) {
        let at = least + random.below(frames.len() - least);
        let other = least + random.below(frames.len() - least);
        match random.below(4) {
            0 => {
                let copy = frames[at].clone();
                frames.insert(other, copy);
            }
            1 => frames.swap(at, other),
            2 => drop(frames.remove(at)),
            _ => {
                let from = random.below(frames[at].len());
                let splice = frames[at][from..].to_vec();
                let to = random.below(frames[other].len());
                frames[other].truncate(to);
                frames[other].extend(splice);
            }
        }
        if frames.len() <= least + 1 {
            break;
        }
    }
    // Then headers of frames, where most is decided, and bytes anywhere.
    for _ in 0..random.below(3) {
        let at = least.min(frames.len() - 1);
        let at = at + random.below(frames.len() - at);
        let frame = &mut frames[at];
        let near = if random.below(2) == 0 { 9 } else { usize::MAX };
        let byte = random.below(frame.len().min(near));
        if let Some(byte) = frame.get_mut(byte) {
            match random.below(3) {
                0 => *byte ^= 1 << random.below(8),
                1 => *byte = random.below(256) as u8,
                _ => *byte = [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
            }
        }
    }
    let mut bytes = frames.concat();
    if random.below(3) == 0 {
        bytes.truncate(random.below(bytes.len()));
    }
    bytes
}

/// Sends `bytes` and a ping, says that this is all, and waits for the end. How many bytes came back.
fn send(client: &Client, seed: u64, bytes: &[u8]) -> usize {
    const MARK: &[u8; 8] = b"last one";
    let mut http2 = Http2::silent(client).unwrap();
    http2.is_quiet = true;
    let bytes = [bytes, &frame(kind::PING, 0, 0, MARK)].concat();
    let began = Instant::now();
    // It may be closed before all is sent.
    // The first part is answered before the second comes.
    let (first, second) = bytes.split_at(bytes.len() / 4 * (seed as usize % 4));
    let mut is_sent = http2.try_send(first).is_ok();
    std::thread::sleep(Duration::from_millis(2));
    is_sent &= http2.try_send(second).is_ok();
    if is_sent {
        // The ping is not heard where a frame was cut.
        let connection = &mut http2.connection;
        let is_heard = |received: &[u8]| received.windows(8).any(|part| part == MARK);
        while connection.receive_available()
            && !is_heard(connection.received())
            && began.elapsed() < Duration::from_millis(30)
        {
            std::thread::sleep(Duration::from_millis(1));
        }
        connection.half_close();
    }
    let count = http2.connection.rest().len();
    let took = began.elapsed();
    assert!(took < Duration::from_secs(45), "seed {seed} holds for {took:?}");
    count
}

#[test]
fn whatever_comes_in_the_server_goes_on() {
    let mut server = Server::start(|config| {
        std::fs::write(config.keys().join("my-key"), stored_key(&[1; 32])).unwrap();
        config.audit = "off";
    });
    let before = server.memory();
    let answered = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (client, answered) = (server.root().resuming(), &answered);
            scope.spawn(move || {
                let mut honest = Http2::open(&client);
                for seed in (thread..SEEDS).step_by(THREADS as usize) {
                    let count = send(&client, seed, &changed(seed));
                    answered.fetch_add(u64::from(count > 150), Ordering::Relaxed);
                    if seed % 16 < THREADS {
                        honest.request("POST", GENERATE, "{}").is_json_success();
                    }
                }
                Http2::open(&client).request("POST", GENERATE, "{}").is_json_success();
            });
        }
    });
    // Most of it has to get further than the preface, or nothing is tried.
    let answered = answered.into_inner();
    assert!(answered > SEEDS / 4, "only {answered} had an answer");
    let errors = server.stderr();
    assert!(!errors.contains("panic"), "{errors}");
    assert!(server.is_running());
    let memory = server.peak_memory();
    eprintln!("{SEEDS} seeds, {answered} with answers: {before} KiB, at most {memory} KiB");
    assert!(memory < before + 32 * 1024, "{before} KiB, then {memory} KiB");
    // Nothing is left of any of them.
    let mut http2 = Http2::open(&server.root());
    http2.request("POST", GENERATE, "{}").is_json_success();
    let is_quiet = wait_for(PATIENCE, || (server.metric("kes_log_subscribers") == 0).then_some(()));
    assert!(is_quiet.is_some(), "a log stream is still open");
    assert_eq!(["my-key"], *server.key_files());
}
