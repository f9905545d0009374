//! Patterns and policies, against a reference that is slow and plain.

use std::sync::Arc;

use crate::{
    base::glob::{self, Effort, Pattern},
    policy::{Policies, Policy, Rule},
};

/// Texts are cut to so many characters.
const MAX_TEXT: usize = 48;

/// The first line is a path. Each other line is a rule: `+` allows and `-` denies, `g` is a glob pattern and `p` a
/// rule of the newest generation.
pub fn rules(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
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
    for pattern in &patterns {
        check_pattern(pattern, path, &patterns);
    }
    let escaped = glob::escape(path);
    assert_eq!(Some(true), reference(&escaped, path), "{escaped:?} is {path:?} escaped");
    for other in &patterns {
        assert_eq!(Some(*other == path), reference(&escaped, other), "{escaped:?} {other:?}");
    }
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

/// Whether Go may overlook a match: each `*` but the last is as short as it can be, which is not best where
/// something else crosses a `/` behind it.
fn is_greedy(pattern: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let places = (0..pattern.len()).filter(|at| pattern[*at] == '[');
    let crosses = |at| one(&pattern, at, '/').is_some_and(|(fits, _)| fits);
    pattern.iter().filter(|c| **c == '*').count() > 1 && places.into_iter().any(crosses)
}

fn check_pattern(text: &str, path: &str, others: &[&str]) {
    let pattern = Pattern::parse(text).expect("it is well-formed");
    let reach = pattern.reach(path, &mut enough());
    assert!(path.is_char_boundary(reach), "{text:?} {path:?}");
    let matches = reference(text, path) == Some(true) && !is_greedy(text);
    assert!(!matches || reach == path.len(), "{text:?} {path:?}");
    for other in others {
        let overlaps = |a: &str, b: &str| {
            let [a, b] = [a, b].map(|text| Pattern::parse(text).expect("it is well-formed"));
            a.overlaps(&b, &mut enough())
        };
        assert_eq!(overlaps(text, other), overlaps(other, text), "{text:?} {other:?}");
        if matches && reference(other, path) == Some(true) {
            assert!(overlaps(text, other), "{text:?} and {other:?} cover {path:?}");
        }
    }
}

fn prefix_reference(rule: &str, path: &str) -> bool {
    match rule.strip_suffix('*') {
        Some(start) => path.get(..start.len()) == Some(start),
        None => rule == path && !rule.is_empty(),
    }
}

/// Whether `pattern` covers `name`; `None` if it is malformed. Each place of the pattern is a set of places in the
/// name.
fn reference(pattern: &str, name: &str) -> Option<bool> {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    let mut places = vec![false; name.len() + 1];
    places[0] = true;
    let mut at = 0;
    while at < pattern.len() {
        let mut next = vec![false; name.len() + 1];
        let end = match pattern[at] {
            '*' => {
                for place in 0..=name.len() {
                    next[place] =
                        places[place] || (place > 0 && next[place - 1] && name[place - 1] != '/');
                }
                at + 1
            }
            _ => {
                let end = one(&pattern, at, 'a')?.1;
                for place in 0..name.len() {
                    next[place + 1] = places[place] && one(&pattern, at, name[place])?.0;
                }
                end
            }
        };
        (places, at) = (next, end);
    }
    Some(places[name.len()])
}

/// Whether the one-character element at this place fits `c`, and where it ends.
fn one(pattern: &[char], at: usize, c: char) -> Option<(bool, usize)> {
    match pattern[at] {
        '?' => Some((c != '/', at + 1)),
        '\\' => Some((*pattern.get(at + 1)? == c, at + 2)),
        '[' => {
            let is_negated = pattern.get(at + 1) == Some(&'^');
            let (mut at, mut is_in, mut count) = (at + 1 + usize::from(is_negated), false, 0);
            while count == 0 || *pattern.get(at)? != ']' {
                let (low, end) = bound(pattern, at)?;
                let (high, end) = match pattern.get(end) {
                    Some('-') => bound(pattern, end + 1)?,
                    _ => (low, end),
                };
                is_in |= low <= c && c <= high;
                (at, count) = (end, count + 1);
            }
            Some((is_in != is_negated, at + 1))
        }
        literal => Some((literal == c, at + 1)),
    }
}

/// An end of a range in a class, and where it ends itself.
fn bound(pattern: &[char], at: usize) -> Option<(char, usize)> {
    match pattern.get(at)? {
        '-' | ']' => None,
        '\\' => Some((*pattern.get(at + 1)?, at + 2)),
        c => Some((*c, at + 1)),
    }
}
