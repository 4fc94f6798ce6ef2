//! `backfill`, and what `collect --self-heal` does between sweeps.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::TimeDelta;

use crate::api::Client;
use crate::archive::Archive;
use crate::clock::{Clock, Timestamp, Zone};
use crate::collect::{BackfillPlan, BackfillStats, CollectError, CollectOptions, Collector, SourceChoice, Stretch};
use crate::config;
use crate::disk::Disk;
use crate::ingest::{Ingest, PublishRule};
use crate::privacy::Policy;
use crate::query::{Cell, Days, GapsOptions, QueryError, Searched, StateOptions, Window, holes, latest, settled};
use crate::snapshot::{AccountId, DeviceId, HISTORY, Source};

use super::args::{Args, BackfillArgs, ResolutionArg};
use super::progress::Bar;
use super::{Exit, collect, print, random};

/// So many devices with holes are asked for one by one; more are cheaper together.
const MOST_SINGLE: usize = 8;

/// The shortest interval in which a state is expected, where holes are looked for.
const SHORTEST_HOLE: Duration = Duration::from_mins(15);

/// Healing takes at least so long, or is left to the next time.
const SHORTEST_HEALING: Duration = Duration::from_secs(5);

/// Fills the archive from the history.
pub(super) fn run(args: &Args, command: &BackfillArgs) -> anyhow::Result<Exit> {
    let (root, file) = args.config()?;
    let clock = Clock::system();
    let (policy, access) = (file.policy()?, file.archive.readable_by);
    let client_options = command.api.over(file.api).client_options(collect::seed(&clock))?;
    let wanted = Wanted::new(command, client_options.account_id.clone(), clock.now())?;
    let budget = client_options.budget;
    if command.dry_run {
        let archive = if Archive::is_absent(&root)? { None } else { Some(Archive::open(&root)?) };
        let plan = wanted.plan(archive.as_ref(), &policy, budget)?;
        let windows = plan.windows.iter().map(Stretch::to_string);
        print::data(windows.chain([format!("plan: {plan}")]).collect::<Vec<_>>().join("\n") + "\n")?;
        return Ok(Exit::Done);
    }
    collect::until_stopped(async |stop| {
        let client = collect::client(client_options, &root, &clock).await?;
        let archive = Archive::open_or_create(&root, 1, clock.now(), Disk::new(access))?;
        let (ingest, recovered) = Ingest::open(archive, 0, &collect::holder(&clock, "backfill"), policy.clone())?;
        let exit = collect::note_recovered(&recovered);
        let plan = wanted.plan(Some(ingest.archive()), &policy, budget)?;
        if !args.quiet {
            print::note(&format!("plan: {plan}"));
        }
        let bar = Bar::new(args.quiet);
        let mut collector = Collector::new(client, ingest, clock.clone(), options(), &bar, stop);
        let (stats, failed) = collector.backfill(&plan, None, random(0)).await;
        let told = report(&stats, failed.is_some(), args.quiet);
        if let Some(path) = &command.summary_json {
            print::file(path, &(serde_json::to_string_pretty(&stats)? + "\n"))?;
        }
        let finished = collector.finish();
        failed.map_or(finished, Err)?;
        Ok(collect::worse(exit, told))
    })
}

/// What is asked of the history.
struct Wanted {
    source: Source,
    account: AccountId,
    devices: Vec<DeviceId>,
    window: Window,
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
        let devices = command.device.iter().map(|id| DeviceId::parse(id)).collect::<Result<_, _>>();
        let source = match command.resolution {
            ResolutionArg::Raw => Source::Raw,
            ResolutionArg::Hourly => Source::Hourly,
        };
        Ok(Self { source, account, devices: devices.map_err(config::ConfigError::from)?, window, now })
    }

    /// What is left to ask: without what an earlier backfill read to its end.
    fn plan(
        &self,
        archive: Option<&Archive>,
        policy: &Policy,
        budget: crate::api::Budget,
    ) -> anyhow::Result<BackfillPlan> {
        let days = archive.map(|archive| Days::new(archive, true));
        // What was read as it was reported needs no averages.
        let sources: &[Source] =
            if self.source == Source::Raw { &[Source::Raw] } else { &[Source::Raw, Source::Hourly] };
        let searched =
            days.as_ref().map_or(Ok(Searched::default()), |days| Searched::read(days, self.window, sources))?;
        let left = |device: Option<&DeviceId>| {
            let known = device.map(|device| policy.stored_device(device.as_str()));
            let left = searched.left(self.account.as_str(), known.as_deref(), &[self.window]);
            left.into_iter().map(|window| stretch(window, device.cloned())).collect::<Vec<_>>()
        };
        let stretches = if self.devices.is_empty() {
            left(None)
        } else {
            self.devices.iter().flat_map(|device| left(Some(device))).collect()
        };
        let known = days.as_ref().map_or(Ok(Vec::new()), |days| known_devices(days, self.now))?;
        let devices = Some(known.len() as u64).filter(|&devices| devices > 0);
        Ok(BackfillPlan::new(self.source, stretches, devices, budget, self.now))
    }
}

