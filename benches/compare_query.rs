//! `query` beside DuckDB and Polars, on the same files and in the same run.
//!
//! `cargo bench --bench compare_query` builds what it needs once, below `target/bench`: 30 days of 1,000 devices,
//! simulated, dumped and imported; then 30 days of 100 and of 4,000 devices, of which one day is imported and the
//! others are the same rows, later. It asks in turn, several rounds, and prints medians and ratios. Nothing is
//! asserted. With figures as arguments, so many devices and days stand for the 1,000 and the 30.

#![expect(clippy::print_stdout, reason = "that is what it is for")]

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{ArrayRef, RecordBatch, TimestampMicrosecondArray};
use dex_archive::archive::{Archive, Incoming, Part, partitions_of};
use dex_archive::clock::{self, Zone};
use dex_archive::disk::Disk;
use dex_archive::query::{Agg, Days, StateOptions, TrendOptions, Who, Window, latest, metrics, trend};
use dex_archive::schema::Schema;

type Failed = Box<dyn Error>;

/// The program as the linker wrote it.
const PROGRAM: &str = env!("CARGO_BIN_EXE_dex-archive");

/// The program as it is installed: a copy. Of a file that a linker wrote piece by piece the kernel holds each page by
/// itself, and a start takes longer.
static INSTALLED: LazyLock<PathBuf> = LazyLock::new(|| {
    let copy = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench/dex-archive");
    std::fs::copy(PROGRAM, &copy).expect("room for a copy of the program");
    copy
});

const ACCOUNT: &str = "01a7362d577a6c3019a474fd6f485823";
const ROUNDS: usize = 15;
const TICKS: u32 = 288;
const METRICS: [&str; 2] = ["cpu_pct", "rtt_rtt_us_downstream"];

fn main() -> Result<(), Failed> {
    let figures: Vec<u32> = std::env::args().skip(1).filter_map(|figure| figure.parse().ok()).collect();
    let (devices, days) = (figures.first().copied().unwrap_or(1_000), figures.get(1).copied().unwrap_or(30));
    let bench = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench");
    std::fs::create_dir_all(&bench)?;
    let mut peers = Peers::start(&bench)?;
    let archive = imported(&bench, devices, days)?;
    println!("{days} days x {devices} devices x {TICKS} states; medians of {ROUNDS} rounds, in ms");
    for question in [Question::Device, Question::Fleet, Question::Latest] {
        compare(question, &archive, &mut peers)?;
    }
    println!("\none device, {days} days, by devices in the fleet");
    let mut first = None;
    for fleet in [devices / 10, devices, devices * 4] {
        let archive = if fleet == devices { archive.clone() } else { repeated(&bench, fleet, days)? };
        let device = fullest(&archive)?;
        let times = (0..ROUNDS).map(|_| whole_process(Question::Device, &archive, &device));
        let median = median(times.collect::<Result<_, _>>()?);
        let least = *first.get_or_insert(median);
        println!("  {fleet:>6} devices {median:8.1}  {:.2} times the first", median / least);
    }
    Ok(())
}

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
    fn command(self, archive: &Path, device: &str) -> Vec<String> {
        let archive = archive.display().to_string();
        let before = ["--archive".to_owned(), archive, "query".to_owned()].into_iter();
        before.chain(self.arguments(device)).chain(["--format".to_owned(), "csv".to_owned()]).collect()
    }

    fn arguments(self, device: &str) -> Vec<String> {
        let metrics = METRICS.join(",");
        let text = match self {
            Self::Device => format!("trend --device {device} --metric {metrics} --since 2026-10-01 --until 2026-10-31"),
            Self::Fleet => format!("trend --fleet --metric {metrics} --since 2026-10-15 --until 2026-10-16"),
            Self::Latest => "latest --at 2026-10-30T23:59:59Z --back 7d".to_owned(),
        };
        let aggregates = if text.starts_with("trend") { " --agg mean,min,max,p95 --every 1h" } else { "" };
        format!("{text}{aggregates}").split(' ').map(str::to_owned).collect()
    }
}

