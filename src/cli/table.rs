//! The table of commands, from which parsing, help, completion, the manual page and the reference in
//! `docs/command-line.md` derive.

use super::{
    args::{Argument, Command, Kind, Table, flag, value},
    cmd::{
        api_key, config, doctor, healthcheck, identity, init, key, log, ls, metric, migrate,
        policy, server, status, tool, why,
    },
    completion, help, man,
    output::{Result, print},
};

/// `kes --version`: in a build by `scripts/build` with the commit and its day.
pub(crate) fn version() -> String {
    let built = [option_env!("KES_COMMIT"), option_env!("KES_DATE")];
    let built = built.map(|text| text.filter(|text| !text.is_empty()));
    let built = match built {
        [Some(commit), Some(day)] => {
            format!(" (commit {}, {day})", commit.get(..12).unwrap_or(commit))
        }
        _ => String::new(),
    };
    format!("kes version {}{built}\n", env!("CARGO_PKG_VERSION"))
}

/// `kes update` and `kes --update`.
pub(crate) fn update() -> Result<()> {
    Err("kes does not update itself: install a new version from where you got this one".into())
}

/// All commands, in the order of the help.
pub(crate) static COMMANDS: Table = Table(&[
    init::INIT,
    server::SERVER,
    healthcheck::HEALTHCHECK,
    doctor::DOCTOR,
    config::CHECK,
    config::CONVERT,
    key::CREATE,
    key::IMPORT,
    key::DELETE,
    key::LIST,
    key::INFO,
    key::DERIVE,
    key::ENCRYPT,
    key::DECRYPT,
    policy::ADD,
    policy::SHOW,
    policy::INFO,
    policy::LIST,
    policy::DELETE,
    why::WHY,
    api_key::ALONE,
    api_key::NEW,
    api_key::OF,
    identity::INFO,
    identity::ASSIGN,
    identity::LIST,
    identity::FORGET,
    ls::LS,
    status::STATUS,
    metric::METRIC,
    log::LOG,
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
        run: |_| print(&version()),
        ..Command::NEW
    },
    Command {
        path: &["update"],
        arguments: &[Argument::new("version", "version", Kind::Text).optional()],
        summary: "Say how to update kes, which does not do it itself",
        // Those of newer versions: the answer is the same.
        flags: &[
            flag(&["downgrade", "d"], ""),
            flag(&["insecure", "k"], ""),
            value(&["output", "o"], "file", ""),
            value(&["os"], "name", ""),
            value(&["arch"], "name", ""),
            value(&["minisign-key"], "key", ""),
        ],
        examples: &["kes update"],
        run: |_| update(),
        ..Command::NEW
    },
]);

#[cfg(test)]
mod tests {
    use std::{ffi::OsString, fmt::Write as _, fs, path::Path};

    use super::*;
    use crate::cli::{
        args::Args,
        help::{called, exit_codes, option, synopsis},
    };

    #[test]
    fn no_command_hides_another_and_no_flag_is_named_twice() {
        let all: Vec<_> = COMMANDS.below(&[]).collect();
        for (at, (path, command)) in all.iter().enumerate() {
            for (other, _) in &all[at + 1..] {
                assert_ne!(path, other);
                // 'kes identity' is a command and a group.
                assert!(path.len() == 1 || !other.starts_with(path), "{other:?}");
                assert!(other.len() == 1 || !path.starts_with(other), "{other:?}");
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
                let args = Args::parse(&rest, command).expect(example);
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

    /// What stands between `<!-- commands -->` and `<!-- /commands -->` in `docs/command-line.md`.
    fn reference() -> String {
        let text = |text: &str| text.replace('*', "\\*").replace('<', "\\<");
        let mut page = "| Command | |\n|---|---|\n".to_owned();
        for command in COMMANDS.0 {
            let name = called(command.path);
            let anchor = name.replace(' ', "-");
            let _ = writeln!(page, "| [`{name}`](#{anchor}) | {} |", text(command.summary));
        }
        for command in COMMANDS.0 {
            let (name, usage) = (called(command.path), synopsis(command, command.path));
            let _ =
                writeln!(page, "\n### {name}\n\n```\n{usage}\n```\n\n{}.", text(command.summary));
            if !command.details.is_empty() {
                let _ = writeln!(page, "{}", text(command.details));
            }
            for alias in command.aliases {
                let _ = writeln!(page, "Also called `{}`.", called(alias));
            }
            if !command.exit_codes.is_empty() {
                let _ = writeln!(page, "{}", exit_codes(command));
            }
            if command.listed_flags().next().is_some() {
                page.push_str("\n| Option | |\n|---|---|\n");
            }
            for flag in command.listed_flags() {
                let option = option(flag).replace('|', "\\|");
                let _ = writeln!(page, "| `{option}` | {} |", text(flag.help));
            }
            let _ = writeln!(page, "\n```\n{}\n```", command.examples.join("\n"));
        }
        page
    }

    /// With `KES_WRITE_DOCS` in the environment, the page is written anew.
    #[test]
    fn the_reference_in_the_documentation_is_this_table() {
        const BEGIN: &str = "<!-- commands -->\n";
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/command-line.md");
        let page = fs::read_to_string(&file).unwrap();
        let (before, rest) = page.split_once(BEGIN).expect("a marker");
        let (found, after) = rest.split_once("<!-- /commands -->").expect("a second marker");
        if std::env::var_os("KES_WRITE_DOCS").is_some() && reference() != found {
            let page = format!("{before}{BEGIN}{}<!-- /commands -->{after}", reference());
            fs::write(&file, page).unwrap();
        } else {
            assert_eq!(reference(), found, "run 'KES_WRITE_DOCS=1 cargo test --lib reference'");
        }
    }
}
