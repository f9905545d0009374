//! The checks of a request before its body, in their order: path, route, method, client, policy.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{client::Client, explain};
use crate::{
    api::{
        core::Core,
        exchange::Exchange,
        failure::Failure,
        quota::UnderWay,
        routes::{self, Access, Argument, Route},
        spellings,
        state::State,
    },
    base::generation::Generation,
    http::{
        reply::Reply,
        request::{Head, Method},
        target::{clean, is_clean},
    },
    log::Cause,
    metrics::Event,
};

/// How long an answer may take that no route serves.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a request comes from, and when.
#[derive(Clone, Copy)]
pub struct Arrival {
    /// The address of the client.
    pub ip: IpAddr,
    /// When its head was there.
    pub now: Instant,
}

/// Checks `head`, which came over the connection to `client`; `sender` is the client that sent it, or why
/// that is not clear.
///
/// # Errors
/// The answer, which is audited.
pub fn admit(
    core: &'static Core,
    state: &State,
    client: &Client,
    sender: Result<&Client, Failure>,
    head: Head,
    arrival: Arrival,
) -> Result<(Exchange, &'static Route), Reply> {
    let generation = state.generation;
    let Head { method, path, query, .. } = head;
    let route = routes::find(&path, generation);
    if !is_clean(&path) && !names_a_dot(&path, route) {
        let query = query.map(|query| format!("?{query}")).unwrap_or_default();
        // Neither audited nor counted.
        return Err(state.manner().reply(&Failure::Moved(escape(&clean(&path)) + &query)));
    }
    let identity = sender.as_ref().copied().unwrap_or(client).identity();
    let mut exchange = begin(core, state, route, path, identity, arrival);
    match check(core, state, client, sender, method, &mut exchange, route) {
        Ok(route) => {
            // The newest generation counts what it admits, 0.14 what it sees.
            if generation == Generation::Newest && route.is_metered(generation) {
                exchange.count(core.metrics);
            }
            Ok((exchange, route))
        }
        Err(failure) => Err(exchange.answer(Err(failure))),
    }
}

/// A request by `identity` to `path`, which `route` serves, if any does.
pub fn begin(
    core: &Core,
    state: &State,
    route: Option<&Route>,
    path: String,
    identity: &Arc<str>,
    Arrival { ip, now }: Arrival,
) -> Exchange {
    let generation = state.generation;
    let timeout = route.map_or(DEFAULT_TIMEOUT, |route| route.timeout(generation, &state.apis));
    let sender = (identity.clone(), ip);
    let mut exchange = Exchange::begin(core.log, state.manner(), path, sender, now, timeout);
    if generation == Generation::V0_14 && route.is_none_or(|route| route.is_metered(generation)) {
        exchange.count(core.metrics);
    }
    exchange
}

fn check(
    core: &'static Core,
    state: &State,
    client: &Client,
    sender: Result<&Client, Failure>,
    method: Method,
    exchange: &mut Exchange,
    route: Option<&'static Route>,
) -> Result<&'static Route, Failure> {
    let (generation, path) = (state.generation, &*exchange.path);
    let find_sender = |path: &str| {
        sender.inspect_err(|_| {
            if let Some(several) = client.several_identities() {
                explain::several(core.log, several, path);
            }
        })
    };
    let Some(route) = route else {
        find_sender(path)?;
        return Err(match routes::is_of_another_generation(path) {
            true => Failure::NotServed,
            false => Failure::NoSuchPath,
        });
    };
    if !route.accepts(method, generation) {
        return Err(Failure::MethodNotAllowed(method, route.method_name(generation)));
    }
    let path = &*route.slashed(path);
    // In the newest generation all that follows is the argument, which the handler checks.
    if generation == Generation::V0_14 && !route.matches(path) {
        return Err(Failure::PathMismatch(route.pattern));
    }
    let sender = find_sender(path)?;
    let access = route.access(&state.apis);
    if access == Access::Anyone {
        return Ok(route);
    }
    if let Some(several) = sender.several_identities() {
        explain::several(core.log, several, path);
        return Err(Failure::TooManyIdentities);
    }
    if !sender.has_certificate() {
        return Err(Failure::NoCertificate);
    }
    if state.limits.are_for_identities() && route.is_limited() {
        exchange.under_way = count(core, state, sender.identity(), exchange.arrived)?;
    }
    if access == Access::Policy {
        check_policy(core, state, sender.identity(), path)?;
    }
    Ok(route)
}

/// Counts a request for the limits of its identity. Only those with rights have any: the others are refused in
/// any case, and may be any number.
fn count(
    core: &'static Core,
    state: &State,
    identity: &Arc<str>,
    now: Instant,
) -> Result<Option<UnderWay>, Failure> {
    let policies = &state.policies;
    if !policies.is_root(identity) && policies.policy_name_of(identity).is_none() {
        return Ok(None);
    }
    core.quotas.count(&state.limits, identity, now).map_err(|limit| {
        core.metrics.count(Event::Limited);
        core.log.error_from_outside(Cause::Limit, || {
            format!("identity {:?} has reached {limit}: a request was answered 429", &**identity)
        });
        Failure::Limited
    })
}

/// Checks whether the policies let `identity` call `path`.
pub fn check_policy(core: &Core, state: &State, identity: &str, path: &str) -> Result<(), Failure> {
    match allows(state, identity, path) {
        true => Ok(()),
        false => Err(explain::prohibited(core.log, state, identity, path)),
    }
}

/// Whether the policies let `identity` call `path`, and deny the call by no other path.
pub fn allows(state: &State, identity: &str, path: &str) -> bool {
    let denies = |other: &str| state.policies.denies(identity, other);
    state.policies.allows(identity, &spellings::decisive(path, state.generation, denies))
}

/// The check of an API that wants no policy.
pub fn check_nothing(_: &Core, _: &State, _: &str, _: &str) -> Result<(), Failure> {
    Ok(())
}

/// Whether `path` is an API with the name `.` or `..`: a wrong name, not a path to be shortened, since a
/// client that follows the redirect would call something else.
fn names_a_dot(path: &str, route: Option<&Route>) -> bool {
    let Some(route) = route else {
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
