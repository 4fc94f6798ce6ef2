//! A disk that says no, at every change: what was journalled is not lost, what cannot be published is
//! named and tried again, and a journal that cannot be written ends the sweep.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dex_archive::api::{Budget, Client, ClientOptions, Credential, Secret};
use dex_archive::archive::{Archive, Shards};
use dex_archive::clock::Clock;
use dex_archive::collect::{CollectOptions, CollectStats, Collector, SourceChoice, stop_pair};
use dex_archive::disk::{Change, Disk, Watch};
use dex_archive::ingest::{Ingest, PublishRule};
use dex_archive::privacy::Policy;
use dex_archive::schema::Schema;
use dex_archive::snapshot::{AccountId, Answer};

use crate::collect::{archived, delivered};
use crate::crash::{answers_of, at, keys_of, state_keys};
use crate::program::{ACCOUNT, Api, Silent, figure, place, quick_dir};

/// ENOSPC, EIO, EACCES, EROFS.
const ERRORS: [i32; 4] = [28, 5, 13, 30];

/// Refuses changes while it is told to.
#[derive(Debug, Default)]
struct Refuse {
    seen: AtomicUsize,
    what: Mutex<Option<What>>,
}

#[derive(Debug, Clone, Copy)]
enum What {
    /// The changes from one number on, or that one alone.
    From { first: usize, once: bool, error: i32 },
    /// Everything but the journal, or the journal alone.
    Journal { journal: bool, error: i32 },
    /// Whatever has to do with one day.
    Day(&'static str),
}

impl Refuse {
    fn set(&self, what: Option<What>) {
        self.seen.store(0, Ordering::SeqCst);
        *self.what.lock().expect("no holder panics") = what;
    }
}

impl Watch for Refuse {
    fn before(&self, change: &Change<'_>) -> io::Result<()> {
        let number = self.seen.fetch_add(1, Ordering::SeqCst);
        let refused = match *self.what.lock().expect("no holder panics") {
            Some(What::From { first, once, error }) => (number == first || (number > first && !once)).then_some(error),
            Some(What::Journal { journal, error }) => {
                (path_of(change).contains("/journal/") == journal).then_some(error)
            }
            Some(What::Day(day)) => path_of(change).contains(day).then_some(13),
            None => None,
        };
        refused.map_or(Ok(()), |error| Err(io::Error::from_raw_os_error(error)))
    }
}

fn path_of(change: &Change<'_>) -> String {
    let path = match *change {
        Change::MakeDir(path)
        | Change::Create(path)
        | Change::Write { path, .. }
        | Change::Cut(path, _)
        | Change::Sync(path)
        | Change::SyncDir(path)
        | Change::Rename(path, _)
        | Change::Exchange(path, _)
        | Change::Link(path, _)
        | Change::Remove(path)
        | Change::RemoveDir(path) => path,
    };
    path.display().to_string()
}

#[test]
fn a_publish_that_is_refused_anywhere_is_told_and_made_up_for() {
    let steps = changes_of_a_publish();
    assert!(steps > 30, "{steps}");
    let mut refusals = 0;
    for error in ERRORS {
        for first in 0..steps {
            for once in [true, false] {
                refuse_and_make_up(What::From { first, once, error }, error);
                refusals += 1;
            }
        }
    }
    figure(
        "disk",
        &format!("{refusals} publishes refused, {} errors at each of {steps} changes, each made up for", ERRORS.len()),
    );
}

/// A day and its polls, published once, and answers of two days in the journal.
fn pending(refuse: &Arc<Refuse>) -> (tempfile::TempDir, Ingest, Vec<Answer>) {
    let dir = quick_dir();
    let disk = Disk::default().watched(Arc::<Refuse>::clone(refuse));
    let archive = Archive::open_or_create(&dir.path().join("a"), 1, at("2026-11-22T22:30:00Z"), disk);
    let archive = archive.expect("an archive").lingering(Duration::ZERO);
    let (mut ingest, _) = Ingest::open(archive, Shards::All, "test", Policy::default()).expect("the shard");
    let answers: Vec<Answer> = (0..3).flat_map(answers_of).collect();
    let (first, rest) = answers.split_at(4);
    first.iter().for_each(|answer| ingest.append(answer.clone()).expect("room on the disk"));
    assert_eq!(ingest.publish().expect("a journal").held, []);
    rest.iter().for_each(|answer| ingest.append(answer.clone()).expect("room on the disk"));
    ingest.sync().expect("a disk");
    (dir, ingest, answers)
}

fn changes_of_a_publish() -> usize {
    let refuse = Arc::new(Refuse::default());
    let (_dir, mut ingest, _) = pending(&refuse);
    refuse.set(None);
    ingest.publish().expect("a journal");
    refuse.seen.load(Ordering::SeqCst)
}

fn refuse_and_make_up(what: What, error: i32) {
    let refuse = Arc::new(Refuse::default());
    let (dir, mut ingest, answers) = pending(&refuse);
    refuse.set(Some(what));
    let published = ingest.publish().expect("the journal itself is closed already");
    for sentence in published.held.iter().map(ToString::to_string) {
        assert!(sentence.contains(&dir.path().display().to_string()), "{what:?}: no path in {sentence:?}");
        assert!(error != 28 || sentence.contains(" kB are free there"), "{what:?}: {sentence:?}");
    }
    // Where only the clearing away was refused, there is nothing to make up for.
    refuse.set(None);
    let again = ingest.publish().expect("a journal");
    assert_eq!(again.held, [], "{what:?}");
    let expected: BTreeMap<String, usize> = answers.iter().flat_map(state_keys).map(|key| (key, 1)).collect();
    assert_eq!(keys_of(&dir.path().join("a"), &Schema::device_state()), expected, "{what:?}");
    assert_eq!(keys_of(&dir.path().join("a"), &Schema::poll()).values().sum::<usize>(), answers.len(), "{what:?}");
}

#[test]
fn a_day_that_cannot_be_written_holds_up_no_other() {
    let refuse = Arc::new(Refuse::default());
    let (dir, mut ingest, answers) = pending(&refuse);
    refuse.set(Some(What::Day("device_state.date=2026-11-22")));
    let held = ingest.publish().expect("a journal").held;
    assert!(held.len() == 1 && held[0].to_string().contains("device_state.date=2026-11-22"), "{held:?}");
    let midnight = at("2026-11-23T00:00:00Z").timestamp_micros();
    let rest = &answers[4..];
    let is_later = |key: &String| key.rsplit(' ').next().is_some_and(|time| time >= &*midnight.to_string());
    let found = keys_of(&dir.path().join("a"), &Schema::device_state());
    assert!(answers.iter().flat_map(state_keys).filter(is_later).all(|key| found.contains_key(&key)), "{found:?}");
    // Nobody says that there was an answer whose states may still be lost; of the others it is said.
    let polls = || keys_of(&dir.path().join("a"), &Schema::poll()).values().sum::<usize>();
    let is_later = |answer: &Answer| state_keys(answer).iter().all(is_later);
    let list = |answer: &Answer| answer.poll.as_ref().and_then(|poll| poll.page).map(|_| answer.sweep_id.clone());
    // Of a list, nothing is said as long as one of its pages is not told.
    let is_with = |other: &Answer, answer: &Answer| list(other).is_some() && list(other) == list(answer);
    let waits =
        |answer: &&Answer| !is_later(answer) || rest.iter().any(|other| is_with(other, answer) && !is_later(other));
    let rest_told = rest.iter().filter(|answer| !waits(answer)).count();
    assert!(rest_told > 0 && rest_told < rest.len(), "{rest_told}");
    let is_told = |(at, answer): &(usize, &Answer)| *at < 4 || !waits(answer);
    let told = answers.iter().enumerate().filter(is_told).count();
    assert!(told > 4 && told < answers.len(), "{told}");
    assert_eq!(polls(), told);
    refuse.set(None);
    assert_eq!(ingest.publish().expect("a journal").held, []);
    assert_eq!(polls(), answers.len());
    let found = keys_of(&dir.path().join("a"), &Schema::device_state());
    assert!(answers.iter().flat_map(state_keys).all(|key| found.get(&key) == Some(&1)), "{found:?}");
}

#[test]
fn a_segment_that_cannot_be_read_holds_up_no_other() {
    let refuse = Arc::new(Refuse::default());
    let (dir, mut ingest, answers) = pending(&refuse);
    let folder = dir.path().join("a/_archive/journal/shard-0/0000000000.journal");
    std::fs::create_dir(&folder).expect("a folder in the place of a segment");
    let held = ingest.publish().expect("a journal").held;
    assert!(held.len() == 1 && held[0].to_string().contains("0000000000.journal"), "{held:?}");
    let found = keys_of(&dir.path().join("a"), &Schema::device_state());
    assert!(answers.iter().flat_map(state_keys).all(|key| found.contains_key(&key)), "{found:?}");
}

#[test]
fn an_answer_that_cannot_be_journalled_is_kept_in_memory_and_costs_no_other() {
    for error in ERRORS {
        for first in 0..6 {
            let refuse = Arc::new(Refuse::default());
            let (dir, mut ingest, mut answers) = pending(&refuse);
            refuse.set(Some(What::From { first, once: true, error }));
            let more: Vec<Answer> = (3..5).flat_map(answers_of).collect();
            let mut refused = 0;
            for answer in more {
                answers.push(answer.clone());
                refused += usize::from(ingest.append(answer).and_then(|()| ingest.sync()).is_err());
            }
            assert_eq!(refused, 1, "error {error} at change {first}");
            refuse.set(None);
            ingest.publish().expect("a journal");
            let found = keys_of(&dir.path().join("a"), &Schema::device_state());
            assert!(found.values().all(|times| *times == 1), "{found:?}");
            let lost: Vec<_> = answers.iter().flat_map(state_keys).filter(|key| !found.contains_key(key)).collect();
            assert!(lost.is_empty(), "error {error} at change {first}: {lost:?}");
        }
    }
}

#[test]
fn a_full_disk_stops_no_collecting_until_the_journal_is_full_too() {
    let (_dir, root) = place();
    // Many more than are asked for at once.
    let api = Api::start(400, Duration::from_secs(1), |options| options);
    let refuse = Arc::new(Refuse::default());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let journal = |journal| Some(What::Journal { journal, error: 28 });
    let disks = [None, journal(false), journal(true), journal(true), None];
    let sweeps = runtime.block_on(sweep_on_disks(disks, PublishRule::Sweep, &api, &root, &refuse));
    let [first, full, journal_full, still_full, after] = &sweeps[..] else { panic!("five sweeps") };
    assert!(first.1.is_none() && first.0.held.is_empty(), "{first:?}");
    assert!(full.1.is_none() && full.0.requests_sent >= 300, "it goes on asking: {full:?}");
    assert!(full.0.held[0].to_string().contains("No space left on device"), "{full:?}");
    let said = journal_full.1.as_ref().expect("it ends");
    assert!(said.contains("/journal/") && said.contains("No space left on device"), "{said}");
    assert!(journal_full.0.requests_sent < 200, "it stops asking: {journal_full:?}");
    assert!(journal_full.0.held.iter().any(|why| why.to_string().contains("memory alone")), "{journal_full:?}");
    assert_eq!(
        still_full.0.requests_sent, 0,
        "nothing more is asked while answers are in memory alone: {still_full:?}"
    );
    assert!(still_full.0.held.iter().any(|why| why.to_string().contains("No space left on device")), "{still_full:?}");
    assert!(after.1.is_none() && after.0.held.is_empty(), "{after:?}");
    let (archived, delivered) = (archived(&root), delivered(&api));
    assert!(archived.values().all(|rows| rows.len() == 1), "no state is there twice");
    let lost: Vec<_> = delivered.keys().filter(|key| !archived.contains_key(*key)).collect();
    assert!(lost.is_empty(), "{} of {} are missing", lost.len(), delivered.len());
    assert!(archived.len() > 600, "{} states", archived.len());
}

#[test]
fn nothing_more_is_asked_on_a_full_disk_also_where_no_publish_is_due() {
    let (_dir, root) = place();
    let api = Api::start(400, Duration::from_secs(1), |options| options);
    let refuse = Arc::new(Refuse::default());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let full = || Some(What::Journal { journal: true, error: 28 });
    let rule = PublishRule::Every(Duration::from_hours(1));
    let sweeps = runtime.block_on(sweep_on_disks([None, full(), full(), full(), full()], rule, &api, &root, &refuse));
    let sent: Vec<u64> = sweeps.iter().map(|(stats, _)| stats.requests_sent).collect();
    assert!(sent[0] > 300 && sent[1] > 0 && sent[2..] == [0; 3], "{sent:?}");
}

/// Sweeps, one on each of these disks: a good one, or one that refuses something.
#[expect(clippy::disallowed_methods, reason = "a test waits")]
async fn sweep_on_disks(
    disks: [Option<What>; 5],
    publish: PublishRule,
    api: &Api,
    root: &Path,
    refuse: &Arc<Refuse>,
) -> Vec<(CollectStats, Option<String>)> {
    let clock = Clock::system();
    let disk = Disk::default().watched(Arc::<Refuse>::clone(refuse));
    let archive = Archive::open_or_create(root, 1, clock.now(), disk).expect("an archive");
    let (ingest, _) = Ingest::open(archive, Shards::All, "test", Policy::default()).expect("the shard");
    let options = CollectOptions {
        source: SourceChoice::Live,
        devices: Vec::new(),
        since_minutes: 10,
        interval: Duration::from_mins(5),
        deadline: None,
        publish,
    };
    let ((_switch, stop), progress) = (stop_pair(), Silent);
    let client = Client::new(client_options(api.url.clone()), clock.clone()).expect("a client");
    let mut collector = Collector::new(client, ingest, &clock, &options, &progress, &stop);
    let mut sweeps = Vec::new();
    for (number, what) in (0..).zip(disks) {
        tokio::task::yield_now().await;
        refuse.set(what);
        let (stats, failed) = collector.sweep(number).await;
        sweeps.push((stats, failed.map(|error| error.to_string())));
        refuse.set(None);
        // Until every device has something new to say.
        tokio::time::sleep(Duration::from_millis(1_100)).await;
    }
    collector.finish().expect("a disk");
    sweeps
}

/// How a simulated API is asked.
pub(crate) fn client_options(base_url: String) -> ClientOptions {
    ClientOptions {
        base_url,
        account_id: AccountId::parse(ACCOUNT).expect("an account"),
        credential: Credential::Token(Secret::new("Sn3lZJTBX6kkg7OdcBUAxOO963GEIyGQqnFTOFYY").expect("a token")),
        budget: Budget { limit: None, share: 1.0 },
        attempts: 3,
        retry_delay: Duration::from_millis(10),
        connect_timeout: Duration::from_secs(5),
        timeout: Duration::from_secs(10),
        max_body_bytes: 16 << 20,
        seed: 1,
    }
}
