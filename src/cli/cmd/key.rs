//! `kes key ...`

use std::io::{self, Read as _};

use base64::{DecodeError, Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;

use crate::{
    cli::{
        args::{Args, Argument, CLIENT, Command, KEY, Kind, SILENT},
        client::{Client, Error, path},
        layout,
        output::{Failure, Result, print, print_lines, stdin, warn},
    },
    crypto::KEY_SIZE,
};

/// The longest value that is read from standard input, in bytes.
const MAX_STDIN: u64 = 2 << 20;

const STDIN: &str =
    "'-' reads the value from standard input, so that it is not seen in the list of processes.";

const NEW_KEY: Argument = Argument::new("name", "key name", Kind::NewKey);
const VALUE: Argument = Argument::new("key", "key", Kind::Text);
const MESSAGE: Argument = Argument::new("message", "message", Kind::Text);
const CIPHERTEXT: Argument = Argument::new("ciphertext", "ciphertext", Kind::Text);
const CONTEXT: Argument = Argument::new("context", "context", Kind::Text).optional();

pub(crate) const CREATE: Command = Command {
    path: &["key", "create"],
    arguments: &[NEW_KEY.repeated()],
    summary: "Create keys",
    details: "\
Each failure is reported, and the keys after it are created all the same. As in KES 0.14,
a key in base64 or '-' behind a single name is imported under it, as by 'kes key import'.",
    flags: SILENT,
    examples: &["kes key create my-key", "kes key create test-1 test-2"],
    run: create,
    ..Command::NEW
};

pub(crate) const IMPORT: Command = Command {
    path: &["key", "import"],
    arguments: &[NEW_KEY, VALUE],
    summary: "Import a key of 32 bytes in base64",
    details: STDIN,
    flags: SILENT,
    examples: &["openssl rand -base64 32 | kes key import my-key -"],
    run: import,
    ..Command::NEW
};

pub(crate) const DELETE: Command = Command {
    path: &["key", "delete"],
    aliases: &[&["key", "rm"]],
    arguments: &[KEY.repeated()],
    summary: "Delete keys; everything encrypted under them is lost",
    details: "\
A name is no pattern: 'my-*' is the key of that name. Each failure is reported, and the
keys after it are deleted all the same.",
    flags: SILENT,
    examples: &["kes key delete my-key", "kes key delete test-1 test-2"],
    run: delete,
    ..Command::NEW
};

pub(crate) const LIST: Command = Command {
    path: &["key", "list"],
    aliases: &[&["key", "ls"]],
    arguments: &[Argument::pattern(Kind::Key)],
    summary: "List the keys that match a pattern",
    details: "'kes key ls' prints a table and, with --json, an array.",
    flags: CLIENT,
    examples: &["kes key list 'my-*'"],
    run: list,
    ..Command::NEW
};

pub(crate) const INFO: Command = Command {
    path: &["key", "info"],
    arguments: &[KEY],
    summary: "Print when a key was created, by which identity, and its algorithm",
    flags: CLIENT,
    examples: &["kes key info my-key"],
    run: |args| {
        let labels = [
            ("Name", "name"),
            ("Algorithm", "algorithm"),
            ("Date", "created_at"),
            ("Owner", "created_by"),
        ];
        layout::describe(args, "key", &labels)
    },
    ..Command::NEW
};

pub(crate) const DERIVE: Command = Command {
    path: &["key", "derive"],
    aliases: &[&["key", "dek"]],
    arguments: &[KEY, CONTEXT],
    summary: "Generate a data key: its plaintext and its ciphertext",
    details: "The context is base64; '-' reads it from standard input.",
    flags: CLIENT,
    examples: &["kes key derive my-key"],
    run: derive,
    ..Command::NEW
};

pub(crate) const ENCRYPT: Command = Command {
    path: &["key", "encrypt"],
    arguments: &[KEY, MESSAGE, CONTEXT],
    summary: "Encrypt a message",
    details: "\
The message is encrypted as it stands; '-' reads it from standard input, so that it is not
seen in the list of processes, and to the last byte. The context is base64.",
    flags: CLIENT,
    examples: &["kes key encrypt my-key 'Hello World'", "kes key encrypt my-key - <secret.txt"],
    run: encrypt,
    ..Command::NEW
};

pub(crate) const DECRYPT: Command = Command {
    path: &["key", "decrypt"],
    arguments: &[KEY, CIPHERTEXT, CONTEXT],
    summary: "Decrypt a ciphertext (all values in base64)",
    details: STDIN,
    flags: CLIENT,
    examples: &["kes key decrypt my-key - <ciphertext.txt"],
    run: decrypt,
    ..Command::NEW
};

fn create(args: &Args) -> Result<()> {
    if let [name, value] = &*args.positional
        && is_value(value)
    {
        NEW_KEY.check(name)?;
        if value != "-" {
            checked(value, "key").map_err(|why| {
                format!(
                    "{why}; a second word that is long, or has other characters than a-z, A-Z, 0-9, - and _, is \
                     taken for a key to import: create such keys one by one"
                )
            })?;
        }
        return import(args);
    }
    for_each(args, "create", |client, name| client.post(&path("key/create", &[name]), None))
}

/// Whether a word behind a name is the key to import under it, rather than a second name: no word that
/// could be a part of a key becomes a name, which is no secret.
fn is_value(word: &str) -> bool {
    /// Base64 of a key has 44 characters.
    const LONG: usize = 40;
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    word == "-" || word.len() >= LONG || !word.chars().all(is_name)
}

fn import(args: &Args) -> Result<()> {
    let name = args.get(0);
    let value = value(args, 1, "key")?;
    // One name for each generation of servers.
    let members = [("bytes", value.clone()), ("key", value), ("cipher", "AES256".to_owned())];
    let imported = Client::new(args)?.post(&path("key/import", &[name]), Some(&body(&members)));
    imported.map_err(|e| format!("failed to import key {name:?}: {e}"))?;
    Ok(())
}

fn delete(args: &Args) -> Result<()> {
    for_each(args, "delete", |client, name| {
        if name.contains(['*', '?', '[']) {
            warn(&format!("{name:?} is taken for a name, not for a pattern"));
        }
        client.delete(&path("key/delete", &[name]))
    })
}

/// Does `act`, which is called `what`, with every key that is named, and reports each failure.
fn for_each(
    args: &Args,
    what: &str,
    act: impl Fn(&Client, &str) -> std::result::Result<Vec<u8>, Error>,
) -> Result<()> {
    let mut is_done = true;
    let mut report = |failure: Failure| {
        failure.tell();
        is_done = false;
    };
    let mut names = Vec::new();
    for name in &args.positional {
        match KEY.check(name) {
            Ok(()) => names.push(name),
            Err(failure) => report(failure),
        }
    }
    let client = if names.is_empty() { None } else { Some(Client::new(args)?) };
    let mut is_reachable = true;
    for (name, client) in names.iter().zip(client.iter().cycle()) {
        let failed = |why: &str| match what {
            // As KES 0.14 has it.
            "create" => Failure::Plain(format!("Failed to create key {name:?}: {why}")),
            _ => format!("failed to {what} key {name:?}: {why}").into(),
        };
        if !is_reachable {
            report(failed("not tried without a server"));
        } else if let Err(e) = act(client, name) {
            report(failed(&e.to_string()));
            is_reachable = matches!(e, Error::Refused(..));
        }
    }
    if is_done { Ok(()) } else { Err(Failure::Exit(1)) }
}

fn list(args: &Args) -> Result<()> {
    let pattern = args.pattern();
    let names = Client::new(args)?.keys(pattern);
    let names = names.map_err(|why| format!("failed to list keys matching {pattern:?}: {why}"))?;
    if args.by_alias {
        return layout::list(args, "Key", &names);
    }
    match args.wants_json() {
        true => {
            let line = |name| format!("{}\n", serde_json::json!({ "name": name }));
            print(&names.into_iter().map(line).collect::<String>())
        }
        false => print_lines("", names, ""),
    }
}

fn derive(args: &Args) -> Result<()> {
    let members = [("context", value(args, 1, "context")?)];
    let [plaintext, ciphertext] = ask(args, "generate", &members, "derive key")?;
    if plaintext.is_empty() || ciphertext.is_empty() {
        return Err("failed to derive key: the server sent no key".into());
    }
    print(&match args.wants_json() {
        true => format!("{{\"plaintext\":\"{plaintext}\",\"ciphertext\":\"{ciphertext}\"}}"),
        false if args.by_alias => {
            format!("\n  plaintext:  {plaintext}\n  ciphertext: {ciphertext}\n")
        }
        false => format!("{{\n  plaintext : {plaintext}\n  ciphertext: {ciphertext}\n}}\n"),
    })
}

fn encrypt(args: &Args) -> Result<()> {
    only_one_from_stdin(args)?;
    let mut message = args.get(1).as_bytes().to_vec();
    if message == b"-" {
        message.clear();
        read_stdin("message", |stdin| stdin.read_to_end(&mut message))?;
    }
    let members =
        [("plaintext", STANDARD.encode(message)), ("context", value(args, 2, "context")?)];
    let [_, ciphertext] = ask(args, "encrypt", &members, "encrypt plaintext")?;
    match ciphertext.is_empty() {
        false => show(args, "ciphertext", &ciphertext),
        true => Err("failed to encrypt plaintext: the server sent no ciphertext".into()),
    }
}

fn decrypt(args: &Args) -> Result<()> {
    only_one_from_stdin(args)?;
    let ciphertext = value(args, 1, "ciphertext")?;
    let members = [("ciphertext", ciphertext), ("context", value(args, 2, "context")?)];
    // An empty one may come as `null`.
    let [plaintext, _] = ask(args, "decrypt", &members, "decrypt ciphertext")?;
    show(args, "plaintext", &plaintext)
}

/// Asks an API of a key; `what` is what could not be done. Returns the plaintext and the ciphertext in the answer.
fn ask(args: &Args, api: &str, members: &[(&str, String)], what: &str) -> Result<[String; 2]> {
    let failed = |why: String| format!("failed to {what}: {why}");
    let body = body(members);
    // The least that servers take of a request; they say nothing of its size.
    let most = if api == "encrypt" { 512 << 10 } else { 1_000_000 };
    let answer = Client::try_new(args)
        .and_then(|client| client.post(&path(&format!("key/{api}"), &[args.get(0)]), Some(&body)))
        .map_err(|e| match e {
            Error::Refused(400, _) if body.len() > most => failed(format!(
                "{e}; it may be too large: encrypt what has more than 380 KB with a data key ('kes key dek')"
            )),
            _ => failed(e.to_string()),
        })?;
    let invalid = |why: &str| failed(format!("the server sent no valid answer: {why}"));
    let Ok(Value::Object(answer)) = serde_json::from_slice(&answer) else {
        return Err(invalid("no JSON object").into());
    };
    // What goes to the terminal as it is must not hold more than base64.
    let is_base64 = |c: u8| c.is_ascii_alphanumeric() || b"+/=".contains(&c);
    let texts = ["plaintext", "ciphertext"].map(|name| match answer.get(name) {
        None | Some(Value::Null) => Some(String::new()),
        Some(Value::String(text)) if text.bytes().all(is_base64) => Some(text.clone()),
        Some(_) => None,
    });
    match texts {
        [Some(plaintext), Some(ciphertext)] => Ok([plaintext, ciphertext]),
        _ => Err(invalid("not base64").into()),
    }
}

fn show(args: &Args, label: &str, value: &str) -> Result<()> {
    print(&match args.wants_json() {
        true => format!("{{\"{label}\":\"{value}\"}}"),
        false => format!("\n  {label}: {value}\n"),
    })
}

/// A JSON object of base64 texts; an empty context is left out.
fn body(members: &[(&str, String)]) -> Vec<u8> {
    let members = members.iter().filter(|(name, value)| !value.is_empty() || *name != "context");
    let members: Vec<_> = members.map(|(name, value)| format!("\"{name}\":\"{value}\"")).collect();
    format!("{{{}}}", members.join(",")).into_bytes()
}

/// A second value would find standard input empty, and an empty context is a valid one.
fn only_one_from_stdin(args: &Args) -> Result<()> {
    match args.positional[1..].iter().filter(|arg| *arg == "-").count() {
        0 | 1 => Ok(()),
        _ => Err("only one value can be read from standard input".into()),
    }
}

/// A base64 argument, checked; `-` stands for standard input. Empty if it is not there.
fn value(args: &Args, at: usize, what: &str) -> Result<String> {
    let mut text = match args.optional(at) {
        None => return Ok(String::new()),
        Some(text) => text.to_owned(),
    };
    if text == "-" {
        text.clear();
        read_stdin(what, |stdin| stdin.read_to_string(&mut text))?;
        text = text.trim().to_owned();
    }
    checked(&text, what)?;
    Ok(text)
}

/// Refuses what is not base64 of a `what`.
fn checked(text: &str, what: &str) -> std::result::Result<(), String> {
    let invalid = |why: &str| Err(format!("invalid {what}: {why}"));
    if text.is_empty() && matches!(what, "key" | "ciphertext") {
        return invalid("it is empty");
    }
    match STANDARD.decode(text.as_bytes()) {
        Ok(key) if what == "key" && key.len() != KEY_SIZE => {
            invalid(&format!("it has {} bytes, and must have {KEY_SIZE}", key.len()))
        }
        Ok(_) => Ok(()),
        Err(DecodeError::InvalidByte(at, _)) => {
            invalid(&format!("illegal base64 data at input byte {at}"))
        }
        Err(_) => invalid("not padded standard base64, as the command 'base64' prints it"),
    }
}

/// Reads `what` from standard input.
fn read_stdin(
    what: &str,
    read: impl FnOnce(&mut io::Take<io::Stdin>) -> io::Result<usize>,
) -> Result<()> {
    let read = read(&mut stdin(what).take(MAX_STDIN + 1));
    match read.map_err(|e| format!("failed to read {what} from standard input: {e}"))? {
        size if size as u64 > MAX_STDIN => Err(format!("the {what} has more than 2 MiB").into()),
        _ => Ok(()),
    }
}
