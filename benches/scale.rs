//! What a fleet costs, from 1,000 devices to a million: unit costs are measured on a small one, and a table made of them.
//!
//! `cargo bench --bench scale` simulates a day of 5,000 devices, read from the list every 15 minutes, with a server in the
//! same process and a clock that jumps from sweep to sweep, and prints the unit costs and the table. With a number of
//! devices and the minutes between two sweeps as arguments (`-- 100000 60`), it also simulates the day of such a fleet and
//! prints what was predicted beside what came of it. Processor time is the collector's: what the server's threads take
//! is left out.
//!
//! Rows are merged into their day up to so many at once, and each merge writes the day anew: what a day costs grows
//! with its square, and shards with a collector each divide it.

#![expect(clippy::print_stdout, reason = "that is what it is for")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

#[expect(dead_code, reason = "it simulates whole days by itself")]
mod contest;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use contest::{Failed, figures};
use dex_archive::api::{Budget, Client, ClientOptions, Credential, Secret};
use dex_archive::archive::{Archive, Shards};
use dex_archive::clock::{self, Clock};
use dex_archive::collect::{CollectOptions, Collector, Progress, SourceChoice, stop_pair};
use dex_archive::disk::Disk;
use dex_archive::ingest::{Ingest, PublishRule};
use dex_archive::privacy::Policy;
use dex_archive::schema::Schema;
use dex_archive::sim::{Fleet, FleetOptions, RateLimit, Server, ServerOptions};
use dex_archive::snapshot::AccountId;

const USAGE: &str = "usage: cargo bench --bench scale [-- DEVICES [MINUTES]]";

/// The fleet that unit costs are measured on.
const SMALL: u32 = 5_000;

/// Minutes between two sweeps, in the table.
const EVERY: u64 = 15;

/// Minutes of a day.
const DAY: u64 = 24 * 60;

/// States that a device reports in a day: one in 5 minutes.
const REPORTS: u64 = 288;

/// Devices on a page of the list.
const PAGE: u64 = 50;

/// Requests that one token may send in an interval: 80 % of 1,200 in 5 minutes.
const BUDGET: u64 = 2_880;

/// Rows of a part that is comfortable to write anew.
const ROWS_OF_A_PART: f64 = 5_000_000.0;

/// Rows that are merged at once, at most, and what the last segment of the journal has beyond.
const MERGED: f64 = 524_288.0;

/// Rows in a segment of the journal, which also counts the pages they come on.
const SEGMENT: f64 = 12_288.0 * 50.0 / 51.0;

/// Bytes that are fetched with one request of an object that is read from end to end.
const PIECE: u64 = 16 << 20;

/// What came of a day.
#[derive(Debug, Clone, Copy)]
struct Day {
    devices: u64,
    requests: u64,
    rows: u64,
    bytes: u64,
    /// Seconds of a processor.
    processor: f64,
    /// Bytes that the process held at most.
    memory: u64,
    wall: Duration,
}

/// What a device, a request, a row costs.
#[derive(Debug, Clone, Copy)]
struct Units {
    /// Rows of a device in a sweep: those that are off have none.
    rows: f64,
    bytes_of_row: f64,
    /// Seconds of a processor to ask for a row, journal it and make it one.
    taking_in: f64,
    /// Seconds of a processor to write a row of the day anew.
    writing: f64,
}

struct Silent;

impl Progress for Silent {
    fn plan(&self, _line: &str) {}
    fn start(&self, _what: &'static str, _requests: Option<u64>) {}
    fn advance(&self, _requests: u64) {}
    fn finish(&self) {}
}

fn main() -> Result<ExitCode, Failed> {
    let Some(figures) = figures(USAGE, 2) else { return Ok(ExitCode::from(2)) };
    let hourly = day(SMALL, EVERY, PublishRule::Every(Duration::from_hours(1)))?;
    let often = day(SMALL, EVERY, PublishRule::Sweep)?;
    let units = Units::of(&hourly, &often);
    println!("unit costs, from a day of {SMALL} devices ({} rows):", hourly.rows);
    println!(
        "  {:.2} rows a device and sweep, {:.0} bytes a row, {:.0} us to take in a row, {:.1} us to write one anew",
        units.rows,
        units.bytes_of_row,
        units.taking_in * 1e6,
        units.writing * 1e6
    );
    table(&units);
    if let [devices, every @ ..] = &figures[..] {
        let every = every.first().map_or(EVERY, |minutes| u64::from(*minutes));
        // How many devices are on the list depends on how far back it looks.
        let few = day(SMALL / 5, every, PublishRule::Sweep)?;
        let units = Units { rows: few.rows as f64 / (few.devices * DAY / every) as f64, ..units };
        compare(&units, every, &day(*devices, every, PublishRule::Every(Duration::from_hours(1)))?);
    }
    Ok(ExitCode::SUCCESS)
}

impl Units {
    fn of(hourly: &Day, often: &Day) -> Self {
        let rows = hourly.rows as f64;
        let (few, many) = (written(rows, 24.0), written(rows, (DAY / EVERY) as f64));
        let writing = (often.processor - hourly.processor).max(0.0) / (many - few);
        Self {
            rows: rows / (hourly.devices * DAY / EVERY) as f64,
            bytes_of_row: hourly.bytes as f64 / rows,
            taking_in: (hourly.processor - few * writing).max(0.0) / rows,
            writing,
        }
    }

