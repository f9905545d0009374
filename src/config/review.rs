//! All that is wrong with a configuration file and all that looks so, not just the first error.

use std::{fmt, io, path::Path};

use zeroize::Zeroizing;

use super::{
    Config, Error, Flags, Place, Position, Problem, file, from_environment, lint, load, read,
    read_from,
};

/// Rounds of parsing, each of which finds one field that is unknown, repeated or of the wrong type.
const MAX_ROUNDS: usize = 100;

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The server does not start.
    Error,
    /// The server starts, but hardly does what is meant.
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
}

impl Finding {
    /// Sorts findings as the file has them, those without a place first.
    pub fn order(&self) -> impl Ord + use<> {
        let position = self.position.map(|at| (at.line, at.column));
        (position, self.severity)
    }
}

/// What a look at a file gave.
#[derive(Debug)]
pub struct Review {
    /// The settings, with defaults in the place of those that are wrong.
    pub config: Config,
    /// All findings.
    pub findings: Vec<Finding>,
    text: Zeroizing<String>,
}

impl Review {
    /// Looks at the file at `path` as a server with these `flags` would. `endpoints` are the patterns
    /// of all API paths.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn of_file(path: &Path, flags: &Flags, endpoints: &[&str]) -> Result<Self, Error> {
        Ok(review(path, read(path)?, flags, endpoints))
    }

    /// As [`Review::of_file`], of what standard input has.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn of_stdin(flags: &Flags, endpoints: &[&str]) -> Result<Self, Error> {
        let path = Path::new("<stdin>");
        let text = read_from(path, Ok(io::stdin()))?;
        Ok(review(path, text, flags, endpoints))
    }

    /// Where the value of a field is.
    pub fn position(&self, field: &str) -> Option<Position> {
        file::locate(&self.text, &load::fields(field))
    }
}

pub(super) fn review(
    path: &Path,
    mut text: Zeroizing<String>,
    flags: &Flags,
    endpoints: &[&str],
) -> Review {
    let mut findings: Vec<Finding> = Vec::new();
    let mut is_whole = true;
    let config = loop {
        let (config, errors) = load::load_all(Some((path, &text)), flags, &from_environment);
        let unreadable = match errors.as_slice() {
            [Error::Syntax { position, .. }] => Some(*position),
            _ => None,
        };
        // What is missing in the rest may have been in the part that was taken out.
        let is_known = |finding: &Finding| is_whole || finding.position.is_some();
        let is_about_rest = |error: &Error| {
            let Error::Invalid { problem, .. } = error else {
                return true;
            };
            is_whole || !matches!(**problem, Problem::NoKeyStore)
        };
        let errors = errors.into_iter().filter(is_about_rest);
        findings.extend(errors.map(Finding::from).filter(is_known));
        match unreadable {
            None => {
                let lints = lint::lint(&text, is_whole, &config, flags, endpoints);
                findings.extend(lints.into_iter().filter(is_known));
                break config;
            }
            Some(Some(at)) if findings.len() < MAX_ROUNDS => {
                let rest = without_field(&text, at);
                if rest == text || !file::is_readable(&rest) {
                    break config;
                }
                (text, is_whole) = (rest, false);
            }
            Some(at) => {
                if at.is_some() {
                    findings.push(Finding {
                        severity: Severity::Error,
                        position: at,
                        field: String::new(),
                        message: format!(
                            "the search ends after {MAX_ROUNDS} errors; there may be more"
                        ),
                        advice: String::new(),
                    });
                }
                break config;
            }
        }
    };
    Review {
        config,
        findings,
        text,
    }
}

/// `text` with the line at `position` and the deeper ones below it made empty, so that all others
/// keep their places.
fn without_field(text: &str, position: Position) -> Zeroizing<String> {
    let indent = |line: &str| line.len() - line.trim_start_matches(' ').len();
    let mut rest = Zeroizing::new(String::with_capacity(text.len()));
    let mut cut_at = None;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let is_blank = line.trim().is_empty();
        if number + 1 == position.line {
            cut_at = Some(indent(line));
        } else if cut_at.is_some_and(|depth| !is_blank && indent(line) <= depth) {
            cut_at = None;
        }
        rest.push_str(match cut_at {
            Some(_) if line.ends_with('\n') => "\n",
            Some(_) => "",
            None => line,
        });
    }
    rest
}

impl From<Error> for Finding {
    fn from(error: Error) -> Self {
        let (position, field, message, advice) = match error {
            Error::Read { source, .. } => (None, String::new(), source.to_string(), ""),
            Error::Syntax {
                position, reason, ..
            } => (position, String::new(), reason, ""),
            Error::Invalid { place, problem } => {
                let (position, field) = match place {
                    Place::Field {
                        position, field, ..
                    } => (position, field),
                    Place::Flag(flag) => (None, flag.to_owned()),
                };
                (position, field, problem.to_string(), problem.advice())
            }
        };
        Self {
            severity: Severity::Error,
            position,
            field,
            message: message
                .trim_start_matches("failed to read config file: ")
                .to_owned(),
            advice: advice.to_owned(),
        }
    }
}
