//! Files into the archive: what was read is there, however the reading ended.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, TimestampMicrosecondType};
use arrow_array::{Array, RecordBatch};
use dex_archive::schema::Schema;

use crate::collect::rows;
use crate::program::{ACCOUNT, place, program, run};

#[test]
fn what_stands_before_a_fault_is_taken_in() {
    let (dir, root) = place();
    let mut zipped = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    (0..2_000).for_each(|n| writeln!(zipped, "{}", state(n)).expect("memory"));
    let whole = zipped.finish().expect("memory");
    let cut = dir.path().join("cut.ndjson.gz");
    put(&cut, &whole[..whole.len() / 2]);
    let (code, said) = run(import(&root).arg(&cut));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("cannot read ") && said.contains("cut.ndjson.gz") && !said.contains("0 bodies"), "{said}");
    // What was read is published, and the half line is told.
    assert!(said.contains(" 1 quarantined"), "{said}");
    let count = rows(&root, &Schema::device_state()).len();
    assert!(count > 600, "{count} of about a thousand");
    let quarantine = std::fs::read_dir(root.join("_archive/quarantine")).expect("a folder").count();
    assert_eq!(quarantine, 2, "the half line and its report");
}

#[test]
fn what_is_compressed_is_read_whatever_it_is_called() {
    let mut zipped = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    writeln!(zipped, "{}", state(1)).expect("memory");
    let zipped = zipped.finish().expect("memory");
    let packed = zstd::encode_all(state(1).as_bytes(), 1).expect("memory");
    for bytes in [zipped, packed, format!("{}\n", state(1)).into_bytes(), b"{}\n".to_vec()] {
        let (dir, root) = place();
        let file = dir.path().join("states");
        put(&file, &bytes);
        let (code, said) = run(import(&root).arg("-").stdin(std::fs::File::open(&file).expect("a file")));
        let (expected, states) = (Some(0), usize::from(bytes.len() > 3));
        assert_eq!((code, rows(&root, &Schema::device_state()).len()), (expected, states), "{said}");
        let other = dir.path().join("states.gz");
        put(&other, &bytes);
        let (code, said) = run(import(&root).arg(&file).arg(&other));
        assert_eq!((code, rows(&root, &Schema::device_state()).len()), (expected, states), "{said}");
    }
}

#[test]
fn what_comes_slowly_is_durable_all_the_same() {
    let (_dir, root) = place();
    let mut importing = import(&root).arg("-").stdin(Stdio::piped()).spawn().expect("the program starts");
    let mut input = importing.stdin.take().expect("a pipe");
    writeln!(input, "{}", state(1)).expect("a pipe");
    wait_for_the_journal(&root);
    importing.kill().expect("a process");
    importing.wait().expect("a process");
    drop(input);
    let (code, said) = run(import(&root).arg("/dev/null"));
    assert_eq!((code, rows(&root, &Schema::device_state()).len()), (Some(0), 1), "{said}");
}

#[test]
fn of_equal_states_of_one_time_that_of_the_later_file_stays_whatever_its_size() {
    let (dir, root) = place();
    let long = "x".repeat(1_700);
    let of = |n: u32, cpu: u32| {
        let device = format!("cb49c27f-7f97-49c5-b6f3-f7c01e{n:06}");
        format!(
            r#"{{"deviceId":"{device}","timestamp":"2026-10-01T01:00:00Z","cpuPct":{cpu},"dohSubdomain":"{long}"}}"#
        )
    };
    // The large one is read where it lies.
    let [first, large, last] = ["first", "large", "last"].map(|name| dir.path().join(format!("{name}.ndjson")));
    put(&first, [of(1, 1), of(2, 1)].join("\n").as_bytes());
    put(&large, (0..10_000).map(|n| of(n, 2)).collect::<Vec<_>>().join("\n").as_bytes());
    put(&last, of(2, 3).as_bytes());
    let (code, said) = run(import(&root).args(["--collected-at", "2026-10-02"]).args([&first, &large, &last]));
    assert_eq!(code, Some(0), "{said}");
    let cpu: Vec<f64> = rows(&root, &Schema::device_state())
        .iter()
        .take(3)
        .map(|(batch, row)| {
            batch.column_by_name("cpu_pct").expect("a column").as_primitive::<Float64Type>().value(*row)
        })
        .collect();
    assert_eq!(cpu, [2.0, 2.0, 3.0]);
}