/// Every contender in turn, round by round.
fn compare(question: Question, archive: &Path, peers: &mut Peers) -> Result<(), Failed> {
    let device = fullest(archive)?;
    let mut times: [Vec<f64>; 5] = Default::default();
    for _ in 0..=ROUNDS {
        times[0].push(whole_process(question, archive, &device)?);
        times[1].push(in_process(question, archive, &device)?);
        times[2].push(peers.ask("DuckDB", question, archive, &device)?);
        times[3].push(peers.cli(question, archive, &device)?);
        times[4].push(peers.ask("Polars", question, archive, &device)?);
    }
    // The first round warms up.
    let medians = times.map(|times| median(times[1..].to_vec()));
    println!("\n{}", question.name());
    let names = [
        "dex-archive, process",
        "dex-archive, in process",
        "DuckDB, in process",
        "DuckDB CLI, process",
        "Polars, in process",
    ];
    for (name, ms) in names.iter().zip(medians) {
        println!("  {name:<24} {ms:8.1}  {:.2} times the process of dex-archive", ms / medians[0]);
    }
    println!("  peak memory of dex-archive {} MB", peers.peak_kilobytes(question, archive, &device)? / 1_000);
    Ok(())
}

/// Milliseconds from the start of the program to its end.
fn whole_process(question: Question, archive: &Path, device: &str) -> Result<f64, Failed> {
    let began = Instant::now();
    ran(Command::new(&*INSTALLED).args(question.command(archive, device)).stdout(Stdio::null()))?;
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
    script: PathBuf,
    _process: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peers {
    /// Installs them once.
    fn start(bench: &Path) -> Result<Self, Failed> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches");
        let (venv, python) = (bench.join("peers"), bench.join("peers/bin/python"));
        if !venv.join("installed").exists() {
            ran(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
            ran(Command::new(&python).args(["-m", "pip", "install", "-q", "-r"]).arg(here.join("requirements.txt")))?;
            ran(Command::new("touch").arg(venv.join("installed")))?;
        }
        let script = here.join("peers.py");
        let mut process = Command::new(&python).arg(&script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let questions = process.stdin.take().ok_or("a pipe")?;
        let answers = BufReader::new(process.stdout.take().ok_or("a pipe")?);
        Ok(Self { python, script, _process: process, questions, answers })
    }

    fn ask(&mut self, peer: &str, question: Question, archive: &Path, device: &str) -> Result<f64, Failed> {
        let question = question.name();
        let asked = serde_json::json!({"peer": peer, "question": question, "archive": archive, "device": device});
        writeln!(self.questions, "{asked}")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        Ok(answer.trim().parse()?)
    }

    fn peak_kilobytes(&self, question: Question, archive: &Path, device: &str) -> Result<u64, Failed> {
        let mut command = Command::new(&self.python);
        command.args(["-c", PEAK]).arg(&*INSTALLED).args(question.command(archive, device));
        Ok(String::from_utf8(command.output()?.stdout)?.trim().parse()?)
    }

    /// DuckDB's command line, as a process of its own.
    fn cli(&self, question: Question, archive: &Path, device: &str) -> Result<f64, Failed> {
        let sql =
            Command::new(&self.python).arg(&self.script).arg(question.name()).arg(archive).arg(device).output()?;
        let sql = String::from_utf8(sql.stdout)?;
        let began = Instant::now();
        let duckdb = self.python.with_file_name("duckdb");
        ran(Command::new(duckdb).args(["-csv", "-c"]).arg(sql).stdout(Stdio::null()))?;
        Ok(milliseconds(began))
    }
}

/// Runs a command and says what the kernel counted of its memory.
const PEAK: &str = "import resource, subprocess, sys\n\
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)\n\
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)";

/// An archive of simulated days, each dumped and imported.
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
    let output = Command::new(PROGRAM).arg("--archive").arg(archive).args(arguments).args(window).output()?;
    let text = String::from_utf8(output.stdout)?;
    let count = |line: &&str| line.rsplit(',').next().and_then(|count| count.parse::<u64>().ok());
    let fullest = text.lines().skip(1).max_by_key(count).ok_or("a device")?;
    Ok(fullest.split(',').nth(1).ok_or("a device")?.to_owned())
}

fn ran(command: &mut Command) -> Result<(), Failed> {
    let status = command.status()?;
    if status.success() { Ok(()) } else { Err(format!("{command:?} failed").into()) }
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
