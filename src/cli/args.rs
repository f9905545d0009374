//! What a command is (its words, arguments and flags), and the arguments of one that is called.
//!
//! Flags are written as users of KES know them: `-name` and `--name` are the same, a value
//! follows after a blank or `=`, and flags may stand before or after arguments until `--`. A word of short
//! flags without values, such as `-kf`, is a bundle if it is the name of no other flag.

use std::{ffi::OsString, fmt::Write as _};

use lexopt::{Arg, Parser};

use super::output::{Colors, Failure, is_terminal};
use crate::{
    base::{duration, glob::Pattern, name, nearest::nearest},
    tls::{API_KEY_PREFIX, ApiKey},
};

/// A command: a row of the table.
pub(crate) struct Command {
    /// The words that call it.
    pub(crate) path: Path,
    /// Other words for the same, such as those of the newer vocabulary.
    pub(crate) aliases: &'static [Path],
    /// What follows them: required ones first, a repeated one last.
    pub(crate) arguments: &'static [Argument],
    /// What it does, in one line.
    pub(crate) summary: &'static str,
    /// What else one should know.
    pub(crate) details: &'static str,
    pub(crate) flags: &'static [Flag],
    /// Exit codes that say more than 0 for done, 1 for failed and 2 for a wrong flag.
    pub(crate) exit_codes: &'static [(u8, &'static str)],
    /// Command lines that one might want.
    pub(crate) examples: &'static [&'static str],
    /// Called with arguments that fit.
    pub(crate) run: fn(&Args) -> Result<(), Failure>,
}

/// The words that call a command, without `kes`.
pub(crate) type Path = &'static [&'static str];

/// All commands.
#[derive(Clone, Copy)]
pub(crate) struct Table(pub(crate) &'static [Command]);

/// An argument of a command.
#[derive(Clone, Copy)]
pub(crate) struct Argument {
    /// Its placeholder in usage lines; `a|b` lists all values that are allowed. Without a name, it
    /// stays out of help and completion.
    pub(crate) name: &'static str,
    /// Its name in the error that reports it missing.
    pub(crate) what: &'static str,
    pub(crate) kind: Kind,
    /// It is a pattern of names of its kind.
    pub(crate) is_pattern: bool,
    pub(crate) is_optional: bool,
    /// More of the same kind may follow it.
    pub(crate) is_repeated: bool,
}

/// What an argument is, for checks and completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Free text, or one of the words of the name.
    Text,
    File,
    /// The name of a key that need not exist.
    NewKey,
    Key,
    Policy,
    Identity,
    /// An identity, or the file of a certificate that has one.
    Holder,
    /// A word of a command.
    Command,
}

/// A flag of a command.
#[derive(Debug)]
pub(crate) struct Flag {
    /// The name, and a short form if it has one.
    pub(crate) names: &'static [&'static str],
    pub(crate) takes: Takes,
    /// What it does. Empty for a flag that is accepted without effect, which help does not list.
    pub(crate) help: &'static str,
}

/// What a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    /// Nothing, or `=true` / `=false`.
    Bool,
    /// A value, described by this word.
    Value(&'static str),
    /// A length of time, such as `720h`.
    Duration,
}

/// Arguments and flags that fit a command.
#[derive(Debug, Default)]
pub(crate) struct Args {
    /// What is no flag, in order.
    pub(crate) positional: Vec<String>,
    flags: Vec<(&'static str, String)>,
    /// The command is called by an alias: the newer spelling, where outputs differ by it.
    pub(crate) by_alias: bool,
}

/// The flags that every command has.
const COMMON: &[Flag] = &[HELP, COLOR];
pub(crate) const HELP: Flag = flag(&["help", "h"], "print this text");
pub(crate) const COLOR: Flag =
    value(&["color"], "auto|always|never", "colours: on terminals (auto), always or never");
pub(crate) const JSON: Flag = flag(&["json"], "print JSON");
pub(crate) const INSECURE: Flag =
    flag(&["insecure", "k"], "skip the checks of the server's certificate");

/// Flags that every command with [`INSECURE`] has too. A command may use a name for something else.
pub(crate) const CONNECTION: &[Flag] = &[
    value(&["server", "s"], "host:port", "ask this server; several are separated by commas"),
    value(&["api-key", "a"], "key", "use this API key; others see it in the list of processes"),
    value(&["ca"], "file", "trust the certificates in this file only"),
    value(&["server-identity"], "identity", "trust the server with this identity only"),
    // Of servers that had several tenants.
    value(&["enclave", "e"], "name", ""),
];

/// Flags of commands that ask a server.
pub(crate) const CLIENT: &[Flag] = &[INSECURE, JSON];
/// Flags of those that print nothing: scripts may give all of them `--json`.
pub(crate) const SILENT: &[Flag] = &[INSECURE, flag(&["json"], "")];

pub(crate) const KEY: Argument = Argument::new("name", "key name", Kind::Key);
pub(crate) const POLICY: Argument = Argument::new("name", "policy name", Kind::Policy);
pub(crate) const IDENTITY: Argument = Argument::new("identity", "identity", Kind::Identity);

/// A flag without value.
pub(crate) const fn flag(names: &'static [&'static str], help: &'static str) -> Flag {
    Flag { names, takes: Takes::Bool, help }
}

