//! The screens of `kes log trace`: tables of what a server logs and counts.

pub mod metrics;
pub mod screen;
mod table;
pub mod view;
