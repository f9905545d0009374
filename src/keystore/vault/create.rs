//! Creating keys: never over another one, and not before what was written is read back.

use std::time::{Duration, Instant};

use super::{
    MAX_ANSWER, Vault, Version,
    answer::{Member, Options, Versioned},
    site::Failed,
};
use crate::{
    base::{deadline::Deadline, secret::Secret},
    keystore::{
        KeyName,
        remote::{Answer, json},
    },
};

/// A value that was written is looked for as long as this: standby servers lag a little.
const MAX_LAG: Duration = Duration::from_secs(2);
/// On version 1, another server that was about to write the same key has most likely written it after
/// this time.
const SETTLE: Duration = Duration::from_millis(50);
/// On version 1, a look that finds no key allows a write that is done this long after the look began: a
/// third of what a request may take, of which a slow Vault may need half for each answer.
const MAX_LOOK_AGE: Duration = Duration::from_secs(5);
/// On version 1, so many writes are tried, each after a look of its own.
const MAX_TRIES: u32 = 3;

impl Vault {
    /// Creates `name` with the text `stored`. False if the name is taken.
    pub(super) fn create_stored(
        &self,
        name: &KeyName,
        stored: &Secret,
        deadline: Deadline,
    ) -> Result<bool, Failed> {
        match self.site.settings.version {
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
        let body = json(&Versioned { options: Options { cas: 0 }, data: Member(name, stored) })
            .map_err(Failed::Other)?;
        // Only the first write can succeed, so it may be repeated: whoever has won is seen in the end.
        let mut answer = self.write(&path, &body, true, deadline)?;
        if answer.status == 403 {
            // Without the right to `update`, this also says that the key was created meanwhile.
            if let Some(found) = self.read(name, deadline)? {
                return Ok(found == *stored);
            }
            self.check_not_trimmed(name, deadline)?;
            answer = self.ask("PUT", &path, Some(&body), MAX_ANSWER, deadline)?;
        }
        match answer.status {
            200 => {}
            400 if answer.says("check-and-set") => match self.read(name, deadline)? {
                Some(found) => return Ok(found == *stored),
                None => self.check_not_trimmed(name, deadline)?,
            },
            204 => {
                let why = "the engine is not KV version 2: set vault.version to v1";
                return Err(self.site.unusable("PUT", &path, why));
            }
            _ => return Err(self.site.refusal("PUT", &path, &answer, "create")),
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
        let busy = || Failed::Other("the same key was being created all the time".to_owned());
        let _turn = self.creating.enter(name, deadline).ok_or_else(busy)?;
        let path = self.location(name);
        let body = json(&Member(name, stored)).map_err(Failed::Other)?;
        let (mut tries_left, mut may_be_ours) = (MAX_TRIES, false);
        let mut failed: Option<Failed> = None;
        loop {
            let looked_at = Instant::now();
            let found = match (self.read(name, deadline), failed) {
                // What went wrong before tells more.
                (Err(Failed::NoAnswer(_)), Some(e)) => return Err(e),
                (Ok(None), Some(e)) if tries_left == 0 => return Err(e),
                (found, _) => found?,
            };
            // It may be there from an earlier try whose answer was lost.
            if let Some(found) = found {
                return Ok(may_be_ours && found == *stored);
            }
            tries_left -= 1;
            let allowed = deadline.min(Deadline::after(looked_at, MAX_LOOK_AGE));
            if allowed.has_passed(Instant::now()) {
                let why = format!(
                    "it took {:.1} s to answer that there is no such key, which must be written within \
                     {} s of the question",
                    looked_at.elapsed().as_secs_f64(),
                    MAX_LOOK_AGE.as_secs()
                );
                failed = Some(self.site.unusable("GET", &path, &why));
                continue;
            }
            may_be_ours = true;
            let e = match self.write(&path, &body, false, allowed) {
                Ok(answer) if [200, 204].contains(&answer.status) => break,
                Ok(answer) => {
                    let e = self.site.refusal("PUT", &path, &answer, "create");
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
            // Whether it was done or not is seen in the next round.
            if !self.site.remote.pause(deadline) {
                return Err(e);
            }
            failed = Some(e);
        }
        // A server that looked before we wrote, and writes after us, has most likely done so by then.
        std::thread::sleep(SETTLE);
        self.read_back(name, stored, deadline)
    }

    /// Reads back what was written. Standby servers may need a moment to know it.
    fn read_back(
        &self,
        name: &KeyName,
        stored: &Secret,
        deadline: Deadline,
    ) -> Result<bool, Failed> {
        let until = Instant::now() + MAX_LAG;
        loop {
            match self.read(name, deadline)? {
                Some(found) => return Ok(found == *stored),
                None if Instant::now() >= until => {
                    return Err(Failed::Other(
                        "Vault has accepted the key but does not have it".to_owned(),
                    ));
                }
                None => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    /// Writes with the token at hand: whether it was done is seen by whoever looks afterwards.
    fn write(
        &self,
        path: &str,
        body: &Secret,
        is_repeatable: bool,
        deadline: Deadline,
    ) -> Result<Answer, Failed> {
        let token = self.keeper.token(deadline)?;
        let site = &self.site;
        let (token, body) = (Some(&*token), Some(body));
        site.ask("PUT", path, token, body, is_repeatable, MAX_ANSWER, deadline)
    }
}
