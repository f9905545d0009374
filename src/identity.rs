//! Certificates: the identity of one, which is the SHA-256 of its public key, and its other properties.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ring::digest;
use rustls_pki_types::UnixTime;
use x509_cert::{
    der::{
        self, Decode, Reader as _, SliceReader, Tag, TagNumber,
        asn1::BitStringRef,
        oid::{AssociatedOid, ObjectIdentifier},
    },
    ext::{
        Extensions,
        pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAltName, name::GeneralName},
    },
    name::Name,
    spki::AlgorithmIdentifierRef,
    time::{Time, Validity},
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
#[derive(Clone, Copy)]
pub struct Hash(&'static digest::Algorithm);

impl Hash {
    /// The hash function of servers.
    pub const SHA256: Self = Self(&digest::SHA256);

    /// The hash function with this name; with or without hyphen, in any case.
    pub fn parse(name: &str) -> Option<Self> {
        match name.to_ascii_uppercase().replace('-', "").as_str() {
            "SHA256" => Some(Self::SHA256),
            "SHA384" => Some(Self(&digest::SHA384)),
            "SHA512" => Some(Self(&digest::SHA512)),
            _ => None,
        }
    }
}

/// Whether `text` is an identity: 64 lower-case hex digits.
pub fn is_identity(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
}

/// The identity of a DER certificate: 64 lower-case hex digits.
///
/// # Errors
/// [`Error`] if `der` is no certificate.
pub fn of_certificate(der: &[u8]) -> Result<String, Error> {
    with_hash(der, Hash::SHA256)
}

/// As [`of_certificate`], with another hash function.
///
/// # Errors
/// [`Error`] if `der` is no certificate.
pub fn with_hash(der: &[u8], hash: Hash) -> Result<String, Error> {
    Ok(of_public_key(parts(der).map_err(Error)?.public_key, hash))
}

/// The identity of those who have the private key to this `SubjectPublicKeyInfo`.
pub fn of_public_key(key: &[u8], hash: Hash) -> String {
    hex(digest::digest(hash.0, key).as_ref())
}

/// The `SubjectPublicKeyInfo` of a DER certificate.
///
/// # Errors
/// [`Error`] if `der` is no certificate.
pub fn public_key(der: &[u8]) -> Result<&[u8], Error> {
    Ok(parts(der).map_err(Error)?.public_key)
}

/// The common name for the kind of key in a DER certificate.
pub fn key_kind(der: &[u8]) -> Option<&'static str> {
    let mut key = SliceReader::new(content(public_key(der).ok()?, Tag::Sequence).ok()?).ok()?;
    let algorithm = AlgorithmIdentifierRef::decode(&mut key).ok()?;
    let curve = algorithm.parameters_oid().ok().map(|oid| oid.to_string());
    Some(match (&*algorithm.oid.to_string(), curve.as_deref()) {
        ("1.2.840.113549.1.1.1", _) => "RSA",
        ("1.2.840.113549.1.1.10", _) => "RSA-PSS",
        ("1.3.101.112", _) => "Ed25519",
        ("1.3.101.113", _) => "Ed448",
        ("1.2.840.10040.4.1", _) => "DSA",
        ("1.2.840.10045.2.1", Some("1.2.840.10045.3.1.7")) => "P-256",
        ("1.2.840.10045.2.1", Some("1.3.132.0.34")) => "P-384",
        ("1.2.840.10045.2.1", Some("1.3.132.0.35")) => "P-521",
        ("1.2.840.10045.2.1", Some("1.3.132.0.33")) => "P-224",
        ("1.2.840.10045.2.1", Some("1.3.132.0.10")) => "secp256k1",
        _ => return None,
    })
}

/// The moment when a DER certificate expires.
///
/// # Errors
/// [`Error`] if `der` is no certificate.
pub fn not_after(der: &[u8]) -> Result<UnixTime, Error> {
    valid_between(der).map(|[_, end]| end)
}

/// The first and the last moment at which a DER certificate is valid.
///
/// # Errors
/// [`Error`] if `der` is no certificate.
pub fn valid_between(der: &[u8]) -> Result<[UnixTime; 2], Error> {
    let validity =
        parts(der).and_then(|parts| decode::<Validity>(parts.validity)).map_err(Error)?;
    let unix = |time: Time| UnixTime::since_unix_epoch(time.to_unix_duration());
    Ok([unix(validity.not_before), unix(validity.not_after)])
}

