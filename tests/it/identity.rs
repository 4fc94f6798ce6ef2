//! Devices that are not one id, one person and one account: nothing is lost, mixed up or left behind.

use std::collections::BTreeSet;
use std::path::Path;

use arrow_array::Array;
use arrow_array::cast::AsArray;
use chrono::TimeDelta;
use dex_archive::archive::Archive;
use dex_archive::clock::{self, Clock, Zone};
use dex_archive::query::{Coverage, Days, GapsOptions, Window, coverage};
use dex_archive::schema::Schema;
use serde_json::{Value, json};

use crate::collect::rows;
use crate::program::{ACCOUNT, Api, place, program, run};

const OTHER: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
const KIOSK: &str = "cb49c27f-7f97-49c5-b6f3-f7c01ead0fd1";
const LAPTOP: &str = "cb49c27f-7f97-49c5-b6f3-f7c01ead0fd2";
const ALICE: &str = "alice@example.com";
const BOB: &str = "bob@example.com";

#[test]
fn registrations_of_one_moment_are_told_apart_by_either_name() {
    let (dir, root) = place();
    let of = |name: &str, value: &str| {
        let mut state = state(KIOSK, 1, &json!({"personEmail": value}));
        state[name] = json!(format!("registration of {value}"));
        state
    };
    let lines = [
        of("deviceRegistration", ALICE),
        of("deviceRegistration", BOB),
        of("registrationId", ALICE),
        of("registrationId", BOB),
        state(KIOSK, 1, &json!({})),
    ];
    for new in ["5 new states, 0 unchanged", "0 new states, 5 unchanged"] {
        let said = import(dir.path(), &root, ACCOUNT, &lines);
        assert!(said.contains(new), "{said}");
    }
    // Where they have the newer name, the older one tells nothing apart.
    let mut both = of("registrationId", ALICE);
    both["deviceRegistration"] = json!("another");
    assert!(import(dir.path(), &root, ACCOUNT, &[both]).contains("0 new states"));
    assert_eq!(rows(&root, &Schema::device_state()).len(), 5);
    for args in [&["verify", "--deep"][..], &["verify"]] {
        assert_eq!(ask(&root, args).0, Some(0), "{args:?}");
    }
}

#[test]
fn who_is_forgotten_takes_along_what_the_registration_reported_without_a_name() {
    let (dir, root) = place();
    let of = |device: &str, hour: u32, registration: &str, email: Option<&str>| {
        state(device, hour, &json!({"registrationId": registration, "personEmail": email}))
    };
    let lines = [
        of(LAPTOP, 1, "r1", Some(ALICE)),
        of(LAPTOP, 2, "r1", None),
        // The device is hers alone, but that registration may be anybody's.
        of(KIOSK, 1, "r2", Some(ALICE)),
        of(KIOSK, 2, "r3", None),
        of(KIOSK, 3, "r4", Some(BOB)),
        of(KIOSK, 4, "r4", None),
        // One that two have had is nobody's.
        of(KIOSK, 5, "r5", Some(ALICE)),
        of(KIOSK, 6, "r5", Some(BOB)),
        of(KIOSK, 7, "r5", None),
    ];
    import(dir.path(), &root, ACCOUNT, &lines);
    for more in [&["--dry-run"][..], &[]] {
        let (code, said) = ask(&root, &[&["forget", "--email", ALICE], more].concat());
        // Whose r3 and r5 are, nobody can say.
        assert!(code == Some(3) && said.contains("1 days, 4 rows,") && said.contains("left: states of"), "{said}");
        assert!(!said.contains("nothing about it is left"), "{said}");
    }
    assert_eq!(texts(&root, "registration_id"), ["r3", "r4", "r4", "r5", "r5"]);
    assert_eq!(texts(&root, "device_id"), [KIOSK; 5]);
}

