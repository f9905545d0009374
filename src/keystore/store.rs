//! What a key store is, and what all of them share.

use std::{
    any::Any,
    collections::VecDeque,
    fmt,
    path::PathBuf,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use crate::base::{checkup::Checkup, deadline::Deadline, name, secret::Secret, sync::Mutex};

/// The largest value that a key store takes or gives, in bytes.
pub const MAX_VALUE: usize = 1 << 20;

/// The name of a key: one path segment that is safe for every key store ([`name::check`]).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyName(Arc<str>);

impl KeyName {
    /// Checks `name`; `None` if it can't be the name of a key.
    pub fn parse(name: &str) -> Option<Self> {
        name::check(name).ok().map(|()| Self(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What can go wrong in a key store.
#[derive(Debug)]
pub enum Error {
    /// A create found a value under this name.
    Exists,
    /// A read found nothing under this name.
    NotFound,
    /// The key store is there but sealed.
    Sealed,
    /// Anything else: what was being done (`read "/keys/a"`), and why it failed.
    Unavailable {
        /// What was being done, to what: reads as "failed to ...".
        during: String,
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// [`Error::Unavailable`] with its two parts; use as `.map_err(Error::during("read ..."))`.
    pub fn during<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
        what: impl Into<String>,
    ) -> impl FnOnce(E) -> Self {
        let during = what.into();
        move |source| Self::Unavailable { during, source: source.into() }
    }

    /// The reason alone, for a text that says already what was being done.
    pub(crate) fn into_reason(self) -> Box<dyn std::error::Error + Send + Sync> {
        match self {
            Self::Unavailable { source, .. } => source,
            error => error.into(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exists => f.write_str("key does already exist"),
            Self::NotFound => f.write_str("key does not exist"),
            Self::Sealed => f.write_str("key store is sealed"),
            Self::Unavailable { during, source } => write!(f, "failed to {during}: {source}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unavailable { source, .. } => Some(source.as_ref()),
            _ => None,
        }
    }
}

/// A place for master keys.
///
/// Calls may block, at most until their deadline; the server makes them on threads of their own.
pub trait KeyStore: Send + Sync {
    /// Stores `value` under `name` if there is nothing yet. Returns only when the value is durable
    /// and was read back and compared.
    ///
    /// # Errors
    /// [`Error::Exists`] if the name is taken; then nothing was changed.
    fn create(&self, name: &KeyName, value: &Secret, deadline: Deadline) -> Result<(), Error>;

    /// The value under `name`.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none.
    fn get(&self, name: &KeyName, deadline: Deadline) -> Result<Secret, Error>;

    /// Removes the value under `name`, durably.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none and the key store can tell; otherwise that succeeds.
    fn delete(&self, name: &KeyName, deadline: Deadline) -> Result<(), Error>;

    /// All names, in the order of the key store.
    ///
    /// # Errors
    /// If the key store can't be reached or refuses.
    fn list(&self, deadline: Deadline) -> Result<Vec<String>, Error>;

    /// Whether the key store can serve right now.
    ///
    /// # Errors
    /// Why it can't.
    fn status(&self, deadline: Deadline) -> Result<(), Error>;

    /// What the start-up banner says: `Filesystem: /abs/path`, `In-Memory: non-persistent`.
    fn describe(&self) -> String;

    /// How often its status is looked at; `None` for the default.
    fn ping(&self) -> Option<Duration> {
        None
    }

    /// What has happened in the background since the last call, for the error log.
    fn notices(&self) -> Vec<String> {
        Vec::new()
    }

    /// Whether the last login failed.
    fn is_login_failing(&self) -> bool {
        false
    }

    /// Logs in again at once, however often that was refused: somebody may have mended the cause.
    fn retry(&self) {}

    /// What there is to do each second: connections that nobody uses any more are closed, since buffers
    /// of theirs hold parts of keys.
    fn tidy(&self, _now: Instant) {}
}

/// Compares settings of any type.
pub trait Comparable: Any {
    /// Whether `other` has this type, and is equal.
    fn is_same(&self, other: &dyn Any) -> bool;
}

impl<T: PartialEq + Any> Comparable for T {
    fn is_same(&self, other: &dyn Any) -> bool {
        other.downcast_ref() == Some(self)
    }
}

impl PartialEq for dyn Settings {
    fn eq(&self, other: &Self) -> bool {
        self.is_same(other)
    }
}

/// The settings of a key store, as the configuration has them.
pub trait Settings: Comparable + fmt::Debug + Send + Sync {
    /// Opens the key store.
    ///
    /// # Errors
    /// Why it can't be used; with [`Start::Optional`] only if it never will.
    fn open(&self, start: Start) -> Result<Arc<dyn KeyStore>, Error>;

    /// Opens it to read from it: nothing is created there.
    ///
    /// # Errors
    /// As [`Settings::open`].
    fn open_for_reading(&self) -> Result<Arc<dyn KeyStore>, Error> {
        self.open(Start::Required)
    }

    /// What opening it does that takes a while or changes something, such as
    /// `Creating directory '/keys'`.
    fn opening(&self) -> Option<String> {
        None
    }

    /// Where the keys are: two key stores with the same text have the same keys. `None`: nowhere.
    fn place(&self) -> Option<String>;

    /// Whether it is a server of its own, which others change, too.
    fn is_remote(&self) -> bool;

    /// A URL at which a key store that is a server answers anyone, whatever its state.
    fn look(&self) -> Option<String> {
        None
    }

    /// Looks for all that keeps it from being used, or makes it unsafe, and changes nothing. A server `is_running` with
    /// it, unless its file was changed since its start. The key store that was found, unless it is of no use.
    fn examine(&self, _found: &mut Checkup, _is_running: bool) -> Option<Arc<dyn KeyStore>> {
        None
    }
}

/// What happens in the background, until the error log asks.
#[derive(Debug, Default)]
pub struct Notices(Mutex<VecDeque<String>>);

impl Notices {
    /// More than these are not kept.
    const MAX: usize = 100;

    /// Adds a line; the oldest goes if there are too many.
    pub fn add(&self, text: String) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == Self::MAX {
            lines.pop_front();
        }
        lines.push_back(text);
    }

    /// Takes all lines.
    pub fn take(&self) -> Vec<String> {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.drain(..).collect()
    }
}

/// Whether the server may start while the key store can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// No: opening it fails.
    Required,
    /// Yes: it is used as soon as it can be.
    Optional,
}

impl Start {
    /// Goes on with a key store that is `ready`, and with one that is not if it is optional: then the
    /// error log says so. `connect` says what was being done.
    ///
    /// # Errors
    /// Why a key store that is required is not ready.
    pub(crate) fn go_on(
        self,
        ready: Result<(), Error>,
        connect: &str,
        notices: &Notices,
    ) -> Result<(), Error> {
        let Err(e) = ready else { return Ok(()) };
        let error = Error::during(connect)(e.into_reason());
        match self {
            Self::Required => Err(error),
            Self::Optional => {
                notices.add(format!(
                    "started without the key store, which is used as soon as it can be: {error}"
                ));
                Ok(())
            }
        }
    }
}

/// A certificate and its private key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCert {
    /// The file with the private key.
    pub key: PathBuf,
    /// The file with the certificate chain.
    pub cert: PathBuf,
}

#[cfg(test)]
pub(crate) mod tests {

    use super::*;

    /// What every key store must do, on an empty one.
    pub(crate) fn contract(store: &dyn KeyStore) {
        let deadline = Deadline::after(Instant::now(), Duration::from_secs(60));
        let name = |name| KeyName::parse(name).unwrap();
        let value = |byte| Secret::new(vec![byte; 56]);
        let (a, b) = (name("a"), name("b \u{e9} %2F"));

        assert!(store.status(deadline).is_ok());
        assert!(matches!(store.get(&a, deadline), Err(Error::NotFound)));
        assert!(matches!(store.delete(&a, deadline), Ok(()) | Err(Error::NotFound)));
        assert!(store.list(deadline).unwrap().is_empty());

        store.create(&a, &value(1), deadline).unwrap();
        store.create(&b, &value(2), deadline).unwrap();
        let again = store.create(&a, &value(3), deadline);
        assert!(matches!(again, Err(Error::Exists)));
        assert_eq!(value(1), store.get(&a, deadline).unwrap());
        assert_eq!(value(2), store.get(&b, deadline).unwrap());
        let mut names = store.list(deadline).unwrap();
        names.sort();
        assert_eq!(vec![a.to_string(), b.to_string()], names);

        store.delete(&a, deadline).unwrap();
        assert!(matches!(store.get(&a, deadline), Err(Error::NotFound)));
        store.create(&a, &value(4), deadline).unwrap();
        assert_eq!(value(4), store.get(&a, deadline).unwrap());

        let wins = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..16)
                .map(|byte| {
                    scope.spawn(move || {
                        let name = KeyName::parse("raced").unwrap();
                        let value = Secret::new(vec![byte; 56]);
                        match store.create(&name, &value, deadline) {
                            Ok(()) => Some(value),
                            Err(Error::Exists) => None,
                            Err(err) => panic!("{err}"),
                        }
                    })
                })
                .collect();
            racers.into_iter().filter_map(|racer| racer.join().unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(1, wins.len(), "one create wins");
        assert_eq!(wins[0], store.get(&name("raced"), deadline).unwrap());
    }

    #[test]
    fn a_name_is_one_safe_path_segment() {
        let longest = "x".repeat(name::MAX);
        for good in ["a", "my-key", "a b", "...", "%2F", "\u{e9}", &longest] {
            assert_eq!(good, KeyName::parse(good).unwrap().as_str());
        }
        let too_long = "\u{e9}".repeat(name::MAX / 2 + 1);
        for bad in ["", ".", "..", "/", "a/b", "\\", "a\\b", "a\0", "a\n", "\u{85}", &too_long] {
            assert_eq!(None, KeyName::parse(bad), "{bad:?}");
        }
    }
}
