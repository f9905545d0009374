//! What is wrong with a configuration, or looks so, and how a server words it.
//!
//! Every message says what is wrong, where (file, line, column and field, or flag), and what would
//! be right. None repeats the value of a field that may hold a secret.

use std::{
    borrow::Cow,
    fmt,
    path::{Path, PathBuf},
};

use crate::tls::API_KEY_PREFIX;

/// Beyond so many errors the others are only counted.
pub(super) const MAX_ERRORS: usize = 100;

/// Beyond so many warnings the others are only counted.
const MAX_WARNINGS: usize = 200;

/// A longer text is repeated with its beginning and its end only, of so many characters each.
const LONG: usize = 150;

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The server does not start.
    Error,
    /// The server starts, but probably does not do what is meant.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// A place in a text. Both numbers count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: u32,
    /// The column, in characters.
    pub column: u32,
}

impl Position {
    /// The place after so many whole lines, and so many characters of the next one.
    pub(super) fn after(lines: usize, characters: usize) -> Self {
        let next = |count| u32::try_from(count).map_or(u32::MAX, |count| count.saturating_add(1));
        Self { line: next(lines), column: next(characters) }
    }

    /// A number in the order of places. All lists of places are sorted by pairs of numbers: each other kind
    /// of key is a sort of its own, of 5 KB.
    pub(super) fn rank(self) -> u64 {
        u64::from(self.line) << 32 | u64::from(self.column)
    }
}

/// Something that is wrong, or looks so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Where in the file, if it is there at all.
    pub position: Option<Position>,
    /// The field, such as `policy.my-app.paths[0]`, or the flag; may be empty.
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// What would be right; may be empty.
    pub advice: String,
    subject: Subject,
}

/// What a finding is about, which decides how a server words it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    /// The text of the file, or its shape; the message names the field.
    Text,
    /// A value that can't be read: KES names durations so.
    Unreadable,
    /// A value.
    Value,
    /// A field of another format. All of them are one error for a server, whose message is a table.
    Mixed,
    /// What a value names outside the file. Without a position, a flag has named it.
    Outside,
}

/// The field that a finding is about, or the flag, and where its value is in the file.
#[derive(Clone, Debug, Default)]
pub(super) struct At {
    pub(super) field: String,
    pub(super) position: Option<Position>,
}

impl At {
    pub(super) fn new(field: impl Into<String>, position: Option<Position>) -> Self {
        Self { field: field.into(), position }
    }
}

impl Finding {
    /// What a server says at its start, or after a reload. `file` is the configuration file.
    pub fn sentence(&self, file: Option<&Path>) -> String {
        let Self { severity, position, field, message, advice, subject } = self;
        let mut place = file.map_or_else(String::new, |file| file.display().to_string());
        if let Some(Position { line, column }) = position {
            place += &format!(" line {line} column {column}");
        }
        if field.starts_with("--") {
            place = format!("flag {field}");
        } else if !field.is_empty() {
            place += &format!(", field {field}");
        }
        let colon = if advice.is_empty() { "" } else { ": " };
        match (severity, subject) {
            (Severity::Warning, _) if position.is_none() => {
                format!("Warning: {message}{colon}{advice}")
            }
            (Severity::Warning, _) => format!("Warning: {message}{colon}{advice} ({place})"),
            (_, Subject::Mixed) => format!("failed to read config file: {place} {message}"),
            (_, Subject::Text) if advice.is_empty() => {
                format!("failed to read config file: {place}: {message}")
            }
            (_, Subject::Text) => {
                format!("failed to read config file: {place}: {message} ({advice})")
            }
            (_, Subject::Unreadable) => {
                format!("failed to read config file: {message} ({place}{colon}{advice})")
            }
            (_, Subject::Outside) if position.is_none() => format!("{message}{colon}{advice}"),
            _ => format!("{message} ({place}{colon}{advice})"),
        }
    }
}

/// Why there is no [`Config`](super::Config): the first error.
#[derive(Debug)]
pub struct Error {
    /// The file, unless the settings come from flags alone.
    pub(super) file: Option<PathBuf>,
    /// What is wrong.
    pub finding: Finding,
}

impl Error {
    /// The error about `file` as a text.
    pub(super) fn of_text(
        file: Option<PathBuf>,
        position: Option<Position>,
        reason: impl fmt::Display,
    ) -> Self {
        let mut findings = Findings::default();
        findings.refuse_text(position, reason, "");
        Self { file, finding: findings.found.remove(0) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.finding.sentence(self.file.as_deref()))
    }
}

impl std::error::Error for Error {}

