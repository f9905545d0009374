//! The command line's end of the API: one server, one client certificate, requests with retries.

mod stranger;

use std::{
    env, fmt,
    io::{self, Read},
    net::IpAddr,
    path::PathBuf,
    thread,
    time::Duration,
};

use serde::Deserialize;
use ureq::{
    Body, Proxy, ProxyProtocol, Timeout,
    http::{Response, Uri},
};

pub use crate::web::escape::segment as escape;
use crate::{
    tls::{self, Anchors, words::Hints},
    web::{
        agent::{self, Agent, Call, Options},
        errors,
    },
};

/// What follows the first try if it fails in the network or with 503.
const RETRIES: u32 = 2;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const TOTAL_TIMEOUT: Duration = Duration::from_secs(30);
const GLANCE_TIMEOUT: Duration = Duration::from_millis(1500);

/// What of this can be set, for error texts.
const HINTS: Hints = Hints {
    trust: "SSL_CERT_FILE",
    endpoint: "KES_SERVER",
    certificate: "check KES_CLIENT_CERT and KES_CLIENT_KEY",
    or_skip: "; or use -k to skip the check",
};

/// The largest answer but for lists, in bytes.
pub const MAX_ANSWER: u64 = 1 << 20;
/// The largest list, in bytes.
pub const MAX_LIST: u64 = 32 << 20;

/// Why there is no client, or no answer.
#[derive(Debug)]
pub enum Error {
    /// Environment variables that name files are missing.
    NotSet(NotSet, Option<NotSet>),
    /// Certificate and private key can't be used.
    Certificate(tls::Error),
    /// No certificate of any server is trusted, so not that of this one; with why, if that is known.
    NoTrust(String, String),
    /// `KES_SERVER` is not the URL of a server.
    Server(String, &'static str),
    /// `HTTPS_PROXY` is not the URL of a proxy.
    Proxy(&'static str),
    /// The server refused; its words.
    Refused(String),
    /// What answers at this server's URL is no kes server; what it is, and whether it may be gone a
    /// moment later.
    Stranger(String, String, bool),
    /// The server could not be reached, or did not answer properly. With the proxy on the way.
    Network(String, Option<String>, ureq::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSet(one, other) => {
                let NotSet { name, what, how } = one;
                write!(f, "no TLS {what}. Environment variable '{name}' is {how}")?;
                match other {
                    None => Ok(()),
                    Some(NotSet { name, what, how }) => write!(
                        f,
                        ", and '{name}' for the {what} is {how}: they name two files, which 'kes tool \
                         identity new' makes"
                    ),
                }
            }
            Self::Certificate(e) => write!(f, "failed to load TLS private key or certificate: {e}"),
            Self::NoTrust(server, why) => write!(
                f,
                "{server}: its certificate is not trusted, as none is{why}: set SSL_CERT_FILE to its \
                 authority, or to the certificate itself{}",
                HINTS.or_skip
            ),
            Self::Server(url, why) => write!(f, "invalid KES_SERVER {url:?}: {why}"),
            // The URL may hold a password, so it is not shown.
            Self::Proxy(e) => write!(f, "invalid HTTPS_PROXY: {e}"),
            Self::Refused(text) => f.write_str(text),
            Self::Stranger(server, what, _) => write!(f, "{server}: {what}; is KES_SERVER right?"),
            Self::Network(server, None, e) => write!(f, "{server}: {}", reason(e, Some(server))),
            Self::Network(server, Some(proxy), e) => {
                write!(f, "{server} through proxy {proxy} (HTTPS_PROXY): {}", reason(e, None))
            }
        }
    }
}

/// An environment variable that does not name a file.
#[derive(Debug)]
pub struct NotSet {
    name: &'static str,
    what: &'static str,
    /// `not set` or `empty`.
    how: &'static str,
}

impl Error {
    /// Whether the same request may succeed a moment later.
    fn may_pass(&self) -> bool {
        let e = match self {
            Self::Network(_, _, e) => e,
            Self::Stranger(_, _, may_pass) => return *may_pass,
            _ => return false,
        };
        match e {
            ureq::Error::Io(_) => errors::tls_error(e).is_none(),
            ureq::Error::Timeout(Timeout::Connect | Timeout::Resolve)
            | ureq::Error::ConnectionFailed
            | ureq::Error::HostNotFound
            | ureq::Error::ConnectProxyFailed(_) => true,
            _ => false,
        }
    }
}

/// Why a request failed in the network, and what may help; `server` is its URL if no proxy is on the way.
fn reason(error: &ureq::Error, server: Option<&str>) -> String {
    match error {
        ureq::Error::Io(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            let why = match server {
                None => "no proxy listens there; is HTTPS_PROXY right?".to_owned(),
                Some(server) => stranger::nobody(server),
            };
            format!("connection refused: {why}")
        }
        e => errors::reason(e, &HINTS, CONNECT_TIMEOUT),
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Certificate(e) => Some(e),
            Self::Network(_, _, e) => Some(e),
            _ => None,
        }
    }
}