#[test]
fn a_state_that_mentions_somebody_else_goes_and_what_is_its_owners_stays() {
    let (dir, root) = place();
    let of = |hour: u32, more: &Value| state(KIOSK, hour, more);
    let lines = [
        of(1, &json!({"registrationId": "r1", "personEmail": BOB, "networkSsid": format!("{ALICE}'s iPhone")})),
        of(2, &json!({"registrationId": "r1"})),
        state(LAPTOP, 1, &json!({"registrationId": "r2", "personEmail": BOB, "deviceName": format!("of {KIOSK}")})),
        state(LAPTOP, 2, &json!({"registrationId": "r2"})),
    ];
    import(dir.path(), &root, ACCOUNT, &lines);
    let (code, said) = ask(&root, &["forget", "--email", ALICE]);
    assert!(code == Some(0) && said.contains("1 days, 1 rows,"), "{said}");
    assert_eq!(texts(&root, "registration_id"), ["r1", "r2", "r2"]);
    let (code, said) = ask(&root, &["forget", "--device", KIOSK]);
    assert!(code == Some(0) && said.contains("1 days, 2 rows,"), "{said}");
    assert_eq!(texts(&root, "device_id"), [LAPTOP]);
}

#[test]
fn states_of_which_nobody_can_say_whose_they_are_are_named_and_left() {
    let (dir, root) = place();
    let of = |device: &str, hour: u32, email: Option<&str>| state(device, hour, &json!({ "personEmail": email }));
    import(dir.path(), &root, ACCOUNT, &[of(LAPTOP, 1, Some(ALICE)), of(LAPTOP, 2, None), of(KIOSK, 2, None)]);
    let (code, said) = ask(&root, &["forget", "--email", ALICE]);
    assert!(code == Some(3) && said.contains(LAPTOP) && said.contains("forget --device ID"), "{said}");
    assert!(!said.contains(KIOSK) && !said.contains("nothing about it is left"), "{said}");
    assert_eq!(texts(&root, "device_id").len(), 2);
    let (code, said) = ask(&root, &["forget", "--email", ALICE]);
    assert!(code == Some(0) && said.contains("no state in the archive names anybody"), "{said}");
    assert_eq!(ask(&root, &["forget", "--device", LAPTOP]).0, Some(0));
    assert_eq!(texts(&root, "device_id"), [KIOSK]);
}

