//! What a configuration file may say but hardly means. `material` goes on with the files that it
//! names.

use std::collections::HashSet;

use super::{
    Config, Finding, Flags, KeyStoreConfig, Position, Severity,
    error::{cut, variables},
    expand::{Env, Expansion},
    fields::{FILE, Found, Step, dotted, steps, walk},
    load::{Loaded, overridden},
    tree::Node,
};
use crate::{
    base::glob::{Effort, Pattern},
    tls::Group,
};

/// Beyond so many warnings the others are only counted.
const MAX_WARNINGS: usize = 200;

/// The steps that the search for APIs that paths match may take: a second or two.
const SEARCH: Effort = Effort::of(300_000_000);

/// What people write where an identity is expected and nobody is meant.
const NOBODY: [&str; 9] = ["_", "-", "disabled", "disable", "none", "nobody", "no", "off", "false"];

/// The header of the templates, which is there whether there are TLS proxies or not.
const DEFAULT_HEADER: &str = "X-Tls-Client-Cert";

/// What is found, up to a number.
#[derive(Debug, Default)]
pub(super) struct Warnings {
    pub(super) found: Vec<Finding>,
    pub(super) more: usize,
}

impl Warnings {
    /// Notes a warning, or only counts it.
    pub(super) fn add(&mut self, warning: impl FnOnce() -> Finding) {
        match self.found.len() < MAX_WARNINGS {
            true => self.found.push(warning()),
            false => self.more += 1,
        }
    }
}

/// Looks for such things in a file that was loaded with these flags. `endpoints` are the patterns of
/// all API paths.
pub(super) fn check(loaded: &Loaded, flags: &Flags, endpoints: &[&str], env: Env<'_>) -> Warnings {
    let mut check = Check {
        loaded,
        config: &loaded.config,
        unread: overridden(flags).map(steps).collect(),
        env,
        warnings: Warnings::default(),
    };
    check.variables();
    check.root();
    check.groups();
    check.proxies();
    check.policies(endpoints);
    check.keys();
    check.cache();
    check.key_store();
    check.warnings
}

struct Check<'a> {
    loaded: &'a Loaded,
    config: &'a Config,
    /// The fields that flags win over.
    unread: Vec<Vec<Step<'static>>>,
    env: Env<'a>,
    warnings: Warnings,
}

impl<'a> Check<'a> {
    fn warn(
        &mut self,
        path: &[Step<'_>],
        position: Option<Position>,
        message: impl Into<String>,
        advice: impl Into<String>,
    ) {
        self.warnings.add(|| Finding {
            severity: Severity::Warning,
            position,
            field: dotted(path),
            message: message.into(),
            advice: advice.into(),
        });
    }

    /// Warns of a field by its name.
    fn warn_of(&mut self, field: &str, message: impl Into<String>, advice: &str) {
        let position = self.loaded.position(field);
        self.warn(&steps(field), position, message, advice);
    }

    fn items(&self, field: &str) -> &'a [Node] {
        self.loaded.file.find(field).map_or(&[], Node::items)
    }

    fn value(&self, node: &Node) -> String {
        let text = node.text().map_or("", |text| text);
        Expansion::Whole.expand(text, self.env).text
    }

