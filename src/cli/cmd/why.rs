//! `kes policy why`: whether an identity may call a path, what decides it, and what would change it.

use std::path::Path;

use serde_json::json;

use crate::{
    api::routes::{self, Access},
    base::{generation::Generation, glob},
    cli::{
        args::{Args, Argument, Command, INSECURE, JSON, Kind, value},
        certificate::identity_or_file,
        client::Client,
        output::{Failure, Paint, Style, harmless, print},
        settings::{ROOT, first_error},
    },
    config::{self, Flags, Origin},
    policy::{Policies, Policy, Verdict},
    request::advice::{Advice, quoted},
};

/// The exit code for a refused call.
const REFUSED: u8 = 3;

pub(crate) const WHY: Command = Command {
    path: &["policy", "why"],
    arguments: &[
        Argument::new("identity", "identity", Kind::Holder),
        Argument::new("path", "path", Kind::Text),
    ],
    summary: "Tell whether an identity may call a path, and why",
    details: "\
With --config, the configuration file decides; otherwise the server is asked for the
policy of the identity. A server does not tell who is root or a TLS proxy, a file does.
In place of the identity, the file of its certificate will do.",
    flags: &[value(&["config"], "file", "look into this configuration file"), ROOT, INSECURE, JSON],
    exit_codes: &[(0, "allowed"), (REFUSED, "refused"), (1, "failed")],
    examples: &["kes policy why --config config.yml \"$APP\" /v1/key/create/my-key"],
    run,
    ..Command::NEW
};

/// Where the policy is from, and thus where to change it.
enum Source<'a> {
    File(&'a str),
    Server,
}

fn run(args: &Args) -> Result<(), Failure> {
    let (identity, path) = (args.get(0), args.get(1));
    if !path.starts_with('/') {
        return Err(format!("invalid path {path:?}: it must start with '/'").into());
    }
    let identity = &identity_or_file(identity)?;
    let route = routes::find(path, Generation::V0_14);
    // As the server asks the policy.
    let path = &*route.map_or(path.into(), |route| route.slashed(path));
    let call = Call { identity, path };
    if route.is_some_and(|route| matches!(route.access, Access::Anyone)) {
        return call.tell(args, None, &Source::Server);
    }
    match args.value("config") {
        None if args.value("root").is_some() => {
            Err("--root goes with --config: a server has its own".into())
        }
        Some(file) => {
            let policies = from_file(file, args.value("root"))?;
            call.tell(args, Some(policies.why(identity, path)), &Source::File(file))
        }
        None => {
            let (name, policy) = from_server(args, identity)?;
            let verdict = match (&name, &policy) {
                (None, _) => Verdict::Unassigned,
                (Some(policy), None) => Verdict::PolicyGone { policy },
                (Some(name), Some(policy)) => policy.why(name, path),
            };
            call.tell(args, Some(verdict), &Source::Server)
        }
    }
}

/// The policies of a configuration file for a server with this `--root`. What is wrong elsewhere in the
/// file, or comes from other flags, does not matter.
fn from_file(file: &str, root: Option<&str>) -> Result<Policies, Failure> {
    let flags = Flags { root: root.map(Into::into), ..Flags::default() };
    let loaded = config::load(Origin::File(Path::new(file)), &flags, &[])?;
    let findings = loaded.findings();
    let wrong = first_error(&findings, &["policy", "tls.proxy"]);
    match wrong {
        None => Ok(loaded.config().policies.clone()),
        Some(found) => {
            let place =
                found.position.map_or(String::new(), |at| format!(":{}:{}", at.line, at.column));
            Err(format!("{file}{place}: {}: see 'kes config check {file}'", found.message).into())
        }
    }
}

/// The name of the policy of `identity`, and the policy.
fn from_server(args: &Args, identity: &str) -> Result<(Option<String>, Option<Policy>), Failure> {
    let client = Client::new(args)?;
    let assigned = client
        .identities(&glob::escape(identity))
        .map_err(|e| format!("failed to list identities: {e}"))?;
    let entry = assigned.into_iter().find(|entry| entry.name == *identity);
    let Some(name) = entry.and_then(|entry| entry.policy) else {
        return Ok((None, None));
    };
    match client.policy(&name) {
        Err(e) if e == "policy does not exist" => Ok((Some(name), None)),
        Err(e) => Err(format!("failed to fetch policy {name:?}: {e}").into()),
        Ok(document) => Ok((Some(name), Some(document.policy))),
    }
}

