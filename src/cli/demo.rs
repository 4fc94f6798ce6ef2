//! `demo`: the whole way from an API to a trend, on simulated hours.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use chrono::TimeDelta;

use crate::api::{Budget, Client, ClientOptions, Credential, Secret};
use crate::archive::Archive;
use crate::clock::{Clock, Timestamp, Zone};
use crate::collect::{CollectOptions, Collector, SourceChoice, stop_pair};
use crate::disk::Access;
use crate::ingest::PublishRule;
use crate::privacy::Policy;
use crate::query::{Agg, Answer, Days, QueryError, TrendOptions, Who, Window, metrics, trend};
use crate::sim::{Fleet, FleetOptions, RateLimit, Server, ServerOptions};
use crate::snapshot::AccountId;

use super::args::{Args, DemoArgs};
use super::progress::Bar;
use super::{Exit, print, query, runtime, summary, take};

/// Where the demo's archive goes, where nothing is said.
const FOLDER: &str = "dex-archive-demo";

/// Simulated minutes between two sweeps.
const STEP_MINUTES: i64 = 15;

/// So many devices are looked at for one with much to show.
const DEVICES_TRIED: u32 = 12;

/// Runs the demo.
pub(super) fn run(args: &Args, command: &DemoArgs) -> anyhow::Result<Exit> {
    let root = match args.typed_archive() {
        // Simulated devices have no place among real ones.
        Some(root) if Archive::find(root)?.is_some() => bail!(
            "{} holds an archive already, and a demo's devices would stay among its own: name a new folder",
            root.display()
        ),
        Some(root) => root.clone(),
        None => PathBuf::from(FOLDER),
    };
    let end = Clock::system().now();
    let start = end - TimeDelta::hours(i64::from(command.hours));
    let fleet = Fleet::new(FleetOptions { devices: command.devices, ..FleetOptions::default() });
    let runtime = runtime()?;
    runtime.block_on(sweep(&fleet, &root, start, end))?;
    let window = Window { since: start, until: end };
    show(&fleet, &root, window)
}

/// Sweeps a simulated fleet from `start` to `end`, by the code that sweeps a real one.
async fn sweep(fleet: &Fleet, root: &Path, start: Timestamp, end: Timestamp) -> anyhow::Result<()> {
    let clock = Clock::simulated(start);
    let options = ServerOptions { limit: RateLimit::none(), keep_served: false, ..ServerOptions::new(fleet.clone()) };
    let server = Server::bind(options, clock.clone(), SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
    let url = format!("http://{}", server.local_addr());
    print::note(&format!("simulating {} devices at {url}; archive: {}", fleet.options().devices, root.display()));
    let _server = tokio::spawn(server.run(std::future::pending()));
    let client = Client::new(client_options(url, fleet)?, clock.clone())?;
    let (ingest, _) = take::open(&root.into(), &clock, "demo", Access::default(), Policy::default())?;
    let options = CollectOptions {
        source: SourceChoice::Auto,
        devices: Vec::new(),
        since_minutes: 20,
        interval: Duration::from_mins(15),
        deadline: None,
        publish: PublishRule::Sweep,
    };
    let ((_switch, stop), bar) = (stop_pair(), Bar::new(true));
    let mut collector = Collector::new(client, ingest, &clock, &options, &bar, &stop);
    for number in 0_u16.. {
        let (stats, failed) = collector.sweep(number).await;
        failed.map_or(Ok(()), Err)?;
        print::note(&format!("{}  {}", clock.now().format("%Y-%m-%d %H:%M"), summary::of_sweep(&stats)));
        clock.advance(TimeDelta::minutes(STEP_MINUTES));
        if clock.now() >= end {
            break;
        }
    }
    Ok(collector.finish()?)
}

/// How a simulated API is asked.
pub(super) fn client_options(base_url: String, fleet: &Fleet) -> anyhow::Result<ClientOptions> {
    Ok(ClientOptions {
        base_url,
        account_id: AccountId::parse(&fleet.options().account_id)?,
        credential: Credential::Token(Secret::new("simulated")?),
        budget: Budget { limit: None, share: 1.0 },
        attempts: 3,
        retry_delay: Duration::from_millis(100),
        connect_timeout: Duration::from_secs(5),
        timeout: Duration::from_secs(10),
        max_body_bytes: 1 << 20,
        seed: 1,
    })
}

/// Where the files are, a trend, and what to paste.
fn show(fleet: &Fleet, root: &Path, window: Window) -> anyhow::Result<Exit> {
    let archive = Archive::open(root)?;
    let days = Days::new(&archive, false);
    let mut options = TrendOptions {
        who: Who::Devices(Vec::new()),
        metrics: metrics(&["cpu_pct".to_owned(), "rtt_rtt_us_downstream".to_owned()])?,
        window,
        every: Duration::from_mins(30),
        zone: Zone::UTC,
        aggs: vec![Agg::Mean, Agg::Max],
    };
    let mut best: Option<(usize, String, Answer)> = None;
    // Phones and laptops that are off have little to show: the fullest of the first devices is shown.
    for device in (0..fleet.options().devices.min(DEVICES_TRIED)).map(|device| fleet.device_id(device)) {
        options.who = Who::Devices(vec![device.clone()]);
        let answer = match trend(&days, &options) {
            Err(QueryError::NoState { .. }) => continue,
            answer => answer?,
        };
        let values = answer.rows.iter().map(|row| answer.values(row).count()).sum();
        if best.as_ref().is_none_or(|(most, ..)| values > *most) {
            best = Some((values, device, answer));
        }
    }
    let (_, device, best) = best.context("none of the first devices has a state: use more devices, or more hours")?;
    let root = root.display();
    // A newcomer has the program where cargo put it.
    let program = std::env::args().next().unwrap_or_else(|| "dex-archive".to_owned());
    print::data(format!(
        "\n{}\nfiles:  {root}/device_state/date=*/*.parquet\nagain:  {program} --archive {root} query trend --device {} --since 1d --every 30m\n\
         SQL:    duckdb -c \"SELECT platform, status, count(*) FROM '{root}/device_state/*/*.parquet' GROUP BY ALL ORDER BY ALL\"\n",
        query::table(&best, Zone::UTC),
        device,
    ))?;
    Ok(Exit::Done)
}
