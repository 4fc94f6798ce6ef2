//! Who is to be forgotten, and where that is mentioned.
//!
//! A row is about somebody if any of its texts mentions them: the column that is made for it, a device's or a network's
//! name, an application's, a message of the API, or what no column holds.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, BooleanArray, RecordBatch, StringArray, StructArray};
use percent_encoding::percent_decode_str;
use serde_json::Value;

use crate::archive::{ArchiveError, PartFile, Scan};
use crate::caseless::folded;
use crate::privacy::is_pseudonym;
use crate::schema::{Kind, Schema};

/// Who or what is to be forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    kind: SubjectKind,
    /// The values by which it is known, pseudonyms among them, [`folded`].
    values: BTreeSet<String>,
    /// Devices, as the archive has their ids, of which the requests are about it.
    devices: BTreeSet<String>,
    /// Registrations whose states are about it, also where they name nobody.
    registrations: BTreeSet<String>,
    /// Whether states that name nobody are all that is meant.
    is_nameless: bool,
}

/// What a subject is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubjectKind {
    /// Devices, by their ids.
    Device,
    /// People, by their e-mail addresses.
    Person,
    /// Accounts, by their ids.
    Account,
}

/// What a part holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Rows that are about the subject.
    pub(super) about: u64,
    /// Rows under a pseudonym that is none of the subject's.
    pub(super) hidden: u64,
}

/// What a subject has in the archive, by the states that are about it.
#[derive(Debug, Default)]
pub(super) struct Belongings {
    theirs: Named,
    others: Named,
    /// Devices and registrations, if any, of states that name nobody.
    nameless: BTreeSet<(String, Option<String>)>,
}

/// What states name that are of somebody.
#[derive(Debug, Default)]
struct Named {
    devices: BTreeSet<String>,
    registrations: BTreeSet<String>,
}

impl Belongings {
    /// Whether no state in the archive names anybody.
    pub(super) fn names_nobody(&self) -> bool {
        self.theirs.devices.is_empty() && self.others.devices.is_empty() && !self.nameless.is_empty()
    }

    /// The devices of the subject that have states of which nobody can say whose they are.
    pub(super) fn unclear(&self) -> BTreeSet<String> {
        // A registration that is one person's alone says whose they are.
        let is_known = |registration: &String| {
            self.theirs.registrations.contains(registration) != self.others.registrations.contains(registration)
        };
        let is_unclear = |(device, registration): &&(String, Option<String>)| {
            !registration.as_ref().is_some_and(is_known) && self.theirs.devices.contains(device)
        };
        self.nameless.iter().filter(is_unclear).map(|(device, _)| device.clone()).collect()
    }
}

impl Subject {
    /// A subject that is known by some values; where rules have made pseudonyms of them, by these too.
    #[must_use]
    pub fn new(kind: SubjectKind, values: impl IntoIterator<Item = String>) -> Self {
        let values = values.into_iter().map(|value| folded(&value).into_owned()).collect();
        Self { kind, values, devices: BTreeSet::new(), registrations: BTreeSet::new(), is_nameless: false }
    }

    /// This subject, who has registrations that are nobody else's, and devices of which all states go.
    pub(super) fn having(self, found: &Belongings) -> Self {
        let Belongings { theirs, others, nameless } = found;
        let registrations: BTreeSet<String> = theirs.registrations.difference(&others.registrations).cloned().collect();
        let is_theirs =
            |registration: &Option<String>| registration.as_ref().is_some_and(|one| registrations.contains(one));
        let stay = nameless.iter().filter(|(_, registration)| !is_theirs(registration)).map(|(device, _)| device);
        let stay: BTreeSet<&String> = others.devices.iter().chain(stay).collect();
        let devices = theirs.devices.iter().filter(|device| !stay.contains(device)).cloned().collect();
        Self { devices, registrations, ..self }
    }

    /// Of what is about it, the states that name nobody; none where there can be none.
    pub(super) fn nameless(&self) -> Option<Self> {
        let has_some = self.kind == SubjectKind::Person && !self.registrations.is_empty();
        has_some.then(|| Self { is_nameless: true, ..self.clone() })
    }

    /// The ids of the accounts that it is.
    pub(super) fn accounts(&self) -> impl Iterator<Item = &str> {
        self.values.iter().map(String::as_str).filter(|_| self.kind == SubjectKind::Account)
    }

