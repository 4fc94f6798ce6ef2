//! A sweep into a day that is there: `dex-archive` beside DuckDB, and how it grows with the day.
//!
//! `cargo bench --bench compare_publish` imports days of different sizes once, below `target/bench`. Then, several
//! rounds in turn, a sweep of 1,000 devices is imported into a copy of each (journal, merge and publish in a whole
//! process), and DuckDB writes the sorted union of its own file of the same day and the same sweep. It prints
//! medians and ratios; nothing is asserted. With figures as arguments, those are the devices.

#![expect(clippy::print_stdout, reason = "that is what it is for")]

mod contest;

use std::path::Path;
use std::process::Command;

use contest::{Cost, Failed, bench_dir, dump, import, only_part, peer, python, ran};

const ROUNDS: usize = 5;

/// Ticks of a day; the sweep is the one after.
const TICKS: u32 = 287;

fn main() -> Result<(), Failed> {
    let figures: Vec<u32> = std::env::args().skip(1).filter_map(|figure| figure.parse().ok()).collect();
    let fleets = if figures.is_empty() { vec![35, 350, 1_000, 3_500, 10_500] } else { figures };
    let bench = bench_dir()?;
    let python = python(&bench)?;
    let sweep = bench.join("sweep-1000.ndjson");
    dump(&sweep, 1_000, TICKS, 1)?;
    println!("a sweep of 1,000 devices into a day; medians of {ROUNDS} rounds on one processor");
    for devices in fleets {
        compare(&bench, &python, &sweep, devices)?;
    }
    Ok(())
}

fn compare(bench: &Path, python: &Path, sweep: &Path, devices: u32) -> Result<(), Failed> {
    let (archive, theirs) = (bench.join(format!("day-{devices}")), bench.join(format!("day-{devices}.parquet")));
    if !theirs.exists() {
        let bodies = bench.join(format!("most-of-a-day-{devices}.ndjson"));
        dump(&bodies, devices, 0, TICKS)?;
        let import = import(&archive, &bodies);
        ran(Command::new(&import[0]).args(&import[1..]))?;
        let duckdb = peer(python, "DuckDB", 2, &bodies, &theirs, None);
        ran(Command::new(&duckdb[0]).args(&duckdb[1..]))?;
        std::fs::remove_file(bodies)?;
    }
    let (copy, part) = (bench.join("day-copy"), bench.join("day-union.parquet"));
    let (mut own, mut duckdb) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        if copy.exists() {
            std::fs::remove_dir_all(&copy)?;
        }
        ran(Command::new("cp").arg("-r").arg(&archive).arg(&copy))?;
        own.push(Cost::of(1, &import(&copy, sweep))?);
        duckdb.push(Cost::of(1, &peer(python, "DuckDB", 1, sweep, &part, Some(&theirs)))?);
    }
    let (own, duckdb) = (Cost::median(&own), Cost::median(&duckdb));
    let bytes = std::fs::metadata(only_part(&copy)?)?.len();
    println!(
        "  {devices:>6} devices, {:>4} MB: cpu {:6.2} s, DuckDB {:6.2} s ({:.2})  wall {:6.2}, {:6.2} s  peak {:5.0}, {:5.0} MB",
        bytes / 1_000_000,
        own.cpu_seconds,
        duckdb.cpu_seconds,
        own.cpu_seconds / duckdb.cpu_seconds,
        own.wall_seconds,
        duckdb.wall_seconds,
        own.peak_megabytes,
        duckdb.peak_megabytes,
    );
    Ok(())
}
