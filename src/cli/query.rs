//! `query`: what is asked of the archive, and in which form the answer is given. The answers are [`crate::query`]'s.

mod course;
mod format;
mod table;

use std::collections::HashSet;
use std::time::Duration;

use crate::archive::Archive;
use crate::caseless::folded;
use crate::clock::{self, Clock, Timestamp, Zone};
use crate::config::{self, ConfigError, ConfigFile};
use crate::health;
use crate::privacy::{Policy, is_pseudonym};
use crate::query::{
    Answer, AppsOptions, ChangesOptions, Days, GapsOptions, KNOWN_BEFORE, Named, QueryError, Shared, StateOptions,
    TrendOptions, Who, Window, apps, changes, each_gap, gaps, is_pattern, last_seen, latest, metrics, resolve_devices,
    shared, trend, whole_intervals,
};
use crate::snapshot::DeviceId;

use super::args::{
    AppsArgs, Args, ChangesArgs, Format, GapsArgs, LatestArgs, OutputArgs, QueryArgs, Question, TrendArgs, WindowArgs,
};
use super::{Exit, print};

pub(super) use table::table;

/// For so long before a window a device is looked for that has no state in it, to say so: a mistyped name is to cost little.
const LOOKED_BACK: chrono::TimeDelta = chrono::TimeDelta::days(92);

/// Letters of a line where nobody says how many there are.
const WIDTH: usize = 100;

/// Answers a question.
pub(super) fn run(args: &Args, command: &QueryArgs) -> anyhow::Result<Exit> {
    let (archive, file) = args.open_archive()?;
    let output = command.question.output();
    // A file that cannot be written so is told before anything is read.
    output.format()?;
    let days = days(&archive, &file, command.account.as_deref(), output.skip_damaged)?;
    let asker = Asker::new(days, &archive, file.policy_of_reader()?, (output.tz, Clock::system().now()));
    let (answer, plot) = match &command.question {
        Question::Trend(question) => (asker.trend(question)?, question.plot),
        Question::Latest(question) => (asker.latest(question)?, false),
        Question::Changes(question) => (asker.changes(question)?, false),
        Question::Apps(question) => (asker.apps(question)?, false),
        Question::Gaps(question) => (asker.gaps(question, known_until(&archive, &file, asker.now)?)?, false),
    };
    show(&answer, output, plot)?;
    Ok(Exit::of_work(false, !asker.days.skipped().is_empty()))
}

/// Until when the archive knows what was asked for.
pub(super) fn known_until(archive: &Archive, file: &ConfigFile, now: Timestamp) -> anyhow::Result<Timestamp> {
    Ok(health::known_until(archive, file.archive.publish_rule()?.longest_wait(), now))
}

/// The days of an archive, of one account if one was typed.
pub(super) fn days<'a>(
    archive: &'a Archive,
    file: &ConfigFile,
    account: Option<&str>,
    skip_damaged: bool,
) -> Result<Days<'a>, ConfigError> {
    let account = account.map(|account| file.one_account(Some(account))).transpose()?;
    if archive.is_resharding() && !archive.is_on_disk() {
        // Parts come and go there one by one.
        tracing::warn!("it is being filed into other shards: until `reshard` has ended, rows may count twice");
    }
    Ok(Days::new(archive, skip_damaged).of_account(account))
}

/// Writes an answer where it is wanted, as it is wanted.
pub(super) fn show(answer: &Answer, output: &OutputArgs, plot: bool) -> anyhow::Result<()> {
    let format = output.format()?;
    let text = if plot {
        course::charts(answer, output.tz, print::width().unwrap_or(WIDTH)).into_bytes()
    } else {
        format::write(answer, format, output.tz)?
    };
    let is_binary = format == Format::Parquet;
    let why = is_binary.then_some("Parquet is nothing for a terminal: name a file with -o");
    print::answer(output.output.as_deref(), &text, why).map(drop)
}

/// Who asks, and what.
pub(super) struct Asker<'a> {
    pub(super) days: Days<'a>,
    pub(super) policy: Policy,
    /// Whether there are pseudonyms by keys that the policy has not.
    has_unknown_keys: bool,
    pub(super) zone: Zone,
    pub(super) now: Timestamp,
}

impl<'a> Asker<'a> {
    pub(super) fn new(days: Days<'a>, archive: &Archive, policy: Policy, (zone, now): (Zone, Timestamp)) -> Self {
        let mark = policy.key_mark();
        let has_unknown_keys = archive.pseudonym_keys().iter().any(|key| Some(&key.mark) != mark.as_ref());
        Self { days, policy, has_unknown_keys, zone, now }
    }

    fn trend(&self, question: &TrendArgs) -> anyhow::Result<Answer> {
        let window = self.window(&question.window)?;
        let metrics = metrics(&question.metric)?;
        let who = match self.devices(&question.device, window)? {
            Some(devices) => Who::Devices(devices),
            None => Who::Fleet { by: question.by.clone() },
        };
        let every = config::parse_duration(&question.every)?;
        let aggs = distinct(&question.agg);
        Ok(trend(&self.days, &TrendOptions { who, metrics, window, every, zone: self.zone, aggs })?)
    }

