//! Configuration files of all formats, and their conversion.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Map, Value, json};

use super::cursor::Cursor;
use crate::{
    api::routes::{Argument, ROUTES, Served},
    base::{generation::Generation, name},
    config::{Config, Flags, Loaded, Severity, convert_with, load_text},
    policy::Rule,
};

/// A file; or how to make one, if the first byte is a one. What can be converted is accepted again, means the same,
/// and lets nobody do more.
pub fn config(data: &[u8]) {
    if let [1, rest @ ..] = data {
        let (text, wanted) = made(Cursor(rest));
        let config = load(&text).accept().unwrap_or_else(|e| panic!("{e}\n{text}"));
        check_made(&config, &wanted, &text);
        return check(&text);
    }
    if let Ok(text) = std::str::from_utf8(data) {
        check(text);
    }
}

fn load(text: &str) -> Loaded {
    let patterns: Vec<_> = ROUTES.iter().map(|route| route.pattern).collect();
    load_text(None, text, &Flags::default(), &patterns, variable)
}

fn check(text: &str) {
    let flags = Flags::default();
    let loaded = load(text);
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
    let after = load(&converted.text).accept();
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
    let access = |config: &Config| {
        let tls = format!("{:?} {:?}", config.server_tls().client_certificate, config.auth);
        (config.apis.clone(), tls, config.tls_ca.clone())
    };
    assert_eq!(access(before), access(after), "who needs which certificate:\n{text}");
    assert_eq!(before.address, after.address);
    assert_eq!(before.root, after.root);
    // Others are left out, which the conversion says.
    let kept: Vec<_> = before.keys.iter().filter(|name| name::is_plain(name.as_str())).collect();
    assert_eq!(kept, after.keys.iter().collect::<Vec<_>>());
    assert_eq!((&before.tls_key, &before.tls_cert), (&after.tls_key, &after.tls_cert));
    assert_eq!(
        (&before.tls_groups, &before.tls_password),
        (&after.tls_groups, &after.tls_password)
    );
    assert_eq!((&before.log, before.probe, before.limits), (&after.log, after.probe, after.limits));
    assert_eq!(before.key_store_start, after.key_store_start);
    // The newest generation has no proxies that forward certificates; no others come in.
    assert!(!after.policies.has_proxies() && after.proxy.header_ip.is_none());
    assert_eq!(before.proxy.identities, after.proxy.identities);
    // A time that is not set is for ever, which has to be written.
    const EVER: Duration = Duration::from_secs(87_600 * 3600);
    let any = before.cache.any.unwrap_or(EVER);
    let unused = before.cache.unused.or(before.cache.any).unwrap_or(EVER);
    assert_eq!(
        (any, unused),
        (after.cache.any.unwrap_or(EVER), after.cache.unused.unwrap_or(EVER))
    );
    assert_eq!(before.cache.offline, after.cache.offline);
    for (identity, _) in before.policies.assigned().chain(after.policies.assigned()) {
        for route in ROUTES.iter().filter(|route| route.served == Served::Both) {
            for name in ["my-key", "a", "key-1", "x_y"] {
                let path = match route.path.ends_with('/') {
                    true => format!("{}{name}", route.path),
                    false => route.path.to_owned(),
                };
                // It lists all names that begin so.
                let same = match route.argument {
                    Argument::Pattern => format!("{path}*"),
                    _ => path.clone(),
                };
                let may = after.policies.allows(identity, &path);
                assert!(
                    !may || before.policies.allows(identity, &same),
                    "{identity} may call {path} once the file is converted:\n{text}"
                );
            }
        }
    }
}

