//! `collect` beside a load generator: how fast devices are asked for when nothing holds that up.
//!
//! `cargo bench --bench compare_collect` starts a plain web server that has the same state for every device, as its
//! own, and lets load generators and the collector ask it in turn, with as many requests at once, several rounds; it
//! prints medians, of sweeps that are journalled, and of such as are published at once too. Then it asks at the rate
//! of the real API, for the share of a processor that takes. Of the generators, one is to be installed at least: `wrk`,
//! the fastest (`apt install wrk`), or `oha`, with the HTTP library that the collector has (`cargo install oha`). The
//! HTTP client that the collector has asks by itself too, and does nothing with the answers: what the collector costs
//! beyond it is its own. Every device is to be archived; otherwise nothing is asserted. With a figure as argument, so
//! many devices stand for the 100,000.

#![expect(clippy::print_stdout, reason = "that is what it is for")]
#![expect(clippy::disallowed_methods, reason = "no file of an archive")]

#[expect(dead_code, reason = "its peer is no Python")]
mod contest;

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use axum::Router;
use axum::http::{Uri, header};
use axum::routing::any;
use contest::{ACCOUNT, Cost, Failed, PROGRAM, bench_dir, dump, figures, median, of_peaks, output, tag, turns};
use futures_util::{StreamExt, TryStreamExt, stream};

const USAGE: &str = "usage: cargo bench --bench compare_collect [-- DEVICES]";

const ROUNDS: usize = 5;

/// What stands before a device's id in its state.
const DEVICE_ID: &str = "\"deviceId\":\"";

/// Requests that the collector has under way at once.
const AT_ONCE: &str = "64";

/// Load generators, as they are called.
const GENERATORS: [(&str, &[&str]); 2] =
    [("wrk", &["-t1", "-c", AT_ONCE, "-d3s"]), ("oha", &["--no-tui", "-c", AT_ONCE, "-z", "3s"])];

