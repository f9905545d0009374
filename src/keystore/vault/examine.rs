//! What keeps a server from using this Vault, and what its policy allows too much or too little.

use std::time::Instant;

use super::{
    LOGIN_TIMEOUT, Vault,
    engine::{ANY_KEY, Engine, OVERWRITING, overwriting},
    settings::{Settings, Version},
};
use crate::{
    base::{checkup::Checkup, deadline::Deadline},
    keystore::store::Error,
};

const VAULT: &str = "Vault";
const LOGIN: &str = "login";
const ENGINE: &str = "engine";
const POLICY: &str = "policy";

/// Rights that a server does without are worth a warning only.
const OPTIONAL: [&str; 2] = ["delete", "list"];

/// What the token of a server needs on one path.
struct Needed {
    /// As a policy has it.
    pattern: String,
    /// A path that it matches.
    path: String,
    rights: &'static [&'static str],
}

/// Asks in the order of a start. `None` after the first thing that keeps a server from using Vault.
pub(super) fn examine(settings: &Settings, found: &mut Checkup) -> Option<Vault> {
    let failed = |found: &mut Checkup, about, e: Error| found.fail(about, &e, "");
    let vault = match Engine::new(settings) {
        Ok(engine) => Vault(engine),
        Err(e) => {
            found.fail(VAULT, &e, "");
            return None;
        }
    };
    let engine = &vault.0;
    let endpoint = &settings.endpoint;
    let deadline = Deadline::after(Instant::now(), LOGIN_TIMEOUT);
    match vault.health(deadline) {
        Ok(health) => {
            let version = health["version"].as_str().unwrap_or("of unknown version");
            let role = match health["standby"].as_bool() {
                Some(true) => "a standby: the active server gets the requests",
                _ => "unsealed",
            };
            found.ok(VAULT, &format_args!("{endpoint} answers: {version}, {role}"));
        }
        Err(Error::Sealed) => {
            found.fail(VAULT, &format_args!("{endpoint} is sealed"), "run 'bao operator unseal'");
            return None;
        }
        Err(e) => {
            failed(found, VAULT, e);
            return None;
        }
    }
    if let Err(e) = engine.keeper.log_in(&engine.cluster, deadline) {
        failed(found, LOGIN, e);
        return None;
    }
    found.ok(LOGIN, &"Vault gives a token");
    if let Err(e) = engine.check_version(deadline) {
        failed(found, ENGINE, e.during("use the engine for keys"));
        return None;
    }
    // That nothing is there, or nothing for us: which of both, the rights tell.
    let missing = engine.notices.take().pop();
    let version = if settings.version == Version::V2 { "v2" } else { "v1" };
    if missing.is_none() {
        found.ok(
            ENGINE,
            &format_args!("{:?} is a key-value engine of version {version}", settings.engine),
        );
    }
    if !are_rights_enough(engine, missing, deadline, found) {
        return None;
    }
    if let Err(e) = engine.keeper.start(engine.cluster.clone()) {
        found.fail(LOGIN, &e, "");
        return None;
    }
    Some(vault)
}

fn needed(settings: &Settings) -> Vec<Needed> {
    let below = |kind: &str, name: &str, rights| {
        let directory = settings.directory(kind);
        let (pattern, path) = (format!("{directory}/*"), format!("{directory}/{name}"));
        Needed { pattern, path, rights }
    };
    let mut all = match settings.version {
        Version::V1 => {
            vec![below("", ANY_KEY, &["create", "read", "delete"]), below("", "", &["list"])]
        }
        Version::V2 => vec![
            below("data", ANY_KEY, &["create", "read"]),
            below("metadata", ANY_KEY, &["delete"]),
            below("metadata", "", &["list"]),
        ],
    };
    if let Some(transit) = &settings.transit {
        all.extend(["encrypt", "decrypt"].map(|what| {
            let path = format!("{}/{what}/{}", transit.engine.trim_matches('/'), transit.key);
            Needed { pattern: path.clone(), path, rights: &["update"] }
        }));
    }
    all
}

/// Compares what the token may do with what a server needs. `missing`: why the engine may not be there.
fn are_rights_enough(
    engine: &Engine,
    missing: Option<String>,
    deadline: Deadline,
    found: &mut Checkup,
) -> bool {
    /// What no server needs.
    const POLICIES: &str = "sys/policies/acl/any-policy";
    let settings = &engine.cluster.settings;
    let needed = needed(settings);
    let mut paths: Vec<_> = needed.iter().map(|needed| &*needed.path).collect();
    paths.push(POLICIES);
    let keys = paths[0];
    let rights = engine.rights(&paths, deadline).filter(|rights| rights.are_known(keys));
    let Some(rights) = rights else {
        if let Some(missing) = missing {
            found.fail(ENGINE, &missing, "");
            return false;
        }
        found.warn(
            POLICY,
            &"Vault does not tell what the token may do",
            "grant \"update\" on sys/capabilities-self, as the policy \"default\" does, or try it with \
             --write",
        );
        return true;
    };
    let mut lacks: [Vec<String>; 2] = Default::default();
    for Needed { pattern, path, rights: wanted } in &needed {
        for right in wanted.iter().filter(|right| !rights.has(path, right)) {
            lacks[usize::from(OPTIONAL.contains(right))].push(format!("{right:?} on {pattern:?}"));
        }
    }
    let [needed, optional] = lacks.map(|lacks| lacks.join(", "));
    let advice =
        "add it to the policy of the role (docs/vault.md has all of it): tokens have it at once";
    if !needed.is_empty() {
        let nothing = missing.map_or(String::new(), |missing| format!("; {missing}"));
        found.fail(POLICY, &format_args!("the token may not {needed}{nothing}"), advice);
        return false;
    }
    if !optional.is_empty() {
        let text = format!("the token may not {optional}: such requests are answered 502");
        found.warn(POLICY, &text, advice);
    }
    let directory = settings.directory(if settings.version == Version::V2 { "data" } else { "" });
    let too_much = match settings.version {
        Version::V1 => rights.find(keys, OVERWRITING).map(|right| overwriting(right, &directory)),
        Version::V2 => rights.find(keys, &["root", "update", "patch"]).map(|right| {
            format!(
                "the token has {right:?} on \"{directory}/*\", so it may write over keys until Vault \
                 drops their first versions"
            )
        }),
    };
    if let Some(text) = too_much {
        found.warn(POLICY, &text, "take it out of the policy of the role");
    } else if rights.find(keys, &["sudo"]).is_some()
        || ["create", "update"].iter().any(|right| rights.has(POLICIES, right))
    {
        found.warn(
            POLICY,
            &"the token may do far more than a server needs, such as to change policies",
            "give the role a policy with the paths of docs/vault.md alone",
        );
    } else if optional.is_empty() {
        found.ok(POLICY, &"the token may do what a server needs, and can't overwrite keys");
    }
    true
}