/// What a file says.
struct Wanted {
    is_newest: bool,
    root: String,
    /// The policy of each identity.
    assigned: BTreeMap<String, String>,
    /// What each policy allows and denies.
    rules: BTreeMap<String, [Vec<&'static str>; 2]>,
    proxies: Vec<String>,
    /// APIs without certificates.
    open: Vec<&'static str>,
}

/// A file in JSON, which is YAML as well.
fn made(mut cursor: Cursor<'_>) -> (String, Wanted) {
    const PATHS: &[&str] = &[
        "/v1/key/create/*",
        "/v1/key/generate/my-*",
        "/version",
        "/v1/status",
        "/v1/key/delete/my-key",
        "*",
    ];
    let choice = cursor.byte();
    let is_newest = choice & 1 != 0;
    let identity = |number: u8| format!("{number:02x}").repeat(32);
    let mut wanted = Wanted {
        is_newest,
        root: identity(0),
        assigned: BTreeMap::new(),
        rules: BTreeMap::new(),
        proxies: (0..choice >> 1 & 3).map(|number| identity(0xf0 + number)).collect(),
        open: Vec::new(),
    };
    let mut policies = Map::new();
    for name in ["one", "two", "three"].into_iter().take(usize::from(choice >> 3 & 3)) {
        let mut identities = Vec::new();
        for _ in 0..cursor.byte() % 4 {
            let own = identity(cursor.byte() % 0xef + 1);
            if !wanted.assigned.contains_key(&own) {
                wanted.assigned.insert(own.clone(), name.to_owned());
                identities.push(own);
            }
        }
        let mut rules = || -> Vec<_> {
            let count = cursor.byte() % 3;
            (0..count).map(|_| cursor.one_of(PATHS)).collect()
        };
        let (allow, deny) = (rules(), if is_newest { rules() } else { Vec::new() });
        policies.insert(
            name.to_owned(),
            match is_newest {
                true => json!({ "allow": allow, "deny": deny, "identities": identities }),
                false => json!({ "paths": allow, "identities": identities }),
            },
        );
        wanted.rules.insert(name.to_owned(), [allow, deny]);
    }
    let header = if is_newest { "ip" } else { "cert" };
    let mut file = json!({
        "address": "127.0.0.1:7373",
        "tls": {
            "key": "key", "cert": "cert",
            "proxy": { "identities": wanted.proxies, "header": { header: "X-Header" } },
        },
        "policy": policies,
        "cache": { "expiry": { "any": "5m", "unused": "20s" } },
        "keystore": { "fs": { "path": "/keys" } },
    });
    if !is_newest {
        file["root"] = json!(wanted.root);
        return (file.to_string(), wanted);
    }
    file["admin"] = json!({ "identity": wanted.root });
    let mut apis = Map::new();
    for path in ["/version", "/v1/ready", "/v1/status", "/v1/key/list/"] {
        match cursor.byte() % 3 {
            0 => continue,
            1 => wanted.open.push(path),
            _ => {}
        }
        let is_open = wanted.open.contains(&path);
        apis.insert(path.to_owned(), json!({ "skip_auth": is_open }));
    }
    file["api"] = Value::Object(apis);
    (file.to_string(), wanted)
}

/// The settings are those of the file.
fn check_made(config: &Config, wanted: &Wanted, text: &str) {
    assert_eq!(wanted.root, config.root);
    let assigned = config.policies.assigned();
    let assigned: BTreeMap<_, _> = assigned.map(|(a, b)| (a.to_owned(), b.to_owned())).collect();
    assert_eq!(wanted.assigned, assigned, "{text}");
    assert_eq!(wanted.rules.len(), config.policies.iter().count(), "{text}");
    for (name, [allow, deny]) in &wanted.rules {
        let policy = config.policies.get(name).expect("it is in the file");
        let rule = |text: &&str| match wanted.is_newest {
            true => Rule::prefix(text),
            false => Rule::glob(text).expect("it is well-formed"),
        };
        let [allow, deny] = [allow, deny].map(|rules| rules.iter().map(rule).collect::<Vec<_>>());
        assert_eq!((&allow, &deny), (&policy.allow, &policy.deny), "{name}: {text}");
    }
    assert_eq!(wanted.proxies, config.proxy.identities, "{text}");
    assert_eq!(!wanted.is_newest && !wanted.proxies.is_empty(), config.policies.has_proxies());
    let open = config.apis.iter().filter(|(_, api)| api.skip_auth);
    let mut open: Vec<_> = open.map(|(path, _)| path.as_str()).collect();
    open.sort_unstable();
    let mut wanted_open = wanted.open.clone();
    wanted_open.sort_unstable();
    assert_eq!(wanted_open, open, "{text}");
}
