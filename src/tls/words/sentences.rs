//! The table of errors: what each means about a client and about a server.

use rustls::{
    CertificateError, Error as TlsError, InvalidMessage, PeerIncompatible, PeerMisbehaved,
};

use crate::tls::verify::{Refusal, refusal_in};

/// In words about a client and in words about a server. Names in braces stand for what depends on the
/// reader, or on the certificate.
type Sentences = (&'static str, &'static str);

/// About a server, a certificate is described as about a client.
pub const THE_SAME: &str = "";

pub fn of(error: &TlsError) -> Sentences {
    if let Some(refusal) = refusal_in(error) {
        return of_refusal(refusal);
    }
    match error {
        TlsError::InvalidCertificate(reason) => of_certificate(reason),
        TlsError::NoCertificatesPresented => (
            "client didn't provide a certificate: it has none, or one with a kind of key that does \
             not work here: P-256, P-384, Ed25519 and RSA (2048 to 8192 bits) do, P-521 and RSA-PSS \
             do not",
            "it showed no certificate: does something on the way answer for it?",
        ),
        TlsError::NoApplicationProtocol => (
            "client offers neither h2 nor http/1.1 (ALPN): let it speak HTTP",
            "it does not offer http/1.1 (ALPN): is {endpoint} right?",
        ),
        TlsError::PeerIncompatible(reason) => of_settings(reason),
        TlsError::InvalidMessage(
            InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
        ) => (
            "client does not speak TLS: does it use http:// instead of https://?",
            "it does not speak TLS: is it for http:// instead of https://, and is {endpoint} right?",
        ),
        TlsError::PeerMisbehaved(PeerMisbehaved::InvalidKeyShare) => (
            "client breaks the rules of TLS: its key share is invalid: update it",
            "it breaks the rules of TLS: its key share is invalid: update it",
        ),
        TlsError::InvalidMessage(_)
        | TlsError::InappropriateMessage { .. }
        | TlsError::InappropriateHandshakeMessage { .. }
        | TlsError::PeerMisbehaved(_)
        | TlsError::PeerSentOversizedRecord
        | TlsError::DecryptError => (
            "client breaks the rules of TLS, or something on the way changes what it sends",
            "it breaks the rules of TLS, or something on the way changes what it sends: is {endpoint} \
             right?",
        ),
        _ => (
            "TLS failed in this server: has the machine run out of memory or randomness?",
            "TLS failed on this side: has this machine run out of memory or randomness?",
        ),
    }
}

fn of_settings(reason: &PeerIncompatible) -> Sentences {
    use PeerIncompatible::*;
    match reason {
        // TLS 1.1 lacks the signature algorithms, which are missed first.
        SupportedVersionsExtensionRequired
        | Tls12NotOffered
        | Tls12NotOfferedOrEnabled
        | ServerDoesNotSupportTls12Or13
        | ServerTlsVersionIsDisabledByOurConfig
        | SignatureAlgorithmsExtensionRequired => (
            "client is not compatible: it does not offer TLS 1.3, which it needs here: allow it \
             there, or update the client",
            "it speaks neither TLS 1.2 nor 1.3: allow them there, or update it",
        ),
        NoKxGroupsInCommon | NamedGroupsExtensionRequired | KeyShareExtensionRequired => (
            "client is not compatible: it has none of the key exchange groups in tls.groups",
            "it has none of the key exchange groups X25519MLKEM768, X25519, P-256 and P-384: allow one \
             there",
        ),
        NoCipherSuitesInCommon => (
            "client is not compatible: it has none of the cipher suites of TLS 1.3: allow \
             TLS_AES_128_GCM_SHA256 there",
            "it has none of the cipher suites here: allow those with AES-GCM or ChaCha20-Poly1305 \
             there",
        ),
        NoSignatureSchemesInCommon | NoCertificateRequestSignatureSchemesInCommon => (
            "client is not compatible: it can't check the kind of key that the certificate in \
             tls.cert has: use one with a P-256 key",
            "it has, or wants, no kind of key that works here: {keys} do",
        ),
        _ => (
            "client is not compatible: its TLS lacks what TLS 1.3 requires: update it",
            "its TLS lacks what TLS 1.2 and 1.3 require: update it",
        ),
    }
}

