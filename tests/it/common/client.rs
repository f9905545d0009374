//! A client that sends exactly the given bytes, over real TLS.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::Arc,
};

use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, NamedGroup,
    SignatureScheme, StreamOwned,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring},
    sign::{CertifiedKey, SingleCertAndKey},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{Identity, PATIENCE};

/// Accepts the one certificate of the test's own server: another server on its port is refused.
#[derive(Debug)]
struct Pinned(CertificateDer<'static>);

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match *end_entity == self.0 {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(rustls::Error::General("this is another server".to_owned())),
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Makes connections to one server with one certificate.
#[derive(Clone)]
pub struct Client {
    address: SocketAddr,
    config: Arc<ClientConfig>,
}

impl Client {
    /// A client that shows `identity`, or nothing, and makes a full handshake every time.
    pub fn new(
        address: SocketAddr,
        server: CertificateDer<'static>,
        identity: Option<&Identity>,
    ) -> Self {
        Self::with_versions(address, server, identity, &[&rustls::version::TLS13])
    }

    pub fn with_versions(
        address: SocketAddr,
        server: CertificateDer<'static>,
        identity: Option<&Identity>,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Self {
        let provider = Arc::new(ring::default_provider());
        Self::with_provider(address, server, identity, versions, provider)
    }

    pub fn with_provider(
        address: SocketAddr,
        server: CertificateDer<'static>,
        identity: Option<&Identity>,
        versions: &[&'static rustls::SupportedProtocolVersion],
        provider: Arc<CryptoProvider>,
    ) -> Self {
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pinned(server)));
        let mut config = match identity {
            // Not `with_client_auth_cert`, which reads no certificates of version 1.
            Some(identity) => {
                let key = ring::sign::any_supported_type(&identity.key()).unwrap();
                let certified = CertifiedKey::new(identity.chain.clone(), key);
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
            }
            None => builder.with_no_client_auth(),
        };
        config.resumption = Resumption::disabled();
        Self { address, config: Arc::new(config) }
    }

    /// The same with a session store of its own, so that later connections resume earlier ones.
    pub fn resuming(&self) -> Self {
        self.remembering(Resumption::in_memory_sessions(8))
    }

    /// The same with this session store.
    pub fn remembering(&self, resumption: Resumption) -> Self {
        let mut config = (*self.config).clone();
        config.resumption = resumption;
        Self { address: self.address, config: Arc::new(config) }
    }

    /// The same at another address.
    pub fn at(&self, address: SocketAddr) -> Self {
        Self { address, ..self.clone() }
    }

    /// The same over HTTP/2.
    pub fn speaking_http2(&self) -> Self {
        let mut config = (*self.config).clone();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Self { address: self.address, config: Arc::new(config) }
    }

    pub fn config(&self) -> Arc<ClientConfig> {
        self.config.clone()
    }

    /// Connects and completes the client's side of the handshake.
    pub fn try_connect(&self) -> io::Result<Connection> {
        let mut socket = TcpStream::connect(self.address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let name = ServerName::from(self.address.ip());
        let mut tls = ClientConnection::new(self.config.clone(), name).map_err(io::Error::other)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut socket)?;
        }
        Ok(Connection { stream: StreamOwned::new(tls, socket), input: Vec::new() })
    }

    pub fn connect(&self) -> Connection {
        self.try_connect().unwrap()
    }

    /// One request over a connection of its own, or why there was no answer.
    pub fn try_request(&self, method: &str, path: &str, body: &[u8]) -> io::Result<Response> {
        self.try_connect()?.try_request(method, path, body)
    }

    pub fn request(&self, method: &str, path: &str, body: impl AsRef<[u8]>) -> Response {
        self.try_request(method, path, body.as_ref()).unwrap()
    }

    pub fn get(&self, path: &str) -> Response {
        self.request("GET", path, "")
    }

    pub fn post(&self, path: &str, body: impl AsRef<[u8]>) -> Response {
        self.request("POST", path, body)
    }

    pub fn put(&self, path: &str, body: impl AsRef<[u8]>) -> Response {
        self.request("PUT", path, body)
    }

    pub fn delete(&self, path: &str) -> Response {
        self.request("DELETE", path, "")
    }
}

/// One connection.
pub struct Connection {
    stream: StreamOwned<ClientConnection, TcpStream>,
    input: Vec<u8>,
}

impl Connection {
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes.as_ref()).unwrap();
    }

    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    pub fn try_request(&mut self, method: &str, path: &str, body: &[u8]) -> io::Result<Response> {
        self.try_send(&request(method, path, body))?;
        self.try_response(method == "HEAD")
    }

    pub fn request(&mut self, method: &str, path: &str, body: impl AsRef<[u8]>) -> Response {
        self.try_request(method, path, body.as_ref()).unwrap()
    }

    /// The next answer.
    pub fn response(&mut self) -> Response {
        self.try_response(false).unwrap()
    }

    /// The next answer. `is_head`: it announces a body that does not follow.
    pub fn try_response(&mut self, is_head: bool) -> io::Result<Response> {
        let mut response = self.try_head()?;
        if is_head || response.status < 200 {
            return Ok(response);
        }
        if response.header("Transfer-Encoding") == Some("chunked") {
            loop {
                let line = self.line()?;
                let size = usize::from_str_radix(&line, 16).map_err(|_| wrong(&line))?;
                if size == 0 {
                    break;
                }
                response.body.extend(self.take(size)?);
                self.take(2)?;
            }
            loop {
                match self.line()?.as_str() {
                    "" => return Ok(response),
                    line => response.trailers.push(header(line)?),
                }
            }
        }
        let length = response.header("Content-Length").ok_or_else(|| wrong("no length"))?;
        let length = length.parse().map_err(|_| wrong(length))?;
        response.body = self.take(length)?;
        Ok(response)
    }

    /// The next answer up to its body.
    pub fn try_head(&mut self) -> io::Result<Response> {
        let head = self.line_block()?;
        let mut lines = head.split("\r\n");
        let first = lines.next().unwrap_or_default();
        let (version, rest) = first.split_once(' ').ok_or_else(|| wrong(first))?;
        let (code, phrase) = rest.split_once(' ').unwrap_or((rest, ""));
        let status = code.parse().ok();
        Ok(Response {
            version: version.to_owned(),
            status: status.ok_or_else(|| wrong(first))?,
            phrase: phrase.to_owned(),
            headers: lines.map(header).collect::<io::Result<_>>()?,
            body: Vec::new(),
            trailers: Vec::new(),
        })
    }

    /// The next chunk of a body that goes on; an empty one is the last.
    pub fn chunk(&mut self) -> io::Result<Vec<u8>> {
        let line = self.line()?;
        let size = usize::from_str_radix(&line, 16).map_err(|_| wrong(&line))?;
        let chunk = self.take(size)?;
        self.take(2)?;
        Ok(chunk)
    }

    /// Whether the server has ended the connection and sent nothing before that.
    pub fn is_closed(&mut self) -> bool {
        self.input.is_empty() && matches!(self.fill(), Err(e) if is_end(&e))
    }

    /// Everything that comes until the server closes.
    pub fn rest(&mut self) -> Vec<u8> {
        while self.fill().is_ok() {}
        std::mem::take(&mut self.input)
    }

    /// Sends a KeyUpdate that asks for one.
    pub fn refresh_keys(&mut self) {
        self.stream.conn.refresh_traffic_keys().unwrap();
    }

    pub fn handshake_kind(&self) -> Option<HandshakeKind> {
        self.stream.conn.handshake_kind()
    }

    /// The group of the key exchange.
    pub fn group(&self) -> Option<NamedGroup> {
        let exchange = self.stream.conn.negotiated_key_exchange_group();
        exchange.map(|exchange| exchange.name())
    }

    /// The protocol that was agreed on.
    pub fn protocol(&self) -> Option<String> {
        let name = self.stream.conn.alpn_protocol()?;
        Some(String::from_utf8_lossy(name).into_owned())
    }

    pub fn socket(&self) -> &TcpStream {
        &self.stream.sock
    }

    /// Says that no more requests follow, as `shutdown` of a TLS socket does.
    pub fn half_close(&mut self) {
        self.stream.conn.send_close_notify();
        let _ = self.stream.conn.write_tls(&mut self.stream.sock);
        let _ = self.stream.sock.shutdown(Shutdown::Write);
    }

    /// Reads once. Does not write first, as a TLS stream would: what could not be sent does not
    /// matter any more, and the answer may be there already.
    fn fill(&mut self) -> io::Result<()> {
        let mut bytes = [0; 16 * 1024];
        loop {
            match self.stream.conn.reader().read(&mut bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.input.extend_from_slice(&bytes[..count]);
                    return Ok(());
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
            match self.stream.conn.read_tls(&mut self.stream.sock) {
                // A process that was stopped for a while goes on with this.
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            self.stream.conn.process_new_packets().map_err(io::Error::other)?;
        }
    }

    /// Reads what there is without waiting for more. Whether the connection is still open.
    pub fn receive_available(&mut self) -> bool {
        self.stream.sock.set_nonblocking(true).unwrap();
        let end = loop {
            if let Err(e) = self.fill() {
                break e;
            }
        };
        self.stream.sock.set_nonblocking(false).unwrap();
        end.kind() == io::ErrorKind::WouldBlock
    }

    /// What was received and not taken yet.
    pub fn received(&self) -> &[u8] {
        &self.input
    }

    /// Whether a whole frame of HTTP/2 was received.
    pub fn has_frame(&self) -> bool {
        match self.input[..] {
            [a, b, c, ..] => {
                let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                self.input.len() >= 9 + length
            }
            _ => false,
        }
    }

    /// The next `count` bytes.
    pub fn take(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.input.len() < count {
            self.fill()?;
        }
        Ok(self.input.drain(..count).collect())
    }

    fn until(&mut self, end: &str) -> io::Result<String> {
        loop {
            let found = self.input.windows(end.len()).position(|part| part == end.as_bytes());
            if let Some(at) = found {
                let text = String::from_utf8(self.take(at)?).map_err(io::Error::other)?;
                self.take(end.len())?;
                return Ok(text);
            }
            self.fill()?;
        }
    }

    fn line(&mut self) -> io::Result<String> {
        self.until("\r\n")
    }

    fn line_block(&mut self) -> io::Result<String> {
        self.until("\r\n\r\n")
    }
}

/// Whether this is how a read sees that the other side is gone.
pub fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe)
}