/// The subject of a DER certificate, such as `CN=app` (RFC 4514).
///
/// # Errors
/// [`Error`] if `der` is no certificate.
pub fn subject(der: &[u8]) -> Result<String, Error> {
    let subject = parts(der).and_then(|parts| decode::<Name>(parts.subject));
    Ok(subject.map_err(Error)?.to_string())
}

/// Whether a DER certificate says that it belongs to a certificate authority.
pub fn is_ca(der: &[u8]) -> bool {
    matches!(extension::<BasicConstraints>(der), Ok(Some(constraints)) if constraints.ca)
}

/// Whether a DER certificate is of X.509 version 1, which has no extensions.
pub fn is_version_1(der: &[u8]) -> bool {
    parts(der).is_ok_and(|parts| parts.is_version_1)
}

/// Whether a DER certificate, if it is trusted, may issue others: it belongs to an authority, or is of
/// version 1, which can't say so (RFC 5280 6.1.4 k and n).
pub fn may_issue(der: &[u8]) -> bool {
    is_version_1(der)
        || is_ca(der)
            && extension::<KeyUsage>(der)
                .is_ok_and(|usage| usage.is_none_or(|usage| usage.key_cert_sign()))
}

/// Whether `other`, which came along with `chain[0]`, only completes the chain, as the certificate of an
/// authority does, or one of version 1 that issued another.
pub fn completes(other: &[u8], chain: &[impl AsRef<[u8]>]) -> bool {
    if is_ca(other) {
        return true;
    }
    let Ok(root) = parts(other) else {
        return false;
    };
    // Two self-signed certificates may have the same name, and then neither issued the other.
    root.is_version_1
        && chain.iter().any(|below| {
            parts(below.as_ref())
                .is_ok_and(|below| below.issuer == root.subject && below.issuer != below.subject)
        })
}

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Client,
    Server,
}

/// Whether the extended key usage of a DER certificate, if it has any, allows its use by `end`.
pub fn has_usage_of(end: End, der: &[u8]) -> bool {
    // RFC 5280 4.2.1.12
    const ANY: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37.0");
    let wanted = match end {
        End::Server => ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.1"),
        End::Client => ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.2"),
    };
    extension::<ExtendedKeyUsage>(der).is_ok_and(|usages| {
        usages.is_none_or(|usages| usages.0.iter().any(|usage| [wanted, ANY].contains(usage)))
    })
}

/// Whether the key usage of a DER certificate, if it has any, allows handshakes as OpenSSL understands it:
/// a usage for issuing certificates alone does not.
pub fn has_usage_of_handshakes(der: &[u8]) -> bool {
    extension::<KeyUsage>(der).is_ok_and(|usage| {
        usage.is_none_or(|usage| {
            usage.digital_signature() || usage.key_encipherment() || usage.key_agreement()
        })
    })
}

/// The host names and addresses in a DER certificate (subjectAltName), for messages: without names that
/// have unexpected characters.
pub fn hosts(der: &[u8]) -> Vec<String> {
    let names = extension::<SubjectAltName>(der).ok().flatten();
    let host = |name: GeneralName| match name {
        GeneralName::DnsName(name) => {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._*".contains(c);
            Some(name.to_string()).filter(|name| name.chars().all(is_plain))
        }
        GeneralName::IpAddress(bytes) => {
            let four = <[u8; 4]>::try_from(bytes.as_bytes()).map(Ipv4Addr::from);
            let six = <[u8; 16]>::try_from(bytes.as_bytes()).map(Ipv6Addr::from);
            let address = four.map(IpAddr::from).or(six.map(IpAddr::from));
            address.ok().map(|address| address.to_string())
        }
        _ => None,
    };
    names.map_or(Vec::new(), |names| names.0.into_iter().filter_map(host).collect())
}

/// The signed part of a certificate, and its signature.
pub struct Signed<'a> {
    /// The name of the issuer, without tag and length.
    pub issuer: &'a [u8],
    /// The bytes that are signed.
    pub message: &'a [u8],
    /// The `AlgorithmIdentifier` of the signature, without tag and length.
    pub algorithm: &'a [u8],
    /// The signature.
    pub signature: &'a [u8],
}

/// The signed part of a DER certificate, and its signature.
///
/// # Errors
/// [`Error`] if `der` is no certificate, or names two signature algorithms (RFC 5280 4.1.1.2).
pub fn signed(der: &[u8]) -> Result<Signed<'_>, Error> {
    let read = || {
        let parts = parts(der)?;
        let [inner, outer] = parts.algorithms;
        if inner != outer {
            return Err(der::ErrorKind::Value { tag: Tag::Sequence }.into());
        }
        let signature = BitStringRef::from_der(parts.signature)?;
        Ok(Signed {
            issuer: content(parts.issuer, Tag::Sequence)?,
            message: parts.signed,
            algorithm: content(outer, Tag::Sequence)?,
            signature: signature.as_bytes().ok_or(der::ErrorKind::Value { tag: Tag::BitString })?,
        })
    };
    read().map_err(Error)
}

