//! `kes identity assign|list|forget`

use std::collections::BTreeMap;

use super::{
    Args, Failure, arguments, client, complain, print,
    style::{Paint, Style, harmless},
    wants_json,
};
use crate::client::{Client, MAX_ANSWER, MAX_LIST, escape};

type Result<T> = std::result::Result<T, Failure>;

/// `kes identity assign <identity> <policy>`
pub(super) fn assign(args: &Args) -> Result<()> {
    let ([identity, policy], _) = arguments(args, ["identity", "policy"], 2)?;
    let path = format!(
        "/v1/identity/assign/{}/{}",
        escape(policy),
        escape(identity)
    );
    client(args)?
        .send("POST", &path, None, MAX_ANSWER)
        .map_err(|e| format!("failed to assign identity {identity:?} to policy {policy:?}: {e}"))?;
    let is_hex = |c: u8| matches!(c, b'0'..=b'9' | b'a'..=b'f');
    if identity.len() != 64 || !identity.bytes().all(is_hex) {
        let warning = Style::of_stderr().paint(Paint::Yellow, "Warning:");
        complain(&format!(
            "{warning} no client has the identity {identity:?}: they are 64 digits 0-9 a-f, see \
             'kes tool identity of'\n"
        ));
    }
    Ok(())
}

/// `kes identity list [<pattern>]`
pub(super) fn list(args: &Args) -> Result<()> {
    let ([], pattern) = arguments(args, [], 1)?;
    let pattern = pattern.first().map_or("*", String::as_str);
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
    let answer = client
        .send("GET", &path, None, MAX_LIST)
        .map_err(|e| e.to_string())?;
    parse(&answer).map_err(|e| format!("the server sent no list: {e}"))
}

/// Reads an identity list.
pub(super) fn parse(list: &[u8]) -> serde_json::Result<BTreeMap<String, String>> {
    serde_json::from_slice(list)
}

/// `kes identity forget <identity>`
pub(super) fn forget(args: &Args) -> Result<()> {
    let ([identity], _) = arguments(args, ["identity"], 1)?;
    let path = format!("/v1/identity/forget/{}", escape(identity));
    client(args)?
        .send("DELETE", &path, None, MAX_ANSWER)
        .map_err(|e| format!("failed to forget identity {identity:?}: {e}"))?;
    Ok(())
}