/// A flag with a value.
pub(crate) const fn value(
    names: &'static [&'static str],
    what: &'static str,
    help: &'static str,
) -> Flag {
    Flag { names, takes: Takes::Value(what), help }
}

impl Table {
    /// The command that these words call.
    pub(crate) fn find(self, path: &[&str]) -> Option<&'static Command> {
        self.0.iter().find(|command| command.paths().any(|known| known == path))
    }

    /// All the words that commands are called by and that start with `path`, with the commands.
    pub(crate) fn below(self, path: &[&str]) -> impl Iterator<Item = (Path, &'static Command)> {
        let paths = |command: &'static Command| command.paths().map(move |path| (path, command));
        self.0.iter().flat_map(paths).filter(move |(known, _)| known.starts_with(path))
    }

    /// Whether no longer words start with these.
    pub(crate) fn is_last(self, path: &[&str]) -> bool {
        self.below(path).all(|(known, _)| known.len() == path.len())
    }
}

impl Command {
    /// What a row need not say.
    pub(crate) const NEW: Self = Self {
        path: &[],
        aliases: &[],
        arguments: &[],
        summary: "",
        details: "",
        flags: &[],
        exit_codes: &[],
        examples: &[],
        run: |_| Ok(()),
    };

    /// Whether it asks a server.
    pub(crate) fn is_client(&self) -> bool {
        self.listed_flags().any(|flag| flag.names == INSECURE.names)
    }

    /// All the words that call it, the preferred ones first.
    pub(crate) fn paths(&self) -> impl Iterator<Item = Path> {
        std::iter::once(self.path).chain(self.aliases.iter().copied())
    }

    /// The flags of its own that one should know of.
    pub(crate) fn listed_flags(&self) -> impl Iterator<Item = &'static Flag> {
        self.flags.iter().filter(|flag| !flag.help.is_empty())
    }

    /// All flags that it takes; of two with the same name, the first counts.
    pub(crate) fn all_flags(&self) -> impl Iterator<Item = &'static Flag> {
        let connection = if self.is_client() { CONNECTION } else { &[] };
        self.flags.iter().chain(connection).chain(COMMON)
    }

    /// The flag of this name.
    pub(crate) fn find_flag(&self, name: &str) -> Option<&'static Flag> {
        self.all_flags().find(|flag| flag.names.contains(&name))
    }

    /// Refuses arguments that are missing, too many, or can't be what they stand for.
    pub(crate) fn check(&self, args: &Args) -> Result<(), Failure> {
        let given = args.positional.len();
        let missing = self.arguments.iter().skip(given).find(|argument| !argument.is_optional);
        if let Some(argument) = missing {
            return Err(format!("no {} specified", argument.what).into());
        }
        match self.arguments.last() {
            Some(last) if last.is_repeated => {}
            last if given > self.arguments.len() => {
                let hint = match last.is_some_and(|last| last.is_pattern) {
                    true => ": is the pattern in quotes, so that the shell leaves it alone?",
                    false => "",
                };
                return Err(format!("too many arguments{hint}").into());
            }
            _ => {}
        }
        // Of repeated ones, the command reports each that is wrong.
        let single = self.arguments.iter().filter(|argument| !argument.is_repeated);
        args.positional.iter().zip(single).try_for_each(|(text, argument)| argument.check(text))
    }
}

