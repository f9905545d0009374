//! The checks of a request before its body, in their order: path, route, method, client, policy.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{client::Client, explain};
use crate::{
    api::{
        core::Core,
        exchange::Exchange,
        failure::Failure,
        routes::{self, Access, Argument, Route},
        state::State,
    },
    http::{
        reply::Reply,
        request::{Head, Method},
        target::{clean, is_clean},
    },
    policy::Policies,
};

/// How long an answer may take that no route serves.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// Checks `head`, which came over the connection to `client`; `sender` is the client that sent it, or why
/// that is not clear.
///
/// # Errors
/// The answer, which is audited.
pub fn admit(
    core: &Core,
    state: &State,
    client: &Client,
    sender: Result<&Client, Failure>,
    head: Head,
    now: Instant,
) -> Result<(Exchange, &'static Route), Reply> {
    let Head { method, path, query, .. } = head;
    if !is_clean(&path) && !names_a_dot(&path) {
        let query = query.map(|query| format!("?{query}")).unwrap_or_default();
        // Neither audited nor counted.
        return Err(Failure::Moved(escape(&clean(&path)) + &query).reply());
    }
    let route = routes::find(&path);
    let identity = sender.as_ref().copied().unwrap_or(client).identity();
    let exchange = begin(core, route, path, identity, now);
    match check(core, state, client, sender, method, &exchange.path, route) {
        Ok(route) => Ok((exchange, route)),
        Err(failure) => Err(exchange.answer(Err(failure))),
    }
}

/// A request by `identity` to `path`, which `route` serves, if any does.
pub fn begin(
    core: &Core,
    route: Option<&Route>,
    path: String,
    identity: &Arc<str>,
    now: Instant,
) -> Exchange {
    let metrics = route.is_none_or(Route::is_metered).then_some(core.metrics);
    let timeout = route.map_or(DEFAULT_TIMEOUT, |route| route.timeout);
    Exchange::begin(core.log, metrics, path, identity.clone(), now, timeout)
}

fn check(
    core: &Core,
    state: &State,
    client: &Client,
    sender: Result<&Client, Failure>,
    method: Method,
    path: &str,
    route: Option<&'static Route>,
) -> Result<&'static Route, Failure> {
    let find_sender = |path: &str| {
        sender.inspect_err(|_| {
            if let Some(several) = client.several_identities() {
                explain::several(core.log, several, path);
            }
        })
    };
    let Some(route) = route else {
        find_sender(path)?;
        return Err(Failure::NoSuchPath);
    };
    if !route.accepts(method) {
        return Err(Failure::MethodNotAllowed(route.method));
    }
    let path = &*route.slashed(path);
    if !route.matches(path) {
        return Err(Failure::PathMismatch(route.pattern));
    }
    let sender = find_sender(path)?;
    if route.access == Access::Policy {
        if let Some(several) = sender.several_identities() {
            explain::several(core.log, several, path);
            return Err(Failure::TooManyIdentities);
        }
        check_policy(core, &state.policies, sender.identity(), path)?;
    }
    Ok(route)
}

/// Checks whether `policies` let `identity` call `path`.
pub fn check_policy(
    core: &Core,
    policies: &Policies,
    identity: &str,
    path: &str,
) -> Result<(), Failure> {
    match policies.allows(identity, path) {
        true => Ok(()),
        false => Err(explain::prohibited(core.log, policies, identity, path)),
    }
}

/// Whether `path` is an API with the name `.` or `..`: a wrong name, not a path to be shortened, since a
/// client that follows the redirect would call something else.
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
