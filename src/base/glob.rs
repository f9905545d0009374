//! Glob patterns over request paths and names, with the semantics of Go's `path.Match`.
//!
//! `*` is any run of characters but `/`, `?` one character but `/`, `[a-z]` and `[^a-z]` one
//! character in or out of a class, `\x` the character `x`; a pattern covers the whole name. Matching
//! takes at most length of pattern times length of name steps, and never more than its [`Effort`].

use std::{fmt, iter::Peekable, str::Chars};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: Box<str>,
    elements: Box<[Element]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Element {
    Literal(char),
    /// Any one character but `/`.
    One,
    /// Any run of characters but `/`, also an empty one.
    Run,
    /// One character of a class. May be `/`.
    Class(Box<Class>),
}

/// Characters inside (or, if `negated`, outside) all the ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Class {
    negated: bool,
    /// First and last character; a range that runs backwards contains nothing.
    ranges: Vec<(char, char)>,
}

/// The number of steps that matching may take: one for each character, and one for each range of a class.
/// Patterns and names come from outside, and some pairs take their product.
#[derive(Debug)]
pub struct Effort(u64);

impl Effort {
    /// For all patterns and one name: some milliseconds.
    pub const ONE_NAME: Self = Self(2_000_000);

    pub const fn of(steps: u64) -> Self {
        Self(steps)
    }

    /// For one pattern and `count` names: some milliseconds, and plenty for each name.
    pub fn for_names(count: usize) -> Self {
        Self(10_000_000 + 1000 * count as u64)
    }

    /// Whether it was too little, so that the result means nothing.
    pub fn is_exhausted(&self) -> bool {
        self.0 == 0
    }

    fn take(&mut self, steps: u64) -> bool {
        self.0 = self.0.saturating_sub(steps);
        self.0 > 0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyntaxError {
    /// The `]` of a class is missing.
    OpenClass,
    /// A class has this character, `-` or `]`, in the place of one of its own.
    InClass(char),
    Backslash,
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("syntax error in pattern: ")?;
        match self {
            Self::OpenClass => f.write_str("a '[' has no ']'; write '[[]' for the character"),
            Self::InClass(c) => write!(f, "a character is missing before '{c}' in '[...]'"),
            Self::Backslash => f.write_str("nothing follows the last '\\'"),
        }
    }
}

impl std::error::Error for SyntaxError {}

impl Pattern {
    pub fn parse(text: &str) -> Result<Self, SyntaxError> {
        let mut elements = Vec::new();
        let mut rest = text.chars().peekable();
        while let Some(c) = rest.next() {
            elements.push(match c {
                '*' => Element::Run,
                '?' => Element::One,
                '[' => parse_class(&mut rest)?,
                '\\' => Element::Literal(rest.next().ok_or(SyntaxError::Backslash)?),
                c => Element::Literal(c),
            });
        }
        Ok(Self { text: text.into(), elements: elements.into() })
    }

    /// Whether the pattern covers all of `name`; `false` also if that takes more than `effort`.
    pub fn matches(&self, name: &str, effort: &mut Effort) -> bool {
        self.walk(name, effort, |_| {})
    }

    /// The length of the longest start of `name`, in bytes, that a start of the pattern covers, as far as
    /// `effort` goes.
    pub fn reach(&self, name: &str, effort: &mut Effort) -> usize {
        let mut left = name.len();
        self.walk(name, effort, |rest| left = left.min(rest.len()));
        name.len() - left
    }

