//! JSON objects as Go reads them: names match in any case, `null` is empty, the last of two members of one
//! name wins, members of other names are ignored.

use std::{borrow::Cow, fmt};

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use crate::base::secret::Secret;

/// Padded standard base64 as Go reads it: bits left over in the last character may be set.
pub(crate) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// The members `names` of the JSON object or `null` at the beginning of `input`, each as text, and whether
/// nothing follows. `None` if it is malformed, or one of them is no text.
pub fn texts<'a, const N: usize>(
    input: &'a [u8],
    names: [&str; N],
) -> Option<([Cow<'a, str>; N], bool)> {
    read(input, Members { names, convert: Some })
}

/// The binary members `names` of the JSON object or `null` at the beginning of `input`, decoded from base64
/// without line breaks. `None` if it is malformed, or one of them is no base64.
pub fn secrets<const N: usize>(input: &[u8], names: [&str; N]) -> Option<[Secret; N]> {
    read(input, Members { names, convert: secret }).map(|(found, _)| found)
}

/// The same for each object of the array at the beginning of `input`; those after the first `max` are not
/// looked at.
pub fn lists_of_secrets<const N: usize>(
    input: &[u8],
    names: [&str; N],
    max: usize,
) -> Option<Vec<[Secret; N]>> {
    read(input, Elements(Members { names, convert: secret }, max)).map(|(found, _)| found)
}

/// The bytes of a base64 text, in which line breaks do not count.
fn secret(text: Cow<'_, str>) -> Option<Secret> {
    let text = match memchr::memchr2(b'\r', b'\n', text.as_bytes()) {
        Some(_) => text.replace(['\r', '\n'], "").into(),
        None => text,
    };
    BASE64.decode(text.as_bytes()).map(Secret::new).ok()
}

fn read<'de, S: DeserializeSeed<'de>>(input: &'de [u8], members: S) -> Option<(S::Value, bool)> {
    let mut json = serde_json::Deserializer::from_slice(input);
    let found = members.deserialize(&mut json).ok()?;
    Some((found, json.end().is_ok()))
}

/// Reads at most so many objects of an array, or of `null`.
struct Elements<S>(S, usize);

impl<'de, S: DeserializeSeed<'de> + Copy> DeserializeSeed<'de> for Elements<S> {
    type Value = Vec<S::Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, S: DeserializeSeed<'de> + Copy> Visitor<'de> for Elements<S> {
    type Value = Vec<S::Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Vec::new())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Self::Value, A::Error> {
        let mut found = Vec::new();
        while found.len() < self.1
            && let Some(element) = array.next_element_seed(self.0)?
        {
            found.push(element);
        }
        while array.next_element::<IgnoredAny>()?.is_some() {}
        Ok(found)
    }
}

/// Reads the members with these names, in lower case, in their order.
#[derive(Clone, Copy)]
struct Members<'n, const N: usize, F> {
    names: [&'n str; N],
    convert: F,
}

impl<'de, T, const N: usize, F> DeserializeSeed<'de> for Members<'_, N, F>
where
    T: Default,
    F: Fn(Cow<'de, str>) -> Option<T>,
{
    type Value = [T; N];

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T, const N: usize, F> Visitor<'de> for Members<'_, N, F>
where
    T: Default,
    F: Fn(Cow<'de, str>) -> Option<T>,
{
    type Value = [T; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(std::array::from_fn(|_| T::default()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = std::array::from_fn(|_| T::default());
        while let Some(Text(name)) = map.next_key()? {
            match self.names.iter().position(|known| known.eq_ignore_ascii_case(&name)) {
                Some(at) => {
                    let Text(text) = map.next_value()?;
                    found[at] =
                        (self.convert)(text).ok_or_else(|| A::Error::custom("not base64"))?;
                }
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(found)
    }
}

/// A string or `null`, borrowed where possible.
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor).map(Text)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Cow::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(body: &str) -> Option<Vec<Vec<u8>>> {
        let members = secrets(body.as_bytes(), ["plaintext", "context"])?;
        Some(members.iter().map(|member| member.expose().to_vec()).collect())
    }

    #[test]
    fn bodies_are_read_as_the_clients_write_them() {
        let ab = Some(vec![b"a".to_vec(), b"b".to_vec()]);
        assert_eq!(ab, decoded(r#"{"plaintext":"YQ==","context":"Yg=="}"#));
        assert_eq!(ab, decoded(r#"{"PlainText":"YQ==","CONTEXT":"Yg==","x":[{"y":1}]} trailing"#));
        assert_eq!(ab, decoded(r#"{"plaintext":"Y\nQ=\r=","context":"Yg=="}"#));
        // Go ignores what is left over in the last character.
        assert_eq!(ab, decoded(r#"{"plaintext":"YR==","context":"Yh=="}"#));
        let empty = Some(vec![vec![], vec![]]);
        assert_eq!(empty, decoded("{}"));
        assert_eq!(empty, decoded("null"));
        assert_eq!(empty, decoded(r#"{"plaintext":null}"#));
        // The last one wins, but each must be base64.
        assert_eq!(ab, decoded(r#"{"plaintext":"","context":"Yg==","PLAINTEXT":"YQ=="}"#));
        assert_eq!(None, decoded(r#"{"plaintext":"!","PLAINTEXT":"YQ=="}"#));
    }

    #[test]
    fn an_array_is_read_up_to_so_many_objects() {
        let read = |body: &str, max| {
            let lists = lists_of_secrets(body.as_bytes(), ["ciphertext", "context"], max)?;
            let exposed =
                lists.iter().map(|list| list.each_ref().map(|secret| secret.expose().to_vec()));
            Some(exposed.collect::<Vec<_>>())
        };
        let [a, b, none] = [&b"a"[..], b"b", b""].map(<[u8]>::to_vec);
        let body =
            r#"[{"ciphertext":"YQ==","context":"Yg=="},{"Context":"YQ=="},{"ciphertext":"!"}]"#;
        assert_eq!(Some(vec![[a.clone(), b]]), read(body, 1));
        assert_eq!(2, read(body, 2).unwrap().len());
        assert_eq!([none.clone(), a], read(body, 2).unwrap()[1]);
        assert_eq!(None, read(body, 3), "the third is no base64");
        for body in ["[]", "null", "[] trailing"] {
            assert_eq!(Some(vec![]), read(body, 3), "{body:?}");
        }
        assert_eq!(Some(vec![[none.clone(), none]]), read("[null]", 3));
        for body in ["", "{}", "[", "[1]", "[[]]", "1", "[{}", r#"{"ciphertext":"YQ=="}"#] {
            assert_eq!(None, read(body, 3), "{body:?}");
        }
    }

    #[test]
    fn bodies_that_are_not_json_of_the_right_shape_are_refused() {
        for body in [
            "",
            " ",
            "{",
            "[]",
            "1",
            "\"a\"",
            r#"{"plaintext":1}"#,
            r#"{"plaintext":["YQ=="]}"#,
            r#"{"plaintext":{"a":1}}"#,
            r#"{"plaintext":true}"#,
            r#"{"plaintext":"YQ"}"#,
            r#"{"plaintext":"!"}"#,
            r#"{"plaintext":"YQ==""#,
            "{\"plaintext\":\"\u{e9}\"}",
        ] {
            assert_eq!(None, decoded(body), "{body:?} was taken");
        }
    }
}
