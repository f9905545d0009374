//! The table of commands, from which dispatch, help, completion and the man page derive.

use super::{
    Failure,
    args::{Args, Flag, Takes},
    completion, config, healthcheck, help, identity, key, man, migrate, policy, server, tool,
    trace, version, why,
};

/// A command.
pub(super) struct Command {
    /// The words that call it.
    pub(super) path: Path,
    /// Other words for the same, such as those of the newer vocabulary.
    pub(super) aliases: &'static [Path],
    /// What follows them.
    pub(super) arguments: &'static [Argument],
    /// What it does, in one line.
    pub(super) summary: &'static str,
    /// What else one should know.
    pub(super) details: &'static str,
    pub(super) flags: &'static [Flag],
    /// Command lines that one might want.
    pub(super) examples: &'static [&'static str],
    pub(super) run: fn(&Args) -> Result<(), Failure>,
}

/// The words that call a command, without `kes`.
pub(super) type Path = &'static [&'static str];

/// An argument of a command.
pub(super) struct Argument {
    /// What stands for it in usage lines; with `|` between them, these are all there are.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) is_optional: bool,
    /// More of the same kind may follow it.
    pub(super) is_repeated: bool,
}

/// What an argument is, for completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// What nobody but the user knows, or the words of the name.
    Text,
    File,
    /// The name of a key that exists.
    Key,
    /// The name of a policy that exists.
    Policy,
    /// An identity that has a policy.
    Identity,
    /// Such an identity, or the file of a certificate.
    Holder,
    /// A word of a command.
    Command,
}

const fn required(name: &'static str, kind: Kind) -> Argument {
    Argument { name, kind, is_optional: false, is_repeated: false }
}

const fn optional(name: &'static str, kind: Kind) -> Argument {
    Argument { name, kind, is_optional: true, is_repeated: false }
}

pub(super) const INSECURE: Flag = Flag {
    names: &["insecure", "k"],
    takes: Takes::Bool,
    help: "skip the checks of the server's certificate",
};

pub(super) const JSON: Flag = Flag { names: &["json"], takes: Takes::Bool, help: "print JSON" };

/// Flags of client commands.
pub(super) const CLIENT: &[Flag] = &[INSECURE, JSON];

/// Flags of client commands that print nothing: scripts may give all of them `--json`.
const SILENT: &[Flag] = &[INSECURE, Flag { help: "", ..JSON }];

const STDIN: &str =
    "'-' reads the value from standard input, so that it is not seen in the list of processes.";

