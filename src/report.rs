//! The page that somebody reads on Monday: what the archive says of the fleet or of some devices over a window.
//!
//! [`Report::new`] asks the questions, [`to_html`] and [`to_markdown`] write the answers down; as JSON it is what
//! serde makes of it. What is shown, and beyond which limits a device is in trouble, stands in `schemas/report.toml`.
//! The same archive, window and moment give the same report to the byte. Nothing here reads files or prints.

mod ask;
mod chart;
mod device;
mod fleet;
mod html;
mod markdown;
mod model;
mod naming;
mod plan;
mod trouble;
mod words;

use std::time::Duration;

use crate::clock::{Timestamp, Zone};
use crate::query::{Days, QueryError, Window};

pub use html::to_html;
pub use markdown::{markdown_text, to_markdown};
pub use model::{Chart, Fact, Line, Report, Section, Table, TableRow};
pub use plan::{LimitError, Limits, Plan};

/// What a report is to be about.
#[derive(Debug, Clone)]
pub struct ReportOptions {
    /// The devices' ids; none for the fleet.
    pub devices: Option<Vec<String>>,
    /// Over which time.
    pub window: Window,
    /// The time that a point of a chart stands for; none for what fits the window.
    pub every: Option<Duration>,
    /// A state is expected of each device in each interval of this length.
    pub expect: Duration,
    /// Whose midnight days begin at.
    pub zone: Zone,
    /// When it is made.
    pub now: Timestamp,
    /// What was asked of the API since is not known.
    pub known_until: Timestamp,
    /// How many devices of each kind of trouble are shown at least.
    pub worst: usize,
}

impl Report {
    /// Asks the archive.
    ///
    /// # Errors
    /// Where there is no state in the window, or the archive cannot be read.
    pub fn new(days: &Days, plan: &Plan, options: &ReportOptions) -> Result<Self, QueryError> {
        options.window.check()?;
        let length = (options.window.until - options.window.since).to_std().unwrap_or_default();
        let every = options.every.unwrap_or(model::bucket_length(length));
        let mut asking = Asking { days, plan, options, every, has_fractions: false };
        asking.has_fractions = asking.finds_fractions()?;
        let mut report = Self {
            title: String::new(),
            since: options.window.since,
            until: options.window.until,
            made_at: options.now,
            every_s: asking.every.as_secs(),
            facts: Vec::new(),
            sections: Vec::new(),
            devices: Vec::new(),
        };
        match &options.devices {
            None => asking.fleet(&mut report)?,
            Some(ids) => asking.devices(ids, &mut report)?,
        }
        report.facts.extend(days.account().map(|account| Fact::new("Account", account.as_str())));
        let skipped = days.skipped().len();
        if skipped > 0 {
            let fact = Fact::new("Damaged files, not counted", skipped.to_string());
            report.facts.push(Fact { is_poor: true, ..fact });
        }
        Ok(report)
    }
}

/// Who asks, and what.
struct Asking<'a> {
    days: &'a Days<'a>,
    plan: &'a Plan,
    options: &'a ReportOptions,
    every: Duration,
    /// Whether percentages are 0 to 1 in this archive, and not 0 to 100.
    has_fractions: bool,
}