fn of_certificate(reason: &CertificateError) -> Sentences {
    use CertificateError::*;
    match reason {
        UnknownIssuer => (
            "certificate signed by unknown authority: put that authority, or the certificate itself, \
             into {trust} and reload{or_skip}",
            "its certificate is not trusted: set {trust} to its authority, or to the certificate \
             itself{or_skip}",
        ),
        Expired | ExpiredContext { .. } => (
            "certificate has expired or is not yet valid: expired: renew it, or set the clock of this \
             machine",
            "its certificate has expired, or the clock of this machine is wrong{or_skip}",
        ),
        NotValidYet | NotValidYetContext { .. } => (
            "certificate has expired or is not yet valid: not yet valid: make a new one, or set the \
             clock of this machine",
            "its certificate is not valid yet, or the clock of this machine is wrong{or_skip}",
        ),
        InvalidPurpose | InvalidPurposeContext { .. } => (
            "certificate specifies an incompatible key usage: it needs the extended key usage \
             clientAuth, or none at all",
            "its certificate is not for servers: it needs the extended key usage serverAuth, or none \
             at all{or_skip}",
        ),
        BadEncoding => ("certificate can't be read: make a new one", THE_SAME),
        // In the handshake: what is wrong with signatures in certificates is a refusal.
        BadSignature | UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => (
            "client does not hold the private key of its certificate, or that key is an RSA key of \
             less than 2048 bits",
            "it does not hold the private key of its certificate, or that key is an RSA key of less \
             than 2048 bits",
        ),
        _ => BREAKS_A_RULE,
    }
}

const BREAKS_A_RULE: Sentences = (
    "certificate or its chain breaks a rule: look at its path lengths, name constraints and critical \
     extensions (openssl verify)",
    THE_SAME,
);

fn of_refusal(refusal: &Refusal) -> Sentences {
    match refusal {
        Refusal::Authority(_) => (
            "certificate is one of a certificate authority (CA:TRUE, as openssl req -x509 makes it) \
             that is not itself in {trust}: put it there as it is, or put one there that is none: kes \
             tool identity new, or openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 \
             -nodes -keyout client.key -out client.crt -days 365 -subj /CN=client -addext \
             basicConstraints=critical,CA:FALSE; then reload{or_skip}",
            "its certificate is not trusted: it is one of a certificate authority (CA:TRUE, as openssl \
             req -x509 makes it) that is not itself in {trust}: set {trust} to it as it is, or to one \
             that is none: openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
             -keyout server.key -out server.crt -days 365 -subj /CN=server -addext \
             basicConstraints=critical,CA:FALSE -addext subjectAltName={host}{or_skip}",
        ),
        Refusal::IssuerOfVersion1 => (
            "certificate signed by unknown authority: it is of X.509 version 1, so the certificate \
             that issued it must itself be in {trust}: put that there and reload, or issue one of \
             version 3 (openssl x509 -req with -extfile){or_skip}",
            "its certificate is not trusted: set {trust} to its authority{or_skip}",
        ),
        Refusal::Version(_) => (
            "certificate is of an X.509 version that is not supported: make one of version 3",
            "its certificate is not of X.509 version 3, so it names no host: make one with \
             subjectAltName={host} (openssl x509 -req with -extfile){or_skip}",
        ),
        Refusal::OnlyForIssuing => (
            "certificate specifies an incompatible key usage: it is for issuing certificates only: it \
             needs the key usage digitalSignature, or none at all",
            "its certificate is for issuing certificates only: it needs the key usage \
             digitalSignature, or none at all{or_skip}",
        ),
        Refusal::Host { found, .. } if found.is_empty() => (
            "certificate names no host",
            "its certificate names no host: make one with subjectAltName={host} (openssl req -x509 \
             with -addext, or kes tool identity new --server){or_skip}",
        ),
        Refusal::Host { .. } => (
            "certificate is for another host",
            "its certificate is for another host: it is for {found}, not for {wanted}: check \
             {endpoint}{or_skip}",
        ),
        Refusal::Identity { .. } => (
            "certificate has another identity",
            "its identity is {found}, not {wanted} as set: check {endpoint}, or set its own if the \
             server has a new key",
        ),
        Refusal::Algorithm => (
            "certificate, or one of its chain, is signed in a way that is not supported: sign with \
             SHA-256 and a P-256, P-384, Ed25519 or RSA (2048 to 8192 bits) key",
            THE_SAME,
        ),
        Refusal::Rule => BREAKS_A_RULE,
        Refusal::Key(_) => (
            "certificate has a {kind} key, which does not work here: {keys} do",
            "its certificate has a {kind} key, which does not work here: {keys} do",
        ),
    }
}
