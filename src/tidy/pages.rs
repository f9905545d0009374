//! Each block of the pages has a test that runs its commands: a new block, or a command more in one, fails here
//! until the table below, and so the test that it names, has been looked at.

use std::collections::BTreeMap;

use super::{pages, text_of};

/// Page, section (or `*`: all that have no row), blocks in it, lines of these that begin with a program, and the tests
/// that run them. No test: a picture or an answer.
const BLOCKS: &[(&str, &str, usize, usize, &str)] = &[
    ("README.md", "Two commands", 2, 2, "01-quickstart"),
    ("README.md", "The first data key", 3, 4, "14-readme"),
    ("README.md", "A server to keep", 5, 9, "14-readme"),
    ("README.md", "A service of the system", 1, 4, "58-packages"),
    ("README.md", "An application with its own policy", 1, 0, "14-readme"),
    ("CONTRIBUTING.md", "One test", 1, 4, "37-contributing"),
    ("docs/api.md", "Log streams", 1, 0, ""),
    ("docs/architecture.md", "Bird's-eye view", 1, 0, ""),
    ("docs/command-line.md", "Command line", 2, 0, ""),
    ("docs/command-line.md", "Moving keys", 1, 1, "43-migrate"),
    ("docs/configuration.md", "Policies", 2, 0, "14-readme"),
    ("docs/configuration.md", "APIs without a certificate", 1, 0, "14-readme"),
    ("docs/configuration.md", "Key exchange", 1, 0, "14-readme"),
    ("docs/configuration.md", "TLS proxies", 1, 0, "24-nginx"),
    ("docs/containers.md", "The image", 2, 4, "36-podman"),
    ("docs/containers.md", "Running it", 3, 4, "36-podman 54-container"),
    ("docs/containers.md", "Certificates", 2, 6, "55-kubernetes"),
    ("docs/containers.md", "OpenBao for the pods", 1, 5, "55-kubernetes"),
    ("docs/containers.md", "Starting", 1, 2, "55-kubernetes"),
    ("docs/evidence.md", "Mutation", 1, 1, "69-mutation"),
    ("docs/keysecure.md", "KeySecure and CipherTrust", 1, 0, "14-readme"),
    ("docs/migrating.md", "Checklist", 5, 10, "32-migrating"),
    ("docs/migrating.md", "Converting the file", 1, 2, "32-migrating"),
    ("docs/minio.md", "Step by step", 4, 6, "35-minio"),
    ("docs/minio.md", "If it does not work", 1, 3, "35-minio"),
    ("docs/monitoring.md", "Prometheus", 4, 5, "56-prometheus"),
    ("docs/monitoring.md", "journald", 3, 1, "57-audit-pipes"),
    ("docs/monitoring.md", "Files", 2, 2, "57-audit-pipes"),
    ("docs/monitoring.md", "Syslog", 2, 2, "57-audit-pipes"),
    ("docs/monitoring.md", "Another machine", 1, 1, "57-audit-pipes"),
    ("docs/monitoring.md", "Searching the audit log", 6, 9, "57-audit-pipes"),
    ("docs/operations.md", "Stopping", 1, 0, "14-readme"),
    ("docs/operations.md", "systemd", 3, 7, "53-systemd 58-packages"),
    ("docs/operations.md", "Bad neighbours", 1, 0, "14-readme"),
    ("docs/operations.md", "Backup", 5, 6, "34-drills"),
    ("docs/operations.md", "Changing a key", 2, 3, "34-drills"),
    ("docs/operations.md", "When something does not work", 2, 2, "52-doctor"),
    ("docs/packages.md", "Debian and Ubuntu", 1, 3, "58-packages"),
    ("docs/packages.md", "Other systems", 1, 6, "58-packages"),
    ("docs/troubleshooting.md", "*", 16, 24, "33-troubleshooting"),
    ("docs/vault.md", "Setting up", 5, 16, "44-readme-openbao"),
];

/// First words of commands, in addition to paths of scripts.
const PROGRAMS: &[&str] = &[
    "apt",
    "awk",
    "bao",
    "cargo",
    "cat",
    "cp",
    "curl",
    "date",
    "docker",
    "dpkg",
    "echo",
    "export",
    "git",
    "go",
    "grep",
    "install",
    "journalctl",
    "jq",
    "kes",
    "kill",
    "kubectl",
    "make",
    "mkdir",
    "openssl",
    "podman",
    "printf",
    "promtool",
    "sed",
    "sha256sum",
    "skopeo",
    "ss",
    "sudo",
    "systemctl",
    "tar",
    "tr",
    "useradd",
    "vault",
];

/// The indented blocks of a page: their sections, and their lines. Blocks with only empty lines between them are one.
fn blocks(text: &str) -> Vec<(&str, Vec<&str>)> {
    let (mut found, mut section, mut is_inside, mut was_empty) =
        (Vec::<(&str, Vec<&str>)>::new(), "", false, true);
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix('#') {
            section = heading.trim_start_matches('#').trim();
        }
        match line.strip_prefix("    ") {
            Some(rest) if is_inside => found.last_mut().unwrap().1.push(rest.trim()),
            Some(rest) if was_empty => {
                found.push((section, vec![rest.trim()]));
                is_inside = true;
            }
            _ => is_inside = is_inside && line.is_empty(),
        }
        was_empty = line.is_empty();
    }
    found
}

fn is_command(line: &&str) -> bool {
    let word = line.split(' ').next().unwrap();
    PROGRAMS.contains(&word) || word.starts_with("scripts/")
}

#[test]
fn a_test_runs_each_block_of_the_pages() {
    let mut found: BTreeMap<(String, String), (usize, usize)> = BTreeMap::new();
    for (page, text) in pages() {
        for (section, lines) in blocks(&text) {
            let has_row = BLOCKS.iter().any(|row| (row.0, row.1) == (page.as_str(), section));
            let section = if has_row { section } else { "*" };
            let count = found.entry((page.clone(), section.to_owned())).or_default();
            count.0 += 1;
            count.1 += lines.iter().filter(|line| is_command(line)).count();
        }
    }
    let known = BLOCKS.iter().map(|row| ((row.0.to_owned(), row.1.to_owned()), (row.2, row.3)));
    assert_eq!(
        known.collect::<BTreeMap<_, _>>(),
        found,
        "the table of this file is not what the pages have"
    );
}

#[test]
fn the_tests_that_run_a_page_name_it() {
    for (page, section, _, commands, tests) in BLOCKS {
        assert!(
            *commands == 0 || !tests.is_empty(),
            "{page}, {section}: commands that no test runs"
        );
        for test in tests.split_whitespace() {
            let text = text_of(&format!("scripts/it/{test}.sh"));
            let is_for_all = text.contains(r#""$REPO"/docs/*.md"#);
            assert!(is_for_all || text.contains(page), "{test} does not name {page}");
        }
    }
}
