//! Copies keys from one key store to another.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    fs::is_unfit,
    store::{Error, KeyName, KeyStore},
    trial,
};
use crate::{
    base::{deadline::Deadline, name},
    crypto::{MasterKey, stored},
};

/// Keys that are copied at the same time.
const THREADS: usize = 8;
/// One step with one key may take this time.
pub const TIMEOUT: Duration = Duration::from_secs(60);
/// The time between two reports of the progress.
const REPORT: Duration = Duration::from_millis(100);

/// What to do with a key that is different at the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clash {
    /// Stop.
    Fail,
    /// Leave it.
    Keep,
    /// Delete it and create the other.
    Replace,
}

/// How far a migration is.
#[derive(Debug, Default)]
pub struct Progress {
    /// Keys created at the target.
    pub copied: usize,
    /// Keys that were there already.
    pub same: usize,
    /// The names of keys that are different at the target, and left alone.
    pub kept: Vec<String>,
    /// Of those that are at the target, the ones in the format of the newest generation.
    pub of_newest: usize,
    /// The names of those that no server of the newest generation takes.
    pub unusable: Vec<String>,
    /// What is not copied, and why.
    pub warnings: Vec<String>,
    /// Why the migration ends early: the key and the reason.
    pub failure: Option<(String, String)>,
}

/// Where keys come from and go to.
pub struct Migration<'a> {
    /// Only read.
    pub source: &'a dyn KeyStore,
    /// Keys are created there.
    pub target: &'a dyn KeyStore,
    /// For keys that are different at the target.
    pub clash: Clash,
}

/// What was done with a key.
enum Done {
    Copied {
        is_of_newest: bool,
    },
    Same {
        is_of_newest: bool,
    },
    Kept,
    /// It is not copied, because of this.
    Left(String),
}

impl Progress {
    /// The keys that are at the target now.
    pub fn done(&self) -> usize {
        self.copied + self.same
    }

    fn note(&mut self, name: &str, result: Result<Done, String>) {
        let is_there = matches!(result, Ok(Done::Copied { .. } | Done::Same { .. } | Done::Kept));
        if is_there && !name::is_plain(name) {
            self.unusable.push(name.to_owned());
        }
        match result {
            Ok(Done::Copied { is_of_newest }) => {
                self.copied += 1;
                self.of_newest += usize::from(is_of_newest);
            }
            Ok(Done::Same { is_of_newest }) => {
                self.same += 1;
                self.of_newest += usize::from(is_of_newest);
            }
            Ok(Done::Kept) => self.kept.push(name.to_owned()),
            Ok(Done::Left(why)) => self.warnings.push(format!("{name:?} {why}")),
            Err(why) => {
                self.failure.get_or_insert_with(|| (name.to_owned(), why));
            }
        }
    }
}

impl Migration<'_> {
    /// Copies `names` on a few threads, and calls `report` now and then; returns when all is done, or
    /// after the first failure.
    pub fn run(
        &self,
        names: &[KeyName],
        progress: Progress,
        report: impl Fn(&Progress),
    ) -> Progress {
        let next = AtomicUsize::new(0);
        let all = Mutex::new(progress);
        let progress = || all.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = || progress().failure.is_some();
        let reporter = thread::current();
        let copy_some = || {
            while !is_over()
                && let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed))
            {
                let result = self.copy(name);
                progress().note(name.as_str(), result);
            }
            reporter.unpark();
        };
        thread::scope(|scope| {
            let copiers: Vec<_> =
                (0..THREADS.min(names.len())).map(|_| scope.spawn(copy_some)).collect();
            while !copiers.iter().all(thread::ScopedJoinHandle::is_finished) {
                report(&progress());
                thread::park_timeout(REPORT); // a copier that ends wakes it
            }
        });
        all.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Copies one key; creating it includes reading it back.
    fn copy(&self, name: &KeyName) -> Result<Done, String> {
        let Self { source, target, clash } = self;
        let value = match source.get(name, deadline()) {
            Ok(value) => value,
            Err(Error::NotFound) => {
                let why = "is not copied: it is listed, but there is no key";
                return Ok(Done::Left(why.to_owned()));
            }
            Err(Error::Unavailable { source, .. }) if is_unfit(&*source) => {
                return Ok(Done::Left(format!("is left where it is: {source}")));
            }
            Err(e) => return Err(e.to_string()),
        };
        let is_of_newest = match stored::decode(value.expose()) {
            // Only its format has one.
            Ok(key) => key.hmac(b"").is_some(),
            Err(e) => return Ok(Done::Left(format!("is left where it is: {e}"))),
        };
        match target.create(name, &value, deadline()) {
            Ok(()) => return Ok(Done::Copied { is_of_newest }),
            Err(Error::Exists) => {}
            Err(e) => return Err(e.to_string()),
        }
        let found = target.get(name, deadline()).map_err(|e| e.to_string())?;
        match clash {
            _ if found == value => return Ok(Done::Same { is_of_newest }),
            Clash::Keep => return Ok(Done::Kept),
            Clash::Fail => {
                return Err("another key of this name exists at the target: use --merge to keep \
                            it, or --force to replace it"
                    .to_owned());
            }
            Clash::Replace => {}
        }
        // What failed may have taken effect all the same.
        let left = || match target.get(name, deadline()) {
            Ok(now) if now == value => "the target has the new key all the same".to_owned(),
            Ok(now) if now == found => "the target has its old key".to_owned(),
            Ok(_) => "the target has a third key now".to_owned(),
            Err(Error::NotFound) => "the target has neither key now".to_owned(),
            Err(e) => format!("which key the target has now is not known: {e}"),
        };
        let is_gone = || matches!(target.get(name, deadline()), Err(Error::NotFound));
        match target.delete(name, deadline()) {
            Ok(()) | Err(Error::NotFound) => {}
            Err(_) if is_gone() => {}
            Err(e) => return Err(format!("{e} ({})", left())),
        }
        let Err(e) = target.create(name, &value, deadline()) else {
            return Ok(Done::Copied { is_of_newest });
        };
        // Nothing is lost: it is put back as it was.
        let put_back = target.create(name, &found, deadline());
        Err(match put_back {
            Ok(()) => format!("{e} (the target has its old key again)"),
            Err(why) => format!("{e} ({}; its old one was to be put back: {why})", left()),
        })
    }

    /// Checks that keys can be created, read and deleted at the target, with one of an unused name.
    ///
    /// # Errors
    /// What failed.
    pub fn check_writable(&self) -> Result<(), String> {
        let number = getrandom::u64().map_err(|e| e.to_string())?;
        let name = KeyName::parse(&format!("kes-migrate-{number:016x}")).ok_or("no name")?;
        let key = MasterKey::generate().map_err(|e| e.to_string())?;
        trial::run(self.target, &name, &stored::encode(&key), TIMEOUT).map_err(
            |failed| match failed.advice.is_empty() {
                true => failed.why,
                false => format!("{} ({})", failed.why, failed.advice),
            },
        )
    }
}

