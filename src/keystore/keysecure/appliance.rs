//! Requests to the appliance, logins, and what refusals mean.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    base::{deadline::Deadline, secret::Secret},
    keystore::{
        remote::{self, Answer, Call, Failed, Remote, clean, take},
        store::Error,
        token::{Authority, Lease, MAX_LIFETIME, NoLease, Refusal, Token},
    },
    tls,
    tls::words::Hints,
};

const TOKENS: &str = "/api/v1/auth/tokens";
/// A call with its repetitions may take no longer than this, whatever the deadline.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// How to reach and use KeySecure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// An http or https URL without credentials and trailing slash.
    pub endpoint: String,
    /// The refresh token.
    pub token: Secret,
    /// The domain; the root domain if empty.
    pub domain: String,
    /// The time between login attempts; 5 s by default. Never zero.
    pub retry: Duration,
    /// A file or a directory of PEM files to trust instead of the system's authorities.
    pub ca: Option<PathBuf>,
}

/// An appliance, or a cluster of them.
pub(crate) struct Appliance {
    pub(crate) remote: Remote,
    pub(crate) settings: Settings,
}

impl Appliance {
    pub(crate) fn new(settings: &Settings) -> Result<Self, tls::Error> {
        let remote = Remote::new(remote::Settings {
            endpoint: &settings.endpoint,
            client_cert: None,
            ca: settings.ca.as_deref(),
            hints: Hints {
                trust: "gemalto.keysecure.tls.ca",
                endpoint: "the endpoint",
                certificate: "gemalto.keysecure has no field for one, so let it do without",
                or_skip: "",
            },
            pause: 200..1000,
            has_standbys: false,
            may_pass: |answer| answer.status >= 500,
        })?;
        Ok(Self { remote, settings: settings.clone() })
    }

    pub(crate) fn ask(
        &self,
        call: Call<'_>,
        token: Option<&Token>,
        deadline: Deadline,
    ) -> Result<Answer, Failed> {
        let header = token.map(|token| ("Authorization", token.text()));
        let deadline = deadline.min(Deadline::after(Instant::now(), CALL_TIMEOUT));
        self.remote.call(Call { headers: header.as_slice(), ..call }, deadline)
    }

    /// What the appliance said, and what to check. `right` is what the user must be allowed to do.
    pub(crate) fn refusal(&self, answer: &Answer, right: &str) -> Failed {
        let is_login = answer.path == TOKENS;
        let domain = match self.settings.domain.as_str() {
            "" => "the root domain".to_owned(),
            domain => format!("domain {domain:?}"),
        };
        let hint = match answer.status {
            _ if is_login && is_refused(answer.status) => {
                "check gemalto.keysecure.credentials.token and gemalto.keysecure.credentials.domain"
                    .to_owned()
            }
            401 => "is the user of gemalto.keysecure.credentials.token still allowed to log in?"
                .to_owned(),
            403 => format!("may the user of the refresh token {right} secrets in {domain}?"),
            300..=399 | 404 | 405 => "the API is not there: check gemalto.keysecure.endpoint, and \
                                      what stands in front of the appliance"
                .to_owned(),
            409 => "this is no answer of an appliance: check gemalto.keysecure.endpoint, and what \
                    stands in front of it"
                .to_owned(),
            413 | 422 => "does the appliance limit the size or the names of secrets?".to_owned(),
            429 => "it gets more calls than it allows".to_owned(),
            500.. => "look at the state and the logs of the appliance".to_owned(),
            _ => "is it a KeySecure or CipherTrust appliance?".to_owned(),
        };
        answer.refusal(&said(answer), &hint)
    }

    fn log_in(&self, deadline: Deadline) -> Result<Lease, (Failed, Refusal)> {
        let answer = self.ask_to_log_in(deadline).map_err(|failed| (failed, Refusal::No))?;
        if answer.status != 200 {
            let refusal = match is_refused(answer.status) {
                true => Refusal::Yes,
                false => Refusal::No,
            };
            return Err((self.refusal(&answer, "log in"), refusal));
        }
        lease(&answer).map_err(|failed| (failed, Refusal::No))
    }

