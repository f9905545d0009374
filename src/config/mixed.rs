//! Files that mix formats: all fields that differ, in one table, with what to think of before one is
//! left out.

use std::fmt::Write as _;

use super::{
    fields::Field,
    findings::{At, Findings, Position, Severity, Subject, cut},
    source::Source,
    tree::Entry,
    types::Format,
};

/// So many rows are shown.
const MAX_ROWS: usize = 20;

/// What older files are called, and newer ones.
const OLDER: &str = "KES up to 0.14";
const NEWER: &str = "KES since 0.18";

/// A field of a file that only one kind of format has.
pub(super) struct Difference {
    /// Its name in the file.
    name: String,
    position: Position,
    /// What stands for it in the other kind; may be empty.
    counterpart: String,
    caution: &'static str,
}

impl Difference {
    /// The difference that `entry`, a field of the map called `parent`, is; `field` is its row, or that of a
    /// field in it.
    pub(super) fn new(field: &Field, entry: &Entry, parent: &str) -> Self {
        let dot = if parent.is_empty() { "" } else { "." };
        let counterpart = match field.counterpart.rsplit_once('.') {
            // With the names that are in the file.
            Some((way, leaf)) if way.contains('*') => format!("{parent}{dot}{leaf}"),
            _ => field.counterpart.to_owned(),
        };
        Self {
            name: format!("{parent}{dot}{}", cut(&entry.name)),
            position: entry.position,
            counterpart,
            caution: field.caution,
        }
    }

    /// The key store of a file of KES up to 0.13.5.
    pub(super) fn key_store(entry: &Entry) -> Self {
        Self {
            name: "keys".to_owned(),
            position: entry.position,
            counterpart: "keystore".to_owned(),
            caution: "",
        }
    }
}

/// The row of a field at `path` that the format of `source` has, and that of the other kind has not.
pub(super) fn only_in(source: &Source, path: &str) -> Option<&'static Field> {
    let field = source.table.find(path).or_else(|| source.table.find(&format!("{path}[]")))?;
    let is_newest = source.format.is_newest();
    let other = if is_newest { Format::KeyStore } else { Format::Newest };
    (field.is_in(source.format) && !field.is_in(other)).then_some(field)
}

/// Refuses the fields in `foreign`, which the format of `source` does not have as it has those in `own`.
pub(super) fn refuse(
    source: &Source,
    findings: &mut Findings,
    own: Vec<Difference>,
    foreign: Vec<Difference>,
) {
    let is_newest = source.format.is_newest();
    let (this, other) = if is_newest { (NEWER, OLDER) } else { (OLDER, NEWER) };
    findings.is_whole = false;
    for Difference { name, position, counterpart, caution } in &foreign {
        let instead = match &**counterpart {
            "" => "leave it out".to_owned(),
            counterpart => format!("write {counterpart}"),
        };
        let colon = if caution.is_empty() { "" } else { ": " };
        findings.add(
            (Severity::Error, Subject::Mixed),
            At::new(&**name, Some(*position)),
            format_args!("a field of {other}, but the file is one of {this}"),
            format_args!("{instead}{colon}{caution}"),
        );
    }

    // Older on the left, newer on the right, and what to think of.
    let mut rows = vec![[OLDER.to_owned(), NEWER.to_owned(), String::new()]];
    let is_older = [is_newest, !is_newest];
    let all = [foreign, own].into_iter().zip(is_older).flat_map(|(differences, is_older)| {
        differences.into_iter().map(move |difference| (difference, is_older))
    });
    let mut all: Vec<_> = all.collect();
    all.sort_by_cached_key(|(difference, _)| (difference.position.rank(), 0_u64));
    let more = all.len().saturating_sub(MAX_ROWS);
    for (Difference { name, position, counterpart, caution }, is_older) in
        all.into_iter().take(MAX_ROWS)
    {
        let here = format!("{name} (line {})", position.line);
        let there = if counterpart.is_empty() { "-".to_owned() } else { counterpart };
        let note = if caution.is_empty() { String::new() } else { format!("NOTE: {caution}") };
        rows.push(if is_older { [here, there, note] } else { [there, here, note] });
    }
    if source.find("tls.auth").is_none() {
        let [older, newer, note] = [
            "the flag --auth, default on",
            "tls.auth, default off",
            "NOTE: without \"tls.auth: on\", certificates of clients are not verified there",
        ];
        rows.push([older, newer, note].map(str::to_owned));
    }
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or_default();
    let (first, second) = (width(0), width(1));
    let mut text = format!(
        "mixes two formats: it is read as a file of {this}, which has no field of {other}. Write all \
         fields as in one column:"
    );
    for [older, newer, note] in rows {
        let row = format!("  {older:first$}  {newer:second$}  {note}");
        let _ = write!(text, "\n{}", row.trim_end());
    }
    if more > 0 {
        let _ = write!(text, "\n  and {more} more: see 'kes config check'");
    }
    findings.mixture = text;
}
