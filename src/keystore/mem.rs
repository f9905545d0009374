//! Keys in memory, for trying things out: they are gone when the server ends.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError},
};

use super::store::{self, Error, KeyName, KeyStore, Start};
use crate::base::{
    deadline::Deadline,
    secret::Secret,
    sync::{Mutex, MutexGuard},
};

/// A key store in memory. Lists in the order of the names.
#[derive(Default)]
pub struct Mem {
    /// All there is; every operation is one step on the map.
    values: Mutex<HashMap<KeyName, Secret>>,
}

impl Mem {
    fn lock(&self) -> MutexGuard<'_, HashMap<KeyName, Secret>> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// There is nothing to set.
#[derive(Debug, PartialEq)]
pub struct Settings;

impl store::Settings for Settings {
    fn open(&self, _: Start) -> Result<Arc<dyn KeyStore>, Error> {
        Ok(Arc::new(Mem::default()))
    }

    fn place(&self) -> Option<String> {
        None
    }

    fn is_remote(&self) -> bool {
        false
    }
}

impl KeyStore for Mem {
    fn create(&self, name: &KeyName, value: &Secret, _: Deadline) -> Result<(), Error> {
        let mut values = self.lock();
        if values.contains_key(name) {
            return Err(Error::Exists);
        }
        values.insert(name.clone(), value.clone());
        Ok(())
    }

    fn get(&self, name: &KeyName, _: Deadline) -> Result<Secret, Error> {
        self.lock().get(name).cloned().ok_or(Error::NotFound)
    }

    fn delete(&self, name: &KeyName, _: Deadline) -> Result<(), Error> {
        self.lock().remove(name).map(drop).ok_or(Error::NotFound)
    }

    fn list(&self, _: Deadline) -> Result<Vec<String>, Error> {
        let mut names: Vec<_> = self.lock().keys().map(KeyName::to_string).collect();
        names.sort_unstable();
        Ok(names)
    }

    fn status(&self, _: Deadline) -> Result<(), Error> {
        Ok(())
    }

    fn describe(&self) -> String {
        "In-Memory: non-persistent".into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keystore::store::tests::contract;

    #[test]
    fn the_contract_of_a_key_store_holds() {
        contract(&Mem::default());
    }
}
