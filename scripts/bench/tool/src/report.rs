//! Turns collected result lines into the table, the footprint and the verdict on the targets.

use std::fmt::Write as _;
use std::fs;

use serde_json::{Value, json};

use crate::Result;
use crate::args::Args;

/// Requests may cost this many times the floor, and this many microseconds of CPU.
const MOST_TIMES_FLOOR: f64 = 1.5;
const MOST_CPU_US: f64 = 16.0;
/// The same for 64 Go callers over HTTP/2, beside connections that stay, with so many handshakes.
const MOST_HTTP2_CPU_US: f64 = 20.0;
const MOST_TIMES_KEEP_ALIVE: f64 = 1.5;
const MOST_HANDSHAKES: f64 = 0.01;
/// Bytes of memory for an idle connection.
const MOST_IDLE: [(&str, u64); 2] = [("HTTP/1.1", 10_000), ("HTTP/2", 12_000)];
/// A resumed handshake may cost this share of a full one.
const MOST_RESUMED: f64 = 0.8;

/// Prints the figures in `--results`; with `--json` also writes the figures there.
pub(crate) fn run(args: &Args) -> Result<()> {
    let text = fs::read_to_string(args.text("results")?)?;
    let lines: Vec<Value> = text.lines().map(serde_json::from_str).collect::<std::result::Result<_, _>>()?;
    let rows = rows(&lines);
    let ratios = ratios(&lines);
    let mut checks = checks(&lines);
    if let Some(most) = args.find("most") {
        checks.extend(compared(&ratios, most.parse()?));
    }
    let footprint = footprint(&lines);
    if !rows.is_empty() {
        print!("{}", table(&rows));
    }
    if !ratios.is_empty() {
        print!("\nRatios kes / other, one for each round: min median max\n{}", ratio_table(&ratios));
    }
    holds(&lines);
    if let Some(members) = footprint.as_object().filter(|members| !members.is_empty()) {
        println!("\nFootprint");
        members.iter().for_each(|(name, value)| println!("  {name:<24} {value}"));
    }
    if !checks.is_empty() {
        println!("\nTargets");
    }
    for check in &checks {
        let verdict = if check["holds"] == true { "holds" } else { "MISSED" };
        println!("  {verdict:<7} {}", check["text"].as_str().unwrap_or(""));
    }
    if let Some(path) = args.find("json") {
        let all = json!({ "rows": rows, "ratios": ratios, "footprint": footprint, "targets": checks, "runs": lines });
        fs::write(path, format!("{all:#}\n"))?;
    }
    Ok(())
}

/// The settings that two runs of one server must share to be comparable.
const SETTING: [&str; 4] = ["client", "op", "connections", "keys"];

fn same(names: &[&str], a: &Value, b: &Value) -> bool {
    names.iter().all(|name| a[*name] == b[*name])
}

/// The runs that measured requests. Slow connections have requests beside them; idle ones too, but
/// there is only one such run.
fn loads(lines: &[Value]) -> impl Iterator<Item = &Value> {
    lines.iter().filter(|line| line["kind"] == "load" && line["op"] != "idle")
}

/// The first run of each setting, with all of its kind.
fn groups<'a>(runs: &[&'a Value]) -> Vec<(&'a Value, Vec<&'a Value>)> {
    let mut groups: Vec<(&Value, Vec<&Value>)> = Vec::new();
    for run in runs {
        match groups
            .iter_mut()
            .find(|(first, _)| same(&SETTING, first, run) && first["label"] == run["label"])
        {
            Some((_, group)) => group.push(run),
            None => groups.push((run, vec![run])),
        }
    }
    groups
}

/// The figures of which a row has the median.
const MEDIANS: [&str; 10] = [
    "req_s",
    "p50_us",
    "p99_us",
    "p999_us",
    "cpu_us",
    "kernel_us",
    "user_us",
    "handshakes_per_request",
    "resumed",
    "cache_misses_per_request",
];

