//! HashiCorp Vault and OpenBao: keys in a key-value engine of version 1 or 2, as KES 0.14 stores them.
//!
//! The secret of a key has one member, which is called like the key. No state is kept here but a token,
//! so that any number of servers can use one engine.

pub mod answer;
mod cluster;
mod create;
mod engine;
mod examine;
mod settings;
mod transit;

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    remote::{Call, Failed, take},
    store::{self, Error, KeyName, KeyStore, Start},
};
use crate::{
    base::{checkup::Checkup, deadline::Deadline, secret::Secret},
    web::escape,
};
use answer::{is_absent, is_deleted};
use engine::Engine;
use settings::path;
pub use settings::{Jwt, Login, Settings, Transit, Version};

/// The largest list of names, in bytes.
const MAX_LIST: u64 = 64 << 20;
/// Names in a list, at most: each takes memory, however short it is.
const MAX_NAMES: usize = 2 << 20;
/// The first login must be done within this time.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(30);

/// What tells the state of Vault, with the same status for each.
const HEALTH: &str = "/v1/sys/health?uninitcode=299&sealedcode=299&standbycode=299\
                      &drsecondarycode=299&performancestandbycode=299";

/// Keys in Vault.
pub struct Vault(Engine);

impl Vault {
    /// Logs in, asks for the status, and checks the engine and the policy.
    fn get_ready(&self, deadline: Deadline) -> Result<(), Error> {
        self.0.keeper.log_in(&self.0.cluster, deadline)?;
        self.status(deadline)?;
        self.0.check(deadline).map_err(|e| e.during("use the engine for keys"))
    }

    /// What Vault says of its health.
    ///
    /// # Errors
    /// Why it can't be used.
    fn health(&self, deadline: Deadline) -> Result<Value, Error> {
        const ASK: &str = "get the status of Vault";
        let cluster = &self.0.cluster;
        let headers = &[("X-Vault-Request", "true")];
        let call = Call { headers, ..Call::new("GET", HEALTH).once().look() };
        let answer = cluster.remote.call(call, deadline).map_err(|e| e.during(ASK))?;
        if !(200..400).contains(&answer.status) {
            return Err(cluster.refusal(&answer, "read").during(ASK));
        }
        let Ok(health) = answer.json::<Value>() else {
            return Err(cluster.refusal(&answer, "read").during(ASK));
        };
        let Some(is_sealed) = health["sealed"].as_bool() else {
            return Err(Error::during(ASK)("the answer does not say whether it is sealed"));
        };
        match health["initialized"].as_bool() {
            // It answers, but there is nothing behind it yet.
            Some(false) => Err(Error::during(ASK)(io::Error::other("it is not initialised"))),
            _ if is_sealed => Err(Error::Sealed),
            _ => Ok(health),
        }
    }
}

/// Does `work`, which is called `what`. A Vault that is sealed says so at once, and says so for itself alone: behind
/// one endpoint there may be others.
fn work<T>(what: &str, work: impl FnOnce() -> Result<T, Failed>) -> Result<T, Error> {
    work().map_err(|failed| failed.during(format!("{what} in Vault")))
}

impl store::Settings for Settings {
    fn open(&self, start: Start) -> Result<Arc<dyn KeyStore>, Error> {
        const CONNECT: &str = "connect to Vault";
        let vault = Vault(Engine::new(self).map_err(Error::during(CONNECT))?);
        let Engine { cluster, keeper, notices, .. } = &vault.0;
        let ready = vault.get_ready(Deadline::after(Instant::now(), LOGIN_TIMEOUT));
        let ready = ready.map_err(|e| match (e, start) {
            (Error::Sealed, _) => Error::during(CONNECT)(format!(
                "{} is sealed: unseal it{}",
                self.endpoint,
                match start {
                    Start::Required => {
                        "; with keystore.required set to off the server starts without it"
                    }
                    Start::Optional => "",
                }
            )),
            (e, _) => e,
        });
        start.go_on(ready, CONNECT, notices)?;
        keeper.start(cluster.clone()).map_err(Error::during(CONNECT))?;
        Ok(Arc::new(vault))
    }

    fn opening(&self) -> Option<String> {
        Some(format!("Authenticating to Hashicorp Vault '{}'", self.endpoint))
    }

    fn place(&self) -> Option<String> {
        let endpoint = self.endpoint.to_ascii_lowercase();
        let namespace = self.namespace.trim_matches('/');
        let (engine, prefix) = (path(&self.engine), path(&self.prefix));
        Some(format!("Vault {:?}", (endpoint, namespace, engine, prefix)))
    }

    fn is_remote(&self) -> bool {
        true
    }

