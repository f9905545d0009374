//! The command line's end of the API: one server, one client certificate, requests with retries.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    fmt,
    io::{self, Read},
    thread,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use ureq::{
    Body, Timeout,
    http::{Response, Uri},
};

use super::{args::Args, output, stranger};
use crate::{
    tls::{self, ServerTrust, words::Hints},
    web::{
        agent::{self, Agent, Call, Options},
        errors, escape, proxy,
    },
};

/// What follows the first try if it fails in the network or with 503.
const RETRIES: u32 = 2;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const TOTAL_TIMEOUT: Duration = Duration::from_secs(30);
const GLANCE_TIMEOUT: Duration = Duration::from_millis(1500);
/// The largest answer, in bytes: a list of many keys.
const MAX_ANSWER: u64 = 32 << 20;

/// What of this can be set, for error texts.
const HINTS: Hints = Hints {
    trust: "SSL_CERT_FILE",
    endpoint: "KES_SERVER",
    certificate: "check KES_CLIENT_CERT and KES_CLIENT_KEY",
    or_skip: "; or use -k to skip the check",
};

/// Why there is no client, or no answer.
#[derive(Debug)]
pub(crate) enum Error {
    /// The environment is not that of a client; what is wrong with it.
    Environment(String),
    /// The server refused, with this status and these words.
    Refused(u16, String),
    /// The server could not be reached, or what answers is no kes server; why, and whether the same
    /// request may succeed a moment later.
    Failed(String, bool),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Environment(text) | Self::Refused(_, text) | Self::Failed(text, _)) = self;
        f.write_str(text)
    }
}

/// A client of one server.
pub(crate) struct Client {
    agent: Agent,
    server: String,
    /// Host and port of the proxy on the way, for messages.
    proxy: Option<String>,
    /// Why no certificate is trusted, if none is.
    no_trust: Option<String>,
    retries: u32,
    timeout: Duration,
}

/// A policy as the API has it.
#[derive(Default, Deserialize, Serialize)]
pub(crate) struct Document {
    #[serde(default)]
    pub(crate) paths: Vec<String>,
}

impl Client {
    /// The client that the environment describes, with the flags of a client command.
    ///
    /// # Errors
    /// Which variable or file is wrong.
    pub(crate) fn new(args: &Args) -> output::Result<Self> {
        Ok(Self::from_env(args.is_set("insecure"))?)
    }

    /// The client that `KES_SERVER`, `KES_CLIENT_KEY` and `KES_CLIENT_CERT` describe. `is_insecure`
    /// skips the checks of the server's certificate.
    pub(crate) fn from_env(is_insecure: bool) -> Result<Self, Error> {
        let wrong = Error::Environment;
        let (cert, key) = files_from_env().map_err(wrong)?;
        let server = server_from_env().map_err(wrong)?;
        let certificate = tls::load_client_certificate(cert.as_ref(), key.as_ref())
            .map_err(|e| wrong(format!("failed to load TLS private key or certificate: {e}")))?;
        let trust = if is_insecure { ServerTrust::Anything } else { ServerTrust::System };
        let tls =
            tls::client_config(&trust, Some(certificate)).map_err(|e| wrong(e.to_string()))?;
        let no_trust = tls.no_trust().map(str::to_owned);
        let proxy = proxy::from_env(&server.parse().unwrap_or_default())
            .map_err(|e| wrong(format!("invalid HTTPS_PROXY: {e}")))?;
        let shown = proxy.as_ref().map(|proxy| format!("{}:{}", proxy.host(), proxy.port()));
        let agent = Agent::new(Options {
            tls: Some(tls.config),
            proxy,
            connect_timeout: CONNECT_TIMEOUT,
            response_timeout: Some(TOTAL_TIMEOUT),
        });
        Ok(Self { agent, server, proxy: shown, no_trust, retries: RETRIES, timeout: TOTAL_TIMEOUT })
    }

    /// A client that gives up soon, for completion: without an answer there are no suggestions.
    pub(crate) fn glancing(self) -> Self {
        Self { retries: 0, timeout: GLANCE_TIMEOUT, ..self }
    }

    pub(crate) fn get(&self, path: &str) -> Result<Vec<u8>, Error> {
        self.send("GET", path, None)
    }

    pub(crate) fn post(&self, path: &str, body: Option<&[u8]>) -> Result<Vec<u8>, Error> {
        self.send("POST", path, body)
    }

    pub(crate) fn delete(&self, path: &str) -> Result<Vec<u8>, Error> {
        self.send("DELETE", path, None)
    }

