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
mod tests {
    use super::*;

    /// Root is `root`, `gate` is a TLS proxy, and `app` may create keys that start with `app-`.
    fn builder() -> Builder {
        let mut builder = Policies::builder("root", &["gate".into()]);
        builder.define(&"apps".into(), Arc::new(policy(&["/v1/key/create/app-*"])));
        builder.assign(&"apps".into(), "app").unwrap();
        builder
    }

    #[test]
    fn root_may_do_everything() {
        assert!(builder().build().allows("root", "/v1/policy/write/apps"));
    }

    #[test]
    fn an_identity_may_do_what_its_policy_allows_and_nothing_else() {
        let policies = builder().build();
        assert!(policies.allows("app", "/v1/key/create/app-1"));
        assert!(!policies.allows("app", "/v1/key/create/other"));
        assert!(!policies.allows("app", "/v1/key/create/app-1/x"));
        assert!(!policies.allows("app", "/v1/key/delete/app-1"));
    }

    #[test]
    fn only_a_rule_denies_and_root_is_denied_nothing() {
        let mut builder = builder();
        let strict =
            Policy { deny: vec![Rule::prefix("/v1/key/*")], ..policy(&["/v1/key/list/*"]) };
        for (name, assigned) in [("strict", "strict"), ("none", "nobody")] {
            let policy = if name == "none" { Policy::default() } else { strict.clone() };
            builder.define(&name.into(), Arc::new(policy));
            builder.assign(&name.into(), assigned).unwrap();
        }
        let policies = builder.build();
        assert!(policies.denies("strict", "/v1/key/list/a"));
        assert!(!policies.denies("strict", "/version"));
        for identity in ["app", "nobody", "stranger", "", "root"] {
            assert!(!policies.denies(identity, "/v1/key/list/a"), "{identity}");
        }
    }

    #[test]
    fn root_and_proxies_are_those_of_the_configuration_and_all_policies_are_listed() {
        let policies = builder().build();
        assert_eq!("root", policies.root());
        assert!(policies.is_proxy("gate") && policies.has_proxies());
        assert!(!Policies::builder("root", &[]).build().has_proxies());
        let listed: Vec<_> = policies.iter().collect();
        assert_eq!([("apps", policies.get("apps").unwrap())], *listed);
    }

    #[test]
    fn unknown_and_empty_identities_may_do_nothing() {
        let policies = builder().build();
        for identity in ["stranger", "", "gate", "APP", "Root", "roo", "roots", "ap"] {
            assert!(!policies.allows(identity, "/v1/key/create/app-1"), "{identity}");
        }
        let no_root = Policies::builder("", &[]).build();
        assert!(!no_root.allows("", "/version"));
        assert!(!Policies::default().is_root(""));
    }

    #[test]
    fn a_policy_without_paths_allows_nothing() {
        let mut builder = builder();
        builder.define(&"none".into(), Arc::default());
        builder.assign(&"none".into(), "nobody").unwrap();
        let policies = builder.build();
        assert_eq!(Some("none"), policies.policy_name_of("nobody"));
        assert!(!policies.allows("nobody", "/v1/key/create/app-1"));
        assert!(!policies.allows("nobody", ""));
    }

    #[test]
    fn what_a_policy_denies_is_not_allowed_whatever_else_it_allows() {
        let rules =
            |rules: &[&str]| rules.iter().map(|rule| Rule::prefix(rule)).collect::<Vec<_>>();
        let policy = Policy {
            allow: rules(&["/v1/key/*", "/v1/key/delete/mine", "/version", ""]),
            deny: rules(&["/v1/key/delete/*", "/v1/key/create/root", ""]),
        };
        for path in ["/v1/key/create/app", "/v1/key/create/root-1", "/v1/key/a/b/c", "/version"] {
            assert!(policy.allows(path), "{path}");
        }
        for path in ["/v1/key/delete/mine", "/v1/key/create/root", "/v1/log/error", "/v1/key", ""] {
            assert!(!policy.allows(path), "{path}");
        }
        let deny = policy.deny;
        assert!(!Policy { allow: Vec::new(), deny }.allows("/v1/key/create/app"));
    }

    #[test]
    fn a_rule_that_takes_too_long_to_find_out_denies() {
        let long = "a".repeat(60_000);
        let pattern = "*".to_owned() + &"a".repeat(30_000) + "b";
        let mut policy = Policy { allow: vec![Rule::prefix("a*")], deny: Vec::new() };
        assert!(policy.allows(&long));
        policy.deny = vec![Rule::glob(&pattern).unwrap()];
        assert!(!policy.allows(&long));
        assert!(policy.allows("aaa"));
    }

    #[test]
    fn an_assignment_to_a_missing_policy_allows_nothing() {
        let mut builder = builder();
        builder.assign(&"gone".into(), "nobody").unwrap();
        assert!(!builder.build().allows("nobody", "/v1/key/create/app-1"));
    }

    #[test]
    fn defining_a_policy_again_keeps_its_paths() {
        let mut builder = builder();
        builder.define(&"apps".into(), Arc::default());
        assert!(builder.build().allows("app", "/v1/key/create/app-1"));
    }

    #[test]
    fn one_identity_cannot_have_two_policies() {
        for policy in ["apps", "b"] {
            assert_eq!(
                format!(
                    "cannot assign policy \"{policy}\" to identity \"app\": \
                     this identity already has a policy"
                ),
                builder().assign(&policy.into(), "app").unwrap_err().to_string()
            );
        }
    }