#[test]
fn states_without_a_time_are_told_apart_by_what_stands_deep_in_a_list() {
    let (dir, root) = place();
    let apps = |other: u32| {
        let of = |n: u32| format!(r#"{{"name":"n{n}","cpu_pct":{}}}"#, if n == 10 { other } else { n });
        let apps = (0..21).map(of).collect::<Vec<_>>().join(",");
        format!(r#"{{"deviceId":"cb49c27f-7f97-49c5-b6f3-f7c01ead0fd1","cpuPctByApp":[{apps}]}}"#)
    };
    let file = dir.path().join("states.ndjson");
    put(&file, [apps(1), apps(2)].join("\n").as_bytes());
    for new in ["2 new states, 0 unchanged", "0 new states, 2 unchanged"] {
        let (code, said) = run(import(&root).args(["--collected-at", "2026-11-26T00:00:00Z"]).arg(&file));
        assert!(code == Some(3) && said.contains(new), "{said}");
    }
}

#[test]
fn states_without_a_readable_time_do_not_replace_each_other() {
    let (dir, root) = place();
    let device = "cb49c27f-7f97-49c5-b6f3-f7c01ead0fd1";
    let lines = (21..26).map(|day| format!("{{\"deviceId\":\"{device}\",\"timestamp\":\"2026-11-{day} soon\"}}\n"));
    let file = dir.path().join("states.ndjson");
    put(&file, lines.collect::<String>().as_bytes());
    let at = ["--collected-at", "2026-11-26T00:00:00Z"];
    for new in ["5 new states, 0 unchanged", "0 new states, 5 unchanged"] {
        let (code, said) = run(import(&root).args(at).arg(&file));
        assert_eq!(code, Some(3), "{said}");
        let told = format!("5 states have no time that can be read, the first is {}:1: ", file.display());
        assert!(said.contains(new) && said.contains(&told), "{said}");
    }
}

#[test]
fn a_body_of_two_devices_or_times_is_no_state_and_is_kept() {
    // In whatever order they stand, and also where there is no time.
    let odd = [
        r#"{"deviceId":"b","timestamp":"2026-10-01T01:00:00Z","cpuPct":1,"deviceId":"d"}"#,
        r#"{"deviceId":"c","timestamp":"2026-10-01T01:00:00Z","cpuPct":2,"timestamp":"2026-10-02T01:00:00Z"}"#,
        r#"{"deviceId":"c","timestamp":"2026-10-01T01:00:00Z","cpuPct":3,"timestamp":null}"#,
        r#"{"deviceId":"b","deviceId":"d","timestamp":"2026-10-01T01:00:00Z"}"#,
        r#"{"timestamp":"2026-10-01T01:00:00Z","timestamp":"2026-10-02T01:00:00Z","deviceId":"c"}"#,
        r#"{"deviceId":"b","cpuPct":1,"deviceId":"d"}"#,
        r#"{"timestamp":"2026-10-01T00:30:00Z","cpuPct":4,"deviceId" : "a"}"#,
        r#"{"new":{"deviceId":"z","timestamp":"2026-10-03T00:00:00Z"},"deviceId":"a","timestamp":1790816400000}"#,
        r#"{"deviceId":"a","timestamp":"2026-10-01T02:00:00Z","cpuPct":"#,
    ];
    let lines = large(odd.iter().map(|line| (*line).to_owned()));
    let mut found = Vec::new();
    for by_pipe in [false, true] {
        let (dir, root) = place();
        let file = dir.path().join("states.ndjson");
        put(&file, &lines);
        // There are rows behind all of them.
        let last = dir.path().join("last.ndjson");
        let behind = |day| format!(r#"{{"deviceId":"z","timestamp":"2026-10-0{day}T00:00:00Z"}}{}"#, "\n");
        put(&last, [1, 2, 4].map(behind).concat().as_bytes());
        assert_eq!(run(import(&root).arg(&last)).0, Some(0));
        let mut import = import(&root);
        let import = import.args(["--collected-at", "2026-10-04T00:00:00Z"]);
        let (code, said) = if by_pipe {
            run(import.arg("-").stdin(Stdio::from(std::fs::File::open(&file).expect("a file"))))
        } else {
            run(import.arg(&file))
        };
        assert_eq!(code, Some(3), "{said}");
        assert!(said.contains("9 values, 9 bodies: 2 new states, 0 unchanged, 7 quarantined"), "{said}");
        let (code, said) = run(program().arg("--archive").arg(&root).args(["verify", "--deep"]));
        assert_eq!(code, Some(0), "{said}");
        let kept = std::fs::read_dir(root.join("_archive/quarantine")).expect("a folder");
        let kept = kept.map(|entry| std::fs::read_to_string(entry.expect("an entry").path()).expect("a text"));
        assert_eq!(kept.collect::<String>().matches("its device or its time stands twice").count(), 6);
        let states: Vec<String> = rows(&root, &Schema::device_state()).iter().map(device_and_time).collect();
        found.push(states);
    }
    assert_eq!(found[0], found[1], "of a file as of a pipe");
    let expect = [
        "a Some(2026-10-01T00:30:00)",
        "a Some(2026-10-01T01:00:00)",
        "z Some(2026-10-01T00:00:00)",
        "z Some(2026-10-02T00:00:00)",
        "z Some(2026-10-04T00:00:00)",
    ];
    assert_eq!(found[0], expect);
}

#[test]
fn a_file_that_cannot_be_published_is_journalled_and_published_later() {
    let (dir, root) = place();
    let file = dir.path().join("states.ndjson");
    put(&file, &large((0..700).map(state)));
    run(import(&root).arg("/dev/null"));
    // Where the day belongs, something stands in the way.
    let in_the_way = root.join("device_state");
    put(&in_the_way, b"");
    let (code, said) = run(import(&root).arg(&file));
    assert_eq!(code, Some(1), "{said}");
    std::fs::remove_file(&file).expect("a file");
    std::fs::remove_file(&in_the_way).expect("a file");
    let (code, said) = run(import(&root).arg("/dev/null"));
    assert_eq!((code, rows(&root, &Schema::device_state()).len()), (Some(0), 700), "{said}");
}

#[test]
fn only_what_could_not_be_published_of_a_file_is_journalled() {
    let (dir, root) = place();
    let file = dir.path().join("states.ndjson");
    let of_day = |n: u32| state(n).replace("2026-10-01", if n.is_multiple_of(2) { "2026-10-01" } else { "2026-10-02" });
    put(&file, &large((0..10).map(of_day).chain(["no JSON".to_owned()])));
    run(import(&root).arg("/dev/null"));
    let in_the_way = root.join("device_state/date=2026-10-02");
    std::fs::create_dir_all(in_the_way.parent().expect("a folder")).expect("a folder");
    put(&in_the_way, b"");
    let (code, said) = run(import(&root).arg(&file));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("5 new states, 0 unchanged, 1 quarantined"), "{said}");
    std::fs::remove_file(&in_the_way).expect("a file");
    let (code, said) = run(import(&root).arg("/dev/null"));
    assert_eq!((code, rows(&root, &Schema::device_state()).len()), (Some(0), 10), "{said}");
    let quarantine = std::fs::read_dir(root.join("_archive/quarantine")).expect("a folder").count();
    assert_eq!(quarantine, 2, "the line and its report");
}

#[test]
fn what_was_taken_of_a_file_outlives_a_fault_of_the_next() {
    let (dir, root) = place();
    let (file, cut) = (dir.path().join("states.ndjson"), dir.path().join("cut.ndjson.gz"));
    put(&file, &large((0..300).map(state)));
    put(&cut, b"\x1f\x8bno gzip");
    let (code, said) = run(import(&root).arg(&file).arg(&cut));
    assert_eq!(code, Some(1), "{said}");
    std::fs::remove_file(&file).expect("a file");
    let (code, said) = run(import(&root).arg("/dev/null"));
    assert_eq!((code, rows(&root, &Schema::device_state()).len()), (Some(0), 300), "{said}");
}

#[test]
fn a_file_that_is_changed_meanwhile_costs_no_other() {
    let (dir, root) = place();
    let files = ["one.ndjson", "two.ndjson"].map(|name| dir.path().join(name));
    for (file, first) in files.iter().zip([0, 300]) {
        put(file, &large((first..first + 300).map(state)));
    }
    let mut importing = import(&root);
    let importing = importing.args(&files).arg("-").stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut importing = importing.spawn().expect("the program starts");
    let mut input = importing.stdin.take().expect("a pipe");
    writeln!(input, "{}", state(900)).expect("a pipe");
    // What comes by the pipe is read last.
    wait_for_the_journal(&root);
    put(&files[0], &large((0..300).map(|n| state(n).replace("cpuPct", "cpuPkt"))));
    drop(input);
    let output = importing.wait_with_output().expect("a process");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("one.ndjson was changed while") && !said.contains("two.ndjson"), "{said}");
    assert_eq!(rows(&root, &Schema::device_state()).len(), 301, "{said}");
}

#[test]
fn a_file_that_cannot_be_read_costs_no_other_and_the_last_of_two_says_what_counts() {
    let (dir, root) = place();
    let paths = ["a.ndjson.gz", "b.ndjson.gz", "c.ndjson", "d.ndjson"].map(|name| dir.path().join(name));
    put(&paths[0], b"\x1f\x8bno gzip");
    put(&paths[1], b"");
    // The first is read where it lies, the second is journalled.
    put(&paths[2], &large(std::iter::once(state(1))));
    put(&paths[3], state(1).replace(":1}", ":99}").as_bytes());
    std::os::unix::fs::symlink("nowhere", dir.path().join("e.ndjson")).expect("a link");
    let (code, said) = run(import(&root).arg(dir.path()));
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("a.ndjson.gz")
            && said.contains("e.ndjson")
            && !said.contains("b.ndjson.gz")
            && said.contains("2 bodies: 1 new"),
        "{said}"
    );
    let rows = rows(&root, &Schema::device_state());
    let [(batch, row)] = &rows[..] else { panic!("one state: {said}") };
    let cpu = batch.column_by_name("cpu_pct").expect("a column").as_primitive::<arrow_array::types::Float64Type>();
    assert_eq!(cpu.value(*row).to_bits(), 99.0_f64.to_bits(), "of two files the later one counts");
}

