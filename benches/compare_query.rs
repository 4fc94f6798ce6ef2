//! `query` beside DuckDB and Polars, on the same files and in the same run.
//!
//! `cargo bench --bench compare_query` builds what it needs once, below `target/bench`: 30 days of 1,000 devices,
//! simulated, dumped and imported; then 30 days of 100 and of 4,000 devices, of which one day is imported and the
//! others are the same rows, later. It asks in turn, several rounds, and prints medians and ratios. The answers are to
//! be the same; otherwise nothing is asserted. With a figure as argument, so many devices stand for the 1,000.

#![expect(clippy::print_stdout, reason = "that is what it is for")]

#[expect(dead_code, reason = "its peers write nothing")]
mod contest;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{ArrayRef, RecordBatch, TimestampMicrosecondArray};
use contest::{
    ACCOUNT, Cost, Failed, PROGRAM, bench_dir, beside, figures, median, of_peaks, output, python, ran, turns, upgraded,
};
use dex_archive::archive::{Archive, Incoming, Part, partitions_of};
use dex_archive::clock::{self, Zone};
use dex_archive::disk::Disk;
use dex_archive::query::{Agg, Days, StateOptions, TrendOptions, Who, Window, latest, metrics, trend};
use dex_archive::schema::Schema;
use serde::Deserialize;
use serde_json::{Value, json};

const USAGE: &str = "usage: cargo bench --bench compare_query [-- DEVICES]";

/// The program as it is installed: a copy. Of a file that a linker wrote piece by piece the kernel holds each page by
/// itself, and a start takes longer.
static INSTALLED: LazyLock<PathBuf> = LazyLock::new(|| {
    let copy = bench_dir().expect("a folder").join("dex-archive");
    std::fs::copy(PROGRAM, &copy).expect("room for a copy of the program");
    copy
});

const ROUNDS: usize = 15;
const TICKS: u32 = 288;

/// The days of October that there are; the questions are about them.
const DAYS: u32 = 30;

const METRICS: [&str; 2] = ["cpu_pct", "rtt_rtt_us_downstream"];

/// Where DuckDB's command line is: what `pip` puts beside Python is a script, which starts this one and takes longer.
const COMMAND_LINE: &str = "import duckdb_cli, os\n\
print(os.path.join(os.path.dirname(duckdb_cli.__file__), 'duckdb'))";

fn main() -> Result<ExitCode, Failed> {
    let Some(figures) = figures(USAGE, 1) else { return Ok(ExitCode::from(2)) };
    let devices = figures.first().copied().unwrap_or(1_000);
    let bench = bench_dir()?;
    let mut peers = Peers::start(&bench)?;
    println!("{}", peers.versions);
    let archive = imported(&bench, devices, DAYS)?;
    println!(
        "{DAYS} days x {devices} devices x {TICKS} states; medians of {ROUNDS} rounds, in ms; {}\n\
         times: divided by what the process of dex-archive takes, so that below 1 is faster than that",
        of_peaks()
    );
    for question in [Question::Device, Question::Fleet, Question::Latest] {
        compare(question, &archive, &mut peers)?;
    }
    by_fleet(&bench, archive, devices)?;
    Ok(ExitCode::SUCCESS)
}

/// The same question in fleets of different sizes.
fn by_fleet(bench: &Path, archive: PathBuf, devices: u32) -> Result<(), Failed> {
    let fleets = [(devices / 10).max(1), devices, devices * 4];
    let archives = [repeated(bench, fleets[0], DAYS)?, archive, repeated(bench, fleets[2], DAYS)?];
    let fullest: Vec<String> = archives.iter().map(|archive| fullest(archive)).collect::<Result<_, _>>()?;
    let mut times = fleets.map(|_| Vec::new());
    for round in 0..ROUNDS {
        for who in turns(round, fleets.len()) {
            times[who].push(whole_process(Question::Device, &archives[who], &fullest[who])?);
        }
    }
    println!("\none device, {DAYS} days, by devices in the fleet");
    let medians = times.map(median);
    for (fleet, ms) in fleets.iter().zip(medians) {
        println!("  {fleet:>6} devices {ms:8.1}  {:.2} times the first", ms / medians[0]);
    }
    Ok(())
}

