//! `collect`.

use std::io::Read;
use std::time::Duration;

use anyhow::Context;

use crate::api::{Client, ClientOptions};
use crate::archive::{Archive, ShardLock};
use crate::clock::{self, Clock};
use crate::collect::{
    CollectError, CollectOptions, CollectStats, Collector, Plan, SourceChoice, Stop, StopSwitch, stop_pair,
};
use crate::config::{self, ConfigError};
use crate::disk::{Access, Disk};
use crate::ingest::{Ingest, PublishRule, Published};
use crate::privacy::Policy;
use crate::snapshot::DeviceId;

use super::args::{Args, CollectArgs, SourceArg};
use super::backfill::{self, Healer};
use super::progress::Bar;
use super::{Exit, print, random};

/// The interval that a single sweep has to fit, where nothing is said.
const INTERVAL: Duration = Duration::from_mins(5);

/// Added to the interval: states may take some minutes to reach the API.
const LATE_MINUTES: u64 = 5;

/// Collects, once or in a loop.
pub(super) fn run(args: &Args, command: &CollectArgs) -> anyhow::Result<Exit> {
    let (root, file) = args.config()?;
    let every = command.every.as_deref().map(config::parse_duration).transpose()?;
    let clock = Clock::system();
    let (policy, access) = (file.policy()?, file.archive.readable_by);
    let client_options = command.api.over(file.api).client_options(seed(&clock))?;
    let rule = file.archive.publish_rule()?;
    let options = collect_options(command, every.unwrap_or(INTERVAL), rule)?;
    if command.dry_run {
        print::data(format!("plan: {}\n", Plan::new(&options, client_options.budget)))?;
        return Ok(Exit::Done);
    }
    until_stopped(async |stop| {
        let client = client(client_options, &root, &clock).await?;
        let archive = Archive::open_or_create(&root, 1, clock.now(), Disk::new(access))?;
        let mut ingest = Ingest::attach(archive, 0, &holder(&clock, "collect"), policy.clone())?;
        let recovered = ingest.publish_if_due(rule, clock.now(), options.interval)?;
        let exit = recovered.as_ref().map_or(Exit::Done, note_recovered);
        let healer = backfill::healer(&client, &ingest, &clock, &options, &policy, args.quiet);
        let healer = command.self_heal.then_some(healer);
        let bar = Bar::new(args.quiet);
        let collector = Collector::new(client, ingest, clock.clone(), options, &bar, stop.clone());
        sweeps(Sweeps { collector, command, every, healer, quiet: args.quiet }, &stop, exit).await
    })
}

/// Does asynchronous work until it is done, or signals end it.
pub(super) fn until_stopped(work: impl AsyncFnOnce(Stop) -> anyhow::Result<Exit>) -> anyhow::Result<Exit> {
    // Requests wait far more than they work, and the files have a thread of their own: handing answers from one
    // thread to another costs more than a second one saves.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    let ended = runtime.block_on(async {
        let (switch, stop) = stop_pair();
        tokio::select! {
            ended = work(stop) => ended,
            // What is journalled is published by the next start.
            () = two_signals(&switch) => Ok(Exit::Failed),
        }
    });
    runtime.shutdown_background();
    ended
}

/// Opens the archive for writing, or makes it.
pub(super) fn open(
    root: &std::path::Path,
    clock: &Clock,
    what: &str,
    access: Access,
    policy: Policy,
) -> anyhow::Result<(Ingest, Published)> {
    let archive = Archive::open_or_create(root, 1, clock.now(), Disk::new(access))?;
    Ok(Ingest::open(archive, 0, &holder(clock, what), policy)?)
}

/// What another one who wants the lock is told.
pub(super) fn holder(clock: &Clock, what: &str) -> String {
    let since = clock::format_timestamp(clock.now());
    format!("dex-archive {what}, process {}, since {since}", std::process::id())
}

/// Takes every shard of an archive.
pub(super) fn lock_all(archive: &Archive, clock: &Clock, what: &str) -> anyhow::Result<Vec<ShardLock>> {
    let holder = holder(clock, what);
    Ok((0..archive.shards()).map(|shard| archive.lock(shard, &holder)).collect::<Result<_, _>>()?)
}

