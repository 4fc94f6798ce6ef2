//! Whatever comes in from outside, bent in every way: no panic, and no more memory than the input gives
//! reason for. A binary of its own, since the memory is counted for the whole process.
//!
//! Inputs are good ones with mutations that keep the random parser-breaker in reach of the depths: flipped
//! bits, cuts, repetitions, splices, and tokens that parsers trip over.

use std::fs;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use dex_archive::config::ConfigFile;
use dex_archive::envelope;
use dex_archive::flatten::{Columns, Plan, Row};
use dex_archive::journal::{Item, Segment, Writer};
use dex_archive::privacy::{Key, Policy, Rules};
use dex_archive::schema::Schema;
use dex_archive::sim::{Fleet, FleetOptions, Shape, dump};
use dex_archive::snapshot::{AccountId, Answer, Body, Source};
use dex_archive::{clock, disk::Disk};
use peak_alloc::PeakAlloc;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const ACCOUNT: &str = "01a7362d577a6c3019a474fd6f485823";

/// Bytes of memory that a byte of input may take, and those that any input may.
const GROWTH: usize = 64;
const BASE: usize = 4 << 20;

/// Inputs for each target.
const CASES: u32 = 10_000;

/// Tokens that parsers trip over.
const TOKENS: [&[u8]; 16] = [
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b"\\u0000",
    b"\\ud800",
    b"1e999",
    b"-0",
    b"99999999999999999999",
    b"null",
    b"\xF5dxF",
    b"\x00",
    b"\xFF\xFF\xFF\xFF",
    b"= [[",
    b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
];

#[derive(Debug, Clone)]
enum Mutation {
    Flip(Index, u8),
    Cut(Index),
    Drop(Index, usize),
    Repeat(Index, usize, usize),
    Insert(Index, usize),
    Splice(Index, Index, usize),
}

fn mutations() -> impl Strategy<Value = Vec<Mutation>> {
    let at = any::<Index>;
    let mutation = prop_oneof![
        (at(), 0..8_u8).prop_map(|(at, bit)| Mutation::Flip(at, bit)),
        at().prop_map(Mutation::Cut),
        (at(), 1..40_usize).prop_map(|(at, length)| Mutation::Drop(at, length)),
        (at(), 1..40_usize, 1..200_usize).prop_map(|(at, length, times)| Mutation::Repeat(at, length, times)),
        (at(), 0..TOKENS.len()).prop_map(|(at, token)| Mutation::Insert(at, token)),
        (at(), at(), 1..200_usize).prop_map(|(from, to, length)| Mutation::Splice(from, to, length)),
    ];
    vec(mutation, 0..6)
}

fn mutate(input: &[u8], mutations: &[Mutation]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for mutation in mutations {
        let length = bytes.len();
        let place = |at: &Index| if length == 0 { 0 } else { at.index(length) };
        let piece = |at: &Index, size: usize| place(at)..(place(at) + size).min(length);
        match mutation {
            Mutation::Flip(at, bit) => bytes.get_mut(place(at)).into_iter().for_each(|byte| *byte ^= 1 << bit),
            Mutation::Cut(at) => bytes.truncate(place(at)),
            Mutation::Drop(at, size) => drop(bytes.drain(piece(at, *size))),
            Mutation::Repeat(at, size, times) => {
                let repeated = bytes[piece(at, *size)].repeat(*times);
                bytes.splice(place(at)..place(at), repeated);
            }
            Mutation::Insert(at, token) => drop(bytes.splice(place(at)..place(at), TOKENS[*token].iter().copied())),
            Mutation::Splice(from, to, size) => {
                let copied = bytes[piece(from, *size)].to_vec();
                bytes.splice(place(to)..place(to), copied);
            }
        }
    }
    bytes
}

/// Inputs that once failed: files below `tests/data/fuzz`, in a folder for each target.
fn regressions(name: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/fuzz").join(name.replace(' ', "-"));
    let entries = fs::read_dir(dir).into_iter().flatten();
    entries.map(|entry| fs::read(entry.expect("an entry").path()).expect("a file")).collect()
}

/// Feeds mutations of a good input to a target, and counts the memory that it takes.
fn fuzz(name: &str, seeds: &[Vec<u8>], target: impl Fn(&[u8])) {
    let _alone = alone();
    let config = ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() };
    regressions(name).iter().for_each(|input| target(input));
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let ran = runner.run(&(0..seeds.len(), mutations()), |(seed, mutations)| {
        let input = mutate(&seeds[seed], &mutations);
        let before = MEMORY.current_usage();
        MEMORY.reset_peak_usage();
        target(&input);
        let taken = MEMORY.peak_usage().saturating_sub(before);
        prop_assert!(taken <= BASE + GROWTH * input.len(), "{name}: {taken} bytes for {} of input", input.len());
        Ok(())
    });
    ran.unwrap_or_else(|error| panic!("{name}: {error}"));
    figure(name);
}