/// A client of one server.
pub struct Client {
    agent: Agent,
    server: String,
    /// Host and port of the proxy on the way, for messages.
    proxy: Option<String>,
    /// Why no certificate is trusted, if none is.
    no_trust: Option<String>,
}

impl Client {
    /// The client that the environment describes: `KES_SERVER`, `KES_CLIENT_KEY`, `KES_CLIENT_CERT`.
    /// `is_insecure` skips the checks of the server's certificate.
    ///
    /// # Errors
    /// [`Error`] says which variable or file is wrong.
    pub fn from_env(is_insecure: bool) -> Result<Self, Error> {
        let cert = file_from_env("KES_CLIENT_CERT", "client certificate");
        let key = file_from_env("KES_CLIENT_KEY", "private key");
        let (cert, key) = match (cert, key) {
            (Ok(cert), Ok(key)) => (cert, key),
            (Err(cert), key) => return Err(Error::NotSet(cert, key.err())),
            (_, Err(key)) => return Err(Error::NotSet(key, None)),
        };
        let server = server_from_env()?;
        let certificate = tls::load_client_certificate(&cert, &key).map_err(Error::Certificate)?;
        let store = (!is_insecure).then(Anchors::of_system);
        let (trust, why) = store.unzip();
        let no_trust = why.filter(|_| trust.as_ref().is_some_and(Anchors::is_empty));
        let tls = tls::client_config(trust, Some(certificate));
        let proxy = proxy_from_env(&server)?;
        let shown = proxy.as_ref().map(|proxy| format!("{}:{}", proxy.host(), proxy.port()));
        let agent = Agent::new(Options {
            tls: Some(tls),
            proxy,
            connect_timeout: CONNECT_TIMEOUT,
            response_timeout: Some(TOTAL_TIMEOUT),
        });
        Ok(Self { agent, server, proxy: shown, no_trust })
    }