/// All commands.
#[rustfmt::skip]
pub(super) static COMMANDS: &[Command] = &[
    Command {
        path: &["server"], aliases: &[], arguments: &[],
        summary: "Run a server",
        details: server::DETAILS,
        flags: server::FLAGS,
        examples: &["kes server --config /etc/kes/config.yml", "kes server --config config.yml --auth off"],
        run: server::run,
    },
    Command {
        path: &["healthcheck"], aliases: &[], arguments: &[],
        summary: "Ask the probe of a server whether it is healthy",
        details: healthcheck::DETAILS,
        flags: healthcheck::FLAGS,
        examples: &["kes healthcheck --config /etc/kes/config.yml", "kes healthcheck --probe 127.0.0.1:7374 --live"],
        run: healthcheck::run,
    },
    Command {
        path: &["config", "check"], aliases: &[],
        arguments: &[required("file", Kind::File)],
        summary: "Look for errors and oddities in a configuration file",
        details: config::DETAILS,
        flags: server::CHECK_FLAGS,
        examples: &["kes config check --strict /etc/kes/config.yml"],
        run: config::check,
    },
    Command {
        path: &["key", "create"], aliases: &[],
        arguments: &[required("name", Kind::Text), optional("key", Kind::Text)],
        summary: "Create a key, or import a given one",
        details: STDIN,
        flags: SILENT,
        examples: &["kes key create my-key"],
        run: key::create,
    },
    Command {
        path: &["key", "import"], aliases: &[],
        arguments: &[required("name", Kind::Text), required("key", Kind::Text)],
        summary: "Import a key of 32 bytes in base64",
        details: STDIN,
        flags: SILENT,
        examples: &["openssl rand -base64 32 | kes key import my-key -"],
        run: key::import,
    },
    Command {
        path: &["key", "delete"], aliases: &[&["key", "rm"]],
        arguments: &[Argument { is_repeated: true, ..required("name", Kind::Key) }],
        summary: "Delete keys; what they have sealed is lost for ever",
        details: "A name is no pattern: 'my-*' is the key of that name. Each failure is reported, and the\nkeys after it are deleted all the same.",
        flags: SILENT,
        examples: &["kes key delete my-key", "kes key delete test-1 test-2"],
        run: key::delete,
    },
    Command {
        path: &["key", "list"], aliases: &[&["key", "ls"]],
        arguments: &[optional("pattern", Kind::Key)],
        summary: "List the keys that match a pattern",
        details: "",
        flags: CLIENT,
        examples: &["kes key list 'my-*'"],
        run: key::list,
    },
    Command {
        path: &["key", "derive"], aliases: &[&["key", "dek"]],
        arguments: &[required("name", Kind::Key), optional("context", Kind::Text)],
        summary: "Make a data key, in plain and sealed",
        details: "The context is base64; '-' reads it from standard input.",
        flags: CLIENT,
        examples: &["kes key derive my-key"],
        run: key::derive,
    },
    Command {
        path: &["key", "encrypt"], aliases: &[],
        arguments: &[required("name", Kind::Key), required("plaintext", Kind::Text), optional("context", Kind::Text)],
        summary: "Seal a small secret (all values in base64)",
        details: STDIN,
        flags: CLIENT,
        examples: &["base64 -w0 secret.txt | kes key encrypt my-key -"],
        run: key::encrypt,
    },
    Command {
        path: &["key", "decrypt"], aliases: &[],
        arguments: &[required("name", Kind::Key), required("ciphertext", Kind::Text), optional("context", Kind::Text)],
        summary: "Open a ciphertext (all values in base64)",
        details: STDIN,
        flags: CLIENT,
        examples: &["kes key decrypt my-key - <ciphertext.txt"],
        run: key::decrypt,
    },
    Command {
        path: &["policy", "add"], aliases: &[&["policy", "create"]],
        arguments: &[required("name", Kind::Policy), optional("file", Kind::File)],
        summary: "Create a policy, or replace its paths",
        details: "\
The policy is JSON: {\"paths\":[\"/v1/key/create/my-app-*\",...]}. Without a file, or with '-',
it is read from standard input. It lasts until the server ends; what is to last
longer belongs into its configuration file.",
        flags: SILENT,
        examples: &["kes policy add my-app my-app.json"],
        run: policy::add,
    },
    Command {
        path: &["policy", "show"], aliases: &[],
        arguments: &[required("name", Kind::Policy)],
        summary: "Print the paths that a policy allows",
        details: "",
        flags: CLIENT,
        examples: &["kes policy show my-app"],
        run: policy::show,
    },
    Command {
        path: &["policy", "list"], aliases: &[&["policy", "ls"]],
        arguments: &[optional("pattern", Kind::Policy)],
        summary: "List the policies that match a pattern",
        details: "",
        flags: CLIENT,
        examples: &["kes policy list 'my-*'"],
        run: policy::list,
    },
    Command {
        path: &["policy", "delete"], aliases: &[&["policy", "rm"]],
        arguments: &[required("name", Kind::Policy)],
        summary: "Delete a policy; whoever is assigned to it has none then",
        details: "",
        flags: SILENT,
        examples: &["kes policy delete my-app"],
        run: policy::delete,
    },
    Command {
        path: &["policy", "why"], aliases: &[],
        arguments: &[required("identity", Kind::Holder), required("path", Kind::Text)],
        summary: "Tell whether an identity may call a path, and why",
        details: why::DETAILS,
        flags: why::FLAGS,
        examples: &["kes policy why --config config.yml \"$APP\" /v1/key/create/my-key"],
        run: why::run,
    },
    Command {
        path: &["identity", "assign"], aliases: &[],
        arguments: &[required("identity", Kind::Identity), required("policy", Kind::Policy)],
        summary: "Assign an identity to a policy, instead of the one that it had",
        details: "It lasts until the server ends; what is to last longer belongs into its\nconfiguration file.",
        flags: SILENT,
        examples: &["kes identity assign \"$APP\" my-app"],
        run: identity::assign,
    },
    Command {
        path: &["identity", "list"], aliases: &[&["identity", "ls"]],
        arguments: &[optional("pattern", Kind::Identity)],
        summary: "List identities with their policies",
        details: "",
        flags: CLIENT,
        examples: &["kes identity list"],
        run: identity::list,
    },
    Command {
        path: &["identity", "forget"], aliases: &[&["identity", "rm"]],
        arguments: &[required("identity", Kind::Identity)],
        summary: "Take its policy from an identity",
        details: "",
        flags: SILENT,
        examples: &["kes identity forget 736bf58626441e3e134a2daf2e6a8441b40e1abc0eac510878168c8aac9f2b0b"],
        run: identity::forget,
    },
    Command {
        path: &["log", "trace"], aliases: &[],
        arguments: &[],
        summary: "Show audit events, errors or metrics of a server as they happen",
        details: trace::DETAILS,
        flags: trace::FLAGS,
        examples: &["kes log trace", "kes log trace --type metric --rate 1s", "kes log trace --json | jq .request.path"],
        run: trace::run,
    },
    Command {
        path: &["tool", "identity", "new"], aliases: &[&["identity", "new"]],
        arguments: &[optional("name", Kind::Text)],
        summary: "Make a private key and a certificate",
        details: "",
        flags: tool::NEW_FLAGS,
        examples: &[
            "kes tool identity new --key app.key --cert app.crt app",
            "kes tool identity new --server --ip 10.0.0.5 --dns kes.example.com --key server.key --cert server.crt",
        ],
        run: tool::new,
    },
    Command {
        path: &["tool", "identity", "of"], aliases: &[&["identity", "of"]],
        arguments: &[optional("certificate file", Kind::File)],
        summary: "Print the identity of a certificate",
        details: "Without a file, or with '-', the certificate is read from standard input.",
        flags: tool::OF_FLAGS,
        examples: &["kes tool identity of app.crt"],
        run: tool::of,
    },
    Command {
        path: &["tool", "migrate"], aliases: &[&["migrate"]],
        arguments: &[optional("pattern", Kind::Text)],
        summary: "Copy the keys of one key store into another",
        details: migrate::DETAILS,
        flags: migrate::FLAGS,
        examples: &["kes tool migrate --from fs.yml --to vault.yml", "kes tool migrate --from old.yml --to new.yml --merge 'my-*'"],
        run: migrate::migrate,
    },
    Command {
        path: &["completion"], aliases: &[],
        arguments: &[required("bash|zsh|fish", Kind::Text)],
        summary: "Print the completion script of a shell",
        details: completion::DETAILS,
        flags: &[],
        examples: &[
            "kes completion bash >/etc/bash_completion.d/kes",
            "kes completion zsh >/usr/local/share/zsh/site-functions/_kes",
            "kes completion fish >~/.config/fish/completions/kes.fish",
        ],
        run: completion::run,
    },
    Command {
        path: &["man"], aliases: &[&["tool", "man"]],
        arguments: &[],
        summary: "Print the manual page",
        details: "",
        flags: &[],
        examples: &["kes man | man -l -", "kes man >/usr/local/share/man/man1/kes.1"],
        run: man::run,
    },
    Command {
        path: &["help"], aliases: &[],
        arguments: &[Argument { is_repeated: true, ..optional("command", Kind::Command) }],
        summary: "Print the usage of a command, or the list of commands",
        details: "",
        flags: &[],
        examples: &["kes help key derive"],
        run: help::run,
    },
    Command {
        path: &["version"], aliases: &[],
        arguments: &[],
        summary: "Print the version",
        details: "",
        flags: &[],
        examples: &["kes version"],
        run: version,
    },
];

