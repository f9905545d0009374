//! Whether the key store is available, as its statuses show it.

use std::time::{Duration, Instant};

/// A key store that is back for a moment, and a status that takes its time to fail, take no entries along: an outage is
/// over, and an entry that is due goes, when the key store was available for so long.
const GRACE: Duration = Duration::from_secs(30);

/// What the key store says of its status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It is available.
    Available,
    /// It is, but of no use as far as is known: logins fail.
    Doubtful,
    /// It is not.
    Unavailable,
}

/// ```text
///   Up ------ Unavailable -----> Down <---- Unavailable ------ Back --+
///   ^ \                            \                           ^ ^ | |  Doubtful, or
///   |  +------- Doubtful -------+   +---- any other ----------+ | | |  Available for less than GRACE
///   |                           +-------------------------------+ +-+
///   +---------------------- Available for GRACE -----------------+
/// ```
#[derive(Clone, Copy, Debug)]
pub(super) enum Availability {
    /// It is available, and has been since `since`, if it was asked so early. No outage that began before is overlooked.
    Up { since: Option<Instant> },
    /// It has not been since `since`.
    Down { since: Instant },
    /// It is again since `at`.
    Back { since: Instant, at: Instant },
}

impl Default for Availability {
    fn default() -> Self {
        Self::Up { since: None }
    }
}

impl Availability {
    pub(super) fn is_down(self) -> bool {
        matches!(self, Self::Down { .. })
    }

    /// The key store, asked for its status at `asked`, has said this at `now`.
    pub(super) fn note(&mut self, status: Status, asked: Instant, now: Instant) {
        let since = match *self {
            Self::Up { .. } => asked,
            Self::Down { since } | Self::Back { since, .. } => since,
        };
        *self = match (status, *self) {
            (Status::Unavailable, _) => Self::Down { since },
            (Status::Available, Self::Back { at, .. })
                if asked.saturating_duration_since(at) < GRACE =>
            {
                *self
            }
            (Status::Available, Self::Up { .. } | Self::Back { .. }) => {
                Self::Up { since: asked.checked_sub(GRACE) }
            }
            _ => Self::Back { since, at: now },
        };
    }
}