/// Says what an earlier process left in the journal.
///
/// What it found is part of what this run ends with.
pub(super) fn note_recovered(recovered: &Published) -> Exit {
    let states = recovered.states_new + recovered.states_known;
    if states > 0 || recovered.has_findings() {
        tracing::warn!(
            states,
            new = recovered.states_new,
            unreadable = recovered.gaps,
            quarantined = recovered.quarantined,
            "published what an earlier process had left in the journal"
        );
    }
    tell(&recovered.damaged, &recovered.held);
    exit_of(recovered)
}

/// What publishing means for the exit code.
pub(super) fn exit_of(published: &Published) -> Exit {
    exit_for(!published.held.is_empty(), published.has_findings())
}

pub(super) fn exit_for(failed: bool, has_findings: bool) -> Exit {
    match (failed, has_findings) {
        (true, _) => Exit::Failed,
        (false, true) => Exit::Partly,
        (false, false) => Exit::Done,
    }
}

/// Says what was found damaged, and what is still in the journal.
pub(super) fn tell(damaged: &[String], held: &[String]) {
    damaged.iter().for_each(|sentence| print::note(&format!("warning: {sentence}")));
    held.iter().for_each(|sentence| {
        print::note(&format!(
            "error: {sentence}; what it keeps from being published stays in the journal, and is tried again"
        ));
    });
}

/// One line of what a sweep did.
pub(super) fn summary(stats: &CollectStats) -> String {
    let unasked = match stats.devices_unasked {
        0 => String::new(),
        devices => format!(" ({devices} left to the next sweep)"),
    };
    let waiting = match &stats.waiting_since {
        None => String::new(),
        Some(since) => {
            format!("; {} wait in the journal since {since}", print::bytes(stats.waiting_bytes))
        }
    };
    format!(
        "{} devices{unasked}: {} new states, {} unchanged, {} absent, {} failed; {} requests in {:.1} s ({:.0} s throttled); {} rows, {} published{waiting}",
        stats.devices,
        stats.states_new,
        stats.states_unchanged,
        stats.devices_absent,
        stats.requests_failed,
        stats.requests_sent,
        stats.elapsed_s,
        stats.throttled_s,
        stats.rows_published,
        print::bytes(stats.bytes_published),
    )
}

/// A number that differs from run to run; nothing secret hangs on it.
#[expect(clippy::cast_sign_loss, reason = "any number will do")]
pub(super) fn seed(clock: &Clock) -> u64 {
    (clock.now().timestamp_micros() as u64) ^ (u64::from(std::process::id()) << 40)
}

/// A client; where the archive is still to be made, one that has reached the API.
pub(super) async fn client(options: ClientOptions, root: &std::path::Path, clock: &Clock) -> anyhow::Result<Client> {
    let client = Client::new(options, clock.clone())?;
    if Archive::is_absent(root)? {
        client.reach().await?;
    }
    Ok(client)
}

fn collect_options(
    command: &CollectArgs,
    interval: Duration,
    publish: PublishRule,
) -> Result<CollectOptions, ConfigError> {
    let minutes = interval.as_secs().div_ceil(60) + LATE_MINUTES;
    let since = u32::try_from(minutes.min(60)).unwrap_or(60);
    Ok(CollectOptions {
        source: match command.source {
            SourceArg::Auto => SourceChoice::Auto,
            SourceArg::Live => SourceChoice::Live,
            SourceArg::List => SourceChoice::List,
        },
        devices: devices(command)?,
        since_minutes: command.since_minutes.unwrap_or(since),
        interval,
        publish,
        deadline: match &command.deadline {
            Some(text) => Some(config::parse_duration(text)?),
            None => command.every.as_ref().map(|_| interval),
        },
    })
}

fn devices(command: &CollectArgs) -> Result<Vec<DeviceId>, ConfigError> {
    let named = command.device.iter().map(|id| DeviceId::parse(id));
    let mut devices = named.collect::<Result<Vec<_>, _>>()?;
    if let Some(path) = &command.devices_file {
        let unreadable = |error| ConfigError::Read { path: path.clone(), error };
        let mut text = String::new();
        match path.to_str() {
            Some("-") => drop(std::io::stdin().read_to_string(&mut text).map_err(unreadable)?),
            _ => text = std::fs::read_to_string(path).map_err(unreadable)?,
        }
        devices.extend(config::parse_devices(&path.display().to_string(), &text)?);
    }
    if let (true, Some(path)) = (devices.is_empty(), &command.devices_file) {
        return Err(ConfigError::NoDevices(path.display().to_string()));
    }
    if matches!(command.source, SourceArg::List) && !devices.is_empty() {
        return Err(ConfigError::NamedAndList);
    }
    devices.sort_unstable();
    devices.dedup();
    Ok(devices)
}