#[test]
fn an_account_goes_and_another_ones_states_of_the_same_device_stay() {
    let (dir, root) = place();
    let lines = [state(LAPTOP, 1, &json!({})), state(KIOSK, 1, &json!({}))];
    let config = dir.path().join("config.toml");
    put(&config, &format!("[[account]]\nname = \"ours\"\nid = \"{ACCOUNT}\"\n"));
    import(dir.path(), &root, ACCOUNT, &lines);
    let file = dir.path().join("states.ndjson");
    let mut command = program();
    command.arg("--config").arg(&config).arg("--archive").arg(&root).args(["import", "--account", OTHER]).arg(&file);
    let (code, said) = run(&mut command);
    assert!(code == Some(0) && said.contains("is none of the config's"), "{said}");
    assert_eq!(texts(&root, "account_id").len(), 4);
    let (code, said) = ask(&root, &["forget", "--account", OTHER]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(texts(&root, "account_id"), [ACCOUNT; 2]);
    let (code, said) = ask(&root, &["forget", "--account", OTHER, "--email", ALICE]);
    assert!(code == Some(2) && said.contains("cannot be used with"), "{said}");
}

#[test]
fn what_registrations_report_side_by_side_is_no_change() {
    let (dir, root) = place();
    let of = |hour: u32, registration: &str, status: &str, version: &str, email: &str| {
        let more = json!({"registrationId": registration, "status": status, "version": version, "personEmail": email});
        state(KIOSK, hour, &more)
    };
    let mut lines = Vec::new();
    for hour in 1..6 {
        lines.push(of(hour, "r1", "connected", "1", ALICE));
        lines.push(of(hour, "r2", if hour == 4 { "connected" } else { "disconnected" }, "1", BOB));
    }
    // When both have ended, the next one goes on from the last.
    lines.push(of(7, "r3", "connected", "2", BOB));
    import(dir.path(), &root, ACCOUNT, &lines);
    let changes = |column: &str| {
        let answer = answer(&root, &["changes", "--column", column]);
        let rows = answer.as_array().expect("rows").iter();
        let text = |row: &Value, name: &str| row[name].as_str().unwrap_or("-").to_owned();
        let told = rows.map(|row| {
            let hour = text(row, "at")[11..13].to_owned();
            format!("{hour} {} {}-{}", text(row, "registration_id"), text(row, "from"), text(row, "to"))
        });
        told.collect::<Vec<_>>()
    };
    assert_eq!(
        changes("status"),
        ["04 r2 disconnected-connected", "05 r2 connected-disconnected", "07 r3 disconnected-connected"]
    );
    assert_eq!(changes("version"), ["07 r3 1-2"]);
    // Whose it is, is the device's.
    assert_eq!(changes("person_email").len(), 9);
    // The same in another account are changes of another one, and one in a report.
    let told = |name: &str| answer(&root, &["changes", "--column", "status"])[0][name].clone();
    let (before, once) = (told("account_id"), disconnects(&root));
    import(dir.path(), &root, OTHER, &lines);
    assert_eq!((before, told("account_id").is_string()), (Value::Null, true));
    assert_eq!(disconnects(&root), once);
}

#[test]
fn a_registration_is_there_as_long_as_it_has_states_whatever_they_say() {
    let of = |hour: u32, registration: &str, mode: Value| {
        state(KIOSK, hour, &json!({"registrationId": registration, "mode": mode, "personEmail": "x@example.com"}))
    };
    let null = || Value::Null;
    let first_falls_silent = vec![
        of(1, "r1", json!("warp")),
        of(2, "r1", null()),
        of(4, "r1", null()),
        of(3, "r2", json!("proxy")),
        of(5, "r2", json!("proxy")),
    ];
    let second_is_silent_at_first =
        vec![of(1, "r1", json!("warp")), of(3, "r1", json!("warp")), of(2, "r2", null()), of(5, "r2", json!("proxy"))];
    for lines in [first_falls_silent, second_is_silent_at_first] {
        let (dir, root) = place();
        import(dir.path(), &root, ACCOUNT, &lines);
        assert_eq!(answer(&root, &["changes", "--column", "mode"]), json!([]));
    }
    // What is said of a column does not hang on what else is asked for.
    let (dir, root) = place();
    let nobodys = state(KIOSK, 3, &json!({"mode": "b", "personEmail": "y@example.com"}));
    let lines = [of(1, "r0", json!("a")), of(2, "r2", null()), nobodys, of(4, "r2", json!("c"))];
    import(dir.path(), &root, ACCOUNT, &lines);
    let told = |columns: &[&str]| {
        let answer = answer(&root, &[&["changes"], columns].concat());
        let rows = answer.as_array().expect("rows").iter().filter(|row| row["column"] == "mode");
        rows.map(|row| [row["at"].clone(), row["from"].clone(), row["to"].clone()]).collect::<Vec<_>>()
    };
    let alone = told(&["--column", "mode"]);
    assert_eq!((alone.len(), &alone), (1, &told(&["--column", "mode", "--column", "person_email"])));
}

#[test]
fn changes_of_one_moment_in_two_accounts_are_told_apart() {
    let (dir, root) = place();
    let of = |minute: u32, registration: &str, status: &str| {
        let timestamp = format!("2026-10-01T00:{minute:02}:00Z");
        json!({"deviceId": KIOSK, "timestamp": timestamp, "registrationId": registration, "status": status})
    };
    let first = [
        of(0, "r1", "connected"),
        of(5, "r2", "connected"),
        of(8, "r2", "connected"),
        of(10, "r1", "connected"),
        of(13, "x", "connected"),
        of(20, "x", "paused"),
        of(31, "x", "connected"),
    ];
    import(dir.path(), &root, ACCOUNT, &first);
    import(dir.path(), &root, OTHER, &[of(12, "x", "connected"), of(20, "x", "paused"), of(30, "x", "paused")]);
    let changes = answer(&root, &["changes", "--column", "status"]);
    let accounts: BTreeSet<_> =
        changes.as_array().expect("rows").iter().map(|row| row["account_id"].as_str()).collect();
    assert_eq!(accounts, BTreeSet::from([Some(ACCOUNT), Some(OTHER)]), "{changes}");
}

#[test]
fn a_report_counts_what_each_registration_lost_whoever_is_in_two_accounts() {
    let (dir, root) = place();
    let of = |device: &str, hour: u32, registration: &str, status: &str| {
        state(device, hour, &json!({"registrationId": registration, "status": status}))
    };
    let lost = (1..5).flat_map(|hour| {
        let status = if hour % 2 == 1 { "connected" } else { "disconnected" };
        ["r1", "r2"].map(|registration| of(KIOSK, hour, registration, status))
    });
    import(dir.path(), &root, ACCOUNT, &lost.collect::<Vec<_>>());
    let before = disconnects(&root);
    assert!(before.contains(" 4 |"), "{before}");
    for account in [ACCOUNT, OTHER] {
        import(dir.path(), &root, account, &[of(LAPTOP, 1, "r", "connected"), of(LAPTOP, 2, "r", "paused")]);
    }
    assert_eq!(disconnects(&root), before);
}

#[test]
fn a_device_that_others_use_too_or_other_accounts_have_is_told() {
    let (dir, root) = place();
    let of = |hour: u32, email: &str| state(KIOSK, hour, &json!({"personEmail": email, "deviceName": "kiosk"}));
    import(dir.path(), &root, ACCOUNT, &[of(1, ALICE), of(2, BOB)]);
    let said = |device: &str, more: &[&str]| {
        let args = ["query", "latest", "--at", "2026-10-02", "--device", device];
        let (code, said) = ask(&root, &[&args, more].concat());
        assert_eq!(code, Some(0), "{said}");
        said
    };
    assert!(said(ALICE, &[]).contains("shares a device with another person"));
    for quiet in [said(ALICE, &["-q"]), said("kiosk", &[]), said(KIOSK, &[]), said("ki*", &[])] {
        assert_eq!(quiet, "");
    }
    import(dir.path(), &root, OTHER, &[of(3, "carol@example.com")]);
    let told = said("kiosk", &[]);
    assert!(told.contains("is in several accounts") && told.contains(ACCOUNT) && told.contains(OTHER), "{told}");
    assert!(said(ALICE, &[]).contains("with other people"));
    assert_eq!(said("kiosk", &["--account", OTHER]), "");
}

#[test]
fn what_is_imported_of_another_account_is_not_missed_by_the_collector() {
    let (dir, root) = place();
    let api = Api::start(4, std::time::Duration::from_mins(2), |options| options);
    assert_eq!(run(&mut api.collect(&root)).0, Some(0));
    let now = Clock::system().now();
    let theirs = (0..30).map(|minute| {
        let at = clock::format_timestamp(now - TimeDelta::minutes(minute));
        json!({"deviceId": LAPTOP, "timestamp": at})
    });
    let status = |root: &Path| -> Value {
        let mut command = program();
        let output = command.arg("--archive").arg(root).args(["status", "--format", "json", "--expect", "1h"]).output();
        serde_json::from_slice(&output.expect("the program starts").stdout).expect("JSON")
    };
    let before = status(&root);
    import(dir.path(), &root, OTHER, &theirs.collect::<Vec<_>>());
    for name in ["expected", "present", "missed"] {
        assert_eq!(before[name], status(&root)[name], "{name}");
    }
    let (_dir, root) = place();
    import(dir.path(), &root, ACCOUNT, &[state(LAPTOP, 1, &json!({})), state(LAPTOP, 3, &json!({}))]);
    import(dir.path(), &root, OTHER, &[state(KIOSK, 1, &json!({}))]);
    let time = |text| clock::parse_timestamp(text).expect("a time");
    let window = Window { since: time("2026-10-01T00:00:00Z"), until: time("2026-10-01T04:00:00Z") };
    let (every, zone) = (std::time::Duration::from_hours(1), Zone::UTC);
    let options = GapsOptions { devices: None, window, every, zone, now, known_until: now };
    let archive = Archive::open(&root).expect("an archive");
    let days = Days::new(&archive, false);
    let of = |account| coverage(&days, &options, account).expect("an answer");
    assert_eq!(of(ACCOUNT), Coverage { expected: 4, present: 2, missed: 2 });
    assert_eq!(of(OTHER), Coverage { expected: 4, present: 1, missed: 3 });
}

#[test]
fn a_report_counts_a_device_that_moved_once() {
    let (dir, root) = place();
    // Five days with a disconnect each in one account, and a moment in another.
    let of = |day: u32, hour: u32, status: &str| {
        json!({
            "deviceId": LAPTOP, "timestamp": format!("2026-10-0{day}T{hour:02}:00:00Z"), "status": status,
            "deviceName": "moved"
        })
    };
    let days = (1..6).flat_map(|day| [of(day, 1, "connected"), of(day, 2, "disconnected"), of(day, 3, "connected")]);
    import(dir.path(), &root, ACCOUNT, &days.collect::<Vec<_>>());
    import(dir.path(), &root, OTHER, &[of(6, 1, "connected")]);
    let report = |args: &[&str]| {
        let mut command = program();
        command.arg("--archive").arg(&root).args(["report", "--since", "2026-10-01", "--until", "2026-10-07"]);
        let output = command.args(["--format", "markdown", "--expect", "1h"]).args(args).output();
        String::from_utf8_lossy(&output.expect("the program starts").stdout).into_owned()
    };
    let fleet = report(&[]);
    let row = fleet.lines().find(|line| line.contains("moved") && line.contains(" 1 |"));
    assert!(row.is_some(), "five disconnects in five days: {fleet}");
    assert!(fleet.contains("| Account |"), "{fleet}");
    let device = report(&["--device", "moved"]);
    let gaps = device.split("Gaps, newest first").nth(1).expect("a table");
    let begins: Vec<&str> = gaps.lines().filter(|line| line.starts_with("| 2026")).map(|line| &line[2..18]).collect();
    assert!(begins.len() > 5 && begins.is_sorted_by(|a, b| a >= b), "{begins:?}");
}

#[test]
fn what_was_written_before_the_rules_and_after_them_is_found_by_one_name() {
    let (dir, root) = place();
    let of = |device: &str, hour: u32| state(device, hour, &json!({"personEmail": BOB, "deviceName": "bobs"}));
    import(dir.path(), &root, ACCOUNT, &[of(KIOSK, 1)]);
    let (config, file) = (dir.path().join("config.toml"), dir.path().join("more.ndjson"));
    put(&config, "[privacy.classes]\nperson = \"pseudonym\"\ndevice = \"pseudonym\"\n");
    put(&file, &format!("{}\n{}", of(KIOSK, 2), of(LAPTOP, 3)));
    let with_rules = |args: &[&str]| with_rules(&root, &config, args);
    let imported = with_rules(&["import", "--account", ACCOUNT, file.to_str().expect("a path")]);
    assert_eq!(imported.0, Some(0), "{}", imported.1);
    let asked = |device: &str| {
        let out = dir.path().join("answer.csv");
        let question =
            ["query", "latest", "--at", "2026-10-02", "--device", device, "-o", out.to_str().expect("a path")];
        let (code, said) = with_rules(&question);
        let rows = std::fs::read_to_string(&out).map_or(0, |text| text.lines().count() - 1);
        drop(std::fs::remove_file(&out));
        (code, rows, said)
    };
    // His devices are as many as there are, whatever stands for their ids.
    assert_eq!((asked(BOB).0, asked(BOB).1), (Some(0), 3), "{}", asked(BOB).2);
    assert_eq!((asked(KIOSK).0, asked(KIOSK).1), (Some(0), 2), "{}", asked(KIOSK).2);
    assert_eq!(asked(LAPTOP).1, 1);
    assert_eq!(asked(&KIOSK.to_uppercase()).1, 2);
    let (code, _, said) = asked("bobs");
    assert!(
        code == Some(1)
            && said.contains("several devices are meant by \"bobs\": name one by its id, \"p-")
            && said.contains("\" (last seen 2026-10-01T03:00:00.000000Z), \"p-")
            && said.contains("(last seen 2026-10-01T01:00:00.000000Z)"),
        "{said}"
    );
    // Whoever is named by an id that nobody has is looked for as the rules would write it.
    let (code, _, said) = asked("cb49c27f-7f97-49c5-b6f3-f7c01ead0fd9");
    assert!(code == Some(1) && said.contains("no device \"p-"), "{said}");
}

#[test]
fn an_address_of_other_letters_is_the_same_person() {
    let (dir, root) = place();
    import(dir.path(), &root, ACCOUNT, &[state(KIOSK, 1, &json!({"personEmail": "zoé@exämple.com"}))]);
    assert_eq!(ask(&root, &["query", "latest", "--at", "2026-10-02", "--device", "ZOÉ@EXÄMPLE.COM", "-q"]).1, "");
    let (_, said) = ask(&root, &["query", "latest", "--at", "2026-10-02", "--device", "ZOÉ@EXÄMPLE.COM"]);
    assert!(!said.contains("another person"), "{said}");
}

#[test]
fn a_name_and_its_pseudonym_are_found_in_any_spelling() {
    let (dir, root) = place();
    // As a Mac writes its name, and an address with a letter of another form and a blank.
    let more = json!({"personEmail": "\u{ff25}lodie@example.com ", "deviceName": "E\u{301}lodies Mac"});
    let of = |hour: u32| state(LAPTOP, hour, &more);
    import(dir.path(), &root, ACCOUNT, &[of(1)]);
    let (config, file) = (dir.path().join("config.toml"), dir.path().join("more.ndjson"));
    put(&config, "[privacy.classes]\nperson = \"pseudonym\"\n");
    put(&file, &of(2).to_string());
    let with_rules = |args: &[&str]| with_rules(&root, &config, args);
    let imported = with_rules(&["import", "--account", ACCOUNT, file.to_str().expect("a path")]);
    assert_eq!(imported.0, Some(0), "{}", imported.1);
    for named in ["\u{c9}lodies mac", "\u{e9}LODIE*", "e\u{301}lodies mac", "elodie@example.com"] {
        let (code, said) = with_rules(&["query", "latest", "--at", "2026-10-02", "--device", named]);
        assert_eq!(code, Some(0), "{named}: {said}");
    }
    let (code, said) = with_rules(&["forget", "--email", "elodie@example.com"]);
    assert!(code == Some(0) && said.contains("2 rows"), "{said}");
}

#[test]
fn a_device_without_a_state_in_the_window_is_told_from_one_that_nobody_knows() {
    let (dir, root) = place();
    import(dir.path(), &root, ACCOUNT, &[state(LAPTOP, 1, &json!({"deviceName": "ann\u{2019}s"}))]);
    let latest = |device: &str| ask(&root, &["query", "latest", "--at", "2026-11-20", "--device", device]);
    let (code, said) = latest("ANN\u{2019}S");
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("has no state between 2026-11-13T") && said.contains("its last one is of 2026-10-01T01:00"),
        "{said}"
    );
    let (code, said) = latest("bob\u{2019}s");
    assert!(code == Some(1) && said.contains("no device \"bob\u{2019}s\" between"), "{said}");
}

