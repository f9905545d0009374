//! Metrics of this process from the system: processors, threads, memory.

use std::fs;

use super::Family;

/// The process, as the system sees it now; `None` where it has no number.
pub struct Process {
    /// Logical processors of the machine.
    pub cpus: Option<usize>,
    /// Logical processors that the process may use.
    pub cpus_used: Option<usize>,
    threads: Option<usize>,
    /// Memory in use that is no part of a file, in bytes.
    pub heap: Option<usize>,
    /// The stack of the first thread, in bytes.
    pub stack: Option<usize>,
}

impl Process {
    /// Asks the system.
    pub fn now() -> Self {
        let online = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let cpus_used = std::thread::available_parallelism().map(usize::from).ok();
        let bytes = |name| field(&status, name).map(|kib| kib * 1024);
        Self {
            cpus: cpus(&online).or(cpus_used),
            cpus_used,
            threads: field(&status, "Threads"),
            heap: bytes("RssAnon"),
            stack: bytes("VmStk"),
        }
    }
}

/// Of KES' families, those about a garbage collector's heap are not here, but for the memory in use; a
/// family that the system has no number for is left out.
pub fn process() -> Vec<Family> {
    let process = Process::now();
    let families = [
        ("kes_system_num_cpu", "Logical processors of the machine.", process.cpus),
        (
            "kes_system_num_cpu_used",
            "Logical processors that the process may use.",
            process.cpus_used,
        ),
        ("kes_system_num_threads", "Threads of the process.", process.threads),
        (
            "kes_system_mem_heap_used",
            "Bytes of memory in use that are no part of a file: heap and stacks.",
            process.heap,
        ),
        ("kes_system_mem_stack_used", "Bytes of the first thread's stack.", process.stack),
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
