//! `collect`: what is to be collected, by the options, the config and the archive. How sweeps follow each other is
//! [`sweeps`]'s business, what is asked and kept [`crate::collect`]'s.

mod sweeps;

use std::collections::BTreeSet;
use std::io::Read;
use std::time::Duration;

use crate::api::{Client, ClientOptions};
use crate::archive::{Archive, Shards};
use crate::clock::Clock;
use crate::collect::{CollectOptions, Collector, Plan, SourceChoice};
use crate::config::{self, ConfigError};
use crate::disk::Disk;
use crate::ingest::PublishRule;
use crate::query::Days;
use crate::snapshot::DeviceId;

use super::args::{Args, CollectArgs, SourceArg};
use super::backfill::known_devices;
use super::connect::{Askable, connect, seed, share_limits, with_credential};
use super::heal::Healer;
use super::metrics::Metrics;
use super::progress::Bar;
use super::signals::until_stopped;
use super::take::{Taken, find};
use super::{Exit, print};

use sweeps::{Account, Resumes, Sweeps};

/// The interval that a single sweep has to fit, where nothing is said.
const INTERVAL: Duration = Duration::from_mins(5);

/// Added to the interval: states may take some minutes to reach the API.
const LATE_MINUTES: u64 = 5;

/// Collects, once or in a loop.
pub(super) fn run(args: &Args, command: &CollectArgs) -> anyhow::Result<Exit> {
    let (place, file) = args.config()?;
    let every = command.every.as_deref().map(config::parse_duration).transpose()?;
    let clock = Clock::system();
    let (policy, access) = (file.policy()?, file.archive.readable_by);
    let accounts = command.api.clients(&file, seed(&clock))?;
    let (several, names) = (accounts.len() > 1, accounts.iter().map(|(name, _)| name.clone()).collect());
    let askable = with_credential(accounts)?;
    let exit = askable.exit();
    let Askable { mut accounts, left_out } = askable;
    share_limits(&mut accounts);
    let rule = file.archive.publish_rule()?;
    let options = collect_options(command, every, rule)?;
    if several && !options.devices.is_empty() {
        return Err(ConfigError::WhichAccount(names).into());
    }
    let (shards, count) = shards(command)?;
    if shards != Shards::All && command.self_heal {
        return Err(ConfigError::HealShard.into());
    }
    if command.dry_run {
        // Which of the devices are a shard's, only a sweep finds out.
        let archive = Archive::open(&place).ok().filter(|_| shards == Shards::All);
        let known = archive.and_then(|archive| known_devices(&Days::new(&archive, false), clock.now()).ok());
        let known = known.unwrap_or_default();
        print_plans(&accounts, &options, &known)?;
        return Ok(exit);
    }
    until_stopped(async |stop| {
        let found = find(&place, count, access).await?;
        let clients = connect(accounts, found.is_none(), &clock).await?;
        let taken = Taken { place: &place, shards, count, disk: Disk::new(access), policy: policy.clone() };
        let (ingest, begun) = taken.begin(found, &options, &clock).await?;
        let metrics = Metrics::new(place.disk(), command.metrics_file.clone(), every.is_some())?;
        if let Some(address) = command.metrics_listen {
            print::note(&format!("metrics: http://{}/metrics", metrics.listen(address).await?));
        }
        // Bars of several accounts would be drawn over each other.
        let bar = Bar::new(args.quiet || clients.len() > 1);
        let archive = ingest.archive().clone();
        let archive_shard = ingest.locks().first().map_or(0, |lock| lock.shard);
        let account = |(name, client): &(String, Client)| {
            let healer = Healer::new(client, &archive, &clock, &options, &policy, args.quiet);
            Account { name: name.clone(), id: client.account().clone(), healer }
        };
        let accounts: Vec<Account> = clients.iter().map(account).collect();
        let clients = clients.into_iter().map(|(_, client)| client).collect();
        let mut collectors = Collector::of_accounts(clients, ingest, &clock, &options, &bar, &stop);
        let resumes = Resumes { archive, shard: archive_shard, is_used: every.is_none() && options.devices.is_empty() };
        for (collector, account) in collectors.iter_mut().zip(&accounts) {
            resumes.read(&account.id).into_iter().for_each(|from| collector.resume(from));
        }
        let quiet = args.quiet;
        let clock = clock.clone();
        let file = &file;
        let sweeps =
            Sweeps { collectors, accounts, several, left_out, command, file, every, metrics, resumes, clock, quiet };
        sweeps.run(&stop, exit.or_worse(begun)).await
    })
}

/// Prints what a sweep of each account would ask for, given the devices that are known.
fn print_plans(
    accounts: &[(String, ClientOptions)],
    options: &CollectOptions,
    known: &BTreeSet<(String, String)>,
) -> anyhow::Result<()> {
    for (name, client) in accounts {
        let of = if accounts.len() > 1 { format!(" ({name})") } else { String::new() };
        let plan = Plan::new(options, client.budget);
        let is_its = |(account, _): &&(String, String)| account == client.account_id.as_str();
        print::data(match known.iter().filter(is_its).count() as u64 {
            devices @ 1.. if plan.list => {
                format!("plan{of}, by the devices of the last 7 days: {}\n", plan.for_devices(devices))
            }
            _ => format!("plan{of}: {plan}\n"),
        })?;
    }
    Ok(())
}

/// Which shards are to be collected, and how many the archive is said to have.
fn shards(command: &CollectArgs) -> Result<(Shards, Option<u32>), ConfigError> {
    let Some(text) = &command.shard else { return Ok((Shards::All, None)) };
    let (shard, count) = config::parse_shard(text)?;
    Ok((Shards::One(shard), count))
}

fn collect_options(
    command: &CollectArgs,
    every: Option<Duration>,
    publish: PublishRule,
) -> Result<CollectOptions, ConfigError> {
    let deadline = command.deadline.as_deref().map(config::parse_duration).transpose()?;
    // Who starts single sweeps says by the deadline how often.
    let interval = every.or(deadline).unwrap_or(INTERVAL);
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
        deadline: deadline.or(every),
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