/// One row per label, client, operation, number of callers and of keys, in the order of their first
/// run.
fn rows(lines: &[Value]) -> Vec<Value> {
    let runs: Vec<&Value> = loads(lines).collect();
    let mut rows: Vec<Value> = Vec::new();
    for (run, group) in groups(&runs) {
        let figures = |name: &str| sorted(group.iter().filter_map(|run| run[name].as_f64()));
        let cpu = figures("cpu_us");
        let mut row = json!({
            "label": run["label"], "client": run["client"], "op": run["op"],
            "connections": run["connections"], "keys": run["keys"],
            "unavailable": run["unavailable"],
            "rounds": group.len(),
            "cpu_us_min": cpu.first(), "cpu_us_max": cpu.last(),
            "times_floor": times(&group, |run| floor_of(&runs, run)),
            "peak_kib": figures("peak_kib").last(),
            "errors": figures("errors").iter().sum::<f64>(),
            "first_error": group.iter().map(|run| &run["first_error"]).find(|error| !error.is_null()),
        });
        MEDIANS.iter().for_each(|name| row[*name] = json!(median(&figures(name))));
        rows.push(row);
    }
    // By client, the floor first, then the servers one below the other for each operation, so that
    // columns read downwards.
    let rank = |row: &Value, names: &[&str]| rows.iter().position(|other| same(names, row, other));
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by_key(|number| {
        let row = &rows[*number];
        let is_loaded = row["label"] != "floor";
        (rank(row, &["client"]), is_loaded, rank(row, &["op", "keys"]), rank(row, &["connections"]))
    });
    order.into_iter().map(|number| rows[number].clone()).collect()
}

/// The floor's CPU in the same round, for the same kind of work over connections that stay.
fn floor_of(runs: &[&Value], run: &Value) -> Option<f64> {
    let handshake = run["op"].as_str()?.starts_with("handshake");
    let floor = runs.iter().find(|floor| {
        let op = if handshake { &run["op"] } else { &json!("version") };
        floor["label"] == "floor"
            && floor["op"] == *op
            && floor["connections"] == run["connections"]
            && floor["round"] == run["round"]
    });
    floor?["cpu_us"].as_f64()
}

/// Columns of the table: title, width, member, digits.
const COLUMNS: &[(&str, usize, &str, usize)] = &[
    ("req/s", 8, "req_s", 0),
    ("p50 us", 8, "p50_us", 0),
    ("p99 us", 8, "p99_us", 0),
    ("p99.9 us", 8, "p999_us", 0),
    ("CPU us", 7, "cpu_us", 1),
    ("kernel", 7, "kernel_us", 1),
    ("user", 7, "user_us", 1),
    ("min", 7, "cpu_us_min", 1),
    ("max", 7, "cpu_us_max", 1),
    ("x floor", 7, "times_floor", 2),
    ("shakes", 6, "handshakes_per_request", 2),
    ("resumed", 7, "resumed", 2),
    ("misses", 6, "cache_misses_per_request", 2),
    ("peak KiB", 8, "peak_kib", 0),
    ("errors", 6, "errors", 0),
];

/// The setting of a row: client, operation, callers.
fn setting(row: &Value) -> String {
    let word = |name: &str| row[name].as_str().unwrap_or("").to_owned();
    let mut op = word("op");
    if row["keys"].as_u64().is_some_and(|keys| keys > 1) {
        op.push_str(", new keys");
    }
    format!("{:<17} {op:<18} {:>7}", word("client"), row["connections"].to_string())
}

fn number(value: &Value, digits: usize) -> String {
    value.as_f64().map_or("-".to_owned(), |number| format!("{number:.digits$}"))
}

fn table(rows: &[Value]) -> String {
    let mut text = format!("{:<6} {:<17} {:<18} {:>7}", "server", "client", "op", "callers");
    COLUMNS.iter().for_each(|(title, width, _, _)| _ = write!(text, " {title:>width$}"));
    for row in rows {
        let _ = write!(text, "\n{:<6} {}", row["label"].as_str().unwrap_or(""), setting(row));
        if let Some(reason) = row["unavailable"].as_str() {
            let _ = write!(text, "  not measured: {reason}");
            continue;
        }
        for (_, width, name, digits) in COLUMNS {
            let _ = write!(text, " {:>width$}", number(&row[*name], *digits));
        }
        if let Some(error) = row["first_error"].as_str() {
            let _ = write!(text, "  {error}");
        }
    }
    text + "\nCPU, handshakes and misses are per request, resumed is a share of the handshakes.\n"
}

/// The figures that two servers are compared by.
const COMPARED: [(&str, &str); 6] = [
    ("CPU", "cpu_us"),
    ("kernel", "kernel_us"),
    ("user", "user_us"),
    ("req/s", "req_s"),
    ("p50", "p50_us"),
    ("p99", "p99_us"),
];

