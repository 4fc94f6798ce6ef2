//! `backfill`, and what `collect --self-heal` does between sweeps.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use chrono::TimeDelta;

use crate::api::{Budget, Client};
use crate::archive::Archive;
use crate::clock::{self, Clock, Timestamp, Zone};
use crate::collect::{BackfillPlan, BackfillStats, CollectError, CollectOptions, Collector, SourceChoice, Stretch};
use crate::config;
use crate::ingest::PublishRule;
use crate::privacy::Policy;
use crate::query::{Days, GapsOptions, QueryError, Searched, Window, devices_seen, holes, outages};
use crate::snapshot::{AccountId, DeviceId, HISTORY, SETTLE, Source};

use super::args::{Args, BackfillArgs, ResolutionArg};
use super::collect::until_stopped;
use super::progress::Bar;
use super::{Exit, collect, print, sweep_number};

/// So many devices with holes are asked for one by one; more are cheaper together.
const MOST_SINGLE: usize = 8;

/// The shortest interval in which a state is expected, where holes are looked for.
const SHORTEST_HOLE: Duration = Duration::from_mins(15);

/// Healing takes at least so long, or is left to the next time.
const SHORTEST_HEALING: Duration = Duration::from_secs(5);

/// A window that so many readings began in vain is left to `backfill`, and to whoever looks why.
const MOST_BEGUN: usize = 4;

/// So many windows of a plan are shown, unless all are wanted.
const MOST_WINDOWS: usize = 20;

/// Fills the archive from the history, one account after the other.
pub(super) fn run(args: &Args, command: &BackfillArgs) -> anyhow::Result<Exit> {
    let (place, file) = args.config()?;
    let clock = Clock::system();
    let (policy, access) = (file.policy()?, file.archive.readable_by);
    let accounts = command.api.clients(&file, collect::seed(&clock))?;
    if accounts.len() > 1 && !command.device.is_empty() {
        return Err(config::ConfigError::WhichAccount(accounts.into_iter().map(|(name, _)| name).collect()).into());
    }
    let wanted = accounts.iter().map(|(_, options)| Wanted::new(command, options.account_id.clone(), clock.now()));
    let wanted = wanted.collect::<anyhow::Result<Vec<_>>>()?;
    if command.dry_run {
        let archive = if Archive::is_absent(&place)? { None } else { Some(Archive::open(&place)?) };
        for ((_, options), wanted) in accounts.iter().zip(&wanted) {
            print_plan(&wanted.plan(archive.as_ref(), &policy, options.budget)?, args.verbose > 0)?;
        }
        return Ok(Exit::Done);
    }
    until_stopped(async |stop| {
        let mut exit = Exit::Done;
        let several = accounts.len() > 1;
        let mut unasked = accounts.len();
        let mut summaries = serde_json::Map::new();
        for ((name, client_options), wanted) in accounts.into_iter().zip(&wanted) {
            let budget = client_options.budget;
            let client = collect::client(client_options, &place, &clock).await?;
            let (ingest, recovered) = collect::open(&place, &clock, "backfill", access, policy.clone())?;
            exit = collect::worse(exit, collect::note_recovered(&recovered));
            let plan = wanted.plan(Some(ingest.archive()), &policy, budget)?;
            if !args.quiet {
                print::note(&format!("plan ({name}): {plan}"));
            }
            let bar = Bar::new(args.quiet);
            let mut collector = Collector::new(client, ingest, clock.clone(), options(), &bar, stop.clone());
            let (stats, failed) = collector.backfill(&plan, None, sweep_number(0)).await;
            exit = collect::worse(exit, report(&stats, failed.is_some(), args.quiet));
            summaries.insert(wanted.account.as_str().to_owned(), serde_json::to_value(&stats)?);
            if let Some(path) = &command.summary_json {
                let own = summaries.values().next().filter(|_| !several).cloned();
                let summary = own.unwrap_or_else(|| serde_json::json!({ "accounts": summaries }));
                print::file(path, serde_json::to_string_pretty(&summary)? + "\n")?;
            }
            let finished = collector.finish();
            match failed.map_or(finished, Err) {
                // The others' history is read all the same.
                Err(error) if several => {
                    print::note(&format!("error: {name}: {error}"));
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
            exit = collect::worse(exit, Exit::Partly);
        }
        Ok(exit)
    })
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
        let devices = command.device.iter().map(|id| DeviceId::parse(id)).collect::<Result<_, _>>();
        let source = match command.resolution {
            ResolutionArg::Raw => Source::Raw,
            ResolutionArg::Hourly => Source::Hourly,
        };
        Ok(Self {
            source,
            account,
            devices: devices.map_err(config::ConfigError::from)?,
            window,
            again: command.again,
            now,
        })
    }

    /// What is left to ask: without what an earlier backfill read to its end.
    fn plan(&self, archive: Option<&Archive>, policy: &Policy, budget: Budget) -> anyhow::Result<BackfillPlan> {
        let days = archive.map(|archive| Days::new(archive, true));
        // What was read as it was reported needs no averages.
        let sources: &[Source] =
            if self.source == Source::Raw { &[Source::Raw] } else { &[Source::Raw, Source::Hourly] };
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
        let known = days.as_ref().map_or(Ok(Vec::new()), |days| known_devices(days, self.now))?;
        let devices = Some(known.len() as u64).filter(|&devices| devices > 0);
        Ok(BackfillPlan::new(self.source, stretches, devices, budget, self.now, None))
    }
}

fn stretch(window: Window, device: Option<DeviceId>) -> Stretch {
    Stretch { from: window.since, to: window.until, device }
}

/// Accounts and devices with a state within the history.
fn known_devices(days: &Days, now: Timestamp) -> Result<Vec<(String, String)>, QueryError> {
    Ok(devices_seen(days, Window { since: now - HISTORY, until: now })?.into_iter().collect())
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
    let is_partial = asked.has_failures() || stats.windows_left + stats.windows_forgotten > 0;
    let exit = collect::exit_for(failed || !asked.held.is_empty(), is_partial);
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
            print::bytes(asked.bytes_published),
        ));
        asked.failures.iter().for_each(|failure| print::note(&format!("  failed: {failure}")));
    }
    collect::tell_found(asked);
    collect::tell(&asked.damaged, &asked.held);
    exit
}

