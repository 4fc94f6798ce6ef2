//! `collect` beside a load generator: how fast devices are asked for when nothing holds that up.
//!
//! `cargo bench --bench compare_collect` starts a plain web server that has one body for every path, and lets
//! load generators and the collector ask it in turn, with as many requests at once, several rounds; it prints medians,
//! of sweeps that are journalled, and of such as are published at once too. Then it asks at the rate of the real API,
//! for the share of a processor that takes. Of the generators, one is to be installed at least: `wrk`, the fastest
//! (`apt install wrk`), or `oha`, with the HTTP library that the collector has (`cargo install oha`). The HTTP client
//! that the collector has asks by itself too, and does nothing with the answers: what the collector costs beyond it is
//! its own. Nothing is asserted. With a figure as argument, so many devices stand for the 20,000.

#![expect(clippy::print_stdout, reason = "that is what it is for")]
#![expect(clippy::disallowed_methods, reason = "no file of an archive")]

#[expect(dead_code, reason = "its peer is no Python")]
mod contest;

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use axum::Router;
use axum::http::header;
use axum::routing::any;
use contest::{ACCOUNT, Cost, Failed, PROGRAM, bench_dir, dump, median};
use futures_util::{StreamExt, TryStreamExt, stream};

const ROUNDS: usize = 5;

/// Requests that the collector has under way at once.
const AT_ONCE: &str = "64";

/// Load generators, as they are called.
const GENERATORS: [(&str, &[&str]); 2] =
    [("wrk", &["-t1", "-c", AT_ONCE, "-d3s"]), ("oha", &["--no-tui", "-c", AT_ONCE, "-z", "3s"])];

/// What the HTTP client by itself is called.
const ALONE: &str = "reqwest";

fn main() -> Result<(), Failed> {
    let figure = std::env::args().skip(1).find_map(|figure| figure.parse().ok());
    let devices: u32 = figure.unwrap_or(20_000);
    let bench = bench_dir()?;
    let bodies = bench.join("one-sweep.ndjson");
    dump(&bodies, 100, 0, 1)?;
    let text = std::fs::read_to_string(&bodies)?;
    // A full one: a device that is on reports ten times what one does that is not.
    let body = text.lines().max_by_key(|line| line.len()).ok_or("a body")?.to_owned();
    println!(
        "{devices} devices, a body of {} bytes; medians of {ROUNDS} rounds, {AT_ONCE} requests at once",
        body.len()
    );
    let url = serve(body)?;
    let list = bench.join("devices.txt");
    std::fs::write(&list, ids(devices)?)?;
    let mut generators = GENERATORS.map(|_| Vec::new());
    let mut alone = Vec::new();
    let mut rounds = ["1h", "sweep"].map(|publish| (publish, Vec::new(), Vec::new(), Vec::new()));
    for _ in 0..ROUNDS {
        for (rates, (program, arguments)) in generators.iter_mut().zip(GENERATORS) {
            rates.extend(generator(program, arguments, &url)?);
        }
        alone.push(client_alone(&url, devices)?);
        for (publish, collector, cpu, peak) in &mut rounds {
            let (rate, cost) = collect(&bench, &url, &list, publish, &[])?;
            collector.push(rate);
            cpu.push(cost.cpu_seconds * 1e6 / f64::from(devices));
            peak.push(cost.peak_megabytes);
        }
    }
    let generators = GENERATORS.into_iter().zip(generators).filter(|(_, rates)| !rates.is_empty());
    let mut generators: Vec<(&str, f64)> = generators.map(|((program, _), rates)| (program, median(rates))).collect();
    if generators.is_empty() {
        return Err("there is no load generator: install wrk or oha".into());
    }
    generators.push((ALONE, median(alone)));
    for (program, rate) in &generators {
        println!("{program:<20} {rate:8.0} requests a second");
    }
    for ((_, collector, cpu, peak), what) in rounds.into_iter().zip(["journalled", "published too"]) {
        let collector = median(collector);
        let ratios = generators.iter().map(|(program, rate)| format!("{:.2} of {program}", collector / rate));
        println!(
            "{what:<20} {collector:8.0} requests a second ({}), with {:.0} us of a processor each and {:.0} MB at its peak",
            ratios.collect::<Vec<_>>().join(", "),
            median(cpu),
            median(peak)
        );
    }
    std::fs::write(&list, ids(240)?)?;
    let (rate, cost) = collect(&bench, &url, &list, "sweep", &["--rate-limit", "1200/5m", "--budget", "100%"])?;
    println!("at {rate:.1} requests a second: {:.2} % of a processor", 100.0 * cost.cpu_seconds / cost.wall_seconds);
    Ok(())
}

