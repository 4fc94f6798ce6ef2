//! The record of what the server answered, which tests hold against what the program kept.
//!
//! It knows what was sent, not what arrived: a client may leave before the end of a body. Only bodies
//! that are slow on purpose are followed to their last byte.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::answer::{Answer, Ending};
use super::fault::FaultKind;
use super::route::{Ask, Endpoint};

/// What one request got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// Which request it was, counted from 1.
    pub number: u64,
    /// `live`, `list` or `other`.
    pub endpoint: String,
    /// The device asked for, at `live`.
    pub device_id: Option<String>,
    /// The page asked for, at `list`.
    pub page: Option<u32>,
    /// The HTTP status; 0 when nothing was sent, or when the client left before the answer.
    pub status: u16,
    /// The fault on purpose, by its name.
    pub fault: Option<String>,
    /// Whether all of the answer was sent.
    pub whole: bool,
    /// The device states that were sent whole.
    pub states: Vec<String>,
    /// `state`, `absent`, `failed` or `garbage`.
    pub outcome: &'static str,
}

/// Every request so far, if it is kept at all.
#[derive(Clone)]
pub(super) struct Record(Option<Arc<Mutex<Vec<Served>>>>);

impl Record {
    pub(super) fn new(keep: bool) -> Self {
        Self(keep.then(Arc::default))
    }

    pub(super) fn all(&self) -> Vec<Served> {
        self.0.as_ref().map(|kept| lock(kept).clone()).unwrap_or_default()
    }

    /// Begins the entry of a request, which is kept once it is dropped: a client that leaves before
    /// its answer is recorded too.
    pub(super) fn enter(&self, number: u64, ask: &Ask) -> Entry {
        let (endpoint, device_id) = match &ask.endpoint {
            Endpoint::Live { device } => ("live", Some(device.clone())),
            Endpoint::List => ("list", None),
            Endpoint::Other => ("other", None),
        };
        let served = Served {
            number,
            endpoint: endpoint.to_owned(),
            device_id,
            page: ask.page(),
            status: 0,
            fault: None,
            whole: false,
            states: Vec::new(),
            outcome: "failed",
        };
        Entry { record: self.clone(), served: Some(served) }
    }
}

/// The record of one request.
pub(super) struct Entry {
    record: Record,
    served: Option<Served>,
}

impl Entry {
    pub(super) fn note_fault(&mut self, fault: Option<FaultKind>) {
        if let Some(served) = &mut self.served {
            served.fault = fault.map(|kind| kind.name().to_owned());
        }
    }

    /// Notes an answer that sets out. One that dribbles has told nothing before its last byte.
    pub(super) fn note_answer(&mut self, answer: &Answer) {
        if let Some(served) = &mut self.served {
            served.status = answer.status;
        }
        if !matches!(answer.ending, Ending::Dribble { .. }) {
            self.note_end(answer.ending == Ending::Whole, answer.states.clone(), answer.outcome);
        }
    }

    /// Notes what has been told once all is sent that ever will be.
    pub(super) fn note_end(&mut self, whole: bool, states: Vec<String>, outcome: &'static str) {
        if let Some(served) = &mut self.served {
            (served.whole, served.states, served.outcome) = (whole, states, outcome);
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(kept) = &self.record.0 {
            lock(kept).extend(self.served.take());
        }
    }
}

/// Nothing is half done when a holder of these locks panics.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