    /// The body of an answer that has no end: read it as it comes.
    pub(crate) fn stream(&self, path: &str) -> Result<impl Read + Send + use<>, Error> {
        self.retrying(|| Ok(self.ask("GET", path, None, None)?.into_body().into_reader()))
    }

    /// The names of the keys that match `pattern`, sorted.
    pub(crate) fn keys(&self, pattern: &str) -> Result<Vec<String>, String> {
        #[derive(Deserialize)]
        struct Line {
            #[serde(alias = "Name")]
            name: String,
        }
        self.list("key", pattern, |lines| {
            let lines = serde_json::Deserializer::from_slice(lines).into_iter::<Line>();
            lines.map(|line| Ok(line?.name)).collect::<serde_json::Result<Vec<_>>>()
        })
        .map(sorted)
    }

    /// The names of the policies that match `pattern`, sorted.
    pub(crate) fn policies(&self, pattern: &str) -> Result<Vec<String>, String> {
        self.list("policy", pattern, |list| serde_json::from_slice(list)).map(sorted)
    }

    /// The identities that match `pattern` with their policies, sorted.
    pub(crate) fn identities(&self, pattern: &str) -> Result<BTreeMap<String, String>, String> {
        self.list("identity", pattern, |list| serde_json::from_slice(list))
    }

    fn list<T>(
        &self,
        api: &str,
        pattern: &str,
        read: impl Fn(&[u8]) -> serde_json::Result<T>,
    ) -> Result<T, String> {
        let answer = self.get(&path(&format!("{api}/list"), &[pattern]));
        let answer = answer.map_err(|e| e.to_string())?;
        read(&answer).map_err(|e| format!("the server sent no list: {e}"))
    }

    /// The policy of this name.
    pub(crate) fn policy(&self, name: &str) -> Result<Document, String> {
        let answer = self.get(&path("policy/read", &[name])).map_err(|e| e.to_string())?;
        serde_json::from_slice(&answer).map_err(|e| format!("the server sent no policy: {e}"))
    }

    /// Sends a request and returns the body of its answer. `path` is escaped already.
    fn send(&self, method: &str, path: &str, body: Option<&[u8]>) -> Result<Vec<u8>, Error> {
        self.retrying(|| self.read(&mut self.ask(method, path, body, Some(self.timeout))?))
    }

    fn retrying<T>(&self, send: impl Fn() -> Result<T, Error>) -> Result<T, Error> {
        let mut tries = 0;
        loop {
            match send() {
                Err(Error::Refused(503, _) | Error::Failed(_, true)) if tries < self.retries => {}
                Err(Error::Refused(status, text))
                    if tries > 0 && text == "key does already exist" =>
                {
                    let text = text + " (an earlier try may have created it, its answer was lost)";
                    return Err(Error::Refused(status, text));
                }
                end => return end,
            }
            thread::sleep(pause());
            tries += 1;
        }
    }

    /// Sends a request; the head of the answer, a success, is read. `timeout` is for all of it.
    fn ask(
        &self,
        method: &str,
        path: &str,
        body: Option<&[u8]>,
        timeout: Option<Duration>,
    ) -> Result<Response<Body>, Error> {
        let url = format!("{}{path}", self.server);
        let answer = self.agent.send(Call { method, url: &url, headers: &[], body, timeout });
        let mut answer = answer.map_err(|e| self.failed(e))?;
        if let Some(what) = stranger::behind(&answer) {
            return Err(self.stranger(&answer, &what));
        }
        match answer.status().is_success() {
            true => Ok(answer),
            false => Err(self.refused(&mut answer)),
        }
    }

    fn read(&self, answer: &mut Response<Body>) -> Result<Vec<u8>, Error> {
        agent::read(answer, MAX_ANSWER).map_err(|e| self.failed(e))
    }

    /// What a kes server says with a status that is no success, or why it is none.
    fn refused(&self, answer: &mut Response<Body>) -> Error {
        #[derive(Deserialize)]
        struct Message {
            message: String,
        }
        let content = match self.read(answer) {
            Ok(content) => content,
            Err(error) => return error,
        };
        let kind = answer.headers().get("content-type").map_or(&[][..], |kind| kind.as_bytes());
        let message = match kind.starts_with(b"application/json") {
            false => String::from_utf8_lossy(&content).into_owned(),
            true => match serde_json::from_slice::<Message>(&content) {
                Ok(json) => json.message,
                Err(_) => return self.stranger(answer, &stranger::behind_json(answer, &content)),
            },
        };
        let status = answer.status().as_u16();
        let message = match message.trim() {
            "" => format!("the server answered with status {status}"),
            stranger::NO_PAGE => {
                format!("{}: it has no such API; is it a kes server?", stranger::NO_PAGE)
            }
            message => message.to_owned(),
        };
        Error::Refused(status, message)
    }

