//! The token that a key store hands out for a while: when to renew it, when to log in again, and which
//! one to use.

mod backoff;
mod keeper;
mod life;
#[cfg(test)]
mod tests;

pub(crate) use backoff::{Refusal, Rules};
pub(crate) use keeper::{Authority, Blame, Keeper, NoLease};
pub(crate) use life::{Lease, MAX_LIFETIME, Token};