#[test]
fn gaps_of_a_device_are_asked_by_any_name_that_it_had() {
    let (dir, root) = place();
    let of = |device: &str, name: &str, time: &str| json!({"deviceId": device, "deviceName": name, "timestamp": time});
    let lines = [
        of("aaaaaaaa-7f97-49c5-b6f3-f7c01ead0fd1", "x", "2026-10-20T10:00:00Z"),
        // Another one had that name long ago.
        of("bbbbbbbb-7f97-49c5-b6f3-f7c01ead0fd1", "x", "2026-10-01T10:00:00Z"),
        of("cccccccc-7f97-49c5-b6f3-f7c01ead0fd1", "y", "2026-10-01T10:00:00Z"),
        // Its only state is in an interval that the window only touches.
        of("dddddddd-7f97-49c5-b6f3-f7c01ead0fd1", "late", "2026-10-20T12:50:00Z"),
    ];
    import(dir.path(), &root, ACCOUNT, &lines);
    let devices = |named: &[&str]| {
        let window = ["gaps", "--since", "2026-10-20T09:30", "--until", "2026-10-20T12:30", "--every", "1h"];
        let named: Vec<&str> = named.iter().flat_map(|name| ["--device", name]).collect();
        answer(&root, &[&window[..], &named].concat()).as_array().map_or(0, Vec::len)
    };
    assert_eq!(devices(&["x"]), 1);
    assert_eq!(devices(&["x", "y"]), 2);
    assert_eq!(devices(&["late"]), 1);
    assert_eq!(devices(&["dddddddd"]), 1);
}

