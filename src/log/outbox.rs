//! Lines on their way to stdout or stderr: what is written, what waits, and which answers wait for
//! which line. No I/O here.
//!
//! A held answer leaves when its line is written in full, and is refused if that fails or takes too long.
//! The line of a refused answer says so, unless part of it may be written already: the log may show an
//! answer that was not given, but never misses one that was.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::event::Line;

/// Lines that wait to be written may take so many bytes.
const MAX_BYTES: usize = 1 << 20;
/// Room on top for lines that answers wait for, since clients without rights can cause any number of the other lines.
const RESERVED: usize = 256 << 10;
/// A line takes about so many bytes besides its text.
const OVERHEAD: usize = 64;
/// An answer may wait for its line for this time.
pub const PATIENCE: Duration = Duration::from_millis(900);
const REPORT_INTERVAL: Duration = Duration::from_secs(10);
const REFUSED: u16 = 503;

/// Lets an answer go (`true`) or refuses it.
pub type Decide = Box<dyn FnOnce(bool) + Send>;

/// An answer that waits for its line.
pub struct Hold {
    pub since: Instant,
    pub took: Duration,
    pub decide: Decide,
}

struct Entry {
    line: Line,
    hold: Option<Hold>,
}

impl Entry {
    fn size(&self) -> usize {
        OVERHEAD + self.line.text.len()
    }
}

/// An answer that was decided on.
pub struct Decision {
    pub is_accepted: bool,
    pub decide: Decide,
    /// Its audit line.
    pub line: String,
}

#[derive(Default)]
pub struct Effects {
    pub decisions: Vec<Decision>,
    /// Lines that found no room.
    pub lost: u64,
    /// A line for the error log.
    pub report: Option<String>,
}

#[derive(Default)]
pub struct Outbox {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// How much of the first line is written.
    written: usize,
    /// So many lines are, in part at least, in the block that is being written.
    in_flight: usize,
    /// Answers that wait.
    held: usize,
    /// Part of a line was written before an error.
    needs_line_feed: bool,
    /// Lines can't be written at the moment.
    trouble: Option<Trouble>,
    reported: Option<Instant>,
    effects: Effects,
}

struct Trouble {
    refused: u64,
    is_reported: bool,
}

impl Outbox {
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How much there is to write, in bytes.
    #[cfg(test)]
    pub fn unwritten(&self) -> usize {
        self.entries.iter().map(|entry| entry.line.text.len()).sum()
    }

    /// Whether lines can't be written at the moment, so that answers are refused. Lines wait then,
    /// so the writer finds out by itself when that is over.
    pub fn is_refusing(&self) -> bool {
        self.trouble.is_some()
    }

    /// Takes the effects of the steps so far, to be carried out without any lock.
    pub fn take_effects(&mut self) -> Effects {
        std::mem::take(&mut self.effects)
    }

    /// Adds a line, or the effects say that it is lost.
    pub fn push(&mut self, line: Line) {
        self.add(Entry { line, hold: None });
    }

    /// Adds a line and an answer that waits for it. Where lines can't be written at the moment, the
    /// answer is refused at once.
    pub fn hold(&mut self, line: Line, hold: Hold, now: Instant) {
        let mut entry = Entry { line, hold: Some(hold) };
        if self.trouble.is_some() || !self.has_room(&entry) {
            self.effects.decisions.extend(entry.refuse(now, true));
            self.trouble(1, "it is read too slowly", now);
        } else {
            self.held += 1;
        }
        self.add(entry);
    }

    fn has_room(&self, entry: &Entry) -> bool {
        let reserved = if entry.hold.is_some() { RESERVED } else { 0 };
        self.bytes + entry.size() <= MAX_BYTES + reserved
    }

    fn add(&mut self, entry: Entry) {
        if !self.has_room(&entry) {
            self.effects.lost += 1;
        } else {
            self.bytes += entry.size();
            self.entries.push_back(entry);
        }
    }

