//! What the config says must not be written is not written: every byte below the archive is looked at.

use std::fs;
use std::io::{Cursor, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use dex_archive::archive::{Archive, Shards};
use dex_archive::clock;
use dex_archive::disk::Disk;
use dex_archive::import::{Form, ImportOptions, read_file};
use dex_archive::ingest::Ingest;
use dex_archive::privacy::{Key, Policy, Rules};
use dex_archive::schema::{Column, Kind, Schema};
use dex_archive::snapshot::AccountId;

use crate::collect::rows;
use crate::program::{ACCOUNT, Api, place, program, run};

const MARKER: &str = "Mark3r";
const KEY: &str = "sixteen letters!";
const RULES: &str = "unknown = \"drop\"\n[classes]\nperson = \"pseudonym\"\ndevice = \"pseudonym\"\n\
    network = \"pseudonym\"\nlocation = \"drop\"\napps = \"drop\"\n";

#[test]
fn an_import_leaves_no_marker_below_the_archive() {
    let (dir, archive) = place();
    let states = dir.path().join("states.ndjson");
    put(&states, &file());
    let mut import = program();
    import.arg("--archive").arg(&archive).arg("--config").arg(config(dir.path()));
    import.args(["import", "--account", ACCOUNT]).arg(&states);
    let (code, said) = run(&mut import);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("3 new states, 0 unchanged, 5 quarantined"), "{said}");
    assert_unmarked(&archive);
    let quarantine = fs::read_dir(archive.join("_archive/quarantine")).expect("a folder");
    let kept: String = quarantine.map(|entry| read(&entry.expect("a file").path())).collect();
    assert_eq!(kept.matches("bytes that were no device state; not kept").count(), 5, "{kept}");
    check_rows(&archive);
}

#[test]
fn no_marker_is_journalled() {
    let (_dir, root) = place();
    let at = clock::parse_timestamp("2026-11-24T07:40:51Z").expect("a timestamp");
    let account_id = AccountId::parse(ACCOUNT).expect("an account");
    let open = || {
        let archive = Archive::open_or_create(&root, 1, at, Disk::default()).expect("an archive");
        Ingest::open(archive, Shards::All, "test", policy()).expect("the lock")
    };
    let (mut ingest, _) = open();
    let options =
        ImportOptions { form: Form::Api, account_id: Some(account_id), sweep_id: "s".to_owned(), collected_at: at };
    read_file(&mut ingest, Box::new(Cursor::new(file())), None, "f", &options).1.expect("a file");
    ingest.sync().expect("a disk");
    drop(ingest);
    let journalled = files(&root).iter().filter(|path| path.extension().is_some_and(|kind| kind == "journal")).count();
    assert_eq!(journalled, 1);
    assert_unmarked(&root);
    let (_, recovered) = open();
    assert_eq!((recovered.states_new, recovered.quarantined), (3, 5));
    assert_unmarked(&root);
    check_rows(&root);
}

#[test]
fn a_sweep_asks_for_devices_by_id_and_writes_pseudonyms() {
    let (dir, archive) = place();
    let api = Api::start(20, Duration::from_mins(2), |options| options);
    let mut collect = api.collect(&archive);
    collect.arg("--config").arg(config(dir.path()));
    let (code, said) = run(&mut collect);
    assert_eq!(code, Some(0), "{said}");
    let asked: Vec<String> = api.handle.served().into_iter().filter_map(|served| served.device_id).collect();
    assert!(asked.len() >= 10, "most of the fleet is on the list: {asked:?}");
    let devices = |schema: &Schema| texts(&rows(&archive, schema), "device_id");
    let (states, polls) = (devices(&Schema::device_state()), devices(&Schema::poll()));
    let policy = policy();
    for id in &asked {
        let pseudonym = policy.pseudonym(id).expect("a key");
        assert!(states.contains(&pseudonym) && polls.contains(&pseudonym), "{id}");
        assert!(files(&archive).iter().all(|path| !holds(path, id)), "{id}");
    }
}

#[test]
fn the_apis_own_words_of_somebody_are_not_told_either() {
    let (dir, archive) = place();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        for visitor in listener.incoming() {
            let mut visitor = visitor.expect("a visitor");
            drop(visitor.read(&mut [0; 4096]));
            let body = format!(r#"{{"success":false,"errors":[{{"code":7003,"message":"no rights for {MARKER}"}}]}}"#);
            let head = format!("HTTP/1.1 500 No\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            drop(visitor.write_all((head + &body).as_bytes()));
        }
    });
    let mut collect = program();
    collect.arg("--archive").arg(&archive).arg("--config").arg(config(dir.path()));
    collect.args(["collect", "--account", ACCOUNT, "--api-url", &url, "--rate-limit", "none", "--attempts", "1"]);
    let (code, said) = run(collect.env("CLOUDFLARE_API_TOKEN", "simulated"));
    assert!(code == Some(1) && said.contains("the list of devices cannot be read: HTTP 500, code 7003"), "{said}");
    assert!(!said.contains(MARKER), "{said}");
}