/// For each setting that both servers ran: the ratios of the pairs that ran one after the other.
fn ratios(lines: &[Value]) -> Vec<Value> {
    let runs: Vec<&Value> = loads(lines).filter(|run| run["unavailable"].is_null()).collect();
    let mut ratios = Vec::new();
    for (run, ours) in groups(&runs).into_iter().filter(|(run, _)| run["label"] == "kes") {
        let mut row = json!({
            "client": run["client"], "op": run["op"], "connections": run["connections"], "keys": run["keys"],
        });
        for (_, name) in COMPARED {
            let pairs = sorted(ours.iter().filter_map(|run| {
                let theirs = runs.iter().find(|other| {
                    other["label"] == "other" && same(&SETTING, run, other) && other["round"] == run["round"]
                });
                Some(run[name].as_f64()? / theirs?[name].as_f64()?)
            }));
            if !pairs.is_empty() {
                row[name] = json!([pairs.first(), median(&pairs), pairs.last()]);
            }
        }
        if COMPARED.iter().any(|(_, name)| !row[*name].is_null()) {
            ratios.push(row);
        }
    }
    let clients: Vec<Value> = ratios.iter().map(|row| row["client"].clone()).collect();
    ratios.sort_by_key(|row| clients.iter().position(|client| *client == row["client"]));
    ratios
}

/// Whether data keys over connections that stay cost at most this share of the other's CPU, at each
/// number of connections but one.
fn compared(ratios: &[Value], most: f64) -> Vec<Value> {
    let kept = ratios
        .iter()
        .filter(|row| row["client"] == "keep-alive" && row["op"] == "generate" && row["connections"] != 1);
    let check = |row: &Value| {
        let ratio = row["cpu_us"][1].as_f64().unwrap_or(f64::NAN);
        let count = &row["connections"];
        let text = format!("generate at {count} connections: {ratio:.2} of the other's CPU (at most {most})");
        json!({ "holds": ratio <= most, "text": text })
    };
    kept.map(check).collect()
}

fn ratio_table(ratios: &[Value]) -> String {
    let mut text = format!("{:<17} {:<18} {:>7}", "client", "op", "callers");
    COMPARED.iter().for_each(|(title, _)| _ = write!(text, "   {title:>17}"));
    for row in ratios {
        let _ = write!(text, "\n{}", setting(row));
        for (_, name) in COMPARED {
            let [least, median, most] = [0, 1, 2].map(|at| number(&row[name][at], 2));
            let _ = write!(text, "   {least:>5} {median:>5} {most:>5}");
        }
    }
    text + "\n"
}

/// Our figures of one operation, by the clients that `is_client` accepts.
fn ours<'a>(
    runs: &[&'a Value],
    is_client: impl Fn(&str) -> bool,
    op: &str,
    connections: Option<u64>,
) -> Vec<&'a Value> {
    let mut ours = runs.to_vec();
    ours.retain(|run| {
        run["label"] == "kes"
            && run["client"].as_str().is_some_and(&is_client)
            && run["op"] == op
            && run["keys"].as_u64().is_none_or(|keys| keys == 1)
            && connections.is_none_or(|count| run["connections"] == count)
    });
    ours
}

/// How many times the CPU that `other` gives for each of `runs` these took. That is of the same round,
/// one beside the other: a busy machine slows both.
fn times(runs: &[&Value], other: impl Fn(&Value) -> Option<f64>) -> Option<f64> {
    median(&sorted(runs.iter().filter_map(|run| Some(run["cpu_us"].as_f64()? / other(run)?))))
}

/// The CPU of the one of `runs` that ran beside `run`.
fn beside(runs: &[&Value], run: &Value) -> Option<f64> {
    runs.iter().find(|other| other["round"] == run["round"])?["cpu_us"].as_f64()
}

