//! Raw JSON, one level at a time: what stands in an object or an array, as the text it was sent in.
//!
//! A value is handed on as text because the archive keeps what does not fit its columns verbatim.
//! Nothing is built, nothing is interpreted but the level that is asked for; the depth of what lies
//! below costs no stack.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// The text is not JSON, or not of the kind that was asked for. Says where, never what stands there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not JSON: {kind} at line {line} column {column}")]
pub struct JsonError {
    kind: &'static str,
    line: usize,
    column: usize,
}

/// Calls `entry` with each key and the text of its value, in the order of the object.
///
/// A key that stands there twice is handed over twice.
///
/// # Errors
/// Where `text` is not one JSON object. What was handed over before the fault was found is void.
pub fn each_entry<'a>(text: &'a str, entry: &mut dyn FnMut(Cow<'a, str>, &'a str)) -> Result<(), JsonError> {
    let mut reader = serde_json::Deserializer::from_str(text);
    reader.deserialize_map(Entries(entry)).and_then(|()| reader.end()).map_err(|error| JsonError::new(&error))
}

/// Calls `item` with the text of each element, in the order of the array.
///
/// # Errors
/// Where `text` is not one JSON array. What was handed over before the fault was found is void.
pub fn each_item<'a>(text: &'a str, item: &mut dyn FnMut(&'a str)) -> Result<(), JsonError> {
    let mut reader = serde_json::Deserializer::from_str(text);
    reader.deserialize_seq(Items(item)).and_then(|()| reader.end()).map_err(|error| JsonError::new(&error))
}

/// Checks that `text` is one JSON value, and hands it back without the white space around it.
///
/// # Errors
/// Where it is not.
pub fn value(text: &str) -> Result<&str, JsonError> {
    serde_json::from_str::<&RawValue>(text).map(RawValue::get).map_err(|error| JsonError::new(&error))
}

/// The string that a JSON value is; `None` where it is none, or holds half a surrogate pair.
#[must_use]
pub fn string(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        return serde_json::from_str(raw).ok().map(Cow::Owned);
    }
    Some(Cow::Borrowed(inner))
}

impl JsonError {
    fn new(error: &serde_json::Error) -> Self {
        let kind = match error.classify() {
            serde_json::error::Category::Eof => "it ends too early",
            serde_json::error::Category::Data => "it is of another kind",
            _ => "it cannot be read",
        };
        Self { kind, line: error.line(), column: error.column() }
    }
}

struct Entries<'f, 'a>(&'f mut dyn FnMut(Cow<'a, str>, &'a str));

impl<'a> Visitor<'a> for Entries<'_, 'a> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key_seed(Key)? {
            (self.0)(key, map.next_value::<&RawValue>()?.get());
        }
        Ok(())
    }
}

struct Items<'f, 'a>(&'f mut dyn FnMut(&'a str));

impl<'a> Visitor<'a> for Items<'_, 'a> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(item) = seq.next_element::<&RawValue>()? {
            (self.0)(item.get());
        }
        Ok(())
    }
}

/// Reads a key without a copy where it holds no escapes.
struct Key;

impl<'a> DeserializeSeed<'a> for Key {
    type Value = Cow<'a, str>;

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'a> Visitor<'a> for Key {
    type Value = Cow<'a, str>;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, key: &'a str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(key))
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(key.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hands_over_entries_as_they_stand() {
        let mut seen = Vec::new();
        let text = r#" {"a": 1.50, "b\n":{"c" : [ ]}, "a":null} "#;
        each_entry(text, &mut |key, raw| seen.push(format!("{key:?}={raw}"))).expect("an object");
        assert_eq!(seen, [r#""a"=1.50"#, r#""b\n"={"c" : [ ]}"#, r#""a"=null"#]);
    }

    #[test]
    fn says_where_it_is_no_json_but_not_what_stands_there() {
        let said = |text| each_entry(text, &mut |_, _| ()).expect_err("an error").to_string();
        assert_eq!(said(r#"{"secret": tru}"#), "not JSON: it cannot be read at line 1 column 15");
        assert_eq!(said(r#"{"secret": "#), "not JSON: it ends too early at line 1 column 11");
        assert_eq!(said(r#""secret""#), "not JSON: it is of another kind at line 1 column 8");
        assert_eq!(said("{} {}"), "not JSON: it cannot be read at line 1 column 4");
    }

    #[test]
    fn reads_strings() {
        assert_eq!(string(r#""a""#).as_deref(), Some("a"));
        assert_eq!(string(r#""\u00e9\ud83d\ude00""#).as_deref(), Some("é😀"));
        assert_eq!(string(r#""\ud800""#), None);
        assert_eq!(string("5"), None);
        assert_eq!(string("\""), None);
    }

    #[test]
    fn depth_costs_no_stack() {
        let deep = format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
        assert_eq!(value(&deep).map(str::len), Ok(2_000_000));
    }
}
