//! What runs for years without anybody: what it says of itself, to whom, and what starts it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use dex_archive::clock::{self, Clock};
use dex_archive::sim::{FaultKind, Faults, RateLimit, ServerOptions};

use crate::cli::put;
use crate::collect::{archived, rows};
use crate::program::{ACCOUNT, Api, place, program, run};

const OTHER: &str = "11a7362d577a6c3019a474fd6f485823";

fn json(command: &mut Command) -> (Option<i32>, serde_json::Value) {
    let output = command.output().expect("the program starts");
    let said = String::from_utf8_lossy(&output.stderr);
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}")))
}

fn levels(checks: &serde_json::Value) -> Vec<(&str, &str)> {
    let checks = checks.as_array().expect("a list").iter();
    checks.map(|check| (check["name"].as_str().expect("a name"), check["level"].as_str().expect("a level"))).collect()
}

#[expect(clippy::disallowed_methods, reason = "a test moves a journal")]
fn rename(from: &Path, to: &Path) {
    std::fs::rename(from, to).expect("a folder");
}

#[test]
fn status_counts_the_states_that_a_sweep_brought_and_nothing_else() {
    for fault in [FaultKind::Garbage, FaultKind::ClockOff] {
        let (dir, archive) = place();
        let api = Api::start(60, Duration::from_mins(10), |options| options);
        api.handle.set_faults(Faults::none().with(fault, 0.3));
        let summary = dir.path().join("summary.json");
        assert_eq!(run(api.collect(&archive).arg("--summary-json").arg(&summary)).0, Some(3));
        let summary = std::fs::read_to_string(&summary).expect("a file");
        let summary: serde_json::Value = serde_json::from_str(&summary).expect("JSON");
        let states = summary["states_new"].as_u64().zip(summary["states_unchanged"].as_u64()).map(|(a, b)| a + b);
        let (_, told) = json(program().arg("--archive").arg(&archive).args(["status", "--format", "json"]));
        let sweep = &told["last_sweeps"][0];
        assert!(sweep["failed"].as_u64() > Some(0) && states > Some(0), "{told:#}");
        assert_eq!(sweep["states"].as_u64(), states, "{fault:?}: {told:#}");
    }
}

