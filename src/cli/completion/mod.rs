//! Shell completion: what may come next on a command line, from the table of commands.
//!
//! The scripts of the shells are thin: they hand the words to `kes completion words`, which prints
//! what fits, so that they never disagree with the program.

mod install;

use std::ffi::OsString;

pub use self::install::install;
use super::{
    args::{Args, Command, Flag, HELP, Kind, Table, Takes, flag_name},
    client::Client,
    help::dashed,
    output::{Result, harmless, print},
};
use crate::base::glob;

pub const DETAILS: &str = "\
Completes commands, flags, file names and, if the environment names a server that
answers quickly, the names of keys, policies and identities. 'kes --auto-completion' adds
this to the start file of the shell that SHELL names.";

const SCRIPTS: [(&str, &str); 3] = [
    ("bash", include_str!("kes.bash")),
    ("zsh", include_str!("kes.zsh")),
    ("fish", include_str!("kes.fish")),
];

/// The line that asks the shell for file names: no word can have this form.
const FILES: &str = "\tfiles\n";

/// The words that may come next, and their meanings.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Words(Vec<(String, String)>),
    Files,
    /// Names that the server knows.
    Names(Kind),
}

pub fn run(args: &Args, table: Table) -> Result<()> {
    let words: Vec<&str> = args.positional.iter().map(String::as_str).collect();
    match *words {
        ["words", ref words @ ..] => print(&answer(table, words)),
        [shell] => match SCRIPTS.iter().find(|(name, _)| *name == shell) {
            Some((_, script)) => print(script),
            None => Err(format!("no completion for {shell:?}: use bash, zsh or fish").into()),
        },
        _ => Err("too many arguments".into()),
    }
}

/// The lines that a script wants for `words`, the last of which is not finished.
fn answer(table: Table, words: &[&str]) -> String {
    let started = words.last().copied().unwrap_or_default();
    let found = match next(table, words) {
        Next::Files => return FILES.to_owned(),
        Next::Words(found) => found,
        Next::Names(kind) => {
            let names = names(kind, started, &flags_before(table, words)).unwrap_or_default();
            if kind == Kind::Holder && !names.iter().any(|name| name.starts_with(started)) {
                return FILES.to_owned();
            }
            names.into_iter().map(|name| (name, String::new())).collect()
        }
    };
    // A name that a terminal would not show as it is can't be completed to anything useful.
    let fits = |(word, _): &(String, _)| word.starts_with(started) && harmless(word) == *word;
    found.into_iter().filter(fits).map(|(word, meaning)| format!("{word}\t{meaning}\n")).collect()
}

/// The flags that stand before the last word, for a client; none if they are not finished.
fn flags_before(table: Table, words: &[&str]) -> Args {
    let before = &words[..words.len().saturating_sub(1)];
    let count = (1..=before.len()).rev().find(|count| table.find(&before[..*count]).is_some());
    let args = count.and_then(|count| {
        let rest: Vec<_> = before[count..].iter().map(OsString::from).collect();
        Args::parse(&rest, table.find(&before[..count])?).ok()
    });
    args.unwrap_or_default()
}

fn next(table: Table, words: &[&str]) -> Next {
    let (started, before) = words.split_last().unwrap_or((&"", &[]));
    for count in 1..=before.len() {
        // Of a command that is a group as well, only its flags tell that it is meant.
        let is_flag = || before.get(count).unwrap_or(started).starts_with('-');
        let is_meant = table.is_last(&before[..count]) || is_flag();
        if let (Some(command), true) = (table.find(&before[..count]), is_meant) {
            return next_of_command(table, command, &before[count..], started);
        }
    }
    if !started.starts_with('-') {
        return Next::Words(command_words(table, before));
    }
    let version = ("--version".to_owned(), "print the version".to_owned());
    let version = before.is_empty().then_some(version);
    let help = ("--help".to_owned(), HELP.help.to_owned());
    Next::Words([help].into_iter().chain(version).collect())
}

/// The words that may follow `before` in the words of a command.
fn command_words(table: Table, before: &[&str]) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    for (path, command) in table.below(before).filter(|(path, _)| path.len() > before.len()) {
        let (word, group) = (path[before.len()], &path[..=before.len()]);
        if found.iter().any(|(known, _)| known == word) {
            continue;
        }
        let meaning = match path.len() == group.len() {
            true => command.summary.to_owned(),
            false => {
                let below =
                    table.below(group).filter_map(|(path, _)| path.get(group.len()).copied());
                let mut words: Vec<_> = below.collect();
                words.dedup();
                words.join(", ")
            }
        };
        found.push((word.to_owned(), meaning));
    }
    found
}

fn next_of_command(table: Table, command: &Command, before: &[&str], started: &str) -> Next {
    let mut arguments = 0;
    let mut only_arguments = false;
    let mut wants_value = None;
    for word in before {
        if wants_value.take().is_some() {
            continue;
        }
        match flag_name(word) {
            Some("") if !only_arguments => only_arguments = true,
            // With its value in the same word, the flag has another name here, and wants no other.
            Some(name) if !only_arguments => {
                wants_value = command.find_flag(name).filter(|flag| flag.takes != Takes::Bool);
            }
            _ => arguments += 1,
        }
    }
    if let Some(flag) = wants_value {
        return values(flag, "");
    }
    if started.starts_with('-') && !only_arguments {
        return match started.split_once('=') {
            None => Next::Words(flags(command)),
            Some((name, _)) => flag_name(name)
                .and_then(|flag| command.find_flag(flag))
                .map_or(Next::Words(Vec::new()), |flag| values(flag, &format!("{name}="))),
        };
    }
    let repeated = command.arguments.last().filter(|argument| argument.is_repeated);
    match command.arguments.get(arguments).or(repeated) {
        None => Next::Words(flags(command)),
        Some(argument) => match argument.kind {
            Kind::Text | Kind::NewKey => Next::Words(choices(argument.name, "")),
            Kind::Command => Next::Words(command_words(table, before)),
            Kind::File => Next::Files,
            kind => Next::Names(kind),
        },
    }
}

