//! The way to the appliance: calls, logins, and what it says.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{MAX_ANSWER, Settings};
use crate::{
    base::{deadline::Deadline, secret::Secret},
    crypto::Text,
    keystore::{
        Error,
        remote::{Answer, Call, NoAnswer, Remote, clean, json},
        token::{Authority, Lease, NoLease, Refusal, Token},
    },
};

const TOKENS: &str = "/api/v1/auth/tokens";
/// A call with its repetitions may take no longer than this, whatever the deadline.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// No token is believed to last longer.
const MAX_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// What logging in and using the appliance have in common.
pub(super) struct Appliance {
    pub(super) remote: Remote,
    pub(super) settings: Settings,
}

/// Why something was not done.
pub(super) enum Failed {
    /// There is no token to ask with.
    NoToken(Error),
    NoAnswer(NoAnswer),
    Other(String),
}

impl Failed {
    /// The reason inside, for where the rest says what everybody knows.
    pub(super) fn into_reason(self) -> Box<dyn std::error::Error + Send + Sync> {
        match self {
            Self::NoToken(e) => e.into(),
            Self::NoAnswer(e) => e.into(),
            Self::Other(why) => why.into(),
        }
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::NoToken(error)
    }
}

impl Appliance {
    pub(super) fn ask(
        &self,
        method: &'static str,
        path: &str,
        token: Option<&Token>,
        body: Option<&Secret>,
        limit: u64,
        deadline: Deadline,
    ) -> Result<Answer, Failed> {
        let header = token.map(|token| ("Authorization", token.text()));
        let call = Call { method, path, headers: header.as_slice(), body, is_repeatable: true };
        let deadline = deadline.min(Deadline::after(Instant::now(), CALL_TIMEOUT));
        let answer = self.remote.call(call, limit, deadline);
        answer.map_err(Failed::NoAnswer)
    }

    /// What the appliance said, unless it repeats a part of `secret`, and what to check. `right` is
    /// what the user must be allowed to do.
    pub(super) fn refusal(
        &self,
        method: &str,
        path: &str,
        answer: &Answer,
        right: &str,
        secret: Option<&Secret>,
    ) -> Failed {
        let is_login = path == TOKENS;
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
        let said = match said(answer) {
            said if said.is_empty() => String::new(),
            said if secret.is_some_and(|secret| holds_part(&said, secret)) => {
                ": a text that repeats what is secret".to_owned()
            }
            said => format!(": {said}"),
        };
        Failed::Other(format!(
            "{method} {}: status {}{said}: {hint}",
            self.remote.url(path),
            answer.status
        ))
    }

    pub(super) fn unusable(&self, method: &str, path: &str, why: &str) -> Failed {
        Failed::Other(format!("{method} {}: {why}", self.remote.url(path)))
    }

    fn log_in(&self, deadline: Deadline) -> Result<Lease, (Failed, Refusal)> {
        let answer = self.ask_to_log_in(deadline);
        let answer = answer.map_err(|failed| (failed, Refusal::No))?;
        if answer.status != 200 {
            let token = Some(&self.settings.token);
            let failed = self.refusal("POST", TOKENS, &answer, "log in", token);
            let refusal = match is_refused(answer.status) {
                true => Refusal::Yes,
                false => Refusal::No,
            };
            return Err((failed, refusal));
        }
        lease(&answer).map_err(|why| (self.unusable("POST", TOKENS, &why), Refusal::No))
    }

    /// Sends the refresh token.
    fn ask_to_log_in(&self, deadline: Deadline) -> Result<Answer, Failed> {
        #[derive(Serialize)]
        struct Request<'a> {
            grant_type: &'static str,
            refresh_token: &'a str,
            domain: &'a str,
        }
        let Settings { token, domain, .. } = &self.settings;
        let refresh_token = str::from_utf8(token.expose())
            .map_err(|_| Failed::Other("the refresh token is not text".to_owned()))?;
        let request = Request { grant_type: "refresh_token", refresh_token, domain };
        let body = json(&request).map_err(Failed::Other)?;
        self.ask("POST", TOKENS, None, Some(&body), MAX_ANSWER, deadline)
    }
}

impl Authority for Arc<Appliance> {
    fn login(&self, deadline: Deadline) -> Result<Lease, NoLease> {
        self.log_in(deadline).map_err(|(failed, refusal)| NoLease {
            error: Error::during("renew auth token")(failed.into_reason()),
            refusal,
        })
    }

    /// There is no renewal: a new token is had with the same refresh token.
    fn renew(&self, _: &Token, deadline: Deadline) -> Result<Lease, Error> {
        self.login(deadline).map_err(|denied| denied.error)
    }
}

/// Whether this status of a login is about the credentials.
fn is_refused(status: u16) -> bool {
    [400, 401, 403, 422].contains(&status)
}