#[test]
fn what_several_names_lead_to_is_taken_once() {
    let (dir, root) = place();
    let logs = dir.path().join("logs");
    std::fs::create_dir(&logs).expect("a folder");
    // Without a time, one that is read twice would be two.
    put(&logs.join("a.ndjson"), br#"{"deviceId":"cb49c27f-7f97-49c5-b6f3-f7c01ead0fd7"}"#);
    std::os::unix::fs::symlink("a.ndjson", logs.join("latest")).expect("a link");
    std::os::unix::fs::symlink(".", logs.join("here")).expect("a link");
    let (code, said) = run(import(&root).arg(&logs));
    assert!(code == Some(3) && said.contains("1 bodies: 1 new states"), "{said}");
}

#[test]
fn an_object_that_only_looks_like_an_envelope_is_kept() {
    let (dir, root) = place();
    let file = dir.path().join("states.ndjson");
    put(&file, b"{\"success\":true,\"devices\":[{\"x\":1}]}\n{\"success\":true,\"result\":null}\n");
    let (code, said) = run(import(&root).arg(&file));
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("2 values, 1 bodies: 0 new states, 0 unchanged, 1 quarantined"), "{said}");
}

fn device_and_time((batch, row): &(RecordBatch, usize)) -> String {
    let column = |name: &str| batch.column_by_name(name).expect("a column");
    let time = column("timestamp").as_primitive::<TimestampMicrosecondType>();
    let time = time.is_valid(*row).then(|| time.value_as_datetime(*row)).flatten();
    format!("{} {time:?}", column("device_id").as_string::<i32>().value(*row))
}

