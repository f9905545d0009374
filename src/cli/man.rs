//! `kes man`: the manual page, from the table of commands, in the macros of `man(7)`.

use std::fmt::Write as _;

use super::{
    Args, Failure,
    commands::{COMMANDS, ENVIRONMENT},
    help::{HELP, option, synopsis},
    print,
};

const DESCRIPTION: &str = "\
kes stands between applications and a key management system. An application shows its client \
certificate; the server identifies it by the SHA-256 of its public key, looks up its policy, and \
creates, imports and deletes master keys, or generates, encrypts and decrypts data keys with them. \
Master keys live in a key store and never reach a client. The same program is the server and its \
command line. Flags may stand before or after arguments.";

const EXIT_CODES: &[(&str, &str)] = &[
    (
        "0",
        "Done; for 'kes healthcheck' healthy, for 'kes policy why' allowed.",
    ),
    (
        "1",
        "Failed, and the reason is on standard error; also if arguments are missing, too many or \
         wrong. For 'kes healthcheck' unhealthy.",
    ),
    (
        "2",
        "An unknown flag, one without its value, or a value that is none; 'kes key' or 'kes log' \
         alone.",
    ),
    ("3", "Refused ('kes policy why')."),
    ("78", "A wrong configuration file ('kes config check')."),
];

/// `kes man`
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    match args.positional.is_empty() {
        true => print(&page()),
        false => Err("too many arguments".into()),
    }
}

// Writing to a `String` cannot fail, so results of that are dropped here.
fn page() -> String {
    let version = env!("CARGO_PKG_VERSION");
    let mut page = format!(
        ".TH KES 1 \"\" \"kes {}\" \"User Commands\"\n.SH NAME\nkes \\- key encryption service\n",
        escape(version)
    );
    page.push_str(".SH SYNOPSIS\n.B kes\n.I command\n.RI [ options ]\n.RI [ arguments ]\n");
    let _ = write!(page, ".SH DESCRIPTION\n{}\n", text(DESCRIPTION));
    page.push_str(".SH COMMANDS\n");
    for command in COMMANDS {
        let _ = writeln!(page, ".SS \"{}\"", escape(&synopsis(command, command.path)));
        let _ = writeln!(page, "{}.", text(command.summary));
        if !command.details.is_empty() {
            let _ = writeln!(page, ".PP\n{}", text(command.details));
        }
        let others: Vec<_> = command
            .aliases
            .iter()
            .map(|path| format!("kes {}", path.join(" ")))
            .collect();
        if !others.is_empty() {
            let _ = writeln!(page, ".PP\nAlso called: {}.", text(&others.join(", ")));
        }
        for flag in command.listed_flags() {
            let _ = writeln!(
                page,
                ".TP\n.B {}\n{}",
                escape(&option(flag)),
                text(flag.help)
            );
        }
        page.push_str(".PP\nFor example:\n.PP\n.nf\n.RS\n");
        for example in command.examples {
            let _ = writeln!(page, "{}", text(example));
        }
        page.push_str(".RE\n.fi\n");
    }
    page.push_str(".SH OPTIONS\n");
    for (option, what) in [
        (option(&HELP).as_str(), "after any command, print its usage"),
        ("-v, --version", "print the version"),
    ] {
        let _ = writeln!(page, ".TP\n.B {}\n{}", escape(option), text(what));
    }
    page.push_str(".SH ENVIRONMENT\n");
    let colours = ("NO_COLOR", "if set and not empty, nothing is coloured");
    for (name, what) in ENVIRONMENT.iter().chain([&colours]) {
        let _ = writeln!(page, ".TP\n.B {}\n{}", escape(name), text(what));
    }
    page.push_str(".SH EXIT STATUS\n");
    for (code, what) in EXIT_CODES {
        let _ = writeln!(page, ".TP\n.B {code}\n{}", text(what));
    }
    page
}

/// `text` as it stands inside a line: no character of it means anything to roff.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\\' => escaped.push_str("\\e"),
            '-' => escaped.push_str("\\-"),
            '\'' => escaped.push_str("\\(aq"),
            '"' => escaped.push_str("\\(dq"),
            '~' => escaped.push_str("\\(ti"),
            '^' => escaped.push_str("\\(ha"),
            '`' => escaped.push_str("\\(ga"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// `text` as lines of their own; none of them can be taken for a request.
fn text(text: &str) -> String {
    let line = |line: &str| match line.starts_with('.') {
        true => format!("\\&{}", escape(line)),
        false => escape(line),
    };
    let lines: Vec<_> = text.lines().map(line).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_something_to_roff_is_escaped() {
        assert_eq!(
            "a \\-k \\(aqb\\(aq \\en\n\\&.TH\n\\(aqx",
            text("a -k 'b' \\n\n.TH\n'x")
        );
    }

    #[test]
    fn the_page_has_every_command_with_its_flags() {
        let page = page();
        for command in COMMANDS {
            assert!(page.contains(&escape(&synopsis(command, command.path))));
            for flag in command.listed_flags() {
                assert!(page.contains(&escape(&option(flag))), "{:?}", flag.names);
            }
        }
    }
}
