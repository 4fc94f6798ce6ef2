//! What happens to an archive whose files are damaged: every kind of damage, in every place, before
//! everything that can come next. Reading survives, the file is named, and nothing is deleted.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use dex_archive::archive::{Archive, Part, Shards};
use dex_archive::disk::Disk;
use dex_archive::ingest::Ingest;
use dex_archive::privacy::Policy;
use dex_archive::schema::Schema;
use dex_archive::snapshot::{AccountId, Answer, Body, Source};

use crate::program::{ACCOUNT, Api, figure, program, quick_dir};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Truncated,
    BitFlipped,
    Emptied,
    Deleted,
    Foreign,
    Unreadable,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Journal,
    Day,
    Description,
    Staging,
    Lock,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Collect,
    Import,
    Query,
    Verify,
}

const KINDS: [Kind; 6] =
    [Kind::Truncated, Kind::BitFlipped, Kind::Emptied, Kind::Deleted, Kind::Foreign, Kind::Unreadable];
const PLACES: [Place; 5] = [Place::Journal, Place::Day, Place::Description, Place::Staging, Place::Lock];
const NEXT: [Next; 4] = [Next::Collect, Next::Import, Next::Query, Next::Verify];

/// The day of the states in the bench's archive, and a device that has some.
const DAY: &str = "2026-10-01";
const DEVICE: &str = "cb49c27f-7f97-49c5-b6f3-f7c01ead0fd1";

#[test]
fn no_damage_goes_unnoticed_or_costs_more_than_it_hit() {
    let bench = Bench::new();
    let mut cells = 0;
    for place in PLACES {
        for kind in KINDS {
            for next in NEXT {
                Cell { bench: &bench, place, kind, next }.check();
                cells += 1;
            }
        }
    }
    figure(
        "damage",
        &format!("{cells} cells: {} kinds, {} places, {} next steps", KINDS.len(), PLACES.len(), NEXT.len()),
    );
}

/// An archive to damage copies of: a published day, a segment of the journal, something in staging.
struct Bench {
    dir: tempfile::TempDir,
    api: Api,
    /// Who the program runs as: root can read everything.
    nobody: bool,
}

struct Cell<'a> {
    bench: &'a Bench,
    place: Place,
    kind: Kind,
    next: Next,
}

impl Bench {
    fn new() -> Self {
        let dir = quick_dir();
        let nobody = fs::metadata(dir.path()).expect("a folder").uid() == 0;
        fs::copy(program().get_program(), dir.path().join("program")).expect("room on the disk");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("our own folder");
        let root = dir.path().join("template");
        let at = dex_archive::clock::parse_timestamp("2026-10-02T00:00:00Z").expect("a timestamp");
        let archive = Archive::open_or_create(&root, 1, at, Disk::default()).expect("an archive");
        let (mut ingest, _) = Ingest::open(archive, Shards::All, "test", Policy::default()).expect("the shard");
        for hour in 0..12 {
            ingest.append(answer(hour)).expect("room on the disk");
        }
        assert_eq!(ingest.publish().expect("a journal").held, []);
        for hour in 12..15 {
            ingest.append(answer(hour)).expect("room on the disk");
        }
        ingest.sync().expect("a disk");
        drop(ingest);
        let staged = root.join("_archive/staging/shard-0/device_state.date=2026-10-01");
        fs::create_dir_all(&staged).expect("a folder");
        fs::copy(part(&root), staged.join("part-0-000009.parquet")).expect("room on the disk");
        let api = Api::start(3, Duration::from_secs(2), |options| options);
        Self { dir, api, nobody }
    }

    /// The program as the user that owns the archive.
    fn program(&self, given: &Command) -> Command {
        let mut command = Command::new(self.dir.path().join("program"));
        command.args(given.get_args());
        command.envs(given.get_envs().filter_map(|(name, value)| Some((name, value?))));
        if self.nobody {
            command.uid(65_534).gid(65_534);
        }
        command
    }
}

