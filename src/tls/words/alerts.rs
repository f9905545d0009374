//! The alerts that the other end sends: what they are called, and what they mean.

use rustls::AlertDescription;

/// Its name, and what it means from a client and from a server.
type Alert = (&'static str, &'static str, &'static str);

pub fn find(alert: AlertDescription) -> Option<Alert> {
    use AlertDescription::*;
    const UNTRUSTED: &str = "client does not trust the certificate of this server: let it trust that, or \
                             its authority, and ask for a host in its subjectAltName";
    const REFUSED: &str = "it refused the client certificate, or wants one: {certificate}";
    const GARBLED: &str = "something on the way may change what is sent";
    const UPDATE: &str = "update the client";
    let name = match alert {
        UnknownCA => "unknown certificate authority",
        BadCertificate => "bad certificate",
        CertificateUnknown => "unknown certificate",
        UnsupportedCertificate => "unsupported certificate",
        AccessDenied => "access denied",
        NoCertificate => "no certificate",
        CertificateExpired => "expired certificate",
        CertificateRevoked => "revoked certificate",
        CertificateRequired => "certificate required",
        HandshakeFailure => "handshake failure",
        ProtocolVersion => "protocol version not supported",
        InsufficientSecurity => "insufficient security level",
        UnrecognisedName => "unrecognized name",
        NoApplicationProtocol => "no application protocol",
        DecryptError => "error decrypting message",
        InternalError => "internal error",
        UserCanceled => "user canceled",
        UnexpectedMessage => "unexpected message",
        BadRecordMac => "bad record MAC",
        DecryptionFailed => "decryption failed",
        RecordOverflow => "record overflow",
        IllegalParameter => "illegal parameter",
        DecodeError => "error decoding message",
        MissingExtension => "missing extension",
        UnsupportedExtension => "unsupported extension",
        InappropriateFallback => "inappropriate fallback",
        UnknownPSKIdentity => "unknown PSK identity",
        NoRenegotiation => "no renegotiation",
        _ => return None,
    };
    let (client, server) = match alert {
        UnknownCA => {
            (UNTRUSTED, "it does not know who issued the client certificate: {certificate}")
        }
        CertificateRequired => (UNTRUSTED, "it wants a client certificate: {certificate}"),
        BadCertificate
        | CertificateUnknown
        | UnsupportedCertificate
        | AccessDenied
        | NoCertificate
        | DecryptError => (UNTRUSTED, REFUSED),
        CertificateExpired => (
            "the certificate of this server has expired for the client: renew it, or set the clock of \
             the client",
            "the client certificate has expired for it: {certificate}",
        ),
        CertificateRevoked => (
            "the certificate of this server is revoked: renew it",
            "the client certificate is revoked: {certificate}",
        ),
        HandshakeFailure => (
            "client and server have nothing in common: update the client",
            "it has no version of TLS, cipher or kind of key in common with us, or wants a client \
             certificate: {certificate}",
        ),
        ProtocolVersion => (
            "client does not speak TLS 1.3: update it",
            "it speaks neither TLS 1.2 nor 1.3: allow them there, or update it",
        ),
        InsufficientSecurity => (
            "client asks for stronger ciphers: allow those of TLS 1.3 there",
            "it asks for stronger ciphers: allow those of TLS 1.3 there",
        ),
        UnrecognisedName => {
            ("client knows no such host", "it serves no host of that name: check {endpoint}")
        }
        NoApplicationProtocol => {
            ("client does not speak HTTP", "it does not speak HTTP/1.1: check {endpoint}")
        }
        InternalError => ("look at the log of the client", "look at its log"),
        UserCanceled => ("client gave up", "it gave up: look at its log"),
        MissingExtension | UnsupportedExtension | NoRenegotiation => (UPDATE, "update it"),
        UnknownPSKIdentity => ("let the client connect anew", "try again"),
        _ => (GARBLED, GARBLED),
    };
    Some((name, client, server))
}
