//! Metrics of this process from the system: processors, threads, memory.

use std::fs;

use super::Family;

/// Of KES' families, those about a garbage collector's heap are not here, but for the memory in use; a
/// family that the system has no number for is left out.
pub fn process() -> Vec<Family> {
    let online = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let used = std::thread::available_parallelism().map(usize::from).ok();
    let families = [
        ("kes_system_num_cpu", "Logical processors of the machine.", cpus(&online).or(used)),
        ("kes_system_num_cpu_used", "Logical processors that the process may use.", used),
        ("kes_system_num_threads", "Threads of the process.", field(&status, "Threads")),
        (
            "kes_system_mem_heap_used",
            "Bytes of memory in use that are no part of a file: heap and stacks.",
            field(&status, "RssAnon").map(|kib| kib * 1024),
        ),
    ];
    families
        .into_iter()
        .filter_map(|(name, help, value)| Some(Family::gauge(name, help, value? as f64)))
        .collect()
}

/// How many processors are in a list such as `0-3,8`.
fn cpus(list: &str) -> Option<usize> {
    list.trim().split(',').try_fold(0, |sum, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        Some(sum + last.checked_sub(first)? + 1)
    })
}

/// The number after `name:` in the text of `/proc/self/status`.
fn field(status: &str, name: &str) -> Option<usize> {
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors_are_counted() {
        for (list, count) in [("0\n", 1), ("0-3", 4), ("0-3,8,10-11", 7)] {
            assert_eq!(Some(count), cpus(list));
        }
        for list in ["", "a", "3-1"] {
            assert_eq!(None, cpus(list));
        }
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let status = "Name:\tkes\nVmRSS:\t 20 kB\nThreads:\t7\n";
        assert_eq!(Some(7), field(status, "Threads"));
        assert_eq!(Some(20), field(status, "VmRSS"));
        assert_eq!(None, field(status, "RSS"));
    }
}
