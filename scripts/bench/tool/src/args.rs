//! The words of a command line: `--name value` pairs, and the words after `--`.

use std::collections::HashMap;
use std::str::FromStr;

use crate::Result;

/// Options by name without the dashes; `rest` is everything after `--`.
#[derive(Debug)]
pub(crate) struct Args {
    options: HashMap<String, String>,
    pub(crate) rest: Vec<String>,
}

impl Args {
    /// Reads the words after the subcommand's name.
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Args> {
        let mut options = HashMap::new();
        while let Some(word) = words.next() {
            if word == "--" {
                break;
            }
            let name = word.strip_prefix("--").ok_or_else(|| format!("unexpected {word:?}"))?;
            let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
            options.insert(name.to_owned(), value);
        }
        let rest = words.collect();
        Ok(Args { options, rest })
    }

    /// The text of an option that must be there.
    pub(crate) fn text(&self, name: &str) -> Result<&str> {
        self.find(name).ok_or_else(|| format!("--{name} is missing").into())
    }

    /// The text of an option, if it was given.
    pub(crate) fn find(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(String::as_str)
    }

    /// An option as a number, or its default.
    pub(crate) fn number<T: FromStr>(&self, name: &str, default: T) -> Result<T> {
        match self.find(name) {
            Some(text) => text.parse().map_err(|_| format!("--{name}: bad number {text:?}").into()),
            None => Ok(default),
        }
    }
}
