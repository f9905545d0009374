//! The command line's end of the API: a client certificate, servers that stand in for each other, requests
//! with retries, and answers of all generations.

use std::{
    env,
    io::{self, Read},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use rustls::{ClientConfig, sign::CertifiedKey};
use serde_json::{Value, json};
use ureq::{Body, Timeout, http::Response};

pub(crate) use super::error::Error;
use super::{
    answers::{Described, Document, Entry, List},
    args::Args,
    environment::{self, Servers, Shown},
    output, stranger,
};
use crate::{
    base::{
        generation::Generation,
        glob::{self, Effort, Pattern},
    },
    tls::{self, ClientTls, ServerTrust, words::Hints},
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
/// Replaces the trusted certificates of the system, for other programs too.
const SYSTEM_CA: &str = "SSL_CERT_FILE";
/// The largest answer, in bytes: a list of many keys.
const MAX_ANSWER: u64 = 32 << 20;

/// A client of servers that stand in for each other.
pub(crate) struct Client {
    /// At least one.
    servers: Vec<Server>,
    /// The certificate that is shown, and its identity.
    certificate: Arc<CertifiedKey>,
    identity: String,
    /// The one that answered last, which is asked first.
    current: AtomicUsize,
    /// What can be set, for error texts.
    hints: Hints,
    /// Whether a flag or variable names the servers.
    are_named: bool,
    trust: ServerTrust,
    tls: ClientTls,
    retries: u32,
    timeout: Duration,
    generation: OnceLock<Generation>,
}

/// One of them.
struct Server {
    /// Without a trailing slash.
    url: String,
    agent: Agent,
    /// Host and port of the proxy on the way, for messages.
    proxy: Option<String>,
}

/// A success, as the server sent it.
pub(crate) struct Answer {
    /// Its type is a stream of JSON values.
    is_ndjson: bool,
    pub(crate) body: Vec<u8>,
}

impl Client {
    /// The client that the flags and the environment describe; asks for the password of a private key.
    ///
    /// # Errors
    /// Which flag, variable or file is wrong.
    pub(crate) fn new(args: &Args) -> output::Result<Self> {
        Ok(Self::try_new(args)?)
    }

    /// As [`Self::new`], for a caller that words the error.
    pub(crate) fn try_new(args: &Args) -> Result<Self, Error> {
        Self::build(args, true)
    }

    fn build(args: &Args, may_ask: bool) -> Result<Self, Error> {
        let wrong = Error::Environment;
        let Shown { certificate, advice } =
            environment::certificate(args, may_ask).map_err(wrong)?;
        let Servers { urls, named, .. } = environment::servers(args).map_err(wrong)?;
        let trust = environment::trust(args).map_err(wrong)?;
        let tls = tls::client_config(&trust, Some(certificate.clone()));
        let tls = tls.map_err(|e| wrong(e.to_string()))?;
        let servers = urls.into_iter().map(|url| Server::new(url, tls.config.clone()));
        Ok(Self {
            servers: servers.collect::<Result<_, _>>()?,
            identity: tls::server_identity(&certificate),
            certificate,
            current: AtomicUsize::new(0),
            hints: Hints {
                trust: match trust {
                    ServerTrust::System if env::var_os(SYSTEM_CA).is_some() => SYSTEM_CA,
                    _ => environment::CA[0],
                },
                endpoint: named.unwrap_or("KES_SERVER"),
                certificate: advice,
                or_skip: "; or use -k to skip the check",
            },
            are_named: named.is_some(),
            trust,
            tls,
            retries: RETRIES,
            timeout: TOTAL_TIMEOUT,
            generation: OnceLock::new(),
        })
    }

    /// A client that gives up soon and asks for no password, for completion: without an answer there are
    /// no suggestions.
    pub(crate) fn glancing(args: &Args) -> Result<Self, Error> {
        Ok(Self { retries: 0, timeout: GLANCE_TIMEOUT, ..Self::build(args, false)? })
    }

    pub(crate) fn get(&self, path: &str) -> Result<Vec<u8>, Error> {
        Ok(self.send("GET", path, None)?.body)
    }

    pub(crate) fn post(&self, path: &str, body: Option<&[u8]>) -> Result<Vec<u8>, Error> {
        Ok(self.send("POST", path, body)?.body)
    }

    pub(crate) fn delete(&self, path: &str) -> Result<Vec<u8>, Error> {
        Ok(self.send("DELETE", path, None)?.body)
    }

    /// The body of an answer that has no end: read it as it comes.
    pub(crate) fn stream(&self, path: &str) -> Result<impl Read + Send + use<>, Error> {
        self.retrying(|server| {
            Ok(self.ask(server, "GET", path, None, None)?.into_body().into_reader())
        })
    }

    /// The URL of the server that answered last.
    pub(crate) fn server(&self) -> &str {
        &self.servers[self.current.load(Ordering::Relaxed)].url
    }

    /// The identity of that server.
    pub(crate) fn server_identity(&self) -> Option<String> {
        self.tls.server()
    }

    /// The generation of the server's API; one between 0.14 and the newest counts as 0.14.
    pub(crate) fn generation(&self) -> Result<Generation, Error> {
        if let Some(known) = self.generation.get() {
            return Ok(*known);
        }
        let answer = self.get("/version")?;
        let version: Value = serde_json::from_slice(&answer).unwrap_or_default();
        if !version["version"].is_string() {
            return Err(Error::Failed("the server sent no version".to_owned(), false));
        }
        Ok(self.learn(match version["commit"].is_string() {
            true => Generation::Newest,
            false => Generation::V0_14,
        }))
    }

    fn learn(&self, generation: Generation) -> Generation {
        *self.generation.get_or_init(|| generation)
    }

    /// The names of the keys that match `pattern`, sorted.
    pub(crate) fn keys(&self, pattern: &str) -> Result<Vec<String>, String> {
        self.names(List::Keys, pattern)
    }

    /// The names of the policies that match `pattern`, sorted.
    pub(crate) fn policies(&self, pattern: &str) -> Result<Vec<String>, String> {
        self.names(List::Policies, pattern)
    }

    /// The identities that match `pattern`, sorted; with their policies unless the server is of the newest
    /// generation.
    pub(crate) fn identities(&self, pattern: &str) -> Result<Vec<Entry>, String> {
        self.list(List::Identities, pattern)
    }

    /// The policy of this name.
    pub(crate) fn policy(&self, name: &str) -> Result<Document, String> {
        let answer = self.get(&path("policy/read", &[name])).map_err(|e| e.to_string())?;
        Document::read(&answer)
    }

    /// What the server says of an identity, or of the one of this client.
    pub(crate) fn describe(&self, identity: Option<&str>) -> Result<Described, String> {
        let api = match identity {
            Some(identity) => path("identity/describe", &[identity]),
            None => "/v1/identity/self/describe".to_owned(),
        };
        let identity = identity.unwrap_or(&self.identity);
        match self.get(&api) {
            Ok(answer) => Described::read(&answer),
            // 0.14 only lists those with a policy.
            Err(Error::Refused(404 | 501, text)) if text != "identity does not exist" => {
                let listed = self.identities(&glob::escape(identity))?;
                let entry = listed.into_iter().find(|entry| entry.name == identity);
                let Some(Entry { policy: Some(policy_name), is_admin, .. }) = entry else {
                    return Err("the server knows no policy of it; its root needs none".to_owned());
                };
                let json = json!({ "identity": identity, "policy": policy_name }).to_string();
                Ok(Described { json, is_admin, policy_name, ..Described::default() })
            }
            Err(e) => Err(e.to_string()),
        }
    }

    /// The identity of this client.
    pub(crate) fn identity(&self) -> &str {
        &self.identity
    }

    /// The certificate that is shown.
    pub(crate) fn certificate(&self) -> Arc<CertifiedKey> {
        self.certificate.clone()
    }

    /// A client for each of the servers, which asks it once.
    pub(crate) fn alone(mut self) -> impl Iterator<Item = Self> {
        let servers = std::mem::take(&mut self.servers);
        servers.into_iter().map(move |server| Self {
            servers: vec![server],
            certificate: self.certificate.clone(),
            identity: self.identity.clone(),
            current: AtomicUsize::new(0),
            trust: self.trust.clone(),
            tls: self.tls.clone(),
            retries: 0,
            generation: OnceLock::new(),
            ..self
        })
    }

    fn names(&self, list: List, pattern: &str) -> Result<Vec<String>, String> {
        Ok(self.list(list, pattern)?.into_iter().map(|entry| entry.name).collect())
    }

    /// The entries that match `pattern`, a glob, sorted.
    fn list(&self, list: List, pattern: &str) -> Result<Vec<Entry>, String> {
        let api = format!("{}/list", list.api());
        let page = |argument: &str| {
            let answer = self.send("GET", &path(&api, &[argument]), None)?;
            list.read(&answer.body, answer.is_ndjson).map_err(|why| Error::Failed(why, false))
        };
        // The newest generation knows prefixes only, and its keys not even with their `*`.
        let prefix = pattern.split(['*', '?', '[', '\\']).next().unwrap_or_default();
        let mut found = match page(pattern) {
            Ok(found) if found.is_newest && pattern != "*" => page(prefix),
            Err(Error::Refused(400, why)) if why.starts_with("listing pattern '") => page(prefix),
            found => found,
        }
        .map_err(|e| e.to_string())?;
        let mut entries = found.entries;
        self.learn(if found.is_newest { Generation::Newest } else { Generation::V0_14 });
        if found.is_newest {
            while let Some(next) = found.continue_at {
                found = page(&next).map_err(|e| e.to_string())?;
                // The last names may have been deleted. Servers of MinIO take the name for a prefix.
                if found.entries.is_empty() && found.continue_at.is_none() && next.contains("**") {
                    break;
                }
                let last = entries.last().map(|entry| entry.name.as_str());
                // A server that takes the name for a prefix would leave out what follows.
                let goes_on = found.entries.iter().any(|entry| !entry.name.starts_with(&next));
                if !goes_on || found.entries.first().map(|entry| entry.name.as_str()) <= last {
                    return Err(format!(
                        "the server does not go on after {} names: use a longer prefix",
                        entries.len()
                    ));
                }
                entries.append(&mut found.entries);
            }
            let glob = Pattern::parse(pattern).map_err(|e| e.to_string())?;
            let mut effort = Effort::for_names(entries.len());
            entries.retain(|entry| glob.matches(&entry.name, &mut effort));
            if effort.is_exhausted() {
                return Err("pattern takes too long to match".to_owned());
            }
        }
        entries.sort_by_cached_key(|entry| entry.name.clone());
        Ok(entries)
    }

    /// The error of a request that the newest generation does not serve, with what to do instead.
    pub(crate) fn gone(&self, error: Error, instead: &str) -> Error {
        match error {
            Error::Refused(404 | 501, _) if self.generation().is_ok_and(Generation::is_newest) => {
                let text = format!("{} can't do that while it runs: {instead}", self.server());
                Error::Refused(501, text)
            }
            error => error,
        }
    }

    /// The error of a request that only newer servers serve.
    pub(crate) fn too_old(&self, error: Error) -> Error {
        match error {
            Error::Refused(404, text)
                if text.starts_with(stranger::NO_PAGE) && self.generation().is_ok() =>
            {
                let text = format!("{} is too old for this: it has no such API", self.server());
                Error::Refused(501, text)
            }
            error => error,
        }
    }

    /// Sends a request and returns its answer. `path` is escaped already.
    pub(crate) fn send(
        &self,
        method: &str,
        path: &str,
        body: Option<&[u8]>,
    ) -> Result<Answer, Error> {
        self.retrying(|server| {
            let mut answer = self.ask(server, method, path, body, Some(self.timeout))?;
            let kind = answer.headers().get("content-type");
            let is_ndjson =
                kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/x-ndjson"));
            Ok(Answer { is_ndjson, body: self.read(server, &mut answer)? })
        })
    }

    /// Asks one server after the other, and all of them again after a pause.
    fn retrying<T>(&self, send: impl Fn(&Server) -> Result<T, Error>) -> Result<T, Error> {
        let count = self.servers.len();
        let mut round = 0;
        let mut is_first = true;
        loop {
            let start = self.current.load(Ordering::Relaxed);
            let mut errors = Vec::new();
            for at in (0..count).map(|step| (start + step) % count) {
                match send(&self.servers[at]) {
                    Err(error) if error.is_of_server() => errors.push(error),
                    end => {
                        self.current.store(at, Ordering::Relaxed);
                        return end.map_err(|error| error.after_others(is_first));
                    }
                }
                is_first = false;
            }
            if round == self.retries || !errors.iter().any(Error::may_pass) {
                return Err(Error::of_all(errors));
            }
            thread::sleep(pause());
            round += 1;
        }
    }

    /// Sends a request; the head of the answer, a success, is read. `timeout` is for all of it.
    fn ask(
        &self,
        server: &Server,
        method: &str,
        path: &str,
        body: Option<&[u8]>,
        timeout: Option<Duration>,
    ) -> Result<Response<Body>, Error> {
        let url = format!("{}{path}", server.url);
        let answer = server.agent.send(Call { method, url: &url, headers: &[], body, timeout });
        let mut answer = answer.map_err(|e| self.failed(server, e))?;
        if let Some(what) = stranger::behind(&answer) {
            return Err(self.stranger(server, &answer, &what));
        }
        match answer.status().is_success() {
            true => Ok(answer),
            false => Err(self.refused(server, &mut answer)),
        }
    }

    fn read(&self, server: &Server, answer: &mut Response<Body>) -> Result<Vec<u8>, Error> {
        agent::read(answer, MAX_ANSWER).map_err(|e| self.failed(server, e))
    }

    /// What a kes server says with a status that is no success, or why it is none.
    fn refused(&self, server: &Server, answer: &mut Response<Body>) -> Error {
        let content = match self.read(server, answer) {
            Ok(content) => content,
            Err(error) => return error,
        };
        let kind = answer.headers().get("content-type").map_or(&[][..], |kind| kind.as_bytes());
        let message = match kind.starts_with(b"application/json") {
            false => String::from_utf8_lossy(&content).into_owned(),
            true => {
                let json: Value = serde_json::from_slice(&content).unwrap_or_default();
                let text = json["message"].as_str().or(json["error"].as_str());
                let Some(text) = text else {
                    return self.stranger(server, answer, &stranger::behind_json(answer, &content));
                };
                text.to_owned()
            }
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

    fn stranger(&self, server: &Server, answer: &Response<Body>, what: &str) -> Error {
        self.not_kes(server, what, answer.status().as_u16() == 503)
    }

    fn not_kes(&self, server: &Server, what: &str, may_pass: bool) -> Error {
        let (url, endpoint) = (&server.url, self.hints.endpoint);
        Error::Failed(format!("{url}: {what}; is {endpoint} right?"), may_pass)
    }

    /// The identity of the server that was refused, and how to trust it.
    fn introduction(&self) -> String {
        match (&self.trust, self.tls.server()) {
            // It was compared with another one.
            (ServerTrust::Identity(_), _) | (_, None) => String::new(),
            (_, Some(identity)) => format!(
                "\nThe server has the identity {identity}.\nCompare it with the one that the server \
                 prints when it starts, or 'kes identity of' for its certificate there. Only if they \
                 are the same, trust it:\n    export KES_SERVER_IDENTITY={identity}"
            ),
        }
    }

    /// Why there was no answer, and what may help.
    fn failed(&self, server: &Server, error: ureq::Error) -> Error {
        let Server { url, proxy, .. } = server;
        let through = match proxy {
            None => String::new(),
            Some(proxy) => format!(" through proxy {proxy} (HTTPS_PROXY)"),
        };
        let tls = errors::tls_error(&error);
        if let Some(rustls::Error::InvalidCertificate(_)) = tls {
            let why = match self.tls.no_trust() {
                None => errors::reason(&error, &self.hints, CONNECT_TIMEOUT),
                Some(why) => format!(
                    "its certificate is not trusted, as none is{why}: set {} to its authority, or to \
                     the certificate itself{}",
                    self.hints.trust, self.hints.or_skip
                ),
            };
            return Error::Failed(format!("{url}{through}: {why}{}", self.introduction()), false);
        }
        let stranger = match (proxy, &error) {
            (_, ureq::Error::Protocol(_)) => {
                Some("what answers there speaks TLS, but no HTTP".to_owned())
            }
            (None, _) if matches!(tls, Some(rustls::Error::InvalidMessage(_))) => {
                stranger::in_plain(url)
            }
            _ => None,
        };
        if let Some(what) = stranger {
            return self.not_kes(server, &what, false);
        }
        let why = match (proxy, &error) {
            (proxy, ureq::Error::Io(e)) if e.kind() == io::ErrorKind::ConnectionRefused => {
                let why = match proxy {
                    None => stranger::nobody(url, self.hints.endpoint, self.are_named),
                    Some(_) => "no proxy listens there; is HTTPS_PROXY right?".to_owned(),
                };
                format!("connection refused: {why}")
            }
            _ => errors::reason(&error, &self.hints, CONNECT_TIMEOUT),
        };
        let may_pass = match &error {
            ureq::Error::Io(_) => tls.is_none(),
            // One that hangs has had its time.
            ureq::Error::Timeout(Timeout::Resolve)
            | ureq::Error::ConnectionFailed
            | ureq::Error::HostNotFound
            | ureq::Error::ConnectProxyFailed(_) => true,
            _ => false,
        };
        Error::Failed(format!("{url}{through}: {why}"), may_pass)
    }
}

impl Server {
    /// # Errors
    /// If the proxy on the way is none.
    fn new(url: String, tls: Arc<ClientConfig>) -> Result<Self, Error> {
        let proxy =
            proxy::from_env(&url.parse().unwrap_or_default()).map_err(Error::Environment)?;
        let shown = proxy.as_ref().map(|proxy| format!("{}:{}", proxy.host(), proxy.port()));
        let agent = Agent::new(Options {
            tls: Some(tls),
            proxy,
            connect_timeout: CONNECT_TIMEOUT,
            response_timeout: Some(TOTAL_TIMEOUT),
        });
        Ok(Self { url, agent, proxy: shown })
    }
}

/// The path of an API with these names, such as `/v1/key/create/my-key`.
pub(crate) fn path(api: &str, names: &[&str]) -> String {
    names.iter().fold(format!("/v1/{api}"), |path, name| path + "/" + &escape::segment(name))
}

/// 0.2 to 1.0 seconds.
fn pause() -> Duration {
    let random = getrandom::u32().unwrap_or(0) % 800;
    Duration::from_millis(200 + u64::from(random))
}