    /// Whether it is known by a pseudonym too.
    pub(super) fn has_pseudonym(&self) -> bool {
        self.values.iter().any(|value| is_pseudonym(value))
    }

    /// For each row, whether it is about something else.
    pub(super) fn spares(&self, schema: &Schema, batch: &RecordBatch) -> BooleanArray {
        let columns = texts(schema).into_iter().filter_map(|at| batch.column_by_name(&schema.columns[at].name));
        let mut texts: Vec<Texts> = columns.flat_map(Texts::of).collect();
        let asked = devices(schema, batch).filter(|_| schema.dataset == Schema::poll().dataset);
        let is_theirs =
            |row: usize| asked.is_some_and(|ids| ids.is_valid(row) && self.devices.contains(ids.value(row)));
        let owners = Owners::new(self, schema, batch);
        let is_nameless = |row: usize| {
            let registration = owners.registration(row).filter(|_| !owners.is_named(row));
            registration.is_some_and(|registration| self.registrations.contains(registration))
        };
        let mut names_it = |row: usize| is_theirs(row) || texts.iter_mut().any(|texts| texts.mention(self, row));
        let is_about = |row: usize| is_nameless(row) || !self.is_nameless && names_it(row);
        (0..batch.num_rows()).map(is_about).map(|is_about| Some(!is_about)).collect()
    }

    /// Rows of a part that are about it.
    pub(super) fn count_in(&self, file: &PartFile, schema: &Schema) -> Result<Found, ArchiveError> {
        let mut found = Found::default();
        self.search(file, schema, |batch, spares| {
            found.about += (batch.num_rows() - spares.true_count()) as u64;
            found.hidden += self.hidden_in(schema, batch);
        })?;
        Ok(found)
    }

    /// What is the subject's in a part's rows, and what is others'.
    pub(super) fn belongings_in(
        &self,
        file: &PartFile,
        schema: &Schema,
        found: &mut Belongings,
    ) -> Result<(), ArchiveError> {
        self.search(file, schema, |batch, spares| {
            let owners = Owners::new(self, schema, batch);
            let ids = devices(schema, batch).into_iter().flatten().zip(spares.values()).enumerate();
            // Rows of a device follow each other, and mostly those of a registration.
            let mut last = None;
            for (row, id, is_spared) in ids.filter_map(|(row, (id, is_spared))| Some((row, id?, is_spared))) {
                let registration = owners.registration(row);
                if is_spared && self.kind == SubjectKind::Person && !owners.is_named(row) {
                    if last.replace((id, registration)) != Some((id, registration)) {
                        found.nameless.insert((id.to_owned(), registration.map(str::to_owned)));
                    }
                    continue;
                }
                // A row that mentions the subject and is somebody else's says whose its device is, too.
                let is_others = is_spared || owners.name(row).is_some_and(|name| !self.is_in(name));
                let named = if is_others { &mut found.others } else { &mut found.theirs };
                add(&mut named.devices, id);
                registration.into_iter().for_each(|registration| add(&mut named.registrations, registration));
            }
        })
    }

    /// Hands over the texts of a part's rows, and which of these are about something else.
    fn search(
        &self,
        file: &PartFile,
        schema: &Schema,
        mut see: impl FnMut(&RecordBatch, &BooleanArray),
    ) -> Result<(), ArchiveError> {
        let scan = Scan { columns: texts(schema).into_iter().collect(), ..Scan::default() };
        for batch in file.part(schema)?.batches(Some(&scan)) {
            let batch = batch?;
            see(&batch, &self.spares(schema, &batch));
        }
        Ok(())
    }

    /// Whether a text mentions it, however its letters are written.
    pub(super) fn is_in(&self, text: &str) -> bool {
        let mut plain = Cow::from(text);
        for _ in 0..MOST_LEVELS {
            if self.is_word_in(&plain) {
                return true;
            }
            let plainer = percent_decode_str(&unescaped(&plain)).decode_utf8_lossy().into_owned();
            if plainer == plain {
                break;
            }
            plain = plainer.into();
        }
        self.is_in_json(text)
    }

    fn is_word_in(&self, text: &str) -> bool {
        let text = folded(text);
        self.values.iter().any(|value| is_word_in(value, &text))
    }

