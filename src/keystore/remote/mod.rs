//! The way to a key store behind HTTP: connections that are kept, deadlines, a few retries, and errors
//! that say what was asked and what to look at.

mod no_answer;
mod trust;

use std::{
    ops::Range,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use ureq::http::{Response, Uri};

pub(super) use crate::web::escape::segment as escape;
use crate::{
    base::{deadline::Deadline, secret::Secret},
    tls::{self, Anchors, words::Hints},
    web::agent::{self, Agent, Options},
};
pub(super) use no_answer::NoAnswer;
use trust::SetupError;
pub(super) use trust::authorities;

/// A connection must be made within this time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// One try may take no longer than this, whatever the deadline.
const TRY_TIMEOUT: Duration = Duration::from_secs(60);
/// What follows the first try, where a retry does no harm.
const RETRIES: u32 = 2;
/// The longest text of a key store in an error, in characters.
pub(super) const MAX_SAID: usize = 200;

/// What there is to know about a key store before it is asked anything.
pub(super) struct Site<'a> {
    /// An http or https URL without a trailing slash.
    pub(super) endpoint: &'a str,
    /// The files with the certificate to show and its private key.
    pub(super) client_cert: Option<(&'a Path, &'a Path)>,
    /// A file or a directory of PEM files to trust instead of the system's authorities.
    pub(super) ca: Option<&'a Path>,
    /// Where all this comes from, for error texts.
    pub(super) fields: Fields,
    /// Milliseconds to wait before a retry.
    pub(super) pause: Range<u64>,
    /// Its standby servers redirect to the active one.
    pub(super) has_standbys: bool,
}

/// The fields of the configuration that describe a [`Site`].
pub(super) struct Fields {
    /// That of `ca`.
    pub(super) ca: &'static str,
    /// What to do about the client certificate.
    pub(super) client_cert: &'static str,
}

/// A key store behind HTTP.
pub(super) struct Remote {
    endpoint: String,
    hints: Hints,
    pause: Range<u64>,
    has_standbys: bool,
    /// The connections, and how often they were replaced.
    agent: Mutex<(u64, Agent)>,
    /// The last try found nobody: then there are no retries.
    is_down: AtomicBool,
    /// Every 5xx status may pass.
    retries_all: bool,
}

/// A request.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) method: &'static str,
    /// With query; begins with a slash, and names in it are [escaped](escape).
    pub(super) path: &'a str,
    pub(super) headers: &'a [(&'static str, &'a str)],
    /// JSON.
    pub(super) body: Option<&'a Secret>,
    /// It does no harm to send it twice.
    pub(super) is_repeatable: bool,
}

/// An answer of any status.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Secret,
    /// It was not the first try: an earlier one may have taken effect.
    pub(super) is_repeat: bool,
}

impl Remote {
    /// The way to `site`; makes no connection yet.
    pub(super) fn new(site: Site<'_>) -> Result<Self, SetupError> {
        let trust = match site.ca {
            Some(path) => authorities(path)?,
            None => Anchors::of_system().0,
        };
        let client_cert = site
            .client_cert
            .map(|(cert, key)| tls::load_client_certificate(cert, key))
            .transpose()
            .map_err(SetupError::Certificate)?;
        let tls = tls::client_config(Some(trust), client_cert);
        let agent = Agent::new(Options {
            tls: Some(tls),
            proxy: None,
            connect_timeout: CONNECT_TIMEOUT,
            response_timeout: None,
        });
        Ok(Self {
            endpoint: site.endpoint.to_owned(),
            hints: Hints {
                trust: site.fields.ca,
                endpoint: "the endpoint",
                certificate: site.fields.client_cert,
                or_skip: "",
            },
            pause: site.pause,
            has_standbys: site.has_standbys,
            agent: Mutex::new((0, agent)),
            is_down: AtomicBool::new(false),
            retries_all: false,
        })
    }

    /// The same, but calls are repeated after every 5xx status, whatever it says.
    pub(super) fn retrying_all(self) -> Self {
        Self { retries_all: true, ..self }
    }

