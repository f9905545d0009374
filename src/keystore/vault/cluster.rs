//! Requests to the servers of a Vault cluster, logins, and what refusals mean.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use serde_json::{Value, json};

use super::{
    answer::{self, quoted, said},
    settings::{Jwt, Login, Settings, path},
};
use crate::{
    base::{deadline::Deadline, secret::Secret},
    crypto::BASE64,
    keystore::{
        remote::{self, Answer, Call, Failed, Remote},
        store::Error,
        token::{Authority, Lease, NoLease, Refusal, Token},
    },
    tls,
    tls::words::Hints,
};

/// A Vault cluster.
pub(crate) struct Cluster {
    pub(crate) remote: Remote,
    pub(crate) settings: Settings,
    /// The header that keeps standbys of OpenBao from answering by themselves, once one is known.
    beyond: Mutex<Option<String>>,
}

impl Cluster {
    pub(crate) fn new(settings: &Settings) -> Result<Self, tls::Error> {
        let client_cert = settings.client_cert.as_ref();
        let remote = Remote::new(remote::Settings {
            endpoint: &settings.endpoint,
            client_cert: client_cert.map(|pair| (pair.cert.as_path(), pair.key.as_path())),
            ca: settings.ca.as_deref(),
            hints: Hints {
                trust: "vault.tls.ca",
                endpoint: "the endpoint",
                certificate: "check vault.tls.cert and vault.tls.key",
                or_skip: "",
            },
            pause: 1000..1500,
            has_standbys: true,
            may_pass: |answer| answer.may_pass() && !answer.says("sealed"),
        })?;
        Ok(Self { remote, settings: settings.clone(), beyond: Mutex::default() })
    }

    /// Sends `call` with the headers of Vault.
    pub(crate) fn ask(
        &self,
        call: Call<'_>,
        token: Option<&Token>,
        deadline: Deadline,
    ) -> Result<Answer, Failed> {
        let namespace = match token {
            None => (self.settings.login_namespace.as_deref()).unwrap_or(&self.settings.namespace),
            Some(_) => &self.settings.namespace,
        };
        let mut fixed = vec![("X-Vault-Request", "true")];
        if !namespace.is_empty() && namespace != "/" {
            fixed.push(("X-Vault-Namespace", namespace));
        }
        if let Some(token) = token {
            fixed.push(("X-Vault-Token", token.text()));
        }
        let mut is_repeat = false;
        loop {
            let beyond = self.beyond().clone();
            let mut headers = fixed.clone();
            if let Some(beyond) = &beyond {
                headers.push(("X-Vault-Index", beyond));
                headers.push(("X-Vault-Inconsistent", "forward-active-node"));
            }
            let answer = self.remote.call(Call { headers: &headers, ..call }, deadline)?;
            if let Some(index) = answer.index.as_deref().and_then(beyond_index) {
                let was_known = beyond.as_ref() == Some(&index);
                if !was_known {
                    *self.beyond() = Some(index);
                }
                // Of another cluster, as when this one was built anew, a standby ignores the header.
                if !was_known && call.method == "GET" {
                    if is_repeat {
                        let why = "the servers behind vault.endpoint belong to different clusters";
                        return Err(answer.unusable(why));
                    }
                    is_repeat = true;
                    continue;
                }
            }
            if answer.status == 503 && said(&answer).is_some_and(|text| text.contains("sealed")) {
                return Err(Error::Sealed.into());
            }
            return Ok(answer);
        }
    }

    fn beyond(&self) -> MutexGuard<'_, Option<String>> {
        self.beyond.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What Vault said, and what to check. `capability` is what the policy has to grant.
    pub(crate) fn refusal(&self, answer: &Answer, capability: &str) -> Failed {
        let said = said(answer);
        let has = |word: &str| answer.says(word);
        let namespace = match self.settings.namespace.as_str() {
            "" => String::new(),
            namespace => format!(", and is {namespace:?} the right vault.namespace?"),
        };
        let hint = if said.is_none() {
            "this is no answer of Vault; check vault.endpoint, and what stands in front of it"
                .into()
        } else if has("no handler for route") || has("route entry not found") {
            format!(
                "nothing is mounted there; check vault.engine and vault.transit.engine{namespace}"
            )
        } else if has("namespace not found") {
            "check vault.namespace, and that of the login".into()
        } else if has("versioned K/V secrets engine") {
            "the engine is KV version 2; set vault.version to v2".into()
        } else if answer.status == 403 {
            let path = answer.path.trim_start_matches("/v1/").split('?').next();
            let path = path.unwrap_or_default();
            let directory = path.rsplit_once('/').map_or(path, |(directory, _)| directory);
            let place = match capability {
                "update" => path.to_owned(),
                _ => format!("{directory}/*"),
            };
            format!(
                "does the policy of the role grant {capability:?} on {place:?}, and is the engine \
                 there?{namespace}"
            )
        } else {
            String::new()
        };
        answer.refusal(&quoted(answer), &hint)
    }

