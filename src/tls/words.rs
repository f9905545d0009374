//! What the errors of libraries mean: for each of them one sentence for people, which says what to do.
//!
//! The same fault is told in two ways: in the error log of the server, about a client; and to whoever
//! asked a server, about that one. What is about the other end, and what may be secret in it, is left
//! out. Knows nothing of requests.

use std::io;

use rustls::{
    AlertDescription, CertificateError, Error as TlsError, InvalidMessage, PeerIncompatible,
    PeerMisbehaved,
};

use crate::tls::{self, Refusal};

/// What the user of a client can set, for error texts.
#[derive(Clone, Copy, Debug)]
pub struct Hints {
    /// What holds the trusted certificates.
    pub trust: &'static str,
    /// What holds the address of the server.
    pub endpoint: &'static str,
    /// What to do about the certificate that is shown to the server.
    pub certificate: &'static str,
    /// How to go on without trust; empty if there is no way.
    pub or_skip: &'static str,
}

/// Of a server, for its clients' certificates.
const SERVER: Hints = Hints {
    trust: "SSL_CERT_FILE or SSL_CERT_DIR",
    endpoint: "",
    certificate: "",
    or_skip: "; or start with --auth off",
};

/// What can go wrong between the two ends of a connection, whatever the library calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    NotTls,
    Garbled,
    KeyShare,
    Version,
    Groups,
    Suites,
    KindOfKey,
    Incompatible,
    NoCertificate,
    Protocol,
    Local,
    Unknown,
    Authority,
    IssuerOfVersion1,
    OtherVersion,
    Expired,
    NotYet,
    Usage,
    OnlyForIssuing,
    OtherHost,
    NoHost,
    Encoding,
    Algorithm,
    Rule,
    Key,
    NotHeld,
}

/// A fault, in words about a client and in words about a server. What stands in braces depends on who
/// reads it, or on the certificate.
type Words = (Fault, &'static str, &'static str);

/// What both ends must agree on.
const HANDSHAKE: &[Words] = &[
    (
        Fault::NotTls,
        "client does not speak TLS: does it use http:// instead of https://?",
        "it does not speak TLS: is it for http:// instead of https://, and is {endpoint} right?",
    ),
    (
        Fault::Garbled,
        "client breaks the rules of TLS, or something on the way changes what it sends",
        "it breaks the rules of TLS, or something on the way changes what it sends: is {endpoint} right?",
    ),
    (
        Fault::KeyShare,
        "client breaks the rules of TLS: its key share is invalid: update it",
        "it breaks the rules of TLS: its key share is invalid: update it",
    ),
    (
        Fault::Version,
        "client is not compatible: it does not offer TLS 1.3, the only version here: allow it there, or \
         update the client",
        "it speaks neither TLS 1.2 nor 1.3: allow them there, or update it",
    ),
    (
        Fault::Groups,
        "client is not compatible: it has none of the key exchange groups in tls.groups",
        "it has none of the key exchange groups X25519MLKEM768, X25519, P-256 and P-384: allow one there",
    ),
    (
        Fault::Suites,
        "client is not compatible: it has none of the cipher suites of TLS 1.3: allow \
         TLS_AES_128_GCM_SHA256 there",
        "it has none of the cipher suites here: allow those with AES-GCM or ChaCha20-Poly1305 there",
    ),
    (
        Fault::KindOfKey,
        "client is not compatible: it can't check the kind of key that the certificate in tls.cert has: \
         use one with a P-256 key",
        "it has, or wants, no kind of key that works here: P-256, P-384, Ed25519 and RSA (2048 to 8192 \
         bits) do",
    ),
    (
        Fault::Incompatible,
        "client is not compatible: its TLS lacks what TLS 1.3 requires: update it",
        "its TLS lacks what TLS 1.2 and 1.3 require: update it",
    ),
    (
        Fault::NoCertificate,
        "client didn't provide a certificate: it has none, or one with a kind of key that does not work \
         here: P-256, P-384, Ed25519 and RSA (2048 to 8192 bits) do, P-521 and RSA-PSS do not",
        "it showed no certificate: does something on the way answer for it?",
    ),
    (
        Fault::Protocol,
        "client offers neither h2 nor http/1.1 (ALPN): let it speak HTTP",
        "it does not offer http/1.1 (ALPN): is {endpoint} right?",
    ),
    (
        Fault::Local,
        "TLS failed in this server: has the machine run out of memory or randomness?",
        "TLS failed on this side: has this machine run out of memory or randomness?",
    ),
];

