//! What the program may do, and whom it trusts: as little as it needs.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::program::{ACCOUNT, Api, place, program, run};

#[test]
fn what_is_written_is_the_owners_alone_unless_the_config_says_otherwise() {
    let api = Api::start(3, Duration::from_secs(2), |options| options);
    for (said, others) in [("", 0o000), ("[archive]\nreadable_by = \"group\"\n", 0o050)] {
        let (dir, root) = place();
        let config = dir.path().join("config.toml");
        put(&config, said);
        let (code, said) = run(api.collect(&root).arg("--config").arg(&config));
        assert_eq!(code, Some(0), "{said}");
        for path in below(&root) {
            let mode = fs::metadata(&path).expect("there").permissions().mode();
            // A folder that may be read may be entered too.
            let may = if path.is_dir() { others } else { others & 0o040 };
            assert_eq!(mode & 0o077, may, "{}: {mode:o}", path.display());
        }
    }
}

#[test]
fn a_name_that_would_steer_the_terminal_is_shown_and_not_obeyed() {
    let (dir, root) = place();
    let device = "cb49c27f-7f97-49c5-b6f3-f7c01ead0fd1";
    let states = dir.path().join("states.ndjson");
    let name = r"\u001b]0;owned\u0007\u001b[2J\nbob\u202egnp.exe";
    put(
        &states,
        &format!(r#"{{"deviceId":"{device}","timestamp":"2026-10-01T01:00:00Z","deviceName":"{name}","cpuPct":1}}"#),
    );
    let (code, said) = run(program().arg("--archive").arg(&root).args(["import", "--account", ACCOUNT]).arg(&states));
    assert_eq!(code, Some(0), "{said}");
    let mut query = program();
    query.arg("--archive").arg(&root).args(["query", "trend", "--device", device, "--since", "2026-10-01"]);
    let output = query.args(["--until", "2026-10-02"]).output().expect("the program starts");
    let shown = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(shown.contains(r"\u{1b}]0;owned\u{7}\u{1b}[2J\nbob\u{202e}gnp.exe"), "{shown}");
    assert!(!shown.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{shown:?}");
}

/// Licences under which a dependency may come.
const LICENCES: [&str; 12] = [
    "Apache-2.0",
    "MIT",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "0BSD",
    "BSL-1.0",
    "Unicode-3.0",
    "CC0-1.0",
    "Unlicense",
    "CDLA-Permissive-2.0",
];

/// Dependencies that had an advisory, and the version that mended it. The advisories themselves are not
/// within reach of a test that must run without a network.
const ADVISED: [(&str, &str); 5] =
    [("rustls", "0.23.18"), ("ring", "0.17.12"), ("h2", "0.4.4"), ("regex", "1.5.5"), ("tokio", "1.44.2")];

#[test]
fn dependencies_come_from_the_registry_under_licences_that_allow_it() {
    // What only other systems need, cargo fetches here: the lock file says what it is.
    let cargo = Command::new(env!("CARGO")).args(["metadata", "--format-version", "1", "--locked"]).output();
    let metadata = cargo.expect("cargo").stdout;
    let metadata: serde_json::Value = serde_json::from_slice(&metadata).expect("JSON");
    let packages = metadata["packages"].as_array().expect("a list");
    let (mut strangers, mut licences, mut advised) = (Vec::new(), BTreeSet::new(), Vec::new());
    for package in packages.iter().filter(|package| !package["source"].is_null()) {
        let name = package["name"].as_str().expect("a name");
        let version = package["version"].as_str().expect("a version");
        if !package["source"].as_str().expect("a source").starts_with("registry+") {
            strangers.push(name);
        }
        let licence = package["license"].as_str().unwrap_or("none");
        if !is_allowed(licence) {
            licences.insert(format!("{name}: {licence}"));
        }
        let below = ADVISED.iter().find(|(advised, fixed)| *advised == name && numbers(version) < numbers(fixed));
        advised.extend(below.map(|_| format!("{name} {version}")));
    }
    assert!(packages.len() > 100);
    assert_eq!((strangers, licences, advised), (Vec::new(), BTreeSet::new(), Vec::new()));
}

/// Whether one of the alternatives asks for nothing but what is allowed.
fn is_allowed(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ").replace(['(', ')'], "");
    let allowed = |licence: &str| LICENCES.contains(&licence.split(" WITH ").next().unwrap_or("").trim());
    expression.split(" OR ").any(|alternative| alternative.split(" AND ").all(allowed))
}

fn numbers(version: &str) -> Vec<u64> {
    version.split(['.', '-', '+']).take(3).map(|number| number.parse().unwrap_or(0)).collect()
}

/// Everything below a folder.
fn below(dir: &Path) -> Vec<PathBuf> {
    let entries: Vec<PathBuf> =
        fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    let deeper = entries.iter().filter(|path| path.is_dir()).flat_map(|path| below(path));
    entries.iter().cloned().chain(deeper).collect()
}

#[expect(clippy::disallowed_methods, reason = "a test makes files")]
fn put(path: &Path, text: &str) {
    fs::write(path, text).expect("room on the disk");
}
