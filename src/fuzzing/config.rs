//! Configuration files of all formats, and their conversion.

use crate::{
    api::routes::{ROUTES, Served},
    base::{generation::Generation, name},
    config::{Config, Flags, Severity, convert_with, load_text},
};

/// A file. What can be converted is accepted again, means the same, and lets nobody do more.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let flags = Flags::default();
    let patterns: Vec<_> = ROUTES.iter().map(|route| route.pattern).collect();
    let loaded = load_text(None, text, &flags, &patterns, variable);
    let findings = loaded.findings();
    for finding in &findings {
        assert!(!finding.message.is_empty());
        // A carriage return ends a line, too.
        let lines = text.split(['\r', '\n']).count() as u32 + 1;
        let is_inside = |line: u32| (1..=lines).contains(&line);
        assert!(finding.position.is_none_or(|at| is_inside(at.line)), "{finding:?}");
    }
    let is_wrong = findings.iter().any(|finding| finding.severity == Severity::Error);
    let before = loaded.accept();
    assert_eq!(is_wrong, before.is_err(), "an error is found, or the file is accepted");
    let apis: Vec<_> =
        ROUTES.iter().map(|route| (route.pattern, route.served == Served::Both)).collect();
    let converted = convert_with(text, &flags, &apis, variable);
    let (Ok(before), Ok(converted)) = (before, converted) else { return };
    let after = load_text(None, &converted.text, &flags, &patterns, variable).accept();
    let after = after.unwrap_or_else(|e| panic!("{e}\n{}", *converted.text));
    assert_eq!(Generation::Newest, after.generation);
    assert!(convert_with(&converted.text, &flags, &apis, variable).is_err(), "it is converted");
    compare(&before, &after, text);
}

/// All variables are set.
fn variable(_: &str) -> Option<String> {
    Some("value".to_owned())
}

fn compare(before: &Config, after: &Config, text: &str) {
    assert_eq!(before.address, after.address);
    assert_eq!(before.root, after.root);
    // Others are left out, which the conversion says.
    let kept: Vec<_> = before.keys.iter().filter(|name| name::is_plain(name.as_str())).collect();
    assert_eq!(kept, after.keys.iter().collect::<Vec<_>>());
    assert_eq!((&before.tls_key, &before.tls_cert), (&after.tls_key, &after.tls_cert));
    for (identity, _) in before.policies.assigned().chain(after.policies.assigned()) {
        for route in ROUTES.iter().filter(|route| route.served == Served::Both) {
            for name in ["my-key", "a", "key-1", "x_y"] {
                let path = match route.path.ends_with('/') {
                    true => format!("{}{name}", route.path),
                    false => route.path.to_owned(),
                };
                let may = after.policies.allows(identity, &path);
                assert!(
                    !may || before.policies.allows(identity, &path),
                    "{identity} may call {path} once the file is converted:\n{text}"
                );
            }
        }
    }
}