/// What is wrong with a certificate.
const CERTIFICATE: &[Words] = &[
    (
        Fault::Unknown,
        "certificate signed by unknown authority: put that authority, or the certificate itself, into \
         {trust} and reload{or_skip}",
        "its certificate is not trusted: set {trust} to its authority, or to the certificate \
         itself{or_skip}",
    ),
    (
        Fault::Authority,
        "certificate is one of a certificate authority (CA:TRUE, as openssl req -x509 makes it) that is \
         not itself in {trust}: put it there as it is, or put one there that is none: kes tool identity \
         new, or openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout client.key \
         -out client.crt -days 365 -subj /CN=client -addext basicConstraints=critical,CA:FALSE; then \
         reload{or_skip}",
        "its certificate is not trusted: it is one of a certificate authority (CA:TRUE, as openssl req \
         -x509 makes it) that is not itself in {trust}: set {trust} to it as it is, or to one that is \
         none: openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout server.key \
         -out server.crt -days 365 -subj /CN=server -addext basicConstraints=critical,CA:FALSE -addext \
         subjectAltName={host}{or_skip}",
    ),
    (
        Fault::IssuerOfVersion1,
        "certificate signed by unknown authority: it is of X.509 version 1, so the certificate that \
         issued it must itself be in {trust}: put that there and reload, or issue one of version 3 \
         (openssl x509 -req with -extfile){or_skip}",
        "its certificate is not trusted: set {trust} to its authority{or_skip}",
    ),
    (
        Fault::OtherVersion,
        "certificate is of an X.509 version that is not supported: make one of version 3",
        "its certificate is not of X.509 version 3, so it names no host: make one with \
         subjectAltName={host} (openssl x509 -req with -extfile){or_skip}",
    ),
    (
        Fault::Expired,
        "certificate has expired or is not yet valid: expired: renew it, or set the clock of this \
         machine",
        "its certificate has expired, or the clock of this machine is wrong{or_skip}",
    ),
    (
        Fault::NotYet,
        "certificate has expired or is not yet valid: not yet valid: make a new one, or set the clock of \
         this machine",
        "its certificate is not valid yet, or the clock of this machine is wrong{or_skip}",
    ),
    (
        Fault::Usage,
        "certificate specifies an incompatible key usage: it needs the extended key usage clientAuth, or \
         none at all",
        "its certificate is not for servers: it needs the extended key usage serverAuth, or none at \
         all{or_skip}",
    ),
    (
        Fault::OnlyForIssuing,
        "certificate specifies an incompatible key usage: it is for issuing certificates only: it needs \
         the key usage digitalSignature, or none at all",
        "its certificate is for issuing certificates only: it needs the key usage digitalSignature, or \
         none at all{or_skip}",
    ),
    (
        Fault::OtherHost,
        "certificate is for another host",
        "its certificate is for another host: it is for {found}, not for {wanted}: check \
         {endpoint}{or_skip}",
    ),
    (
        Fault::NoHost,
        "certificate names no host",
        "its certificate names no host: make one with subjectAltName={host} (openssl req -x509 with \
         -addext, or kes tool identity new --server){or_skip}",
    ),
    (
        Fault::Encoding,
        "certificate can't be read: make a new one",
        "its certificate can't be read: make a new one{or_skip}",
    ),
    (
        Fault::Algorithm,
        "certificate, or one of its chain, is signed in a way that is not supported: sign with SHA-256 \
         and a P-256, P-384, Ed25519 or RSA (2048 to 8192 bits) key",
        "its certificate, or one of its chain, is signed in a way that is not supported: sign with \
         SHA-256 and a P-256, P-384, Ed25519 or RSA (2048 to 8192 bits) key{or_skip}",
    ),
    (
        Fault::Rule,
        "certificate or its chain breaks a rule: look at its path lengths, name constraints and critical \
         extensions (openssl verify)",
        "its certificate or its chain breaks a rule: look at its path lengths, name constraints and \
         critical extensions (openssl verify){or_skip}",
    ),
    (
        Fault::Key,
        "certificate has a {kind} key, which does not work here: P-256, P-384, Ed25519 and RSA (2048 to \
         8192 bits) do",
        "its certificate has a {kind} key, which does not work here: P-256, P-384, Ed25519 and RSA (2048 \
         to 8192 bits) do",
    ),
    (
        Fault::NotHeld,
        "client does not hold the private key of its certificate, or that key is an RSA key of less than \
         2048 bits",
        "it does not hold the private key of its certificate, or that key is an RSA key of less than 2048 \
         bits",
    ),
];

