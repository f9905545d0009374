//! The screens of `kes log trace`: tables of what a server logs and counts.

pub(crate) mod metrics;
pub(crate) mod screen;
mod table;
pub(crate) mod view;