    /// Sends the refresh token.
    fn ask_to_log_in(&self, deadline: Deadline) -> Result<Answer, Failed> {
        let Settings { token, domain, .. } = &self.settings;
        let token = str::from_utf8(token.expose())
            .map_err(|_| Failed::Other("the refresh token is not text".to_owned()))?;
        let body = remote::json(&json!({
            "grant_type": "refresh_token", "refresh_token": token, "domain": domain
        }));
        self.ask(Call::new("POST", TOKENS).with(&body).hiding(&self.settings.token), None, deadline)
    }
}

impl Authority for Arc<Appliance> {
    fn login(&self, deadline: Deadline) -> Result<Lease, NoLease> {
        self.log_in(deadline).map_err(NoLease::during("renew auth token"))
    }

    /// There is no renewal: the same refresh token gives a new token.
    fn renew(&self, _: &Token, deadline: Deadline) -> Result<Lease, Error> {
        self.login(deadline).map_err(|denied| denied.error)
    }
}

/// Whether this status of a login is about the credentials.
fn is_refused(status: u16) -> bool {
    [400, 401, 403, 422].contains(&status)
}

/// Reads the answer to a login. The secret of the lease is the value of the header `Authorization`.
pub(crate) fn lease(answer: &Answer) -> Result<Lease, Failed> {
    let mut login: Value = answer.json()?;
    let mut text = |pointer| match take(&mut login, pointer) {
        Value::String(text) => text,
        _ => String::new(),
    };
    let (jwt, token_type) = (text("/jwt"), text("/token_type"));
    let duration = login.get("duration").map_or(Some(0), Value::as_i64);
    let fail = |why: &str| Err(answer.unusable(why));
    if jwt.is_empty() {
        return fail("server response does not contain an auth token");
    }
    if token_type != "Bearer" {
        let found = clean(&token_type);
        let is_word = found.len() <= 20 && found.bytes().all(|byte| byte.is_ascii_alphabetic());
        // It may be the token.
        let is_other = found.is_empty() || !jwt.contains(&found) && !found.contains(&jwt);
        let found = if is_word && is_other { found.as_str() } else { "..." };
        return fail(&format!("unexpected auth token type '{found}'"));
    }
    let Some(duration) = duration else {
        return fail("the duration of the auth token is no whole number");
    };
    if duration <= 0 {
        return fail(&format!("invalid auth token expiry '{duration}'"));
    }
    if !jwt.bytes().all(|byte| byte.is_ascii_graphic()) {
        return fail("the auth token has characters that no header can hold");
    }
    let lifetime = Duration::from_secs(duration.unsigned_abs());
    Ok(Lease {
        token: Some(Secret::new(format!("Bearer {jwt}").into_bytes())),
        lifetime: Some(lifetime.min(MAX_LIFETIME)),
        is_renewable: false,
    })
}

/// The text and the number of an error of the appliance, which alone has both.
fn error(answer: &Answer) -> Option<(String, i64)> {
    let mut json = answer.json().ok()?;
    match take(&mut json, "/codeDesc") {
        Value::String(text) => Some((text, json.get("code")?.as_i64()?)),
        _ => None,
    }
}

/// Whether the appliance itself answers with `status`: something in front of it may do so as well, but
/// knows nothing of secrets.
pub(crate) fn says(answer: &Answer, status: u16) -> bool {
    answer.status == status && error(answer).is_some()
}

