//! Private keys with self-signed certificates.

use std::{
    error::Error,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::PrivatePkcs8KeyDer;

use crate::base::secret::Secret;

/// A PKCS#8 private key of version 1 with an Ed25519 seed (RFC 8410 7) up to the seed. OpenSSL 3.0
/// does not read version 2, which ring and rcgen would write.
const ED25519_PKCS8: [u8; 16] =
    [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

pub fn ip(text: &str) -> Option<SanType> {
    text.parse().ok().map(SanType::IpAddress)
}

pub fn dns(text: &str) -> Option<SanType> {
    text.try_into().ok().map(SanType::DnsName)
}

/// A private key and a self-signed certificate, both PEM. No common name if `name` is empty.
pub fn generate(
    name: &str,
    is_server: bool,
    addresses: Vec<SanType>,
    validity: Duration,
) -> Result<(String, String), Box<dyn Error>> {
    let seed = Secret::random(32)?;
    let pkcs8 = [&ED25519_PKCS8[..], seed.expose()].concat();
    let key = KeyPair::try_from(&PrivatePkcs8KeyDer::from(pkcs8.as_slice()))?;

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
    params.extended_key_usages = vec![match is_server {
        true => ExtendedKeyUsagePurpose::ServerAuth,
        false => ExtendedKeyUsagePurpose::ClientAuth,
    }];
    params.subject_alt_names = addresses;
    let cert = params.self_signed(&key)?;

    Ok((pem("PRIVATE KEY", &pkcs8), pem("CERTIFICATE", cert.der())))
}

/// `der` as PEM text (RFC 7468).
fn pem(label: &str, der: &[u8]) -> String {
    let lines = der.chunks(48).map(|line| STANDARD.encode(line) + "\n");
    format!("-----BEGIN {label}-----\n{}-----END {label}-----\n", lines.collect::<String>())
}
