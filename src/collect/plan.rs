//! What a sweep will ask, decided before it does.

use std::fmt;
use std::time::Duration;

use crate::api::Budget;
use crate::clock;

use super::CollectOptions;
use super::paging::pages_of;

/// Where states are taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceChoice {
    /// The list, and single devices while a sweep of them fits the budget of the interval.
    Auto,
    /// Single devices: those named, or all that the list shows.
    Live,
    /// The list alone.
    List,
}

/// What a sweep will ask.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Whether the list is read.
    pub list: bool,
    /// Whether single devices are asked for.
    pub live: Live,
    budget: Budget,
    interval: Duration,
    devices: Option<u64>,
}

/// Whether single devices are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Live {
    /// None.
    Never,
    /// All of them.
    Always,
    /// All of them, if that fits the budget of the interval.
    IfItFits,
}

impl Plan {
    /// Plans a sweep before anything is asked.
    #[must_use]
    pub fn new(options: &CollectOptions, budget: Budget) -> Self {
        let named = !options.devices.is_empty();
        let (list, live) = match options.source {
            SourceChoice::List => (true, Live::Never),
            SourceChoice::Live | SourceChoice::Auto if named => (false, Live::Always),
            SourceChoice::Live => (true, Live::Always),
            SourceChoice::Auto => (true, Live::IfItFits),
        };
        let devices = (named && !list).then_some(options.devices.len() as u64);
        Self { list, live, budget, interval: options.interval, devices }
    }

    /// The plan for a list of so many devices.
    #[must_use]
    pub fn for_devices(&self, devices: u64) -> Self {
        self.discovered(devices, pages_of(devices))
    }

    /// The plan once the list has shown so many devices on so many pages.
    #[must_use]
    pub fn discovered(&self, devices: u64, pages: u64) -> Self {
        let fits = self.budget.requests_in(self.interval).is_none_or(|budget| devices + pages <= budget);
        let live = match self.live {
            Live::IfItFits if fits => Live::Always,
            Live::IfItFits => Live::Never,
            decided => decided,
        };
        Self { live, devices: Some(devices), ..self.clone() }
    }

    /// Requests, as far as they are known: pages of the list, and single devices.
    fn requests(&self) -> Option<u64> {
        let devices = self.devices?;
        let pages = if self.list { pages_of(devices) } else { 0 };
        Some(pages + if self.live == Live::Never { 0 } else { devices })
    }

    fn why(&self) -> String {
        let interval = clock::format_duration(self.interval);
        let budget = match self.budget.requests_in(self.interval) {
            Some(requests) => format!("the budget of {requests} requests in {interval}"),
            None => "no rate limit".to_owned(),
        };
        match (self.list, self.live) {
            (_, Live::IfItFits) => format!("the list first, then each device if that fits {budget}"),
            (false, _) => "each device that was named".to_owned(),
            (true, Live::Always) => format!("the list and each device on it; {budget}"),
            (true, Live::Never) => format!("the list alone; {budget}"),
        }
    }
}

/// One line: devices, requests, time, source and why.
impl fmt::Display for Plan {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        match (self.devices, self.requests()) {
            (Some(devices), Some(requests)) => {
                let time = clock::format_duration(clock::whole_seconds(self.budget.time_for(requests)));
                write!(formatter, "{devices} devices, {requests} requests, about {time}: {}", self.why())
            }
            _ => write!(formatter, "devices as the list shows them: {}", self.why()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::PublishRule;
    use crate::snapshot::DeviceId;
    use expect_test::{Expect, expect};

    fn check(source: SourceChoice, named: usize, discovered: Option<(u64, u64)>, expect: &Expect) {
        let device = DeviceId::parse("cb49c27f-7f97-49c5-b6f3-f7c01ead0fd7").expect("a device");
        let devices = vec![device; named];
        let options = CollectOptions {
            source,
            devices,
            since_minutes: 10,
            interval: Duration::from_mins(5),
            deadline: None,
            publish: PublishRule::Auto,
        };
        let plan = Plan::new(&options, Budget::parse("1200/5m", "80%").expect("a budget"));
        let plan = discovered.map_or(plan.clone(), |(devices, pages)| plan.discovered(devices, pages));
        expect.assert_eq(&plan.to_string());
    }

    #[test]
    fn says_what_it_will_do_and_why() {
        use SourceChoice::{Auto, List, Live};
        check(
            Auto,
            0,
            None,
            &expect![
                "devices as the list shows them: the list first, then each device if that fits the budget of 960 requests in 5m"
            ],
        );
        check(Auto, 3, None, &expect!["3 devices, 3 requests, about 1s: each device that was named"]);
        check(
            Auto,
            0,
            Some((900, 19)),
            &expect![
                "900 devices, 920 requests, about 4m48s: the list and each device on it; the budget of 960 requests in 5m"
            ],
        );
        check(
            Auto,
            0,
            Some((5_000, 101)),
            &expect!["5000 devices, 102 requests, about 32s: the list alone; the budget of 960 requests in 5m"],
        );
        check(
            Live,
            0,
            Some((5_000, 101)),
            &expect![
                "5000 devices, 5102 requests, about 26m35s: the list and each device on it; the budget of 960 requests in 5m"
            ],
        );
        check(
            List,
            0,
            None,
            &expect!["devices as the list shows them: the list alone; the budget of 960 requests in 5m"],
        );
    }
}
