//! `kes server`

use super::{
    Failure,
    args::{Args, Flag, Takes},
};
use crate::{
    config::{Auth, Flags},
    server::lifecycle::{self, Options},
};

pub(super) const DETAILS: &str = "\
A flag wins over the configuration file. The identity of a certificate is what
'kes tool identity of' prints; '--root disabled' switches the root identity off.";

#[rustfmt::skip]
pub(super) const FLAGS: &[Flag] = &[
    Flag { names: &["config"], takes: Takes::Value("file"), help: "configuration file" },
    Flag { names: &["addr"], takes: Takes::Value("IP:port"), help: "listen there (default 0.0.0.0:7373)" },
    Flag { names: &["root"], takes: Takes::Value("identity"), help: "identity that may do everything" },
    Flag { names: &["key"], takes: Takes::Value("file"), help: "private key of the server" },
    Flag { names: &["cert"], takes: Takes::Value("file"), help: "certificate of the server" },
    Flag { names: &["auth"], takes: Takes::Value("on|off"), help: "demand trusted client certificates (default on)" },
    Flag { names: &["mlock"], takes: Takes::Bool, help: "lock all memory, so that no key is swapped out" },
    Flag { names: &["quiet", "q"], takes: Takes::Bool, help: "print nothing at start" },
];

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    if !args.positional.is_empty() {
        return Err("too many arguments".into());
    }
    let auth = match args.value("auth") {
        None => Auth::On,
        Some(value) if value.eq_ignore_ascii_case("on") => Auth::On,
        Some(value) if value.eq_ignore_ascii_case("off") => Auth::Off,
        Some(value) => return Err(format!("invalid option for --auth: {value:?}").into()),
    };
    let options = Options {
        config: args.value("config").map(Into::into),
        flags: Flags {
            addr: args.value("addr").map(Into::into),
            root: args.value("root").map(Into::into),
            key: args.value("key").map(Into::into),
            cert: args.value("cert").map(Into::into),
            auth,
        },
        mlock: args.is_set("mlock"),
        quiet: args.is_set("quiet"),
    };
    lifecycle::run(&options).map_err(Failure::from)
}
