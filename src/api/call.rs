//! A call as its handler sees it, and what the handler asks for.

use super::{changes::Change, core::Core, failure::Failure};
use crate::{
    base::{
        deadline::Deadline,
        glob::{Effort, Pattern},
        secret::Secret,
    },
    crypto::MasterKey,
    http::reply::Reply,
    keystore::KeyName,
    log::Stream,
    policy::Policies,
};

/// The longest pattern of a list, in bytes.
const MAX_PATTERN: usize = 4096;

type Result<T> = std::result::Result<T, Failure>;

/// Checks whether an identity may call a path, and explains a refusal in the error log.
pub type Check = fn(&Core, &Policies, identity: &str, path: &str) -> Result<()>;

/// What a handler sees of a request.
pub struct Call<'a> {
    /// What all requests share.
    pub core: &'static Core,
    /// The identity of the client.
    pub identity: &'a str,
    /// The whole path, decoded.
    pub path: &'a str,
    /// What follows the path of the route, decoded; empty if there is nothing.
    pub argument: &'a str,
    /// The whole body; empty if the route takes none.
    pub body: &'a [u8],
    /// The check of policies that has admitted the call.
    pub check: Check,
}

impl Call<'_> {
    /// The argument as the name of a key.
    pub fn key_name(&self) -> Result<KeyName> {
        KeyName::parse(self.argument).ok_or(Failure::InvalidKeyName)
    }

    /// The argument as the pattern of a list; `None` matches nothing.
    pub fn pattern(&self) -> Option<Pattern> {
        let pattern = if self.argument.is_empty() { "*" } else { self.argument };
        // A malformed pattern matches nothing, and no name is so long that it takes a longer one.
        Some(pattern)
            .filter(|pattern| pattern.len() <= MAX_PATTERN)
            .and_then(|pattern| Pattern::parse(pattern).ok())
    }

    /// Those of `names` that the argument matches as a pattern.
    pub fn select<'n>(&self, names: impl Iterator<Item = &'n str>) -> Result<Vec<&'n str>> {
        select(self.pattern().as_ref(), names.collect())
    }

    /// Changes the policies if the client still may: its right may have ended while its body came in.
    pub fn change_policies(
        &self,
        change: impl FnOnce(&mut Policies) -> Result<()>,
    ) -> Result<Outcome> {
        self.core.change_state(|state| {
            (self.check)(self.core, &state.policies, self.identity, self.path)?;
            change(&mut state.policies)
        })?;
        Ok(Outcome::Done(Reply::empty()))
    }
}

/// Those of `names` that `pattern` matches; `None` matches nothing.
pub fn select<'n>(pattern: Option<&Pattern>, mut names: Vec<&'n str>) -> Result<Vec<&'n str>> {
    let Some(pattern) = pattern else {
        return Ok(Vec::new());
    };
    let mut effort = Effort::for_names(names.len());
    names.retain(|name| pattern.matches(name, &mut effort));
    match effort.is_exhausted() {
        true => Err(Failure::PatternTooHard),
        false => Ok(names),
    }
}

/// What a handler asks for.
pub enum Outcome {
    /// This is the answer.
    Done(Reply),
    /// Get this key, from the cache or the key store, and use it.
    Key(KeyName, KeyUse),
    /// List names on a key store thread.
    Names(Job),
    /// Change a key on a key store thread.
    Change(Change),
    /// Answer with these events as they come.
    Lines(Stream),
}

/// Something that a key store thread does before the deadline.
pub type Job = Box<dyn FnOnce(Deadline) -> Result<Reply> + Send>;

/// What to do with a key, and the secrets of the request for that.
pub struct KeyUse {
    /// What `then` takes; unused ones are empty.
    pub secrets: [Secret; 2],
    /// Makes the answer.
    pub then: fn(&MasterKey, &[Secret; 2]) -> Result<Reply>,
}
