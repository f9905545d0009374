//! The API as a table: what is served, how, and by which handler.

use std::{borrow::Cow, time::Duration};

use super::{
    call::{Call, Outcome},
    failure::Failure,
    identity, key, policy, status, trace,
};
use crate::http::Method;

/// What the last element of a path means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Argument {
    /// The path has none.
    None,
    /// The name of a key.
    KeyName,
    /// The name of a policy.
    PolicyName,
    /// Two elements: the name of a policy and an identity.
    PolicyAndIdentity,
    /// An identity.
    Identity,
    /// A glob pattern; none means `*`.
    Pattern,
}

/// Who may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Any client that completes the handshake.
    Anyone,
    /// Clients whose policy allows the path.
    Policy,
}

/// One API.
pub struct Route {
    /// The method. `PUT` is accepted where this says `POST`.
    pub method: Method,
    /// The path, up to and including the slash before the argument.
    pub path: &'static str,
    /// The pattern that the whole path must match.
    pub pattern: &'static str,
    /// What follows `path`.
    pub argument: Argument,
    /// The largest body in bytes; 0 if a body is ignored.
    pub max_body: usize,
    /// How long the answer may take; zero if it goes on until either side ends it.
    pub timeout: Duration,
    /// Who may call.
    pub access: Access,
    /// What it does.
    pub handler: fn(&Call<'_>) -> Result<Outcome, Failure>,
}

const METRICS: &str = "/v1/metrics";
/// Documented with POST, called with GET: both are accepted.
const POLICY_LIST: &str = "/v1/policy/list/";
const MIB: usize = 1 << 20;
const SHORT: Duration = Duration::from_secs(10);
const LONG: Duration = Duration::from_secs(15);
const ENDLESS: Duration = Duration::ZERO;

/// Everything that is served.
#[rustfmt::skip]
pub static ROUTES: &[Route] = &[
    Route { method: Method::Get, path: "/version", pattern: "/version", argument: Argument::None, max_body: 0, timeout: SHORT, access: Access::Anyone, handler: status::version },
    Route { method: Method::Post, path: "/v1/key/create/", pattern: "/v1/key/create/*", argument: Argument::KeyName, max_body: 0, timeout: LONG, access: Access::Policy, handler: key::create },
    Route { method: Method::Post, path: "/v1/key/import/", pattern: "/v1/key/import/*", argument: Argument::KeyName, max_body: MIB, timeout: LONG, access: Access::Policy, handler: key::import },
    Route { method: Method::Delete, path: "/v1/key/delete/", pattern: "/v1/key/delete/*", argument: Argument::KeyName, max_body: 0, timeout: LONG, access: Access::Policy, handler: key::delete },
    Route { method: Method::Post, path: "/v1/key/generate/", pattern: "/v1/key/generate/*", argument: Argument::KeyName, max_body: MIB, timeout: LONG, access: Access::Policy, handler: key::generate },
    Route { method: Method::Post, path: "/v1/key/encrypt/", pattern: "/v1/key/encrypt/*", argument: Argument::KeyName, max_body: MIB / 2, timeout: LONG, access: Access::Policy, handler: key::encrypt },
    Route { method: Method::Post, path: "/v1/key/decrypt/", pattern: "/v1/key/decrypt/*", argument: Argument::KeyName, max_body: MIB, timeout: LONG, access: Access::Policy, handler: key::decrypt },
    Route { method: Method::Get, path: "/v1/key/list/", pattern: "/v1/key/list/*", argument: Argument::Pattern, max_body: 0, timeout: LONG, access: Access::Policy, handler: key::list },
    Route { method: Method::Post, path: "/v1/policy/write/", pattern: "/v1/policy/write/*", argument: Argument::PolicyName, max_body: MIB, timeout: SHORT, access: Access::Policy, handler: policy::write },
    Route { method: Method::Get, path: "/v1/policy/read/", pattern: "/v1/policy/read/*", argument: Argument::PolicyName, max_body: 0, timeout: SHORT, access: Access::Policy, handler: policy::read },
    Route { method: Method::Get, path: POLICY_LIST, pattern: "/v1/policy/list/*", argument: Argument::Pattern, max_body: 0, timeout: SHORT, access: Access::Policy, handler: policy::list },
    Route { method: Method::Delete, path: "/v1/policy/delete/", pattern: "/v1/policy/delete/*", argument: Argument::PolicyName, max_body: 0, timeout: SHORT, access: Access::Policy, handler: policy::delete },
    Route { method: Method::Post, path: "/v1/identity/assign/", pattern: "/v1/identity/assign/*/*", argument: Argument::PolicyAndIdentity, max_body: 0, timeout: SHORT, access: Access::Policy, handler: identity::assign },
    Route { method: Method::Get, path: "/v1/identity/list/", pattern: "/v1/identity/list/*", argument: Argument::Pattern, max_body: 0, timeout: SHORT, access: Access::Policy, handler: identity::list },
    Route { method: Method::Delete, path: "/v1/identity/forget/", pattern: "/v1/identity/forget/*", argument: Argument::Identity, max_body: 0, timeout: SHORT, access: Access::Policy, handler: identity::forget },
    Route { method: Method::Get, path: "/v1/log/audit/trace", pattern: "/v1/log/audit/trace", argument: Argument::None, max_body: 0, timeout: ENDLESS, access: Access::Policy, handler: trace::audit },
    Route { method: Method::Get, path: "/v1/log/error/trace", pattern: "/v1/log/error/trace", argument: Argument::None, max_body: 0, timeout: ENDLESS, access: Access::Policy, handler: trace::error },
    Route { method: Method::Get, path: "/v1/log/log/error/trace", pattern: "/v1/log/log/error/trace", argument: Argument::None, max_body: 0, timeout: ENDLESS, access: Access::Policy, handler: trace::error },
    Route { method: Method::Get, path: METRICS, pattern: METRICS, argument: Argument::None, max_body: 0, timeout: SHORT, access: Access::Policy, handler: status::metrics },
];

/// The route that serves `path`: an exact path, or a prefix with its argument. A prefix without its
/// trailing slash counts as one with an empty argument.
pub fn find(path: &str) -> Option<&'static Route> {
    ROUTES.iter().find(|route| match route.argument {
        Argument::None => path == route.path,
        _ => path.starts_with(route.path) || route.path.strip_suffix('/') == Some(path),
    })
}

