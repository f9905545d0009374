//! The layer between the bytes of HTTP and the socket: TLS for clients, nothing for probes.

use std::io::{self, IoSlice, Read, Write};

use rustls::{HandshakeKind, ServerConnection};
use rustls_pki_types::CertificateDer;

use super::socket::Socket;
use crate::tls::Group;

/// Bytes that a probe may send at a time.
const CHUNK: usize = 4096;

// Nearly all are TLS; a box would cost each of them an allocation.
#[allow(clippy::large_enum_variant)]
pub enum Transport {
    Tls(ServerConnection),
    Plain(Plain),
}

/// Bytes that have come in and are not taken yet, and such that have to go out.
#[derive(Default)]
pub struct Plain {
    received: Vec<u8>,
    to_send: Vec<u8>,
    /// Tests choose, as TLS does else.
    #[cfg(test)]
    pub speaks_http2: bool,
}

pub struct Received {
    /// Bytes that [`Transport::take`] can take.
    pub count: usize,
    /// The other end has said that no more will come.
    pub is_end: bool,
}

impl Transport {
    pub fn plain() -> Self {
        Self::Plain(Plain::default())
    }

    pub fn is_handshaking(&self) -> bool {
        match self {
            Self::Tls(tls) => tls.is_handshaking(),
            Self::Plain(_) => false,
        }
    }

    pub fn handshake_kind(&self) -> Option<HandshakeKind> {
        match self {
            Self::Tls(tls) => tls.handshake_kind(),
            Self::Plain(_) => None,
        }
    }

    pub fn speaks_http2(&self) -> bool {
        match self {
            Self::Tls(tls) => tls.alpn_protocol() == Some(b"h2"),
            #[cfg(test)]
            Self::Plain(plain) => plain.speaks_http2,
            #[cfg(not(test))]
            Self::Plain(_) => false,
        }
    }

    /// The group of the key exchange in the handshake, which a resumed session does anew.
    pub fn group(&self) -> Option<Group> {
        match self {
            Self::Tls(tls) => Group::of(tls.negotiated_key_exchange_group()?),
            Self::Plain(_) => None,
        }
    }

    /// The chain that the client showed in the handshake, leaf first.
    pub fn peer_certificates(&self) -> &[CertificateDer<'static>] {
        match self {
            Self::Tls(tls) => tls.peer_certificates().unwrap_or_default(),
            Self::Plain(_) => &[],
        }
    }

    /// Reads once; 0 is the end.
    pub fn read(&mut self, socket: &mut Socket) -> io::Result<usize> {
        match self {
            Self::Tls(tls) => tls.read_tls(socket),
            Self::Plain(plain) => {
                let mut bytes = [0; CHUNK];
                let count = socket.read(&mut bytes)?;
                plain.received.extend_from_slice(&bytes[..count]);
                Ok(count)
            }
        }
    }

    pub fn process(&mut self) -> Result<Received, rustls::Error> {
        match self {
            Self::Tls(tls) => tls.process_new_packets().map(|state| Received {
                count: state.plaintext_bytes_to_read(),
                is_end: state.peer_has_closed(),
            }),
            Self::Plain(plain) => Ok(Received { count: plain.received.len(), is_end: false }),
        }
    }

    /// Takes bytes out, of which there must be enough.
    pub fn take(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Tls(tls) => tls.reader().read_exact(bytes),
            Self::Plain(plain) => {
                plain.received.as_slice().read_exact(bytes)?;
                plain.received.drain(..bytes.len());
                Ok(())
            }
        }
    }

    /// Takes over bytes to send, not always all of them.
    pub fn put(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tls(tls) => tls.writer().write(bytes),
            Self::Plain(plain) => plain.to_send.write(bytes),
        }
    }

    pub fn wants_write(&self) -> bool {
        match self {
            Self::Tls(tls) => tls.wants_write(),
            Self::Plain(plain) => !plain.to_send.is_empty(),
        }
    }

    pub fn write(&mut self, socket: &mut Socket) -> io::Result<usize> {
        match self {
            Self::Tls(tls) => tls.write_tls(&mut Piecewise(socket)),
            Self::Plain(plain) => {
                let count = socket.write(&plain.to_send)?;
                plain.to_send.drain(..count);
                Ok(count)
            }
        }
    }

    pub fn say_goodbye(&mut self) {
        if let Self::Tls(tls) = self {
            tls.send_close_notify();
        }
    }
}

/// A socket that takes one piece, which is what there nearly always is, by `send`: the system call for
/// several takes longer.
struct Piecewise<'a>(&'a mut Socket);

impl Write for Piecewise<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match pieces {
            [piece] => self.0.write(piece),
            pieces => self.0.write_vectored(pieces),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
