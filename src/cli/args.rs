//! What can be typed: commands, options, and their help. What it means is up to the commands.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use clap::builder::{NonEmptyStringValueParser, PossibleValuesParser, TypedValueParser};
use clap::parser::ValueSource;
use clap::{Args as ClapArgs, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use tracing::level_filters::LevelFilter;

use crate::api::{ClientOptions, Credential};
use crate::archive::{Archive, Place};
use crate::bucket::Bucket;
use crate::clock::Zone;
use crate::config::{self, ApiSection, ConfigError, ConfigFile, DEFAULT_ARCHIVE};
use crate::disk::Disk;
use crate::query::{Agg, metric_groups};
use crate::sim::FaultKind;

/// Over the options that every command has, in its help behind its own.
const COMMON: &str = "Options of all commands";

/// Keeps the history of a Cloudflare WARP fleet that Cloudflare itself forgets after 7 days.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 all done; 1 failed; 2 usage; 3 finished, with failures or findings; 75 another command holds the archive's lock."
)]
pub(super) struct Args {
    /// The archive: a folder, or a place in a bucket as `s3://bucket/prefix`, `gs://…` or `az://…` [default: ./dex-archive-data]
    #[arg(long, global = true, env = "DEX_ARCHIVE_DIR", value_name = "DIR", help_heading = COMMON)]
    archive: Option<PathBuf>,
    /// Where the journal of an archive in a bucket is, on this machine's disk [default: ./dex-archive-state]
    #[arg(long, global = true, env = "DEX_ARCHIVE_STATE_DIR", value_name = "DIR", help_heading = COMMON)]
    state_dir: Option<PathBuf>,
    /// A config file (TOML); flags beat the environment, which beats the file
    #[arg(long, global = true, env = "DEX_ARCHIVE_CONFIG", value_name = "FILE", help_heading = COMMON)]
    config: Option<PathBuf>,
    /// Say more
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = COMMON)]
    pub(super) verbose: u8,
    /// Say less: errors alone
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = COMMON)]
    pub(super) quiet: bool,
    /// Form of the log on stderr
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text, help_heading = COMMON)]
    log_format: LogFormat,
    #[command(subcommand)]
    pub(super) command: Command,
    #[arg(skip)]
    typed: Typed,
}

/// Which of the options were typed: what the environment says of them may be meant for another command.
#[derive(Debug, Clone, Copy, Default)]
struct Typed {
    archive: bool,
    state_dir: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make an archive, where one of several shards is wanted; `collect` and `import` make one of a single shard
    Init(InitArgs),
    /// Snapshot the fleet into the archive, once or in a loop
    Collect(CollectArgs),
    /// Fill the archive from what Cloudflare still knows of the last 7 days
    Backfill(BackfillArgs),
    /// Take device states from files into the archive
    Import(ImportArgs),
    /// Answer a question from the archive
    Query(QueryArgs),
    /// Write a report on the fleet or on devices: the page to read on Monday
    Report(ReportArgs),
    /// Say how the collecting goes: last sweep, coverage, journal, disk, gaps
    Status(StatusArgs),
    /// Say whether the API, the token and this machine are fit for collecting
    Doctor(DoctorArgs),
    /// Show the columns
    Schema(SchemaArgs),
    /// Check that the archive is what it should be
    Verify(VerifyArgs),
    /// Remove days that are too old
    Prune(PruneArgs),
    /// Take everything about a device or a person out of the archive
    Forget(ForgetArgs),
    /// File the archive's days into another number of shards
    Reshard(ReshardArgs),
    /// Write anew what an older version wrote, with every column of this one
    Upgrade(UpgradeArgs),
    /// Serve a simulated fleet, or write its states
    Simulate(SimulateArgs),
    /// See it work: no account and no network needed
    Demo(DemoArgs),
    /// Print a crontab line, systemd units or a Kubernetes manifest that run the collector
    Service(ServiceArgs),
    /// Print a shell's completion script
    Completions(CompletionsArgs),
    /// Print the manual, for man
    #[command(after_help = "Example:\n  dex-archive man > /usr/local/share/man/man1/dex-archive.1")]
    Man,
}

#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Exit codes: 0 all is well; 3 somebody should do something.\n\nExamples:\n  dex-archive status\n  dex-archive status --max-age 15m --format json"
)]
pub(super) struct StatusArgs {
    /// A sweep that is older is too old
    #[arg(long, default_value = "1h", value_name = "DURATION")]
    pub(super) max_age: String,
    /// A state of each device is expected in each interval of this length
    #[arg(long, default_value = "1h", value_name = "DURATION")]
    pub(super) expect: String,
    /// A table, or JSON
    #[arg(long, value_enum, default_value_t = CheckFormat::Table)]
    pub(super) format: CheckFormat,
}

