//! `kes ls`: the names of keys, policies or identities.

use crate::{
    base::glob,
    cli::{
        args::{Args, Argument, Command, INSECURE, JSON, Kind, flag},
        client::Client,
        layout,
        output::Result,
    },
};

pub(crate) const LS: Command = Command {
    path: &["ls"],
    arguments: &[Argument::new("prefix", "prefix", Kind::Text).optional()],
    summary: "List the names of keys, policies or identities that begin with a prefix",
    flags: &[
        flag(&["identities", "i"], "list identities"),
        flag(&["policies", "p"], "list policies"),
        INSECURE,
        JSON,
    ],
    examples: &["kes ls", "kes ls my-", "kes ls --identities --json"],
    run,
    ..Command::NEW
};

fn run(args: &Args) -> Result<()> {
    let given = args.get(0);
    let prefix = given.strip_suffix('*').unwrap_or(given);
    let pattern = format!("{}*", glob::escape(prefix));
    let failed = |what: &str, why: String| {
        format!("failed to list {what} that begin with {prefix:?}: {why}")
    };
    let is_of = |flag| args.is_set(flag);
    let (header, names) = match (is_of("identities"), is_of("policies")) {
        (true, true) => return Err("use either --identities or --policies".into()),
        (true, false) => {
            let found = Client::new(args)?.identities(&pattern);
            let found = found.map_err(|why| failed("identities", why))?;
            ("Identity", found.into_iter().map(|entry| entry.name).collect())
        }
        (false, true) => {
            let found = Client::new(args)?.policies(&pattern);
            ("Policy", found.map_err(|why| failed("policies", why))?)
        }
        (false, false) => {
            let found = Client::new(args)?.keys(&pattern);
            ("Key", found.map_err(|why| failed("keys", why))?)
        }
    };
    layout::list(args, header, &names)
}
