//! The API as a table: what is served, how, in which generations, and by which handler.

use std::{borrow::Cow, time::Duration};

use super::{
    call::{Call, Outcome},
    failure::Failure,
    identity, key, policy, status, trace,
};
use crate::{base::generation::Generation, config::ApiOptions, http::Method};

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
    /// A pattern of names; none means all.
    Pattern,
}

/// Who may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Any client that completes the handshake.
    Anyone,
    /// Any client with a certificate.
    Certificate,
    /// Clients whose policy allows the path.
    Policy,
}

/// The generations that serve an API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// All.
    Both,
    /// 0.14 only: newer generations change no policies while they run.
    V0_14,
}

/// A value for each generation: of 0.14 and of the newest.
pub type Each<T> = [T; 2];

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
    /// The generations that serve it.
    pub served: Served,
    /// The largest body in bytes; 0 if a body is ignored.
    pub max_body: Each<usize>,
    /// How long the answer may take; zero if it goes on until either side ends it.
    pub timeout: Each<Duration>,
    /// Who may call.
    pub access: Access,
    /// What it does.
    pub handler: fn(&Call<'_>) -> Result<Outcome, Failure>,
}

const METRICS: &str = "/v1/metrics";
const IMPORT: &str = "/v1/key/import/";
/// Documented with POST in 0.14, called with GET: both are accepted there.
/// Its answers come in pages.
pub const KEY_LIST: &str = "/v1/key/list/";
const POLICY_LIST: &str = "/v1/policy/list/";
/// Paths of generations between the two that are served by neither: 501 tells clients to do without.
const NOT_SERVED: [&str; 3] = ["/v1/enclave/", "/v1/secret/", "/v1/sys/"];

const MB: usize = 1_000_000;
const MIB: usize = 1 << 20;
const NONE: Each<usize> = [0, 0];
const BODY: Each<usize> = [MIB, MB];
/// Up to 1000 ciphertexts at once, in the size that their clients were made for.
const BULK: Each<usize> = [MIB, MIB];
const HALF: Each<usize> = [MIB / 2, MB];

const SHORT: Each<Duration> = [Duration::from_secs(10), Duration::from_secs(10)];
const LONGER: Each<Duration> = [Duration::from_secs(10), Duration::from_secs(15)];
const LONG: Each<Duration> = [Duration::from_secs(15), Duration::from_secs(15)];
const ENDLESS: Each<Duration> = [Duration::ZERO, Duration::ZERO];