#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Two requests are made, and nothing is changed: of an archive in a bucket, the description is offered once more under\na condition that fails, which tells whether it may be written. Exit codes: 0 all is well; 3 somebody should do something.\n\nExample:\n  CLOUDFLARE_API_TOKEN=… dex-archive doctor --account 01a7…5823"
)]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    pub(super) api: ApiArgs,
    /// A table, or JSON
    #[arg(long, value_enum, default_value_t = CheckFormat::Table)]
    pub(super) format: CheckFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum CheckFormat {
    Table,
    Json,
}

#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Examples:\n  dex-archive completions bash > /etc/bash_completion.d/dex-archive\n  dex-archive completions zsh > ~/.zfunc/_dex-archive\n  dex-archive completions fish > ~/.config/fish/completions/dex-archive.fish"
)]
pub(super) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub(super) shell: clap_complete::Shell,
}

#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Examples:\n  (crontab -l; dex-archive service cron --every 15m) | crontab -\n  dex-archive --archive /var/lib/dex-archive service systemd --account 01a7…5823 --token-file /etc/dex-archive/token\n  dex-archive service kubernetes --account 01a7…5823 --every 15m | kubectl apply -f -"
)]
pub(super) struct ServiceArgs {
    /// What is to run it
    #[arg(value_enum)]
    pub(super) scheduler: Scheduler,
    /// The Cloudflare account
    #[arg(long, env = "CLOUDFLARE_ACCOUNT_ID", value_name = "ID")]
    pub(super) account: Option<String>,
    /// The file that holds the API token there [default: the config file's, or else `/etc/dex-archive/token`]
    #[arg(long, value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,
    /// Time between two sweeps
    #[arg(long, default_value = "15m", value_name = "DURATION")]
    pub(super) every: String,
    /// The user that collects, for systemd
    #[arg(long, default_value = "dex-archive", value_name = "USER")]
    pub(super) user: String,
    /// The image that holds the program, for Kubernetes
    #[arg(long, default_value = "dex-archive:latest", value_name = "IMAGE")]
    pub(super) image: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Scheduler {
    Cron,
    Systemd,
    Kubernetes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Example:\n  dex-archive --archive s3://fleet/history init --shards 8     for eight collectors, each with `collect --shard N/8`"
)]
pub(super) struct InitArgs {
    /// In how many shards the devices fall
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MOST_SHARDS))]
    pub(super) shards: u32,
}

/// More collectors than that nobody has tokens for.
const MOST_SHARDS: i64 = 1_024;

#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Examples:\n  dex-archive collect --account 01a7…5823              one sweep, for cron\n  dex-archive collect --every 5m                       sweeps until it is stopped\n  dex-archive collect --source list --dry-run          what would be asked"
)]
pub(super) struct CollectArgs {
    #[command(flatten)]
    pub(super) api: ApiArgs,
    /// Where states are taken from: the list, single devices, or both while that fits the budget
    #[arg(long, value_enum, default_value_t = SourceArg::Auto)]
    pub(super) source: SourceArg,
    /// Ask for this device alone; may be repeated
    #[arg(long, value_name = "ID")]
    pub(super) device: Vec<String>,
    /// Ask for the devices in a file, one id a line (`-`: stdin)
    #[arg(long, value_name = "FILE")]
    pub(super) devices_file: Option<PathBuf>,
    /// Sweep again and again, on ticks of this length
    #[arg(long, value_name = "DURATION")]
    pub(super) every: Option<String>,
    /// Stop after so many sweeps
    #[arg(long, value_name = "N", requires = "every", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) sweeps: Option<u64>,
    /// Longest time that a sweep may take; what it could not ask, the next one asks first [default: with
    /// --every, its interval]
    #[arg(long, value_name = "DURATION")]
    pub(super) deadline: Option<String>,
    /// How far back a state may lie [default: the interval and 5 minutes]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=60))]
    pub(super) since_minutes: Option<u32>,
    /// After each sweep, spend what is left of the interval on holes of the last 7 days that Cloudflare's history can fill
    #[arg(long)]
    pub(super) self_heal: bool,
    /// Collect the devices of one shard alone, counted from 0: 3/8, or just 3. Others collect theirs, each with a token of
    /// its own. In a Kubernetes job that is Indexed, its index counts
    #[arg(long, env = "JOB_COMPLETION_INDEX", value_name = "SHARD")]
    pub(super) shard: Option<String>,
    /// Print the plan and stop
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Write what the last sweep did to a file, as JSON
    #[arg(long, value_name = "FILE")]
    pub(super) summary_json: Option<PathBuf>,
    /// Write how it went to a file after each sweep, for Prometheus: `node_exporter`'s textfile collector reads it
    #[arg(long, value_name = "FILE")]
    pub(super) metrics_file: Option<PathBuf>,
    /// Serve the same over HTTP, at `/metrics`, on an address such as 127.0.0.1:9464
    #[arg(long, value_name = "ADDRESS", requires = "every")]
    pub(super) metrics_listen: Option<std::net::SocketAddr>,
}

