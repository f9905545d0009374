//! The policies of a file, and what in them is wrong or probably a mistake.
//!
//! Names and paths are taken as they are, without environment variables. Lists that policies share
//! through an alias are read once.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{
    expand::Expansion,
    findings::{At, cut},
    source::Reader,
    tree::{Entry, Node},
    types::Proxy,
};
use crate::{
    base::{
        glob::{Effort, Pattern},
        name,
    },
    policy::{self, Policies, Policy, Rule},
};

/// The steps that the search for APIs that paths match may take: a second or two.
const SEARCH: Effort = Effort::of(300_000_000);

impl Reader<'_> {
    /// All policies. `endpoints` are the patterns of all API paths; without any, it is not checked
    /// whether paths match one.
    pub(super) fn policies(
        &mut self,
        root: &str,
        proxy: &Proxy,
        endpoints: &[Pattern],
    ) -> Policies {
        let is_newest = self.source.format.is_newest();
        // Those that forward nothing can do nothing, as in KES.
        let is_idle_proxy = |identity: &String| {
            is_newest && proxy.header_ip.is_none() && proxy.identities.contains(identity)
        };
        let proxies = if is_newest { &[][..] } else { &proxy.identities };
        let mut builder = Policies::builder(root, proxies);
        let mut effort = SEARCH;
        let mut read = HashMap::new();
        let mut seen = HashSet::new();
        let source = self.source;
        for policy in source.find("policy").map_or(&[][..], Node::entries) {
            let list = |list| policy.node.get(list).map_or(&[][..], Node::items);
            let paths = list(if is_newest { "allow" } else { "paths" });
            if is_newest && !name::is_plain(&policy.name) {
                let at = At::new(format!("policy.{}", cut(&policy.name)), Some(policy.position));
                let message = format_args!("invalid policy name \"{}\"", cut(&policy.name));
                self.findings.refuse(at, message, name::PLAIN);
            }
            if paths.is_empty() && self.findings.is_whole {
                self.findings.warn(
                    At::new(format!("policy.{}", cut(&policy.name)), Some(policy.node.position)),
                    format_args!("policy \"{}\" allows nothing", cut(&policy.name)),
                    match is_newest {
                        true => "list what it allows in \"allow\"",
                        false => "list what it allows in \"paths\"",
                    },
                );
            }
            let deny = list("deny");
            let shared = read.entry((paths.as_ptr(), deny.as_ptr())).or_insert_with(|| {
                Arc::new(match is_newest {
                    true => Policy {
                        allow: self.rules(policy, "allow", paths, endpoints),
                        deny: self.rules(policy, "deny", deny, endpoints),
                    },
                    false => self.policy(policy, paths, endpoints, &mut effort),
                })
            });
            builder.define(&policy.name, shared.clone());

            let identities = list("identities");
            let is_new = seen.insert(identities.as_ptr());
            for (index, node) in identities.iter().enumerate() {
                let identity = source.value(node, Expansion::Whole);
                if is_new {
                    self.check_identity(at(policy, "identities", index, node), &identity, "");
                }
                let at = at(policy, "identities", index, node);
                if is_newest && !identity.is_empty() && !name::is_plain(&identity) {
                    let message = format_args!("invalid identity \"{}\"", cut(&identity));
                    self.findings.refuse(at.clone(), message, name::PLAIN);
                }
                if is_newest && !identity.is_empty() && identity == root {
                    let message = format!(
                        "cannot assign policy \"{}\" to identity \"{identity}\": this identity is \
                         already admin",
                        policy.name
                    );
                    let advice = "the admin may do everything without a policy: leave it out here";
                    self.findings.refuse(at, message, advice);
                    continue;
                }
                let assigned = match is_idle_proxy(&identity) {
                    true => Err(policy::Error::Proxy { policy: policy.name.clone(), identity }),
                    false => builder.assign(&policy.name, &identity),
                };
                if let Err(error) = assigned {
                    self.refuse_policy(at, &error);
                }
            }
        }
        builder.build()
    }

    /// The policy that allows `paths`, but those that are no patterns.
    fn policy(
        &mut self,
        policy: &Entry,
        paths: &[Node],
        endpoints: &[Pattern],
        effort: &mut Effort,
    ) -> Policy {
        let mut patterns = Vec::with_capacity(paths.len());
        let mut seen = HashSet::new();
        for (index, node) in paths.iter().enumerate() {
            let path: &str = node.text().map_or("", |text| text);
            let at = at(policy, "paths", index, node);
            let is_repeated = !seen.insert(path);
            if is_repeated {
                let message = format_args!("\"{}\" is listed twice", cut(path));
                self.findings.warn(at.clone(), message, "keep one of them");
            }
            let pattern = match Pattern::parse(path) {
                Ok(pattern) => pattern,
                Err(source) => {
                    let policy = policy.name.clone();
                    self.refuse_policy(at, &policy::Error::Pattern { policy, source });
                    continue;
                }
            };
            let is_searched = !is_repeated && !endpoints.is_empty() && !effort.is_exhausted();
            if is_searched && !endpoints.iter().any(|endpoint| endpoint.overlaps(&pattern, effort))
            {
                let message = format_args!("\"{}\" matches no API", cut(path));
                self.findings.warn(at, message, closest(&cut(path), endpoints));
            }
            patterns.push(Rule::Glob(pattern));
        }
        Policy { allow: patterns, deny: Vec::new() }
    }

    /// The rules of the newest generation in a list of a policy.
    fn rules(
        &mut self,
        policy: &Entry,
        list: &str,
        items: &[Node],
        endpoints: &[Pattern],
    ) -> Vec<Rule> {
        let mut rules = Vec::with_capacity(items.len());
        let mut seen = HashSet::new();
        for (index, node) in items.iter().enumerate() {
            let text: &str = node.text().map_or("", |text| text);
            let at = at(policy, list, index, node);
            let fixed = text.strip_suffix('*').unwrap_or(text);
            if !seen.insert(text) {
                let message = format_args!("\"{}\" is listed twice", cut(text));
                self.findings.warn(at, message, "keep one of them");
            } else if let Some(literal) = fixed.chars().find(|c| "*?[\\".contains(*c)) {
                self.findings.warn(
                    at,
                    format_args!(
                        "\"{literal}\" in \"{}\" stands for itself, so no request matches",
                        cut(text)
                    ),
                    "write a path, or the beginning of one and a \"*\" at its end",
                );
            } else if !endpoints.is_empty()
                && !endpoints
                    .iter()
                    .any(|api| is_of(text, api) || list == "deny" && is_list(text, api))
            {
                let message = format_args!("\"{}\" matches no API", cut(text));
                self.findings.warn(at, message, closest(&cut(text), endpoints));
            }
            rules.push(Rule::prefix(text));
        }
        rules
    }

    fn refuse_policy(&mut self, at: At, error: &policy::Error) {
        let advice = match error {
            policy::Error::Pattern { .. } => {
                "close every \"[\", and write \"\\\" before a literal \"[\", \"-\" or \"]\""
            }
            policy::Error::Assigned { .. } => match self.source.format.is_newest() {
                true => "an identity has one policy at most",
                false => "an identity has one policy at most, and root has none",
            },
            policy::Error::Proxy { .. } => "a TLS proxy has no policy",
        };
        self.findings.refuse(at, error, advice);
    }
}

/// Whether a rule of the newest generation matches requests to an API.
fn is_of(rule: &str, endpoint: &Pattern) -> bool {
    let (path, argument) = endpoint.as_str().split_once('*').unwrap_or((endpoint.as_str(), ""));
    let takes_argument = path.len() + argument.len() < endpoint.as_str().len();
    match rule.strip_suffix('*') {
        Some(start) => path.starts_with(start) || (takes_argument && start.starts_with(path)),
        None => rule == path || (takes_argument && rule.starts_with(path)),
    }
}

/// Whether a rule is the path of a list of all names without the slash at its end, which denies that list.
fn is_list(rule: &str, endpoint: &Pattern) -> bool {
    rule.ends_with("/list") && endpoint.as_str().strip_suffix("/*") == Some(rule)
}

/// Where an item of a list of a policy is.
fn at(policy: &Entry, list: &str, index: usize, item: &Node) -> At {
    At::new(format!("policy.{}.{list}[{index}]", cut(&policy.name)), Some(item.position))
}

/// Names the endpoint that is most like `path`, with what stands for its wildcards in `path`.
pub(super) fn closest(path: &str, endpoints: &[Pattern]) -> String {
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
