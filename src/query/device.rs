//! Which devices are meant.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch, StringArray};

use crate::archive::Scan;
use crate::caseless::folded;
use crate::clock::Timestamp;
use crate::schema::Schema;
use crate::snapshot::DeviceId;

use super::metric::{is_pattern, matches};
use super::scan::Days;
use super::{Asked, QueryError, Window, column, moment, scan_of, texts, times};

/// So many letters of an id are enough to look for it.
const SHORTEST_PREFIX: usize = 4;

/// So many candidates are named.
const CANDIDATES: usize = 10;

/// A device by what it is called: its id, names and people in the window.
type Devices = BTreeMap<String, BTreeSet<String>>;

/// What somebody typed to name devices.
#[derive(Debug, Clone, Copy)]
pub struct Named<'a> {
    /// As it was typed.
    pub typed: &'a str,
    /// What stands for it in states that were written with rules of privacy.
    pub pseudonym: Option<&'a str>,
    /// Whether a device's id is written as a pseudonym now.
    pub hides_ids: bool,
}

/// The ids of the devices that are named: by an id, or the beginning of one; a name as it stood in the window,
/// or a pattern of names; or the e-mail address of whoever uses them. Upper and lower case are one, and the forms that
/// Unicode has for a letter. A whole id in lower case, as the API writes them, is taken without a look, unless pseudonyms
/// are in use. What is named is looked for both as it is and as a pseudonym, for the rules may have come in between.
///
/// # Errors
/// Where no device is called so, or several have the name or the beginning of the id.
pub fn resolve_devices(days: &Days, named: &Named, window: Window) -> Result<Vec<String>, QueryError> {
    window.check()?;
    let Named { typed, pseudonym, hides_ids } = *named;
    let whole_id = DeviceId::parse(typed).ok().map(|id| id.as_str().to_owned());
    // One with capitals may stand in states as it was typed: then it has to be looked for.
    let found = match (whole_id.as_ref().filter(|id| *id == typed), pseudonym) {
        (Some(id), None) => return Ok(vec![id.clone()]),
        (Some(id), Some(pseudonym)) => {
            last_seen(days, &[id.clone(), pseudonym.to_owned()], window)?.into_keys().collect()
        }
        (None, _) => {
            let wanted = [Some(folded(typed.trim()).into_owned()), pseudonym.map(str::to_owned)];
            let is_meant = |id: &str, word: Option<&str>| wanted.iter().flatten().any(|name| is_meant(name, id, word));
            let devices = called(days, window, &is_meant)?;
            let by_word: Vec<String> =
                devices.iter().filter(|(_, words)| !words.is_empty()).map(|(id, _)| id.clone()).collect();
            if by_word.is_empty() { devices.into_keys().collect() } else { by_word }
        }
    };
    let is_of_several = is_pattern(typed) || typed.contains('@') || whole_id.is_some();
    match found.len() {
        0 => {
            let stored = whole_id.map(|id| pseudonym.filter(|_| hides_ids).map_or(id, str::to_owned));
            stored.map(|id| vec![id]).ok_or_else(|| QueryError::NoDevice { device: typed.to_owned(), window })
        }
        1 => Ok(found),
        _ if is_of_several => Ok(found),
        _ => Err(ambiguous(days, typed, &found, window)?),
    }
}

/// Those of some ids that have a state in a window, and when the last one was.
///
/// # Errors
/// Where the archive cannot be read.
pub fn last_seen(days: &Days, ids: &[String], window: Window) -> Result<BTreeMap<String, Timestamp>, QueryError> {
    let mut all: BTreeMap<String, Timestamp> = BTreeMap::new();
    for ((_, device), (_, last)) in seen(days, window, Some(ids))? {
        let known = all.entry(device).or_insert(last);
        *known = last.max(*known);
    }
    Ok(all)
}

/// That several devices have a name, those that were seen last before the others.
fn ambiguous(days: &Days, name: &str, ids: &[String], window: Window) -> Result<QueryError, QueryError> {
    let mut devices: Vec<(String, Timestamp)> = last_seen(days, ids, window)?.into_iter().collect();
    devices.sort_by_key(|(_, at)| Reverse(*at));
    let more = devices.len().saturating_sub(CANDIDATES);
    devices.truncate(CANDIDATES);
    Ok(QueryError::Ambiguous { name: name.to_owned(), devices, more })
}

/// What the states of some devices name besides them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shared {
    /// People, by their addresses.
    pub people: BTreeSet<String>,
    /// Accounts, by their ids.
    pub accounts: BTreeSet<String>,
}

/// Who had some devices in a window.
///
/// # Errors
/// Where the archive cannot be read.
pub fn shared(days: &Days, devices: &[String], window: Window) -> Result<Shared, QueryError> {
    let schema = Schema::device_state();
    let [id, time, account] = ["device_id", "timestamp", "account_id"].map(|name| column(&schema, name));
    let person = schema.person();
    let scan = scan_of(&schema, Some(devices), [id, time, account].into_iter().chain(person));
    let wanted: BTreeSet<&str> = devices.iter().map(String::as_str).collect();
    let add = |found: &mut Shared, batch: &RecordBatch| {
        let (ids, times) = (texts(batch, "device_id"), times(batch, "timestamp"));
        let people = person.map(|at| texts(batch, &schema.columns[at].name));
        let accounts = texts(batch, "account_id");
        let counts = |row: &usize| window.holds_row(times, *row);
        for row in (0..batch.num_rows()).filter(counts).filter(|&row| wanted.contains(ids.value(row))) {
            let note = |known: &mut BTreeSet<String>, texts: &StringArray| {
                if texts.is_valid(row) && !known.contains(texts.value(row)) {
                    known.insert(texts.value(row).to_owned());
                }
            };
            note(&mut found.accounts, accounts);
            people.into_iter().for_each(|people| note(&mut found.people, people));
        }
    };
    let mut all = Shared::default();
    days.fold(&schema, window, &scan, Shared::default, add, |found| {
        all.people.extend(found.people);
        all.accounts.extend(found.accounts);
    })?;
    Ok(all)
}