/// One target at a time: the memory is the process's.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[expect(clippy::disallowed_methods, reason = "no file of an archive")]
fn figure(name: &str) {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("figures");
    fs::create_dir_all(&dir).expect("a folder");
    fs::write(dir.join(format!("fuzz-{name}")), format!("fuzz {name}: {CASES} cases\n")).expect("room on the disk");
}

/// Bodies in both shapes, from the simulator.
fn bodies() -> Vec<Vec<u8>> {
    let mut text = Vec::new();
    let start = clock::parse_timestamp("2026-10-01T00:00:00Z").expect("a timestamp");
    let fleet = Fleet::new(FleetOptions { devices: 6, shape: Shape::Mixed, ..FleetOptions::default() });
    dump(&fleet, start, 2, std::time::Duration::from_mins(5), &mut text).expect("memory");
    let seed = include_bytes!("../data/device-live-status.json").to_vec();
    text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec).chain([seed]).collect()
}

fn page() -> Vec<u8> {
    let bodies: Vec<String> = bodies().iter().map(|body| String::from_utf8_lossy(body).into_owned()).collect();
    format!(r#"{{"success":true,"errors":[],"messages":[],"result":[{}]}}"#, bodies.join(",")).into_bytes()
}

#[test]
fn a_body_becomes_a_row_or_an_error() {
    let plan = Plan::new(Schema::device_state());
    fuzz("body to row", &bodies(), |bytes| {
        let (mut columns, mut row) = (Columns::new(Schema::device_state()), Row::default());
        if plan.flatten(bytes, &mut row).is_ok() {
            columns.push(&row);
            assert_eq!(columns.finish().num_rows(), 1);
        }
    });
}

#[test]
fn an_answer_becomes_bodies_or_an_error() {
    let refused = br#"{"success":false,"errors":[{"code":10000,"message":"Authentication error"}],"result":null}"#;
    fuzz("answer to bodies", &[page(), refused.to_vec()], |bytes| {
        let text = String::from_utf8_lossy(bytes);
        if let Ok(envelope::Content::States(states)) = envelope::read(&text, usize::MAX) {
            states.iter().for_each(|state| drop(envelope::device_id(state)));
        }
    });
}

#[test]
fn what_the_rules_forbid_never_comes_through() {
    let rules: Rules =
        toml::from_str("unknown = \"drop\"\n[classes]\nperson = \"drop\"\nnetwork = \"pseudonym\"\napps = \"drop\"")
            .expect("rules");
    let key = Key::parse(b"sixteen letters!").expect("a key");
    let policy = Policy::new(&Schema::device_state(), &rules, Some(key)).expect("a policy");
    fuzz("rules to body", &bodies(), |bytes| drop(policy.apply(answer(bytes))));
}

#[test]
fn a_journal_becomes_frames_and_gaps() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut writer = Writer::create(&Disk::default(), dir.path(), 1).expect("a segment");
    bodies().iter().for_each(|body| writer.append(&answer(body)).expect("room on the disk"));
    let good = fs::read(writer.path()).expect("a segment");
    let bent = dir.path().join("0000000002.journal");
    fuzz("journal to frames", &[good], |bytes| {
        put(&bent, bytes);
        let Ok(segment) = Segment::read(&bent) else { return };
        let mut end = None;
        for item in segment.items() {
            if let Item::Gap { start, end: after } = item {
                assert!(start < after && end.is_none_or(|end| end <= start), "gaps are in order");
                end = Some(after);
            }
        }
    });
}

#[test]
fn a_table_becomes_a_schema_or_an_error() {
    let tables =
        [&include_bytes!("../../schemas/poll.toml")[..], &include_bytes!("../../schemas/device_state.toml")[..4_000]];
    fuzz("TOML to schema", &tables.map(<[u8]>::to_vec), |bytes| drop(Schema::parse(&String::from_utf8_lossy(bytes))));
}

#[test]
fn a_config_becomes_options_or_an_error() {
    let config = b"[archive]\npath = \"/var/lib/dex\"\nreadable_by = \"group\"\n[api]\naccount = \"01a7362d577a6c3019a474fd6f485823\"\nrate_limit = \"1200/5m\"\n\
        budget = \"80%\"\nattempts = 5\nretry_delay = \"500ms\"\ntimeout = \"30s\"\n[privacy]\nunknown = \"drop\"\n[privacy.classes]\nperson = \"drop\"\n";
    fuzz("config to options", &[config.to_vec()], |bytes| {
        let Ok(config) = toml::from_str::<ConfigFile>(&String::from_utf8_lossy(bytes)) else { return };
        drop(config.policy());
        drop(config.api.client_options(1));
    });
}

fn answer(body: &[u8]) -> Answer {
    Answer {
        account_id: AccountId::parse(ACCOUNT).expect("an account"),
        sweep_id: "s".to_owned(),
        source: Source::Import,
        collected_at: clock::parse_timestamp("2026-10-01T00:00:00Z").expect("a timestamp"),
        bodies: vec![Body { bytes: body.to_vec().into(), origin: None }],
        poll: None,
    }
}

#[expect(clippy::disallowed_methods, reason = "a test makes a file")]
fn put(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).expect("room on the disk");
}
