//! HashiCorp Vault and OpenBao: keys in a key-value engine of version 1 or 2, as the original stores them
//! (`backends.md` 2).
//!
//! The secret of a key has one member, which is called like the key. No state is kept here but a token,
//! so that any number of servers can use one engine.

mod answer;
mod create;
mod rights;
mod settings;
mod site;
mod transit;
mod turnstile;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::Value;

pub use settings::{Jwt, Login, Settings, Transit, Version};

use super::{
    Error, KeyName, KeyStore, MAX_VALUE, Notices, Start,
    remote::{Answer, Call, Fields, Remote, Site, escape},
    token::{Keeper, Rules, Token},
};
use crate::base::{deadline::Deadline, secret::Secret};
use answer::{Members, is_absent, is_deleted, path, take, version};
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

/// Keys in Vault.
pub struct Vault {
    site: Arc<Remoteness>,
    keeper: Keeper,
    notices: Arc<Notices>,
    /// The keys that are being created here on an engine of version 1.
    creating: Turnstile,
    /// The engine is known to be of the version that is configured.
    is_version_known: AtomicBool,
    /// The error log knows that the engine can't be seen.
    has_warned: AtomicBool,
    /// Vault was asked whether keys can be overwritten.
    has_asked_rights: AtomicBool,
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
            fields: Fields {
                ca: "vault.tls.ca",
                client_cert: "check vault.tls.cert and vault.tls.key",
            },
            pause: 1000..1500,
            has_standbys: true,
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
            has_warned: AtomicBool::new(false),
            has_asked_rights: AtomicBool::new(false),
        };
        let deadline = Deadline::after(Instant::now(), LOGIN_TIMEOUT);
        let ready = vault.get_ready(deadline).map_err(|e| match e {
            Error::Sealed => Error::during(CONNECT)(format!(
                "{} is sealed: unseal it{}",
                settings.endpoint,
                match start {
                    Start::Required => {
                        "; with keystore.required set to off the server starts without it"
                    }
                    Start::Optional => "",
                }
            )),
            e => e,
        });
        start.go_on(ready, CONNECT, &vault.notices)?;
        vault.keeper.start(vault.site.clone()).map_err(Error::during(CONNECT))?;
        Ok(vault)
    }

    /// Logs in, asks for the status, and checks the engine and the policy.
    fn get_ready(&self, deadline: Deadline) -> Result<(), Error> {
        self.keeper.log_in(&self.site, deadline)?;
        self.status(deadline)?;
        self.check_engine(deadline)
    }

    /// What is checked before the first key is created.
    fn check_engine(&self, deadline: Deadline) -> Result<(), Error> {
        self.check_version(deadline)?;
        self.warn_of_overwriting(deadline);
        Ok(())
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
        // An old server does not tell. This one says that nothing is there, or nothing for us; if it is
        // wrong the server works all the same.
        if answer.status == 403
            && answer.says("preflight capability check")
            && !self.has_warned.swap(true, Ordering::Relaxed)
        {
            let Settings { engine, namespace, .. } = &self.site.settings;
            let namespace = match namespace.as_str() {
                "" => String::new(),
                namespace => format!(", vault.namespace {namespace:?}"),
            };
            self.notices.add(format!(
                "no engine at {engine:?} in {}, or the policy of the role grants nothing in it: check \
                 vault.engine{namespace} and the policy",
                self.site.settings.endpoint
            ));
        }
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

    /// Called when version 1 of `name` is not there: fails if later ones are. Others have written those
    /// and Vault keeps a few only, so the key is lost, which is not the same as that there is none.
    fn check_not_trimmed(&self, name: &KeyName, deadline: Deadline) -> Result<(), Failed> {
        if self.site.settings.version == Version::V1 {
            return Ok(());
        }
        let path = self.location(name);
        let answer = self.ask("GET", &path, None, MAX_ANSWER, deadline)?;
        match version(&answer) {
            Some(newest) if newest > 1 => Err(self.site.unusable(
                "GET",
                &path,
                &format!(
                    "version 1, which holds the key, is not kept any more: others have written up to \
                     version {newest}; restore the secret from a backup of Vault, or delete the key, \
                     and what it has encrypted, to free the name"
                ),
            )),
            Some(_) => Ok(()),
            None if is_absent(&answer) => Ok(()),
            None => Err(self.site.refusal("GET", &path, &answer, "read")),
        }
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
            self.check_engine(deadline)?;
            if str::from_utf8(value.expose()).is_err() {
                return Err(Failed::Other("the value is not text".to_owned()));
            }
            let stored = self.wrap(value, deadline)?;
            let is_ours = self.create_stored(name, &stored, deadline)?;
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
                Ok(None) => {
                    self.check_not_trimmed(name, deadline)?;
                    None
                }
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
            match is_deleted(&answer) {
                true => Ok(()),
                false => Err(self.site.refusal("DELETE", &path, &answer, "delete")),
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
            let why =
                format!("GET {}: status {}", self.site.remote.url("/v1/sys/health"), answer.status);
            return Err(Error::during(ASK)(why));
        }
        let health: Value = answer.json().map_err(Error::during(ASK))?;
        let Some(is_sealed) = health["sealed"].as_bool() else {
            return Err(Error::during(ASK)("the answer does not say whether it is sealed"));
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