    /// Reads the answer to a login or a renewal.
    fn lease(&self, answer: &Answer) -> Result<Lease, Failed> {
        if let Some(said) = said(answer)
            && [400, 401, 403].contains(&answer.status)
        {
            // The policy has no say here.
            let hint = match (&self.settings.login, answer.path.ends_with("renew-self")) {
                (Login::AppRole { .. }, true) => {
                    "the token was revoked or has reached its maximum, or its role or secret id \
                     is gone, which the login will tell"
                }
                (Login::Kubernetes { .. }, true) => {
                    "before it renews, Vault asks Kubernetes again about the service account token \
                     of the last login, which has expired or was replaced; the login takes the \
                     present one"
                }
                (Login::AppRole { .. }, false) => {
                    "check vault.approle.id, .secret and .engine; too many failed logins lock a \
                     role for a while"
                }
                (Login::Kubernetes { jwt: Jwt::Token(jwt), .. }, false)
                    if jwt.expose().contains(&b'/') =>
                {
                    "check vault.kubernetes.role, .jwt and .engine; there is no file that is called \
                     like .jwt, so it was taken for the token itself"
                }
                (Login::Kubernetes { .. }, false) => {
                    "check vault.kubernetes.role, .jwt and .engine"
                }
            };
            return Err(answer.refusal(&said, hint));
        }
        if answer.status != 200 {
            return Err(self.refusal(answer, "update"));
        }
        answer::lease(answer)
    }

    fn log_in(&self, deadline: Deadline) -> Result<Lease, (Failed, Refusal)> {
        let answer = self.ask_to_log_in(deadline).map_err(|failed| (failed, Refusal::No))?;
        let is_counted = matches!(self.settings.login, Login::AppRole { .. });
        let refusal = answer::refusal(&answer, is_counted);
        let lease = self.lease(&answer).map_err(|failed| (failed, refusal))?;
        match lease.token.as_ref().is_none_or(Secret::is_empty) {
            true => Err((answer.unusable("the answer has no auth token"), Refusal::No)),
            false => Ok(lease),
        }
    }

    /// Sends the credentials.
    fn ask_to_log_in(&self, deadline: Deadline) -> Result<Answer, Failed> {
        let text = |secret: &Secret| String::from_utf8_lossy(secret.expose()).into_owned();
        let (engine, body, hidden) = match &self.settings.login {
            Login::AppRole { engine, id, secret } => {
                let secret = text(secret);
                (engine, json!({ "role_id": id, "secret_id": secret }), secret)
            }
            Login::Kubernetes { engine, role, jwt } => {
                let jwt = match jwt {
                    Jwt::Token(token) => text(token),
                    Jwt::File(file) => std::fs::read_to_string(file).map_err(|e| {
                        Failed::Other(format!(
                            "failed to read the file of vault.kubernetes.jwt: {e}: what begins with \
                             /, ./ or ../ is a path, anything else a token unless there is such a file"
                        ))
                    })?,
                };
                (engine, json!({ "role": role, "jwt": jwt.trim() }), jwt)
            }
        };
        let path = format!("/v1/auth/{}/login", path(engine));
        let (body, hidden) = (remote::json(&body), Secret::new(hidden.into_bytes()));
        let call = Call::new("PUT", &path).with(&body).hiding(&hidden);
        self.ask(call, None, deadline)
    }
}

/// From how far a server of OpenBao has written, `index`: the point that none will reach. A standby answers reads
/// by itself, late as it may be, unless it is asked for what it does not have yet.
fn beyond_index(index: &str) -> Option<String> {
    let mut json: Value = serde_json::from_slice(&BASE64.decode(index).ok()?).ok()?;
    json.get("cluster")?;
    *json.get_mut("value")? = u64::MAX.to_string().into();
    Some(BASE64.encode(json.to_string()))
}

impl Authority for Arc<Cluster> {
    fn login(&self, deadline: Deadline) -> Result<Lease, NoLease> {
        self.log_in(deadline).map_err(NoLease::during("log in to Vault"))
    }

