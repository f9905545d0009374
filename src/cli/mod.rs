//! The command line: one table of commands, from which dispatch, help and errors derive.

mod args;
mod config;
mod healthcheck;
mod key;
mod server;
mod style;
mod tool;

use std::{
    ffi::OsString,
    fmt::Write as _,
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
};

use self::{
    args::{Args, Flag, Takes},
    style::{Paint, Style},
};

/// A command.
struct Command {
    /// The words that call it.
    path: &'static [&'static str],
    /// What follows them, for the usage line.
    arguments: &'static str,
    /// What it does, in one line.
    summary: &'static str,
    /// What else one should know.
    details: &'static str,
    flags: &'static [Flag],
    run: fn(&Args) -> Result<(), Failure>,
}

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

const INSECURE: Flag = Flag {
    names: &["insecure", "k"],
    takes: Takes::Bool,
    help: "skip the checks of the server's certificate",
};

const JSON: Flag = Flag {
    names: &["json"],
    takes: Takes::Bool,
    help: "print JSON",
};

const CLIENT: &[Flag] = &[INSECURE, JSON];

const STDIN: &str =
    "'-' reads the value from standard input, so that it is not seen in the list of processes.";

/// All commands; the second names of the newer vocabulary are rows of their own.
#[rustfmt::skip]
static COMMANDS: &[Command] = &[
    Command { path: &["server"], arguments: "", summary: "Run a server", details: server::DETAILS, flags: server::FLAGS, run: server::run },
    Command { path: &["healthcheck"], arguments: "", summary: "Ask the probe of a server whether it is healthy", details: healthcheck::DETAILS, flags: healthcheck::FLAGS, run: healthcheck::run },
    Command { path: &["config", "check"], arguments: "<file>", summary: "Look for errors and oddities in a configuration file", details: config::DETAILS, flags: server::CHECK_FLAGS, run: config::check },
    Command { path: &["key", "create"], arguments: "<name> [<key>]", summary: "Create a key, or import a given one", details: STDIN, flags: CLIENT, run: key::create },
    Command { path: &["key", "import"], arguments: "<name> <key>", summary: "Import a key of 32 bytes in base64", details: STDIN, flags: CLIENT, run: key::import },
    Command { path: &["key", "delete"], arguments: "<name>", summary: "Delete a key; what it has sealed is lost for ever", details: "", flags: CLIENT, run: key::delete },
    Command { path: &["key", "rm"], arguments: "<name>", summary: "The same as 'kes key delete'", details: "", flags: CLIENT, run: key::delete },
    Command { path: &["key", "list"], arguments: "[<pattern>]", summary: "List the keys that match a pattern", details: "", flags: CLIENT, run: key::list },
    Command { path: &["key", "ls"], arguments: "[<pattern>]", summary: "The same as 'kes key list'", details: "", flags: CLIENT, run: key::list },
    Command { path: &["key", "derive"], arguments: "<name> [<context>]", summary: "Make a data key, in plain and sealed", details: "The context is base64; '-' reads it from standard input.", flags: CLIENT, run: key::derive },
    Command { path: &["key", "dek"], arguments: "<name> [<context>]", summary: "The same as 'kes key derive'", details: "The context is base64; '-' reads it from standard input.", flags: CLIENT, run: key::derive },
    Command { path: &["key", "encrypt"], arguments: "<name> <plaintext> [<context>]", summary: "Seal a small secret (all values in base64)", details: STDIN, flags: CLIENT, run: key::encrypt },
    Command { path: &["key", "decrypt"], arguments: "<name> <ciphertext> [<context>]", summary: "Open a ciphertext (all values in base64)", details: STDIN, flags: CLIENT, run: key::decrypt },
    Command { path: &["tool", "identity", "new"], arguments: "[<name>]", summary: "Make a private key and a certificate", details: "", flags: tool::NEW_FLAGS, run: tool::new },
    Command { path: &["tool", "identity", "of"], arguments: "[<certificate file>]", summary: "Print the identity of a certificate", details: "Without a file, or with '-', the certificate is read from standard input.", flags: tool::OF_FLAGS, run: tool::of },
    Command { path: &["identity", "new"], arguments: "[<name>]", summary: "The same as 'kes tool identity new'", details: "", flags: tool::NEW_FLAGS, run: tool::new },
    Command { path: &["identity", "of"], arguments: "[<certificate file>]", summary: "The same as 'kes tool identity of'", details: "", flags: tool::OF_FLAGS, run: tool::of },
];

