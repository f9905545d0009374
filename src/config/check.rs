//! A first look at the YAML of a configuration file, before its fields get a meaning.
//!
//! Finds fields that are written twice, and files that are small but would take forever to parse or
//! fill the memory. Knows nothing of the fields.

use std::{cell::Cell, collections::HashSet, fmt};

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// What is said about a document with too many values.
pub(super) const TOO_MANY: &str = "aliases repeat too many values; write the values out";

/// What is said about a repeated field.
pub(super) const TWICE: &str = "appears twice";

/// How deep brackets may be nested. The YAML parser stops at 128 itself, but late: its time grows
/// with the square of the depth.
pub(super) const MAX_NESTING: usize = 200;

/// How deep brackets are nested in `text` at most, taking those in quotes and comments for real.
pub(super) fn nesting(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    for byte in text.bytes() {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// The most values that the document `text` may have.
///
/// Without aliases each value takes a byte of the file at least, so a document that has more repeats
/// itself with aliases, and would fill the memory.
pub(super) fn most_values(text: &str) -> usize {
    text.len() + 1
}

/// What a value is, as far as its first look goes.
pub(super) enum Shape {
    Nothing,
    Value,
    Map(HashSet<String>),
}

/// Checks a document for repeated fields and for aliases that blow it up.
#[derive(Clone, Copy)]
pub(super) struct Check<'a> {
    values_left: &'a Cell<usize>,
}

impl<'a> Check<'a> {
    /// Starts a check; `values_left` is how many values the document may have.
    pub(super) fn new(values_left: &'a Cell<usize>) -> Self {
        Self { values_left }
    }

    fn count<E: serde::de::Error>(self) -> Result<(), E> {
        let left = self.values_left.get().checked_sub(1);
        self.values_left
            .set(left.ok_or_else(|| E::custom(TOO_MANY))?);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Check<'_> {
    type Value = Shape;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Shape, D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// The visits of plain values, which differ in type only.
macro_rules! visit_values {
    ($($visit:ident: $type:ty,)*) => {$(
        fn $visit<E: serde::de::Error>(self, _: $type) -> Result<Shape, E> {
            self.count()?;
            Ok(Shape::Value)
        }
    )*};
}

impl<'de> Visitor<'de> for Check<'_> {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map, a list, a string or a number without a tag")
    }

    visit_values! {
        visit_bool: bool,
        visit_i64: i64,
        visit_u64: u64,
        visit_i128: i128,
        visit_u128: u128,
        visit_f64: f64,
        visit_str: &str,
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Shape, E> {
        self.count()?;
        Ok(Shape::Nothing)
    }

    /// A document without any value.
    fn visit_none<E: serde::de::Error>(self) -> Result<Shape, E> {
        self.visit_unit()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Shape, A::Error> {
        self.count()?;
        while list.next_element_seed(self)?.is_some() {}
        Ok(Shape::Value)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shape, A::Error> {
        self.count()?;
        let mut fields = HashSet::new();
        while let Some(field) = map.next_key_seed(NewField(&fields))? {
            fields.insert(field);
            map.next_value_seed(self)?;
        }
        Ok(Shape::Map(fields))
    }
}

/// Reads the name of a field that is not among those seen; fails on the spot if it is.
struct NewField<'a>(&'a HashSet<String>);

impl<'de> DeserializeSeed<'de> for NewField<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for NewField<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E: serde::de::Error>(self, field: &str) -> Result<String, E> {
        if self.0.contains(field) {
            return Err(E::custom(format!(
                "field `{field}` {TWICE}; keep one of them"
            )));
        }
        Ok(field.into())
    }
}