/// The alerts that the other end sends: what they are called, and what they mean where a client or a
/// server sent them.
const ALERTS: &[(AlertDescription, &str, &str, &str)] = {
    use AlertDescription::*;
    const UNTRUSTED: &str = "client does not trust the certificate of this server: let it trust that, or \
                             its authority, and ask for a host in its subjectAltName";
    const REFUSED: &str = "it refused the client certificate, or wants one: {certificate}";
    const GARBLED: &str = "something on the way may change what is sent";
    &[
        (
            UnknownCA,
            "unknown certificate authority",
            UNTRUSTED,
            "it does not know who issued the client certificate: {certificate}",
        ),
        (BadCertificate, "bad certificate", UNTRUSTED, REFUSED),
        (CertificateUnknown, "unknown certificate", UNTRUSTED, REFUSED),
        (UnsupportedCertificate, "unsupported certificate", UNTRUSTED, REFUSED),
        (AccessDenied, "access denied", UNTRUSTED, REFUSED),
        (NoCertificate, "no certificate", UNTRUSTED, REFUSED),
        (
            CertificateExpired,
            "expired certificate",
            "the certificate of this server has expired for the client: renew it, or set the clock of the client",
            "the client certificate has expired for it: {certificate}",
        ),
        (
            CertificateRevoked,
            "revoked certificate",
            "the certificate of this server is revoked: renew it",
            "the client certificate is revoked: {certificate}",
        ),
        (
            CertificateRequired,
            "certificate required",
            UNTRUSTED,
            "it wants a client certificate: {certificate}",
        ),
        (
            HandshakeFailure,
            "handshake failure",
            "client and server have nothing in common: update the client",
            "it has no version of TLS, cipher or kind of key in common with us, or wants a client certificate: {certificate}",
        ),
        (
            ProtocolVersion,
            "protocol version not supported",
            "client does not speak TLS 1.3: update it",
            "it speaks neither TLS 1.2 nor 1.3: allow them there, or update it",
        ),
        (
            InsufficientSecurity,
            "insufficient security level",
            "client asks for stronger ciphers: allow those of TLS 1.3 there",
            "it asks for stronger ciphers: allow those of TLS 1.3 there",
        ),
        (
            UnrecognisedName,
            "unrecognized name",
            "client knows no such host",
            "it serves no host of that name: check {endpoint}",
        ),
        (
            NoApplicationProtocol,
            "no application protocol",
            "client does not speak HTTP",
            "it does not speak HTTP/1.1: check {endpoint}",
        ),
        (DecryptError, "error decrypting message", UNTRUSTED, REFUSED),
        (InternalError, "internal error", "look at the log of the client", "look at its log"),
        (UserCanceled, "user canceled", "client gave up", "it gave up: look at its log"),
        (UnexpectedMessage, "unexpected message", GARBLED, GARBLED),
        (BadRecordMac, "bad record MAC", GARBLED, GARBLED),
        (DecryptionFailed, "decryption failed", GARBLED, GARBLED),
        (RecordOverflow, "record overflow", GARBLED, GARBLED),
        (IllegalParameter, "illegal parameter", GARBLED, GARBLED),
        (DecodeError, "error decoding message", GARBLED, GARBLED),
        (MissingExtension, "missing extension", "update the client", "update it"),
        (UnsupportedExtension, "unsupported extension", "update the client", "update it"),
        (InappropriateFallback, "inappropriate fallback", GARBLED, GARBLED),
        (UnknownPSKIdentity, "unknown PSK identity", "let the client connect anew", "try again"),
        (NoRenegotiation, "no renegotiation", "update the client", "update it"),
    ]
};

