//! `verify`, `prune` and `forget`, as somebody uses them.

use std::fs;
use std::path::{Path, PathBuf};

use arrow_array::Array;
use arrow_array::cast::AsArray;
use dex_archive::archive::{Archive, Part};
use dex_archive::clock::{self, Clock};
use dex_archive::disk::Disk;
use dex_archive::schema::Schema;

use crate::collect::rows;
use crate::program::{ACCOUNT, Api, place, program, run};

const ALICE: &str = "alice@example.com";
const BOB: &str = "bob@example.com";
const LAPTOP: &str = "cb49c27f-7f97-49c5-b6f3-f7c01ead0fd1";
const PHONE: &str = "cb49c27f-7f97-49c5-b6f3-f7c01ead0fd2";

#[test]
fn an_archive_that_is_as_it_should_be_has_no_findings() {
    let (_dir, root) = two_days();
    let (code, report) = verify(&root, &["--deep"]);
    assert_eq!((code, report["parts"].as_u64(), report["rows"].as_u64()), (Some(0), Some(2), Some(8)), "{report}");
    assert_eq!(report["findings"], serde_json::json!([]));
}

/// Spoils an archive, expects findings that say so, repairs, and expects none but notes. The rows that are
/// left are counted.
fn check(spoil: impl FnOnce(&Path), expected: &[(&str, &str)], rows_left: usize) {
    let (_dir, root) = two_days();
    spoil(&root);
    let (code, report) = verify(&root, &[]);
    let found = report["findings"].as_array().expect("a list").iter();
    let found = found
        .map(|finding| (finding["severity"].as_str().expect("a word"), finding["problem"].as_str().expect("a text")));
    let found: Vec<_> = found.filter(|(severity, _)| *severity != "note").collect();
    assert_eq!((code, found.len()), (Some(3), expected.len()), "{report}");
    for ((severity, problem), (expected_severity, words)) in found.iter().zip(expected) {
        assert!(
            severity == expected_severity && problem.contains(words),
            "{severity} {problem:?} should say {words:?}"
        );
    }
    let before = everything(&root);
    let (code, report) = verify(&root, &["--repair"]);
    // What could not be carried over, or may be bent, is told once more.
    let may_be_bent =
        ["checksum is wrong", "whose place it took, is not"].iter().any(|words| expected[0].1.contains(words));
    let is_lost = rows_left < 8 && !expected[0].1.contains("another day");
    let lossy = is_lost || expected[0].0 == "warning" || may_be_bent;
    assert_eq!(code, Some(if lossy { 3 } else { 0 }), "{report}");
    assert_eq!(verify(&root, &["--deep"]).0, Some(0));
    assert_eq!(rows(&root, &Schema::device_state()).len(), rows_left);
    let after = everything(&root);
    // Of a segment of the journal, what is no frame is kept.
    let kept = |file: &Vec<u8>| after.iter().any(|kept| kept == file || (!kept.is_empty() && file.ends_with(kept)));
    let gone = before.iter().filter(|file| !kept(file)).count();
    assert_eq!(gone, 0, "nothing is deleted");
}

#[test]
fn what_does_not_belong_is_found_and_moved() {
    check(|root| put(&day(root, 1).join(".DS_Store"), b"x"), &[("error", "may take it for one")], 8);
    check(|root| put(&root.join("device_state/notes.txt"), b"x"), &[("error", "may take it for one")], 8);
    check(|root| drop(fs::create_dir(day(root, 1).join("sub"))), &[("error", "may take it for one")], 8);
    let second = |root: &Path| {
        fs::copy(part(root, 1), day(root, 1).join("part-0-000009.parquet")).expect("room on the disk");
    };
    check(second, &[("error", "part-0-000009.parquet took its place: readers find its rows twice")], 8);
    let other_shard = |root: &Path| {
        fs::copy(part(root, 1), day(root, 1).join("part-7-000001.parquet")).expect("room on the disk");
    };
    check(other_shard, &[("error", "shard 7 is none of the archive's 1")], 8);
    let only_there = |root: &Path| {
        let other = day(root, 1).join("part-7-000001.parquet");
        fs::copy(part(root, 1), &other).expect("room on the disk");
        remove(&part(root, 1));
    };
    check(only_there, &[("error", "shard 7 is none of the archive's 1")], 8);
    let renamed = |root: &Path| {
        go(&part(root, 1), &day(root, 1).join("part-0-000001 (1).parquet"));
    };
    check(renamed, &[("error", "it is a part, but for its name")], 8);
    let cut = |root: &Path| {
        let bytes = fs::read(part(root, 1)).expect("a part");
        put(&day(root, 1).join("part-0-000009.parquet"), &bytes[..3_000]);
    };
    check(cut, &[("error", "part-0-000001.parquet, whose place it took, is not"), ("error", "is damaged")], 8);
    let of_another_dataset = |root: &Path| {
        let (_dir, other) = place();
        let api = Api::start(2, std::time::Duration::from_secs(2), |options| options);
        assert_eq!(run(&mut api.collect(&other)).0, Some(0));
        let day_of_polls = entry(&other.join("poll"));
        fs::copy(entry(&day_of_polls), day(root, 1).join("part-0-000009.parquet")).expect("room on the disk");
    };
    check(of_another_dataset, &[("error", "whose place it took, is not"), ("error", "has a column")], 8);
    let of_another_day = |root: &Path| {
        fs::copy(part(root, 1), day(root, 2).join("part-0-000009.parquet")).expect("room on the disk");
    };
    check(of_another_day, &[("error", "its rows belong elsewhere"), ("error", "it has rows of another day")], 8);
}

