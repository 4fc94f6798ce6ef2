//! Archives that released versions wrote: each is kept, a tiny one, opened, and upgraded.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{Array, RecordBatch};
use dex_archive::archive::{Archive, Shards};
use dex_archive::schema::Schema;
use dex_archive::upgrade::{outdated, upgrade};

use crate::program::{place, program, run};

/// What a column of a later schema would say.
const LATER: &str = r#"
[[column]]
name = "disk_health_wear_pct"
path = "diskHealth.wearPct"
type = "int64"
role = "gauge"
since = 2
description = "Wear of the disk."

[[column]]
name = "agents"
path = "agents"
type = "list"
role = "label"
since = 2
description = "Agents that run."

[[column.field]]
name = "name"
type = "string"
description = "Name."

[[column.field]]
name = "version"
type = "string"
description = "Version."
"#;

#[test]
fn an_archive_of_each_released_version_is_read_and_upgraded() {
    for release in releases() {
        let (_dir, archive) = copy(&release);
        let trend = || {
            let window = ["--fleet", "--since", "2026-10-01", "--until", "2026-10-02", "--every", "6h"];
            let mut command = program();
            run(command.arg("--archive").arg(&archive).args(["query", "trend", "--format", "csv"]).args(window))
        };
        let said = |args: &[&str]| run(program().arg("--archive").arg(&archive).args(args));
        let (code, before) = trend();
        assert_eq!(code, Some(0), "{before}");
        assert_eq!(said(&["verify", "--deep", "-q"]).0, Some(0), "{}", release.display());
        let (_, planned) = said(&["upgrade", "--dry-run"]);
        assert!(planned.contains("1 parts, 32 rows of an older version"), "{planned}");
        let (code, told) = said(&["upgrade"]);
        assert_eq!(code, Some(0), "{told}");
        assert!(told.contains("1 parts, 32 rows"), "{told}");
        assert_eq!(trend().1, before, "the same answers");
        assert_eq!(said(&["verify", "--deep", "-q"]).0, Some(0));
        assert!(said(&["upgrade"]).1.contains("0 parts, 0 rows of an older version"));
    }
}

#[test]
fn what_waited_in_unmapped_finds_its_column_in_a_later_schema() {
    let table = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/device_state.toml"));
    let later = Arc::new(Schema::parse(&(table.expect("the table") + LATER)).expect("a schema"));
    for release in releases() {
        let (_dir, root) = copy(&release);
        let archive = Archive::open(&root).expect("an archive");
        let locks = archive.lock_shards(Shards::All, "test").expect("the lock");
        let before = rows(&archive, &later);
        let (parts, _) = outdated(&archive, &later).expect("an archive");
        assert_eq!(parts.iter().map(|part| part.rows).sum::<u64>(), 32);
        let values: u64 = parts
            .iter()
            .map(|part| upgrade(&archive, &locks, &later, part).expect("room on the disk").expect("a part").values)
            .sum();
        assert_eq!(values, 64, "two for each row");
        let after = rows(&archive, &later);
        let column = |batch: &RecordBatch, name: &str| Arc::clone(batch.column_by_name(name).expect("a column"));
        for field in Schema::device_state().arrow().fields().iter().filter(|field| field.name() != "unmapped") {
            assert_eq!(&column(&before, field.name()), &column(&after, field.name()), "{}", field.name());
        }
        for name in ["disk_health_wear_pct", "agents"] {
            assert_eq!((column(&before, name).null_count(), column(&after, name).null_count()), (32, 0), "{name}");
        }
        let unmapped = format!("{:?}", column(&after, "unmapped"));
        assert!(unmapped.contains("diskHealth.vendor") && !unmapped.contains("wearPct"), "the rest stays: {unmapped}");
        assert_eq!(outdated(&archive, &later).expect("an archive").0, []);
    }
}

fn releases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/archives");
    let releases: Vec<_> =
        fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    assert!(!releases.is_empty());
    releases
}

fn copy(release: &Path) -> (tempfile::TempDir, PathBuf) {
    let (dir, archive) = place();
    let mut folders = vec![(release.to_owned(), archive.clone())];
    while let Some((from, to)) = folders.pop() {
        fs::create_dir_all(&to).expect("room on the disk");
        for entry in fs::read_dir(&from).expect("a folder") {
            let (path, to) = entry.map(|entry| (entry.path(), to.join(entry.file_name()))).expect("an entry");
            if path.is_dir() {
                folders.push((path, to));
                continue;
            }
            fs::copy(&path, &to).expect("room on the disk");
        }
    }
    (dir, archive)
}

/// All rows, by the schema.
fn rows(archive: &Archive, schema: &Schema) -> RecordBatch {
    let partition = archive.partitions(schema).expect("a folder").remove(0);
    let (_, path) = archive.parts(&partition).expect("a folder").remove(0);
    let part = archive.hold(&path).and_then(|file| file.part(schema)).expect("a part");
    let mut batches = part.batches(None);
    let first = batches.next().expect("a batch").expect("a batch");
    assert!(batches.next().is_none(), "a tiny archive");
    first
}
