//! A second reading of a body, to hold the program's own against: slow, and plain enough to be
//! checked by eye. It shares the list of columns with the program and nothing else.
//!
//! It reads a body through [`Value`], which rounds some numbers (`9007199254740993.0`, whole numbers
//! beyond 64 bits) and refuses others (`1e400`). Bodies with such numbers are not for this reading.

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;
use chrono::{DateTime, Datelike, NaiveDateTime, Utc};
use dex_archive::schema::{Column, Kind, Schema};
use serde_json::{Map, Value};

/// The cell of every column that the API fills, and of `unmapped`; `None` where the body is no row.
///
/// A timestamp is given in microseconds, a list as an array of objects, `unmapped` as an object.
pub(crate) fn expected_row(body: &str) -> Option<Map<String, Value>> {
    let body: Value = serde_json::from_str(body).ok()?;
    body["deviceId"].as_str().filter(|id| !id.is_empty())?;
    let mut row = Map::new();
    for column in &Schema::device_state().columns {
        if let Some(path) = &column.path {
            row.insert(column.name.clone(), cell(column, at(&body, path)));
        }
    }
    let mut rest = Map::new();
    keep_from_group(&body, &[], &mut rest);
    row.insert("unmapped".to_owned(), if rest.is_empty() { Value::Null } else { Value::Object(rest) });
    Some(row)
}

/// Holds a row of a batch against the body that it was read from.
pub(crate) fn assert_cell_by_cell(batch: &RecordBatch, row: usize, body: &str) {
    for (name, expected) in expected_row(body).expect("the body is a row") {
        let array = batch.column_by_name(&name).expect("the batch has every column");
        let mut found = value_in(array, row);
        if let (Value::String(text), "unmapped") = (&found, name.as_str()) {
            found = serde_json::from_str(text).expect("unmapped is JSON");
        }
        // As text, -0.0 is not 0.0 and 12.0 is not 12.
        assert_eq!(found.to_string(), expected.to_string(), "column {name}, row {row}, body {body}");
    }
}

/// What stands in a body at a path; null where nothing does.
fn at<'a>(body: &'a Value, path: &[String]) -> &'a Value {
    // Indexing by a key gives null for a key that is missing, and for what is no object.
    path.iter().fold(body, |value, key| &value[key.as_str()])
}

fn cell(column: &Column, value: &Value) -> Value {
    match value {
        Value::Array(items) if column.kind == Kind::List => {
            flat(items, "").into_iter().map(|(_, item)| element(column, item)).collect()
        }
        scalar => fit(column.kind, scalar).unwrap_or(Value::Null),
    }
}

fn element(column: &Column, item: &Value) -> Value {
    let member = |name: &str, kind| (name.to_owned(), fit(kind, &item[name]).unwrap_or(Value::Null));
    let members = || column.fields.iter().map(|field| member(&field.name, field.kind));
    if item.is_object() { Value::Object(members().collect()) } else { Value::Null }
}

/// The elements of a list and the path of each. A list within the list is flattened, once.
fn flat<'a>(items: &'a [Value], path: &str) -> Vec<(String, &'a Value)> {
    let mut found = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let place = format!("{path}[{index}]");
        match item {
            Value::Array(inner) => {
                found.extend(inner.iter().enumerate().map(|(index, item)| (format!("{place}[{index}]"), item)));
            }
            item => found.push((place, item)),
        }
    }
    found
}

/// The cell that a value fits exactly; `None` where it fits none of this kind. Null fits every one.
fn fit(kind: Kind, value: &Value) -> Option<Value> {
    match kind {
        _ if value.is_null() => Some(Value::Null),
        Kind::String => value.as_str().map(Value::from),
        Kind::Boolean => value.as_bool().map(Value::from),
        Kind::Int64 => whole(value).map(Value::from),
        Kind::Float64 => double(value).map(Value::from),
        Kind::Timestamp => instant(value).map(|at| Value::from(at.timestamp_micros())),
        Kind::List => None,
    }
}

fn whole(value: &Value) -> Option<i64> {
    if value.is_f64() {
        // A double with a fraction, or beyond 64 bits, has no such text.
        return format!("{}", value.as_f64()?).parse().ok();
    }
    value.as_i64()
}

fn double(value: &Value) -> Option<f64> {
    let (double, text) = (value.as_f64()?, value.to_string());
    (value.is_f64() || format!("{double:.0}") == text).then_some(double)
}

