//! `kes identity info|assign|list|forget`

use serde_json::{Map, Value};

use crate::{
    cli::{
        answers::Entry,
        args::{Args, Argument, CLIENT, Command, IDENTITY, Kind, POLICY, SILENT},
        certificate::{identity_or_file, identity_or_key, is_identity},
        client::{Client, path},
        layout,
        output::{Paint, Result, Style, harmless, print, print_lines, warn},
    },
    policy::Rule,
};

pub(crate) const ASSIGN: Command = Command {
    path: &["identity", "assign"],
    arguments: &[IDENTITY, Argument { name: "policy", what: "policy", ..POLICY }],
    summary: "Assign an identity to a policy; it loses the one it had",
    details: "\
It lasts until the server ends; put assignments that should last longer into its
configuration file.",
    flags: SILENT,
    examples: &["kes identity assign \"$APP\" my-app"],
    run: assign,
    ..Command::NEW
};

pub(crate) const LIST: Command = Command {
    path: &["identity", "list"],
    aliases: &[&["identity", "ls"]],
    arguments: &[Argument::pattern(Kind::Identity)],
    summary: "List identities with their policies",
    details: "'kes identity ls' prints a table without them and, with --json, an array.",
    flags: CLIENT,
    examples: &["kes identity list"],
    run: list,
    ..Command::NEW
};

pub(crate) const FORGET: Command = Command {
    path: &["identity", "forget"],
    aliases: &[&["identity", "rm"]],
    arguments: &[IDENTITY],
    summary: "Remove the policy of an identity",
    flags: SILENT,
    examples: &[
        "kes identity forget 736bf58626441e3e134a2daf2e6a8441b40e1abc0eac510878168c8aac9f2b0b",
    ],
    run: forget,
    ..Command::NEW
};

/// What to do where policies are only in the configuration file.
const IN_FILE: &str = "edit policy.<name>.identities in its configuration file and reload it";

pub(crate) const INFO: Command = Command {
    path: &["identity", "info"],
    arguments: &[IDENTITY.optional()],
    summary: "Print what a server knows of an identity, or of your own",
    flags: CLIENT,
    examples: &["kes identity info"],
    run: info,
    ..Command::NEW
};

fn info(args: &Args) -> Result<()> {
    let client = Client::new(args)?;
    let identity = args.optional(0).map(identity_or_key).transpose()?;
    let identity = identity.as_deref();
    let shown = identity.unwrap_or(client.identity());
    let found = client.describe(identity);
    let found = found.map_err(|e| {
        // What there is are admin and those that a policy names.
        let why = if e == "identity does not exist" { ": no policy is for it" } else { "" };
        format!("failed to describe identity {shown:?}: {e}{why}")
    })?;
    if args.is_set("json") {
        return print(&format!("{}\n", found.json));
    }
    let policy = match found.policy {
        // It may not be for us to see.
        None if !found.policy_name.is_empty() => {
            client.policy(&found.policy_name).ok().map(|document| document.policy)
        }
        policy => policy,
    };
    let role = if found.is_admin { "Admin" } else { "User" };
    let mut lines = vec![
        ("Identity", shown),
        ("Created At", &found.created_at),
        ("Role", role),
        ("Created By", &found.created_by),
        ("Policy", &found.policy_name),
    ];
    if let Some(policy) = &policy {
        for (label, rules) in [("Allow", &policy.allow), ("Deny", &policy.deny)] {
            let labels = std::iter::once(label).chain(std::iter::repeat(""));
            lines.extend(labels.zip(rules.iter().map(Rule::as_str)));
        }
    }
    lines.retain(|(_, value)| !value.is_empty());
    let style = Style::of_stdout();
    let label = |label: &str| style.paint(Paint::Bold, &format!("{label:<11}"));
    let line = |(name, value): &(&str, &str)| format!("{} {}\n", label(name), harmless(value));
    print(&lines.iter().map(line).collect::<String>())
}

fn assign(args: &Args) -> Result<()> {
    let (identity, policy) = (&*identity_or_key(args.get(0))?, args.get(1));
    let client = Client::new(args)?;
    client
        .post(&path("identity/assign", &[policy, identity]), None)
        .map_err(|e| client.gone(e, IN_FILE))
        .map_err(|e| format!("failed to assign identity {identity:?} to policy {policy:?}: {e}"))?;
    doubt(identity);
    Ok(())
}

fn list(args: &Args) -> Result<()> {
    let pattern = args.pattern();
    let client = Client::new(args)?;
    let found = client
        .identities(pattern)
        .map_err(|e| format!("failed to list identities matching {pattern:?}: {e}"))?;
    // Its policies are not in the list, so the output is that of its own command line.
    if args.by_alias || client.generation()?.is_newest() {
        let names: Vec<_> = found.into_iter().map(|entry| entry.name).collect();
        return layout::list(args, "Identity", &names);
    }
    let policy = |entry: &Entry| entry.policy.clone().unwrap_or_default();
    match args.wants_json() {
        true => {
            let mut map = Map::new();
            map.extend(found.iter().map(|entry| (entry.name.clone(), policy(entry).into())));
            print(&Value::Object(map).to_string())
        }
        false => {
            let line = |entry: &Entry| format!("  {} => {}", entry.name, policy(entry));
            print_lines("{\n", found.iter().map(line), "}\n")
        }
    }
}

fn forget(args: &Args) -> Result<()> {
    let identity = &*identity_or_key(args.get(0))?;
    let client = Client::new(args)?;
    client
        .delete(&path("identity/forget", &[identity]))
        .map_err(|e| client.gone(e, IN_FILE))
        .map_err(|e| format!("failed to forget identity {identity:?}: {e}"))?;
    doubt(identity);
    Ok(())
}

/// Warns of an identity that no client can have, such as the file name of a certificate.
pub(crate) fn doubt(identity: &str) {
    if is_identity(identity) {
        return;
    }
    let why = match identity_or_file(identity) {
        Ok(meant) if meant != identity => format!("the certificate in that file has {meant}"),
        _ => "they are 64 digits 0-9 a-f, see 'kes identity of'".to_owned(),
    };
    warn(&format!("no client has the identity {identity:?}: {why}"));
}
