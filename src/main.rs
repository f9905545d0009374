//! The binary `kes`: hands the arguments to [`kes::run`] and exits with its code.

fn main() -> std::process::ExitCode {
    kes::run(std::env::args_os().skip(1))
}