impl Cell<'_> {
    fn check(&self) {
        let dir = tempfile::tempdir_in(self.bench.dir.path()).expect("a folder");
        let root = dir.path().join("archive");
        copy(&self.bench.dir.path().join("template"), &root);
        let (subject, before) = self.damage(&root);
        own(dir.path(), self.bench.nobody);
        let (code, said) = self.run(&root);
        let when = format!("{:?} {:?}, then {:?}: exit {code}: {said}", self.place, self.kind, self.next);
        assert!(self.codes().contains(&code), "{when}");
        if code != 0 {
            let name = subject.file_name().expect("a name").to_string_lossy();
            let day =
                self.kind == Kind::Deleted && said.contains(&format!("date={DAY} ")) && said.contains("has no part");
            assert!(day || said.contains(&*name) || said.contains("quarantine"), "it is not named. {when}");
        }
        assert!(!said.contains("panicked"), "{when}");
        self.heal(&root, &subject);
        let (code, said) = self.import(&root);
        assert!(matches!(code, 0 | 3), "{when} and in the end exit {code}: {said}");
        self.assert_nothing_deleted(&root, &before, &when);
    }

    /// Damages one file; says which, and what it held.
    fn damage(&self, root: &Path) -> (PathBuf, Vec<u8>) {
        let subject = match self.place {
            Place::Journal => root.join("_archive/journal/shard-0/0000000002.journal"),
            Place::Day => part(root),
            Place::Description => root.join("_archive/archive.json"),
            Place::Staging => root.join("_archive/staging/shard-0/device_state.date=2026-10-01/part-0-000009.parquet"),
            Place::Lock => root.join("_archive/shard-0.lock"),
        };
        let before = fs::read(&subject).expect("a file");
        match self.kind {
            Kind::Truncated => put(&subject, &before[..before.len() * 2 / 3]),
            Kind::BitFlipped => {
                let mut bent = before.clone();
                let middle = bent.len() / 2;
                bent.get_mut(middle).into_iter().for_each(|byte| *byte ^= 0x10);
                put(&subject, &bent);
            }
            Kind::Emptied => put(&subject, b""),
            Kind::Deleted => fs::remove_file(&subject).expect("a file"),
            Kind::Foreign => {
                // In staging, beside the day's folder; elsewhere, beside the file.
                let beside = if self.place == Place::Staging { subject.parent().expect("a folder") } else { &*subject };
                let foreign = beside.with_file_name("notes.txt");
                put(&foreign, b"not ours");
                return (foreign, before);
            }
            Kind::Unreadable => {
                fs::set_permissions(&subject, fs::Permissions::from_mode(0o0)).expect("a file");
            }
        }
        (subject, before)
    }

    /// How the next step may end.
    #[expect(clippy::match_same_arms, reason = "read place by place")]
    fn codes(&self) -> &'static [i32] {
        use {Kind as K, Next as N, Place as P};
        match (self.place, self.kind, self.next) {
            // Nobody reads the journal for a query.
            (P::Journal, _, N::Query) => &[0],
            (P::Journal, K::Truncated | K::BitFlipped, _) => &[3],
            (P::Journal, K::Unreadable, N::Collect | N::Import) => &[1],
            (P::Journal, K::Unreadable, N::Verify) => &[3],
            // An empty segment is what a crash leaves that came before the first byte.
            (P::Journal, ..) => &[0],
            (P::Day, K::Truncated | K::Emptied | K::Unreadable, N::Query) => &[1],
            // A bit in what the question does not touch.
            (P::Day, K::BitFlipped, N::Query) => &[0, 1],
            (P::Day, K::Deleted, N::Query) => &[1],
            (P::Day, K::Foreign, N::Query) => &[0],
            (P::Day, _, N::Verify) => &[3],
            (P::Day, K::Unreadable, _) => &[1],
            (P::Day, K::Truncated | K::Emptied | K::BitFlipped, _) => &[3],
            (P::Day, ..) => &[0],
            (P::Description, K::Foreign, _) => &[0],
            (P::Description, K::BitFlipped, _) => &[0, 1],
            (P::Description, ..) => &[1],
            (P::Staging, ..) => &[0],
            (P::Lock, K::Unreadable, N::Collect | N::Import) => &[1],
            (P::Lock, ..) => &[0],
        }
    }

    fn run(&self, root: &Path) -> (i32, String) {
        match self.next {
            Next::Collect => run(&mut self.bench.program(&self.bench.api.collect(root))),
            Next::Import => self.import(root),
            Next::Query => {
                self.ask(root, &["query", "trend", "--device", DEVICE, "--since", DAY, "--until", "2026-10-02"])
            }
            Next::Verify => self.ask(root, &["verify"]),
        }
    }

    /// One late state of the day, which makes it be published anew.
    fn import(&self, root: &Path) -> (i32, String) {
        let late = root.with_file_name("late.ndjson");
        put(&late, body(20).as_bytes());
        own(&late, self.bench.nobody);
        let late = late.display().to_string();
        self.ask(root, &["import", "--account", ACCOUNT, &late])
    }

    fn ask(&self, root: &Path, args: &[&str]) -> (i32, String) {
        let mut given = program();
        given.arg("--archive").arg(root).args(args);
        run(&mut self.bench.program(&given))
    }

    /// What the one in charge does in the end: gives the rights back, or the description.
    fn heal(&self, root: &Path, subject: &Path) {
        // What is left in staging may be cleared away unread.
        if self.kind == Kind::Unreadable && subject.exists() {
            fs::set_permissions(subject, fs::Permissions::from_mode(0o600)).expect("a file");
        }
        if self.place == Place::Description && self.kind != Kind::Foreign {
            put(&root.join("_archive/archive.json"), b"{\"format\":1,\"shards\":1}");
            own(root, self.bench.nobody);
        }
    }

    /// Every state that the damage did not hit is there once; what it hit is kept as it was found.
    fn assert_nothing_deleted(&self, root: &Path, before: &[u8], when: &str) {
        let rows = hours(root);
        let distinct: BTreeSet<_> = rows.iter().copied().collect();
        assert_eq!(rows.len(), distinct.len(), "there twice: {rows:?}. {when}");
        let lost = matches!(self.kind, Kind::Emptied | Kind::Deleted);
        let expected: Vec<u32> = match (self.place, self.kind) {
            (Place::Journal, Kind::Truncated | Kind::BitFlipped) => (0..12).collect(),
            (Place::Journal, _) if lost => (0..12).collect(),
            (Place::Day, Kind::Truncated | Kind::BitFlipped) => (12..15).collect(),
            (Place::Day, _) if lost => (12..15).collect(),
            _ => (0..15).collect(),
        };
        let missing: Vec<_> = expected.iter().chain([&20]).filter(|hour| !distinct.contains(hour)).collect();
        assert!(missing.is_empty(), "lost: {missing:?}. {when}");
        let kept = quarantined(root);
        if matches!((self.place, self.kind), (Place::Day, Kind::Truncated | Kind::BitFlipped)) {
            assert!(kept.iter().any(|file| is_like(file, before)), "the damaged part is not kept. {when}");
        }
        if matches!((self.place, self.kind), (Place::Journal, Kind::Truncated | Kind::BitFlipped)) {
            assert!(
                kept.iter().any(|file| before.windows(file.len().max(1)).any(|bytes| differs_in_a_bit(bytes, file))),
                "the gap is not kept. {when}"
            );
        }
        if self.kind == Kind::Foreign {
            let everywhere = files(root).into_iter().chain(kept);
            assert!(everywhere.into_iter().any(|file| file == b"not ours"), "somebody else's file is gone. {when}");
        }
    }
}

