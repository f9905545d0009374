//! Ciphertexts (C1 to C4) and stored keys (K1 to K4).

use crate::crypto::{
    Algorithm, MasterKey,
    ciphertext::{self, Format},
    stored,
};

use super::cursor::Cursor;

/// A key, a context and a plaintext; and how what is sealed is changed.
pub fn ciphertexts(data: &[u8]) {
    let mut cursor = Cursor(data);
    let (choice, place, bit) = (cursor.byte(), cursor.short(), cursor.byte() % 8);
    let mut bytes = [0; 32];
    cursor.take(32).iter().zip(&mut bytes).for_each(|(from, to)| *to = *from);
    let context = cursor.bytes();
    let plaintext = cursor.0;
    let key = || {
        let key = MasterKey::from_bytes(&bytes).expect("32 bytes");
        match choice & 3 {
            0 => key.with_algorithm(Algorithm::Aes256),
            1 => key.with_algorithm(Algorithm::ChaCha20),
            _ => key,
        }
    };
    let format = if choice & 4 == 0 { Format::Json } else { Format::Binary };
    let sealed = ciphertext::seal(&key(), plaintext, context, format).expect("it can be sealed");
    check(&key(), &sealed, context, plaintext, usize::from(place), bit);
    // C3 has the same parts as C4.
    if format == Format::Binary {
        let name = if choice & 3 == 1 { "ChaCha20" } else { "AES256" };
        let (bytes, random) = sealed.split_at(sealed.len() - 28);
        let mut old = Vec::new();
        rmp::encode::write_array_len(&mut old, 5).expect("there is room");
        rmp::encode::write_str(&mut old, name).expect("there is room");
        rmp::encode::write_str(&mut old, "id").expect("there is room");
        for part in [&random[..16], &random[16..], bytes] {
            rmp::encode::write_bin(&mut old, part).expect("there is room");
        }
        check(&key(), &old, context, plaintext, usize::from(place), bit);
    }
    // Nobody can make one without the key.
    for input in [data, plaintext, context] {
        assert!(ciphertext::open(&key(), input, b"").is_err(), "it was never sealed");
    }
}

/// Opens `sealed`, then changed in one bit; with another context, and with another key.
fn check(key: &MasterKey, sealed: &[u8], context: &[u8], plaintext: &[u8], place: usize, bit: u8) {
    let opened = ciphertext::open(key, sealed, context).expect("it can be opened");
    assert_eq!(plaintext, opened.expose(), "the plaintext");
    let mut changed = sealed.to_vec();
    let place = place % changed.len();
    changed[place] ^= 1 << bit;
    if let Ok(opened) = ciphertext::open(key, &changed, context) {
        // As in Go, names of members are read without case, and what base64 has behind the last bit is not
        // looked at, nor is a key id.
        assert_eq!(plaintext, opened.expose(), "a changed ciphertext opens to something else");
        let is_name =
            sealed.first() == Some(&b'{') && changed[place].is_ascii_alphabetic() && bit == 5;
        let is_id = sealed.first() == Some(&0x95);
        let is_unused = sealed.get(place + 1) == Some(&b'=');
        assert!(is_name || is_unused || is_id, "bit {bit} of byte {place} is not authenticated");
    }
    let other = [context, b"x"].concat();
    assert!(ciphertext::open(key, sealed, &other).is_err(), "the context is not authenticated");
    if let [first, rest @ ..] = context {
        let other = [&[first ^ (1 << bit)], rest].concat();
        assert!(ciphertext::open(key, sealed, &other).is_err(), "the context is not authenticated");
        assert!(ciphertext::open(key, sealed, rest).is_err(), "the context is not authenticated");
    }
    let cut = &sealed[..place];
    assert!(ciphertext::open(key, cut, context).is_err(), "a part of a ciphertext is one");
    let stranger = MasterKey::from_bytes(&[0x5a; 32]).expect("32 bytes");
    if stored::encode(&stranger).expose() != stored::encode(key).expose() {
        assert!(ciphertext::open(&stranger, sealed, context).is_err(), "it opens with any key");
    }
}

/// A stored value.
pub fn stored_keys(data: &[u8]) {
    let Ok(key) = stored::decode(data) else { return };
    let text = stored::encode(&key);
    let again = stored::decode(text.expose()).expect("what was written can be read");
    assert_eq!(text.expose(), stored::encode(&again).expose(), "a key is written as it was read");
    assert_eq!(key.hmac(b"x"), again.hmac(b"x"), "the HMAC key");
    if key.hmac(b"x").is_some() {
        let all = |key: &MasterKey| {
            (
                key.algorithm(),
                key.created_at().map(str::to_owned),
                key.created_by().map(str::to_owned),
            )
        };
        assert_eq!(all(&key), all(&again), "the properties of a key");
    }
    // Both open what the other has sealed.
    let sealed = ciphertext::seal(&key, b"data", b"", Format::Json).expect("it can be sealed");
    let opened = ciphertext::open(&again, &sealed, b"").expect("it is the same key");
    assert_eq!(b"data", opened.expose());
}
