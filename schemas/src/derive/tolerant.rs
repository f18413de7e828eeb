//! JSON into typed values where a value of the wrong type is absent, never an error: one odd field must not hide the rest
//! of an object from the rules. Nothing is parsed twice and nothing is built for what no field asks for.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// What a type can be read from. Everything that it does not say otherwise about is the wrong type.
pub trait Shape<'de>: Sized {
    fn text(_: Cow<'de, str>) -> Option<Self> {
        None
    }
    fn boolean(_: bool) -> Option<Self> {
        None
    }
    fn integer(_: i64) -> Option<Self> {
        None
    }
    fn list<A: SeqAccess<'de>>(mut list: A) -> Result<Option<Self>, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }
    fn object<A: MapAccess<'de>>(mut object: A) -> Result<Option<Self>, A::Error> {
        while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

/// A value, or nothing if there is none of the right type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Maybe<T>(pub Option<T>);

impl<T> Default for Maybe<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<'de, T: Shape<'de>> Deserialize<'de> for Maybe<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyType(PhantomData)).map(Maybe)
    }
}

struct AnyType<T>(PhantomData<T>);

impl<'de, T: Shape<'de>> Visitor<'de> for AnyType<T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }
    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(T::boolean(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(T::integer(value))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(i64::try_from(value).ok().and_then(T::integer))
    }
    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(T::text(Cow::Owned(value.to_owned())))
    }
    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
        Ok(T::text(Cow::Borrowed(value)))
    }
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
        T::list(list)
    }
    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<Self::Value, A::Error> {
        T::object(object)
    }
}

impl<'de> Shape<'de> for Cow<'de, str> {
    fn text(text: Cow<'de, str>) -> Option<Self> {
        Some(text)
    }
}

impl<'de> Shape<'de> for bool {
    fn boolean(value: bool) -> Option<Self> {
        Some(value)
    }
}

impl<'de> Shape<'de> for i64 {
    fn integer(value: i64) -> Option<Self> {
        Some(value)
    }
}

/// A list leaves out elements of the wrong type.
impl<'de, T: Shape<'de>> Shape<'de> for Vec<T> {
    fn list<A: SeqAccess<'de>>(mut list: A) -> Result<Option<Self>, A::Error> {
        let mut elements = Vec::new();
        while let Some(Maybe(element)) = list.next_element()? {
            elements.extend(element);
        }
        Ok(Some(elements))
    }
}

/// Whether a field is there at all, whatever it holds. `null` is absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Present;

impl<'de> Shape<'de> for Present {
    fn text(_: Cow<'de, str>) -> Option<Self> {
        Some(Present)
    }
    fn boolean(_: bool) -> Option<Self> {
        Some(Present)
    }
    fn integer(_: i64) -> Option<Self> {
        Some(Present)
    }
}

/// A list as the text that it was received as.
#[derive(Clone, Copy, Debug, Default)]
pub struct RawList<'de>(pub Option<&'de str>);

impl<'de> Deserialize<'de> for RawList<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&RawValue>::deserialize(deserializer)?.get();
        Ok(Self(text.starts_with('[').then_some(text)))
    }
}

/// Declares objects of JSON: each field with its key. Unknown keys are skipped; of a repeated key the last counts, as it
/// does for the API server.
macro_rules! objects {
    ($($(#[$doc:meta])* $name:ident { $($key:literal => $field:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub struct $name<'de> {
            $(pub $field: $type,)*
            marker: std::marker::PhantomData<&'de ()>,
        }

        impl<'de> $crate::derive::tolerant::Shape<'de> for $name<'de> {
            fn object<A: serde::de::MapAccess<'de>>(mut object: A) -> Result<Option<Self>, A::Error> {
                let mut read = Self::default();
                while let Some(key) = object.next_key::<$crate::derive::tolerant::Key<'de>>()? {
                    match &*key.0 {
                        $($key => read.$field = object.next_value()?,)*
                        _ => {
                            object.next_value::<serde::de::IgnoredAny>()?;
                        }
                    }
                }
                Ok(Some(read))
            }
        }
    )*};
}
pub(super) use objects;

/// An object's key, borrowed unless it has escapes.
pub struct Key<'de>(pub Cow<'de, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Keys are always text.
        let Maybe(text) = Maybe::deserialize(deserializer)?;
        Ok(Self(text.unwrap_or_default()))
    }
}

/// The value of a whole text, if it is JSON of the right type.
pub fn parse<'de, T: Shape<'de>>(text: &'de str) -> Option<T> {
    serde_json::from_str::<Maybe<T>>(text).ok().and_then(|maybe| maybe.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    objects! {
        Thing {
            "name" => name: Maybe<Cow<'de, str>>,
            "size" => size: Maybe<i64>,
            "on" => on: Maybe<bool>,
            "words" => words: Maybe<Vec<Cow<'de, str>>>,
            "raw" => raw: RawList<'de>,
            "limit" => limit: Maybe<Present>,
        }
    }

    #[test]
    fn values_of_the_wrong_type_are_absent_and_the_rest_stays() {
        let wrong = ["1", "-1", "1.5", "true", "\"x\"", "[1,[2]]", r#"{"a":{"b":[]}}"#, "null", "18446744073709551615"];
        for value in wrong {
            let text = format!(
                r#"{{"name":{value},"size":{value},"on":{value},"words":{value},"raw":{value},"limit":{value},"name":"last"}}"#
            );
            let thing: Thing = parse(&text).unwrap();
            assert_eq!(thing.name.0.as_deref(), Some("last"), "{value}");
            assert_eq!(thing.size.0, value.parse().ok(), "{value}");
            assert_eq!(thing.on.0, value.parse().ok(), "{value}");
            assert_eq!(thing.words.0, value.starts_with('[').then(Vec::new), "{value}");
            assert_eq!(thing.raw.0, value.starts_with('[').then_some(value), "{value}");
        }
    }

    #[test]
    fn text_keys_and_lists_read_escapes_and_skip_odd_elements() {
        let thing: Thing = parse(r#"{"na\u006de":"a\"b","words":["x",1,null,"\n"],"limit":"5"}"#).unwrap();
        assert_eq!(thing.name.0.as_deref(), Some("a\"b"));
        assert_eq!(thing.words.0.unwrap(), ["x", "\n"]);
        assert_eq!(thing.limit.0, Some(Present));
    }

    #[test]
    fn what_is_no_json_or_another_type_is_nothing() {
        assert!(parse::<Thing>("{\"name\":").is_none());
        assert!(parse::<Thing>("[]").is_none());
        assert!(parse::<Thing>("null").is_none());
    }
}
