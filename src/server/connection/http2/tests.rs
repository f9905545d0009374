use std::time::Duration;

use super::*;

#[test]
fn frames_that_ask_for_nothing_do_not_put_off_the_end_of_an_idle_connection() {
    const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    const PING: &[u8] = b"\0\0\x08\x06\0\0\0\0\0pingpong";
    let start = Instant::now();
    let mut out = Vec::new();
    let mut http2 = Http2::new(start, &mut out);
    let mut send = |http2: &mut Http2, input, second| {
        let now = start + Duration::from_secs(second);
        let next = http2.protocol.next(input, None, true, now, &mut out);
        next.unwrap().0
    };
    assert_eq!(start + READ_TIMEOUT, http2.deadline());
    assert_eq!(HELLO.len(), send(&mut http2, HELLO, 1));
    for second in 2..89 {
        assert_eq!(PING.len(), send(&mut http2, PING, second));
        assert_eq!(start + IDLE_TIMEOUT, http2.deadline());
    }
    // Nor do they if one of them is always on its way.
    assert_eq!(0, send(&mut http2, &PING[..12], 89));
    assert_eq!(start + IDLE_TIMEOUT, http2.deadline());
    assert_eq!(PING.len(), send(&mut http2, PING, 90));
    assert_eq!(start + IDLE_TIMEOUT, http2.deadline());
}
