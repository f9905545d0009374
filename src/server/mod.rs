//! The server: from its flags to listening, and from a signal to the end.

pub mod background;
pub mod banner;
pub mod dev;
pub mod listen;
pub mod notify;
pub mod options;
pub mod probe;
pub mod reload;
pub mod room;
pub mod serve;
pub mod start;
pub mod stores;
pub mod watch;

pub use self::serve::{Limits, Listeners, Server};

#[cfg(test)]
mod tests;
