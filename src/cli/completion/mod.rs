//! Shell completion: what may come next on a command line, from the table of commands.
//!
//! The scripts of the shells are thin: they hand the words to `kes completion words`, which prints
//! what fits, so that they never disagree with the program.

use std::ffi::OsString;

use super::{
    Args, Failure,
    args::{Flag, HELP, Takes},
    commands::{self, CLIENT, Command, INSECURE, Kind, below},
    help::dashed,
    identity, key, policy, print,
    style::harmless,
};
use crate::{
    base::glob,
    client::{Client, MAX_ANSWER, escape},
};

pub(super) const DETAILS: &str = "\
Completes commands, flags, file names and, if the environment names a server that
answers quickly, the names of keys, policies and identities.";

/// The scripts, by the shell's name.
const SCRIPTS: [(&str, &str); 3] = [
    ("bash", include_str!("kes.bash")),
    ("zsh", include_str!("kes.zsh")),
    ("fish", include_str!("kes.fish")),
];

/// The line that asks the shell for file names: no word can have this form.
const FILES: &str = "\tfiles\n";

/// What may come next: a word and what it means.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Words(Vec<(String, String)>),
    Files,
    /// Names that the server knows.
    Names(Kind),
}

/// `kes completion <shell>`
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    match args.positional.as_slice() {
        [] => Err("no shell specified".into()),
        [shell, words @ ..] if shell == "words" => {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            print(&answer(&words))
        }
        [shell] => match SCRIPTS.iter().find(|(name, _)| name == shell) {
            Some((_, script)) => print(script),
            None => Err(format!("no completion for {shell:?}: use bash, zsh or fish").into()),
        },
        _ => Err("too many arguments".into()),
    }
}

/// The lines that a script wants for `words`, the last of which is not finished.
fn answer(words: &[&str]) -> String {
    let started = words.last().copied().unwrap_or_default();
    let found = match next(words) {
        Next::Files => return FILES.to_owned(),
        Next::Words(found) => found,
        Next::Names(kind) => {
            let names = names(kind, started, is_insecure(words)).unwrap_or_default();
            let fits = |name: &String| name.starts_with(started);
            if kind == Kind::Holder && !names.iter().any(fits) {
                return FILES.to_owned();
            }
            names.into_iter().map(|name| (name, String::new())).collect()
        }
    };
    let mut lines = String::new();
    for (word, meaning) in found {
        // A name that a terminal would not show as it is can't be completed to anything useful.
        if word.starts_with(started) && harmless(&word) == word {
            lines.extend([&word, "\t", &meaning, "\n"]);
        }
    }
    lines
}

/// Whether the words ask not to check the server's certificate.
fn is_insecure(words: &[&str]) -> bool {
    let flags = words.iter().filter(|word| {
        let name = word.split_once('=').map_or(**word, |(name, _)| name);
        flag_name(name).is_some_and(|name| INSECURE.names.contains(&name))
    });
    let flags = flags.map(OsString::from);
    Args::parse(flags, CLIENT).is_ok_and(|args| args.is_set(INSECURE.names[0]))
}

/// What may stand in the place of the last word.
fn next(words: &[&str]) -> Next {
    let Some((started, before)) = words.split_last() else {
        return next(&[""]);
    };
    for count in 1..=before.len() {
        if let Some(command) = commands::find(&before[..count]) {
            return next_of_command(command, &before[count..], started);
        }
    }
    if started.starts_with('-') {
        let mut found = vec![("--help".to_owned(), HELP.help.to_owned())];
        if before.is_empty() {
            found.push(("--version".to_owned(), "print the version".to_owned()));
        }
        return Next::Words(found);
    }
    Next::Words(command_words(before))
}

/// The words that may follow `before` in the words of a command.
fn command_words(before: &[&str]) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    for (path, command) in below(before).filter(|(path, _)| path.len() > before.len()) {
        let word = path[before.len()];
        if found.iter().any(|(known, _)| known == word) {
            continue;
        }
        let meaning = match path.len() == before.len() + 1 {
            true => command.summary.to_owned(),
            false => {
                let group = &path[..=before.len()];
                let mut words: Vec<_> = below(group).map(|(path, _)| path[group.len()]).collect();
                words.dedup();
                words.join(", ")
            }
        };
        found.push((word.to_owned(), meaning));
    }
    found
}

