//! Gemalto KeySecure, now Thales CipherTrust Manager: keys are secrets in the vault of the appliance
//! (`backends.md` 3).
//!
//! The appliance itself refuses to create a name twice, and no state is kept here but a token, so any
//! number of servers can use one domain.

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{
    Error, KeyName, KeyStore, MAX_VALUE, Notices, Start,
    remote::{Answer, Call, NoAnswer, Remote, Site, clean, escape, json},
    token::{Authority, Keeper, Lease, NoLease, Refusal, Rules, Token},
};
use crate::{
    crypto::Text,
    deadline::Deadline,
    secret::{Secret, Wiped},
};

const TOKENS: &str = "/api/v1/auth/tokens";
const SECRETS: &str = "/api/v1/vault/secrets";
/// The largest answer with a value: JSON may write one byte with six.
const MAX_ANSWER: u64 = 6 * MAX_VALUE as u64 + (64 << 10);
/// The largest answer with a page of names.
const MAX_PAGE: u64 = 32 << 20;
/// Names that are asked for at once; the appliance gives ten by itself.
const PAGE: u64 = 200;
/// A call with its repetitions may take no longer than this, whatever the deadline.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// The first login must be done within this time.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest time between logins that are refused.
const LONGEST_RETRY: Duration = Duration::from_secs(300);
/// A value that was written is looked for as long as this: nodes of a cluster lag a little.
const MAX_LAG: Duration = Duration::from_secs(2);
/// No token is believed to last longer.
const MAX_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

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

/// Keys in KeySecure.
pub struct KeySecure {
    site: Arc<Appliance>,
    keeper: Keeper,
    notices: Arc<Notices>,
}

/// What logging in and using the appliance have in common.
struct Appliance {
    remote: Remote,
    settings: Settings,
}

impl KeySecure {
    /// Connects and logs in.
    ///
    /// # Errors
    /// Why KeySecure can't be used; with [`Start::Optional`] only if it never will.
    pub fn open(settings: &Settings, start: Start) -> Result<Self, Error> {
        const CONNECT: &str = "connect to Gemalto KeySecure";
        let remote = Remote::new(Site {
            endpoint: &settings.endpoint,
            client_cert: None,
            ca: settings.ca.as_deref(),
            ca_field: "gemalto.keysecure.tls.ca",
            pause: 200..1000,
        })
        .map_err(Error::during(CONNECT))?;
        let notices = Arc::new(Notices::default());
        let rules = Rules {
            renew_after: 50,
            retry: settings.retry,
            longest_retry: LONGEST_RETRY,
            settles: false,
        };
        let store = Self {
            site: Arc::new(Appliance {
                remote: remote.retrying_all(),
                settings: settings.clone(),
            }),
            keeper: Keeper::new(rules, notices.clone()),
            notices,
        };
        let deadline = Deadline::after(Instant::now(), LOGIN_TIMEOUT);
        let ready = store.keeper.log_in(&store.site, deadline);
        start.go_on(ready, CONNECT, &store.notices)?;
        store
            .keeper
            .start(store.site.clone())
            .map_err(Error::during(CONNECT))?;
        Ok(store)
    }

    /// Asks with a token, and once more with a newer one if the token is refused.
    fn ask(
        &self,
        method: &'static str,
        path: &str,
        body: Option<&Secret>,
        limit: u64,
        deadline: Deadline,
    ) -> Result<Answer, Failed> {
        let token = self.keeper.token(deadline)?;
        let site = &self.site;
        let answer = site.ask(method, path, Some(&token), body, limit, deadline)?;
        if answer.status != 401 {
            return Ok(answer);
        }
        let Some(newer) = self.keeper.replace(&token, deadline) else {
            // Why there is no other token is what helps.
            return self
                .keeper
                .failure()
                .map_or(Ok(answer), |why| Err(why.into()));
        };
        let mut second = site.ask(method, path, Some(&newer), body, limit, deadline)?;
        second.is_repeat |= answer.is_repeat;
        Ok(second)
    }