#[derive(Debug, ClapArgs)]
#[command(
    after_help = "What was read to its end is remembered: a backfill that was stopped goes on where it was, and one that is repeated\nasks for what is new. Exit code 3: some windows could not be read; run it again.\n\nExamples:\n  dex-archive backfill --account 01a7…5823                 every state of the last 7 days\n  dex-archive backfill --since 2d --dry-run                windows, requests and time\n  dex-archive backfill --resolution hourly --device cb49c27f-7f97-49c5-b6f3-f7c01ead0fd7"
)]
pub(super) struct BackfillArgs {
    #[command(flatten)]
    pub(super) api: ApiArgs,
    /// From when on: a time, a date, or how long ago; Cloudflare forgets after 7 days
    #[arg(long, default_value = "7d", value_name = "TIME")]
    pub(super) since: String,
    /// Up to when
    #[arg(long, default_value = "now", value_name = "TIME")]
    pub(super) until: String,
    /// Every state that was reported, or one average an hour
    #[arg(long, value_enum, default_value_t = ResolutionArg::Raw)]
    pub(super) resolution: ResolutionArg,
    /// Of this device alone; may be repeated
    #[arg(long, value_name = "ID")]
    pub(super) device: Vec<String>,
    /// Ask also for what was read before: where the archive has lost it since
    #[arg(long)]
    pub(super) again: bool,
    /// Print the windows and the plan, and stop
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Write what was done to a file, as JSON
    #[arg(long, value_name = "FILE")]
    pub(super) summary_json: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ResolutionArg {
    Raw,
    Hourly,
}

#[derive(Debug, ClapArgs)]
pub(super) struct ApiArgs {
    /// The Cloudflare account
    #[arg(long, env = "CLOUDFLARE_ACCOUNT_ID", value_name = "ID")]
    account: Option<String>,
    /// A file that holds the API token, which a loop reads again before each sweep; without it, the variable
    /// `CLOUDFLARE_API_TOKEN` counts
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Where the API is [default: Cloudflare's own]
    #[arg(long, env = "CLOUDFLARE_BASE_URL", value_name = "URL")]
    api_url: Option<String>,
    /// The account's rate limit, or `none` [default: 1200/5m]
    #[arg(long, value_name = "REQUESTS/WINDOW")]
    rate_limit: Option<String>,
    /// The share of it that may be used [default: 80%]
    #[arg(long, value_name = "PERCENT")]
    budget: Option<String>,
    /// How often a request is sent at most [default: 5]
    #[arg(long, value_name = "N")]
    attempts: Option<u32>,
    /// The first wait before a request is sent again [default: 500ms]
    #[arg(long, value_name = "DURATION")]
    retry_delay: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum SourceArg {
    Auto,
    Live,
    List,
}

#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Examples:\n  dex-archive import --account 01a7…5823 states.ndjson.gz\n  curl … | dex-archive import --account 01a7…5823 -\n  dex-archive import --format logpush logs/2026-11-24/\n  dex-archive import --format logpush s3://bucket/logs/20261124"
)]
pub(super) struct ImportArgs {
    /// NDJSON or JSON arrays, plain, .gz or .zst (`-`: stdin); of a folder, or a prefix as `s3://bucket/logs`, every file
    /// in it and below
    #[arg(required = true, value_name = "FILE")]
    pub(super) files: Vec<PathBuf>,
    /// The account that the states belong to [default: the config file's]
    #[arg(long, env = "CLOUDFLARE_ACCOUNT_ID", value_name = "ID")]
    pub(super) account: Option<String>,
    /// What the files hold: bodies of the API, or lines of Logpush's dataset `dex_device_state_events`
    #[arg(long, value_enum, default_value_t = ImportFormat::Api)]
    pub(super) format: ImportFormat,
    /// When the states were collected [default: now]
    #[arg(long, value_name = "TIME")]
    pub(super) collected_at: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ImportFormat {
    Api,
    Logpush,
}

#[derive(Debug, ClapArgs)]
pub(super) struct QueryArgs {
    /// The account that is asked about, by its id or its name in the config file; all together without it
    #[arg(long, global = true, value_name = "ACCOUNT")]
    pub(super) account: Option<String>,
    #[command(subcommand)]
    pub(super) question: Question,
}

#[derive(Debug, Subcommand)]
pub(super) enum Question {
    /// Metrics over time: of devices, or of the fleet
    Trend(TrendArgs),
    /// The newest state of each device
    Latest(LatestArgs),
    /// What changed: versions, colos, networks …
    Changes(ChangesArgs),
    /// The applications that use most
    Apps(AppsArgs),
    /// Where there are no states, and why
    Gaps(GapsArgs),
}

/// A stretch of time.
#[derive(Debug, ClapArgs)]
pub(super) struct WindowArgs {
    /// From when on: a time, a date, or how long ago
    #[arg(long, default_value = "1d", value_name = "TIME")]
    pub(super) since: String,
    /// Up to when
    #[arg(long, default_value = "now", value_name = "TIME")]
    pub(super) until: String,
}

/// Where an answer goes, and how it looks.
#[derive(Debug, ClapArgs)]
pub(super) struct OutputArgs {
    /// Form of the answer; without it, the one that the file's name ends in (.csv, .json, .ndjson, .md, .parquet), or a
    /// table
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Write it to a file; `-` is stdout
    #[arg(short, long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
    /// The time zone of what is typed and shown, such as Europe/Berlin
    #[arg(long, value_parser = zone, default_value = "UTC", value_name = "ZONE")]
    pub(super) tz: Zone,
    /// Pass over damaged files, name them, and exit with 3; without it, they are an error
    #[arg(long)]
    pub(super) skip_damaged: bool,
}

#[derive(Debug, ClapArgs)]
#[command(
    group = clap::ArgGroup::new("who").required(true).args(["device", "fleet"]).multiple(true),
    after_help = "Examples:\n  dex-archive query trend --device alice-thinkpad016 --metric cpu_pct,rtt --since 7d --every 1h --agg mean,p95\n  dex-archive query trend --fleet --by version --metric status --since 30d --every 1d\n  dex-archive query trend --device 'alice-*' --metric 'tunnel_stats_bytes_*' --agg sum,rate\n  dex-archive query trend --fleet --by platform --since 7d --every 1d --tz Europe/Berlin --plot"
)]
pub(super) struct TrendArgs {
    /// A device: its id or the beginning of it (four letters at least), its name, a pattern of names or addresses, or its
    /// user's e-mail; may be repeated
    #[arg(long, value_name = "DEVICE", value_parser = NonEmptyStringValueParser::new())]
    pub(super) device: Vec<String>,
    /// All devices together
    #[arg(long, conflicts_with = "device")]
    pub(super) fleet: bool,
    /// All devices, together where they share the value of a column
    #[arg(long, requires = "fleet", conflicts_with = "device", value_name = "COLUMN")]
    pub(super) by: Option<String>,
    #[arg(
        long,
        help = metrics_help(),
        value_delimiter = ',',
        default_value = "cpu_pct,rtt_rtt_us_downstream",
        value_name = "METRIC"
    )]
    pub(super) metric: Vec<String>,
    #[command(flatten)]
    pub(super) window: WindowArgs,
    /// Length of a bucket; weeks (7d) begin on Mondays
    #[arg(long, default_value = "1h", value_name = "DURATION")]
    pub(super) every: String,
    /// Draw charts instead of a table
    #[arg(long, conflicts_with = "format")]
    pub(super) plot: bool,
    /// What is computed; `rate`, per second, is of counts within a window, by the windows' lengths
    #[arg(long, value_parser = aggs(), value_delimiter = ',', default_value = "mean")]
    pub(super) agg: Vec<Agg>,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Examples:\n  dex-archive query latest --format csv\n  dex-archive query latest --device alice@example.com --at 2026-11-20T09:00:00Z"
)]
pub(super) struct LatestArgs {
    /// A device, as for `query trend` [default: all]
    #[arg(long, value_name = "DEVICE", value_parser = NonEmptyStringValueParser::new())]
    pub(super) device: Vec<String>,
    /// Columns, with commas between them: names, groups such as `rtt`, or patterns such as `isp_*`
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "device_name,platform,version,mode,status,colo",
        value_name = "COLUMN"
    )]
    pub(super) column: Vec<String>,
    /// As of when
    #[arg(long, default_value = "now", value_name = "TIME")]
    pub(super) at: String,
    /// How far back a state may lie
    #[arg(long, default_value = "7d", value_name = "DURATION")]
    pub(super) back: String,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  dex-archive query changes --column version,colo --since 7d")]
