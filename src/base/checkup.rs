//! What an examination of a set-up finds, a line for each thing: `kes doctor` asks every layer for what
//! it knows.

use std::fmt::Display;

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Ok,
    /// It works, but is probably a mistake.
    Warning,
    /// It does not work.
    Failed,
}

/// What was found about one thing.
#[derive(Clone, Debug)]
pub struct Line {
    /// Whose set-up it is: that of the `server` or of a `client`.
    pub side: &'static str,
    /// The thing, such as `port`.
    pub about: &'static str,
    pub outcome: Outcome,
    pub text: String,
    /// What to do; may be empty.
    pub advice: String,
}

/// All that was found, in the order in which it depends on each other.
#[derive(Debug, Default)]
pub struct Checkup {
    pub lines: Vec<Line>,
    /// That of the next lines.
    pub side: &'static str,
}

impl Checkup {
    pub fn ok(&mut self, about: &'static str, text: &dyn Display) {
        self.add(about, Outcome::Ok, text, "");
    }

    pub fn warn(&mut self, about: &'static str, text: &dyn Display, advice: &str) {
        self.add(about, Outcome::Warning, text, advice);
    }

    pub fn fail(&mut self, about: &'static str, text: &dyn Display, advice: &str) {
        self.add(about, Outcome::Failed, text, advice);
    }

    fn add(&mut self, about: &'static str, outcome: Outcome, text: &dyn Display, advice: &str) {
        let text = text.to_string();
        let (side, advice) = (self.side, advice.to_owned());
        self.lines.push(Line { side, about, outcome, text, advice });
    }

    pub fn count(&self, outcome: Outcome) -> usize {
        self.lines.iter().filter(|line| line.outcome == outcome).count()
    }
}
