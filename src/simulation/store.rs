//! A key store that is slow, fails, hangs, loses answers and panics. Its keys are those of the model.

use std::time::Duration;

use super::model::Shared;
use crate::{
    base::{
        deadline::Deadline,
        secret::Secret,
        sync::{thread, world},
    },
    keystore::{Error, KeyName, KeyStore},
};

/// How often something goes wrong: one call in so many; 0 is never.
#[derive(Clone, Copy)]
pub struct Faults {
    pub error: u64,
    pub panic: u64,
    pub hang: u64,
}

impl Faults {
    pub fn is_none(self) -> bool {
        [self.error, self.panic, self.hang] == [0; 3]
    }
}

pub struct Store {
    pub model: Shared,
    pub faults: Faults,
}

fn happens(one_in: u64) -> bool {
    one_in > 0 && world::one_in(one_in)
}

impl Store {
    /// Takes its time, or fails.
    fn take(&self, what: &str) -> Result<(), Error> {
        let Faults { error, panic, hang } = self.faults;
        let most = match () {
            () if happens(hang) => 60_000,
            () if world::one_in(8) => 3_000,
            () => 20,
        };
        let pause = Duration::from_micros(world::below(most * 1000));
        world::note(|| format!("key store: {what}, takes {pause:?}"));
        if what != "status" {
            self.model.is_busy(pause);
        }
        thread::sleep(pause);
        if happens(panic) {
            world::note(|| format!("key store: {what} panics"));
            world::inject_panic();
        }
        if happens(error) {
            world::note(|| format!("key store: {what} fails"));
            return Err(Error::during(what)("it wants to"));
        }
        Ok(())
    }

    fn read(&self, name: &KeyName) -> Result<Secret, Error> {
        let asked = world::elapsed();
        self.take("get")?;
        let found = self.model.read(name.as_str());
        world::note(|| {
            format!("key store: read {name}: {:?}", found.as_ref().map(|(_, number)| number))
        });
        let answered = self.take("answer to get");
        if let Some((_, number)) = &found {
            self.model.has_read(name.as_str(), *number, asked);
        }
        answered?;
        found.map(|(value, _)| value).ok_or(Error::NotFound)
    }
}

impl KeyStore for Store {
    fn create(&self, name: &KeyName, value: &Secret, _: Deadline) -> Result<(), Error> {
        self.take("create")?;
        let is_stored = self.model.create(name.as_str(), value, true);
        world::note(|| format!("key store: created {name}: {is_stored}"));
        self.take("answer to create")?;
        if is_stored { Ok(()) } else { Err(Error::Exists) }
    }

    fn get(&self, name: &KeyName, _: Deadline) -> Result<Secret, Error> {
        let number = self.model.begin_read(name.as_str());
        let found = self.read(name);
        let is_answered = matches!(found, Ok(_) | Err(Error::NotFound));
        self.model.end_read(name.as_str(), number, is_answered);
        found
    }

    fn delete(&self, name: &KeyName, _: Deadline) -> Result<(), Error> {
        self.take("delete")?;
        let is_found = self.model.delete(name.as_str(), true);
        world::note(|| format!("key store: deleted {name}: {is_found}"));
        self.take("answer to delete")?;
        if is_found { Ok(()) } else { Err(Error::NotFound) }
    }

    fn list(&self, _: Deadline) -> Result<Vec<String>, Error> {
        self.take("list")?;
        let names = self.model.names();
        self.take("answer to list")?;
        Ok(names)
    }

    fn status(&self, _: Deadline) -> Result<(), Error> {
        let asked = world::elapsed();
        self.model.ask_status();
        let status = self.take("status");
        self.model.status(status.is_ok(), asked);
        status
    }

    fn describe(&self) -> String {
        "Simulated".to_owned()
    }
}
