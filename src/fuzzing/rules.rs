//! Patterns and policies, against a reference that is slow and plain.

use std::sync::Arc;

use super::{
    documents,
    globs::{is_greedy, prefix_reference, reference, share_a_name, walk},
};
use crate::{
    base::glob::{self, Effort, Pattern},
    policy::{Policies, Policy, Rule},
};

/// Texts are cut to so many characters.
const MAX_TEXT: usize = 48;

/// A document of a policy as JSON; texts that are long; or: the first line is a path, and each other line is a rule:
/// `+` allows and `-` denies, `g` is a glob pattern and `p` a rule of the newest generation.
pub fn rules(data: &[u8]) {
    if data.first() == Some(&b'{') {
        return documents::document(data);
    }
    let text = String::from_utf8_lossy(data);
    if let Some(text) = text.strip_prefix('~') {
        return long(text);
    }
    let mut lines = text.split('\n').map(cut);
    let path = lines.next().unwrap_or_default();
    let (mut policy, mut patterns) = (Policy::default(), Vec::new());
    let (mut allows, mut denies) = (false, false);
    for line in lines.take(8) {
        let mut chars = line.chars();
        let (sign, kind, text) = (chars.next(), chars.next(), chars.as_str());
        let (rule, matches) = match kind {
            Some('g') => {
                let wanted = reference(text, path);
                let rule = Rule::glob(text);
                assert_eq!(wanted.is_some(), rule.is_ok(), "{text:?} is well-formed");
                let (Ok(rule), Some(mut matches)) = (rule, wanted) else { continue };
                patterns.push(text);
                if is_greedy(text) {
                    assert!(matches || !rule.matches(path, &mut enough()), "{line:?} {path:?}");
                    matches = rule.matches(path, &mut enough());
                }
                (rule, matches)
            }
            Some('p') => (Rule::prefix(text), prefix_reference(text, path)),
            _ => continue,
        };
        assert_eq!(text, rule.as_str());
        assert_eq!(matches, rule.matches(path, &mut enough()), "{line:?} {path:?}");
        match sign {
            Some('+') => {
                allows |= matches;
                policy.allow.push(rule);
            }
            Some('-') => {
                denies |= matches;
                policy.deny.push(rule);
            }
            _ => {}
        }
    }
    decide(policy, path, allows, denies);
    for (at, pattern) in patterns.iter().enumerate() {
        check_pattern(pattern, path, &patterns[..=at]);
    }
    let escaped = glob::escape(path);
    assert_eq!(Some(true), reference(&escaped, path), "{escaped:?} is {path:?} escaped");
    for other in &patterns {
        assert_eq!(Some(*other == path), reference(&escaped, other), "{escaped:?} {other:?}");
    }
}

/// A path, a pattern that denies and one that allows, whose matching may take more effort than there is: then nobody
/// may do more.
fn long(text: &str) {
    let mut lines = text.split('\n');
    let mut line = |max| repeated(lines.next().unwrap_or_default(), max);
    let (path, deny, allow) = (line(4000), line(1500), line(500));
    let (Ok(denies), Ok(allows)) = (Rule::glob(&deny), Rule::glob(&allow)) else { return };
    if is_greedy(&deny) || is_greedy(&allow) {
        return;
    }
    let policy = Policy { allow: vec![allows], deny: vec![denies] };
    let [by_deny, by_allow] = [&deny, &allow].map(|text| reference(text, &path) == Some(true));
    let (may, may_not) = (policy.allows(&path), policy.denies(&path));
    assert!(!may || by_allow && !by_deny, "it may do more than the rules say");
    assert!(!by_deny || may_not, "a rule denies it");
    let is_done = |pattern: &str, effort| {
        let (pattern, mut effort) =
            (Pattern::parse(pattern).expect("as before"), Effort::of(effort));
        pattern.matches(&path, &mut effort);
        !effort.is_exhausted()
    };
    if !is_done(&deny, 2_000_000) {
        assert!(may_not, "a rule that denies was not matched to its end");
    } else if is_done(&deny, 1_000_000) && is_done(&allow, 1_000_000) {
        // The rules share what effort there is.
        assert_eq!((by_allow && !by_deny, by_deny), (may, may_not), "what the rules say");
    }
    let [deny, allow] = [deny, allow].map(|text| Pattern::parse(&text).expect("as before"));
    assert!(path.is_char_boundary(deny.reach(&path, &mut enough())));
    assert!(!(by_deny && by_allow) || deny.overlaps(&allow, &mut enough()), "both cover the path");
}

