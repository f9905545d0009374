//! Private keys with self-signed certificates.

use std::{
    error::Error,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, DnsName, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::{group::provider, pem};
use crate::base::secret::{self, Secret};

/// A PKCS#8 private key of version 1 with an Ed25519 seed (RFC 8410 7) up to the seed. OpenSSL 3.0
/// does not read version 2, which ring and rcgen would write.
pub(super) const ED25519_PKCS8: [u8; 16] =
    [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

/// What a certificate says of its holder.
#[derive(Debug)]
pub struct Holder<'a> {
    /// The common name; none if it is empty.
    pub name: &'a str,
    /// The ends that may use it.
    pub usage: Usage,
    /// Its addresses, from [`ip`] and [`dns`].
    pub addresses: Vec<SanType>,
    /// How long it is valid, from now.
    pub validity: Duration,
}

/// The ends of a connection that may use a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Usage {
    Client,
    Server,
    Both,
}

/// A kind of key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// Ed25519, as KES makes them.
    Ed25519,
    /// NIST P-256, which all programs know, browsers too.
    P256,
}

/// An IP address for a certificate.
pub fn ip(text: &str) -> Option<SanType> {
    text.parse().ok().map(SanType::IpAddress)
}

/// A host name for a certificate; `*.` may stand before it.
pub fn dns(text: &str) -> Option<SanType> {
    DnsName::try_from(text.strip_prefix("*.").unwrap_or(text)).ok()?;
    text.try_into().ok().map(SanType::DnsName)
}

/// A private key and a self-signed certificate, both PEM.
pub fn generate(holder: Holder<'_>, kind: KeyKind) -> Result<(String, String), Box<dyn Error>> {
    let pkcs8 = new_key(kind)?;
    let cert = certify(holder, &pkcs8)?;
    Ok((pem::write("PRIVATE KEY", pkcs8.expose()), pem::write("CERTIFICATE", &cert)))
}

/// A private key and a self-signed certificate, for TLS.
pub fn certified(holder: Holder<'_>, kind: KeyKind) -> Result<Arc<CertifiedKey>, Box<dyn Error>> {
    secret::on_wiped_stack(|| certified_by(holder, &new_key(kind)?))
}

/// The key `pkcs8` with a certificate that it has signed.
pub(super) fn certified_by(
    holder: Holder<'_>,
    pkcs8: &Secret,
) -> Result<Arc<CertifiedKey>, Box<dyn Error>> {
    let chain = vec![certify(holder, pkcs8)?];
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8.expose()));
    let key = provider().key_provider.load_private_key(key.clone_key())?;
    Ok(Arc::new(CertifiedKey::new(chain, key)))
}

/// A fresh private key in PKCS#8.
fn new_key(kind: KeyKind) -> Result<Secret, Box<dyn Error>> {
    Ok(match kind {
        KeyKind::Ed25519 => ed25519_pkcs8(&Secret::random(32)?),
        KeyKind::P256 => {
            Secret::new(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?.serialize_der())
        }
    })
}

/// A certificate for the key `pkcs8`, signed with it.
pub fn certify(
    holder: Holder<'_>,
    pkcs8: &Secret,
) -> Result<CertificateDer<'static>, Box<dyn Error>> {
    let Holder { name, usage, addresses, validity } = holder;
    let key = KeyPair::try_from(&PrivatePkcs8KeyDer::from(pkcs8.expose()))?;
    let mut serial = [0; 16];
    getrandom::fill(&mut serial)?;
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = DistinguishedName::new();
    if !name.is_empty() {
        params.distinguished_name.push(DnType::CommonName, name);
    }
    // Certificates count in whole seconds.
    let now = Duration::from_secs(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs());
    params.not_before = (UNIX_EPOCH + now).into();
    let end = UNIX_EPOCH.checked_add(now + validity).ok_or("the validity is too long")?;
    // The last moment that an X.509 certificate can name is in the year 9999.
    if now + validity > Duration::from_secs(253_402_300_799) {
        return Err("the validity is too long".into());
    }
    params.not_after = end.into();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    if usage != Usage::Server {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
    }
    if usage != Usage::Client {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    params.subject_alt_names = addresses;
    Ok(params.self_signed(&key)?.into())
}

/// The private key with this Ed25519 seed.
pub(super) fn ed25519_pkcs8(seed: &Secret) -> Secret {
    Secret::new([&ED25519_PKCS8[..], seed.expose()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{self, End};

    #[test]
    fn a_certificate_is_for_the_ends_that_may_use_it() {
        for kind in [KeyKind::Ed25519, KeyKind::P256] {
            for (usage, client, server) in [
                (Usage::Client, true, false),
                (Usage::Server, false, true),
                (Usage::Both, true, true),
            ] {
                let addresses = vec![ip("127.0.0.1").unwrap(), dns("localhost").unwrap()];
                let validity = Duration::from_secs(60);
                let holder = Holder { name: "app", usage, addresses, validity };
                let (_, cert) = generate(holder, kind).unwrap();
                let cert = pem::Block::find(cert.as_bytes(), "CERTIFICATE").unwrap().body;
                assert_eq!(client, identity::has_usage_of(End::Client, &cert));
                assert_eq!(server, identity::has_usage_of(End::Server, &cert));
                assert_eq!("CN=app", identity::subject(&cert).unwrap());
                assert_eq!(["127.0.0.1", "localhost"], *identity::hosts(&cert));
                let wanted = if kind == KeyKind::P256 { "P-256" } else { "Ed25519" };
                assert_eq!(Some(wanted), identity::key_kind(&cert));
                assert!(!identity::is_ca(&cert));
            }
        }
    }
}
