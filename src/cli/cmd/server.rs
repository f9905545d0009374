//! `kes server`

use crate::{
    cli::{
        args::{Args, Command, flag, value},
        output::Result,
        settings::{ADDR, AUTH, CERT, KEY, ROOT, settings},
    },
    server::lifecycle::{self, Options},
};

pub(crate) const SERVER: Command = Command {
    path: &["server"],
    summary: "Run a server",
    details: "\
A flag wins over the configuration file. The identity of a certificate is what
'kes tool identity of' prints; '--root disabled' switches the root identity off.",
    flags: &[
        value(&["config"], "file", "configuration file"),
        ADDR,
        ROOT,
        KEY,
        CERT,
        AUTH,
        flag(&["mlock"], "lock all memory, so that no key is swapped out"),
        flag(&["quiet", "q"], "print nothing at start"),
    ],
    examples: &[
        "kes server --config /etc/kes/config.yml",
        "kes server --config config.yml --auth off",
    ],
    run,
    ..Command::NEW
};

fn run(args: &Args) -> Result<()> {
    lifecycle::run(&Options {
        config: args.value("config").map(Into::into),
        flags: settings(args)?,
        mlock: args.is_set("mlock"),
        quiet: args.is_set("quiet"),
    })?;
    Ok(())
}