/// Who answers.
#[derive(Clone, Copy)]
enum Contender {
    Process,
    InProcess,
    /// In a process that stays.
    Peer(&'static str),
    /// DuckDB's, a process of its own.
    CommandLine,
}

const CONTENDERS: [(Contender, &str); 6] = [
    (Contender::Process, "dex-archive, process"),
    (Contender::InProcess, "dex-archive, in process"),
    (Contender::Peer("DuckDB"), "DuckDB, in process"),
    (Contender::Peer("DuckDB, metadata cached"), "DuckDB, in process, with parquet_metadata_cache"),
    (Contender::CommandLine, "DuckDB's command line, process"),
    (Contender::Peer("Polars"), "Polars, in process"),
];

#[derive(Clone, Copy)]
enum Question {
    /// One device by the hour, over all days.
    Device,
    /// The fleet by the hour, over one day.
    Fleet,
    /// The newest state of each device.
    Latest,
}

impl Question {
    fn name(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Fleet => "fleet",
            Self::Latest => "latest",
        }
    }

    /// What is typed.
    fn command(self, archive: &Path, device: &str, format: &str) -> Vec<String> {
        let archive = archive.display().to_string();
        let before = ["--archive".to_owned(), archive, "query".to_owned()].into_iter();
        before.chain(self.arguments(device)).chain(["--format".to_owned(), format.to_owned()]).collect()
    }

    fn arguments(self, device: &str) -> Vec<String> {
        let metrics = METRICS.join(",");
        let text = match self {
            Self::Device => format!("trend --device {device} --metric {metrics} --since 2026-10-01 --until 2026-10-31"),
            Self::Fleet => format!("trend --fleet --metric {metrics} --since 2026-10-15 --until 2026-10-16"),
            Self::Latest => "latest --at 2026-10-31T00:00:00Z --back 7d".to_owned(),
        };
        let aggregates = if text.starts_with("trend") { " --agg mean,min,max,p95 --every 1h" } else { "" };
        format!("{text}{aggregates}").split(' ').map(str::to_owned).collect()
    }
}

/// Every contender in turn, round by round.
fn compare(question: Question, archive: &Path, peers: &mut Peers) -> Result<(), Failed> {
    let device = fullest(archive)?;
    println!("\n{}", question.name());
    agree(question, archive, &device, peers)?;
    let sql = peers.sql(question, archive, &device)?;
    let mut times = CONTENDERS.map(|_| Vec::new());
    for round in 0..=ROUNDS {
        for who in turns(round, CONTENDERS.len()) {
            let (contender, _) = CONTENDERS[who];
            times[who].push(match contender {
                Contender::Process => whole_process(question, archive, &device)?,
                Contender::InProcess => in_process(question, archive, &device)?,
                Contender::Peer(peer) => peers.ask(peer, question, archive, &device)?,
                Contender::CommandLine => peers.command_line(&sql)?,
            });
        }
    }
    // The first round warms up.
    let medians = times.map(|times| median(times[1..].to_vec()));
    for ((_, name), ms) in CONTENDERS.iter().zip(medians) {
        println!("  {name:<48} {ms:8.1}  {:.2} times", ms / medians[0]);
    }
    let mut command = vec![INSTALLED.display().to_string()];
    command.extend(question.command(archive, &device, "csv"));
    let cost = Cost::of(std::thread::available_parallelism()?.get(), &command)?;
    println!("  peak memory of dex-archive {:.1} MB", cost.peak_megabytes);
    Ok(())
}

/// What an answer comes to.
#[derive(Debug, Default, Deserialize)]
struct Checked {
    rows: usize,
    /// By column, the sum of what is in it: a text counts as its checksum.
    sums: BTreeMap<String, f64>,
}

/// Fails where a peer's answer is another than that of dex-archive.
fn agree(question: Question, archive: &Path, device: &str, peers: &mut Peers) -> Result<(), Failed> {
    let own = checked(question, archive, device)?;
    for (contender, name) in CONTENDERS {
        let Contender::Peer(peer) = contender else { continue };
        let answer = peers.answer(peer, question, archive, device, true)?;
        let theirs: Checked = serde_json::from_str(&answer)?;
        // Sums differ by the order in which they are made. dex-archive's answers have columns beyond theirs.
        let near = |(column, sum): (&String, &f64)| {
            own.sums.get(column).is_some_and(|own| (own - sum).abs() <= 1e-9 * sum.abs())
        };
        if own.rows != theirs.rows || !theirs.sums.iter().all(near) {
            return Err(format!("{name} answers {theirs:?}, and dex-archive {own:?}").into());
        }
    }
    println!("  {} rows, the same of all", own.rows);
    Ok(())
}

