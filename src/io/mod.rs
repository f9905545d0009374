//! Connections: sockets, TLS and turns of work. Knows neither paths nor keys: what is served over a
//! connection stands behind the traits of [`service`].

pub mod service;
pub mod transport;
