//! `collect`: sweeps of the accounts that are meant, once or in a loop. What is asked and kept is [`crate::collect`]'s
//! business; here are options, the loop, and what is told of it.

use std::collections::BTreeSet;
use std::io::Read;
use std::time::Duration;

use crate::api::{Client, ClientOptions};
use crate::archive::{Archive, ArchiveError, Shards};
use crate::clock::Clock;
use crate::collect::{CollectError, CollectOptions, CollectStats, Collector, Plan, Resume, SourceChoice, Stop};
use crate::config::{self, ConfigError, ConfigFile};
use crate::disk::Disk;
use crate::ingest::PublishRule;
use crate::query::Days;
use crate::snapshot::{AccountId, DeviceId};

use super::args::{Args, CollectArgs, SourceArg};
use super::backfill::known_devices;
use super::connect::{connect, seed, share_limits};
use super::heal::{Healed, Healer};
use super::metrics::Metrics;
use super::progress::Bar;
use super::signals::until_stopped;
use super::take::{ASKING, Taken, find};
use super::{Exit, print, summary, supervise, sweep_number};

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
    let mut accounts = command.api.clients(&file, seed(&clock))?;
    share_limits(&mut accounts);
    let rule = file.archive.publish_rule()?;
    let options = collect_options(command, every, rule)?;
    if accounts.len() > 1 && !options.devices.is_empty() {
        return Err(ConfigError::WhichAccount(accounts.into_iter().map(|(name, _)| name).collect()).into());
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
        return print_plans(&accounts, &options, &known);
    }
    until_stopped(async |stop| {
        let found = find(&place, count, access).await?;
        let clients = connect(accounts, found.is_none(), &clock).await?;
        let taken = Taken { place: &place, shards, count, disk: Disk::new(access), policy: policy.clone() };
        let (ingest, exit) = taken.begin(found, &options, &clock).await?;
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
        let sweeps = Sweeps { collectors, accounts, command, file, every, metrics, resumes, clock, quiet };
        sweeps.run(&stop, exit).await
    })
}

/// Prints what a sweep of each account would ask for, given the devices that are known.
fn print_plans(
    accounts: &[(String, ClientOptions)],
    options: &CollectOptions,
    known: &BTreeSet<(String, String)>,
) -> anyhow::Result<Exit> {
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
    Ok(Exit::Done)
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

/// An account that is collected.
struct Account {
    name: String,
    id: AccountId,
    healer: Healer,
}

/// Sweeps, one after the other.
struct Sweeps<'a> {
    /// One for each account.
    collectors: Vec<Collector<'a>>,
    accounts: Vec<Account>,
    command: &'a CollectArgs,
    file: &'a ConfigFile,
    every: Option<Duration>,
    metrics: Metrics,
    resumes: Resumes,
    clock: Clock,
    quiet: bool,
}

/// Where single sweeps go on that another process began. A loop knows that by itself.
struct Resumes {
    archive: Archive,
    shard: u32,
    is_used: bool,
}

impl Resumes {
    fn read(&self, account: &AccountId) -> Option<Resume> {
        let noted = self.archive.resume(self.shard, account.as_str()).filter(|_| self.is_used)?;
        // One that somebody bent begins at the beginning.
        serde_json::from_str(&noted).ok()
    }

    /// Notes where the next one goes on. One that is not noted begins at the beginning.
    fn keep(&self, account: &AccountId, ended_at: Option<Resume>) {
        let note = ended_at.map(|at| serde_json::to_string(&at).expect("it always has a form in JSON"));
        if self.is_used
            && let Err(error) = self.archive.keep_resume(self.shard, account.as_str(), note.as_deref())
        {
            print::error(&format_args!("{error}: the next sweep begins at the beginning"));
        }
    }
}