    /// Matches `name`, and shows `on_step` the rest of it after each character that fits.
    fn walk(&self, name: &str, effort: &mut Effort, mut on_step: impl FnMut(&str)) -> bool {
        let mut elements = &self.elements[..];
        let mut rest = name.chars();
        // The elements behind the latest `*`, and the place in the name to try them at next, one character
        // further each time. Earlier ones need no second try, so the work is bounded by the length of the
        // pattern times that of the name. Only a class that fits `/` could make one worthwhile; Go overlooks
        // such matches, too.
        let mut retry: Option<(&[Element], Chars<'_>)> = None;
        loop {
            let steps = match elements.first() {
                Some(Element::Class(class)) => 1 + class.ranges.len() as u64,
                _ => 1,
            };
            if !effort.take(steps) {
                return false;
            }
            match elements.split_first() {
                Some((Element::Run, after)) => {
                    elements = after;
                    retry = Some((after, rest.clone()));
                    continue;
                }
                Some((element, after)) => {
                    let mut next = rest.clone();
                    if next.next().is_some_and(|c| element.fits(c)) {
                        (elements, rest) = (after, next);
                        on_step(rest.as_str());
                        continue;
                    }
                }
                None if rest.as_str().is_empty() => return true,
                None => {}
            }
            let Some((after, start)) = &mut retry else {
                return false;
            };
            match start.next() {
                None | Some('/') => return false,
                Some(_) => {
                    (elements, rest) = (after, start.clone());
                    on_step(rest.as_str());
                }
            }
        }
    }

    /// Whether both patterns cover some name; `true` also if finding out takes more than `effort`.
    pub fn overlaps(&self, other: &Self, effort: &mut Effort) -> bool {
        let (ours, theirs) = (&self.elements, &other.elements);
        // `reached[j]`: our elements so far and their first `j` cover some text.
        let mut reached = vec![false; theirs.len() + 1];
        let mut next = reached.clone();
        reached[0] = true;
        for i in 0..=ours.len() {
            if !effort.take(reached.len() as u64) {
                return true;
            }
            for j in 0..=theirs.len() {
                if !reached[j] {
                    continue;
                }
                // A run may end here, or take one more character of the other side.
                match (ours.get(i), theirs.get(j)) {
                    (None, None) => return true,
                    (Some(Element::Run), other) => {
                        next[j] = true;
                        if other.is_some_and(|other| other.shares(&Element::One)) {
                            reached[j + 1] = true;
                        }
                    }
                    (other, Some(Element::Run)) => {
                        reached[j + 1] = true;
                        next[j] |= other.is_some_and(|other| other.shares(&Element::One));
                    }
                    (Some(a), Some(b)) => next[j + 1] |= a.shares(b),
                    _ => {}
                }
            }
            if !next.contains(&true) {
                return false;
            }
            std::mem::swap(&mut reached, &mut next);
            next.fill(false);
        }
        false
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl Element {
    /// Whether this one-character element matches `c`.
    fn fits(&self, c: char) -> bool {
        match self {
            Self::Literal(literal) => *literal == c,
            Self::One | Self::Run => c != '/',
            Self::Class(class) => class.holds(c),
        }
    }

    /// Whether some character fits both.
    fn shares(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Literal(c), other) | (other, Self::Literal(c)) => other.fits(*c),
            // The first character that fits both is where a range of one of them begins.
            (Self::Class(class), other) | (other, Self::Class(class)) => {
                let both = |c| other.fits(c) && class.holds(c);
                class.begins().any(both)
                    || match other {
                        Self::Class(other) => other.begins().any(both),
                        _ => ['\0', '0'].into_iter().any(both),
                    }
            }
            _ => true,
        }
    }
}

impl Class {
    fn holds(&self, c: char) -> bool {
        let mut ranges = self.ranges.iter();
        self.negated != ranges.any(|(from, to)| (*from..=*to).contains(&c))
    }

    /// The characters at which the ranges of its characters begin.
    fn begins(&self) -> impl Iterator<Item = char> {
        let begin = |(from, to): &(char, char)| match self.negated {
            true => (*to..=char::MAX).nth(1),
            false => Some(*from),
        };
        self.ranges.iter().filter_map(begin).chain(['\0'])
    }
}

/// Whether `pattern` is well-formed and covers all of `name`.
#[cfg(test)]
pub fn matches(pattern: &str, name: &str) -> bool {
    let mut effort = Effort::ONE_NAME;
    Pattern::parse(pattern).is_ok_and(|pattern| pattern.matches(name, &mut effort))
}

/// The pattern that matches `name` and nothing else.
///
/// It has classes instead of backslashes, which YAML and JSON would want escaped once more.
pub fn escape(name: &str) -> String {
    let mut pattern = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '*' | '?' | '[' => pattern.extend(['[', c, ']']),
            '\\' => pattern.push_str("\\\\"),
            c => pattern.push(c),
        }
    }
    pattern
}

