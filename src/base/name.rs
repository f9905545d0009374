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

/// The longest name of the newest generation, in characters.
const MAX_PLAIN: usize = 80;

/// What names of the newest generation look like, as advice.
pub const PLAIN: &str =
    "use 1 to 80 letters, digits, \"-\" and \"_\", no \"-\" at either end, and not only \"_\"";

/// Whether all of `text` may stand in a name of the newest generation: ASCII letters, digits, `-` and `_`.
fn is_plain_text(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// Whether names of the newest generation can start with `text`.
pub fn is_plain_start(text: &str) -> bool {
    text.len() <= MAX_PLAIN && is_plain_text(text)
}

/// Whether `name` can be the name of a key or policy, or an identity, in the newest generation: at most 80
/// ASCII letters, digits, `-` and `_`, no `-` at either end, and more than a `_`.
pub fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_PLAIN
        && is_plain_text(name)
        && !name.starts_with('-')
        && !name.ends_with('-')
        && name != "_"
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_name_has_up_to_80_letters_digits_and_dashes() {
        for name in ["a", "a_b-c", "Bench", "__", "_a", "0", &"k".repeat(80)] {
            assert!(is_plain(name) && check(name).is_ok(), "{name}");
        }
        for name in ["", "_", "-a", "a-", "a.b", ".hidden", "a/b", "a b", "\u{e4}", "a*", "a\0b"] {
            assert!(!is_plain(name), "{name}");
        }
        assert!(!is_plain(&"k".repeat(81)));
    }
}
