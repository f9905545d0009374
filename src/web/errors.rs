//! Why a server gives no answer: for each error one sentence that says what to do.

use std::{io, time::Duration};

use ureq::{Error, Timeout};

use crate::tls::words::{self, Hints};

/// Errors of the system about a connection to a server.
const SYSTEM: &[(io::ErrorKind, &str)] = {
    use io::ErrorKind::*;
    const CUT: &str = "it closed the connection while it was asked: does it restart, or want a client \
                       certificate ({certificate})?";
    const NO_WAY: &str = "no way leads there: check {endpoint} and the network of this machine";
    &[
        (UnexpectedEof, "the connection was closed without an answer: is {endpoint} right?"),
        (ConnectionReset, CUT),
        (ConnectionAborted, CUT),
        (BrokenPipe, CUT),
        (NotConnected, CUT),
        (ConnectionRefused, "connection refused: is it running, and is {endpoint} right?"),
        (HostUnreachable, NO_WAY),
        (NetworkUnreachable, NO_WAY),
        (NetworkDown, NO_WAY),
        (TimedOut, LATE),
        (WouldBlock, LATE),
        (AddrNotAvailable, "this machine has no address or port left to ask from"),
        (PermissionDenied, "this machine does not let us ask it: check its firewall"),
    ]
};

const LATE: &str = "no answer in time";

/// Why a server gives no answer, and what to do about it. `connect_timeout` is the one of the client.
pub fn reason(error: &Error, hints: &Hints, connect_timeout: Duration) -> String {
    if let Some(error) = tls_error(error) {
        return words::of_server(error, hints);
    }
    let text = match error {
        Error::Io(e) => match SYSTEM.iter().find(|(kind, _)| *kind == e.kind()) {
            Some((_, text)) => text,
            None => return e.to_string(),
        },
        Error::HostNotFound => "no such host: check {endpoint} and the name service",
        Error::Timeout(Timeout::Resolve) => {
            "no name server gave the address of the host in time: check /etc/resolv.conf"
        }
        Error::Timeout(Timeout::Connect) => {
            return format!(
                "no connection within {} s: is it running, does it hang, and does a firewall let us through?",
                connect_timeout.as_secs()
            );
        }
        Error::Timeout(_) => LATE,
        Error::Protocol(_) => "it does not speak HTTP/1.1: is {endpoint} right?",
        Error::LargeResponseHeader(..) => "the head of its answer is too large",
        Error::BodyExceedsLimit(_) => "its answer is too large",
        Error::BadUri(_) | Error::Http(_) => {
            "this can't be asked over HTTP: look for odd characters in {endpoint} and in what is sent"
        }
        Error::ConnectProxyFailed(why) => {
            const REFUSED: &str = "the proxy does not connect us to it";
            let status = why.rsplit('/').next().filter(|status| status.parse::<u16>().is_ok());
            return match status {
                None => REFUSED.to_owned(),
                Some("407") => {
                    format!("{REFUSED} (status 407): write user and password into HTTPS_PROXY")
                }
                Some(status) => format!("{REFUSED} (status {status})"),
            };
        }
        _ => "there is no connection: is {endpoint} right?",
    };
    text.replace("{endpoint}", hints.endpoint).replace("{certificate}", hints.certificate)
}

/// The TLS error inside: connections report theirs as errors of reading and writing.
pub fn tls_error(error: &Error) -> Option<&rustls::Error> {
    match error {
        Error::Io(e) => e.get_ref()?.downcast_ref(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use ureq::Error::*;

    use super::*;
    use crate::tls::words::tests::is_for_people;

    const HINTS: Hints = Hints {
        trust: "vault.tls.ca",
        endpoint: "the endpoint",
        certificate: "check vault.tls.cert",
        or_skip: "",
    };

    fn words(error: &Error) -> String {
        reason(error, &HINTS, Duration::from_secs(5))
    }

    #[test]
    fn each_error_is_a_sentence_without_the_terms_of_the_library() {
        let of_tls = rustls::Error::NoApplicationProtocol;
        let of_tls = io::Error::new(io::ErrorKind::InvalidData, of_tls);
        let system = SYSTEM.iter().map(|(kind, _)| Io((*kind).into()));
        for error in system.chain([
            Io(of_tls),
            HostNotFound,
            Timeout(ureq::Timeout::Resolve),
            Timeout(ureq::Timeout::Connect),
            Timeout(ureq::Timeout::Global),
            LargeResponseHeader(1, 2),
            BodyExceedsLimit(1),
            BadUri("BadUri".into()),
            ConnectProxyFailed("ProxyText".into()),
            ConnectProxyFailed("ProxyText 403/403".into()),
            ConnectionFailed,
            TlsRequired,
        ]) {
            is_for_people(&words(&error), &error);
        }
        let refused = Io(io::ErrorKind::ConnectionRefused.into());
        assert_eq!(
            "connection refused: is it running, and is the endpoint right?",
            words(&refused)
        );
        let other = Io(io::Error::other("the name can't be looked up"));
        assert_eq!("the name can't be looked up", words(&other));
    }
}