/// Variables that the client commands read, and what for.
pub(super) const ENVIRONMENT: &[(&str, &str)] = &[
    ("KES_SERVER", "the server (default: https://127.0.0.1:7373)"),
    ("KES_CLIENT_KEY", "file of your private key"),
    ("KES_CLIENT_CERT", "file of your certificate"),
];

impl Command {
    /// Whether it talks to a server.
    pub(super) fn is_client(&self) -> bool {
        let mut flags = self.flags.iter();
        flags.any(|flag| flag.names == INSECURE.names)
    }

    /// All the words that call it, the preferred ones first.
    pub(super) fn paths(&self) -> impl Iterator<Item = Path> {
        std::iter::once(self.path).chain(self.aliases.iter().copied())
    }

    /// The flags that one should know of.
    pub(super) fn listed_flags(&self) -> impl Iterator<Item = &'static Flag> {
        self.flags.iter().filter(|flag| flag.is_listed())
    }

    /// What follows the words: `<name> [<key>]`.
    pub(super) fn arguments(&self) -> String {
        let show = |argument: &Argument| {
            let more = if argument.is_repeated { "..." } else { "" };
            match argument.is_optional {
                true => format!("[<{}>{more}]", argument.name),
                false => format!("<{}>{more}", argument.name),
            }
        };
        let arguments: Vec<_> = self.arguments.iter().map(show).collect();
        arguments.join(" ")
    }
}

