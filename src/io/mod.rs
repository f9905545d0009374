//! Sockets and turns. Knows neither HTTP nor keys.

pub(crate) mod poller;