#[test]
fn a_publish_takes_nothing_away_that_it_did_not_read() {
    // A part of another day beside the day's own, with a lower number and with a higher one; and one with another name.
    for name in ["part-0-000000.parquet", "part-0-000009.parquet", "part-0-000001 (1).parquet"] {
        let (_dir, root) = two_days();
        go(&part(&root, 1), &day(&root, 2).join(name));
        fs::remove_dir(day(&root, 1)).expect("an empty folder");
        for hour in [9, 10] {
            import(&root, &[&body(BOB, LAPTOP, 2, hour)], 0);
        }
        let (code, said) = ask(&root, &["verify", "--repair"]);
        assert_eq!(code, Some(0), "{name}: {said}");
        assert_eq!(rows(&root, &Schema::device_state()).len(), 10, "{name}");
        assert_eq!(verify(&root, &["--deep"]).0, Some(0), "{name}");
    }
}

#[test]
fn what_a_publish_left_that_was_broken_off_goes_with_the_next() {
    let (_dir, root) = two_days();
    let older = fs::read(part(&root, 1)).expect("a part");
    import(&root, &[&body(BOB, LAPTOP, 1, 9)], 0);
    put(&day(&root, 1).join("part-0-000000.parquet"), &older);
    import(&root, &[&body(BOB, LAPTOP, 1, 10)], 0);
    assert_eq!(fs::read_dir(day(&root, 1)).expect("a folder").count(), 1);
    assert_eq!(rows(&root, &Schema::device_state()).len(), 10);
}

