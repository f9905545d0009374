//! Which certificates are trusted, at both ends of a connection.
//!
//! A certificate is trusted if it is itself in the trust store, whatever it says about authorities
//! (`openssl req -x509` calls all it makes one), or if an authority there issued it, directly or
//! through others. Its validity and its usage count in both cases. Knows nothing of handshakes.

use std::{fmt, fs, path::Path, sync::Arc};

use ring::digest;
use rustls::{
    CertificateError, Error as TlsError, OtherError,
    crypto::{WebPkiSupportedAlgorithms, ring::default_provider},
};
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime, pem::PemObject as _};
use webpki::{
    EndEntityCert, Error as PkiError, ExtendedKeyUsageValidator, KeyPurposeId, KeyPurposeIdIter,
    RawPublicKeyEntity, VerifiedPath, anchor_from_trusted_cert, spki_for_anchor,
};

use super::certificate::{Error, pem_reason};
use crate::identity::{self, End};

/// Why a certificate is refused, where rustls has no word for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is one of an authority, and not itself in the trust store. With the host that was asked.
    Authority(Option<String>),
    /// It is of another version than 3, where that is needed. With the host that was asked.
    Version(Option<String>),
    /// It is of version 1, and the certificate of its issuer is not itself in the trust store.
    IssuerOfVersion1,
    /// Its key usage is for issuing certificates only.
    OnlyForIssuing,
    /// It is for these hosts, not for the one that was asked.
    Host {
        wanted: String,
        /// Those in the certificate; none if it has no subjectAltName.
        found: Vec<String>,
    },
    /// It has another identity than the one that is accepted.
    Identity {
        /// The one that is accepted.
        wanted: String,
        /// Its own; empty if it can't be read.
        found: String,
    },
    /// It, or one between it and the trust store, has a signature that can't be checked here.
    Algorithm,
    /// It, or its chain, breaks a rule, or has a critical extension that is unknown here.
    Rule,
    /// It has a key of this kind, which can't be used in handshakes here.
    Key(&'static str),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the certificate is refused")
    }
}

impl std::error::Error for Refusal {}

impl From<Refusal> for TlsError {
    fn from(refusal: Refusal) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refusal))))
    }
}

pub fn refusal_in(error: &TlsError) -> Option<&Refusal> {
    match error {
        TlsError::InvalidCertificate(CertificateError::Other(other)) => other.0.downcast_ref(),
        _ => None,
    }
}

/// The first of these, in brackets; empty if there is none.
pub(super) fn in_brackets(flaws: &[String]) -> String {
    flaws.first().map(|flaw| format!(" ({flaw})")).unwrap_or_default()
}

