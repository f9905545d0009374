//! How many connections a server takes: what the configuration says, or as many as there is memory for,
//! and never more than it may open files.

use std::{fs, path::Path};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Loaded;

/// The memory for each connection, in bytes. Without a policy, a client can make the server hold up to half
/// of it: a partial handshake takes 65 KiB, a partial head 81 KiB and a partial header block of HTTP/2
/// 124 KiB. The other half is for the kernel, keys, logs and larger requests.
const MEMORY_EACH: u64 = 256 * 1024;
/// Descriptors that are not for connections of clients: files, logs, epoll, probes.
const RESERVED_DESCRIPTORS: u64 = 96;
/// Never fewer connections than this, and never more unless the configuration says so.
const FEWEST: u64 = 16;
const MOST: u64 = 100_000;

/// Where control groups are found.
const CONTROL_GROUPS: &str = "/sys/fs/cgroup";

/// Raises the soft limit of open files to the hard one. Where that is refused, connections that find no
/// descriptor are, too.
pub fn raise_descriptor_limit() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let raised = Rlimit { current: maximum, maximum };
    let _ = setrlimit(Resource::Nofile, raised);
}

/// The number of connections for a configuration that wants so many.
pub fn connections(wanted: Option<usize>) -> usize {
    let possible = for_descriptors(getrlimit(Resource::Nofile).maximum);
    wanted.unwrap_or_else(|| for_memory(memory())).min(possible)
}

/// The most files that a process may open, if that is why a server takes fewer than `useful` connections,
/// for which there is memory.
pub fn tight_descriptors(useful: usize) -> Option<u64> {
    let files = getrlimit(Resource::Nofile).maximum?;
    (for_descriptors(Some(files)) < useful.min(for_memory(memory()))).then_some(files)
}

/// Adds what there is to say about the number of connections that a configuration wants.
pub fn check(mut loaded: Loaded) -> Loaded {
    if let Some(complaint) = complaint(loaded.config().limits.connections) {
        loaded.warn("limits.connections", &complaint);
    }
    loaded
}

/// The complaint about a configuration that wants so many.
fn complaint(wanted: Option<usize>) -> Option<String> {
    let files = getrlimit(Resource::Nofile).maximum?;
    let possible = for_descriptors(Some(files));
    let wanted = wanted.filter(|wanted| *wanted > possible)?;
    Some(format!(
        "{wanted} connections are more than the {possible} for which a process may open files here: \
         raise that limit, which is {files} (ulimit -Hn, LimitNOFILE), or lower the number"
    ))
}

/// Connections for which there is memory.
fn for_memory(bytes: u64) -> usize {
    usize::try_from((bytes / MEMORY_EACH).clamp(FEWEST, MOST)).unwrap_or(usize::MAX)
}

/// Connections of a process that may open so many files; `None` is any number.
fn for_descriptors(files: Option<u64>) -> usize {
    let left = files.map(|files| files.saturating_sub(RESERVED_DESCRIPTORS).max(FEWEST));
    left.and_then(|left| usize::try_from(left).ok()).unwrap_or(usize::MAX)
}

/// The memory that the process may use, in bytes: that of the machine, or what its control groups allow.
fn memory() -> u64 {
    let machine = rustix::system::sysinfo();
    #[allow(clippy::useless_conversion)] // the type is another one on other machines
    let total = u64::from(machine.totalram) * u64::from(machine.mem_unit.max(1));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    group_limits(&groups, Path::new(CONTROL_GROUPS)).fold(total, u64::min)
}

/// The bytes that the control groups of a process (`groups`, as in `/proc/self/cgroup`) and those around
/// them allow it. In a container, the innermost group that can be seen stands directly in `mount`.
fn group_limits(groups: &str, mount: &Path) -> impl Iterator<Item = u64> {
    const VERSION_1: (&[&str], &[&str]) = (&["memory"], &["memory.limit_in_bytes"]);
    const VERSION_2: (&[&str], &[&str]) = (&["", "unified"], &["memory.max", "memory.high"]);
    groups
        .lines()
        .filter_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            let version = match controllers {
                "" => VERSION_2,
                list if list.split(',').any(|controller| controller == "memory") => VERSION_1,
                _ => return None,
            };
            Some((version, Path::new(path)))
        })
        .flat_map(move |((places, files), path)| {
            let groups = path.ancestors().filter_map(|group| group.strip_prefix("/").ok());
            let groups = groups.flat_map(move |group| {
                places.iter().map(move |place| mount.join(place).join(group))
            });
            groups.flat_map(move |group| files.iter().map(move |file| group.join(file)))
        })
        // "max" is no number, and no limit.
        .filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn memory_and_descriptors_allow_so_many() {
        for (mib, connections) in [(1, 16), (64, 256), (1024, 4096), (1 << 20, 100_000)] {
            assert_eq!(connections, for_memory(mib * MIB));
        }
        for (files, connections) in
            [(None, usize::MAX), (Some(64), 16), (Some(1024), 928), (Some(1 << 20), (1 << 20) - 96)]
        {
            assert_eq!(connections, for_descriptors(files));
        }
    }

    #[test]
    fn the_limits_of_all_control_groups_around_the_process_count() {
        let root = std::env::temp_dir().join(format!("kes-groups-{}", std::process::id()));
        for (file, text) in [
            ("memory.max", "max\n"),
            ("a/memory.max", "3000\n"),
            ("a/memory.high", "2000\n"),
            ("a/b/memory.max", "4000\n"),
            ("c/memory.max", "1\n"),
            ("memory/a/memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory/memory.limit_in_bytes", "500\n"),
        ] {
            let file = root.join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        let limits = |groups: &str| {
            let mut limits: Vec<_> = group_limits(groups, &root).collect();
            limits.sort();
            limits
        };
        assert_eq!([2000, 3000, 4000], *limits("0::/a/b\n"));
        // A container with version 1 may see the path that its host knows, and itself at the top.
        let version_1 = "9:name=systemd:/\n4:cpu,memory:/docker/0123\n1:cpu:/a\n";
        assert_eq!([500], *limits(version_1));
        assert_eq!([500, 9_223_372_036_854_771_712], *limits("4:memory:/a\n"));
        assert!(limits("").is_empty() && limits("0::/\nno group").is_empty());
        fs::remove_dir_all(root).unwrap();
    }
}
