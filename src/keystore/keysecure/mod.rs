//! Gemalto KeySecure, now Thales CipherTrust Manager: keys are secrets in the vault of the appliance.
//!
//! The appliance itself refuses to create a name twice, and no state is kept here but a token, so any
//! number of servers can use one domain.

pub mod appliance;

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    remote::{self, Answer, Call, Failed, take},
    store::{self, Error, KeyName, KeyStore, MAX_VALUE, Notices, Start},
    token::{Blame, Keeper, Rules},
};
use crate::{
    base::{checkup::Checkup, deadline::Deadline, secret::Secret},
    tls,
    web::escape,
};
pub use appliance::Settings;
use appliance::{Appliance, says};

/// What [`Checkup`] calls it.
const ABOUT: &str = "KeySecure";
const SECRETS: &str = "/api/v1/vault/secrets";
/// The largest answer with a page of names.
const MAX_PAGE: u64 = 32 << 20;
/// Names that are asked for at once; the appliance gives ten by itself.
const PAGE: u64 = 200;
/// The first login must be done within this time.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest time between logins that are refused.
const LONGEST_RETRY: Duration = Duration::from_secs(300);

/// Keys in KeySecure.
pub struct KeySecure {
    appliance: Arc<Appliance>,
    keeper: Keeper,
    notices: Arc<Notices>,
}

impl KeySecure {
    fn new(settings: &Settings) -> Result<Self, tls::Error> {
        let notices = Arc::new(Notices::default());
        let rules = Rules {
            renew_after: 50,
            retry: settings.retry,
            longest_retry: LONGEST_RETRY,
            settles: false,
        };
        Ok(Self {
            appliance: Arc::new(Appliance::new(settings)?),
            keeper: Keeper::new(rules, notices.clone()),
            notices,
        })
    }

    /// Asks for what a server needs, in the order of its start: an answer, a login, and a page of names.
    fn check(&self, found: &mut Checkup) -> Result<(), Error> {
        let deadline = Deadline::after(Instant::now(), LOGIN_TIMEOUT);
        self.status(deadline)?;
        found.ok(ABOUT, &format_args!("{} answers", self.appliance.settings.endpoint));
        self.keeper.log_in(&self.appliance, deadline)?;
        let path = format!("{SECRETS}?limit=1");
        let answer = self.ask(Call::new("GET", &path).limit(MAX_PAGE), deadline);
        let answer = answer.and_then(|answer| match answer.status {
            200 => Ok(()),
            _ => Err(self.appliance.refusal(&answer, "list")),
        });
        answer.map_err(|e| e.during("list keys in KeySecure"))?;
        found.ok(ABOUT, &"it gives a token, which may list secrets");
        self.keeper.start(self.appliance.clone()).map_err(Error::during("keep a token"))
    }

    /// Asks with a token, and once more with a newer one if the token is refused.
    fn ask(&self, call: Call<'_>, deadline: Deadline) -> Result<Answer, Failed> {
        let ask = |token: &_| self.appliance.ask(call, Some(token), deadline);
        self.keeper.ask(deadline, ask, |answer| (answer.status == 401).then_some(Blame::Token))
    }

    /// The value of `name`: `None` if there is none.
    fn read(&self, name: &KeyName, deadline: Deadline) -> Result<Option<Secret>, Failed> {
        let path = format!("{SECRETS}/{}/export?type=name", escape::segment(name.as_str()));
        let answer = self.ask(Call::new("POST", &path), deadline)?;
        match answer.status {
            200 => {}
            _ if says(&answer, 404) => return Ok(None),
            _ => return Err(self.appliance.refusal(&answer, "export")),
        }
        match take(&mut answer.json()?, "/material") {
            Value::String(material) if material.len() > MAX_VALUE => {
                Err(answer.unusable(&format!("the value is larger than {MAX_VALUE} bytes")))
            }
            Value::String(material) if !material.is_empty() => {
                Ok(Some(Secret::new(material.into_bytes())))
            }
            _ => Err(answer.unusable("the answer has no material")),
        }
    }

    /// Reads back what was written and compares.
    fn is_there(&self, name: &KeyName, value: &Secret, deadline: Deadline) -> Result<bool, Failed> {
        let read = || self.read(name, deadline);
        Ok(remote::read_back("KeySecure has accepted the key", read)? == *value)
    }

    /// Creates, and finds out what became of it. False if the name is taken. A create is not repeated: if others have
    /// deleted the key meanwhile, it would come back.
    fn write(&self, name: &KeyName, value: &Secret, deadline: Deadline) -> Result<bool, Failed> {
        let material = str::from_utf8(value.expose())
            .map_err(|_| Failed::Other("the value is not text".to_owned()))?;
        if material.len() > MAX_VALUE {
            let why = format!("the value is larger than {MAX_VALUE} bytes");
            return Err(Failed::Other(why));
        }
        let body = remote::json(&json!({
            "dataType": "seed", "material": material, "name": name.as_str()
        }));
        let create = Call::new("POST", SECRETS).with(&body).hiding(value).once();
        let (is_unclear, failed) = match self.ask(create, deadline) {
            Ok(answer) if answer.status == 201 => {
                return match self.is_there(name, value, deadline)? {
                    true => Ok(true),
                    false => Err(Failed::Other(
                        "KeySecure does not give back the value that it was given".to_owned(),
                    )),
                };
            }
            Ok(answer) if says(&answer, 409) => return Ok(false),
            Ok(answer) => (answer.status >= 500, self.appliance.refusal(&answer, "create")),
            Err(Failed::NoAnswer(e)) => (e.may_pass, Failed::NoAnswer(e)),
            Err(failed) => (false, failed),
        };
        // The appliance may still be busy with it.
        let found = is_unclear.then(|| {
            self.appliance.remote.pause(deadline);
            self.read(name, deadline)
        });
        match found {
            Some(Ok(Some(found))) if found == *value => Ok(true),
            _ => Err(failed),
        }
    }

