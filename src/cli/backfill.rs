//! `backfill`: which windows of the history are read, and what came of it.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::time::Duration;

use crate::api::Budget;
use crate::archive::Archive;
use crate::clock::{Clock, Timestamp, Zone};
use crate::collect::{BackfillPlan, BackfillStats, CollectOptions, Collector, SourceChoice, Stretch};
use crate::config;
use crate::ingest::PublishRule;
use crate::privacy::Policy;
use crate::query::{Days, QueryError, Searched, Window, devices_seen};
use crate::shown::bytes;
use crate::snapshot::{AccountId, DeviceId, HISTORY, Source};

use super::args::{Args, BackfillArgs, ResolutionArg};
use super::connect::{client, seed, with_credential};
use super::progress::Bar;
use super::signals::until_stopped;
use super::{Exit, print, summary, sweep_number, take};

/// So many windows of a plan are shown, unless all are wanted.
const MOST_WINDOWS: usize = 20;

/// Fills the archive from the history, one account after the other.
pub(super) fn run(args: &Args, command: &BackfillArgs) -> anyhow::Result<Exit> {
    let (place, file) = args.config()?;
    let clock = Clock::system();
    let (policy, access) = (file.policy()?, file.archive.readable_by);
    let accounts = command.api.clients(&file, seed(&clock))?;
    if accounts.len() > 1 && !command.device.is_empty() {
        return Err(config::ConfigError::WhichAccount(accounts.into_iter().map(|(name, _)| name).collect()).into());
    }
    let several = accounts.len() > 1;
    let askable = with_credential(accounts)?;
    let (exit, accounts) = (askable.exit(), askable.accounts);
    let wanted = accounts.iter().map(|(_, options)| Wanted::new(command, options.account_id.clone(), clock.now()));
    let wanted = wanted.collect::<anyhow::Result<Vec<_>>>()?;
    if command.dry_run {
        let archive = Archive::find(&place)?;
        for ((_, options), wanted) in accounts.iter().zip(&wanted) {
            print_plan(&wanted.plan(archive.as_ref(), &policy, options.budget)?, args.verbose > 0)?;
        }
        return Ok(exit);
    }
    until_stopped(async |stop| {
        let mut exit = exit;
        let mut unasked = accounts.len();
        let mut summaries = serde_json::Map::new();
        for ((name, client_options), wanted) in accounts.into_iter().zip(&wanted) {
            let budget = client_options.budget;
            let client = client(client_options, Archive::find(&place)?.is_none(), &clock).await?;
            let (ingest, recovered) = take::open(&place, &clock, "backfill", access, policy.clone())?;
            exit = exit.or_worse(take::note_recovered(&recovered));
            let plan = wanted.plan(Some(ingest.archive()), &policy, budget)?;
            if !args.quiet {
                print::note(&format!("plan ({name}): {plan}"));
            }
            let bar = Bar::new(args.quiet);
            let mut collector = Collector::new(client, ingest, &clock, &options(), &bar, &stop);
            let (stats, failed) = collector.backfill(&plan, None, sweep_number(0)).await;
            exit = exit.or_worse(report(&stats, failed.is_some(), args.quiet));
            summaries.insert(wanted.account.as_str().to_owned(), serde_json::to_value(&stats)?);
            if let Some(path) = &command.summary_json {
                write_summary(path, &summaries, several)?;
            }
            let finished = collector.finish();
            match failed.map_or(finished, Err) {
                // The others' history is read all the same.
                Err(error) if several => {
                    print::error(&format_args!("{name}: {error}"));
                    exit = Exit::Failed;
                }
                ended => ended?,
            }
            unasked -= 1;
            if stop.is_requested() {
                break;
            }
        }
        if unasked > 0 {
            print::note(&format!(
                "stopped before the last {unasked} of the accounts were asked: the next backfill does"
            ));
            exit = exit.or_worse(Exit::Partly);
        }
        Ok(exit)
    })
}

/// Writes what was done so far: of several accounts by each, of one as it is.
fn write_summary(
    path: &Path,
    summaries: &serde_json::Map<String, serde_json::Value>,
    several: bool,
) -> anyhow::Result<()> {
    let own = summaries.values().next().filter(|_| !several).cloned();
    let summary = own.unwrap_or_else(|| serde_json::json!({ "accounts": summaries }));
    print::file(path, serde_json::to_string_pretty(&summary)? + "\n")
}

/// Prints what would be asked for, window by window; only the first of many, unless `all` are wanted.
fn print_plan(plan: &BackfillPlan, all: bool) -> io::Result<()> {
    let shown = if all { plan.windows.len() } else { plan.windows.len().min(MOST_WINDOWS) };
    let windows = plan.windows[..shown].iter().map(Stretch::to_string);
    let more = plan.windows.len() - shown;
    let more = (more > 0).then(|| format!("and {more} more: -v shows all"));
    print::data(windows.chain(more).chain([format!("plan: {plan}")]).collect::<Vec<_>>().join("\n") + "\n")
}