    /// Fills `block` with at most `limit` bytes to be written now, at least one of them.
    pub fn fill(&mut self, block: &mut Vec<u8>, limit: usize) {
        block.clear();
        if self.needs_line_feed {
            block.push(b'\n');
        }
        let mut skip = self.written;
        self.in_flight = 0;
        for entry in &self.entries {
            let text = &entry.line.text.as_bytes()[skip..];
            // Whole lines as long as they fit; a longer one goes in parts.
            if !block.is_empty() && block.len() + text.len() > limit {
                break;
            }
            block.extend_from_slice(text);
            skip = 0;
            self.in_flight += 1;
        }
        block.truncate(limit);
    }

    /// So many bytes of the block were written.
    pub fn wrote(&mut self, mut count: usize) {
        self.in_flight = 0;
        if count == 0 {
            return;
        }
        if std::mem::take(&mut self.needs_line_feed) {
            count -= 1;
        }
        self.written += count;
        while let Some(entry) = self.entries.front()
            && self.written >= entry.line.text.len()
        {
            self.written -= entry.line.text.len();
            self.bytes -= entry.size();
            if let Some(Entry { line, hold: Some(hold) }) = self.entries.pop_front() {
                self.held -= 1;
                self.effects.decisions.push(Decision {
                    is_accepted: true,
                    decide: hold.decide,
                    line: line.text,
                });
            }
        }
        if let Some(trouble) = self.trouble.take()
            && trouble.is_reported
        {
            self.effects.report = Some(match trouble.refused {
                0 => "stdout can be written to again".to_owned(),
                refused => format!(
                    "stdout can be written to again; requests refused because their audit lines \
                     could not be written: {refused}"
                ),
            });
        }
    }

    /// Writing the block failed: every answer that waits is refused. The lines stay, to be tried
    /// again.
    pub fn failed(&mut self, reason: &str, now: Instant) {
        self.in_flight = 0;
        // A line that lacks only its line feed is whole with the one that follows: it is not written twice.
        let is_whole = |first: &Entry| self.written + 1 == first.line.text.len();
        if !self.entries.front().is_some_and(is_whole) && std::mem::take(&mut self.written) > 0 {
            self.needs_line_feed = true;
        }
        let refused = self.refuse(now, |_| true);
        self.trouble(refused, reason, now);
    }

    /// Refuses the answers that have waited too long.
    pub fn expire(&mut self, now: Instant) {
        let refused = self.refuse(now, |hold| now >= hold.since + PATIENCE);
        if refused > 0 {
            self.trouble(refused, "nobody reads it", now);
        }
    }

    /// When [`Outbox::expire`] has something to do.
    pub fn next_expiry(&self) -> Option<Instant> {
        if self.held == 0 {
            return None;
        }
        let mut holds = self.entries.iter().filter_map(|entry| entry.hold.as_ref());
        holds.next().map(|hold| hold.since + PATIENCE)
    }

    fn refuse(&mut self, now: Instant, which: impl Fn(&Hold) -> bool) -> u64 {
        if self.held == 0 {
            return 0;
        }
        let mut refused = 0;
        for (at, entry) in self.entries.iter_mut().enumerate() {
            if !entry.hold.as_ref().is_some_and(&which) {
                continue;
            }
            let is_untouched = at >= self.in_flight && (at > 0 || self.written == 0);
            self.bytes -= entry.size();
            self.effects.decisions.extend(entry.refuse(now, is_untouched));
            self.bytes += entry.size();
            self.held -= 1;
            refused += 1;
        }
        refused
    }

    fn trouble(&mut self, refused: u64, reason: &str, now: Instant) {
        let trouble = self.trouble.get_or_insert_with(|| {
            let is_quiet = self.reported.is_some_and(|reported| now < reported + REPORT_INTERVAL);
            if !is_quiet {
                self.reported = Some(now);
                self.effects.report = Some(format!("failed to write to stdout: {reason}"));
            }
            Trouble { refused: 0, is_reported: !is_quiet }
        });
        trouble.refused += refused;
    }
}

