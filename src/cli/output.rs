//! What a command prints, where, and how it fails. Texts that come from elsewhere do not control the
//! terminal, and colours are shown only where its user wants them (<https://no-color.org>).

use std::{
    env,
    fmt::Display,
    io::{self, IsTerminal as _, Write as _},
    sync::OnceLock,
};

/// Why a command failed.
pub(crate) enum Failure {
    /// Printed after `Error: `; the exit code is 1.
    Message(String),
    /// Printed as it is; the exit code is 1.
    Plain(String),
    /// All is said; this is the exit code.
    Exit(u8),
}

/// What a command hands back.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl<T: Display> From<T> for Failure {
    fn from(message: T) -> Self {
        Self::Message(message.to_string())
    }
}

impl Failure {
    /// Says on standard error why a command, or a part of it, failed; returns the exit code.
    pub(crate) fn tell(&self) -> u8 {
        match self {
            Self::Message(message) => {
                let error = Style::of_stderr().paint(Paint::Red, "Error:");
                complain(&format!("{error} {}\n", harmless_lines(message)));
            }
            Self::Plain(message) => complain(&format!("{}\n", harmless_lines(message))),
            Self::Exit(code) => return *code,
        }
        1
    }
}

/// Prints to stdout; a reader that went away (`kes key list | head -1`) is no error, a full disk is.
pub(crate) fn print(text: &str) -> Result<()> {
    write(text.as_bytes()).or_else(|e| enough(&e))
}

/// Writes to stdout at once.
pub(crate) fn write(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout();
    out.write_all(bytes).and_then(|()| out.flush())
}

/// What [`print()`] makes of a failed write.
pub(crate) fn enough(error: &io::Error) -> Result<()> {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Ok(()),
        _ => Err(format!("failed to write to standard output: {error}").into()),
    }
}

/// Prints a list, one line for each; names of another server may hold control characters.
pub(crate) fn print_lines(
    begin: &str,
    lines: impl IntoIterator<Item: AsRef<str>>,
    end: &str,
) -> Result<()> {
    let lines = lines.into_iter().map(|line| format!("{}\n", harmless(line.as_ref())));
    print(&format!("{begin}{}{end}", lines.collect::<String>()))
}

/// Prints to stderr. Errors are ignored: there is nowhere left to report them.
pub(crate) fn complain(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Says what may not be meant so.
pub(crate) fn warn(text: &str) {
    let warning = Style::of_stderr().paint(Paint::Yellow, "Warning:");
    complain(&format!("{warning} {}\n", harmless(text)));
}

/// Standard input, from which `what` is read. On a terminal, says that it waits for it.
pub(crate) fn stdin(what: &str) -> io::Stdin {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        complain(&format!("Reading the {what} from the terminal: end it with Enter and Ctrl-D.\n"));
    }
    stdin
}

/// Whether a person reads stdout.
pub(crate) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// `text` without what would control a terminal, as it may come from anywhere.
pub(crate) fn harmless(text: &str) -> String {
    let is_harmful = |c: char| {
        c.is_control()
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}')
    };
    text.replace(is_harmful, "\u{fffd}")
}

/// As [`harmless`], but line ends stay.
fn harmless_lines(text: &str) -> String {
    text.split('\n').map(harmless).collect::<Vec<_>>().join("\n")
}

/// What a text is printed like on a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Paint {
    Bold,
    Red,
    Green,
    Yellow,
}

/// When texts are coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colors {
    /// On terminals, unless the environment says otherwise.
    Auto,
    Always,
    Never,
}

/// What `--color` says.
static COLORS: OnceLock<Colors> = OnceLock::new();

impl Colors {
    pub(crate) fn parse(word: &str) -> Option<Self> {
        match word {
            "auto" => Some(Self::Auto),
            "always" => Some(Self::Always),
            "never" => Some(Self::Never),
            _ => None,
        }
    }

    /// From now on, for all that is printed. Later calls change nothing.
    pub(crate) fn set(self) {
        let _ = COLORS.set(self);
    }
}

/// Whether texts are coloured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    is_coloured: bool,
}

impl Style {
    #[cfg(test)]
    pub(crate) const PLAIN: Self = Self { is_coloured: false };
    #[cfg(test)]
    pub(crate) const COLOURED: Self = Self { is_coloured: true };

    pub(crate) fn of_stdout() -> Self {
        Self { is_coloured: are_colours_wanted(io::stdout().is_terminal()) }
    }

    pub(crate) fn of_stderr() -> Self {
        Self { is_coloured: are_colours_wanted(io::stderr().is_terminal()) }
    }

    /// `text` as it is to be printed.
    pub(crate) fn paint(self, paint: Paint, text: &str) -> String {
        let code = match paint {
            _ if !self.is_coloured => return text.to_owned(),
            Paint::Bold => "1",
            Paint::Red => "31",
            Paint::Green => "32",
            Paint::Yellow => "33",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

fn are_colours_wanted(is_terminal: bool) -> bool {
    match COLORS.get() {
        Some(Colors::Always) => true,
        Some(Colors::Never) => false,
        Some(Colors::Auto) | None => {
            is_terminal
                && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
                && env::var_os("TERM").is_none_or(|terminal| terminal != "dumb")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_does_not_control_the_terminal() {
        assert_eq!("a\nb\u{fffd}[31mc\u{fffd}", harmless_lines("a\nb\u{1b}[31mc\r"));
    }
}
