//! `kes man`: the manual page, from the table of commands, in the macros of `man(7)`.

use super::{
    args::{COLOR, CONNECTION, Command, HELP, Table},
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
The configuration file has no fixed place: 'kes server --config' names it. That of the packages is \
/etc/kes/config.yaml, where 'kes healthcheck' and 'kes doctor' look, too. It is YAML; a value of the \
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
        "The server lets running requests finish for at most shutdown.timeout (0.8 s by default) after \
         shutdown.delay, and exits with 0; a second signal ends it at once.",
    ),
];

const LOGS: &str = "\
The server writes its error log to standard error, as lines of JSON or, on a terminal, of text. With \
log.audit: on, the audit log goes to standard output, a line of JSON for each request, unless nobody \
reads it; with log.audit: required, no key is answered without its line. 'kes log trace' shows both \
logs as they happen.";

const METRICS: &str = "\
Metrics for Prometheus are at /v1/metrics: for clients whose policy allows it, and without TLS at \
probe.address.";

const EXIT_CODES: &[(&str, &str)] = &[
    ("0", "Done."),
    (
        "1",
        "Failed, and the reason is on standard error; also if arguments are missing, too many or wrong.",
    ),
    (
        "2",
        "An unknown flag, or one without its value; a value that is no duration, no true or false, or none of \
         --color; 'kes key' alone.",
    ),
    ("3", "Refused ('kes policy why'); incomplete ('kes config convert', 'kes migrate --merge')."),
    ("78", "Wrong configuration ('kes config check', 'kes config convert', 'kes server --check')."),
];

pub(crate) fn page(table: Table) -> String {
    let mut options =
        vec![(option(&HELP), "after any command, print its usage"), (option(&COLOR), COLOR.help)];
    let connection = CONNECTION.iter().filter(|flag| !flag.help.is_empty());
    options.extend(connection.map(|flag| (option(flag), flag.help)));
    options.push(("-v, --version".to_owned(), "print the version"));
    let options: Vec<_> = options.iter().map(|(option, what)| (&**option, *what)).collect();
    let fields = config::documented();
    let fields = fields.map(|(name, about)| definitions(&[(&name, &plain(about))]));
    let parts = [
        ("NAME", "kes \\- key encryption service\n".to_owned()),
        ("SYNOPSIS", ".B kes\n.I command\n.RI [ options ]\n.RI [ arguments ]\n".to_owned()),
        ("DESCRIPTION", text(DESCRIPTION)),
        ("COMMANDS", table.0.iter().map(command).collect()),
        (
            "OPTIONS",
            text(
                "Flags may stand before or after arguments. Commands that ask a server take those about it.",
            ) + &definitions(&options),
        ),
        ("ENVIRONMENT", definitions(ENVIRONMENT) + &definitions(VARIABLES)),
        ("FILES", text(CONFIGURATION) + &fields.collect::<String>()),
        ("SIGNALS", definitions(SIGNALS)),
        ("LOGS AND METRICS", text(LOGS) + ".PP\n" + &text(METRICS)),
        ("EXIT STATUS", definitions(EXIT_CODES)),
    ];
    let version = escape(env!("CARGO_PKG_VERSION"));
    let parts = parts.map(|(title, part)| format!(".SH {title}\n{part}")).concat();
    format!(".TH KES 1 \"\" \"kes {version}\" \"User Commands\"\n{parts}")
}

fn command(command: &Command) -> String {
    let mut part = format!(".SS \"{}\"\n", escape(&synopsis(command, command.path)));
    part += &text(&format!("{}.", command.summary));
    let mut paragraphs = vec![command.details.to_owned()];
    if !command.exit_codes.is_empty() {
        paragraphs.push(exit_codes(command));
    }
    if !command.aliases.is_empty() {
        let others: Vec<_> = command.aliases.iter().map(|path| called(path)).collect();
        paragraphs.push(format!("Also called: {}.", others.join(", ")));
    }
    for paragraph in paragraphs.iter().filter(|paragraph| !paragraph.is_empty()) {
        part += &format!(".PP\n{}", text(paragraph));
    }
    for flag in command.listed_flags() {
        part += &definitions(&[(&option(flag), flag.help)]);
    }
    let examples = text(&command.examples.join("\n"));
    part + &format!(".PP\nFor example:\n.PP\n.nf\n.RS\n{examples}.RE\n.fi\n")
}

/// Terms and what they mean.
fn definitions(all: &[(&str, &str)]) -> String {
    let define = |(term, what): &(&str, &str)| format!(".TP\n.B {}\n{}", escape(term), text(what));
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
    const NAMED: &[(char, &str)] = &[
        ('-', "\\-"),
        ('\'', "\\(aq"),
        ('"', "\\(dq"),
        ('~', "\\(ti"),
        ('^', "\\(ha"),
        ('`', "\\(ga"),
    ];
    let text = text.replace('\\', "\\e");
    NAMED.iter().fold(text, |text, (c, name)| text.replace(*c, name))
}

/// `text` as lines of their own; none of them can be taken for a request.
fn text(text: &str) -> String {
    let start = |line: &str| if line.starts_with('.') { "\\&" } else { "" };
    text.lines().map(|line| format!("{}{}\n", start(line), escape(line))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::table::COMMANDS;

    #[test]
    fn what_means_something_to_roff_is_escaped() {
        assert_eq!("a \\-k \\(aqb\\(aq \\en\n\\&.TH\n\\(aqx\n", text("a -k 'b' \\n\n.TH\n'x"));
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
