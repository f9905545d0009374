//! Access control: the root identity, policies, and the identities assigned to them.
//!
//! A policy has rules over the request path that allow and rules that deny. The latter win, and paths that no
//! rule matches are denied.
//! Policies and assignments come from the configuration file, or from calls: the latter outlast a reload, but
//! not the process. Knows nothing of certificates or HTTP.

mod document;
mod rule;
mod why;

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    fmt,
    sync::Arc,
};

use subtle::ConstantTimeEq as _;

pub use self::{
    document::{RuleList, RuleMap},
    rule::Rule,
    why::Verdict,
};
use crate::base::glob::{Effort, SyntaxError};

/// The paths that its identities may call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// A path that one of these matches is allowed, unless it is denied.
    pub allow: Vec<Rule>,
    /// A path that one of these matches is denied.
    pub deny: Vec<Rule>,
}

/// The decision of a policy about a path.
enum Decision<'a> {
    /// This rule allows it.
    Allowed(&'a Rule),
    /// This rule denies it.
    Denied(&'a Rule),
    /// No rule matches.
    Unmatched,
}

impl Policy {
    /// Whether the policy allows a request to `path` (decoded, without query). A path that takes too much
    /// effort to match is denied.
    pub fn allows(&self, path: &str) -> bool {
        matches!(self.decide(path), Decision::Allowed(_))
    }

    /// Whether a rule of the policy denies a request to `path`.
    pub fn denies(&self, path: &str) -> bool {
        !self.deny.is_empty() && matches!(self.decide(path), Decision::Denied(_))
    }

    /// The decision about `path`, and the first rule that makes it.
    fn decide(&self, path: &str) -> Decision<'_> {
        let mut effort = Effort::ONE_NAME;
        // A rule that is not matched to its end may be one that matches.
        let denied =
            self.deny.iter().find(|rule| rule.matches(path, &mut effort) || effort.is_exhausted());
        if let Some(rule) = denied {
            return Decision::Denied(rule);
        }
        match self.allow.iter().find(|rule| rule.matches(path, &mut effort)) {
            Some(rule) => Decision::Allowed(rule),
            None => Decision::Unmatched,
        }
    }
}

/// All policies and the identities assigned to them. A clone shares all texts and policies with the
/// original, so that it can be changed and put in its place.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    root: Arc<str>,
    proxies: Arc<HashSet<String>>,
    policies: HashMap<Arc<str>, Sourced<Policy>>,
    /// Identity to policy name.
    assigned: HashMap<Arc<str>, Sourced<str>>,
}

/// A value and its source.
#[derive(Debug)]
struct Sourced<T: ?Sized> {
    value: Arc<T>,
    source: Source,
}

impl<T: ?Sized> Clone for Sourced<T> {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), source: self.source }
    }
}

/// The source of a policy or an assignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// The configuration file.
    File,
    /// A call while the server runs.
    Call,
}

impl Policies {
    /// Begins with no policies: `root` may do everything, and `proxies`, the TLS proxies, can't have a
    /// policy.
    pub fn builder(root: &str, proxies: &[String]) -> Builder {
        Builder(Self {
            root: root.into(),
            proxies: Arc::new(proxies.iter().cloned().collect()),
            ..Self::default()
        })
    }

    /// Whether `identity` may send a request to `path`: root always, an empty or unknown identity never, nor
    /// one whose policy is gone.
    pub fn allows(&self, identity: &str, path: &str) -> bool {
        if identity.is_empty() {
            return false;
        }
        self.is_root(identity) || self.policy_of(identity).is_some_and(|policy| policy.allows(path))
    }

    /// Whether a rule denies `identity` a request to `path`. Root is denied nothing.
    pub fn denies(&self, identity: &str, path: &str) -> bool {
        !self.is_root(identity)
            && self.policy_of(identity).is_some_and(|policy| policy.denies(path))
    }

    /// The root identity, or what the configuration has in its place.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// Whether `identity` is the root identity. The empty identity never is.
    pub fn is_root(&self, identity: &str) -> bool {
        // In the same time wherever they differ.
        !identity.is_empty() && identity.as_bytes().ct_eq(self.root.as_bytes()).into()
    }

    /// Whether `identity` is a TLS proxy.
    pub fn is_proxy(&self, identity: &str) -> bool {
        self.proxies.contains(identity)
    }

    /// Whether there are TLS proxies at all.
    pub fn has_proxies(&self) -> bool {
        !self.proxies.is_empty()
    }

    /// The policy called `name`.
    pub fn get(&self, name: &str) -> Option<&Arc<Policy>> {
        self.policies.get(name).map(|policy| &policy.value)
    }

    /// The policy that `identity` is assigned to.
    fn policy_of(&self, identity: &str) -> Option<&Arc<Policy>> {
        self.get(self.policy_name_of(identity)?)
    }

    /// The name of the policy that `identity` is assigned to.
    pub fn policy_name_of(&self, identity: &str) -> Option<&str> {
        self.assigned.get(identity).map(|policy| &*policy.value)
    }