impl Sweeps<'_> {
    /// Sweeps until the schedule or a signal ends it.
    async fn run(mut self, stop: &Stop, mut exit: Exit) -> anyhow::Result<Exit> {
        supervise::ready();
        let (command, every) = (self.command, self.every);
        // A loop that is stopped has done what it should; what its sweeps met was told when they met it.
        let is_endless = every.is_some() && command.sweeps.is_none();
        let mut ended_by = None;
        for number in 1_u64.. {
            let swept = Collector::sweep_side_by_side(&mut self.collectors, sweep_number(number)).await;
            let ended = command.sweeps == Some(number) || stop.is_requested();
            let Told { exit: told, stats, mut failed, can_heal } = self.tell(swept, stop);
            exit = exit.or_worse(told);
            if command.self_heal && can_heal && !stop.is_requested() {
                let (told, error) = self.heal(stats, number).await;
                (exit, failed) = (exit.or_worse(told), error);
            }
            for (collector, account) in self.collectors.iter().zip(&self.accounts) {
                self.resumes.keep(&account.id, collector.ended_at());
            }
            let is_gone = matches!(failed, Some(CollectError::Ended));
            if is_gone || every.is_none() || ended && !is_endless {
                ended_by = failed;
                break;
            }
            // In a loop a sweep that failed is told, and the next one tries again.
            failed.iter().for_each(|error| print::error(&error));
            let Some(every) = every.filter(|_| !ended) else { break };
            if !self.collectors[0].next_tick(every).await {
                break;
            }
            check_shards(self.resumes.archive.clone()).await?;
            self.renew_credentials();
        }
        let exit = if is_endless { Exit::Done } else { exit };
        self.end(exit, ended_by).await
    }

    /// Publishes what a loop has left in the journal, whatever it ended of, and ends the writer.
    async fn end(self, mut exit: Exit, mut ended_by: Option<CollectError>) -> anyhow::Result<Exit> {
        if self.every.is_some() && !matches!(ended_by, Some(CollectError::Ended)) {
            match self.collectors[0].publish_waiting().await {
                Ok(published) => {
                    summary::tell_publish(&published.damaged, &published.held);
                    exit = exit.or_worse(Exit::of_publish(&published));
                }
                Err(error) if ended_by.is_some() => print::error(&error),
                Err(error) => ended_by = Some(error),
            }
        }
        let mut finished = Ok(());
        for collector in self.collectors {
            finished = finished.and(collector.finish());
        }
        match (finished, ended_by) {
            (Err(error), _) | (Ok(()), Some(error)) => Err(error.into()),
            (Ok(()), None) => Ok(exit),
        }
    }
}

/// Whether an archive has the shards that it had. Where its days went into others, nothing can be published any more:
/// who watches over the process starts another one. A store that gives no answer in time is asked again after the next
/// sweep.
async fn check_shards(archive: Archive) -> Result<(), ArchiveError> {
    let asked = tokio::task::spawn_blocking(move || archive.check_shards());
    match tokio::time::timeout(ASKING, asked).await {
        Ok(Ok(Err(error @ (ArchiveError::Resharded { .. } | ArchiveError::Resharding { .. })))) => Err(error),
        _ => Ok(()),
    }
}

/// What the accounts' sweeps did.
struct Swept<'a> {
    total: CollectStats,
    /// Each by itself, for the summary's file.
    by_account: serde_json::Map<String, serde_json::Value>,
    /// The accounts whose sweep failed, and why.
    failures: Vec<(&'a str, CollectError)>,
}

/// What was told of a sweep of all accounts.
struct Told {
    exit: Exit,
    /// All of them together.
    stats: CollectStats,
    /// Why nothing goes on, or why the only one did not come to its end.
    failed: Option<CollectError>,
    /// Whether there is any use in asking for more.
    can_heal: bool,
}

