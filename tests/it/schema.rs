//! The table of columns against the API's published description of the device object.

use std::collections::BTreeMap;

use dex_archive::schema::{Kind, Schema};
use serde_json::Value;

const API: &str = include_str!("../data/device.openapi.json");

#[test]
fn the_table_and_the_published_object_have_the_same_leaves() {
    let api: Value = serde_json::from_str(API).expect("JSON");
    let mut published = BTreeMap::new();
    let device = &api["components"]["schemas"]["digital-experience-monitoring_device"];
    add_leaves(&api, device, "", &mut published);
    // Published as text without a format; the archive keeps it as a point in time.
    assert_eq!(published.insert("timestamp".to_owned(), "timestamp"), Some("string"));
    assert_eq!(table(), published);
}

#[test]
fn a_row_requires_no_more_than_the_published_object_does() {
    let api: Value = serde_json::from_str(API).expect("JSON");
    let device = &api["components"]["schemas"]["digital-experience-monitoring_device"];
    let published = device["required"].as_array().expect("a list");
    for column in Schema::device_state().columns.iter().filter(|column| column.required) {
        let path = column.path.as_ref().expect("only what comes from the API is required of it");
        assert!(published.contains(&Value::from(path.join("."))), "{path:?}");
    }
}

/// Path and type of every leaf in the table. The members of a list stand at `path[].member`.
fn table() -> BTreeMap<String, &'static str> {
    let mut leaves = BTreeMap::new();
    for column in &Schema::device_state().columns {
        let Some(path) = &column.path else { continue };
        let path = path.join(".");
        for member in &column.fields {
            leaves.insert(format!("{path}[].{}", member.name), member.kind.name());
        }
        if column.kind != Kind::List {
            leaves.insert(path, column.kind.name());
        }
    }
    leaves
}

/// The same of a published type.
fn add_leaves(api: &Value, published: &Value, path: &str, leaves: &mut BTreeMap<String, &'static str>) {
    if let Some(name) = published["$ref"].as_str() {
        let target = api.pointer(name.trim_start_matches('#')).expect("the document holds what it refers to");
        return add_leaves(api, target, path, leaves);
    }
    let kind = match published["type"].as_str().expect("every type is named") {
        "array" => return add_leaves(api, &published["items"], &format!("{path}[]"), leaves),
        "object" => return add_properties(api, published, path, leaves),
        "string" => "string",
        "boolean" => "boolean",
        "integer" => "int64",
        "number" => "float64",
        other => panic!("{path} has type {other}"),
    };
    leaves.insert(path.to_owned(), kind);
}

fn add_properties(api: &Value, published: &Value, path: &str, leaves: &mut BTreeMap<String, &'static str>) {
    for (key, property) in published["properties"].as_object().expect("an object names its properties") {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        add_leaves(api, property, &path, leaves);
    }
}