#[derive(Debug)]
pub struct Anchors {
    /// Those that may issue others.
    issuers: Vec<TrustAnchor<'static>>,
    /// SHA-256 of all certificates.
    certificates: Vec<[u8; 32]>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Anchors {
    /// Trusts these certificates. What is none is ignored.
    pub fn new(certificates: &[CertificateDer<'_>]) -> Self {
        let mut anchors = Self {
            issuers: Vec::new(),
            certificates: Vec::new(),
            algorithms: default_provider().signature_verification_algorithms,
        };
        for certificate in certificates {
            let Ok(anchor) = anchor_from_trusted_cert(certificate) else {
                continue;
            };
            // A client whose own certificate is trusted can't vouch for others.
            if identity::may_issue(certificate) {
                anchors.issuers.push(anchor.to_owned());
            }
            anchors.certificates.push(fingerprint(certificate));
        }
        anchors
    }

    /// The store of the system, or what `SSL_CERT_FILE` and `SSL_CERT_DIR` say, and why parts of it could not be
    /// read.
    pub fn of_system() -> (Self, Vec<String>) {
        let found = rustls_native_certs::load_native_certs();
        let flaws = found.errors.iter().map(ToString::to_string).collect();
        (Self::new(&found.certs), flaws)
    }

    /// Trusts the certificates in the PEM file at `path`, or in all files of the directory there.
    pub fn of_files(path: &Path) -> Result<Self, Error> {
        let fail = |path: &Path, why: String| {
            Error::Other(format!("invalid certificate authorities {path:?}: {why}"))
        };
        let mut files = vec![path.to_owned()];
        if path.is_dir() {
            files = fs::read_dir(path)
                .and_then(|entries| {
                    entries
                        .map(|entry| entry.map(|entry| entry.path()))
                        .collect::<Result<Vec<_>, _>>()
                })
                .map_err(|e| fail(path, e.to_string()))?;
            files.retain(|file| file.is_file());
            files.sort_by_cached_key(|file| file.to_string_lossy().into_owned());
        }
        let mut found = Vec::new();
        for file in &files {
            let text = fs::read(file).map_err(|e| fail(file, e.to_string()))?;
            let before = found.len();
            for certificate in CertificateDer::pem_slice_iter(&text) {
                found.push(certificate.map_err(|e| fail(file, pem_reason(&e)))?);
            }
            if found.len() == before {
                return Err(fail(file, "no PEM block of type CERTIFICATE".to_owned()));
            }
        }
        if found.is_empty() {
            return Err(fail(path, "the directory has no files".to_owned()));
        }
        let anchors = Self::new(&found);
        match anchors.is_empty() {
            true => Err(fail(path, "no certificate in it can be read".to_owned())),
            false => Ok(anchors),
        }
    }

    /// Trusts what `others` trust, too.
    pub(super) fn add(&mut self, others: Self) {
        self.issuers.extend(others.issuers);
        self.certificates.extend(others.certificates);
    }

    pub fn is_empty(&self) -> bool {
        self.certificates.is_empty()
    }

    /// Checks the certificate of a client. `others` came along with it.
    pub fn verify_client(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), TlsError> {
        match identity::is_version_1(leaf) && !self.contains(leaf) {
            true => self.verify_version_1(leaf, now),
            false => self.verify(End::Client, leaf, others, now),
        }
    }

    /// Checks the certificate of the server at `host`. `others` came along with it.
    pub fn verify_server(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), TlsError> {
        let wanted = || host.to_str().into_owned();
        let with_host = |e| match refusal_in(&e) {
            Some(Refusal::Authority(_)) => Refusal::Authority(Some(wanted())).into(),
            Some(Refusal::Version(_)) => Refusal::Version(Some(wanted())).into(),
            _ => e,
        };
        self.verify(End::Server, leaf, others, now).map_err(with_host)?;
        let certificate = EndEntityCert::try_from(leaf).map_err(|e| with_host(refusal(e)))?;
        let is_there = certificate.verify_is_valid_for_subject_name(host);
        is_there.map_err(|_| {
            let (wanted, found) = (wanted(), identity::hosts(leaf));
            Refusal::Host { wanted, found }.into()
        })
    }

    fn contains(&self, leaf: &CertificateDer<'_>) -> bool {
        self.certificates.contains(&fingerprint(leaf))
    }

    fn verify(
        &self,
        end: End,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), TlsError> {
        if self.contains(leaf) {
            return check_trusted(end, leaf, now);
        }
        let certificate = EndEntityCert::try_from(leaf).map_err(refusal)?;
        let verified = certificate.verify_for_usage(
            self.algorithms.all,
            &self.issuers,
            others,
            now,
            Usage(end),
            None,
            Some(&has_issuers_only),
        );
        match verified {
            Ok(_) => Ok(()),
            // One of the others is meant: an authority of version 1 that is not in the store.
            Err(PkiError::UnsupportedCertVersion) => Err(CertificateError::UnknownIssuer.into()),
            Err(e) => Err(refusal(e)),
        }
    }

    /// A certificate of version 1, which webpki does not read. It has no extensions, so there is nothing
    /// but its validity and the signature of its issuer, which must be an authority in the store: one
    /// that comes along would have to be checked as well.
    fn verify_version_1(&self, leaf: &CertificateDer<'_>, now: UnixTime) -> Result<(), TlsError> {
        check_validity(leaf, now)?;
        let signed = identity::signed(leaf).map_err(|_| CertificateError::BadEncoding)?;
        let mut error = TlsError::from(Refusal::IssuerOfVersion1);
        for issuer in &self.issuers {
            // It has no names that could be compared with the constraints.
            if *issuer.subject != *signed.issuer || issuer.name_constraints.is_some() {
                continue;
            }
            match self.check_signature(&signed, issuer) {
                Ok(()) => return Ok(()),
                Err(e) => error = e,
            }
        }
        Err(error)
    }

    fn check_signature(
        &self,
        signed: &identity::Signed<'_>,
        issuer: &TrustAnchor<'_>,
    ) -> Result<(), TlsError> {
        let key = spki_for_anchor(issuer);
        let key = RawPublicKeyEntity::try_from(&key).map_err(refusal)?;
        let mut error = Refusal::Algorithm.into();
        // An algorithm stands here once for each kind of key.
        for algorithm in self.algorithms.all {
            if *algorithm.signature_alg_id() != *signed.algorithm {
                continue;
            }
            match key.verify_signature(*algorithm, signed.message, signed.signature) {
                Ok(()) => return Ok(()),
                Err(e) => error = refusal(e),
            }
        }
        Err(error)
    }
}

/// webpki does not look at the key usage of the authorities between (RFC 5280 6.1.4 n).
fn has_issuers_only(path: &VerifiedPath<'_>) -> Result<(), PkiError> {
    match path.intermediate_certificates().all(|between| identity::may_issue(&between.der())) {
        true => Ok(()),
        false => Err(PkiError::UnknownIssuer),
    }
}

fn check_trusted(end: End, leaf: &CertificateDer<'_>, now: UnixTime) -> Result<(), TlsError> {
    check_validity(leaf, now)?;
    if !identity::is_version_1(leaf) {
        // Finds extensions that are critical and unknown, among others.
        EndEntityCert::try_from(leaf).map_err(refusal)?;
    }
    if !identity::has_usage_of(end, leaf) {
        return Err(CertificateError::InvalidPurpose.into());
    }
    if !identity::has_usage_of_handshakes(leaf) {
        return Err(Refusal::OnlyForIssuing.into());
    }
    Ok(())
}

fn check_validity(leaf: &CertificateDer<'_>, now: UnixTime) -> Result<(), CertificateError> {
    let [start, end] = identity::valid_between(leaf).map_err(|_| CertificateError::BadEncoding)?;
    match now {
        now if now < start => Err(CertificateError::NotValidYet),
        now if now > end => Err(CertificateError::Expired),
        _ => Ok(()),
    }
}

fn fingerprint(certificate: &CertificateDer<'_>) -> [u8; 32] {
    let hash = digest::digest(&digest::SHA256, certificate);
    hash.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

// The variant that replaces this one can be made by webpki only.
#[allow(deprecated)]
const WRONG_USAGE: PkiError = PkiError::RequiredEkuNotFound;

/// The extended key usage of a certificate must allow this end or any usage.
/// rustls' own verifiers do not take the latter.
struct Usage(End);

impl ExtendedKeyUsageValidator for Usage {
    fn validate(&self, usages: KeyPurposeIdIter<'_, '_>) -> Result<(), PkiError> {
        // RFC 5280 4.2.1.12: id-kp-serverAuth, id-kp-clientAuth and anyExtendedKeyUsage.
        const SERVER_AUTH: KeyPurposeId<'_> = KeyPurposeId::new(&[43, 6, 1, 5, 5, 7, 3, 1]);
        const CLIENT_AUTH: KeyPurposeId<'_> = KeyPurposeId::new(&[43, 6, 1, 5, 5, 7, 3, 2]);
        const ANY: KeyPurposeId<'_> = KeyPurposeId::new(&[85, 29, 37, 0]);
        let wanted = match self.0 {
            End::Server => SERVER_AUTH,
            End::Client => CLIENT_AUTH,
        };
        let mut has_usages = false;
        for usage in usages {
            has_usages = true;
            if [wanted, ANY].contains(&usage?) {
                return Ok(());
            }
        }
        // A certificate without this extension is for every usage.
        match has_usages {
            true => Err(WRONG_USAGE),
            false => Ok(()),
        }
    }
}

/// The TLS error, and with it the alert, for a certificate that does not pass.
fn refusal(error: PkiError) -> TlsError {
    let known = match error {
        // A signature that does not fit: the issuer is another one of the same name.
        PkiError::UnknownIssuer
        | PkiError::EndEntityUsedAsCa
        | PkiError::InvalidSignatureForPublicKey
        | PkiError::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => {
            CertificateError::UnknownIssuer
        }
        PkiError::CertExpired { .. } => CertificateError::Expired,
        PkiError::CertNotValidYet { .. } => CertificateError::NotValidYet,
        WRONG_USAGE | PkiError::EmptyEkuExtension => CertificateError::InvalidPurpose,
        PkiError::BadDer | PkiError::BadDerTime | PkiError::TrailingData(_) => {
            CertificateError::BadEncoding
        }
        PkiError::CaUsedAsEndEntity => return Refusal::Authority(None).into(),
        PkiError::UnsupportedCertVersion => return Refusal::Version(None).into(),
        PkiError::UnsupportedSignatureAlgorithmContext(_) => return Refusal::Algorithm.into(),
        _ => return Refusal::Rule.into(),
    };
    known.into()
}
