//! The one HTTP client, of key stores and of the command line, and how it finds hosts.

pub mod agent;
pub mod errors;
pub mod escape;
pub mod proxy;
pub mod resolver;
mod transport;
