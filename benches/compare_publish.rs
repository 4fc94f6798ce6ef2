//! A sweep into a day that is there: `dex-archive` beside DuckDB, and how it grows with the day.
//!
//! `cargo bench --bench compare_publish` imports days of different sizes once, below `target/bench`. Then, several
//! rounds in turn, a sweep of 1,000 devices is imported into a copy of each (journal, merge and publish in a whole
//! process), and DuckDB writes the sorted union of its own file of the same day and the same sweep. It prints
//! medians and ratios. Both are to have as many rows; otherwise nothing is asserted. With figures as arguments, those
//! are the devices.

#![expect(clippy::print_stdout, reason = "that is what it is for")]

mod contest;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use contest::{
    Cost, Failed, bench_dir, dump, figures, float, import, of_peaks, only_part, peer, python, ran, renamed, rows_in,
    tag, turns, upgraded,
};

const USAGE: &str = "usage: cargo bench --bench compare_publish [-- DEVICES...]";

const ROUNDS: usize = 5;

/// Ticks of a day; the sweep is the one after.
const TICKS: u32 = 287;

/// A day as each has it.
struct Day {
    archive: PathBuf,
    theirs: PathBuf,
}

fn main() -> Result<ExitCode, Failed> {
    let Some(figures) = figures(USAGE, usize::MAX) else { return Ok(ExitCode::from(2)) };
    let fleets = if figures.is_empty() { vec![35, 350, 1_000, 3_500, 10_500] } else { figures };
    let (bench, tag) = (bench_dir()?, tag()?);
    let python = python(&bench)?;
    let sweep = bench.join(format!("sweep-1000-{tag}.ndjson"));
    dump(&sweep, 1_000, TICKS, 1)?;
    println!(
        "a sweep of 1,000 devices into a day; medians of {ROUNDS} rounds on one processor; {}\n\
         in brackets: dex-archive's processor time divided by DuckDB's; us a row: processor time by rows that are \
         written, those of the day and of the sweep",
        of_peaks()
    );
    for devices in fleets {
        let day = Day::built(&bench, &python, &tag, devices)?;
        compare(&bench, &python, &sweep, devices, &day)?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Day {
    /// What is there of former runs, or else anew.
    fn built(bench: &Path, python: &Path, tag: &str, devices: u32) -> Result<Self, Failed> {
        let name = format!("day-{devices}-{tag}");
        let (archive, theirs) = (bench.join(&name), bench.join(format!("{name}.parquet")));
        if theirs.exists() {
            upgraded(&archive)?;
            return Ok(Self { archive, theirs });
        }
        let bodies = bench.join(format!("most-of-a-{name}.ndjson"));
        dump(&bodies, devices, 0, TICKS)?;
        let import = import(&archive, &bodies);
        ran(Command::new(&import[0]).args(&import[1..]))?;
        let unfinished = theirs.with_extension("unfinished");
        let duckdb = peer(python, "DuckDB", 2, &bodies, &unfinished, None);
        ran(Command::new(&duckdb[0]).args(&duckdb[1..]))?;
        renamed(&unfinished, &theirs)?;
        std::fs::remove_file(bodies)?;
        Ok(Self { archive, theirs })
    }
}

fn compare(bench: &Path, python: &Path, sweep: &Path, devices: u32, day: &Day) -> Result<(), Failed> {
    let (copy, union) = (bench.join("day-copy"), bench.join("day-union.parquet"));
    let commands = [import(&copy, sweep), peer(python, "DuckDB", 1, sweep, &union, Some(&day.theirs))];
    let mut costs = [Vec::new(), Vec::new()];
    for round in 0..ROUNDS {
        for who in turns(round, commands.len()) {
            if who == 0 {
                anew(&day.archive, &copy)?;
            }
            costs[who].push(Cost::of(1, &commands[who])?);
        }
    }
    let [own, duckdb] = costs.map(|costs| Cost::median(&costs));
    let part = only_part(&copy)?;
    let (rows, written, theirs) = (rows_in(&only_part(&day.archive)?)?, rows_in(&part)?, rows_in(&union)?);
    if written != theirs {
        return Err(format!("dex-archive has {written} rows of {devices} devices, DuckDB {theirs}").into());
    }
    println!(
        "  {devices:>6} devices, {rows:>8} rows in the day, {:>4} MB: cpu {:6.2} s ({:.2} us a row), DuckDB {:6.2} s \
         ({:.2})  wall {:6.2}, {:6.2} s  peak {:5.0}, {:5.0} MB",
        std::fs::metadata(part)?.len() / 1_000_000,
        own.cpu_seconds,
        own.cpu_seconds * 1e6 / float(written),
        duckdb.cpu_seconds,
        own.cpu_seconds / duckdb.cpu_seconds,
        own.wall_seconds,
        duckdb.wall_seconds,
        own.peak_megabytes,
        duckdb.peak_megabytes,
    );
    Ok(())
}

/// Makes a copy of an archive, in place of the former one.
fn anew(archive: &Path, copy: &Path) -> Result<(), Failed> {
    if copy.exists() {
        std::fs::remove_dir_all(copy)?;
    }
    ran(Command::new("cp").arg("-r").arg(archive).arg(copy))
}