    fn names(&self, deadline: Deadline) -> Result<Vec<String>, Failed> {
        let mut names = Vec::new();
        let mut seen = HashSet::new();
        let mut skip = 0;
        loop {
            let path = format!("{SECRETS}?limit={PAGE}&skip={skip}");
            let answer = self.ask(Call::new("GET", &path).limit(MAX_PAGE), deadline)?;
            if answer.status != 200 {
                return Err(self.appliance.refusal(&answer, "list"));
            }
            let mut page: Value = answer.json()?;
            let number = |name: &str| page.get(name).and_then(Value::as_u64);
            let (Some(found), Some(total)) = (number("skip"), number("total")) else {
                return Err(answer.unusable("the answer is no page of secrets"));
            };
            if found != skip {
                let why = format!("pagination is out-of-sync: it answers with skip={found}");
                return Err(answer.unusable(&why));
            }
            let resources = match take(&mut page, "/resources") {
                Value::Array(resources) => resources,
                Value::Null => Vec::new(),
                _ => return Err(answer.unusable("the answer is no page of secrets")),
            };
            skip += resources.len() as u64;
            // Others may keep secrets there as well, with names that no key has.
            let found = resources.iter().filter_map(|secret| secret.get("name")?.as_str());
            for name in found.filter(|name| KeyName::parse(name).is_some()) {
                if seen.insert(name.to_owned()) {
                    names.push(name.to_owned());
                }
            }
            if skip >= total {
                return Ok(names);
            }
            if resources.is_empty() {
                let why = format!("the page is empty, but there are {total} secrets");
                return Err(answer.unusable(&why));
            }
        }
    }
}

/// What was being done to the key `name`.
fn during(verb: &str, name: &KeyName) -> String {
    format!("{verb} key {:?} in KeySecure", name.as_str())
}

impl store::Settings for Settings {
    fn open(&self, start: Start) -> Result<Arc<dyn KeyStore>, Error> {
        const CONNECT: &str = "connect to Gemalto KeySecure";
        let store = KeySecure::new(self).map_err(Error::during(CONNECT))?;
        let deadline = Deadline::after(Instant::now(), LOGIN_TIMEOUT);
        let ready = store.keeper.log_in(&store.appliance, deadline);
        start.go_on(ready, CONNECT, &store.notices)?;
        store.keeper.start(store.appliance.clone()).map_err(Error::during(CONNECT))?;
        Ok(Arc::new(store))
    }

    fn opening(&self) -> Option<String> {
        Some(format!("Authenticating to Gemalto KeySecure '{}'", self.endpoint))
    }

    fn place(&self) -> Option<String> {
        Some(format!("KeySecure {:?}", (&self.endpoint, &self.domain)))
    }

    fn is_remote(&self) -> bool {
        true
    }

    fn look(&self) -> Option<String> {
        Some(self.endpoint.clone())
    }

    fn examine(&self, found: &mut Checkup, _: bool) -> Option<Arc<dyn KeyStore>> {
        let store = KeySecure::new(self).map_err(Error::during("connect to Gemalto KeySecure"));
        let checked = store.and_then(|store| store.check(found).map(|()| store));
        checked.map_err(|e| found.fail(ABOUT, &e, "")).ok().map(|store| Arc::new(store) as _)
    }
}

impl KeyStore for KeySecure {
    fn create(&self, name: &KeyName, value: &Secret, deadline: Deadline) -> Result<(), Error> {
        let is_ours = self.write(name, value, deadline);
        let is_ours = is_ours.map_err(|e| e.during(during("create", name)))?;
        is_ours.then_some(()).ok_or(Error::Exists)
    }

    fn get(&self, name: &KeyName, deadline: Deadline) -> Result<Secret, Error> {
        let found = self.read(name, deadline).map_err(|e| e.during(during("read", name)))?;
        found.ok_or(Error::NotFound)
    }

    fn delete(&self, name: &KeyName, deadline: Deadline) -> Result<(), Error> {
        let path = format!("{SECRETS}/{}?type=name", escape::segment(name.as_str()));
        // Not repeated: it would delete a key that others have created since the first try.
        let answer = self.ask(Call::new("DELETE", &path).once(), deadline);
        let result = answer.and_then(|answer| match answer.status {
            204 => Ok(()),
            _ if says(&answer, 404) => Ok(()),
            _ => Err(self.appliance.refusal(&answer, "delete")),
        });
        result.map_err(|e| e.during(during("delete", name)))
    }

    fn list(&self, deadline: Deadline) -> Result<Vec<String>, Error> {
        self.names(deadline).map_err(|e| e.during("list keys in KeySecure"))
    }

    fn status(&self, deadline: Deadline) -> Result<(), Error> {
        let answer = self.appliance.remote.reach(deadline);
        answer.map_err(Error::during("get the status of KeySecure"))
    }

    fn describe(&self) -> String {
        format!("Gemalto KeySecure: {}", self.appliance.settings.endpoint)
    }

    fn ping(&self) -> Option<Duration> {
        Some(Duration::from_secs(10))
    }

    fn notices(&self) -> Vec<String> {
        let lines = self.notices.take();
        lines.iter().map(|line| format!("gemalto: {line}")).collect()
    }

    fn is_login_failing(&self) -> bool {
        self.keeper.is_failing()
    }

    fn retry(&self) {
        self.keeper.retry();
    }

    fn tidy(&self, now: Instant) {
        self.appliance.remote.tidy(now);
    }
}
