//! Names as parts of URLs.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Escapes `name` for use as one path segment, as Go's `url.PathEscape` does.
pub fn segment(name: &str) -> String {
    const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'_')
        .remove(b'.')
        .remove(b'~')
        .remove(b'$')
        .remove(b'&')
        .remove(b'+')
        .remove(b'=')
        .remove(b':')
        .remove(b'@');
    utf8_percent_encode(name, SEGMENT).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_as_the_vectors_say() {
        let text = include_str!("../../testdata/paths.json");
        let vectors: serde_json::Value = serde_json::from_str(text).unwrap();
        for case in vectors["escaping"].as_array().unwrap() {
            assert_eq!(case["path_escaped"], segment(case["name"].as_str().unwrap()));
        }
        assert_eq!("my-key_1.~", segment("my-key_1.~"));
        assert_eq!("a%20b%2Fc%3F%23%25%C3%A9", segment("a b/c?#%\u{e9}"));
    }
}