impl Argument {
    pub(crate) const fn new(name: &'static str, what: &'static str, kind: Kind) -> Self {
        Self { name, what, kind, is_pattern: false, is_optional: false, is_repeated: false }
    }

    pub(crate) const fn optional(self) -> Self {
        Self { is_optional: true, ..self }
    }

    pub(crate) const fn repeated(self) -> Self {
        Self { is_repeated: true, ..self }
    }

    /// A pattern of names of this kind; without it, all names match.
    pub(crate) const fn pattern(kind: Kind) -> Self {
        Self { is_pattern: true, ..Self::new("pattern", "pattern", kind).optional() }
    }

    /// Refuses `text` if no server would take it for what it stands for.
    pub(crate) fn check(&self, text: &str) -> Result<(), Failure> {
        // The server would log it.
        if (self.is_pattern || self.kind == Kind::Policy) && text.starts_with(API_KEY_PREFIX) {
            return Err(format!("an API key, which is a secret, is no {}", self.what).into());
        }
        if self.is_pattern {
            let invalid = |why: &str| format!("invalid pattern {text:?}: {why}");
            Pattern::parse(text).map_err(|e| invalid(&e.to_string()))?;
            return match text.contains('/') {
                true => Err(invalid("no name contains '/'").into()),
                false => Ok(()),
            };
        }
        let invalid =
            |what, why: &dyn std::fmt::Display| format!("invalid {what} {text:?}: it {why}").into();
        match self.kind {
            Kind::Identity if text.is_empty() => Err(invalid("identity", &"is empty")),
            Kind::Identity if text.starts_with(API_KEY_PREFIX) => {
                ApiKey::parse(text).map(drop).map_err(Into::into)
            }
            Kind::Identity if text.contains('/') => Err(invalid("identity", &"contains '/'")),
            Kind::NewKey | Kind::Key => name::check(text).map_err(|why| invalid("key name", &why)),
            Kind::Policy => name::check(text).map_err(|why| invalid("policy name", &why)),
            _ => Ok(()),
        }
    }
}

impl Takes {
    /// The word for the value.
    pub(crate) fn what(self) -> &'static str {
        match self {
            Self::Bool => "true|false",
            Self::Value(what) => what,
            Self::Duration => "duration",
        }
    }
}

impl Args {
    /// Sorts `args` into flags and the rest.
    ///
    /// # Errors
    /// Why they don't fit `command`, as one sentence or two. Never holds a value, which might be a key, but
    /// for those of flags.
    pub(crate) fn parse(args: &[OsString], command: &Command) -> Result<Self, String> {
        let text =
            |arg: OsString| arg.into_string().map_err(|_| "argument is not valid UTF-8".to_owned());
        let mut parsed = Self::default();
        let mut parser = Parser::from_args(with_two_hyphens(args, command));
        while let Some(arg) = parser.next().map_err(|e| e.to_string())? {
            let name = match arg {
                Arg::Value(value) => {
                    parsed.positional.push(text(value)?);
                    continue;
                }
                Arg::Long(name) => name.to_owned(),
                Arg::Short(name) => name.to_string(),
            };
            let flag = command.find_flag(&name).ok_or_else(|| unknown(&name, command))?;
            let invalid =
                |value: &str, why: &str| format!("invalid value {value:?} for flag -{name}: {why}");
            let value = match flag.takes {
                Takes::Bool => parser.optional_value().unwrap_or("true".into()),
                takes => parser
                    .value()
                    .map_err(|_| format!("flag needs an argument: -{name} <{}>", takes.what()))?,
            };
            let mut value = text(value)?;
            match flag.takes {
                Takes::Value(_) if flag.names == COLOR.names && Colors::parse(&value).is_none() => {
                    return Err(invalid(&value, "use auto, always or never"));
                }
                Takes::Value(_) => {}
                Takes::Bool => match boolean(&value) {
                    Some(is_set) => value = is_set.to_string(),
                    None => return Err(invalid(&value, "use true or false")),
                },
                Takes::Duration => {
                    duration::parse_non_negative(&value).map_err(|e| {
                        let e = e.to_string();
                        let e = e.trim_start_matches("time: ");
                        let why =
                            "use a number with a unit, such as 90s, 30m or 720h, at most 2562047h";
                        invalid(&value, &format!("{e}; {why}"))
                    })?;
                }
            }
            parsed.flags.push((flag.names[0], value));
        }
        Ok(parsed)
    }