fn stretch(window: Window, device: Option<DeviceId>) -> Stretch {
    Stretch { from: window.since, to: window.until, device }
}

/// Accounts and devices with a state within the history.
fn known_devices(days: &Days, now: Timestamp) -> Result<Vec<(String, String)>, QueryError> {
    let window = Window { since: now - HISTORY, until: now };
    let options = StateOptions { devices: None, columns: vec!["account_id".to_owned()], window };
    let answer = latest(days, &options)?;
    let ids = answer.rows.iter().map(|row| (row.last().and_then(Cell::text), row.first().and_then(Cell::text)));
    Ok(ids.filter_map(|(account, device)| account.zip(device)).collect())
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

fn report(stats: &BackfillStats, failed: bool, quiet: bool) -> Exit {
    let asked = &stats.asked;
    let exit = collect::exit_for(failed || !asked.held.is_empty(), asked.has_failures() || stats.windows_left > 0);
    if !quiet || exit != Exit::Done {
        let left = match stats.windows_left {
            0 => String::new(),
            left => format!(" ({left} left to the next backfill)"),
        };
        print::note(&format!(
            "{} windows{left}: {} new states, {} known; {} requests in {:.1} s ({:.0} s throttled), {} failed; {} published",
            stats.windows_done,
            asked.states_new,
            asked.states_unchanged,
            asked.requests_sent,
            asked.elapsed_s,
            asked.throttled_s,
            asked.requests_failed,
            print::bytes(asked.bytes_published),
        ));
        asked.failures.iter().for_each(|failure| print::note(&format!("  failed: {failure}")));
    }
    collect::tell(&asked.damaged, &asked.held);
    exit
}

/// Looks for holes of the last 7 days, and reads what the history has of them, for as long as there is time.
pub(super) struct Healer {
    pub(super) archive: Archive,
    pub(super) account: AccountId,
    pub(super) clock: Clock,
    pub(super) budget: crate::api::Budget,
    pub(super) interval: Duration,
    pub(super) quiet: bool,
}

impl Healer {
    /// Heals until `time` is up.
    pub(super) async fn heal(
        &self,
        collector: &mut Collector<'_>,
        time: Duration,
        number: u64,
    ) -> anyhow::Result<(Exit, Option<CollectError>)> {
        if time < SHORTEST_HEALING {
            return Ok((Exit::Done, None));
        }
        let plan = self.plan()?;
        if plan.windows.is_empty() {
            return Ok((Exit::Done, None));
        }
        if !self.quiet {
            print::note(&format!("heal: {plan}"));
        }
        let (stats, failed) = collector.backfill(&plan, Some(time), random(number)).await;
        let told = report(&stats, failed.is_some(), self.quiet);
        // What there was no time for is no fault: the next sweep goes on with it.
        Ok((if stats.asked.has_failures() { told } else { Exit::Done }, failed))
    }

    fn plan(&self) -> anyhow::Result<BackfillPlan> {
        let now = self.clock.now();
        let days = Days::new(&self.archive, true);
        let every = SHORTEST_HOLE.max(self.interval.saturating_mul(3));
        // The oldest interval is about to be forgotten, and half of it is already.
        let window = Window { since: now - HISTORY + TimeDelta::from_std(every)?, until: settled(now) };
        let options = GapsOptions { devices: None, window, every, zone: Zone::UTC, each: true, now };
        let known = known_devices(&days, now)?;
        let own = known.iter().filter(|(account, _)| account == self.account.as_str());
        let own: Vec<String> = own.map(|(_, device)| device.clone()).collect();
        let holes = holes(&days, &options, self.account.as_str(), &own)?;
        let mut by_device: BTreeMap<String, Vec<Window>> = BTreeMap::new();
        for hole in holes {
            by_device.entry(hole.device_id).or_default().push(hole.window);
        }
        let searched = Searched::read(&days, window, &[Source::Raw])?;
        let left = |device: Option<&str>, holes: &[Window]| searched.left(self.account.as_str(), device, holes);
        let named: Option<Vec<DeviceId>> = by_device.keys().map(|id| DeviceId::parse(id).ok()).collect();
        let stretches = match named.filter(|devices| devices.len() <= MOST_SINGLE) {
            Some(devices) => {
                let each = devices.into_iter().flat_map(|device| {
                    let left = left(Some(device.as_str()), &by_device[device.as_str()]);
                    left.into_iter().map(move |window| stretch(window, Some(device.clone())))
                });
                each.collect()
            }
            None => {
                let all: Vec<Window> = by_device.values().flatten().copied().collect();
                left(None, &all).into_iter().map(|window| stretch(window, None)).collect()
            }
        };
        Ok(BackfillPlan::new(Source::Raw, stretches, Some(own.len() as u64), self.budget, now))
    }
}

/// What a healer needs, before the writer's thread takes the archive.
pub(super) fn healer(client: &Client, ingest: &Ingest, clock: &Clock, interval: Duration, quiet: bool) -> Healer {
    Healer {
        archive: ingest.archive().clone(),
        account: client.account().clone(),
        clock: clock.clone(),
        budget: client.pacer().budget(),
        interval,
        quiet,
    }
}
