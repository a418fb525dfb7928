//! How do nodes become a typed value?
//!
//! This is a `serde` deserializer over [`Node`]. On an error, each level adds its step to the path of the error.

use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, Unexpected, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::de_error::{DeError, one_of};
use super::node::{Content, Entry, Node, Step};
use super::scalar;

impl Node {
    fn unexpected(&self) -> Unexpected<'_> {
        match &self.content {
            Content::Null => Unexpected::Unit,
            Content::Bool(value) => Unexpected::Bool(*value),
            Content::Number(number) => unexpected_number(number),
            Content::Text(text) => Unexpected::Str(text),
            Content::Plain(text) => match (scalar::boolean(text), scalar::number(text)) {
                (Some(value), _) => Unexpected::Bool(value),
                (None, Some(number)) => unexpected_number(&number),
                (None, None) => Unexpected::Str(text),
            },
            Content::List(_) => Unexpected::Seq,
            Content::Map(_) => Unexpected::Map,
        }
    }

    fn wrong_type(&self, visitor: &dyn de::Expected) -> DeError {
        de::Error::invalid_type(self.unexpected(), visitor)
    }

    fn number(&self) -> Option<serde_json::Number> {
        match &self.content {
            Content::Number(number) => Some(number.clone()),
            Content::Plain(text) => scalar::number(text),
            _ => None,
        }
    }

    fn visit_integer<'de, V: Visitor<'de>>(&self, visitor: V) -> Result<V::Value, DeError> {
        match self.number().as_ref().and_then(scalar::whole) {
            Some(whole) => visit_whole(whole, visitor),
            None => Err(self.wrong_type(&visitor)),
        }
    }
}

fn unexpected_number<'a>(number: &serde_json::Number) -> Unexpected<'a> {
    match scalar::whole(number) {
        Some(_) => Unexpected::Signed(0),
        None => Unexpected::Float(0.0),
    }
}

fn visit_whole<'de, V: Visitor<'de>>(whole: i128, visitor: V) -> Result<V::Value, DeError> {
    match (u64::try_from(whole), i64::try_from(whole)) {
        (Ok(number), _) => visitor.visit_u64(number),
        (_, Ok(number)) => visitor.visit_i64(number),
        _ => visitor.visit_i128(whole),
    }
}

macro_rules! integers {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
            self.visit_integer(visitor)
        })*
    };
}

impl<'de> Deserializer<'de> for &'de Node {
    type Error = DeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        match &self.content {
            Content::Null => visitor.visit_unit(),
            Content::Bool(value) => visitor.visit_bool(*value),
            Content::Text(text) => visitor.visit_borrowed_str(text),
            // If the type does not request a boolean, only the words of YAML 1.2 are booleans.
            Content::Plain(text) if matches!(text.as_str(), "true" | "True" | "TRUE") => visitor.visit_bool(true),
            Content::Plain(text) if matches!(text.as_str(), "false" | "False" | "FALSE") => visitor.visit_bool(false),
            Content::Number(_) | Content::Plain(_) => match (self.number(), &self.content) {
                (Some(number), _) => match scalar::whole(&number) {
                    Some(whole) if number.is_i64() || number.is_u64() => visit_whole(whole, visitor),
                    _ => visitor.visit_f64(number.as_f64().unwrap_or(f64::NAN)),
                },
                (None, Content::Plain(text)) => visitor.visit_borrowed_str(text),
                (None, _) => Err(self.wrong_type(&visitor)),
            },
            Content::List(_) => self.deserialize_seq(visitor),
            Content::Map(_) => self.deserialize_map(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        let value = match &self.content {
            Content::Bool(value) => Some(*value),
            Content::Plain(text) => scalar::boolean(text),
            _ => None,
        };
        value.map_or_else(|| Err(self.wrong_type(&"`true` or `false`")), |value| visitor.visit_bool(value))
    }

    integers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        match self.number().and_then(|number| number.as_f64()) {
            Some(number) => visitor.visit_f64(number),
            None => Err(self.wrong_type(&"a number")),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        match &self.content {
            Content::Text(text) | Content::Plain(text) => visitor.visit_borrowed_str(text),
            _ => Err(self.wrong_type(&visitor)),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        match &self.content {
            Content::Text(text) | Content::Plain(text) => visitor.visit_borrowed_str(text),
            _ => Err(self.wrong_type(&"text")),
        }
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        match self.content {
            Content::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        match self.content {
            Content::Null => visitor.visit_unit(),
            _ => Err(self.wrong_type(&visitor)),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, DeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        match &self.content {
            Content::List(items) => visitor.visit_seq(Items { items: items.iter(), index: 0 }),
            _ => Err(self.wrong_type(&"a list")),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        match &self.content {
            Content::Map(entries) => visitor.visit_map(Fields { entries: entries.iter(), current: None }),
            _ => Err(self.wrong_type(&"a mapping of fields")),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DeError> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DeError> {
        match &self.content {
            Content::Text(name) | Content::Plain(name) => visitor.visit_enum(Variant { name, content: None }),
            Content::Map(entries) if entries.len() == 1 => {
                visitor.visit_enum(Variant { name: &entries[0].key, content: Some(&entries[0].value) })
            }
            _ => Err(self.wrong_type(&one_of(variants).as_str())),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! { bytes byte_buf unit_struct tuple tuple_struct identifier }
}

struct Items<'de> {
    items: std::slice::Iter<'de, Node>,
    index: usize,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = DeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, DeError> {
        let Some(item) = self.items.next() else { return Ok(None) };
        let index = self.index;
        self.index += 1;
        seed.deserialize(item).map(Some).map_err(|error| error.under(Step::Index(index)))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

struct Fields<'de> {
    entries: std::slice::Iter<'de, Entry>,
    current: Option<&'de Entry>,
}

impl<'de> MapAccess<'de> for Fields<'de> {
    type Error = DeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, DeError> {
        self.current = self.entries.next();
        let Some(entry) = self.current else { return Ok(None) };
        let key = de::value::BorrowedStrDeserializer::new(&entry.key);
        seed.deserialize(key).map(Some).map_err(|error: DeError| error.under(Step::Key(entry.key.clone())))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, DeError> {
        let Some(entry) = self.current.take() else {
            return Err(de::Error::custom("a value was asked for before its key"));
        };
        seed.deserialize(&entry.value).map_err(|error| error.under(Step::Key(entry.key.clone())))
    }
}

struct Variant<'de> {
    name: &'de str,
    content: Option<&'de Node>,
}

impl<'de> EnumAccess<'de> for Variant<'de> {
    type Error = DeError;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), DeError> {
        let name = de::value::BorrowedStrDeserializer::new(self.name);
        seed.deserialize(name).map(|value| (value, self))
    }
}

impl<'de> Variant<'de> {
    fn content(&self) -> Result<&'de Node, DeError> {
        self.content.ok_or_else(|| de::Error::custom(format!("`{}` needs a value", self.name)))
    }
}

impl<'de> VariantAccess<'de> for Variant<'de> {
    type Error = DeError;

    fn unit_variant(self) -> Result<(), DeError> {
        match self.content {
            None => Ok(()),
            Some(node) => Err(node.wrong_type(&"the name alone")),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, DeError> {
        seed.deserialize(self.content()?).map_err(|error| error.under(Step::Key(self.name.to_owned())))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, DeError> {
        let content = self.content()?;
        content.deserialize_seq(visitor).map_err(|error| error.under(Step::Key(self.name.to_owned())))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, DeError> {
        let content = self.content()?;
        content.deserialize_map(visitor).map_err(|error| error.under(Step::Key(self.name.to_owned())))
    }
}
