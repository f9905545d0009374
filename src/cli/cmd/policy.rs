//! `kes policy add|show|list|delete`

use std::{fmt, fs::File, io::Read};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Value, json};

use crate::{
    cli::{
        answers::Document,
        args::{Args, Argument, CLIENT, Command, Kind, POLICY, SILENT},
        client::{Client, path},
        layout,
        output::{Paint, Result, Style, harmless, print, print_lines, stdin},
    },
    policy::{Policy, Rule, RuleList},
};

/// The largest policy that a server takes, in bytes.
const MAX_POLICY: u64 = 1 << 20;

pub(crate) const ADD: Command = Command {
    path: &["policy", "add"],
    aliases: &[&["policy", "create"]],
    arguments: &[POLICY, Argument::new("file", "file", Kind::File).optional()],
    summary: "Create a policy, or replace its paths",
    details: "\
The policy is JSON: {\"paths\":[\"/v1/key/create/my-app-*\",...]}. Without a file, or with '-',
it is read from standard input. It lasts until the server ends; put policies that should
last longer into its configuration file.",
    flags: SILENT,
    examples: &["kes policy add my-app my-app.json"],
    run: add,
    ..Command::NEW
};

pub(crate) const SHOW: Command = Command {
    path: &["policy", "show"],
    arguments: &[POLICY],
    summary: "Print the paths that a policy allows and denies",
    flags: CLIENT,
    examples: &["kes policy show my-app"],
    run: show,
    ..Command::NEW
};

pub(crate) const INFO: Command = Command {
    path: &["policy", "info"],
    arguments: &[POLICY],
    summary: "Print when a policy was created, and by which identity",
    flags: CLIENT,
    examples: &["kes policy info my-app"],
    run: |args| {
        let labels = [("Name", "name"), ("Date", "created_at"), ("Created by", "created_by")];
        layout::describe(args, "policy", &labels)
    },
    ..Command::NEW
};

pub(crate) const LIST: Command = Command {
    path: &["policy", "list"],
    aliases: &[&["policy", "ls"]],
    arguments: &[Argument::pattern(Kind::Policy)],
    summary: "List the policies that match a pattern",
    details: "'kes policy ls' prints a table unless --json is set.",
    flags: CLIENT,
    examples: &["kes policy list 'my-*'"],
    run: list,
    ..Command::NEW
};

pub(crate) const DELETE: Command = Command {
    path: &["policy", "delete"],
    aliases: &[&["policy", "rm"]],
    arguments: &[POLICY],
    summary: "Delete a policy and its assignments",
    flags: SILENT,
    examples: &["kes policy delete my-app"],
    run: delete,
    ..Command::NEW
};

fn add(args: &Args) -> Result<()> {
    let name = args.get(0);
    let policy = match args.optional(1) {
        None | Some("-") => parse(stdin("policy"))
            .map_err(|e| format!("failed to read policy file from standard input: {e}"))?,
        Some(path) => {
            let file = File::open(path).map_err(|e| format!("failed to open {path:?}: {e}"))?;
            parse(file).map_err(|e| format!("failed to read policy file from {path:?}: {e}"))?
        }
    };
    let failed = |e: &dyn fmt::Display| format!("failed to add policy {name:?}: {e}");
    let body = serde_json::to_vec(&policy).map_err(|e| failed(&e))?;
    let client = Client::new(args)?;
    let added = client.post(&path("policy/write", &[name]), Some(&body));
    added.map_err(|e| failed(&client.gone(e, IN_FILE)))?;
    // Versions of 2022 take `paths` for nothing, and the policy would be empty.
    let is_other = || client.policy(name).is_ok_and(|found| found.policy != policy);
    if is_other() {
        let body = json!({ "allow": RuleList(&policy.allow), "deny": RuleList(&policy.deny) });
        let body = body.to_string().into_bytes();
        client.post(&path("policy/write", &[name]), Some(&body)).map_err(|e| failed(&e))?;
        if is_other() {
            return Err(failed(&"the server has made another policy of it").into());
        }
    }
    Ok(())
}

fn show(args: &Args) -> Result<()> {
    let name = args.get(0);
    let document = Client::new(args)?.policy(name);
    let Document { json, policy } =
        document.map_err(|e| format!("failed to fetch policy {name:?}: {e}"))?;
    if args.wants_json() {
        return print(&json);
    }
    let value: Value = serde_json::from_str(&json).unwrap_or_default();
    if value.get("paths").is_some() && policy.deny.is_empty() {
        let paths = policy.allow.iter().map(Rule::as_str).filter(|path| !path.is_empty());
        return print_lines("[\n", paths.map(|path| format!("  {path}")), "]\n\n");
    }
    let mut text = String::new();
    for (label, rules) in [("Allow:", &policy.allow), ("Deny:", &policy.deny)] {
        if !rules.is_empty() {
            text += &format!("{}\n", Style::of_stdout().paint(Paint::Bold, label));
            text.extend(rules.iter().map(|rule| format!("  • {}\n", harmless(rule.as_str()))));
        }
    }
    for (label, member) in [("Created at:", "created_at"), ("Created by:", "created_by")] {
        if let Some(value) = value[member].as_str() {
            let value = if member == "created_at" { layout::date(value) } else { value.to_owned() };
            text += &layout::facts(&[(label, value)]);
        }
    }
    print(&text)
}

fn list(args: &Args) -> Result<()> {
    let pattern = args.pattern();
    let names = Client::new(args)?
        .policies(pattern)
        .map_err(|why| format!("failed to list policies matching {pattern:?}: {why}"))?;
    if args.by_alias {
        return layout::list(args, "Policy", &names);
    }
    match args.wants_json() {
        true => print(&format!("{}\n", json!(names))),
        false => print_lines("[\n", names.iter().map(|name| format!("  {name}")), "]\n"),
    }
}

/// What to do where policies are only in the configuration file.
const IN_FILE: &str = "edit policy.<name> in its configuration file and reload it";

fn delete(args: &Args) -> Result<()> {
    let name = args.get(0);
    let client = Client::new(args)?;
    let deleted = client.delete(&path("policy/delete", &[name]));
    deleted
        .map_err(|e| format!("failed to delete policy {name:?}: {}", client.gone(e, IN_FILE)))?;
    Ok(())
}

/// Reads `{"paths":[...]}` as a server does, and says what is wrong with it.
fn parse(from: impl Read) -> std::result::Result<Policy, String> {
    let mut text = Vec::new();
    from.take(MAX_POLICY + 1).read_to_end(&mut text).map_err(|e| e.to_string())?;
    if text.len() as u64 > MAX_POLICY {
        return Err("larger than 1 MiB".to_owned());
    }
    if text.trim_ascii().is_empty() {
        return Err(
            "it is empty: a policy is {\"paths\":[...]}, or {\"allow\":[...],\"deny\":[...]}"
                .into(),
        );
    }
    let Members(members) = serde_json::from_slice(&text).map_err(|e| e.to_string())?;
    Policy::from_members(members)
}

/// The members of a JSON object as it has them: a map would keep one of two with the same name.
struct Members(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        from.deserialize_map(All)
    }
}
