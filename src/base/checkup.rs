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
    /// The thing, such as `port`.
    pub about: &'static str,
    pub outcome: Outcome,
    pub text: String,
    /// What to do; may be empty.
    pub advice: String,
}

/// All that was found, in the order in which it depends on each other.
#[derive(Debug, Default)]
pub struct Checkup(pub Vec<Line>);

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

    pub fn add(&mut self, about: &'static str, outcome: Outcome, text: &dyn Display, advice: &str) {
        let text = text.to_string();
        self.0.push(Line { about, outcome, text, advice: advice.to_owned() });
    }

    pub fn count(&self, outcome: Outcome) -> usize {
        self.0.iter().filter(|line| line.outcome == outcome).count()
    }
}
