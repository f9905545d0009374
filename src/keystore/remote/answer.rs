//! Answers of a key store behind HTTP, and why there is none.

use std::fmt;

use serde::Deserialize;
use serde_json::Value;
use ureq::Timeout;

use crate::{base::secret::Secret, keystore::store::Error, web::errors};

/// The longest text of a key store in an error, in characters.
const MAX_SAID: usize = 200;

/// An answer of any status.
pub(crate) struct Answer {
    /// Method and URL of the request, for error texts.
    pub(crate) asked: String,
    /// Path and query of the request.
    pub(crate) path: String,
    pub(crate) status: u16,
    pub(crate) body: Secret,
    /// What the question held that no error may repeat.
    pub(crate) hidden: Secret,
    /// The header `X-Vault-Index`.
    pub(crate) index: Option<String>,
}

impl Answer {
    /// A 5xx status that may pass.
    pub(crate) fn may_pass(&self) -> bool {
        self.status >= 500 && self.status != 501
    }

    /// Whether the text of an error contains `word`.
    pub(crate) fn says(&self, word: &str) -> bool {
        self.status >= 400 && String::from_utf8_lossy(self.body.expose()).contains(word)
    }

    /// Reads the JSON of the answer.
    pub(crate) fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Failed> {
        // The text of the parser's error may hold parts of the value.
        serde_json::from_slice(self.body.expose()).map_err(|e| {
            if self.body.expose().trim_ascii_start().starts_with(b"<") {
                return self.unusable(
                    "the answer is a web page, and not JSON: check the endpoint, and what stands in front of it",
                );
            }
            let (line, column) = (e.line(), e.column());
            self.unusable(&format!(
                "the answer is not the JSON that is expected (line {line} column {column})"
            ))
        })
    }

    /// The whole body as one short line.
    pub(crate) fn text(&self) -> String {
        clean(&String::from_utf8_lossy(self.body.expose()))
    }

    /// The error for an answer that makes no sense.
    pub(crate) fn unusable(&self, why: &str) -> Failed {
        Failed::Other(format!("{}: {why}", self.asked))
    }

    /// The error for an answer with the wrong status: what the key store `said`, and what to check;
    /// both may be empty. What repeats a secret of the question, as something in front of the key store may, is left
    /// out.
    pub(crate) fn refusal(&self, said: &str, hint: &str) -> Failed {
        let said = if holds_part(said, &self.hidden) { REPEATED } else { said };
        let mut why = format!("status {}", self.status);
        for part in [said, hint].into_iter().filter(|part| !part.is_empty()) {
            why = format!("{why}: {part}");
        }
        self.unusable(&why)
    }

    #[cfg(any(test, fuzzing))]
    pub(crate) fn fake(status: u16, body: &str) -> Self {
        Self {
            asked: "GET https://example.com/".to_owned(),
            path: "/".to_owned(),
            status,
            body: Secret::new(body.as_bytes().to_vec()),
            hidden: Secret::new(Vec::new()),
            index: None,
        }
    }
}

/// The value at `pointer` (RFC 6901), or null.
pub(crate) fn take(json: &mut Value, pointer: &str) -> Value {
    json.pointer_mut(pointer).map_or(Value::Null, Value::take)
}

/// Stands for a text that must not be quoted.
const REPEATED: &str = "a text that repeats what is secret";

/// Whether `text` repeats a part of `secret` that is more than a word.
fn holds_part(text: &str, secret: &Secret) -> bool {
    const TELLING: usize = 8;
    let is_between = |byte: &u8| !byte.is_ascii_graphic() || b"\"\\{}:,".contains(byte);
    let parts = secret.expose().split(is_between);
    parts
        .flat_map(|part| part.windows(TELLING))
        .any(|part| memchr::memmem::find(text.as_bytes(), part).is_some())
}

/// The beginning of `text`, in one line without control characters.
pub(crate) fn clean(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    let line = words.join(" ");
    match line.char_indices().nth(MAX_SAID) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

/// Why something was not done.
#[derive(Debug)]
pub(crate) enum Failed {
    /// There is no token to ask with, or the key store is sealed.
    NotReady(Error),
    /// The value is deleted, but not its name.
    Deleted,
    NoAnswer(NoAnswer),
    Other(String),
}

impl Failed {
    /// The error of a key store that failed to do `what`.
    pub(crate) fn during(self, what: impl Into<String>) -> Error {
        match self {
            Self::NotReady(Error::Sealed) => Error::Sealed,
            Self::NotReady(e) => Error::during(what)(e),
            Self::NoAnswer(e) => Error::during(what)(e),
            Self::Deleted => Error::during(what)(
                "version 1 of the secret is deleted or destroyed in Vault, but not its metadata: \
                 undelete it there, or delete the metadata",
            ),
            Self::Other(why) => Error::during(what)(why),
        }
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::NotReady(error)
    }
}

/// There is no answer.
#[derive(Debug)]
pub(crate) struct NoAnswer {
    /// What happened and what to look at.
    pub(crate) why: String,
    /// It took too long, which may be due to the connection.
    pub(crate) is_timeout: bool,
    /// The same may work a moment later; it may also have taken effect.
    pub(crate) may_pass: bool,
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::error::Error for NoAnswer {}

impl NoAnswer {
    /// What `error`, which means `why`, says about a request.
    pub(crate) fn new(error: &ureq::Error, why: String) -> Self {
        use ureq::Error::{ConnectionFailed, HostNotFound, Io, Protocol, Timeout as Late};
        Self {
            why,
            // A lookup says nothing about the connections that there are.
            is_timeout: matches!(error, Late(during) if *during != Timeout::Resolve),
            may_pass: errors::tls_error(error).is_none()
                && matches!(error, Io(_) | Late(_) | ConnectionFailed | HostNotFound | Protocol(_)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn texts_are_one_short_line() {
        assert_eq!("a b", clean("\r\n a\tb\u{7}\n"));
        assert_eq!("\u{e9}".repeat(MAX_SAID) + "...", clean(&"\u{e9}".repeat(1000)));
    }

    #[test]
    fn parts_of_secrets_are_found() {
        let secret = Secret::new(br#"{"bytes":"AbCdEfGhIjKl+/=="}"#.to_vec());
        assert!(holds_part("bad value: AbCdEfGhIjKl", &secret));
        assert!(holds_part("...EfGhIjKl", &secret));
        assert!(!holds_part("bytes: bad value AbCdEfG", &secret));
    }

    #[test]
    fn only_timeouts_of_connections_count_and_all_may_pass() {
        for (error, is_timeout) in [
            (ureq::Error::Io(io::Error::other("DNS does not work")), false),
            (ureq::Error::Timeout(Timeout::Resolve), false),
            (ureq::Error::Timeout(Timeout::Connect), true),
        ] {
            let no_answer = NoAnswer::new(&error, String::new());
            assert!(no_answer.may_pass, "another try may work: {error}");
            assert_eq!(is_timeout, no_answer.is_timeout, "{error}");
        }
    }
}