    /// The URL that `path` stands for.
    pub(super) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.endpoint)
    }

    /// Asks, and asks again where that does no harm and may help: when nobody answers, or with a 5xx
    /// status but 501. Returns by the deadline.
    pub(super) fn call(
        &self,
        call: Call<'_>,
        limit: u64,
        deadline: Deadline,
    ) -> Result<Answer, NoAnswer> {
        let is_down = self.is_down.load(Ordering::Relaxed);
        let mut tries_left = if call.is_repeatable && !is_down { RETRIES } else { 0 };
        let mut is_repeat = false;
        loop {
            let mut result = self.call_once(call, limit, deadline);
            let may_pass = match &mut result {
                Ok(answer) => {
                    self.is_down.store(false, Ordering::Relaxed);
                    answer.is_repeat = is_repeat;
                    match self.retries_all {
                        true => answer.status >= 500,
                        false => answer.is_failure() && !answer.says("sealed"),
                    }
                }
                Err(e) => e.may_pass,
            };
            if !may_pass || tries_left == 0 || !self.pause(deadline) {
                if result.is_err() {
                    self.is_down.store(true, Ordering::Relaxed);
                }
                return result;
            }
            tries_left -= 1;
            is_repeat = true;
        }
    }

    /// Asks once, whatever the answer is.
    pub(super) fn reach(&self, call: Call<'_>, deadline: Deadline) -> Result<(), NoAnswer> {
        /// A body up to this size is read, so that the connection can be used again.
        const MAX_BODY: u64 = 64 * 1024;
        let url = self.url(call.path);
        let result = self.send(&url, call, deadline);
        self.is_down.store(result.is_err(), Ordering::Relaxed);
        let _ = self.read(&url, call.method, result?, MAX_BODY);
        Ok(())
    }

    /// Waits before a retry; false if there is no time for that.
    pub(super) fn pause(&self, deadline: Deadline) -> bool {
        let Range { start, end } = self.pause;
        let random = u64::from(getrandom::u32().unwrap_or(0));
        let pause = Duration::from_millis(start + random % (end - start).max(1));
        if deadline.remaining(Instant::now()) <= pause {
            return false;
        }
        thread::sleep(pause);
        true
    }

    /// Asks once, and once more at the active server if a standby redirects there.
    fn call_once(
        &self,
        call: Call<'_>,
        limit: u64,
        deadline: Deadline,
    ) -> Result<Answer, NoAnswer> {
        let url = self.url(call.path);
        let answer = self.send(&url, call, deadline)?;
        let location = match answer.status().as_u16() {
            301 | 302 | 307 | 308 => answer.headers().get("location"),
            _ => None,
        };
        let Some(location) = location else {
            return self.read(&url, call.method, answer, limit);
        };
        let location = String::from_utf8_lossy(location.as_bytes());
        let next = match self.has_standbys {
            true => redirected(&url, &location),
            false => Err("the key store itself does not redirect"),
        };
        let next = next.map_err(|why| NoAnswer {
            // What follows the path may be secret.
            why: format!(
                "{} {url}: redirected to {:?}, which is not followed: {why}; check the endpoint, and \
                 what stands in front of the key store",
                call.method,
                clean(location.split(['?', '#']).next().unwrap_or_default())
            ),
            is_timeout: false,
            may_pass: false,
        })?;
        let answer = self.send(&next, call, deadline)?;
        self.read(&next, call.method, answer, limit)
    }

    fn send(
        &self,
        url: &str,
        call: Call<'_>,
        deadline: Deadline,
    ) -> Result<Response<ureq::Body>, NoAnswer> {
        let timeout = deadline.remaining(Instant::now()).min(TRY_TIMEOUT);
        if timeout.is_zero() {
            return Err(NoAnswer {
                why: format!("{} {url}: no time was left to ask", call.method),
                is_timeout: true,
                may_pass: false,
            });
        }
        let (number, agent) = self.lock().clone();
        let result = agent.send(agent::Call {
            method: call.method,
            url,
            headers: call.headers,
            body: call.body.map(Secret::expose),
            timeout: Some(timeout),
        });
        result.map_err(|e| {
            let no_answer = NoAnswer::new(call.method, url, &e, &self.hints);
            if no_answer.is_timeout {
                self.replace(number);
            }
            no_answer
        })
    }

    fn read(
        &self,
        url: &str,
        method: &str,
        mut answer: Response<ureq::Body>,
        limit: u64,
    ) -> Result<Answer, NoAnswer> {
        let status = answer.status().as_u16();
        let body = agent::read(&mut answer, limit)
            .map_err(|e| NoAnswer::new(method, url, &e, &self.hints))?;
        Ok(Answer { status, body: Secret::new(body), is_repeat: false })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (u64, Agent)> {
        self.agent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives up all idle connections if that was not done since they had this number: after one that
    /// was cut off, the others most likely are as well.
    fn replace(&self, number: u64) {
        let mut agent = self.lock();
        if agent.0 == number {
            *agent = (number + 1, agent.1.renewed());
        }
    }
}

impl Answer {
    /// A 5xx status that may pass.
    fn is_failure(&self) -> bool {
        self.status >= 500 && self.status != 501
    }

    /// Whether the text of an error contains `word`.
    pub(super) fn says(&self, word: &str) -> bool {
        self.status >= 400 && String::from_utf8_lossy(self.body.expose()).contains(word)
    }

    /// Reads the JSON of the answer.
    pub(super) fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T, String> {
        // The text of the parser's error may hold parts of the value.
        serde_json::from_slice(self.body.expose()).map_err(|e| {
            format!(
                "the answer is not the JSON that is expected (line {} column {})",
                e.line(),
                e.column()
            )
        })
    }
}

/// `url` at the server that `location` names, or why not there. A standby sends to the same path and
/// query at another server; whatever else redirects, a page to log in for example, must not get the
/// token and the key.
fn redirected(url: &str, location: &str) -> Result<String, &'static str> {
    const NO_URL: &str = "it is not the URL of a server";
    let (from, to) = (url.parse::<Uri>(), location.parse::<Uri>());
    let (Ok(from), Ok(to)) = (from, to) else {
        return Err(NO_URL);
    };
    let (Some(scheme), Some(authority)) = (to.scheme_str(), to.authority()) else {
        return Err(NO_URL);
    };
    if authority.host().is_empty() || authority.as_str().contains('@') {
        return Err(NO_URL);
    }
    if !(scheme == "https" || scheme == "http" && from.scheme_str() == Some("http")) {
        return Err("only https is");
    }
    // The server has taken the path apart and put it together again, with escapes of its own.
    let segments = |uri: &Uri| -> Vec<Vec<u8>> {
        let segments = uri.path().split('/');
        segments.map(|segment| percent_decode_str(segment).collect()).collect()
    };
    if segments(&from) != segments(&to) || from.query() != to.query() {
        return Err("a standby server sends to the same path and query");
    }
    let path = from.path_and_query().map_or("", |path| path.as_str());
    Ok(format!("{scheme}://{authority}{path}"))
}