pub(super) struct ChangesArgs {
    /// A device, as for `query trend` [default: all]
    #[arg(long, value_name = "DEVICE", value_parser = NonEmptyStringValueParser::new())]
    pub(super) device: Vec<String>,
    /// Columns, with commas between them: names, groups such as `rtt`, or patterns such as `isp_*`
    #[arg(long, value_delimiter = ',', default_value = "version,mode,status,colo,network_ssid", value_name = "COLUMN")]
    pub(super) column: Vec<String>,
    /// How far before the window to look for the value that the first change started from
    #[arg(long, default_value = "7d", value_name = "DURATION")]
    pub(super) back: String,
    #[command(flatten)]
    pub(super) window: WindowArgs,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  dex-archive query apps --resource ram --since 7d --top 20")]
pub(super) struct AppsArgs {
    /// A device, as for `query trend` [default: all]
    #[arg(long, value_name = "DEVICE", value_parser = NonEmptyStringValueParser::new())]
    pub(super) device: Vec<String>,
    /// What is used: cpu or ram
    #[arg(long, default_value = "cpu")]
    pub(super) resource: String,
    /// How many to show, the heaviest first
    #[arg(long, default_value_t = 10)]
    pub(super) top: usize,
    #[command(flatten)]
    pub(super) window: WindowArgs,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Causes: not_asked, no request was made; failed, it was made and failed; absent, the API has no state of the\ndevice; silent, there was an answer with nothing of that time. recoverable: those not asked for or failed\nthat Cloudflare's history of 7 days still has; days_left: until it no longer has the oldest of them.\n\nExamples:\n  dex-archive query gaps --since 7d\n  dex-archive query gaps --since 7d --every 15m --device alice-thinkpad016 --each"
)]
pub(super) struct GapsArgs {
    /// A device, as for `query trend` [default: all]
    #[arg(long, value_name = "DEVICE", value_parser = NonEmptyStringValueParser::new())]
    pub(super) device: Vec<String>,
    /// Length of an interval in which a state is expected
    #[arg(long, default_value = "1h", value_name = "DURATION")]
    pub(super) every: String,
    /// Each gap by itself, and not each device
    #[arg(long)]
    pub(super) each: bool,
    #[command(flatten)]
    pub(super) window: WindowArgs,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Table,
    Csv,
    Json,
    Ndjson,
    Markdown,
    Parquet,
}

