//! Puts the values of a YAML document into their places.
//!
//! What `#[derive(Deserialize)]` would write out for each map of the file, once for all: what is
//! asked of the parser depends on the place at run time, not on its type. It saves 130 KB of code,
//! and the messages are the same. Knows nothing of the fields.

use std::fmt;

use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Unexpected,
    Visitor,
};

/// A place for a value that may be missing or null.
pub(super) trait Slot {
    /// Makes a place for a value that is neither.
    fn place(&mut self) -> Place<'_>;
}

/// A value that is there.
pub(super) trait Value: Default {
    /// The place to read it into.
    fn place(&mut self) -> Place<'_>;
}

/// Where the parts of a value go.
pub(super) enum Place<'a> {
    Text(&'a mut String),
    List(&'a mut dyn List),
    Map(&'a mut dyn Map),
    /// A list or a map: what it is shows when it is read.
    Either(&'a mut dyn Either),
}

/// A list, filled from its first item to its last.
pub(super) trait List {
    fn next(&mut self) -> &mut dyn Slot;
}

/// A map with fields.
pub(super) trait Map {
    /// What an error says is expected here.
    fn expected(&self) -> &'static str {
        "a map of fields"
    }

    /// The fields it may have, if others are an error; `None` if others are ignored.
    fn names(&self) -> Option<&'static [&'static str]>;

    /// The place for the value of this field, if it may have it.
    fn field(&mut self, name: &str) -> Option<&mut dyn Slot>;
}

/// A value that is a list or a map.
pub(super) trait Either {
    /// What an error says is expected here.
    fn expected(&self) -> &'static str;
    fn list(&mut self) -> &mut dyn List;
    fn map(&mut self) -> &mut dyn Map;
}

impl<T: Value> Slot for Option<T> {
    fn place(&mut self) -> Place<'_> {
        self.insert(T::default()).place()
    }
}

impl Value for String {
    fn place(&mut self) -> Place<'_> {
        Place::Text(self)
    }
}

impl<T: Value> Value for Vec<Option<T>> {
    fn place(&mut self) -> Place<'_> {
        Place::List(self)
    }
}

impl<T: Value> List for Vec<Option<T>> {
    fn next(&mut self) -> &mut dyn Slot {
        self.push(None);
        self.last_mut().expect("it was just pushed")
    }
}

/// Reads one value into its slot.
pub(super) struct Fill<'a>(pub(super) &'a mut dyn Slot);

impl<'de> DeserializeSeed<'de> for Fill<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for Fill<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("option")
    }

    fn visit_none<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let place = self.0.place();
        match place {
            Place::Text(_) => deserializer.deserialize_str(place),
            Place::List(_) => deserializer.deserialize_seq(place),
            Place::Map(_) => deserializer.deserialize_map(place),
            Place::Either(_) => deserializer.deserialize_any(place),
        }
    }
}

impl<'de> Visitor<'de> for Place<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text(_) => "a string",
            Self::List(_) => "a sequence",
            Self::Map(map) => map.expected(),
            Self::Either(either) => either.expected(),
        })
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        let Self::Text(place) = self else {
            return Err(E::invalid_type(Unexpected::Str(text), &self));
        };
        place.push_str(text);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let list = match self {
            Self::List(list) => list,
            Self::Either(either) => either.list(),
            Self::Text(_) | Self::Map(_) => {
                return Err(A::Error::invalid_type(Unexpected::Seq, &self));
            }
        };
        while items.next_element_seed(Item(list))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        let map = match self {
            Self::Map(map) => map,
            Self::Either(either) => either.map(),
            Self::Text(_) | Self::List(_) => {
                return Err(A::Error::invalid_type(Unexpected::Map, &self));
            }
        };
        while let Some(slot) = fields.next_key_seed(Name(map))? {
            match slot {
                Some(slot) => fields.next_value_seed(Fill(slot))?,
                None => drop(fields.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// Reads one item of a list, if there is one more.
struct Item<'a>(&'a mut dyn List);

impl<'de> DeserializeSeed<'de> for Item<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        Fill(self.0.next()).deserialize(deserializer)
    }
}

/// Reads the name of a field and finds its slot; `None` if the value is to be ignored.
struct Name<'a>(&'a mut dyn Map);

impl<'de, 'a> DeserializeSeed<'de> for Name<'a> {
    type Value = Option<&'a mut dyn Slot>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de, 'a> Visitor<'de> for Name<'a> {
    type Value = Option<&'a mut dyn Slot>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Self::Value, E> {
        let names = self.0.names();
        match (self.0.field(name), names) {
            (None, Some(names)) => Err(E::unknown_field(name, names)),
            (slot, _) => Ok(slot),
        }
    }
}
