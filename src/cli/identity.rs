//! `kes identity assign|list|forget`

use std::{collections::BTreeMap, path::Path};

use super::{
    Args, Failure, arguments, check_name, client, pattern, print, style::harmless, tool,
    wants_json, warn,
};
use crate::client::{Client, MAX_ANSWER, MAX_LIST, escape};

type Result<T> = std::result::Result<T, Failure>;

/// `kes identity assign <identity> <policy>`
pub(super) fn assign(args: &Args) -> Result<()> {
    let ([identity, policy], _) = arguments(args, ["identity", "policy"], 2)?;
    check_identity(identity)?;
    check_name("policy", policy)?;
    let path = format!("/v1/identity/assign/{}/{}", escape(policy), escape(identity));
    client(args)?
        .send("POST", &path, None, MAX_ANSWER)
        .map_err(|e| format!("failed to assign identity {identity:?} to policy {policy:?}: {e}"))?;
    doubt(identity);
    Ok(())
}

/// Warns of an identity that no client can have, such as the file name of a certificate.
fn doubt(identity: &str) {
    if is_identity(identity) {
        return;
    }
    let is_file = Path::new(identity).is_file();
    let meant = is_file.then(|| tool::identity_or_file(identity).ok());
    let why = match meant.flatten() {
        Some(meant) => format!("the certificate in that file has {meant}"),
        None => "they are 64 digits 0-9 a-f, see 'kes tool identity of'".to_owned(),
    };
    warn(&format!("no client has the identity {identity:?}: {why}"));
}

/// Whether a client may have this identity.
pub(super) fn is_identity(text: &str) -> bool {
    let is_hex = |c: u8| matches!(c, b'0'..=b'9' | b'a'..=b'f');
    text.len() == 64 && text.bytes().all(is_hex)
}

/// Refuses what no server takes for an identity.
fn check_identity(identity: &str) -> Result<()> {
    match identity {
        "" => Err("invalid identity \"\": it is empty".into()),
        _ if identity.contains('/') => {
            Err(format!("invalid identity {identity:?}: it contains '/'").into())
        }
        _ => Ok(()),
    }
}

/// `kes identity list [<pattern>]`
pub(super) fn list(args: &Args) -> Result<()> {
    let pattern = pattern(args)?;
    let assigned = fetch(&client(args)?, pattern)
        .map_err(|e| format!("failed to list identities matching {pattern:?}: {e}"))?;
    if wants_json(args) {
        return print(&serde_json::to_string(&assigned).unwrap_or_default());
    }
    let lines: String = assigned
        .iter()
        .map(|(identity, policy)| format!("  {} => {}\n", harmless(identity), harmless(policy)))
        .collect();
    print(&format!("{{\n{lines}}}\n"))
}

/// The identities that match `pattern` with their policies, from the server, sorted.
pub(super) fn fetch(
    client: &Client,
    pattern: &str,
) -> std::result::Result<BTreeMap<String, String>, String> {
    let path = format!("/v1/identity/list/{}", escape(pattern));
    let answer = client.send("GET", &path, None, MAX_LIST).map_err(|e| e.to_string())?;
    parse(&answer).map_err(|e| format!("the server sent no list: {e}"))
}

/// Reads an identity list.
pub(super) fn parse(list: &[u8]) -> serde_json::Result<BTreeMap<String, String>> {
    serde_json::from_slice(list)
}

/// `kes identity forget <identity>`
pub(super) fn forget(args: &Args) -> Result<()> {
    let ([identity], _) = arguments(args, ["identity"], 1)?;
    check_identity(identity)?;
    let path = format!("/v1/identity/forget/{}", escape(identity));
    client(args)?
        .send("DELETE", &path, None, MAX_ANSWER)
        .map_err(|e| format!("failed to forget identity {identity:?}: {e}"))?;
    doubt(identity);
    Ok(())
}
