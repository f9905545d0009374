//! HashiCorp Vault and OpenBao: keys in a key-value engine of version 1 or 2, as the original stores them
//! (`backends.md` 2).
//!
//! The secret of a key has one member, which is called like the key. No state is kept here but a token,
//! so that any number of servers can use one engine.

mod answer;
mod settings;
mod site;
mod turnstile;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use base64::Engine as _;
use serde::Serialize;
use serde_json::Value;
use zeroize::Zeroizing;

pub use settings::{Jwt, Login, Settings, Transit, Version};

use super::{
    Error, KeyName, KeyStore, MAX_VALUE, Notices, Start,
    remote::{Answer, Call, Remote, Site, escape, json},
    token::{Keeper, Rules, Token},
};
use crate::{crypto::BASE64, deadline::Deadline, secret::Secret};
use answer::{Member, Members, Options, Versioned, is_absent, path, take};
use site::{Failed, Remoteness};
use turnstile::Turnstile;

/// The largest answer with a value: it is text in JSON, and base64 if transit encrypts it.
const MAX_ANSWER: u64 = 4 * MAX_VALUE as u64;
/// The largest list of names.
const MAX_LIST: u64 = 64 << 20;
/// The first login must be done within this time.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest time between logins that are refused; those that Vault counts are further apart.
const LONGEST_RETRY: Duration = Duration::from_secs(300);
/// The same for Kubernetes, which replaces its token by itself, and where Vault locks out nobody.
const LONGEST_RETRY_WITH_JWT: Duration = Duration::from_secs(30);
/// Where transit begins a ciphertext.
const WRAPPED: &str = "vault:v";
/// A value that was written is looked for as long as this: standby servers lag a little.
const MAX_LAG: Duration = Duration::from_secs(2);
/// On version 1, another server that was about to write the same key has written it after this time.
const SETTLE: Duration = Duration::from_millis(50);
/// On version 1, what a look at a name found is believed for this time.
const MAX_LOOK_AGE: Duration = Duration::from_secs(1);

/// Keys in Vault.
pub struct Vault {
    site: Arc<Remoteness>,
    keeper: Keeper,
    notices: Arc<Notices>,
    /// The keys that are being created here on an engine of version 1.
    creating: Turnstile,
    /// The engine is known to be of the version that is configured.
    is_version_known: AtomicBool,
}

impl Vault {
    /// Connects and logs in.
    ///
    /// # Errors
    /// Why Vault can't be used; with [`Start::Optional`] only if it never will.
    pub fn open(settings: &Settings, start: Start) -> Result<Self, Error> {
        const CONNECT: &str = "connect to Vault";
        let remote = Remote::new(Site {
            endpoint: &settings.endpoint,
            client_cert: (settings.client_cert.as_ref())
                .map(|pair| (pair.cert.as_path(), pair.key.as_path())),
            ca: settings.ca.as_deref(),
            ca_field: "vault.tls.ca",
            pause: 1000..1500,
        })
        .map_err(Error::during(CONNECT))?;
        let prefix = path(&settings.prefix);
        let site = Arc::new(Remoteness {
            remote,
            engine: path(&settings.engine),
            prefix: match prefix.as_str() {
                "" => String::new(),
                prefix => format!("{prefix}/"),
            },
            settings: settings.clone(),
            is_sealed: AtomicBool::new(false),
        });
        let notices = Arc::new(Notices::default());
        let rules = Rules {
            renew_after: 80,
            retry: settings.retry,
            longest_retry: match settings.login {
                Login::AppRole { .. } => LONGEST_RETRY,
                Login::Kubernetes { .. } => LONGEST_RETRY_WITH_JWT,
            },
            settles: true,
        };
        let vault = Self {
            keeper: Keeper::new(rules, notices.clone()),
            site,
            notices,
            creating: Turnstile::default(),
            is_version_known: AtomicBool::new(false),
        };
        let deadline = Deadline::after(Instant::now(), LOGIN_TIMEOUT);
        let ready = vault.get_ready(deadline);
        start.go_on(ready, CONNECT, &vault.notices)?;
        vault
            .keeper
            .start(vault.site.clone())
            .map_err(Error::during(CONNECT))?;
        Ok(vault)
    }