/// What may follow the words of a command and `before`.
fn next_of_command(command: &Command, before: &[&str], started: &str) -> Next {
    let mut arguments = 0;
    let mut only_arguments = false;
    let mut wants_value = None;
    for word in before {
        if wants_value.take().is_some() {
            continue;
        }
        match flag_name(word) {
            Some("") if !only_arguments => only_arguments = true,
            Some(name) if !only_arguments => {
                wants_value = find_flag(command, name).filter(|flag| flag.takes != Takes::Bool);
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
                .and_then(|flag| find_flag(command, flag))
                .map_or(Next::Words(Vec::new()), |flag| values(flag, &format!("{name}="))),
        };
    }
    let last = command.arguments.last();
    let repeated = last.filter(|argument| argument.is_repeated);
    match command.arguments.get(arguments).or(repeated) {
        None => Next::Words(flags(command)),
        Some(argument) => match argument.kind {
            Kind::Text => Next::Words(choices(argument.name, "")),
            Kind::Command => Next::Words(command_words(before)),
            Kind::File => Next::Files,
            kind => Next::Names(kind),
        },
    }
}

/// The name in `--name`, `-name` or `--name=value`; empty in `--`.
fn flag_name(word: &str) -> Option<&str> {
    let name = word.strip_prefix('-').filter(|name| !name.is_empty())?;
    let name = name.strip_prefix('-').unwrap_or(name);
    // With its value in the same word, the flag wants no other.
    (!name.contains('=')).then_some(name)
}

fn find_flag(command: &Command, name: &str) -> Option<&'static Flag> {
    command.flags.iter().find(|flag| flag.names.contains(&name))
}

fn flags(command: &Command) -> Vec<(String, String)> {
    let all = command.listed_flags().chain([&HELP]);
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

/// The names of this kind that start with `started`, if the server tells them at once.
fn names(kind: Kind, started: &str, is_insecure: bool) -> Option<Vec<String>> {
    type Read = fn(&[u8]) -> serde_json::Result<Vec<String>>;
    let (api, read): (_, Read) = match kind {
        Kind::Key => ("key", key::names),
        Kind::Policy => ("policy", policy::names),
        Kind::Identity | Kind::Holder => {
            ("identity", |list| Ok(identity::parse(list)?.into_keys().collect()))
        }
        Kind::Text | Kind::File | Kind::Command => return None,
    };
    let pattern = format!("{}*", glob::escape(started));
    let path = format!("/v1/{api}/list/{}", escape(&pattern));
    let client = Client::from_env(is_insecure).ok()?;
    let answer = client.glance(&path, MAX_ANSWER).ok()?;
    read(&answer).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &[&str]) -> Vec<String> {
        let lines = answer(line);
        lines.lines().map(|line| line.split_once('\t').unwrap().0.to_owned()).collect()
    }

    #[test]
    fn commands_are_completed_word_by_word() {
        assert_eq!(["server"], *words(&["se"]));
        assert_eq!(["check"], *words(&["config", ""]));
        assert_eq!(["new", "of"], *words(&["tool", "identity", ""]));
        assert_eq!(["decrypt", "delete", "derive", "dek"].len(), words(&["key", "de"]).len());
        assert!(words(&[]).contains(&"key".to_owned()));
        assert!(words(&["kye", ""]).is_empty());
    }

    #[test]
    fn every_command_and_every_flag_is_offered() {
        for (path, command) in below(&[]) {
            for at in 0..path.len() {
                assert!(words(&path[..=at]).contains(&path[at].to_owned()), "{path:?}");
            }
            for flag in command.listed_flags() {
                let name = dashed(flag.names[0]);
                assert_eq!([&*name], *words(&[path, &[&name]].concat()));
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
        assert_eq!(["--help"], *words(&["help", "--"]));
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
            assert_eq!(wanted, is_insecure(&["key", "derive", word, ""]), "{word}");
        }
    }
}