/// Why a handshake with a client failed, in the words that operators know from the original, and what
/// to do about it.
pub fn of_client(error: &TlsError) -> String {
    if let TlsError::AlertReceived(alert) = error {
        return match ALERTS.iter().find(|(known, ..)| known == alert) {
            Some((_, name, client, _)) => format!("remote error: tls: {name}: {client}"),
            None => format!("remote error: tls: alert {}", u8::from(*alert)),
        };
    }
    let (fault, about) = fault(error);
    let of = |table: &'static [Words]| table.iter().find(|(known, ..)| *known == fault);
    match (of(CERTIFICATE), of(HANDSHAKE)) {
        (Some((_, client, _)), _) => format!(
            "tls: failed to verify client certificate: x509: {}",
            fill(client, &SERVER, &about)
        ),
        (None, Some((_, client, _))) => format!("tls: {client}"),
        (None, None) => "tls: handshake failed".to_owned(),
    }
}

/// Why the connection of a client broke in the handshake.
pub fn of_client_io(error: &io::Error) -> String {
    use io::ErrorKind::*;
    match error.kind() {
        UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe | NotConnected
        | ConnectionRefused | AddrNotAvailable | PermissionDenied => {
            "client closed the connection before the handshake was over".to_owned()
        }
        HostUnreachable | NetworkUnreachable | NetworkDown => {
            "no way leads back to the client".to_owned()
        }
        TimedOut | WouldBlock => "client does not answer".to_owned(),
        _ => error.to_string(),
    }
}

/// Why TLS with a server failed, and what to do about it.
pub fn of_server(error: &TlsError, hints: &Hints) -> String {
    let (text, about) = match error {
        TlsError::AlertReceived(alert) => match ALERTS.iter().find(|(known, ..)| known == alert) {
            Some((_, name, _, server)) => {
                let text = fill(server, hints, &About::default());
                return format!("it refused the TLS connection ({name}): {text}");
            }
            None => {
                let number = u8::from(*alert);
                return format!("it refused the TLS connection (alert {number})");
            }
        },
        error => {
            let (fault, about) = fault(error);
            let mut rows = HANDSHAKE.iter().chain(CERTIFICATE);
            let row = rows.find(|(known, ..)| *known == fault);
            (row.map_or("TLS failed", |(_, _, server)| server), about)
        }
    };
    fill(text, hints, &about)
}

/// What only the certificate at hand can tell.
#[derive(Default)]
struct About {
    wanted: String,
    found: String,
    kind: &'static str,
}

fn fill(text: &str, hints: &Hints, about: &About) -> String {
    let host = match about.wanted.parse::<std::net::IpAddr>() {
        Ok(address) => format!("IP:{address}"),
        Err(_) if about.wanted.is_empty() => "DNS:HOST".to_owned(),
        Err(_) => format!("DNS:{}", about.wanted),
    };
    let values = [
        ("{trust}", hints.trust),
        ("{endpoint}", hints.endpoint),
        ("{certificate}", hints.certificate),
        ("{or_skip}", hints.or_skip),
        ("{host}", &host),
        ("{wanted}", &about.wanted),
        ("{found}", &about.found),
        ("{kind}", about.kind),
    ];
    let mut text = text.to_owned();
    for (name, value) in values {
        text = text.replace(name, value);
    }
    text
}

/// What the library means.
fn fault(error: &TlsError) -> (Fault, About) {
    if let Some(refusal) = tls::refusal_in(error) {
        return refused(refusal);
    }
    let fault = match error {
        TlsError::InvalidCertificate(reason) => certificate_fault(reason),
        TlsError::NoCertificatesPresented => Fault::NoCertificate,
        TlsError::NoApplicationProtocol => Fault::Protocol,
        TlsError::PeerIncompatible(reason) => match reason {
            PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            // What TLS 1.1 does not have is missed first.
            | PeerIncompatible::SignatureAlgorithmsExtensionRequired => Fault::Version,
            PeerIncompatible::NoKxGroupsInCommon
            | PeerIncompatible::NamedGroupsExtensionRequired
            | PeerIncompatible::KeyShareExtensionRequired => Fault::Groups,
            PeerIncompatible::NoCipherSuitesInCommon => Fault::Suites,
            PeerIncompatible::NoSignatureSchemesInCommon
            | PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon => Fault::KindOfKey,
            _ => Fault::Incompatible,
        },
        TlsError::InvalidMessage(
            InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
        ) => Fault::NotTls,
        TlsError::PeerMisbehaved(PeerMisbehaved::InvalidKeyShare) => Fault::KeyShare,
        TlsError::InvalidMessage(_)
        | TlsError::InappropriateMessage { .. }
        | TlsError::InappropriateHandshakeMessage { .. }
        | TlsError::PeerMisbehaved(_)
        | TlsError::PeerSentOversizedRecord
        | TlsError::DecryptError => Fault::Garbled,
        _ => Fault::Local,
    };
    (fault, About::default())
}

