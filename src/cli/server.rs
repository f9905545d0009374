//! `kes server`

use super::{
    Failure,
    args::{Args, Flag, Takes},
    commands::JSON,
};
use crate::{
    config::{Auth, Flags},
    server::{options::Options, start},
};

pub(super) const DETAILS: &str = "\
A flag wins over the configuration file. The identity of a certificate is what
'kes tool identity of' prints; '--root disabled' switches the root identity off.";

#[rustfmt::skip]
const ADDR: Flag = Flag { names: &["addr"], takes: Takes::Value("IP:port"), help: "listen there (default 0.0.0.0:7373)" };
#[rustfmt::skip]
pub(super) const ROOT: Flag = Flag { names: &["root"], takes: Takes::Value("identity"), help: "identity that may do everything" };
#[rustfmt::skip]
const KEY: Flag = Flag { names: &["key"], takes: Takes::Value("file"), help: "private key of the server" };
#[rustfmt::skip]
const CERT: Flag = Flag { names: &["cert"], takes: Takes::Value("file"), help: "certificate of the server" };
#[rustfmt::skip]
const AUTH: Flag = Flag { names: &["auth"], takes: Takes::Value("on|off"), help: "demand trusted client certificates (default on)" };

#[rustfmt::skip]
pub(super) const FLAGS: &[Flag] = &[
    Flag { names: &["config"], takes: Takes::Value("file"), help: "configuration file" },
    ADDR, ROOT, KEY, CERT, AUTH,
    Flag { names: &["mlock"], takes: Takes::Bool, help: "lock all memory, so that no key is swapped out" },
    Flag { names: &["quiet", "q"], takes: Takes::Bool, help: "print nothing at start" },
];

/// Flags of `kes config check`: those of a server that stand for fields of the file.
#[rustfmt::skip]
pub(super) const CHECK_FLAGS: &[Flag] = &[
    ADDR, ROOT, KEY, CERT, AUTH,
    Flag { names: &["strict"], takes: Takes::Bool, help: "warnings count as errors" },
    JSON,
];

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    if !args.positional.is_empty() {
        return Err("too many arguments".into());
    }
    let options = Options {
        config: args.value("config").map(Into::into),
        flags: settings(args)?,
        mlock: args.is_set("mlock"),
        quiet: args.is_set("quiet"),
    };
    start::run(&options).map_err(Failure::from)
}

/// The flags that stand for fields of the configuration file.
pub(super) fn settings(args: &Args) -> Result<Flags, Failure> {
    let auth = match args.value("auth") {
        None => Auth::On,
        Some(value) if value.eq_ignore_ascii_case("on") => Auth::On,
        Some(value) if value.eq_ignore_ascii_case("off") => Auth::Off,
        Some(value) => {
            return Err(format!("invalid option for --auth: {value:?}: use on or off").into());
        }
    };
    Ok(Flags {
        addr: args.value("addr").map(Into::into),
        root: args.value("root").map(Into::into),
        key: args.value("key").map(Into::into),
        cert: args.value("cert").map(Into::into),
        auth,
    })
}
