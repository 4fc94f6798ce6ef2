//! The program's reading of bodies, held against the slow one of [`walker`](crate::walker).

mod bodies;

use arrow_array::RecordBatch;
use dex_archive::flatten::{Cell, Columns, FlattenError, Plan, Row};
use dex_archive::schema::Schema;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::TestCaseResult;
use serde::de::IgnoredAny;
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

use crate::walker::{assert_cell_by_cell, expected_row};
use bodies::{NUMBERS, body, moment};

const PUBLISHED_EXAMPLE: &str = include_str!("../data/device-live-status.json");

proptest! {
    #![proptest_config(ProptestConfig { cases: 384, max_shrink_iters: 8_000, ..ProptestConfig::default() })]

    #[test]
    fn both_readings_agree(bodies in vec(body(), 1..=3)) {
        check_bodies(&bodies)?;
    }

    #[test]
    fn both_readings_agree_on_when(bodies in vec(moment(), 1..=32)) {
        check_bodies(&bodies)?;
    }

    #[test]
    fn a_damaged_body_harms_nothing_but_itself(body in body(), damage in vec(damage(), 1..4)) {
        check_damage(&body, &damage)?;
    }

    #[test]
    fn any_bytes_are_a_row_or_an_error(bytes in vec(any::<u8>(), 0..200)) {
        check_bytes(&bytes, &mut Row::default())?;
    }
}

/// Reads bodies one after another through the same buffers, as the program does.
fn check_bodies(bodies: &[String]) -> TestCaseResult {
    let (plan, mut row, mut columns) = reader();
    let mut rows = Vec::new();
    for body in bodies {
        let read = plan.flatten(body.as_bytes(), &mut row);
        prop_assert_eq!(read.is_ok(), expected_row(body).is_some(), "{:?} for {}", read, body);
        if read.is_ok() {
            check_verbatim(&row, &plan, body);
            columns.push(&row);
            rows.push(body);
        }
    }
    let batch = columns.finish();
    prop_assert_eq!(batch.num_rows(), rows.len());
    rows.iter().enumerate().for_each(|(at, body)| assert_cell_by_cell(&batch, at, body));
    Ok(())
}

/// What is kept aside stands there letter by letter as it stood in the body, in the order of paths.
fn check_verbatim(row: &Row, plan: &Plan, body: &str) {
    let Some(text) = row.text(plan.schema().unmapped().expect("the table has the column")) else { return };
    let kept: BTreeMap<String, &RawValue> = serde_json::from_str(text).expect("unmapped is a JSON object");
    for (path, raw) in &kept {
        assert!(body.contains(raw.get()), "{path} is not as it was: {raw}");
    }
    let again: Vec<String> = kept.iter().map(|(path, raw)| format!("{}:{raw}", Value::from(path.as_str()))).collect();
    assert_eq!(text, format!("{{{}}}", again.join(",")));
}