fn deadline() -> Deadline {
    Deadline::after(Instant::now(), TIMEOUT)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::{base::secret::Secret, keystore::mem::Mem};

    /// Fails in these calls, by their names and how many of them came before; `true` if they take effect all the same.
    struct Faulty {
        inner: Mem,
        faults: &'static [(&'static str, usize, bool)],
        calls: Mutex<HashMap<&'static str, usize>>,
    }

    impl Faulty {
        fn call<T>(
            &self,
            call: &'static str,
            work: impl FnOnce() -> Result<T, Error>,
        ) -> Result<T, Error> {
            let mut calls = self.calls.lock().unwrap();
            let count = calls.entry(call).or_default();
            *count += 1;
            let is_it = |fault: &&(&str, usize, bool)| fault.0 == call && fault.1 == *count - 1;
            match self.faults.iter().find(is_it) {
                None => return work(),
                Some((.., true)) => drop(work()),
                Some(_) => {}
            }
            Err(Error::during(call)("broken pipe"))
        }
    }

    impl KeyStore for Faulty {
        fn create(&self, name: &KeyName, value: &Secret, by: Deadline) -> Result<(), Error> {
            self.call("create", || self.inner.create(name, value, by))
        }

        fn get(&self, name: &KeyName, by: Deadline) -> Result<Secret, Error> {
            self.call("get", || self.inner.get(name, by))
        }

        fn delete(&self, name: &KeyName, by: Deadline) -> Result<(), Error> {
            self.call("delete", || self.inner.delete(name, by))
        }

        fn list(&self, by: Deadline) -> Result<Vec<String>, Error> {
            self.inner.list(by)
        }

        fn status(&self, by: Deadline) -> Result<(), Error> {
            self.inner.status(by)
        }

        fn describe(&self) -> String {
            self.inner.describe()
        }
    }

    /// The first create finds the name taken, the second one is that of the new key, the third one of the old one.
    #[test]
    fn a_replacement_that_fails_says_which_key_the_target_has() {
        type Faults = &'static [(&'static str, usize, bool)];
        let cases: [(Faults, &str, Option<bool>); 7] = [
            (&[], "", Some(true)),
            (&[("delete", 0, true)], "", Some(true)),
            (&[("delete", 0, false)], "(the target has its old key)", Some(false)),
            (
                &[("delete", 0, false), ("get", 1, true), ("get", 2, true)],
                "(which key the target has now is not known: ",
                Some(false),
            ),
            (&[("create", 1, false)], "(the target has its old key again)", Some(false)),
            (&[("create", 1, true)], "(the target has the new key all the same; ", Some(true)),
            (
                &[("create", 1, false), ("create", 2, false)],
                "(the target has neither key now; its old one was to be put back: ",
                None,
            ),
        ];
        for (faults, why, is_new) in cases {
            let (source, inner) = (Mem::default(), Mem::default());
            let name = KeyName::parse("my-key").unwrap();
            let [new, old] = [(); 2].map(|()| stored::encode(&MasterKey::generate().unwrap()));
            source.create(&name, &new, deadline()).unwrap();
            inner.create(&name, &old, deadline()).unwrap();
            let target = Faulty { inner, faults, calls: Mutex::default() };
            let migration = Migration { source: &source, target: &target, clash: Clash::Replace };
            let done =
                migration.run(std::slice::from_ref(&name), Progress::default(), |_| {}).failure;
            let said = done.map(|(_, why)| why).unwrap_or_default();
            assert_eq!(why.is_empty(), said.is_empty(), "{faults:?}: {said}");
            assert!(said.contains(why), "{faults:?}: {said}");
            let now = target.inner.get(&name, deadline()).ok();
            assert_eq!(is_new, now.map(|now| now == new), "{faults:?}");
        }
    }
}