#[test]
fn rules_that_cannot_be_kept_leave_nothing() {
    let (dir, archive) = place();
    let states = dir.path().join("states.ndjson");
    put(&states, &file());
    let config = dir.path().join("config.toml");
    let check = |rules: &str, key: Option<&str>, sentence: &str| {
        put(&config, rules);
        let mut import = program();
        import.arg("--archive").arg(&archive).arg("--config").arg(&config);
        import
            .args(["import", "--account", ACCOUNT])
            .arg(&states)
            .envs(key.map(|key| ("DEX_ARCHIVE_PRIVACY_KEY", key)));
        let (code, said) = run(&mut import);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(sentence) && !said.contains("s3cret"), "{said:?} should say {sentence:?}");
    };
    check("[privacy.classes]\nperson = \"pseudonym\"", None, "there is no key: name it with key_file");
    check("[privacy.columns]\nperson_mail = \"drop\"", None, "did you mean \"person_email\"?");
    check("[privacy.columns]\nregistration_id = \"drop\"", None, "not dropped");
    check("", Some("s3cret"), "DEX_ARCHIVE_PRIVACY_KEY is no key for pseudonyms: it has 6 bytes");
    check("[privacy]\nkey_file = \"/nowhere/key\"", None, "cannot read /nowhere/key");
    assert!(!archive.exists(), "nothing is written");
}

#[test]
fn pseudonyms_go_on_with_the_rules_and_the_key_that_they_began_with() {
    let (dir, archive) = place();
    let (config, states) = (dir.path().join("config.toml"), dir.path().join("states.ndjson"));
    put(&states, &file());
    let rules = "[privacy.classes]\nperson = \"pseudonym\"\n";
    let with = |rules: Option<&str>, key: &str, args: &[&str]| {
        let mut command = program();
        command.arg("--archive").arg(&archive).env("DEX_ARCHIVE_PRIVACY_KEY", key);
        if let Some(rules) = rules {
            put(&config, rules);
            command.arg("--config").arg(&config);
        }
        let output = command.args(args).output().expect("the program starts");
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&said).into_owned())
    };
    let states = states.display().to_string();
    let import = ["--quiet", "import", "--account", ACCOUNT, &states];
    let changed = "the key of the pseudonyms has changed";
    let (code, said) = with(Some(rules), KEY, &import);
    assert!(code == Some(3) && !said.contains(changed), "{said}");
    let before = files(&archive);
    // Without the config nothing comes in, a crontab's line that forgot it included.
    let api = Api::start(2, Duration::from_mins(2), |options| options);
    for unruled in [with(None, KEY, &import), run(&mut api.collect(&archive)), with(Some("[archive]\n"), "", &import)] {
        assert_eq!(unruled.0, Some(2), "{}", unruled.1);
        assert!(unruled.1.contains("holds pseudonyms, and this command has no [privacy] rules"), "{}", unruled.1);
    }
    assert_eq!(files(&archive), before, "nothing is written");
    let (_, said) = with(None, "", &["doctor"]);
    assert!(said.contains("there are no [privacy] rules"), "{said}");
    let (_, said) = with(Some(rules), KEY, &["doctor"]);
    assert!(said.contains("made with the same key since"), "{said}");
    let (_, said) = with(Some(rules), KEY, &["status"]);
    assert!(!said.contains("pseudonyms"), "{said}");
    let (_, said) = with(Some(rules), KEY, &import);
    assert!(!said.contains(changed), "{said}");
    let other = "sixteen letters?";
    let (_, said) = with(Some(rules), other, &["doctor"]);
    assert!(said.contains("the key is another than since"), "{said}");
    for (said, expect) in [(with(Some(rules), other, &import).1, true), (with(Some(rules), other, &import).1, false)] {
        assert_eq!(said.contains(changed), expect, "{said}");
        assert!(!said.contains(other), "{said}");
    }
    let (_, said) = with(Some(rules), other, &["status"]);
    assert!(said.contains("made with 2 keys, the last since"), "{said}");
    // What was meant can be said.
    let (code, said) = with(Some("[privacy]\n"), "", &import);
    assert_eq!(code, Some(3), "{said}");
    let (_, said) = with(Some("[privacy]\n"), "", &["doctor"]);
    assert!(said.contains("none are made any more"), "{said}");
    // An archive that is filed into other shards keeps what it knows.
    let (code, said) = with(None, "", &["reshard", "--shards", "2"]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(Archive::open(&archive).expect("an archive").pseudonym_keys().len(), 2);
}