/// What is asked of the history.
struct Wanted {
    source: Source,
    account: AccountId,
    devices: Vec<DeviceId>,
    window: Window,
    /// Also what was read before.
    again: bool,
    now: Timestamp,
}

impl Wanted {
    fn new(command: &BackfillArgs, account: AccountId, now: Timestamp) -> anyhow::Result<Self> {
        let time = |text: &str| config::parse_time(text, Zone::UTC, now);
        let window = Window { since: time(&command.since)?, until: time(&command.until)?.min(now) };
        if window.until <= window.since {
            return Err(QueryError::EmptyWindow(window).into());
        }
        if window.until <= now - HISTORY {
            anyhow::bail!("Cloudflare's history reaches back 7 days: nothing of that time can be asked for any more");
        }
        let mut devices: Vec<DeviceId> = command
            .device
            .iter()
            .map(|id| DeviceId::parse(id))
            .collect::<Result<_, _>>()
            .map_err(config::ConfigError::from)?;
        devices.sort_unstable();
        devices.dedup();
        let source = match command.resolution {
            ResolutionArg::Raw => Source::Raw,
            ResolutionArg::Hourly => Source::Hourly,
        };
        Ok(Self { source, account, devices, window, again: command.again, now })
    }

    /// What is left to ask: without what an earlier backfill read to its end.
    fn plan(&self, archive: Option<&Archive>, policy: &Policy, budget: Budget) -> anyhow::Result<BackfillPlan> {
        let days = archive.map(|archive| Days::new(archive, true));
        // What was read as it was reported needs no averages.
        let sources: &[Source] = if self.source == Source::Raw { &[Source::Raw] } else { &Source::HISTORY };
        let searched =
            days.as_ref().map_or(Ok(Searched::default()), |days| Searched::read(days, self.window, sources))?;
        let left = |device: Option<&DeviceId>| {
            let known = device.map(|device| policy.stored_device(device.as_str()));
            let left = if self.again {
                vec![self.window]
            } else {
                searched.left(self.account.as_str(), known.as_deref(), &[self.window])
            };
            left.into_iter().map(|window| stretch(window, device.cloned())).collect::<Vec<_>>()
        };
        let stretches = if self.devices.is_empty() {
            left(None)
        } else {
            self.devices.iter().flat_map(|device| left(Some(device))).collect()
        };
        let known = days.as_ref().map_or(Ok(BTreeSet::new()), |days| known_devices(days, self.now))?;
        let devices = Some(known.len() as u64).filter(|&devices| devices > 0);
        Ok(BackfillPlan::new(self.source, stretches, devices, budget, self.now, None))
    }
}

pub(super) fn stretch(window: Window, device: Option<DeviceId>) -> Stretch {
    Stretch { from: window.since, to: window.until, device }
}

/// Accounts and devices with a state within the history.
pub(super) fn known_devices(days: &Days, now: Timestamp) -> Result<BTreeSet<(String, String)>, QueryError> {
    devices_seen(days, Window { since: now - HISTORY, until: now })
}

/// A backfill neither sweeps nor waits for more.
fn options() -> CollectOptions {
    CollectOptions {
        source: SourceChoice::List,
        devices: Vec::new(),
        since_minutes: 1,
        interval: Duration::ZERO,
        deadline: None,
        publish: PublishRule::Sweep,
    }
}

pub(super) fn report(stats: &BackfillStats, failed: bool, quiet: bool) -> Exit {
    let asked = &stats.asked;
    let is_partial = asked.has_failures() || stats.windows_left + stats.windows_forgotten > 0;
    let exit = Exit::of_work(failed || !asked.held.is_empty(), is_partial);
    if !quiet || exit != Exit::Done {
        let left = match stats.windows_left {
            0 => String::new(),
            left => format!(" ({left} left to the next backfill)"),
        };
        let forgotten = match stats.windows_forgotten {
            0 => String::new(),
            forgotten => format!(" ({forgotten} were forgotten by Cloudflare before they could be asked for)"),
        };
        print::note(&format!(
            "{} windows{left}{forgotten}: {} new states, {} known; {} requests in {:.1} s ({:.0} s throttled), {} failed; {} published",
            stats.windows_done,
            asked.states_new,
            asked.states_unchanged,
            asked.requests_sent,
            asked.elapsed_s,
            asked.throttled_s,
            asked.requests_failed,
            bytes(asked.bytes_published),
        ));
        asked.failures.iter().for_each(|failure| print::note(&format!("  failed: {failure}")));
    }
    summary::tell_found(asked);
    summary::tell_publish(&asked.damaged, &asked.held);
    exit
}
