//! Arguments: flags from a table, in the style that users of the original know.
//!
//! `-name` and `--name` are the same, values follow after a blank or `=`, short flags are not
//! bundled, and flags may stand before or after arguments until `--`. Common parsers read `-insecure`
//! as seven short flags, so this one is our own.

use std::ffi::OsString;

use crate::duration;

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

/// Why arguments don't fit. Never holds a value, which might be a key, but for those of flags.
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
            arg.into_string()
                .map_err(|_| Misfit("argument is not valid UTF-8".to_owned()))
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
            let Some(flag) = flags.iter().find(|flag| flag.names.contains(&name)) else {
                if matches!(name, "h" | "help") {
                    parsed.wants_help = true;
                    continue;
                }
                return Err(Misfit(format!("flag provided but not defined: -{name}")));
            };
            let value = match (flag.takes, value) {
                (Takes::Bool, None) => "true".to_owned(),
                (Takes::Bool, Some(value)) => match boolean(&value) {
                    Some(value) => value.to_string(),
                    None => {
                        let text = format!("invalid value {value:?} for flag -{name}: parse error");
                        return Err(Misfit(text));
                    }
                },
                (_, Some(value)) => value,
                (_, None) => match args.next() {
                    Some(value) => value?,
                    None => return Err(Misfit(format!("flag needs an argument: -{name}"))),
                },
            };
            if flag.takes == Takes::Duration && duration::parse_non_negative(&value).is_err() {
                let text = format!("invalid value {value:?} for flag -{name}: parse error");
                return Err(Misfit(text));
            }
            parsed.flags.push((flag.names[0], value));
        }
        Ok(parsed)
    }

    /// The value of a flag; the last one if it was given several times.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.values(name).last()
    }

    /// All values of a flag.
    pub(super) fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.flags
            .iter()
            .filter(move |(flag, _)| *flag == name)
            .map(|(_, value)| value.as_str())
    }

    /// Whether a flag without value is set.
    pub(super) fn is_set(&self, name: &str) -> bool {
        self.value(name) == Some("true")
    }
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
        Flag {
            names: &["insecure", "k"],
            takes: Takes::Bool,
            help: "",
        },
        Flag {
            names: &["key"],
            takes: Takes::Value("file"),
            help: "",
        },
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
        assert_eq!(
            vec!["-", "-k", "--"],
            parse(&["-", "--", "-k", "--"]).unwrap().positional
        );
    }

    #[test]
    fn what_is_not_in_the_table_is_refused() {
        let text = |args: &[&str]| parse(args).unwrap_err().0;
        assert_eq!("flag provided but not defined: -kf", text(&["-kf"]));
        assert_eq!("flag needs an argument: -key", text(&["--key"]));
        assert_eq!(
            "invalid value \"x\" for flag -k: parse error",
            text(&["-k=x"])
        );
    }
}