/// Sweeps, one after the other.
struct Sweeps<'a> {
    collector: Collector<'a>,
    command: &'a CollectArgs,
    every: Option<Duration>,
    healer: Option<Healer>,
    quiet: bool,
}

/// Sweeps until the schedule or a signal ends it.
async fn sweeps(sweeps: Sweeps<'_>, stop: &Stop, mut exit: Exit) -> anyhow::Result<Exit> {
    let Sweeps { mut collector, command, every, healer, quiet } = sweeps;
    for number in 1_u64.. {
        let (stats, mut failed) = collector.sweep(random(number)).await;
        let ended = command.sweeps == Some(number) || stop.is_requested();
        let told = report(&stats, failed.as_ref(), command, quiet);
        exit = match told {
            // A loop that is stopped has done what it should; what its sweeps met was told when they met it.
            Ok(_) if every.is_some() && command.sweeps.is_none() && failed.is_none() && stats.held.is_empty() => {
                Exit::Done
            }
            Ok(told) => worse(exit, told),
            Err(error) if every.is_some() => {
                print::note(&format!("error: {error:#}"));
                Exit::Failed
            }
            Err(error) => return Err(error),
        };
        if let (Some(healer), None, false) = (&healer, &failed, stop.is_requested()) {
            let interval = every.unwrap_or(INTERVAL);
            let time = if every.is_some() { collector.time_left(interval) } else { left(interval, &stats) };
            let waiting = stats.waiting_since.as_deref().and_then(clock::parse_timestamp);
            let (told, error) = healer.heal(&mut collector, time, waiting, number << 8).await;
            (exit, failed) = (worse(exit, told), error);
        }
        match (every, failed) {
            // In a loop a sweep that failed is told, and the next one tries again.
            (Some(every), failed) if !ended && !matches!(failed, Some(CollectError::Ended)) => {
                failed.iter().for_each(|error| print::note(&format!("error: {error}")));
                if !collector.next_tick(every).await {
                    break;
                }
            }
            (_, Some(error)) => {
                let finished = collector.finish();
                return Err(finished.err().unwrap_or(error).into());
            }
            (_, None) => break,
        }
    }
    if every.is_some() {
        let published = collector.publish_waiting().await?;
        tell(&published.damaged, &published.held);
        exit = worse(exit, exit_of(&published));
    }
    collector.finish()?;
    Ok(exit)
}

/// What a sweep left of its interval.
fn left(interval: Duration, stats: &CollectStats) -> Duration {
    interval.saturating_sub(Duration::try_from_secs_f64(stats.elapsed_s).unwrap_or_default())
}

/// Tells what a sweep did. What did not go well is told to those too who want to hear little.
fn report(
    stats: &CollectStats,
    failed: Option<&CollectError>,
    command: &CollectArgs,
    quiet: bool,
) -> anyhow::Result<Exit> {
    let exit = exit_for(failed.is_some() || !stats.held.is_empty(), stats.has_failures());
    if !quiet || exit != Exit::Done {
        print::note(&summary(stats));
        stats.failures.iter().for_each(|failure| print::note(&format!("  failed: {failure}")));
    }
    if stats.bodies_quarantined > 0 || stats.journal_gaps > 0 {
        print::note(&format!(
            "  {} bodies were no device state, {} stretches of the journal could not be read: see _archive/quarantine",
            stats.bodies_quarantined, stats.journal_gaps
        ));
    }
    tell(&stats.damaged, &stats.held);
    if let Some(path) = &command.summary_json {
        print::file(path, &(serde_json::to_string_pretty(stats)? + "\n"))?;
    }
    Ok(exit)
}

pub(super) fn worse(a: Exit, b: Exit) -> Exit {
    match (a, b) {
        (Exit::Failed, _) | (_, Exit::Failed) => Exit::Failed,
        (Exit::Partly, _) | (_, Exit::Partly) => Exit::Partly,
        _ => Exit::Done,
    }
}

/// The first SIGTERM or SIGINT asks for the end; the second does not wait for it.
async fn two_signals(switch: &StopSwitch) {
    signal().await;
    print::note("stopping: what was received is published; a second signal stops at once");
    switch.stop();
    signal().await;
}

async fn signal() {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .expect("the handler of SIGTERM can be set");
    tokio::select! {
        _ = tokio::signal::ctrl_c() => (),
        _ = terminate.recv() => (),
    }
}
