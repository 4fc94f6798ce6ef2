//! `import` beside DuckDB, Polars and pyarrow: a day of 1,000 devices from NDJSON to a sorted Parquet file.
//!
//! `cargo bench --bench compare_ingest` dumps what it needs once, below `target/bench`, and runs each in turn,
//! several rounds, on one processor and on two; it prints medians and ratios. Nothing is asserted. With figures as
//! arguments, so many devices and rounds stand for the 1,000 and the 5.

#![expect(clippy::print_stdout, reason = "that is what it is for")]

mod contest;

use std::path::Path;

use contest::{Cost, Failed, bench_dir, dump, import, only_part, peer, python};

const PEERS: [&str; 3] = ["DuckDB", "Polars", "pyarrow"];

fn main() -> Result<(), Failed> {
    let figures: Vec<u32> = std::env::args().skip(1).filter_map(|figure| figure.parse().ok()).collect();
    let (devices, rounds) = (figures.first().copied().unwrap_or(1_000), figures.get(1).copied().unwrap_or(5));
    let bench = bench_dir()?;
    let python = python(&bench)?;
    let bodies = bench.join(format!("day-{devices}.ndjson"));
    dump(&bodies, devices, 0, 288)?;
    let rows = memchr::memchr_iter(b'\n', &std::fs::read(&bodies)?).count();
    let megabytes = std::fs::metadata(&bodies)?.len() / 1_000_000;
    println!("{rows} bodies, {megabytes} MB; medians of {rounds} rounds, and ratios to dex-archive");
    for processors in [1, 2] {
        compare(&bench, &python, &bodies, rows, processors, rounds)?;
    }
    Ok(())
}

fn compare(
    bench: &Path,
    python: &Path,
    bodies: &Path,
    rows: usize,
    processors: usize,
    rounds: u32,
) -> Result<(), Failed> {
    let archive = bench.join("imported-once");
    let part = |name: &str| bench.join(format!("{name}.parquet"));
    let mut costs: Vec<Vec<Cost>> = vec![Vec::new(); PEERS.len() + 1];
    for _ in 0..rounds {
        if archive.exists() {
            std::fs::remove_dir_all(&archive)?;
        }
        costs[0].push(Cost::of(processors, &import(&archive, bodies))?);
        for (name, costs) in PEERS.iter().zip(&mut costs[1..]) {
            let command = peer(python, name, processors, bodies, &part(name), None);
            costs.push(Cost::of(processors, &command)?);
        }
    }
    println!("\non {processors} processor(s)");
    let files = [only_part(&archive)?].into_iter().chain(PEERS.map(part));
    let mut first = None;
    for ((name, costs), file) in ["dex-archive"].iter().chain(&PEERS).zip(costs).zip(files) {
        let cost = Cost::median(&costs);
        let size = per_row(std::fs::metadata(file)?.len(), rows);
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

#[expect(clippy::cast_precision_loss, reason = "a file has fewer than 2^53 bytes")]
fn per_row(bytes: u64, rows: usize) -> f64 {
    bytes as f64 / rows as f64
}