/// What dex-archive's answer comes to, without the hours that have no state: others leave them out.
fn checked(question: Question, archive: &Path, device: &str) -> Result<Checked, Failed> {
    let answer = output(Command::new(&*INSTALLED).args(question.command(archive, device, "ndjson")))?;
    let mut checked = Checked::default();
    for row in String::from_utf8(answer.stdout)?.lines() {
        let row: BTreeMap<String, Value> = serde_json::from_str(row)?;
        if row.get("states").and_then(Value::as_u64) == Some(0) {
            continue;
        }
        checked.rows += 1;
        for (column, value) in row {
            *checked.sums.entry(column).or_default() += weight(&value);
        }
    }
    Ok(checked)
}

/// What a value adds to the sum of its column, as `peers.py` has it.
fn weight(value: &Value) -> f64 {
    let Value::String(text) = value else { return value.as_f64().unwrap_or(0.0) };
    let mut checksum = flate2::Crc::new();
    checksum.update(text.as_bytes());
    checksum.sum().into()
}

/// Milliseconds from the start of the program to its end.
fn whole_process(question: Question, archive: &Path, device: &str) -> Result<f64, Failed> {
    let began = Instant::now();
    ran(Command::new(&*INSTALLED).args(question.command(archive, device, "csv")).stdout(Stdio::null()))?;
    Ok(milliseconds(began))
}

fn in_process(question: Question, archive: &Path, device: &str) -> Result<f64, Failed> {
    let time = |text| clock::parse_timestamp(text).ok_or("a time");
    let archive = Archive::open(archive)?;
    let names: Vec<String> = METRICS.map(str::to_owned).to_vec();
    let began = Instant::now();
    let days = Days::new(&archive, false);
    if let Question::Latest = question {
        let columns = ["device_name", "platform", "version", "mode", "status", "colo"].map(str::to_owned).to_vec();
        let window = Window { since: time("2026-10-24T00:00:00Z")?, until: time("2026-10-31T00:00:00Z")? };
        latest(&days, &StateOptions { devices: None, columns, window })?;
        return Ok(milliseconds(began));
    }
    let (who, since, until) = match question {
        Question::Fleet => (Who::Fleet { by: None }, "2026-10-15T00:00:00Z", "2026-10-16T00:00:00Z"),
        _ => (Who::Devices(vec![device.to_owned()]), "2026-10-01T00:00:00Z", "2026-10-31T00:00:00Z"),
    };
    let options = TrendOptions {
        who,
        metrics: metrics(&names)?,
        window: Window { since: time(since)?, until: time(until)? },
        every: Duration::from_hours(1),
        zone: Zone::UTC,
        aggs: vec![Agg::Mean, Agg::Min, Agg::Max, Agg::P95],
    };
    trend(&days, &options)?;
    Ok(milliseconds(began))
}

