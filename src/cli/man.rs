//! `kes man`: the manual page, from the table of commands, in the macros of `man(7)`.

use std::fmt::Write as _;

use super::{
    args::{HELP, Table},
    help::{ENVIRONMENT, called, exit_codes, option, synopsis},
};
use crate::config;

const DESCRIPTION: &str = "\
kes is a key encryption server, which identifies its clients by their TLS certificates and lets them \
create master keys and make, seal and open data keys as their policies allow. Master keys live in a \
key store and never reach a client.";

const VARIABLES: &[(&str, &str)] = &[
    (
        "HTTPS_PROXY, NO_PROXY",
        "the proxy on the way to the server, and the hosts that are reached without it; this machine \
         itself always is",
    ),
    (
        "SSL_CERT_FILE, SSL_CERT_DIR",
        "file and directory of trusted authorities, instead of those of the system",
    ),
    ("NO_COLOR", "if set and not empty, nothing is coloured"),
];

const CONFIGURATION: &str = "\
The configuration file has no fixed place: 'kes server --config' names it. It is YAML; a value of the \
form ${NAME} is taken from the environment, and refused if that is not set. 'kes config check' finds what is \
wrong with the file.";

const SIGNALS: &[(&str, &str)] = &[
    (
        "SIGHUP",
        "The server reads its configuration file again. If anything is wrong, the error log says what, \
         and the settings stay as they were. Addresses and the key store change with a restart only, but \
         a login to it that was refused is tried again at once.",
    ),
    (
        "SIGTERM, SIGINT",
        "The server lets running requests finish for at most 0.8 s and exits with 0; a second signal \
         ends it at once.",
    ),
];

const LOGS: &str = "\
The server writes its error log to standard error, as lines of JSON or, on a terminal, of text. With \
log.audit: on, the audit log goes to standard output, a line of JSON for each request, unless nobody \
reads it; with log.audit: required, no key is answered without its line. 'kes log trace' shows both \
logs as they happen.";

const METRICS: &str = "\
Metrics for Prometheus are at /v1/metrics: for clients that a policy allows to, and without TLS at \
probe.address.";

const EXIT_CODES: &[(&str, &str)] = &[
    ("0", "Done."),
    (
        "1",
        "Failed, and the reason is on standard error; also if arguments are missing, too many or wrong.",
    ),
    (
        "2",
        "An unknown flag, a flag without its value, or a wrong value; 'kes key' or 'kes log' alone.",
    ),
    ("others", "As the commands say."),
];

// Writing to a `String` cannot fail, so results of that are dropped here.
pub(crate) fn page(table: Table) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let mut page = format!(
        ".TH KES 1 \"\" \"kes {}\" \"User Commands\"\n.SH NAME\nkes \\- key encryption service\n",
        escape(version)
    );
    page.push_str(".SH SYNOPSIS\n.B kes\n.I command\n.RI [ options ]\n.RI [ arguments ]\n");
    let _ = write!(page, ".SH DESCRIPTION\n{}\n", text(DESCRIPTION));
    page.push_str(".SH COMMANDS\n");
    for command in table.0 {
        let _ = writeln!(page, ".SS \"{}\"", escape(&synopsis(command, command.path)));
        let _ = writeln!(page, "{}.", text(command.summary));
        if !command.details.is_empty() {
            let _ = writeln!(page, ".PP\n{}", text(command.details));
        }
        if !command.exit_codes.is_empty() {
            let _ = writeln!(page, ".PP\n{}", text(&exit_codes(command)));
        }
        let others: Vec<_> = command.aliases.iter().map(|path| called(path)).collect();
        if !others.is_empty() {
            let _ = writeln!(page, ".PP\nAlso called: {}.", text(&others.join(", ")));
        }
        for flag in command.listed_flags() {
            let _ = writeln!(page, ".TP\n.B {}\n{}", escape(&option(flag)), text(flag.help));
        }
        page.push_str(".PP\nFor example:\n.PP\n.nf\n.RS\n");
        for example in command.examples {
            let _ = writeln!(page, "{}", text(example));
        }
        page.push_str(".RE\n.fi\n");
    }
    page.push_str(".SH OPTIONS\nFlags may stand before or after arguments.\n");
    let options = [
        (&*option(&HELP), "after any command, print its usage"),
        ("-v, --version", "print the version"),
    ];
    page.push_str(&definitions(&options));
    page.push_str(".SH ENVIRONMENT\n");
    page.push_str(&definitions(ENVIRONMENT));
    page.push_str(&definitions(VARIABLES));
    let _ = write!(page, ".SH FILES\n{}\n", text(CONFIGURATION));
    for (name, about) in config::documented() {
        page.push_str(&definitions(&[(&name, &plain(about))]));
    }
    page.push_str(".SH SIGNALS\n");
    page.push_str(&definitions(SIGNALS));
    let _ = write!(page, ".SH LOGS AND METRICS\n{}\n.PP\n{}\n", text(LOGS), text(METRICS));
    page.push_str(".SH EXIT STATUS\n");
    page.push_str(&definitions(EXIT_CODES));
    page
}

/// Terms and what they mean.
fn definitions(all: &[(&str, &str)]) -> String {
    let define =
        |(term, what): &(&str, &str)| format!(".TP\n.B {}\n{}\n", escape(term), text(what));
    all.iter().map(define).collect()
}

/// Markdown without its code spans and links.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, link)) = rest.split_once("](") {
        plain.push_str(before);
        rest = link.split_once(')').map_or("", |(_, rest)| rest);
    }
    plain.push_str(rest);
    plain.replace(['`', '['], "")
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
    use crate::cli::table::COMMANDS;

    #[test]
    fn what_means_something_to_roff_is_escaped() {
        assert_eq!("a \\-k \\(aqb\\(aq \\en\n\\&.TH\n\\(aqx", text("a -k 'b' \\n\n.TH\n'x"));
    }

    #[test]
    fn the_page_has_every_command_with_its_flags() {
        let page = page(COMMANDS);
        for command in COMMANDS.0 {
            assert!(page.contains(&escape(&synopsis(command, command.path))));
            for flag in command.listed_flags() {
                assert!(page.contains(&escape(&option(flag))), "{:?}", flag.names);
            }
        }
    }
}