    /// What a day of a fleet is said to cost, with a publish an hour: requests, rows, bytes, seconds of a processor.
    fn predict(&self, devices: u64, every: u64, shards: f64) -> (u64, f64, f64, f64) {
        let sweeps = DAY / every;
        let rows = (devices * sweeps) as f64 * self.rows;
        let writing = shards * written(rows / shards, 24.0) * self.writing;
        (sweeps * devices.div_ceil(PAGE), rows, rows * self.bytes_of_row, rows * self.taking_in + writing)
    }
}

/// Rows that are written in a day of so many, with so many publishes: what there is of the day, at each merge.
fn written(rows: f64, publishes: f64) -> f64 {
    let (each, mut day, mut written) = (rows / publishes, 0.0, 0.0);
    while day < rows - 0.5 {
        let most = (MERGED / SEGMENT).ceil() * SEGMENT;
        let mut left = each;
        while left > 0.0 {
            let merged = left.min(most);
            (day, left) = (day + merged, left - merged);
            written += day;
        }
    }
    written
}

fn table(units: &Units) {
    println!(
        "\n| devices | list takes | every | requests | tokens, live too | requests, raw | rows | stored | processor | \
         shards | class A | class B |"
    );
    println!("|{}", " --- |".repeat(12));
    for devices in [1_000, 10_000, 50_000, 100_000, 500_000, 1_000_000_u64] {
        let pages = devices.div_ceil(PAGE);
        // Of what one token may send; the list is read whole, however many collectors there are.
        let takes = (pages * EVERY) as f64 / BUDGET as f64;
        let every = [15, 30, 60, 120, 240].into_iter().find(|every| *every as f64 > takes).unwrap_or(DAY);
        let rows = (devices * DAY / every) as f64 * units.rows;
        let shards = (rows / ROWS_OF_A_PART).ceil().max(1.0);
        let (requests, rows, bytes, processor) = units.predict(devices, every, shards);
        // Each collector reads the list, and asks for the devices of its shard with what is left.
        let left = (BUDGET * every / EVERY).saturating_sub(pages);
        let live = if left == 0 { "–".to_owned() } else { devices.div_ceil(left).to_string() };
        // A publish of a shard lists days and parts, reads the part and writes it; of states and of polls.
        let writes = 24.0 * shards * 2.0 * (1.0 + 3.0);
        let reads = 24.0 * (shards * 2.0 + (bytes / 2.0 / PIECE as f64).ceil());
        println!(
            "| {} | {takes:.0} min | {every} min | {} | {live} | {} | {:.1} M | {:.2} GB | {:.0} min | {shards} | \
             {writes} | {reads} |",
            figure(devices),
            figure(requests),
            figure(devices * REPORTS / PAGE),
            rows / 1e6,
            bytes / 1e9,
            processor / 60.0,
        );
    }
}

fn compare(units: &Units, every: u64, day: &Day) {
    let (requests, rows, bytes, processor) = units.predict(day.devices, every, 1.0);
    let minutes = day.wall.as_secs_f64() / 60.0;
    println!("\na simulated day of {} devices, every {every} minutes, took {minutes:.0} min:", figure(day.devices));
    println!("| | predicted | measured | measured / predicted |\n| --- | --- | --- | --- |");
    let line = |what: &str, predicted: f64, measured: f64, unit: &str| {
        println!("| {what} | {predicted:.1}{unit} | {measured:.1}{unit} | {:.2} |", measured / predicted);
    };
    line("requests", requests as f64 / 1e3, day.requests as f64 / 1e3, " K");
    line("rows", rows / 1e6, day.rows as f64 / 1e6, " M");
    line("bytes", bytes / 1e6, day.bytes as f64 / 1e6, " MB");
    line("processor", processor / 60.0, day.processor / 60.0, " min");
    println!("peak memory, of the server too: {} MB", day.memory / 1_000_000);
}

/// Simulates a day.
fn day(devices: u32, every: u64, publish: PublishRule) -> Result<Day, Failed> {
    let dir = tempfile::tempdir_in(Path::new(env!("CARGO_MANIFEST_DIR")).join("target"))?;
    let start = clock::parse_timestamp("2026-10-01T00:00:00Z").ok_or("a time")?;
    let clock = Clock::simulated(start);
    let fleet = Fleet::new(FleetOptions { devices, ..FleetOptions::default() });
    let options = ServerOptions { limit: RateLimit::none(), keep_served: false, ..ServerOptions::new(fleet.clone()) };
    let mut server_threads = tokio::runtime::Builder::new_multi_thread();
    let server_threads = server_threads.worker_threads(1).thread_name("fleet").enable_all().build()?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let server = server_threads.block_on(Server::bind(options, clock.clone(), address))?;
    let (url, handle) = (format!("http://{}", server.local_addr()), server.handle());
    server_threads.spawn(server.run(std::future::pending()));
    let client = Client::new(client_options(url, &fleet)?, clock.clone())?;
    let archive = Archive::open_or_create(&dir.path().join("archive"), 1, start, Disk::default())?;
    let ingest = Ingest::attach(archive.clone(), Shards::All, "scale", Policy::default())?;
    let options = CollectOptions {
        source: SourceChoice::List,
        devices: Vec::new(),
        since_minutes: u32::try_from(every + 5)?.min(60),
        interval: Duration::from_mins(every),
        deadline: None,
        publish,
    };
    let (_switch, stop) = stop_pair();
    let mut collector = Collector::new(client, ingest, &clock, &options, &Silent, &stop);
    let (began, before) = (Instant::now(), processor()?);
    forget_peak()?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        for number in 0..u16::try_from(DAY / every)? {
            let (_, failed) = collector.sweep(number).await;
            failed.map_or(Ok(()), Err)?;
            clock.advance(TimeDelta::minutes(i64::try_from(every)?));
        }
        collector.publish_waiting().await?;
        Ok::<_, Failed>(())
    })?;
    let (wall, processor, memory) = (began.elapsed(), processor()? - before, peak()?);
    collector.finish()?;
    let schema = Schema::device_state();
    let mut rows = 0;
    for partition in archive.partitions(&schema)? {
        for (_, path) in archive.parts(&partition)? {
            rows += archive.look(&path, &schema)?.rows();
        }
    }
    let bytes = archive.sizes(&schema)?.values().sum();
    Ok(Day { devices: devices.into(), requests: handle.requests(), rows, bytes, processor, memory, wall })
}

