//! What `collect --self-heal` does between sweeps: it looks for what is missing of the last 7 days, and reads what the
//! history has of it, for as long as there is time. How a window is read, and that it was, is `backfill`'s business.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use chrono::TimeDelta;

use crate::api::{Budget, Client};
use crate::archive::Archive;
use crate::clock::{self, Clock, Timestamp, Zone};
use crate::collect::{BackfillPlan, CollectError, CollectOptions, CollectStats, Collector, Stretch};
use crate::privacy::Policy;
use crate::query::{Days, GapsOptions, QueryError, Searched, Window, holes, outages};
use crate::snapshot::{AccountId, DeviceId, HISTORY, SETTLE, Source};

use super::backfill::{known_devices, report, stretch};
use super::{Exit, print, sweep_number};

/// So many devices with holes are asked for one by one; more are cheaper together.
const MOST_SINGLE: usize = 8;

/// The shortest interval in which a state is expected, where holes are looked for.
const SHORTEST_HOLE: Duration = Duration::from_mins(15);

/// Healing takes at least so long, or is left to the next time.
const SHORTEST_HEALING: Duration = Duration::from_secs(5);

/// A window that so many readings began in vain is left to `backfill`, and to whoever looks why.
const MOST_BEGUN: usize = 4;

/// Looks for holes of the last 7 days, and reads what the history has of them, for as long as there is time.
#[derive(Clone)]
pub(super) struct Healer {
    archive: Archive,
    account: AccountId,
    clock: Clock,
    budget: Budget,
    policy: Policy,
    /// Of these alone, where any are named.
    devices: Vec<DeviceId>,
    pub(super) interval: Duration,
    quiet: bool,
}

/// What is missing, by who is to be asked for.
#[derive(Default)]
struct Missing {
    of_all: Vec<Window>,
    /// By the device, as the archive knows it.
    of_each: BTreeMap<String, Vec<Window>>,
}

/// How healing ended.
pub(super) struct Healed {
    pub(super) exit: Exit,
    /// What was asked and published; none where there was nothing to do, or no time.
    pub(super) asked: Option<CollectStats>,
    pub(super) failed: Option<CollectError>,
}

impl Healed {
    fn nothing(exit: Exit) -> Self {
        Self { exit, asked: None, failed: None }
    }
}

