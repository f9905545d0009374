//! All that is wrong with the settings and all that looks so, not just the first error. The start of a
//! server, its reload and `kes config check` have one and the same list.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use rustls::sign::CertifiedKey;

use super::{
    Config, Error, Flags, Material, Place, Position,
    check::{self, Warnings},
    error::cut,
    from_environment,
    load::{self, Loaded},
    material, read, read_from,
};

/// The most warnings that a server tells at its start or after a reload.
const MAX_NOTES: usize = 20;

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
    fn order(&self) -> impl Ord + use<> {
        let position = self.position.map(|at| (at.line, at.column));
        (position, self.severity)
    }
}

/// What a look at a file, or at flags alone, gave.
pub struct Review {
    path: Option<PathBuf>,
    flags: Flags,
    loaded: Loaded,
    material: Option<Material>,
    warnings: Warnings,
    /// Where the file ends.
    end: Position,
}

impl fmt::Debug for Review {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Review")
            .field("config", &self.loaded.config)
            .field("findings", &self.findings())
            .finish_non_exhaustive()
    }
}

impl Review {
    /// Looks at the file at `path` as a server with these `flags` would. `endpoints` are the patterns
    /// of all API paths.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn of_file(path: &Path, flags: &Flags, endpoints: &[&str]) -> Result<Self, Error> {
        Ok(Self::of_text(Some((path, &read(path)?)), flags, endpoints))
    }

    /// As [`Review::of_file`], of what standard input has.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn of_stdin(flags: &Flags, endpoints: &[&str]) -> Result<Self, Error> {
        let path = Path::new("<stdin>");
        let text = read_from(path, Ok(io::stdin()))?;
        Ok(Self::of_text(Some((path, &text)), flags, endpoints))
    }

    /// Looks at flags alone.
    pub fn of_flags(flags: &Flags) -> Self {
        Self::of_text(None, flags, &[])
    }

    pub(super) fn of_text(
        source: Option<(&Path, &str)>,
        flags: &Flags,
        endpoints: &[&str],
    ) -> Self {
        let loaded = load::load(source, flags, &from_environment);
        Self {
            warnings: check::check(&loaded, flags, endpoints, &from_environment),
            loaded,
            path: source.map(|(path, _)| path.into()),
            flags: flags.clone(),
            material: None,
            end: end(source.map_or("", |(_, text)| text)),
        }
    }

    /// Looks at the files that the settings name, too. `in_use` is the certificate of a server that is
    /// running: that one may stay although it has expired.
    #[must_use]
    pub fn with_files(mut self, in_use: Option<&CertifiedKey>) -> Self {
        let path = self.path.as_deref();
        let warnings = &mut self.warnings;
        let looked = material::look(&self.loaded, path, &self.flags, in_use, warnings);
        self.material = looked.material;
        self.loaded.errors.extend(looked.errors);
        self
    }

    /// Adds a warning about a field.
    pub fn warn(&mut self, field: &str, message: &str) {
        let position = self.loaded.position(field);
        self.warnings.add(|| Finding {
            severity: Severity::Warning,
            position,
            field: field.to_owned(),
            message: message.to_owned(),
            advice: String::new(),
        });
    }

    /// The settings, with defaults in the place of those that are wrong.
    pub fn config(&self) -> &Config {
        &self.loaded.config
    }

    /// All findings as the file has them, those without a place first.
    pub fn findings(&self) -> Vec<Finding> {
        let errors = self.loaded.errors.iter().map(Finding::from);
        let warnings = self.warnings.found.iter().cloned();
        let mut findings: Vec<_> = errors.chain(warnings).collect();
        let counts =
            [(Severity::Error, self.loaded.more_errors), (Severity::Warning, self.warnings.more)];
        for (severity, more) in counts {
            let shown = findings.iter().filter(|found| found.severity == severity);
            if more > 0 {
                findings.push(Finding {
                    severity,
                    position: Some(self.end),
                    field: String::new(),
                    message: format!(
                        "only {} {severity}s are shown; there are {more} more",
                        shown.count()
                    ),
                    advice: "mend these, and check again".to_owned(),
                });
            }
        }
        findings.sort_by_key(Finding::order);
        findings
    }

    /// The settings and the files they need, for a server, and the lines about what looks wrong.
    /// `in_use` is as in [`Review::with_files`].
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn accept(
        self,
        in_use: Option<&CertifiedKey>,
    ) -> Result<(Config, Material, Vec<String>), Error> {
        let review = self.with_files(in_use);
        let notes = review.notes();
        let mut errors = review.loaded.errors.into_iter();
        match (errors.next(), review.material) {
            (None, material) => {
                let material = material.expect("files that can't be used are an error");
                Ok((review.loaded.config, material, notes))
            }
            (Some(error), _) => Err(error),
        }
    }

    /// What looks wrong, one line each, for people who see a server start.
    fn notes(&self) -> Vec<String> {
        let mut warnings: Vec<_> = self.warnings.found.iter().collect();
        warnings.sort_by_key(|warning| warning.order());
        let mut notes: Vec<_> =
            warnings.iter().take(MAX_NOTES).map(|warning| self.note(warning)).collect();
        let more = warnings.len().saturating_sub(MAX_NOTES) + self.warnings.more;
        if let (1.., Some(path)) = (more, &self.path) {
            let path = path.display();
            notes.push(format!("Warning: {more} more warnings: see 'kes config check {path}'"));
        }
        notes
    }

    fn note(&self, warning: &Finding) -> String {
        let Finding { position, field, message, advice, .. } = warning;
        let advice = match advice.is_empty() {
            true => String::new(),
            false => format!(": {advice}"),
        };
        let place = match (&self.path, position) {
            (Some(file), Some(_)) => {
                let place =
                    Place::Field { file: file.clone(), position: *position, field: field.clone() };
                format!(" ({place})")
            }
            _ => String::new(),
        };
        format!("Warning: {message}{advice}{place}")
    }
}

/// Where `text` ends.
fn end(text: &str) -> Position {
    let last = text.lines().last().unwrap_or_default();
    Position::after(text.lines().count().saturating_sub(1), last.chars().count())
}

impl From<&Error> for Finding {
    fn from(error: &Error) -> Self {
        let (place, message, advice) = match error {
            Error::Read { source, .. } => (None, source.to_string(), ""),
            Error::Syntax { position, reason, .. } => {
                return Self {
                    severity: Severity::Error,
                    position: *position,
                    field: String::new(),
                    message: reason.clone(),
                    advice: String::new(),
                };
            }
            Error::Invalid { place, problem } => {
                (Some(place), problem.sentence(), problem.advice())
            }
            Error::Unusable { place, reason, advice } => (Some(place), reason.clone(), *advice),
        };
        let (position, field) = match place {
            Some(Place::Field { position, field, .. }) => (*position, field.clone()),
            Some(Place::Flag(flag)) => (None, (*flag).to_owned()),
            None => (None, String::new()),
        };
        let message = message.trim_start_matches("failed to read config file: ");
        Self {
            severity: Severity::Error,
            position,
            field,
            message: cut(message).into_owned(),
            advice: advice.to_owned(),
        }
    }
}
