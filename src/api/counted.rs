//! A key store that counts the calls made to it.

use std::{sync::Arc, time::Duration};

use crate::{
    base::{deadline::Deadline, secret::Secret},
    keystore::{Error, KeyName, KeyStore},
    metrics::{Event, Metrics, Outcome},
};

/// Counts how the calls of a key store end. Asking for its status does not count.
pub struct Counted {
    store: Arc<dyn KeyStore>,
    metrics: &'static Metrics,
}

impl Counted {
    /// Counts calls of `store` in `metrics`.
    pub fn new(store: Arc<dyn KeyStore>, metrics: &'static Metrics) -> Self {
        Self { store, metrics }
    }

    fn count<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        self.metrics.count(Event::KeyStore(match &result {
            Ok(_) => Outcome::Success,
            Err(Error::Exists | Error::NotFound) => Outcome::Error,
            Err(Error::Sealed | Error::Unavailable { .. }) => Outcome::Failure,
        }));
        result
    }
}

impl KeyStore for Counted {
    fn create(&self, name: &KeyName, value: &Secret, deadline: Deadline) -> Result<(), Error> {
        self.count(self.store.create(name, value, deadline))
    }

    fn get(&self, name: &KeyName, deadline: Deadline) -> Result<Secret, Error> {
        self.count(self.store.get(name, deadline))
    }

    fn delete(&self, name: &KeyName, deadline: Deadline) -> Result<(), Error> {
        self.count(self.store.delete(name, deadline))
    }

    fn list(&self, deadline: Deadline) -> Result<Vec<String>, Error> {
        self.count(self.store.list(deadline))
    }

    fn status(&self, deadline: Deadline) -> Result<(), Error> {
        self.store.status(deadline)
    }

    fn describe(&self) -> String {
        self.store.describe()
    }

    fn ping(&self) -> Option<Duration> {
        self.store.ping()
    }

    fn notices(&self) -> Vec<String> {
        self.store.notices()
    }

    fn retry(&self) {
        self.store.retry();
    }
}