    #[test]
    fn root_cannot_have_a_policy() {
        assert_eq!(
            "cannot assign policy \"apps\" to identity \"root\": this identity already has a policy",
            builder().assign(&"apps".into(), "root").unwrap_err().to_string()
        );
    }

    #[test]
    fn a_tls_proxy_cannot_have_a_policy() {
        assert_eq!(
            "cannot assign policy \"apps\" to TLS proxy \"gate\"",
            builder().assign(&"apps".into(), "gate").unwrap_err().to_string()
        );
    }

    #[test]
    fn empty_identities_are_ignored() {
        let mut builder = builder();
        builder.assign(&"apps".into(), "").unwrap();
        builder.assign(&"apps".into(), "").unwrap();
        assert_eq!(1, builder.build().assigned().count());
    }

    /// A policy with these paths.
    fn policy(paths: &[&str]) -> Policy {
        let allow = paths.iter().map(|path| Rule::glob(path).unwrap());
        Policy { allow: allow.collect(), deny: Vec::new() }
    }

    fn assignments(policies: &Policies) -> Vec<(&str, &str)> {
        let mut assigned: Vec<_> = policies.assigned().collect();
        assigned.sort_unstable();
        assigned
    }

    #[test]
    fn changing_a_clone_leaves_the_original_alone() {
        let original = builder().build();
        let mut changed = original.clone();
        changed.write("apps", policy(&["/v1/key/delete/*"]));
        assert!(changed.allows("app", "/v1/key/delete/a"));
        assert!(!changed.allows("app", "/v1/key/create/app-1"));
        assert!(!original.allows("app", "/v1/key/delete/a"));
        assert!(original.allows("app", "/v1/key/create/app-1"));
    }

    #[test]
    fn deleting_a_policy_removes_its_assignments_and_no_others() {
        let mut policies = builder().build();
        policies.write("other", policy(&["/*"]));
        policies.assign("b", "other", "root").unwrap();
        policies.delete("apps");
        policies.delete("apps");
        assert_eq!(None, policies.get("apps"));
        assert_eq!([("b", "other")], *assignments(&policies));
        policies.write("apps", policy(&["/*"]));
        assert!(!policies.allows("app", "/x"));
    }

    #[test]
    fn assigning_moves_an_identity_and_forgetting_takes_its_policy_away() {
        let mut policies = builder().build();
        policies.write("other", policy(&["/other"]));
        policies.assign("app", "other", "root").unwrap();
        assert!(policies.allows("app", "/other"));
        assert!(!policies.allows("app", "/v1/key/create/app-1"));
        policies.forget("app").unwrap();
        policies.forget("app").unwrap();
        assert!(!policies.allows("app", "/other"));
    }

    #[test]
    fn assignments_are_refused_in_their_order() {
        let mut policies = builder().build();
        let mut assign = |identity, policy, caller| policies.assign(identity, policy, caller);
        assert_eq!(Err(Refusal::NoIdentity), assign("", "gone", ""));
        assert_eq!(Err(Refusal::Root), assign("root", "gone", "root"));
        assert_eq!(Err(Refusal::Proxy), assign("gate", "gone", "gate"));
        assert_eq!(Err(Refusal::Caller), assign("app", "gone", "app"));
        assert_eq!(Err(Refusal::NoPolicy), assign("b", "gone", "app"));
        assert_eq!(Err(Refusal::NoIdentity), policies.forget(""));
        assert_eq!(Err(Refusal::Root), policies.forget("root"));
        assert_eq!([("app", "apps")], *assignments(&policies));
    }

    #[test]
    fn a_reload_keeps_what_calls_have_made_unless_the_file_says_otherwise() {
        let mut before = builder().build();
        before.write("made", policy(&["/made"]));
        before.write("taken", policy(&["/made"]));
        before.write("apps", policy(&["/made"]));
        for (identity, policy) in [
            ("a", "made"),
            ("b", "made"),
            ("new-root", "made"),
            ("new-gate", "made"),
            ("c", "taken"),
            ("d", "apps"),
        ] {
            before.assign(identity, policy, "root").unwrap();
        }

        let mut file = Policies::builder("new-root", &["new-gate".into()]);
        file.define(&"taken".into(), Arc::new(policy(&["/file"])));
        file.assign(&"taken".into(), "b").unwrap();
        let mut after = file.build();
        after.keep_calls_of(&before);

        assert!(after.allows("a", "/made"));
        assert!(after.allows("b", "/file") && !after.allows("b", "/made"));
        assert!(after.allows("c", "/file") && !after.allows("c", "/made"));
        // The policy was changed by a call, so it stays although the file has it no more; its
        // assignment in the old file goes with the old file.
        assert!(after.allows("d", "/made"));
        assert_eq!(
            [("a", "made"), ("b", "taken"), ("c", "taken"), ("d", "apps")],
            *assignments(&after)
        );
    }

    #[test]
    fn a_reload_forgets_assignments_to_policies_that_only_the_old_file_had() {
        let mut before = builder().build();
        before.assign("b", "apps", "root").unwrap();
        let mut after = Policies::builder("root", &[]).build();
        after.keep_calls_of(&before);
        assert_eq!(0, after.assigned().count());
        assert_eq!(0, after.iter().count());
    }
}