impl Healer {
    /// A healer of a client's account, made before the writer's thread takes the archive.
    pub(super) fn new(
        client: &Client,
        archive: &Archive,
        clock: &Clock,
        options: &CollectOptions,
        policy: &Policy,
        quiet: bool,
    ) -> Self {
        Self {
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

    /// Heals until `time` is up. What is received since `waiting` is not published yet, and no hole. Holes that cannot
    /// be looked for are told, and left to the next time.
    pub(super) async fn heal(
        &self,
        collector: &mut Collector<'_>,
        time: Duration,
        waiting: Option<Timestamp>,
        number: u64,
    ) -> Healed {
        let start = Instant::now();
        let healer = self.clone();
        // It may read for minutes, in which a second signal ends it, and whoever watches is told that it goes on.
        let planned = tokio::task::spawn_blocking(move || healer.plan(time, waiting)).await;
        let plan = match planned.map_err(anyhow::Error::from).flatten() {
            Ok(Some(plan)) if !plan.windows.is_empty() => plan,
            Ok(_) => return Healed::nothing(Exit::Done),
            Err(error) => {
                print::warning(&format_args!("cannot look for holes: {error:#}"));
                return Healed::nothing(Exit::Partly);
            }
        };
        let time = time.saturating_sub(start.elapsed());
        if time < SHORTEST_HEALING {
            return Healed::nothing(Exit::Done);
        }
        if !self.quiet {
            print::note(&format!("heal: {plan}"));
        }
        let (stats, failed) = collector.backfill(&plan, Some(time), sweep_number(number)).await;
        let told = report(&stats, failed.is_some(), self.quiet);
        // What there was no time for is no fault: the next sweep goes on with it.
        let is_fault = failed.is_some() || stats.asked.has_failures() || !stats.asked.held.is_empty();
        Healed { exit: if is_fault { told } else { Exit::Done }, asked: Some(stats.asked), failed }
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
        // What was asked since is known to nobody yet.
        let until = waiting.map_or(now, |waiting| waiting.min(now));
        let options = GapsOptions { devices, window, every, zone: Zone::UTC, now, known_until: until };
        let mut searched = Searched::read(&days, window, &[Source::Raw])?;
        let Missing { of_all, of_each } = self.missing(&days, &options, &known, &named, &searched)?;
        // What is read for all is not read for each once more.
        let of_all = searched.left(self.account.as_str(), None, &of_all);
        searched.note(self.account.as_str(), &of_all);
        let mut stretches: Vec<Stretch> = of_all.into_iter().map(|window| stretch(window, None)).collect();
        for (stored, windows) in &of_each {
            let Some(id) = self.id(stored, &named) else { continue };
            let left = searched.left(self.account.as_str(), Some(stored), windows).into_iter();
            stretches.extend(left.map(|window| stretch(window, Some(id.clone()))));
        }
        let devices = Some(known.len() as u64);
        let mut plan = BackfillPlan::new(Source::Raw, stretches, devices, self.budget, now, Some(time));
        // The oldest first, which is forgotten first; but those that never come to an end keep no other from it. Once is
        // an accident: the time was up.
        plan.windows.sort_by_cached_key(|window| {
            let device = window.device.as_ref().map(|device| self.policy.stored_device(device.as_str()));
            let stretch = Window { since: window.from, until: window.to };
            let in_vain = searched.begun_in_vain(self.account.as_str(), device.as_deref(), stretch);
            (in_vain.saturating_sub(1), window.clone())
        });
        Ok(Some(plan))
    }

    /// What may be missing, whether it was looked for already or not.
    fn missing(
        &self,
        days: &Days,
        options: &GapsOptions,
        known: &[String],
        named: &BTreeMap<String, &DeviceId>,
        searched: &Searched,
    ) -> anyhow::Result<Missing> {
        let (account, window) = (self.account.as_str(), options.window);
        let mut missing = Missing::default();
        for hole in holes(days, options, account, known)? {
            missing.of_each.entry(hole.device_id).or_default().push(hole.window);
        }
        let singly = missing.of_each.len() <= MOST_SINGLE
            && missing.of_each.keys().all(|stored| self.id(stored, named).is_some());
        if named.is_empty() && !singly {
            missing.of_all.extend(std::mem::take(&mut missing.of_each).into_values().flatten());
        }
        // Where all sweeps were missed, a device that has a state of the same interval lacks others all the same.
        let most = TimeDelta::from_std(options.every + options.every / 3)?;
        let outages = outages(days, Window { until: options.known_until, ..window }, account, most)?;
        // What a reading that broke off brought is no hole any more; the rest of it is missing all the same.
        let broken_off = searched.broken_off(account, MOST_BEGUN).into_iter();
        for (device, stretch) in outages.into_iter().map(|outage| (None, outage)).chain(broken_off) {
            let Some(stretch) = stretch.within(&window) else { continue };
            match device {
                Some(stored) if named.is_empty() || named.contains_key(&stored) => {
                    missing.of_each.entry(stored).or_default().push(stretch);
                }
                Some(_other) => (),
                None if named.is_empty() => missing.of_all.push(stretch),
                None => {
                    named.keys().for_each(|stored| missing.of_each.entry(stored.clone()).or_default().push(stretch))
                }
            }
        }
        Ok(missing)
    }

    /// By which a device can be asked for. Who is known by a pseudonym cannot be; all together can.
    fn id(&self, stored: &str, named: &BTreeMap<String, &DeviceId>) -> Option<DeviceId> {
        match named.get(stored) {
            Some(device) => Some((*device).clone()),
            None => DeviceId::parse(stored).ok().filter(|id| self.policy.stored_device(id.as_str()) == stored),
        }
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
    let since = clock::floor(now - HISTORY, every).checked_add_signed(every)?.checked_add_signed(every)?;
    let window = Window { since, until: clock::floor(until, every) };
    window.check().is_ok().then_some(window)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use super::*;
    use crate::api::ClientOptions;
    use crate::archive::Shards;
    use crate::cli::demo::client_options;
    use crate::cli::progress::Bar;
    use crate::collect::{CollectStats, SourceChoice, Stop, stop_pair};
    use crate::disk::Disk;
    use crate::health::{Status, StatusOptions};
    use crate::ingest::{Ingest, PublishRule};
    use crate::sim::{FaultKind, Faults, Fleet, FleetOptions, Handle, RateLimit, Server, ServerOptions};

    const QUARTER: Duration = Duration::from_mins(15);

    /// A fleet that is collected each quarter of an hour, and healed.
    struct Collected {
        clock: Clock,
        collector: Collector<'static>,
        healer: Healer,
        server: Handle,
        stats: CollectStats,
        number: u16,
        _dir: tempfile::TempDir,
    }

    impl Collected {
        /// At 08:01 of a working day.
        async fn start(devices: u32, publish: PublishRule, named: &[u32], stop: Stop) -> Self {
            let clock = Clock::simulated(clock::parse_timestamp("2026-11-19T08:01:00Z").expect("a time"));
            let fleet = Fleet::new(FleetOptions { devices, ..FleetOptions::default() });
            let named = named.iter().map(|&number| DeviceId::parse(&fleet.device_id(number)).expect("an id")).collect();
            let client = client_options(String::new(), &fleet).expect("settings");
            let server = ServerOptions { limit: RateLimit::none(), ..ServerOptions::new(fleet) };
            let server = Server::bind(server, clock.clone(), SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await;
            let server = server.expect("a free port");
            let base_url = format!("http://{}", server.local_addr());
            let handle = server.handle();
            tokio::spawn(server.run(std::future::pending()));
            let client = Client::new(ClientOptions { base_url, ..client }, clock.clone()).expect("a client");
            let dir = tempfile::tempdir().expect("a folder");
            let archive = Archive::open_or_create(dir.path(), 1, clock.now(), Disk::default()).expect("an archive");
            let (ingest, _) = Ingest::open(archive.clone(), Shards::All, "test", Policy::default()).expect("the shard");
            let options = CollectOptions {
                source: SourceChoice::Auto,
                devices: named,
                since_minutes: 20,
                interval: QUARTER,
                deadline: None,
                publish,
            };
            let healer = Healer::new(&client, &archive, &clock, &options, &Policy::default(), true);
            let collector =
                Collector::new(client, ingest, &clock, &options, Box::leak(Box::new(Bar::new(true))), &stop);
            Self { clock, collector, healer, server: handle, stats: CollectStats::default(), number: 0, _dir: dir }
        }

        /// Sweeps, one each quarter of an hour, and as long without any behind them.
        async fn go(&mut self, sweeps: u16, without: i32) {
            for _ in 0..sweeps {
                self.number += 1;
                self.stats = self.collector.sweep(self.number).await.0;
                self.clock.advance(TimeDelta::minutes(15));
            }
            self.clock.advance(TimeDelta::minutes(15) * without);
        }

        fn waiting(&self) -> Option<Timestamp> {
            self.stats.waiting_since.map(|since| since.0)
        }

        /// What is to be healed between two sweeps.
        fn plan(&self) -> Vec<Stretch> {
            let plan = self.healer.plan(Duration::from_hours(1), self.waiting()).expect("an archive");
            plan.map_or_else(Vec::new, |plan| plan.windows)
        }

        async fn heal(&mut self) {
            let (waiting, number) = (self.waiting(), u64::from(self.number) << 8);
            let healed = self.healer.heal(&mut self.collector, Duration::from_hours(1), waiting, number).await;
            assert!(healed.failed.is_none());
        }
    }

    fn run(test: impl AsyncFnOnce(Stop)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (_switch, stop) = stop_pair();
        runtime.block_on(test(stop));
    }

    /// Fails where one device's history is read twice in a plan.
    fn check(plan: &[Stretch]) {
        for (at, one) in plan.iter().enumerate() {
            for other in &plan[at + 1..] {
                let is_same = one.device.is_none() || other.device.is_none() || one.device == other.device;
                assert!(!is_same || one.to <= other.from || other.to <= one.from, "{one:?} and {other:?}");
            }
        }
    }

    #[test]
    fn windows_that_never_come_to_an_end_keep_no_other_from_it() {
        run(async |stop: Stop| {
            let mut fleet = Collected::start(12, PublishRule::Sweep, &[], stop).await;
            fleet.go(4, 0).await;
            fleet.heal().await;
            // Two outages.
            fleet.go(1, 8).await;
            fleet.go(4, 8).await;
            fleet.go(4, 0).await;
            let before = fleet.plan();
            assert!(before.len() > 1 && before.is_sorted(), "{before:?}");
            // Nothing answers: the first window is begun, and comes to no end, each time.
            let first = vec![before[0].clone()];
            for expected in [&before[0], &before[1]] {
                let plan = BackfillPlan::new(
                    Source::Raw,
                    first.clone(),
                    Some(12),
                    fleet.healer.budget,
                    fleet.clock.now(),
                    Some(Duration::ZERO),
                );
                fleet.server.set_faults(Faults::none().with(FaultKind::Server, 1.0));
                fleet.collector.backfill(&plan, None, 7_000 + fleet.number).await;
                fleet.server.set_faults(Faults::none());
                fleet.number += 1;
                assert_eq!(fleet.plan().first(), Some(expected));
            }
            assert_eq!(fleet.plan().len(), before.len());
            fleet.heal().await;
            assert!(fleet.plan().is_empty());
        });
    }

    #[test]
    fn nothing_is_healed_where_nothing_was_missed() {
        run(async |stop: Stop| {
            // What waits in the journal was asked for.
            let mut fleet = Collected::start(12, PublishRule::Every(Duration::from_hours(1)), &[], stop.clone()).await;
            // Who is known has holes from before the collecting began.
            fleet.go(4, 0).await;
            fleet.heal().await;
            for _ in 0..12 {
                fleet.go(1, 0).await;
                let begun = clock::parse_timestamp("2026-11-19T08:00:00Z").expect("a time");
                let plan: Vec<Stretch> = fleet.plan().into_iter().filter(|stretch| stretch.to > begun).collect();
                assert!(plan.is_empty(), "{plan:?}, and since {:?} something waits", fleet.stats.waiting_since);
                let options = StatusOptions {
                    now: fleet.clock.now(),
                    max_age: Duration::from_hours(1),
                    expect: QUARTER,
                    longest_wait: Duration::from_hours(1),
                    accounts: BTreeMap::new(),
                };
                let status = Status::read(&fleet.healer.archive, &options).expect("an archive");
                assert!(status.expected > 0 && status.missed == 0, "{} of {}", status.missed, status.expected);
            }
            // What was read as far as it was settled did not break off.
            let mut fleet = Collected::start(12, PublishRule::Sweep, &[], stop).await;
            fleet.go(8, 0).await;
            fleet.heal().await;
            let now = fleet.clock.now();
            let all = Stretch { from: now - TimeDelta::minutes(10), to: now, device: None };
            let plan = BackfillPlan::new(Source::Raw, vec![all], Some(12), fleet.healer.budget, now, None);
            let (stats, _) = fleet.collector.backfill(&plan, None, 77).await;
            assert_eq!((stats.windows_left, stats.windows_done), (0, 1), "{stats:?}");
            for _ in 0..3 {
                fleet.go(1, 0).await;
                assert_eq!(fleet.plan(), []);
            }
        });
    }

    #[test]
    fn no_history_is_read_twice() {
        run(async |stop: Stop| {
            for (devices, named) in [(12, &[][..]), (6, &[]), (12, &[3, 4])] {
                let mut fleet = Collected::start(devices, PublishRule::Sweep, named, stop.clone()).await;
                fleet.go(4, 0).await;
                fleet.heal().await;
                fleet.go(2, 6).await;
                fleet.go(1, 0).await;
                let plan = fleet.plan();
                check(&plan);
                assert!(!plan.is_empty());
                let read: TimeDelta = plan.iter().map(|stretch| stretch.to - stretch.from).sum();
                fleet.heal().await;
                // The rest of the outage is settled later.
                let mut rest = TimeDelta::zero();
                for _ in 0..4 {
                    fleet.go(1, 0).await;
                    let plan = fleet.plan();
                    check(&plan);
                    rest += plan.iter().map(|stretch| stretch.to - stretch.from).sum::<TimeDelta>();
                    fleet.heal().await;
                }
                assert!(rest < read / 2, "{rest} after {read}: {devices} devices, {named:?}");
            }
        });
    }

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
