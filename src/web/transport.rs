//! TLS for `ureq`, from our `tls`.
//!
//! The TLS that comes with `ureq` trusts only chains to an authority, and hides the alert that a server
//! sends before it closes a connection.

use std::{
    fmt,
    io::{self, Read as _, Write as _},
    sync::Arc,
};

use rustls::{ClientConfig, ClientConnection, StreamOwned};
use rustls_pki_types::ServerName;
use ureq::{
    Error,
    unversioned::transport::{
        Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport,
        TransportAdapter, time::Instant,
    },
};

/// Speaks TLS over a connection, if the URL says so.
#[derive(Debug)]
pub struct TlsConnector(pub(crate) Arc<ClientConfig>);

impl<In: Transport> Connector<In> for TlsConnector {
    type Out = Either<In, TlsTransport>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        let Some(transport) = chained else {
            return Ok(None);
        };
        if !details.needs_tls() {
            return Ok(Some(Either::A(transport)));
        }
        let host = details.uri.host().unwrap_or_default();
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
            .map_err(|_| Error::BadUri(format!("{host:?} is not the name of a host")))?;
        let mut connection =
            ClientConnection::new(self.0.clone(), name).map_err(io::Error::other)?;
        let mut socket = TransportAdapter::new(transport.boxed(), details.current_time.clone());
        // The timeout runs since the connection was begun.
        let mut timeout = details.timeout;
        if let (false, Instant::Exact(start)) = (timeout.after.is_not_happening(), details.now) {
            timeout.after = timeout.after.saturating_sub(start.elapsed()).into();
        }
        socket.set_timeout(timeout);
        if let Err(error) = connection.complete_io(&mut socket) {
            // `complete_io` writes only the first piece of what is pending; the alert follows it.
            while connection.wants_write()
                && connection.write_tls(&mut socket).is_ok_and(|count| count > 0)
            {}
            return Err(error.into());
        }
        let config = details.config;
        Ok(Some(Either::B(TlsTransport {
            buffers: LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size()),
            stream: StreamOwned::new(connection, socket),
        })))
    }
}

pub struct TlsTransport {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
}

impl fmt::Debug for TlsTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsTransport")
    }
}

impl TlsTransport {
    /// Why a connection broke: the server's alert, if it sent one. It closes the connection right after
    /// that, often before the request is on its way.
    fn last_words(&mut self, error: io::Error) -> Error {
        if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) {
            let StreamOwned { conn, sock } = &mut self.stream;
            while conn.read_tls(sock).is_ok_and(|count| count > 0) {
                if let Err(alert) = conn.process_new_packets() {
                    return io::Error::new(io::ErrorKind::InvalidData, alert).into();
                }
            }
        }
        error.into()
    }
}

impl Transport for TlsTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.stream.sock.set_timeout(timeout);
        let written = self.stream.write_all(&self.buffers.output()[..amount]);
        written.map_err(|e| self.last_words(e))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.stream.sock.set_timeout(timeout);
        let read = self.stream.read(self.buffers.input_append_buf());
        // This also reports a write that failed.
        let count = read.map_err(|e| self.last_words(e))?;
        self.buffers.input_appended(count);
        Ok(count > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.sock.get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}