/// At most `max` characters; `~`, a count and a character stand for this one many times.
fn repeated(text: &str, max: usize) -> String {
    let (mut chars, mut found) = (text.chars(), String::new());
    while let Some(c) = chars.next() {
        match (c, chars.clone().next()) {
            ('~', Some(count)) => {
                chars.next();
                let count = 40 * (count as usize).saturating_sub(32).min(100);
                found.extend(chars.next().into_iter().flat_map(|c| std::iter::repeat_n(c, count)));
            }
            _ => found.push(c),
        }
    }
    let end = found.char_indices().nth(max).map_or(found.len(), |(at, _)| at);
    found.truncate(end);
    found
}

fn cut(text: &str) -> &str {
    let end = text.char_indices().nth(MAX_TEXT).map_or(text.len(), |(at, _)| at);
    &text[..end]
}

/// More effort than any pattern takes here.
fn enough() -> Effort {
    Effort::ONE_NAME
}

/// A denial wins, and what nothing allows is refused; root may do everything, others without a policy nothing.
fn decide(policy: Policy, path: &str, allows: bool, denies: bool) {
    assert_eq!(allows && !denies, policy.allows(path), "{policy:?} {path:?}");
    assert_eq!(denies, policy.denies(path), "{policy:?} {path:?}");
    let name: Arc<str> = "policy".into();
    let mut builder = Policies::builder("root", &["proxy".to_owned()]);
    builder.define(&name, Arc::new(policy));
    builder.assign(&name, "client").expect("it has no policy yet");
    assert!(builder.assign(&name, "root").is_err() && builder.assign(&name, "proxy").is_err());
    let policies = builder.build();
    for (identity, may, may_not) in [
        ("client", allows && !denies, denies),
        ("root", true, false),
        ("proxy", false, false),
        ("other", false, false),
        ("", false, false),
    ] {
        assert_eq!(may, policies.allows(identity, path), "{identity:?} {path:?}");
        assert_eq!(may_not, policies.denies(identity, path), "{identity:?} {path:?}");
        if !identity.is_empty() {
            assert_eq!(may, policies.why(identity, path).is_allowed(), "{identity:?} {path:?}");
        }
    }
}

fn check_pattern(text: &str, path: &str, others: &[&str]) {
    let pattern = Pattern::parse(text).expect("it is well-formed");
    let reach = pattern.reach(path, &mut enough());
    assert!(path.is_char_boundary(reach), "{text:?} {path:?}");
    let wanted = walk(text, path).expect("it is well-formed").1;
    let wanted = path.char_indices().nth(wanted).map_or(path.len(), |(at, _)| at);
    assert!(reach <= wanted, "{text:?} {path:?}");
    assert!(reach == wanted || is_greedy(text), "{text:?} {path:?}");
    let matches = |text: &str| reference(text, path) == Some(true) && !is_greedy(text);
    for other in others.iter().rev().take(3) {
        let overlaps = |a: &str, b: &str| {
            let [a, b] = [a, b].map(|text| Pattern::parse(text).expect("it is well-formed"));
            a.overlaps(&b, &mut enough())
        };
        assert_eq!(overlaps(text, other), overlaps(other, text), "{text:?} {other:?}");
        // A pair of long ones takes the reference too long.
        if text.len() * other.len() <= 200 {
            assert_eq!(share_a_name(text, other), overlaps(text, other), "{text:?} {other:?}");
        } else if matches(text) && matches(other) {
            assert!(overlaps(text, other), "{text:?} and {other:?} cover {path:?}");
        }
    }
}