impl OutputArgs {
    /// The form that was asked for, or that the file's name ends in.
    ///
    /// # Errors
    /// Where that is an ending of another kind of file.
    pub(super) fn format(&self) -> Result<Format, ConfigError> {
        match (self.format, ending(self.output.as_deref())) {
            (Some(format), _) => Ok(format),
            (None, None) => Ok(Format::Table),
            (None, Some(ending)) => match Format::of_ending(&ending) {
                Some(format) => Ok(format),
                None if OTHERS.contains(&ending.as_str()) => {
                    Err(ConfigError::Ending { ending, known: ".csv, .json, .ndjson, .md, .parquet, .txt" })
                }
                None => Ok(Format::Table),
            },
        }
    }
}

impl ReportArgs {
    /// The form that was asked for, or that the file's name ends in.
    ///
    /// # Errors
    /// Where that is an ending of another kind of file.
    pub(super) fn format(&self) -> Result<ReportFormat, ConfigError> {
        match (self.format, ending(self.output.as_deref()).as_deref()) {
            (Some(format), _) => Ok(format),
            (None, Some("md" | "markdown")) => Ok(ReportFormat::Markdown),
            (None, Some("json")) => Ok(ReportFormat::Json),
            (None, Some(ending)) if is_no_page(ending) => {
                Err(ConfigError::Ending { ending: ending.to_owned(), known: ".html, .md, .json" })
            }
            (None, _) => Ok(ReportFormat::Html),
        }
    }
}

/// What the names of files end in that somebody opens with another program than this one writes for.
const OTHERS: [&str; 16] =
    ["xls", "xlsx", "ods", "pdf", "html", "htm", "png", "svg", "jpg", "gz", "zst", "zip", "xml", "yaml", "tsv", "docx"];

/// Whether a report is no such file.
fn is_no_page(ending: &str) -> bool {
    let is_answer = matches!(ending, "csv" | "ndjson" | "jsonl" | "parquet");
    is_answer || OTHERS.contains(&ending) && !matches!(ending, "html" | "htm")
}

/// What a file's name ends in, in lower case.
fn ending(file: Option<&Path>) -> Option<String> {
    Some(file?.extension()?.to_str()?.to_ascii_lowercase())
}

impl Format {
    fn of_ending(ending: &str) -> Option<Self> {
        match ending {
            "jsonl" => Some(Self::Ndjson),
            "md" => Some(Self::Markdown),
            "txt" => Some(Self::Table),
            ending => Self::from_str(ending, false).ok(),
        }
    }
}

