//! Gemalto KeySecure, now Thales CipherTrust Manager: keys are secrets in the vault of the appliance
//! (`backends.md` 3).
//!
//! The appliance itself refuses to create a name twice, and no state is kept here but a token, so any
//! number of servers can use one domain.

mod appliance;

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{
    Error, KeyName, KeyStore, MAX_VALUE, Notices, Start,
    remote::{Answer, Call, Fields, Remote, Site, escape, json},
    token::{Keeper, Rules},
};
use crate::{
    base::{deadline::Deadline, secret::Secret},
    crypto::Text,
};
use appliance::{Appliance, Failed, says};

const SECRETS: &str = "/api/v1/vault/secrets";
/// The largest answer with a value: JSON may write one byte with six.
const MAX_ANSWER: u64 = 6 * MAX_VALUE as u64 + (64 << 10);
/// The largest answer with a page of names.
const MAX_PAGE: u64 = 32 << 20;
/// Names that are asked for at once; the appliance gives ten by itself.
const PAGE: u64 = 200;
/// The first login must be done within this time.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest time between logins that are refused.
const LONGEST_RETRY: Duration = Duration::from_secs(300);
/// A value that was written is looked for as long as this: nodes of a cluster lag a little.
const MAX_LAG: Duration = Duration::from_secs(2);
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
            fields: Fields {
                ca: "gemalto.keysecure.tls.ca",
                client_cert: "gemalto.keysecure has no field for one, so let it do without",
            },
            pause: 200..1000,
            has_standbys: false,
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
            site: Arc::new(Appliance { remote: remote.retrying_all(), settings: settings.clone() }),
            keeper: Keeper::new(rules, notices.clone()),
            notices,
        };
        let deadline = Deadline::after(Instant::now(), LOGIN_TIMEOUT);
        let ready = store.keeper.log_in(&store.site, deadline);
        start.go_on(ready, CONNECT, &store.notices)?;
        store.keeper.start(store.site.clone()).map_err(Error::during(CONNECT))?;
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
            return self.keeper.failure().map_or(Ok(answer), |why| Err(why.into()));
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
            _ if says(&answer, 404) => return Ok(None),
            _ => return Err(self.site.refusal("POST", &path, &answer, "export", None)),
        }
        let unusable = |why: &str| self.site.unusable("POST", &path, why);
        let export: Export<'_> = answer.json().map_err(|why| unusable(&why))?;
        let material = export.material.as_str();
        match material.len() {
            0 => Err(unusable("the answer has no material")),
            size if size > MAX_VALUE => {
                Err(unusable(&format!("the value is larger than {MAX_VALUE} bytes")))
            }
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
        let create = Create { data_type: "seed", material, name: name.as_str() };
        let body = json(&create).map_err(Failed::Other)?;
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
                Ok(answer) if says(&answer, 409) && answer.is_repeat => {
                    return self.is_there(name, value, deadline);
                }
                Ok(answer) if says(&answer, 409) => return Ok(false),
                Ok(answer) => (
                    answer.is_repeat || answer.status >= 500,
                    self.site.refusal("POST", SECRETS, &answer, "create", Some(value)),
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
                let why = format!("pagination is out-of-sync: it answers with skip={}", page.skip);
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
                204 => Ok(()),
                _ if says(&answer, 404) => Ok(()),
                _ => Err(self.site.refusal("DELETE", &path, &answer, "delete", None)),
            }
        })
    }

    fn list(&self, deadline: Deadline) -> Result<Vec<String>, Error> {
        Self::done("list keys", None, || self.names(deadline))
    }

    fn status(&self, deadline: Deadline) -> Result<(), Error> {
        let call = Call { method: "GET", path: "", headers: &[], body: None, is_repeatable: false };
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
        lines.iter().map(|line| format!("gemalto: {line}")).collect()
    }

    fn retry(&self) {
        self.keeper.retry();
    }
}