/// A server that answers everything with one body.
fn serve(body: String) -> Result<String, Failed> {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            tell.send(listener.local_addr().expect("an address")).expect("somebody waits");
            let answer = move || {
                let body = body.clone();
                async move { ([(header::CONTENT_TYPE, "application/json")], body) }
            };
            axum::serve(listener, Router::new().fallback(any(answer))).await.expect("a server");
        });
    });
    Ok(format!("http://{}", told.recv()?))
}

fn ids(devices: u32) -> Result<String, Failed> {
    let mut text = String::new();
    for number in 0..devices {
        writeln!(text, "{}", id(number))?;
    }
    Ok(text)
}

fn id(number: u32) -> String {
    format!("{number:08x}-0000-4000-8000-000000000000")
}

/// Where a device's state is.
fn address(url: &str, device: u32) -> String {
    format!("{url}/accounts/{ACCOUNT}/dex/devices/{}/fleet-status/live", id(device))
}

/// Requests a second of the HTTP client alone, on one thread, as the collector's is.
fn client_alone(url: &str, devices: u32) -> Result<f64, Failed> {
    // Whoever installed one before installed the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().timeout(std::time::Duration::from_secs(30)).no_proxy();
    let client = client.redirect(reqwest::redirect::Policy::none()).build()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ask = |device: u32| {
        let answer = client.get(address(url, device) + "?since_minutes=60").send();
        async { answer.await?.bytes().await }
    };
    let began = Instant::now();
    let answers = stream::iter(0..devices).map(|device| Ok(ask(device))).try_buffer_unordered(AT_ONCE.parse()?);
    runtime.block_on(answers.try_for_each(async |_body| Ok(())))?;
    Ok(f64::from(devices) / began.elapsed().as_secs_f64())
}

/// Requests a second; none where there is no such program.
fn generator(program: &str, arguments: &[&str], url: &str) -> Result<Option<f64>, Failed> {
    let output = match Command::new(program).args(arguments).arg(address(url, 0)).output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        output => output?,
    };
    let said = String::from_utf8(output.stdout)?;
    let rate = said.lines().find_map(|line| line.trim().strip_prefix("Requests/sec:"));
    Ok(Some(rate.ok_or_else(|| format!("{program} says no rate"))?.trim().parse()?))
}

/// Requests a second of a sweep into a new archive, which is published as it is said; and what the process took.
fn collect(bench: &Path, url: &str, list: &Path, publish: &str, more: &[&str]) -> Result<(f64, Cost), Failed> {
    let (archive, summary, config) = (bench.join("collected"), bench.join("summary.json"), bench.join("collect.toml"));
    if archive.exists() {
        std::fs::remove_dir_all(&archive)?;
    }
    std::fs::write(&config, format!("[archive]\npublish = \"{publish}\"\n"))?;
    let [root, list, told, config] = [&archive, list, &summary, &config].map(|path| path.display().to_string());
    let mut command = [PROGRAM, "--config", &config, "--archive", &root, "-q"].to_vec();
    command.extend(["collect", "--source", "live", "--account", ACCOUNT]);
    command.extend(["--api-url", url, "--devices-file", &list, "--summary-json", &told]);
    command.extend(if more.is_empty() { &["--rate-limit", "none"] } else { more });
    // The token is read from the environment, as at home.
    let command: Vec<String> =
        ["env", "CLOUDFLARE_API_TOKEN=bench"].into_iter().chain(command).map(str::to_owned).collect();
    let cost = Cost::of(2, &command)?;
    let summary: serde_json::Value = serde_json::from_slice(&std::fs::read(summary)?)?;
    let figure = |name: &str| summary[name].as_f64().ok_or("the summary lacks a figure");
    Ok((figure("requests_sent")? / figure("elapsed_s")?, cost))
}
