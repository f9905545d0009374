//! Colours, where a terminal shows the text and its user wants them (<https://no-color.org>).

use std::{
    env,
    io::{self, IsTerminal as _},
};

/// What a text is printed like on a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Paint {
    Bold,
    Red,
    Green,
    Yellow,
}

/// Whether texts are coloured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    is_coloured: bool,
}

impl Style {
    #[cfg(test)]
    pub(super) const PLAIN: Self = Self { is_coloured: false };
    #[cfg(test)]
    pub(super) const COLOURED: Self = Self { is_coloured: true };
    /// For standard output.
    pub(super) fn of_stdout() -> Self {
        Self { is_coloured: io::stdout().is_terminal() && are_wanted() }
    }

    /// For standard error.
    pub(super) fn of_stderr() -> Self {
        Self { is_coloured: io::stderr().is_terminal() && are_wanted() }
    }

    /// `text` as it is to be printed.
    pub(super) fn paint(self, paint: Paint, text: &str) -> String {
        if !self.is_coloured {
            return text.to_owned();
        }
        let code = match paint {
            Paint::Bold => "1",
            Paint::Red => "31",
            Paint::Green => "32",
            Paint::Yellow => "33",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

fn are_wanted() -> bool {
    env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && env::var_os("TERM").is_none_or(|terminal| terminal != "dumb")
}

/// `text` without what would control a terminal, as it may come from anywhere.
pub(super) fn harmless(text: &str) -> String {
    let is_harmful = |c: char| {
        c.is_control()
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}')
    };
    let replace = |c| if is_harmful(c) { '\u{fffd}' } else { c };
    text.chars().map(replace).collect()
}
