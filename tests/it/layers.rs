//! Who may import whom, and where a thing may happen: the structure of the program, held as a test.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Each module, and the modules of this crate that it may use.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("clock", &[]),
    ("disk", &[]),
    ("bucket", &[]),
    ("caseless", &[]),
    ("json", &[]),
    ("schema", &[]),
    ("shown", &[]),
    ("snapshot", &["clock"]),
    ("envelope", &["json"]),
    ("api", &["clock", "envelope", "snapshot"]),
    ("flatten", &["clock", "json", "schema"]),
    ("privacy", &["caseless", "flatten", "json", "schema", "snapshot"]),
    ("journal", &["clock", "disk", "snapshot"]),
    ("archive", &["bucket", "clock", "disk", "schema"]),
    ("sim", &["clock"]),
    ("ingest", &["archive", "clock", "flatten", "journal", "privacy", "schema", "snapshot"]),
    ("reshard", &["archive", "clock", "schema"]),
    ("upgrade", &["archive", "flatten", "schema"]),
    ("verify", &["archive", "journal", "privacy", "schema"]),
    ("erase", &["archive", "caseless", "journal", "privacy", "schema"]),
    ("query", &["archive", "caseless", "clock", "schema", "snapshot"]),
    ("health", &["api", "archive", "clock", "disk", "envelope", "journal", "query", "schema", "shown", "snapshot"]),
    ("report", &["clock", "query", "schema", "shown"]),
    ("collect", &["api", "clock", "envelope", "ingest", "privacy", "snapshot"]),
    ("import", &["clock", "envelope", "ingest", "snapshot"]),
    ("config", &["api", "clock", "disk", "ingest", "privacy", "report", "schema", "snapshot"]),
    (
        "cli",
        &[
            "api", "archive", "bucket", "caseless", "clock", "collect", "config", "disk", "erase", "health", "import",
            "ingest", "privacy", "query", "report", "reshard", "schema", "shown", "sim", "snapshot", "upgrade",
            "verify",
        ],
    ),
];

/// Words that may stand in some files only.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("fs::rename", &["disk.rs"]),
    ("renameat", &["disk.rs"]),
    ("fs::create_dir", &[]),
    ("DirBuilder", &["disk.rs"]),
    ("OpenOptions", &["disk.rs"]),
    ("fs::remove", &["disk.rs"]),
    ("fs::hard_link", &["disk.rs"]),
    ("sync_all", &["disk.rs"]),
    ("Utc::now", &["clock.rs"]),
    ("SystemTime", &[]),
    ("reqwest", &["api.rs", "api/"]),
    ("parquet::", &["archive.rs", "archive/"]),
    ("object_store", &["bucket.rs"]),
    ("io::stdout", &["cli/print.rs"]),
    // No shell, no other program.
    ("process::Command", &[]),
    // `examine` asks the API, as a collector does.
    (
        "async fn",
        &["api.rs", "api/", "collect.rs", "collect/", "health/examine.rs", "sim.rs", "sim/", "cli.rs", "cli/"],
    ),
];

#[test]
fn modules_import_only_what_the_table_allows() {
    let table: BTreeMap<&str, &[&str]> = MAY_IMPORT.iter().copied().collect();
    for (file, text) in sources() {
        let module = file.split(['/', '.']).next().unwrap_or_default();
        if matches!(module, "lib" | "main") || file.ends_with("tests.rs") {
            continue;
        }
        let allowed = table.get(module).unwrap_or_else(|| panic!("{file}: no row in the table for it"));
        for used in program(&text).split("crate::").skip(1) {
            let used: String = used.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            assert!(used == module || allowed.contains(&used.as_str()), "{file}: {module} may not import {used}");
        }
    }
}

#[test]
fn some_things_happen_in_one_place() {
    for (word, places) in ONLY_IN {
        let mut seen = 0;
        for (file, text) in sources().into_iter().filter(|(file, _)| !file.ends_with("tests.rs")) {
            let stands = program(&text).lines().any(|line| line.contains(word) && !line.trim_start().starts_with("//"));
            let allowed =
                places.iter().any(|place| file == *place || (place.ends_with('/') && file.starts_with(place)));
            assert!(!stands || allowed, "{file}: {word} may stand only in {places:?}");
            seen += usize::from(stands);
        }
        assert!(places.is_empty() || seen > 0, "{word} stands nowhere: the table is out of date");
    }
}

#[test]
fn columns_are_listed_only_in_the_schema_tables() {
    let schema = dex_archive::schema::Schema::device_state();
    let metrics: Vec<&str> =
        schema.columns.iter().map(|c| c.name.as_str()).filter(|name| name.contains("tunnel_stats")).collect();
    for (file, text) in sources() {
        assert!(!metrics.iter().any(|name| program(&text).contains(name)), "{file} names a column of the table");
    }
}

/// What stands before a file's tests.
fn program(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default()
}

/// Every source file: its path below `src`, and its text.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    assert!(files.len() > 40, "the sources were found");
    let name = |path: &PathBuf| path.strip_prefix(&root).expect("a path below src").display().to_string();
    files.iter().map(|path| (name(path), fs::read_to_string(path).expect("a source file"))).collect()
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { collect(&path, files) } else { files.push(path) }
    }
}