impl Route {
    /// Whether `path` matches the pattern, which is the path of the route with as many more elements
    /// as it takes arguments.
    pub fn matches(&self, path: &str) -> bool {
        let Some(rest) = path.strip_prefix(self.path) else {
            return false;
        };
        match self.argument {
            Argument::None => rest.is_empty(),
            Argument::PolicyAndIdentity => rest.bytes().filter(|c| *c == b'/').count() == 1,
            _ => !rest.contains('/'),
        }
    }

    /// `path` with the trailing slash that it lacks if its argument is empty. Policies see it like
    /// this, too.
    pub fn slashed<'p>(&self, path: &'p str) -> Cow<'p, str> {
        match path.len() < self.path.len() {
            true => Cow::Owned(format!("{path}/")),
            false => Cow::Borrowed(path),
        }
    }

    /// Whether its answer goes on until either side ends it.
    pub fn is_endless(&self) -> bool {
        self.timeout == ENDLESS
    }

    /// Whether its requests are counted: all but those that ask for the counts.
    pub fn is_metered(&self) -> bool {
        self.path != METRICS
    }

    /// Whether what it answers may be a key or what was sealed under one.
    pub fn answers_with_keys(&self) -> bool {
        self.path.starts_with("/v1/key/")
    }

    /// Whether a request with `method` is for this route.
    pub fn accepts(&self, method: Method) -> bool {
        let takes_post = self.method == Method::Post || self.path == POLICY_LIST;
        method == self.method || (takes_post && matches!(method, Method::Post | Method::Put))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matching_is_what_the_pattern_says() {
        for route in ROUTES {
            for end in ["", "a", "*", "[", "a/b", "/", "a/", "/a", "a/b/c", "a//"] {
                let path = format!("{}{end}", route.path);
                let by_pattern = crate::base::glob::matches(route.pattern, &path);
                assert_eq!(by_pattern, route.matches(&path), "{path}");
            }
        }
    }

    #[test]
    fn a_missing_trailing_slash_still_finds_the_route() {
        assert_eq!("/v1/key/create/", find("/v1/key/create").expect("it is served").path);
        assert!(find("/v1/key/creat").is_none());
        assert!(find("/v1/key/created").is_none());
        assert!(find("/version/").is_none());
    }
}