#[derive(Debug, ClapArgs)]
#[command(
    after_help = "The page is complete in itself: no script, and nothing that is loaded from elsewhere. Beyond which values a device is\nin trouble can be set in the config file:\n\n  [report.limits]\n  loss = 1.5      # % on average; also rtt (us), cpu, ram, disk, battery, battery_cycles, disconnects (a day)\n\nExamples:\n  dex-archive report --since 7d -o report.html\n  dex-archive report --device alice-thinkpad016 --since 2d -o alice.html\n  dex-archive report --since 2026-11-16 --until 2026-11-23 --tz Europe/Berlin --format markdown"
)]
pub(super) struct ReportArgs {
    /// The account that the report is about, by its id or its name in the config file; all together without it
    #[arg(long, value_name = "ACCOUNT")]
    pub(super) account: Option<String>,
    /// A device, as for `query trend`; may be repeated; the fleet without it
    #[arg(long, value_name = "DEVICE", value_parser = NonEmptyStringValueParser::new())]
    pub(super) device: Vec<String>,
    /// From when on: a time, a date, or how long ago
    #[arg(long, default_value = "7d", value_name = "TIME")]
    pub(super) since: String,
    /// Up to when
    #[arg(long, default_value = "now", value_name = "TIME")]
    pub(super) until: String,
    /// The time that a point of a chart stands for [default: what fits the window]
    #[arg(long, value_name = "DURATION")]
    pub(super) every: Option<String>,
    /// A state of each device is expected in each interval of this length
    #[arg(long, default_value = "1h", value_name = "DURATION")]
    pub(super) expect: String,
    /// Show at least so many devices of each kind of trouble
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub(super) worst: usize,
    /// A page, Markdown, or JSON; without it, what the file's name ends in (.md, .json), or a page
    #[arg(long, value_enum)]
    format: Option<ReportFormat>,
    /// Write it to a file; `-` is stdout
    #[arg(short, long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
    /// The time zone of what is typed and shown, such as Europe/Berlin
    #[arg(long, value_parser = zone, default_value = "UTC", value_name = "ZONE")]
    pub(super) tz: Zone,
    /// What counts as now: the same archive and the same moment give the same report
    #[arg(long, value_name = "TIME")]
    pub(super) now: Option<String>,
    /// Pass over damaged files, name them, and exit with 3; without it, they are an error
    #[arg(long)]
    pub(super) skip_damaged: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ReportFormat {
    Html,
    Markdown,
    Json,
}

#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Examples:\n  dex-archive schema\n  dex-archive schema --format duckdb > views.sql && duckdb -init views.sql"
)]
pub(super) struct SchemaArgs {
    #[command(subcommand)]
    pub(super) question: Option<SchemaQuestion>,
    /// A table, JSON, or a script of views for `duckdb -init`
    #[arg(long, value_enum, default_value_t = SchemaFormat::Table)]
    pub(super) format: SchemaFormat,
}

#[derive(Debug, Subcommand)]
pub(super) enum SchemaQuestion {
    /// What states held that is in no column: path, types, since when, on how many devices
    Drift(DriftArgs),
}

#[derive(Debug, ClapArgs)]
#[command(
    after_help = "What no column holds is kept in the column `unmapped`, as it was sent. An example may be personal.\n\nExample:\n  dex-archive schema drift --since 90d"
)]
pub(super) struct DriftArgs {
    /// From when on: a time, a date, or how long ago
    #[arg(long, default_value = "30d", value_name = "TIME")]
    pub(super) since: String,
    /// Up to when
    #[arg(long, default_value = "now", value_name = "TIME")]
    pub(super) until: String,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum SchemaFormat {
    Table,
    Json,
    Duckdb,
}

#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Exit codes: 0 nothing but notes; 3 errors or warnings are left, or a repair could not carry over all rows.\n\nExamples:\n  dex-archive verify                 checksums, layout, order of the rows, journal\n  dex-archive verify --deep          reads every column too\n  dex-archive verify --repair        mends what can safely be mended; nothing is deleted"
)]
pub(super) struct VerifyArgs {
    /// Read every column of every part
    #[arg(long)]
    pub(super) deep: bool,
    /// Mend what can safely be mended: what is moved or replaced goes to the quarantine
    #[arg(long)]
    pub(super) repair: bool,
    /// Form of the answer
    #[arg(long, value_enum, default_value_t = CheckFormat::Table)]
    pub(super) format: CheckFormat,
}

#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Stop the collectors before. Broken off, it is ended by the same command; nobody can write to the archive until then.\n\nExample:\n  dex-archive reshard --shards 8"
)]
pub(super) struct ReshardArgs {
    /// In how many shards the devices fall
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MOST_SHARDS))]
    pub(super) shards: u32,
}

#[derive(Debug, ClapArgs)]
#[command(
    after_help = "An archive of an older version is read as it is: columns that it has not are null. What waited in `unmapped` for a\ncolumn goes into it.\n\nExample:\n  dex-archive upgrade --dry-run    which days would be written anew"
)]
pub(super) struct UpgradeArgs {
    /// Say what would be written anew, and change nothing
    #[arg(long)]
    pub(super) dry_run: bool,
}

#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Where not a day would be left, nothing goes: the clock may be wrong. A dry run does not wait for a\ncollector.\n\nExample:\n  dex-archive prune --keep 400d --dry-run    what would go"
)]
pub(super) struct PruneArgs {
    /// How much is kept, in whole days; today always is
    #[arg(long, value_name = "DURATION")]
    pub(super) keep: String,
    /// Say what would go, and change nothing
    #[arg(long)]
    pub(super) dry_run: bool,
}