fn certificate_fault(reason: &CertificateError) -> Fault {
    match reason {
        CertificateError::UnknownIssuer => Fault::Unknown,
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => Fault::Expired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            Fault::NotYet
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            Fault::Usage
        }
        CertificateError::BadEncoding => Fault::Encoding,
        // Of the handshake: what is wrong with signatures in certificates is a refusal.
        CertificateError::BadSignature
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            Fault::NotHeld
        }
        _ => Fault::Rule,
    }
}

fn refused(refusal: &Refusal) -> (Fault, About) {
    let mut about = About::default();
    let fault = match refusal {
        Refusal::Authority(host) => {
            about.wanted = host.clone().unwrap_or_default();
            Fault::Authority
        }
        Refusal::Version(host) => {
            about.wanted = host.clone().unwrap_or_default();
            Fault::OtherVersion
        }
        Refusal::IssuerOfVersion1 => Fault::IssuerOfVersion1,
        Refusal::OnlyForIssuing => Fault::OnlyForIssuing,
        Refusal::Algorithm => Fault::Algorithm,
        Refusal::Rule => Fault::Rule,
        Refusal::Key(kind) => {
            about.kind = kind;
            Fault::Key
        }
        Refusal::Host { wanted, found } => {
            about.wanted.clone_from(wanted);
            about.found = found.join(", ");
            match found.is_empty() {
                true => Fault::NoHost,
                false => Fault::OtherHost,
            }
        }
    };
    (fault, about)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fmt::Debug;

    use rustls::InconsistentKeys;

    use super::*;

    const HINTS: Hints = Hints {
        trust: "vault.tls.ca",
        endpoint: "the endpoint",
        certificate: "check vault.tls.cert",
        or_skip: "; or use -k",
    };

    /// Everything that goes wrong in handshakes when somebody makes a mistake.
    fn tls_errors() -> Vec<TlsError> {
        let mut errors = vec![
            TlsError::NoCertificatesPresented,
            TlsError::NoApplicationProtocol,
            TlsError::DecryptError,
            TlsError::EncryptError,
            TlsError::PeerSentOversizedRecord,
            TlsError::UnsupportedNameType,
            TlsError::FailedToGetCurrentTime,
            TlsError::FailedToGetRandomBytes,
            TlsError::HandshakeNotComplete,
            TlsError::BadMaxFragmentSize,
            TlsError::General("LibraryText".into()),
            TlsError::InconsistentKeys(InconsistentKeys::KeyMismatch),
            TlsError::InappropriateMessage {
                expect_types: vec![rustls::ContentType::Handshake],
                got_type: rustls::ContentType::ApplicationData,
            },
            TlsError::InappropriateHandshakeMessage {
                expect_types: vec![rustls::HandshakeType::ClientHello],
                got_type: rustls::HandshakeType::Finished,
            },
        ];
        for message in [
            InvalidMessage::InvalidContentType,
            InvalidMessage::UnknownProtocolVersion,
            InvalidMessage::MessageTooShort,
            InvalidMessage::MissingData("ServerName"),
            InvalidMessage::CertificatePayloadTooLarge,
        ] {
            errors.push(message.into());
        }
        {
            use PeerIncompatible::*;
            let all = [
                EcPointsExtensionRequired,
                ExtendedMasterSecretExtensionRequired,
                KeyShareExtensionRequired,
                NamedGroupsExtensionRequired,
                NoCertificateRequestSignatureSchemesInCommon,
                NoCipherSuitesInCommon,
                NoKxGroupsInCommon,
                NoSignatureSchemesInCommon,
                NullCompressionRequired,
                ServerDoesNotSupportTls12Or13,
                ServerTlsVersionIsDisabledByOurConfig,
                SignatureAlgorithmsExtensionRequired,
                SupportedVersionsExtensionRequired,
                Tls12NotOffered,
                Tls12NotOfferedOrEnabled,
            ];
            errors.extend(all.map(TlsError::from));
        }
        for misbehaved in [
            PeerMisbehaved::InvalidKeyShare,
            PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme,
        ] {
            errors.push(misbehaved.into());
        }
        {
            use CertificateError::*;
            let all = [
                BadEncoding,
                Expired,
                NotValidYet,
                Revoked,
                UnhandledCriticalExtension,
                UnknownIssuer,
                BadSignature,
                NotValidForName,
                InvalidPurpose,
                ApplicationVerificationFailure,
                UnsupportedSignatureAlgorithmForPublicKeyContext {
                    signature_algorithm_id: vec![6],
                    public_key_algorithm_id: vec![6],
                },
                UnsupportedSignatureAlgorithmContext {
                    signature_algorithm_id: vec![6],
                    supported_algorithms: Vec::new(),
                },
            ];
            errors.extend(all.map(TlsError::from));
        }
        let host = |found: &[&str]| Refusal::Host {
            wanted: "kes.example.com".into(),
            found: found.iter().map(|name| (*name).to_owned()).collect(),
        };
        errors.extend(
            [
                Refusal::Authority(None),
                Refusal::Authority(Some("kes.example.com".into())),
                Refusal::Version(None),
                Refusal::Version(Some("kes.example.com".into())),
                Refusal::IssuerOfVersion1,
                Refusal::OnlyForIssuing,
                Refusal::Algorithm,
                Refusal::Rule,
                Refusal::Key("P-521"),
                host(&["a.example.com", "192.0.2.1"]),
                host(&[]),
            ]
            .map(TlsError::from),
        );
        errors.extend((0..=255).map(|alert| TlsError::AlertReceived(alert.into())));
        errors
    }

    /// Asserts that `text` is a sentence, and has none of the words that only programmers know `error` by.
    #[track_caller]
    pub(crate) fn is_for_people(text: &str, error: &impl Debug) {
        let debug = format!("{error:?}");
        for name in debug.split(|c: char| !c.is_ascii_alphanumeric()) {
            let is_camel = name
                .as_bytes()
                .windows(2)
                .any(|pair| pair[0].is_ascii_lowercase() && pair[1].is_ascii_uppercase());
            assert!(!is_camel || !text.contains(name), "{name} is in {text:?}");
        }
        assert!(!text.contains(['{', '}']), "{text:?} has a gap");
        assert!(text.contains(' '), "{text:?}");
    }

    #[test]
    fn each_error_of_tls_has_a_sentence_for_people_at_both_ends() {
        for error in tls_errors() {
            is_for_people(&of_client(&error), &error);
            is_for_people(&of_server(&error, &HINTS), &error);
        }
    }

    #[test]
    fn each_fault_has_one_row() {
        let rows = HANDSHAKE.iter().chain(CERTIFICATE);
        let faults: Vec<_> = rows.map(|(fault, ..)| *fault).collect();
        for error in tls_errors() {
            if matches!(error, TlsError::AlertReceived(_)) {
                continue;
            }
            let (fault, _) = fault(&error);
            let count = faults.iter().filter(|known| **known == fault).count();
            assert_eq!(1, count, "{fault:?}");
        }
    }

    #[test]
    fn errors_of_the_system_have_a_sentence_too() {
        use io::ErrorKind::*;
        for kind in [
            UnexpectedEof,
            ConnectionReset,
            ConnectionAborted,
            BrokenPipe,
            NotConnected,
            ConnectionRefused,
            HostUnreachable,
            NetworkUnreachable,
            NetworkDown,
            TimedOut,
            WouldBlock,
            AddrNotAvailable,
            PermissionDenied,
        ] {
            is_for_people(&of_client_io(&kind.into()), &kind);
        }
        let other = io::Error::other("the name can't be looked up");
        assert_eq!("the name can't be looked up", of_client_io(&other));
    }
}
