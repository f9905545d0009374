//! The binary `kes`: hands the arguments to [`kes::cli`] and exits with its code.

fn main() -> std::process::ExitCode {
    kes::cli::run(std::env::args_os().skip(1))
}