fn client_options(base_url: String, fleet: &Fleet) -> Result<ClientOptions, Failed> {
    Ok(ClientOptions {
        base_url,
        account_id: AccountId::parse(&fleet.options().account_id)?,
        credential: Credential::Token(Secret::new("simulated")?),
        budget: Budget { limit: None, share: 1.0 },
        attempts: 3,
        retry_delay: Duration::from_millis(100),
        connect_timeout: Duration::from_secs(5),
        timeout: Duration::from_mins(1),
        max_body_bytes: 16 << 20,
        seed: 1,
    })
}

/// Seconds of a processor that this process has used, but for the server's threads.
fn processor() -> Result<f64, Failed> {
    let ticks = |stat: &str| -> Option<u64> {
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
    };
    let read = |path: &Path| std::fs::read_to_string(path);
    let mut own = ticks(&read(Path::new("/proc/self/stat"))?).ok_or("no figures in /proc")?;
    for thread in std::fs::read_dir("/proc/self/task")? {
        let stat = read(&thread?.path().join("stat"))?;
        if stat.contains("(fleet)") {
            own = own.saturating_sub(ticks(&stat).ok_or("no figures in /proc")?);
        }
    }
    // The kernel counts in hundredths there.
    Ok(own as f64 / 100.0)
}

#[expect(clippy::disallowed_methods, reason = "the kernel's own switch")]
fn forget_peak() -> Result<(), Failed> {
    Ok(std::fs::write("/proc/self/clear_refs", "5")?)
}

fn peak() -> Result<u64, Failed> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no peak in /proc")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? * 1024)
}

/// With commas between thousands.
fn figure(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|group| std::str::from_utf8(group).ok()).collect();
    groups.join(",")
}
