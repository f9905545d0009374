//! Something at the other end that is no `kes` server: it speaks TLS as it is told to, or says a few
//! bytes and goes.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::Arc,
    time::Duration,
};

use rustls::{
    RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    crypto::ring,
    server::WebPkiClientVerifier,
    sign::{CertifiedKey, SingleCertAndKey},
};

use super::Identity;

/// Listens for as long as the test program lives.
pub struct Site {
    pub port: u16,
}

impl Site {
    fn start(serve: impl Fn(TcpStream) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let socket = socket.unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                serve(socket);
            }
        });
        Self { port }
    }

    /// Says these bytes to everybody, after it was asked for something.
    pub fn saying(bytes: &'static [u8]) -> Self {
        Self::start(move |mut socket| {
            let _ = socket.read(&mut [0; 4096]);
            let _ = socket.write_all(bytes);
            drain(socket);
        })
    }

    /// Shows `own`, wants certificates of `clients` if there are any, and answers requests with an empty
    /// list of keys.
    pub fn tls(own: &Identity, clients: Option<&Identity>) -> Self {
        Self::answering(own, clients, |_| {
            "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nContent-Length: 0\r\n"
                .to_owned()
                + "Connection: close\r\n\r\n"
        })
    }

    /// As [`Self::tls`], with the answers that `answer` has to the first lines of requests, after which the
    /// connection is closed.
    pub fn answering(
        own: &Identity,
        clients: Option<&Identity>,
        answer: impl Fn(&str) -> String + Send + 'static,
    ) -> Self {
        let provider = Arc::new(ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap();
        let config = match clients {
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.chain[0].clone()).unwrap();
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                config.with_client_cert_verifier(verifier.build().unwrap())
            }
            None => config.with_no_client_auth(),
        };
        // Also one of version 1, which rustls would not show by itself.
        let key = ring::sign::any_supported_type(&own.key()).unwrap();
        let own = CertifiedKey::new(own.chain.clone(), key);
        let config = config.with_cert_resolver(Arc::new(SingleCertAndKey::from(own)));
        let config = Arc::new(config);
        Self::start(move |socket| {
            let tls = ServerConnection::new(config.clone()).unwrap();
            let mut stream = StreamOwned::new(tls, socket);
            let mut request = Vec::new();
            let mut bytes = [0; 4096];
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                match stream.read(&mut bytes) {
                    Ok(0) | Err(_) => return,
                    Ok(count) => request.extend_from_slice(&bytes[..count]),
                }
            }
            let request = String::from_utf8_lossy(&request);
            let answer = answer(request.lines().next().unwrap_or_default());
            let _ = stream.write_all(answer.as_bytes());
            stream.conn.send_close_notify();
            let _ = stream.flush();
            drain(stream.sock);
        })
    }
}

/// Closes a connection once the client has read the answer: bytes of its request that nobody has read would reset it.
pub fn drain(mut socket: TcpStream) {
    let _ = socket.shutdown(Shutdown::Write);
    let _ = socket.set_read_timeout(Some(Duration::from_secs(5)));
    let _ = socket.read_to_end(&mut Vec::new());
}