pub fn wrong(what: &str) -> io::Error {
    io::Error::other(format!("not HTTP: {what:?}"))
}

fn header(line: &str) -> io::Result<(String, String)> {
    let (name, value) = line.split_once(':').ok_or_else(|| wrong(line))?;
    Ok((name.to_owned(), value.trim().to_owned()))
}

/// The bytes of a request with `Content-Length`.
pub fn request(method: &str, path: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{method} {path} HTTP/1.1\r\nHost: kes\r\n").into_bytes();
    if !body.is_empty() {
        bytes.extend(format!("Content-Length: {}\r\n", body.len()).as_bytes());
    }
    bytes.extend(b"\r\n");
    bytes.extend(body);
    bytes
}

/// The bytes of a request whose body comes in chunks of `size`.
pub fn chunked(method: &str, path: &str, body: &[u8], size: usize) -> Vec<u8> {
    let mut bytes = format!("{method} {path} HTTP/1.1\r\nHost: kes\r\n").into_bytes();
    bytes.extend(b"Transfer-Encoding: chunked\r\n\r\n");
    for chunk in body.chunks(size) {
        bytes.extend(format!("{:x}\r\n", chunk.len()).as_bytes());
        bytes.extend(chunk);
        bytes.extend(b"\r\n");
    }
    bytes.extend(b"0\r\n\r\n");
    bytes
}