    /// An argument that [`Command::check`] found; empty if it is optional and not there.
    pub(crate) fn get(&self, at: usize) -> &str {
        self.optional(at).unwrap_or_default()
    }

    /// An argument that may be missing.
    pub(crate) fn optional(&self, at: usize) -> Option<&str> {
        self.positional.get(at).map(String::as_str)
    }

    /// The pattern that is the only argument; all names match the one that stands in for it.
    pub(crate) fn pattern(&self) -> &str {
        self.optional(0).unwrap_or("*")
    }

    /// The value of a flag; the last one if it was given several times.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.values(name).last()
    }

    /// All values of a flag.
    pub(crate) fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.flags.iter().filter(move |(flag, _)| *flag == name).map(|(_, value)| value.as_str())
    }

    /// Whether a flag without value is set.
    pub(crate) fn is_set(&self, name: &str) -> bool {
        self.value(name) == Some("true")
    }

    /// Whether the output is for a program: as `--json` says, and without it when it is no terminal.
    pub(crate) fn wants_json(&self) -> bool {
        self.value("json").map_or_else(|| !is_terminal(), |value| value == "true")
    }
}

/// The name of the flag that `word` is, with a value behind `=` if it has one; empty for `--`.
pub(crate) fn flag_name(word: &str) -> Option<&str> {
    let name = word.strip_prefix('-').filter(|name| !name.is_empty())?;
    Some(name.strip_prefix('-').unwrap_or(name))
}

/// `args` with Go's `-insecure` as `--insecure`, which is eight short flags to other parsers. Values of
/// flags, and what follows `--`, stay as they are.
fn with_two_hyphens(args: &[OsString], command: &Command) -> Vec<OsString> {
    let mut doubled: Vec<OsString> = Vec::with_capacity(args.len());
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let text = arg.to_str().unwrap_or_default();
        match flag_name(text) {
            None => doubled.push(arg.clone()),
            Some("") => {
                doubled.push(arg.clone());
                doubled.extend(args.by_ref().cloned());
            }
            Some(name) if is_bundle(text, command) => {
                doubled.extend(name.chars().map(|letter| format!("--{letter}").into()));
            }
            Some(name) => {
                doubled.push(format!("--{name}").into());
                if command.find_flag(name).is_some_and(|flag| flag.takes != Takes::Bool) {
                    doubled.extend(args.next().cloned());
                }
            }
        }
    }
    doubled
}

/// Whether `word` is `-kf` for `-k -f`: one hyphen, and only letters of flags without values.
fn is_bundle(word: &str, command: &Command) -> bool {
    let letters = word.strip_prefix('-').unwrap_or_default();
    let is_switch = |letter: char| {
        let flag = command.find_flag(letter.encode_utf8(&mut [0; 4]));
        flag.is_some_and(|flag| flag.takes == Takes::Bool)
    };
    letters.len() > 1 && command.find_flag(letters).is_none() && letters.chars().all(is_switch)
}

