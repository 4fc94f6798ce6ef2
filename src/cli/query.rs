//! `query`.

mod format;

use std::path::Path;
use std::time::Duration;

use crate::archive::Archive;
use crate::clock::Clock;
use crate::config::{self, ConfigError};
use crate::privacy::{Action, Policy};
use crate::query::{
    Answer, AppsOptions, QueryError, StateOptions, TrendOptions, Who, Window, apps, changes, latest, metrics,
    resolve_devices, trend,
};
use crate::snapshot::DeviceId;

use super::args::{Args, OutputArgs, QueryArgs, Question, TrendArgs, WindowArgs};
use super::{Exit, print};

pub(super) use format::table;

/// Answers a question.
pub(super) fn run(args: &Args, command: &QueryArgs) -> anyhow::Result<Exit> {
    let (archive, file) = args.open_archive()?;
    let asker = Asker { archive, policy: file.policy()? };
    let (answer, output) = match &command.question {
        Question::Trend(question) => (asker.trend(question)?, &question.output),
        Question::Latest(question) => {
            let until = config::parse_time(&question.at, Clock::system().now())?;
            // The state of that very moment counts.
            let until = until + chrono::TimeDelta::microseconds(1);
            let since = until - span(&question.back)?;
            let columns = question.column.clone();
            let options = asker.states(&question.device, columns, Window { since, until })?;
            (latest(&asker.archive, &options)?, &question.output)
        }
        Question::Changes(question) => {
            let window = window(&question.window)?;
            let options = asker.states(&question.device, question.column.clone(), window)?;
            (changes(&asker.archive, &options)?, &question.output)
        }
        Question::Apps(question) => {
            let window = window(&question.window)?;
            let devices = asker.devices(&question.device, window)?;
            let options = AppsOptions { devices, resource: question.resource.clone(), window, top: question.top };
            (apps(&asker.archive, &options)?, &question.output)
        }
    };
    put(&answer, output)?;
    Ok(Exit::Done)
}

/// Who asks, and what.
struct Asker {
    archive: Archive,
    policy: Policy,
}

impl Asker {
    fn trend(&self, question: &TrendArgs) -> anyhow::Result<Answer> {
        let window = window(&question.window)?;
        let metrics = metrics(&question.metric)?;
        let who = match self.devices(&question.device, window)? {
            Some(devices) => Who::Devices(devices),
            None => Who::Fleet { by: question.by.clone() },
        };
        let every = config::parse_duration(&question.every)?;
        let aggs = question.agg.clone();
        Ok(trend(&self.archive, &TrendOptions { who, metrics, window, every, aggs })?)
    }

    fn states(&self, devices: &[String], columns: Vec<String>, window: Window) -> Result<StateOptions, QueryError> {
        Ok(StateOptions { devices: self.devices(devices, window)?, columns, window })
    }

    /// The ids of devices as they are in the archive; none where none was named.
    fn devices(&self, named: &[String], window: Window) -> Result<Option<Vec<String>>, QueryError> {
        let mut ids = Vec::new();
        for device in named {
            for id in self.device(device, window)? {
                if !ids.contains(&id) {
                    ids.push(id);
                }
            }
        }
        Ok((!named.is_empty()).then_some(ids))
    }

    /// Where ids, names or addresses are pseudonyms in the archive, what was typed is made one.
    fn device(&self, device: &str, window: Window) -> Result<Vec<String>, QueryError> {
        let is_treated = |column| self.policy.treated_columns().any(|treated| treated == (column, Action::Pseudonym));
        let column = match DeviceId::parse(device) {
            Ok(_) => "device_id",
            Err(_) if device.contains('@') => "person_email",
            Err(_) => "device_name",
        };
        match self.policy.pseudonym(device).filter(|_| is_treated(column)) {
            Some(pseudonym) if column == "device_id" => Ok(vec![pseudonym]),
            Some(pseudonym) => resolve_devices(&self.archive, &pseudonym, window),
            None => resolve_devices(&self.archive, device, window),
        }
    }
}

fn window(args: &WindowArgs) -> Result<Window, ConfigError> {
    let now = Clock::system().now();
    Ok(Window { since: config::parse_time(&args.since, now)?, until: config::parse_time(&args.until, now)? })
}

fn span(text: &str) -> Result<chrono::TimeDelta, ConfigError> {
    let span: Duration = config::parse_duration(text)?;
    chrono::TimeDelta::from_std(span).map_err(|_out_of_range| ConfigError::Duration(text.to_owned()))
}

fn put(answer: &Answer, output: &OutputArgs) -> anyhow::Result<()> {
    let text = format::write(answer, output.format);
    match &output.output {
        Some(path) if path != Path::new("-") => print::file(path, &text),
        _ => Ok(print::data(&text)?),
    }
}
