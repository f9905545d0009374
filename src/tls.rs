//! TLS: its cryptography for all ends; for the server its certificate, who may connect, and what a
//! resumed session must still show.
//!
//! Clients prove that they hold the key of their certificate in every full handshake. A resumed
//! session skips that and the chain, so [`ClientTrust::verify`] is asked again for it.

mod group;
mod hybrid;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error as TlsError, OtherError,
    PeerIncompatible, RootCertStore, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring},
    server::danger::{ClientCertVerified, ClientCertVerifier},
    sign::CertifiedKey,
};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, UnixTime,
    pem::{self, PemObject},
};

use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeId, KeyPurposeIdIter};

pub use self::group::Group;
use crate::identity;

/// What is wrong with the server's certificate or the trusted certificate authorities.
#[derive(Debug)]
pub enum Error {
    /// The file can't be read.
    Unreadable(PathBuf, &'static str, io::Error),
    /// The file holds no usable PEM block of the wanted kind.
    Unusable(PathBuf, &'static str, String),
    /// The private key does not belong to the certificate.
    Mismatch(PathBuf, PathBuf),
    /// The certificate is not valid now.
    Expired(PathBuf),
    /// No certificate authority is trusted, so no client could ever connect.
    NoRoots(String),
    /// rustls refuses the combination.
    Tls(TlsError),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(path, what, source) => {
                write!(f, "failed to read {what} file {path:?}: {source}")
            }
            Self::Unusable(path, what, why) => write!(f, "invalid {what} file {path:?}: {why}"),
            Self::Mismatch(cert, key) => write!(
                f,
                "private key {key:?} does not belong to certificate {cert:?}: their public keys differ"
            ),
            Self::Expired(path) => {
                write!(
                    f,
                    "certificate {path:?} has expired: make or request a new one"
                )
            }
            Self::NoRoots(why) => write!(
                f,
                "no trusted certificate authority found, so no client could connect{why}: install CA \
                 certificates, set SSL_CERT_FILE or SSL_CERT_DIR, or start with --auth off"
            ),
            Self::Tls(source) => write!(f, "failed to set up TLS: {source}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable(_, _, source) => Some(source),
            Self::Tls(source) => Some(source),
            _ => None,
        }
    }
}

/// The cryptography behind all TLS in this program, with all groups.
pub fn provider() -> Arc<CryptoProvider> {
    provider_with(&Group::ALL)
}

fn provider_with(groups: &[Group]) -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        kx_groups: groups.iter().map(|group| group.exchange()).collect(),
        ..ring::default_provider()
    })
}

/// Checks that the certificate that was read from the file `cert` has not expired at `now`.
///
/// # Errors
/// [`Error::Expired`]
pub fn check_expiry(certified: &CertifiedKey, cert: &Path, now: UnixTime) -> Result<(), Error> {
    match expiry(certified).as_secs() < now.as_secs() {
        true => Err(Error::Expired(cert.to_owned())),
        false => Ok(()),
    }
}

/// When a certificate that [`load_certificate`] returned expires.
pub fn expiry(certified: &CertifiedKey) -> UnixTime {
    certified
        .cert
        .first()
        .and_then(|leaf| identity::not_after(leaf).ok())
        .expect("the certificate was read when it was loaded")
}

