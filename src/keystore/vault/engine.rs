//! The key-value engine of Vault that holds the keys: requests with a token, what must be right about the
//! engine, and reading.

use std::{
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    answer::{Members, Rights, is_absent, version},
    cluster::Cluster,
    settings::{Login, Settings, Version, path},
};
use crate::{
    base::{deadline::Deadline, secret::Secret},
    keystore::{
        remote::{self, Answer, Call, Failed},
        store::{KeyName, Notices},
        token::{Blame, Keeper, Rules},
    },
    tls,
    web::escape,
};

/// The longest time between logins that are refused; those that Vault counts are further apart.
const LONGEST_RETRY: Duration = Duration::from_secs(300);
/// The same for Kubernetes, which replaces its token by itself, and where Vault locks out nobody.
const LONGEST_RETRY_WITH_JWT: Duration = Duration::from_secs(30);
/// Any key, for a question about all of them.
pub(crate) const ANY_KEY: &str = "any-key";
/// What lets a token overwrite keys on version 1.
pub(crate) const OVERWRITING: &[&str] = &["update", "root"];
/// Vault must say within this time what a token may do: nothing depends on it.
const RIGHTS_TIMEOUT: Duration = Duration::from_secs(5);

/// The engine.
pub(crate) struct Engine {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) keeper: Keeper,
    pub(crate) notices: Arc<Notices>,
    /// Its path, escaped.
    path: String,
    /// The path inside it, escaped, with a slash at its end if it is not empty.
    prefix: String,
    /// The keys that are being created here on version 1, and the sign that one of them is done.
    pub(crate) creating: (Mutex<Vec<KeyName>>, Condvar),
    /// It is known to be of the version that is configured.
    is_version_known: AtomicBool,
    /// The error log knows that it can't be seen.
    has_warned: AtomicBool,
    /// Vault was asked whether keys can be overwritten.
    has_asked_rights: AtomicBool,
}

impl Engine {
    pub(crate) fn new(settings: &Settings) -> Result<Self, tls::Error> {
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
        Ok(Self {
            cluster: Arc::new(Cluster::new(settings)?),
            keeper: Keeper::new(rules, notices.clone()),
            notices,
            path: path(&settings.engine),
            prefix: match path(&settings.prefix) {
                prefix if prefix.is_empty() => prefix,
                prefix => format!("{prefix}/"),
            },
            creating: Default::default(),
            is_version_known: AtomicBool::new(false),
            has_warned: AtomicBool::new(false),
            has_asked_rights: AtomicBool::new(false),
        })
    }

    pub(crate) fn version(&self) -> Version {
        self.cluster.settings.version
    }

    /// The path of the value of `name`.
    pub(crate) fn location(&self, name: &KeyName) -> String {
        self.place("data", &escape::segment(name.as_str()))
    }

    /// The path of what belongs to `name`, and of no value: on version 2 under `kind`.
    pub(crate) fn place(&self, kind: &str, name: &str) -> String {
        let Self { path, prefix, .. } = self;
        match self.version() {
            Version::V1 => format!("/v1/{path}/{prefix}{name}"),
            Version::V2 => format!("/v1/{path}/{kind}/{prefix}{name}"),
        }
    }

    /// Asks with a token, and once more with a newer one if the token is refused.
    pub(crate) fn ask(&self, call: Call<'_>, deadline: Deadline) -> Result<Answer, Failed> {
        let ask = |token: &_| self.cluster.ask(call, Some(token), deadline);
        self.keeper.ask(deadline, ask, |answer| match answer.status {
            // This is how policies refuse; of tokens they say `permission denied` and no more.
            403 if answer.says("1 error occurred") => Some(Blame::Unclear),
            403 => Some(Blame::Token),
            _ => None,
        })
    }

    /// Asks with the token at hand, and takes a refusal for an answer.
    pub(crate) fn ask_once(&self, call: Call<'_>, deadline: Deadline) -> Result<Answer, Failed> {
        let token = self.keeper.token(deadline)?;
        self.cluster.ask(call, Some(&token), deadline)
    }

    pub(crate) fn refusal(&self, answer: &Answer, capability: &str) -> Failed {
        self.cluster.refusal(answer, capability)
    }

    /// What is checked before the first key is created.
    pub(crate) fn check(&self, deadline: Deadline) -> Result<(), Failed> {
        self.check_version(deadline)?;
        self.warn_of_overwriting(deadline);
        Ok(())
    }

