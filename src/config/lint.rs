//! What a configuration file may say but hardly means.

use std::collections::HashSet;

use super::{
    Config, Finding, Flags, KeyStoreConfig, Position, Severity,
    expand::{Env, expand, is_expanded},
    file::{self, Step},
    from_environment,
    load::{dotted, fields},
};
use crate::{glob::Pattern, tls::Group};

/// Beyond these, nobody reads on.
const MAX_FINDINGS: usize = 200;

/// Looks for such things in a file that can be parsed. `config` is what it means; `is_whole` if no
/// field was taken out of `text`.
pub(super) fn lint(
    text: &str,
    is_whole: bool,
    config: &Config,
    flags: &Flags,
    endpoints: &[&str],
) -> Vec<Finding> {
    let Ok(file) = file::parse(text) else {
        return Vec::new();
    };
    let has = |section| file::locate(text, &[Step::Field(section)]).is_some();
    let is_list = file.keys.as_ref().is_some_and(|keys| keys.names.is_some());
    let mut lint = Lint {
        text,
        is_whole,
        has_section: has("keystore") || (has("keys") && !is_list),
        env: &from_environment,
        findings: Vec::new(),
        has_more: false,
    };
    if flags.root.is_none() {
        lint.identity(&fields("root"), file.root.as_deref());
    }
    let tls = file.tls.unwrap_or_default();
    lint.groups(tls.groups.unwrap_or_default());
    lint.proxies(tls.proxy.unwrap_or_default());
    lint.policies(file.policy.unwrap_or_default(), endpoints);
    lint.rest(config);
    lint.variables();
    if lint.has_more {
        lint.findings.push(Finding {
            severity: Severity::Warning,
            // As findings are sorted by place, this one comes last.
            position: Some(end(text)),
            field: String::new(),
            message: format!(
                "only {MAX_FINDINGS} warnings about the file are shown; there are more"
            ),
            advice: "mend these, and check again".to_owned(),
        });
    }
    lint.findings
}

struct Lint<'a> {
    text: &'a str,
    is_whole: bool,
    /// There is a key store section, even if it is wrong.
    has_section: bool,
    env: Env<'a>,
    findings: Vec<Finding>,
    /// There are more than those.
    has_more: bool,
}

