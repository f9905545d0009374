//! Whether every error has its words.

use std::fmt::Debug;

use rustls::{
    CertificateError, InconsistentKeys, InvalidMessage, PeerIncompatible, PeerMisbehaved,
};

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
    for misbehaved in
        [PeerMisbehaved::InvalidKeyShare, PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme]
    {
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
            Refusal::Identity { wanted: "a".repeat(64), found: "b".repeat(64) },
            host(&["a.example.com", "192.0.2.1"]),
            host(&[]),
        ]
        .map(TlsError::from),
    );
    errors.extend((0..=255).map(|alert| TlsError::AlertReceived(alert.into())));
    errors
}

/// Asserts that `text` is a sentence, without gaps and without the names that libraries have for
/// `error`.
#[track_caller]
pub fn is_for_people(text: &str, error: &impl Debug) {
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
fn each_error_of_tls_has_a_sentence_at_both_ends() {
    for error in tls_errors() {
        is_for_people(&of_client(&error), &error);
        is_for_people(&of_server(&error, &HINTS), &error);
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

#[test]
fn the_way_to_go_on_without_trust_is_that_of_either_format() {
    let text = of_client(&TlsError::InvalidCertificate(rustls::CertificateError::UnknownIssuer));
    for word in ["--auth off", "tls.ca", "tls.auth: off"] {
        assert!(text.contains(word), "{text}");
    }
}