    fn look(&self) -> Option<String> {
        Some(self.endpoint.clone() + HEALTH)
    }

    fn examine(&self, found: &mut Checkup, _: bool) -> Option<Arc<dyn KeyStore>> {
        let vault = examine::examine(self, found)?;
        Some(Arc::new(vault))
    }
}

impl KeyStore for Vault {
    fn create(&self, name: &KeyName, value: &Secret, deadline: Deadline) -> Result<(), Error> {
        let engine = &self.0;
        let is_ours = work("create the key", || {
            engine.check(deadline)?;
            if str::from_utf8(value.expose()).is_err() {
                return Err(Failed::Other("the value is not text".to_owned()));
            }
            let stored = engine.wrap(value, deadline)?;
            let is_ours = engine.create_stored(name, &stored, deadline)?;
            if is_ours && engine.unwrap(stored, deadline)? != *value {
                let why = "transit does not give back what it has encrypted";
                return Err(Failed::Other(why.to_owned()));
            }
            Ok(is_ours)
        })?;
        is_ours.then_some(()).ok_or(Error::Exists)
    }

    fn get(&self, name: &KeyName, deadline: Deadline) -> Result<Secret, Error> {
        let found = work("read the key", || {
            let found = match self.0.read(name, deadline) {
                Err(Failed::Deleted) => None,
                Ok(None) => {
                    self.0.check_not_trimmed(name, deadline)?;
                    None
                }
                found => found?,
            };
            found.map(|text| self.0.unwrap(text, deadline)).transpose()
        })?;
        found.ok_or(Error::NotFound)
    }

    fn delete(&self, name: &KeyName, deadline: Deadline) -> Result<(), Error> {
        work("delete the key", || {
            // This may be repeated, and finds out whether Vault answers.
            if let Err(e @ (Failed::NoAnswer(_) | Failed::NotReady(_))) =
                self.0.read(name, deadline)
            {
                return Err(e);
            }
            // This may not: others may have created the key anew after a try whose answer was lost.
            let path = self.0.place("metadata", &escape::segment(name.as_str()));
            let answer = self.0.ask(Call::new("DELETE", &path).once(), deadline)?;
            match is_deleted(&answer) {
                true => Ok(()),
                false => Err(self.0.refusal(&answer, "delete")),
            }
        })
    }

    fn list(&self, deadline: Deadline) -> Result<Vec<String>, Error> {
        work("list keys", || {
            let path = self.0.place("metadata", "?list=true");
            let answer = self.0.ask(Call::new("GET", &path).limit(MAX_LIST), deadline)?;
            if is_absent(&answer) {
                return Ok(Vec::new());
            }
            if answer.status != 200 {
                return Err(self.0.refusal(&answer, "list"));
            }
            if answer.body.expose().iter().filter(|byte| **byte == b',').count() > MAX_NAMES {
                return Err(answer.unusable(&format!("it has more than {MAX_NAMES} names")));
            }
            let Value::Array(keys) = take(&mut answer.json()?, "/data/keys") else {
                return Err(answer.unusable("the answer has no list of keys"));
            };
            let names = keys.into_iter().filter_map(|key| match key {
                Value::String(name) if !name.ends_with('/') => Some(name),
                _ => None,
            });
            Ok(names.collect())
        })
    }

    fn status(&self, deadline: Deadline) -> Result<(), Error> {
        self.health(deadline).map(drop)
    }

    fn describe(&self) -> String {
        format!("Hashicorp Vault: {}", self.0.cluster.settings.endpoint)
    }

    fn ping(&self) -> Option<Duration> {
        Some(self.0.cluster.settings.ping)
    }

    fn notices(&self) -> Vec<String> {
        self.0.notices.take()
    }

    fn is_login_failing(&self) -> bool {
        self.0.keeper.is_failing()
    }

    fn retry(&self) {
        self.0.keeper.retry();
    }

    fn tidy(&self, now: Instant) {
        self.0.cluster.remote.tidy(now);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpListener,
        thread,
    };

    use base64::Engine as _;

    use super::*;
    use crate::crypto::BASE64;

    /// A Vault that answers the path of a request, the first time with the number 0, with this status and body, and
    /// logs in everyone.
    fn fake(answer: impl Fn(&str, usize) -> (u16, String) + Send + 'static) -> Vault {
        let answer = move |request: &str, count| answer(request.split(' ').nth(1).unwrap(), count);
        fake_with(|_| {}, answer)
    }

