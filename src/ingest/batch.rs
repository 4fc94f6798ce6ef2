//! What waits in some files, of the journal mostly: which bodies there are, whose they are, and where they belong.
//!
//! The bodies stay in their files: a batch remembers of each where it lies, and the device and the time by which it is
//! sorted. So a day is written anew once for however many bodies there are, and in the memory of a few of them.
//!
//! Device and time are read at a [glance](Plan::glance). A body in which one of them stands twice is no device state, for
//! nobody knows whose it is or of when; its row finds out.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::archive::{Aside, AsideKind, Spot, day_of, shard_of};
use crate::flatten::{Columns, FlattenError, Plan, Row};
use crate::journal::{self, Item, JournalError, Segment};
use crate::snapshot::{Answer, Body, Origin, Poll};

use super::bodies::{Bodies, BodyPlace, Head, Located, Opened, SortedBy, index};
use super::day::DayRows;

/// So much of the journal is published together, as soon as one of these is reached: it is what takes memory, files that
/// are open, and the system's memory of files that were read.
const MOST_BODIES: usize = 512 * 1024;
const MOST_POLLS: usize = 128 * 1024;
const MOST_FILES: usize = 64;
const MOST_BYTES: u64 = 1 << 30;
const MOST_GAP_BYTES: usize = 128 << 20;

/// A file in the quarantine gets so many bytes, and what the last body in it has beyond.
const ASIDE_BYTES: usize = 64 << 20;

/// What some files hold.
#[derive(Debug, Default)]
pub(super) struct Batch {
    bodies: Bodies,
    /// Each request, and the bodies that it brought.
    polls: Vec<(Poll, Range<usize>)>,
    /// Files for the quarantine: what is no frame.
    gaps: Vec<Aside>,
    /// The number of each device among those of the bodies.
    ids: HashMap<Arc<str>, u32>,
    /// Bodies that are known to be no device state.
    no_states: BTreeMap<u32, FlattenError>,
    bytes: u64,
}

/// What some files hold, by the parts that it belongs to.
#[derive(Debug, Default)]
pub(super) struct Divided {
    /// The rows of each shard and day.
    pub(super) parts: Vec<(Spot, Arc<DayRows>)>,
    /// Each request, and the bodies that it brought.
    pub(super) polls: Vec<(Poll, Range<usize>)>,
    /// Files for the quarantine: what is no frame.
    pub(super) gaps: Vec<Aside>,
    bodies: Arc<Bodies>,
    /// Bodies that are no device state.
    pub(super) no_states: BTreeMap<u32, FlattenError>,
    /// Whether those are in the quarantine.
    pub(super) is_quarantined: bool,
    /// The parts that are live with their rows.
    live: BTreeSet<Spot>,
}

impl Batch {
    /// Adds what a segment of the journal holds.
    ///
    /// # Errors
    /// Where the segment cannot be read.
    pub(super) fn read(&mut self, plan: &Plan, (shard, sequence, path): (u32, u64, &Path)) -> Result<(), JournalError> {
        let segment = Segment::read(path)?;
        let bodies = Arc::new(journal::BodyFile::open(path)?);
        let name = format!("shard-{shard}-{sequence:010}");
        let from = format!("journal segment {sequence} of shard {shard}");
        self.bodies.files.push(Opened { name: name.clone(), from, bodies, is_foreign: false });
        for item in segment.items() {
            match item {
                Item::Answer { answer, bodies_at } => {
                    let places = answer.bodies.iter().scan(bodies_at, |at, body| {
                        let place = *at;
                        *at += body.bytes.len() as u64;
                        Some(place)
                    });
                    let places: Vec<u64> = places.collect();
                    self.take(plan, *answer, &places);
                }
                Item::Gap { start, end } => self.gaps.push(Aside {
                    name: format!("{name}-{start}"),
                    kind: AsideKind::JournalGap,
                    from: format!("journal segment {sequence} of shard {shard}, bytes {start} to {end}"),
                    cause: "written in part, or bent since: no frame of the journal".to_owned(),
                    bytes: segment.bytes(start, end).to_vec(),
                }),
            }
        }
        Ok(())
    }

