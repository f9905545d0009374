//! Turns collected result lines into the table, the footprint and the verdict on the targets.

use std::fmt::Write as _;
use std::fs;

use serde_json::{Value, json};

use crate::Result;
use crate::args::Args;

/// Requests may cost this many times the floor, and this many microseconds of CPU.
const MOST_TIMES_FLOOR: f64 = 1.5;
const MOST_CPU_US: f64 = 16.0;
/// A resumed handshake may cost this share of a full one.
const MOST_RESUMED: f64 = 0.8;

/// Prints what is in `--results`; with `--json` also writes the figures there.
pub(crate) fn run(args: &Args) -> Result<()> {
    let text = fs::read_to_string(args.text("results")?)?;
    let lines: Vec<Value> = text.lines().map(serde_json::from_str).collect::<std::result::Result<_, _>>()?;
    let rows = rows(&lines);
    let checks = checks(&rows);
    let footprint = footprint(&lines);
    if !rows.is_empty() {
        print!("{}", table(&rows));
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
        let all = json!({ "rows": rows, "footprint": footprint, "targets": checks, "runs": lines });
        fs::write(path, format!("{all:#}\n"))?;
    }
    Ok(())
}

/// One row per label, operation and number of connections, in the order of their first run.
fn rows(lines: &[Value]) -> Vec<Value> {
    let same = |a: &Value, b: &Value| ["label", "op", "connections"].iter().all(|name| a[*name] == b[*name]);
    let runs: Vec<&Value> = lines
        .iter()
        .filter(|line| line["kind"] == "load" && line["op"] != "idle" && line["op"] != "slow")
        .collect();
    let mut rows: Vec<Value> = Vec::new();
    for run in &runs {
        if rows.iter().any(|row| same(row, run)) {
            continue;
        }
        let group: Vec<&Value> = runs.iter().copied().filter(|other| same(other, run)).collect();
        let figures = |name: &str| sorted(group.iter().filter_map(|run| run[name].as_f64()));
        let cpu = figures("cpu_us");
        // Compared round by round: what slows the machine for a while slows both.
        let times_floor =
            sorted(group.iter().filter_map(|run| Some(run["cpu_us"].as_f64()? / floor_of(&runs, run)?)));
        rows.push(json!({
            "label": run["label"], "op": run["op"], "connections": run["connections"],
            "rounds": group.len(),
            "req_s": median(&figures("req_s")),
            "p50_us": median(&figures("p50_us")),
            "p99_us": median(&figures("p99_us")),
            "p999_us": median(&figures("p999_us")),
            "cpu_us": median(&cpu), "cpu_us_min": cpu.first(), "cpu_us_max": cpu.last(),
            "times_floor": median(&times_floor),
            "resumed": median(&figures("resumed")),
            "errors": figures("errors").iter().sum::<f64>(),
        }));
    }
    // The floor first, then the product; within each by operation, so that columns read downwards.
    let order: Vec<Value> = rows.iter().map(|row| row["op"].clone()).collect();
    rows.sort_by_key(|row| (row["label"] != "floor", order.iter().position(|op| *op == row["op"])));
    rows
}

/// The floor's CPU in the same round, for the same kind of work.
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

fn table(rows: &[Value]) -> String {
    let mut text = format!(
        "{:<6} {:<18} {:>5} {:>9} {:>8} {:>8} {:>8} {:>8} {:>16} {:>7} {:>8} {:>6}\n",
        "server",
        "op",
        "conns",
        "req/s",
        "p50 us",
        "p99 us",
        "p99.9 us",
        "CPU us",
        "(min - max)",
        "x floor",
        "resumed",
        "errors"
    );
    for row in rows {
        let word = |name: &str| row[name].as_str().unwrap_or("").to_owned();
        let number = |name: &str, digits: usize| {
            row[name].as_f64().map_or("-".to_owned(), |number| format!("{number:.digits$}"))
        };
        let spread = format!("({} - {})", number("cpu_us_min", 1), number("cpu_us_max", 1));
        let resumed =
            row["resumed"].as_f64().map_or("-".to_owned(), |share| format!("{:.1} %", share * 100.0));
        let _ = writeln!(
            text,
            "{:<6} {:<18} {:>5} {:>9} {:>8} {:>8} {:>8} {:>8} {:>16} {:>7} {:>8} {:>6}",
            word("label"),
            word("op"),
            row["connections"].to_string(),
            number("req_s", 0),
            number("p50_us", 0),
            number("p99_us", 0),
            number("p999_us", 0),
            number("cpu_us", 1),
            spread,
            number("times_floor", 2),
            resumed,
            number("errors", 0),
        );
    }
    text
}

fn checks(rows: &[Value]) -> Vec<Value> {
    let find = |op: &str, connections: Option<u64>| {
        rows.iter().find(|row| {
            row["label"] == "kes"
                && row["op"] == op
                && connections.is_none_or(|count| row["connections"] == count)
        })
    };
    let mut checks = Vec::new();
    for op in ["generate", "decrypt"] {
        let Some(row) = find(op, Some(64)) else {
            continue;
        };
        let (cpu, times) =
            (row["cpu_us"].as_f64().unwrap_or(f64::NAN), row["times_floor"].as_f64().unwrap_or(f64::NAN));
        checks.push(json!({
            "holds": cpu <= MOST_CPU_US && times <= MOST_TIMES_FLOOR,
            "text": format!("{op} at 64 connections: {cpu:.1} us of CPU (at most {MOST_CPU_US}), {times:.2} x floor (at most {MOST_TIMES_FLOOR})"),
        }));
    }
    if let (Some(full), Some(resumed)) = (find("handshake-full", None), find("handshake-resumed", None)) {
        let share =
            resumed["cpu_us"].as_f64().unwrap_or(f64::NAN) / full["cpu_us"].as_f64().unwrap_or(f64::NAN);
        checks.push(json!({
            "holds": share <= MOST_RESUMED,
            "text": format!("resumed handshake: {share:.2} of a full one's CPU (at most {MOST_RESUMED})"),
        }));
    }
    let errors: f64 = rows.iter().filter_map(|row| row["errors"].as_f64()).sum();
    if !rows.is_empty() {
        checks.push(json!({ "holds": errors == 0.0, "text": format!("errors: {errors} (none)") }));
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
        if run["op"] == "idle" {
            println!("\n{label}, {count} idle connections");
            println!("  others meanwhile: {active}");
            println!("  refused {}, broken at the end {}", run["refused"], run["broken"]);
            println!(
                "  RSS {} -> {} KiB, {} bytes a connection",
                run["rss_kib"][0], run["rss_kib"][1], run["bytes_per_connection"]
            );
            println!("  threads {} -> {}", run["threads"][0], run["threads"][1]);
        } else if run["op"] == "slow" {
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

fn sorted(figures: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    figures
}

/// The middle of sorted figures (of an even number, the upper one).
fn median(sorted: &[f64]) -> Option<f64> {
    sorted.get(sorted.len() / 2).copied()
}
