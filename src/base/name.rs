//! The rule for names of keys and policies: they are safe as one element of a path and as file names.

use std::fmt;

/// The longest name, in bytes: all file systems support file names of this length.
pub const MAX: usize = 255;

/// Why a text can't be a name, displayed so that it can follow "it ".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsafe {
    Empty,
    Long,
    Dots,
    /// It contains this character: `/`, `\\`, NUL or another control character.
    Contains(char),
}

impl fmt::Display for Unsafe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("is empty"),
            Self::Long => write!(f, "is longer than {MAX} bytes"),
            Self::Dots => f.write_str("means a directory"),
            Self::Contains(c @ ('/' | '\\')) => write!(f, "contains '{c}'"),
            Self::Contains(_) => f.write_str("contains a control character"),
        }
    }
}

/// Whether `name` can be the name of a key or policy; if not, the first reason.
pub fn check(name: &str) -> Result<(), Unsafe> {
    if name.is_empty() {
        return Err(Unsafe::Empty);
    }
    if name.len() > MAX {
        return Err(Unsafe::Long);
    }
    if matches!(name, "." | "..") {
        return Err(Unsafe::Dots);
    }
    let is_unsafe = |c: &char| matches!(c, '/' | '\\') || c.is_control();
    name.chars().find(is_unsafe).map_or(Ok(()), |c| Err(Unsafe::Contains(c)))
}