#[test]
fn status_tells_how_the_collecting_goes_and_when_it_does_not() {
    let (dir, archive) = place();
    let api = Api::start(5, Duration::from_mins(1), |options| options);
    let (code, said) = run(&mut api.collect(&archive));
    assert_eq!(code, Some(0), "{said}");
    let status = |more: &[&str]| {
        let mut command = program();
        json(command.arg("--archive").arg(&archive).args(["status", "--format", "json"]).args(more))
    };
    let (code, told) = status(&[]);
    assert_eq!(code, Some(0), "{told:#}");
    let sweep = &told["last_sweeps"][0];
    assert_eq!((sweep["account_id"].as_str(), sweep["failed"].as_u64()), (Some(ACCOUNT), Some(0)));
    assert!(
        sweep["states"].as_u64() > Some(0) && told["bytes"].as_u64() > Some(1_000) && told["days"].as_u64() <= Some(2)
    );
    assert_eq!(told["pending_bytes"], 0);
    // A sweep that is too old.
    let (code, told) = status(&["--max-age", "1ms"]);
    assert_eq!(code, Some(3));
    assert!(levels(&told["checks"]).contains(&("last sweep", "poor")), "{told:#}");
    // What waits in the journal, as after a kill.
    let config = dir.path().join("config.toml");
    put(&config, "[archive]\npublish = \"1h\"\n");
    let (code, said) = run(api.collect(&archive).arg("--config").arg(&config));
    assert_eq!(code, Some(0), "{said}");
    let (code, told) = status(&[]);
    assert_eq!(code, Some(0));
    assert!(told["pending_bytes"].as_u64() > Some(1_000) && told["pending_since"].is_string(), "{told:#}");
    // It waits in the journal of a shard that there is no more as well.
    let journals = archive.join("_archive/journal");
    rename(&journals.join("shard-0"), &journals.join("shard-7"));
    let (_, former) = status(&[]);
    assert_eq!((&former["pending_bytes"], &former["pending_since"]), (&told["pending_bytes"], &told["pending_since"]));
    let verified = json(program().arg("--archive").arg(&archive).args(["verify", "--format", "json"])).1;
    assert!(verified["pending_answers"].as_u64() > Some(0), "{verified:#}");
    rename(&journals.join("shard-7"), &journals.join("shard-0"));
    // A sweep of which most failed.
    api.handle.set_faults(Faults::none().with(FaultKind::Server, 1.0));
    let device = dex_archive::sim::Fleet::new(dex_archive::sim::FleetOptions::default()).device_id(1);
    let (code, _) = run(api.collect(&archive).args(["--source", "live", "--device", &device, "--attempts", "1"]));
    assert_eq!(code, Some(3));
    let (code, told) = status(&[]);
    assert_eq!(code, Some(3));
    assert!(levels(&told["checks"]).contains(&("last sweep", "poor")), "{told:#}");
    // An archive that nobody collects into.
    let file = dir.path().join("state.ndjson");
    let at = clock::format_timestamp(Clock::system().now() - TimeDelta::days(30));
    put(&file, &format!(r#"{{"deviceId":"cb49c27f-7f97-49c5-b6f3-f7c01ead0fd7","timestamp":"{at}"}}"#));
    let other = dir.path().join("other");
    let mut import = program();
    assert_eq!(run(import.arg("--archive").arg(&other).args(["import", "--account", ACCOUNT]).arg(&file)).0, Some(0));
    let (code, told) = json(program().arg("--archive").arg(&other).args(["status", "--format", "json"]));
    assert_eq!((code, told["last_sweeps"].as_array().map(Vec::len)), (Some(3), Some(0)));
    let mut none = program();
    let (code, said) = run(none.arg("--archive").arg(dir.path().join("none")).arg("status"));
    assert_eq!(code, Some(1), "{said}");
}

#[test]
fn gaps_are_counted_up_to_what_waits_in_the_journal() {
    let (dir, archive) = place();
    let api = Api::start(5, Duration::from_mins(1), |options| options);
    let config = dir.path().join("config.toml");
    put(&config, "[archive]\npublish = \"1h\"\n");
    assert_eq!(run(&mut api.collect(&archive)).0, Some(0));
    assert_eq!(run(api.collect(&archive).arg("--config").arg(&config)).0, Some(0));
    let gaps = |config: &Path| {
        let mut gaps = program();
        gaps.arg("--archive").arg(&archive).arg("--config").arg(config);
        gaps.args(["query", "gaps", "--since", "10m", "--every", "1s", "--format", "json"]);
        (json(&mut gaps).1[0]["expected"].as_u64().expect("a number"), run(&mut gaps).1)
    };
    let later = Instant::now() + Duration::from_secs(3);
    while Instant::now() < later {
        std::thread::yield_now();
    }
    let (expected, said) = gaps(&config);
    assert!(expected < 600 && said.contains("is not published yet"), "{expected}: {said}");
    rename(&archive.join("_archive/journal"), &dir.path().join("aside"));
    let (all, said) = gaps(&config);
    assert!(all > expected && said.is_empty(), "{all}: {said}");
}

#[test]
fn status_knows_what_is_only_journalled_and_who_is_not_collected_at_all() {
    let (dir, archive) = place();
    let api =
        Api::start(5, Duration::from_mins(1), |options| ServerOptions { accounts: vec![OTHER.to_owned()], ..options });
    let config = dir.path().join("config.toml");
    put(&config, "[archive]\npublish = \"1h\"\n");
    let status = |more: &[&str]| {
        let mut command = program();
        command.arg("--archive").arg(&archive).arg("--config").arg(&config);
        json(command.args(["status", "--format", "json"]).args(more))
    };
    let collect = |account: &str| {
        let mut collect = program();
        collect.env("CLOUDFLARE_API_TOKEN", "simulated").arg("--archive").arg(&archive).arg("--config").arg(&config);
        collect.args(["collect", "--account", account, "--api-url", &api.url, "--rate-limit", "none"]);
        let (code, said) = run(&mut collect);
        assert_eq!(code, Some(0), "{said}");
    };
    // Of a new archive everything waits.
    collect(ACCOUNT);
    let (code, told) = status(&[]);
    assert_eq!(code, Some(0), "{told:#}");
    assert!(told["checks"][0]["found"].as_str().expect("a text").contains("it waits in the journal"), "{told:#}");
    assert_eq!(status(&["--max-age", "1ms"]).0, Some(3));
    // One account that is collected says nothing of another.
    put(&config, "");
    collect(ACCOUNT);
    put(&config, "[archive]\npublish = \"1h\"\n");
    collect(OTHER);
    let later = Instant::now() + Duration::from_secs(2);
    while Instant::now() < later {
        std::thread::yield_now();
    }
    collect(OTHER);
    let (_, told) = status(&["--max-age", "2s"]);
    let (first, second) = (format!("last sweep, {ACCOUNT}"), format!("last sweep, {OTHER}"));
    let levels = levels(&told["checks"]);
    assert!(levels.contains(&(&first, "poor")) && levels.contains(&(&second, "fine")), "{told:#}");
    assert!(told["before_first"].is_string(), "what was before the first sweep is to be fetched: {told:#}");
    // Nor does one that is to be collected and never was.
    let third = "21a7362d577a6c3019a474fd6f485823";
    put(&config, &format!("[[account]]\nid = \"{ACCOUNT}\"\n[[account]]\nid = \"{third}\"\nname = \"apac\"\n"));
    let (code, told) = status(&[]);
    assert_eq!((code, &told["silent_accounts"]), (Some(3), &serde_json::json!([third])), "{told:#}");
    assert!(self::levels(&told["checks"]).contains(&("last sweep, apac", "poor")), "{told:#}");
    put(&config, &format!("[api]\naccount = \"{third}\"\n[[account]]\nid = \"{ACCOUNT}\"\n"));
    let mut collect = api.collect(&archive);
    let (code, said) = run(collect.arg("--config").arg(&config).arg("--dry-run"));
    assert!(code == Some(2) && said.contains("which is no [[account]]"), "{said}");
    put(&config, "");
    for expect in ["7d", "100000000d"] {
        let mut command = program();
        let (code, said) = run(command.arg("--archive").arg(&archive).args(["status", "--expect", expect]));
        assert!(code == Some(2) && said.contains("longer than the 7 days"), "{said}");
    }
}

#[test]
fn status_tells_of_what_the_schema_does_not_expect_and_of_an_account_without_a_device() {
    let (dir, archive) = place();
    let import = |body: &str| {
        let file = dir.path().join("state.ndjson");
        put(&file, body);
        let mut import = program();
        run(import.arg("--archive").arg(&archive).args(["import", "--account", ACCOUNT]).arg(&file))
    };
    let now = clock::format_timestamp(Clock::system().now());
    let said = |level: &str| {
        let told = json(program().arg("--archive").arg(&archive).args(["status", "--format", "json"])).1;
        let is_so = levels(&told["checks"]).contains(&("states, last day", level));
        (is_so, told["states"].clone(), told["states_unmapped"].clone(), told["states_timeless"].clone())
    };
    import(&format!(r#"{{"deviceId":"cb49c27f-7f97-49c5-b6f3-f7c01ead0fd7","timestamp":"{now}"}}"#));
    assert_eq!(said("note"), (false, 1.into(), 0.into(), 0.into()));
    import(&format!(r#"{{"deviceId":"cb49c27f-7f97-49c5-b6f3-f7c01ead0fd8","timestamp":"{now}","cpuPct":"high"}}"#));
    assert_eq!(said("note"), (true, 2.into(), 1.into(), 0.into()));
    // Small numbers are no milliseconds: such states are filed by when they were collected, and not in 1970.
    import(r#"{"deviceId":"cb49c27f-7f97-49c5-b6f3-f7c01ead0fd9","timestamp":17959104}"#);
    assert_eq!(said("poor"), (true, 3.into(), 2.into(), 1.into()));
    let drift = program().arg("--archive").arg(&archive).args(["schema", "drift", "--format", "csv"]).output();
    let drift = String::from_utf8(drift.expect("the program starts").stdout).expect("a text");
    assert!(drift.contains("timestamp,integer") && drift.contains("cpuPct,string"), "{drift}");
    let (_dir, empty) = place();
    let api = Api::start(0, Duration::from_mins(1), |options| options);
    assert_eq!(run(&mut api.collect(&empty)).0, Some(0));
    let (code, told) = json(program().arg("--archive").arg(&empty).args(["status", "--format", "json"]));
    assert_eq!((code, &told["empty_accounts"][0]), (Some(3), &ACCOUNT.into()), "{told:#}");
    assert!(levels(&told["checks"]).contains(&("last sweep", "poor")), "{told:#}");
}

#[test]
fn status_tells_of_damage() {
    let (_dir, archive) = place();
    let api = Api::start(5, Duration::from_mins(1), |options| options);
    assert_eq!(run(&mut api.collect(&archive)).0, Some(0));
    let schema = dex_archive::schema::Schema::device_state();
    let opened = dex_archive::archive::Archive::open(&archive).expect("an archive");
    let today = opened.partitions(&schema).expect("days").pop().expect("a day");
    let (_, part) = opened.parts(&today).expect("parts").remove(0);
    let bytes = std::fs::read(&part).expect("a part");
    std::fs::File::create(&part).and_then(|mut file| file.write_all(&bytes[..bytes.len() / 2])).expect("room");
    let (code, told) = json(program().arg("--archive").arg(&archive).args(["status", "--format", "json"]));
    assert_eq!(code, Some(3));
    assert!(levels(&told["checks"]).contains(&("damage", "poor")), "{told:#}");
}

#[test]
fn doctor_names_what_is_wrong_and_what_to_do() {
    let (dir, archive) = place();
    let api = Api::start(5, Duration::from_mins(1), |options| options);
    let doctor = || {
        let mut doctor = program();
        let collect = api.collect(&archive);
        let typed: Vec<_> =
            collect.get_args().map(|arg| if arg == "collect" { "doctor".into() } else { arg.to_owned() }).collect();
        doctor.args(typed).args(["--format", "json"]);
        for (name, value) in collect.get_envs().filter_map(|(name, value)| Some((name, value?))) {
            doctor.env(name, value);
        }
        doctor
    };
    let (code, checks) = json(&mut doctor());
    assert_eq!(code, Some(0), "{checks:#}");
    let names: Vec<&str> = levels(&checks).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names[..5], ["config", "archive", "folder", "disk", "token"]);
    assert_eq!(names[5..], ["list of devices", "state of a device", "rate limit", "clock"]);
    assert!(!archive.exists(), "nothing is written");
    let level = |wanted: &str| {
        let (code, checks) = json(&mut doctor());
        let level = levels(&checks).into_iter().find(|(name, _)| *name == wanted).map(|(_, level)| level.to_owned());
        (code, level, checks)
    };
    for (fault, check) in [(FaultKind::Refused, "list of devices"), (FaultKind::ClockOff, "clock")] {
        api.handle.set_faults(Faults::none().with(fault, 1.0));
        let (code, level, checks) = level(check);
        assert_eq!((code, level.as_deref()), (Some(3), Some("poor")), "{checks:#}");
    }
    api.handle.set_faults(Faults::none());
    let (code, said) = run(doctor().env_remove("CLOUDFLARE_API_TOKEN"));
    assert_eq!(code, Some(3), "{said}");
    // Somebody else's folder, and one that is in use.
    std::fs::create_dir_all(&archive).expect("a folder");
    put(&archive.join("letter.txt"), "dear");
    assert_eq!(level("archive").1.as_deref(), Some("poor"));
    std::fs::remove_file(archive.join("letter.txt")).expect("a file");
    let collecting =
        Running(api.collect(&archive).args(["--every", "1h"]).stderr(Stdio::null()).spawn().expect("a process"));
    wait_for(|| {
        level("archive").2[1]["found"].as_str().is_some_and(|found| found.contains("in use by dex-archive collect"))
    });
    drop((collecting, dir));
}

#[test]
fn a_loop_tells_systemd_that_it_runs_and_prometheus_how_it_went() {
    let (dir, archive) = place();
    let api = Api::start(5, Duration::from_mins(1), |options| options);
    let (socket, file) = (dir.path().join("notify"), dir.path().join("dex.prom"));
    let heard = UnixDatagram::bind(&socket).expect("a socket");
    let told = Arc::new(Mutex::new(String::new()));
    let telling = Arc::clone(&told);
    // Somebody always listens: who tells systemd something waits until it is taken.
    std::thread::spawn(move || {
        let mut bytes = [0; 4_096];
        while let Ok(length) = heard.recv(&mut bytes) {
            telling.lock().expect("nobody panics").push_str(&String::from_utf8_lossy(&bytes[..length]));
        }
    });
    let is_told = |word: &str| told.lock().expect("nobody panics").contains(word);
    let mut command = api.collect(&archive);
    command.args(["--every", "1s", "--metrics-listen", "127.0.0.1:0", "--metrics-file"]).arg(&file);
    command.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "300000").stderr(Stdio::piped());
    let mut collecting = Running(command.spawn().expect("the program starts"));
    // How many of them are on, the hour says, and the day of the week.
    wait_for(|| ["READY=1\n", "WATCHDOG=1\n", "STATUS=", " devices: "].into_iter().all(is_told));
    let mut said = Vec::new();
    let mut stderr = collecting.0.stderr.take().expect("it is piped");
    while !String::from_utf8_lossy(&said).contains("/metrics\n") {
        let mut byte = [0];
        stderr.read_exact(&mut byte).expect("the address is told");
        said.push(byte[0]);
    }
    let said = String::from_utf8_lossy(&said).into_owned();
    let address = said.split("http://").nth(1).and_then(|rest| rest.split('/').next()).expect("an address");
    let served = get(address);
    assert!(served.starts_with("HTTP/1.1 200 OK") && served.contains("text/plain; version=0.0.4"), "{served}");
    let sweeps = format!("dex_archive_sweeps_total{{account=\"{ACCOUNT}\"}}");
    let counted = |text: &str| text.lines().find_map(|line| line.strip_prefix(&sweeps)?.trim().parse::<f64>().ok());
    let before = counted(&served).expect("it counts");
    wait_for(|| counted(&get(address)).is_some_and(|now| now > before));
    let written = std::fs::read_to_string(&file).expect("the file is there");
    assert!(counted(&written).is_some() && written.contains("dex_archive_last_sweep_success"), "{written}");
    let pid = rustix::process::Pid::from_raw(i32::try_from(collecting.0.id()).expect("a pid")).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a process");
    wait_for(|| is_told("STOPPING=1\n"));
    assert_eq!(collecting.0.wait().expect("a process").code(), Some(0));
    let left: Vec<_> = std::fs::read_dir(dir.path())
        .expect("a folder")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    assert!(!left.iter().any(|name| name.contains("tmp")), "{left:?}");
}

fn get(address: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("somebody listens");
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("a request");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    text
}

/// A process that does not outlive its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn wait_for(mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_mins(1), "it never came to be");
        std::thread::yield_now();
    }
}

#[test]
fn several_accounts_are_swept_side_by_side_into_one_archive() {
    let (dir, archive) = place();
    let api =
        Api::start(60, Duration::from_mins(1), |options| ServerOptions { accounts: vec![OTHER.to_owned()], ..options });
    let (config, summary) = (dir.path().join("config.toml"), dir.path().join("summary.json"));
    let token = dir.path().join("token");
    put(&token, "Sn3lZJTBX6kkg7OdcBUAxOO963GEIyGQqnFTOFYY\n");
    put(
        &config,
        &format!(
            "[api]\nurl = \"{}\"\nrate_limit = \"none\"\n[[account]]\nid = \"{ACCOUNT}\"\nname = \"emea\"\ntoken_file = {token:?}\n\
             [[account]]\nid = \"{OTHER}\"\nname = \"apac\"\ntoken_file = {token:?}\nbudget = \"20%\"\n",
            api.url
        ),
    );
    let collect = || {
        let mut command = program();
        command.arg("--archive").arg(&archive).arg("--config").arg(&config).arg("collect");
        command
    };
    let (code, said) = run(collect().arg("--summary-json").arg(&summary));
    assert_eq!(code, Some(0), "{said}");
    // How many of the fleet are awake, the hour decides.
    assert!(said.contains("emea: ") && said.contains("apac: ") && !said.contains(": 0 devices"), "{said}");
    let told: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&summary).expect("the file is there")).expect("JSON");
    let states = rows(&archive, &dex_archive::schema::Schema::device_state()).len() as u64;
    assert_eq!(told["states_new"].as_u64(), Some(states));
    assert_eq!(told["accounts"].as_object().map(serde_json::Map::len), Some(2));
    assert!(told["accounts"][OTHER]["requests_sent"].as_u64() > Some(0));
    // One archive, one publish: the same devices of both accounts stand in one part.
    let accounts: std::collections::BTreeSet<String> = archived(&archive)
        .into_values()
        .flatten()
        .map(|(batch, row)| {
            let accounts = batch.column_by_name("account_id").expect("a column");
            arrow_array::cast::AsArray::as_string::<i32>(accounts).value(row).to_owned()
        })
        .collect();
    assert_eq!(accounts.into_iter().collect::<Vec<_>>(), [ACCOUNT, OTHER]);
    // Holes of each are healed.
    let (code, said) = run(collect().args(["--self-heal", "--deadline", "24s"]));
    assert_eq!(code, Some(0), "{said}");
    let polls = rows(&archive, &dex_archive::schema::Schema::poll());
    let healed: std::collections::BTreeSet<String> = polls
        .iter()
        .filter(|(batch, row)| text(batch, "source", *row) == "raw")
        .map(|(batch, row)| text(batch, "account_id", *row))
        .collect();
    assert_eq!(healed.into_iter().collect::<Vec<_>>(), [ACCOUNT, OTHER], "{said}");
    // One by its name; none of another's.
    let output = collect().args(["--account", "apac", "--dry-run"]).output().expect("the program starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && output.stderr.is_empty(), "{said}");
    assert!(said.starts_with("plan, by the devices of the last 7 days: ") && said.contains(" devices, "), "{said}");
    let (code, said) = run(collect().args(["--account", "nobody"]));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("the config file has no account \"nobody\": it has emea, apac"), "{said}");
    // What is wrong with the token of one keeps nobody from asking for the others.
    let there = std::fs::read_to_string(&config).expect("the file is there");
    put(&config, &there.replacen(&format!("{token:?}"), "\"/nowhere/token\"", 1));
    let (code, said) = run(&mut collect());
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("emea: cannot read /nowhere/token: ") && said.contains("new states"), "{said}");
    put(&config, &there.replace(&format!("{token:?}"), "\"/nowhere/token\""));
    assert_eq!(run(&mut collect()).0, Some(2));
    put(&config, &there);
    // Where one is let in and the other is not, the one is archived.
    let before = archived(&archive).len();
    let text = std::fs::read_to_string(&config).expect("a file");
    put(&config, &text.replace(OTHER, "21a7362d577a6c3019a474fd6f485823"));
    wait_for(|| {
        let (code, said) = run(&mut collect());
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("error: apac: the list of devices cannot be read: HTTP 404"), "{said}");
        archived(&archive).len() > before
    });
}

