//! Creating keys: never over another one, and not before what was written is read back.

use std::{
    sync::PoisonError,
    time::{Duration, Instant},
};

use serde_json::json;

use super::{answer::NOT_VERSION_2, engine::Engine, settings::Version};
use crate::{
    base::{deadline::Deadline, secret::Secret},
    keystore::{
        remote::{self, Call, Failed},
        store::KeyName,
    },
};

/// On version 1, another server that was about to write the same key has most likely written it after
/// this time.
const SETTLE: Duration = Duration::from_millis(50);
/// On version 1, a look that finds no key allows a write that is done this long after the look began: a
/// third of what a request may take, of which a slow Vault may need half for each answer.
const MAX_LOOK_AGE: Duration = Duration::from_secs(5);
/// Looks on version 1 that allow a write.
const MAX_TRIES: u32 = 3;

impl Engine {
    /// Creates `name` with the text `stored`. False if the name is taken.
    pub(crate) fn create_stored(
        &self,
        name: &KeyName,
        stored: &Secret,
        deadline: Deadline,
    ) -> Result<bool, Failed> {
        match self.version() {
            Version::V1 => self.create_v1(name, stored, deadline),
            Version::V2 => self.create_v2(name, stored, deadline),
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
        let data = json!({ name.as_str(): text(stored)? });
        let body = remote::json(&json!({ "options": { "cas": 0 }, "data": data }));
        // It is not repeated: the key may be there, be deleted by others, and come back.
        let put = Call::new("PUT", &path).with(&body).hiding(stored).once();
        let mut answer = match self.ask_once(put, deadline) {
            Err(e @ Failed::NoAnswer(_)) => return self.find(name, stored, e, deadline),
            answer => answer?,
        };
        if answer.status == 403 {
            // Without the right to `update`, this also says that the key was created meanwhile.
            if let Some(found) = self.read(name, deadline)? {
                return Ok(found == *stored);
            }
            self.check_not_trimmed(name, deadline)?;
            answer = self.ask(put, deadline)?;
        }
        match answer.status {
            200 => {}
            400 if answer.says("check-and-set") => match self.read(name, deadline)? {
                Some(found) => return Ok(found == *stored),
                None => self.check_not_trimmed(name, deadline)?,
            },
            204 => return Err(answer.unusable(NOT_VERSION_2)),
            500.. => {
                let e = self.refusal(&answer, "create");
                return self.find(name, stored, e, deadline);
            }
            _ => return Err(self.refusal(&answer, "create")),
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
        let _turn = Turn::enter(self, name, deadline)?;
        let path = self.location(name);
        let body = remote::json(&json!({ name.as_str(): text(stored)? }));
        let put = Call::new("PUT", &path).with(&body).hiding(stored).once();
        let (mut tries_left, mut may_be_ours) = (MAX_TRIES, false);
        let mut failed: Option<Failed> = None;
        loop {
            let looked_at = Instant::now();
            let found = match (self.read(name, deadline), failed) {
                // The earlier error says more.
                (Err(Failed::NoAnswer(_)), Some(e)) => return Err(e),
                (Ok(None), Some(e)) if tries_left == 0 => return Err(e),
                (found, _) => found?,
            };
            // A write that was refused may have been done: a standby may have passed it on twice.
            if let Some(found) = found {
                return Ok(may_be_ours && found == *stored);
            }
            tries_left -= 1;
            let allowed = deadline.min(Deadline::after(looked_at, MAX_LOOK_AGE));
            if allowed.has_passed(Instant::now()) {
                failed = Some(Failed::Other(format!(
                    "GET {}: it took {:.1} s to answer that there is no such key, which must be \
                     written within {} s of the question",
                    self.cluster.remote.url(&path),
                    looked_at.elapsed().as_secs_f64(),
                    MAX_LOOK_AGE.as_secs()
                )));
                continue;
            }
            may_be_ours = true;
            // It is not repeated unless it was refused: the key may be there, be deleted by others, and
            // come back.
            let e = match self.ask_once(put, allowed) {
                Ok(answer) if [200, 204].contains(&answer.status) => break,
                Ok(answer) => {
                    let e = self.refusal(&answer, "create");
                    match answer.status {
                        // The key was created meanwhile, the token is of no use any more, which
                        // reading mends, or nothing may be created.
                        403 => {
                            tries_left = tries_left.min(1);
                            failed = Some(e);
                            continue;
                        }
                        ..500 => return Err(e),
                        _ => e,
                    }
                }
                Err(Failed::NoAnswer(e)) => Failed::Other(format!(
                    "{e} (a key is written within {} s of the question whether it is there)",
                    MAX_LOOK_AGE.as_secs()
                )),
                Err(e) => e,
            };
            // Before it was given up, another server may have looked, too.
            std::thread::sleep(SETTLE);
            return self.find(name, stored, e, deadline);
        }
        // A server that looked before we wrote, and writes after us, has most likely done so by then.
        std::thread::sleep(SETTLE);
        self.read_back(name, stored, deadline)
    }

    /// Looks whether a write that `failed` was done after all. If the key is not there, it may still come.
    fn find(
        &self,
        name: &KeyName,
        stored: &Secret,
        failed: Failed,
        deadline: Deadline,
    ) -> Result<bool, Failed> {
        self.cluster.remote.pause(deadline);
        match self.read(name, deadline) {
            Ok(Some(found)) if found == *stored => Ok(true),
            _ => Err(failed),
        }
    }

    fn read_back(
        &self,
        name: &KeyName,
        stored: &Secret,
        deadline: Deadline,
    ) -> Result<bool, Failed> {
        let read = || self.read(name, deadline);
        match remote::read_back("Vault has accepted the key", read)? == *stored {
            true => Ok(true),
            false => Err(replaced()),
        }
    }
}

/// The key was there, and may have encrypted something, so its name was not taken.
fn replaced() -> Failed {
    Failed::Other(
        "Vault has accepted the key, but has another one now: did others delete it and \
                   create it anew?"
            .to_owned(),
    )
}

fn text(value: &Secret) -> Result<&str, Failed> {
    let text = str::from_utf8(value.expose());
    text.map_err(|_| Failed::Other("the value is not text".to_owned()))
}

/// The right of one thread to create a key of this name. The server lets one request of a name through;
/// threads that create the keys of the configuration come on their own.
struct Turn<'a>(&'a Engine, &'a KeyName);

impl<'a> Turn<'a> {
    /// Waits until no other thread creates `name`.
    fn enter(engine: &'a Engine, name: &'a KeyName, deadline: Deadline) -> Result<Self, Failed> {
        let (names, left) = &engine.creating;
        let names = names.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = deadline.remaining(Instant::now());
        let waited = left.wait_timeout_while(names, wait, |names| names.contains(name));
        let (mut names, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if names.contains(name) {
            return Err(Failed::Other("the same key was being created all the time".to_owned()));
        }
        names.push(name.clone());
        Ok(Self(engine, name))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let (names, left) = &self.0.creating;
        names.lock().unwrap_or_else(PoisonError::into_inner).retain(|name| name != self.1);
        left.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        thread,
    };

    use super::*;
    use crate::keystore::vault::settings::Settings;

    fn engine() -> Engine {
        Engine::new(&Settings::for_tests("http://127.0.0.1:1", Version::V1)).unwrap()
    }

    #[test]
    fn one_thread_at_a_time_creates_a_key_and_others_create_other_keys() {
        let engine = engine();
        let deadline = Deadline::after(Instant::now(), Duration::from_secs(60));
        let name = |name| KeyName::parse(name).unwrap();
        let (slow, other) = (name("slow"), name("other"));
        let turn = Turn::enter(&engine, &slow, deadline).unwrap();
        let inside = AtomicUsize::new(0);
        thread::scope(|scope| {
            let waiting: Vec<_> = (0..3)
                .map(|_| {
                    scope.spawn(|| {
                        let _turn = Turn::enter(&engine, &slow, deadline).unwrap();
                        assert_eq!(0, inside.fetch_add(1, Ordering::SeqCst), "two at once");
                        thread::sleep(Duration::from_millis(20));
                        inside.fetch_sub(1, Ordering::SeqCst);
                    })
                })
                .collect();
            assert!(Turn::enter(&engine, &other, deadline).is_ok());
            thread::sleep(Duration::from_millis(50));
            assert!(waiting.iter().all(|thread| !thread.is_finished()));
            drop(turn);
        });
        assert!(Turn::enter(&engine, &slow, deadline).is_ok());
    }

    #[test]
    fn no_thread_waits_past_the_deadline() {
        let engine = engine();
        let name = KeyName::parse("a").unwrap();
        let at_once = Deadline::after(Instant::now(), Duration::ZERO);
        let turn = Turn::enter(&engine, &name, at_once).unwrap();
        assert!(Turn::enter(&engine, &name, at_once).is_err());
        drop(turn);
        assert!(Turn::enter(&engine, &name, at_once).is_ok());
    }
}
