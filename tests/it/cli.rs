//! What people meet when they type something wrong: one sentence, the right exit code, nothing written.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::PrivateKeyDer;

use crate::program::{ACCOUNT, Api, place, program, run};

fn check(command: &mut Command, code: i32, sentence: &str) {
    let (ended, said) = run(command);
    assert_eq!(ended, Some(code), "{said}");
    assert!(said.contains(sentence), "{said:?} should say {sentence:?}");
    assert!(said.lines().filter(|line| !line.is_empty()).count() <= 3, "one clear sentence: {said}");
}

#[test]
fn bad_input_gets_one_sentence_and_leaves_nothing() {
    let (dir, archive) = place();
    let api = Api::start(1, Duration::from_mins(2), |options| options);
    let collect = || api.collect(&archive);
    check(collect().env_remove("CLOUDFLARE_API_TOKEN"), 2, "no credentials: set CLOUDFLARE_API_TOKEN");
    check(collect().env("CLOUDFLARE_API_TOKEN", " "), 2, "CLOUDFLARE_API_TOKEN is no credential: it is empty");
    let mut wrong_account = program();
    wrong_account.args(["collect", "--account", "mine"]).env("CLOUDFLARE_API_TOKEN", "x");
    check(&mut wrong_account, 2, "\"mine\" is no account id");
    let devices = dir.path().join("devices.txt");
    put(&devices, "# fleet\ncb49c27f-7f97-49c5-b6f3-f7c01ead0fd7\nlaptop-17\n");
    check(collect().arg("--devices-file").arg(&devices), 2, "line 3: \"laptop-17\" is no device id");
    check(collect().args(["--api-url", "http://127.0.0.1:9"]), 2, "cannot be used multiple times");
    let config = dir.path().join("config.toml");
    put(&config, "archiv = \"x\"\n");
    check(collect().arg("--config").arg(&config), 2, "unknown field `archiv`");
    check(collect().args(["--budget", "120%"]), 2, "is no share of the limit");
    check(collect().args(["--every", "5"]), 2, "\"5\" is no duration");
    let device = "cb49c27f-7f97-49c5-b6f3-f7c01ead0fd7";
    check(collect().args(["--source", "list", "--device", device]), 2, "--source list reads the whole fleet");
    put(&devices, "# nobody\n");
    check(collect().arg("--devices-file").arg(&devices), 2, "devices.txt names no device");
    put(&config, "[api]\naccount = \"x\"\n\nbudge = \"5%\"\n");
    check(collect().arg("--config").arg(&config), 2, "config.toml, line 4: unknown field `budge`");
    put(&config, "[archive]\npublish = \"now\"\n");
    check(collect().arg("--config").arg(&config), 2, "publish = \"now\" is no rule: write auto, sweep, or a time");
    assert!(!archive.exists(), "nothing is written");
}