/// Three states and five lines that are none, with markers wherever something personal could stand.
fn file() -> String {
    let schema = Schema::device_state();
    let strings = format!("{{{}}}", entries(&schema, |_| format!("\"{MARKER}\"")).join(","));
    let mut twice =
        [entries(&schema, |_| format!("[\"{MARKER}\",{{\"{MARKER}\":1}}]")), entries(&schema, older)].concat();
    // One of two devices would be no state.
    twice.retain(|entry| !entry.starts_with("\"deviceId\""));
    let escaped = strings.replace("\"M", "\"\\u004d").replace("\"p", "\"\\u0070").replace("\"dev", "\"d\\u0065v");
    let garbage = [
        MARKER.to_owned(),
        format!("\"{MARKER}\""),
        format!("{{\"devices\":[{strings}]}}"),
        format!("{{\"deviceId\":5,\"personEmail\":\"{MARKER}\"}}"),
        strings[..strings.len() - 1].to_owned(),
    ];
    let strange = format!(
        "{{\"deviceId\":\"{MARKER} 2\",\"deviceIpv4\":\"{MARKER}\",\"rtt\":[\"{MARKER}\"],\"new\":\"{MARKER}\",\"{MARKER}\":1,\
         \"cpuPct\":\"{MARKER}\",{}}}",
        twice.join(",")
    );
    let escaped = escaped.replacen('{', "{\"timestamp\":\"2026-11-24T07:40:51Z\",", 1);
    let garbage = garbage.join("\n");
    format!("{strings}\n{escaped}\n{strange}\n{garbage}\n")
}

/// Nested lists, as the API gave them once, and texts.
fn older(column: &Column) -> String {
    match column.kind {
        Kind::List => format!("[[{{\"name\":\"{MARKER}\",\"pid\":\"{MARKER}\"}}],\"{MARKER}\"]"),
        _ => format!("\"{MARKER} 2\""),
    }
}

/// An entry at the path of each personal column.
fn entries(schema: &Schema, value: impl Fn(&Column) -> String) -> Vec<String> {
    let personal = schema.columns.iter().filter(|column| column.personal.is_some());
    let entry = |column: &Column| {
        let path = column.path.as_ref().expect("the archive writes nothing personal");
        let inside = path.iter().rev().fold(value(column), |value, key| format!("{{\"{key}\":{value}}}"));
        inside[1..inside.len() - 1].to_owned()
    };
    personal.map(entry).collect()
}

fn check_rows(archive: &Path) {
    let rows = rows(archive, &Schema::device_state());
    assert_eq!(rows.len(), 3);
    let policy = policy();
    let (one, two) = (policy.pseudonym(MARKER).expect("a key"), policy.pseudonym("Mark3r 2").expect("a key"));
    assert_eq!(texts(&rows, "device_id").iter().filter(|id| **id == one).count(), 2);
    assert!(texts(&rows, "person_email").iter().all(|email| [&one, &two].contains(&email)));
    assert_eq!(texts(&rows, "device_id").iter().filter(|id| **id == two).count(), 1);
    for dropped in ["isp_ipv4_location_city", "unmapped"] {
        assert!(texts(&rows, dropped).is_empty(), "{dropped}");
    }
}

fn texts(rows: &[(RecordBatch, usize)], column: &str) -> Vec<String> {
    let cells =
        rows.iter().map(|(batch, row)| (batch.column_by_name(column).expect("a column").as_string::<i32>(), *row));
    cells.filter(|(cells, row)| cells.is_valid(*row)).map(|(cells, row)| cells.value(row).to_owned()).collect()
}

/// Neither the files as they lie nor the rows in them hold a marker.
fn assert_unmarked(archive: &Path) {
    let files = files(archive);
    assert!(files.len() > 2, "{files:?}");
    for path in files {
        assert!(!holds(&path, MARKER) && !holds(&path, "u004dark3r"), "{}", path.display());
    }
    for schema in Schema::all() {
        for (batch, row) in rows(archive, &schema) {
            let said = format!("{:?}", batch.slice(row, 1));
            assert!(!said.contains(MARKER), "{said}");
        }
    }
}

fn holds(path: &Path, text: &str) -> bool {
    let bytes = fs::read(path).expect("a file");
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

fn policy() -> Policy {
    let rules: Rules = toml::from_str(RULES).expect("rules");
    Policy::new(&Schema::device_state(), &rules, Some(Key::parse(KEY.as_bytes()).expect("a key"))).expect("a policy")
}

/// A config file with the rules, and the key in a file beside it.
fn config(dir: &Path) -> PathBuf {
    let (config, key) = (dir.join("config.toml"), dir.join("privacy.key"));
    put(&key, &format!("{KEY}\n"));
    let rules = RULES.replace("[classes]", "[privacy.classes]");
    put(&config, &format!("[privacy]\nkey_file = {:?}\n{rules}", key.display().to_string()));
    config
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).expect("a text")
}

#[expect(clippy::disallowed_methods, reason = "a test makes a file")]
fn put(path: &Path, text: &str) {
    fs::write(path, text).expect("room on the disk");
}