#[test]
fn a_loop_takes_the_token_that_its_file_holds_by_now() {
    let (dir, archive) = place();
    let api =
        Api::start(5, Duration::from_secs(2), |options| ServerOptions { token: Some("renewed".to_owned()), ..options });
    let (token, log) = (dir.path().join("token"), dir.path().join("log"));
    put(&token, "expired");
    put(&log, "");
    let said = |words: &str| std::fs::read_to_string(&log).expect("a file").contains(words);
    let mut collect = api.collect(&archive);
    collect.args(["--every", "1s", "--token-file"]).arg(&token);
    collect.stderr(std::fs::OpenOptions::new().append(true).open(&log).expect("a file"));
    let _running = Running(collect.spawn().expect("the program starts"));
    wait_for(|| said("the API refused"));
    std::fs::remove_file(&token).expect("a file");
    wait_for(|| said("it goes on with the token that it had"));
    put(&token, "renewed");
    wait_for(|| said(" 0 failed"));
}

#[test]
fn a_loop_ends_for_an_account_whose_token_came_later_and_gives_it_to_no_other() {
    let (dir, archive) = place();
    let api = Api::start(5, Duration::from_secs(2), |options| ServerOptions {
        accounts: vec![OTHER.to_owned()],
        token: Some("apac's".to_owned()),
        ..options
    });
    let at = |name: &str| dir.path().join(name);
    put(&at("apac"), "apac's");
    let section =
        |name: &str, id: &str| format!("[[account]]\nid = \"{id}\"\nname = \"{name}\"\ntoken_file = {:?}\n", at(name));
    let config = format!(
        "[api]\nurl = \"{}\"\nrate_limit = \"none\"\n{}{}",
        api.url,
        section("emea", ACCOUNT),
        section("apac", OTHER)
    );
    put(&at("config.toml"), &config);
    put(&at("log"), "");
    let said = || std::fs::read_to_string(at("log")).expect("a file");
    let mut collect = program();
    collect.arg("--archive").arg(&archive).arg("--config").arg(at("config.toml")).args(["collect", "--every", "1s"]);
    collect.arg("--metrics-file").arg(at("metrics"));
    collect.stderr(std::fs::OpenOptions::new().append(true).open(at("log")).expect("a file"));
    let mut running = Running(collect.spawn().expect("the program starts"));
    wait_for(|| {
        said().matches("emea: cannot read ").count() > 1 && said().contains("apac: ") && at("metrics").exists()
    });
    let metrics = std::fs::read_to_string(at("metrics")).expect("a file");
    assert!(metrics.contains(&format!("dex_archive_last_sweep_success{{account=\"{ACCOUNT}\"}} 0\n")), "{metrics}");
    put(&at("emea"), "emea's");
    wait_for(|| running.0.try_wait().expect("a process").is_some());
    assert_eq!(running.0.wait().expect("a process").code(), Some(1), "whoever watches over it starts it again");
    assert!(said().contains("emea: its token can be read now") && !said().contains("refused"), "{}", said());
}

