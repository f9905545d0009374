//! The command line.

use std::{ffi::OsString, process::ExitCode};

/// Runs the command line with `args` (without the program's name).
pub fn run(_args: impl Iterator<Item = OsString>) -> ExitCode {
    ExitCode::SUCCESS
}