#[derive(Debug, ClapArgs)]
#[command(
    group = clap::ArgGroup::new("subject").required(true).args(["device", "email", "account"]).multiple(true),
    after_help = "Removes every row in which any text names the person, everything else that the person's registrations reported, and\nthe polls of devices that are only theirs. States of their devices of which nobody can say whose they are, and what\ncannot be searched, stay and are named: exit 3. The days concerned are written anew, the quarantine too, and all is\nread again to prove it. With [privacy] rules and their key, pseudonyms are found as well. Cloudflare remembers 7\ndays: what it still has may be collected again.\n\nExamples:\n  dex-archive forget --email alice@example.com --dry-run    what would go\n  dex-archive forget --device cb49c27f-7f97-49c5-b6f3-f7c01ead0fd7\n  dex-archive forget --account 01a7362d577a6c3019a474fd6f485823    a customer who left, an import under a wrong id"
)]
pub(super) struct ForgetArgs {
    /// A device, by its id; may be repeated
    #[arg(long, value_name = "ID")]
    pub(super) device: Vec<String>,
    /// A person, by the e-mail address; may be repeated
    #[arg(long, value_name = "ADDRESS", conflicts_with = "device")]
    pub(super) email: Vec<String>,
    /// An account, by its id or its name in the config; may be repeated
    #[arg(long, value_name = "ID", conflicts_with_all = ["device", "email"])]
    pub(super) account: Vec<String>,
    /// Say what would go, and change nothing
    #[arg(long)]
    pub(super) dry_run: bool,
}

#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Examples:\n  dex-archive simulate --devices 500 --port 8080\n  dex-archive simulate --devices 500 --dump states.ndjson --ticks 288"
)]
pub(super) struct SimulateArgs {
    /// Devices in the fleet
    #[arg(long, default_value_t = 200)]
    pub(super) devices: u32,
    /// Port on the loopback interface; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    pub(super) port: u16,
    /// The fleet is the same for the same seed
    #[arg(long, default_value_t = 7)]
    pub(super) seed: u64,
    /// Go wrong on purpose
    #[arg(long, value_name = "KIND=PERCENT", help = format!("Go wrong on purpose: KIND=PERCENT, of {}", FaultKind::words()))]
    pub(super) fault: Vec<String>,
    /// Have a bad day: some seconds of calm and some of bad weather in turn, of every kind of fault; the same for the
    /// same seed
    #[arg(long, value_name = "SEED", num_args = 0..=1, default_missing_value = "7", conflicts_with = "dump")]
    pub(super) hostile: Option<u64>,
    /// The limit that is enforced, or `none`
    #[arg(long, default_value = "1200/5m", value_name = "REQUESTS/WINDOW")]
    pub(super) rate_limit: String,
    /// Shape of the bodies: current, legacy or mixed
    #[arg(long, default_value = "current")]
    pub(super) shape: String,
    /// Write the states to a file as NDJSON instead of serving them
    #[arg(long, value_name = "FILE", requires = "ticks")]
    pub(super) dump: Option<PathBuf>,
    /// States of each device in the file, 5 minutes apart
    #[arg(long, value_name = "T")]
    pub(super) ticks: Option<u32>,
    /// When the first of them is
    #[arg(long, default_value = "2026-10-01T00:00:00Z", value_name = "TIME")]
    pub(super) start: String,
}

#[derive(Debug, ClapArgs)]
#[command(
    after_help = "It is made in ./dex-archive-demo, or in the new folder that --archive names; DEX_ARCHIVE_DIR is not used.\n\nExample:\n  dex-archive demo --devices 50 --hours 24"
)]
pub(super) struct DemoArgs {
    /// Devices in the simulated fleet
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) devices: u32,
    /// Simulated hours, a year of them at most
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=8_760))]
    pub(super) hours: u32,
}

/// Reads the name of a time zone.
fn zone(text: &str) -> Result<Zone, String> {
    Zone::parse(text).ok_or_else(|| format!("{text:?} is not a time zone: use a name such as UTC or Europe/Berlin"))
}

/// What a metric may be named by.
fn metrics_help() -> String {
    let groups = metric_groups().join(", ");
    format!(
        "Columns, groups ({groups}) or patterns, with commas between them; of a column of text, the share of the states that have each value"
    )
}

/// Reads an aggregate by its name.
fn aggs() -> impl TypedValueParser<Value = Agg> {
    PossibleValuesParser::new(Agg::ALL.map(Agg::name)).map(|name| Agg::parse(&name).expect("only these names get here"))
}

impl Args {
    /// Reads what was typed. An environment variable that holds nothing says nothing.
    pub(super) fn read() -> Result<Self, clap::Error> {
        let mut program = Self::command();
        if std::env::vars_os().any(|(_, value)| value.is_empty()) {
            program = without_empty_variables(program);
        }
        let matches = program.try_get_matches_from_mut(std::env::args_os())?;
        let args = Self::from_arg_matches(&matches).map_err(|error| error.format(&mut program))?;
        let is_typed = |option: &str| matches.value_source(option) == Some(ValueSource::CommandLine);
        let typed = Typed { archive: is_typed("archive"), state_dir: is_typed("state_dir") };
        Ok(Self { typed, ..args })
    }