    /// Warns of variables that are not set, or stay what they are, without a word of the value: it
    /// may be a secret.
    fn variables(&mut self) {
        let file = &self.loaded.file;
        let mut look = |path: &[Step<'a>], position, found: Found<'a>| {
            let Found::Text(text, expansion) = found else {
                return;
            };
            if !text.contains('$') || self.unread.iter().any(|unread| unread == path) {
                return;
            }
            if expansion.applies_to(text) {
                let expanded = expansion.expand(text, self.env);
                if !expanded.unset.is_empty() && !expanded.text.trim().is_empty() {
                    let message =
                        format!("a part of the value is missing: {}", variables(&expanded.unset));
                    self.warn(path, Some(position), message, "set the variable, or remove it");
                }
            } else if has_variable(text) {
                let (where_, advice) = match expansion {
                    Expansion::Never => ("in the path of a policy", "write the path out"),
                    _ => (
                        "in the middle of a value",
                        "write a value that is ${NAME} as a whole, or write it out",
                    ),
                };
                let message = format!("a variable is not replaced {where_}");
                self.warn(path, Some(position), message, advice);
            }
        };
        walk(file, FILE, &mut Vec::new(), &mut look);
    }

    fn root(&mut self) {
        if !self.unread.contains(&steps("root"))
            && let Some(node) = self.loaded.file.find("root")
        {
            self.identity(&steps("root"), node);
        }
    }

    /// Warns of what is neither an identity nor a word that stands for nobody.
    fn identity(&mut self, path: &[Step<'_>], node: &Node) {
        let identity = self.value(node);
        let is_hex = |c| matches!(c, b'0'..=b'9' | b'a'..=b'f');
        let is_identity = identity.len() == 64 && identity.bytes().all(is_hex);
        let is_nobody = NOBODY.iter().any(|word| identity.eq_ignore_ascii_case(word));
        if identity.is_empty() || is_identity || is_nobody {
            return;
        }
        let advice = match path == steps("root") {
            true => {
                "write the 64 lower-case hex digits that 'kes tool identity of <certificate>' prints, \
                 or \"disabled\" for no root"
            }
            false => {
                "write the 64 lower-case hex digits that 'kes tool identity of <certificate>' prints"
            }
        };
        let message = format!("\"{}\" is no identity, so no client can have it", cut(&identity));
        self.warn(path, Some(node.position), message, advice);
    }

    fn groups(&mut self) {
        let mut seen = Vec::new();
        for (index, node) in self.items("tls.groups").iter().enumerate() {
            let name = self.value(node);
            let Some(group) = Group::parse(&name) else {
                continue; // an error already
            };
            if seen.contains(&group) {
                let path = [&steps("tls.groups")[..], &[Step::Item(index)]].concat();
                let message = format!("key exchange group \"{name}\" is listed twice");
                self.warn(&path, Some(node.position), message, "keep one of them");
            } else {
                seen.push(group);
            }
        }
    }

    fn proxies(&mut self) {
        const LIST: &str = "tls.proxy.identities";
        const HEADER: &str = "tls.proxy.header.cert";
        let mut seen = HashSet::new();
        for (index, node) in self.items(LIST).iter().enumerate() {
            let path = [&steps(LIST)[..], &[Step::Item(index)]].concat();
            self.identity(&path, node);
            let identity = self.value(node);
            if identity.is_empty() {
                continue;
            }
            if seen.contains(&identity) {
                let message = format!("TLS proxy \"{}\" is listed twice", cut(&identity));
                self.warn(&path, Some(node.position), message, "keep one of them");
            } else {
                seen.insert(identity);
            }
        }
        match &self.config.proxy.header_cert {
            Some(header) if seen.is_empty() && !header.eq_ignore_ascii_case(DEFAULT_HEADER) => self
                .warn_of(
                    HEADER,
                    "without TLS proxies this header means nothing",
                    "list the identities of the proxies in \"tls.proxy.identities\"",
                ),
            None if !seen.is_empty() => self.warn_of(
                LIST,
                "TLS proxies are listed, but not the header with the client's certificate, so all \
                 their requests are refused",
                "set \"tls.proxy.header.cert\"",
            ),
            _ => {}
        }
    }

    /// Lists that policies share through an alias are looked at once.
    fn policies(&mut self, endpoints: &[&str]) {
        let endpoints: Vec<_> =
            endpoints.iter().filter_map(|endpoint| Pattern::parse(endpoint).ok()).collect();
        let mut effort = SEARCH;
        let mut seen_lists = HashSet::new();
        let policies = self.loaded.file.find("policy").map_or(&[][..], Node::entries);
        for policy in policies {
            let place = [Step::Field("policy"), Step::Field(&policy.name)];
            let list = |list| policy.node.get(list).map_or(&[][..], Node::items);
            let (paths, identities) = (list("paths"), list("identities"));
            if paths.is_empty() && self.loaded.is_whole {
                let message = format!("policy \"{}\" allows nothing", cut(&policy.name));
                let advice = "list what it allows in \"paths\"";
                self.warn(&place, Some(policy.node.position), message, advice);
            }
            if !paths.is_empty() && seen_lists.insert(paths.as_ptr()) {
                self.paths(&place, paths, &endpoints, &mut effort);
            }
            if !identities.is_empty() && seen_lists.insert(identities.as_ptr()) {
                for (index, node) in identities.iter().enumerate() {
                    let item = [Step::Field("identities"), Step::Item(index)];
                    self.identity(&[&place[..], &item].concat(), node);
                }
            }
        }
    }

    fn paths(
        &mut self,
        policy: &[Step<'_>],
        paths: &[Node],
        endpoints: &[Pattern],
        effort: &mut Effort,
    ) {
        let mut seen = HashSet::new();
        for (index, node) in paths.iter().enumerate() {
            let path: &str = node.text().map_or("", |text| text);
            let place = [policy, &[Step::Field("paths"), Step::Item(index)]].concat();
            if !seen.insert(path) {
                let message = format!("\"{}\" is listed twice", cut(path));
                self.warn(&place, Some(node.position), message, "keep one of them");
                continue;
            }
            let Ok(pattern) = Pattern::parse(path) else {
                continue; // an error already
            };
            if endpoints.is_empty() || effort.is_exhausted() {
                continue;
            }
            let mut all = endpoints.iter();
            if !all.any(|endpoint| endpoint.overlaps(&pattern, effort)) {
                self.warnings.add(|| Finding {
                    severity: Severity::Warning,
                    position: Some(node.position),
                    field: dotted(&place),
                    message: format!("\"{}\" matches no API", cut(path)),
                    advice: closest(&cut(path), endpoints),
                });
            }
        }
    }

    fn keys(&mut self) {
        let mut seen = HashSet::new();
        for (index, key) in self.items("keys").iter().enumerate() {
            let Some(node) = key.get("name") else {
                continue;
            };
            let name = self.value(node);
            if name.is_empty() || !seen.contains(&name) {
                seen.insert(name);
                continue;
            }
            let path = [Step::Field("keys"), Step::Item(index), Step::Field("name")];
            let message = format!("key \"{}\" is listed twice", cut(&name));
            self.warn(&path, Some(node.position), message, "keep one of them");
        }
    }

    fn cache(&mut self) {
        let cache = &self.config.cache;
        if let (Some(any), Some(unused)) = (cache.any, cache.unused)
            && unused > any
        {
            self.warn_of(
                "cache.expiry.unused",
                "longer than \"cache.expiry.any\", so it means nothing",
                "write a shorter time",
            );
        }
        let is_remote = matches!(
            self.config.key_store,
            KeyStoreConfig::Vault(_) | KeyStoreConfig::KeySecure(_)
        );
        if is_remote && cache.any.is_none() && self.loaded.is_whole {
            self.warn_of(
                "cache.expiry.any",
                "\"cache.expiry.any\" is not set, so a key that is deleted elsewhere stays usable here \
                 until a restart",
                "write a time such as 5m0s",
            );
        }
    }

    fn key_store(&mut self) {
        let section = self.loaded.section;
        let (endpoint, field, own) = match &self.config.key_store {
            KeyStoreConfig::Memory => {
                if !self.loaded.has_section && self.loaded.is_whole {
                    self.warn_of(
                        "keystore",
                        "no key store: keys live in memory and are gone when the server ends",
                        "set \"keystore.fs.path\" to a directory for them",
                    );
                }
                return;
            }
            KeyStoreConfig::Fs { .. } => return,
            KeyStoreConfig::Vault(vault) => (&vault.endpoint, "vault.endpoint", ["v1", "ui"]),
            KeyStoreConfig::KeySecure(store) => {
                let field = "gemalto.keysecure.endpoint";
                (&store.endpoint, field, ["api", "v1"])
            }
        };
        // The path of a proxy in front of it may well be meant.
        let path = endpoint.split_once("://").and_then(|(_, rest)| rest.split_once('/'));
        if let Some((_, path)) = path
            && path.split('/').any(|segment| own.contains(&segment))
        {
            self.warn_of(
                &format!("{section}.{field}"),
                format!("the server adds the path of the API itself, behind \"/{}\"", cut(path)),
                "end the URL after host and port",
            );
        }
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
            format!("did you mean \"{}\"?", filled_in(endpoint.as_str(), &segments))
        }
        _ => "docs/api.md lists the paths, such as \"/v1/key/create/*\"".to_owned(),
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
