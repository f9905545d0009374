//! The two ends of a pipe between a connection and the `h2` crate: bytes from the client that it has
//! not read yet, bytes for the client that the connection has not taken yet. Never waits.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use bytes::Buf;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    secret::{self, Wiped},
    server::connection::MAX_OUTPUT,
};

/// What is in the pipe.
#[derive(Default)]
pub(super) struct Ends {
    /// Bytes from the client, and how many of them were read.
    input: Wiped,
    read: usize,
    /// The client will send no more.
    is_eof: bool,
    output: Wiped,
    /// There was more to write than there was room for.
    is_full: bool,
}

impl Ends {
    /// Takes over what the client has sent, and leaves nothing of it there.
    pub(super) fn receive(&mut self, input: &mut Wiped, is_eof: bool) {
        self.is_eof |= is_eof;
        if self.read == self.input.len() {
            std::mem::swap(&mut self.input, input);
            self.read = 0;
        } else {
            secret::reserve(&mut self.input, input.len());
            self.input.extend_from_slice(input);
        }
        input.wipe();
    }

    /// Moves what is there for the client to `output`. `true` if there is more to come.
    pub(super) fn send(&mut self, output: &mut Wiped) -> bool {
        if output.is_empty() {
            std::mem::swap(&mut self.output, output);
        } else {
            secret::reserve(output, self.output.len());
            output.extend_from_slice(&self.output);
        }
        self.output.wipe();
        std::mem::take(&mut self.is_full)
    }

    /// Gives the memory back that an idle connection does not need.
    pub(super) fn rest(&mut self) {
        if self.read == self.input.len() {
            self.input.reset();
            self.read = 0;
        }
        if self.output.is_empty() {
            self.output.reset();
        }
    }
}

/// The end of the pipe that `h2` has.
#[derive(Clone, Default)]
pub(super) struct Pipe(Arc<Mutex<Ends>>);

impl Pipe {
    pub(super) fn ends(&self) -> MutexGuard<'_, Ends> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let ends = &mut *self.ends();
        let left = &ends.input[ends.read..];
        if left.is_empty() && !ends.is_eof {
            return Poll::Pending;
        }
        let count = left.len().min(buffer.remaining());
        buffer.put_slice(&left[..count]);
        ends.read += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let ends = &mut *self.ends();
        if ends.output.len() >= MAX_OUTPUT {
            ends.is_full = true;
            return Poll::Pending;
        }
        let count = parts.iter().map(|part| part.len()).sum();
        secret::reserve(&mut ends.output, count);
        for part in parts {
            ends.output.extend_from_slice(part);
        }
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Bytes of an answer on their way out.
pub(super) struct Payload {
    bytes: Source,
    sent: usize,
}

enum Source {
    Own(Wiped),
    Shared(Arc<[u8]>),
}

impl From<Wiped> for Payload {
    fn from(bytes: Wiped) -> Self {
        let bytes = Source::Own(bytes);
        Self { bytes, sent: 0 }
    }
}

impl From<Arc<[u8]>> for Payload {
    fn from(bytes: Arc<[u8]>) -> Self {
        let bytes = Source::Shared(bytes);
        Self { bytes, sent: 0 }
    }
}

impl Payload {
    /// Takes the next bytes, at most `count`.
    pub(super) fn take(&mut self, count: usize) -> Self {
        if count >= self.remaining() {
            return std::mem::replace(self, Wiped::default().into());
        }
        let mut part = Wiped::with_capacity(count);
        part.extend_from_slice(&self.chunk()[..count]);
        self.sent += count;
        part.into()
    }
}

impl Buf for Payload {
    fn remaining(&self) -> usize {
        self.chunk().len()
    }

    fn chunk(&self) -> &[u8] {
        match &self.bytes {
            Source::Own(bytes) => &bytes[self.sent..],
            Source::Shared(bytes) => &bytes[self.sent..],
        }
    }

    fn advance(&mut self, count: usize) {
        self.sent += count;
    }
}