    /// The column by which it is known, as a position in a schema.
    fn identity(&self, schema: &Schema) -> Option<usize> {
        match self.kind {
            SubjectKind::Device => schema.device(),
            SubjectKind::Account => schema.index_of("account_id"),
            SubjectKind::Person => schema.person(),
        }
    }

    fn hidden_in(&self, schema: &Schema, batch: &RecordBatch) -> u64 {
        let column = self.identity(schema).and_then(|at| batch.column_by_name(&schema.columns[at].name));
        let texts = column.and_then(|column| column.as_string_opt::<i32>()).into_iter().flatten().flatten();
        texts.filter(|text| is_pseudonym(text) && !self.values.contains(*text)).count() as u64
    }

    fn is_in_json(&self, text: &str) -> bool {
        if !text.trim_start().starts_with(['{', '[', '"']) {
            return false;
        }
        match serde_json::from_str(text) {
            Ok(Value::Object(members)) => {
                members.iter().any(|(key, value)| self.is_in(key) || self.is_in_json(&value.to_string()))
            }
            Ok(Value::Array(items)) => match bytes_of(&items) {
                // A body that is no UTF-8 stands in the quarantine as its bytes.
                Some(bytes) => self.is_in(&String::from_utf8_lossy(&bytes)),
                None => items.iter().any(|item| self.is_in_json(&item.to_string())),
            },
            // Letters may be written as escapes, and a body stands in the quarantine as a string.
            Ok(Value::String(inner)) => self.is_in(&inner),
            _ => false,
        }
    }
}

/// Whose the rows of a batch are, as far as they say so.
struct Owners<'a> {
    /// The column by which the subject is known.
    names: Option<&'a StringArray>,
    /// The registration, and what stands for it.
    registrations: [Option<&'a StringArray>; 2],
}

impl<'a> Owners<'a> {
    fn new(subject: &Subject, schema: &Schema, batch: &'a RecordBatch) -> Self {
        let texts =
            |at: usize| batch.column_by_name(&schema.columns[at].name).and_then(|column| column.as_string_opt::<i32>());
        let (registration, by) = schema.stand_in.unzip();
        Self {
            names: subject.identity(schema).and_then(texts),
            registrations: [registration.and_then(texts), by.and_then(texts)],
        }
    }

    fn is_named(&self, row: usize) -> bool {
        self.name(row).is_some()
    }

    fn name(&self, row: usize) -> Option<&'a str> {
        let names = self.names.filter(|names| names.is_valid(row))?;
        Some(names.value(row)).filter(|name| !name.is_empty())
    }

    fn registration(&self, row: usize) -> Option<&'a str> {
        let mut known = self.registrations.iter().flatten().filter(|texts| texts.is_valid(row));
        known.next().map(|texts| texts.value(row))
    }
}

fn add(known: &mut BTreeSet<String>, text: &str) {
    if !known.contains(text) {
        known.insert(text.to_owned());
    }
}

/// Whether a value stands in a text as a whole: `ann@example.com` is not in `joann@example.com`. Both are [`folded`].
fn is_word_in(value: &str, text: &str) -> bool {
    let (goes_on_before, goes_on_after): (Borders, Borders) = match value.rsplit_once('@') {
        Some((_, domain)) if domain.contains('.') => (address_begins_before, host_goes_on),
        Some(_) => (address_begins_before, name_goes_on),
        None if value.len() >= SHORTEST_ID && value.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-') => {
            (|before| before.ends_with(is_hex), |after| after.starts_with(is_hex))
        }
        None => (|before| before.trim_end_matches('-').ends_with(is_in_names), name_goes_on),
    };
    text.match_indices(value).any(|(at, _)| !goes_on_before(&text[..at]) && !goes_on_after(&text[at + value.len()..]))
}

/// Whether what stands on one side of a value belongs to it.
type Borders = fn(&str) -> bool;

/// So often letters may be written as others, and these again. Who did it more often named nobody by it, and a text may
/// have as many levels as letters.
const MOST_LEVELS: usize = 16;

/// The ids of devices and accounts have at least so many digits.
const SHORTEST_ID: usize = 32;

fn is_hex(letter: char) -> bool {
    letter.is_ascii_hexdigit()
}

fn is_in_names(letter: char) -> bool {
    letter.is_alphanumeric() || matches!(letter, '.' | '_' | '%' | '+' | '-' | '@')
}

/// A dot behind it may end a sentence.
fn name_goes_on(after: &str) -> bool {
    after.trim_start_matches('.').starts_with(is_in_names)
}

