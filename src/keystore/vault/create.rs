//! Creating keys: never over another one, and not before what was written is read back.

use std::time::{Duration, Instant};

use super::{
    MAX_ANSWER, Vault, Version,
    answer::{Member, Options, Versioned},
    site::Failed,
};
use crate::{
    deadline::Deadline,
    keystore::{
        KeyName,
        remote::{Answer, json},
    },
    secret::Secret,
};

/// A value that was written is looked for as long as this: standby servers lag a little.
const MAX_LAG: Duration = Duration::from_secs(2);
/// On version 1, another server that was about to write the same key has written it after this time.
const SETTLE: Duration = Duration::from_millis(50);
/// On version 1, what a look at a name found is believed for this time.
const MAX_LOOK_AGE: Duration = Duration::from_secs(1);

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
        let body = json(
            2 * stored.len(),
            &Versioned {
                options: Options { cas: 0 },
                data: Member(name, stored),
            },
        )
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
        let turn = self.creating.enter(name, deadline);
        let _turn = turn.ok_or(Failed::Busy)?;
        let path = self.location(name);
        let body = json(2 * stored.len(), &Member(name, stored)).map_err(Failed::Other)?;
        let (mut was_refused, mut may_be_ours) = (false, false);
        loop {
            // It may be there from an earlier round whose answer was lost.
            let looked_at = Instant::now();
            if let Some(found) = self.read(name, deadline)? {
                return Ok(may_be_ours && found == *stored);
            }
            if looked_at.elapsed() > MAX_LOOK_AGE {
                continue;
            }
            may_be_ours = true;
            match self.write(&path, &body, false, deadline) {
                Ok(answer) if [200, 204].contains(&answer.status) => break,
                Ok(answer) if answer.status == 403 => {
                    // The key was created meanwhile, the token is of no use any more, which reading
                    // has mended, or nothing may be created.
                    if let Some(found) = self.read(name, deadline)? {
                        return Ok(found == *stored);
                    }
                    if was_refused {
                        return Err(self.site.refusal("PUT", &path, &answer, "create"));
                    }
                    was_refused = true;
                }
                Ok(answer) if answer.status < 500 => {
                    return Err(self.site.refusal("PUT", &path, &answer, "create"));
                }
                // Whether it was done or not is seen in the next round.
                result => {
                    if !self.site.remote.pause(deadline) {
                        return Err(match result {
                            Ok(answer) => self.site.refusal("PUT", &path, &answer, "create"),
                            Err(e) => e,
                        });
                    }
                }
            }
        }
        // Whoever looked before we wrote, and writes after us, has done so by then.
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
        site.ask(
            "PUT",
            path,
            token,
            body,
            is_repeatable,
            MAX_ANSWER,
            deadline,
        )
    }
}
