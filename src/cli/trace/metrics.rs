//! The metrics that are shown, out of the text that Prometheus reads.

use std::time::Duration;

use serde_json::{Map, Number};

const SECOND: f64 = 1e9;

/// Other metrics that are shown if a server has them, in the order of their output.
const MORE: [&str; 8] = [
    "kes_log_error_events",
    "kes_log_audit_events",
    "kes_system_num_cpu",
    "kes_system_num_cpu_used",
    "kes_system_num_threads",
    "kes_system_mem_heap_used",
    "kes_system_mem_heap_objects",
    "kes_system_mem_stack_used",
];

/// The state of a server at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    pub success: u64,
    pub error: u64,
    pub failure: u64,
    pub active: u64,
    /// Nanoseconds, and how many answers took so long at most.
    response_time: Vec<(u64, u64)>,
    /// Nanoseconds, whole seconds of them.
    up_time: u64,
    /// Answers, and how many nanoseconds they took in all.
    answers: u64,
    all_response_times: u64,
    /// The values of [`MORE`], of those that the server has.
    more: [Option<u64>; MORE.len()],
}

impl Sample {
    /// Reads the text format of Prometheus; what it does not know is skipped, samples of one metric
    /// with several labels are added up.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let mut sample = Self::default();
        let mut found = false;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((name, labels, value)) = split(line) else {
                continue;
            };
            let count = value as u64; // a cast of what is no count saturates
            match name {
                "kes_http_request_success" => add(&mut sample.success, count),
                "kes_http_request_error" => add(&mut sample.error, count),
                "kes_http_request_failure" => add(&mut sample.failure, count),
                "kes_http_request_active" => add(&mut sample.active, count),
                "kes_system_up_time" => sample.up_time = nanoseconds(value.floor()),
                "kes_http_response_time_bucket" => {
                    if let Some(bound) = bound(labels) {
                        sample.add_answers(nanoseconds(bound), count);
                    }
                }
                "kes_http_response_time_sum" => sample.all_response_times = nanoseconds(value),
                "kes_http_response_time_count" => add(&mut sample.answers, count),
                name => {
                    if let Some(at) = MORE.iter().position(|known| *known == name) {
                        add(sample.more[at].get_or_insert(0), count);
                    }
                    continue;
                }
            }
            found = true;
        }
        match found {
            true => Ok(sample),
            false => Err("the server sent no metrics"),
        }
    }

    fn add_answers(&mut self, bound: u64, count: u64) {
        match self.response_time.iter_mut().find(|(known, _)| *known == bound) {
            Some((_, answers)) => add(answers, count),
            None => self.response_time.push((bound, count)),
        }
    }

    /// As KES 0.14 prints it: the bounds are names, and sorted, as texts.
    pub fn as_json(&self) -> String {
        let Self { success, error, failure, active, response_time, up_time, .. } = self;
        let mut buckets = Map::new();
        buckets.extend(response_time.iter().map(|(bound, n)| (bound.to_string(), (*n).into())));
        let buckets = serde_json::Value::Object(buckets);
        format!(
            "{{\"kes_http_request_success\":{success},\"kes_http_request_error\":{error},\
             \"kes_http_request_failure\":{failure},\"kes_http_request_active\":{active},\
             \"kes_http_response_time\":{buckets},\"kes_system_up_time\":{up_time}}}"
        )
    }

    /// As [`Self::as_json`], with all else that the server counts.
    pub fn as_whole_json(&self) -> String {
        let mut json = self.as_json();
        json.pop();
        for (name, value) in MORE.iter().filter_map(|name| Some((name, self.get(name)?))) {
            json += &format!(",\"{name}\":{value}");
        }
        json + "}"
    }

    /// The value of another metric, if the server has it.
    pub fn get(&self, name: &str) -> Option<u64> {
        self.more[MORE.iter().position(|known| *known == name)?]
    }

    /// Requests that were answered.
    pub fn requests(&self) -> u64 {
        self.success.saturating_add(self.error).saturating_add(self.failure)
    }

    /// How long an answer took, on average, in nanoseconds.
    pub fn latency(&self) -> u64 {
        self.all_response_times.checked_div(self.answers).unwrap_or_default()
    }

    pub fn within(&self, bound: Duration) -> u64 {
        let mut buckets = self.response_time.iter();
        let bucket = buckets.find(|(known, _)| u128::from(*known) == bound.as_nanos());
        bucket.map_or(0, |(_, count)| *count)
    }

    pub fn up_time(&self) -> Duration {
        Duration::from_nanos(self.up_time)
    }
}