/// An extension of a DER certificate, if it has that.
fn extension<T: AssociatedOid + for<'a> Decode<'a>>(der: &[u8]) -> der::Result<Option<T>> {
    let Some(extensions) = parts(der)?.extensions else {
        return Ok(None);
    };
    let extensions = decode::<Extensions>(extensions)?;
    let found = extensions.iter().find(|extension| extension.extn_id == T::OID);
    found.map(|found| decode(found.extn_value.as_bytes())).transpose()
}

/// Reads all of `der`.
fn decode<T: for<'a> Decode<'a>>(der: &[u8]) -> der::Result<T> {
    /// More than the types that are read here have.
    const DEPTH: usize = 16;
    check_lengths(der, DEPTH)?;
    T::from_der(der)
}

/// Whether each element ends inside of the one around it. For owned values, the crate allocates what a length says,
/// up to 256 MiB, before it looks whether there is as much.
fn check_lengths(der: &[u8], depth: usize) -> der::Result<()> {
    let mut reader = SliceReader::new(der)?;
    while !reader.is_finished() {
        // The crate gets no further than a header that it can't read, nor into a value of any type.
        let Ok(der::Header { tag, .. }) = reader.peek_header() else { return Ok(()) };
        let element = reader.tlv_bytes()?;
        if tag.is_constructed() && depth > 0 {
            check_lengths(content(element, tag)?, depth - 1)?;
        }
    }
    Ok(())
}

/// Parts of a certificate, each a whole DER element.
struct Parts<'a> {
    is_version_1: bool,
    /// All but the signature.
    signed: &'a [u8],
    /// The signature algorithm, inside and outside of the signed part.
    algorithms: [&'a [u8]; 2],
    issuer: &'a [u8],
    validity: &'a [u8],
    subject: &'a [u8],
    public_key: &'a [u8],
    extensions: Option<&'a [u8]>,
    signature: &'a [u8],
}

/// Finds the parts of a certificate (RFC 5280 4.1).
///
/// Other elements are skipped unread: TLS accepts names and serial numbers that a full parser refuses, and
/// a client must not lose its identity over them.
fn parts(der: &[u8]) -> der::Result<Parts<'_>> {
    let mut certificate = SliceReader::new(content(der, Tag::Sequence)?)?;
    let signed = certificate.tlv_bytes()?;
    let outer_algorithm = certificate.tlv_bytes()?;
    let signature = certificate.tlv_bytes()?;
    certificate.finish(())?;
    let mut tbs = SliceReader::new(content(signed, Tag::Sequence)?)?;
    let explicit = |number| Tag::ContextSpecific { constructed: true, number };
    let has_version = tbs.peek_tag()? == explicit(TagNumber::N0);
    if has_version {
        tbs.tlv_bytes()?;
    }
    tbs.tlv_bytes()?; // serial number
    let inner_algorithm = tbs.tlv_bytes()?;
    let issuer = tbs.tlv_bytes()?;
    let validity = tbs.tlv_bytes()?;
    let subject = tbs.tlv_bytes()?;
    let public_key = tbs.tlv_bytes()?;
    content(public_key, Tag::Sequence)?;
    let is_version_1 = !has_version && tbs.is_finished();
    let mut extensions = None;
    while !tbs.is_finished() {
        let is_extensions = tbs.peek_tag()? == explicit(TagNumber::N3);
        let element = tbs.tlv_bytes()?;
        if is_extensions {
            extensions = Some(content(element, explicit(TagNumber::N3))?);
        }
    }
    Ok(Parts {
        is_version_1,
        signed,
        algorithms: [inner_algorithm, outer_algorithm],
        issuer,
        validity,
        subject,
        public_key,
        extensions,
        signature,
    })
}

/// The content of `element`, which must have this tag and nothing behind it.
pub(crate) fn content(element: &[u8], tag: Tag) -> der::Result<&[u8]> {
    let mut reader = SliceReader::new(element)?;
    let header = reader.peek_header()?;
    header.tag.assert_eq(tag)?;
    let whole = reader.tlv_bytes()?;
    let length = usize::try_from(header.length)?;
    reader.finish(&whole[whole.len() - length..])
}

