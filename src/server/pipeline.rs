//! One request from its head to what its handler makes of it, in the order of `api.md` 1.3.

use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, Instant},
};

use rustls_pki_types::{CertificateDer, UnixTime};

use super::{
    Server, State,
    connection::Address,
    exchange::Exchange,
    failure::{Failure, Task},
    peer::Peer,
    proxy::{Client, Forwarded},
    routes::{self, Access, Argument, Route},
};
use crate::{
    cache::Lookup,
    crypto::{MasterKey, stored},
    deadline::Deadline,
    glob::{Effort, Pattern},
    http::{
        Method,
        head::{Head, clean, is_clean},
        reply::Reply,
    },
    keystore::{self, KeyName},
    log::{Cause, Stream},
    policy::Policies,
};

/// The longest pattern of a list, in bytes.
const MAX_PATTERN: usize = 4096;

/// What a handler sees of a request.
pub(super) struct Call<'a> {
    /// The server that was asked.
    pub(super) server: &'a Server,
    /// Who asks.
    pub(super) identity: &'a str,
    /// The whole path, decoded.
    pub(super) path: &'a str,
    /// What follows the path of the route, decoded; empty if there is nothing.
    pub(super) argument: &'a str,
    /// The whole body; empty if the route takes none.
    pub(super) body: &'a [u8],
}

impl Call<'_> {
    /// The argument as the name of a key.
    pub(super) fn key_name(&self) -> Result<KeyName> {
        KeyName::parse(self.argument).ok_or(Failure::InvalidKeyName)
    }

    /// The argument as the pattern of a list; `None` is one that matches nothing.
    pub(super) fn pattern(&self) -> Option<Pattern> {
        let pattern = match self.argument {
            "" => "*",
            pattern => pattern,
        };
        // A malformed pattern matches nothing, and no name is so long that it takes a longer one.
        Some(pattern)
            .filter(|pattern| pattern.len() <= MAX_PATTERN)
            .and_then(|pattern| Pattern::parse(pattern).ok())
    }

    /// Those of `names` that the argument matches as a pattern.
    pub(super) fn select<'n>(&self, names: impl Iterator<Item = &'n str>) -> Result<Vec<&'n str>> {
        select(self.pattern().as_ref(), names.collect())
    }

    /// Changes the policies, if the caller still may: its right may have ended while its body came
    /// in.
    pub(super) fn change_policies(
        &self,
        change: impl FnOnce(&mut Policies) -> Result<()>,
    ) -> Result<Outcome> {
        let server = self.server;
        server.change_state(|state| {
            if !state.policies.allows(self.identity, self.path) {
                return Err(server.prohibit(&state.policies, self.identity, self.path));
            }
            change(&mut state.policies)
        })?;
        Ok(Outcome::Done(Reply::empty()))
    }
}

/// Those of `names` that `pattern` matches; `None` matches nothing.
pub(super) fn select<'n>(
    pattern: Option<&Pattern>,
    mut names: Vec<&'n str>,
) -> Result<Vec<&'n str>> {
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

/// The key store has to answer this long before the client does not wait any more, so that it hears
/// what went wrong and not that it took too long.
const HEAD_START: Duration = Duration::from_millis(500);

type Result<T> = std::result::Result<T, Failure>;
type KeyUse = Box<dyn FnOnce(&MasterKey) -> Result<Reply> + Send>;
type StoreUse = Box<dyn FnOnce(&Server, Deadline) -> Result<Reply> + Send>;

/// What a handler wants to happen.
pub(super) enum Outcome {
    /// This is the answer.
    Done(Reply),
    /// Get this key, from the cache if it is there, and do this with it.
    Key(KeyName, KeyUse),
    /// Do this on a key store thread.
    Store(StoreUse),
    /// Answer with these events as they come.
    Stream(Stream),
}

/// What came of running a handler.
pub(super) enum Progress {
    /// This is the answer.
    Done(Result<Reply>),
    /// The answer comes later.
    Later,
    /// The answer is this stream.
    Stream(Stream),
}

impl Outcome {
    pub(super) fn key(
        name: KeyName,
        then: impl FnOnce(&MasterKey) -> Result<Reply> + Send + 'static,
    ) -> Self {
        Self::Key(name, Box::new(then))
    }

