//! What is known of the metrics of devices or groups, bucket by bucket.

use std::collections::{BTreeMap, HashMap};

use super::Cell;
use super::tally::{Agg, Tally};

/// Where the values of a metric stand.
pub(super) enum MetricAt {
    /// In a column of texts, of which the shares count.
    Shares(usize),
    /// In a column of numbers. One value may stand for none; another column may say how long each counts.
    Numbers { values: usize, missing: Option<f64>, window: Option<usize> },
}

/// Partial or whole: what was read of each series.
#[derive(Default)]
pub(super) struct AllSeries {
    series: Vec<Series>,
    by_key: HashMap<String, usize>,
    buckets: Vec<Bucket>,
    /// How many values are kept for percentiles, at most.
    pub(super) kept: usize,
}

/// One device or group.
pub(super) struct Series {
    pub(super) key: String,
    /// Where the buckets are that were seen, by their number in the window.
    slots: BTreeMap<usize, usize>,
}

/// The states of a series in a bucket.
pub(super) struct Bucket {
    pub(super) states: i64,
    pub(super) metrics: Vec<MetricTally>,
}

/// What is known of one metric in one bucket.
#[derive(Default, Clone)]
pub(super) struct MetricTally {
    pub(super) numbers: Tally,
    shares: BTreeMap<String, u64>,
}

impl AllSeries {
    pub(super) fn is_empty(&self) -> bool {
        self.series.is_empty()
    }

    /// The number of a series, which is new if its key is.
    pub(super) fn series(&mut self, key: &str) -> usize {
        if let Some(at) = self.by_key.get(key) {
            return *at;
        }
        self.by_key.insert(key.to_owned(), self.series.len());
        self.series.push(Series { key: key.to_owned(), slots: BTreeMap::new() });
        self.series.len() - 1
    }

    /// Where a bucket of a series is kept.
    pub(super) fn slot(&mut self, series: usize, bucket: usize, metrics: usize) -> usize {
        let buckets = &mut self.buckets;
        *self.series[series].slots.entry(bucket).or_insert_with(|| {
            buckets.push(Bucket { states: 0, metrics: vec![MetricTally::default(); metrics] });
            buckets.len() - 1
        })
    }

    /// How many series there are.
    pub(super) fn count(&self) -> usize {
        self.series.len()
    }

    pub(super) fn bucket(&mut self, slot: usize) -> &mut Bucket {
        &mut self.buckets[slot]
    }

    /// Takes in what others know of the same time or of another.
    pub(super) fn merge(&mut self, other: Self) {
        self.kept += other.kept;
        let mut buckets: Vec<Option<Bucket>> = other.buckets.into_iter().map(Some).collect();
        for theirs in other.series {
            let ours = self.series(&theirs.key);
            for (at, slot) in theirs.slots {
                let bucket = buckets[slot].take().expect("a bucket is of one series");
                let slot = self.slot(ours, at, bucket.metrics.len());
                self.buckets[slot].merge(bucket);
            }
        }
    }

    /// The texts that a metric has in any bucket.
    pub(super) fn values_of(&self, metric: usize) -> Vec<String> {
        let values = self.buckets.iter().flat_map(|bucket| bucket.metrics[metric].shares.keys());
        let mut values: Vec<&String> = values.collect();
        values.sort_unstable();
        values.dedup();
        values.into_iter().cloned().collect()
    }

    /// The series in an order, each with its buckets.
    pub(super) fn sorted_by_key<K: Ord>(mut self, order: impl Fn(&str) -> K) -> Vec<(Series, BTreeMap<usize, Bucket>)> {
        self.series.sort_by_key(|series| order(&series.key));
        let mut buckets: Vec<Option<Bucket>> = self.buckets.into_iter().map(Some).collect();
        let with_buckets = self.series.into_iter().map(|series| {
            let own = series.slots.iter().filter_map(|(&at, &slot)| Some((at, buckets[slot].take()?))).collect();
            (series, own)
        });
        with_buckets.collect()
    }
}

impl Bucket {
    fn merge(&mut self, other: Self) {
        self.states += other.states;
        for (ours, theirs) in self.metrics.iter_mut().zip(other.metrics) {
            ours.numbers.merge(theirs.numbers);
            theirs.shares.into_iter().for_each(|(value, count)| *ours.shares.entry(value).or_default() += count);
        }
    }

    /// The states, and of each metric the aggregates or the shares of these values.
    pub(super) fn cells(&mut self, metrics: &[MetricAt], aggs: &[Agg], shares: &[Vec<String>]) -> Vec<Cell> {
        let mut cells = vec![Cell::Count(self.states)];
        for ((metric, tally), shares) in metrics.iter().zip(&mut self.metrics).zip(shares) {
            match metric {
                MetricAt::Shares(_) => cells.extend(tally.share_cells(shares)),
                MetricAt::Numbers { .. } => cells.extend(aggs.iter().map(|agg| tally.numbers.cell(*agg))),
            }
        }
        cells
    }
}

impl MetricTally {
    /// Takes in a text that several states have.
    pub(super) fn add_text(&mut self, text: &str, states: u64) {
        match self.shares.get_mut(text) {
            Some(count) => *count += states,
            None => drop(self.shares.insert(text.to_owned(), states)),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a share of fewer than 2^53 states")]
    fn share_cells(&self, values: &[String]) -> Vec<Cell> {
        let all = self.shares.values().sum::<u64>();
        let share = |value: &String| self.shares.get(value).copied().unwrap_or(0) as f64 / all as f64;
        values.iter().map(|value| if all == 0 { Cell::Null } else { Cell::Number(share(value)) }).collect()
    }
}
