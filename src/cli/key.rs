//! `kes key ...`

use std::io::Read as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;

use super::{
    Args, Failure, arguments, check_name, client, pattern, print, stdin, style::harmless, tell,
    wants_json, warn,
};
use crate::{
    client::{self, Client, MAX_ANSWER, MAX_LIST, escape},
    crypto::KEY_SIZE,
};

type Result<T> = std::result::Result<T, Failure>;

/// What is missing without an argument.
const NAME: [&str; 1] = ["key name"];

/// The longest value that is read from standard input, in bytes.
const MAX_STDIN: u64 = 2 << 20;

/// `kes key create <name> [<key>]`
pub(super) fn create(args: &Args) -> Result<()> {
    let ([name], key) = arguments(args, NAME, 2)?;
    check_name("key", name)?;
    if let Some(key) = key.first() {
        return import_key(args, name, key);
    }
    client(args)?
        .send("POST", &path("create", name), None, MAX_ANSWER)
        .map_err(|e| Failure::Plain(format!("Failed to create key {name:?}: {e}")))?;
    Ok(())
}

/// `kes key import <name> <key>`
pub(super) fn import(args: &Args) -> Result<()> {
    let ([name, key], _) = arguments(args, ["key name", "key"], 2)?;
    check_name("key", name)?;
    import_key(args, name, key)
}

fn import_key(args: &Args, name: &str, key: &str) -> Result<()> {
    let key = value("key", key)?;
    client(args)?
        .send("POST", &path("import", name), Some(&body(&[("bytes", &key)])), MAX_ANSWER)
        .map_err(|e| format!("failed to import key {name:?}: {e}"))?;
    Ok(())
}

/// `kes key delete <name>...`
pub(super) fn delete(args: &Args) -> Result<()> {
    let ([_], _) = arguments(args, NAME, usize::MAX)?;
    let mut is_done = true;
    let mut report = |failure: &Failure| {
        tell(failure);
        is_done = false;
    };
    let mut names = Vec::new();
    for name in &args.positional {
        match check_name("key", name) {
            Ok(()) => names.push(name),
            Err(failure) => report(&failure),
        }
    }
    if !names.is_empty() {
        let client = client(args)?;
        let mut is_reachable = true;
        for name in names {
            let failed = |why: &str| format!("failed to delete key {name:?}: {why}").into();
            if !is_reachable {
                report(&failed("not tried without a server"));
                continue;
            }
            if name.contains(['*', '?', '[']) {
                warn(&format!("{name:?} is taken for a name, not for a pattern"));
            }
            if let Err(e) = client.send("DELETE", &path("delete", name), None, MAX_ANSWER) {
                report(&failed(&e.to_string()));
                is_reachable = matches!(e, client::Error::Refused(_));
            }
        }
    }
    match is_done {
        true => Ok(()),
        false => Err(Failure::Exit(1)),
    }
}

/// `kes key list [<pattern>]`
pub(super) fn list(args: &Args) -> Result<()> {
    let pattern = pattern(args)?;
    let failed = |why: String| format!("failed to list keys matching {pattern:?}: {why}");
    let lines = client(args)?
        .send("GET", &path("list", pattern), None, MAX_LIST)
        .map_err(|e| failed(e.to_string()))?;
    let names = names(&lines).map_err(|e| failed(format!("the server sent no list: {e}")))?;
    let as_json = wants_json(args);
    let mut text = String::new();
    for name in names {
        if as_json {
            text.push_str(&serde_json::json!({ "name": name }).to_string());
        } else {
            // A name can't hold control characters on this server, but this may be another.
            text.push_str(&harmless(&name));
        }
        text.push('\n');
    }
    print(&text)
}

/// The names in the lines of a list, sorted.
pub(super) fn names(lines: &[u8]) -> serde_json::Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Line {
        #[serde(alias = "Name")]
        name: String,
    }
    let lines = serde_json::Deserializer::from_slice(lines).into_iter::<Line>();
    let mut names: Vec<_> = lines.map(|line| Ok(line?.name)).collect::<serde_json::Result<_>>()?;
    names.sort();
    Ok(names)
}

/// `kes key derive <name> [<context>]`
pub(super) fn derive(args: &Args) -> Result<()> {
    let ([name], context) = arguments(args, NAME, 2)?;
    check_name("key", name)?;
    let context = optional("context", context.first())?;
    let answer: Answer = call(args, "generate", name, &[("context", &context)])
        .map_err(|e| format!("failed to derive key: {e}"))?;
    let (plaintext, ciphertext) = (answer.plaintext(), answer.ciphertext());
    if plaintext.is_empty() || ciphertext.is_empty() {
        return Err("failed to derive key: the server sent no key".into());
    }
    print(&if wants_json(args) {
        format!("{{\"plaintext\":\"{plaintext}\",\"ciphertext\":\"{ciphertext}\"}}")
    } else {
        format!("{{\n  plaintext : {plaintext}\n  ciphertext: {ciphertext}\n}}\n")
    })
}