    /// Adds an answer with bodies of a file that is there to stay.
    pub(super) fn take_lasting(
        &mut self,
        plan: &Plan,
        answer: Answer,
        shard: u32,
        (file, places): (&Arc<journal::BodyFile>, &[u64]),
    ) {
        if !self.bodies.files.last().is_some_and(|last| Arc::ptr_eq(&last.bodies, file)) {
            let (name, from) = (format!("shard-{shard}-import"), file.path().display().to_string());
            self.bodies.files.push(Opened { name, from, bodies: Arc::clone(file), is_foreign: true });
        }
        self.take(plan, answer, places);
    }

    /// Whether it is enough for one publish.
    pub(super) fn is_full(&self) -> bool {
        self.bodies.located.len() >= MOST_BODIES
            || self.polls.len() >= MOST_POLLS
            || self.bodies.files.len() >= MOST_FILES
            || self.bytes >= MOST_BYTES
            || self.gaps.iter().map(|gap| gap.bytes.len()).sum::<usize>() >= MOST_GAP_BYTES
    }

    /// Whether nothing was read.
    pub(super) fn is_empty(&self) -> bool {
        self.bodies.files.is_empty()
    }

    /// Adds an answer, with bodies at these places of the last file.
    fn take(&mut self, plan: &Plan, answer: Answer, places: &[u64]) {
        let Answer { account_id, sweep_id, source, collected_at, bodies, poll } = answer;
        let head = Head { account_id, sweep_id, source, collected_at };
        if self.bodies.heads.last() != Some(&head) {
            self.bodies.heads.push(head);
        }
        let first = self.bodies.located.len();
        let by = SortedBy::new(plan.schema());
        for (Body { bytes, origin }, &at) in bodies.into_iter().zip(places) {
            let (device, time) = match plan.glance(&bytes, by.device, by.time) {
                Some((device, time)) => (self.number_of(&device), Some(time)),
                None => self.read_key(plan, &bytes),
            };
            let length = u32::try_from(bytes.len()).expect("a frame's bodies have less than 4 GiB");
            let place = BodyPlace {
                number: index(self.bodies.located.len()),
                file: index(self.bodies.files.len() - 1),
                head: index(self.bodies.heads.len() - 1),
                device,
                length,
                at,
                time,
            };
            self.bodies.located.push(Located { place, origin });
            self.bytes += u64::from(length);
        }
        if let Some(poll) = poll {
            self.polls.push((poll, first..self.bodies.located.len()));
        }
    }

    /// The device and the time of the next body, which is read in full. One that is no device state is noted.
    fn read_key(&mut self, plan: &Plan, body: &[u8]) -> (u32, Option<i64>) {
        let mut row = Row::default();
        let by = SortedBy::new(plan.schema());
        let (device, time) = match by.flatten(plan, body, &mut row) {
            Ok(()) => by.of(&row),
            Err(error) => {
                self.no_states.insert(index(self.bodies.located.len()), error);
                Default::default()
            }
        };
        (self.number_of(device), time)
    }

    fn number_of(&mut self, device: &str) -> u32 {
        self.ids.get(device).copied().unwrap_or_else(|| {
            let (device, number) = (Arc::<str>::from(device), index(self.bodies.devices.len()));
            self.bodies.devices.push(Arc::clone(&device));
            self.ids.insert(device, number);
            number
        })
    }

    /// Sorts the bodies into the parts that they belong to, in the order of the rows.
    pub(super) fn divide(self, plan: &Arc<Plan>, shards: u32) -> Divided {
        let Self { bodies, polls, gaps, no_states, .. } = self;
        let mut sorted: Vec<u32> = (0..bodies.devices.len()).map(index).collect();
        sorted.sort_unstable_by_key(|&device| &bodies.devices[device as usize]);
        let mut rank = vec![0_u32; sorted.len()];
        (0..).zip(&sorted).for_each(|(place, &device)| rank[device as usize] = place);
        let shard: Vec<u32> = bodies.devices.iter().map(|device| shard_of(device, shards)).collect();
        let mut parts: BTreeMap<Spot, Vec<BodyPlace>> = BTreeMap::new();
        for place in bodies.located.iter().map(|body| body.place) {
            if !no_states.contains_key(&place.number) {
                let collected_at = bodies.head(place).collected_at.timestamp_micros();
                let date = day_of(place.time.unwrap_or(collected_at));
                let spot = Spot { shard: shard[place.device as usize], date };
                parts.entry(spot).or_default().push(place);
            }
        }
        let bodies = Arc::new(bodies);
        let parts = parts.into_iter().map(|(part, mut order)| {
            order.sort_unstable_by_key(|place| (rank[place.device as usize], place.time, place.number));
            (part, Arc::new(DayRows::new(Arc::clone(&bodies), Arc::clone(plan), order)))
        });
        Divided { parts: parts.collect(), bodies, polls, gaps, no_states, ..Divided::default() }
    }
}

