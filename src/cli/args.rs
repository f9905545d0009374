//! Arguments: flags from a table, in the style that users of the original know.
//!
//! `-name` and `--name` are the same, values follow after a blank or `=`, short flags are not
//! bundled, and flags may stand before or after arguments until `--`. Common parsers read `-insecure`
//! as seven short flags, so this one is our own.

use std::{ffi::OsString, fmt::Write as _};

use super::nearest;
use crate::base::duration;

/// What a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    /// Nothing, or `=true` / `=false`.
    Bool,
    /// A value, described by this word.
    Value(&'static str),
    /// A length of time, such as `720h`.
    Duration,
}

impl Takes {
    /// The word for the value.
    pub(super) fn what(self) -> &'static str {
        match self {
            Self::Bool => "true|false",
            Self::Value(what) => what,
            Self::Duration => "duration",
        }
    }
}

/// The flag that every command has.
pub(super) const HELP: Flag =
    Flag { names: &["help", "h"], takes: Takes::Bool, help: "print this text" };

/// A flag of a command.
#[derive(Debug)]
pub(super) struct Flag {
    /// The name, and a short form if it has one.
    pub(super) names: &'static [&'static str],
    pub(super) takes: Takes,
    /// What it does; empty if it is accepted and does nothing, so that nobody needs to know of it.
    pub(super) help: &'static str,
}

impl Flag {
    /// Whether help, completion and the manual page tell of it.
    pub(super) fn is_listed(&self) -> bool {
        !self.help.is_empty()
    }
}

/// Arguments that fit a table of flags.
#[derive(Debug, Default)]
pub(super) struct Args {
    /// What is no flag, in order.
    pub(super) positional: Vec<String>,
    flags: Vec<(&'static str, String)>,
    /// `-h` or `--help` was among them.
    pub(super) wants_help: bool,
}

/// Why arguments don't fit, as one sentence or two. Never holds a value, which might be a key, but for
/// those of flags.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Misfit(pub(super) String);

impl Args {
    /// Sorts `args` into flags and the rest.
    pub(super) fn parse(
        args: impl Iterator<Item = OsString>,
        flags: &'static [Flag],
    ) -> Result<Self, Misfit> {
        let mut parsed = Self::default();
        let mut only_positional = false;
        let mut args = args.map(|arg| {
            arg.into_string().map_err(|_| Misfit("argument is not valid UTF-8".to_owned()))
        });
        while let Some(arg) = args.next() {
            let arg = arg?;
            let name = match arg.strip_prefix('-') {
                Some(rest) if !only_positional && !rest.is_empty() => {
                    rest.strip_prefix('-').unwrap_or(rest)
                }
                _ => {
                    parsed.positional.push(arg);
                    continue;
                }
            };
            if name.is_empty() {
                only_positional = true;
                continue;
            }
            let (name, value) = match name.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (name, None),
            };
            let mut all = flags.iter().chain([&HELP]);
            let Some(flag) = all.find(|flag| flag.names.contains(&name)) else {
                return Err(unknown(name, flags));
            };
            let invalid = |value: &str, why: &str| {
                Misfit(format!("invalid value {value:?} for flag -{name}: {why}"))
            };
            let value = match (flag.takes, value) {
                (Takes::Bool, None) => "true".to_owned(),
                (Takes::Bool, Some(value)) => match boolean(&value) {
                    Some(value) => value.to_string(),
                    None => return Err(invalid(&value, "use true or false")),
                },
                (_, Some(value)) => value,
                (takes, None) => args.next().unwrap_or_else(|| {
                    let what = takes.what();
                    Err(Misfit(format!("flag needs an argument: -{name} <{what}>")))
                })?,
            };
            if flag.takes == Takes::Duration
                && let Err(e) = duration::parse_non_negative(&value)
            {
                let e = e.to_string();
                let e = e.trim_start_matches("time: ");
                let why = format!("{e}; use a number with a unit, such as 90s, 30m or 720h");
                return Err(invalid(&value, &why));
            }
            parsed.flags.push((flag.names[0], value));
        }
        parsed.wants_help = parsed.is_set(HELP.names[0]);
        Ok(parsed)
    }