impl Sweeps<'_> {
    /// Takes the tokens that the files hold by now: a loop outlives them. Where one cannot be read, it stays as it was.
    fn renew_credentials(&self) {
        for (collector, credential) in self.collectors.iter().zip(self.command.api.credentials(self.file)) {
            match credential {
                Some(Ok(credential)) => collector.renew(credential),
                Some(Err(error)) => print::warning(&format_args!("{error}: it goes on with the token that it had")),
                None => (),
            }
        }
    }

    /// Tells how the accounts' sweeps went. Where one of several failed, it is told, and the others count.
    fn tell(&self, swept: Vec<(CollectStats, Option<CollectError>)>, stop: &Stop) -> Told {
        let several = swept.len() > 1;
        let Swept { total, by_account, mut failures } = self.add_up(swept, stop);
        let all_failed = failures.len() == self.accounts.len();
        // What ends the program is told as it ends, once.
        let is_end = |error: &CollectError| matches!(error, CollectError::Ended);
        let ended = failures.iter().position(|(_, error)| is_end(error));
        for (name, error) in failures.iter().filter(|(_, error)| several && !is_end(error)) {
            print::error(&format_args!("{name}: {error}"));
        }
        let mut exit = summary::tell_sweep(&total, !failures.is_empty(), self.quiet);
        if self.every.is_none() && (total.list_cut || total.devices_unasked > 0) {
            // In a loop the next sweep asks for them; who starts single ones is to know.
            exit = exit.or_worse(Exit::Partly);
        }
        let written = self.metrics.publish(&total).and(self.write_summary(&total, by_account));
        if let Err(error) = written {
            // That nobody can read how it went is no reason not to note where the next sweep goes on.
            print::error(&format_args!("{error:#}"));
            exit = Exit::Failed;
        }
        supervise::status(&summary::of_sweep(&total));
        // What is asked under a wrong clock is of another time than it says.
        let can_heal = !all_failed && !total.is_away && !total.has_wrong_clock();
        let failed = ended.or((!several && all_failed).then_some(0)).map(|at| failures.swap_remove(at).1);
        Told { exit, stats: total, can_heal: can_heal && failed.is_none(), failed }
    }

    /// Adds up what the accounts' sweeps did, and notes it in the metrics.
    fn add_up(&self, swept: Vec<(CollectStats, Option<CollectError>)>, stop: &Stop) -> Swept<'_> {
        let (several, now) = (swept.len() > 1, self.clock.now());
        // What was published, the first one says; what went wrong with that went wrong for all.
        let is_published = swept.first().is_none_or(|(stats, failed)| {
            let is_theirs = matches!(failed, Some(CollectError::Ingest(_) | CollectError::Ended));
            !is_theirs && !stats.has_publish_failures() && stats.held.is_empty()
        });
        let mut total: Option<CollectStats> = None;
        let (mut failures, mut by_account) = (Vec::new(), serde_json::Map::new());
        for ((mut stats, failed), account) in swept.into_iter().zip(&self.accounts) {
            let is_fine = is_published && failed.is_none() && stats.has_gone_well();
            // One that was told to end early has not failed.
            let success = (is_fine || !stats.stopped || !stop.is_requested()).then_some(is_fine);
            self.metrics.note(account.id.as_str(), &stats, success, now);
            if several {
                if !self.quiet || !is_fine {
                    print::note(&format!("{}: {}", account.name, summary::of_account(&stats)));
                }
                by_account.insert(account.id.as_str().to_owned(), summary::of_account_json(&stats));
                stats.failures.iter_mut().for_each(|failure| *failure = format!("{}: {failure}", account.name));
            }
            match &mut total {
                None => total = Some(stats),
                Some(total) => total.merge(stats),
            }
            failures.extend(failed.map(|error| (account.name.as_str(), error)));
        }
        Swept { total: total.unwrap_or_default(), by_account, failures }
    }

    fn write_summary(
        &self,
        total: &CollectStats,
        by_account: serde_json::Map<String, serde_json::Value>,
    ) -> anyhow::Result<()> {
        let Some(path) = &self.command.summary_json else { return Ok(()) };
        let mut summary = serde_json::to_value(total)?;
        if let (Some(object), false) = (summary.as_object_mut(), by_account.is_empty()) {
            object.insert("accounts".to_owned(), by_account.into());
        }
        print::file(path, serde_json::to_string_pretty(&summary)? + "\n")
    }

    /// Spends what is left of the interval on holes, one account after the other. What that publishes is told together
    /// with what the sweep did.
    async fn heal(&mut self, mut total: CollectStats, number: u64) -> (Exit, Option<CollectError>) {
        let waiting = total.waiting_since.map(|since| since.0);
        let (start, swept_s) = (std::time::Instant::now(), total.elapsed_s);
        let (mut exit, mut accounts) = (Exit::Done, u32::try_from(self.accounts.len()).unwrap_or(u32::MAX));
        for (collector, account) in self.collectors.iter_mut().zip(&self.accounts) {
            let time = match self.every {
                Some(every) => collector.time_left(every),
                None => left(account.healer.interval, swept_s).saturating_sub(start.elapsed()),
            };
            let time = time / accounts.max(1);
            let Healed { exit: told, asked, failed } = account.healer.heal(collector, time, waiting, number << 8).await;
            exit = exit.or_worse(told);
            accounts -= 1;
            if let Some(asked) = asked {
                self.metrics.count(account.id.as_str(), &asked);
                // Where the publish failed, nobody knows what waits: what waited before, at least.
                let is_published = !matches!(failed, Some(CollectError::Ingest(_) | CollectError::Ended));
                let waiting = if is_published { &asked } else { &total };
                let (bytes, since) = (waiting.waiting_bytes, waiting.waiting_since);
                total.merge(asked);
                (total.waiting_bytes, total.waiting_since) = (bytes, since);
                if let Err(error) = self.metrics.publish(&total) {
                    print::error(&format_args!("{error:#}"));
                    exit = Exit::Failed;
                }
            }
            match failed {
                Some(error) if self.accounts.len() > 1 && !matches!(error, CollectError::Ended) => {
                    // The others' holes are healed all the same.
                    print::error(&format_args!("{}: {error}", account.name));
                    exit = Exit::Failed;
                }
                Some(error) => return (exit, Some(error)),
                None => (),
            }
        }
        (exit, None)
    }
}

/// What a sweep left of its interval.
fn left(interval: Duration, swept_s: f64) -> Duration {
    interval.saturating_sub(Duration::try_from_secs_f64(swept_s).unwrap_or_default())
}