/// The command that these words call.
pub(super) fn find(path: &[&str]) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| command.paths().any(|known| known == path))
}

/// All the words that commands are called by and that start with `path`, with the commands.
pub(super) fn below(path: &[&str]) -> impl Iterator<Item = (Path, &'static Command)> {
    let paths = |command: &'static Command| command.paths().map(move |path| (path, command));
    COMMANDS.iter().flat_map(paths).filter(move |(known, _)| known.starts_with(path))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    #[test]
    fn no_command_hides_another_and_no_flag_is_named_twice() {
        let all: Vec<_> = below(&[]).collect();
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
        for command in COMMANDS {
            assert!(!command.examples.is_empty(), "{:?}", command.path);
            for example in command.examples {
                let start = example.find("kes ").expect(example);
                let call = example[start..].split(['|', '>', '<']).next().unwrap();
                let words: Vec<_> = call.split_whitespace().skip(1).collect();
                assert!(words.starts_with(command.path), "{example}");
                let rest = words[command.path.len()..].iter().map(OsString::from);
                let args =
                    Args::parse(rest, command.flags).unwrap_or_else(|e| panic!("{example}: {e:?}"));
                let required = command.arguments.iter().filter(|argument| !argument.is_optional);
                let given = args.positional.len();
                let is_repeated = |argument: &Argument| argument.is_repeated;
                let most = match command.arguments.iter().any(is_repeated) {
                    true => usize::MAX,
                    false => command.arguments.len(),
                };
                assert!((required.count()..=most).contains(&given), "{example}");
            }
        }
    }

    #[test]
    fn the_documentation_has_a_row_for_every_command() {
        let page = include_str!("../../docs/command-line.md").replace("\\|", "|");
        for command in COMMANDS {
            let row = format!("| `kes {}", command.path.join(" "));
            let arguments = command.arguments();
            let found = page.lines().any(|line| {
                let rest = line.strip_prefix(&row);
                rest.is_some_and(|rest| rest.starts_with('`') || rest.starts_with(' '))
            });
            assert!(found, "{row} {arguments}` is not in docs/command-line.md");
        }
    }

    #[test]
    fn required_arguments_come_first_and_repeated_ones_last() {
        for command in COMMANDS {
            let repeated = command.arguments.iter().map(|argument| argument.is_repeated);
            assert!(repeated.clone().is_sorted() && repeated.filter(|is| *is).count() <= 1);
            let is_optional = |argument: &Argument| argument.is_optional;
            assert!(command.arguments.is_sorted_by_key(is_optional), "{:?}", command.path);
        }
    }
}