    /// The value of a flag; the last one if it was given several times.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.values(name).last()
    }

    /// All values of a flag.
    pub(super) fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.flags.iter().filter(move |(flag, _)| *flag == name).map(|(_, value)| value.as_str())
    }

    /// Whether a flag without value is set.
    pub(super) fn is_set(&self, name: &str) -> bool {
        self.choice(name) == Some(true)
    }

    /// As [`Args::is_set`]; `None` if the flag was not given.
    pub(super) fn choice(&self, name: &str) -> Option<bool> {
        self.value(name).map(|value| value == "true")
    }
}

/// What to say to a flag that is not in the table: which may have been meant.
fn unknown(name: &str, flags: &'static [Flag]) -> Misfit {
    let mut text = format!("flag provided but not defined: -{name}");
    let listed = flags.iter().filter(|flag| flag.is_listed()).chain([&HELP]);
    let names: Vec<&str> = listed.flat_map(|flag| flag.names).copied().collect();
    let letters: Vec<_> = name.chars().map(|letter| letter.to_string()).collect();
    if letters.len() > 1 && letters.iter().all(|letter| names.contains(&letter.as_str())) {
        let _ = write!(text, ". Did you mean -{}?", letters.join(" -"));
    } else {
        let words = names.into_iter().filter(|name| name.len() > 1);
        match nearest(name, words) {
            Some(meant) => {
                let _ = write!(text, ". Did you mean --{meant}?");
            }
            None => text.push('.'),
        }
    }
    Misfit(text)
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
        Flag { names: &["insecure", "k"], takes: Takes::Bool, help: "skip checks" },
        Flag { names: &["key"], takes: Takes::Value("file"), help: "the key" },
        Flag { names: &["time"], takes: Takes::Duration, help: "how long" },
        Flag { names: &["hidden"], takes: Takes::Bool, help: "" },
    ];

    fn parse(args: &[&str]) -> Result<Args, Misfit> {
        Args::parse(args.iter().map(OsString::from), FLAGS)
    }

    #[test]
    fn flags_may_stand_anywhere_and_be_written_in_any_style() {
        for args in [
            &["-k", "--key", "f", "name"][..],
            &["name", "-insecure", "-key=f"],
            &["--insecure=true", "name", "--key=f"],
            &["-key", "f", "-k=1", "--", "name"],
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
    fn a_lone_hyphen_and_all_after_two_hyphens_are_no_flags() {
        assert_eq!(vec!["-", "-k", "--"], parse(&["-", "--", "-k", "--"]).unwrap().positional);
    }

    #[test]
    fn what_is_not_in_the_table_is_refused() {
        let text = |args: &[&str]| parse(args).unwrap_err().0;
        let unknown = "flag provided but not defined: ";
        for (flag, answer) in [
            ("-x", "-x."),
            ("--hidde", "-hidde."),
            ("--insecur", "-insecur. Did you mean --insecure?"),
            ("--in", "-in. Did you mean --insecure?"),
            ("-kh", "-kh. Did you mean -k -h?"),
            ("--kye", "-kye. Did you mean --key?"),
        ] {
            assert_eq!(format!("{unknown}{answer}"), text(&[flag]));
        }
        assert_eq!("flag needs an argument: -key <file>", text(&["--key"]));
        assert_eq!("invalid value \"x\" for flag -k: use true or false", text(&["-k=x"]));
        assert_eq!(
            "invalid value \"1d\" for flag -time: unknown unit \"d\" in duration \"1d\"; use a \
             number with a unit, such as 90s, 30m or 720h",
            text(&["--time", "1d"])
        );
    }

    #[test]
    fn flags_without_value_can_be_switched_off() {
        let args = parse(&["-k", "--insecure=false", "--help=0"]).unwrap();
        assert!(!args.is_set("insecure") && !args.wants_help);
        assert_eq!(Some(false), args.choice("insecure"));
        assert_eq!(None, parse(&[]).unwrap().choice("insecure"));
        assert!(parse(&["--help=true"]).unwrap().wants_help);
        assert!(parse(&["-h"]).unwrap().wants_help);
    }
}
