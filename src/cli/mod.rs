//! The command line: finds the command in the table of all, runs it, and says what went wrong.

mod args;
mod commands;
mod completion;
mod config;
mod healthcheck;
mod help;
mod identity;
mod key;
mod man;
mod migrate;
mod policy;
mod server;
mod style;
mod tool;
mod trace;
mod why;

use std::{
    ffi::OsString,
    fmt::{Display, Write as _},
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
};

use self::{
    args::Args,
    commands::{Command, below},
    help::{group_usage, usage},
    style::{Paint, Style, harmless},
};

use crate::{
    base::{glob::Pattern, name},
    client::Client,
};

const VERSION: &str = concat!("kes version ", env!("CARGO_PKG_VERSION"), "\n");

/// Why a command failed; exits with 1 unless it says otherwise.
enum Failure {
    /// Printed after `Error: `.
    Message(String),
    /// Printed as it is.
    Plain(String),
    /// All is said; this is the exit code.
    Exit(u8),
}

impl<T: Display> From<T> for Failure {
    fn from(message: T) -> Self {
        Self::Message(message.to_string())
    }
}

/// Runs the command line with `args` (without the program's name).
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.collect();
    let mut path: Vec<&str> = Vec::new();
    loop {
        let next = args.get(path.len()).map(|arg| arg.to_str().unwrap_or_default());
        match next {
            Some(word) if !word.starts_with('-') => {
                path.push(word);
                if let Some(command) = commands::find(&path) {
                    return run_command(command, &path, &args[path.len()..]);
                }
                if below(&path).next().is_none() {
                    return exit_code(match path.pop() {
                        // 'kes key help'
                        Some("help") => print(&group_usage(&path)),
                        _ => Err(unknown_command(&[&path[..], &[word]].concat()).into()),
                    });
                }
            }
            Some("-h" | "--help" | "-help") => {
                return exit_code(print(&group_usage(&path)));
            }
            Some("-v" | "--version" | "-version") if path.is_empty() => {
                return exit_code(print(VERSION));
            }
            Some("-u" | "--update" | "-update") if path.is_empty() => {
                return exit_code(Err(
                    "kes does not update itself: install a new version from where you got this one"
                        .into(),
                ));
            }
            // `kes log --json` of newer versions.
            Some(_) if path == ["log"] => {
                let path = ["log", "trace"];
                let command = commands::find(&path).expect("it is in the table");
                return run_command(command, &path, &args[1..]);
            }
            Some(flag) => return wrong_usage(&misplaced_flag(&path, flag), &path),
            None => {
                complain(&group_usage(&path));
                return ExitCode::from(if matches!(*path, ["key" | "log"]) { 2 } else { 1 });
            }
        }
    }
}

fn run_command(command: &Command, path: &[&str], args: &[OsString]) -> ExitCode {
    let args = match Args::parse(args.iter().cloned(), command.flags) {
        Ok(args) => args,
        Err(misfit) => return wrong_usage(&misfit.0, path),
    };
    if args.wants_help {
        return exit_code(print(&usage(command, path)));
    }
    exit_code((command.run)(&args))
}

fn exit_code(result: Result<(), Failure>) -> ExitCode {
    result.map_or_else(|failure| ExitCode::from(tell(&failure)), |()| ExitCode::SUCCESS)
}

/// Says why a command, or a part of it, failed; returns the exit code.
fn tell(failure: &Failure) -> u8 {
    match failure {
        Failure::Message(message) => {
            let error = Style::of_stderr().paint(Paint::Red, "Error:");
            complain(&format!("{error} {}\n", harmless_lines(message)));
        }
        Failure::Plain(message) => complain(&format!("{}\n", harmless_lines(message))),
        Failure::Exit(code) => return *code,
    }
    1
}

/// Says what may not be meant so.
fn warn(text: &str) {
    let warning = Style::of_stderr().paint(Paint::Yellow, "Warning:");
    complain(&format!("{warning} {}\n", harmless(text)));
}

/// `text`, which may be a server's, with nothing in it that controls a terminal but line ends.
fn harmless_lines(text: &str) -> String {
    let lines: Vec<_> = text.split('\n').map(harmless).collect();
    lines.join("\n")
}

/// Says in one line what is wrong with the flags of the command or group `path`.
fn wrong_usage(what: &str, path: &[&str]) -> ExitCode {
    let end = if what.ends_with(['.', '?']) { "" } else { "." };
    let name = [&["kes"], path].concat().join(" ");
    tell(&format!("{what}{end} See '{name} --help'").into());
    ExitCode::from(2)
}

/// What is wrong with `flag` right behind the words of the group `path`.
fn misplaced_flag(path: &[&str], flag: &str) -> String {
    let name = flag.trim_start_matches('-');
    let name = name.split_once('=').map_or(name, |(name, _)| name);
    let text = format!("flag provided but not defined: -{name}.");
    let mut flags = below(path).flat_map(|(_, command)| command.listed_flags());
    match flags.any(|known| known.names.contains(&name)) {
        true => text + " Flags stand after all words of the command.",
        false => text,
    }
}

