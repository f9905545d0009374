//! Who a certificate is: the SHA-256 of its public key (`auth.md` 1), and what else must be known of
//! a certificate.

use std::{fmt, time::Duration};

use ring::digest;
use rustls_pki_types::UnixTime;
use x509_cert::{
    der::{
        self, Decode, Reader as _, SliceReader, Tag, TagNumber,
        oid::{AssociatedOid, ObjectIdentifier},
    },
    ext::{
        Extensions,
        pkix::{BasicConstraints, ExtendedKeyUsage},
    },
    name::Name,
    time::Validity,
};

/// A certificate that can't be read.
#[derive(Debug)]
pub struct Error(der::Error);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed certificate: {}", self.0)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

/// A hash function for identities. Servers use SHA-256 only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// SHA-256
    Sha256,
    /// SHA-384
    Sha384,
    /// SHA-512
    Sha512,
}

impl Hash {
    /// The hash with this name; with or without hyphen, in any case.
    pub fn parse(name: &str) -> Option<Self> {
        match name.to_ascii_uppercase().replace('-', "").as_str() {
            "SHA256" => Some(Self::Sha256),
            "SHA384" => Some(Self::Sha384),
            "SHA512" => Some(Self::Sha512),
            _ => None,
        }
    }
}

/// The identity of a DER certificate: 64 lower-case hex digits.
///
/// # Errors
/// [`Error`] if `der` is no certificate.
pub fn of_certificate(der: &[u8]) -> Result<String, Error> {
    with_hash(der, Hash::Sha256)
}

/// As [`of_certificate`], with another hash function.
///
/// # Errors
/// [`Error`] if `der` is no certificate.
pub fn with_hash(der: &[u8], hash: Hash) -> Result<String, Error> {
    let key = parts(der).map_err(Error)?.public_key;
    let algorithm = match hash {
        Hash::Sha256 => &digest::SHA256,
        Hash::Sha384 => &digest::SHA384,
        Hash::Sha512 => &digest::SHA512,
    };
    Ok(hex(digest::digest(algorithm, key).as_ref()))
}

/// When a DER certificate expires.
///
/// # Errors
/// [`Error`] if `der` is no certificate.
pub fn not_after(der: &[u8]) -> Result<UnixTime, Error> {
    let validity = validity(der)?;
    let end = validity.not_after.to_unix_duration().as_secs();
    Ok(UnixTime::since_unix_epoch(Duration::from_secs(end)))
}

/// When a DER certificate begins to be valid.
///
/// # Errors
/// [`Error`] if `der` is no certificate.
pub fn not_before(der: &[u8]) -> Result<UnixTime, Error> {
    let start = validity(der)?.not_before.to_unix_duration();
    Ok(UnixTime::since_unix_epoch(start))
}

/// For how long a DER certificate is valid, from its first moment to its last.
///
/// # Errors
/// [`Error`] if `der` is no certificate.
pub fn lifetime(der: &[u8]) -> Result<Duration, Error> {
    let Validity {
        not_before,
        not_after,
    } = validity(der)?;
    let end = not_after.to_unix_duration();
    Ok(end.saturating_sub(not_before.to_unix_duration()))
}

fn validity(der: &[u8]) -> Result<Validity, Error> {
    parts(der)
        .and_then(|parts| Validity::from_der(parts.validity))
        .map_err(Error)
}

/// Whom a DER certificate names, such as `CN=app` (RFC 4514).
///
/// # Errors
/// [`Error`] if `der` is no certificate.
pub fn subject(der: &[u8]) -> Result<String, Error> {
    let subject = parts(der).and_then(|parts| Name::from_der(parts.subject));
    Ok(subject.map_err(Error)?.to_string())
}

/// Whether a DER certificate is that of a certificate authority.
pub fn is_ca(der: &[u8]) -> bool {
    extension::<BasicConstraints>(der).is_some_and(|constraints| constraints.ca)
}

/// Whether clients accept a DER certificate as that of a server: its extended key usage, if it has
/// any, must say so.
pub fn is_for_servers(der: &[u8]) -> bool {
    const SERVER_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.1");
    const ANY: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37.0");
    extension::<ExtendedKeyUsage>(der).is_none_or(|usages| {
        usages
            .0
            .iter()
            .any(|usage| [SERVER_AUTH, ANY].contains(usage))
    })
}

/// An extension of a DER certificate, if it is there and can be read.
fn extension<T: AssociatedOid + for<'a> Decode<'a>>(der: &[u8]) -> Option<T> {
    let extensions = Extensions::from_der(parts(der).ok()?.extensions?).ok()?;
    let found = extensions
        .iter()
        .find(|extension| extension.extn_id == T::OID)?;
    T::from_der(found.extn_value.as_bytes()).ok()
}