    fn latest(&self, question: &LatestArgs) -> anyhow::Result<Answer> {
        let until = config::parse_time(&question.at, self.zone, self.now)?;
        // The state of that very moment counts.
        let until = until + chrono::TimeDelta::microseconds(1);
        let since = until.checked_sub_signed(span(&question.back)?);
        let since = since.ok_or_else(|| ConfigError::Duration(question.back.clone()))?;
        let window = Window { since, until };
        Ok(latest(&self.days, &self.states(&question.device, &question.column, window)?)?)
    }

    fn changes(&self, question: &ChangesArgs) -> anyhow::Result<Answer> {
        let window = self.window(&question.window)?;
        let states = self.states(&question.device, &question.column, window)?;
        Ok(changes(&self.days, &ChangesOptions { states, back: span(&question.back)? })?.into_answer())
    }

    fn apps(&self, question: &AppsArgs) -> anyhow::Result<Answer> {
        let window = self.window(&question.window)?;
        let devices = self.devices(&question.device, window)?;
        Ok(apps(&self.days, &AppsOptions { devices, resource: question.resource.clone(), window, top: question.top })?)
    }

    fn gaps(&self, question: &GapsArgs, known_until: Timestamp) -> anyhow::Result<Answer> {
        let window = self.window(&question.window)?;
        if known_until < window.until.min(self.now) {
            let since = clock::format_in(known_until, self.zone);
            print::note(&format!(
                "what was received since {since} is not published yet: intervals that end later are not counted"
            ));
        }
        let every = config::parse_duration(&question.every)?;
        // Whoever has a state in an interval that the window only touches is meant too.
        let whole = whole_intervals(window, every, self.zone, self.now)?;
        let devices = self.devices_of(&question.device, whole, &|device, window| self.known_device(device, window))?;
        let options = GapsOptions { devices, window, every, zone: self.zone, now: self.now, known_until };
        Ok(if question.each {
            each_gap(&self.days, &options)?.into_answer()
        } else {
            gaps(&self.days, &options)?.into_answer()
        })
    }

    fn states(&self, devices: &[String], columns: &[String], window: Window) -> Result<StateOptions, QueryError> {
        Ok(StateOptions { devices: self.devices(devices, window)?, columns: distinct(columns), window })
    }

    fn window(&self, args: &WindowArgs) -> Result<Window, ConfigError> {
        let time = |text| config::parse_time(text, self.zone, self.now);
        Ok(Window { since: time(&args.since)?, until: time(&args.until)? })
    }

    /// The ids of devices as they are in the archive; none where none was named.
    pub(super) fn devices(&self, named: &[String], window: Window) -> Result<Option<Vec<String>>, QueryError> {
        self.devices_of(named, window, &|device, window| match self.device(device, window) {
            Err(error @ QueryError::NoDevice { .. }) => Err(self.why_not(device, window, error)),
            found => found,
        })
    }

    /// Why nothing of a device is there in a window, as `error` says: it may have states at another time, or stand under a
    /// pseudonym.
    fn why_not(&self, device: &str, window: Window, error: QueryError) -> QueryError {
        let since = window.since.checked_sub_signed(LOOKED_BACK).unwrap_or(window.since);
        let any = Window { since, until: self.now.max(window.until) };
        let ids = match self.device(device, any) {
            Ok(ids) => ids,
            Err(ambiguous @ QueryError::Ambiguous { .. }) => return ambiguous,
            Err(_) => Vec::new(),
        };
        let last = last_seen(&self.days, &ids, any).ok().and_then(|seen| seen.into_values().max());
        if last.is_none() && self.has_unknown_keys {
            tracing::warn!(
                "what is personal stands under pseudonyms here: name the config that has their rules and key (--config)"
            );
        }
        last.map_or(error, |last| QueryError::NotInWindow { device: device.to_owned(), window, last })
    }

    /// The ids of devices, by what finds those of one name.
    fn devices_of(&self, named: &[String], window: Window, find: Find) -> Result<Option<Vec<String>>, QueryError> {
        let mut ids = Vec::new();
        for device in named {
            let found = find(device, window)?;
            self.tell_shared(device, &found, window)?;
            ids.extend(found);
        }
        let mut known = HashSet::new();
        ids.retain(|id| known.insert(id.clone()));
        Ok((!named.is_empty()).then_some(ids))
    }