impl Entry {
    /// Takes out the answer that waits, refused. `may_change`: the line is not being written yet.
    fn refuse(&mut self, now: Instant, may_change: bool) -> Option<Decision> {
        let hold = self.hold.take()?;
        if may_change {
            let waited = now.saturating_duration_since(hold.since);
            self.line.set_response(REFUSED, hold.took + waited);
        }
        Some(Decision { is_accepted: false, decide: hold.decide, line: self.line.text.clone() })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, Mutex},
        time::UNIX_EPOCH,
    };

    use super::*;
    use crate::log::event::{AuditEvent, Clock};

    /// An outbox, what came out of it, and a clock that a test sets.
    struct Scene {
        outbox: Outbox,
        start: Instant,
        now: Instant,
        block: Vec<u8>,
        decided: Arc<Mutex<Vec<(usize, bool)>>>,
        lines: Vec<String>,
        reports: Vec<String>,
        lost: u64,
        count: usize,
    }

    impl Scene {
        fn new() -> Self {
            let start = Instant::now();
            Self {
                outbox: Outbox::default(),
                start,
                now: start,
                block: Vec::new(),
                decided: Arc::default(),
                lines: Vec::new(),
                reports: Vec::new(),
                lost: 0,
                count: 0,
            }
        }

        fn at(&mut self, millis: u64) -> &mut Self {
            self.now = self.start + Duration::from_millis(millis);
            self
        }

        fn line(&self, path: &str) -> Line {
            let event = AuditEvent {
                ip: None,
                is_change: false,
                time: UNIX_EPOCH,
                path: path.to_owned(),
                identity: "".into(),
                status: 200,
                took: Duration::ZERO,
            };
            Line::audit(&event, &mut Clock::local())
        }

        fn act(&mut self, step: impl FnOnce(&mut Outbox, Instant)) -> &mut Self {
            step(&mut self.outbox, self.now);
            let effects = self.outbox.take_effects();
            for decision in effects.decisions {
                (decision.decide)(decision.is_accepted);
                self.lines.push(decision.line);
            }
            self.reports.extend(effects.report);
            self.lost += effects.lost;
            self
        }

        fn push(&mut self) -> &mut Self {
            let line = self.line("/plain");
            self.act(|outbox, _| outbox.push(line))
        }

        /// Adds an answer that waits; they are numbered from 0.
        fn hold(&mut self) -> &mut Self {
            let (number, decided) = (self.count, self.decided.clone());
            self.count += 1;
            let line = self.line(&format!("/held/{number}"));
            self.act(move |outbox, now| {
                let decide =
                    Box::new(move |accepted| decided.lock().unwrap().push((number, accepted)));
                let hold = Hold { since: now, took: Duration::ZERO, decide };
                outbox.hold(line, hold, now);
            })
        }

        fn fill(&mut self) -> String {
            self.outbox.fill(&mut self.block, 4096);
            String::from_utf8(self.block.clone()).unwrap()
        }

        fn wrote(&mut self, count: usize) -> &mut Self {
            self.act(|outbox, _| outbox.wrote(count))
        }

        fn expire(&mut self) -> &mut Self {
            self.act(|outbox, now| outbox.expire(now))
        }

        fn failed(&mut self) -> &mut Self {
            self.act(|outbox, now| outbox.failed("disk full", now))
        }

        fn decided(&self) -> Vec<(usize, bool)> {
            self.decided.lock().unwrap().clone()
        }
    }

    #[test]
    fn an_answer_goes_when_the_last_byte_of_its_line_is_written_and_not_before() {
        let mut scene = Scene::new();
        let block = scene.push().hold().hold().fill();
        let first_two = block.match_indices('\n').nth(1).unwrap().0 + 1;
        assert!(scene.wrote(first_two - 1).decided().is_empty());
        assert!(scene.fill().starts_with('\n'));
        assert_eq!(vec![(0, true)], scene.wrote(1).decided());
        let rest = scene.fill();
        assert_eq!(block[first_two..], rest);
        assert_eq!(vec![(0, true), (1, true)], scene.wrote(rest.len()).decided());
        assert!(scene.outbox.is_empty() && scene.outbox.bytes == 0 && scene.outbox.held == 0);
    }

    #[test]
    fn an_answer_that_waits_too_long_is_refused_and_its_line_says_so() {
        let mut scene = Scene::new();
        scene.hold().at(500).hold();
        assert!(scene.at(899).expire().decided().is_empty());
        assert_eq!(vec![(0, false)], scene.at(900).expire().decided());
        assert!(scene.lines[0].contains("\"code\":503,\"time\":900000000}"));
        assert_eq!(vec!["failed to write to stdout: nobody reads it"], scene.reports);
        // From here on nobody has to wait, until something can be written again.
        assert_eq!(vec![(0, false), (2, false)], scene.hold().decided());
        let block = scene.fill();
        assert_eq!(
            vec![503, 200, 503],
            block
                .lines()
                .map(|line| {
                    let line: serde_json::Value = serde_json::from_str(line).unwrap();
                    line["response"]["code"].as_u64().unwrap()
                })
                .collect::<Vec<_>>()
        );
        scene.wrote(block.len()).hold();
        assert_eq!(vec![(0, false), (2, false), (1, true)], scene.decided());
        assert!(scene.reports[1].ends_with("written: 2"), "{:?}", scene.reports);
    }

    #[test]
    fn a_line_that_is_being_written_is_not_changed_any_more() {
        let mut scene = Scene::new();
        let before = scene.hold().fill();
        scene.at(900).expire();
        assert_eq!(vec![(0, false)], scene.decided());
        assert_eq!(before, scene.fill());
        scene.wrote(before.len());
        assert_eq!(vec![(0, false)], scene.decided());

        // Nor is one of which a part is written while nothing is under way.
        let before = scene.hold().fill();
        scene.wrote(5).at(1800).expire();
        assert_eq!(before[5..], scene.fill());
    }

    #[test]
    fn a_failed_write_refuses_all_and_the_log_goes_on_with_a_fresh_line() {
        let mut scene = Scene::new();
        scene.hold().hold().fill();
        scene.wrote(7).failed();
        assert_eq!(vec![(0, false), (1, false)], scene.decided());
        assert_eq!(vec!["failed to write to stdout: disk full"], scene.reports);
        scene.failed();
        let block = scene.fill();
        assert_eq!(Some(""), block.lines().next());
        assert_eq!(2, block.matches("\"code\":503").count());
        // Of what is tried again, a part is written once more.
        scene.wrote(1).failed();
        assert!(!scene.fill().starts_with('\n'));
        let block = scene.fill();
        assert_eq!(2, block.lines().count());
        scene.wrote(block.len());
        assert!(scene.outbox.is_empty() && scene.outbox.bytes == 0);
        assert_eq!(vec![(0, false), (1, false)], scene.decided());
    }

    #[test]
    fn a_line_that_lacks_only_its_line_feed_is_not_written_twice() {
        let mut scene = Scene::new();
        let block = scene.hold().push().fill();
        let first = block.find('\n').unwrap();
        scene.wrote(first).failed();
        assert_eq!(vec![(0, false)], scene.decided());
        assert_eq!(block[first..], scene.fill());
        scene.wrote(block.len() - first);
        assert!(scene.outbox.is_empty() && scene.outbox.bytes == 0);
        assert_eq!(vec![(0, false)], scene.decided());
    }

    #[test]
    fn a_line_longer_than_a_block_goes_in_parts() {
        let mut scene = Scene::new();
        let line = scene.line(&"x".repeat(10_000));
        let whole = line.text.clone();
        scene.act(|outbox, _| outbox.push(line));
        let mut parts = String::new();
        while !scene.outbox.is_empty() {
            let part = scene.fill();
            assert!(part.len() <= 4096);
            scene.wrote(part.len());
            parts += &part;
        }
        assert_eq!(whole, parts);
    }

    #[test]
    fn lines_without_room_are_lost_and_their_answers_refused() {
        let mut scene = Scene::new();
        while scene.push().lost == 0 {}
        // A flood of lines takes no room from answers that wait for theirs.
        scene.hold();
        assert!(scene.decided().is_empty());
        while scene.hold().lost == 1 {}
        assert_eq!(vec![(scene.count - 1, false)], scene.decided());
    }
}
