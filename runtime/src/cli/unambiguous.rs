//! JSON objects whose fields are there once.
//!
//! In: JSON. Out: its value. Refused: what is no object, and an object that has a field twice: JSON does not say which of
//! the two counts (RFC 8259, section 4). Objects within it are taken as they are.

use std::fmt;

use bias_patch::quoted;
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor},
};
use serde_json::{Map, Value};

/// An object, none of whose fields is there twice.
pub(super) struct Unambiguous(pub Value);

impl<'de> Deserialize<'de> for Unambiguous {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
                let mut object = Map::new();
                while let Some((name, value)) = fields.next_entry::<String, Value>()? {
                    if object.contains_key(&name) {
                        return Err(A::Error::custom(format!(
                            "expected each field once, found {} twice",
                            quoted(&name)
                        )));
                    }
                    object.insert(name, value);
                }
                Ok(Value::Object(object))
            }
        }
        deserializer.deserialize_map(Fields).map(Unambiguous)
    }
}
