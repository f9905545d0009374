//! Master keys, the ciphertexts made with them, and how both look as bytes.
//!
//! Writes what KES 0.14 writes and reads what any KES has written. Knows nothing of key stores,
//! HTTP or policies. The formats and their names (K1-K4, C1-C4) come from `formats.md`.

pub mod ciphertext;
mod key;
pub mod stored;

use std::{borrow::Cow, fmt};

use base64::{
    alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde::{Deserialize, Deserializer};

pub use key::{Algorithm, KEY_SIZE, MasterKey};

/// Padded standard base64 as Go reads it: bits left over in the last character may be set.
pub(crate) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// A JSON string or `null` (which is the empty text, as in Go), borrowed where possible and wiped
/// where not, since it may be the base64 of a key.
#[derive(Default)]
pub(crate) struct Text<'a>(Cow<'a, str>);

impl Text<'_> {
    /// The text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The text, or `None` if it is empty.
    fn non_empty(&self) -> Option<&str> {
        Some(self.as_str()).filter(|text| !text.is_empty())
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Text::default())
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

/// The text members of a JSON object, in the order of [`Members::NAMES`].
///
/// Reads objects as Go does: names match in any case, the last of two members of one name wins,
/// members of other names are ignored.
trait Members<'a>: Default {
    /// The names of the members, in lower case.
    const NAMES: &'static [&'static str];

    /// Where to put the member `NAMES[index]`.
    fn member(&mut self, index: usize) -> &mut Text<'a>;
}

/// Reads a JSON object into the members that `T` names.
fn read_members<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Members<'de>,
    D: Deserializer<'de>,
{
    struct Visitor<T>(std::marker::PhantomData<T>);

    impl<'de, T: Members<'de>> serde::de::Visitor<'de> for Visitor<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A>(self, mut map: A) -> Result<T, A::Error>
        where
            A: serde::de::MapAccess<'de>,
        {
            let mut members = T::default();
            while let Some(name) = map.next_key::<Text<'de>>()? {
                let known =
                    T::NAMES.iter().position(|known| known.eq_ignore_ascii_case(name.as_str()));
                match known {
                    Some(index) => *members.member(index) = map.next_value()?,
                    None => drop(map.next_value::<serde::de::IgnoredAny>()?),
                }
            }
            Ok(members)
        }
    }

    deserializer.deserialize_map(Visitor(std::marker::PhantomData))
}

#[cfg(test)]
mod testdata {
    //! The known answers in `testdata/`, read as JSON.

    use base64::{Engine, prelude::BASE64_STANDARD};
    use serde_json::Value;

    /// The JSON file `testdata/<name>`.
    pub(super) fn read(name: &str) -> Value {
        let path = format!("{}/testdata/{name}", env!("CARGO_MANIFEST_DIR"));
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    /// The text of a member.
    pub(super) fn text<'a>(case: &'a Value, member: &str) -> &'a str {
        case[member].as_str().unwrap()
    }

    /// The bytes of a member in base64.
    pub(super) fn base64(case: &Value, member: &str) -> Vec<u8> {
        BASE64_STANDARD.decode(text(case, member)).unwrap()
    }

    /// The bytes of a member in hex.
    pub(super) fn hex(case: &Value, member: &str) -> Vec<u8> {
        text(case, member)
            .as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }
}