/// What is asked about.
struct Call<'a> {
    identity: &'a str,
    path: &'a str,
}

impl Call<'_> {
    /// Prints the verdict; without one, any client may call.
    fn tell(
        &self,
        args: &Args,
        verdict: Option<Verdict<'_>>,
        source: &Source<'_>,
    ) -> Result<(), Failure> {
        let is_allowed = verdict.as_ref().is_none_or(Verdict::is_allowed);
        let sentence = verdict.as_ref().map_or_else(
            || "allowed: any client may call this path".to_owned(),
            Verdict::to_string,
        );
        let (word, reason) = sentence.split_once(": ").unwrap_or((&sentence, ""));
        let advice = Advice::for_call(self.path, Generation::V0_14);
        if args.is_set("json") {
            print(&self.as_json(is_allowed, reason, verdict.as_ref(), advice))?;
        } else {
            let paint = if is_allowed { Paint::Green } else { Paint::Red };
            let mut text =
                format!("{}: {}\n", Style::of_stdout().paint(paint, word), harmless(reason));
            text += &match (&verdict, advice) {
                (_, Advice::Mend(why)) => format!("Note: {why}, so the call fails in any case.\n"),
                (None, _) => String::new(),
                (Some(verdict), Advice::Add(pattern)) => self.advice(verdict, &pattern, source),
            };
            print(&text)?;
        }
        match is_allowed {
            true => Ok(()),
            false => Err(Failure::Exit(REFUSED)),
        }
    }

    /// What to do to have the call, which `pattern` would allow, allowed.
    fn advice(&self, verdict: &Verdict<'_>, pattern: &str, source: &Source<'_>) -> String {
        let identity = harmless(self.identity);
        match (verdict, source) {
            (Verdict::Refused { policy, .. }, Source::File(file)) => format!(
                "To allow it, add to policy.{}.paths in {}:\n    - {}\n",
                harmless(policy),
                harmless(file),
                scalar(pattern)
            ),
            (Verdict::Refused { policy, .. }, Source::Server) => format!(
                "To allow it, add the path to the policy, here and in the configuration file:\n    \
                 - {}\n'kes policy show {policy}' prints the policy, 'kes policy add {policy}' \
                 replaces it; in its JSON, the path is {}.\n",
                scalar(pattern),
                quoted(pattern),
                policy = harmless(policy),
            ),
            (Verdict::Unassigned, Source::File(file)) => format!(
                "To give it one, add to policy.<name>.identities in {}:\n    - {identity}\n",
                harmless(file)
            ),
            (Verdict::Unassigned, Source::Server) => format!(
                "To give it one: kes identity assign {identity} <policy>\n\
                 If it is the root identity, it may do everything: the server does not tell.\n"
            ),
            _ => String::new(),
        }
    }

    fn as_json(
        &self,
        is_allowed: bool,
        reason: &str,
        verdict: Option<&Verdict<'_>>,
        advice: Advice,
    ) -> String {
        let (policy, pattern, nearest) = match verdict {
            Some(Verdict::Allowed { policy, pattern } | Verdict::Denied { policy, pattern }) => {
                (Some(*policy), Some(*pattern), None)
            }
            Some(Verdict::Refused { policy, nearest }) => (Some(*policy), None, *nearest),
            Some(Verdict::PolicyGone { policy }) => (Some(*policy), None, None),
            _ => (None, None, None),
        };
        let add = match (verdict, advice) {
            (Some(Verdict::Refused { .. }), Advice::Add(pattern)) => Some(pattern),
            _ => None,
        };
        let answer = json!({
            "allowed": is_allowed,
            "identity": self.identity,
            "path": self.path,
            "reason": reason,
            "policy": policy,
            "pattern": pattern,
            "nearest": nearest,
            "add": add,
        });
        format!("{answer}\n")
    }
}

/// `text` as a YAML value, in a list of either style.
fn scalar(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/_.*-".contains(c);
    match text.starts_with('/') && text.chars().all(is_plain) {
        true => text.to_owned(),
        false => quoted(text),
    }
}