    /// All policies with their names, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Arc<Policy>)> {
        self.policies.iter().map(|(name, policy)| (&**name, &policy.value))
    }

    /// All assigned identities with the names of their policies, in no particular order.
    pub fn assigned(&self) -> impl Iterator<Item = (&str, &str)> {
        self.assigned.iter().map(|(identity, policy)| (&**identity, &*policy.value))
    }

    /// Creates the policy called `name`, or replaces it. Its assignments stay.
    pub fn write(&mut self, name: &str, policy: Policy) {
        let policy = Sourced { value: Arc::new(policy), source: Source::Call };
        self.policies.insert(name.into(), policy);
    }

    /// Removes the policy called `name`, if there is one, and all its assignments.
    pub fn delete(&mut self, name: &str) {
        self.policies.remove(name);
        self.assigned.retain(|_, policy| *policy.value != *name);
    }

    /// Assigns `identity` to `policy` on behalf of `caller`, in place of any other policy.
    ///
    /// # Errors
    /// The first [`Refusal`] that applies, in the order of its variants.
    pub fn assign(&mut self, identity: &str, policy: &str, caller: &str) -> Result<(), Refusal> {
        self.check_assignable(identity)?;
        if self.is_proxy(identity) {
            return Err(Refusal::Proxy);
        }
        if identity == caller {
            return Err(Refusal::Caller);
        }
        let Some((name, _)) = self.policies.get_key_value(policy) else {
            return Err(Refusal::NoPolicy);
        };
        let policy = Sourced { value: name.clone(), source: Source::Call };
        self.assigned.insert(identity.into(), policy);
        Ok(())
    }

    /// Ends the assignment of `identity`, if it has one.
    ///
    /// # Errors
    /// [`Refusal::NoIdentity`] or [`Refusal::Root`].
    pub fn forget(&mut self, identity: &str) -> Result<(), Refusal> {
        self.check_assignable(identity)?;
        self.assigned.remove(identity);
        Ok(())
    }

    fn check_assignable(&self, identity: &str) -> Result<(), Refusal> {
        match identity {
            "" => Err(Refusal::NoIdentity),
            _ if self.is_root(identity) => Err(Refusal::Root),
            _ => Ok(()),
        }
    }

    /// Takes the policies and assignments that calls made over from `before`, for a reload: policies that
    /// the file does not define, and assignments of identities that it does not mention, if their policy
    /// still exists.
    pub fn keep_calls_of(&mut self, before: &Self) {
        for (name, policy) in &before.policies {
            if policy.source == Source::Call && !self.policies.contains_key(name) {
                self.policies.insert(name.clone(), policy.clone());
            }
        }
        for (identity, policy) in &before.assigned {
            if policy.source == Source::Call
                && !self.assigned.contains_key(identity)
                && !self.is_root(identity)
                && !self.is_proxy(identity)
                && self.policies.contains_key(&policy.value)
            {
                self.assigned.insert(identity.clone(), policy.clone());
            }
        }
    }
}

/// Why an identity can't be assigned or forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The identity is empty.
    NoIdentity,
    /// The identity is root, which needs no policy and can have none.
    Root,
    /// The identity is a TLS proxy, which acts for others and has no rights of its own.
    Proxy,
    /// The identity is the caller, which can't change its own rights.
    Caller,
    /// There is no such policy.
    NoPolicy,
}

/// Builds [`Policies`] by the rules for configuration files, entry by entry, so that the caller knows which
/// one is refused.
#[derive(Debug)]
pub struct Builder(Policies);

impl Builder {
    /// Adds a policy, unless there is one of this name.
    pub fn define(&mut self, name: &Arc<str>, policy: Arc<Policy>) {
        let policy = Sourced { value: policy, source: Source::File };
        self.0.policies.entry(name.clone()).or_insert(policy);
    }

    /// Assigns `identity` to `policy`, whose name is shared since it may be long. The empty identity is
    /// ignored.
    ///
    /// # Errors
    /// [`Error::Assigned`] if it is root or has a policy, [`Error::Proxy`] if it is a TLS proxy.
    pub fn assign(&mut self, policy: &Arc<str>, identity: &str) -> Result<(), Error> {
        if identity.is_empty() {
            return Ok(());
        }
        if self.0.is_proxy(identity) && !self.0.is_root(identity) {
            return Err(Error::Proxy { policy: policy.clone(), identity: identity.into() });
        }
        match self.0.assigned.entry(identity.into()) {
            Entry::Vacant(entry) if *identity != *self.0.root => {
                entry.insert(Sourced { value: policy.clone(), source: Source::File });
                Ok(())
            }
            _ => Err(Error::Assigned { policy: policy.clone(), identity: identity.into() }),
        }
    }

    /// The finished policies.
    pub fn build(self) -> Policies {
        self.0
    }
}

/// Why a policy or an assignment is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// A pattern is malformed.
    Pattern {
        /// The name of the policy.
        policy: Arc<str>,
        /// The mistake.
        source: SyntaxError,
    },
    /// The identity is root or has a policy already.
    Assigned {
        /// The name of the policy.
        policy: Arc<str>,
        /// The identity.
        identity: String,
    },
    /// The identity is a TLS proxy, which acts for others and has no rights of its own.
    Proxy {
        /// The name of the policy.
        policy: Arc<str>,
        /// The identity.
        identity: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pattern { policy, source } => {
                write!(f, "policy \"{policy}\" contains invalid glob patterns: {source}")
            }
            Self::Assigned { policy, identity } => write!(
                f,
                "cannot assign policy \"{policy}\" to identity \"{identity}\": \
                 this identity already has a policy"
            ),
            Self::Proxy { policy, identity } => {
                write!(f, "cannot assign policy \"{policy}\" to TLS proxy \"{identity}\"")
            }
        }
    }
}

#[cfg(test)]
mod tests;