/// Parts of a certificate, each a whole DER element as it stands there.
struct Parts<'a> {
    validity: &'a [u8],
    subject: &'a [u8],
    public_key: &'a [u8],
    extensions: Option<&'a [u8]>,
}

/// Finds the parts of a certificate (RFC 5280 4.1).
///
/// Elements that nobody asks for are skipped unread: TLS accepts names and serial numbers that a
/// full parser refuses, and a client must not lose its identity over them.
fn parts(der: &[u8]) -> der::Result<Parts<'_>> {
    let certificate = content(der, Tag::Sequence)?;
    let tbs = SliceReader::new(certificate)?.tlv_bytes()?;
    let mut tbs = SliceReader::new(content(tbs, Tag::Sequence)?)?;
    let explicit = |number| Tag::ContextSpecific {
        constructed: true,
        number,
    };
    if tbs.peek_tag()? == explicit(TagNumber::N0) {
        tbs.tlv_bytes()?; // version
    }
    for _ in ["serial number", "signature algorithm", "issuer"] {
        tbs.tlv_bytes()?;
    }
    let validity = tbs.tlv_bytes()?;
    let subject = tbs.tlv_bytes()?;
    let public_key = tbs.tlv_bytes()?;
    content(public_key, Tag::Sequence)?;
    let mut extensions = None;
    while !tbs.is_finished() {
        let is_extensions = tbs.peek_tag()? == explicit(TagNumber::N3);
        let element = tbs.tlv_bytes()?;
        if is_extensions {
            extensions = Some(content(element, explicit(TagNumber::N3))?);
        }
    }
    Ok(Parts {
        validity,
        subject,
        public_key,
        extensions,
    })
}

/// What is inside `element`, which must have this tag and nothing behind it.
fn content(element: &[u8], tag: Tag) -> der::Result<&[u8]> {
    let mut reader = SliceReader::new(element)?;
    let header = reader.peek_header()?;
    header.tag.assert_eq(tag)?;
    let whole = reader.tlv_bytes()?;
    let length = usize::try_from(header.length)?;
    reader.finish(&whole[whole.len() - length..])
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a `String` cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::{CertificateDer, pem::PemObject};

    use super::*;

    #[test]
    fn identities_are_those_of_the_vectors() {
        let text = include_str!("../testdata/identities.json");
        let vectors: serde_json::Value = serde_json::from_str(text).unwrap();
        for case in vectors["certificates"].as_array().unwrap() {
            let pem = case["certificate_pem"].as_str().unwrap();
            let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
            assert_eq!(case["identity"], of_certificate(&der).unwrap());
            assert_eq!(case["sha384"], with_hash(&der, Hash::Sha384).unwrap());
            assert_eq!(case["sha512"], with_hash(&der, Hash::Sha512).unwrap());
            assert!(not_after(&der).unwrap() > UnixTime::since_unix_epoch(Duration::from_secs(1)));
            assert!(is_ca(&der), "{}", case["name"]);
        }
    }

    #[test]
    fn a_certificate_is_that_of_an_authority_only_if_it_says_so() {
        use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
        let key = KeyPair::generate().unwrap();
        for (kind, expected) in [
            (IsCa::NoCa, false),
            (IsCa::ExplicitNoCa, false),
            (IsCa::Ca(BasicConstraints::Unconstrained), true),
            (IsCa::Ca(BasicConstraints::Constrained(0)), true),
        ] {
            let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
            params.is_ca = kind;
            let certificate = params.self_signed(&key).unwrap();
            assert_eq!(expected, is_ca(certificate.der()));
        }
    }

    #[test]
    fn a_certificate_cut_short_or_with_a_tail_is_none() {
        let text = include_str!("../testdata/identities.json");
        let vectors: serde_json::Value = serde_json::from_str(text).unwrap();
        let pem = vectors["certificates"][0]["certificate_pem"].as_str();
        let der = CertificateDer::from_pem_slice(pem.unwrap().as_bytes()).unwrap();
        for length in 0..der.len() {
            assert!(of_certificate(&der[..length]).is_err(), "{length}");
        }
        assert!(of_certificate(&[&der[..], &[0]].concat()).is_err());
    }

    #[test]
    fn garbage_is_no_certificate() {
        for der in [&b""[..], b"\x30", b"\x30\x00", &[0x30; 64]] {
            assert!(of_certificate(der).is_err());
            assert!(!is_ca(der));
        }
    }
}
