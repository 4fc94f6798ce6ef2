//! Files into the archive: what was read is there, however the reading ended.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

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
    assert!(said.contains("cannot read ") && said.contains("cut.ndjson.gz"), "{said}");
    // What was read is published by the next start, and the half line is told.
    let rest = dir.path().join("rest.ndjson");
    put(&rest, state(5_000).as_bytes());
    let (code, said) = run(import(&root).arg(&rest));
    assert_eq!(code, Some(3), "{said}");
    let count = rows(&root, &Schema::device_state()).len();
    assert!(count > 600, "{count} of about a thousand");
    let quarantine = std::fs::read_dir(root.join("_archive/quarantine")).expect("a folder").count();
    assert_eq!(quarantine, 2, "the half line and its report");
}

#[test]
fn what_comes_slowly_is_durable_all_the_same() {
    let (_dir, root) = place();
    let mut importing = import(&root).arg("-").stdin(Stdio::piped()).spawn().expect("the program starts");
    let mut input = importing.stdin.take().expect("a pipe");
    writeln!(input, "{}", state(1)).expect("a pipe");
    let journal = root.join("_archive/journal/shard-0");
    let written =
        || std::fs::read_dir(&journal).into_iter().flatten().any(|entry| size(&entry.expect("an entry").path()) > 100);
    let start = std::time::Instant::now();
    while !written() && start.elapsed() < Duration::from_mins(1) {
        std::thread::yield_now();
    }
    importing.kill().expect("a process");
    importing.wait().expect("a process");
    drop(input);
    let (code, said) = run(import(&root).arg("/dev/null"));
    assert_eq!((code, rows(&root, &Schema::device_state()).len()), (Some(0), 1), "{said}");
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
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains(new), "{said}");
    }
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

fn import(root: &Path) -> Command {
    let mut command = program();
    command.arg("--archive").arg(root).args(["import", "--account", ACCOUNT]);
    command
}

fn state(n: u32) -> String {
    let device = format!("cb49c27f-7f97-49c5-b6f3-f7c01e{n:06}");
    format!(r#"{{"deviceId":"{device}","timestamp":"2026-10-01T01:00:00Z","cpuPct":{n}}}"#)
}

fn size(path: &Path) -> u64 {
    path.metadata().map_or(0, |metadata| metadata.len())
}

#[expect(clippy::disallowed_methods, reason = "a test makes files")]
fn put(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("room on the disk");
}