/// What to say to a flag that is not in the table: which may have been meant.
fn unknown(name: &str, command: &Command) -> String {
    let mut text = format!("flag provided but not defined: -{name}.");
    let listed = command.all_flags().filter(|flag| !flag.help.is_empty());
    let names: Vec<&str> = listed.flat_map(|flag| flag.names).copied().collect();
    let letters: Vec<_> = name.chars().map(|letter| letter.to_string()).collect();
    if letters.len() > 1 && letters.iter().all(|letter| names.contains(&letter.as_str())) {
        let _ = write!(text, " Did you mean -{}?", letters.join(" -"));
    } else if let Some(meant) = nearest(name, names.into_iter().filter(|name| name.len() > 1)) {
        let _ = write!(text, " Did you mean --{meant}?");
    }
    text
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "" | "1" | "t" | "T" | "true" | "TRUE" | "True" | "on" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" | "off" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static FLAGS: &[Flag] = &[
        flag(&["insecure", "k"], "skip checks"),
        value(&["key"], "file", "the key"),
        Flag { names: &["time"], takes: Takes::Duration, help: "how long" },
        flag(&["hidden"], ""),
    ];

    static COMMAND: Command = Command { flags: FLAGS, ..Command::NEW };

    fn parse(args: &[&str]) -> Result<Args, String> {
        let args: Vec<_> = args.iter().map(OsString::from).collect();
        Args::parse(&args, &COMMAND)
    }

    #[test]
    fn flags_may_stand_anywhere_and_be_written_in_any_style() {
        for args in [
            &["-k", "--key", "f", "name"][..],
            &["name", "-insecure", "-key=f"],
            &["--insecure=true", "name", "--key=f"],
            &["-key", "f", "-k=1", "--", "name"],
            &["--k", "-key", "f", "name", "--"],
        ] {
            let args = parse(args).unwrap();
            assert!(args.is_set("insecure"));
            assert_eq!(
                (Some("f"), vec!["name".to_owned()]),
                (args.value("key"), args.positional.clone())
            );
        }
    }

    #[test]
    fn a_value_may_look_like_a_flag() {
        for (args, value) in [
            (&["--key", "-file"][..], "-file"),
            (&["-key", "--k"], "--k"),
            (&["-key", "--"], "--"),
            (&["-key=--x=y"], "--x=y"),
            (&["--key="], ""),
            (&["-key", "-"], "-"),
        ] {
            let args = parse(&[args, &["-k"]].concat()).unwrap();
            assert_eq!((Some(value), true), (args.value("key"), args.is_set("insecure")));
        }
    }

    #[test]
    fn a_lone_hyphen_and_all_after_two_hyphens_are_no_flags() {
        assert_eq!(vec!["-", "-k", "--"], parse(&["-", "--", "-k", "--"]).unwrap().positional);
    }

    #[test]
    fn what_is_not_in_the_table_is_refused() {
        let text = |args: &[&str]| parse(args).unwrap_err();
        let unknown = "flag provided but not defined: ";
        for (flag, answer) in [
            ("-x", "-x."),
            ("---x", "--x."),
            ("--hidde", "-hidde."),
            ("--insecur", "-insecur. Did you mean --insecure?"),
            ("--in", "-in. Did you mean --insecure?"),
            ("--kh", "-kh. Did you mean -k -h?"),
            ("-ks", "-ks. Did you mean -k -s?"),
            ("-khs", "-khs. Did you mean -k -h -s?"),
            ("-kh=true", "-kh. Did you mean -k -h?"),
            ("--kye", "-kye. Did you mean --key?"),
        ] {
            assert_eq!(format!("{unknown}{answer}"), text(&[flag]));
        }
        assert_eq!("flag needs an argument: -key <file>", text(&["--key"]));
        assert_eq!("invalid value \"x\" for flag -k: use true or false", text(&["-k=x"]));
        assert_eq!(
            "invalid value \"1d\" for flag -time: unknown unit \"d\" in duration \"1d\"; use a \
             number with a unit, such as 90s, 30m or 720h, at most 2562047h",
            text(&["--time", "1d"])
        );
    }

    #[test]
    fn letters_of_flags_without_values_may_be_bundled() {
        let args = parse(&["-kh", "name"]).unwrap();
        assert!(args.is_set("insecure") && args.is_set("help"));
        // What may be meant as the value of a flag is none.
        static OTHER: Command = Command { flags: CLIENT, ..Command::NEW };
        let parse = |arg: &str| Args::parse(&[arg.into()], &OTHER);
        assert!(parse("-kak").unwrap_err().starts_with("flag provided but not defined: -kak."));
        assert_eq!(Some("x"), parse("-a=x").unwrap().value("api-key"));
    }

    #[test]
    fn flags_without_value_can_be_switched_off() {
        let args = parse(&["-k", "--insecure=false", "--help=0"]).unwrap();
        assert!(!args.is_set("insecure") && !args.is_set("help"));
        assert_eq!(Some("false"), args.value("insecure"));
        assert_eq!(None, parse(&[]).unwrap().value("insecure"));
        assert!(parse(&["--help=true"]).unwrap().is_set("help"));
        assert!(parse(&["-h"]).unwrap().is_set("help"));
    }

    #[test]
    fn what_is_no_text_is_refused_without_being_shown() {
        use std::os::unix::ffi::OsStringExt as _;
        for bytes in [&b"\xff"[..], b"-\xff", b"--key=\xff"] {
            let text = Args::parse(&[OsString::from_vec(bytes.to_vec())], &COMMAND).unwrap_err();
            assert!(text.contains("not valid UTF-8") || text.contains("not defined"), "{text}");
        }
    }
}