/// Reads a PEM certificate chain and its private key, and checks that they belong together.
///
/// # Errors
/// [`Error`] names the file and what is wrong with it.
pub fn load_certificate(cert: &Path, key: &Path) -> Result<Arc<CertifiedKey>, Error> {
    const CERT: &str = "certificate";
    const KEY: &str = "private key";
    let text = std::fs::read(cert).map_err(|e| Error::Unreadable(cert.to_owned(), CERT, e))?;
    let chain = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| Error::Unusable(cert.to_owned(), CERT, pem_reason(&e)))?;
    let Some(leaf) = chain.first() else {
        let why = "no PEM block of type CERTIFICATE".to_owned();
        return Err(Error::Unusable(cert.to_owned(), CERT, why));
    };
    identity::not_after(leaf).map_err(|e| Error::Unusable(cert.to_owned(), CERT, e.to_string()))?;
    let text = zeroize::Zeroizing::new(
        std::fs::read(key).map_err(|e| Error::Unreadable(key.to_owned(), KEY, e))?,
    );
    let private_key = PrivateKeyDer::from_pem_slice(&text).map_err(|e| {
        let why = match e {
            _ if contains(&text, b"ENCRYPTED") => {
                "the key is protected by a password, which is not supported".to_owned()
            }
            pem::Error::NoItemsFound => {
                "no PEM block of type PRIVATE KEY, EC PRIVATE KEY or RSA PRIVATE KEY".to_owned()
            }
            e => pem_reason(&e),
        };
        Error::Unusable(key.to_owned(), KEY, why)
    })?;
    let signing_key = provider()
        .key_provider
        .load_private_key(private_key)
        .map_err(|_| {
            let why =
                "not a key of type Ed25519, P-256, P-384 or RSA (at least 2048 bits)".to_owned();
            Error::Unusable(key.to_owned(), KEY, why)
        })?;
    let certified = CertifiedKey::new(chain, signing_key);
    match certified.keys_match() {
        Ok(()) => {}
        Err(TlsError::InconsistentKeys(_)) => {
            return Err(Error::Mismatch(cert.to_owned(), key.to_owned()));
        }
        Err(e) if e.to_string().contains("UnsupportedCertVersion") => {
            let why = "it is of X.509 version 1; make one of version 3".to_owned();
            return Err(Error::Unusable(cert.to_owned(), CERT, why));
        }
        Err(e) => return Err(Error::Unusable(cert.to_owned(), CERT, e.to_string())),
    }
    Ok(Arc::new(certified))
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|part| part == word)
}

fn pem_reason(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a PEM block has no end line".to_owned(),
        pem::Error::IllegalSectionStart { .. } => "a PEM block has a broken start line".to_owned(),
        pem::Error::Base64Decode(_) => "a PEM block is not valid base64".to_owned(),
        pem::Error::NoItemsFound => "no PEM block of the expected type".to_owned(),
        other => other.to_string(),
    }
}

/// Which client certificates are accepted.
#[derive(Debug)]
pub struct ClientTrust {
    /// `None`: any certificate will do (`--auth off`), policies still apply.
    roots: Option<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientTrust {
    /// Accepts any certificate whose key the client holds.
    pub fn any() -> Self {
        Self {
            roots: None,
            algorithms: provider().signature_verification_algorithms,
        }
    }

    /// Accepts certificates issued by the authorities of the system store (`SSL_CERT_FILE` and
    /// `SSL_CERT_DIR` are honoured), within their validity and usable for client authentication.
    ///
    /// # Errors
    /// [`Error::NoRoots`] if the store holds no certificate.
    pub fn system() -> Result<Self, Error> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let why = found
                .errors
                .first()
                .map_or(String::new(), |e| format!(" ({e})"));
            return Err(Error::NoRoots(why));
        }
        Ok(Self {
            roots: Some(roots),
            ..Self::any()
        })
    }

    /// Whether certificates are checked at all (`--auth on`).
    pub fn is_checked(&self) -> bool {
        self.roots.is_some()
    }

    /// Checks the chain that a client showed, leaf first, at `now`.
    ///
    /// # Errors
    /// Why the certificate is not (or no longer) acceptable.
    pub fn verify(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), TlsError> {
        let Some((leaf, intermediates)) = chain.split_first() else {
            return Err(TlsError::NoCertificatesPresented);
        };
        self.verify_client_cert(leaf, intermediates, now)
            .map(|_| ())
    }
}

// The variant that replaces this one can be made by webpki only.
#[allow(deprecated)]
const WRONG_USAGE: webpki::Error = webpki::Error::RequiredEkuNotFound;

/// What the extended key usage of a client certificate must allow: client authentication or any
/// usage (`auth.md` 2). rustls' own verifier does not take the latter.
struct ClientUsage;

