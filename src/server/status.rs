//! What the server says about itself.

use super::{Call, Outcome, failure::Failure};
use crate::http::reply::Reply;

/// `GET /version`
pub(super) fn version(_: &Call<'_>) -> Result<Outcome, Failure> {
    let body = concat!("{\"version\":\"", env!("CARGO_PKG_VERSION"), "\"}");
    Ok(Outcome::Done(Reply::json(body.as_bytes().to_vec())))
}
