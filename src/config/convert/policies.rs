//! The policies of an older file in the newest format.

use std::collections::HashSet;

use super::{
    Conversion, Note, Weight,
    prefix::{Translation, covers, has_names, translate},
};
use crate::{
    base::name,
    config::{
        findings::cut,
        tree::{Entry, Node},
    },
};

impl<'a> Conversion<'a> {
    /// Names, rules and identities of all policies.
    pub(super) fn policies(&mut self, top: &'a Node) {
        let mut names = HashSet::new();
        let Some(policies) = top.get("policy") else { return };
        let all: HashSet<&str> = policies.entries().iter().map(|policy| &*policy.name).collect();
        for policy in policies.entries() {
            self.policy_name(policy, &all, &mut names);
            for entry in policy.node.entries() {
                match &*entry.name {
                    "paths" => {
                        self.edits.rename(entry, "allow");
                        self.rules(policy, &entry.node);
                    }
                    "identities" => self.identities(&entry.node),
                    _ => {}
                }
            }
        }
    }

    /// Names of policies have fewer characters now.
    fn policy_name(&mut self, policy: &'a Entry, all: &HashSet<&str>, names: &mut HashSet<String>) {
        if name::is_plain(&policy.name) {
            return;
        }
        let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
        let mut short: String = policy.name.chars().take(70).map(plain).collect();
        short = short.trim_matches('-').to_owned();
        if !name::is_plain(&short) {
            "policy".clone_into(&mut short);
        }
        let mut new = short.clone();
        let mut number = 1;
        while all.contains(&*new) || names.contains(&new) {
            number += 1;
            new = format!("{short}-{number}");
        }
        let text = format!("policy \"{}\" is called \"{new}\"", cut(&policy.name));
        self.note(Weight::Change, Some(policy.position), text);
        self.edits.rename(policy, &new);
        names.insert(new);
    }

    fn identities(&mut self, list: &Node) {
        for (index, item) in list.items().iter().enumerate() {
            let Some(text) = item.text().filter(|text| !text.is_empty() && !text.contains("${"))
            else {
                continue;
            };
            if !name::is_plain(text) {
                // No client has it.
                let what =
                    format!("\"{}\" is no identity, and the newest format refuses it", cut(text));
                self.note(Weight::Change, Some(item.position), what);
                self.edits.remove_item(list, index, "no identity");
            }
        }
    }

    /// The paths of a policy.
    fn rules(&mut self, policy: &Entry, list: &Node) {
        let patterns = list.items().iter().map(|item| item.text().map_or("", |text| text));
        let translations: Vec<_> =
            patterns.clone().map(|pattern| translate(pattern, &self.apis)).collect();
        let is_allowed = |start: &str| {
            let mut rules = translations.iter().flat_map(|one| &one.rules);
            rules.any(|rule| rule.ends_with('*') && covers(rule, start))
        };
        let mut known: Vec<String> = Vec::new();
        let items = list.items().iter().zip(patterns).zip(&translations);
        for (index, ((item, pattern), Translation { rules, lost, gone })) in items.enumerate() {
            let (others, lost): (Vec<_>, Vec<_>) =
                lost.iter().partition(|lost| is_allowed(&lost.start));
            let mut about = |weight, text: String| {
                let name = cut(&policy.name);
                let text = format!("policy \"{name}\": \"{}\" {text}", cut(pattern));
                self.notes.push(Note { weight, position: Some(item.position), text });
            };
            if !lost.is_empty() {
                let apis: Vec<_> = lost.iter().map(|lost| &*lost.api).collect();
                let how = match lost.iter().all(|lost| lost.is_list) {
                    true => "allow",
                    false => "allow the names one by one, or",
                };
                let text = format!(
                    "can't be said by a prefix, so {} is left out: {how} what they begin with, such as \"{}my-app*\"",
                    apis.join(", "),
                    apis[0]
                );
                about(Weight::Loss, text);
            }
            if !gone.is_empty() && rules.is_empty() && lost.is_empty() && others.is_empty() {
                about(
                    Weight::Loss,
                    format!("is left out: the newest generation has no {}", gone.join(", ")),
                );
            }
            if rules.iter().any(|rule| !has_names(rule, &self.apis)) {
                let text = "is for names that can't be used in the newest generation, which has letters, digits, - and _: \
                            the keys stay where they are, but no client reaches them";
                about(Weight::Loss, text.to_owned());
            }
            let has_more = translate_is_wider(pattern, rules);
            let fresh: Vec<String> = rules
                .iter()
                .filter(|rule| !known.iter().any(|known| covers(known, rule)))
                .cloned()
                .collect();
            match (&*fresh, &**rules) {
                ([only], _) if *only == *pattern => {
                    // What it stands for may become something else in another policy.
                    if self.edits.is_alias(item.span) {
                        self.edits.replace_item(list, index, &fresh, "");
                    }
                }
                ([], []) => {
                    if lost.is_empty() && others.is_empty() && gone.is_empty() {
                        let text = match has_more {
                            true => {
                                "matched no request, but would match many as a prefix: it is left out"
                            }
                            false => "matched no request: it is left out",
                        };
                        about(Weight::Change, text.to_owned());
                    }
                    let why = match () {
                        () if !lost.is_empty() => "can't be said by a prefix",
                        () if !others.is_empty() => "allowed by another rule",
                        () if !gone.is_empty() => "not in the newest generation",
                        () => "matched no request",
                    };
                    self.edits.replace_item(list, index, &[], why);
                }
                ([], _) => self.edits.replace_item(list, index, &[], "allowed by another rule"),
                (fresh, _) => {
                    about(Weight::Change, format!("is written as {}", fresh.join(", ")));
                    self.edits.replace_item(list, index, fresh, "");
                }
            }
            known.extend(fresh);
        }
    }
}

/// Whether a pattern would allow more than `rules` if it were taken for a rule itself.
fn translate_is_wider(pattern: &str, rules: &[String]) -> bool {
    pattern.ends_with('*') && !rules.iter().any(|rule| covers(rule, pattern))
}