impl ExtendedKeyUsageValidator for ClientUsage {
    fn validate(&self, usages: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        // RFC 5280 4.2.1.12: id-kp-clientAuth and anyExtendedKeyUsage.
        const CLIENT_AUTH: KeyPurposeId<'_> = KeyPurposeId::new(&[43, 6, 1, 5, 5, 7, 3, 2]);
        const ANY: KeyPurposeId<'_> = KeyPurposeId::new(&[85, 29, 37, 0]);
        let mut has_usages = false;
        for usage in usages {
            has_usages = true;
            if [CLIENT_AUTH, ANY].contains(&usage?) {
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
fn from_webpki(error: webpki::Error) -> TlsError {
    TlsError::InvalidCertificate(match error {
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer,
        webpki::Error::CertExpired { .. } => CertificateError::Expired,
        webpki::Error::CertNotValidYet { .. } => CertificateError::NotValidYet,
        WRONG_USAGE => CertificateError::InvalidPurpose,
        webpki::Error::BadDer | webpki::Error::BadDerTime => CertificateError::BadEncoding,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    })
}

impl ClientCertVerifier for ClientTrust {
    // Go clients withhold self-signed certificates when the request names authorities.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        let certificate = EndEntityCert::try_from(leaf).map_err(from_webpki)?;
        if let Some(roots) = &self.roots {
            certificate
                .verify_for_usage(
                    self.algorithms.all,
                    &roots.roots,
                    intermediates,
                    now,
                    ClientUsage,
                    None,
                    None,
                )
                .map_err(from_webpki)?;
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        rustls::crypto::verify_tls12_signature(message, cert, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        rustls::crypto::verify_tls13_signature(message, cert, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// TLS as the server speaks it: 1.3 only, client certificate required, stateless session tickets.
/// Of `groups`, a client gets the one that it likes best.
///
/// Every call makes new ticket keys, so a server that changes whom it trusts forgets all sessions.
///
/// # Errors
/// [`Error::Tls`] if rustls refuses.
pub fn server_config(
    certificate: Arc<CertifiedKey>,
    trust: Arc<ClientTrust>,
    groups: &[Group],
) -> Result<Arc<ServerConfig>, Error> {
    let mut config = ServerConfig::builder_with_provider(provider_with(groups))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(Error::Tls)?
        .with_client_cert_verifier(trust)
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certificate)));
    // HTTP/1.0 clients that negotiate at all (`curl --http1.0`) want to see their version.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec(), b"http/1.0".to_vec()];
    // The in-memory session store is single-use; concurrent clients hardly ever resume with it.
    config.ticketer = ring::Ticketer::new().map_err(Error::Tls)?;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

/// The reason of a failed handshake, in the words that operators know from the original.
pub fn handshake_failure(error: &TlsError) -> String {
    let verify = |why: &str| format!("tls: failed to verify client certificate: x509: {why}");
    match error {
        TlsError::NoCertificatesPresented => "tls: client didn't provide a certificate".to_owned(),
        TlsError::InvalidCertificate(CertificateError::Other(reason))
            if reason.to_string().contains("UnsupportedCertVersion") =>
        {
            verify("certificate is of X.509 version 1; it must be of version 3")
        }
        TlsError::InvalidCertificate(reason) => match reason {
            CertificateError::UnknownIssuer => verify("certificate signed by unknown authority"),
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                verify("certificate has expired or is not yet valid: expired")
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                verify("certificate has expired or is not yet valid: not yet valid")
            }
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                verify("certificate specifies an incompatible key usage")
            }
            other => verify(&format!("{other:?}")),
        },
        TlsError::PeerIncompatible(PeerIncompatible::NoKxGroupsInCommon) => {
            "tls: client is not compatible: it has none of the key exchange groups in tls.groups"
                .to_owned()
        }
        TlsError::PeerIncompatible(reason) => format!("tls: client is not compatible: {reason:?}"),
        TlsError::AlertReceived(alert) => format!("remote error: tls: {alert:?}"),
        other => format!("tls: {other}"),
    }
}
