//! The policy API: write, read, list, delete. Changes last until the server ends or a reload says
//! otherwise.

use serde::{Deserialize, Serialize};

use super::{
    call::{Call, Outcome},
    failure::Failure,
};
use crate::{base::name, http::reply::Reply, policy::Policy};

/// `POST /v1/policy/write/<name>`
pub fn write(call: &Call<'_>) -> Result<Outcome, Failure> {
    let name = policy_name(call.argument)?;
    let policy = parse(call.body)?;
    call.change_policies(|policies| {
        policies.write(name, policy);
        Ok(())
    })
}

/// `GET /v1/policy/read/<name>`
pub fn read(call: &Call<'_>) -> Result<Outcome, Failure> {
    let name = policy_name(call.argument)?;
    let state = call.core.state();
    json(&**state.policies.get(name).ok_or(Failure::PolicyNotFound)?)
}

/// `GET /v1/policy/list/<pattern>`
pub fn list(call: &Call<'_>) -> Result<Outcome, Failure> {
    let state = call.core.state();
    let names = call.select(state.policies.iter().map(|(name, _)| name))?;
    let mut names: Vec<_> = names.into_iter().map(str::to_owned).collect();
    names.sort();
    json(&names)
}

/// `DELETE /v1/policy/delete/<name>`
pub fn delete(call: &Call<'_>) -> Result<Outcome, Failure> {
    let name = policy_name(call.argument)?;
    call.change_policies(|policies| {
        policies.delete(name);
        Ok(())
    })
}

/// `name` if it can be the name of a policy.
pub fn policy_name(name: &str) -> Result<&str, Failure> {
    match name::check(name) {
        Ok(()) => Ok(name),
        Err(_) => Err(Failure::InvalidPolicyName),
    }
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