#[test]
fn a_token_that_can_be_read_once_is_read_once() {
    let (_dir, archive) = place();
    let api =
        Api::start(5, Duration::from_secs(2), |options| ServerOptions { token: Some("piped".to_owned()), ..options });
    let mut collect = api.collect(&archive);
    collect.args(["--every", "1s", "--sweeps", "3", "--token-file", "/dev/stdin"]);
    let mut looping = collect.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
    looping.stdin.take().expect("a pipe").write_all(b"piped").expect("a pipe");
    let ended = looping.wait_with_output().expect("a process");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success() && !said.contains("warning"), "{said}");
}

#[test]
fn accounts_of_one_token_are_held_back_together() {
    let (dir, archive) = place();
    let limit = |requests| RateLimit { requests, window: Duration::from_secs(1), block: Duration::from_secs(1) };
    let api = Api::start(20, Duration::from_mins(1), |options| ServerOptions {
        accounts: vec![OTHER.to_owned()],
        limit: limit(1_000),
        ..options
    });
    let (config, token) = (dir.path().join("config.toml"), dir.path().join("token"));
    put(&token, "Sn3lZJTBX6kkg7OdcBUAxOO963GEIyGQqnFTOFYY\n");
    let accounts = [ACCOUNT, OTHER].map(|id| format!("[[account]]\nid = \"{id}\"\n")).concat();
    let api_section = format!("[api]\nurl = \"{}\"\nrate_limit = \"16/1s\"\ntoken_file = {token:?}\n", api.url);
    put(&config, &(api_section + &accounts));
    let handle = api.handle.clone();
    // A limit that others overrun, again and again: the account that is refused first tells the other one.
    let blocks = 4;
    let others = std::thread::spawn(move || {
        for block in 1..=blocks {
            let asked = handle.requests() + 6;
            wait_for(|| handle.requests() >= asked);
            handle.set_limit(limit(2));
            wait_for(|| handle.throttled() >= block);
            let refused = Instant::now();
            wait_for(|| refused.elapsed() > Duration::from_millis(700));
            handle.set_limit(limit(1_000));
        }
    });
    let (code, said) = run(program()
        .arg("--archive")
        .arg(&archive)
        .arg("--config")
        .arg(&config)
        .args(["collect", "--source", "live"]));
    others.join().expect("a thread");
    assert_eq!(code, Some(0), "{said}");
    // Once in a while both have asked before either is answered.
    let refused = api.handle.throttled();
    assert!(refused <= blocks + 2, "{refused} refusals of {blocks} blocks: {said}");
}