impl Lint<'_> {
    fn warn(&mut self, path: &[Step<'_>], message: String, advice: impl Into<String>) {
        // To find a place means to read the file again.
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(Finding {
                severity: Severity::Warning,
                position: file::locate(self.text, path),
                field: dotted(path),
                message,
                advice: advice.into(),
            });
        } else {
            self.has_more = true;
        }
    }

    /// Warns of what is neither an identity nor a word that stands for nobody.
    fn identity(&mut self, path: &[Step<'_>], written: Option<&str>) {
        let Some(written) = written.filter(|text| !text.trim().is_empty()) else {
            return;
        };
        let identity = expand(written.to_owned(), self.env);
        if identity.is_empty() {
            let message = format!("{} is empty or not set", written.trim());
            self.warn(path, message, "set the variable, or leave out the entry");
            return;
        }
        let is_identity = identity.len() == 64
            && identity
                .bytes()
                .all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c));
        // `_`, `disabled` and the like are what people write for nobody.
        let is_placeholder = identity.len() < 16
            && identity
                .bytes()
                .all(|c| c.is_ascii_alphabetic() || b"_-".contains(&c));
        if !is_identity && !is_placeholder {
            self.warn(
                path,
                format!("\"{identity}\" is no identity, so no client can have it"),
                "write the 64 lower-case hex digits that 'kes tool identity of <certificate>' prints",
            );
        }
    }

    fn groups(&mut self, groups: Vec<Option<String>>) {
        let mut seen = Vec::new();
        for (index, written) in groups.into_iter().enumerate() {
            let name = expand(written.unwrap_or_default(), self.env);
            let Some(group) = Group::parse(&name) else {
                continue; // an error already
            };
            if seen.contains(&group) {
                let path = [&fields("tls.groups")[..], &[Step::Item(index)]].concat();
                let message = format!("key exchange group \"{name}\" is listed twice");
                self.warn(&path, message, "keep one of them");
            }
            seen.push(group);
        }
    }

    fn proxies(&mut self, proxy: file::Proxy) {
        let list = fields("tls.proxy.identities");
        let mut seen = HashSet::new();
        for (index, written) in proxy.identities.into_iter().flatten().enumerate() {
            let path = [&list[..], &[Step::Item(index)]].concat();
            self.identity(&path, written.as_deref());
            let identity = expand(written.unwrap_or_default(), self.env);
            if !identity.is_empty() && !seen.insert(identity.clone()) {
                let message = format!("TLS proxy \"{identity}\" is listed twice");
                self.warn(&path, message, "keep one of them");
            }
        }
        let header = proxy.header.and_then(|header| header.cert);
        let header = expand(header.unwrap_or_default(), self.env);
        if seen.is_empty() && !header.is_empty() {
            self.warn(
                &fields("tls.proxy.header.cert"),
                "without TLS proxies this header means nothing".to_owned(),
                "list the identities of the proxies in \"tls.proxy.identities\"",
            );
        } else if !seen.is_empty() && header.is_empty() {
            self.warn(
                &list,
                "TLS proxies are listed, but not the header with the client's certificate"
                    .to_owned(),
                "set \"tls.proxy.header.cert\"",
            );
        }
    }

    fn policies(&mut self, policies: file::PolicyMap, endpoints: &[&str]) {
        let endpoints: Vec<_> = endpoints
            .iter()
            .filter_map(|endpoint| Pattern::parse(endpoint).ok())
            .collect();
        for (name, policy) in policies.0 {
            let policy = policy.unwrap_or_default();
            let place = [Step::Field("policy"), Step::Field(&name)];
            let paths = policy.paths.unwrap_or_default();
            if paths.is_empty() && self.is_whole {
                let message = format!("policy \"{name}\" allows nothing");
                self.warn(&place, message, "list what it allows in \"paths\"");
            }
            let mut seen = HashSet::new();
            for (index, path) in paths.into_iter().enumerate() {
                let path = path.unwrap_or_default();
                let place = [&place[..], &[Step::Field("paths"), Step::Item(index)]].concat();
                let Ok(pattern) = Pattern::parse(&path) else {
                    continue; // an error already
                };
                if !endpoints.iter().any(|endpoint| endpoint.overlaps(&pattern)) {
                    let message = format!("\"{path}\" matches no API");
                    self.warn(&place, message, closest(&path, &endpoints));
                }
                if !seen.insert(path.clone()) {
                    let message = format!("\"{path}\" is listed twice");
                    self.warn(&place, message, "keep one of them");
                }
            }
            for (index, identity) in policy.identities.into_iter().flatten().enumerate() {
                let item = [Step::Field("identities"), Step::Item(index)];
                self.identity(&[&place[..], &item].concat(), identity.as_deref());
            }
        }
    }

    /// Warns of variables that stay what they are, without a word of the value: it may be a secret.
    fn variables(&mut self) {
        let text = self.text;
        file::each_text(text, |path, value| {
            let is_path = matches!(
                path,
                [
                    Step::Field("policy"),
                    _,
                    Step::Field("paths"),
                    Step::Item(_)
                ]
            );
            if is_path && has_variable(value) {
                let message = "a variable is not replaced in the path of a policy".to_owned();
                self.warn(path, message, "write the path out");
            } else if path != fields("log.error") && has_variable(value) && !is_expanded(value) {
                let message = "a variable is not replaced in the middle of a value".to_owned();
                self.warn(
                    path,
                    message,
                    "write a value that is ${NAME} as a whole, or write it out",
                );
            }
        });
    }

    fn rest(&mut self, config: &Config) {
        let mut seen = HashSet::new();
        for (index, key) in config.keys.iter().enumerate() {
            if !seen.insert(key) {
                let path = [Step::Field("keys"), Step::Item(index), Step::Field("name")];
                self.warn(
                    &path,
                    format!("key \"{key}\" is listed twice"),
                    "keep one of them",
                );
            }
        }
        if let (Some(any), Some(unused)) = (config.cache.any, config.cache.unused)
            && unused > any
        {
            self.warn(
                &fields("cache.expiry.unused"),
                "longer than \"cache.expiry.any\", so it means nothing".to_owned(),
                "write a shorter time",
            );
        }
        if config.key_store == KeyStoreConfig::Memory && !self.has_section {
            self.warn(
                &fields("keystore"),
                "no key store: keys live in memory and are gone when the server ends".to_owned(),
                "set \"keystore.fs.path\" to a directory for them",
            );
        }
    }
}

/// Where `text` ends.
fn end(text: &str) -> Position {
    let last = text.lines().last().unwrap_or_default();
    Position {
        line: text.lines().count().max(1),
        column: last.chars().count() + 1,
    }
}

/// Whether `${NAME}` is in `value`.
fn has_variable(value: &str) -> bool {
    value.split("${").skip(1).any(|after| {
        after.split_once('}').is_some_and(|(name, _)| {
            !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_')
        })
    })
}

/// Names the endpoint that is most like `path`, with what stands for its wildcards in `path`.
fn closest(path: &str, endpoints: &[Pattern]) -> String {
    let segments: Vec<_> = path.trim_start_matches('/').split('/').collect();
    let likeness = |endpoint: &&Pattern| -> usize {
        let fixed = endpoint.as_str().split('/').skip(1);
        let same = |(a, b): (&str, &&str)| {
            let pairs = a.bytes().zip(b.bytes());
            pairs.take_while(|(a, b)| a == b && *a != b'*').count()
        };
        fixed.zip(&segments).map(same).sum()
    };
    match endpoints.iter().rev().max_by_key(likeness) {
        Some(endpoint) if likeness(&endpoint) > "v1".len() => {
            format!(
                "did you mean \"{}\"?",
                filled_in(endpoint.as_str(), &segments)
            )
        }
        _ => "the README lists the paths, such as \"/v1/key/create/*\"".to_owned(),
    }
}

/// `endpoint` with the last of `segments` in the place of its wildcards, if there are enough.
fn filled_in(endpoint: &str, segments: &[&str]) -> String {
    let mut parts: Vec<_> = endpoint.split('/').skip(1).collect();
    if segments.len() >= parts.len() {
        let own = segments.iter().rev();
        for (part, own) in parts.iter_mut().rev().zip(own) {
            if *part != "*" {
                break;
            }
            if !own.is_empty() {
                *part = own;
            }
        }
    }
    format!("/{}", parts.join("/"))
}
