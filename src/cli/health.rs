//! `status` and `doctor`: checks, printed. What is checked, [`crate::health`] knows.

use chrono::TimeDelta;
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde::Serialize;

use crate::api::Client;
use crate::archive::Archive;
use crate::clock::Clock;
use crate::config::{self, ConfigError};
use crate::health::{Check, Level, Status, StatusOptions, examine, examine_place};
use crate::snapshot::HISTORY;

use super::args::{Args, CheckFormat, DoctorArgs, StatusArgs};
use super::connect::seed;
use super::{Exit, print, runtime};

/// Says how the collecting goes.
pub(super) fn status(args: &Args, command: &StatusArgs) -> anyhow::Result<Exit> {
    let (place, file) = args.config()?;
    let expect = config::parse_duration(&command.expect)?;
    if TimeDelta::from_std(expect).map_or(true, |expect| expect >= HISTORY) {
        return Err(ConfigError::Expect(command.expect.clone()).into());
    }
    let options = StatusOptions {
        now: Clock::system().now(),
        max_age: config::parse_duration(&command.max_age)?,
        expect,
        longest_wait: file.archive.publish_rule()?.longest_wait(),
        accounts: file.known_accounts(),
    };
    let status = Status::read(&Archive::open(&place)?, &options)?;
    show(command.format, &status.checks, &status)?;
    Ok(if status.is_poor() { Exit::Partly } else { Exit::Done })
}

/// Says whether everything is fit for collecting.
pub(super) fn doctor(args: &Args, command: &DoctorArgs) -> anyhow::Result<Exit> {
    let (place, file) = args.config()?;
    // What only other commands need is looked at too: a wrong rule would be told at the next sweep.
    let policy = file.policy()?;
    file.archive.publish_rule()?;
    file.report.plan()?;
    let clock = Clock::system();
    let config =
        args.config_file().map_or("none is named".to_owned(), |path| format!("{} can be read", path.display()));
    let mut checks = vec![Check::fine("config", config)];
    checks.extend(examine_place(&place, policy.key_mark().as_deref(), policy.is_said()));
    match command.api.clients(&file, seed(&clock)) {
        Ok(accounts) => {
            let several = accounts.len() > 1;
            for (name, options) in accounts {
                let found = match options {
                    Ok(options) => {
                        let client = Client::new(options, clock.clone())?;
                        let token = Check::fine("token", "is there; whether it is let in, the endpoints say");
                        [vec![token], runtime()?.block_on(examine(&client))].concat()
                    }
                    Err(error) => vec![no_credentials(&error)],
                };
                checks.extend(found.into_iter().map(|check| if several { check.of(&name) } else { check }));
            }
        }
        Err(error) => checks.push(no_credentials(&error)),
    }
    show(command.format, &checks, &checks)?;
    let is_poor = checks.iter().any(|check| check.level == Level::Poor);
    Ok(if is_poor { Exit::Partly } else { Exit::Done })
}

fn no_credentials(error: &ConfigError) -> Check {
    Check::poor("credentials", error.to_string(), "nothing can be asked before that")
}

fn show(format: CheckFormat, checks: &[Check], all: &impl Serialize) -> anyhow::Result<()> {
    match format {
        CheckFormat::Json => print::data(serde_json::to_string_pretty(all)? + "\n")?,
        CheckFormat::Table => print::data(format!("{}\n", table(checks)))?,
    }
    Ok(())
}

fn table(checks: &[Check]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    for check in checks {
        let found = print::safe_word(&check.found);
        let words =
            if check.remedy.is_empty() { found } else { format!("{found}\n→ {}", print::safe_word(&check.remedy)) };
        table.add_row([check.level.name(), &print::safe_word(&check.name), &words]);
    }
    table
}