fn is_like(file: &[u8], before: &[u8]) -> bool {
    before.starts_with(file) && !file.is_empty() || differs_in_a_bit(before, file)
}

fn differs_in_a_bit(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).map(|(a, b)| (a ^ b).count_ones()).sum::<u32>() <= 1
}

fn body(hour: u32) -> String {
    format!(r#"{{"deviceId":"{DEVICE}","timestamp":"{DAY}T{hour:02}:00:00Z","cpuPct":{hour},"status":"connected"}}"#)
}

fn answer(hour: u32) -> Answer {
    Answer {
        account_id: AccountId::parse(ACCOUNT).expect("an account"),
        sweep_id: format!("sweep-{hour}"),
        source: Source::Live,
        collected_at: dex_archive::clock::parse_timestamp("2026-10-02T00:00:00Z").expect("a timestamp"),
        bodies: vec![Body::new(&body(hour))],
        poll: None,
    }
}

/// The part of the bench's day.
fn part(root: &Path) -> PathBuf {
    let day = root.join("device_state").join(format!("date={DAY}"));
    let mut parts = fs::read_dir(day).expect("a folder").map(|part| part.expect("an entry").path());
    parts.find(|path| path.extension().is_some_and(|kind| kind == "parquet")).expect("a part")
}

/// The hours of the day of which a state is in the archive.
fn hours(root: &Path) -> Vec<u32> {
    use arrow_array::cast::AsArray;
    use arrow_array::types::Float64Type;
    let part = Part::open(&part(root), &Schema::device_state()).expect("a part");
    let mut hours = Vec::new();
    for batch in part.batches(None) {
        let batch = batch.expect("a batch");
        let cpu = batch.column_by_name("cpu_pct").expect("a column").as_primitive::<Float64Type>();
        hours.extend(cpu.values().iter().map(|hour| format!("{hour}").parse::<u32>().expect("an hour")));
    }
    hours
}

fn quarantined(root: &Path) -> Vec<Vec<u8>> {
    files(&root.join("_archive/quarantine"))
}

fn files(dir: &Path) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.expect("an entry").path();
        if path.is_dir() { found.extend(files(&path)) } else { found.extend(fs::read(&path)) }
    }
    found
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let to = to.join(path.file_name().expect("a name"));
        if path.is_dir() { copy(&path, &to) } else { assert!(fs::copy(&path, &to).is_ok(), "no room on the disk") }
    }
}

/// Gives everything to the user that the program runs as.
fn own(path: &Path, nobody: bool) {
    if !nobody {
        return;
    }
    chown(path, Some(65_534), Some(65_534)).expect("root may");
    for entry in fs::read_dir(path).into_iter().flatten() {
        own(&entry.expect("an entry").path(), nobody);
    }
}

fn run(command: &mut Command) -> (i32, String) {
    let output = command.output().expect("the program starts");
    let said = [output.stderr, output.stdout].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&said).into_owned())
}

#[expect(clippy::disallowed_methods, reason = "a test damages files")]
fn put(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).expect("room on the disk");
}
