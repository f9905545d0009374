//! The bytes of a connection on their way in and out: socket, TLS, and what neither has taken yet.

use std::{
    io::{self, Read as _, Write as _},
    time::Instant,
};

use rustls::InvalidMessage::{InvalidContentType, UnknownProtocolVersion};

use super::{socket::Socket, transport::Transport};
use crate::tls::words;

/// Bytes that may wait for the client to read before more requests are looked at.
pub const MAX_OUTPUT: usize = 64 * 1024;

/// For a client whose first bytes are no TLS: most likely it would not understand an alert, either.
const NO_HTTPS: &[u8] =
    b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";

pub struct Wire {
    pub socket: Socket,
    pub transport: Transport,
    /// Decrypted bytes that are not used yet.
    pub input: Vec<u8>,
    pub output: Output,
    pub is_eof: bool,
    pub has_received: bool,
    /// Since when the socket has taken no more bytes, if it is full.
    pub stalled_since: Option<Instant>,
}

/// Bytes for the client, in front those that the transport has taken.
#[derive(Default)]
pub struct Output {
    pub bytes: Vec<u8>,
    taken: usize,
}

/// The result of a read.
pub enum Received {
    /// Bytes, or the end.
    Some,
    /// There is nothing to read now.
    Nothing,
    /// What TLS refuses; the client has an alert.
    Nonsense,
}

impl Output {
    /// Bytes that the transport has not taken yet.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.taken
    }

    pub fn room(&self) -> usize {
        MAX_OUTPUT.saturating_sub(self.len())
    }

    /// Drops what the transport has taken, if that is most of the output: for a client that is always
    /// behind it never gets empty, and must not grow. The rest is moved, which is why it must be less.
    fn forget_taken(&mut self) {
        if self.taken >= self.len() {
            self.bytes.drain(..self.taken);
            self.taken = 0;
        }
    }
}

impl Wire {
    pub fn new(socket: Socket, transport: Transport) -> Self {
        Self {
            socket,
            transport,
            input: Vec::new(),
            output: Output::default(),
            is_eof: false,
            has_received: false,
            stalled_since: None,
        }
    }

    /// Whether there are bytes for the client that the kernel has not got.
    pub fn has_output(&self) -> bool {
        self.transport.wants_write() || self.output.len() > 0
    }

    /// Reads once from the socket. `complain` hears why a handshake failed; a client that left without a
    /// word needs no line in a log.
    pub fn receive(&mut self, complain: impl FnOnce(&str)) -> io::Result<Received> {
        let is_handshaking = self.transport.is_handshaking();
        let failed = match self.transport.read(&mut self.socket) {
            Ok(0) => {
                self.is_eof = true;
                io::ErrorKind::UnexpectedEof.into()
            }
            Ok(_) => {
                self.has_received = true;
                return self.process(complain);
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Received::Nothing),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(Received::Some),
            Err(e) => e,
        };
        if is_handshaking && self.has_received {
            complain(&words::of_client_io(&failed));
        }
        match self.is_eof {
            true => Ok(Received::Some),
            false => Err(failed),
        }
    }

    fn process(&mut self, complain: impl FnOnce(&str)) -> io::Result<Received> {
        let is_handshaking = self.transport.is_handshaking();
        let received = match self.transport.process() {
            Ok(received) => received,
            Err(e) => {
                if is_handshaking {
                    complain(&words::of_client(&e));
                }
                let _ =
                    match e {
                        rustls::Error::InvalidMessage(
                            InvalidContentType | UnknownProtocolVersion,
                        ) if is_handshaking => self.socket.write(NO_HTTPS).is_ok(),
                        // The alert that says why.
                        _ => self.write().is_ok(),
                    };
                return Ok(Received::Nonsense);
            }
        };
        if received.count > 0 {
            let start = self.input.len();
            self.input.resize(start + received.count, 0);
            self.transport.take(&mut self.input[start..])?;
        }
        self.is_eof |= received.is_end;
        Ok(Received::Some)
    }

    /// Gives the output to the transport and that to the socket. `false` if the socket takes no more now.
    pub fn flush(&mut self, now: Instant) -> io::Result<bool> {
        loop {
            while self.output.len() > 0 {
                match self.transport.put(&self.output.bytes[self.output.taken..])? {
                    0 => break,
                    count => self.output.taken += count,
                }
            }
            if !self.write()? {
                self.output.forget_taken();
                self.stalled_since.get_or_insert(now);
                return Ok(false);
            }
            if self.output.len() == 0 {
                self.stalled_since = None;
                if !self.output.bytes.is_empty() {
                    self.output = Output::default();
                }
                return Ok(true);
            }
        }
    }

    /// Writes what the transport has. `false` if the socket takes no more now.
    fn write(&mut self) -> io::Result<bool> {
        while self.transport.wants_write() {
            match self.transport.write(&mut self.socket) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                // A client that reads slowly has its time anew.
                Ok(_) => self.stalled_since = None,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }

    /// Says goodbye. `true` if the client may hear it, and still send.
    pub fn say_goodbye(&mut self) -> bool {
        self.transport.say_goodbye();
        matches!(self.write(), Ok(true)) && !self.is_eof
    }

    /// Reads and drops a part of what still comes in. `false` if no more will come.
    pub fn discard(&mut self) -> bool {
        let mut dropped = [0; 4096];
        for _ in 0..64 {
            match self.socket.read(&mut dropped) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return e.kind() == io::ErrorKind::WouldBlock,
            }
        }
        true
    }
}
