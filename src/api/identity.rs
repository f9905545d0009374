//! The identity API: describe, list; in generation 0.14 also assign and forget. Changes last until the server
//! ends or a reload says otherwise.

use super::{
    call::{Call, Outcome},
    failure::{Failure, Named},
    object::Object,
    policy::{self, with_origin},
};
use crate::base::clock;

/// `POST /v1/identity/assign/<policy>/<identity>`
pub fn assign(call: &Call<'_>) -> Result<Outcome, Failure> {
    let (policy, identity) = call.argument.split_once('/').unwrap_or_default();
    let policy = call.check_name(Named::Policy, policy)?;
    call.change_policies(|policies| {
        policies.assign(identity, policy, call.identity).map_err(Failure::Identity)
    })
}

/// `GET /v1/identity/list/<pattern>`
pub fn list(call: &Call<'_>) -> Result<Outcome, Failure> {
    let policies = &call.state.policies;
    let assigned = policies.assigned().map(|(identity, _)| identity);
    if call.is_newest() {
        let found = call.select(assigned.chain([policies.root()]))?;
        let object = Object::new().texts("identities", &found).text("continue_at", "");
        return Ok(Outcome::Done(object.into_reply()));
    }
    let found = call.select(assigned)?;
    let object = found.into_iter().fold(Object::new(), |object, identity| {
        object.text(identity, policies.policy_name_of(identity).unwrap_or_default())
    });
    Ok(Outcome::Done(object.into_reply()))
}

/// `GET /v1/identity/describe/<identity>`
pub fn describe(call: &Call<'_>) -> Result<Outcome, Failure> {
    let identity = call.check_name(Named::Identity, call.argument)?;
    let object = match call.state.policies.policy_name_of(identity) {
        _ if call.state.policies.is_root(identity) => as_admin(call, Object::new()),
        Some(policy) => with_origin(call, Object::new().text("policy", policy)),
        None => return Err(Failure::IdentityNotFound),
    };
    Ok(Outcome::Done(object.into_reply()))
}

/// `GET /v1/identity/self/describe`: the caller with its rights. Between the generations, SDKs want the rules
/// in `policy`; the newest want the name there.
pub fn describe_self(call: &Call<'_>) -> Result<Outcome, Failure> {
    let policies = &call.state.policies;
    let object = Object::new().text("identity", call.identity);
    if policies.is_root(call.identity) {
        return Ok(Outcome::Done(as_admin(call, object).into_reply()));
    }
    let name = policies.policy_name_of(call.identity).ok_or(Failure::IdentityNotFound)?;
    let rules = policies.get(name).ok_or(Failure::PolicyNotFound)?;
    let object = if call.is_newest() {
        policy::with_rules(with_origin(call, object).text("policy", name), rules)
    } else {
        let rules = with_origin(call, policy::with_lists(Object::new(), rules)).into_json();
        with_origin(call, object.text("policy_name", name)).json("policy", &rules)
    };
    Ok(Outcome::Done(object.into_reply()))
}

/// Adds what there is to say of the administrator.
fn as_admin(call: &Call<'_>, object: Object) -> Object {
    object.json("admin", "true").text("created_at", &clock::rfc3339(call.core.started_at))
}

/// `DELETE /v1/identity/forget/<identity>`
pub fn forget(call: &Call<'_>) -> Result<Outcome, Failure> {
    call.change_policies(|policies| policies.forget(call.argument).map_err(Failure::Identity))
}
