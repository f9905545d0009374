//! `kes status`: whether a server answers, and what it says about itself.

use std::time::Instant;

use serde_json::Value;

use crate::{
    base::duration,
    cli::{
        answers,
        args::{Args, Command, INSECURE, JSON, flag},
        client::{Client, Error},
        layout,
        output::{Paint, Result, Style, harmless, print},
        trace::view::short,
    },
};

pub(crate) const STATUS: Command = Command {
    path: &["status"],
    summary: "Print whether a server answers, its version, and what it needs",
    details: "\
Latency is the time that the answer took. The identity is that of the server's
certificate, for --server-identity. Of a server that tells nothing else, such as
KES 0.14, only the version is shown.",
    flags: &[
        flag(&["short", "s"], "only what fits into four lines"),
        flag(&["api"], "list the APIs of the server"),
        INSECURE,
        JSON,
    ],
    examples: &["kes status", "kes status --api", "kes status --json | jq .uptime"],
    run,
    ..Command::NEW
};

const SECOND: u64 = 1_000_000_000;

fn run(args: &Args) -> Result<()> {
    let client = Client::new(args)?;
    match args.is_set("api") {
        true => apis(args, &client),
        false => status(args, &client),
    }
}

fn status(args: &Args, client: &Client) -> Result<()> {
    // A connection is there, and the servers that do not answer are known.
    client.get("/version")?;
    let asked_at = Instant::now();
    let answer = match client.get("/v1/status") {
        Err(Error::Refused(404 | 501, _)) => client.get("/version")?,
        answer => answer.map_err(|e| format!("failed to fetch the status: {e}"))?,
    };
    let latency = u64::try_from(asked_at.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let Ok(status @ Value::Object(_)) = serde_json::from_slice(&answer) else {
        return Err("failed to fetch the status: the server sent none".into());
    };
    if args.is_set("json") {
        return print(&format!("{}\n", String::from_utf8_lossy(&answer).trim_end()));
    }
    let number = |name: &str| status[name].as_u64();
    let text = |name: &str| status[name].as_str().map(str::to_owned);
    let is_down = answers::lacks_key_store(&status);
    let up_time = |seconds: u64| {
        duration::format(i64::try_from(seconds.saturating_mul(SECOND)).unwrap_or(i64::MAX))
    };
    let os = || Some(format!("{}/{}", text("os")?, text("arch")?));
    let cpus = || match (number("num_cpu")?, number("num_cpu_used")?) {
        (all, used) if all == used => Some(all.to_string()),
        (all, used) => Some(format!("{used} of {all}")),
    };
    let facts = [
        ("Version", text("version")),
        ("Uptime", number("uptime").map(up_time)),
        ("Latency", Some(short(latency))),
        ("Key store", is_down.then(|| "not available".to_owned())),
        ("Identity", client.server_identity()),
        ("OS", os()),
        ("CPUs", cpus()),
        ("Heap", number("mem_heap_used").map(layout::bytes)),
        ("Stack", number("mem_stack_used").map(layout::bytes)),
    ];
    let count = if args.is_set("short") { 4 } else { facts.len() };
    let facts = facts.into_iter().take(count);
    let facts: Vec<_> = facts.filter_map(|(label, value)| Some((label, value?))).collect();
    let paint = if is_down { Paint::Red } else { Paint::Green };
    let dot = Style::of_stdout().paint(paint, "●");
    let lines = layout::facts(&facts);
    let lines = lines.lines().map(|line| format!("  {line}\n")).collect::<String>();
    print(&format!("{dot} {}\n{lines}", harmless(client.server())))
}

fn apis(args: &Args, client: &Client) -> Result<()> {
    let failed = |why: String| format!("failed to list the APIs: {why}");
    let answer = client.get("/v1/api").map_err(|e| failed(client.too_old(e).to_string()))?;
    let api = |api: &Value| {
        let text = |member| api[member].as_str().map(str::to_owned);
        Some((text("path")?, text("method")?, api["timeout"].as_u64()?))
    };
    let sent: Value = serde_json::from_slice(&answer).unwrap_or_default();
    let apis = sent.as_array().and_then(|apis| apis.iter().map(api).collect::<Option<Vec<_>>>());
    let mut apis = apis.ok_or_else(|| failed("the server sent no list of them".to_owned()))?;
    if args.is_set("json") {
        return print(&format!("{}\n", String::from_utf8_lossy(&answer).trim_end()));
    }
    apis.sort_by_cached_key(|(path, ..)| path.clone());
    let width = apis.iter().map(|(path, ..)| path.len()).max().unwrap_or_default();
    let head = format!("{:<7} {:<width$} Timeout", "Method", "API");
    let mut text = format!("{}\n", Style::of_stdout().paint(Paint::Bold, &head));
    for (path, method, timeout) in &apis {
        let timeout = match timeout {
            0 => "none".to_owned(),
            seconds => format!("{seconds}s"),
        };
        text += &format!("{} {timeout}\n", harmless(&format!("{method:<7} {path:<width$}")));
    }
    print(&text)
}
