//! `kes server`

use crate::{
    cli::{
        args::{Args, Command, flag, value},
        check::check,
        output::Result,
        settings::{ADDR, AUTH, CERT, KEY, ROOT, settings},
    },
    config::Origin,
    server::{options::Options, start},
};

pub(crate) const SERVER: Command = Command {
    path: &["server"],
    summary: "Run a server",
    details: "\
A flag wins over the configuration file. The identity of a certificate is what
'kes identity of' prints; '--root disabled' switches the root identity off. With --check,
the exit code is 0, or 78 if the settings are wrong. 'kes doctor' tries the key
store and the ports, too.",
    flags: &[
        value(&["config"], "file", "configuration file"),
        ADDR,
        ROOT,
        KEY,
        CERT,
        AUTH,
        flag(&["check"], "look for errors in the settings as 'kes config check' does, and end"),
        flag(&["dev"], "try things out: keys in memory, certificate and API key made anew"),
        flag(&["mlock"], "lock all memory, so that no key is swapped out"),
        flag(&["quiet", "q"], "print nothing at start"),
    ],
    examples: &[
        "kes server --config /etc/kes/config.yaml",
        "kes server --config config.yml --auth off",
        "kes server --config config.yml --check",
        "kes server --dev",
    ],
    run,
    ..Command::NEW
};

fn run(args: &Args) -> Result<()> {
    let dev = args.is_set("dev");
    let others = ["config", "root", "key", "cert", "auth"];
    if let Some(other) = others.iter().find(|other| dev && args.value(other).is_some()) {
        return Err(
            format!("--dev and --{other} can't be used together: --dev needs no settings").into()
        );
    }
    let flags = settings(args)?;
    if args.is_set("check") {
        return match args.value("config") {
            _ if dev => Err("--dev needs no settings, so there is nothing to check".into()),
            Some(file) => check(args, file, Origin::File(file.as_ref())),
            None => check(args, "<flags>", Origin::Flags),
        };
    }
    if !dev && args.value("config").is_none() && flags.root.is_none() {
        return Err(
            "no root identity has been specified: name a configuration file with --config, or \
                    an identity with --root; --dev starts a server to try things out"
                .into(),
        );
    }
    start::run(&Options {
        dev,
        config: args.value("config").map(Into::into),
        flags,
        mlock: args.is_set("mlock"),
        quiet: args.is_set("quiet"),
    })?;
    Ok(())
}