    /// Sends a request and returns the body of its answer, at most `limit` bytes. `path` is escaped
    /// already.
    ///
    /// # Errors
    /// [`Error::Refused`] with the server's words, or [`Error::Network`].
    pub fn send(
        &self,
        method: &str,
        path: &str,
        body: Option<&[u8]>,
        limit: u64,
    ) -> Result<Vec<u8>, Error> {
        let mut tries_left = RETRIES;
        loop {
            match self.try_once(method, path, body, limit) {
                Ok((503, _)) if tries_left > 0 => {
                    tries_left -= 1;
                    thread::sleep(pause());
                }
                Err(e) if tries_left > 0 && e.may_pass() => {
                    tries_left -= 1;
                    thread::sleep(pause());
                }
                Ok((200..=299, body)) => return Ok(body),
                Ok((_, message)) => {
                    let mut text = String::from_utf8_lossy(&message).trim().to_owned();
                    if tries_left < RETRIES && text == "key does already exist" {
                        text += " (an earlier try may have created it, its answer was lost)";
                    }
                    return Err(Error::Refused(text));
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// The body of an answer that has no end: read it as it comes.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub fn stream(&self, path: &str) -> Result<impl Read + Send + use<>, Error> {
        let mut tries_left = RETRIES;
        loop {
            match self.ask("GET", path, None, None) {
                Ok(answer) if answer.status().is_success() => {
                    return Ok(answer.into_body().into_reader());
                }
                Ok(answer) => {
                    let (status, message) = self.read(answer, MAX_ANSWER)?;
                    if status != 503 || tries_left == 0 {
                        let message = String::from_utf8_lossy(&message);
                        return Err(Error::Refused(message.into_owned()));
                    }
                }
                Err(e) if tries_left == 0 || !e.may_pass() => return Err(e),
                Err(_) => {}
            }
            tries_left -= 1;
            thread::sleep(pause());
        }
    }

    /// As [`Client::send`] for a `GET`, but gives up soon: for what nobody waits for.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub fn glance(&self, path: &str, limit: u64) -> Result<Vec<u8>, Error> {
        let answer = self.ask("GET", path, None, Some(GLANCE_TIMEOUT))?;
        match self.read(answer, limit)? {
            (200..=299, body) => Ok(body),
            (_, message) => Err(Error::Refused(String::from_utf8_lossy(&message).into_owned())),
        }
    }

    /// The status with the body, or with the message if it is an error.
    fn try_once(
        &self,
        method: &str,
        path: &str,
        body: Option<&[u8]>,
        limit: u64,
    ) -> Result<(u16, Vec<u8>), Error> {
        let answer = self.ask(method, path, body, Some(TOTAL_TIMEOUT))?;
        self.read(answer, limit)
    }

    fn failed(&self, error: ureq::Error) -> Error {
        if let (Some(why), Some(rustls::Error::InvalidCertificate(_))) =
            (&self.no_trust, errors::tls_error(&error))
        {
            return Error::NoTrust(self.server.clone(), why.clone());
        }
        let stranger = match (&self.proxy, &error) {
            (_, ureq::Error::Protocol(_)) => {
                Some("what answers there speaks TLS, but no HTTP".to_owned())
            }
            (None, e) if matches!(errors::tls_error(e), Some(rustls::Error::InvalidMessage(_))) => {
                stranger::in_plain(&self.server)
            }
            _ => None,
        };
        match stranger {
            Some(what) => Error::Stranger(self.server.clone(), what, false),
            None => Error::Network(self.server.clone(), self.proxy.clone(), error),
        }
    }

    /// Sends a request; the head of the answer is read. `timeout` is for all of it.
    fn ask(
        &self,
        method: &str,
        path: &str,
        body: Option<&[u8]>,
        timeout: Option<Duration>,
    ) -> Result<Response<Body>, Error> {
        let url = format!("{}{path}", self.server);
        let answer = self.agent.send(Call { method, url: &url, headers: &[], body, timeout });
        let answer = answer.map_err(|e| self.failed(e))?;
        match stranger::behind(&answer) {
            Some(what) => Err(self.stranger(&answer, what)),
            None => Ok(answer),
        }
    }

    fn stranger(&self, answer: &Response<Body>, what: String) -> Error {
        let may_pass = answer.status().as_u16() == 503;
        Error::Stranger(self.server.clone(), what, may_pass)
    }

    /// The status with the body, or with the message if it is an error.
    fn read(&self, mut answer: Response<Body>, limit: u64) -> Result<(u16, Vec<u8>), Error> {
        let status = answer.status().as_u16();
        let is_json = answer
            .headers()
            .get("content-type")
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
        let content = agent::read(&mut answer, limit).map_err(|e| self.failed(e))?;
        if status < 300 {
            return Ok((status, content));
        }
        #[derive(Deserialize)]
        struct Message {
            message: String,
        }
        let message = match serde_json::from_slice::<Message>(&content) {
            Ok(json) if is_json => json.message,
            Err(_) if is_json => {
                return Err(self.stranger(&answer, stranger::behind_json(&answer, &content)));
            }
            _ => String::from_utf8_lossy(&content).into_owned(),
        };
        let message = match message.trim() {
            "" => format!("the server answered with status {status}"),
            stranger::NO_PAGE => {
                format!("{}: it has no such API; is it a kes server?", message.trim())
            }
            _ => message,
        };
        Ok((status, message.into_bytes()))
    }
}

/// 0.2 to 1.0 seconds.
fn pause() -> Duration {
    let random = getrandom::u32().unwrap_or(0) % 800;
    Duration::from_millis(200 + u64::from(random))
}

fn file_from_env(name: &'static str, what: &'static str) -> Result<PathBuf, NotSet> {
    let not_set = |how| NotSet { name, what, how };
    match env::var_os(name) {
        None => Err(not_set("not set")),
        Some(path) if path.is_empty() => Err(not_set("empty")),
        Some(path) => Ok(path.into()),
    }
}

/// The URL of the server, without a trailing slash.
fn server_from_env() -> Result<String, Error> {
    let text = match env::var("KES_SERVER") {
        Ok(text) if !text.trim().is_empty() => text.trim().to_owned(),
        _ => "https://127.0.0.1:7373".to_owned(),
    };
    let url = match text.split_once("://") {
        None => format!("https://{text}"),
        Some(("https", _)) => text.clone(),
        Some(_) => {
            return Err(Error::Server(text, "it must start with https://"));
        }
    };
    let url = url.trim_end_matches('/').to_owned();
    match url.parse::<Uri>() {
        Ok(uri) if uri.host().is_some_and(|host| !host.is_empty()) && uri.path() == "/" => Ok(url),
        _ => Err(Error::Server(text, "it must look like https://host:7373")),
    }
}

/// The proxy on the way to `server`: none to this machine itself, as Go programs have it.
fn proxy_from_env(server: &str) -> Result<Option<Proxy>, Error> {
    let first_of = |names: [&str; 2]| {
        let mut values = names.into_iter().filter_map(|name| env::var(name).ok());
        values.find(|value| !value.is_empty())
    };
    let Some(proxy) = first_of(["HTTPS_PROXY", "https_proxy"]) else {
        return Ok(None);
    };
    let uri = server.parse::<Uri>().unwrap_or_default();
    let host = uri.host().unwrap_or_default();
    let host = host.trim_matches(['[', ']']).to_ascii_lowercase();
    let exceptions = first_of(["NO_PROXY", "no_proxy"]).unwrap_or_default();
    if is_direct(&host, uri.port_u16().unwrap_or(443), &exceptions) {
        return Ok(None);
    }
    let proxy =
        Proxy::new(&proxy).map_err(|_| Error::Proxy("it must look like http://host:3128"))?;
    match proxy.protocol() {
        ProxyProtocol::Http | ProxyProtocol::Https => Ok(Some(proxy)),
        _ => Err(Error::Proxy("it must start with http:// or https://")),
    }
}

/// Whether no proxy is used for `host`. `exceptions` are host names (with their subdomains, or only
/// these after a leading dot), addresses and networks, all but the latter with or without port.
fn is_direct(host: &str, port: u16, exceptions: &str) -> bool {
    let address = host.parse::<IpAddr>().ok();
    if host == "localhost" || address.is_some_and(|address| address.is_loopback()) {
        return true;
    }
    exceptions.split(',').any(|exception| {
        let exception = exception.trim().to_ascii_lowercase();
        if exception == "*" {
            return true;
        }
        if let (Some(address), Some((network, bits))) = (address, exception.split_once('/')) {
            return is_in_network(address, network, bits);
        }
        let name = match exception.rsplit_once(':') {
            Some((name, text)) if exception.parse::<IpAddr>().is_err() => {
                if text.parse() != Ok(port) {
                    return false;
                }
                name
            }
            _ => &exception,
        };
        let name = name.trim_matches(['[', ']']);
        let name = name.strip_prefix('*').unwrap_or(name);
        match host.strip_suffix(name) {
            _ if name.is_empty() => false,
            Some("") => true,
            Some(before) => address.is_none() && (name.starts_with('.') || before.ends_with('.')),
            None => false,
        }
    })
}

fn is_in_network(address: IpAddr, network: &str, bits: &str) -> bool {
    let (Ok(network), Ok(bits)) = (network.parse::<IpAddr>(), bits.parse::<u32>()) else {
        return false;
    };
    // Both as numbers whose first bit is the highest one.
    let (a, b, width) = match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            (u128::from(a.to_bits()) << 96, u128::from(b.to_bits()) << 96, 32)
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits(), b.to_bits(), 128),
        _ => return false,
    };
    bits <= width && (bits == 0 || (a ^ b) >> (128 - bits) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_hosts_are_reached_without_a_proxy() {
        let exceptions = "example.com, .inner.test,10.0.0.0/8,fd00::/8,192.168.1.2,odd.test:7373";
        for host in [
            "localhost",
            "127.0.0.1",
            "::1",
            "example.com",
            "kes.example.com",
            "a.inner.test",
            "10.1.2.3",
            "fd00::1",
            "192.168.1.2",
            "odd.test",
        ] {
            assert!(is_direct(host, 7373, exceptions), "{host}");
            assert!(is_direct(host, 7373, "*"), "{host}");
        }
        for host in ["badexample.com", "inner.test", "11.1.2.3", "fe00::1", "192.168.1.3", "com"] {
            assert!(!is_direct(host, 7373, exceptions), "{host}");
            assert!(!is_direct(host, 7373, ""), "{host}");
        }
        assert!(!is_direct("odd.test", 443, exceptions));
    }
}
