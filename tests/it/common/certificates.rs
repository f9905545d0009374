//! Certificates: self-signed, issued, and with every flaw that a server must find.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData as _, date_time_ymd,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest as _, Sha256};

use super::base64;

/// A certificate chain, leaf first, with the leaf's key.
#[derive(Clone)]
pub struct Identity {
    pub chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
    /// The server's identity for a client with this certificate.
    pub id: String,
}

/// What a certificate says about itself.
#[derive(Clone)]
pub struct Profile {
    pub usages: Vec<ExtendedKeyUsagePurpose>,
    /// Valid from now on for this time; negative: ended so long ago.
    pub valid_for: i64,
    /// Valid from so many seconds before now; negative: not yet.
    pub valid_since: i64,
    pub is_ca: bool,
}

impl Profile {
    pub fn client() -> Self {
        let usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        Self {
            usages,
            // Long enough that a server does not warn of it.
            valid_for: 100 * 86_400,
            valid_since: 86_400,
            is_ca: false,
        }
    }

    pub fn server() -> Self {
        Self { usages: vec![ExtendedKeyUsagePurpose::ServerAuth], ..Self::client() }
    }

    pub fn without_usage() -> Self {
        Self { usages: Vec::new(), ..Self::client() }
    }

    pub fn valid_for(self, seconds: i64) -> Self {
        Self { valid_for: seconds, ..self }
    }

    /// Valid for so short a time that a test waits for the end, and long enough for a busy machine to begin
    /// with it.
    pub fn short(self) -> Self {
        self.valid_for(7)
    }

    fn params(&self, name: &str) -> CertificateParams {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = self.usages.clone();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let at = |offset| {
            let seconds = now.checked_add_signed(offset).unwrap();
            date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds)
        };
        params.not_before = at(-self.valid_since);
        params.not_after = at(self.valid_for);
        if self.is_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages =
                vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        }
        params
    }
}

impl Identity {
    /// A self-signed client certificate.
    pub fn new(name: &str) -> Self {
        Self::self_signed(name, &Profile::client())
    }

    pub fn self_signed(name: &str, profile: &Profile) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = profile.params(name).self_signed(&key).unwrap();
        Self::from_parts(vec![certificate.der().clone()], &key)
    }

    /// With the PKCS #8 key of the first of `chain`, whose holder is called `id`.
    pub fn from_der(chain: Vec<CertificateDer<'static>>, key: Vec<u8>, id: String) -> Self {
        Self { chain, key, id }
    }

    fn from_parts(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Self {
        let id = super::hex(&Sha256::digest(key.subject_public_key_info()));
        Self { chain, key: key.serialize_der(), id }
    }

    /// The same with the certificates of `other` behind its own.
    pub fn followed_by(mut self, other: &Identity) -> Self {
        self.chain.extend(other.chain.iter().cloned());
        self
    }

    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.clone()).into()
    }

    pub fn certificate_pem(&self) -> String {
        self.chain.iter().map(|der| pem("CERTIFICATE", der)).collect()
    }

    pub fn key_pem(&self) -> String {
        pem("PRIVATE KEY", &self.key)
    }
}

/// A certificate authority.
pub struct Authority {
    pub identity: Identity,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let profile = Profile { is_ca: true, ..Profile::without_usage() };
        let key = KeyPair::generate().unwrap();
        let params = profile.params(name);
        let certificate = params.self_signed(&key).unwrap();
        let identity = Identity::from_parts(vec![certificate.der().clone()], &key);
        Self { identity, issuer: Issuer::new(params, key) }
    }

    /// An authority below this one; what it issues comes with its certificate.
    pub fn intermediate(&self, name: &str) -> Self {
        let profile = Profile { is_ca: true, ..Profile::without_usage() };
        let key = KeyPair::generate().unwrap();
        let params = profile.params(name);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let identity = Identity::from_parts(vec![certificate.der().clone()], &key);
        Self { identity, issuer: Issuer::new(params, key) }
    }

    pub fn issue(&self, name: &str, profile: &Profile) -> Identity {
        self.issue_for(KeyPair::generate().unwrap(), name, profile)
    }

    /// Another certificate for the key of `identity`.
    pub fn issue_again(&self, identity: &Identity, profile: &Profile) -> Identity {
        self.issue_for(KeyPair::try_from(&identity.key()).unwrap(), "again", profile)
    }

    pub fn issue_for(&self, key: KeyPair, name: &str, profile: &Profile) -> Identity {
        let certificate = profile.params(name).signed_by(&key, &self.issuer).unwrap();
        Identity::from_parts(vec![certificate.der().clone()], &key)
    }
}

pub fn pem(label: &str, der: &[u8]) -> String {
    let text = base64(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.push_str(std::str::from_utf8(line).unwrap());
        pem.push('\n');
    }
    pem + &format!("-----END {label}-----\n")
}