    /// Logs in, asks for the status, and checks the engine.
    fn get_ready(&self, deadline: Deadline) -> Result<(), Error> {
        self.keeper.log_in(&self.site, deadline)?;
        self.status(deadline)?;
        self.check_version(deadline)
    }

    /// Checks that the engine is of the configured version, if Vault tells: an engine of version 1
    /// takes the requests of version 2 for something else, and would not keep keys from being
    /// overwritten.
    fn check_version(&self, deadline: Deadline) -> Result<(), Error> {
        if self.is_version_known.load(Ordering::Relaxed) {
            return Ok(());
        }
        let path = format!("/v1/sys/internal/ui/mounts/{}", self.site.engine);
        // A refusal means that Vault does not tell, not that the token is wrong.
        let token = self.keeper.token(deadline)?;
        let site = &self.site;
        let answer = site.ask("GET", &path, Some(&token), None, true, MAX_ANSWER, deadline)?;
        if answer.status == 200
            && let Ok(json) = answer.json::<Value>()
            && let Some(kind) = json["data"]["type"].as_str()
        {
            let engine = &self.site.settings.engine;
            let found = match json["data"]["options"]["version"].as_str() {
                Some("2") => Version::V2,
                _ => Version::V1,
            };
            let why = match (self.site.settings.version, found) {
                _ if !["kv", "generic"].contains(&kind) => format!(
                    "the engine at {engine:?} is of type {kind:?}, not kv: check vault.engine"
                ),
                (Version::V1, Version::V2) => {
                    format!("the engine at {engine:?} is KV version 2: set vault.version to v2")
                }
                (Version::V2, Version::V1) => {
                    format!("the engine at {engine:?} is KV version 1: set vault.version to v1")
                }
                _ => {
                    self.is_version_known.store(true, Ordering::Relaxed);
                    return Ok(());
                }
            };
            return Err(Error::during("use the engine for keys")(why));
        }
        // Old servers and tight policies don't tell.
        Ok(())
    }

    /// The path of the value of `name`.
    fn location(&self, name: &KeyName) -> String {
        let Remoteness { engine, prefix, .. } = self.site.as_ref();
        let name = escape(name.as_str());
        match self.site.settings.version {
            Version::V1 => format!("/v1/{engine}/{prefix}{name}"),
            Version::V2 => format!("/v1/{engine}/data/{prefix}{name}"),
        }
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
        let site = &self.site;
        let call = |token: &Token| site.ask(method, path, Some(token), body, true, limit, deadline);
        let token = self.keeper.token(deadline)?;
        let answer = call(&token)?;
        if answer.status != 403 {
            return Ok(answer);
        }
        // This is how policies refuse; of tokens they say `permission denied` and no more.
        let is_doubtful = answer.says("1 error occurred");
        let newer = match is_doubtful {
            true => self.keeper.replace_in_doubt(&token, deadline),
            false => self.keeper.replace(&token, deadline),
        };
        if let Some(newer) = newer {
            return call(&newer);
        }
        match self.keeper.failure() {
            // It is the token that is wrong, and why there is no other is what helps.
            Some(why) if !is_doubtful => Err(why.into()),
            _ => Ok(answer),
        }
    }

    /// Writes with the token at hand: whether it was done is seen by whoever looks afterwards.
    fn write(
        &self,
        path: &str,
        body: &Secret,
        is_repeatable: bool,
        deadline: Deadline,
    ) -> Result<Answer, Failed> {
        let token = self.keeper.token(deadline)?;
        let site = &self.site;
        let (token, body) = (Some(&*token), Some(body));
        site.ask(
            "PUT",
            path,
            token,
            body,
            is_repeatable,
            MAX_ANSWER,
            deadline,
        )
    }

    /// The stored text of `name`: `None` if there is none.
    fn read(&self, name: &KeyName, deadline: Deadline) -> Result<Option<Secret>, Failed> {
        let mut path = self.location(name);
        if self.site.settings.version == Version::V2 {
            path += "?version=1";
        }
        let answer = self.ask("GET", &path, None, MAX_ANSWER, deadline)?;
        let members = match self.site.settings.version {
            Version::V1 => Members::of_v1(&answer),
            Version::V2 => Members::of_v2(&answer),
        };
        match members.map_err(|why| self.site.unusable("GET", &path, &why))? {
            Members::Found(mut members) => match members.remove(name.as_str()) {
                Some(Value::String(text)) => Ok(Some(Secret::new(text.into_bytes()))),
                _ => Err(self.site.unusable(
                    "GET",
                    &path,
                    &format!("the secret has no text in a member {:?}", name.as_str()),
                )),
            },
            Members::Missing => Ok(None),
            Members::Deleted => Err(Failed::Deleted),
            Members::Refused => Err(self.site.refusal("GET", &path, &answer, "read")),
        }
    }