    /// The same of a whole request, with other settings.
    fn fake_with(
        change: impl FnOnce(&mut Settings),
        answer: impl Fn(&str, usize) -> (u16, String) + Send + 'static,
    ) -> Vault {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        thread::spawn(move || {
            let mut count = 0;
            for connection in listener.incoming() {
                let mut connection = connection.unwrap();
                let (mut request, mut part) = (Vec::new(), [0; 4096]);
                while !is_whole(&request) {
                    let read = connection.read(&mut part).unwrap();
                    assert!(read > 0, "a whole request comes");
                    request.extend_from_slice(&part[..read]);
                }
                let request = String::from_utf8(request).unwrap();
                let path = request.split(' ').nth(1).unwrap();
                let (status, body) = match path.contains("/login") {
                    true => (200, r#"{"auth":{"client_token":"t","lease_duration":0}}"#.to_owned()),
                    false => answer(&request, count),
                };
                count += usize::from(!path.contains("/login"));
                let length = body.len();
                let head = "x\r\nconnection: close\r\ncontent-length:";
                let answer = format!("HTTP/1.1 {status} {head} {length}\r\n\r\n{body}");
                connection.write_all(answer.as_bytes()).unwrap();
            }
        });
        let mut settings = Settings::for_tests(&endpoint, Version::V1);
        change(&mut settings);
        let vault = Vault(Engine::new(&settings).unwrap());
        vault.0.keeper.log_in(&vault.0.cluster, deadline()).unwrap();
        vault
    }

    fn is_whole(request: &[u8]) -> bool {
        let text = String::from_utf8_lossy(request).to_lowercase();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        body.len() >= length.map_or(0, |length| length.parse().unwrap())
    }

    fn deadline() -> Deadline {
        Deadline::after(Instant::now(), Duration::from_secs(60))
    }

    #[test]
    fn of_three_servers_behind_one_endpoint_one_that_is_sealed_fails_a_third_of_the_requests() {
        let vault = fake(|path, count| {
            assert!(path.ends_with("/my-key"), "{path}");
            match count % 3 {
                0 => (503, r#"{"errors":["Vault is sealed"]}"#.to_owned()),
                _ => (200, r#"{"data":{"my-key":"value"}}"#.to_owned()),
            }
        });
        let name = KeyName::parse("my-key").unwrap();
        for count in 0..30 {
            match vault.get(&name, deadline()) {
                Err(Error::Sealed) => assert_eq!(0, count % 3),
                found => assert!(found.is_ok() && count % 3 > 0, "{count}: {found:?}"),
            }
        }
    }

    /// Something in front of Vault may answer so.
    #[test]
    fn an_answer_that_repeats_a_key_is_not_quoted_and_one_that_repeats_its_name_is() {
        let name = KeyName::parse("my-long-key-name").unwrap();
        let bytes = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        let value = Secret::new(format!(r#"{{"bytes":"{bytes}"}}"#).into_bytes());
        let wrapped = BASE64.encode(value.expose());
        for (version, transit) in
            [Version::V1, Version::V2].map(|v| [(v, false), (v, true)]).concat()
        {
            for repeats in [true, false] {
                let change = |settings: &mut Settings| {
                    settings.version = version;
                    let (engine, key) = ("transit".to_owned(), "kes".to_owned());
                    settings.transit = transit.then_some(settings::Transit { engine, key });
                };
                let vault = fake_with(change, move |request, _| {
                    let (head, body) = request.split_once("\r\n\r\n").unwrap();
                    match () {
                        () if head.starts_with("GET") => (404, r#"{"errors":[]}"#.to_owned()),
                        () if repeats => (400, format!("blocked: {body}")),
                        () => (400, "blocked: plaintext, options of my-long-key-name".to_owned()),
                    }
                });
                let error = vault.create(&name, &value, deadline()).unwrap_err().to_string();
                let says = |text: &str| error.contains(text);
                assert!(!says(&bytes[..8]) && !says(&wrapped[..8]), "{error}");
                assert_eq!(repeats, says("400: a text that repeats what is secret"), "{error}");
                assert_eq!(
                    !repeats,
                    says("400: blocked: plaintext, options of my-long-key-name"),
                    "{error}"
                );
            }
        }
    }

    #[test]
    fn a_list_of_more_names_than_fit_into_memory_is_refused() {
        let names =
            |count| (200, format!(r#"{{"data":{{"keys":[{}"end"]}}}}"#, r#""","#.repeat(count)));
        let vault = fake(move |_, count| names([2, MAX_NAMES + 1][count]));
        assert_eq!(["", "", "end"], *vault.list(deadline()).unwrap());
        let error = vault.list(deadline()).unwrap_err().to_string();
        assert!(error.ends_with("it has more than 2097152 names"), "{error}");
    }
}