/// Everything that is served.
#[rustfmt::skip]
pub static ROUTES: &[Route] = &[
    Route { method: Method::Get, path: "/version", pattern: "/version", argument: Argument::None, served: Served::Both, max_body: NONE, timeout: SHORT, access: Access::Anyone, handler: status::version },
    Route { method: Method::Post, path: "/v1/key/create/", pattern: "/v1/key/create/*", argument: Argument::KeyName, served: Served::Both, max_body: NONE, timeout: LONG, access: Access::Policy, handler: key::create },
    Route { method: Method::Post, path: IMPORT, pattern: "/v1/key/import/*", argument: Argument::KeyName, served: Served::Both, max_body: BODY, timeout: LONG, access: Access::Policy, handler: key::import },
    Route { method: Method::Delete, path: "/v1/key/delete/", pattern: "/v1/key/delete/*", argument: Argument::KeyName, served: Served::Both, max_body: NONE, timeout: LONG, access: Access::Policy, handler: key::delete },
    Route { method: Method::Post, path: "/v1/key/generate/", pattern: "/v1/key/generate/*", argument: Argument::KeyName, served: Served::Both, max_body: BODY, timeout: LONG, access: Access::Policy, handler: key::generate },
    Route { method: Method::Post, path: "/v1/key/encrypt/", pattern: "/v1/key/encrypt/*", argument: Argument::KeyName, served: Served::Both, max_body: HALF, timeout: LONG, access: Access::Policy, handler: key::encrypt },
    Route { method: Method::Post, path: "/v1/key/decrypt/", pattern: "/v1/key/decrypt/*", argument: Argument::KeyName, served: Served::Both, max_body: BODY, timeout: LONG, access: Access::Policy, handler: key::decrypt },
    Route { method: Method::Post, path: "/v1/key/bulk/decrypt/", pattern: "/v1/key/bulk/decrypt/*", argument: Argument::KeyName, served: Served::Both, max_body: BULK, timeout: LONG, access: Access::Policy, handler: key::decrypt_all },
    Route { method: Method::Post, path: "/v1/key/hmac/", pattern: "/v1/key/hmac/*", argument: Argument::KeyName, served: Served::Both, max_body: BODY, timeout: LONG, access: Access::Policy, handler: key::hmac },
    Route { method: Method::Get, path: "/v1/key/describe/", pattern: "/v1/key/describe/*", argument: Argument::KeyName, served: Served::Both, max_body: NONE, timeout: LONG, access: Access::Policy, handler: key::describe },
    Route { method: Method::Get, path: KEY_LIST, pattern: "/v1/key/list/*", argument: Argument::Pattern, served: Served::Both, max_body: NONE, timeout: LONG, access: Access::Policy, handler: key::list },
    Route { method: Method::Get, path: "/v1/policy/describe/", pattern: "/v1/policy/describe/*", argument: Argument::PolicyName, served: Served::Both, max_body: NONE, timeout: LONGER, access: Access::Policy, handler: policy::describe },
    Route { method: Method::Get, path: "/v1/policy/read/", pattern: "/v1/policy/read/*", argument: Argument::PolicyName, served: Served::Both, max_body: NONE, timeout: LONGER, access: Access::Policy, handler: policy::read },
    Route { method: Method::Get, path: POLICY_LIST, pattern: "/v1/policy/list/*", argument: Argument::Pattern, served: Served::Both, max_body: NONE, timeout: LONGER, access: Access::Policy, handler: policy::list },
    Route { method: Method::Post, path: "/v1/policy/write/", pattern: "/v1/policy/write/*", argument: Argument::PolicyName, served: Served::V0_14, max_body: BODY, timeout: SHORT, access: Access::Policy, handler: policy::write },
    Route { method: Method::Delete, path: "/v1/policy/delete/", pattern: "/v1/policy/delete/*", argument: Argument::PolicyName, served: Served::V0_14, max_body: NONE, timeout: SHORT, access: Access::Policy, handler: policy::delete },
    Route { method: Method::Post, path: "/v1/policy/assign/", pattern: "/v1/policy/assign/*", argument: Argument::PolicyName, served: Served::V0_14, max_body: BODY, timeout: SHORT, access: Access::Policy, handler: policy::assign },
    Route { method: Method::Get, path: "/v1/identity/self/describe", pattern: "/v1/identity/self/describe", argument: Argument::None, served: Served::Both, max_body: NONE, timeout: LONGER, access: Access::Certificate, handler: identity::describe_self },
    Route { method: Method::Get, path: "/v1/identity/describe/", pattern: "/v1/identity/describe/*", argument: Argument::Identity, served: Served::Both, max_body: NONE, timeout: LONGER, access: Access::Policy, handler: identity::describe },
    Route { method: Method::Get, path: "/v1/identity/list/", pattern: "/v1/identity/list/*", argument: Argument::Pattern, served: Served::Both, max_body: NONE, timeout: LONGER, access: Access::Policy, handler: identity::list },
    Route { method: Method::Post, path: "/v1/identity/assign/", pattern: "/v1/identity/assign/*/*", argument: Argument::PolicyAndIdentity, served: Served::V0_14, max_body: NONE, timeout: SHORT, access: Access::Policy, handler: identity::assign },
    Route { method: Method::Delete, path: "/v1/identity/forget/", pattern: "/v1/identity/forget/*", argument: Argument::Identity, served: Served::V0_14, max_body: NONE, timeout: SHORT, access: Access::Policy, handler: identity::forget },
    Route { method: Method::Delete, path: "/v1/identity/delete/", pattern: "/v1/identity/delete/*", argument: Argument::Identity, served: Served::V0_14, max_body: NONE, timeout: SHORT, access: Access::Policy, handler: identity::forget },
    Route { method: Method::Get, path: "/v1/log/audit", pattern: "/v1/log/audit", argument: Argument::None, served: Served::Both, max_body: NONE, timeout: ENDLESS, access: Access::Policy, handler: trace::audit },
    Route { method: Method::Get, path: "/v1/log/error", pattern: "/v1/log/error", argument: Argument::None, served: Served::Both, max_body: NONE, timeout: ENDLESS, access: Access::Policy, handler: trace::error },
    Route { method: Method::Get, path: "/v1/log/audit/trace", pattern: "/v1/log/audit/trace", argument: Argument::None, served: Served::Both, max_body: NONE, timeout: ENDLESS, access: Access::Policy, handler: trace::audit },
    Route { method: Method::Get, path: "/v1/log/error/trace", pattern: "/v1/log/error/trace", argument: Argument::None, served: Served::Both, max_body: NONE, timeout: ENDLESS, access: Access::Policy, handler: trace::error },
    Route { method: Method::Get, path: "/v1/log/log/error/trace", pattern: "/v1/log/log/error/trace", argument: Argument::None, served: Served::Both, max_body: NONE, timeout: ENDLESS, access: Access::Policy, handler: trace::error },
    Route { method: Method::Get, path: METRICS, pattern: METRICS, argument: Argument::None, served: Served::Both, max_body: NONE, timeout: LONGER, access: Access::Policy, handler: status::metrics },
    Route { method: Method::Get, path: "/v1/status", pattern: "/v1/status", argument: Argument::None, served: Served::Both, max_body: NONE, timeout: LONG, access: Access::Policy, handler: status::status },
    Route { method: Method::Get, path: "/v1/ready", pattern: "/v1/ready", argument: Argument::None, served: Served::Both, max_body: NONE, timeout: LONG, access: Access::Policy, handler: status::ready },
    Route { method: Method::Get, path: "/v1/api", pattern: "/v1/api", argument: Argument::None, served: Served::Both, max_body: NONE, timeout: SHORT, access: Access::Policy, handler: |_| Ok(Outcome::Routes) },
];