    /// The text to store for `value`.
    fn wrap(&self, value: &Secret, deadline: Deadline) -> Result<Secret, Failed> {
        #[derive(Serialize)]
        struct Plain<'a> {
            plaintext: &'a str,
        }
        let Some(Transit { engine, key }) = &self.site.settings.transit else {
            return Ok(value.clone());
        };
        let url = format!("/v1/{}/encrypt/{}", answer::path(engine), escape(key));
        let plaintext = Zeroizing::new(BASE64.encode(value.expose()));
        let body = json(
            plaintext.len(),
            &Plain {
                plaintext: &plaintext,
            },
        )
        .map_err(Failed::Other)?;
        let answer = self.ask("POST", &url, Some(&body), MAX_ANSWER, deadline)?;
        if answer.status != 200 {
            return Err(self.site.refusal("POST", &url, &answer, "update"));
        }
        let json = answer.json::<Value>();
        let mut json = json.map_err(|why| self.site.unusable("POST", &url, &why))?;
        let text = match take(&mut json, "/data/ciphertext") {
            Value::String(text) => text,
            _ => String::new(),
        };
        if !text.starts_with(WRAPPED) {
            let why = "the answer is no ciphertext of transit";
            return Err(self.site.unusable("POST", &url, why));
        }
        Ok(Secret::new(text.into_bytes()))
    }

    /// The value that is stored as `text`.
    fn unwrap(&self, text: Secret, deadline: Deadline) -> Result<Secret, Failed> {
        #[derive(Serialize)]
        struct Wrapped<'a> {
            ciphertext: &'a str,
        }
        if !text.expose().starts_with(WRAPPED.as_bytes()) {
            return Ok(text);
        }
        let Some(Transit { engine, key }) = &self.site.settings.transit else {
            return Err(Failed::Other(
                "the value is encrypted by transit: set vault.transit".to_owned(),
            ));
        };
        let url = format!("/v1/{}/decrypt/{}", answer::path(engine), escape(key));
        let ciphertext = String::from_utf8_lossy(text.expose());
        let body = json(
            ciphertext.len(),
            &Wrapped {
                ciphertext: &ciphertext,
            },
        )
        .map_err(Failed::Other)?;
        let answer = self.ask("POST", &url, Some(&body), MAX_ANSWER, deadline)?;
        if answer.status != 200 {
            return Err(self.site.refusal("POST", &url, &answer, "update"));
        }
        let unusable = |why: &str| self.site.unusable("POST", &url, why);
        let mut json: Value = answer.json().map_err(|why| unusable(&why))?;
        let Value::String(plaintext) = take(&mut json, "/data/plaintext") else {
            return Err(unusable("the answer has no plaintext"));
        };
        let plaintext = Zeroizing::new(plaintext);
        BASE64
            .decode(plaintext.as_bytes())
            .map(Secret::new)
            .map_err(|_| unusable("the plaintext is not base64"))
    }

    /// Reads back what was written. Standby servers may need a moment to know it.
    fn read_back(
        &self,
        name: &KeyName,
        stored: &Secret,
        deadline: Deadline,
    ) -> Result<bool, Failed> {
        let until = Instant::now() + MAX_LAG;
        loop {
            match self.read(name, deadline)? {
                Some(found) => return Ok(found == *stored),
                None if Instant::now() >= until => {
                    return Err(Failed::Other(
                        "Vault has accepted the key but does not have it".to_owned(),
                    ));
                }
                None => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    fn create_v2(
        &self,
        name: &KeyName,
        stored: &Secret,
        deadline: Deadline,
    ) -> Result<bool, Failed> {
        if self.read(name, deadline)?.is_some() {
            return Ok(false);
        }
        let path = self.location(name);
        let body = json(
            2 * stored.len(),
            &Versioned {
                options: Options { cas: 0 },
                data: Member(name, stored),
            },
        )
        .map_err(Failed::Other)?;
        // Only the first write can succeed, so it may be repeated: whoever has won is seen in the end.
        let mut answer = self.write(&path, &body, true, deadline)?;
        if answer.status == 403 {
            // Without the right to `update`, this also says that the key was created meanwhile.
            if let Some(found) = self.read(name, deadline)? {
                return Ok(found == *stored);
            }
            answer = self.ask("PUT", &path, Some(&body), MAX_ANSWER, deadline)?;
        }
        match answer.status {
            200 => {}
            400 if answer.says("check-and-set") => {}
            204 => {
                let why = "the engine is not KV version 2: set vault.version to v1";
                return Err(self.site.unusable("PUT", &path, why));
            }
            _ => return Err(self.site.refusal("PUT", &path, &answer, "create")),
        }
        self.read_back(name, stored, deadline)
    }

    /// There is no conditional write, so this looks, writes and looks again, one server thread at a
    /// time for each name. A policy that grants `create` and not `update` lets Vault itself refuse to
    /// overwrite.
    fn create_v1(
        &self,
        name: &KeyName,
        stored: &Secret,
        deadline: Deadline,
    ) -> Result<bool, Failed> {
        let _turn = self.creating.enter(name, deadline).ok_or_else(|| {
            Failed::Other("the same key is being created for too long".to_owned())
        })?;
        let path = self.location(name);
        let body = json(2 * stored.len(), &Member(name, stored)).map_err(Failed::Other)?;
        let (mut was_refused, mut may_be_ours) = (false, false);
        loop {
            // It may be there from an earlier round whose answer was lost.
            let looked_at = Instant::now();
            if let Some(found) = self.read(name, deadline)? {
                return Ok(may_be_ours && found == *stored);
            }
            if looked_at.elapsed() > MAX_LOOK_AGE {
                continue;
            }
            may_be_ours = true;
            match self.write(&path, &body, false, deadline) {
                Ok(answer) if [200, 204].contains(&answer.status) => break,
                Ok(answer) if answer.status == 403 => {
                    // The key was created meanwhile, the token is of no use any more, which reading
                    // has mended, or nothing may be created.
                    if let Some(found) = self.read(name, deadline)? {
                        return Ok(found == *stored);
                    }
                    if was_refused {
                        return Err(self.site.refusal("PUT", &path, &answer, "create"));
                    }
                    was_refused = true;
                }
                Ok(answer) if answer.status < 500 => {
                    return Err(self.site.refusal("PUT", &path, &answer, "create"));
                }
                // Whether it was done or not is seen in the next round.
                result => {
                    if !self.site.remote.pause(deadline) {
                        return Err(match result {
                            Ok(answer) => self.site.refusal("PUT", &path, &answer, "create"),
                            Err(e) => e,
                        });
                    }
                }
            }
        }
        // Whoever looked before we wrote, and writes after us, has done so by then.
        std::thread::sleep(SETTLE);
        self.read_back(name, stored, deadline)
    }

    fn is_sealed(&self) -> bool {
        self.site.is_sealed.load(Ordering::Relaxed)
    }

    /// Words what went wrong while doing `what`.
    fn done<T>(&self, what: &str, work: impl FnOnce() -> Result<T, Failed>) -> Result<T, Error> {
        if self.is_sealed() {
            return Err(Error::Sealed);
        }
        work().map_err(|failed| {
            let during = format!("{what} in Vault");
            match failed {
                Failed::Sealed => Error::Sealed,
                Failed::NoToken(e) => e,
                Failed::Deleted => Error::during(during)(
                    "version 1 of the secret is deleted or destroyed in Vault, but not its metadata: \
                     undelete it there, or delete the metadata",
                ),
                Failed::NoAnswer(e) => Error::during(during)(e),
                Failed::Other(why) => Error::during(during)(why),
            }
        })
    }
}

impl KeyStore for Vault {
    fn create(&self, name: &KeyName, value: &Secret, deadline: Deadline) -> Result<(), Error> {
        let is_ours = self.done("create the key", || {
            self.check_version(deadline)?;
            if str::from_utf8(value.expose()).is_err() {
                return Err(Failed::Other("the value is not text".to_owned()));
            }
            let stored = self.wrap(value, deadline)?;
            let is_ours = match self.site.settings.version {
                Version::V1 => self.create_v1(name, &stored, deadline)?,
                Version::V2 => self.create_v2(name, &stored, deadline)?,
            };
            if is_ours && self.unwrap(stored, deadline)? != *value {
                return Err(Failed::Other(
                    "transit does not give back what it has encrypted".to_owned(),
                ));
            }
            Ok(is_ours)
        })?;
        is_ours.then_some(()).ok_or(Error::Exists)
    }

    fn get(&self, name: &KeyName, deadline: Deadline) -> Result<Secret, Error> {
        let found = self.done("read the key", || {
            let found = match self.read(name, deadline) {
                Err(Failed::Deleted) => None,
                found => found?,
            };
            let unwrap = |text| self.unwrap(text, deadline);
            found.map(unwrap).transpose()
        })?;
        found.ok_or(Error::NotFound)
    }

    fn delete(&self, name: &KeyName, deadline: Deadline) -> Result<(), Error> {
        self.done("delete the key", || {
            let path = match self.site.settings.version {
                Version::V1 => self.location(name),
                Version::V2 => format!(
                    "/v1/{}/metadata/{}{}",
                    self.site.engine,
                    self.site.prefix,
                    escape(name.as_str())
                ),
            };
            let answer = self.ask("DELETE", &path, None, MAX_ANSWER, deadline)?;
            match answer.status {
                200 | 204 => Ok(()),
                _ if is_absent(&answer) => Ok(()),
                _ => Err(self.site.refusal("DELETE", &path, &answer, "delete")),
            }
        })
    }

    fn list(&self, deadline: Deadline) -> Result<Vec<String>, Error> {
        self.done("list keys", || {
            let Remoteness { engine, prefix, .. } = self.site.as_ref();
            let path = match self.site.settings.version {
                Version::V1 => format!("/v1/{engine}/{prefix}?list=true"),
                Version::V2 => format!("/v1/{engine}/metadata/{prefix}?list=true"),
            };
            let answer = self.ask("GET", &path, None, MAX_LIST, deadline)?;
            match answer.status {
                200 => {
                    let json = answer.json::<Value>();
                    let mut json = json.map_err(|why| self.site.unusable("GET", &path, &why))?;
                    let Value::Array(keys) = take(&mut json, "/data/keys") else {
                        let why = "the answer has no list of keys";
                        return Err(self.site.unusable("GET", &path, why));
                    };
                    let names = keys.into_iter().filter_map(|key| match key {
                        Value::String(name) if !name.ends_with('/') => Some(name),
                        _ => None,
                    });
                    Ok(names.collect())
                }
                _ if is_absent(&answer) => Ok(Vec::new()),
                _ => Err(self.site.refusal("GET", &path, &answer, "list")),
            }
        })
    }

    fn status(&self, deadline: Deadline) -> Result<(), Error> {
        let path = "/v1/sys/health?uninitcode=299&sealedcode=299&standbycode=299\
                    &drsecondarycode=299&performancestandbycode=299";
        let call = Call {
            method: "GET",
            path,
            headers: &[("X-Vault-Request", "true")],
            body: None,
            is_repeatable: false,
        };
        const ASK: &str = "get the status of Vault";
        let answer = self.site.remote.call(call, MAX_ANSWER, deadline);
        let answer = answer.map_err(Error::during(ASK))?;
        if !(200..400).contains(&answer.status) {
            let why = format!(
                "GET {}: status {}",
                self.site.remote.url("/v1/sys/health"),
                answer.status
            );
            return Err(Error::during(ASK)(why));
        }
        let health: Value = answer.json().map_err(Error::during(ASK))?;
        let Some(is_sealed) = health["sealed"].as_bool() else {
            return Err(Error::during(ASK)(
                "the answer does not say whether it is sealed",
            ));
        };
        self.site.is_sealed.store(is_sealed, Ordering::Relaxed);
        match health["initialized"].as_bool() {
            Some(false) => Err(Error::during(ASK)("it is not initialised")),
            _ if is_sealed => Err(Error::Sealed),
            _ => Ok(()),
        }
    }

    fn describe(&self) -> String {
        format!("Hashicorp Vault: {}", self.site.settings.endpoint)
    }

    fn ping(&self) -> Option<Duration> {
        Some(self.site.settings.ping)
    }

    fn notices(&self) -> Vec<String> {
        self.notices.take()
    }

    fn retry(&self) {
        self.keeper.retry();
    }
}
