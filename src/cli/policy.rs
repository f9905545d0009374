//! `kes policy add|show|list|delete`

use std::{fmt, fs::File, io::Read};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor},
};

use super::{
    Args, Failure, arguments, check_name, client, pattern, print, stdin, style::harmless,
    wants_json,
};
use crate::{
    base::glob::Pattern,
    client::{Client, MAX_ANSWER, MAX_LIST, escape},
};

type Result<T> = std::result::Result<T, Failure>;

/// The largest policy that a server takes, in bytes.
const MAX_POLICY: u64 = 1 << 20;

/// A policy as the API has it.
#[derive(Default, Deserialize, Serialize)]
pub(super) struct Document {
    #[serde(default)]
    paths: Vec<String>,
}

/// `kes policy add <name> [<file>]`
pub(super) fn add(args: &Args) -> Result<()> {
    let ([name], file) = arguments(args, ["policy name"], 2)?;
    check_name("policy", name)?;
    let policy = match file.first().map(String::as_str) {
        None | Some("-") => parse(stdin("policy"))
            .map_err(|e| format!("failed to read policy file from standard input: {e}"))?,
        Some(path) => {
            let file = File::open(path).map_err(|e| format!("failed to open {path:?}: {e}"))?;
            parse(file).map_err(|e| format!("failed to read policy file from {path:?}: {e}"))?
        }
    };
    let failed = |e: String| format!("failed to add policy {name:?}: {e}");
    let body = serde_json::to_vec(&policy).map_err(|e| failed(e.to_string()))?;
    client(args)?
        .send("POST", &path("write", name), Some(&body), MAX_ANSWER)
        .map_err(|e| failed(e.to_string()))?;
    Ok(())
}

/// Reads `{"paths":[...]}` as a server does, and says what is wrong with it.
fn parse(from: impl Read) -> std::result::Result<Document, String> {
    let mut text = Vec::new();
    let read = from.take(MAX_POLICY + 1).read_to_end(&mut text);
    read.map_err(|e| e.to_string())?;
    if text.len() as u64 > MAX_POLICY {
        return Err("larger than 1 MiB".to_owned());
    }
    let Members(members) = serde_json::from_slice(&text).map_err(|e| e.to_string())?;
    let mut found: Option<Document> = None;
    for (member, value) in members {
        if !member.eq_ignore_ascii_case("paths") {
            return Err(format!("unknown member {member:?}: a policy is {{\"paths\":[...]}}"));
        }
        let paths: Option<Vec<String>> = serde_json::from_value(value)
            .map_err(|e| format!("\"paths\" is no list of paths: {e}"))?;
        let paths = paths.unwrap_or_default();
        if found.replace(Document { paths }).is_some() {
            return Err("\"paths\" is there twice".to_owned());
        }
    }
    let policy = found.unwrap_or_default();
    for path in &policy.paths {
        Pattern::parse(path).map_err(|e| format!("{path:?}: {e}"))?;
    }
    Ok(policy)
}

/// The members of a JSON object as it has them: a map would keep one of two with the same name.
struct Members(Vec<(String, serde_json::Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        from.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Members, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Members(members))
    }
}

/// `kes policy show <name>`
pub(super) fn show(args: &Args) -> Result<()> {
    let ([name], _) = arguments(args, ["policy name"], 1)?;
    check_name("policy", name)?;
    let policy =
        fetch(&client(args)?, name).map_err(|e| format!("failed to fetch policy {name:?}: {e}"))?;
    if wants_json(args) {
        return print(&serde_json::to_string(&policy).unwrap_or_default());
    }
    let lines = policy.paths.iter().filter(|path| !path.is_empty());
    let lines: String = lines.map(|path| format!("  {}\n", harmless(path))).collect();
    print(&format!("[\n{lines}]\n\n"))
}

/// The policy called `name`, from the server.
pub(super) fn fetch(client: &Client, name: &str) -> std::result::Result<Document, String> {
    let answer =
        client.send("GET", &path("read", name), None, MAX_ANSWER).map_err(|e| e.to_string())?;
    serde_json::from_slice(&answer).map_err(|e| format!("the server sent no policy: {e}"))
}

/// `kes policy list [<pattern>]`
pub(super) fn list(args: &Args) -> Result<()> {
    let pattern = pattern(args)?;
    let failed = |why: String| format!("failed to list policies matching {pattern:?}: {why}");
    let answer = client(args)?
        .send("GET", &path("list", pattern), None, MAX_LIST)
        .map_err(|e| failed(e.to_string()))?;
    let names = names(&answer).map_err(|e| failed(format!("the server sent no list: {e}")))?;
    if wants_json(args) {
        return print(&format!("{}\n", serde_json::json!(names)));
    }
    let lines: String = names.iter().map(|name| format!("  {}\n", harmless(name))).collect();
    print(&format!("[\n{lines}]\n"))
}

/// The names in a list, sorted.
pub(super) fn names(list: &[u8]) -> serde_json::Result<Vec<String>> {
    let mut names: Vec<String> = serde_json::from_slice(list)?;
    names.sort();
    Ok(names)
}

/// `kes policy delete <name>`
pub(super) fn delete(args: &Args) -> Result<()> {
    let ([name], _) = arguments(args, ["policy name"], 1)?;
    check_name("policy", name)?;
    client(args)?
        .send("DELETE", &path("delete", name), None, MAX_ANSWER)
        .map_err(|e| format!("failed to delete policy {name:?}: {e}"))?;
    Ok(())
}

fn path(api: &str, argument: &str) -> String {
    format!("/v1/policy/{api}/{}", escape(argument))
}

impl Document {
    /// The policy with its paths as patterns.
    pub(super) fn parsed(&self) -> std::result::Result<crate::policy::Policy, String> {
        let parse = |path: &String| Pattern::parse(path).map_err(|e| format!("{path:?}: {e}"));
        Ok(crate::policy::Policy {
            paths: self.paths.iter().map(parse).collect::<std::result::Result<_, _>>()?,
        })
    }
}
