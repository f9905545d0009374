//! The errors of TLS in words: for each of them one sentence that says what to do.
//!
//! An error reads differently in the error log of the server, about a client, and for a client, about a
//! server. Details that may be secret are left out.

mod alerts;
mod sentences;
#[cfg(test)]
pub mod tests;

use std::{io, net::IpAddr};

use rustls::Error as TlsError;

use super::verify::{Refusal, refusal_in};

/// Settings of the client that error texts name.
#[derive(Clone, Copy, Debug)]
pub struct Hints {
    /// The one with the trusted certificates.
    pub trust: &'static str,
    /// The one with the address of the server.
    pub endpoint: &'static str,
    /// The advice about the certificate that is shown to the server.
    pub certificate: &'static str,
    /// The way to go on without trust; empty if there is none.
    pub or_skip: &'static str,
}

/// Of a server, for its clients' certificates.
const SERVER: Hints = Hints {
    trust: "SSL_CERT_FILE or SSL_CERT_DIR",
    endpoint: "",
    certificate: "",
    or_skip: "; or start with --auth off (with \"admin\" in the file: tls.ca, or tls.auth: off)",
};

/// Why a handshake with a client failed, in the words that operators know from KES, and what to do
/// about it.
pub fn of_client(error: &TlsError) -> String {
    if let TlsError::AlertReceived(alert) = error {
        return match alerts::find(*alert) {
            Some((name, client, _)) => format!("remote error: tls: {name}: {client}"),
            None => format!("remote error: tls: alert {}", u8::from(*alert)),
        };
    }
    let (client, _) = sentences::of(error);
    match error {
        TlsError::InvalidCertificate(_) => format!(
            "tls: failed to verify client certificate: x509: {}",
            fill(client, &SERVER, refusal_in(error))
        ),
        _ => format!("tls: {client}"),
    }
}

/// Why the connection of a client broke in the handshake.
pub fn of_client_io(error: &io::Error) -> String {
    use io::ErrorKind::*;
    let text = match error.kind() {
        UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe | NotConnected
        | ConnectionRefused | AddrNotAvailable | PermissionDenied => {
            "client closed the connection before the handshake was over"
        }
        HostUnreachable | NetworkUnreachable | NetworkDown => "no way leads back to the client",
        TimedOut | WouldBlock => "client does not answer",
        _ => return error.to_string(),
    };
    text.to_owned()
}

pub fn of_server(error: &TlsError, hints: &Hints) -> String {
    let TlsError::AlertReceived(alert) = error else {
        let (client, server) = sentences::of(error);
        return match server {
            sentences::THE_SAME => {
                fill(&format!("its {client}{{or_skip}}"), hints, refusal_in(error))
            }
            server => fill(server, hints, refusal_in(error)),
        };
    };
    match alerts::find(*alert) {
        Some((name, _, server)) => {
            format!("it refused the TLS connection ({name}): {}", fill(server, hints, None))
        }
        None => format!("it refused the TLS connection (alert {})", u8::from(*alert)),
    }
}

/// Puts what depends on the reader, or on the certificate, in the place of names in braces.
fn fill(text: &str, hints: &Hints, refusal: Option<&Refusal>) -> String {
    let (mut wanted, mut found, mut kind) = ("", String::new(), "");
    match refusal {
        Some(Refusal::Authority(Some(host)) | Refusal::Version(Some(host))) => wanted = host,
        Some(Refusal::Host { wanted: host, found: hosts }) => {
            (wanted, found) = (host, hosts.join(", "));
        }
        Some(Refusal::Identity { wanted: set, found: own }) => (wanted, found) = (set, own.clone()),
        Some(Refusal::Key(of)) => kind = of,
        _ => {}
    }
    let host = match wanted.parse::<IpAddr>() {
        Ok(address) => format!("IP:{address}"),
        Err(_) if wanted.is_empty() => "DNS:HOST".to_owned(),
        Err(_) => format!("DNS:{wanted}"),
    };
    let values = [
        ("{trust}", hints.trust),
        ("{endpoint}", hints.endpoint),
        ("{certificate}", hints.certificate),
        ("{or_skip}", hints.or_skip),
        ("{keys}", "P-256, P-384, Ed25519 and RSA (2048 to 8192 bits)"),
        ("{host}", &host),
        ("{wanted}", wanted),
        ("{found}", &found),
        ("{kind}", kind),
    ];
    values.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value))
}