/// One answer.
#[derive(Debug)]
pub struct Response {
    pub version: String,
    pub status: u16,
    /// The text behind the status.
    pub phrase: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
}

impl Response {
    /// The value of a header, its name without case.
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    pub fn trailer(&self, name: &str) -> Option<&str> {
        find(&self.trailers, name)
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// A member of the answer, decoded from base64.
    pub fn bytes(&self, member: &str) -> Vec<u8> {
        super::from_base64(self.json()[member].as_str().unwrap_or_else(|| panic!("{self:?}")))
    }

    /// A sample of the page of `/v1/metrics`.
    pub fn sample(&self, name: &str) -> u64 {
        let mut lines = self.text().lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value = value.unwrap_or_else(|| panic!("no {name}"));
        value.parse().unwrap()
    }

    /// Asserts an answer without content.
    #[track_caller]
    pub fn is_empty_success(&self) {
        assert_eq!((200, ""), (self.status, self.text()));
        assert_eq!(None, self.header("Content-Type"));
        assert_eq!(Some("0"), self.header("Content-Length"));
        assert_eq!(Some("Status, Error"), self.header("Trailer"));
    }

    /// Asserts a JSON answer.
    #[track_caller]
    pub fn is_json_success(&self) {
        assert_eq!(200, self.status, "{}", self.text());
        assert_eq!(Some("application/json"), self.header("Content-Type"));
        assert_eq!(Some("Status, Error"), self.header("Trailer"));
    }

    /// Asserts an error of the API, its text whole.
    #[track_caller]
    pub fn is_failure(&self, status: u16, message: &str) {
        let text = serde_json::json!({ "message": message }).to_string();
        assert_eq!((status, text.as_str()), (self.status, self.text()));
        assert_eq!(Some("application/json; charset=utf-8"), self.header("Content-Type"));
        assert_eq!(Some("nosniff"), self.header("X-Content-Type-Options"));
        assert_eq!(Some("Status, Error"), self.header("Trailer"));
    }
}

fn find<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}