fn flags(command: &Command) -> Vec<(String, String)> {
    let all = command.all_flags().filter(|flag| !flag.help.is_empty());
    all.map(|flag| (dashed(flag.names[0]), flag.help.to_owned())).collect()
}

/// The values of a flag, each after `prefix`.
fn values(flag: &Flag, prefix: &str) -> Next {
    match flag.takes {
        Takes::Value("file") => Next::Files,
        Takes::Value(what) => Next::Words(choices(what, prefix)),
        Takes::Bool | Takes::Duration => Next::Words(Vec::new()),
    }
}

/// The words in `on|off`, each after `prefix`; none if there are no two.
fn choices(text: &str, prefix: &str) -> Vec<(String, String)> {
    let words = text.split('|').filter(|_| text.contains('|'));
    words.map(|word| (format!("{prefix}{word}"), String::new())).collect()
}

/// The names of this kind that start with `started`, if the server answers at once.
fn names(kind: Kind, started: &str, args: &Args) -> Option<Vec<String>> {
    let client = Client::glancing(args).ok()?;
    let pattern = format!("{}*", glob::escape(started));
    match kind {
        Kind::Key => client.keys(&pattern).ok(),
        Kind::Policy => client.policies(&pattern).ok(),
        Kind::Identity | Kind::Holder => {
            let list = client.identities(&pattern).ok()?;
            Some(list.into_iter().map(|entry| entry.name).collect())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::table::COMMANDS;

    fn answer(words: &[&str]) -> String {
        super::answer(COMMANDS, words)
    }

    fn next(words: &[&str]) -> Next {
        super::next(COMMANDS, words)
    }

    fn words(line: &[&str]) -> Vec<String> {
        let lines = answer(line);
        lines.lines().map(|line| line.split_once('\t').unwrap().0.to_owned()).collect()
    }

    #[test]
    fn commands_are_completed_word_by_word() {
        assert_eq!(["server"], *words(&["se"]));
        assert_eq!(["check", "convert"], *words(&["config", ""]));
        assert_eq!(["new", "of"], *words(&["tool", "identity", ""]));
        assert_eq!(["decrypt", "delete", "derive", "dek"].len(), words(&["key", "de"]).len());
        assert!(words(&[]).contains(&"key".to_owned()));
        assert!(words(&["kye", ""]).is_empty());
    }

    #[test]
    fn every_command_and_every_flag_is_offered() {
        for (path, command) in COMMANDS.below(&[]) {
            for at in 0..path.len() {
                assert!(words(&path[..=at]).contains(&path[at].to_owned()), "{path:?}");
            }
            for flag in command.listed_flags() {
                let name = dashed(flag.names[0]);
                assert!(words(&[path, &[&name]].concat()).contains(&name), "{path:?} {name}");
            }
        }
    }

    #[test]
    fn values_and_files_are_offered_where_they_belong() {
        assert_eq!(["on", "off"], *words(&["server", "--auth", ""]));
        assert_eq!(["--auth=on", "--auth=off"], *words(&["server", "--auth=o"]));
        assert_eq!(["bash"], *words(&["completion", "b"]));
        assert_eq!(FILES, answer(&["server", "--config", "x"]));
        assert_eq!(FILES, answer(&["server", "-config", ""]));
        assert_eq!(FILES, answer(&["config", "check", "--strict", ""]));
        assert_eq!(FILES, answer(&["config", "check", "--root", "x", ""]));
        assert_eq!(FILES, answer(&["config", "check", "--", "-"]));
        assert!(words(&["server", "--root", ""]).is_empty());
        assert!(words(&["server", "--root=", ""]).contains(&"--config".to_owned()));
    }

    #[test]
    fn names_are_asked_for_where_they_belong() {
        assert_eq!(Next::Names(Kind::Key), next(&["key", "derive", ""]));
        assert_eq!(Next::Names(Kind::Key), next(&["key", "rm", "-k", "a"]));
        assert_eq!(Next::Words(vec![]), next(&["key", "create", ""]));
        assert_eq!(Next::Words(vec![]), next(&["key", "derive", "a", ""]));
        assert_eq!(Next::Names(Kind::Key), next(&["key", "rm", "a", "b", ""]));
        assert_eq!(Next::Names(Kind::Holder), next(&["policy", "why", ""]));
        // Without a server that knows identities.
        assert_eq!(FILES, answer(&["policy", "why", "app."]));
    }

    #[test]
    fn help_is_completed_with_commands() {
        assert_eq!(["key"], *words(&["help", "k"]));
        assert!(words(&["help", "key", ""]).contains(&"derive".to_owned()));
        assert_eq!(["new", "of"], *words(&["help", "tool", "identity", ""]));
        assert!(words(&["help", "key", "derive", ""]).is_empty());
        assert_eq!(["--help", "--color"], *words(&["help", "--"]));
    }

    #[test]
    fn the_server_is_checked_unless_a_flag_says_otherwise() {
        for (word, wanted) in [
            ("-k", true),
            ("--insecure", true),
            ("-insecure=true", true),
            ("-k=false", false),
            ("--insecure=0", false),
            ("-insecur", false),
            ("k", false),
        ] {
            let args = flags_before(COMMANDS, &["key", "derive", word, ""]);
            assert_eq!(wanted, args.is_set("insecure"), "{word}");
        }
    }
}
