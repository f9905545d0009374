//! Request targets: path and query, and what a path means.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode, percent_decode_str, percent_encode};

/// Splits a request target in origin form or absolute form into its decoded path and its query.
pub fn split(target: &str) -> Result<(String, Option<String>), &'static str> {
    let local = if target.starts_with('/') {
        Cow::Borrowed(target)
    } else {
        match target.split_once("://") {
            Some((scheme, rest))
                if scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https") =>
            {
                let path = rest.find(['/', '?']).map_or("", |at| &rest[at..]);
                match path.starts_with('/') {
                    true => Cow::Borrowed(path),
                    false => Cow::Owned(format!("/{path}")),
                }
            }
            _ => return Err("malformed request target"),
        }
    };
    let (path, query) = match local.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (&*local, None),
    };
    Ok((decode(path)?, query))
}

fn decode(path: &str) -> Result<String, &'static str> {
    if memchr::memchr(b'%', path.as_bytes()).is_none() {
        return Ok(path.to_owned());
    }
    if !has_whole_escapes(path.as_bytes()) {
        return Err("invalid URL escape");
    }
    let decoded = percent_decode_str(path).decode_utf8();
    decoded.map(Cow::into_owned).map_err(|_| "request path is not UTF-8")
}

/// The path that the target of a refused request seems to name, for the audit log: undecoded, without
/// query, at most 2 KiB, escaped except for visible ASCII.
pub fn seeming_path(target: &[u8]) -> String {
    const MAX: usize = 2048;
    const INVISIBLE: &AsciiSet = &CONTROLS.add(b' ');
    let end = memchr::memchr(b'?', target).unwrap_or(target.len());
    percent_encode(&target[..end.min(MAX)], INVISIBLE).to_string()
}

/// Whether two hex digits follow every percent sign.
fn has_whole_escapes(text: &[u8]) -> bool {
    let is_hex = |at: usize| text.get(at).is_some_and(u8::is_ascii_hexdigit);
    text.iter().enumerate().all(|(at, byte)| *byte != b'%' || (is_hex(at + 1) && is_hex(at + 2)))
}

/// Decodes `text` as a part of a query (`%XX`, and `+` for a blank); `None` if an escape is malformed.
pub fn unescape(text: &[u8]) -> Option<Vec<u8>> {
    let blank = |byte: &u8| if *byte == b'+' { b' ' } else { *byte };
    let text: Vec<u8> = text.iter().map(blank).collect();
    has_whole_escapes(&text).then(|| percent_decode(&text).collect())
}

/// Whether [`clean`] would leave `path` as it is.
pub fn is_clean(path: &str) -> bool {
    let Some(rest) = path.strip_prefix('/') else {
        return false;
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    (rest.is_empty() && path.len() == 1)
        || rest.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// The shortest path that means the same: without empty elements, `.` and `..`; a trailing slash stays.
pub fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let mut cleaned = String::with_capacity(path.len());
    for part in &parts {
        cleaned.push('/');
        cleaned.push_str(part);
    }
    if cleaned.is_empty() || path.ends_with('/') {
        cleaned.push('/');
    }
    cleaned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_of_queries_are_resolved() {
        assert_eq!(Some(b"a b+\n\xff".to_vec()), unescape(b"a+b%2B%0a%FF"));
        for text in [&b"%"[..], b"%1", b"%1g", b"a%%20"] {
            assert_eq!(None, unescape(text));
        }
    }

    #[test]
    fn clean_paths_are_known_without_cleaning_them() {
        for path in [
            "/", "//", "/a", "/a/", "/a//", "//a", "/.", "/a/./b", "/a/../b", "/..a/.b", "a", "*",
            "",
        ] {
            assert_eq!(clean(path) == path, is_clean(path), "{path:?}");
        }
    }

    #[test]
    fn paths_are_cleaned_as_the_vectors_say() {
        let text = include_str!("../../testdata/paths.json");
        let vectors: serde_json::Value = serde_json::from_str(text).unwrap();
        for case in vectors["last_element"].as_array().unwrap() {
            let path = case["path"].as_str().unwrap();
            if path.starts_with('/') {
                let cleaned = clean(path);
                assert_eq!(cleaned == path, is_clean(path), "{path}");
                // The vectors give the form without trailing slash; routing keeps the slash.
                let cleaned = if cleaned == "/" { "/" } else { cleaned.trim_end_matches('/') };
                assert_eq!(case["cleaned"].as_str().unwrap(), cleaned);
            }
        }
    }
}
