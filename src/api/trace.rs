//! The log streams.

use super::{
    call::{Call, Outcome},
    failure::Failure,
};
use crate::log::Stream;

/// `GET /v1/log/audit/trace`
pub fn audit(_: &Call<'_>) -> Result<Outcome, Failure> {
    Ok(Outcome::Lines(Stream::Audit))
}

/// `GET /v1/log/error/trace` and its other path
pub fn error(_: &Call<'_>) -> Result<Outcome, Failure> {
    Ok(Outcome::Lines(Stream::Error))
}