    /// The value of `name`: `None` if there is none.
    fn read(&self, name: &KeyName, deadline: Deadline) -> Result<Option<Secret>, Failed> {
        #[derive(Deserialize)]
        struct Export<'a> {
            #[serde(borrow)]
            material: Text<'a>,
        }
        let path = format!("{SECRETS}/{}/export?type=name", escape(name.as_str()));
        let answer = self.ask("POST", &path, None, MAX_ANSWER, deadline)?;
        match answer.status {
            200 => {}
            404 => return Ok(None),
            _ => return Err(self.site.refusal("POST", &path, &answer, "export", None)),
        }
        let unusable = |why: &str| self.site.unusable("POST", &path, why);
        let export: Export<'_> = answer.json().map_err(|why| unusable(&why))?;
        let material = export.material.as_str();
        match material.len() {
            0 => Err(unusable("the answer has no material")),
            size if size > MAX_VALUE => Err(unusable(&format!(
                "the value is larger than {MAX_VALUE} bytes"
            ))),
            _ => Ok(Some(Secret::new(material.as_bytes().to_vec()))),
        }
    }

    /// Reads back what was written and compares. Nodes of a cluster may need a moment to know it.
    fn is_there(&self, name: &KeyName, value: &Secret, deadline: Deadline) -> Result<bool, Failed> {
        let until = Instant::now() + MAX_LAG;
        loop {
            match self.read(name, deadline)? {
                Some(found) => return Ok(found == *value),
                None if Instant::now() >= until => {
                    return Err(Failed::Other(
                        "KeySecure has accepted the key but does not have it".to_owned(),
                    ));
                }
                None => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    /// Creates, as often as it takes to learn what became of it. False if the name is taken.
    fn write(&self, name: &KeyName, value: &Secret, deadline: Deadline) -> Result<bool, Failed> {
        #[derive(Serialize)]
        struct Create<'a> {
            #[serde(rename = "dataType")]
            data_type: &'static str,
            material: &'a str,
            name: &'a str,
        }
        let material = str::from_utf8(value.expose())
            .map_err(|_| Failed::Other("the value is not text".to_owned()))?;
        if material.len() > MAX_VALUE {
            let why = format!("the value is larger than {MAX_VALUE} bytes");
            return Err(Failed::Other(why));
        }
        let create = Create {
            data_type: "seed",
            material,
            name: name.as_str(),
        };
        let body = json(material.len() + name.as_str().len(), &create).map_err(Failed::Other)?;
        // The appliance refuses a name that it has, so only one try can take effect, and which value
        // has won is seen afterwards.
        let (is_unclear, failed) =
            match self.ask("POST", SECRETS, Some(&body), MAX_ANSWER, deadline) {
                Ok(answer) if answer.status == 201 => {
                    return match self.is_there(name, value, deadline)? {
                        true => Ok(true),
                        false => Err(Failed::Other(
                            "KeySecure does not give back the value that it was given".to_owned(),
                        )),
                    };
                }
                Ok(answer) if answer.status == 409 && answer.is_repeat => {
                    return self.is_there(name, value, deadline);
                }
                Ok(answer) if answer.status == 409 => return Ok(false),
                Ok(answer) => (
                    answer.is_repeat || answer.status >= 500,
                    self.site
                        .refusal("POST", SECRETS, &answer, "create", Some(value)),
                ),
                Err(Failed::NoAnswer(e)) => (e.may_pass, Failed::NoAnswer(e)),
                Err(failed) => (false, failed),
            };
        match is_unclear.then(|| self.read(name, deadline)) {
            Some(Ok(Some(found))) if found == *value => Ok(true),
            _ => Err(failed),
        }
    }

    fn names(&self, deadline: Deadline) -> Result<Vec<String>, Failed> {
        #[derive(Deserialize)]
        struct Page {
            skip: u64,
            total: u64,
            /// `null` is an empty list.
            resources: Option<Vec<Resource>>,
        }
        #[derive(Deserialize)]
        struct Resource {
            name: Option<String>,
        }
        let mut names = Vec::new();
        let mut seen = HashSet::new();
        let mut skip = 0;
        loop {
            let path = format!("{SECRETS}?limit={PAGE}&skip={skip}");
            let answer = self.ask("GET", &path, None, MAX_PAGE, deadline)?;
            if answer.status != 200 {
                return Err(self.site.refusal("GET", &path, &answer, "list", None));
            }
            let unusable = |why: &str| self.site.unusable("GET", &path, why);
            let page: Page = answer.json().map_err(|why| unusable(&why))?;
            if page.skip != skip {
                let why = format!(
                    "pagination is out-of-sync: it answers with skip={}",
                    page.skip
                );
                return Err(unusable(&why));
            }
            let resources = page.resources.unwrap_or_default();
            let is_empty = resources.is_empty();
            skip += resources.len() as u64;
            // Others may keep secrets there as well, with names that no key has.
            let found = resources.into_iter().filter_map(|secret| secret.name);
            for name in found.filter_map(|name| KeyName::parse(&name)) {
                if seen.insert(name.clone()) {
                    names.push(name.to_string());
                }
            }
            if skip >= page.total {
                return Ok(names);
            }
            if is_empty {
                let why = format!("the page is empty, but there are {} secrets", page.total);
                return Err(unusable(&why));
            }
        }
    }

    /// Words what went wrong while doing `what`.
    fn done<T>(
        what: &str,
        name: Option<&KeyName>,
        work: impl FnOnce() -> Result<T, Failed>,
    ) -> Result<T, Error> {
        work().map_err(|failed| {
            let during = match name {
                Some(name) => format!("{what} key {:?} in KeySecure", name.as_str()),
                None => format!("{what} in KeySecure"),
            };
            Error::during(during)(failed.into_reason())
        })
    }
}

impl KeyStore for KeySecure {
    fn create(&self, name: &KeyName, value: &Secret, deadline: Deadline) -> Result<(), Error> {
        let is_ours = Self::done("create", Some(name), || self.write(name, value, deadline))?;
        is_ours.then_some(()).ok_or(Error::Exists)
    }

    fn get(&self, name: &KeyName, deadline: Deadline) -> Result<Secret, Error> {
        let found = Self::done("read", Some(name), || self.read(name, deadline))?;
        found.ok_or(Error::NotFound)
    }

    fn delete(&self, name: &KeyName, deadline: Deadline) -> Result<(), Error> {
        Self::done("delete", Some(name), || {
            let path = format!("{SECRETS}/{}?type=name", escape(name.as_str()));
            let answer = self.ask("DELETE", &path, None, MAX_ANSWER, deadline)?;
            match answer.status {
                204 | 404 => Ok(()),
                _ => Err(self.site.refusal("DELETE", &path, &answer, "delete", None)),
            }
        })
    }

    fn list(&self, deadline: Deadline) -> Result<Vec<String>, Error> {
        Self::done("list keys", None, || self.names(deadline))
    }

    fn status(&self, deadline: Deadline) -> Result<(), Error> {
        let call = Call {
            method: "GET",
            path: "",
            headers: &[],
            body: None,
            is_repeatable: false,
        };
        let answer = self.site.remote.reach(call, deadline);
        answer.map_err(Error::during("get the status of KeySecure"))
    }

    fn describe(&self) -> String {
        format!("Gemalto KeySecure: {}", self.site.settings.endpoint)
    }

    fn ping(&self) -> Option<Duration> {
        Some(Duration::from_secs(10))
    }

    fn notices(&self) -> Vec<String> {
        let lines = self.notices.take();
        lines
            .iter()
            .map(|line| format!("gemalto: {line}"))
            .collect()
    }

    fn retry(&self) {
        self.keeper.retry();
    }
}

/// Why something was not done.
enum Failed {
    /// There is no token to ask with.
    NoToken(Error),
    NoAnswer(NoAnswer),
    Other(String),
}

impl Failed {
    fn into_reason(self) -> Box<dyn std::error::Error + Send + Sync> {
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
    fn ask(
        &self,
        method: &'static str,
        path: &str,
        token: Option<&Token>,
        body: Option<&Secret>,
        limit: u64,
        deadline: Deadline,
    ) -> Result<Answer, Failed> {
        let header = token.map(|token| ("Authorization", token.text()));
        let call = Call {
            method,
            path,
            headers: header.as_slice(),
            body,
            is_repeatable: true,
        };
        let deadline = deadline.min(Deadline::after(Instant::now(), CALL_TIMEOUT));
        let answer = self.remote.call(call, limit, deadline);
        answer.map_err(Failed::NoAnswer)
    }

    /// What the appliance said, unless it repeats a part of `secret`, and what to check. `right` is
    /// what the user must be allowed to do.
    fn refusal(
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
            300..=399 | 404 | 405 => {
                "the API is not there: check gemalto.keysecure.endpoint".to_owned()
            }
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

    fn unusable(&self, method: &str, path: &str, why: &str) -> Failed {
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
        let request = Request {
            grant_type: "refresh_token",
            refresh_token,
            domain,
        };
        let body = json(refresh_token.len() + domain.len(), &request).map_err(Failed::Other)?;
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
    let mut header = Wiped::with_capacity(jwt.len() + 7);
    header.extend_from_slice(b"Bearer ");
    header.extend_from_slice(jwt.as_bytes());
    let lifetime = Duration::from_secs(login.duration.unsigned_abs());
    Ok(Lease {
        token: Some(header.into()),
        lifetime: Some(lifetime.min(MAX_LIFETIME)),
        is_renewable: false,
    })
}

/// What the appliance, or a proxy before it, says in an answer that is an error.
fn said(answer: &Answer) -> String {
    #[derive(Deserialize)]
    struct Said {
        #[serde(rename = "codeDesc")]
        text: String,
        code: i64,
    }
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
    use super::{super::remote::MAX_SAID, *};

    fn answer(status: u16, body: &str) -> Answer {
        Answer {
            status,
            body: Secret::new(body.as_bytes().to_vec()),
            is_repeat: false,
        }
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
        let longest = format!(
            r#"{{"jwt":"a","token_type":"Bearer","duration":{}}}"#,
            i64::MAX
        );
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
            (
                r#"{"jwt":"a","duration":1}"#,
                "unexpected auth token type ''",
            ),
            (
                r#"{"jwt":"a.b.secret","token_type":"secret","duration":1}"#,
                "unexpected auth token type '...'",
            ),
            (
                r#"{"jwt":"a","token_type":"Bearer","duration":0}"#,
                "invalid auth token expiry '0'",
            ),
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
                not_json,
            ),
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
        assert_eq!(
            "NCERRConflict: Resource already exists (11)",
            said(&answer(409, json))
        );
        assert_eq!(
            "401 Unauthorized",
            said(&answer(401, "\r\n 401\tUnauthorized\n\n"))
        );
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