fn checks(lines: &[Value]) -> Vec<Value> {
    let runs: Vec<&Value> = loads(lines).collect();
    // A run without a figure misses its target.
    let figure = |runs: &[&Value], name: &str| {
        median(&sorted(runs.iter().filter_map(|run| run[name].as_f64()))).unwrap_or(f64::NAN)
    };
    let is_kept = |client: &str| client == "keep-alive";
    let mut checks = Vec::new();
    let mut check = |holds: bool, text: String| checks.push(json!({ "holds": holds, "text": text }));
    for op in ["generate", "decrypt"] {
        let ours = ours(&runs, is_kept, op, Some(64));
        if ours.is_empty() {
            continue;
        }
        let times = times(&ours, |run| floor_of(&runs, run)).unwrap_or(f64::NAN);
        let cpu = figure(&ours, "cpu_us");
        check(
            cpu <= MOST_CPU_US && times <= MOST_TIMES_FLOOR,
            format!(
                "{op} at 64 connections: {cpu:.1} us of CPU (at most {MOST_CPU_US}), {times:.2} x floor (at most {MOST_TIMES_FLOOR})"
            ),
        );
    }
    let http2 = ours(&runs, |client| client == "go HTTP/2.0", "generate", Some(64));
    if !http2.is_empty() {
        let kept = ours(&runs, is_kept, "generate", Some(64));
        let times = times(&http2, |run| beside(&kept, run)).unwrap_or(f64::NAN);
        let (cpu, handshakes) = (figure(&http2, "cpu_us"), figure(&http2, "handshakes_per_request"));
        check(
            cpu <= MOST_HTTP2_CPU_US && times <= MOST_TIMES_KEEP_ALIVE && handshakes <= MOST_HANDSHAKES,
            format!(
                "generate by 64 Go callers over HTTP/2: {cpu:.1} us of CPU (at most {MOST_HTTP2_CPU_US}), {times:.2} x that of HTTP/1.1 connections that stay (at most {MOST_TIMES_KEEP_ALIVE}), {handshakes:.4} handshakes a request (at most {MOST_HANDSHAKES})"
            ),
        );
    }
    let [full, resumed] = ["full", "resumed"]
        .map(|kind| ours(&runs, |client| client == "new", &format!("handshake-{kind}"), None));
    if !full.is_empty() && !resumed.is_empty() {
        let share = times(&resumed, |run| beside(&full, run)).unwrap_or(f64::NAN);
        check(
            share <= MOST_RESUMED,
            format!("resumed handshake: {share:.2} of a full one's CPU (at most {MOST_RESUMED})"),
        );
    }
    for (client, most) in MOST_IDLE {
        let idle = lines.iter().find(|line| {
            line["op"] == "idle"
                && line["label"] == "kes"
                && line["client"] == client
                && line["unavailable"].is_null()
        });
        if let Some(bytes) = idle.and_then(|line| line["bytes_per_connection"].as_u64()) {
            check(bytes <= most, format!("idle connection of {client}: {bytes} bytes (at most {most})"));
        }
    }
    if !runs.is_empty() {
        let mine = runs.iter().filter(|run| run["label"] != "other");
        let errors: f64 = mine.filter_map(|run| run["errors"].as_f64()).sum();
        check(errors == 0.0, format!("errors: {errors} (none)"));
    }
    checks
}

/// The lines of kind `footprint` as they are, and the medians of the starts.
fn footprint(lines: &[Value]) -> Value {
    let mut members = serde_json::Map::new();
    for line in lines.iter().filter(|line| line["kind"] == "footprint") {
        let figures = line.as_object().into_iter().flatten().filter(|(name, _)| *name != "kind");
        members.extend(figures.map(|(name, value)| (name.clone(), value.clone())));
    }
    for name in ["start_ms", "rss_kib", "threads"] {
        let starts = lines.iter().filter(|line| line["kind"] == "start");
        if let Some(figure) = median(&sorted(starts.filter_map(|line| line[name].as_f64()))) {
            members.insert(name.to_owned(), json!((figure * 100.0).round() / 100.0));
        }
    }
    Value::Object(members)
}

/// The runs with idle and slow connections, which share no columns with the others.
fn holds(lines: &[Value]) {
    for run in lines {
        let figure = |name: &str| run[name].as_f64().unwrap_or(f64::NAN);
        let active = format!("p99 {:.0} us, {} errors", figure("p99_us"), run["errors"]);
        let (label, count) = (run["label"].as_str().unwrap_or(""), &run["connections"]);
        if run["kind"] == "half" {
            println!(
                "\n{label}, {count} handshakes that wait for the client, {}",
                run["client"].as_str().unwrap_or("")
            );
            resident(run);
        } else if run["op"] == "idle" {
            let protocol = run["client"].as_str().unwrap_or("");
            println!("\n{label}, {count} idle connections, {protocol}");
            if let Some(reason) = run["unavailable"].as_str() {
                println!("  not measured: {reason}");
                continue;
            }
            println!("  others meanwhile: {active}");
            println!("  refused {}, broken at the end {}", run["refused"], run["broken"]);
            resident(run);
            println!("  threads {} -> {}", run["threads"][0], run["threads"][1]);
        } else if run["op"] == "slow" && run["round"] == 1 {
            println!("\n{label}, {count} connections that send a byte a second");
            println!("  others meanwhile: {active}");
            for half in ["hello", "head"] {
                let half_figures = &run[half];
                let second =
                    |name: &str| half_figures[name].as_f64().map_or("-".to_owned(), |s| format!("{s:.1}"));
                println!(
                    "  inside the {half}: closed after {} to {} s; still open {} of {}",
                    second("closed_first_s"),
                    second("closed_last_s"),
                    half_figures["open"],
                    half_figures["connections"]
                );
            }
        }
    }
}

fn resident(run: &Value) {
    let [before, after] = [0, 1].map(|at| &run["rss_kib"][at]);
    println!("  RSS {before} -> {after} KiB, {} bytes a connection", run["bytes_per_connection"]);
}

fn sorted(figures: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    figures
}

/// The middle of sorted figures (of an even number, the upper one).
fn median(sorted: &[f64]) -> Option<f64> {
    sorted.get(sorted.len() / 2).copied()
}