fn import(root: &Path) -> Command {
    let mut command = program();
    command.arg("--archive").arg(root).args(["import", "--account", ACCOUNT]);
    command
}

fn state(n: u32) -> String {
    let device = format!("cb49c27f-7f97-49c5-b6f3-f7c01e{n:06}");
    format!(r#"{{"deviceId":"{device}","timestamp":"2026-10-01T01:00:00Z","cpuPct":{n}}}"#)
}

/// Lines of a file that is so large that it is read where it lies.
fn large(lines: impl Iterator<Item = String>) -> Vec<u8> {
    let blank = [vec![b' '; 1 << 20], vec![b'\n']].concat();
    [lines.map(|line| line + "\n").collect::<String>().into_bytes(), blank.repeat(17)].concat()
}

/// Until something is journalled.
fn wait_for_the_journal(root: &Path) {
    let journal = root.join("_archive/journal/shard-0");
    let written =
        || std::fs::read_dir(&journal).into_iter().flatten().any(|entry| size(&entry.expect("an entry").path()) > 100);
    let start = std::time::Instant::now();
    while !written() && start.elapsed() < Duration::from_mins(1) {
        std::thread::yield_now();
    }
}

fn size(path: &Path) -> u64 {
    path.metadata().map_or(0, |metadata| metadata.len())
}

#[expect(clippy::disallowed_methods, reason = "a test makes files")]
fn put(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("room on the disk");
}
