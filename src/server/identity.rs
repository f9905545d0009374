//! The identity API: assign, list, forget. Changes last until the server ends or a reload says
//! otherwise.

use std::collections::BTreeMap;

use super::{
    Call, Outcome,
    failure::Failure,
    policy::{json, policy_name},
};

/// `POST /v1/identity/assign/<policy>/<identity>`
pub(super) fn assign(call: &Call<'_>) -> Result<Outcome, Failure> {
    let (policy, identity) = call.argument.split_once('/').unwrap_or_default();
    let policy = policy_name(policy)?;
    call.change_policies(|policies| {
        policies
            .assign(identity, policy, call.identity)
            .map_err(Failure::Identity)
    })
}

/// `GET /v1/identity/list/<pattern>`
pub(super) fn list(call: &Call<'_>) -> Result<Outcome, Failure> {
    let pattern = call.pattern();
    let matches = |identity: &str| pattern.as_ref().is_some_and(|p| p.matches(identity));
    let state = call.server.state();
    let assigned = state.policies.assigned();
    let found: BTreeMap<_, _> = assigned.filter(|(identity, _)| matches(identity)).collect();
    json(&found)
}

/// `DELETE /v1/identity/forget/<identity>`
pub(super) fn forget(call: &Call<'_>) -> Result<Outcome, Failure> {
    call.change_policies(|policies| policies.forget(call.argument).map_err(Failure::Identity))
}
