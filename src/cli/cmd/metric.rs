//! `kes metric`: what a server counts.

use crate::{
    base::duration,
    cli::{
        args::{Args, Command, Flag, INSECURE, JSON, Takes},
        client::Client,
        output::{Result, is_terminal},
        trace::{feed, screen::Message, view::Kind},
    },
};

pub(crate) const METRIC: Command = Command {
    path: &["metric"],
    summary: "Show what a server counts: requests, how long they take, its memory",
    details: "\
On a terminal, a table that is drawn anew; Ctrl-C or Esc ends it. Elsewhere, and with
--json, a line of JSON each time.",
    flags: &[
        Flag {
            names: &["rate"],
            takes: Takes::Duration,
            help: "how often to ask the server (default 5s)",
        },
        INSECURE,
        JSON,
    ],
    examples: &["kes metric", "kes metric --rate 1s --json | jq .kes_http_request_active"],
    run,
    ..Command::NEW
};

fn run(args: &Args) -> Result<()> {
    let rate = args.value("rate").unwrap_or("5s");
    let rate = duration::parse_non_negative(rate)
        .map_err(|e| format!("invalid value {rate:?} for --rate: {e}"))?;
    let source = feed::metrics(Client::new(args)?, rate)?;
    match args.wants_json() || !is_terminal() {
        false => feed::on_screen(Kind::System, source),
        true => feed::print(source, |item| match item {
            Message::Sample(sample, _) => (sample.as_whole_json() + "\n").into_bytes(),
            _ => Vec::new(),
        }),
    }
}
