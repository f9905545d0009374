//! The forms that outputs of the newest command line have in common: names under a header, and facts with
//! labels.

use serde_json::Value;

use super::{
    args::Args,
    client::{Client, path},
    output::{Paint, Result, Style, harmless, is_terminal, print, print_lines},
};

/// Columns that a label takes.
const LABEL: usize = 11;

/// Prints `names` under `header`, or with `--json` as an array.
pub(crate) fn list(args: &Args, header: &str, names: &[String]) -> Result<()> {
    if args.is_set("json") {
        return print(&format!("{}\n", serde_json::json!(names)));
    }
    print_lines(&format!("{}\n", Style::of_stdout().paint(Paint::Bold, header)), names, "")
}

/// A line for each label with its value.
pub(crate) fn facts(facts: &[(&str, String)]) -> String {
    let style = Style::of_stdout();
    let line = |(label, value): &(&str, String)| {
        let label = style.paint(Paint::Bold, &format!("{label:<LABEL$}"));
        format!("{label} {}\n", harmless(value))
    };
    facts.iter().map(line).collect()
}

/// Prints what the `describe` API of `what`, such as `key`, says of the name that is the first argument:
/// `labels` with their members, or with `--json` all of it.
pub(crate) fn describe(args: &Args, what: &str, labels: &[(&'static str, &str)]) -> Result<()> {
    let name = args.get(0);
    let failed = |why: String| format!("failed to describe {what} {name:?}: {why}");
    let client = Client::new(args)?;
    let answer = client
        .get(&path(&format!("{what}/describe"), &[name]))
        .map_err(|e| failed(client.too_old(e).to_string()))?;
    let Ok(Value::Object(members)) = serde_json::from_slice(&answer) else {
        return Err(failed("the server sent no description".to_owned()).into());
    };
    if args.is_set("json") {
        return print(&format!("{}\n", String::from_utf8_lossy(&answer).trim_end()));
    }
    let value = |label, member: &str| {
        let text = members.get(member)?.as_str().filter(|text| !text.is_empty())?;
        Some(if label == "Date" { date(text) } else { text.to_owned() })
    };
    // Servers of the newest generation do not repeat every name.
    let shown = labels.iter().map(|(label, member)| {
        let given = (*member == "name").then(|| name.to_owned());
        Some((*label, value(*label, member).or(given)?))
    });
    let text = facts(&shown.flatten().collect::<Vec<_>>());
    // For programs, without a line end, as KES has it.
    print(if is_terminal() { &text } else { text.trim_end_matches('\n') })
}

/// `2021-05-03 10:00:07` for a time in RFC 3339.
pub(crate) fn date(time: &str) -> String {
    match time.get(..19) {
        _ if time.starts_with("0001-01-01T00:00:00") => "unknown".to_owned(),
        Some(seconds) => seconds.replacen('T', " ", 1),
        None => time.to_owned(),
    }
}

/// `12.3 MiB` for a number of bytes.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut count = count as f64;
    let mut unit = 0;
    while count >= 1024.0 && unit + 1 < UNITS.len() {
        count /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{count} B"),
        unit => format!("{count:.1} {}", UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_shown_without_what_one_need_not_know() {
        for (time, shown) in [
            ("2023-10-03T14:05:06.123456789Z", "2023-10-03 14:05:06"),
            ("2023-10-03T14:05:06+02:00", "2023-10-03 14:05:06"),
            ("0001-01-01T00:00:00Z", "unknown"),
            ("soon", "soon"),
        ] {
            assert_eq!(shown, date(time));
        }
    }

    #[test]
    fn bytes_have_the_unit_that_makes_them_short() {
        for (count, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (5_155_560, "4.9 MiB"),
            (u64::MAX, "16777216.0 TiB"),
        ] {
            assert_eq!(shown, bytes(count));
        }
    }
}
