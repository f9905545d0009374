//! The log streams.

use super::{Call, Outcome, failure::Failure};
use crate::log::Stream;

/// `GET /v1/log/audit/trace`
pub(super) fn audit(_: &Call<'_>) -> Result<Outcome, Failure> {
    Ok(Outcome::Stream(Stream::Audit))
}

/// `GET /v1/log/error/trace` and its other path
pub(super) fn error(_: &Call<'_>) -> Result<Outcome, Failure> {
    Ok(Outcome::Stream(Stream::Error))
}