/// A dash before it may begin a list, and a quotation mark a word, but behind a letter it belongs to a name.
fn address_begins_before(before: &str) -> bool {
    let is_in_address = |letter: char| is_in_word(letter) || matches!(letter, '.' | '_' | '%' | '+');
    let is_name = before.strip_suffix('\'').is_some_and(|name| name.ends_with(is_in_word));
    is_name || before.trim_end_matches('-').ends_with(is_in_address)
}

/// The last part of a domain has letters alone; what stands behind a dash goes on with it only if a dot follows.
fn host_goes_on(after: &str) -> bool {
    let rest = after.trim_start_matches('.');
    let is_behind_dash = |letter: char| letter == '-' || letter.is_ascii_alphanumeric();
    match after.chars().next() {
        Some('.') => rest.starts_with(char::is_alphanumeric),
        Some('-') => after
            .trim_start_matches(is_behind_dash)
            .strip_prefix('.')
            .is_some_and(|rest| rest.starts_with(char::is_alphanumeric)),
        _ => after.starts_with(is_in_word),
    }
}

/// Whether it is a letter or a digit of a script that leaves spaces between words: in others, like Chinese, Japanese and
/// Thai, an address stands right beside them.
fn is_in_word(letter: char) -> bool {
    let leaves_no_space = matches!(letter, '\u{e00}'..='\u{109f}' | '\u{1780}'..='\u{17ff}' | '\u{2e80}'..='\u{d7ff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..);
    letter.is_alphanumeric() && !leaves_no_space
}

/// A text with the letters that JSON's escapes stand for, also where it is no JSON as a whole.
fn unescaped(text: &str) -> Cow<'_, str> {
    let Some(first) = text.find('\\') else { return text.into() };
    let mut plain = text[..first].to_owned();
    let mut rest = &text[first..];
    while let Some(at) = rest.find('\\') {
        plain.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let short = after.chars().next();
        let long = after.strip_prefix('u').and_then(|hex| char::from_u32(u32::from_str_radix(hex.get(..4)?, 16).ok()?));
        let (letter, length) = match (long, short) {
            (Some(letter), _) => (letter, 5),
            (None, Some('n' | 'r' | 't' | 'b' | 'f')) => (' ', 1),
            (None, Some(letter @ ('"' | '\\' | '/'))) => (letter, 1),
            _ => ('\\', 0),
        };
        plain.push(letter);
        rest = &after[length..];
    }
    (plain + rest).into()
}

fn bytes_of(items: &[Value]) -> Option<Vec<u8>> {
    let byte = |item: &Value| item.as_u64().and_then(|number| u8::try_from(number).ok());
    items.iter().map(byte).collect::<Option<Vec<u8>>>().filter(|bytes| !bytes.is_empty())
}

/// The columns that hold texts.
fn texts(schema: &Schema) -> Vec<usize> {
    let holds_texts = |at: &usize| matches!(schema.columns[*at].kind, Kind::String | Kind::List);
    (0..schema.columns.len()).filter(holds_texts).collect()
}

/// The devices of the rows, where the batch has them.
fn devices<'a>(schema: &Schema, batch: &'a RecordBatch) -> Option<&'a StringArray> {
    batch.column_by_name(&schema.columns[schema.device()?].name)?.as_string_opt()
}

/// The texts of a column, or of a member of the items of one.
struct Texts<'a> {
    values: &'a StringArray,
    /// Where the items of each row begin and end, in a column of lists.
    lists: Option<&'a [i32]>,
    /// What was looked at already: most texts stand in many rows.
    seen: HashMap<&'a str, bool>,
    /// The last of them: mostly that of the row before.
    last: Option<(&'a str, bool)>,
}