#[test]
fn a_repair_goes_on_where_a_publish_has_done_some_of_it() {
    let (_dir, root) = two_days();
    let older = fs::read(part(&root, 2)).expect("a part");
    import(&root, &[&body(BOB, LAPTOP, 2, 9)], 0);
    // Once in the wrong day, and once beside the part that took its place: the filing of the one takes the other along.
    put(&day(&root, 1).join("part-0-000000.parquet"), &older);
    put(&day(&root, 2).join("part-0-000000.parquet"), &older);
    let (code, said) = ask(&root, &["verify", "--repair"]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(rows(&root, &Schema::device_state()).len(), 9);
    // The same of one that was to be filed.
    let ((_dir, root), (_other_dir, other)) = (two_days(), two_days());
    import(&other, &[&body(BOB, LAPTOP, 2, 8)], 0);
    let more = fs::read(part(&other, 2)).expect("a part");
    for copy in
        [day(&root, 1).join("a.parquet"), day(&root, 1).join("b.parquet"), day(&root, 2).join("part-0-000000.parquet")]
    {
        put(&copy, &more);
    }
    let (code, said) = ask(&root, &["verify", "--repair"]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(rows(&root, &Schema::device_state()).len(), 9);
}

#[test]
fn parts_that_readers_pass_over_are_named_when_somebody_is_forgotten() {
    let (_dir, root) = two_days();
    go(&part(&root, 1), &day(&root, 2).join("part-0-000000.parquet"));
    let (code, said) = ask(&root, &["forget", "--email", ALICE]);
    assert!(code == Some(3) && said.contains("part-0-000000.parquet mentions it"), "{said}");
    assert_eq!(ask(&root, &["verify", "--repair"]).0, Some(0));
    assert_eq!(emails(&root).len(), 6, "others' rows stay, whatever part they stood in");
    let (code, said) = ask(&root, &["forget", "--email", ALICE]);
    assert!(code == Some(0) && said.contains("nothing about it is left"), "{said}");
    assert_eq!(emails(&root), [BOB; 4]);
}

#[test]
fn rows_are_filed_where_they_belong() {
    // A part that was moved to another day, where there was none.
    let moved = |root: &Path| {
        let elsewhere = root.join("device_state/date=2026-10-09");
        make(&elsewhere);
        fs::copy(part(root, 1), elsewhere.join("part-0-000001.parquet")).expect("room on the disk");
        remove(&part(root, 1));
        drop(fs::remove_dir(day(root, 1)));
    };
    check(moved, &[("error", "it has rows of another day")], 8);
    // The same, under a shard that there is none of: the day that it leaves empty goes.
    let moved_and_renamed = |root: &Path| {
        let elsewhere = root.join("device_state/date=2026-10-09");
        make(&elsewhere);
        go(&part(root, 1), &elsewhere.join("part-7-000001.parquet"));
        drop(fs::remove_dir(day(root, 1)));
    };
    check(
        moved_and_renamed,
        &[("error", "shard 7 is none of the archive's 1"), ("error", "it has rows of another day")],
        8,
    );
    // Beside the day's own.
    let beside = |root: &Path| {
        fs::copy(part(root, 1), day(root, 2).join("part-0-000000.parquet")).expect("room on the disk");
        remove(&part(root, 1));
        drop(fs::remove_dir(day(root, 1)));
    };
    check(beside, &[("error", "its rows belong elsewhere, and part-0-000001.parquet has those of the day")], 8);
}

#[test]
fn damage_that_is_met_on_the_way_is_told() {
    let (_dir, root) = two_days();
    // Rows of the second day, whose own part is damaged, under the first one.
    fs::copy(part(&root, 2), day(&root, 1).join("part-3-000001.parquet")).expect("room on the disk");
    let cut = fs::read(part(&root, 2)).expect("a part");
    put(&part(&root, 2), &cut[..cut.len() / 2]);
    let (code, said) = ask(&root, &["verify", "--repair"]);
    assert!(code == Some(3) && said.contains("none of its rows could be carried over"), "{said}");
    assert_eq!(rows(&root, &Schema::device_state()).len(), 8, "what was elsewhere is there now");
}

#[test]
fn a_part_of_no_shard_is_left_and_named_when_somebody_is_forgotten() {
    let (_dir, root) = two_days();
    let (_other_dir, other) = two_days();
    assert_eq!(ask(&other, &["forget", "--email", ALICE]).0, Some(0));
    assert_eq!(ask(&root, &["forget", "--email", BOB]).0, Some(0));
    let stray = day(&root, 1).join("part-3-000001.parquet");
    fs::copy(part(&other, 1), &stray).expect("room on the disk");
    let (code, said) = ask(&root, &["forget", "--email", ALICE]);
    assert_eq!(code, Some(0), "{said}");
    assert!(stray.exists(), "others' rows stay");
    let (code, said) = ask(&root, &["forget", "--email", BOB]);
    assert!(code == Some(3) && said.contains("part-3-000001.parquet mentions it"), "{said}");
}

#[test]
fn a_wrong_number_of_shards_is_found_and_mended() {
    let (_dir, root) = place();
    let clock = Clock::system();
    Archive::open_or_create(&root, 8, clock.now(), Disk::default()).expect("an archive");
    let device = |at: u32| format!("{at:08}-7f97-49c5-b6f3-f7c01ead0fd1");
    let states: Vec<String> = (0..20).map(|at| body(BOB, &device(at), 1, 1)).collect();
    let states: Vec<&str> = states.iter().map(String::as_str).collect();
    import(&root, &states, 0);
    let described = root.join("_archive/archive.json");
    let text = fs::read_to_string(&described).expect("a description");
    put(&described, b"{");
    let (code, said) = ask(&root, &["verify"]);
    assert!(code == Some(1) && said.contains(r#""shards":8"#), "the parts tell how many there are: {said}");
    put(&described, text.replace("\"shards\": 8", "\"shards\": 5").as_bytes());
    import(&root, &states, 0);
    let (code, report) = verify(&root, &[]);
    let problems = report["findings"].to_string();
    assert_eq!(code, Some(3));
    for words in ["it has rows of another shard", "is none of the archive's 5"] {
        assert!(problems.contains(words), "{problems}");
    }
    let (code, report) = verify(&root, &["--repair"]);
    assert_eq!((code, report["rows"].as_u64()), (Some(0), Some(20)), "{report}");
    assert_eq!(rows(&root, &Schema::device_state()).len(), 20);
}

#[test]
fn a_part_that_is_not_as_it_was_written_is_found_and_written_anew() {
    check(|root| bend(&part(root, 1), 60), &[("error", "its checksum is wrong")], 8);
    check(|root| put(&part(root, 1), b"PAR1"), &[("error", "is damaged")], 4);
    // A day's part under another day: its rows are there twice, which the day tells.
    let doubled = |root: &Path| {
        let bytes = fs::read(part(root, 1)).expect("a part");
        put(&part(root, 2), &bytes);
    };
    check(doubled, &[("error", "it has rows of another day")], 4);
}

#[test]
fn a_gap_in_the_journal_is_found_and_kept_aside() {
    let gap = |root: &Path| {
        put(&root.join("_archive/journal/shard-0/0000000007.journal"), b"DEXJRNL\0\x01\0\0\0half a frame")
    };
    check(gap, &[("warning", "1 stretches of it were written in part")], 8);
}

#[test]
fn a_day_without_a_part_is_told_and_left() {
    let (_dir, root) = two_days();
    fs::remove_file(part(&root, 1)).expect("a part");
    let (code, report) = verify(&root, &["--repair"]);
    assert_eq!(code, Some(3));
    assert!(report["findings"][0]["problem"].as_str().expect("a text").starts_with("the day has no part"), "{report}");
}

#[test]
fn values_from_before_the_rules_are_told() {
    let (dir, root) = two_days();
    let config = dir.path().join("config.toml");
    put(&config, b"[privacy.classes]\nperson = \"drop\"\n");
    let mut command = program();
    command.arg("--archive").arg(&root).arg("--config").arg(&config).args(["verify", "--deep"]);
    let output = command.output().expect("the program starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("column person_email holds values that the privacy rules would not let in now"), "{said}");
}

#[test]
fn a_person_is_forgotten_everywhere() {
    let (_dir, root) = two_days();
    // Three ways into the quarantine: a line, a line with escapes, and a damaged part that holds rows.
    import(
        &root,
        &[&format!(r#"{{"personEmail":"{ALICE}"}}"#), r#"{"x":"\u0041lice@Example.com"}"#, r#"{"x":"carol"}"#],
        3,
    );
    bend(&part(&root, 1), 60);
    import(&root, &[&body(BOB, LAPTOP, 1, 9)], 3);
    let before = everything(&root);
    let (code, said) = ask(&root, &["forget", "--email", ALICE, "--dry-run"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("2 days, 4 rows,") && said.contains("would go"), "{said}");
    assert_eq!(everything(&root), before, "a dry run changes nothing");
    let (code, said) = ask(&root, &["forget", "--email", "ALICE@example.com"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("nothing about it is left"), "{said}");
    assert_eq!(emails(&root), [BOB; 5]);
    for file in everything(&root) {
        let text = String::from_utf8_lossy(&file).to_lowercase();
        assert!(!text.contains("alice@example.com") && !text.contains("u0041lice"), "{text}");
    }
    let quarantine = everything(&root.join("_archive/quarantine"));
    assert!(quarantine.iter().any(|file| String::from_utf8_lossy(file).contains("carol")), "others stay");
    let kept = root.join("_archive/quarantine/device_state.2026-10-01.part-0-000001.parquet.0");
    let kept = Part::open(&kept, &Schema::device_state()).expect("a part");
    assert_eq!(kept.rows(), 2, "the other's rows of a part that was set aside");
    assert_eq!(verify(&root, &["--deep"]).0, Some(0));
}

#[test]
fn a_line_of_the_log_that_cannot_be_written_ends_nothing() {
    let (_dir, root) = two_days();
    let cut = fs::read(part(&root, 2)).expect("a part");
    put(&part(&root, 2), &cut[..cut.len() / 2]);
    let window = ["--since", "2026-10-01", "--until", "2026-10-03", "--every", "2d"];
    for form in ["text", "json"] {
        let full = fs::File::options().write(true).open("/dev/full").expect("a device");
        let mut command = program();
        command.arg("--archive").arg(&root).args(["query", "trend", "--fleet", "--skip-damaged", "--log-format", form]);
        let output = command.args(window).stderr(full).output().expect("the program starts");
        assert_eq!(output.status.code(), Some(3), "{form}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("the fleet"), "{form}: the answer is there");
    }
}

#[test]
fn a_damaged_part_keeps_no_other_from_being_upgraded_or_anything_from_being_filed() {
    let (_dir, root) = two_days();
    let whole = fs::read(part(&root, 1)).expect("a part");
    put(&part(&root, 1), &whole[..whole.len() / 2]);
    for args in [&["upgrade", "--dry-run"][..], &["upgrade"]] {
        let (code, said) = ask(&root, args);
        assert!(code == Some(3) && said.contains("verify --repair"), "{said}");
    }
    let (code, said) = ask(&root, &["reshard", "--shards", "3"]);
    assert!(code == Some(1) && said.contains("verify --repair"), "{said}");
    import(&root, &[&body(ALICE, LAPTOP, 2, 5)], 0);
    assert_eq!(ask(&root, &["verify", "--repair"]).0, Some(3));
    assert_eq!(ask(&root, &["reshard", "--shards", "3"]).0, Some(0));
}

#[test]
fn what_cannot_be_searched_or_is_not_ours_is_named_and_left() {
    let (_dir, root) = two_days();
    fs::copy(part(&root, 1), day(&root, 1).join("copy.parquet")).expect("room on the disk");
    let cut = fs::read(part(&root, 2)).expect("a part");
    put(&part(&root, 2), &cut[..cut.len() / 2]);
    let (code, said) = ask(&root, &["verify", "--repair"]);
    assert!(code == Some(3) && said.contains("backfill --again"), "rows could not be carried over: {said}");
    fs::copy(part(&root, 1), day(&root, 1).join("again.parquet")).expect("room on the disk");
    let (code, said) = ask(&root, &["forget", "--email", ALICE]);
    assert_eq!(code, Some(3), "{said}");
    for name in ["again.parquet", "part-0-000001.parquet.0"] {
        assert!(said.contains(name), "{name}: {said}");
    }
    assert!(!said.contains("nothing about it is left"), "{said}");
    let kept = root.join("_archive/quarantine/device_state.2026-10-02.part-0-000001.parquet.0");
    assert_eq!(fs::read(kept).expect("the last copy stays").len(), cut.len() / 2);
    let copied = root.join("_archive/quarantine/device_state.date=2026-10-01.copy.parquet.0");
    let copied = Part::open(&copied, &Schema::device_state()).expect("a part");
    assert_eq!(copied.rows(), 2, "of a copy that can be searched, the others' rows stay");
    assert_eq!(emails(&root), [BOB; 2]);
}

#[test]
fn what_cannot_be_read_is_named_and_keeps_nobody_elsewhere() {
    let (dir, root) = two_days();
    let quarantine = root.join("_archive/quarantine");
    make(&quarantine);
    // Whoever has all rights cannot read a folder as a file either.
    std::os::unix::fs::symlink(dir.path(), quarantine.join("bent.ndjson")).expect("a link");
    std::os::unix::fs::symlink("nowhere", day(&root, 1).join("gone.parquet")).expect("a link");
    let second = part(&root, 2);
    remove(&second);
    std::os::unix::fs::symlink(dir.path(), &second).expect("a link");
    for (more, gone) in [(&["--dry-run"][..], "would go"), (&[], "went")] {
        let (code, said) = ask(&root, &[&["forget", "--email", ALICE], more].concat());
        assert_eq!(code, Some(3), "{said}");
        for word in ["left: ", "bent.ndjson", &second.display().to_string(), gone] {
            assert!(said.contains(word), "{word}: {said}");
        }
        assert!(said.contains("1 days, 2 rows") && !said.contains("gone.parquet"), "{said}");
    }
    remove(&second);
    assert_eq!(emails(&root), [BOB; 2]);
}

#[test]
fn nobody_is_forgotten_by_mistake() {
    let (_dir, root) = two_days();
    import(&root, &[r#"{"x":"joalice@example.com"}"#], 3);
    let before = everything(&root);
    for (args, code) in [
        (["--email", ""], 2),
        (["--email", "alice"], 2),
        (["--device", "laptop"], 2),
        (["--email", "e@example.com"], 0),
    ] {
        let (ended, said) = ask(&root, &[&["forget"][..], &args].concat());
        assert_eq!(ended, Some(code), "{args:?}: {said}");
    }
    assert_eq!(everything(&root), before);
    assert_eq!(ask(&root, &["forget", "--email", ALICE]).0, Some(0));
    let quarantine = everything(&root.join("_archive/quarantine"));
    assert!(
        quarantine.iter().any(|file| String::from_utf8_lossy(file).contains("joalice@")),
        "another's address stays"
    );
}

#[test]
fn a_person_is_found_in_odd_places() {
    let (dir, root) = two_days();
    import(
        &root,
        &[&format!(r#"{{"deviceId":"{PHONE}","timestamp":"2026-10-01T05:00:00Z","owner":{{"mail":"{ALICE}"}}}}"#)],
        0,
    );
    let says = [
        r#""personEmail":" Alice@example.com ""#,
        r#""deviceName":"alice@example.com""#,
        r#""networkSsid":"alice@example.com's iPhone""#,
        r#""cpuPctByApp":[{"name":"mail","cpu_pct":1},{"name":"alice@example.com - Mail","cpu_pct":2}]"#,
        r#""link":"https://example.com/?u=alice%40example.com""#,
        r#""note":"-alice@example.com""#,
    ];
    let says = says
        .iter()
        .zip(10..)
        .map(|(says, minute)| format!(r#"{{"deviceId":"{PHONE}","timestamp":"2026-10-01T05:{minute}:00Z",{says}}}"#));
    import(&root, &says.collect::<Vec<_>>().iter().map(String::as_str).collect::<Vec<_>>(), 0);
    let latin = dir.path().join("latin.ndjson");
    put(&latin, b"{\"personEmail\":\"alice@example.com\",\"deviceName\":\"J\xfcrgen\"}");
    assert_eq!(ask(&root, &["import", "--account", ACCOUNT, &latin.display().to_string()]).0, Some(3));
    put(&root.join("_archive/quarantine/odd-1.ndjson"), b"{\"broken\":\"x\\nalice@example.com\n{\"carol\":1}\n");
    let (code, said) = ask(&root, &["forget", "--email", ALICE]);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("device_state 2026-10-01: 9 rows") && said.contains("and 2 entries of the quarantine went"),
        "{said}"
    );
}

#[test]
fn that_somebodys_device_was_asked_for_is_forgotten_too() {
    let api = Api::start(12, std::time::Duration::from_secs(2), |options| options);
    let (_dir, root) = place();
    assert_eq!(run(api.collect(&root).args(["--source", "live"])).0, Some(0));
    let states = rows(&root, &Schema::device_state());
    let text = |(batch, row): &(arrow_array::RecordBatch, usize), name: &str| {
        let column = batch.column_by_name(name).expect("a column").as_string::<i32>();
        column.is_valid(*row).then(|| column.value(*row).to_owned())
    };
    let (email, device) =
        states.iter().find_map(|row| Some((text(row, "person_email")?, text(row, "device_id")?))).expect("somebody");
    let asked =
        || rows(&root, &Schema::poll()).iter().filter(|row| text(row, "device_id").as_ref() == Some(&device)).count();
    assert_eq!(asked(), 1);
    // A part of polls that was set aside has them too.
    let polls = entry(&entry(&root.join("poll")));
    fs::copy(&polls, polls.with_file_name("part-0-000000.parquet")).expect("room on the disk");
    assert_eq!(ask(&root, &["verify", "--repair"]).0, Some(0));
    let counted = |said: &str| {
        said.lines().find(|line| line.contains(" rows, ")).map(|line| line.split(", ").nth(1).map(str::to_owned))
    };
    let rehearsed = counted(&ask(&root, &["forget", "--email", &email, "--dry-run"]).1);
    let (code, said) = ask(&root, &["forget", "--email", &email]);
    assert!(code == Some(0) && said.contains("Cloudflare remembers 7 days"), "{said}");
    assert_eq!((asked(), counted(&said)), (0, rehearsed), "{said}");
    for file in everything(&root.join("_archive/quarantine")) {
        assert!(!String::from_utf8_lossy(&file).contains(&device), "none is left");
    }
    assert!(rows(&root, &Schema::poll()).len() > 5, "other devices' stay");
}

#[test]
fn a_damaged_part_keeps_nobody_in_the_others() {
    let (_dir, root) = two_days();
    import(&root, &[&body(ALICE, LAPTOP, 3, 1), &body(BOB, PHONE, 3, 1), &format!(r#"{{"x":"{ALICE}"}}"#)], 3);
    let cut = fs::read(part(&root, 2)).expect("a part");
    put(&part(&root, 2), &cut[..cut.len() / 2]);
    let (code, said) = ask(&root, &["forget", "--email", ALICE]);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("left: ") && said.contains("date=2026-10-02"), "{said}");
    assert!(said.contains("2 days, 3 rows,") && said.contains("and 1 entries of the quarantine went"), "{said}");
    assert!(!said.contains("nothing about it is left"), "{said}");
}

/// What is damaged in the quarantine, or packed, is named and left; all else goes.
#[test]
fn what_cannot_be_rewritten_or_searched_keeps_nobody_in_the_rest() {
    let (_dir, root) = place();
    let states: Vec<String> =
        (0..24).map(|hour| body(if hour % 2 == 0 { ALICE } else { BOB }, LAPTOP, 1, hour)).collect();
    import(&root, &states.iter().map(String::as_str).collect::<Vec<_>>(), 0);
    let quarantine = root.join("_archive/quarantine");
    fs::create_dir_all(&quarantine).expect("a folder");
    let whole = fs::read(part(&root, 1)).expect("a part");
    // Bent all over: some of these parts can be counted and not be rewritten.
    for at in (0..whole.len() - 40).step_by(700) {
        let mut bent = whole.clone();
        bent[at + 4..at + 12].iter_mut().for_each(|byte| *byte ^= 0x5a);
        put(&quarantine.join(format!("a-bent-{at}.parquet.0")), &bent);
    }
    put(&quarantine.join("packed.ndjson.gz.0"), b"\x1f\x8b\x08rest");
    put(&quarantine.join("shard-0-1.ndjson"), format!("{{\"x\":\"{ALICE}\"}}\n").as_bytes());
    let note = root.join(format!("_archive/resume/{ACCOUNT}.shard-7.json"));
    fs::create_dir_all(note.parent().expect("a folder")).expect("a folder");
    put(&note, b"{\"page\":2}");
    let (code, said) = ask(&root, &["forget", "--email", ALICE]);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("left: ") && said.contains("packed.ndjson.gz.0") && said.contains("a-bent-"), "{said}");
    let line = fs::read_to_string(quarantine.join("shard-0-1.ndjson")).unwrap_or_default();
    assert!(!line.contains(ALICE), "{line}");
    let unfinished = everything(&root.join("_archive/staging")).into_iter().filter(|file| file.starts_with(b"PAR1"));
    assert_eq!(unfinished.count(), 0);
    let (_code, said) = ask(&root, &["forget", "--account", ACCOUNT]);
    assert!(!note.exists(), "{said}");
}

#[test]
fn what_cannot_be_mended_keeps_nothing_else_from_it() {
    let (_dir, root) = two_days();
    let day = root.join("device_state/date=2026-10-01");
    put(&day.join(format!("{}.parquet", "x".repeat(235))), b"x");
    put(&day.join("zz.txt"), b"x");
    let odd: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"\xff.txt");
    put(&day.join(odd), b"x");
    fs::create_dir(day.join("part-1-000001.parquet")).expect("a folder");
    let (code, report) = verify(&root, &["--repair"]);
    assert_eq!(code, Some(1), "{report}");
    assert!(!day.join("zz.txt").exists() && !day.join(odd).exists(), "{report}");
    // Nor does a folder with a part's name keep the day from being published, or read.
    for (name, hour) in [("part-1-000001.parquet", 20), ("part-0-000009.parquet", 21)] {
        fs::create_dir_all(day.join(name)).expect("a folder");
        let (code, said) = ask(&root, &["query", "latest", "--at", "2026-10-03"]);
        assert_eq!(code, Some(0), "{name}: {said}");
        import(&root, &[&body(BOB, PHONE, 1, hour)], 0);
    }
    assert_eq!(rows(&root, &Schema::device_state()).len(), 10);
}

#[test]
fn nobody_stays_in_what_former_shards_left() {
    let (_dir, root) = place();
    Archive::open_or_create(&root, 3, Clock::system().now(), Disk::default()).expect("an archive");
    let device = |at: u32| format!("{at:08}-7f97-49c5-b6f3-f7c01ead0fd1");
    for hour in 1..3 {
        let states: Vec<String> = (0..9).map(|at| body(ALICE, &device(at), 1, hour)).collect();
        import(&root, &states.iter().map(String::as_str).collect::<Vec<_>>(), 0);
    }
    assert_eq!(ask(&root, &["reshard", "--shards", "1"]).0, Some(0));
    let former = root.join("_archive/staging/shard-2");
    let left = |folder: &Path| everything(folder).iter().filter(|file| file.starts_with(b"PAR1")).count();
    assert!(left(&former) > 0, "a day that was live a moment ago lingers");
    let (code, said) = ask(&root, &["forget", "--email", ALICE]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(left(&former), 0);
}

#[test]
fn a_rehearsal_leaves_what_waits_in_the_journal() {
    let api = Api::start(5, std::time::Duration::from_secs(2), |options| options);
    let (dir, root) = place();
    let config = dir.path().join("config.toml");
    put(&config, b"[archive]\npublish = \"1h\"\n");
    assert_eq!(run(api.collect(&root).arg("--config").arg(&config)).0, Some(0));
    let before = everything(&root);
    let (code, said) = ask(&root, &["forget", "--email", ALICE, "--dry-run"]);
    assert!(code == Some(0) && said.contains("what waits in the journal is not looked at"), "{said}");
    assert_eq!(everything(&root), before);
}

#[test]
fn a_part_of_somebody_elses_does_not_hold_up_its_day() {
    let (_dir, root) = two_days();
    // A poll's part under a state's name, and not sealed by us any more.
    let foreign = place();
    let api = crate::program::Api::start(2, std::time::Duration::from_secs(2), |options| options);
    assert_eq!(run(&mut api.collect(&foreign.1)).0, Some(0));
    let mut bytes = fs::read(entry(&entry(&foreign.1.join("poll")))).expect("a part");
    let key = bytes.windows(17).rposition(|window| window == b"dex_archive.xxh64").expect("a checksum");
    bytes[key] = b'D';
    put(&part(&root, 1), &bytes);
    import(&root, &[&body(BOB, PHONE, 1, 7)], 3);
    assert_eq!(rows(&root, &Schema::device_state()).len(), 5);
    assert_eq!(verify(&root, &["--deep"]).0, Some(0));
}

#[test]
fn a_device_is_forgotten_and_a_day_that_held_nothing_else_goes() {
    let (_dir, root) = two_days();
    import(&root, &[&body(BOB, PHONE, 3, 1)], 0);
    let (code, said) = ask(&root, &["forget", "--device", PHONE]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("device_state 2026-10-03: 1 rows"), "{said}");
    assert_eq!(rows(&root, &Schema::device_state()).len(), 4);
    assert!(!day(&root, 3).exists());
    assert_eq!(verify(&root, &["--deep"]).0, Some(0));
}

#[test]
fn a_pseudonym_is_forgotten_by_whoever_has_the_key() {
    let (dir, root) = place();
    let config = dir.path().join("config.toml");
    put(&config, b"[privacy.classes]\nperson = \"pseudonym\"\ndevice = \"pseudonym\"\n");
    let states = dir.path().join("states.ndjson");
    put(&states, [body("Alice@Example.com", LAPTOP, 1, 1), body(BOB, PHONE, 1, 1)].join("\n").as_bytes());
    let with = |args: &[&str], key: &str| {
        let mut command = program();
        command.env("DEX_ARCHIVE_PRIVACY_KEY", key).arg("--archive").arg(&root).arg("--config").arg(&config);
        run(command.args(args))
    };
    let with_key = |args: &[&str]| with(args, "sixteen letters!");
    let (code, said) = with_key(&["import", "--account", ACCOUNT, &states.display().to_string()]);
    assert_eq!(code, Some(0), "{said}");
    assert!(emails(&root).iter().all(|email| email.starts_with("p-")));
    let (code, said) = ask(&root, &["forget", "--email", ALICE]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("holds pseudonyms: name the config with the [privacy] rules and their key"), "{said}");
    let (code, said) = with(&["forget", "--email", ALICE], "another key: sixteen");
    assert_eq!((code, emails(&root).len()), (Some(3), 2), "{said}");
    assert!(said.contains("the archive has those of 1 key that this run did not have; run it with each"), "{said}");
    assert!(!said.contains("nothing about it is left"), "{said}");
    // By the only key that there is, all is found; and that a name was mistyped is told.
    let (code, said) = with_key(&["forget", "--email", "alcie@example.com"]);
    assert_eq!((code, emails(&root).len()), (Some(0), 2), "{said}");
    assert!(said.contains("no row is about it") && !said.contains("pseudonyms"), "{said}");
    let (code, said) = with_key(&["forget", "--email", ALICE]);
    assert_eq!((code, emails(&root).len()), (Some(0), 1), "{said}");
    assert!(said.contains("nothing about it is left") && !said.contains("pseudonyms"), "{said}");
    let (code, said) =
        with_key(&["query", "trend", "--device", PHONE, "--since", "2026-10-01", "--until", "2026-10-02"]);
    assert_eq!(code, Some(0), "{said}");
    // What stands in the table may be typed as it stands there.
    let id = rows(&root, &Schema::device_state()).into_iter().map(|(batch, row)| {
        batch.column_by_name("device_id").expect("a column").as_string::<i32>().value(row).to_owned()
    });
    let id = id.last().expect("a row");
    for device in [&id[..], &id[..9], "p-*"] {
        let window = ["--since", "2026-10-01", "--until", "2026-10-02"];
        let (code, said) = with_key(&[&["query", "trend", "--device", device][..], &window].concat());
        assert_eq!(code, Some(0), "{device}: {said}");
    }
    let (code, said) = with_key(&["forget", "--device", PHONE]);
    assert_eq!((code, emails(&root).len()), (Some(0), 0), "{said}");
}

#[test]
fn old_days_are_pruned_and_today_never_is() {
    let (_dir, root) = place();
    let today = Clock::system().now();
    let days_ago = |days: i64| clock::format_timestamp(today - chrono::TimeDelta::days(days));
    let states: Vec<String> = [0, 1, 2, 3, 400].map(|days| state(BOB, LAPTOP, &days_ago(days))).into();
    import(&root, &states.iter().map(String::as_str).collect::<Vec<_>>(), 0);
    let count = || rows(&root, &Schema::device_state()).len();
    let (code, said) = ask(&root, &["prune", "--keep", "2d", "--dry-run"]);
    assert_eq!((code, count()), (Some(0), 5), "{said}");
    assert!(said.contains("2 days, 2 rows,") && said.contains("would go"), "{said}");
    assert_eq!((ask(&root, &["prune", "--keep", "2d"]).0, count()), (Some(0), 3));
    assert_eq!((ask(&root, &["prune", "--keep", "1d"]).0, count()), (Some(0), 2));
    assert_eq!((ask(&root, &["prune", "--keep", "1s"]).0, count()), (Some(0), 1));
    assert_eq!(fs::read_dir(root.join("_archive/staging/shard-0")).expect("a folder").count(), 0, "gone is gone");
    assert_eq!(ask(&root, &["prune", "--keep", "soon"]).0, Some(2));
    assert_eq!(verify(&root, &["--deep"]).0, Some(0));
}

#[test]
fn not_everything_is_pruned_at_once() {
    let (_dir, root) = place();
    let days_ago = |days: i64| clock::format_timestamp(Clock::system().now() - chrono::TimeDelta::days(days));
    import(&root, &[&state(BOB, LAPTOP, &days_ago(300)), &state(ALICE, PHONE, &days_ago(400))], 0);
    let before = everything(&root);
    for args in [&["prune", "--keep", "30d"][..], &["prune", "--keep", "30d", "--dry-run"]] {
        let (code, said) = ask(&root, args);
        assert!(code == Some(1) && said.contains("look at this machine's clock"), "{args:?}: {said}");
    }
    assert_eq!(everything(&root), before);
    // A sweep that failed is of the wrong clock as well, and a device may have one of its own.
    for day in
        [root.join("poll/date=").display().to_string() + &days_ago(0)[..10], "device_state/date=2199-01-01".into()]
    {
        fs::create_dir_all(root.join(day)).expect("room on the disk");
        assert_eq!(ask(&root, &["prune", "--keep", "30d"]).0, Some(1));
    }
    let (code, said) = ask(&root, &["prune", "--keep", "350d"]);
    assert!(code == Some(0) && said.contains("1 days, 1 rows,"), "{said}");
}

#[test]
fn a_rehearsal_does_not_wait_for_a_collector() {
    let (_dir, root) = place();
    let days_ago = |days: i64| clock::format_timestamp(Clock::system().now() - chrono::TimeDelta::days(days));
    import(&root, &[&state(BOB, PHONE, &days_ago(0)), &state(ALICE, LAPTOP, &days_ago(400))], 0);
    let lock = Archive::open(&root).and_then(|archive| archive.lock(0, "a collector")).expect("the lock");
    for args in [&["prune", "--keep", "30d"][..], &["forget", "--email", ALICE]] {
        let (code, said) = ask(&root, &[args, &["--dry-run"]].concat());
        assert!(code == Some(0) && said.contains("1 days, 1 rows,") && said.contains("would go"), "{args:?}: {said}");
        assert_eq!(ask(&root, args).0, Some(75), "{args:?}");
    }
    drop(lock);
    assert_eq!(emails(&root).len(), 2);
}

#[test]
fn root_writes_nothing_that_the_collecting_user_could_not_change() {
    let (_dir, root) = two_days();
    let give = |user: u32| std::os::unix::fs::chown(root.join("_archive"), Some(user), None);
    // Nobody but root can give a folder away, and nobody but root is kept from anything.
    if give(4_242).is_err() {
        return;
    }
    let before = everything(&root);
    for args in [&["verify", "--repair"][..], &["prune", "--keep", "1s"], &["forget", "--email", ALICE]] {
        let (code, said) = ask(&root, args);
        assert!(code == Some(2) && said.contains("belongs to user 4242"), "{args:?}: {said}");
    }
    assert_eq!(everything(&root), before);
    assert_eq!(ask(&root, &["verify"]).0, Some(0), "reading is free");
    give(0).expect("it is root's");
    assert_eq!(ask(&root, &["forget", "--email", ALICE]).0, Some(0));
}

/// Four states a day on two days: two people, two devices.
fn two_days() -> (tempfile::TempDir, PathBuf) {
    let (dir, root) = place();
    let states = (1..=2)
        .flat_map(|day| (1..=2).flat_map(move |hour| [body(ALICE, LAPTOP, day, hour), body(BOB, PHONE, day, hour)]));
    let states: Vec<String> = states.collect();
    import(&root, &states.iter().map(String::as_str).collect::<Vec<_>>(), 0);
    (dir, root)
}

fn body(email: &str, device: &str, day: u32, hour: u32) -> String {
    state(email, device, &format!("2026-10-{day:02}T{hour:02}:00:00Z"))
}

fn state(email: &str, device: &str, at: &str) -> String {
    format!(r#"{{"deviceId":"{device}","timestamp":"{at}","personEmail":"{email}","cpuPct":1}}"#)
}

fn import(root: &Path, lines: &[&str], code: i32) {
    let file = root.with_extension("ndjson");
    put(&file, lines.join("\n").as_bytes());
    let (ended, said) = ask(root, &["import", "--account", ACCOUNT, &file.display().to_string()]);
    assert_eq!(ended, Some(code), "{said}");
}

fn ask(root: &Path, args: &[&str]) -> (Option<i32>, String) {
    let mut command = program();
    let output = command.arg("--archive").arg(root).args(args).output().expect("the program starts");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

fn verify(root: &Path, args: &[&str]) -> (Option<i32>, serde_json::Value) {
    let mut command = program();
    command.arg("--archive").arg(root).args(["verify", "--format", "json"]).args(args);
    let output = command.output().expect("the program starts");
    let said = String::from_utf8_lossy(&output.stdout);
    let report = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code(), report)
}

fn emails(root: &Path) -> Vec<String> {
    let of = |(batch, row): (arrow_array::RecordBatch, usize)| {
        let column = batch.column_by_name("person_email").expect("a column").as_string::<i32>();
        column.is_valid(row).then(|| column.value(row).to_owned())
    };
    rows(root, &Schema::device_state()).into_iter().filter_map(of).collect()
}

fn day(root: &Path, day: u32) -> PathBuf {
    root.join(format!("device_state/date=2026-10-{day:02}"))
}

fn part(root: &Path, date: u32) -> PathBuf {
    let archive = Archive::open(root).expect("an archive");
    let schema = Schema::device_state();
    let days = archive.partitions(&schema).expect("a folder");
    let wanted = days.into_iter().find(|partition| archive.day_dir(partition) == day(root, date)).expect("the day");
    archive.parts(&wanted).expect("a folder").remove(0).1
}

fn bend(path: &Path, at: usize) {
    let mut bytes = fs::read(path).expect("a file");
    bytes[at] ^= 1;
    put(path, &bytes);
}

/// What every file below a folder holds, but for locks and what lingers in staging.
fn everything(dir: &Path) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut entries: Vec<PathBuf> =
        fs::read_dir(dir).into_iter().flatten().map(|entry| entry.expect("an entry").path()).collect();
    entries.sort();
    for path in entries
        .into_iter()
        .filter(|path| path.extension().is_none_or(|kind| kind != "lock") && !path.ends_with("staging"))
    {
        if path.is_dir() { found.extend(everything(&path)) } else { found.push(fs::read(&path).expect("a file")) }
    }
    found
}

/// The only entry of a folder.
fn entry(folder: &Path) -> PathBuf {
    fs::read_dir(folder).expect("a folder").next().expect("something in it").expect("an entry").path()
}

fn remove(path: &Path) {
    fs::remove_file(path).expect("a file");
}

#[expect(clippy::disallowed_methods, reason = "a test makes and spoils files")]
fn go(from: &Path, to: &Path) {
    fs::rename(from, to).expect("a file, and room on the disk");
}

fn make(path: &Path) {
    fs::create_dir(path).expect("room on the disk");
}

#[expect(clippy::disallowed_methods, reason = "a test makes and spoils files")]
fn put(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).expect("room on the disk");
}