    /// Checks that the engine is of the configured version, if Vault tells: an engine of version 1
    /// misunderstands the requests of version 2, and would not keep keys from being overwritten.
    pub(crate) fn check_version(&self, deadline: Deadline) -> Result<(), Failed> {
        if self.is_version_known.load(Relaxed) {
            return Ok(());
        }
        let Settings { engine, namespace, version, endpoint, .. } = &self.cluster.settings;
        let path = format!("/v1/sys/internal/ui/mounts/{}", self.path);
        // A refusal means that Vault does not tell, not that the token is wrong.
        let answer = self.ask_once(Call::new("GET", &path), deadline)?;
        if answer.status == 200
            && let Ok(json) = answer.json::<Value>()
            && let Some(kind) = json["data"]["type"].as_str()
        {
            let found = match json["data"]["options"]["version"].as_str() {
                Some("2") => Version::V2,
                _ => Version::V1,
            };
            let why = match (*version, found) {
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
                    self.is_version_known.store(true, Relaxed);
                    return Ok(());
                }
            };
            return Err(Failed::Other(why));
        }
        // Old servers do not tell. This answer says that nothing is there, or nothing for us; if that is
        // wrong, the engine works all the same.
        if answer.status == 403
            && answer.says("preflight capability check")
            && !self.has_warned.swap(true, Relaxed)
        {
            let namespace = match namespace.as_str() {
                "" => String::new(),
                namespace => format!(", vault.namespace {namespace:?}"),
            };
            self.notices.add(format!(
                "no engine at {engine:?} in {endpoint}, or the policy of the role grants nothing in \
                 it: check vault.engine{namespace} and the policy"
            ));
        }
        Ok(())
    }

    /// Asks, once, what the token may do to keys, and warns in the error log if it may overwrite them.
    /// A Vault that does not tell is used all the same.
    fn warn_of_overwriting(&self, deadline: Deadline) {
        let settings = &self.cluster.settings;
        if settings.version == Version::V2 || self.has_asked_rights.swap(true, Relaxed) {
            return;
        }
        let directory = settings.directory("");
        let key = format!("{directory}/{ANY_KEY}");
        let rights = self.rights(&[&key], deadline);
        if let Some(right) = rights.and_then(|rights| rights.find(&key, OVERWRITING)) {
            self.notices.add(format!("WARNING: {}", overwriting(right, &directory)));
        }
    }

    /// What the token may do on these paths. `None`: no answer.
    pub(crate) fn rights(&self, paths: &[&str], deadline: Deadline) -> Option<Rights> {
        let deadline = deadline.min(Deadline::after(Instant::now(), RIGHTS_TIMEOUT));
        let body = remote::json(&json!({ "paths": paths }));
        let call = Call::new("POST", "/v1/sys/capabilities-self").with(&body);
        self.ask_once(call, deadline).ok().map(|answer| Rights::of(&answer))
    }

    /// The stored text of `name`: `None` if there is none.
    pub(crate) fn read(
        &self,
        name: &KeyName,
        deadline: Deadline,
    ) -> Result<Option<Secret>, Failed> {
        let mut path = self.location(name);
        if self.version() == Version::V2 {
            path += "?version=1";
        }
        let answer = self.ask(Call::new("GET", &path), deadline)?;
        let members = match self.version() {
            Version::V1 => Members::of_v1(&answer),
            Version::V2 => Members::of_v2(&answer),
        };
        match members? {
            Members::Found(mut members) => match members.remove(name.as_str()) {
                Some(Value::String(text)) => Ok(Some(Secret::new(text.into_bytes()))),
                _ => {
                    let why = format!("the secret has no text in a member {:?}", name.as_str());
                    Err(answer.unusable(&why))
                }
            },
            Members::Missing => Ok(None),
            Members::Deleted => Err(Failed::Deleted),
            Members::Refused => Err(self.refusal(&answer, "read")),
        }
    }

    /// Called when version 1 of `name` is not there: fails if later ones are. Others have written those,
    /// and Vault keeps only a few, so the key is lost; that must not look like a free name.
    pub(crate) fn check_not_trimmed(
        &self,
        name: &KeyName,
        deadline: Deadline,
    ) -> Result<(), Failed> {
        if self.version() == Version::V1 {
            return Ok(());
        }
        let path = self.location(name);
        let answer = self.ask(Call::new("GET", &path), deadline)?;
        match version(&answer) {
            Some(newest) if newest > 1 => Err(answer.unusable(&format!(
                "version 1, which holds the key, is not kept any more: others have written up to \
                 version {newest}; restore the secret from a backup of Vault, or delete the key, and \
                 what it has encrypted, to free the name"
            ))),
            Some(_) => Ok(()),
            None if is_absent(&answer) => Ok(()),
            None => Err(self.refusal(&answer, "read")),
        }
    }
}

/// What `right` on the keys in `directory` of an engine of version 1 means.
pub(crate) fn overwriting(right: &str, directory: &str) -> String {
    format!(
        "keys can be lost: the policy of the role grants {right:?} on \"{directory}/*\", so Vault lets \
         this server overwrite keys, and KV version 1 can't tell that from creating them. Two creates \
         of a key, even one after the other if a standby of Vault lags behind, may both succeed: the \
         second key replaces the first, and nobody can decrypt what that has encrypted. Remove \
         \"update\" from the policy, or use an engine of version 2"
    )
}
