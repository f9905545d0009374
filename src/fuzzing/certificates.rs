//! Certificates: any bytes, some that are made, and those in the header of a proxy.

use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::{
    cursor::Cursor,
    plain::{der, sha256},
};
use crate::{identity, request::proxy, tls};

/// Any bytes. If they are a certificate, its identity is the SHA-256 of its public key.
pub fn any(bytes: &[u8]) {
    if let Ok(found) = identity::of_certificate(bytes) {
        let key = public_key(bytes).expect("it has a public key");
        assert_eq!(sha256(key), found, "the identity");
        assert_eq!(key, identity::public_key(bytes).expect("as before"));
    }
    let _ = (identity::subject(bytes), identity::hosts(bytes), identity::key_kind(bytes));
    let _ = (identity::is_ca(bytes), identity::may_issue(bytes), identity::signed(bytes));
    if let Ok([_, end]) = identity::valid_between(bytes) {
        let seconds = |time: UnixTime| time.as_secs();
        assert_eq!(Ok(seconds(end)), identity::not_after(bytes).map(seconds).map_err(|_| ()));
    }
    let chain = [CertificateDer::from(bytes)];
    let now = UnixTime::since_unix_epoch(Duration::from_secs(1_700_000_000));
    let _ = tls::ClientTrust::any().verify(&chain, now);
}

/// Reads past the version and five elements, or past five if there is no version.
fn public_key(certificate: &[u8]) -> Option<&[u8]> {
    let (_, certificate, _) = element(certificate)?;
    let (_, mut signed, _) = element(certificate)?;
    let skipped = if signed.first() == Some(&0xa0) { 6 } else { 5 };
    for _ in 0..skipped {
        signed = element(signed)?.2;
    }
    Some(element(signed)?.0)
}

/// The first element: all of it, its content, and what follows.
fn element(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (head, length) = match bytes.get(1)? {
        length @ ..0x80 => (2, usize::from(*length)),
        more => {
            let more = usize::from(more & 0x7f);
            let length = bytes.get(2..2 + more)?;
            (2 + more, length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)))
        }
    };
    let (first, rest) = bytes.split_at_checked(head + length)?;
    Some((first, &first[head..], rest))
}

/// A certificate with this public key, whatever else is in it.
pub fn made(mut cursor: Cursor<'_>) {
    let choice = cursor.byte();
    let key = der(0x30, cursor.bytes());
    let [serial, algorithm, issuer, subject, extensions] =
        [2, 0x30, 0x30, 0x30, 0x30].map(|tag| der(tag, cursor.bytes()));
    let validity = der(0x30, &[der(0x17, b"240101000000Z"), der(0x17, b"340101000000Z")].concat());
    let mut parts = vec![serial, algorithm.clone(), issuer, validity, subject, key.clone()];
    if choice & 1 != 0 {
        parts.insert(0, der(0xa0, &[2, 1, 2]));
        parts.push(der(0xa3, &extensions));
    }
    let certificate = [der(0x30, &parts.concat()), algorithm, der(3, &[0, 1])].concat();
    let certificate = der(0x30, &certificate);
    assert_eq!(Some(sha256(&key)), identity::of_certificate(&certificate).ok(), "the identity");
    let ends = identity::valid_between(&certificate).expect("both ends are times");
    assert_eq!([1_704_067_200, 2_019_686_400], ends.map(|end| end.as_secs()));
    any(&certificate);
}

/// A certificate in a header, as it should be or not.
pub fn forwarded(mut cursor: Cursor<'_>) {
    let (choice, place) = (cursor.byte(), usize::from(cursor.short()));
    let certificate = der(0x30, &cursor.0.repeat(if choice & 32 == 0 { 1 } else { 8 }));
    let label = if choice & 1 == 0 { "CERTIFICATE" } else { "TRUSTED CERTIFICATE" };
    let mut text = tls::pem::write(label, &certificate);
    if choice & 2 != 0 {
        text = text.repeat(2);
    }
    if choice & 4 != 0 {
        text.insert_str(0, "Bag Attributes\n");
    }
    if choice & 8 != 0 {
        text.truncate(place % text.len());
    }
    // NGINX escapes all that is not unreserved, and others less.
    let is_plain = |byte: u8| match choice & 16 {
        0 => byte.is_ascii_alphanumeric() || b"-._~".contains(&byte),
        _ => byte.is_ascii_graphic() && byte != b'%' && byte != b'+',
    };
    let escaped = |byte: u8| match is_plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    let header: String = text.bytes().map(escaped).collect();
    let found = proxy::certificate(header.as_bytes());
    let is_whole = choice & 11 == 0 && header.len() <= 16 * 1024;
    assert!(!is_whole || found.is_some(), "{header}");
    let is_one = choice & 1 == 0 && (choice & 2 == 0 || choice & 8 != 0);
    let may_be = is_one && header.len() <= 16 * 1024;
    assert!(found.is_none() || may_be && found.as_deref() == Some(&certificate[..]), "{header}");
}

/// Any header. What is found in it is the only thing that is there.
pub fn header(header: &[u8]) {
    let Some(found) = proxy::certificate(header) else { return };
    assert!(header.len() <= 16 * 1024);
    // Unescaped, it is one block with these bytes.
    let blank = |byte: &u8| if *byte == b'+' { b' ' } else { *byte };
    let text: Vec<u8> =
        percent_encoding::percent_decode(&header.iter().map(blank).collect::<Vec<_>>()).collect();
    let text = String::from_utf8(text).expect("it is text");
    assert_eq!(1, text.matches("-----BEGIN ").count(), "{text}");
    let base64: String = text.split_whitespace().collect();
    let wanted = BASE64_STANDARD.encode(&found);
    // The unused bits of the last digit may be any.
    assert!(base64.contains(&wanted[..wanted.len().saturating_sub(4)]), "{text}");
}