fn text(batch: &arrow_array::RecordBatch, name: &str, row: usize) -> String {
    let column = batch.column_by_name(name).expect("a column");
    arrow_array::cast::AsArray::as_string::<i32>(column).value(row).to_owned()
}

#[test]
fn a_person_is_forgotten_where_there_are_polls_too() {
    let (_dir, archive) = place();
    let api = Api::start(5, Duration::from_mins(1), |options| options);
    let (code, said) = run(&mut api.collect(&archive));
    assert_eq!(code, Some(0), "{said}");
    let emails = || {
        let rows = rows(&archive, &dex_archive::schema::Schema::device_state());
        rows.iter().map(|(batch, row)| text(batch, "person_email", *row)).collect::<Vec<_>>()
    };
    let gone = emails().into_iter().find(|email| email.contains('@')).expect("somebody");
    let mut forget = program();
    let (code, said) = run(forget.arg("--archive").arg(&archive).args(["forget", "--email", &gone]));
    assert_eq!(code, Some(0), "{said}");
    assert!(!emails().contains(&gone));
}

#[test]
fn what_starts_it_is_printed_for_each_scheduler() {
    let say = |args: &[&str]| {
        let output = program().args(args).output().expect("the program starts");
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
        )
    };
    let (code, cron) = say(&["--archive", "/srv/dex", "service", "cron", "--account", ACCOUNT, "--every", "30m"]);
    assert_eq!(code, Some(0), "{cron}");
    assert!(cron.contains("*/30 * * * * ") && cron.contains(" --archive /srv/dex collect --account "), "{cron}");
    let (code, said) = say(&["service", "cron", "--account", ACCOUNT, "--every", "7m"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("cron knows no such interval as 7m"), "{said}");
    let (code, said) = say(&["service", "cron", "--account", ACCOUNT, "--every", "90s"]);
    assert_eq!(code, Some(2), "{said}");
    let dir = tempfile::tempdir().expect("a folder");
    let config = dir.path().join("config.toml");
    put(&config, &format!("[api]\naccount = \"{ACCOUNT}\"\ntoken_file = \"/srv/token\"\n"));
    let config = config.display().to_string();
    let (_, unit) = say(&["--config", &config, "service", "systemd"]);
    assert!(unit.contains("LoadCredential=token:/srv/token\n") && unit.contains("ProtectHome=yes"), "{unit}");
    let (_, unit) = say(&["--archive", "/home/a/dex", "service", "systemd", "--account", ACCOUNT]);
    assert!(unit.contains("ProtectHome=no") && unit.contains("# install -d -o dex-archive"), "{unit}");
    let said = "the key_file of its [privacy] must be readable by dex-archive";
    assert!(!unit.contains(said), "{unit}");
    let rules = dir.path().join("rules.toml");
    put(&rules, "[privacy]\nkey_file = \"/srv/key\"\n");
    let (_, unit) = say(&["--config", &rules.display().to_string(), "service", "systemd", "--account", ACCOUNT]);
    assert!(unit.contains(said) && unit.contains("UMask=0022"), "{unit}");
    // Rules of privacy are taken along.
    let (_, manifest) = say(&["--config", &config, "service", "kubernetes"]);
    assert!(manifest.contains("\"--config\", \"/config/config.toml\"") && manifest.contains("configMap"), "{manifest}");
    let (code, said) = say(&["service", "systemd"]);
    assert_eq!(code, Some(2), "{said}");
    for shell in ["bash", "zsh", "fish"] {
        let (code, script) = say(&["completions", shell]);
        assert!(code == Some(0) && script.contains("backfill") && script.contains("metrics-file"), "{shell}: {script}");
    }
    let (code, man) = say(&["man"]);
    assert!(
        code == Some(0) && man.starts_with(".ie") && man.contains("collect") && man.contains("metrics\\-listen"),
        "{man}"
    );
    // Of the commands below commands too.
    for option in ["\n\\fB\\-\\-agg\\fR", "\n\\fB\\-\\-resource\\fR"] {
        assert!(man.contains(option), "{option}: {man}");
    }
}

#[test]
fn each_command_has_help_with_an_example() {
    let help = |args: &[&str]| {
        let output = program().args(args).arg("--help").output().expect("the program starts");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    for command in [
        "collect",
        "backfill",
        "import",
        "report",
        "status",
        "doctor",
        "schema",
        "verify",
        "prune",
        "forget",
        "simulate",
        "demo",
        "service",
        "completions",
        "man",
    ] {
        let text = help(&[command]);
        assert!(text.contains("Example") && text.contains(&format!("dex-archive {command}")), "{command}: {text}");
        let (own, common) = text.split_once("Options of all commands:").expect("two groups of options");
        assert!(!own.contains("--archive") && common.contains("--archive"), "{command}: {text}");
    }
    for question in ["trend", "latest", "changes", "apps", "gaps"] {
        let text = help(&["query", question]);
        assert!(
            text.contains("Example") && text.contains(&format!("dex-archive query {question}")),
            "{question}: {text}"
        );
    }
}
