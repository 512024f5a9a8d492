//! JSON objects whose fields are there once.
//!
//! In: JSON. Out: its value. Refused: what is no object, and an object that has a field twice, also within another: JSON
//! does not say which of the two counts (RFC 8259, section 4).

use std::fmt;

use bias_patch::quoted;
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};

/// An object, none of whose fields is there twice.
pub struct Unambiguous(pub Value);

/// Any value, of which the same holds for every object.
struct Part(Value);

impl<'de> Deserialize<'de> for Unambiguous {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Value, A::Error> {
                object(fields)
            }
        }
        deserializer.deserialize_map(Object).map(Unambiguous)
    }
}

impl<'de> Deserialize<'de> for Part {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON value")
            }

            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_str<E>(self, value: &str) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Value, A::Error> {
                let mut list = Vec::new();
                while let Some(Part(part)) = parts.next_element()? {
                    list.push(part);
                }
                Ok(Value::Array(list))
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Value, A::Error> {
                object(fields)
            }
        }
        deserializer.deserialize_any(Any).map(Part)
    }
}

fn object<'de, A: MapAccess<'de>>(mut fields: A) -> Result<Value, A::Error> {
    let mut object = Map::new();
    while let Some((name, Part(value))) = fields.next_entry::<String, Part>()? {
        if object.contains_key(&name) {
            return Err(A::Error::custom(format!("expected each field once, found {} twice", quoted(&name))));
        }
        object.insert(name, value);
    }
    Ok(Value::Object(object))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_there_once_in_every_object() {
        let read = |text: &str| serde_json::from_str::<Unambiguous>(text).map(|Unambiguous(value)| value);
        let text = r#"{"a": [1, -2, 0.5, true, null, "b", {"a": {}}], "c": {"a": 1}}"#;
        assert_eq!(read(text).unwrap(), serde_json::from_str::<Value>(text).unwrap());
        for text in [r#"{"a": 1, "a": 1}"#, r#"{"b": {"a": 1, "a": 2}}"#, r#"{"b": [[{"a": 1, "c": 0, "a": 2}]]}"#] {
            let refused = read(text).unwrap_err().to_string();
            assert!(refused.starts_with("expected each field once, found \"a\" twice"), "{refused}");
        }
        assert!(read("[1]").unwrap_err().to_string().contains("expected a JSON object"));
    }
}
