//! The rule for names of keys and policies: what is safe as one element of a path and as a file name.

/// The longest name, in bytes: what every file system takes as a file name.
pub const MAX: usize = 255;

/// Whether `name` is not empty, not `.` or `..`, without `/`, `\\`, NUL and other control
/// characters, and at most [`MAX`] bytes of UTF-8.
pub fn is_safe(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX
        && name != "."
        && name != ".."
        && !name
            .chars()
            .any(|c| c == '/' || c == '\\' || c.is_control())
}