/// Looks for holes of the last 7 days, and reads what the history has of them, for as long as there is time.
pub(super) struct Healer {
    pub(super) archive: Archive,
    pub(super) account: AccountId,
    pub(super) clock: Clock,
    pub(super) budget: Budget,
    pub(super) policy: Policy,
    /// Of these alone, where any are named.
    pub(super) devices: Vec<DeviceId>,
    pub(super) interval: Duration,
    pub(super) quiet: bool,
}

impl Healer {
    /// Heals until `time` is up. What is received since `waiting` is not published yet, and no hole. Holes that cannot
    /// be looked for are told, and left to the next time.
    pub(super) async fn heal(
        &self,
        collector: &mut Collector<'_>,
        time: Duration,
        waiting: Option<Timestamp>,
        number: u64,
    ) -> (Exit, Option<CollectError>) {
        let start = Instant::now();
        let plan = match self.plan(time, waiting) {
            Ok(Some(plan)) if !plan.windows.is_empty() => plan,
            Ok(_) => return (Exit::Done, None),
            Err(error) => {
                print::note(&format!("warning: cannot look for holes: {error:#}"));
                return (Exit::Partly, None);
            }
        };
        let time = time.saturating_sub(start.elapsed());
        if time < SHORTEST_HEALING {
            return (Exit::Done, None);
        }
        if !self.quiet {
            print::note(&format!("heal: {plan}"));
        }
        let (stats, failed) = collector.backfill(&plan, Some(time), sweep_number(number)).await;
        let told = report(&stats, failed.is_some(), self.quiet);
        // What there was no time for is no fault: the next sweep goes on with it.
        (if stats.asked.has_failures() { told } else { Exit::Done }, failed)
    }

