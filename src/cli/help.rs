//! What `--help` and `kes help` print, from the table of commands.

use std::fmt::Write as _;

use super::{
    Args, Failure,
    args::{Flag, HELP, Takes},
    commands::{self, Command, ENVIRONMENT, below},
    print, unknown_command,
};

/// What the program is.
const WHAT: &str = "\
kes is a key encryption server, and its command line: it keeps master keys in a key
store, and makes and opens data keys with them for clients that a policy allows to.";

/// `kes help [<command>...]`
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let words: Vec<&str> = args.positional.iter().map(String::as_str).collect();
    for count in 1..=words.len() {
        let path = &words[..count];
        if let Some(command) = commands::find(path) {
            return print(&usage(command, path));
        }
        if below(path).next().is_none() {
            return Err(unknown_command(path).into());
        }
    }
    print(&group_usage(&words))
}

/// The help of one command, called by `path`.
pub(super) fn usage(command: &Command, path: &[&str]) -> String {
    // Writing to a `String` cannot fail.
    let mut text = format!("{}.\n\nUsage:\n  {}\n", command.summary, synopsis(command, path));
    let others: Vec<_> = command
        .paths()
        .filter(|other| *other != path)
        .map(|other| format!("kes {}", other.join(" ")))
        .collect();
    if !others.is_empty() {
        let _ = writeln!(text, "\nAlso called:\n  {}", others.join("\n  "));
    }
    text.push_str("\nOptions:\n");
    for flag in command.listed_flags().chain([&HELP]) {
        let _ = writeln!(text, "  {:<24} {}", option(flag), flag.help);
    }
    if !command.details.is_empty() {
        let _ = write!(text, "\n{}\n", command.details);
    }
    if !command.examples.is_empty() {
        let _ = writeln!(text, "\nExamples:\n  {}", command.examples.join("\n  "));
    }
    if command.is_client() {
        text.push_str(&environment());
    }
    text
}

/// The help of the commands whose words start with `path`.
pub(super) fn group_usage(path: &[&str]) -> String {
    let name = [&["kes"], path].concat().join(" ");
    let mut text = String::new();
    if path.is_empty() {
        let _ = writeln!(text, "{WHAT}\n");
    }
    let _ = write!(text, "Usage:\n  {name} <command> [options]\n\nCommands:\n");
    // Of the names of a command in this group, the first.
    let is_first = |(known, command): &(commands::Path, &Command)| {
        command.paths().find(|other| other.starts_with(path)) == Some(known)
    };
    for (known, command) in below(path).filter(is_first) {
        let words = known[path.len()..].join(" ");
        let _ = writeln!(text, "  {words:<24} {}", command.summary);
    }
    let _ = writeln!(text, "\n'{name} <command> --help' tells more.");
    if path.is_empty() {
        text.push_str(&environment());
    }
    text
}

/// `kes key create [options] <name> [<key>]`
pub(super) fn synopsis(command: &Command, path: &[&str]) -> String {
    let mut text = format!("kes {}", path.join(" "));
    if !command.flags.is_empty() {
        text.push_str(" [options]");
    }
    if !command.arguments.is_empty() {
        text.push(' ');
        text.push_str(&command.arguments());
    }
    text
}

/// `-t, --time <duration>`
pub(super) fn option(flag: &Flag) -> String {
    let names = flag.names.iter().map(|name| dashed(name));
    let (letters, words): (Vec<_>, Vec<_>) = names.partition(|name| name.len() == 2);
    let names = [letters, words].concat();
    let value = match flag.takes {
        Takes::Bool => String::new(),
        takes => format!(" <{}>", takes.what()),
    };
    names.join(", ") + &value
}

/// `--name`, or `-n` for one letter.
pub(super) fn dashed(name: &str) -> String {
    if name.len() == 1 { format!("-{name}") } else { format!("--{name}") }
}

fn environment() -> String {
    let mut text = "\nEnvironment of the client commands:\n".to_owned();
    for (name, what) in ENVIRONMENT {
        let _ = writeln!(text, "  {name:<17} {what}");
    }
    text
}
