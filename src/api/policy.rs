//! The policy API: write, read, list, delete. Changes last until the server ends or a reload says
//! otherwise.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    call::{Call, Outcome},
    failure::Failure,
};
use crate::{
    base::{glob::Pattern, name},
    http::reply::Reply,
    policy::Policy,
};

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
    #[derive(Serialize)]
    struct Answer<'a> {
        paths: Vec<&'a str>,
    }
    let name = policy_name(call.argument)?;
    let state = call.core.state();
    let policy = state.policies.get(name).ok_or(Failure::PolicyNotFound)?;
    let paths = policy.paths.iter().map(Pattern::as_str).collect();
    json(&Answer { paths })
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

/// Reads `{"paths":[...]}`. The name of the member matches without case and no other member may stand
/// beside it; all that follows the object is ignored, `null` is empty, each path is a pattern.
fn parse(body: &[u8]) -> Result<Policy, Failure> {
    type Members = Option<BTreeMap<String, Option<Vec<Option<String>>>>>;
    let mut json = serde_json::Deserializer::from_slice(body);
    let members = Members::deserialize(&mut json).map_err(|_| Failure::InvalidJson)?;
    let mut paths = None;
    for (member, value) in members.unwrap_or_default() {
        // Two spellings of one name: which of them is meant?
        if !member.eq_ignore_ascii_case("paths") || paths.is_some() {
            return Err(Failure::InvalidJson);
        }
        paths = Some(value.unwrap_or_default());
    }
    let pattern = |path: Option<String>| Pattern::parse(&path.unwrap_or_default());
    let paths = paths.unwrap_or_default().into_iter().map(pattern);
    Ok(Policy { paths: paths.collect::<Result<_, _>>().map_err(|_| Failure::InvalidJson)? })
}