const ENVIRONMENT: &str = "\
Environment of the client commands:
  KES_SERVER        the server (default: https://127.0.0.1:7373)
  KES_CLIENT_KEY    file of your private key
  KES_CLIENT_CERT   file of your certificate
";

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
                if let Some(command) = COMMANDS.iter().find(|command| command.path == path) {
                    return run_command(command, args.into_iter().skip(command.path.len()));
                }
                if !is_group(&path) {
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
            Some(flag) => {
                let name = flag.trim_start_matches('-');
                let name = name.split_once('=').map_or(name, |(name, _)| name);
                let usage = group_usage(&path);
                complain(&format!("flag provided but not defined: -{name}\n{usage}"));
                return ExitCode::from(2);
            }
            None => {
                complain(&group_usage(&path));
                return ExitCode::from(if path == ["key"] { 2 } else { 1 });
            }
        }
    }
}

fn is_group(path: &[&str]) -> bool {
    COMMANDS
        .iter()
        .any(|command| command.path.starts_with(path))
}

fn run_command(command: &Command, args: impl Iterator<Item = OsString>) -> ExitCode {
    let args = match Args::parse(args, command.flags) {
        Ok(args) => args,
        Err(misfit) => {
            complain(&format!("{}\n{}", misfit.0, usage(command)));
            return ExitCode::from(2);
        }
    };
    if args.wants_help {
        return exit_code(print(&usage(command)));
    }
    exit_code((command.run)(&args))
}

fn exit_code(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Message(message)) => {
            let error = Style::of_stderr().paint(Paint::Red, "Error:");
            complain(&format!("{error} {message}\n"));
        }
        Err(Failure::Plain(message)) => complain(&format!("{message}\n")),
        Err(Failure::Exit(code)) => return ExitCode::from(code),
    }
    ExitCode::from(1)
}

/// What is wrong with `path`, whose last word is no command, and which word may have been meant.
fn unknown_command(path: &[&str]) -> String {
    let (word, group) = (path[path.len() - 1], &path[..path.len() - 1]);
    let name = [&["kes"], group].concat().join(" ");
    let mut text = format!("Error: {word:?} is not a {name} command. See '{name} --help'\n");
    let meant = COMMANDS
        .iter()
        .filter(|command| command.path.starts_with(group))
        .map(|command| command.path[group.len()])
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

fn usage(command: &Command) -> String {
    let mut text = format!(
        "{}.\n\nUsage:\n  kes {}",
        command.summary,
        command.path.join(" ")
    );
    if !command.flags.is_empty() {
        text.push_str(" [options]");
    }
    if !command.arguments.is_empty() {
        text.push(' ');
        text.push_str(command.arguments);
    }
    text.push_str("\n\nOptions:\n");
    let help = Flag {
        names: &["help", "h"],
        takes: Takes::Bool,
        help: "print this text",
    };
    for flag in command.flags.iter().chain([&help]) {
        let mut names: Vec<_> = flag.names.iter().map(|name| dashed(name)).collect();
        names.sort_by_key(String::len);
        let value = match flag.takes {
            Takes::Bool => String::new(),
            Takes::Value(what) => format!(" <{what}>"),
            Takes::Duration => " <duration>".to_owned(),
        };
        // Writing to a `String` cannot fail.
        let _ = writeln!(text, "  {:<24} {}", names.join(", ") + &value, flag.help);
    }
    if !command.details.is_empty() {
        let _ = write!(text, "\n{}\n", command.details);
    }
    if command
        .flags
        .iter()
        .any(|flag| flag.names == INSECURE.names)
    {
        let _ = write!(text, "\n{ENVIRONMENT}");
    }
    text
}

fn dashed(name: &str) -> String {
    if name.len() == 1 {
        format!("-{name}")
    } else {
        format!("--{name}")
    }
}

fn group_usage(path: &[&str]) -> String {
    let name = [&["kes"], path].concat().join(" ");
    let mut text = format!("Usage:\n  {name} <command> [options]\n\nCommands:\n");
    for command in COMMANDS
        .iter()
        .filter(|command| command.path.starts_with(path))
    {
        let words = command.path[path.len()..].join(" ");
        let _ = writeln!(text, "  {:<24} {}", words, command.summary);
    }
    let _ = writeln!(text, "\n'{name} <command> --help' tells more.");
    if path.is_empty() {
        let _ = write!(text, "'kes --version' prints the version.\n\n{ENVIRONMENT}");
    }
    text
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

/// Whether a person reads stdout.
fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn no_command_hides_another_and_no_flag_is_named_twice() {
        for (at, command) in COMMANDS.iter().enumerate() {
            for other in &COMMANDS[at + 1..] {
                assert!(!other.path.starts_with(command.path), "{:?}", other.path);
            }
            let mut names: Vec<_> = command.flags.iter().flat_map(|flag| flag.names).collect();
            names.sort();
            let count = names.len();
            names.dedup();
            assert_eq!(count, names.len(), "{:?}", command.path);
        }
    }
}
