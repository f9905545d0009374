//! The screens of `kes log trace` and `kes metric`: tables of what a server logs and counts.

pub mod feed;
pub mod metrics;
pub mod screen;
mod table;
pub mod view;
