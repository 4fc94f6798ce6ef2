//! Contests of whole processes: each runs in turn with the others, round by round, and medians are compared.

use std::error::Error;
use std::fs::File;
use std::io;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use dex_archive::clock;
use dex_archive::schema::Schema;
use dex_archive::sim::{self, Fleet, FleetOptions};
use parquet::file::reader::{FileReader, SerializedFileReader};
use twox_hash::XxHash64;

pub(crate) type Failed = Box<dyn Error>;

/// The program.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_dex-archive");

/// The account that simulated states are imported under.
pub(crate) const ACCOUNT: &str = "01a7362d577a6c3019a474fd6f485823";

/// The figures that a bench was called with, none of them zero and no more than so many; where they are not that, it
/// says how it is called, and there are none.
#[expect(clippy::print_stderr, reason = "it says how it is called")]
pub(crate) fn figures(usage: &str, most: usize) -> Option<Vec<u32>> {
    // Cargo has its own.
    let arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let figures: Result<Vec<u32>, _> =
        arguments.map(|figure| figure.parse::<NonZeroU32>().map(NonZeroU32::get)).collect();
    let figures = figures.ok().filter(|figures| figures.len() <= most);
    if figures.is_none() {
        eprintln!("{usage}");
    }
    figures
}

/// The contenders of a round, by number: in each round another begins.
pub(crate) fn turns(round: usize, contenders: usize) -> impl Iterator<Item = usize> {
    (0..contenders).map(move |turn| (round + turn) % contenders)
}

/// What a process took.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cost {
    pub(crate) cpu_seconds: f64,
    pub(crate) wall_seconds: f64,
    pub(crate) peak_megabytes: f64,
}

impl Cost {
    /// Runs a command to its end, on so many processors.
    pub(crate) fn of(processors: usize, command: &[String]) -> Result<Self, Failed> {
        let mut measure = Command::new("python3");
        measure.arg(beside("measure.py")).arg(processors.to_string()).args(command);
        let said = String::from_utf8(output(&mut measure)?.stdout)?;
        let figures = said.split_whitespace().map(str::parse).collect::<Result<Vec<f64>, _>>()?;
        let [cpu_seconds, wall_seconds, peak_megabytes] = figures[..] else {
            return Err(format!("{measure:?} said {said}").into());
        };
        Ok(Self { cpu_seconds, wall_seconds, peak_megabytes })
    }

    /// The median of each figure.
    pub(crate) fn median(costs: &[Self]) -> Self {
        let of = |figure: fn(&Self) -> f64| median(costs.iter().map(figure).collect());
        Self {
            cpu_seconds: of(|cost| cost.cpu_seconds),
            wall_seconds: of(|cost| cost.wall_seconds),
            peak_megabytes: of(|cost| cost.peak_megabytes),
        }
    }
}

/// The figure in the middle, or what is between the two there. Of no figures there is none.
pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    f64::midpoint(figures[(figures.len() - 1) / 2], figures[figures.len() / 2])
}

/// A count as a figure for people.
#[expect(clippy::cast_precision_loss, reason = "nothing is counted to 2^53")]
pub(crate) fn float(count: u64) -> f64 {
    count as f64
}

/// What is to be known of the peaks that are printed.
pub(crate) fn of_peaks() -> &'static str {
    if Path::new("/usr/bin/time").exists() {
        "peaks are those of the processes"
    } else {
        "peaks are 14 MB at least, those of the Python that starts the processes, for there is no /usr/bin/time"
    }
}

/// Where what is built for contests is kept.
pub(crate) fn bench_dir() -> Result<PathBuf, Failed> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench");
    std::fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// A file beside the benches.
pub(crate) fn beside(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches").join(name)
}

/// The Python that has the peers, which are installed once.
pub(crate) fn python(bench: &Path) -> Result<PathBuf, Failed> {
    let (venv, python) = (bench.join("peers"), bench.join("peers/bin/python"));
    let requirements = beside("requirements.txt");
    let installed = venv.join("installed");
    if std::fs::read(&installed).ok() != Some(std::fs::read(&requirements)?) {
        ran(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
        ran(Command::new(&python).args(["-m", "pip", "install", "-q", "-r"]).arg(&requirements))?;
        ran(Command::new("cp").arg(&requirements).arg(&installed))?;
    }
    Ok(python)
}

/// Runs a command that has nothing to tell.
pub(crate) fn ran(command: &mut Command) -> Result<(), Failed> {
    let status = command.status().map_err(|error| unstarted(command, &error))?;
    if status.success() { Ok(()) } else { Err(format!("{command:?} failed").into()) }
}

/// What a command told before it ended well.
pub(crate) fn output(command: &mut Command) -> Result<Output, Failed> {
    let output = command.output().map_err(|error| unstarted(command, &error))?;
    if output.status.success() {
        return Ok(output);
    }
    Err(format!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr)).into())
}