/// What the appliance, or a proxy in front of it, says in an answer that is an error.
pub(crate) fn said(answer: &Answer) -> String {
    if answer.status < 300 {
        return String::new();
    }
    match error(answer) {
        Some((text, code)) => format!("{} ({code})", clean(&text)),
        None => answer.text(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_gives_a_token_for_a_while() {
        let found = lease(&Answer::fake(
            200,
            r#"{"jwt":"a.b.c","token_type":"Bearer","duration":300,"client_id":"x"}"#,
        ))
        .unwrap();
        assert_eq!(b"Bearer a.b.c", found.token.as_ref().unwrap().expose());
        assert_eq!(Some(Duration::from_secs(300)), found.lifetime);
        assert!(!found.is_renewable);
        let longest = format!(r#"{{"jwt":"a","token_type":"Bearer","duration":{}}}"#, i64::MAX);
        let found = lease(&Answer::fake(200, &longest)).unwrap();
        assert_eq!(Some(MAX_LIFETIME), found.lifetime);
    }

    #[test]
    fn logins_without_a_usable_token_are_errors() {
        let not_json = "the answer is not the JSON that is expected";
        for (body, why) in [
            ("{}", "server response does not contain an auth token"),
            (
                r#"{"jwt":"","token_type":"Bearer","duration":1}"#,
                "server response does not contain an auth token",
            ),
            (
                r#"{"jwt":"x","token_type":"bearer","duration":1}"#,
                "unexpected auth token type 'bearer'",
            ),
            (r#"{"jwt":"a","duration":1}"#, "unexpected auth token type ''"),
            (
                r#"{"jwt":"a.b.secret","token_type":"secret","duration":1}"#,
                "unexpected auth token type '...'",
            ),
            (
                r#"{"jwt":"secret","token_type":"XsecretY","duration":1}"#,
                "unexpected auth token type '...'",
            ),
            (r#"{"jwt":"a","token_type":"Bearer","duration":0}"#, "invalid auth token expiry '0'"),
            (
                r#"{"jwt":"a","token_type":"Bearer","duration":-3}"#,
                "invalid auth token expiry '-3'",
            ),
            (
                r#"{"jwt":"a\nb","token_type":"Bearer","duration":1}"#,
                "the auth token has characters that no header can hold",
            ),
            (
                r#"{"jwt":"a","token_type":"Bearer","duration":"1"}"#,
                "the duration of the auth token is no whole number",
            ),
            ("\n<html>", "the answer is a web page, and not JSON"),
            ("", not_json),
        ] {
            let found = lease(&Answer::fake(200, body)).unwrap_err();
            let Failed::Other(found) = found else { panic!("{found:?}") };
            let found = found.strip_prefix("GET https://example.com/: ").unwrap();
            assert!(found.starts_with(why), "{body}: {found}");
        }
    }

    #[test]
    fn what_an_appliance_says_is_one_short_line() {
        let json = r#"{"code":11,"codeDesc":"NCERRConflict: Resource\n already\u0007 exists"}"#;
        assert_eq!("NCERRConflict: Resource already exists (11)", said(&Answer::fake(409, json)));
        assert_eq!("401 Unauthorized", said(&Answer::fake(401, "\r\n 401\tUnauthorized\n\n")));
        assert_eq!(
            r#"{"code":1}"#,
            said(&Answer::fake(400, r#"{"code":1}"#)),
            "it is no error of the appliance"
        );
        let long = said(&Answer::fake(502, &"\u{e9}".repeat(1000)));
        assert_eq!("\u{e9}".repeat(200) + "...", long);
        assert_eq!("", said(&Answer::fake(200, "a value")), "it may be a value");
        assert_eq!("", said(&Answer::fake(503, "")));
    }

    #[test]
    fn only_the_appliance_itself_says_that_there_is_no_secret() {
        let own = r#"{"code":6,"codeDesc":"NCERRResourceNotFound: Resource not found"}"#;
        assert!(says(&Answer::fake(404, own), 404));
        assert!(!says(&Answer::fake(409, own), 404));
        for other in [
            "",
            "404 page not found\n",
            "<html></html>",
            "{}",
            "[]",
            "null",
            r#"{"code":404}"#,
            r#"{"codeDesc":"x"}"#,
            r#"{"code":"404","codeDesc":"x"}"#,
            r#"{"code":404,"message":"no route"}"#,
            r#"{"code":6,"codeDesc":"NCERRResourceNotFound: Resource not f"#,
        ] {
            assert!(!says(&Answer::fake(404, other), 404), "{other}");
        }
    }

    #[test]
    fn nothing_secret_is_printed() {
        let settings = Settings {
            endpoint: "https://keysecure.example.com".to_owned(),
            token: Secret::new(b"refresh-me".to_vec()),
            domain: "root".to_owned(),
            retry: Duration::from_secs(5),
            ca: None,
        };
        assert!(!format!("{settings:?}").contains("refresh-me"));
    }
}