impl Divided {
    /// Whether a file that others may change, and of which there are bodies, is not any more what it was when it was opened.
    pub(super) fn is_changed(&self) -> bool {
        !self.changed().is_empty()
    }

    /// What is left without the bodies of files that were changed; and what these are called. Only files that are there to
    /// stay may be among them, of which no request brought anything.
    pub(super) fn without_changed(self, plan: &Arc<Plan>, shards: u32) -> (Self, Vec<String>) {
        let changed = self.changed();
        if changed.is_empty() {
            return (self, Vec::new());
        }
        let Self { parts, bodies, polls, gaps, mut no_states, is_quarantined, live } = self;
        drop(parts);
        let mut bodies = Arc::into_inner(bodies).expect("only the rows shared them");
        let names = changed.iter().map(|&file| bodies.files[file as usize].from.clone()).collect();
        let mut batch = Batch { polls, gaps, ..Batch::default() };
        for mut body in std::mem::take(&mut bodies.located) {
            if !changed.contains(&body.place.file) {
                let number = index(bodies.located.len());
                batch.no_states.extend(no_states.remove(&body.place.number).map(|error| (number, error)));
                body.place.number = number;
                bodies.located.push(body);
            }
        }
        (Self { is_quarantined, live, ..Batch { bodies, ..batch }.divide(plan, shards) }, names)
    }

    fn changed(&self) -> BTreeSet<u32> {
        let is_changed = |file: &Opened| file.is_foreign && file.bodies.is_changed();
        let changed = (0..).zip(&self.bodies.files).filter(|(_, file)| is_changed(file)).map(|(number, _)| number);
        changed.filter(|number| self.bodies.located.iter().any(|body| body.place.file == *number)).collect()
    }

    /// The bodies that are neither in the archive nor in the quarantine, as answers of so many.
    pub(super) fn answers(&self, most: usize) -> impl Iterator<Item = Result<Answer, JournalError>> {
        let mut is_left = vec![false; self.len()];
        for (_, rows) in self.parts.iter().filter(|(part, _)| !self.live.contains(part)) {
            rows.places().for_each(|place| is_left[place.number as usize] = true);
        }
        self.no_states.keys().for_each(|&at| is_left[at as usize] = !self.is_quarantined);
        let left: Vec<&Located> = self.bodies.located.iter().filter(|b| is_left[b.place.number as usize]).collect();
        let comes_from = |body: &Located| (body.place.file, body.place.head);
        let all = left.chunk_by(|a, b| comes_from(a) == comes_from(b)).flat_map(|of_one| of_one.chunks(most));
        let all: Vec<Vec<&Located>> = all.map(<[_]>::to_vec).collect();
        all.into_iter().map(|located| {
            let Head { account_id, sweep_id, source, collected_at } = self.bodies.head(located[0].place).clone();
            let bodies = located.iter().map(|body| {
                let mut bytes = Vec::new();
                self.bodies.read(body.place, &mut bytes)?;
                Ok(Body { bytes: bytes.into(), origin: body.origin.clone() })
            });
            let bodies = bodies.collect::<Result<_, JournalError>>()?;
            Ok(Answer { account_id, sweep_id, source, collected_at, bodies, poll: None })
        })
    }

    /// Notes that a part is live with all of its rows.
    pub(super) fn note_live(&mut self, part: Spot) {
        self.live.insert(part);
    }

    /// Those of its polls, as they were settled, of which all states are live: another would say that there was an answer
    /// while what was in it may still be lost with the journal, and nobody would ask for it again. The pages of a list are
    /// told together: its last one alone would say that nobody is on it. `fresh` has nothing for a body that is no row.
    pub(super) fn told(&self, polls: Vec<Poll>, fresh: &[Option<bool>]) -> Vec<Poll> {
        if polls.is_empty() {
            return polls;
        }
        let are_live = self.are_live();
        let is_whole =
            |(_, bodies): &&(Poll, Range<usize>)| bodies.clone().all(|at| are_live[at] || fresh[at].is_none());
        let list = |poll: &Poll| {
            let window = poll.listing.map(|listing| (listing.from, listing.to));
            poll.page.map(|_| (poll.sweep_id.clone(), window))
        };
        let waiting = self.polls.iter().filter(|poll| !is_whole(poll));
        let waiting: BTreeSet<_> = waiting.filter_map(|(poll, _)| list(poll)).collect();
        let is_told = |(poll, own): &(Poll, &(Poll, Range<usize>))| {
            is_whole(own) && list(poll).is_none_or(|list| !waiting.contains(&list))
        };
        polls.into_iter().zip(&self.polls).filter(is_told).map(|(poll, _)| poll).collect()
    }

