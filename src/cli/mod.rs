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
    fmt::Write as _,
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
};

use self::{
    args::Args,
    commands::{Command, below},
    help::{group_usage, usage},
    style::{Paint, Style, harmless},
};

use crate::client::Client;

/// Why a command failed; exits with 1 unless it says otherwise.
enum Failure {
    /// Printed after `Error: `.
    Message(String),
    /// Printed as it is.
    Plain(String),
    /// All is said; this is the exit code.
    Exit(u8),
}

impl<T: std::fmt::Display> From<T> for Failure {
    fn from(message: T) -> Self {
        Self::Message(message.to_string())
    }
}

/// Runs the command line with `args` (without the program's name).
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.collect();
    let mut path: Vec<&str> = Vec::new();
    loop {
        let next = args
            .get(path.len())
            .map(|arg| arg.to_str().unwrap_or_default());
        match next {
            Some(word) if !word.starts_with('-') => {
                path.push(word);
                if let Some(command) = commands::find(&path) {
                    return run_command(command, &path, &args[path.len()..]);
                }
                if below(&path).next().is_none() {
                    complain(&unknown_command(&path));
                    return ExitCode::from(1);
                }
            }
            Some("-h" | "--help" | "-help") => {
                return exit_code(print(&group_usage(&path)));
            }
            Some("-v" | "--version" | "-version") if path.is_empty() => {
                let version = concat!("kes version ", env!("CARGO_PKG_VERSION"), "\n");
                return exit_code(print(version));
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
            Some(flag) => {
                let name = flag.trim_start_matches('-');
                let name = name.split_once('=').map_or(name, |(name, _)| name);
                let usage = group_usage(&path);
                complain(&format!("flag provided but not defined: -{name}\n{usage}"));
                return ExitCode::from(2);
            }
            None => {
                complain(&group_usage(&path));
                return ExitCode::from(if matches!(*path, ["key" | "log"]) {
                    2
                } else {
                    1
                });
            }
        }
    }
}

fn run_command(command: &Command, path: &[&str], args: &[OsString]) -> ExitCode {
    let args = match Args::parse(args.iter().cloned(), command.flags) {
        Ok(args) => args,
        Err(misfit) => {
            complain(&format!("{}\n{}", misfit.0, usage(command, path)));
            return ExitCode::from(2);
        }
    };
    if args.wants_help {
        return exit_code(print(&usage(command, path)));
    }
    exit_code((command.run)(&args))
}

fn exit_code(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Message(message)) => {
            let error = Style::of_stderr().paint(Paint::Red, "Error:");
            complain(&format!("{error} {}\n", harmless_lines(&message)));
        }
        Err(Failure::Plain(message)) => complain(&format!("{}\n", harmless_lines(&message))),
        Err(Failure::Exit(code)) => return ExitCode::from(code),
    }
    ExitCode::from(1)
}

/// `text`, which may be a server's, with nothing in it that controls a terminal but line ends.
fn harmless_lines(text: &str) -> String {
    let lines: Vec<_> = text.split('\n').map(harmless).collect();
    lines.join("\n")
}

/// What is wrong with `path`, whose last word is no command, and which word may have been meant.
fn unknown_command(path: &[&str]) -> String {
    let (word, group) = (path[path.len() - 1], &path[..path.len() - 1]);
    let name = [&["kes"], group].concat().join(" ");
    let mut text = format!("Error: {word:?} is not a {name} command. See '{name} --help'\n");
    let meant = below(group)
        .map(|(path, _)| path[group.len()])
        .min_by_key(|known| distance(word, known));
    if let Some(meant) = meant.filter(|known| distance(word, known) <= known.len() / 2) {
        let _ = writeln!(text, "Did you mean '{name} {meant}'?");
    }
    text
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

/// The client that the environment and the flags describe.
fn client(args: &Args) -> Result<Client, Failure> {
    Ok(Client::from_env(args.is_set("insecure"))?)
}

/// Whether the output is for a program: with `--json`, and when it is no terminal.
fn wants_json(args: &Args) -> bool {
    args.is_set("json") || !is_terminal()
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
        assert_eq!(
            "a\nb\u{fffd}[31mc\u{fffd}",
            harmless_lines("a\nb\u{1b}[31mc\r")
        );
    }

    #[test]
    fn a_mistyped_command_is_recognised_and_a_strange_one_is_not() {
        assert_eq!(
            "Error: \"crate\" is not a kes key command. See 'kes key --help'\n\
             Did you mean 'kes key create'?\n",
            unknown_command(&["key", "crate"])
        );
        assert_eq!(
            "Error: \"enclave\" is not a kes command. See 'kes --help'\n",
            unknown_command(&["enclave"])
        );
    }
}
