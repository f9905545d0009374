//! The way to Vault: requests with and without a token, logins, and what refusals mean.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde::Serialize;
use serde_json::Value;

use super::{
    Jwt, Login, MAX_ANSWER, Settings,
    answer::{path, said, take},
};
use crate::{
    base::{deadline::Deadline, secret::Secret},
    keystore::{
        Error,
        remote::{Answer, Call, NoAnswer, Remote, clean, json},
        token::{Authority, Lease, NoLease, Refusal, Token},
    },
};

/// No token is believed to last longer.
const MAX_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// What logging in and using Vault have in common.
pub(super) struct Remoteness {
    pub(super) remote: Remote,
    pub(super) settings: Settings,
    /// The path of the engine, escaped.
    pub(super) engine: String,
    /// The path inside it, escaped, with a slash at its end if it is not empty.
    pub(super) prefix: String,
    /// Vault has said that it is sealed.
    pub(super) is_sealed: AtomicBool,
}

/// Why something was not done.
pub(super) enum Failed {
    Sealed,
    /// There is no token to ask with.
    NoToken(Error),
    /// A version of the secret is there, but marked as deleted.
    Deleted,
    NoAnswer(NoAnswer),
    Other(String),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        match error {
            Error::Sealed => Self::Sealed,
            error => Self::NoToken(error),
        }
    }
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Sealed => Self::Sealed,
            Failed::NoToken(e) => e,
            Failed::NoAnswer(e) => Self::during("ask Vault")(e),
            Failed::Deleted => Self::during("ask Vault")("the secret is deleted"),
            Failed::Other(why) => Self::during("ask Vault")(why),
        }
    }
}

impl Remoteness {
    #[expect(clippy::too_many_arguments, reason = "a request has so many parts")]
    pub(super) fn ask(
        &self,
        method: &'static str,
        path: &str,
        token: Option<&Token>,
        body: Option<&Secret>,
        is_repeatable: bool,
        limit: u64,
        deadline: Deadline,
    ) -> Result<Answer, Failed> {
        let namespace = match token {
            None => (self.settings.login_namespace.as_deref()).unwrap_or(&self.settings.namespace),
            Some(_) => &self.settings.namespace,
        };
        let mut headers = vec![("X-Vault-Request", "true")];
        if !namespace.is_empty() && namespace != "/" {
            headers.push(("X-Vault-Namespace", namespace));
        }
        if let Some(token) = token {
            headers.push(("X-Vault-Token", token.text()));
        }
        let call = Call { method, path, headers: &headers, body, is_repeatable };
        let answer = self.remote.call(call, limit, deadline);
        let answer = answer.map_err(Failed::NoAnswer)?;
        let says_sealed = || said(&answer).is_some_and(|text| text.contains("sealed"));
        if answer.status == 503 && says_sealed() {
            self.is_sealed.store(true, Ordering::Relaxed);
            return Err(Failed::Sealed);
        }
        Ok(answer)
    }

    /// What Vault said, and what to check. `capability` is what the policy has to grant.
    pub(super) fn refusal(
        &self,
        method: &str,
        path: &str,
        answer: &Answer,
        capability: &str,
    ) -> Failed {
        let said = said(answer);
        let settings = &self.settings;
        let has = |word: &str| answer.says(word);
        let namespace = match settings.namespace.as_str() {
            "" => String::new(),
            namespace => format!(", and is {namespace:?} the right vault.namespace?"),
        };
        let hint = if said.is_none() {
            ": this is no answer of Vault; check vault.endpoint, and what stands in front of it"
                .to_owned()
        } else if has("no handler for route") || has("route entry not found") {
            format!(
                ": nothing is mounted there; check vault.engine and vault.transit.engine{namespace}"
            )
        } else if has("namespace not found") {
            ": check vault.namespace, and that of the login".to_owned()
        } else if has("versioned K/V secrets engine") {
            ": the engine is KV version 2; set vault.version to v2".to_owned()
        } else if answer.status == 403 {
            let path = path.trim_start_matches("/v1/").split('?').next();
            let path = path.unwrap_or_default();
            let directory = path.rsplit_once('/').map_or(path, |(directory, _)| directory);
            let place = match capability {
                "update" => path.to_owned(),
                _ => format!("{directory}/*"),
            };
            format!(
                ": does the policy of the role grant {capability:?} on {place:?}, and is the engine \
                 there?{namespace}"
            )
        } else {
            String::new()
        };
        // A 2xx answer may hold a value.
        let said = match said {
            None if answer.status >= 300 => clean(&String::from_utf8_lossy(answer.body.expose())),
            said => said.unwrap_or_default(),
        };
        let said = match said.as_str() {
            "" => String::new(),
            said => format!(": {said}"),
        };
        Failed::Other(format!(
            "{method} {}: status {}{said}{hint}",
            self.remote.url(path),
            answer.status
        ))
    }

    pub(super) fn unusable(&self, method: &str, path: &str, why: &str) -> Failed {
        Failed::Other(format!("{method} {}: {why}", self.remote.url(path)))
    }

