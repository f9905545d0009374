//! The identity API: assign, list, forget. Changes last until the server ends or a reload says
//! otherwise.

use std::collections::BTreeMap;

use super::{
    call::{Call, Outcome},
    failure::Failure,
    policy::{json, policy_name},
};

/// `POST /v1/identity/assign/<policy>/<identity>`
pub fn assign(call: &Call<'_>) -> Result<Outcome, Failure> {
    let (policy, identity) = call.argument.split_once('/').unwrap_or_default();
    let policy = policy_name(policy)?;
    call.change_policies(|policies| {
        policies.assign(identity, policy, call.identity).map_err(Failure::Identity)
    })
}

/// `GET /v1/identity/list/<pattern>`
pub fn list(call: &Call<'_>) -> Result<Outcome, Failure> {
    let state = call.core.state();
    let policies = &state.policies;
    let found = call.select(policies.assigned().map(|(identity, _)| identity))?;
    let policy = |identity| Some((identity, policies.policy_name_of(identity)?));
    json(&found.into_iter().filter_map(policy).collect::<BTreeMap<_, _>>())
}

/// `DELETE /v1/identity/forget/<identity>`
pub fn forget(call: &Call<'_>) -> Result<Outcome, Failure> {
    call.change_policies(|policies| policies.forget(call.argument).map_err(Failure::Identity))
}