#[test]
fn whoever_has_no_change_says_nothing_of_what_is_shown_of_others() {
    let (dir, root) = place();
    let of = |device: &str, hour: u32, registration: &str, status: &str| {
        state(device, hour, &json!({"registrationId": registration, "status": status}))
    };
    let mut lines = vec![of(LAPTOP, 1, "r9", "connected"), of(LAPTOP, 2, "r9", "paused")];
    for hour in 1..4 {
        lines.extend([of(KIOSK, hour, "r1", "connected"), of(KIOSK, hour, "r2", "paused")]);
    }
    import(dir.path(), &root, ACCOUNT, &lines);
    let changes = answer(&root, &["changes", "--column", "status"]);
    assert_eq!((changes.as_array().map(Vec::len), changes[0].get("registration_id")), (Some(1), None), "{changes}");
    // How far is looked back may be beyond all time.
    let question = ["query", "changes", "--column", "status", "--since", "2026-10-01T02:00", "--until", "9999-12-31"];
    let mut command = program();
    command.arg("--archive").arg(&root).args(question).args(["--back", "100000000d", "--format", "csv"]);
    let told = String::from_utf8(command.output().expect("the program starts").stdout).expect("a text");
    assert!(told.contains("connected,paused,3600,true"), "{told}");
}