/// Who asks.
#[derive(Debug, Clone, Copy)]
enum Asker {
    /// A load generator, with its arguments.
    Generator(&'static str, &'static [&'static str]),
    /// The HTTP client by itself.
    Client,
    /// The collector, which publishes as it is told.
    Collector(&'static str),
}

impl Asker {
    fn name(self) -> &'static str {
        match self {
            Self::Generator(program, _) => program,
            Self::Client => "reqwest",
            Self::Collector("sweep") => "published too",
            Self::Collector(_) => "journalled",
        }
    }
}

fn main() -> Result<ExitCode, Failed> {
    let Some(figures) = figures(USAGE, 1) else { return Ok(ExitCode::from(2)) };
    let devices = figures.first().copied().unwrap_or(100_000);
    let askers = askers()?;
    let bench = bench_dir()?;
    let bodies = bench.join(format!("one-sweep-{}.ndjson", tag()?));
    dump(&bodies, 100, 0, 1)?;
    let text = std::fs::read_to_string(&bodies)?;
    // A full one: a device that is on reports ten times what one does that is not.
    let body = text.lines().max_by_key(|line| line.len()).ok_or("a body")?;
    println!(
        "{devices} devices, a body of {} bytes; medians of {ROUNDS} rounds, {AT_ONCE} requests at once; {}",
        body.len(),
        of_peaks()
    );
    let url = serve(body)?;
    let list = bench.join("devices.txt");
    std::fs::write(&list, ids(devices)?)?;
    let mut rates = vec![Vec::new(); askers.len()];
    let mut costs: Vec<Vec<Cost>> = vec![Vec::new(); askers.len()];
    for round in 0..ROUNDS {
        for who in turns(round, askers.len()) {
            let rate = match askers[who] {
                Asker::Generator(program, arguments) => generator(program, arguments, &url)?,
                Asker::Client => client_alone(&url, devices)?,
                Asker::Collector(publish) => {
                    let (rate, cost) = collect(&bench, &url, &list, publish, devices, &[])?;
                    costs[who].push(cost);
                    rate
                }
            };
            rates[who].push(rate);
        }
    }
    print(&askers, rates, &costs, devices);
    std::fs::write(&list, ids(240)?)?;
    let (rate, cost) = collect(&bench, &url, &list, "sweep", 240, &["--rate-limit", "1200/5m", "--budget", "100%"])?;
    println!("at {rate:.1} requests a second: {:.2} % of a processor", 100.0 * cost.cpu_seconds / cost.wall_seconds);
    Ok(ExitCode::SUCCESS)
}

/// The load generators that there are, and what they are to be compared with.
fn askers() -> Result<Vec<Asker>, Failed> {
    let generators = GENERATORS.into_iter().filter(|(program, _)| installed(program));
    let mut askers: Vec<Asker> = generators.map(|(program, arguments)| Asker::Generator(program, arguments)).collect();
    if askers.is_empty() {
        return Err("there is no load generator: install wrk or oha".into());
    }
    askers.extend([Asker::Client, Asker::Collector("1h"), Asker::Collector("sweep")]);
    Ok(askers)
}

fn installed(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}

fn print(askers: &[Asker], rates: Vec<Vec<f64>>, costs: &[Vec<Cost>], devices: u32) {
    let rates: Vec<f64> = rates.into_iter().map(median).collect();
    let mut others = Vec::new();
    for ((asker, rate), costs) in askers.iter().zip(rates).zip(costs) {
        let name = asker.name();
        if !matches!(asker, Asker::Collector(_)) {
            println!("{name:<20} {rate:8.0} requests a second");
            others.push((name, rate));
            continue;
        }
        let cost = Cost::median(costs);
        let ratios = others.iter().map(|(other, theirs)| format!("{:.2} of {other}", rate / theirs));
        println!(
            "{name:<20} {rate:8.0} requests a second ({}), with {:.0} us of a processor each and {:.0} MB at its peak",
            ratios.collect::<Vec<_>>().join(", "),
            cost.cpu_seconds * 1e6 / f64::from(devices),
            cost.peak_megabytes
        );
    }
}

/// A server that answers with one body, for each device as its own: of one state alone, there would be one to publish.
fn serve(body: &str) -> Result<String, Failed> {
    let (before, rest) = body.split_once(DEVICE_ID).ok_or("a body of no device")?;
    let (_, after) = rest.split_once('"').ok_or("a body of no device")?;
    // For as long as the process runs.
    let before: &'static str = format!("{before}{DEVICE_ID}").leak();
    let after: &'static str = format!("\"{after}").leak();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            tell.send(listener.local_addr().expect("an address")).expect("somebody waits");
            let answer = move |uri: Uri| {
                // As `address` has it.
                let device = uri.path().split('/').nth(5).unwrap_or_default();
                let body = [before, device, after].concat();
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

/// Requests a second, none of which is refused.
fn generator(program: &str, arguments: &[&str], url: &str) -> Result<f64, Failed> {
    let output = output(Command::new(program).args(arguments).arg(address(url, 0)))?;
    let said = String::from_utf8(output.stdout)?;
    // `wrk` counts them as well.
    if said.contains("Non-2xx") {
        return Err(format!("{program} was refused:\n{said}").into());
    }
    let rate = said.lines().find_map(|line| line.trim().strip_prefix("Requests/sec:"));
    Ok(rate.ok_or_else(|| format!("{program} says no rate"))?.trim().parse()?)
}

/// Requests a second of a sweep into a new archive, which is published as it is said; and what the process took.
fn collect(
    bench: &Path,
    url: &str,
    list: &Path,
    publish: &str,
    devices: u32,
    more: &[&str],
) -> Result<(f64, Cost), Failed> {
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
    let count = |name: &str| summary[name].as_u64().ok_or_else(|| format!("the summary has no {name}"));
    let all = u64::from(devices);
    // What is journalled alone is not counted as new yet.
    let new = if publish == "sweep" { count("states_new")? } else { all };
    if (count("requests_sent")?, count("requests_failed")?, new) != (all, 0, all) {
        return Err(format!("{devices} devices are not what was archived:\n{summary:#}").into());
    }
    let seconds = summary["elapsed_s"].as_f64().ok_or("the summary has no elapsed_s")?;
    Ok((f64::from(devices) / seconds, cost))
}
