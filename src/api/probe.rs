//! A request that is made to see how the API answers: sent once, and never recorded.

use std::time::Duration;

use chrono::TimeDelta;
use reqwest::Url;

use crate::snapshot::{Body, DeviceId, Endpoint, Listing, Source};

use super::attempt::{Attempt, Said};
use super::{Client, Failure, Page};

/// How far a request for a device's state looks back, in minutes: the most that the API allows.
const SINCE_MINUTES: u32 = 60;

/// How the API answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    /// Why not as it should; none where it did.
    pub failure: Option<Failure>,
    /// The HTTP status, where there was an answer.
    pub status: Option<u16>,
    /// From the first byte sent to the last received.
    pub latency: Duration,
    /// How far our clock is ahead of the server's, to the second; none where the server does not say.
    pub clock_ahead: Option<TimeDelta>,
    /// Quotas that the server names: so many requests in so long a window.
    pub quotas: Vec<(u32, Duration)>,
    /// The least that it says is left.
    pub remaining: Option<u32>,
    /// The states that came.
    pub states: Vec<Body>,
}

impl Client {
    /// Asks for a page of the list.
    pub async fn probe_list(&self) -> Probe {
        let now = self.clock.now();
        let listing = Listing { source: Source::List, from: now - TimeDelta::hours(1), to: now };
        self.probe(self.list_url(Page { listing: &listing, device: None, number: 1 }), Endpoint::List).await
    }

    /// Asks for the state of a device.
    pub async fn probe_live(&self, device: &DeviceId) -> Probe {
        self.probe(self.live_url(device, SINCE_MINUTES), Endpoint::Live).await
    }

    async fn probe(&self, url: Url, endpoint: Endpoint) -> Probe {
        let permit = self.permit().await;
        let attempt = Attempt::send(self, permit, url, endpoint).await;
        self.pacer.observe(&attempt.limits);
        let is_fine = attempt.is_absent(endpoint) || attempt.is_success() && attempt.is_readable(endpoint);
        Probe {
            failure: (!is_fine || attempt.refusal().is_some()).then(|| attempt.failure()),
            status: attempt.status,
            latency: attempt.latency,
            clock_ahead: attempt.clock_ahead,
            quotas: attempt.limits.policies.iter().map(|policy| (policy.quota, policy.window)).collect(),
            remaining: attempt.limits.states.iter().map(|state| state.remaining).min(),
            states: match attempt.said {
                Ok(Said::States(states)) => states,
                _ => Vec::new(),
            },
        }
    }
}