#[test]
fn yes_and_no_are_such_in_an_answer() {
    let (dir, root) = place();
    import(dir.path(), &root, ACCOUNT, &[state(LAPTOP, 1, &json!({"alwaysOn": true}))]);
    let answer = answer(&root, &["latest", "--at", "2026-10-02", "--column", "always_on"]);
    assert_eq!(answer[0]["always_on"], json!(true));
}

fn state(device: &str, hour: u32, more: &Value) -> Value {
    let mut state = json!({"deviceId": device, "timestamp": format!("2026-10-01T{hour:02}:00:00Z")});
    more.as_object().expect("an object").iter().for_each(|(name, value)| state[name] = value.clone());
    state
}

fn import(dir: &Path, root: &Path, account: &str, states: &[Value]) -> String {
    let file = dir.join("states.ndjson");
    let lines: Vec<String> = states.iter().map(Value::to_string).collect();
    put(&file, &lines.join("\n"));
    let (code, said) = run(program().arg("--archive").arg(root).args(["import", "--account", account]).arg(&file));
    assert_eq!(code, Some(0), "{said}");
    said
}

fn with_rules(root: &Path, config: &Path, args: &[&str]) -> (Option<i32>, String) {
    let mut command = program();
    command.env("DEX_ARCHIVE_PRIVACY_KEY", "sixteen letters!").arg("--archive").arg(root);
    run(command.arg("--config").arg(config).args(args))
}