/// The system by itself does not say which program it did not find.
fn unstarted(command: &Command, error: &io::Error) -> Failed {
    let program = command.get_program().display();
    if error.kind() == io::ErrorKind::NotFound {
        return format!("there is no {program}: it is to be installed, and in the PATH").into();
    }
    format!("{program} cannot be started: {error}").into()
}

/// A part of the names of what is kept from run to run: it changes with the states that the simulator writes, with the
/// columns that are made of them, and with what the peers are told.
pub(crate) fn tag() -> Result<String, Failed> {
    let fleet = Fleet::new(FleetOptions { devices: 20, ..FleetOptions::default() });
    let start = clock::parse_timestamp("2026-10-01T00:00:00Z").ok_or("a time")?;
    let mut sample = Vec::new();
    sim::dump(&fleet, start, 12, Duration::from_mins(5), &mut sample)?;
    sample.extend_from_slice(Schema::device_state().fingerprint().as_bytes());
    sample.extend(std::fs::read(beside("peers_ingest.py"))?);
    Ok(format!("{:016x}", XxHash64::oneshot(0, &sample)))
}

/// The bodies of simulated ticks, from a tick of 2026-10-01 on.
pub(crate) fn dump(path: &Path, devices: u32, first: u32, ticks: u32) -> Result<(), Failed> {
    if path.exists() {
        return Ok(());
    }
    let minutes = first * 5;
    let start = format!("2026-10-01T{:02}:{:02}:00Z", minutes / 60, minutes % 60);
    let unfinished = path.with_extension("unfinished");
    let counts = [devices, ticks].map(|count| count.to_string());
    let arguments = ["simulate", "--devices", &counts[0], "--ticks", &counts[1], "--start", &start, "--dump"];
    ran(Command::new(PROGRAM).args(arguments).arg(&unfinished))?;
    renamed(&unfinished, path)
}

/// Gives what is finished its name.
pub(crate) fn renamed(unfinished: &Path, path: &Path) -> Result<(), Failed> {
    ran(Command::new("mv").arg(unfinished).arg(path))
}

/// Brings an archive that is kept from run to run to what this version writes.
pub(crate) fn upgraded(archive: &Path) -> Result<(), Failed> {
    ran(Command::new(PROGRAM).arg("--archive").arg(archive).args(["-q", "upgrade"]))
}

/// What is typed to import a file.
pub(crate) fn import(archive: &Path, bodies: &Path) -> Vec<String> {
    let (archive, bodies) = (archive.display().to_string(), bodies.display().to_string());
    [PROGRAM, "--archive", &archive, "-q", "import", "--account", ACCOUNT, &bodies].map(str::to_owned).to_vec()
}

/// What is typed to have a peer make a part of bodies, and of an older part if there is one.
pub(crate) fn peer(
    python: &Path,
    name: &str,
    threads: usize,
    bodies: &Path,
    part: &Path,
    day: Option<&Path>,
) -> Vec<String> {
    let script = beside("peers_ingest.py");
    let mut command = vec![python.display().to_string(), script.display().to_string(), name.to_owned()];
    command.push(threads.to_string());
    command.extend([bodies, part].into_iter().chain(day).map(|path| path.display().to_string()));
    command
}

/// The one part of an archive's only day.
pub(crate) fn only_part(archive: &Path) -> Result<PathBuf, Failed> {
    let only = |dir: &Path| -> Result<PathBuf, Failed> {
        let entries = std::fs::read_dir(dir)?.collect::<Result<Vec<_>, _>>()?;
        match &entries[..] {
            [entry] => Ok(entry.path()),
            _ => Err(format!("there are {} entries in {}, and not one", entries.len(), dir.display()).into()),
        }
    };
    only(&only(&archive.join("device_state"))?)
}

/// Rows of a part, as its footer has them.
pub(crate) fn rows_in(part: &Path) -> Result<u64, Failed> {
    let reader = SerializedFileReader::new(File::open(part)?)?;
    Ok(u64::try_from(reader.metadata().file_metadata().num_rows())?)
}
