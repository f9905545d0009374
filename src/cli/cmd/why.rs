//! `kes policy why`: whether an identity may call a path, what decides it, and what would change it.

use std::{borrow::Cow, path::Path};

use serde_json::json;

use crate::{
    api::{
        routes::{self, Access},
        spellings,
    },
    base::{generation::Generation, glob},
    cli::{
        args::{Args, Argument, Command, INSECURE, JSON, Kind, value},
        certificate::{identity_or_file, is_identity},
        client::Client,
        cmd::identity::doubt,
        output::{Failure, Paint, Style, harmless, print},
        settings::{ROOT, first_error},
    },
    config::{self, ApiOptions, Config, Flags, Loaded, Origin},
    policy::{Policy, Verdict},
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
policy of the identity. KES 0.14 itself does not tell who is root, and no server who is a
TLS proxy, or which APIs take clients without a certificate; a file does.
In place of the identity, the file of its certificate will do. The path is taken as rules
are compared with it: a '%' or '?' in it is a part of a name.",
    flags: &[value(&["config"], "file", "look into this configuration file"), ROOT, INSECURE, JSON],
    exit_codes: &[(0, "allowed"), (REFUSED, "refused"), (1, "failed")],
    examples: &["kes policy why --config config.yml \"$APP\" /v1/key/create/my-key"],
    run,
    ..Command::NEW
};

fn run(args: &Args) -> Result<(), Failure> {
    let (identity, path) = (args.get(0), args.get(1));
    if !path.starts_with('/') {
        return Err(format!("invalid path {path:?}: it must start with '/'").into());
    }
    let identity = &identity_or_file(identity)?;
    let (file, root) = (args.value("config"), args.value("root"));
    let is_public = |generation, apis: &[(String, ApiOptions)]| {
        let route = routes::find(path, generation);
        route.is_some_and(|route| route.access(apis) != Access::Policy)
    };
    let call = |generation| {
        let route = routes::find(path, generation);
        // As the server asks the policy.
        let path = route.map_or(path.into(), |route| route.slashed(path));
        Call { args, identity, path, file, generation, tells_root: true }
    };
    match file {
        _ if is_public(Generation::V0_14, &[]) => call(Generation::V0_14).tell(None),
        None if root.is_some() => Err("--root goes with --config: a server has its own".into()),
        Some(file) => {
            let loaded = from_file(file, root)?;
            let Config { policies, generation, apis, .. } = loaded.config();
            let call = call(*generation);
            match is_public(*generation, apis) {
                true => call.tell(None),
                false => {
                    let path = call.decisive(|path| policies.denies(identity, path));
                    call.tell(Some(policies.why(identity, &path)))
                }
            }
        }
        None => {
            let client = Client::new(args)?;
            let generation = client.generation();
            let generation =
                generation.map_err(|e| format!("failed to ask for the version: {e}"))?;
            let (is_root, name) = assignment(&client, generation, identity)?;
            let call = Call { tells_root: is_root.is_some(), ..call(generation) };
            let policy = match &name {
                Some(name) if is_root != Some(true) => policy(&client, name)?,
                _ => None,
            };
            call.tell(Some(match (&name, &policy) {
                _ if is_root == Some(true) => Verdict::Root,
                (None, _) => Verdict::Unassigned,
                (Some(policy), None) => Verdict::PolicyGone { policy },
                (Some(name), Some(policy)) => {
                    policy.why(name, &call.decisive(|path| policy.denies(path)))
                }
            }))
        }
    }
}

/// The settings of a configuration file for a server with this `--root`. What is wrong elsewhere in the
/// file, or comes from other flags, does not matter.
fn from_file(file: &str, root: Option<&str>) -> Result<Loaded, Failure> {
    let flags = Flags { root: root.map(Into::into), ..Flags::default() };
    let loaded = config::load(Origin::File(Path::new(file)), &flags, &[])?;
    let findings = loaded.findings();
    let wrong = first_error(&findings, &["policy", "tls.proxy"]);
    match wrong {
        None => Ok(loaded),
        Some(found) => {
            let place =
                found.position.map_or(String::new(), |at| format!(":{}:{}", at.line, at.column));
            Err(format!("{file}{place}: {}: see 'kes config check {file}'", found.message).into())
        }
    }
}

/// Whether `identity` is root, if the server tells, and the name of its policy.
fn assignment(
    client: &Client,
    generation: Generation,
    identity: &str,
) -> Result<(Option<bool>, Option<String>), Failure> {
    match client.describe(Some(identity)) {
        Ok(found) => {
            let name = Some(found.policy_name).filter(|name| !name.is_empty());
            // What KES 0.14 itself lists has a policy, and so is not root.
            Ok((Some(found.is_admin), name))
        }
        Err(e) if e == "identity does not exist" => Ok((Some(false), None)),
        Err(e) if generation.is_newest() => {
            Err(format!("failed to describe identity {identity:?}: {e}").into())
        }
        // KES 0.14 has no such API, and its rules rarely name that of others.
        Err(_) => {
            let assigned = client.identities(&glob::escape(identity));
            let assigned = assigned.map_err(|e| format!("failed to list identities: {e}"))?;
            let entry = assigned.into_iter().find(|entry| entry.name == *identity);
            Ok((None, entry.and_then(|entry| entry.policy)))
        }
    }
}

