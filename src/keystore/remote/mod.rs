//! The HTTP side of a key store: connections that are kept, deadlines, a few retries, and errors that say
//! what was asked and what to check.

mod answer;
mod redirect;

use std::{
    ops::Range,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use serde::Serialize;
use ureq::http::Response;

use crate::{
    base::{deadline::Deadline, secret::Secret},
    tls::{self, ServerTrust, words::Hints},
    web::{
        agent::{self, Agent, Options},
        errors,
    },
};
pub(crate) use answer::{Answer, Failed, NoAnswer, clean, take};
use redirect::redirected;

/// A connection must be made within this time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that may have carried keys are closed after this time without another request for one.
const MAX_USELESS: Duration = Duration::from_secs(10);
/// One try may take no longer than this, whatever the deadline.
const TRY_TIMEOUT: Duration = Duration::from_secs(60);
/// What follows the first try, where a retry does no harm.
const RETRIES: u32 = 2;
/// The largest answer by default: a value, which is text in JSON that may write a byte with six, or
/// base64.
pub(crate) const MAX_ANSWER: u64 = 6 * crate::keystore::store::MAX_VALUE as u64 + (64 << 10);

/// How to reach a key store.
pub(crate) struct Settings<'a> {
    /// An http or https URL without a trailing slash.
    pub(crate) endpoint: &'a str,
    /// The files with the certificate to show and its private key.
    pub(crate) client_cert: Option<(&'a Path, &'a Path)>,
    /// A file or a directory of PEM files to trust instead of the system's authorities.
    pub(crate) ca: Option<&'a Path>,
    /// Fields of the configuration, for error texts.
    pub(crate) hints: Hints,
    /// Milliseconds to wait before a retry.
    pub(crate) pause: Range<u64>,
    /// Its standby servers redirect to the active one.
    pub(crate) has_standbys: bool,
    /// Which answers are worth a retry.
    pub(crate) may_pass: fn(&Answer) -> bool,
}

/// A key store behind HTTP.
pub(crate) struct Remote {
    endpoint: String,
    hints: Hints,
    pause: Range<u64>,
    has_standbys: bool,
    may_pass: fn(&Answer) -> bool,
    connections: Mutex<Connections>,
    /// The last try got no answer: then there are no retries.
    is_down: AtomicBool,
    /// Where a standby has sent the last request that may be repeated.
    active: Mutex<Option<String>>,
}

struct Connections {
    agent: Agent,
    /// How often they were replaced.
    number: u64,
    /// When the last one was asked for that may have held a key, if there was any.
    used: Option<Instant>,
}

/// A request.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) method: &'static str,
    /// With query; begins with a slash, and names in it are escaped.
    pub(crate) path: &'a str,
    pub(crate) headers: &'a [(&'a str, &'a str)],
    /// JSON.
    pub(crate) body: Option<&'a Secret>,
    /// What no error may repeat; of the headers, those with tokens are not to be repeated either.
    pub(crate) hidden: Option<&'a Secret>,
    /// It does no harm if it takes effect more than once.
    pub(crate) is_repeatable: bool,
    /// The largest answer, in bytes.
    pub(crate) limit: u64,
    /// It is about the state of the key store, and holds no key.
    pub(crate) is_look: bool,
}

impl<'a> Call<'a> {
    pub(crate) fn new(method: &'static str, path: &'a str) -> Self {
        Self {
            method,
            path,
            headers: &[],
            body: None,
            hidden: None,
            is_repeatable: true,
            limit: MAX_ANSWER,
            is_look: false,
        }
    }

    pub(crate) fn with(self, body: &'a Secret) -> Self {
        Self { body: Some(body), hidden: Some(body), ..self }
    }

    /// Of the body, no more than this is secret.
    pub(crate) fn hiding(self, secret: &'a Secret) -> Self {
        Self { hidden: Some(secret), ..self }
    }

    pub(crate) fn limit(self, limit: u64) -> Self {
        Self { limit, ..self }
    }

    pub(crate) fn once(self) -> Self {
        Self { is_repeatable: false, ..self }
    }

    pub(crate) fn look(self) -> Self {
        Self { is_look: true, ..self }
    }
}

