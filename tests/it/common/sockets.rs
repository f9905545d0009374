//! What the kernel tells about both ends of a connection, in `/proc/net/tcp`.

use std::time::Duration;

/// One end of a connection of IPv4.
#[derive(Debug)]
pub struct Socket {
    pub is_established: bool,
    /// Bytes that the other end has not acknowledged.
    pub unsent: u64,
    /// Bytes that the program has not read.
    pub unread: u64,
    /// The kind of the timer that runs, and when it ends.
    pub timer: (u8, Duration),
}

impl Socket {
    /// The end with the port `local`, as long as there is one.
    pub fn find(local: u16, remote: u16) -> Option<Self> {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let hex = |text: &str| u64::from_str_radix(text, 16).unwrap();
        table.lines().skip(1).find_map(|line| {
            // Number, local, remote, state, unsent:unread, timer:when.
            let fields: Vec<_> = line.split_whitespace().collect();
            let pair = |at: usize| fields[at].split_once(':').unwrap();
            let port = |at: usize| hex(pair(at).1);
            if (port(1), port(2)) != (local.into(), remote.into()) {
                return None;
            }
            let (unsent, unread) = pair(4);
            let (kind, when) = pair(5);
            Some(Self {
                is_established: fields[3] == "01",
                unsent: hex(unsent),
                unread: hex(unread),
                timer: (hex(kind) as u8, Duration::from_millis(10 * hex(when))),
            })
        })
    }
}