#[test]
fn an_empty_variable_says_nothing_and_a_question_that_makes_no_sense_is_one() {
    let (_dir, archive) = place();
    let api = Api::start(5, Duration::from_mins(2), |options| options);
    let mut collect = api.collect(&archive);
    for name in ["DEX_ARCHIVE_DIR", "DEX_ARCHIVE_CONFIG", "DEX_ARCHIVE_STATE_DIR", "JOB_COMPLETION_INDEX"] {
        collect.env(name, "");
    }
    assert_eq!(run(&mut collect).0, Some(0));
    let mut keyed = api.collect(&archive);
    keyed
        .env("CLOUDFLARE_API_TOKEN", "")
        .env("CLOUDFLARE_EMAIL", "a@example.com")
        .env("CLOUDFLARE_API_KEY", "0123456789abcdef");
    let (code, said) = run(keyed.arg("--dry-run"));
    assert_eq!(code, Some(0), "{said}");
    let (config, key) = (archive.with_extension("privacy.toml"), archive.with_extension("key"));
    put(&key, "sixteen letters!");
    put(&config, &format!("[privacy]\nkey_file = {key:?}\n[privacy.classes]\nperson = \"pseudonym\"\n"));
    let mut latest = program();
    latest.env("DEX_ARCHIVE_PRIVACY_KEY", "").arg("--archive").arg(&archive).arg("--config").arg(&config);
    let (code, said) = run(latest.args(["query", "latest"]));
    assert_eq!(code, Some(0), "{said}");
    let query = |args: &[&str]| {
        let mut query = program();
        query.env("DEX_ARCHIVE_DIR", "").arg("--archive").arg(&archive).arg("query").args(args);
        query
    };
    check(&mut query(&["trend", "--fleet", "--metric", "rtt", "--agg", "rate"]), 2, "rates exist only for counts");
    check(&mut query(&["apps", "--resource", "disk"]), 2, "what applications use is known of");
    check(&mut query(&["apps", "--resource", ""]), 2, "what applications use is known of");
    let nothing = ["gaps", "--since", "2026-01-01", "--until", "2026-01-02"];
    check(&mut query(&nothing), 1, "an interval counts once it is over");
    check(&mut query(&["gaps", "--since", "1s", "--every", "7d"]), 1, "no whole interval of 7d is over yet");
    let before = ["latest", "--at", "2026-10-25T02:30+01:00", "--tz", "Europe/Berlin"];
    check(&mut query(&before), 1, "no states between 2026-10-18T01:30:00.000001Z");
    let mut doctor = program();
    let config = archive.with_extension("toml");
    put(&config, "[archive]\npublish = \"now\"\n");
    check(doctor.arg("--config").arg(&config).arg("doctor"), 2, "is no rule");
    put(&config, "[report.limits]\nnope = 1\n");
    let mut doctor = program();
    check(doctor.arg("--config").arg(&config).arg("doctor"), 2, "nope");
}

#[test]
fn an_api_that_cannot_be_reached_leaves_nothing() {
    let (_dir, archive) = place();
    let ask = |url: &str| {
        let mut command = program();
        command.arg("--archive").arg(&archive).args(["collect", "--account", ACCOUNT, "--api-url", url]);
        command.env("CLOUDFLARE_API_TOKEN", "x");
        command
    };
    check(&mut ask("http://127.0.0.1:9"), 1, "cannot reach http://127.0.0.1:9/: ");
    let plain = Api::start(1, Duration::from_mins(2), |options| options);
    let tls = plain.url.replace("http:", "https:");
    check(&mut ask(&tls), 1, "cannot reach https://127.0.0.1");
    let stranger = format!("https://127.0.0.1:{}", self_signed());
    check(&mut ask(&stranger), 1, "UnknownIssuer: where a proxy inspects TLS, name its certificate in SSL_CERT_FILE");
    assert!(!archive.exists(), "nothing is written");
}

/// The port of a server whose certificate nobody vouches for.
fn self_signed() -> u16 {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let certificate = include_bytes!("../data/self-signed.cert.der").to_vec().into();
    let key = PrivateKeyDer::try_from(include_bytes!("../data/self-signed.key.der").to_vec()).expect("a key");
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.expect("TLS 1.3").with_no_client_auth().with_single_cert(vec![certificate], key);
    let config = Arc::new(config.expect("a certificate and its key"));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut tls = rustls::ServerConnection::new(Arc::clone(&config)).expect("a connection");
            // The client hangs up: that is what is tested.
            let _ = tls.complete_io(&mut client);
        }
    });
    port
}

#[test]
fn a_folder_that_may_not_be_written_is_named() {
    let (dir, archive) = place();
    let api = Api::start(1, Duration::from_mins(2), |options| options);
    let mut collect = api.collect(&archive);
    // Root may write everywhere: it becomes nobody first, who needs a program within reach.
    if fs::metadata(dir.path()).expect("a folder").uid() == 0 {
        let copy = dir.path().join("program");
        fs::copy(program().get_program(), &copy).expect("room on the disk");
        let mut nobody = Command::new(&copy);
        nobody.args(collect.get_args()).uid(65_534).gid(65_534);
        nobody.envs(collect.get_envs().filter_map(|(name, value)| Some((name, value?))));
        collect = nobody;
    }
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o555)).expect("our own folder");
    check(&mut collect, 1, &format!("cannot make {}: Permission denied", archive.display()));
    assert!(!archive.exists(), "nothing is written");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("our own folder");
}

