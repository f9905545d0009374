//! The reason why an identity may or may not call a path, for the error log and `kes policy why`.
//!
//! Decides like [`Policies::allows`], but slower.

use std::fmt;

use super::{Decision, Policies, Policy};
use crate::base::glob::Effort;

/// Whether a call is allowed, and why. Displayed as one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// Allowed: root may do everything.
    Root,
    /// Refused: the client has no identity.
    NoIdentity,
    /// Refused: TLS proxies act for others and have no rights of their own.
    Proxy,
    /// Refused: the identity is assigned to no policy.
    Unassigned,
    /// Refused: the policy that the identity is assigned to does not exist.
    PolicyGone {
        /// The name of the policy.
        policy: &'a str,
    },
    /// Allowed by the first rule that matches, as none denies.
    Allowed {
        /// The name of the policy.
        policy: &'a str,
        /// The rule.
        pattern: &'a str,
    },
    /// Refused: a rule denies, whatever others allow.
    Denied {
        /// The name of the policy.
        policy: &'a str,
        /// The first rule that denies.
        pattern: &'a str,
    },
    /// Refused: no rule matches.
    Refused {
        /// The name of the policy.
        policy: &'a str,
        /// The allowing rule that matches most of the path from its start; the first of several. `None`
        /// if the policy allows nothing.
        nearest: Option<&'a str>,
    },
}

impl Verdict<'_> {
    /// Whether the call is allowed.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Root | Self::Allowed { .. })
    }
}

impl fmt::Display for Verdict<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => f.write_str("allowed: the identity is root"),
            Self::NoIdentity => f.write_str("refused: the client has no identity"),
            Self::Proxy => {
                f.write_str("refused: the identity is a TLS proxy, which has no rights of its own")
            }
            Self::Unassigned => f.write_str("refused: the identity is assigned to no policy"),
            Self::PolicyGone { policy } => write!(f, "refused: policy {policy:?} does not exist"),
            Self::Allowed { policy, pattern } => {
                write!(f, "allowed: policy {policy:?} has the path {pattern:?}")
            }
            Self::Denied { policy, pattern } => {
                write!(f, "refused: policy {policy:?} denies the path {pattern:?}")
            }
            Self::Refused { policy, nearest: Some(nearest) } => write!(
                f,
                "refused: no path of policy {policy:?} matches, the nearest is {nearest:?}"
            ),
            Self::Refused { policy, nearest: None } => {
                write!(f, "refused: policy {policy:?} has no paths")
            }
        }
    }
}

impl Policies {
    /// Whether `identity` may send a request to `path`, and why.
    pub fn why(&self, identity: &str, path: &str) -> Verdict<'_> {
        if identity.is_empty() {
            return Verdict::NoIdentity;
        }
        if self.is_root(identity) {
            return Verdict::Root;
        }
        let Some(name) = self.policy_name_of(identity) else {
            return match self.is_proxy(identity) {
                true => Verdict::Proxy,
                false => Verdict::Unassigned,
            };
        };
        match self.get(name) {
            Some(policy) => policy.why(name, path),
            None => Verdict::PolicyGone { policy: name },
        }
    }
}