/// Reads the answer to a login. The secret of the lease is what the header `Authorization` holds.
fn lease(answer: &Answer) -> Result<Lease, String> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Login<'a> {
        #[serde(borrow)]
        jwt: Text<'a>,
        #[serde(borrow)]
        token_type: Text<'a>,
        duration: i64,
    }
    let login: Login<'_> = answer.json()?;
    let jwt = login.jwt.as_str();
    if jwt.is_empty() {
        return Err("server response does not contain an auth token".to_owned());
    }
    if login.token_type.as_str() != "Bearer" {
        let found = clean(login.token_type.as_str());
        let is_short = found.len() <= 40 && (found.is_empty() || !jwt.contains(&found));
        let found = if is_short { found.as_str() } else { "..." };
        return Err(format!("unexpected auth token type '{found}'"));
    }
    if login.duration <= 0 {
        return Err(format!("invalid auth token expiry '{}'", login.duration));
    }
    if !jwt.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("the auth token has characters that no header can hold".to_owned());
    }
    let lifetime = Duration::from_secs(login.duration.unsigned_abs());
    Ok(Lease {
        token: Some(Secret::new(format!("Bearer {jwt}").into_bytes())),
        lifetime: Some(lifetime.min(MAX_LIFETIME)),
        is_renewable: false,
    })
}

/// An error of the appliance (`backends.md` 3.3).
#[derive(Deserialize)]
struct Said {
    #[serde(rename = "codeDesc")]
    text: String,
    code: i64,
}

/// Whether the appliance itself answers with `status`: what stands in front of it may do so as well,
/// without knowing anything about secrets.
pub(super) fn says(answer: &Answer, status: u16) -> bool {
    answer.status == status && answer.json::<Said>().is_ok()
}

/// What the appliance, or a proxy before it, says in an answer that is an error.
fn said(answer: &Answer) -> String {
    if answer.status < 300 {
        return String::new();
    }
    match answer.json::<Said>() {
        Ok(Said { text, code }) => format!("{} ({code})", clean(&text)),
        Err(_) => clean(&String::from_utf8_lossy(answer.body.expose())),
    }
}

/// Whether `text` repeats a part of `secret` that is more than a word.
fn holds_part(text: &str, secret: &Secret) -> bool {
    const TELLING: usize = 8;
    let is_between = |byte: &u8| !byte.is_ascii_graphic() || b"\"\\{}:,".contains(byte);
    let parts = secret.expose().split(is_between);
    parts
        .flat_map(|part| part.windows(TELLING))
        .any(|part| memchr::memmem::find(text.as_bytes(), part).is_some())
}

#[cfg(test)]
mod tests {
    use super::{super::super::remote::MAX_SAID, *};

    fn answer(status: u16, body: &str) -> Answer {
        Answer { status, body: Secret::new(body.as_bytes().to_vec()), is_repeat: false }
    }

    #[test]
    fn a_login_gives_a_token_for_a_while() {
        let found = lease(&answer(
            200,
            r#"{"jwt":"a.b.c","token_type":"Bearer","duration":300,"client_id":"x"}"#,
        ))
        .unwrap();
        assert_eq!(b"Bearer a.b.c", found.token.unwrap().expose());
        assert_eq!(Some(Duration::from_secs(300)), found.lifetime);
        assert!(!found.is_renewable);
        let longest = format!(r#"{{"jwt":"a","token_type":"Bearer","duration":{}}}"#, i64::MAX);
        let found = lease(&answer(200, &longest)).unwrap();
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
                r#"{"jwt":"a","token_type":"bearer","duration":1}"#,
                "unexpected auth token type 'bearer'",
            ),
            (r#"{"jwt":"a","duration":1}"#, "unexpected auth token type ''"),
            (
                r#"{"jwt":"a.b.secret","token_type":"secret","duration":1}"#,
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
            (r#"{"jwt":"a","token_type":"Bearer","duration":"1"}"#, not_json),
            ("<html>", not_json),
            ("", not_json),
        ] {
            let found = lease(&answer(200, body)).unwrap_err();
            assert!(found.starts_with(why), "{body}: {found}");
        }
    }

    #[test]
    fn what_an_appliance_says_is_one_short_line() {
        let json = r#"{"code":11,"codeDesc":"NCERRConflict: Resource\n already\u0007 exists"}"#;
        assert_eq!("NCERRConflict: Resource already exists (11)", said(&answer(409, json)));
        assert_eq!("401 Unauthorized", said(&answer(401, "\r\n 401\tUnauthorized\n\n")));
        assert_eq!(
            r#"{"code":1}"#,
            said(&answer(400, r#"{"code":1}"#)),
            "it is no error of the appliance"
        );
        let long = said(&answer(502, &"\u{e9}".repeat(1000)));
        assert_eq!("\u{e9}".repeat(MAX_SAID) + "...", long);
        assert_eq!("", said(&answer(200, "a value")), "it may be a value");
        assert_eq!("", said(&answer(503, "")));
    }

    #[test]
    fn only_the_appliance_itself_says_that_there_is_no_secret() {
        let own = r#"{"code":6,"codeDesc":"NCERRResourceNotFound: Resource not found"}"#;
        assert!(says(&answer(404, own), 404));
        assert!(!says(&answer(409, own), 404));
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
            assert!(!says(&answer(404, other), 404), "{other}");
        }
    }

    #[test]
    fn parts_of_secrets_are_found() {
        let secret = Secret::new(br#"{"bytes":"AbCdEfGhIjKl+/=="}"#.to_vec());
        assert!(holds_part("bad value: AbCdEfGhIjKl", &secret));
        assert!(holds_part("...EfGhIjKl", &secret));
        assert!(!holds_part("bytes: bad value AbCdEfG", &secret));
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
