//! Why a key store gives no answer, and what to look at.

use ureq::Timeout;

use super::CONNECT_TIMEOUT;
use crate::{tls::words::Hints, web::errors};

/// There is no answer.
#[derive(Debug)]
pub(in crate::keystore) struct NoAnswer {
    /// What happened and what to look at.
    pub(in crate::keystore) why: String,
    /// It took too long.
    pub(super) is_timeout: bool,
    /// The same may work a moment later; it may also have taken effect.
    pub(in crate::keystore) may_pass: bool,
}

impl std::fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::error::Error for NoAnswer {}

impl NoAnswer {
    /// What `error` means for a request to `url`.
    pub(super) fn new(method: &str, url: &str, error: &ureq::Error, hints: &Hints) -> Self {
        let why = errors::reason(error, hints, CONNECT_TIMEOUT);
        Self {
            why: format!("{method} {url}: {why}"),
            // A lookup says nothing about the connections that there are.
            is_timeout: matches!(error, ureq::Error::Timeout(during) if *during != Timeout::Resolve),
            may_pass: errors::tls_error(error).is_none()
                && matches!(
                    error,
                    ureq::Error::Io(_)
                        | ureq::Error::Timeout(_)
                        | ureq::Error::ConnectionFailed
                        | ureq::Error::HostNotFound
                        | ureq::Error::Protocol(_)
                ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_lookup_that_fails_is_told_apart_from_a_host_that_does_not_answer() {
        let why = |error| {
            let hints = Hints {
                trust: "vault.tls.ca",
                endpoint: "the endpoint",
                certificate: "",
                or_skip: "",
            };
            let no_answer = NoAnswer::new("GET", "https://bao/", &error, &hints);
            assert!(no_answer.may_pass, "another try may find it");
            no_answer
        };
        let failed = why(ureq::Error::Io(io::Error::other("DNS does not work")));
        assert_eq!("GET https://bao/: DNS does not work", failed.why);
        let late = why(ureq::Error::Timeout(Timeout::Resolve));
        assert!(late.why.contains("no name server"), "{late}");
        assert!(!late.is_timeout, "connections that there are may be fine");
        assert!(why(ureq::Error::Timeout(Timeout::Connect)).is_timeout);
    }
}