/// What happens to a text on its way: a byte becomes another, or the rest is lost.
#[derive(Debug, Clone)]
enum Damage {
    Byte(Index, u8),
    Cut(Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    let syntax = prop::sample::select(&br#"{}[]",:\u0-.eE"#[..]);
    let byte = prop_oneof![any::<u8>(), syntax];
    prop_oneof![
        6 => (any::<Index>(), byte).prop_map(|(at, byte)| Damage::Byte(at, byte)),
        1 => any::<Index>().prop_map(Damage::Cut),
    ]
}

/// Reads a body, the same one damaged, and the sound one again, through the same buffers.
fn check_damage(body: &str, damage: &[Damage]) -> TestCaseResult {
    let mut bytes = body.as_bytes().to_vec();
    for damage in damage {
        match damage {
            Damage::Cut(at) => bytes.truncate(at.index(body.len())),
            Damage::Byte(at, byte) if !bytes.is_empty() => *at.get_mut(&mut bytes) = *byte,
            Damage::Byte(..) => (),
        }
    }
    let (plan, mut row, mut columns) = reader();
    check_bytes(&bytes, &mut row)?;
    if plan.flatten(body.as_bytes(), &mut row).is_ok() {
        columns.push(&row);
        assert_cell_by_cell(&columns.finish(), 0, body);
    }
    Ok(())
}

/// Only JSON may become a row; and whatever a second reader takes for JSON, so does the program.
fn check_bytes(bytes: &[u8], row: &mut Row) -> TestCaseResult {
    let (plan, _, mut columns) = reader();
    match plan.flatten(bytes, row) {
        Ok(()) => {
            prop_assert!(serde_json::from_slice::<IgnoredAny>(bytes).is_ok());
            columns.push(row);
            prop_assert_eq!(columns.finish().num_rows(), 1);
        }
        Err(FlattenError::Json(_) | FlattenError::Encoding(_)) => {
            prop_assert!(serde_json::from_slice::<Value>(bytes).is_err());
        }
        Err(FlattenError::Kind | FlattenError::Missing { .. } | FlattenError::Twice) => (),
    }
    Ok(())
}

fn reader() -> (Plan, Row, Columns) {
    let schema = Schema::device_state();
    (Plan::new(schema.clone()), Row::default(), Columns::new(schema))
}

#[test]
fn the_published_example_fills_every_column() {
    let batch = read(PUBLISHED_EXAMPLE);
    assert_cell_by_cell(&batch, 0, PUBLISHED_EXAMPLE);
    let expected = expected_row(PUBLISHED_EXAMPLE).expect("a row");
    let empty: Vec<_> = expected.iter().filter(|(_, cell)| cell.is_null()).map(|(name, _)| name.as_str()).collect();
    assert_eq!(empty, ["unmapped"]);
    // By hand, lest both readings be wrong alike.
    assert_eq!(expected["timestamp"], 1_696_982_400_000_000_i64);
    assert_eq!(expected["device_ipv4_location_country_iso"], "country_iso");
    assert_eq!(expected["cpu_pct_by_app"], serde_json::json!([{ "name": "name", "cpu_pct": 0.0 }]));
}

fn read(body: &str) -> RecordBatch {
    let (plan, mut row, mut columns) = reader();
    plan.flatten(body.as_bytes(), &mut row).expect("a row");
    columns.push(&row);
    columns.finish()
}

/// The random bodies may use these: the slow reading rounds none of them.
#[test]
fn the_numbers_of_random_bodies_survive_the_slow_reading() {
    for text in NUMBERS {
        let read: Value = serde_json::from_str(text).expect("a number");
        let nearest: f64 = text.parse().expect("a number");
        assert_eq!(read.as_f64().map(f64::to_bits), Some(nearest.to_bits()), "{text}");
    }
}

/// Numbers that a [`Value`] rounds or refuses, so that the slow reading cannot speak for them.
#[test]
fn numbers_are_not_rounded_into_a_column() {
    let (max, min) = (i64::MAX, i64::MIN);
    for (text, whole) in [
        ("9007199254740993.0", Some(9_007_199_254_740_993)),
        ("9007199254740993e0", Some(9_007_199_254_740_993)),
        ("1152921504606847000.0", Some(1_152_921_504_606_847_000)),
        ("9223372036854775807.0", Some(max)),
        ("-9223372036854775808.0", Some(min)),
        ("9223372036854775808.0", None),
        ("-9223372036854775809", None),
        ("1.00000000000000000001", None),
        ("0.99999999999999999999", None),
        ("1e-400", None),
        ("1e400", None),
        ("-1e400", None),
    ] {
        check_number("batteryCycles", text, whole.map(Cell::Int64));
    }
    for (text, double) in [
        ("18446744073709551617", None),
        ("-9223372036854775809", None),
        ("-18446744073709551616", Some(-18_446_744_073_709_551_616.0)),
        ("100000000000000000000", Some(1e20)),
        ("0.30000000000000004", Some(0.1 + 0.2)),
        ("2.2250738585072011e-308", Some(2.225_073_858_507_201e-308)),
        ("1e400", None),
        ("-1e400", None),
    ] {
        check_number("cpuPct", text, double.map(Cell::Float64));
    }
}

/// A number is in its column, or verbatim aside.
fn check_number(key: &str, text: &str, cell: Option<Cell>) {
    let (plan, mut row, _) = reader();
    let schema = plan.schema();
    let body = format!(r#"{{"deviceId":"d","{key}":{text}}}"#);
    plan.flatten(body.as_bytes(), &mut row).expect("a row");
    let of_key = |path: &Vec<String>| path.len() == 1 && path[0] == key;
    let column = schema.columns.iter().position(|column| column.path.as_ref().is_some_and(of_key));
    assert_eq!(row.cell(column.expect("a column")), cell.unwrap_or(Cell::Null), "{text}");
    let aside = cell.is_none().then(|| format!(r#"{{"{key}":{text}}}"#));
    assert_eq!(row.text(schema.unmapped().expect("a column")), aside.as_deref(), "{text}");
}

/// Beyond what a [`Value`] takes: half a surrogate pair, and more levels than its stack.
#[test]
fn what_no_value_can_hold_is_kept_aside() {
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    for (entry, aside) in [
        (r#""colo": "\ud800" "#.to_owned(), r#"{"colo":"\ud800"}"#.to_owned()),
        (format!(r#""new": {deep} "#), format!(r#"{{"new":{deep}}}"#)),
    ] {
        let (plan, mut row, _) = reader();
        plan.flatten(format!(r#"{{"deviceId":"d",{entry}}}"#).as_bytes(), &mut row).expect("a row");
        assert_eq!(row.text(plan.schema().unmapped().expect("a column")), Some(aside.as_str()));
    }
}