fn ask(root: &Path, args: &[&str]) -> (Option<i32>, String) {
    run(program().arg("--archive").arg(root).args(args))
}

fn answer(root: &Path, question: &[&str]) -> Value {
    let mut command = program();
    command.arg("--archive").arg(root).arg("query").args(question);
    if question[0] == "changes" {
        command.args(["--since", "2026-10-01", "--until", "2026-10-02"]);
    }
    let output = command.args(["--format", "json"]).output().expect("the program starts");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// How often the kiosk lost its connection, as a report's line says.
fn disconnects(root: &Path) -> String {
    let mut command = program();
    command.arg("--archive").arg(root).args(["report", "--since", "2026-10-01", "--until", "2026-10-02"]);
    let output = command.args(["--format", "markdown"]).output().expect("the program starts");
    let page = String::from_utf8_lossy(&output.stdout).into_owned();
    let (_, ranking) = page.split_once("Disconnects").expect("a ranking");
    ranking.lines().find(|line| line.contains(KIOSK)).expect("a device that disconnected").to_owned()
}

fn texts(root: &Path, column: &str) -> Vec<String> {
    let schema = Schema::device_state();
    let at = schema.index_of(column).expect("a column");
    let rows = rows(root, &schema).into_iter().map(|(batch, row)| (batch.column(at).as_string::<i32>().clone(), row));
    rows.filter(|(values, row)| values.is_valid(*row)).map(|(values, row)| values.value(row).to_owned()).collect()
}

#[expect(clippy::disallowed_methods, reason = "a test makes files")]
fn put(path: &Path, text: &str) {
    std::fs::write(path, text).expect("room on the disk");
}
