//! Questions to a person at a terminal, on standard error. Nothing is written before the last one is
//! answered, so Ctrl-C needs no care.

use std::io::{self, IsTerminal as _};

use crate::cli::output::{Result, complain, harmless};

/// Whether somebody can answer.
pub(crate) fn is_possible() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks until `check` has nothing against the answer, which is `default` if it is empty.
pub(crate) fn ask(
    question: &str,
    default: &str,
    check: &dyn Fn(&str) -> std::result::Result<(), String>,
) -> Result<String> {
    loop {
        complain(&format!("{question} [{default}]: "));
        let mut line = String::new();
        // A line without its end is the Ctrl-D of someone who gives up.
        match io::stdin().read_line(&mut line) {
            Ok(_) if line.ends_with('\n') => {}
            Ok(_) => return Err("no answer: nothing was written".into()),
            Err(e) => return Err(format!("failed to read the answer: {e}").into()),
        }
        let answer = Some(line.trim()).filter(|line| !line.is_empty()).unwrap_or(default);
        match check(answer) {
            Ok(()) => return Ok(answer.to_owned()),
            Err(why) => complain(&format!("  {}\n", harmless(&why))),
        }
    }
}