/// DuckDB and Polars, in a process that stays.
struct Peers {
    python: PathBuf,
    /// DuckDB's command line.
    duckdb: PathBuf,
    versions: String,
    _process: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peers {
    fn start(bench: &Path) -> Result<Self, Failed> {
        let python = python(bench)?;
        let duckdb = PathBuf::from(line(Command::new(&python).args(["-c", COMMAND_LINE]))?);
        let mut process = Command::new(&python);
        process.arg(beside("peers.py")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = process.spawn()?;
        let questions = process.stdin.take().ok_or("a pipe")?;
        let mut answers = BufReader::new(process.stdout.take().ok_or("a pipe")?);
        let mut versions = String::new();
        answers.read_line(&mut versions)?;
        let command_line = line(Command::new(&duckdb).arg("--version"))?;
        let versions = format!("{}; DuckDB's command line {command_line}", versions.trim());
        Ok(Self { python, duckdb, versions, _process: process, questions, answers })
    }

    /// Milliseconds to an answer.
    fn ask(&mut self, peer: &str, question: Question, archive: &Path, device: &str) -> Result<f64, Failed> {
        Ok(self.answer(peer, question, archive, device, false)?.trim().parse()?)
    }

    /// What is said of an answer: how long it took or, where it is to be checked, what it comes to.
    fn answer(
        &mut self,
        peer: &str,
        question: Question,
        archive: &Path,
        device: &str,
        check: bool,
    ) -> Result<String, Failed> {
        let question = question.name();
        let asked = json!({"peer": peer, "question": question, "archive": archive, "device": device, "check": check});
        writeln!(self.questions, "{asked}")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        Ok(answer)
    }

    /// A question in DuckDB's SQL, at the time zone that the others have.
    fn sql(&self, question: Question, archive: &Path, device: &str) -> Result<String, Failed> {
        let mut command = Command::new(&self.python);
        let sql = line(command.arg(beside("peers.py")).arg(question.name()).arg(archive).arg(device))?;
        Ok(format!("SET TimeZone = 'UTC'; {sql}"))
    }

    /// Milliseconds from the start of DuckDB's command line to its end.
    fn command_line(&self, sql: &str) -> Result<f64, Failed> {
        let began = Instant::now();
        ran(Command::new(&self.duckdb).args(["-csv", "-c", sql]).stdout(Stdio::null()))?;
        Ok(milliseconds(began))
    }
}

/// The line that a command prints.
fn line(command: &mut Command) -> Result<String, Failed> {
    Ok(String::from_utf8(output(command)?.stdout)?.trim().to_owned())
}

/// An archive of simulated days, each dumped and imported, as this version writes it.
fn imported(bench: &Path, devices: u32, days: u32) -> Result<PathBuf, Failed> {
    let archive = bench.join(format!("imported-{devices}-{days}"));
    let dump = bench.join("day.ndjson");
    for day in 1..=days {
        if archive.join(format!("device_state/date=2026-10-{day:02}")).exists() {
            continue;
        }
        println!("building {}: day {day} of {days}", archive.display());
        let start = format!("2026-10-{day:02}T00:00:00Z");
        let count = [devices, TICKS].map(|count| count.to_string());
        let arguments = ["simulate", "--devices", &count[0], "--ticks", &count[1], "--start", &start, "--dump"];
        ran(Command::new(PROGRAM).args(arguments).arg(&dump))?;
        ran(Command::new(PROGRAM)
            .arg("--archive")
            .arg(&archive)
            .args(["-q", "import", "--account", ACCOUNT])
            .arg(&dump))?;
        ran(Command::new("rm").arg(&dump))?;
    }
    upgraded(&archive)?;
    Ok(archive)
}

/// An archive of the same rows day after day: one is imported.
fn repeated(bench: &Path, devices: u32, days: u32) -> Result<PathBuf, Failed> {
    let root = imported(bench, devices, 1)?;
    let schema = Schema::device_state();
    let archive = Archive::open_or_create(
        &root,
        1,
        clock::parse_timestamp("2026-10-01T00:00:00Z").ok_or("a time")?,
        Disk::default(),
    )?;
    let partitions = archive.partitions(&schema)?;
    if partitions.len() >= days as usize {
        return Ok(root);
    }
    println!("building {}", root.display());
    let lock = archive.lock(0, "bench")?;
    let (_, path) = archive.parts(&partitions[0])?.remove(0);
    let batches = Part::open(&path, &schema)?.batches(None).collect::<Result<Vec<_>, _>>()?;
    let first = arrow_select::concat::concat_batches(schema.arrow(), &batches)?;
    for day in partitions.len()..days as usize {
        let rows = later(&schema, &first, i64::try_from(day)?)?;
        for (date, positions) in partitions_of(&schema, &rows) {
            archive.stage(&lock, &schema, date, Incoming::new(&schema, &rows, &positions))?.publish()?;
        }
    }
    Ok(root)
}

/// Rows so many days later.
fn later(schema: &Schema, rows: &RecordBatch, days: i64) -> Result<RecordBatch, Failed> {
    let columns = rows.columns().iter().enumerate().map(|(at, column)| {
        if !schema.partition_by.contains(&at) {
            return Arc::clone(column);
        }
        let times = column.as_primitive::<TimestampMicrosecondType>();
        let times: TimestampMicrosecondArray = times.unary(|micros| micros + days * 86_400_000_000);
        Arc::new(times.with_timezone("UTC")) as ArrayRef
    });
    Ok(RecordBatch::try_new(Arc::clone(schema.arrow()), columns.collect())?)
}

/// The device with the most states on the first day.
fn fullest(archive: &Path) -> Result<String, Failed> {
    let arguments = ["query", "trend", "--fleet", "--by", "device_id", "--metric", "cpu_pct", "--agg", "count"];
    let window = ["--since", "2026-10-01", "--until", "2026-10-02", "--every", "1d", "--format", "csv"];
    let output = output(Command::new(PROGRAM).arg("--archive").arg(archive).args(arguments).args(window))?;
    let text = String::from_utf8(output.stdout)?;
    let count = |line: &&str| line.rsplit(',').next().and_then(|count| count.parse::<u64>().ok());
    let fullest = text.lines().skip(1).max_by_key(count).ok_or("a device")?;
    Ok(fullest.split(',').nth(1).ok_or("a device")?.to_owned())
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