    /// Says where an answer about a device is about more than whoever named it may think. What is named by its id, or by a
    /// pattern, is all that is meant.
    fn tell_shared(&self, named: &str, devices: &[String], window: Window) -> Result<(), QueryError> {
        if DeviceId::parse(named).is_ok() || is_pattern(named) {
            return Ok(());
        }
        let Shared { people, accounts } = shared(&self.days, devices, window)?;
        let pseudonym = self.policy.pseudonym(named);
        let wanted = folded(named);
        let is_other = |person: &&String| folded(person) != wanted && Some(*person) != pseudonym.as_ref();
        let others = people.iter().filter(is_other).count();
        if named.contains('@') && others > 0 {
            let people = if others == 1 { "another person" } else { "other people" };
            tracing::warn!(
                "{named} shares a device with {people}, whose states are in the answer too: `query trend --fleet --by person_email` tells them apart"
            );
        }
        if accounts.len() > 1 {
            let accounts: Vec<&str> = accounts.iter().map(String::as_str).collect();
            tracing::warn!(
                "{named} is in several accounts, and the answer is of all: name one with --account ({})",
                accounts.join(", ")
            );
        }
        Ok(())
    }

    /// The ids of a device that is named; where it has no state in the window, by what it was called before.
    fn known_device(&self, device: &str, window: Window) -> Result<Vec<String>, QueryError> {
        match self.device(device, window) {
            Err(QueryError::NoDevice { .. }) => {
                let since = window.since.checked_sub_signed(KNOWN_BEFORE).unwrap_or(window.since);
                self.device(device, Window { since, ..window })
            }
            found => found,
        }
    }

    /// What was typed may be a pseudonym in the archive: where there is a key, both are looked for.
    fn device(&self, device: &str, window: Window) -> Result<Vec<String>, QueryError> {
        let pseudonym = self.policy.pseudonym(device).filter(|_| !is_pseudonym(device));
        let hides_ids = self.policy.hides_devices();
        resolve_devices(&self.days, &Named { typed: device, pseudonym: pseudonym.as_deref(), hides_ids }, window)
    }
}

/// The ids of the devices that were named by a word.
type Find<'a> = &'a dyn Fn(&str, Window) -> Result<Vec<String>, QueryError>;

/// What was typed, each once.
fn distinct<T: Clone + PartialEq>(typed: &[T]) -> Vec<T> {
    let mut distinct = Vec::new();
    for one in typed {
        if !distinct.contains(one) {
            distinct.push(one.clone());
        }
    }
    distinct
}

fn span(text: &str) -> Result<chrono::TimeDelta, ConfigError> {
    let span: Duration = config::parse_duration(text)?;
    chrono::TimeDelta::from_std(span).map_err(|_out_of_range| ConfigError::Duration(text.to_owned()))
}

impl Question {
    fn output(&self) -> &OutputArgs {
        match self {
            Self::Trend(question) => &question.output,
            Self::Latest(question) => &question.output,
            Self::Changes(question) => &question.output,
            Self::Apps(question) => &question.output,
            Self::Gaps(question) => &question.output,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::args::Command;
    use super::*;

    #[test]
    fn what_is_typed_twice_counts_once() {
        assert_eq!(distinct(&["b", "a", "b", "b", "c"]), ["b", "a", "c"]);
    }

    #[test]
    fn a_report_takes_the_form_that_is_asked_for_or_that_the_name_of_its_file_ends_in() {
        use super::super::args::ReportFormat;
        let format = |more: &[&str]| {
            let args = Args::parse_from(["dex-archive", "report"].iter().chain(more));
            let Command::Report(report) = &args.command else { panic!("a report") };
            report.format().ok()
        };
        for (name, expected) in
            [("r.md", ReportFormat::Markdown), ("r.JSON", ReportFormat::Json), ("r.htm", ReportFormat::Html)]
        {
            assert_eq!(format(&["-o", name]), Some(expected), "{name}");
        }
        assert_eq!(format(&["-o", "r.md", "--format", "html"]), Some(ReportFormat::Html));
        assert_eq!(format(&[]), Some(ReportFormat::Html));
        assert_eq!(format(&["-o", "r.pdf"]), None);
    }

    #[test]
    fn an_answer_takes_the_form_that_is_asked_for_or_that_the_name_of_its_file_ends_in() {
        let format = |more: &[&str]| {
            let args = Args::parse_from(["dex-archive", "query", "gaps"].iter().chain(more));
            let Command::Query(query) = &args.command else { panic!("a query") };
            query.question.output().format().ok()
        };
        for (name, expected) in [
            ("a.csv", Format::Csv),
            ("a.b/c.JSON", Format::Json),
            ("a.ndjson", Format::Ndjson),
            ("a.jsonl", Format::Ndjson),
            ("a.md", Format::Markdown),
            ("a.parquet", Format::Parquet),
            ("a.txt", Format::Table),
            ("csv", Format::Table),
            ("-", Format::Table),
        ] {
            assert_eq!(format(&["-o", name]), Some(expected), "{name}");
        }
        assert_eq!(format(&["-o", "a.csv", "--format", "json"]), Some(Format::Json));
        assert_eq!(format(&[]), Some(Format::Table));
        assert_eq!(format(&["-o", "a.xlsx"]), None);
    }
}
