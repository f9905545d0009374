//! What `--help`, `kes help` and the reference in `docs/command-line.md` say, from the table of commands.

use std::fmt::Write as _;

use super::{
    args::{Args, Command, Flag, Path, Table, Takes},
    output::{Result, print},
};
use crate::base::nearest::nearest;

/// What the program is.
const WHAT: &str = "\
kes is a key encryption server, and its command line: it keeps master keys in a key
store, and generates and decrypts data keys with them as policies allow.";

/// Variables that the client commands read, and what for.
pub(crate) const ENVIRONMENT: &[(&str, &str)] = &[
    ("KES_SERVER", "the server, or several with commas (default: https://127.0.0.1:7373)"),
    ("KES_API_KEY", "your API key, or instead of it:"),
    ("KES_CLIENT_KEY", "file of your private key"),
    ("KES_CLIENT_CERT", "file of your certificate"),
    ("KES_SERVER_IDENTITY", "identity of the server, which is then trusted"),
    ("KES_CA_FILE", "file of the certificates that are trusted"),
];

/// `kes help [<command>...]`
pub(crate) fn run(args: &Args, table: Table) -> Result<()> {
    let words: Vec<&str> = args.positional.iter().map(String::as_str).collect();
    for count in 1..=words.len() {
        let path = &words[..count];
        match table.find(path) {
            Some(command) if table.is_last(path) => return print(&usage(command, path)),
            _ if table.below(path).next().is_none() => {
                return Err(unknown_command(table, path).into());
            }
            _ => {}
        }
    }
    print(&group_usage(table, &words))
}

/// What is wrong with `path`, whose last word is no command, and which word may have been meant.
pub(crate) fn unknown_command(table: Table, path: &[&str]) -> String {
    let (word, group) = (path[path.len() - 1], &path[..path.len() - 1]);
    let name = called(group);
    let mut text = format!("{word:?} is not a {name} command. See '{name} --help'");
    // 'kes derive' for 'kes key derive'
    let longer = table.below(group).find(|(path, _)| path.last() == Some(&word));
    let meant = match longer {
        Some((path, _)) => Some(path[group.len()..].join(" ")),
        None => {
            let words = table.below(group).filter_map(|(path, _)| path.get(group.len()).copied());
            nearest(word, words).map(str::to_owned)
        }
    };
    if let Some(meant) = meant {
        let _ = write!(text, "\nDid you mean '{name} {meant}'?");
    }
    text
}

/// The help of one command, called by `path`. Writing to a `String` cannot fail.
pub(crate) fn usage(command: &Command, path: &[&str]) -> String {
    let mut text = format!("{}.\n\nUsage:\n  {}\n", command.summary, synopsis(command, path));
    let others: Vec<_> = command.paths().filter(|other| *other != path).map(called).collect();
    if !others.is_empty() {
        let _ = writeln!(text, "\nAlso called:\n  {}", others.join("\n  "));
    }
    text.push_str("\nOptions:\n");
    for flag in command.all_flags().filter(|flag| !flag.help.is_empty()) {
        let _ = writeln!(text, "  {:<28} {}", option(flag), flag.help);
    }
    if !command.details.is_empty() {
        let _ = write!(text, "\n{}\n", command.details);
    }
    if !command.exit_codes.is_empty() {
        let _ = writeln!(text, "\n{}", exit_codes(command));
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
pub(crate) fn group_usage(table: Table, path: &[&str]) -> String {
    let name = called(path);
    let what = if path.is_empty() { format!("{WHAT}\n\n") } else { String::new() };
    let mut text = format!("{what}Usage:\n  {name} <command> [options]\n\nCommands:\n");
    // Of the names of a command in this group, the first.
    let is_first = |(known, command): &(Path, &Command)| {
        command.paths().find(|other| other.starts_with(path)) == Some(known)
    };
    for (known, command) in table.below(path).filter(is_first) {
        let mut words = known[path.len()..].join(" ");
        if words.is_empty() {
            words = synopsis(command, known).split_off(name.len() + 1);
        }
        let _ = writeln!(text, "  {words:<24} {}", command.summary);
    }
    let _ = writeln!(text, "\n'{name} <command> --help' tells more.");
    if path.is_empty() {
        text.push_str(&environment());
    }
    text
}

/// `kes key create`
pub(crate) fn called(path: &[&str]) -> String {
    [&["kes"], path].concat().join(" ")
}

/// `kes key create [options] <name> [<key>]`
pub(crate) fn synopsis(command: &Command, path: &[&str]) -> String {
    let mut text = called(path);
    if command.listed_flags().next().is_some() {
        text.push_str(" [options]");
    }
    for argument in command.arguments.iter().filter(|argument| !argument.name.is_empty()) {
        let more = if argument.is_repeated { "..." } else { "" };
        let _ = match argument.is_optional {
            true => write!(text, " [<{}>{more}]", argument.name),
            false => write!(text, " <{}>{more}", argument.name),
        };
    }
    text
}

/// `-t, --time <duration>`
pub(crate) fn option(flag: &Flag) -> String {
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
pub(crate) fn dashed(name: &str) -> String {
    if name.len() == 1 { format!("-{name}") } else { format!("--{name}") }
}

/// `Exit codes: 0 allowed, 3 refused.`
pub(crate) fn exit_codes(command: &Command) -> String {
    let codes = command.exit_codes.iter().map(|(code, what)| format!("{code} {what}"));
    format!("Exit codes: {}.", codes.collect::<Vec<_>>().join(", "))
}

fn environment() -> String {
    let lines = ENVIRONMENT.iter().map(|(name, what)| format!("  {name:<20} {what}\n"));
    format!("\nEnvironment of the client commands:\n{}", lines.collect::<String>())
}
