//! How the sweeps went, for Prometheus: as a file that `node_exporter`'s textfile collector reads, or over HTTP.
//!
//! What a process that ends after one sweep can say is how that sweep went: gauges. A loop counts as well.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use prometheus::{CounterVec, Gauge, GaugeVec, Opts, Registry, TEXT_FORMAT, TextEncoder};

use crate::clock::Timestamp;
use crate::collect::CollectStats;
use crate::disk::free_bytes;

use super::print;

/// A figure of a sweep: its name, what it is, and where it stands.
type Figure = (&'static str, &'static str, fn(&CollectStats) -> f64);

const ACCOUNT: &str = "account";

/// Of the last sweep of each account.
const LAST_SWEEP: &[Figure] = &[
    ("last_sweep_duration_seconds", "Seconds that the last sweep took.", |stats| stats.elapsed_s),
    ("last_sweep_devices", "Devices that the last sweep saw or asked for.", |stats| number(stats.devices)),
    ("last_sweep_devices_absent", "Devices of which the API had no state.", |stats| number(stats.devices_absent)),
    ("last_sweep_devices_unasked", "Devices that there was no time to ask for.", |stats| number(stats.devices_unasked)),
    ("last_sweep_list_cut", "1 where there was no time for the rest of the list, else 0.", |stats| {
        f64::from(u8::from(stats.list_cut))
    }),
    ("last_sweep_requests", "Requests that the last sweep sent, retries included.", |stats| {
        number(stats.requests_sent)
    }),
    ("last_sweep_requests_failed", "Requests that failed for good.", |stats| number(stats.requests_failed)),
    ("last_sweep_throttled_seconds", "Seconds for which the API kept everything waiting.", |stats| stats.throttled_s),
];

/// Counted over all of a loop, by account: what sweeps and what healing sent.
const COUNTED: &[Figure] = &[
    ("requests_total", "Requests sent, retries included.", |stats| number(stats.requests_sent)),
    ("requests_failed_total", "Requests that failed for good.", |stats| number(stats.requests_failed)),
    ("throttled_seconds_total", "Seconds for which the API kept everything waiting.", |stats| stats.throttled_s),
];

/// Of all accounts together, which are published at once: what is not published now keeps what it was.
const PUBLISHED: &[Figure] = &[
    ("last_publish_states_new", "States that were new to the archive.", |stats| number(stats.states_new)),
    ("last_publish_rows", "Rows in the parts that were written, by the sweep and the healing behind it.", |stats| {
        number(stats.rows_published)
    }),
    ("last_publish_bytes", "Bytes of the parts that were written.", |stats| number(stats.bytes_published)),
    ("bodies_quarantined", "Bodies that were no device state.", |stats| number(stats.bodies_quarantined)),
    ("values_unmapped", "Values that no column holds; they are kept in `unmapped`.", |stats| {
        number(stats.values_unmapped)
    }),
];

/// What waits, of all accounts together.
const WAITING: &[Figure] = &[
    ("journal_pending_bytes", "Bytes in the journal that wait to be published.", |stats| number(stats.waiting_bytes)),
    ("journal_pending_since_timestamp_seconds", "When the oldest of them was received; 0 where none waits.", |stats| {
        stats.waiting_since.map_or(0.0, |since| seconds(since.0))
    }),
];

/// The metrics, and where they are told.
pub(super) struct Metrics {
    registry: Registry,
    ended: GaugeVec,
    success: GaugeVec,
    last: Vec<GaugeVec>,
    /// By account; none of a single sweep, as nothing is counted then.
    sweeps: Option<CounterVec>,
    counted: Vec<CounterVec>,
    published: Vec<Gauge>,
    waiting: Vec<Gauge>,
    free: Gauge,
    root: PathBuf,
    file: Option<PathBuf>,
    text: Arc<Mutex<String>>,
}