/// `kes key encrypt <name> <plaintext> [<context>]`
pub(super) fn encrypt(args: &Args) -> Result<()> {
    let ([name, plaintext], context) = arguments(args, ["key name", "plaintext"], 3)?;
    check_name("key", name)?;
    only_one_from_stdin(args)?;
    let plaintext = value("plaintext", plaintext)?;
    let context = optional("context", context.first())?;
    let answer = call(args, "encrypt", name, &[("plaintext", &plaintext), ("context", &context)])
        .map_err(|e| format!("failed to encrypt plaintext: {e}"))?;
    if answer.ciphertext().is_empty() {
        return Err("failed to encrypt plaintext: the server sent no ciphertext".into());
    }
    show(args, "ciphertext", answer.ciphertext())
}

/// `kes key decrypt <name> <ciphertext> [<context>]`
pub(super) fn decrypt(args: &Args) -> Result<()> {
    let ([name, ciphertext], context) = arguments(args, ["key name", "ciphertext"], 3)?;
    check_name("key", name)?;
    only_one_from_stdin(args)?;
    let ciphertext = value("ciphertext", ciphertext)?;
    let context = optional("context", context.first())?;
    let answer = call(args, "decrypt", name, &[("ciphertext", &ciphertext), ("context", &context)])
        .map_err(|e| format!("failed to decrypt ciphertext: {e}"))?;
    show(args, "plaintext", answer.plaintext())
}

/// The members that answers have.
#[derive(Default, Deserialize)]
struct Answer {
    plaintext: Option<String>,
    ciphertext: Option<String>,
}

impl Answer {
    /// An empty plaintext may come as `null`.
    fn plaintext(&self) -> &str {
        self.plaintext.as_deref().unwrap_or_default()
    }

    fn ciphertext(&self) -> &str {
        self.ciphertext.as_deref().unwrap_or_default()
    }
}

fn call(
    args: &Args,
    api: &str,
    name: &str,
    members: &[(&str, &str)],
) -> std::result::Result<Answer, String> {
    let client = Client::from_env(args.is_set("insecure")).map_err(|e| e.to_string())?;
    let answer = client
        .send("POST", &path(api, name), Some(&body(members)), MAX_ANSWER)
        .map_err(|e| e.to_string())?;
    let answer: Answer = serde_json::from_slice(&answer)
        .map_err(|e| format!("the server sent no valid answer: {e}"))?;
    // What goes to the terminal as it is must not hold more than base64.
    let is_base64 = |c: u8| c.is_ascii_alphanumeric() || b"+/=".contains(&c);
    if !answer.plaintext().bytes().all(is_base64) || !answer.ciphertext().bytes().all(is_base64) {
        return Err("the server sent no valid answer: not base64".to_owned());
    }
    Ok(answer)
}

fn path(api: &str, argument: &str) -> String {
    format!("/v1/key/{api}/{}", escape(argument))
}

fn show(args: &Args, label: &str, value: &str) -> Result<()> {
    print(&if wants_json(args) {
        format!("{{\"{label}\":\"{value}\"}}")
    } else {
        format!("\n  {label}: {value}\n")
    })
}

/// A JSON object of base64 texts; empty ones are left out.
fn body(members: &[(&str, &str)]) -> Vec<u8> {
    let mut json = b"{".to_vec();
    for (name, value) in
        members.iter().filter(|(name, value)| !value.is_empty() || *name == "plaintext")
    {
        if json.len() > 1 {
            json.push(b',');
        }
        for part in ["\"", name, "\":\"", value, "\""] {
            json.extend_from_slice(part.as_bytes());
        }
    }
    json.push(b'}');
    json
}

/// A second value would find standard input empty, and an empty context is a valid one.
fn only_one_from_stdin(args: &Args) -> Result<()> {
    match args.positional[1..].iter().filter(|arg| *arg == "-").count() {
        0 | 1 => Ok(()),
        _ => Err("only one value can be read from standard input".into()),
    }
}

fn optional(what: &str, given: Option<&String>) -> Result<String> {
    given.map_or_else(|| Ok(String::new()), |text| value(what, text))
}

/// A base64 argument, checked; `-` stands for standard input.
fn value(what: &str, given: &str) -> Result<String> {
    let mut text = given.to_owned();
    if given == "-" {
        text.clear();
        let mut read = String::new();
        stdin(what)
            .take(MAX_STDIN)
            .read_to_string(&mut read)
            .map_err(|e| format!("failed to read {what} from standard input: {e}"))?;
        text.push_str(read.trim());
    }
    if text.is_empty() && matches!(what, "key" | "ciphertext") {
        return Err(format!("invalid {what}: it is empty").into());
    }
    match STANDARD.decode(text.as_bytes()) {
        Ok(key) if what == "key" && key.len() != KEY_SIZE => {
            Err(format!("invalid key: it has {} bytes, and must have {}", key.len(), KEY_SIZE)
                .into())
        }
        Ok(_) => Ok(text),
        Err(base64::DecodeError::InvalidByte(at, _)) => {
            Err(format!("invalid {what}: illegal base64 data at input byte {at}").into())
        }
        Err(_) => Err(format!(
            "invalid {what}: not padded standard base64, as the command 'base64' prints it"
        )
        .into()),
    }
}
