//! The whole path of a request, over memory: any bytes on several connections, into the dialog, the session, the
//! handlers and keys in memory.
//!
//! Nothing hangs: each request is answered within the time that the documents give, and audited once, with the
//! client, path and status that the client knows. Answers are well-formed, and bodies that a connection holds bounded.

use std::time::{Duration, Instant};

use super::{
    cursor::{Cursor, with_runs},
    pipeline_answers::Asked,
    pipeline_line::Line,
    pipeline_site::{PATIENCE, Site},
};

/// Runs make inputs so long.
const MOST: usize = 200_000;
/// The log keeps 4 MiB of lines that nobody reads.
const MAX_UNREAD: usize = 1 << 20;

/// The first byte chooses the generation and whether the clients close their side in the end, the next one the kinds of
/// the connections; each step is an action on one of them.
pub fn pipeline(data: &[u8]) {
    let mut cursor = Cursor(data);
    let choice = cursor.byte();
    let site = Site::get(usize::from(choice & 1));
    site.reset();
    let kinds = cursor.byte();
    let now = Instant::now();
    let mut lines: Vec<_> = (0..3)
        .map(|at| Line::open(site, kinds >> (2 * at) & 1 == 1, kinds >> (2 * at + 1) & 1 == 1, now))
        .collect();
    let (mut clock, mut audit) = (now, Audit::default());
    while !cursor.is_empty() {
        let action = cursor.byte();
        let line = &mut lines[usize::from(action >> 6) % 3];
        match action & 15 {
            0..=9 if line.is_stuck() => {}
            0 | 1 => line.receive(cursor.bytes()),
            2 => line.receive(&with_runs(cursor.bytes(), MOST)),
            3..=5 => line.ask(&mut cursor),
            6 => line.flood(&mut cursor),
            7 => {
                let filler = [b'x'; u16::MAX as usize];
                for _ in 0..cursor.byte() % 32 {
                    line.body(&filler, false);
                    line.drive();
                }
            }
            8 | 9 => {
                let filler = vec![b'x'; usize::from(cursor.short())];
                line.body(&filler, action & 1 == 1);
            }
            10 => line.settle(),
            11 => clock += Duration::from_secs(u64::from(cursor.byte()) / 4),
            12 => line.end(),
            13 => line.is_draining = true,
            _ => {
                let (is_two, is_root) = (line.is_two, action & 16 == 0);
                let old = std::mem::replace(line, Line::open(site, is_two, is_root, clock));
                audit.expect(old.close());
            }
        }
        let line = &mut lines[usize::from(action >> 6) % 3];
        line.now = clock;
        line.drive();
        line.expire();
        audit.unread += line.take_paths();
        if audit.unread > MAX_UNREAD {
            audit.take(site);
        }
    }
    for mut line in lines {
        if choice & 2 == 0 {
            line.end();
        }
        line.wait();
        audit.expect(line.close());
    }
    audit.check(site);
}

/// The audit lines that have come, and those that must.
#[derive(Default)]
struct Audit {
    expected: Vec<Asked>,
    lines: Vec<(String, String, u64)>,
    /// Bytes of paths since the lines were taken.
    unread: usize,
}

impl Audit {
    fn expect(&mut self, asked: Vec<Asked>) {
        self.expected.extend(asked.into_iter().filter(|asked| !asked.is_moved));
    }

    fn take(&mut self, site: &Site) {
        self.unread = 0;
        for line in site.core.log.take_audit_lines() {
            let line: serde_json::Value = serde_json::from_str(&line).expect("a line is JSON");
            let text = |name: &str| line["request"][name].as_str().expect("a text").to_owned();
            let code = line["response"]["code"].as_u64().expect("a code");
            self.lines.push((text("identity"), text("path"), code));
        }
    }

    /// Each request has one line, which says what its client knows.
    fn check(mut self, site: &Site) {
        let until = Instant::now() + PATIENCE;
        loop {
            self.take(site);
            if self.lines.len() >= self.expected.len() && site.core.threads.depth() == 0 {
                break;
            }
            assert!(
                Instant::now() < until,
                "{} requests, audited: {:#?}",
                self.expected.len(),
                self.lines
            );
            std::thread::yield_now();
        }
        self.take(site);
        let Self { mut expected, mut lines, .. } = self;
        assert_eq!(expected.len(), lines.len(), "one audit line for each request: {lines:#?}");
        // Those with a status find their lines first.
        expected.sort_by_key(|asked| asked.status.is_none());
        for asked in expected {
            let identity = site.identity(asked.is_root);
            let found = lines.iter().position(|(by, path, status)| {
                let is_status = asked.status.is_none_or(|known| u64::from(known) == *status);
                *by == *identity && *path == asked.path && is_status
            });
            let found = found.unwrap_or_else(|| panic!("no audit line says {asked:?}: {lines:#?}"));
            let (.., status) = lines.swap_remove(found);
            assert!((200..600).contains(&status), "status {status}");
        }
    }
}
