//! HTTP/2 without sockets (RFC 9113), the server's side: bytes in, requests out; answers in, bytes out.
//!
//! Nothing is buffered here but the header block that is coming in: bodies are handed on as they
//! arrive, and answers are taken only as far as the client has made room for them. Knows nothing of
//! TLS, routes or keys.

pub mod connection;
pub mod fields;
pub mod frame;
pub mod hpack;
mod huffman;
mod incoming;
mod meter;
mod outgoing;
mod stream;
mod window;

pub use connection::Connection;

#[cfg(test)]
mod tests;