/// What is wrong with `path`, whose last word is no command, and which word may have been meant.
fn unknown_command(path: &[&str]) -> String {
    let (word, group) = (path[path.len() - 1], &path[..path.len() - 1]);
    let name = [&["kes"], group].concat().join(" ");
    let mut text = format!("{word:?} is not a {name} command. See '{name} --help'");
    // 'kes derive' for 'kes key derive'
    let longer = below(group).find(|(path, _)| path.last() == Some(&word));
    let meant = match longer {
        Some((path, _)) => Some(path[group.len()..].join(" ")),
        None => nearest(word, below(group).map(|(path, _)| path[group.len()])).map(str::to_owned),
    };
    if let Some(meant) = meant {
        let _ = write!(text, "\nDid you mean '{name} {meant}'?");
    }
    text
}

/// The one of `known` that `word` may be meant to be: it starts like that, or is nearly the same.
fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let letters = |word: &str| {
        let mut letters: Vec<char> = word.chars().collect();
        letters.sort_unstable();
        letters
    };
    let far = |known: &str| match word.len() > 1 {
        true if known.starts_with(word) => 0,
        true if letters(known) == letters(word) => 1,
        _ => distance(word, known),
    };
    let nearest = known.min_by_key(|known| far(known));
    nearest.filter(|known| far(known) <= known.len() / 2)
}

/// The number of letters to insert, delete or replace to make `b` of `a` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.chars().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.chars().count()]
}

/// Prints to stdout; a reader that went away (`kes key list | head -1`) is no error, a full disk is.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(format!("failed to write to standard output: {e}").into())
        }
        _ => Ok(()),
    }
}

/// Prints to stderr; if nobody listens there is nobody left to tell.
fn complain(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// The arguments: those that `required` names, which says what is missing, and the others, so that there
/// are no more than `most`.
fn arguments<'a, const N: usize>(
    args: &'a Args,
    required: [&str; N],
    most: usize,
) -> Result<(&'a [String; N], &'a [String]), Failure> {
    let given = args.positional.len();
    match args.positional.split_first_chunk() {
        None => Err(format!("no {} specified", required[given]).into()),
        Some(_) if given > most => Err("too many arguments".into()),
        Some(arguments) => Ok(arguments),
    }
}

/// The pattern that may be the only argument; all names match the one that stands in for it.
fn pattern(args: &Args) -> Result<&str, Failure> {
    let pattern = match args.positional.as_slice() {
        [] => "*",
        [pattern] => pattern,
        _ => {
            let why =
                "too many arguments: is the pattern in quotes, so that the shell leaves it alone?";
            return Err(why.into());
        }
    };
    let invalid = |why: &dyn Display| format!("invalid pattern {pattern:?}: {why}");
    Pattern::parse(pattern).map_err(|e| invalid(&e))?;
    if pattern.contains('/') {
        return Err(invalid(&"no name contains '/'").into());
    }
    Ok(pattern)
}

/// Refuses what can't be the name of a key or policy; `what` says which.
fn check_name(what: &str, name: &str) -> Result<(), Failure> {
    let invalid = |why| format!("invalid {what} name {name:?}: it {why}");
    name::check(name).map_err(|why| invalid(why).into())
}

/// The client that the environment and the flags describe.
fn client(args: &Args) -> Result<Client, Failure> {
    Ok(Client::from_env(args.is_set("insecure"))?)
}

/// Whether the output is for a program: as `--json` says, and without it when it is no terminal.
fn wants_json(args: &Args) -> bool {
    args.choice("json").unwrap_or_else(|| !is_terminal())
}

/// Standard input, from which `what` is read. On a terminal, says that it waits for it.
fn stdin(what: &str) -> io::Stdin {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        complain(&format!("Reading the {what} from the terminal: end it with Enter and Ctrl-D.\n"));
    }
    stdin
}

/// `kes version`
fn version(args: &Args) -> Result<(), Failure> {
    arguments(args, [], 0)?;
    print(VERSION)
}

/// Whether a person reads stdout.
fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_does_not_control_the_terminal() {
        assert_eq!("a\nb\u{fffd}[31mc\u{fffd}", harmless_lines("a\nb\u{1b}[31mc\r"));
    }

    #[test]
    fn a_mistyped_command_is_recognised_and_a_strange_one_is_not() {
        assert_eq!(
            "\"crate\" is not a kes key command. See 'kes key --help'\n\
             Did you mean 'kes key create'?",
            unknown_command(&["key", "crate"])
        );
        assert_eq!(
            "\"derive\" is not a kes command. See 'kes --help'\nDid you mean 'kes key derive'?",
            unknown_command(&["derive"])
        );
        assert_eq!(
            "\"kye\" is not a kes command. See 'kes --help'\nDid you mean 'kes key'?",
            unknown_command(&["kye"])
        );
        assert_eq!(
            "\"enclave\" is not a kes command. See 'kes --help'",
            unknown_command(&["enclave"])
        );
    }
}