/// All findings, up to a number of each severity.
#[derive(Debug)]
pub(super) struct Findings {
    found: Vec<Finding>,
    /// How many there are of each severity, with those that are only counted.
    errors: usize,
    pub(super) warnings: usize,
    /// No field of the file is unknown, of the wrong kind, or empty by mistake. Otherwise what is
    /// missing may be in the part that can't be read.
    pub(super) is_whole: bool,
    /// How a file that mixes formats can be mended, for people.
    pub(super) mixture: String,
}

impl Default for Findings {
    fn default() -> Self {
        Self { found: Vec::new(), errors: 0, warnings: 0, is_whole: true, mixture: String::new() }
    }
}

impl Findings {
    /// Adds a finding. The words are formatted only if it is not one too many.
    pub(super) fn add(
        &mut self,
        (severity, subject): (Severity, Subject),
        At { field, position }: At,
        message: impl fmt::Display,
        advice: impl fmt::Display,
    ) {
        let (count, most) = match severity {
            Severity::Error => (&mut self.errors, MAX_ERRORS),
            Severity::Warning => (&mut self.warnings, MAX_WARNINGS),
        };
        *count += 1;
        if *count <= most {
            let message = match subject {
                Subject::Text => without_api_keys(&message.to_string()).into_owned(),
                _ => cut(&message.to_string()).into_owned(),
            };
            let advice = advice.to_string();
            self.found.push(Finding { severity, position, field, message, advice, subject });
        }
    }

    /// A value is wrong.
    pub(super) fn refuse(&mut self, at: At, message: impl fmt::Display, advice: &str) {
        self.add((Severity::Error, Subject::Value), at, message, advice);
    }

    /// A value is missing, unless it may be in a part of the file that can't be read.
    pub(super) fn miss(&mut self, at: At, message: impl fmt::Display, advice: &str) {
        if self.is_whole {
            self.refuse(at, message, advice);
        }
    }

    /// The text of the file, or a part of it, is not what can be read.
    pub(super) fn refuse_text(
        &mut self,
        position: Option<Position>,
        reason: impl fmt::Display,
        advice: &str,
    ) {
        self.is_whole = false;
        self.add((Severity::Error, Subject::Text), At::new("", position), reason, advice);
    }

    /// Something is allowed, but probably a mistake.
    pub(super) fn warn(&mut self, at: At, message: impl fmt::Display, advice: impl fmt::Display) {
        self.add((Severity::Warning, Subject::Value), at, message, advice);
    }

    /// The first error. A mixture of formats comes first: it explains others.
    pub(super) fn first_error(self) -> Option<Finding> {
        let mut errors = self.found.into_iter().filter(|found| found.severity == Severity::Error);
        let first = errors.next()?;
        if self.mixture.is_empty() {
            return Some(first);
        }
        Some(Finding {
            position: None,
            field: String::new(),
            message: self.mixture,
            subject: Subject::Mixed,
            ..first
        })
    }

    /// All of them in the order of the file, those without a place first, and a line about those
    /// that are only counted at its `end`.
    pub(super) fn sorted(&self, end: Position) -> Vec<Finding> {
        let mut findings = self.found.clone();
        for (severity, count, most) in [
            (Severity::Error, self.errors, MAX_ERRORS),
            (Severity::Warning, self.warnings, MAX_WARNINGS),
        ] {
            if count > most {
                let more = count - most;
                findings.push(Finding {
                    severity,
                    position: Some(end),
                    field: String::new(),
                    message: format!("only {most} {severity}s are shown; there are {more} more"),
                    advice: "mend these, and check again".to_owned(),
                    subject: Subject::Text,
                });
            }
        }
        findings.sort_by_cached_key(|found| {
            (found.position.map_or(0, Position::rank), found.severity as u64)
        });
        findings
    }
}

/// `text` without API keys, and without its middle if it is very long.
pub(super) fn cut(text: &str) -> Cow<'_, str> {
    let text = without_api_keys(text);
    let start = text.char_indices().nth(LONG);
    let end = text.char_indices().rev().nth(LONG - 1);
    match (start, end) {
        (Some((start, _)), Some((end, _))) if start < end => {
            format!("{}…{}", &text[..start], &text[end..]).into()
        }
        _ => text,
    }
}

/// `text` with "…" for the secret part of API keys, which people write in the place of identities.
fn without_api_keys(text: &str) -> Cow<'_, str> {
    let mut parts = text.split(API_KEY_PREFIX);
    let first = parts.next().unwrap_or_default();
    if first.len() == text.len() {
        return text.into();
    }
    let is_base64 = |c: char| c.is_ascii_alphanumeric() || "+/=".contains(c);
    parts
        .fold(first.to_owned(), |shown, part| {
            shown + API_KEY_PREFIX + "…" + part.trim_start_matches(is_base64)
        })
        .into()
}