    /// Reads the answer to a login or a renewal.
    fn lease(&self, method: &str, path: &str, answer: &Answer) -> Result<Lease, Failed> {
        let says_vault = said(answer).is_some();
        if says_vault && [400, 401, 403].contains(&answer.status) {
            // The policy has no say here.
            let hint = match (&self.settings.login, path.ends_with("renew-self")) {
                (Login::AppRole { .. }, true) => {
                    ": the token was revoked or has reached its maximum, or its role or secret id \
                     is gone, which the login will tell"
                }
                (Login::Kubernetes { .. }, true) => {
                    ": before it renews, Vault asks Kubernetes again about the service account token \
                     of the last login, which has expired or was replaced; the login takes the \
                     present one"
                }
                (Login::AppRole { .. }, false) => {
                    ": check vault.approle.id, .secret and .engine; too many failed logins lock a \
                     role for a while"
                }
                (Login::Kubernetes { jwt: Jwt::Token(jwt), .. }, false)
                    if jwt.expose().contains(&b'/') =>
                {
                    ": check vault.kubernetes.role, .jwt and .engine; there is no file that is called \
                     like .jwt, so it was taken for the token itself"
                }
                (Login::Kubernetes { .. }, false) => {
                    ": check vault.kubernetes.role, .jwt and .engine"
                }
            };
            let why = format!("status {}: {}", answer.status, said(answer).unwrap_or_default());
            return Err(self.unusable(method, path, &format!("{why}{hint}")));
        }
        if answer.status != 200 {
            return Err(self.refusal(method, path, answer, "update"));
        }
        let json = answer.json::<Value>();
        let mut json = json.map_err(|why| self.unusable(method, path, &why))?;
        let mut auth = take(&mut json, "/auth");
        let lifetime = auth["lease_duration"].as_u64().unwrap_or(0);
        Ok(Lease {
            token: match take(&mut auth, "/client_token") {
                Value::String(token) => Some(Secret::new(token.into_bytes())),
                _ => None,
            },
            lifetime: (lifetime > 0).then(|| Duration::from_secs(lifetime).min(MAX_LIFETIME)),
            is_renewable: auth["renewable"].as_bool().unwrap_or(false),
        })
    }

    fn log_in(&self, deadline: Deadline) -> Result<Lease, (Failed, Refusal)> {
        let answer = self.ask_to_log_in(deadline);
        let (path, answer) = answer.map_err(|failed| (failed, Refusal::No))?;
        let refusal = self.refusal_in(&answer);
        let lease = self.lease("PUT", &path, &answer);
        let lease = lease.map_err(|failed| (failed, refusal))?;
        if lease.token.as_ref().is_none_or(Secret::is_empty) {
            let why = "the answer has no auth token";
            return Err((self.unusable("PUT", &path, why), Refusal::No));
        }
        Ok(lease)
    }

    /// What the answer to a login says about the credentials. Wrong ones of AppRole are a 400, which
    /// is counted; a role that is locked, or a method that is not there, is a 403.
    fn refusal_in(&self, answer: &Answer) -> Refusal {
        match answer.status {
            400 | 401 | 403 if said(answer).is_none() => Refusal::No,
            400 if matches!(self.settings.login, Login::AppRole { .. }) => Refusal::Counted,
            400 | 401 | 403 => Refusal::Yes,
            _ => Refusal::No,
        }
    }

    /// Sends the credentials; the path and the answer.
    fn ask_to_log_in(&self, deadline: Deadline) -> Result<(String, Answer), Failed> {
        #[derive(Serialize)]
        struct AppRole<'a> {
            role_id: &'a str,
            secret_id: &'a str,
        }
        #[derive(Serialize)]
        struct Kubernetes<'a> {
            role: &'a str,
            jwt: &'a str,
        }
        let text = |secret: &Secret| String::from_utf8_lossy(secret.expose()).into_owned();
        let (engine, body) = match &self.settings.login {
            Login::AppRole { engine, id, secret } => {
                let body = AppRole { role_id: id, secret_id: &text(secret) };
                (engine, json(&body))
            }
            Login::Kubernetes { engine, role, jwt } => {
                let jwt = match jwt {
                    Jwt::Token(token) => text(token),
                    Jwt::File(file) => {
                        let token = std::fs::read_to_string(file);
                        let token = token.map_err(|e| {
                            Failed::Other(format!(
                                "failed to read the file of vault.kubernetes.jwt: {e}: what begins \
                                 with /, ./ or ../ is a path, anything else a token unless there is \
                                 such a file"
                            ))
                        })?;
                        token.trim().to_owned()
                    }
                };
                let body = Kubernetes { role, jwt: &jwt };
                (engine, json(&body))
            }
        };
        let body = body.map_err(Failed::Other)?;
        let path = format!("/v1/auth/{}/login", path(engine));
        let answer = self.ask("PUT", &path, None, Some(&body), true, MAX_ANSWER, deadline)?;
        Ok((path, answer))
    }
}

impl Authority for Arc<Remoteness> {
    fn login(&self, deadline: Deadline) -> Result<Lease, NoLease> {
        self.log_in(deadline).map_err(|(failed, refusal)| NoLease {
            error: match failed {
                Failed::Sealed => Error::Sealed,
                failed => Error::during("log in to Vault")(Error::from(failed).into_reason()),
            },
            refusal,
        })
    }

    fn renew(&self, token: &Token, deadline: Deadline) -> Result<Lease, Error> {
        let path = "/v1/auth/token/renew-self";
        // Zero is what the role gives.
        let body = Secret::new(b"{\"increment\":0}".to_vec());
        let answer = self.ask("PUT", path, Some(token), Some(&body), true, MAX_ANSWER, deadline)?;
        Ok(self.lease("PUT", path, &answer)?)
    }
}