#[test]
fn a_question_that_makes_no_sense_gets_one_sentence() {
    let (_dir, archive) = place();
    let api = Api::start(3, Duration::from_secs(2), |options| options);
    assert_eq!(run(&mut api.collect(&archive)).0, Some(0));
    let ask = |args: &[&str]| {
        let mut command = program();
        command.arg("--archive").arg(&archive).args(["query", "trend"]).args(args);
        command
    };
    let device = ["--device", "cb49c27f-7f97-49c5-b6f3-f7c01ead0fd7"];
    let with = |more: &[&'static str]| ask(&[&device[..], more].concat());
    check(&mut with(&["--metric", "cpu_pkt"]), 2, "\"cpu_pkt\" is no metric");
    check(&mut with(&["--since", "blah"]), 2, "\"blah\" is no time");
    check(&mut with(&["--since", "now", "--until", "1d"]), 2, "before it begins");
    check(&mut with(&["--every", "0s"]), 2, "\"0s\" is no duration");
    check(&mut with(&["--tz", "Mars/Olympus"]), 2, "\"Mars/Olympus\" is not a time zone");
    check(
        &mut with(&["--tz", "Europe/Berlin", "--every", "7h"]),
        2,
        "a bucket must be whole days or an even part of a day",
    );
    check(&mut with(&["--every", "1s", "--since", "7d"]), 2, "604801 buckets are too many");
    let mut gaps = program();
    gaps.arg("--archive").arg(&archive).args(["query", "gaps", "--since", "2020-01-01", "--until", "2020-01-02"]);
    check(&mut gaps, 1, "neither a state nor a request between");
    for long_ago in [
        &["latest", "--at", "2020-01-02"][..],
        &["changes", "--since", "2020-01-01", "--until", "2020-01-02"],
        &["apps", "--since", "2020-01-01", "--until", "2020-01-02"],
    ] {
        let mut question = program();
        check(question.arg("--archive").arg(&archive).arg("query").args(long_ago), 1, "no states between 20");
    }
    let mut unchanged = program();
    unchanged.arg("--archive").arg(&archive).args(["query", "changes"]);
    let said = unchanged.output().expect("a program");
    assert_eq!(said.status.code(), Some(0), "that nothing changed is an answer");
    assert!(String::from_utf8_lossy(&said.stdout).ends_with("(none)\n"));
    check(&mut with(&[]), 1, "no device \"cb49c27f-7f97-49c5-b6f3-f7c01ead0fd7\" between");
    check(&mut ask(&["--device", "nobody's laptop"]), 1, "no device \"nobody's laptop\" between");
    let mut demo = program();
    check(demo.arg("--archive").arg(&archive).arg("demo"), 1, "holds an archive already");
}

#[test]
fn accounts_that_share_a_token_share_its_limit() {
    let (dir, archive) = place();
    let config = dir.path().join("config.toml");
    let account = |id: &str| format!("[[account]]\nid = \"{id}\"\n");
    put(&config, &(account(ACCOUNT) + &account(&ACCOUNT.replace("01", "02"))));
    let mut plan = program();
    plan.env("CLOUDFLARE_API_TOKEN", "Sn3lZJTBX6kkg7OdcBUAxOO963GEIyGQ");
    let plan = plan.arg("--archive").arg(&archive).arg("--config").arg(&config).args(["collect", "--dry-run"]);
    let said = String::from_utf8(plan.output().expect("the program starts").stdout).expect("text");
    assert_eq!(said.matches("the budget of 480 requests in 5m").count(), 2, "{said}");
}

#[test]
fn in_a_log_of_json_every_line_is_json() {
    let (dir, archive) = place();
    let api = Api::start(3, Duration::from_secs(2), |options| options);
    let lines = |command: &mut Command| -> Vec<(String, String)> {
        let output = command.args(["--log-format", "json"]).output().expect("the program starts");
        let said = String::from_utf8(output.stderr).expect("text");
        let lines = said.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
        let word = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
        lines.map(|line| (word(&line["level"]), word(&line["fields"]["message"]))).collect()
    };
    let said = lines(&mut api.collect(&archive));
    let [(_, plan), .., (level, summary)] = &said[..] else { panic!("a plan and a summary: {said:?}") };
    // How many of the three are on, the hour says.
    assert!(plan.starts_with("plan: ") && level == "INFO" && summary.contains(" devices: "), "{said:?}");
    let said = lines(program().args(["status", "--archive"]).arg(dir.path().join("nowhere")));
    let [(level, error)] = &said[..] else { panic!("one error: {said:?}") };
    assert!(level == "ERROR" && !error.starts_with("error"), "{said:?}");
}

#[test]
fn what_the_environment_says_beats_the_config_file_and_no_proxy_sees_it() {
    let (dir, archive) = place();
    let token = "Sn3lZJTBX6kkg7OdcBUAxOO963GEIyGQqnFTOFYY";
    let api = Api::start(3, Duration::from_secs(2), |options| sim_options(options, token));
    let (config, wrong) = (dir.path().join("config.toml"), dir.path().join("token"));
    put(&wrong, "another");
    put(&config, &format!("[api]\ntoken_file = \"{}\"\n", wrong.display()));
    let mut collect = api.collect(&archive);
    collect.env("http_proxy", "http://127.0.0.1:9").arg("--config").arg(&config);
    let (code, said) = run(&mut collect);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = run(api.collect(&archive).arg("--token-file").arg(&wrong));
    assert_eq!(code, Some(1), "what is typed beats both: {said}");
}

#[test]
fn an_archive_that_is_none_is_left_alone() {
    let (dir, archive) = place();
    let api = Api::start(1, Duration::from_mins(2), |options| options);
    check(api.collect(&archive).args(["--shard", "0"]), 2, "is no archive yet: say how many shards it has");
    put(&archive, "not a folder");
    check(&mut api.collect(&archive), 1, "is a file: an archive is a folder");
    fs::remove_file(&archive).expect("a file");
    check(&mut api.collect(dir.path().parent().expect("a folder")), 1, "is not empty and no archive");
    fs::create_dir_all(archive.join("_archive")).expect("a folder");
    put(&archive.join("_archive/archive.json"), "{\"format\": 99}");
    check(&mut api.collect(&archive), 1, "has format 99, this version reads 1: use the newer dex-archive");
}

#[test]
fn the_second_collector_is_told_who_is_there() {
    let (_dir, archive) = place();
    let api = Api::start(5, Duration::from_secs(2), |options| options);
    let mut first = api.collect(&archive).args(["--every", "1h", "-q"]).spawn().expect("the program starts");
    let lock = archive.join("_archive/shard-0.lock");
    while fs::read_to_string(&lock).unwrap_or_default().is_empty() {
        std::thread::yield_now();
    }
    check(&mut api.collect(&archive), 75, &format!("is in use by dex-archive collect, process {}", first.id()));
    first.kill().expect("a process");
    first.wait().expect("a process");
    let (code, said) = run(&mut api.collect(&archive));
    assert_eq!(code, Some(0), "the lock died with its holder: {said}");
}

#[test]
fn a_refused_token_ends_the_sweep_and_names_the_permissions() {
    let (_dir, archive) = place();
    let api = Api::start(5, Duration::from_secs(2), |options| sim_options(options, "another"));
    let (code, said) = run(&mut api.collect(&archive));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("Cloudflare DEX Read") && said.contains("HTTP 403"), "{said}");
    assert!(!said.contains("Sn3lZJTBX6"), "the token is shown: {said}");
    assert_eq!(api.handle.requests(), 2, "the check of the address, and the request that was refused");
}

fn sim_options(options: dex_archive::sim::ServerOptions, token: &str) -> dex_archive::sim::ServerOptions {
    dex_archive::sim::ServerOptions { token: Some(token.to_owned()), ..options }
}

#[expect(clippy::disallowed_methods, reason = "a test makes a file")]
pub(crate) fn put(path: &std::path::Path, text: &str) {
    fs::write(path, text).expect("room on the disk");
}