/// Name, labels and value in `name{labels} value`.
fn split(line: &str) -> Option<(&str, &str, f64)> {
    let (name, rest) = line.split_once(['{', ' '])?;
    let (labels, rest) = match line[name.len()..].starts_with('{') {
        true => rest.rsplit_once('}')?,
        false => ("", rest),
    };
    Some((name, labels, number(rest.split_whitespace().next()?)?))
}

/// The number in `le="0.01"`.
fn bound(labels: &str) -> Option<f64> {
    let (_, rest) = labels.split_once("le=\"")?;
    number(rest.split('"').next()?)
}

/// The number in `text`, but neither `NaN` nor `+Inf`.
fn number(text: &str) -> Option<f64> {
    text.parse::<Number>().ok()?.as_f64()
}

fn add(sum: &mut u64, count: u64) {
    *sum = sum.saturating_add(count);
}

fn nanoseconds(seconds: f64) -> u64 {
    (seconds * SECOND).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# HELP kes_http_request_success Requests answered with 200.
# TYPE kes_http_request_success counter
kes_http_request_success 90
kes_http_request_error{code=\"400\"} 6
kes_http_request_error{code=\"403\"} 2
kes_http_request_failure 2
kes_http_request_active 1
kes_http_response_time_bucket{le=\"0.01\"} 80
kes_http_response_time_bucket{le=\"0.1\"} 95
kes_http_response_time_bucket{le=\"1.5\"} 99
kes_http_response_time_bucket{le=\"10\"} 100
kes_http_response_time_bucket{le=\"+Inf\"} 100
kes_http_response_time_sum 1.25
kes_http_response_time_count 100
kes_system_up_time 3723.45 1700000000000
kes_system_num_cpu 4
kes_log_audit_events 7
something_else{le=\"0.01\"} 5
nonsense
";

    #[test]
    fn the_json_is_that_of_the_original() {
        let sample = Sample::parse(TEXT).unwrap();
        assert_eq!(
            "{\"kes_http_request_success\":90,\"kes_http_request_error\":8,\
             \"kes_http_request_failure\":2,\"kes_http_request_active\":1,\
             \"kes_http_response_time\":{\"10000000\":80,\"100000000\":95,\
             \"10000000000\":100,\"1500000000\":99},\"kes_system_up_time\":3723000000000}",
            sample.as_json()
        );
        assert!(
            sample.as_whole_json().ends_with(
                ",\"kes_system_up_time\":3723000000000,\"kes_log_audit_events\":7,\"kes_system_num_cpu\":4}"
            )
        );
        assert_eq!((100, 12_500_000), (sample.requests(), sample.latency()));
        assert_eq!(95, sample.within(Duration::from_millis(100)));
        assert_eq!(Duration::from_secs(3723), sample.up_time());
    }

    #[test]
    fn something_else_than_metrics_is_an_error() {
        for text in ["", "# nothing\n", "<html>\n", "kes_x 1\n", "}{ 1\n"] {
            assert!(Sample::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn odd_numbers_do_no_harm() {
        let text = "kes_http_request_success NaN\nkes_http_request_error -1\n\
                    kes_system_up_time +Inf\nkes_http_request_failure 1e300\n\
                    kes_http_request_failure 1e300\n";
        let sample = Sample::parse(text).unwrap();
        assert_eq!((0, 0, u64::MAX), (sample.success, sample.error, sample.failure));
    }
}