/// The route that serves `path` in `generation`: an exact path, or a prefix with its argument. A prefix
/// without its trailing slash counts as one with an empty argument.
pub fn find(path: &str, generation: Generation) -> Option<&'static Route> {
    ROUTES.iter().filter(|route| route.is_served(generation)).find(|route| match route.argument {
        Argument::None => path == route.path,
        _ => path.starts_with(route.path) || route.path.strip_suffix('/') == Some(path),
    })
}

/// Whether a generation between the two served `path`.
pub fn is_of_another_generation(path: &str) -> bool {
    NOT_SERVED.iter().any(|prefix| path.starts_with(prefix))
}

/// What is served in `generation`, with the settings in `apis`, as JSON.
pub fn as_json(generation: Generation, apis: &[(String, ApiOptions)]) -> String {
    let served = ROUTES.iter().filter(|route| route.is_served(generation));
    let rows: Vec<_> = served
        .map(|route| {
            format!(
                r#"{{"method":"{}","path":"{}","max_body":{},"timeout":{}}}"#,
                route.method_name(generation),
                route.path,
                route.max_body(generation),
                // 0 would mean that there is none.
                route.timeout(generation, apis).as_millis().div_ceil(1000),
            )
        })
        .collect();
    format!("[{}]\n", rows.join(","))
}

impl Route {
    /// Whether it is served in `generation`.
    pub fn is_served(&self, generation: Generation) -> bool {
        self.served == Served::Both || generation == Generation::V0_14
    }

    /// Whether `path` is one that 0.14 takes: the path of the route with as many more elements as it takes
    /// arguments. The newest generation takes all that follows for the argument.
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

