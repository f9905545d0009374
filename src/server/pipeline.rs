//! One request from its head to what its handler makes of it, in the order of `api.md` 1.3.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rustls_pki_types::{CertificateDer, UnixTime};

use super::{
    Server, State,
    blocking::guarded,
    changes::Change,
    connection::Address,
    exchange::Exchange,
    failure::{Failure, Task},
    peer::Peer,
    pending::{Answer, Delivery, Pending},
    proxy::{Client, Forwarded},
    routes::{self, Access, Argument, Route},
};
use crate::{
    base::{
        deadline::Deadline,
        glob::{Effort, Pattern},
        secret::Secret,
    },
    cache::Lookup,
    crypto::{MasterKey, stored},
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
pub(super) const HEAD_START: Duration = Duration::from_millis(500);

type Result<T> = std::result::Result<T, Failure>;
type Use = Box<dyn FnOnce(&MasterKey) -> Result<Reply> + Send>;
pub(super) type StoreUse = Box<dyn FnOnce(&Server, Deadline) -> Result<Reply> + Send>;

/// What a handler wants to happen.
pub(super) enum Outcome {
    /// This is the answer.
    Done(Reply),
    /// Get this key, from the cache if it is there, and do this with it.
    Key(KeyName, KeyUse),
    /// Do this on a key store thread: it reads and changes nothing.
    Names(StoreUse),
    /// Change a key.
    Change(Change),
    /// Answer with these events as they come.
    Stream(Stream),
}

/// What to do with a key, and how many bytes of secrets wait for that.
pub(super) struct KeyUse {
    pub(super) size: usize,
    then: Use,
}

impl KeyUse {
    pub(super) fn with(self, key: &MasterKey) -> Result<Reply> {
        (self.then)(key)
    }
}

impl Outcome {
    /// Do this with the key `name` and with `secrets`.
    pub(super) fn key<const N: usize>(
        name: KeyName,
        secrets: [Secret; N],
        then: impl FnOnce(&MasterKey, [Secret; N]) -> Result<Reply> + Send + 'static,
    ) -> Self {
        let use_of_key = KeyUse {
            size: secrets.iter().map(Secret::len).sum(),
            then: Box::new(move |key| then(key, secrets)),
        };
        Self::Key(name, use_of_key)
    }

    pub(super) fn names(
        job: impl FnOnce(&Server, Deadline) -> Result<Reply> + Send + 'static,
    ) -> Self {
        Self::Names(Box::new(job))
    }

    /// Change the key `name`: create or delete it, as `task` says.
    pub(super) fn change(
        name: KeyName,
        task: Task,
        job: impl FnOnce(&Server, &KeyName, Deadline) -> Result<Reply> + Send + 'static,
    ) -> Self {
        let key = name.clone();
        Self::Change(Change {
            name,
            task,
            job: Box::new(move |server, deadline| job(server, &key, deadline)),
        })
    }
}

/// What to do with a request whose head was read.
pub(super) enum Admission {
    /// It may go on: its body can be at most so long (0: it is ignored).
    Granted(Exchange, usize),
    /// This is the answer; after it the connection may have to be closed.
    Answered(Reply, bool),
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
            let query = head.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
            // Neither audited nor counted.
            let reply = Failure::Moved(escape(&cleaned) + &query).reply();
            return Admission::Answered(reply, false);
        }
        let route = routes::find(&head.path);
        let path = std::mem::take(&mut head.path);
        let exchange = Exchange::begin(self, route, path, client.peer.identity(), now);
        match check(self, state, client, head.method, &exchange.path, route) {
            Ok(route) => Admission::Granted(exchange, route.max_body),
            Err(failure) => Admission::Answered(exchange.answer(Err(failure)), false),
        }
    }

    /// The answer to a request for `path` over a connection that would not be accepted any more, that
    /// of `peer`.
    pub(super) fn turn_away(&self, peer: &Peer, path: String, now: Instant) -> Reply {
        let exchange = Exchange::begin(self, routes::find(&path), path, peer.identity(), now);
        let failure = self.distrust(peer.identity(), &exchange.path);
        exchange.answer(Err(failure))
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
    /// What it has to wait for goes to `address`.
    pub(super) fn run(
        &self,
        exchange: Exchange,
        body: &[u8],
        address: &impl Fn() -> Address,
    ) -> Answer {
        let Some(route) = exchange.route else {
            return self.finish(exchange, Err(Failure::NoSuchPath), address);
        };
        let path = route.slashed(&exchange.path);
        let argument = match route.argument {
            Argument::None => "",
            _ => path.strip_prefix(route.path).unwrap_or_default(),
        };
        let outcome = (route.handler)(&Call {
            server: self,
            identity: &exchange.identity,
            path: &path,
            argument,
            body,
        });
        drop(path);
        match outcome {
            Err(failure) => self.finish(exchange, Err(failure), address),
            Ok(Outcome::Done(reply)) => self.finish(exchange, Ok(reply), address),
            Ok(Outcome::Stream(stream)) => Answer::Stream(exchange, stream),
            Ok(Outcome::Key(name, then)) => self.with_key(exchange, &name, then, address),
            Ok(Outcome::Names(job)) => self.with_names(exchange, job, address),
            Ok(Outcome::Change(change)) => self.change(exchange, change, address),
        }
    }

    /// Answers a request, unless the answer must wait for its audit line.
    pub(super) fn finish(
        &self,
        mut exchange: Exchange,
        result: Result<Reply>,
        address: &impl Fn() -> Address,
    ) -> Answer {
        let result = match result {
            Ok(reply) if exchange.must_be_held(&reply) => {
                if exchange.hold(address(), self) {
                    return Answer::Later(Pending::for_line(exchange, reply));
                }
                Err(Failure::NotAudited)
            }
            result => result,
        };
        Answer::Now(exchange.answer(result))
    }

    fn with_key(
        &self,
        exchange: Exchange,
        name: &KeyName,
        then: KeyUse,
        address: &impl Fn() -> Address,
    ) -> Answer {
        // The cache knows seconds; when the request came is near enough.
        let now = exchange.arrived;
        if let Some(key) = self.cache.get(name, now) {
            return self.finish(exchange, then.with(&key), address);
        }
        let Some(permit) = self.pool.reserve() else {
            return self.finish(exchange, Err(Failure::Overloaded), address);
        };
        match self.cache.get_or_wait(name, address(), now) {
            Lookup::Hit(key, _) => return self.finish(exchange, then.with(&key), address),
            Lookup::Waiting => {}
            Lookup::Fetch(ticket) => {
                let (server, name) = (self.me(), name.clone());
                let deadline = exchange.deadline.earlier(HEAD_START);
                self.pool.submit(permit, move || {
                    let Some(server) = server.upgrade() else {
                        return;
                    };
                    let key = guarded(|| server.fetch(&name, deadline));
                    let found = key.as_ref().ok().cloned();
                    for waiter in server.cache.complete(ticket, found, Instant::now()) {
                        waiter.deliver(&server, Delivery::Key(key.clone()));
                    }
                });
            }
        }
        Answer::Later(Pending::for_key(exchange, then))
    }

    fn with_names(
        &self,
        exchange: Exchange,
        job: StoreUse,
        address: &impl Fn() -> Address,
    ) -> Answer {
        let Some(permit) = self.pool.reserve() else {
            return self.finish(exchange, Err(Failure::Overloaded), address);
        };
        let (server, address) = (self.me(), address());
        let deadline = exchange.deadline.earlier(HEAD_START);
        self.pool.submit(permit, move || {
            if let Some(server) = server.upgrade() {
                let names = match deadline.has_passed(Instant::now()) {
                    true => Err(Failure::Timeout),
                    false => guarded(|| job(&server, deadline)),
                };
                address.deliver(&server, Delivery::Names(names));
            }
        });
        Answer::Later(Pending::for_names(exchange))
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
        check_identity(server, client, path)?;
        return Err(Failure::NoSuchPath);
    };
    if !route.accepts(method) {
        return Err(Failure::MethodNotAllowed(route.method));
    }
    let path = &*route.slashed(path);
    if !route.matches(path) {
        return Err(Failure::PathMismatch(route.pattern));
    }
    check_identity(server, client, path)?;
    if route.access == Access::Policy {
        if let Some(several) = client.peer.several_identities() {
            server.explain_several(several, path);
            return Err(Failure::TooManyIdentities);
        }
        let identity = client.peer.identity();
        if !state.policies.allows(identity, path) {
            return Err(server.prohibit(&state.policies, identity, path));
        }
    }
    Ok(route)
}

/// What a TLS proxy forwarded must be one certificate, and so must that of a client beside proxies.
fn check_identity(server: &Server, client: &Client<'_>, path: &str) -> Result<()> {
    client.check().inspect_err(|_| {
        if let Some(several) = client.peer.several_identities() {
            server.explain_several(several, path);
        }
    })
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
    const UNSAFE: &AsciiSet =
        &CONTROLS.add(b' ').add(b'"').add(b'%').add(b'<').add(b'>').add(b'?').add(b'#').add(b'\\');
    utf8_percent_encode(path, UNSAFE).to_string()
}