fn instant(value: &Value) -> Option<DateTime<Utc>> {
    // Numbers of ten or so digits are seconds, and smaller ones something else.
    let from_ms = |number: i64| {
        let at = if number < 100_000_000_000 {
            DateTime::from_timestamp(number, 0)
        } else {
            DateTime::from_timestamp_millis(number)
        };
        at.filter(|at| number >= 100_000_000 && at.year() <= 9999)
    };
    let Value::String(text) = value else { return from_ms(whole(value)?) };
    if text.chars().all(|letter| letter.is_ascii_digit()) {
        return from_ms(text.parse().ok()?);
    }
    let with_offset = ["%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f%#z"];
    let without = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"];
    let with_offset = with_offset.iter().filter_map(|format| DateTime::parse_from_str(text, format).ok());
    let without = without.iter().filter_map(|format| NaiveDateTime::parse_from_str(text, format).ok());
    let mut read = with_offset.map(|at| at.to_utc()).chain(without.map(|at| at.and_utc()));
    // In chrono a leap second has more than a second's worth of nanoseconds; the archive has none.
    let read = read.next().filter(|at| (1..=9999).contains(&at.year()));
    read.filter(|at| has_known_form(text) && at.timestamp_subsec_nanos() < 1_000_000_000)
}

/// Whether a timestamp has the letters that the API is known for. chrono reads more than those: one
/// digit for a month, white space in between, any number of fraction digits.
fn has_known_form(text: &str) -> bool {
    let form = text.replace(|letter: char| letter.is_ascii_digit(), "0");
    let heads = ["0000-00-00T00:00:00", "0000-00-00 00:00:00"];
    let Some(rest) = heads.iter().find_map(|head| form.strip_prefix(head)) else { return false };
    let zones = ["", "Z", "+00", "+0000", "+00:00", "-00", "-0000", "-00:00"];
    let fractions = (1..=9).map(|digits| format!(".{}", "0".repeat(digits))).chain([String::new()]);
    fractions.into_iter().any(|fraction| zones.iter().any(|zone| rest == format!("{fraction}{zone}")))
}

/// Keeps what no column holds of the object at `path`.
fn keep_from_group(object: &Value, path: &[String], rest: &mut Map<String, Value>) {
    let schema = Schema::device_state();
    for (key, value) in object.as_object().into_iter().flatten() {
        let path = [path, std::slice::from_ref(key)].concat();
        let of = |column: &&Column| column.path.as_ref().is_some_and(|of| of.starts_with(&path));
        match schema.columns.iter().find(of) {
            Some(column) if column.path.as_ref() == Some(&path) => keep_from_column(column, value, &path, rest),
            Some(_) if value.is_object() => keep_from_group(value, &path, rest),
            Some(_) if value.is_null() => (),
            _ => keep(written(&path), value, rest),
        }
    }
}

fn keep_from_column(column: &Column, value: &Value, path: &[String], rest: &mut Map<String, Value>) {
    match value {
        Value::Array(items) if column.kind == Kind::List => {
            flat(items, &written(path)).iter().for_each(|(place, item)| keep_from_element(column, item, place, rest));
        }
        value if fit(column.kind, value).is_none() => keep(written(path), value, rest),
        _ => (),
    }
}

fn keep_from_element(column: &Column, item: &Value, place: &str, rest: &mut Map<String, Value>) {
    let Value::Object(members) = item else {
        if !item.is_null() {
            keep(place.to_owned(), item, rest);
        }
        return;
    };
    for (key, value) in members {
        let field = column.fields.iter().find(|field| field.name == *key);
        if field.is_none_or(|field| fit(field.kind, value).is_none()) {
            keep(format!("{place}{}", step(key)), value, rest);
        }
    }
}

fn keep(path: String, value: &Value, rest: &mut Map<String, Value>) {
    let before = rest.insert(path, value.clone());
    assert_eq!(before, None, "two places share a path");
}

fn written(path: &[String]) -> String {
    let path: String = path.iter().map(|key| step(key)).collect();
    path.strip_prefix('.').map(str::to_owned).unwrap_or(path)
}

fn step(key: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == '-';
    if !key.is_empty() && key.chars().all(plain) { format!(".{key}") } else { format!("[{}]", Value::from(key)) }
}

/// The value in a row of an array, in the form of [`expected_row`].
fn value_in(array: &dyn Array, row: usize) -> Value {
    if array.is_null(row) {
        return Value::Null;
    }
    match array.data_type() {
        DataType::Utf8 => array.as_string::<i32>().value(row).into(),
        DataType::Boolean => array.as_boolean().value(row).into(),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(row).into(),
        DataType::Float64 => array.as_primitive::<Float64Type>().value(row).into(),
        DataType::Timestamp(..) => array.as_primitive::<TimestampMicrosecondType>().value(row).into(),
        DataType::List(_) => {
            let items = array.as_list::<i32>().value(row);
            (0..items.len()).map(|item| value_in(&items, item)).collect()
        }
        DataType::Struct(fields) => {
            let members = fields.iter().zip(array.as_struct().columns());
            Value::Object(members.map(|(field, member)| (field.name().clone(), value_in(member, row))).collect())
        }
        other => panic!("no column has type {other}"),
    }
}
