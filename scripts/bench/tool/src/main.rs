//! Measures the kes server: load over mTLS, footprint, and a bare TLS server as the floor.
//!
//! Every subcommand prints JSON, one object a line, so that runs can be collected in a file;
//! `report` turns such a file into a table. `scripts/bench/run` strings the subcommands together.

mod args;
mod client;
mod floor;
mod hold;
mod http;
mod http2;
mod load;
mod process;
mod report;
mod streams;
mod tls;

use std::process::ExitCode;

use args::Args;

/// An error that stops a subcommand; its text goes to stderr.
type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T> = std::result::Result<T, Error>;

/// One subcommand: its name, its options, and its function.
type Command = (&'static str, &'static str, fn(&Args) -> Result<()>);

const COMMANDS: &[Command] = &[
    ("certs", "--dir DIR", tls::certs),
    ("floor", "--addr A --cert F --key F [--workers 2]", floor::run),
    (
        "load",
        "--addr A --client-cert F --client-key F --op OP [--connections 8] [--seconds 2] [--warmup 0.5]\n         \
         [--threads 1] [--pid P] [--label L] [--round R] [--active 8] [--proto http1|h2, with idle]\n         \
         OP: version generate encrypt decrypt mixed handshake-full handshake-resumed idle slow",
        load::run,
    ),
    (
        "once",
        "--addr A --client-cert F --client-key F [--method GET] [--path /version] [--body B]",
        load::once,
    ),
    (
        "streams",
        "--addr A --pid P --client-cert F --client-key F [--subscribers 50] [--silent 10]\n         \
         [--requests 20000] [--rounds 20] [--rate 2000] [--connections 16]",
        streams::run,
    ),
    ("start", "--addr A --client-cert F --client-key F [--settle 1] -- COMMAND...", process::start),
    ("report", "--results FILE [--json FILE] [--most RATIO]", report::run),
];

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let name = words.next().unwrap_or_default();
    let Some((_, _, command)) = COMMANDS.iter().find(|(n, _, _)| *n == name) else {
        for (name, usage, _) in COMMANDS {
            eprintln!("bench-tool {name} {usage}");
        }
        return ExitCode::from(2);
    };
    match Args::parse(words).and_then(|args| command(&args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {name}: {error}");
            ExitCode::FAILURE
        }
    }
}