    fn plan(&self, time: Duration, waiting: Option<Timestamp>) -> anyhow::Result<Option<BackfillPlan>> {
        if time < SHORTEST_HEALING {
            return Ok(None);
        }
        let now = self.clock.now();
        let days = Days::new(&self.archive, true);
        let every = SHORTEST_HOLE.max(self.interval.saturating_mul(3));
        let Some(window) = whole(every, now, waiting) else { return Ok(None) };
        let named: BTreeMap<String, &DeviceId> =
            self.devices.iter().map(|device| (self.policy.stored_device(device.as_str()), device)).collect();
        let known = if named.is_empty() { self.known(&days, now)? } else { named.keys().cloned().collect() };
        let devices = (!named.is_empty()).then(|| known.clone());
        let options = GapsOptions { devices, window, every, zone: Zone::UTC, each: true, now };
        let mut by_device: BTreeMap<String, Vec<Window>> = BTreeMap::new();
        for hole in holes(&days, &options, self.account.as_str(), &known)? {
            by_device.entry(hole.device_id).or_default().push(hole.window);
        }
        let mut searched = Searched::read(&days, window, &[Source::Raw])?;
        // Where all sweeps were missed, a device that has a state of the same interval lacks others all the same.
        let most = TimeDelta::from_std(every + every / 3)?;
        let outages = outages(&days, window, self.account.as_str(), most)?;
        let (mut stretches, mut of_all) = (Vec::new(), Vec::new());
        if named.is_empty() {
            let missed = searched.left(self.account.as_str(), None, &outages);
            searched.note(self.account.as_str(), &missed);
            stretches.extend(missed.into_iter().map(|window| stretch(window, None)));
        }
        let left = |device: Option<&str>, holes: &[Window]| searched.left(self.account.as_str(), device, holes);
        // Who is known by a pseudonym cannot be asked for; all together can.
        let id = |stored: &String| match named.get(stored) {
            Some(device) => Some((*device).clone()),
            None => DeviceId::parse(stored).ok().filter(|id| self.policy.stored_device(id.as_str()) == *stored),
        };
        let of_device = |id: &DeviceId, stored: &str, windows: &[Window]| {
            let left = left(Some(stored), windows).into_iter();
            left.map(|window| stretch(window, Some(id.clone()))).collect::<Vec<_>>()
        };
        // What a reading that broke off brought is no hole any more; the rest of it is missing all the same.
        for (device, window) in searched.broken_off(self.account.as_str(), MOST_BEGUN) {
            match device {
                None if named.is_empty() => of_all.push(window),
                None => (),
                Some(stored) => {
                    let own = id(&stored).map(|id| of_device(&id, &stored, &[window]));
                    stretches.extend(own.into_iter().flatten());
                }
            }
        }
        for (stored, &device) in &named {
            stretches.extend(of_device(device, stored, &outages));
        }
        let singly = !named.is_empty() || by_device.len() <= MOST_SINGLE;
        let ids: Option<Vec<DeviceId>> = singly.then(|| by_device.keys().map(id).collect()).flatten();
        match ids {
            Some(ids) => {
                let each = ids.iter().zip(&by_device);
                stretches.extend(each.flat_map(|(id, (stored, holes))| of_device(id, stored, holes)));
            }
            None => of_all.extend(by_device.values().flatten()),
        }
        stretches.extend(left(None, &of_all).into_iter().map(|window| stretch(window, None)));
        let devices = Some(known.len() as u64);
        Ok(Some(BackfillPlan::new(Source::Raw, stretches, devices, self.budget, now, Some(time))))
    }

    fn known(&self, days: &Days, now: Timestamp) -> Result<Vec<String>, QueryError> {
        let known = known_devices(days, now)?.into_iter();
        Ok(known.filter(|(account, _)| account == self.account.as_str()).map(|(_, device)| device).collect())
    }
}

/// The whole intervals of the history, but for the oldest, which is about to be forgotten, and for what is not settled
/// or not published yet. None where there are none.
fn whole(every: Duration, now: Timestamp, waiting: Option<Timestamp>) -> Option<Window> {
    let every = TimeDelta::from_std(every).ok()?;
    let until = waiting.map_or(now - SETTLE, |waiting| waiting.min(now - SETTLE));
    let begun = |at: Timestamp| {
        let micros = at.timestamp_micros();
        clock::from_micros(micros - micros.rem_euclid(every.num_microseconds()?))
    };
    let window = Window { since: begun(now - HISTORY)? + every + every, until: begun(until)? };
    window.check().is_ok().then_some(window)
}

/// What a healer needs, before the writer's thread takes the archive.
pub(super) fn healer(
    client: &Client,
    archive: &Archive,
    clock: &Clock,
    options: &CollectOptions,
    policy: &Policy,
    quiet: bool,
) -> Healer {
    Healer {
        archive: archive.clone(),
        account: client.account().clone(),
        clock: clock.clone(),
        budget: client.pacer().budget(),
        policy: policy.clone(),
        devices: options.devices.clone(),
        interval: options.interval,
        quiet,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_looked_for_in_whole_intervals() {
        let time = |text: &str| clock::parse_timestamp(text).expect("a time");
        let now = time("2026-10-08T10:07:20Z");
        let quarter = Duration::from_mins(15);
        let window = |waiting| whole(quarter, now, waiting).expect("a window");
        assert_eq!(window(None).since, time("2026-10-01T10:30:00Z"));
        assert_eq!(window(None).until, time("2026-10-08T09:45:00Z"));
        assert_eq!(window(Some(time("2026-10-08T08:59:59Z"))).until, time("2026-10-08T08:45:00Z"));
        assert!(whole(Duration::from_hours(24 * 7), now, None).is_none());
    }
}
