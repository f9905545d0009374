//! The commands, a file for each group. Rows of the table and what they run; none knows another.

pub(crate) mod api_key;
pub(crate) mod config;
pub(crate) mod doctor;
pub(crate) mod healthcheck;
pub(crate) mod identity;
pub(crate) mod init;
pub(crate) mod key;
pub(crate) mod log;
pub(crate) mod ls;
pub(crate) mod metric;
pub(crate) mod migrate;
pub(crate) mod policy;
pub(crate) mod server;
pub(crate) mod status;
pub(crate) mod tool;
pub(crate) mod why;
