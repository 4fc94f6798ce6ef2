//! `report`: the page, written to where it is wanted. What is on it, [`crate::report`] knows.

use crate::clock::Clock;
use crate::config::{self, ConfigError};
use crate::query::Window;
use crate::report::{Report, ReportOptions, to_html, to_markdown};
use crate::shown::bytes;

use super::args::{Args, ReportArgs, ReportFormat};
use super::query::{self, Asker};
use super::{Exit, print};

/// Makes a report.
pub(super) fn run(args: &Args, command: &ReportArgs) -> anyhow::Result<Exit> {
    let format = command.format()?;
    let (archive, file) = args.open_archive()?;
    let (plan, zone) = (file.report.plan()?, command.tz);
    let clock = Clock::system().now();
    let now = command.now.as_deref().map_or(Ok(clock), |text| config::parse_time(text, zone, clock))?;
    let days = query::days(&archive, &file, command.account.as_deref(), command.skip_damaged)?;
    let asker = Asker::new(days, &archive, file.policy_of_reader()?, (zone, now));
    let time = |text: &str| config::parse_time(text, zone, now);
    let window = Window { since: time(&command.since)?, until: time(&command.until)? };
    let every = command.every.as_deref().map(config::parse_duration).transpose()?;
    if let Some(typed) = &command.every
        && (window.until - window.since).to_std().is_ok_and(|length| every > Some(length) && !length.is_zero())
    {
        return Err(ConfigError::LongEvery(typed.clone()).into());
    }
    let options = ReportOptions {
        devices: asker.devices(&command.device, window)?,
        window,
        every,
        expect: config::parse_duration(&command.expect)?,
        zone,
        now,
        known_until: query::known_until(&archive, &file, now)?,
        worst: command.worst,
    };
    let report = Report::new(&asker.days, &plan, &options)?;
    let text = match format {
        ReportFormat::Html => to_html(&report, zone),
        ReportFormat::Markdown => to_markdown(&report, zone),
        ReportFormat::Json => serde_json::to_string_pretty(&report)? + "\n",
    };
    let path = command.output.as_deref();
    let is_page = format == ReportFormat::Html;
    let why = "a page is nothing for a terminal: name a file with -o, or ask for --format markdown";
    let is_written = print::answer(path, text.as_bytes(), is_page.then_some(why))?;
    if let (Some(path), true, false) = (path, is_written, args.quiet) {
        let (sections, devices, size) = (report.sections.len(), report.devices.len(), bytes(text.len() as u64));
        print::note(&format!("{}: {sections} sections, {devices} devices, {size}", path.display()));
    }
    Ok(Exit::of_work(false, !asker.days.skipped().is_empty()))
}