impl Metrics {
    /// Metrics of the archive in a folder, written to a file after each sweep if one is named.
    pub(super) fn new(root: &Path, file: Option<PathBuf>, is_loop: bool) -> anyhow::Result<Self> {
        let registry = Registry::new_custom(Some("dex_archive".to_owned()), None)?;
        let by_account = |name: &str, help: &str| -> anyhow::Result<GaugeVec> {
            let gauge = GaugeVec::new(Opts::new(name, help), &[ACCOUNT])?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let plain = |name: &str, help: &str| -> anyhow::Result<Gauge> {
            let gauge = Gauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let counter = |name: &str, help: &str| -> anyhow::Result<CounterVec> {
            let counter = CounterVec::new(Opts::new(name, help), &[ACCOUNT])?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let version = GaugeVec::new(Opts::new("build_info", "The program's version; always 1."), &["version"])?;
        version.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1.0);
        registry.register(Box::new(version))?;
        let of_a_loop: &[Figure] = if is_loop { COUNTED } else { &[] };
        Ok(Self {
            ended: by_account("last_sweep_timestamp_seconds", "When the last sweep ended.")?,
            success: by_account(
                "last_sweep_success",
                "1 where the list was read, devices were asked and no request failed, else 0.",
            )?,
            last: LAST_SWEEP.iter().map(|(name, help, _)| by_account(name, help)).collect::<Result<_, _>>()?,
            sweeps: is_loop.then(|| counter("sweeps_total", "Sweeps.")).transpose()?,
            counted: of_a_loop.iter().map(|(name, help, _)| counter(name, help)).collect::<Result<_, _>>()?,
            published: PUBLISHED.iter().map(|(name, help, _)| plain(name, help)).collect::<Result<_, _>>()?,
            waiting: WAITING.iter().map(|(name, help, _)| plain(name, help)).collect::<Result<_, _>>()?,
            free: plain("disk_free_bytes", "Bytes that are free on the archive's disk.")?,
            root: root.to_owned(),
            file,
            text: Arc::default(),
            registry,
        })
    }

    /// Serves them at `/metrics` from now on.
    pub(super) async fn listen(&self, address: SocketAddr) -> anyhow::Result<SocketAddr> {
        let listener = tokio::net::TcpListener::bind(address).await;
        let listener = listener.with_context(|| format!("cannot listen on {address} for metrics"))?;
        let address = listener.local_addr()?;
        self.render()?;
        let text = Arc::clone(&self.text);
        let metrics = move || {
            let text = text.lock().unwrap_or_else(PoisonError::into_inner).clone();
            std::future::ready(([(CONTENT_TYPE, TEXT_FORMAT)], text))
        };
        // It ends with the process.
        tokio::spawn(async move { axum::serve(listener, Router::new().route("/metrics", get(metrics))).await });
        Ok(address)
    }

    /// Notes how the sweep of an account went; whether well, unless nobody can say that.
    pub(super) fn note(&self, account: &str, stats: &CollectStats, success: Option<bool>, now: Timestamp) {
        let labels = [account];
        self.ended.with_label_values(&labels).set(seconds(now));
        if let Some(success) = success {
            self.success.with_label_values(&labels).set(f64::from(u8::from(success)));
        }
        for (gauge, (_, _, value)) in self.last.iter().zip(LAST_SWEEP) {
            gauge.with_label_values(&labels).set(value(stats));
        }
        self.sweeps.iter().for_each(|sweeps| sweeps.with_label_values(&labels).inc());
        self.count(account, stats);
    }

    /// Notes that nothing can be asked of an account.
    pub(super) fn fail(&self, account: &str) {
        self.success.with_label_values(&[account]).set(0.0);
    }

    /// Counts what was sent for an account.
    pub(super) fn count(&self, account: &str, stats: &CollectStats) {
        for (counter, (_, _, value)) in self.counted.iter().zip(COUNTED) {
            counter.with_label_values(&[account]).inc_by(value(stats));
        }
    }

    /// Notes what was published of all of them, and tells all of it.
    pub(super) fn publish(&self, total: &CollectStats) -> anyhow::Result<()> {
        let set = |gauges: &[Gauge], figures: &[Figure]| {
            gauges.iter().zip(figures).for_each(|(gauge, (_, _, value))| gauge.set(value(total)));
        };
        if total.bytes_published > 0 {
            set(&self.published, PUBLISHED);
        }
        set(&self.waiting, WAITING);
        self.render()?;
        let Some(path) = &self.file else { return Ok(()) };
        let text = self.text.lock().unwrap_or_else(PoisonError::into_inner).clone();
        print::file(path, &text).context("the metrics are not updated")
    }

    fn render(&self) -> anyhow::Result<()> {
        free_bytes(&self.root).into_iter().for_each(|free| self.free.set(number(free)));
        let text = TextEncoder::new().encode_to_string(&self.registry.gather())?;
        *self.text.lock().unwrap_or_else(PoisonError::into_inner) = text;
        Ok(())
    }
}

#[expect(clippy::cast_precision_loss, reason = "metrics are doubles")]
fn number(count: u64) -> f64 {
    count as f64
}

#[expect(clippy::cast_precision_loss, reason = "metrics are doubles")]
fn seconds(at: Timestamp) -> f64 {
    at.timestamp_millis() as f64 / 1e3
}