/// The accounts and devices that have a state in a window.
///
/// # Errors
/// Where the archive cannot be read.
pub fn devices_seen(days: &Days, window: Window) -> Result<BTreeSet<(String, String)>, QueryError> {
    Ok(times_seen(days, window)?.into_keys().collect())
}

/// When the first and the last state was, by account and device.
pub type TimesSeen = BTreeMap<(String, String), (Timestamp, Timestamp)>;

/// When the first and the last state was in a window of each device of an account.
///
/// # Errors
/// Where the archive cannot be read.
pub fn times_seen(days: &Days, window: Window) -> Result<TimesSeen, QueryError> {
    seen(days, window, None)
}

/// When some devices, or all, were first and last seen.
fn seen(days: &Days, window: Window, devices: Option<&[String]>) -> Result<TimesSeen, QueryError> {
    type Seen = BTreeMap<(String, String), (i64, i64)>;
    let schema = Schema::device_state();
    let [account, id, time] = ["account_id", "device_id", "timestamp"].map(|name| column(&schema, name));
    let scan = scan_of(&schema, devices, [account, id, time]);
    let asked = Asked::of(devices);
    let see = |all: &mut Seen, device: (String, String), (first, last): (i64, i64)| {
        let times = all.entry(device).or_insert((first, last));
        *times = (times.0.min(first), times.1.max(last));
    };
    let add = |found: &mut Seen, batch: &RecordBatch| {
        let (accounts, ids) = (texts(batch, "account_id"), texts(batch, "device_id"));
        let at = times(batch, "timestamp");
        let counts = |row: usize| window.holds_row(at, row) && asked.holds(ids.value(row));
        let mut rows = (0..batch.num_rows()).filter(|&row| counts(row)).peekable();
        while let Some(first) = rows.next() {
            // Rows of a device follow each other, by time.
            let is_same =
                |row: usize| ids.value(row) == ids.value(first) && accounts.value(row) == accounts.value(first);
            let mut last = first;
            while let Some(row) = rows.next_if(|&row| is_same(row)) {
                last = row;
            }
            let device = (accounts.value(first).to_owned(), ids.value(first).to_owned());
            see(found, device, (at.value(first), at.value(last)));
        }
    };
    let mut all = Seen::new();
    days.fold(&schema, window, &scan, Seen::new, add, |found| {
        found.into_iter().for_each(|(device, times)| see(&mut all, device, times));
    })?;
    Ok(all.into_iter().map(|(device, (first, last))| (device, (moment(first), moment(last)))).collect())
}

/// Whether a device is meant by its id (no word), or by a name or an address.
fn is_meant(wanted: &str, id: &str, word: Option<&str>) -> bool {
    match word {
        None => wanted.len() >= SHORTEST_PREFIX && folded(id).starts_with(wanted),
        Some(word) if is_pattern(wanted) => matches(wanted, &folded(word.trim())),
        Some(word) => folded(word.trim()) == wanted,
    }
}

/// The devices of which the id or a word is meant, and those words.
fn called(
    days: &Days,
    window: Window,
    is_meant: &(dyn Fn(&str, Option<&str>) -> bool + Sync),
) -> Result<Devices, QueryError> {
    let schema = Schema::device_state();
    let columns = ["device_id", "device_name", "timestamp"].map(|name| column(&schema, name)).into_iter();
    let columns = columns.chain(schema.person());
    let scan = Scan { columns: columns.collect(), ..Scan::default() };
    let add = |found: &mut Devices, batch: &RecordBatch| {
        let ids = texts(batch, "device_id");
        let words = batch.columns().iter().zip(batch.schema_ref().fields());
        let words = words
            .filter(|(_, field)| field.name() != "device_id")
            .filter_map(|(column, _)| column.as_string_opt::<i32>());
        let words: Vec<_> = words.collect();
        let times = times(batch, "timestamp");
        let is_within = |row: &usize| window.holds_row(times, *row);
        let is_same = |a: usize, b: usize| {
            let mut words = words.iter().map(|words| (words.is_valid(a), words.is_valid(b), words));
            ids.value(a) == ids.value(b)
                && words.all(|(has_one, has_other, words)| {
                    has_one == has_other && (!has_one || words.value(a) == words.value(b))
                })
        };
        let mut last = None;
        for row in (0..batch.num_rows()).filter(is_within) {
            // Mostly a row has the words of the one before.
            if last.replace(row).is_some_and(|last| is_same(last, row)) {
                continue;
            }
            let id = ids.value(row);
            if is_meant(id, None) && !found.contains_key(id) {
                found.insert(id.to_owned(), BTreeSet::new());
            }
            for word in words.iter().filter(|words| words.is_valid(row)).map(|words| words.value(row)) {
                if is_meant(id, Some(word)) && !found.get(id).is_some_and(|known| known.contains(word)) {
                    found.entry(id.to_owned()).or_default().insert(word.to_owned());
                }
            }
        }
    };
    let mut devices = Devices::new();
    days.fold(&schema, window, &scan, Devices::new, add, |found| {
        found.into_iter().for_each(|(id, words)| devices.entry(id).or_default().extend(words));
    })?;
    Ok(devices)
}