    fn stranger(&self, answer: &Response<Body>, what: &str) -> Error {
        self.not_kes(what, answer.status().as_u16() == 503)
    }

    fn not_kes(&self, what: &str, may_pass: bool) -> Error {
        Error::Failed(format!("{}: {what}; is KES_SERVER right?", self.server), may_pass)
    }

    /// Why there was no answer, and what may help.
    fn failed(&self, error: ureq::Error) -> Error {
        let server = &self.server;
        let tls = errors::tls_error(&error);
        if let (Some(why), Some(rustls::Error::InvalidCertificate(_))) = (&self.no_trust, tls) {
            let why = format!(
                "{server}: its certificate is not trusted, as none is{why}: set SSL_CERT_FILE to its \
                 authority, or to the certificate itself{}",
                HINTS.or_skip
            );
            return Error::Failed(why, false);
        }
        let stranger = match (&self.proxy, &error) {
            (_, ureq::Error::Protocol(_)) => {
                Some("what answers there speaks TLS, but no HTTP".to_owned())
            }
            (None, _) if matches!(tls, Some(rustls::Error::InvalidMessage(_))) => {
                stranger::in_plain(server)
            }
            _ => None,
        };
        if let Some(what) = stranger {
            return self.not_kes(&what, false);
        }
        let why = match (&self.proxy, &error) {
            (proxy, ureq::Error::Io(e)) if e.kind() == io::ErrorKind::ConnectionRefused => {
                let why = match proxy {
                    None => stranger::nobody(server),
                    Some(_) => "no proxy listens there; is HTTPS_PROXY right?".to_owned(),
                };
                format!("connection refused: {why}")
            }
            _ => errors::reason(&error, &HINTS, CONNECT_TIMEOUT),
        };
        let may_pass = match &error {
            ureq::Error::Io(_) => tls.is_none(),
            ureq::Error::Timeout(Timeout::Connect | Timeout::Resolve)
            | ureq::Error::ConnectionFailed
            | ureq::Error::HostNotFound
            | ureq::Error::ConnectProxyFailed(_) => true,
            _ => false,
        };
        let through = match &self.proxy {
            None => String::new(),
            Some(proxy) => format!(" through proxy {proxy} (HTTPS_PROXY)"),
        };
        Error::Failed(format!("{server}{through}: {why}"), may_pass)
    }
}

/// The path of an API with these names, such as `/v1/key/create/my-key`.
pub(crate) fn path(api: &str, names: &[&str]) -> String {
    names.iter().fold(format!("/v1/{api}"), |path, name| path + "/" + &escape::segment(name))
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}

/// 0.2 to 1.0 seconds.
fn pause() -> Duration {
    let random = getrandom::u32().unwrap_or(0) % 800;
    Duration::from_millis(200 + u64::from(random))
}

/// The files of the client's certificate and private key.
fn files_from_env() -> Result<(OsString, OsString), String> {
    let file = |name| match env::var_os(name) {
        None => Err("not set"),
        Some(path) if path.is_empty() => Err("empty"),
        Some(path) => Ok(path),
    };
    match (file("KES_CLIENT_CERT"), file("KES_CLIENT_KEY")) {
        (Ok(cert), Ok(key)) => Ok((cert, key)),
        (Ok(_), Err(how)) => {
            Err(format!("no TLS private key. Environment variable 'KES_CLIENT_KEY' is {how}"))
        }
        (Err(how), key) => {
            let more = key.err().map(|how| {
                format!(
                    ", and 'KES_CLIENT_KEY' for the private key is {how}: they name two files, which \
                     'kes tool identity new' makes"
                )
            });
            let more = more.unwrap_or_default();
            Err(format!(
                "no TLS client certificate. Environment variable 'KES_CLIENT_CERT' is {how}{more}"
            ))
        }
    }
}

/// The URL of the server, without a trailing slash.
fn server_from_env() -> Result<String, String> {
    let text = match env::var("KES_SERVER") {
        Ok(text) if !text.trim().is_empty() => text.trim().to_owned(),
        _ => "https://127.0.0.1:7373".to_owned(),
    };
    let invalid = |why| Err(format!("invalid KES_SERVER {text:?}: {why}"));
    let url = match text.split_once("://") {
        None => format!("https://{text}"),
        Some(("https", _)) => text.clone(),
        Some(_) => return invalid("it must start with https://"),
    };
    let url = url.trim_end_matches('/').to_owned();
    match url.parse::<Uri>() {
        Ok(uri) if uri.host().is_some_and(|host| !host.is_empty()) && uri.path() == "/" => Ok(url),
        _ => invalid("it must look like https://host:7373"),
    }
}
