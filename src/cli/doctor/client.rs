//! The set-up of a client: each of its servers, whether it is trusted, and what the client may do there.

use serde_json::Value;

use super::{
    at_clock,
    look::{self, Way},
};
use crate::{
    base::{checkup::Checkup, generation::Generation},
    cli::{
        answers,
        args::Args,
        client::{Client, Error},
        environment,
    },
    policy::Rule,
    tls::ServerTrust,
};

const CLIENT: &str = "client";
const SERVER: &str = "server";
const RIGHTS: &str = "rights";
/// So many rules of a policy are shown.
const MAX_RULES: usize = 8;

/// Looks at the client that flags and environment describe, and at each of its servers.
pub(crate) fn examine(args: &Args, found: &mut Checkup) {
    let client = match Client::try_new(args) {
        Ok(client) => client,
        Err(e) => return fail(CLIENT, &e.to_string(), found),
    };
    found.ok(CLIENT, &format_args!("its identity is {}", client.identity()));
    if environment::servers(args).is_ok_and(|servers| servers.has_http) {
        let text = "the address of the server has http://, which is taken for https://";
        found.warn(CLIENT, &text, "write https://, as other clients, such as MinIO, need it");
    }
    for client in client.alone() {
        at_server(&client, found);
    }
}

fn at_server(client: &Client, found: &mut Checkup) {
    let server = client.server();
    let url = format!("{server}/version");
    let certificate = Some(client.certificate());
    let looked = look::look(&url, "KES_SERVER", &ServerTrust::Anything, certificate, Way::Proxy);
    at_clock(looked.ok().and_then(|look| look.ahead), server, found);
    let version = match client.get("/version") {
        Ok(version) => version,
        Err(e) => return fail(SERVER, &e.to_string(), found),
    };
    let version: Value = serde_json::from_slice(&version).unwrap_or_default();
    let version = version["version"].as_str().unwrap_or("of unknown version").to_owned();
    let identity = client.server_identity().unwrap_or_default();
    found.ok(SERVER, &format_args!("{server} answers: {version}, its identity is {identity}"));
    if let Some(why) = lacks_key_store(client) {
        let advice =
            "its error log says why; on its machine, 'kes doctor --config FILE' looks for it";
        found.fail(SERVER, &format_args!("{server}: {why}"), advice);
    }
    match client.describe(None) {
        Ok(own) if own.is_admin => {
            found.ok(RIGHTS, &format_args!("{server}: all of them, as this client is the admin"));
        }
        Ok(own) => {
            let rules = own.policy.map_or(Vec::new(), |policy| policy.allow);
            let shown = rules.iter().take(MAX_RULES).map(Rule::as_str).collect::<Vec<_>>();
            let more = if rules.len() > MAX_RULES { ", ..." } else { "" };
            let shown = shown.join(", ");
            let policy = own.policy_name;
            found.ok(RIGHTS, &format_args!("{server}: policy {policy:?} allows {shown}{more}"));
        }
        Err(e) => {
            let identity = client.identity();
            let advice = match client.generation().is_ok_and(Generation::is_newest) {
                true => format!(
                    "add {identity} to the identities of a policy in the file of the server, and reload \
                     it with SIGHUP"
                ),
                false => format!("as root: 'kes identity assign {identity} POLICY'"),
            };
            // Of a server that does not tell who is root, it may be this client.
            match e.starts_with("the server knows no policy of it") {
                true => found.warn(RIGHTS, &format_args!("{server}: {e}"), &advice),
                false => {
                    let why = match &*e {
                        "identity does not exist" => "no policy is for this client",
                        other => other,
                    };
                    found.fail(RIGHTS, &format_args!("{server}: {why}"), &advice);
                }
            }
        }
    }
}

/// What a server says of a key store that it can't use, if it says so to this client.
fn lacks_key_store(client: &Client) -> Option<String> {
    match client.get("/v1/ready") {
        Err(Error::Refused(500.., why)) => return Some(why),
        Err(Error::Refused(..)) => {}
        _ => return None,
    }
    let status: Value = serde_json::from_slice(&client.get("/v1/status").ok()?).ok()?;
    answers::lacks_key_store(&status).then(|| "the key store is not available".to_owned())
}

/// A message of several lines, which are one here: the first says what is wrong, the others what to do.
fn fail(about: &'static str, text: &str, found: &mut Checkup) {
    let (text, advice) = text.split_once('\n').unwrap_or((text, ""));
    found.fail(about, &text, &advice.replace("\n    ", " "));
}