impl Remote {
    /// Makes no connection yet.
    ///
    /// # Errors
    /// What is wrong with the client certificate or the trusted authorities.
    pub(crate) fn new(settings: Settings<'_>) -> Result<Self, tls::Error> {
        let trust = match settings.ca {
            Some(path) => ServerTrust::Files(path.to_owned()),
            None => ServerTrust::System,
        };
        let client_cert = settings.client_cert;
        let client_cert = client_cert
            .map(|(cert, key)| tls::load_client_certificate(cert, key, None))
            .transpose()?;
        let agent = Agent::new(Options {
            tls: Some(tls::client_config(&trust, client_cert)?.config),
            proxy: None,
            connect_timeout: CONNECT_TIMEOUT,
            response_timeout: None,
        });
        Ok(Self {
            endpoint: settings.endpoint.to_owned(),
            hints: settings.hints,
            pause: settings.pause,
            has_standbys: settings.has_standbys,
            may_pass: settings.may_pass,
            connections: Mutex::new(Connections { agent, number: 0, used: None }),
            is_down: AtomicBool::new(false),
            active: Mutex::default(),
        })
    }

    /// The URL that `path` stands for.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.endpoint)
    }

    /// Asks, and asks again where that does no harm and may help. Returns by the deadline.
    ///
    /// # Errors
    /// [`Failed::NoAnswer`]: why there is none, the last time.
    pub(crate) fn call(&self, call: Call<'_>, deadline: Deadline) -> Result<Answer, Failed> {
        let is_down = self.is_down.load(Relaxed);
        let mut tries_left = if call.is_repeatable && !is_down { RETRIES } else { 0 };
        loop {
            let result = self.call_once(call, deadline);
            let may_pass = match &result {
                Ok(answer) => {
                    self.is_down.store(false, Relaxed);
                    (self.may_pass)(answer)
                }
                Err(e) => e.may_pass,
            };
            if !may_pass || tries_left == 0 || !self.pause(deadline) {
                if result.is_err() {
                    self.is_down.store(true, Relaxed);
                }
                return result.map_err(Failed::NoAnswer);
            }
            tries_left -= 1;
        }
    }

    /// Asks once for anything, whatever the answer is.
    ///
    /// # Errors
    /// Why there is no answer.
    pub(crate) fn reach(&self, deadline: Deadline) -> Result<(), NoAnswer> {
        /// A body up to this size is read, so that the connection can be used again.
        const MAX_BODY: u64 = 64 * 1024;
        let call = Call::new("GET", "").limit(MAX_BODY).look();
        let result = self.send(&self.endpoint, call, deadline);
        self.is_down.store(result.is_err(), Relaxed);
        let _ = self.read(&self.endpoint, call, result?);
        Ok(())
    }

    /// Waits before a retry; false if there is no time for that.
    pub(crate) fn pause(&self, deadline: Deadline) -> bool {
        let Range { start, end } = self.pause;
        let random = u64::from(getrandom::u32().unwrap_or(0));
        let pause = Duration::from_millis(start + random % (end - start).max(1));
        if deadline.remaining(Instant::now()) <= pause {
            return false;
        }
        thread::sleep(pause);
        true
    }

    /// Asks once, and once more at the active server if a standby redirects there. A standby also redirects after it
    /// has passed a request on and got no answer, so what must not be done twice goes where the last request went
    /// in the end, and no further.
    fn call_once(&self, call: Call<'_>, deadline: Deadline) -> Result<Answer, NoAnswer> {
        let active = || self.active.lock().unwrap_or_else(PoisonError::into_inner);
        let is_repeatable = call.is_repeatable || call.is_look;
        let url = match &*active() {
            Some(active) if !is_repeatable => format!("{active}{}", call.path),
            _ => self.url(call.path),
        };
        let answer = self.send(&url, call, deadline)?;
        let location = match answer.status().as_u16() {
            301 | 302 | 307 | 308 => answer.headers().get("location"),
            _ => None,
        };
        let Some(location) = location else {
            if is_repeatable && !call.is_look {
                *active() = None;
            }
            return self.read(&url, call, answer);
        };
        let location = String::from_utf8_lossy(location.as_bytes());
        let next = match self.has_standbys {
            true => redirected(&url, &location),
            false => Err("the key store itself does not redirect"),
        };
        let why = match next {
            Ok(_) if !is_repeatable => {
                "it may have been done, and must not be done twice".to_owned()
            }
            Ok(next) => {
                if !call.is_look {
                    *active() = next.strip_suffix(call.path).map(str::to_owned);
                }
                let answer = self.send(&next, call, deadline)?;
                return self.read(&next, call, answer);
            }
            Err(why) => {
                format!("{why}; check the endpoint, and what stands in front of the key store")
            }
        };
        Err(NoAnswer {
            // The query may be secret.
            why: format!(
                "{} {url}: redirected to {:?}, which is not followed: {why}",
                call.method,
                clean(location.split(['?', '#']).next().unwrap_or_default())
            ),
            is_timeout: false,
            may_pass: false,
        })
    }

    fn send(
        &self,
        url: &str,
        call: Call<'_>,
        deadline: Deadline,
    ) -> Result<Response<ureq::Body>, NoAnswer> {
        let timeout = deadline.remaining(Instant::now()).min(TRY_TIMEOUT);
        if timeout.is_zero() {
            let why = format!("{} {url}: no time was left to ask", call.method);
            return Err(NoAnswer { why, is_timeout: true, may_pass: false });
        }
        let (number, agent) = {
            let mut connections = self.lock();
            if !call.is_look {
                connections.used = Some(Instant::now());
            }
            (connections.number, connections.agent.clone())
        };
        let result = agent.send(agent::Call {
            method: call.method,
            url,
            headers: call.headers,
            body: call.body.map(Secret::expose),
            timeout: Some(timeout),
        });
        result.map_err(|e| {
            let no_answer = self.no_answer(url, call, &e);
            if no_answer.is_timeout {
                self.replace(number);
            }
            no_answer
        })
    }

    fn read(
        &self,
        url: &str,
        call: Call<'_>,
        mut answer: Response<ureq::Body>,
    ) -> Result<Answer, NoAnswer> {
        let body = agent::read(&mut answer, call.limit);
        let body = body.map_err(|e| self.no_answer(url, call, &e))?;
        let index = answer.headers().get("x-vault-index");
        let is_token = |name: &str| ["X-Vault-Token", "Authorization"].contains(&name);
        let tokens = call.headers.iter().filter(|(name, _)| is_token(name));
        let mut hidden: Vec<_> = tokens.map(|(_, token)| token.as_bytes()).collect();
        hidden.extend(call.hidden.map(Secret::expose));
        Ok(Answer {
            asked: format!("{} {}", call.method, self.url(call.path)),
            path: call.path.to_owned(),
            status: answer.status().as_u16(),
            body: Secret::new(body),
            hidden: Secret::new(hidden.join(&b' ')),
            index: index.and_then(|index| index.to_str().ok()).map(str::to_owned),
        })
    }

    fn no_answer(&self, url: &str, call: Call<'_>, error: &ureq::Error) -> NoAnswer {
        let why = errors::reason(error, &self.hints, CONNECT_TIMEOUT);
        NoAnswer::new(error, format!("{} {url}: {why}", call.method))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the connections once no key came over them for a while: the buffers of TLS and HTTP, of which
    /// the next message writes over its own length only, are wiped when they are freed.
    pub(crate) fn tidy(&self, now: Instant) {
        let mut connections = self.lock();
        let used = connections.used;
        if used.is_some_and(|used| now.saturating_duration_since(used) >= MAX_USELESS) {
            connections.replace();
        }
    }

    /// Gives up all idle connections if that was not done since they had this number: after one that
    /// was cut off, the others most likely are as well.
    fn replace(&self, number: u64) {
        let mut connections = self.lock();
        if connections.number == number {
            connections.replace();
        }
    }
}

impl Connections {
    fn replace(&mut self) {
        *self = Self { agent: self.agent.renewed(), number: self.number + 1, used: None };
    }
}

/// Calls `read` until there is a value: servers of a cluster may need a moment to know what another has
/// written.
///
/// # Errors
/// If there is still none after two seconds, `accepted`, or why it can't be read.
pub(crate) fn read_back(
    accepted: &str,
    read: impl Fn() -> Result<Option<Secret>, Failed>,
) -> Result<Secret, Failed> {
    const MAX_LAG: Duration = Duration::from_secs(2);
    let until = Instant::now() + MAX_LAG;
    loop {
        match read()? {
            Some(found) => return Ok(found),
            None if Instant::now() >= until => {
                return Err(Failed::Other(format!("{accepted} but does not have it")));
            }
            None => thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// The JSON of a request.
pub(crate) fn json(value: &impl Serialize) -> Secret {
    Secret::new(serde_json::to_vec(value).expect("it consists of text"))
}