impl Policy {
    /// Whether the policy, which is called `name`, allows a request to `path`, and why.
    pub fn why<'a>(&'a self, name: &'a str, path: &str) -> Verdict<'a> {
        match self.decide(path) {
            Decision::Allowed(rule) => Verdict::Allowed { policy: name, pattern: rule.as_str() },
            Decision::Denied(rule) => Verdict::Denied { policy: name, pattern: rule.as_str() },
            Decision::Unmatched => {
                // `max_by_key` takes the last of equals, and the first is wanted.
                let mut effort = Effort::ONE_NAME;
                let rules = self.allow.iter().rev();
                let nearest = rules.max_by_key(|rule| rule.reach(path, &mut effort));
                Verdict::Refused { policy: name, nearest: nearest.map(|rule| rule.as_str()) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{super::Rule, *};

    /// Root is `root`, `gate` is a TLS proxy; `app` has three patterns, `idle` none, `new` rules of the newest
    /// generation, the policy of `lost` is gone.
    fn policies() -> Policies {
        let mut builder = Policies::builder("root", &["gate".into()]);
        let paths = ["/v1/key/create/app-*", "/v1/key/delete/app-*", "/v1/log/*"];
        let allow = paths.map(|path| Rule::glob(path).unwrap()).to_vec();
        builder.define(&"apps".into(), Arc::new(Policy { allow, deny: Vec::new() }));
        builder.define(&"none".into(), Arc::default());
        let rules = |rules: [&str; 2]| rules.map(Rule::prefix).to_vec();
        let allow = rules(["/v1/key/*", "/version"]);
        let deny = rules(["/v1/key/delete/*", "/v1/key/create/app"]);
        builder.define(&"newest".into(), Arc::new(Policy { allow, deny }));
        for (policy, identity) in
            [("apps", "app"), ("none", "idle"), ("newest", "new"), ("gone", "lost")]
        {
            builder.assign(&policy.into(), identity).unwrap();
        }
        builder.build()
    }

    #[test]
    fn the_verdict_is_that_of_the_server() {
        let policies = policies();
        for identity in ["root", "gate", "app", "idle", "new", "lost", "stranger", ""] {
            for path in
                ["", "/", "/version", "/v1/key/create/app-1", "/v1/key/delete/a", "/v1/log/a/b"]
            {
                let verdict = policies.why(identity, path);
                let allowed = policies.allows(identity, path);
                assert_eq!(allowed, verdict.is_allowed(), "{identity} {path}: {verdict}");
                let word = if allowed { "allowed: " } else { "refused: " };
                assert!(verdict.to_string().starts_with(word), "{verdict}");
            }
        }
    }

    #[test]
    fn each_reason_is_told() {
        let policies = policies();
        for (identity, path, text) in [
            ("root", "/x", "allowed: the identity is root"),
            ("", "/x", "refused: the client has no identity"),
            ("gate", "/x", "refused: the identity is a TLS proxy, which has no rights of its own"),
            ("stranger", "/x", "refused: the identity is assigned to no policy"),
            ("lost", "/x", "refused: policy \"gone\" does not exist"),
            (
                "app",
                "/v1/key/delete/app-1",
                "allowed: policy \"apps\" has the path \"/v1/key/delete/app-*\"",
            ),
            (
                "app",
                "/v1/key/delete/other",
                "refused: no path of policy \"apps\" matches, the nearest is \
                 \"/v1/key/delete/app-*\"",
            ),
            ("idle", "/x", "refused: policy \"none\" has no paths"),
            (
                "new",
                "/v1/key/create/app-1",
                "allowed: policy \"newest\" has the path \"/v1/key/*\"",
            ),
            (
                "new",
                "/v1/key/create/app",
                "refused: policy \"newest\" denies the path \"/v1/key/create/app\"",
            ),
            (
                "new",
                "/v1/key/delete/a/b",
                "refused: policy \"newest\" denies the path \"/v1/key/delete/*\"",
            ),
            (
                "new",
                "/v1/keys",
                "refused: no path of policy \"newest\" matches, the nearest is \"/v1/key/*\"",
            ),
        ] {
            assert_eq!(text, policies.why(identity, path).to_string());
        }
    }

    #[test]
    fn the_nearest_pattern_is_the_one_that_follows_the_path_longest() {
        let policies = policies();
        for (path, wanted) in [
            ("/v1/key/create/other", "/v1/key/create/app-*"),
            ("/v1/key/create/app-1/2", "/v1/key/create/app-*"),
            ("/v1/key/decrypt/app-1", "/v1/key/delete/app-*"),
            ("/v1/log/audit/trace", "/v1/log/*"),
            ("/v1/policy/list/a", "/v1/key/create/app-*"),
            ("", "/v1/key/create/app-*"),
        ] {
            let Verdict::Refused { nearest, .. } = policies.why("app", path) else {
                panic!("{path} is allowed");
            };
            assert_eq!(Some(wanted), nearest, "{path}");
        }
    }
}