/// Lower-case hex digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
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
            assert!(is_identity(case["identity"].as_str().unwrap()));
            assert_eq!(case["sha384"], with_hash(&der, Hash::parse("sha-384").unwrap()).unwrap());
            assert_eq!(case["sha512"], with_hash(&der, Hash::parse("SHA512").unwrap()).unwrap());
            let [start, end] = valid_between(&der).unwrap();
            assert!(start < end && end == not_after(&der).unwrap() && end.as_secs() > 1);
            assert!(is_ca(&der), "{}", case["name"]);
        }
    }

    #[test]
    fn host_names_are_found_beside_names_of_other_kinds() {
        use rcgen::{CertificateParams, CustomExtension, KeyPair};
        // The principal of Kerberos has a GeneralString.
        let principal =
            b"\xa0\x11\x06\x06\x2b\x06\x01\x05\x02\x02\xa0\x07\x30\x05\xa0\x03\x1b\x01R";
        let names = [b"\x30\x20", &principal[..], b"\x82\x0bexample.com"].concat();
        let mut params = CertificateParams::default();
        params.custom_extensions = vec![CustomExtension::from_oid_content(&[2, 5, 29, 17], names)];
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        assert_eq!(["example.com"], *hosts(certificate.der()));
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

    /// A DER element.
    fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let content = parts.concat();
        let length = match content.len() {
            short @ 0..128 => vec![short as u8],
            middle @ 128..256 => vec![0x81, middle as u8],
            long => vec![0x82, (long >> 8) as u8, long as u8],
        };
        [&[tag], &*length, &content].concat()
    }

    /// A certificate with names of one letter and nothing that version 1 lacks, but these elements behind
    /// its key. Its signature is none.
    fn certificate(issuer: u8, subject: u8, key: &[u8], behind: &[u8]) -> Vec<u8> {
        let name = |letter| {
            let common_name = element(0x06, &[&[0x55, 4, 3]]);
            let attribute = element(0x30, &[&common_name, &element(0x0c, &[&[letter]])]);
            element(0x30, &[&element(0x31, &[&attribute])])
        };
        let algorithm = element(0x30, &[&element(0x06, &[&[0x2b, 0x65, 0x70]])]);
        let time = element(0x17, &[b"300101000000Z"]);
        let (issuer, subject) = (name(issuer), name(subject));
        let validity = element(0x30, &[&time, &time]);
        let signature = element(0x03, &[&[0; 65]]);
        let signed: [&[u8]; 7] =
            [&[2, 1, 1], &algorithm, &issuer, &validity, &subject, key, behind];
        element(0x30, &[&element(0x30, &signed), &algorithm, &signature])
    }

    /// A public key with this algorithm and curve.
    fn key(algorithm: &str, curve: Option<&str>) -> Vec<u8> {
        use der::Encode as _;
        let oid = |text: &str| ObjectIdentifier::new_unwrap(text).to_der().unwrap();
        let curve = curve.map(oid).unwrap_or_default();
        element(0x30, &[&element(0x30, &[&oid(algorithm), &curve]), &element(0x03, &[&[0; 90]])])
    }

    #[test]
    fn the_kind_of_a_key_has_its_common_name() {
        const ELLIPTIC: &str = "1.2.840.10045.2.1";
        for (algorithm, curve, kind) in [
            ("1.2.840.113549.1.1.1", None, Some("RSA")),
            ("1.2.840.113549.1.1.10", None, Some("RSA-PSS")),
            ("1.3.101.112", None, Some("Ed25519")),
            ("1.3.101.113", None, Some("Ed448")),
            ("1.2.840.10040.4.1", None, Some("DSA")),
            (ELLIPTIC, Some("1.2.840.10045.3.1.7"), Some("P-256")),
            (ELLIPTIC, Some("1.3.132.0.34"), Some("P-384")),
            (ELLIPTIC, Some("1.3.132.0.35"), Some("P-521")),
            (ELLIPTIC, Some("1.3.132.0.33"), Some("P-224")),
            (ELLIPTIC, Some("1.3.132.0.10"), Some("secp256k1")),
            (ELLIPTIC, None, None),
            ("1.3.101.110", None, None),
        ] {
            let key = key(algorithm, curve);
            let der = certificate(b'a', b'a', &key, b"");
            assert_eq!(kind, key_kind(&der));
            assert_eq!(key, public_key(&der).unwrap());
            assert_eq!("CN=a", subject(&der).unwrap());
        }
        assert_eq!(None, key_kind(b"0"));
    }

    #[test]
    fn a_certificate_of_version_1_completes_a_chain_only_below_itself() {
        let key = key("1.3.101.112", None);
        let newer = certificate(b'r', b'r', &key, &element(0x82, &[b"id"]));
        let certificate = |issuer, subject| certificate(issuer, subject, &key, b"");
        let (root, leaf) = (certificate(b'r', b'r'), certificate(b'r', b'l'));
        let stranger = certificate(b's', b'l');
        assert!(is_version_1(&root) && may_issue(&root) && !is_ca(&root));
        assert!(completes(&root, &[&leaf]));
        assert!(completes(&root, &[&stranger, &leaf]));
        for (other, chain) in [(&root, &stranger), (&root, &root), (&leaf, &root), (&leaf, &leaf)] {
            assert!(!completes(other, &[chain]));
        }
        assert!(!completes(b"0", &[&leaf]) && !completes(&root, &[b"0"]) && !is_version_1(b"0"));
        // Not with something behind the key.
        assert!(!is_version_1(&newer) && !may_issue(&newer) && !completes(&newer, &[&leaf]));
        assert!(signed(&root).is_ok_and(|signed| signed.signature == [0; 64]));
    }

    #[test]
    fn usages_and_names_are_those_of_the_extensions() {
        use rcgen::{
            BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose as Purpose, IsCa, KeyPair,
            KeyUsagePurpose::{self as Usage, *},
        };
        let pair = KeyPair::generate().unwrap();
        let make = |usages: &[Usage], purposes: &[Purpose], is_ca| {
            let names = ["*.example.com", "10.1.2.3", "::1"].map(str::to_owned);
            let mut params = CertificateParams::new(names).unwrap();
            (params.key_usages, params.extended_key_usages) = (usages.into(), purposes.into());
            if is_ca {
                params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            }
            params.self_signed(&pair).unwrap().der().to_vec()
        };
        for (usages, handshakes, issues) in [
            (&[][..], true, true),
            (&[DigitalSignature], true, false),
            (&[KeyEncipherment], true, false),
            (&[KeyAgreement], true, false),
            (&[KeyCertSign], false, true),
            (&[CrlSign, ContentCommitment], false, false),
        ] {
            let [plain, authority] = [false, true].map(|is_ca| make(usages, &[], is_ca));
            assert_eq!(handshakes, has_usage_of_handshakes(&plain), "{usages:?}");
            assert!(!may_issue(&plain) && !is_version_1(&plain), "{usages:?}");
            assert_eq!(issues, may_issue(&authority), "{usages:?}");
            assert!(completes(&authority, &[&plain]) && !completes(&plain, &[&authority]));
            assert_eq!(["*.example.com", "10.1.2.3", "::1"], *hosts(&plain));
            assert_ne!(signed(&plain).unwrap().message, signed(&authority).unwrap().message);
        }
        for (purposes, client, server) in [
            (&[][..], true, true),
            (&[Purpose::ClientAuth], true, false),
            (&[Purpose::ServerAuth], false, true),
            (&[Purpose::CodeSigning], false, false),
            (&[Purpose::CodeSigning, Purpose::Any], true, true),
        ] {
            let der = make(&[], purposes, false);
            assert_eq!(client, has_usage_of(End::Client, &der), "{purposes:?}");
            assert_eq!(server, has_usage_of(End::Server, &der), "{purposes:?}");
        }
    }

    #[test]
    fn a_hash_function_has_its_name_with_or_without_hyphen() {
        for (name, length) in [("sha256", 64), ("SHA-256", 64), ("Sha384", 96), ("sha-512", 128)] {
            assert_eq!(length, of_public_key(b"key", Hash::parse(name).unwrap()).len());
        }
        assert!(Hash::parse("sha1").is_none() && Hash::parse("").is_none());
    }

    #[test]
    fn an_unreadable_certificate_says_so_with_its_cause() {
        let error = of_certificate(b"").unwrap_err();
        assert!(error.to_string().starts_with("malformed certificate: "), "{error}");
        assert!(std::error::Error::source(&error).is_some());
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
    fn an_identity_has_64_lower_case_hex_digits() {
        let digits = "0123456789abcdef".repeat(4);
        assert!(is_identity(&digits));
        for text in
            ["", "_", "disabled", &digits[1..], &format!("{digits}0"), &digits.to_uppercase()]
        {
            assert!(!is_identity(text), "{text}");
        }
    }

    #[test]
    fn garbage_is_no_certificate() {
        for der in [&b""[..], b"\x30", b"\x30\x00", &[0x30; 64]] {
            assert!(of_certificate(der).is_err());
            assert!(!is_ca(der));
        }
    }
}