/// The beginning of `text`, in one line without control characters.
pub(super) fn clean(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    let line = words.join(" ");
    match line.char_indices().nth(MAX_SAID) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

/// The JSON of `value`. Fails if a value is no text.
pub(super) fn json(value: &impl Serialize) -> Result<Secret, String> {
    let body = serde_json::to_vec(value).map_err(|e| e.to_string())?;
    Ok(Secret::new(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_to_the_same_path_and_query_at_another_server() {
        let from = "https://a:8200/v1/kv/x%2B%20y?list=true";
        for (location, to) in [
            (
                "https://b:8200/v1/kv/x%2B%20y?list=true",
                Some("https://b:8200/v1/kv/x%2B%20y?list=true"),
            ),
            // Go writes some characters as they are.
            ("https://b/v1/kv/x+%20y?list=true", Some("https://b/v1/kv/x%2B%20y?list=true")),
            ("https://b:8200/v1/kv/x%2B%20z?list=true", None),
            ("https://b:8200/v1/kv/x%2B%20y", None),
            ("https://b:8200/v1/kv/x%2B%20y?list=true&next=1", None),
            ("https://b:8200/v1%2Fkv/x%2B%20y?list=true", None),
            ("https://b:8200/v1/kv/x%2B%20y/?list=true", None),
            ("https://b:8200/?next=/v1/kv/x%2B%20y?list=true", None),
            ("https://b:8200/", None),
            ("https://c@b:8200/v1/kv/x%2B%20y?list=true", None),
            ("http://b:8200/v1/kv/x%2B%20y?list=true", None),
            ("//b/v1/kv/x%2B%20y?list=true", None),
            ("/v1/kv/x%2B%20y?list=true", None),
            ("ftp://b/v1/kv/x%2B%20y?list=true", None),
            ("https:///v1/kv/x%2B%20y?list=true", None),
            ("x", None),
            ("", None),
            ("\u{fffd}", None),
        ] {
            assert_eq!(to, redirected(from, location).ok().as_deref(), "{location:?}");
        }
        // What a standby of OpenBao 2.7.2 really sends.
        let name = escape("a+b \u{e9}%2F:@&=$,;!*()'");
        let from = format!("https://a:8200/v1/kv/{name}");
        let to = "https://127.0.0.1:30131/v1/kv/a+b%20%C3%A9%252F:@&=$,;%21%2A%28%29%27";
        let expected = format!("https://127.0.0.1:30131/v1/kv/{name}");
        assert_eq!(Ok(expected), redirected(&from, to));
        for to in ["http://b/v1/x", "https://b/v1/x"] {
            assert_eq!(Ok(to), redirected("http://a/v1/x", to).as_deref());
        }
    }
}