    pub(super) fn store(
        job: impl FnOnce(&Server, Deadline) -> Result<Reply> + Send + 'static,
    ) -> Self {
        Self::Store(Box::new(job))
    }
}

/// A request that waits for a key which somebody is fetching.
pub(super) struct Waiter {
    address: Address,
    then: KeyUse,
}

/// What to do with a request whose head was read.
pub(super) enum Admission {
    /// It may go on: its body can be at most so long (0: it is ignored).
    Granted(Exchange, usize),
    /// Its answer is known.
    Refused(Exchange, Failure),
    /// Its path is not in its shortest form; the reply says so and is not audited.
    Redirect(Reply),
}

impl Server {
    /// Checks a request head: route, method, path, TLS proxy, identity, policy.
    pub(super) fn admit(
        &self,
        state: &State,
        client: &Client<'_>,
        head: &mut Head,
        now: Instant,
    ) -> Admission {
        if !is_clean(&head.path) && !names_a_dot(&head.path) {
            let cleaned = clean(&head.path);
            let query = head
                .query
                .as_ref()
                .map(|query| format!("?{query}"))
                .unwrap_or_default();
            return Admission::Redirect(Failure::Moved(escape(&cleaned) + &query).reply());
        }
        let route = routes::find(&head.path);
        let path = std::mem::take(&mut head.path);
        let exchange = Exchange::begin(self, route, path, client.peer.identity(), now);
        match check(self, state, client, head.method, &exchange.path, route) {
            Ok(route) => Admission::Granted(exchange, route.max_body),
            Err(failure) => Admission::Refused(exchange, failure),
        }
    }