    /// Where the archive is, and the rest of the config file.
    pub(super) fn config(&self) -> anyhow::Result<(Place, ConfigFile)> {
        let mut file = self.config.as_deref().map(ConfigFile::load).transpose()?.unwrap_or_default();
        let archive =
            self.archive.clone().or(file.archive.path.take()).unwrap_or_else(|| PathBuf::from(DEFAULT_ARCHIVE));
        let is_bucket = archive.to_str().is_some_and(Bucket::is_url);
        let state = self.state_dir.clone().or(file.archive.state_dir.take());
        // The environment may name one for other archives.
        let is_meant = is_bucket || self.typed.state_dir || config::variable("DEX_ARCHIVE_STATE_DIR").is_none();
        let state = state.filter(|_| is_meant);
        Ok((Place::new(&archive, state.as_deref())?, file))
    }

    /// The folder that was typed, if one was: what the environment says does not count.
    pub(super) fn typed_archive(&self) -> Option<&PathBuf> {
        self.archive.as_ref().filter(|_| self.typed.archive)
    }

    /// The config file, if one was named.
    pub(super) fn config_file(&self) -> Option<&PathBuf> {
        self.config.as_ref()
    }

    /// Opens the archive for reading; with it, the rest of the config file.
    pub(super) fn open_archive(&self) -> anyhow::Result<(Archive, ConfigFile)> {
        let (place, file) = self.config()?;
        let archive = Archive::open(&place)?.on(Disk::new(file.archive.readable_by));
        Ok((archive, file))
    }

    /// Starts the log on stderr.
    pub(super) fn start_log(&self) {
        let level = match (self.quiet, self.verbose) {
            (true, _) => LevelFilter::ERROR,
            (false, 0) => LevelFilter::WARN,
            (false, 1) => LevelFilter::INFO,
            (false, _) => LevelFilter::DEBUG,
        };
        // A line that cannot be written is nothing to die of.
        let log = tracing_subscriber::fmt().with_writer(io::stderr).log_internal_errors(false);
        let log = log.with_max_level(level).with_target(false);
        match self.log_format {
            LogFormat::Text => log.with_ansi(super::print::is_colourful()).init(),
            LogFormat::Json => {
                super::print::notes_as_json();
                log.json().init();
            }
        }
    }
}

/// Without those environment variables that hold nothing.
fn without_empty_variables(program: clap::Command) -> clap::Command {
    let is_empty = |arg: &clap::Arg| arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
    let program = program.mut_args(|arg| if is_empty(&arg) { arg.env(None::<&'static str>) } else { arg });
    program.mut_subcommands(without_empty_variables)
}

/// What accounts are called, and a client of each.
pub(super) type Clients = Vec<(String, Result<ClientOptions, ConfigError>)>;

impl ApiArgs {
    /// The clients of the accounts that are meant, and what each is called: what was typed over what an account's own
    /// section says, and that over `[api]`. What is wrong with one of several says nothing against the others.
    pub(super) fn clients(&self, file: &ConfigFile, seed: u64) -> Result<Clients, ConfigError> {
        let accounts = self.accounts(file)?.into_iter();
        Ok(accounts.map(|(name, api)| (name, api.client_options(seed))).collect())
    }

    /// The credentials of the accounts that are meant, by what these are called, as they are by now; none where they come
    /// from no file that can be read once more.
    pub(super) fn credentials(&self, file: &ConfigFile) -> HashMap<String, Result<Credential, ConfigError>> {
        let can_be_read = |path: &PathBuf| path.metadata().map_or(true, |metadata| metadata.is_file());
        // That they can be told apart was seen when the clients were made.
        let accounts = self.accounts(file).unwrap_or_default().into_iter();
        let of_files = accounts.filter(|(_, api)| api.token_file.as_ref().is_some_and(can_be_read));
        of_files.map(|(name, api)| (name, api.credential())).collect()
    }

    /// The accounts that are meant.
    fn accounts(&self, file: &ConfigFile) -> Result<Vec<(String, ApiSection)>, ConfigError> {
        file.accounts(&self.over(file.api.clone()), &self.over(ApiSection::default()))
    }

    /// What was typed, over what the file says.
    pub(super) fn over(&self, file: ApiSection) -> ApiSection {
        ApiSection {
            url: self.api_url.clone().or(file.url),
            account: self.account.clone().or(file.account),
            token_file: self.token_file.clone().or(file.token_file.filter(|_| !config::has_credential())),
            rate_limit: self.rate_limit.clone().or(file.rate_limit),
            budget: self.budget.clone().or(file.budget),
            attempts: self.attempts.or(file.attempts),
            retry_delay: self.retry_delay.clone().or(file.retry_delay),
            timeout: file.timeout,
        }
    }
}