    fn renew(&self, token: &Token, deadline: Deadline) -> Result<Lease, Error> {
        // An increment of zero is the one of the role.
        let body = Secret::new(b"{\"increment\":0}".to_vec());
        let call = Call::new("PUT", "/v1/auth/token/renew-self").with(&body);
        let answer = self.ask(call, Some(token), deadline);
        answer.and_then(|answer| self.lease(&answer)).map_err(|e| e.during("ask Vault"))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader, Read as _, Write as _},
        net::TcpListener,
        thread,
        time::{Duration, Instant},
    };

    use super::*;
    use crate::keystore::vault::Version;

    /// A standby of one cluster after the other, as OpenBao 2.7.2 answers: by itself, unless it is asked for what its
    /// own cluster does not have yet.
    fn standby_of(clusters: &'static [&'static str]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        thread::spawn(move || {
            for id in clusters {
                let index = |value: &str| format!(r#"{{"cluster":"{id}","value":"{value}"}}"#);
                let own = BASE64.encode(index("49"));
                let beyond = BASE64.encode(index(&u64::MAX.to_string()));
                loop {
                    let (connection, _) = listener.accept().unwrap();
                    let lines = BufReader::new(&connection).lines().map(Result::unwrap);
                    let head: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
                    let is_rebuilt = head[0].contains("/rebuild ");
                    let by = match head.iter().any(|line| line.ends_with(&beyond)) {
                        true => "active",
                        false => "standby",
                    };
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\nx-vault-index: {own}\r\nconnection: close\r\n\
                         content-length: {}\r\n\r\n{by}",
                        by.len()
                    );
                    (&connection).write_all(answer.as_bytes()).unwrap();
                    if is_rebuilt {
                        break;
                    }
                }
            }
        });
        endpoint
    }

    fn cluster(endpoint: &str) -> Cluster {
        Cluster::new(&Settings::for_tests(endpoint, Version::V2)).unwrap()
    }

    /// Something that answers each request with all of it.
    fn mirror(status: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        thread::spawn(move || {
            for connection in listener.incoming() {
                let connection = connection.unwrap();
                let mut reader = BufReader::new(&connection);
                let mut seen = Vec::new();
                while !seen.ends_with(b"\r\n\r\n") {
                    reader.read_until(b'\n', &mut seen).unwrap();
                }
                let head = String::from_utf8(seen.clone()).unwrap().to_lowercase();
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
                reader.read_exact(&mut body).unwrap();
                let text = [b"blocked: ", &body[..], &seen].concat();
                let text = String::from_utf8(text).unwrap();
                let answer = format!(
                    "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{text}",
                    text.len()
                );
                (&connection).write_all(answer.as_bytes()).unwrap();
            }
        });
        endpoint
    }

    #[test]
    fn what_repeats_keys_credentials_or_tokens_is_not_quoted() {
        let deadline = Deadline::after(Instant::now(), Duration::from_secs(30));
        let mut settings = Settings::for_tests(&mirror("400 Bad Request"), Version::V2);
        let secret = Secret::new(b"my-very-secret-id".to_vec());
        settings.login =
            Login::AppRole { engine: "approle".to_owned(), id: "id".to_owned(), secret };
        let cluster = Cluster::new(&settings).unwrap();
        let why = |answer: Answer| match cluster.refusal(&answer, "create") {
            Failed::Other(why) => why,
            other => panic!("{other:?}"),
        };
        let body = remote::json(&json!({ "data": { "my-key": "CiQKIGG+4D56uLsyEAES" } }));
        let call = Call::new("PUT", "/v1/kv/my-key").with(&body);
        let text = why(cluster.ask(call, None, deadline).unwrap());
        assert!(text.contains("400: a text that repeats what is secret: this is no"), "{text}");
        let said = why(cluster.ask(Call::new("GET", "/v1/kv/my-key"), None, deadline).unwrap());
        assert!(said.contains("blocked: GET /v1/kv/my-key"), "{said}");
        let text = cluster.ask_to_log_in(deadline).map(why).unwrap();
        assert!(text.contains("400: a text that repeats what is secret"), "{text}");
    }

    #[test]
    fn an_endpoint_of_two_clusters_is_refused() {
        // Each answers one question.
        let cluster =
            cluster(&standby_of(&["0ad41e18-9eac-2b30-4f78-4065599a4b40", "another", "third"]));
        let deadline = Deadline::after(Instant::now(), Duration::from_secs(30));
        let Err(Failed::Other(why)) = cluster.ask(Call::new("GET", "/v1/rebuild"), None, deadline)
        else {
            panic!("it is answered");
        };
        assert!(why.contains("belong to different clusters"), "{why}");
    }

    #[test]
    fn the_active_node_answers_reads_also_after_the_cluster_was_built_anew() {
        let cluster =
            cluster(&standby_of(&["0ad41e18-9eac-2b30-4f78-4065599a4b40", "another", "third"]));
        let ask = |path| {
            let deadline = Deadline::after(Instant::now(), Duration::from_secs(30));
            let Ok(answer) = cluster.ask(Call::new("GET", path), None, deadline) else {
                panic!("{path} is not answered");
            };
            answer.text()
        };
        for path in ["/v1/a", "/v1/a", "/v1/rebuild", "/v1/a", "/v1/a", "/v1/rebuild", "/v1/a"] {
            assert_eq!("active", ask(path), "{path}");
        }
    }

    #[test]
    fn no_standby_has_what_lies_beyond_the_index_of_openbao() {
        // As OpenBao 2.7.2 answered a write.
        let index =
            "eyJjbHVzdGVyIjoiMGFkNDFlMTgtOWVhYy0yYjMwLTRmNzgtNDA2NTU5OWE0YjQwIiwidmFsdWUiOiI0OSJ9";
        let beyond = BASE64.decode(beyond_index(index).unwrap()).unwrap();
        let expected =
            r#"{"cluster":"0ad41e18-9eac-2b30-4f78-4065599a4b40","value":"18446744073709551615"}"#;
        assert_eq!(expected, String::from_utf8(beyond).unwrap());
        for other in ["", "djE6", "bnVsbA==", "v1:abc", "eyJ2YWx1ZSI6IjQ5In0="] {
            assert_eq!(None, beyond_index(other), "{other}");
        }
    }
}
