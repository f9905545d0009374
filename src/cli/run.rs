//! Finds the command in the table of all, runs it, and says what went wrong.

use std::{ffi::OsString, path::Path, process::ExitCode};

use super::{
    args::{Args, Command, flag_name},
    completion,
    help::{group_usage, unknown_command, usage},
    output::{Colors, Failure, Result, complain, print},
    table::{COMMANDS, update, version},
};
use crate::server::start;

/// Runs the command line with `args` (without the program's name).
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    // Commands have keys, too.
    let _ = start::protect_memory();
    let args: Vec<OsString> = args.collect();
    match call(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.tell().into(),
    }
}

fn call(args: &[OsString]) -> Result<()> {
    let mut path: Vec<&str> = Vec::new();
    loop {
        let rest = &args[path.len()..];
        let command = COMMANDS.find(&path);
        match rest.first().map(|arg| arg.to_str().unwrap_or_default()) {
            Some("-h" | "--help" | "-help") => {
                let own = command.map_or(String::new(), |command| usage(command, &path) + "\n");
                return print(&(own + &group_usage(COMMANDS, &path)));
            }
            Some("-v" | "--version" | "-version") if path.is_empty() => return print(&version()),
            Some("--auto-completion" | "-auto-completion") if path.is_empty() => {
                return completion::install();
            }
            Some("-u" | "--update" | "-update") if path.is_empty() => return update(),
            Some(word) if !word.starts_with('-') => {
                let longer = [&path[..], &[word]].concat();
                if COMMANDS.below(&longer).next().is_none() {
                    return match (word, command) {
                        // 'kes key help'
                        ("help", _) => print(&group_usage(COMMANDS, &path)),
                        // Of 'kes identity', what no mistyped command can be.
                        (_, Some(command)) if is_argument(word) => {
                            run_command(command, &path, rest)
                        }
                        _ => Err(unknown_command(COMMANDS, &longer).into()),
                    };
                }
                path = longer;
                if let (Some(command), true) = (COMMANDS.find(&path), COMMANDS.is_last(&path)) {
                    return run_command(command, &path, &rest[1..]);
                }
            }
            Some(flag) if command.is_none() => {
                return Err(wrong_usage(&misplaced_flag(&path, flag), &path));
            }
            None if command.is_none() => {
                complain(&group_usage(COMMANDS, &path));
                return Err(Failure::Exit(if path == ["key"] { 2 } else { 1 }));
            }
            _ => return run_command(command.expect("others came before"), &path, rest),
        }
    }
}

/// Whether `word` is an API key or a file, where the word of a command might stand.
fn is_argument(word: &str) -> bool {
    word.contains([':', '/', '.']) || Path::new(word).exists()
}

fn run_command(command: &Command, path: &[&str], args: &[OsString]) -> Result<()> {
    let mut args = Args::parse(args, command).map_err(|why| wrong_usage(&why, path))?;
    args.by_alias = path != command.path;
    if let Some(colors) = args.value("color").and_then(Colors::parse) {
        colors.set();
    }
    if args.is_set("help") {
        return print(&usage(command, path));
    }
    command.check(&args)?;
    (command.run)(&args)
}

/// Says in one line what is wrong with the flags of the command or group `path`.
fn wrong_usage(what: &str, path: &[&str]) -> Failure {
    let end = if what.ends_with(['.', '?']) { "" } else { "." };
    let name = [&["kes"], path].concat().join(" ");
    Failure::from(format!("{what}{end} See '{name} --help'")).tell();
    Failure::Exit(2)
}

/// What is wrong with `flag` right behind the words of the group `path`.
fn misplaced_flag(path: &[&str], flag: &str) -> String {
    let name = flag_name(flag).unwrap_or_default();
    let name = name.split_once('=').map_or(name, |(name, _)| name);
    let text = format!("flag provided but not defined: -{name}.");
    let mut flags = COMMANDS.below(path).flat_map(|(_, command)| command.all_flags());
    match flags.any(|known| known.names.contains(&name)) {
        true => text + " Flags stand after all words of the command.",
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_command_is_recognised_and_a_strange_one_is_not() {
        let unknown_command = |path: &[&str]| unknown_command(COMMANDS, path);
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
