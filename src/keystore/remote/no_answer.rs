//! Why a key store gives no answer, and what to look at.

use std::io;

use rustls::{CertificateError, Error as TlsError};
use ureq::Timeout;

use super::CONNECT_TIMEOUT;

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
    /// What `error` means for a request to `url`. `ca_field` is the field of the configuration with the
    /// trusted authorities.
    pub(super) fn new(method: &str, url: &str, error: &ureq::Error, ca_field: &str) -> Self {
        let tls = tls_error(error);
        let is_refused =
            matches!(error, ureq::Error::Io(e) if e.kind() == io::ErrorKind::ConnectionRefused);
        // A lookup says nothing about the connections that there are.
        let is_timeout =
            matches!(error, ureq::Error::Timeout(during) if *during != Timeout::Resolve);
        let why = match (error, tls) {
            (_, Some(TlsError::InvalidCertificate(e))) => match e {
                CertificateError::UnknownIssuer | CertificateError::Other(_) => {
                    format!("its certificate is not trusted: set {ca_field} to its authority")
                }
                CertificateError::NotValidForName
                | CertificateError::NotValidForNameContext { .. } => {
                    "its certificate is for another host: check the endpoint".to_owned()
                }
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    "its certificate has expired, or the clock of this machine is wrong".to_owned()
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    "its certificate is not valid yet, or the clock of this machine is wrong"
                        .to_owned()
                }
                e => format!("its certificate is refused: {e}"),
            },
            (_, Some(TlsError::AlertReceived(alert))) => format!(
                "it refused the TLS connection ({alert:?}): does it want a client certificate?"
            ),
            (_, Some(TlsError::InvalidMessage(_))) => {
                "it does not speak TLS: is the endpoint http instead of https?".to_owned()
            }
            (_, Some(e)) => e.to_string(),
            (ureq::Error::Io(_), _) if is_refused => {
                "connection refused: is it running, and is the endpoint right?".to_owned()
            }
            (ureq::Error::HostNotFound, _) => {
                "no such host: check the endpoint and the name service".to_owned()
            }
            (ureq::Error::Timeout(Timeout::Resolve), _) => {
                "no name server has told the address of the host in time: check /etc/resolv.conf"
                    .to_owned()
            }
            (ureq::Error::Timeout(Timeout::Connect), _) => format!(
                "no connection within {} s: is it running, and does a firewall let us through?",
                CONNECT_TIMEOUT.as_secs()
            ),
            (ureq::Error::Timeout(_), _) => "no answer in time".to_owned(),
            (ureq::Error::Io(e), _) if e.kind() == io::ErrorKind::UnexpectedEof => {
                "the connection was closed without an answer".to_owned()
            }
            (ureq::Error::Io(e), _) => e.to_string(),
            (e, _) => e.to_string(),
        };
        Self {
            why: format!("{method} {url}: {why}"),
            is_timeout,
            may_pass: tls.is_none()
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

/// The TLS error inside: connections report theirs as errors of reading and writing.
fn tls_error(error: &ureq::Error) -> Option<&TlsError> {
    match error {
        ureq::Error::Rustls(e) => Some(e),
        ureq::Error::Io(e) => e.get_ref()?.downcast_ref(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lookup_that_fails_is_told_apart_from_a_host_that_does_not_answer() {
        let why = |error| {
            let no_answer = NoAnswer::new("GET", "https://bao/", &error, "vault.tls.ca");
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
