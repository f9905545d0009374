//! The settings of the server, from flags and the configuration file.
//!
//! A [`Config`] can't hold a bad value: no code behind it checks again. Knows nothing of sockets, and
//! opens no key store.
//!
//! A file is read once, into a `tree` of values and their places. `shape` keeps it to the table of
//! `fields`, `mixed` names those of another format, `settings`, `apis` and `policies` say what the values mean, `stores` has the section of each key
//! store, and `files` looks at the files that they name. All of them add to one list of `findings`, which the start of a server, its
//! reload and `kes config check` share.

mod apis;
mod convert;
mod expand;
mod fields;
mod files;
mod findings;
mod limits;
mod mixed;
mod policies;
mod settings;
mod shape;
mod source;
mod stores;
#[cfg(test)]
mod tests;
mod tree;
mod types;

use std::{
    fmt, fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use rustls::sign::CertifiedKey;
use rustls_pki_types::UnixTime;
use zeroize::Zeroizing;

#[cfg(any(test, fuzzing))]
pub use convert::convert_with;
pub use convert::{Converted, Note, Weight, convert};
pub use files::Material;
pub use findings::{Error, Finding, Position, Severity};
pub use settings::{ApiOptions, Apis, Config, parse_address};
pub use types::{Auth, Flags, Limits, Shutdown};

use self::{
    expand::Env,
    fields::{FIELDS, Table},
    files::Look,
    findings::Findings,
    source::{Reader, Source},
    stores::STORES,
    types::MAX_FILE,
};
use crate::base::glob::Pattern;

/// A server prints this many warnings at most, at its start and after a reload.
const MAX_NOTES: usize = 20;

/// What editors on other systems put in front of UTF-8 text.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Where the settings are, beside the flags.
#[derive(Clone, Copy, Debug)]
pub enum Origin<'a> {
    /// In the file at this path.
    File(&'a Path),
    /// In the text that standard input has.
    Stdin,
    /// In the flags alone.
    Flags,
}

/// The settings, and all that is wrong with them or looks so.
pub struct Loaded {
    source: Source,
    config: Config,
    findings: Findings,
    material: Option<Material>,
    /// Where the file ends.
    end: Position,
}

/// Loads the settings as a server with these `flags` would, which win over the file. `endpoints` are
/// the patterns of all API paths; without any, the paths of policies are not compared to them.
///
/// # Errors
/// If the file can't be read.
pub fn load(origin: Origin<'_>, flags: &Flags, endpoints: &[&str]) -> Result<Loaded, Error> {
    let (path, text) = read_from(origin)?;
    Ok(load_text(path, &text, flags, endpoints, |name| std::env::var(name).ok()))
}

/// The text of the file at `origin`, and what it is called.
fn read_from(origin: Origin<'_>) -> Result<(Option<&Path>, Zeroizing<String>), Error> {
    Ok(match origin {
        Origin::File(path) => (Some(path), read(path, fs::File::open(path))?),
        Origin::Stdin => {
            let path = Path::new("<stdin>");
            (Some(path), read(path, Ok(io::stdin()))?)
        }
        Origin::Flags => (None, Zeroizing::default()),
    })
}

pub fn load_text(
    path: Option<&Path>,
    text: &str,
    flags: &Flags,
    endpoints: &[&str],
    env: Env,
) -> Loaded {
    let mut findings = Findings::default();
    let source =
        Source::read(path.map(Into::into), text, flags.clone(), env, table(), &mut findings);
    shape::check(&source, &mut findings);
    let endpoints: Vec<_> =
        endpoints.iter().filter_map(|endpoint| Pattern::parse(endpoint).ok()).collect();
    let config = Reader { source: &source, findings: &mut findings }.config(&endpoints);
    Loaded { source, config, findings, material: None, end: end(text) }
}

/// All fields.
fn table() -> Table {
    Table(FIELDS.iter().chain(STORES.iter().flat_map(|store| store.fields)).collect())
}

/// The names of the fields, and what each is for, in Markdown.
pub fn documented() -> impl Iterator<Item = (String, &'static str)> {
    table().documented().map(|(path, field)| (path, field.about))
}

impl Loaded {
    /// The settings, with defaults in the place of those that are wrong.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Adds a warning about a field.
    pub fn warn(&mut self, field: &str, message: &str) {
        self.findings.warn(self.source.at(field), message, "");
    }

    /// Looks at the files that the settings name, too. `in_use` is the certificate of a server that is
    /// running: that one may stay although it has expired.
    #[must_use]
    pub fn with_files(mut self, in_use: Option<&CertifiedKey>) -> Self {
        let Self { source, config, findings, material, .. } = &mut self;
        let mut look = Look { source, config, now: UnixTime::now(), findings };
        *material = look.at_certificate(in_use);
        stores::look(&mut look);
        self
    }

    /// All findings as the file has them, those without a place first.
    pub fn findings(&self) -> Vec<Finding> {
        self.findings.sorted(self.end)
    }

    /// The settings, unless something is wrong.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn accept(self) -> Result<Config, Error> {
        match self.findings.first_error() {
            None => Ok(self.config),
            Some(finding) => Err(Error { finding, file: self.source.path }),
        }
    }

    /// The settings and the files they need, for a server, and the lines about what looks wrong.
    /// `in_use` is as in [`Loaded::with_files`].
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn accept_with_files(
        self,
        in_use: Option<&CertifiedKey>,
    ) -> Result<(Config, Material, Vec<String>), Error> {
        let mut loaded = self.with_files(in_use);
        let notes = loaded.notes();
        let material = loaded.material.take();
        let config = loaded.accept()?;
        Ok((config, material.expect("files that can't be used are an error"), notes))
    }

    /// The warnings, one line each, for the error log.
    fn notes(&self) -> Vec<String> {
        let path = self.source.path.as_deref();
        let mut warnings = self.findings();
        warnings.retain(|found| found.severity == Severity::Warning);
        let notes = warnings.iter().take(MAX_NOTES).map(|warning| warning.sentence(path));
        let more = self.findings.warnings.saturating_sub(MAX_NOTES);
        let more = path.filter(|_| more > 0).map(|path| {
            format!("Warning: {more} more warnings: see 'kes config check {}'", path.display())
        });
        notes.chain(more).collect()
    }
}

/// The text of `source`, which is called `path`. It is wiped after use as it may hold credentials.
fn read(path: &Path, source: io::Result<impl io::Read>) -> Result<Zeroizing<String>, Error> {
    let fail = |position, reason: &dyn fmt::Display| {
        Error::of_text(Some(PathBuf::from(path)), position, reason)
    };
    let mut bytes = Zeroizing::new(Vec::new());
    source
        .and_then(|source| source.take(MAX_FILE + 1).read_to_end(&mut bytes))
        .map_err(|error| fail(None, &error))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(fail(None, &"larger than 1 MiB"));
    }
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&bytes);
    match str::from_utf8(bytes) {
        Ok(text) => Ok(Zeroizing::new(text.into())),
        Err(error) => {
            let before = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            let last = before.rsplit('\n').next().unwrap_or_default();
            let position = Position::after(before.matches('\n').count(), last.chars().count());
            Err(fail(Some(position), &"not UTF-8 text; save the file as UTF-8"))
        }
    }
}

/// Where `text` ends.
fn end(text: &str) -> Position {
    let last = text.lines().last().unwrap_or_default();
    Position::after(text.lines().count().saturating_sub(1), last.chars().count())
}