    /// Whether a client whose request to `path` was admitted some time ago would be admitted now.
    pub(super) fn may_stay(
        &self,
        peer: &mut Peer,
        chain: &[CertificateDer<'_>],
        forwarded: &mut Option<Box<Forwarded>>,
        identity: &str,
        path: &str,
        now: UnixTime,
    ) -> bool {
        let state = self.state();
        peer.is_still_trusted(&state, chain, now)
            && state.still_speaks_for(peer, forwarded, now)
            && state.policies.allows(identity, path)
    }

    /// Runs the handler of a request that was admitted and whose body is complete.
    ///
    /// An answer that comes later goes to `address`.
    pub(super) fn run(
        &self,
        exchange: &Exchange,
        body: &[u8],
        address: impl FnOnce() -> Address,
    ) -> Progress {
        let Some(route) = exchange.route else {
            return Progress::Done(Err(Failure::NoSuchPath));
        };
        let path = slashed(&exchange.path, route);
        let argument = match route.argument {
            Argument::None => "",
            _ => path.strip_prefix(route.path).unwrap_or_default(),
        };
        let call = Call {
            server: self,
            identity: &exchange.identity,
            path: &path,
            argument,
            body,
        };
        let outcome = match (route.handler)(&call) {
            Ok(outcome) => outcome,
            Err(failure) => return Progress::Done(Err(failure)),
        };
        match outcome {
            Outcome::Done(reply) => Progress::Done(Ok(reply)),
            Outcome::Stream(stream) => Progress::Stream(stream),
            Outcome::Key(name, then) => {
                let result = self.with_key(exchange, &name, then, address);
                result.map_or(Progress::Later, Progress::Done)
            }
            Outcome::Store(job) => {
                let Some(permit) = self.pool.reserve() else {
                    return Progress::Done(Err(Failure::Overloaded));
                };
                let (server, address) = (self.me(), address());
                let deadline = exchange.deadline.earlier(HEAD_START);
                permit.submit(move || {
                    if let Some(server) = server.upgrade() {
                        let result = match deadline.has_passed(Instant::now()) {
                            true => Err(Failure::Timeout),
                            false => job(&server, deadline),
                        };
                        address.deliver(&server, result);
                    }
                });
                Progress::Later
            }
        }
    }

    /// `None` if the answer comes later, to `address`.
    fn with_key(
        &self,
        exchange: &Exchange,
        name: &KeyName,
        then: KeyUse,
        address: impl FnOnce() -> Address,
    ) -> Option<Result<Reply>> {
        // The cache knows seconds; when the request came is near enough.
        let now = exchange.arrived;
        if let Some(key) = self.cache.get(name, now) {
            return Some(then(&key));
        }
        let Some(permit) = self.pool.reserve() else {
            return Some(Err(Failure::Overloaded));
        };
        let waiter = Waiter {
            address: address(),
            then,
        };
        let ticket = match self.cache.get_or_wait(name, waiter, now) {
            Lookup::Hit(key, waiter) => return Some((waiter.then)(&key)),
            Lookup::Waiting => return None,
            Lookup::Fetch(ticket) => ticket,
        };
        let (server, name) = (self.me(), name.clone());
        let deadline = exchange.deadline.earlier(HEAD_START);
        permit.submit(move || {
            let Some(server) = server.upgrade() else {
                return;
            };
            let fetched = server.fetch(&name, deadline);
            let waiters =
                server
                    .cache
                    .complete(ticket, fetched.as_ref().ok().cloned(), Instant::now());
            for Waiter { address, then } in waiters {
                let result = match &fetched {
                    Ok(key) => then(key),
                    Err(failure) => Err(failure.clone()),
                };
                address.deliver(&server, result);
            }
        });
        None
    }

    fn fetch(&self, name: &KeyName, deadline: Deadline) -> Result<Arc<MasterKey>> {
        let value = self
            .store
            .get(name, deadline)
            .map_err(|e| self.key_store_failure(&e, Task::Access, Some(name)))?;
        let key = stored::decode(value.expose()).map_err(|e| {
            self.log.error_from_outside(Cause::Failure, || {
                format!("the stored value of key {:?} is no key: {e}", name.as_str())
            });
            Failure::KeyStore(Task::Access)
        })?;
        Ok(Arc::new(key))
    }

    /// The failure that a client gets for `error`; the cause goes to the error log.
    pub(super) fn key_store_failure(
        &self,
        error: &keystore::Error,
        task: Task,
        name: Option<&KeyName>,
    ) -> Failure {
        let failure = Failure::from_key_store(error, task);
        if matches!(failure, Failure::Sealed) {
            self.health.hurry();
        }
        if matches!(failure, Failure::KeyStore(_) | Failure::Sealed) {
            self.log.error_from_outside(Cause::Failure, || match name {
                Some(name) => format!("key {:?}: {error}", name.as_str()),
                None => error.to_string(),
            });
        }
        failure
    }
}

/// The checks before the body, in their order.
fn check(
    server: &Server,
    state: &State,
    client: &Client<'_>,
    method: Method,
    path: &str,
    route: Option<&'static Route>,
) -> Result<&'static Route> {
    let Some(route) = route else {
        client.check()?;
        return Err(Failure::NoSuchPath);
    };
    if !route.accepts(method) {
        return Err(Failure::MethodNotAllowed(route.method));
    }
    let path = &*slashed(path, route);
    if !route.matches(path) {
        return Err(Failure::PathMismatch(route.pattern));
    }
    client.check()?;
    if route.access == Access::Policy {
        if client.peer.has_several_identities() {
            return Err(Failure::TooManyIdentities);
        }
        let identity = client.peer.identity();
        if !state.policies.allows(identity, path) {
            return Err(server.prohibit(&state.policies, identity, path));
        }
    }
    Ok(route)
}

/// `path` with the trailing slash that it lacks if its argument is empty. So it is for the policy, too.
fn slashed<'p>(path: &'p str, route: &Route) -> Cow<'p, str> {
    match path.len() < route.path.len() {
        true => Cow::Owned(format!("{path}/")),
        false => Cow::Borrowed(path),
    }
}

/// Whether `path` is an API with `.` or `..` in the place of a name: that is a wrong name, not a path
/// to be shortened. A client that follows a redirect would call something else.
fn names_a_dot(path: &str) -> bool {
    let Some(route) = routes::find(path) else {
        return false;
    };
    let names = path.strip_prefix(route.path).unwrap_or_default();
    match route.argument {
        Argument::None | Argument::Pattern => false,
        _ => route.matches(path) && names.split('/').any(|name| matches!(name, "." | "..")),
    }
}

/// Escapes a path for a `Location` header.
fn escape(path: &str) -> String {
    use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
    const UNSAFE: &AsciiSet = &CONTROLS
        .add(b' ')
        .add(b'"')
        .add(b'%')
        .add(b'<')
        .add(b'>')
        .add(b'?')
        .add(b'#')
        .add(b'\\');
    utf8_percent_encode(path, UNSAFE).to_string()
}
