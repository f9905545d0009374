//! What commands need of a server's configuration file: the flags that stand for fields of it, and its
//! errors.

use super::{
    args::{Args, Flag, value},
    output::Result,
};
use crate::config::{Auth, Finding, Flags, Severity};

/// The configuration file of an installed server.
pub(crate) const INSTALLED: &str = "/etc/kes/config.yaml";

pub(crate) const ADDR: Flag = value(&["addr"], "IP:port", "listen there (default 0.0.0.0:7373)");
pub(crate) const ROOT: Flag = value(&["root"], "identity", "identity that may do everything");
pub(crate) const KEY: Flag = value(&["key"], "file", "private key of the server");
pub(crate) const CERT: Flag = value(&["cert"], "file", "certificate of the server");
pub(crate) const AUTH: Flag =
    value(&["auth"], "on|off", "demand trusted client certificates (default on)");

pub(crate) fn settings(args: &Args) -> Result<Flags> {
    let auth = match args.value("auth") {
        None => None,
        Some(value) if value.eq_ignore_ascii_case("on") => Some(Auth::On),
        Some(value) if value.eq_ignore_ascii_case("off") => Some(Auth::Off),
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

/// The first error about one of the fields that start so, or about the file as a whole.
pub(crate) fn first_error<'a>(findings: &'a [Finding], starts: &[&str]) -> Option<&'a Finding> {
    findings.iter().find(|found| {
        let field = &found.field;
        let is_meant = field.is_empty() || starts.iter().any(|start| field.starts_with(start));
        found.severity == Severity::Error && is_meant
    })
}