    /// What the configuration says of it.
    fn options<'o>(&self, apis: &'o [(String, ApiOptions)]) -> Option<&'o ApiOptions> {
        let short = self.path.strip_suffix('/').unwrap_or(self.path);
        let of = |path| apis.iter().find(|(known, _)| known == path);
        of(self.path).or_else(|| of(short)).map(|(_, options)| options)
    }

    /// How long the answer may take; zero if it goes on until either side ends it.
    pub fn timeout(&self, generation: Generation, apis: &[(String, ApiOptions)]) -> Duration {
        let timeout = self.timeout[generation as usize];
        match self.options(apis).and_then(|options| options.timeout) {
            Some(other) if !self.is_endless() && !other.is_zero() => other,
            _ => timeout,
        }
    }

    /// Who may call it.
    pub fn access(&self, apis: &[(String, ApiOptions)]) -> Access {
        match self.options(apis) {
            Some(options) if options.skip_auth => Access::Anyone,
            _ => self.access,
        }
    }

    /// The largest body in bytes; 0 if a body is ignored.
    pub fn max_body(&self, generation: Generation) -> usize {
        self.max_body[generation as usize]
    }

    /// Whether its answer goes on until either side ends it.
    pub fn is_endless(&self) -> bool {
        self.timeout == ENDLESS
    }

    /// Whether its requests are counted: in 0.14 all but those that ask for the counts.
    pub fn is_metered(&self, generation: Generation) -> bool {
        match generation {
            Generation::V0_14 => self.path != METRICS,
            Generation::Newest => {
                self.argument != Argument::None || self.access == Access::Certificate
            }
        }
    }

    /// Whether its requests count for the limits of their identity: all but those that show how the server is.
    pub fn is_limited(&self) -> bool {
        !matches!(self.path, "/version" | "/v1/status" | "/v1/ready" | "/v1/api" | METRICS)
    }

    /// Whether what it answers may be a key or what was sealed under one.
    pub fn answers_with_keys(&self) -> bool {
        self.path.starts_with("/v1/key/")
    }

    /// The failure of a request whose body is wrong or cut off.
    pub fn invalid_body(&self) -> Failure {
        match self.path {
            IMPORT => Failure::InvalidImport,
            _ => Failure::InvalidJson,
        }
    }

    /// The method that `generation` names in its place.
    pub fn method_name(&self, generation: Generation) -> &'static str {
        match (self.method, generation) {
            (Method::Post, Generation::Newest) => Method::Put.name(),
            (method, _) => method.name(),
        }
    }

    /// Whether a request with `method` is for this route.
    pub fn accepts(&self, method: Method, generation: Generation) -> bool {
        let takes_post = self.method == Method::Post
            || self.path == POLICY_LIST && generation == Generation::V0_14;
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
        for generation in [Generation::V0_14, Generation::Newest] {
            let find = |path| find(path, generation);
            assert_eq!("/v1/key/create/", find("/v1/key/create").expect("it is served").path);
            assert!(find("/v1/key/creat").is_none());
            assert!(find("/v1/key/created").is_none());
            assert!(find("/version/").is_none());
            assert_eq!("/v1/log/audit", find("/v1/log/audit").expect("it is served").path);
            let old = ["/v1/policy/write/a", "/v1/identity/assign/a/b", "/v1/policy/delete/a"];
            for path in old {
                assert_eq!(generation == Generation::V0_14, find(path).is_some(), "{path}");
            }
        }
    }

    #[test]
    fn settings_of_an_api_are_found_with_and_without_its_trailing_slash() {
        let create = find("/v1/key/create/a", Generation::Newest).expect("it is served");
        for path in ["/v1/key/create/", "/v1/key/create"] {
            let timeout = Some(Duration::from_secs(3));
            let options = ApiOptions { skip_auth: true, timeout };
            let apis = [(path.to_owned(), options)];
            assert_eq!(Access::Anyone, create.access(&apis));
            assert_eq!(timeout, Some(create.timeout(Generation::Newest, &apis)));
        }
        assert_eq!(Access::Policy, create.access(&[]));
    }
}
