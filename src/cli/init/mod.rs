//! What `kes init` finds out, asks and writes.

pub(crate) mod dialog;
pub(crate) mod folder;
pub(crate) mod names;
pub(crate) mod pairs;
pub(crate) mod quote;
pub(crate) mod report;
pub(crate) mod text;
pub(crate) mod vault;
