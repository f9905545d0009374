//! Patterns and rules of the newest generation, read in a way that is slow and plain.

use std::collections::HashSet;

/// Whether Go may overlook a match: each `*` but the last is as short as it can be, which is not best where
/// something else crosses a `/` behind it.
pub fn is_greedy(pattern: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let places = (0..pattern.len()).filter(|at| pattern[*at] == '[');
    let crosses = |at| one(&pattern, at, '/').is_some_and(|(fits, _)| fits);
    pattern.iter().filter(|c| **c == '*').count() > 1 && places.into_iter().any(crosses)
}

/// Whether a rule of the newest generation means `path`.
pub fn prefix_reference(rule: &str, path: &str) -> bool {
    match rule.strip_suffix('*') {
        Some(start) => path.get(..start.len()) == Some(start),
        None => rule == path && !rule.is_empty(),
    }
}

/// Whether `pattern` covers `name`; `None` if it is malformed.
pub fn reference(pattern: &str, name: &str) -> Option<bool> {
    walk(pattern, name).map(|(covers, _)| covers)
}

/// The same, and how many characters a start of the pattern covers. Each place of the pattern is a set of places in
/// the name.
pub fn walk(pattern: &str, name: &str) -> Option<(bool, usize)> {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    let mut kinds = name.clone();
    kinds.sort_unstable();
    kinds.dedup();
    let kind_at: Vec<_> = name.iter().map(|c| kinds.partition_point(|kind| kind < c)).collect();
    let mut places = vec![false; name.len() + 1];
    places[0] = true;
    let (mut at, mut reach) = (0, 0);
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
                let fits = |c: &char| one(&pattern, at, *c).is_some_and(|(fits, _)| fits);
                let fits: Vec<_> = kinds.iter().map(fits).collect();
                for place in 0..name.len() {
                    next[place + 1] = places[place] && fits[kind_at[place]];
                }
                one(&pattern, at, 'a')?.1
            }
        };
        reach = reach.max(next.iter().rposition(|is_reached| *is_reached).unwrap_or_default());
        (places, at) = (next, end);
    }
    Some((places[name.len()], reach))
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

/// Whether there is a name that both patterns cover. Where a character fits both of two elements, so does one of
/// those at which their ranges begin.
pub fn share_a_name(a: &str, b: &str) -> bool {
    let [a, b] = [a, b].map(|text| text.chars().collect::<Vec<_>>());
    let mut all: Vec<char> = a.iter().chain(&b).copied().chain(['\0', '/']).collect();
    all.extend(all.clone().iter().filter_map(|c| (*c..=char::MAX).nth(1)));
    all.sort_unstable();
    all.dedup();
    let (mut open, mut seen) = (vec![(0, 0)], HashSet::new());
    while let Some(pair) = open.pop() {
        if pair == (a.len(), b.len()) {
            return true;
        }
        if !seen.insert(pair) {
            continue;
        }
        let (i, j) = pair;
        let is_run = |pattern: &[char], at: usize| pattern.get(at) == Some(&'*');
        if is_run(&a, i) {
            open.push((i + 1, j));
        }
        if is_run(&b, j) {
            open.push((i, j + 1));
        }
        // Where the pattern goes on once the character is taken.
        let taken = |pattern: &[char], at: usize, c| match pattern.get(at) {
            None => None,
            Some('*') => (c != '/').then_some(at),
            Some(_) => one(pattern, at, c).filter(|(fits, _)| *fits).map(|(_, end)| end),
        };
        let both = |c: &char| Some((taken(&a, i, *c)?, taken(&b, j, *c)?));
        open.extend(all.iter().filter_map(both));
    }
    false
}
