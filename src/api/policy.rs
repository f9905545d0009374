//! The policy API: describe, read, list; in generation 0.14 also write, assign and delete. Changes last until
//! the server ends or a reload says otherwise.

use serde::{Deserialize, Serialize};

use super::{
    call::{Call, Outcome},
    failure::Failure,
    object::Object,
};
use crate::{
    base::clock,
    crypto::json,
    http::reply::Reply,
    policy::{Policy, RuleList, RuleMap},
};

/// `POST /v1/policy/write/<name>`
pub fn write(call: &Call<'_>) -> Result<Outcome, Failure> {
    let name = call.policy_name()?;
    let policy = parse(call.body)?;
    call.change_policies(|policies| {
        policies.write(name, policy);
        Ok(())
    })
}

/// `GET /v1/policy/read/<name>`
pub fn read(call: &Call<'_>) -> Result<Outcome, Failure> {
    let name = call.policy_name()?;
    let policy = call.state.policies.get(name).ok_or(Failure::PolicyNotFound)?;
    if call.is_newest() {
        let object = with_rules(Object::new().text("name", name), policy);
        return Ok(Outcome::Done(with_origin(call, object).into_reply()));
    }
    json(&**policy)
}

/// `GET /v1/policy/describe/<name>`
pub fn describe(call: &Call<'_>) -> Result<Outcome, Failure> {
    let name = call.policy_name()?;
    call.state.policies.get(name).ok_or(Failure::PolicyNotFound)?;
    Ok(Outcome::Done(with_origin(call, Object::new().text("name", name)).into_reply()))
}

/// `GET /v1/policy/list/<pattern>`
pub fn list(call: &Call<'_>) -> Result<Outcome, Failure> {
    let names = call.select(call.state.policies.iter().map(|(name, _)| name))?;
    match call.is_newest() {
        true => {
            let object = Object::new().texts("names", &names).text("continue_at", "");
            Ok(Outcome::Done(object.into_reply()))
        }
        false => json(&names),
    }
}

/// `DELETE /v1/policy/delete/<name>`
pub fn delete(call: &Call<'_>) -> Result<Outcome, Failure> {
    let name = call.policy_name()?;
    call.change_policies(|policies| {
        policies.delete(name);
        Ok(())
    })
}

/// `POST /v1/policy/assign/<name>`: assigns the identity in the body.
pub fn assign(call: &Call<'_>) -> Result<Outcome, Failure> {
    let name = call.policy_name()?;
    let ([identity], _) = json::texts(call.body, ["identity"]).ok_or(Failure::InvalidJson)?;
    // The older path of the same call has the identity, too.
    let older = format!("/v1/identity/assign/{name}/{identity}");
    call.change_policies(|policies| {
        if policies.denies(call.identity, &older) {
            return Err(Failure::Prohibited);
        }
        policies.assign(&identity, name, call.identity).map_err(Failure::Identity)
    })
}

/// Adds where policies and assignments come from: the configuration, since the server was started.
pub fn with_origin(call: &Call<'_>, object: Object) -> Object {
    object
        .text("created_at", &clock::rfc3339(call.core.started_at))
        .text_if_any("created_by", call.state.policies.root())
}

/// Adds the rules of a policy as the newest generation writes them.
pub fn with_rules(object: Object, policy: &Policy) -> Object {
    let rules = [("allow", &policy.allow), ("deny", &policy.deny)];
    rules
        .into_iter()
        .filter(|(_, rules)| !rules.is_empty())
        .fold(object, |object, (name, rules)| object.value(name, &RuleMap(rules)))
}

/// Adds the rules of a policy as generations between the two write them.
pub fn with_lists(object: Object, policy: &Policy) -> Object {
    object.value("allow", &RuleList(&policy.allow)).value("deny", &RuleList(&policy.deny))
}

/// Success with `value` and the line end that KES writes after JSON.
pub fn json(value: &impl Serialize) -> Result<Outcome, Failure> {
    let mut text = serde_json::to_vec(value).map_err(|_| Failure::Internal("failed to encode"))?;
    text.push(b'\n');
    Ok(Outcome::Done(Reply::json(text)))
}

/// Reads a policy. All that follows the object is ignored, and `null` is an empty one.
fn parse(body: &[u8]) -> Result<Policy, Failure> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let members = Option::<serde_json::Map<_, _>>::deserialize(&mut json).ok();
    let members = members.ok_or(Failure::InvalidJson)?.unwrap_or_default();
    Policy::from_members(members).map_err(|_| Failure::InvalidJson)
}
