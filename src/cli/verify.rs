//! `verify`: findings, as a table or as JSON, and their repair. What is looked at, [`crate::verify`] knows.

use comfy_table::Table;
use comfy_table::presets::NOTHING;

use crate::archive::Archive;
use crate::clock::Clock;
use crate::collect::Progress;
use crate::privacy::{Action, Unknown};
use crate::schema::Schema;
use crate::shown::bytes;
use crate::verify::{Report, Severity, VerifyOptions, count_parts, repair, verify};

use super::args::{Args, CheckFormat, VerifyArgs};
use super::progress::Bar;
use super::{Exit, print, take};

/// Says whether the archive is what it should be, and mends what can safely be mended.
pub(super) fn run(args: &Args, command: &VerifyArgs) -> anyhow::Result<Exit> {
    let (archive, file) = args.open_archive()?;
    let policy = file.policy()?;
    let schema = Schema::device_state();
    let unmapped = schema.unmapped().filter(|_| policy.unknown() == Unknown::Drop);
    let unmapped = unmapped.map(|at| (schema.columns[at].name.as_str(), Action::Drop));
    let treated = policy.treated_columns().chain(unmapped);
    let treated = treated.map(|(name, action)| (name.to_owned(), action)).collect();
    let options = VerifyOptions { deep: command.deep, treated };
    let mut exit = Exit::Done;
    if command.repair {
        let (ingest, recovered) = take::take(archive.clone(), &Clock::system(), "verify", policy.clone())?;
        exit = take::note_recovered(&recovered);
        let report = look(args, ingest.archive(), &options)?;
        let repaired = repair(ingest.archive(), ingest.locks(), &report)?;
        repaired.sentences.iter().for_each(|sentence| print::note(sentence));
        repaired.failed.iter().for_each(|sentence| print::error(sentence));
        exit = exit.or_worse(Exit::of_work(!repaired.failed.is_empty(), false));
        if repaired.loses_rows {
            print::note("rows of the last 7 days can still be fetched: `dex-archive backfill --again`");
            exit = exit.or_worse(Exit::Partly);
        }
    }
    let report = look(args, &archive, &options)?;
    print::data(&match command.format {
        CheckFormat::Table => table(&report),
        CheckFormat::Json => format!("{}\n", serde_json::to_string_pretty(&report)?),
    })?;
    if !args.quiet {
        print::note(&summary(&report));
    }
    Ok(if report.has_findings() { exit.or_worse(Exit::Partly) } else { exit })
}

fn look(args: &Args, archive: &Archive, options: &VerifyOptions) -> anyhow::Result<Report> {
    let bar = Bar::new(args.quiet);
    bar.start("parts", Some(count_parts(archive)?));
    let report = verify(archive, options, &mut |_part| bar.advance(1));
    bar.finish();
    Ok(report?)
}

fn table(report: &Report) -> String {
    if report.findings.is_empty() {
        return String::new();
    }
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(["", "what", "problem", "remedy"]);
    for finding in &report.findings {
        let subject = finding.subject.display().to_string();
        table.add_row([finding.severity.name(), &print::safe_word(&subject), &finding.problem, &finding.remedy]);
    }
    format!("{table}\n")
}

fn summary(report: &Report) -> String {
    format!(
        "{} parts, {} rows, {}; {} answers wait in the journal; {} errors, {} warnings, {} notes",
        report.parts,
        report.rows,
        bytes(report.bytes),
        report.pending_answers,
        report.count(Severity::Error),
        report.count(Severity::Warning),
        report.count(Severity::Note),
    )
}
