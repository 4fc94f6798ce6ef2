//! `import` beside DuckDB, Polars and pyarrow: a day of 1,000 devices from NDJSON to a sorted Parquet file.
//!
//! `cargo bench --bench compare_ingest` dumps what it needs once, below `target/bench`, and runs each in turn,
//! several rounds, on one processor and on two; it prints medians and ratios. Each is to have written every row;
//! otherwise nothing is asserted. With figures as arguments, so many devices and rounds stand for the 1,000 and the 5.

#![expect(clippy::print_stdout, reason = "that is what it is for")]

#[expect(dead_code, reason = "nothing is kept from run to run but the bodies")]
mod contest;

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use contest::{
    Cost, Failed, bench_dir, dump, figures, float, import, of_peaks, only_part, peer, python, rows_in, tag, turns,
};
use serde::de::IgnoredAny;

const USAGE: &str = "usage: cargo bench --bench compare_ingest [-- DEVICES [ROUNDS]]";

const PEERS: [&str; 3] = ["DuckDB", "Polars", "pyarrow"];

fn main() -> Result<ExitCode, Failed> {
    let Some(figures) = figures(USAGE, 2) else { return Ok(ExitCode::from(2)) };
    let (devices, rounds) = (figures.first().copied().unwrap_or(1_000), figures.get(1).copied().unwrap_or(5));
    let bench = bench_dir()?;
    let python = python(&bench)?;
    let bodies = bench.join(format!("day-{devices}-{}.ndjson", tag()?));
    dump(&bodies, devices, 0, 288)?;
    let megabytes = std::fs::metadata(&bodies)?.len() / 1_000_000;
    let (rows, seconds) = looked_at(&bodies)?;
    println!("{rows} bodies, {megabytes} MB; medians of {rounds} rounds; {}", of_peaks());
    println!("in brackets: dex-archive's figure divided by that of the line, so that below 1 it is the smaller one");
    println!("to see that each body is JSON, and no more, serde_json takes {seconds:.2} s on one thread");
    for processors in [1, 2] {
        compare(&bench, &python, &bodies, rows, processors, usize::try_from(rounds)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// How many bodies there are, and the seconds that it takes to see that each is JSON.
fn looked_at(bodies: &Path) -> Result<(u64, f64), Failed> {
    let text = std::fs::read(bodies)?;
    let (mut rows, began) = (0, Instant::now());
    for body in text.split(|byte| *byte == b'\n').filter(|body| !body.is_empty()) {
        serde_json::from_slice::<IgnoredAny>(body)?;
        rows += 1;
    }
    Ok((rows, began.elapsed().as_secs_f64()))
}

fn compare(
    bench: &Path,
    python: &Path,
    bodies: &Path,
    rows: u64,
    processors: usize,
    rounds: usize,
) -> Result<(), Failed> {
    let archive = bench.join("imported-once");
    let part = |name: &str| bench.join(format!("{name}.parquet"));
    let mut commands = vec![import(&archive, bodies)];
    commands.extend(PEERS.map(|name| peer(python, name, processors, bodies, &part(name), None)));
    let mut costs: Vec<Vec<Cost>> = vec![Vec::new(); commands.len()];
    for round in 0..rounds {
        for who in turns(round, commands.len()) {
            // Only dex-archive would know the states again.
            if who == 0 && archive.exists() {
                std::fs::remove_dir_all(&archive)?;
            }
            costs[who].push(Cost::of(processors, &commands[who])?);
        }
    }
    println!("\non {processors} processor(s)");
    let files = [only_part(&archive)?].into_iter().chain(PEERS.map(part));
    let mut first = None;
    for ((name, costs), file) in ["dex-archive"].iter().chain(&PEERS).zip(costs).zip(files) {
        let written = rows_in(&file)?;
        if written != rows {
            return Err(format!("{name} wrote {written} rows of {rows}").into());
        }
        let cost = Cost::median(&costs);
        let size = float(std::fs::metadata(file)?.len()) / float(rows);
        let (own, own_size) = *first.get_or_insert((cost, size));
        println!(
            "  {name:<12} cpu {:6.2} s ({:.2})  wall {:6.2} s ({:.2})  peak {:6.0} MB ({:.2})  {size:6.1} bytes a row ({:.2})",
            cost.cpu_seconds,
            own.cpu_seconds / cost.cpu_seconds,
            cost.wall_seconds,
            own.wall_seconds / cost.wall_seconds,
            cost.peak_megabytes,
            own.peak_megabytes / cost.peak_megabytes,
            own_size / size,
        );
    }
    Ok(())
}