    /// Of each body, whether it is in a part that is live.
    fn are_live(&self) -> Vec<bool> {
        let mut are_live = vec![false; self.len()];
        for (_, rows) in self.parts.iter().filter(|(part, _)| self.live.contains(part)) {
            rows.found().rows.iter().for_each(|&at| are_live[at as usize] = true);
        }
        are_live
    }

    /// How many bodies there are.
    pub(super) fn len(&self) -> usize {
        self.bodies.located.len()
    }

    /// What no column could hold, by path.
    pub(super) fn drift(&self) -> BTreeMap<String, u64> {
        let mut drift = BTreeMap::new();
        for (_, rows) in &self.parts {
            for (path, count) in &rows.found().drift {
                *drift.entry(path.clone()).or_default() += count;
            }
        }
        drift
    }

    /// Notes what the rows found to be no device states.
    pub(super) fn take_no_states(&mut self) {
        for (_, rows) in &self.parts {
            self.no_states.append(&mut rows.found().no_states);
        }
    }

    /// Bodies that are no device state.
    pub(super) fn quarantined(&self) -> u64 {
        self.no_states.len() as u64
    }

    /// Where the first of these came from, and why it is none.
    pub(super) fn first_no_state(&self) -> Option<(Option<Origin>, String)> {
        let (&at, error) = self.no_states.first_key_value()?;
        Some((self.bodies.located[at as usize].origin.clone(), error.to_string()))
    }

    /// Where the states came from that have no time that can be read.
    pub(super) fn timeless(&self) -> impl Iterator<Item = Option<&Origin>> {
        let is_timeless =
            |body: &&Located| body.place.time.is_none() && !self.no_states.contains_key(&body.place.number);
        self.bodies.located.iter().filter(is_timeless).map(|body| body.origin.as_ref())
    }

    /// Files for the quarantine: the bodies that are no device state, by the file that they came in.
    pub(super) fn asides(&self) -> impl Iterator<Item = Result<Aside, JournalError>> {
        let place = |at: u32| self.bodies.located[at as usize].place;
        let mut bytes = 0;
        let mut files: Vec<Vec<(u32, &FlattenError)>> = Vec::new();
        for (&at, error) in &self.no_states {
            let is_other_file = files.last().is_none_or(|file| place(file[0].0).file != place(at).file);
            if is_other_file || bytes > ASIDE_BYTES {
                files.push(Vec::new());
                bytes = 0;
            }
            files.last_mut().expect("there is one by now").push((at, error));
            bytes += place(at).length as usize;
        }
        files.into_iter().map(move |bodies| self.aside(&bodies))
    }

    /// The file for the quarantine of some bodies of a file.
    fn aside(&self, bodies: &[(u32, &FlattenError)]) -> Result<Aside, JournalError> {
        let (mut lines, mut text) = (Vec::new(), Vec::new());
        for (at, error) in bodies {
            let body = &self.bodies.located[*at as usize];
            self.bodies.read(body.place, &mut text)?;
            lines.extend(self.bodies.quarantined(body, &text, error));
        }
        let Opened { name, from, .. } = self.bodies.file(self.bodies.located[bodies[0].0 as usize].place);
        Ok(Aside {
            name: name.clone(),
            kind: AsideKind::Lines,
            from: from.clone(),
            cause: "no device states: each line holds a body, where it came from, and why it is none".to_owned(),
            bytes: lines,
        })
    }
}

/// Requests as rows. A poll's JSON is flattened like any other body.
pub(super) fn poll_columns(plan: &Plan, polls: &[Poll]) -> Columns {
    let mut columns = Columns::new(Arc::clone(plan.schema()));
    let mut row = Row::default();
    for poll in polls {
        let body = serde_json::to_vec(poll).expect("a poll always has a form in JSON");
        plan.flatten(&body, &mut row).expect("the poll table requires nothing that a poll lacks");
        columns.push(&row);
    }
    columns
}