fn parse_class(rest: &mut Peekable<Chars<'_>>) -> Result<Element, SyntaxError> {
    let negated = rest.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    while ranges.is_empty() || rest.next_if_eq(&']').is_none() {
        let from = parse_bound(rest)?;
        let to = match rest.next_if_eq(&'-') {
            Some(_) => parse_bound(rest)?,
            None => from,
        };
        ranges.push((from, to));
    }
    Ok(Element::Class(Box::new(Class { negated, ranges })))
}

fn parse_bound(rest: &mut Peekable<Chars<'_>>) -> Result<char, SyntaxError> {
    match rest.next() {
        None => Err(SyntaxError::OpenClass),
        Some(c @ ('-' | ']')) => Err(SyntaxError::InClass(c)),
        Some('\\') => rest.next().ok_or(SyntaxError::Backslash),
        Some(c) => Ok(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test_data() -> serde_json::Value {
        serde_json::from_str(include_str!("../../testdata/glob.json")).unwrap()
    }

    #[test]
    fn every_case_of_the_test_data_comes_out_the_same() {
        for case in test_data()["cases"].as_array().unwrap() {
            let pattern = case["pattern"].as_str().unwrap();
            let name = case["name"].as_str().unwrap();
            let matched = case["match"].as_bool().unwrap();
            assert_eq!(matched, matches(pattern, name), "{pattern:?} {name:?}");
            let malformed = case["bad_pattern_error"].as_bool().unwrap();
            assert_eq!(malformed, Pattern::parse(pattern).is_err(), "{pattern:?}");
        }
    }

    #[test]
    fn policies_accept_the_patterns_that_the_test_data_accepts() {
        for case in test_data()["policy_pattern_validation"].as_array().unwrap() {
            let pattern = case["pattern"].as_str().unwrap();
            let accepted = case["accepted_as_policy_pattern"].as_bool().unwrap();
            assert_eq!(accepted, Pattern::parse(pattern).is_ok(), "{pattern:?}");
        }
    }

    #[test]
    fn a_pattern_remembers_how_it_was_written() {
        assert_eq!("/v1/[\\]]*", Pattern::parse("/v1/[\\]]*").unwrap().as_str());
    }

    #[test]
    fn many_stars_do_not_take_forever() {
        let pattern = "a*".repeat(100) + "b";
        let name = "a".repeat(5_000);
        assert!(!matches(&pattern, &name));
        assert!(matches(&pattern, &(name + "b")));
    }

    #[test]
    fn no_pair_takes_more_than_its_effort() {
        let classes = "[".to_owned() + &"x-z".repeat(20_000) + "]";
        for (pattern, name) in [
            ("*".to_owned() + &"a".repeat(30_000) + "b", "a".repeat(60_000)),
            ("*".to_owned() + &"?".repeat(30_000) + "b", "a".repeat(60_000)),
            ("*".to_owned() + &classes, "a".repeat(60_000)),
        ] {
            let pattern = Pattern::parse(&pattern).unwrap();
            let mut effort = Effort::ONE_NAME;
            assert!(!pattern.matches(&name, &mut effort) && effort.is_exhausted());
            assert!(!pattern.matches("a", &mut effort), "there is none left");
        }
        let mut effort = Effort::ONE_NAME;
        assert!(
            Pattern::parse("/v1/key/*/my-*").unwrap().matches("/v1/key/create/my-key", &mut effort)
        );
        assert!(!effort.is_exhausted());
    }

    #[test]
    fn many_names_have_more_effort_and_no_less_than_one_has() {
        let steps = |count| Effort::for_names(count).0;
        assert!(steps(0) >= Effort::ONE_NAME.0);
        assert!(steps(100_000) - steps(0) >= 100_000 * 500, "plenty for each name");
        assert!(steps(100_000) < 1_000_000_000, "some seconds");
        // A class takes a step for each of its ranges, and one more.
        let pattern = Pattern::parse("[a-cx-z]").unwrap();
        for (steps, enough) in [(1, false), (4, false), (5, true)] {
            assert_eq!(enough, pattern.matches("z", &mut Effort::of(steps)), "{steps}");
        }
    }

    #[test]
    fn patterns_overlap_if_some_name_fits_both() {
        let overlap = |a: &str, b: &str| {
            let (a, b) = (Pattern::parse(a).unwrap(), Pattern::parse(b).unwrap());
            let overlap = |a: &Pattern, b| a.overlaps(b, &mut Effort::of(1000));
            assert_eq!(overlap(&a, &b), overlap(&b, &a), "{a:?} {b:?}");
            overlap(&a, &b)
        };
        for (a, b) in [
            ("/v1/key/create/*", "/v1/key/create/my-*"),
            ("/v1/key/create/*", "/v1/key/*/x"),
            ("/v1/*/*/*", "/v1/key/create/*"),
            ("/v1/[jk]ey/*", "/v1/key/*"),
            ("a*c", "*b*"),
            ("[^a]", "[^b]"),
            ("[a-f]", "[f-z]"),
            ("[^b-z]", "?"),
            ("/v1[^a]key", "/v1/key"),
            ("", "*"),
            ("**", "*"),
            ("a*b", "*"),
            ("*a*", "*b*"),
            ("\\*", "*"),
        ] {
            assert!(overlap(a, b), "{a} {b}");
        }
        for (a, b) in [
            ("/v1/key/create/*", "/v1/key/crate/*"),
            ("/v1/key/create/*", "/v1/key/create"),
            ("/v1/key/create/*", "/v1/*"),
            ("/v1/key/create/*", "/v1/key/create/a/b"),
            ("[a-e]", "[f-z]"),
            ("[z-a]", "*"),
            ("[/]", "?"),
            ("[^a]", "a"),
            ("\\*", "a"),
            ("", "?"),
            ("a*", "b*"),
        ] {
            assert!(!overlap(a, b), "{a} {b}");
        }
    }

    #[test]
    fn a_negated_class_crosses_a_slash_and_a_star_does_not() {
        assert!(matches("/v1[^a]key", "/v1/key"));
        assert!(!matches("/v1*key", "/v1/key"));
        assert!(!matches("/v1?key", "/v1/key"));
        assert!(!matches("*b", "a/b"));
    }

    #[test]
    fn a_pattern_reaches_as_far_as_its_beginning_matches() {
        for (pattern, name, reach) in [
            ("/a/b", "/a/b", 4),
            ("/a/b", "/a/bc", 4),
            ("/a/c", "/a/b", 3),
            ("x", "/a", 0),
            ("", "/a", 0),
            ("/*", "/ab/c", 3),
            ("/*/[c-d]x", "/ab/c", 5),
            ("\u{fc}?", "\u{fc}\u{fc}\u{fc}", 4),
        ] {
            let pattern = Pattern::parse(pattern).unwrap();
            let mut effort = Effort::ONE_NAME;
            assert_eq!(reach, pattern.reach(name, &mut effort), "{} {name}", pattern.as_str());
        }
    }

    #[test]
    fn an_escaped_name_is_matched_and_no_other() {
        for name in ["", "a", "*", "?", "[", "]", "[a]", "[^", "-", "\\", "a\\*", "\u{e9}-]^"] {
            let pattern = escape(name);
            assert!(matches(&pattern, name), "{pattern}");
            assert!(!matches(&pattern, &format!("{name}x")), "{pattern}");
            let other = name.replace(['*', '?'], "x");
            assert_eq!(other == name, matches(&pattern, &other), "{pattern}");
        }
    }

    #[test]
    fn the_error_says_why_a_pattern_is_malformed() {
        for (pattern, why) in [
            ("a[", "a '[' has no ']'; write '[[]' for the character"),
            ("[a", "a '[' has no ']'; write '[[]' for the character"),
            ("[]", "a character is missing before ']' in '[...]'"),
            ("[a-]", "a character is missing before ']' in '[...]'"),
            ("[-a]", "a character is missing before '-' in '[...]'"),
            ("a\\", "nothing follows the last '\\'"),
            ("[\\", "nothing follows the last '\\'"),
        ] {
            let wanted = format!("syntax error in pattern: {why}");
            assert_eq!(wanted, Pattern::parse(pattern).unwrap_err().to_string());
        }
    }

    #[test]
    fn a_name_is_matched_by_character_and_not_by_byte() {
        assert!(matches("?", "ü"));
        assert!(matches("[ä-ü]", "ö"));
        assert!(!matches("??", "ü"));
    }
}
