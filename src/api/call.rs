//! A call as its handler sees it, and what the handler asks for.

use super::{
    changes::Change,
    core::{Answer, Core},
    failure::{Failure, Named},
    state::State,
};
use crate::{
    base::{
        deadline::Deadline,
        generation::Generation,
        glob::{Effort, Pattern},
        name,
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
pub type Check = fn(&Core, &State, identity: &str, path: &str) -> Result<()>;

/// What a handler sees of a request.
pub struct Call<'a> {
    /// What all requests share.
    pub core: &'static Core,
    /// The configuration.
    pub state: &'a State,
    /// The identity of the client; empty if the API wants no certificate.
    pub identity: &'a str,
    /// The whole path, decoded.
    pub path: &'a str,
    /// What follows the path of the route, decoded; empty if there is nothing.
    pub argument: &'a str,
    /// The whole body; empty if the route takes none.
    pub body: &'a [u8],
    /// Whether the client announced neither a body nor its type.
    pub announces_no_body: bool,
    /// The check of policies that has admitted the call.
    pub check: Check,
}

impl Call<'_> {
    /// Whether the server is one of the newest generation.
    pub fn is_newest(&self) -> bool {
        self.state.generation == Generation::Newest
    }

    /// The argument as the name of a key.
    pub fn key_name(&self) -> Result<KeyName> {
        self.check_name(Named::Key, self.argument)?;
        KeyName::parse(self.argument).ok_or_else(|| invalid(Named::Key, self.argument))
    }

    /// The argument as the name of a policy.
    pub fn policy_name(&self) -> Result<&str> {
        self.check_name(Named::Policy, self.argument)
    }

    /// `name` if it can be the name of this.
    pub fn check_name<'n>(&self, named: Named, name: &'n str) -> Result<&'n str> {
        let can_be = match (self.is_newest(), named) {
            (true, _) => name::is_plain(name),
            (false, Named::Identity) => !name.is_empty(),
            (false, _) => name::check(name).is_ok(),
        };
        can_be.then_some(name).ok_or_else(|| invalid(named, name))
    }

    /// The argument as the pattern of a list; `None` matches nothing.
    pub fn pattern(&self) -> Option<Pattern> {
        let pattern = if self.argument.is_empty() { "*" } else { self.argument };
        // A malformed pattern matches nothing, and no name is so long that it takes a longer one.
        Some(pattern)
            .filter(|pattern| pattern.len() <= MAX_PATTERN)
            .and_then(|pattern| Pattern::parse(pattern).ok())
    }

    /// The argument as the start of the names that a list of the newest generation wants: all that stands
    /// before a `*` at its end.
    pub fn prefix(&self) -> Result<&str> {
        let prefix = self.argument.strip_suffix('*').unwrap_or(self.argument);
        let can_be = name::is_plain_start(prefix);
        can_be.then_some(prefix).ok_or_else(|| invalid(Named::Pattern, self.argument))
    }

    /// Those of `names` that the argument matches, sorted.
    pub fn select<'n>(&self, names: impl Iterator<Item = &'n str>) -> Result<Vec<&'n str>> {
        let mut names = match self.is_newest() {
            true => {
                let prefix = self.prefix()?;
                names.filter(|name| name.starts_with(prefix)).collect()
            }
            false => select(self.pattern().as_ref(), names.collect())?,
        };
        names.sort_unstable();
        Ok(names)
    }

    /// Changes the policies if the client still may: its right may have ended while its body came in.
    pub fn change_policies(
        &self,
        change: impl FnOnce(&mut Policies) -> Result<()>,
    ) -> Result<Outcome> {
        self.core.change_state(|state| {
            (self.check)(self.core, state, self.identity, self.path)?;
            change(&mut state.policies)
        })?;
        Ok(Outcome::Done(Reply::empty()))
    }
}

fn invalid(named: Named, name: &str) -> Failure {
    Failure::InvalidName(named, name.into())
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
    /// Get a key, from the cache or the key store, and use it.
    Key(KeyUse),
    /// Ask the key store on one of its threads. The answer is taken to have so many bytes.
    Ask(Job, usize),
    /// Make an answer of the status of the key store.
    Status(Answer),
    /// Change a key on a key store thread.
    Change(Change),
    /// Answer with these events as they come.
    Lines(Stream),
    /// Answer with what is served.
    Routes,
}

/// Something that a key store thread does before the deadline.
pub type Job = Box<dyn FnOnce(Deadline) -> Result<Reply> + Send>;

/// What to do with a key, and what of the request that takes.
pub struct KeyUse {
    /// The key.
    pub name: KeyName,
    /// The generation whose format ciphertexts are written in.
    pub generation: Generation,
    /// What the request brings; unused ones are empty.
    pub secrets: [Secret; 2],
    /// The same for each part of a request that has many.
    pub parts: Vec<[Secret; 2]>,
    /// Makes the answer.
    pub then: fn(&MasterKey, &Self) -> Result<Reply>,
}

impl KeyUse {
    /// What it holds, in bytes.
    pub fn held(&self) -> usize {
        let parts = self.parts.iter().flatten();
        self.secrets.iter().chain(parts).map(|secret| secret.len()).sum()
    }
}