impl<'a> Texts<'a> {
    fn of(column: &'a ArrayRef) -> Vec<Self> {
        let texts = |values, lists| Self { values, lists, seen: HashMap::new(), last: None };
        match (column.as_string_opt::<i32>(), column.as_list_opt::<i32>()) {
            (Some(values), _) => vec![texts(values, None)],
            (_, Some(lists)) => {
                let members = lists.values().as_struct_opt().map(StructArray::columns).unwrap_or_default();
                let members = members.iter().filter_map(|member| member.as_string_opt::<i32>());
                members.map(|values| texts(values, Some(&lists.offsets()[..]))).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Whether one of those of a row mentions somebody.
    fn mention(&mut self, subject: &Subject, row: usize) -> bool {
        let items = |at: i32| usize::try_from(at).unwrap_or(0);
        let range: Range<usize> = self.lists.map_or(row..row + 1, |ends| items(ends[row])..items(ends[row + 1]));
        let (values, seen, last) = (self.values, &mut self.seen, &mut self.last);
        range.filter(|&at| values.is_valid(at)).any(|at| {
            let text = values.value(at);
            match last {
                Some((known, mentions)) if *known == text => *mentions,
                _ => {
                    let mentions = *seen.entry(text).or_insert_with(|| subject.is_in(text));
                    *last = Some((text, mentions));
                    mentions
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_found_as_a_whole_however_it_is_written() {
        let ann = Subject::new(SubjectKind::Person, ["Ann@Example.com".to_owned()]);
        for text in
            ["ann@example.com", "x=ANN@example.com;", "mail ann@example.com.", r#"{"a":["\u0061nn@example.com"]}"#]
        {
            assert!(ann.is_in(text), "{text}");
        }
        assert!(ann.is_in(&format!(r#"{{"bytes":{:?}}}"#, b"{\"x\":\"ann@example.com\",\"y\":\"\xfc\"}")));
        for text in [
            " ann@example.com ",
            "ann@example.com's iPhone",
            "u=ann%40example.com",
            "%3Aann@example.com",
            "-ann@example.com",
            r#"{"broken":"x\nann@example.com"#,
            r#"{"broken":"\tann@example.com","#,
            r#"{"broken":"\u0061nn@example.com""#,
            r#"{"broken":"\\u0061nn@example.com""#,
        ] {
            assert!(ann.is_in(text), "{text}");
        }
        for text in [
            "ann@example.com_old",
            "ann@example.com-mac",
            "ann@example.com--",
            "ann@example.com+x",
            "@ann@example.com",
            "ann@example.com\u{306e}MacBook",
            "\u{65e5}\u{672c}ann@example.com",
            // Letters of full width.
            "\u{ff41}\u{ff4e}\u{ff4e}@example.com",
            "\u{1d400}nn@example.com",
            "\u{e02}\u{e2d}\u{e07}ann@example.com",
            "'ann@example.com'",
        ] {
            assert!(ann.is_in(text), "{text}");
        }
        for text in [
            "joann@example.com",
            "jo-ann@example.com",
            "m\u{fc}ann@example.com",
            "ann@example.com.\u{4e2d}\u{56fd}",
            "ann@example.com1",
            "ann@example.com-op.uk",
            "ann@example.com\u{e9}rcio.pt",
            "o'ann@example.com",
            "ann@example.com.au",
            "ann@example.community",
            "%ann@example.com",
            r"\u00zzann@example.com",
            "",
            "ann",
        ] {
            assert!(!ann.is_in(text), "{text}");
        }
        let (twice, many) = ("%2561nn@example.com", format!("%{}61nn@example.com", "25".repeat(100_000)));
        assert!(ann.is_in(twice) && !ann.is_in(&many), "who looks at each level looks for ever");
        let at_home = Subject::new(SubjectKind::Person, ["ann@corp".to_owned()]);
        assert!(at_home.is_in("ann@corp.") && !at_home.is_in("ann@corp-mac") && !at_home.is_in("ann@corp.example"));
        let composed = Subject::new(SubjectKind::Person, ["M\u{fc}ller@example.com".to_owned()]);
        assert!(composed.is_in("mu\u{308}ller@example.com"));
    }

    #[test]
    fn the_id_of_a_device_is_found_between_other_letters() {
        let id = "0a0d3ef2-832f-46d0-96d9-b3916d341d26";
        let device = Subject::new(SubjectKind::Device, [id.to_owned()]);
        for (text, is_in) in [
            (format!("warp-{id}"), true),
            (format!("reg-{id}-old"), true),
            (format!("{id}x"), true),
            (format!("a{id}"), false),
            (format!("{id}0"), false),
        ] {
            assert_eq!(device.is_in(&text), is_in, "{text}");
        }
        let numbered = Subject::new(SubjectKind::Device, ["mac-1".to_owned()]);
        assert!(numbered.is_in("of mac-1.") && !numbered.is_in("mac-10") && !numbered.is_in("imac-1"));
    }
}