/// The policy called `name`, unless it does not exist.
fn policy(client: &Client, name: &str) -> Result<Option<Policy>, Failure> {
    match client.policy(name) {
        Err(e) if e == "policy does not exist" => Ok(None),
        Err(e) => Err(format!("failed to fetch policy {name:?}: {e}").into()),
        Ok(document) => Ok(Some(document.policy)),
    }
}

/// What is asked about.
struct Call<'a> {
    args: &'a Args,
    identity: &'a str,
    path: Cow<'a, str>,
    /// The file that the policies are from, instead of a server.
    file: Option<&'a str>,
    generation: Generation,
    /// Whether the file or the server says who is root.
    tells_root: bool,
}

impl Call<'_> {
    /// The path that decides, where `denies` knows the rules.
    fn decisive(&self, denies: impl Fn(&str) -> bool) -> Cow<'_, str> {
        spellings::decisive(&self.path, self.generation, denies)
    }

    /// Prints the verdict; without one, any client may call.
    fn tell(&self, verdict: Option<Verdict<'_>>) -> Result<(), Failure> {
        let is_allowed = verdict.as_ref().is_none_or(Verdict::is_allowed);
        let sentence = verdict.as_ref().map_or_else(
            || "allowed: any client may call this path".to_owned(),
            Verdict::to_string,
        );
        let (word, reason) = sentence.split_once(": ").unwrap_or((&sentence, ""));
        let advice = Advice::for_call(&self.path, self.generation);
        if self.args.is_set("json") {
            print(&self.as_json(is_allowed, reason, verdict.as_ref(), advice))?;
        } else {
            let paint = if is_allowed { Paint::Green } else { Paint::Red };
            let mut text =
                format!("{}: {}\n", Style::of_stdout().paint(paint, word), harmless(reason));
            text += &match (&verdict, advice) {
                (_, Advice::Mend(why)) => format!("Note: {why}, so the call fails in any case.\n"),
                (None, _) => String::new(),
                (Some(verdict), Advice::Add(pattern)) => self.advice(verdict, &pattern),
            };
            print(&text)?;
        }
        match is_allowed {
            true => Ok(()),
            false => Err(Failure::Exit(REFUSED)),
        }
    }

    /// What to do to have the call, which `pattern` would allow, allowed.
    fn advice(&self, verdict: &Verdict<'_>, pattern: &str) -> String {
        let identity = harmless(self.identity);
        let is_newest = self.generation.is_newest();
        let allow = if is_newest { "allow" } else { "paths" };
        // Policies of the newest generation are in a file, even if a server is asked.
        let file = match self.file {
            None if is_newest => Some("its configuration file".to_owned()),
            file => file.map(harmless),
        };
        let pattern = (scalar(pattern), quoted(pattern));
        match (verdict, file) {
            (Verdict::Refused { policy, .. }, Some(file)) => format!(
                "To allow it, add to policy.{}.{allow} in {file}:\n    - {}\n",
                harmless(policy),
                pattern.0
            ),
            (Verdict::Refused { policy, .. }, None) => format!(
                "To allow it, add the path to the policy, here and in the configuration file:\n    \
                 - {}\n'kes policy show {policy}' prints the policy, 'kes policy add {policy}' \
                 replaces it; in its JSON, the path is {}.\n",
                pattern.0,
                pattern.1,
                policy = harmless(policy),
            ),
            (Verdict::Denied { policy, .. }, _) => {
                format!("To allow it, remove that path from policy.{}.deny.\n", harmless(policy))
            }
            (Verdict::Unassigned, _) if !is_identity(self.identity) => {
                doubt(self.identity);
                String::new()
            }
            (Verdict::Unassigned, Some(file)) => format!(
                "To give it one, add to policy.<name>.identities in {file}:\n    - {identity}\n"
            ),
            (Verdict::Unassigned, None) => {
                let root =
                    "If it is the root identity, it may do everything: the server does not tell.\n";
                let root = if self.tells_root { "" } else { root };
                format!("To give it one: kes identity assign {identity} <policy>\n{root}")
            }
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
        let note = match &advice {
            Advice::Mend(why) => Some(format!("{why}, so the call fails in any case")),
            Advice::Add(_)
                if matches!(verdict, Some(Verdict::Unassigned)) && !is_identity(self.identity) =>
            {
                Some("what is asked about is no identity, which has 64 digits 0-9 a-f".to_owned())
            }
            Advice::Add(_) => None,
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
            "note": note,
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
