//! How the program ends: the exit codes, and what leads to which. They are listed in the README.

use crate::api::{BudgetError, ClientError};
use crate::archive::ArchiveError;
use crate::bucket::BucketError;
use crate::config::ConfigError;
use crate::ingest::{IngestError, Published};
use crate::query::QueryError;
use crate::sim::SimError;

/// How the program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All done.
    Done,
    /// It failed.
    Failed,
    /// It was asked in a way that makes no sense.
    Usage,
    /// It finished, but something failed on the way.
    Partly,
    /// Another collector holds the lock: `EX_TEMPFAIL`.
    Locked,
}

impl Exit {
    /// The exit code.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Partly => 3,
            Self::Locked => 75,
        }
    }

    /// That of work that failed as a whole, or in part.
    pub(super) fn of_work(failed: bool, has_findings: bool) -> Self {
        match (failed, has_findings) {
            (true, _) => Self::Failed,
            (false, true) => Self::Partly,
            (false, false) => Self::Done,
        }
    }

    /// What publishing means for it.
    pub(super) fn of_publish(published: &Published) -> Self {
        Self::of_work(!published.held.is_empty(), published.has_findings())
    }

    /// That of an error.
    pub(super) fn of_error(error: &anyhow::Error) -> Self {
        let ingest = error.downcast_ref::<IngestError>();
        let archive = error.downcast_ref::<ArchiveError>();
        match (archive, ingest) {
            (Some(ArchiveError::Locked { .. }), _) | (_, Some(IngestError::Archive(ArchiveError::Locked { .. }))) => {
                Self::Locked
            }
            _ if is_usage(error) => Self::Usage,
            _ => Self::Failed,
        }
    }

    /// The worse of two.
    pub(super) fn or_worse(self, other: Self) -> Self {
        match (self, other) {
            (Self::Failed, _) | (_, Self::Failed) => Self::Failed,
            (Self::Partly, _) | (_, Self::Partly) => Self::Partly,
            _ => Self::Done,
        }
    }
}

/// Whether it is what was typed that makes no sense.
fn is_usage(error: &anyhow::Error) -> bool {
    let question = error.downcast_ref::<QueryError>().is_some_and(|error| {
        matches!(
            error,
            QueryError::Metric { .. }
                | QueryError::Column { .. }
                | QueryError::Label { .. }
                | QueryError::Resource { .. }
                | QueryError::NoRate
                | QueryError::EmptyWindow(_)
                | QueryError::Buckets { .. }
                | QueryError::ZoneBuckets
        )
    });
    let address = matches!(error.downcast_ref(), Some(ClientError::Url { .. }));
    let place = matches!(
        error.downcast_ref(),
        Some(
            ArchiveError::StateElsewhere(_)
                | ArchiveError::NotOwner { .. }
                | ArchiveError::Bucket(BucketError::Url { .. } | BucketError::Settings { .. })
        )
    );
    let writer = matches!(
        error.downcast_ref(),
        Some(IngestError::Unruled(_) | IngestError::Archive(ArchiveError::NotOwner { .. }))
    );
    question
        || address
        || place
        || writer
        || error.is::<ConfigError>()
        || error.is::<BudgetError>()
        || error.is::<SimError>()
}
