//! The table of commands, from which parsing, help, completion, the manual page and the reference in
//! `docs/command-line.md` derive.

use super::{
    args::{Argument, Command, Kind, Table},
    cmd::{config, healthcheck, identity, key, log, migrate, policy, server, tool, why},
    completion, help, man,
    output::print,
};

pub(crate) const VERSION: &str = concat!("kes version ", env!("CARGO_PKG_VERSION"), "\n");

/// All commands, in the order of the help.
pub(crate) static COMMANDS: Table = Table(&[
    server::SERVER,
    healthcheck::HEALTHCHECK,
    config::CHECK,
    key::CREATE,
    key::IMPORT,
    key::DELETE,
    key::LIST,
    key::DERIVE,
    key::ENCRYPT,
    key::DECRYPT,
    policy::ADD,
    policy::SHOW,
    policy::LIST,
    policy::DELETE,
    why::WHY,
    identity::ASSIGN,
    identity::LIST,
    identity::FORGET,
    log::TRACE,
    tool::NEW,
    tool::OF,
    migrate::MIGRATE,
    // What derives from the table itself:
    Command {
        path: &["completion"],
        arguments: &[
            Argument::new("bash|zsh|fish", "shell", Kind::Text),
            // `words` in place of the shell, and the words of a line: what the scripts ask.
            Argument::new("", "", Kind::Text).optional().repeated(),
        ],
        summary: "Print the completion script of a shell",
        details: completion::DETAILS,
        examples: &[
            "kes completion bash >/etc/bash_completion.d/kes",
            "kes completion zsh >/usr/local/share/zsh/site-functions/_kes",
            "kes completion fish >~/.config/fish/completions/kes.fish",
        ],
        run: |args| completion::run(args, COMMANDS),
        ..Command::NEW
    },
    Command {
        path: &["man"],
        aliases: &[&["tool", "man"]],
        summary: "Print the manual page",
        examples: &["kes man | man -l -", "kes man >/usr/local/share/man/man1/kes.1"],
        run: |_| print(&man::page(COMMANDS)),
        ..Command::NEW
    },
    Command {
        path: &["help"],
        arguments: &[Argument::new("command", "command", Kind::Command).optional().repeated()],
        summary: "Print the usage of a command, or the list of commands",
        examples: &["kes help key derive"],
        run: |args| help::run(args, COMMANDS),
        ..Command::NEW
    },
    Command {
        path: &["version"],
        summary: "Print the version",
        examples: &["kes version"],
        run: |_| print(VERSION),
        ..Command::NEW
    },
]);

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::cli::args::Args;

    #[test]
    fn no_command_hides_another_and_no_flag_is_named_twice() {
        let all: Vec<_> = COMMANDS.below(&[]).collect();
        for (at, (path, command)) in all.iter().enumerate() {
            for (other, _) in &all[at + 1..] {
                assert!(!other.starts_with(path), "{other:?}");
                assert!(!path.starts_with(other), "{other:?}");
            }
            let mut names: Vec<_> = command.flags.iter().flat_map(|flag| flag.names).collect();
            names.sort();
            let count = names.len();
            names.dedup();
            assert_eq!(count, names.len(), "{path:?}");
        }
    }

    #[test]
    fn every_command_has_an_example_that_calls_it_rightly() {
        for command in COMMANDS.0 {
            assert!(!command.examples.is_empty(), "{:?}", command.path);
            for example in command.examples {
                let start = example.find("kes ").expect(example);
                let call = example[start..].split(['|', '>', '<']).next().unwrap();
                let words: Vec<_> = call.split_whitespace().skip(1).collect();
                assert!(words.starts_with(command.path), "{example}");
                let rest = &words[command.path.len()..];
                let rest: Vec<_> = rest.iter().map(OsString::from).collect();
                let args = Args::parse(&rest, command.flags).expect(example);
                // The quotes are the shell's, and so are variables.
                assert!(command.check(&args).is_ok(), "{example}");
            }
        }
    }

    #[test]
    fn required_arguments_come_first_and_repeated_ones_last() {
        for command in COMMANDS.0 {
            let repeated = command.arguments.iter().map(|argument| argument.is_repeated);
            assert!(repeated.clone().is_sorted() && repeated.filter(|is| *is).count() <= 1);
            let is_optional = |argument: &Argument| argument.is_optional;
            assert!(command.arguments.is_sorted_by_key(is_optional), "{:?}", command.path);
        }
    }
}
