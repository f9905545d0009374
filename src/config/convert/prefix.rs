//! Glob patterns of policies as rules of the newest generation, which allow the same requests and no others.
//!
//! A pattern is followed through the path of each API; what is left of it says which arguments match. That is
//! a rule if it is text, with or without a `*` at its end. Knows nothing of files.

use crate::base::{
    glob::{Effort, Pattern},
    name,
};

/// An API, as far as paths go.
pub(super) struct Api<'a> {
    /// The path up to the argument.
    path: &'a str,
    takes_argument: bool,
    /// Whether the newest generation has it.
    is_newest: bool,
}

impl<'a> Api<'a> {
    /// The API whose paths match `pattern`.
    pub(super) fn new(pattern: &'a str, is_newest: bool) -> Self {
        let (path, takes_argument) = match pattern.split_once('*') {
            Some((path, _)) => (path, true),
            None => (pattern, false),
        };
        Self { path, takes_argument, is_newest }
    }

    /// Whether the argument is a pattern, and in the newest generation what names begin with.
    fn is_list(&self) -> bool {
        self.path.ends_with("/list/")
    }
}

/// What a pattern is in the newest generation.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Translation {
    /// The rules, the first ones for the first APIs.
    pub(super) rules: Vec<String>,
    /// What can't be said by a rule.
    pub(super) lost: Vec<Lost>,
    /// The paths of APIs that match and that the newest generation does not have.
    pub(super) gone: Vec<String>,
}

/// Some arguments of an API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lost {
    /// The path of the API.
    pub(super) api: String,
    /// What the paths start with.
    pub(super) start: String,
    pub(super) is_list: bool,
}

/// Translates a pattern that is well formed.
pub(super) fn translate(pattern: &str, apis: &[Api<'_>]) -> Translation {
    let tokens = tokens(pattern);
    let mut all = Translation::default();
    for api in apis {
        for rest in rests(&tokens, api.path) {
            let Some(rule) = rule(&tokens[rest..], api) else { continue };
            match rule {
                _ if !api.is_newest => push(&mut all.gone, api.path.to_owned()),
                Ok(rule) if !all.rules.iter().any(|known| covers(known, &rule)) => {
                    all.rules.push(rule);
                }
                Ok(_) => {}
                Err(start) => {
                    let (api, is_list) = (api.path.to_owned(), api.is_list());
                    push(&mut all.lost, Lost { api, start, is_list });
                }
            }
        }
    }
    all
}

/// Whether `known` allows all that `rule` does.
pub(super) fn covers(known: &str, rule: &str) -> bool {
    known == rule || known.strip_suffix('*').is_some_and(|start| rule.starts_with(start))
}

/// Whether there is a name of the newest generation with which `rule` allows a path.
pub(super) fn has_names(rule: &str, apis: &[Api<'_>]) -> bool {
    let (text, is_prefix) = match rule.strip_suffix('*') {
        Some(start) => (start, true),
        None => (rule, false),
    };
    apis.iter().any(|api| match text.strip_prefix(api.path) {
        None => is_prefix && api.path.starts_with(text),
        Some("") => true,
        Some(start) if is_prefix => name::is_plain(&format!("{start}x")),
        Some(name) => name::is_plain(name),
    })
}

fn push<T: PartialEq>(all: &mut Vec<T>, one: T) {
    if !all.contains(&one) {
        all.push(one);
    }
}

/// A part of a pattern.
enum Token {
    Char(char),
    One,
    Run,
    Class(Pattern),
}

impl Token {
    fn fits(&self, c: char) -> bool {
        match self {
            Self::Char(own) => *own == c,
            Self::One | Self::Run => c != '/',
            Self::Class(class) => {
                class.matches(c.encode_utf8(&mut [0; 4]), &mut { Effort::ONE_NAME })
            }
        }
    }
}

fn tokens(pattern: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = pattern.chars();
    while let Some(c) = rest.next() {
        tokens.push(match c {
            // Several are as good as one.
            '*' if matches!(tokens.last(), Some(Token::Run)) => continue,
            '*' => Token::Run,
            '?' => Token::One,
            '\\' => Token::Char(rest.next().unwrap_or('\\')),
            '[' => {
                let text = rest.as_str();
                // The shortest text that is a class.
                let ends = text.match_indices(']').map(|(at, _)| at + 1);
                let class = ends.map(|end| (end, Pattern::parse(&format!("[{}", &text[..end]))));
                match class.into_iter().find_map(|(end, class)| Some((end, class.ok()?))) {
                    Some((end, class)) => {
                        rest = text[end..].chars();
                        Token::Class(class)
                    }
                    None => Token::Char('['),
                }
            }
            c => Token::Char(c),
        });
    }
    tokens
}

/// Where the tokens may go on after they have matched all of `path`.
fn rests(tokens: &[Token], path: &str) -> Vec<usize> {
    let mut places = vec![0];
    for c in path.chars() {
        let mut next = Vec::new();
        for place in with_skipped(&places, tokens) {
            let Some(token) = tokens.get(place).filter(|token| token.fits(c)) else { continue };
            let place = if matches!(token, Token::Run) { place } else { place + 1 };
            if !next.contains(&place) {
                next.push(place);
            }
        }
        places = next;
    }
    // A run may be empty, so what follows it is one of its cases.
    let is_case = |place: usize| {
        place > 0 && matches!(tokens[place - 1], Token::Run) && places.contains(&(place - 1))
    };
    places.iter().copied().filter(|place| !is_case(*place)).collect()
}

/// The places, and those behind runs that are empty.
fn with_skipped(places: &[usize], tokens: &[Token]) -> Vec<usize> {
    let mut all = places.to_vec();
    let mut at = 0;
    while let Some(&place) = all.get(at) {
        if matches!(tokens.get(place), Some(Token::Run)) && !all.contains(&(place + 1)) {
            all.push(place + 1);
        }
        at += 1;
    }
    all
}

/// The rule for `tokens` behind the path of `api`, or what the paths start with if no rule can say it; `None` if no
/// request matches.
fn rule(tokens: &[Token], api: &Api<'_>) -> Option<Result<String, String>> {
    let is_run = |token: &Token| matches!(token, Token::Run);
    if !api.takes_argument {
        return tokens.iter().all(is_run).then(|| Ok(api.path.to_owned()));
    }
    // No argument has a slash.
    if tokens.iter().any(|token| matches!(token, Token::Char('/'))) {
        return None;
    }
    let mut rule = api.path.to_owned();
    let mut rest = tokens;
    while let Some((Token::Char(c), after)) = rest.split_first() {
        rule.push(*c);
        rest = after;
    }
    Some(match rest {
        [] if rule.ends_with('*') => Err(rule),
        // That would list all names that begin so.
        [] if api.is_list() && rule != api.path => Err(rule),
        [] => Ok(rule),
        rest if rest.iter().all(is_run) => Ok(rule + "*"),
        _ => Err(rule),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apis() -> Vec<Api<'static>> {
        let both = ["/version", "/v1/key/create/*", "/v1/key/list/*", "/v1/log/audit"];
        let mut apis: Vec<_> = both.into_iter().map(|api| Api::new(api, true)).collect();
        apis.push(Api::new("/v1/policy/write/*", false));
        apis.push(Api::new("/v1/identity/assign/*/*", false));
        apis
    }

    #[test]
    fn a_pattern_becomes_the_rules_that_allow_the_same() {
        for (pattern, rules) in [
            ("/version", &["/version"][..]),
            ("/*", &["/version"]),
            ("/v1/key/create/my-*", &["/v1/key/create/my-*"]),
            ("/v1/key/create/my", &["/v1/key/create/my"]),
            ("/v1/key/create/**", &["/v1/key/create/*"]),
            ("/v1/key/*/my*", &["/v1/key/create/my*", "/v1/key/list/my*"]),
            ("/v1/key/*/*", &["/v1/key/create/*", "/v1/key/list/*"]),
            ("/v1/*/*", &["/v1/log/audit"]),
            ("/v1/k?y/[cl]*/a*", &["/v1/key/create/a*", "/v1/key/list/a*"]),
            ("/v1/key/[^l]*/\\a", &["/v1/key/create/a"]),
            ("/v1/key/*", &[]),
            ("/v1/key/create", &[]),
            ("/v1/key/create/a/b", &[]),
            ("/v1/*", &[]),
            ("v1/key/create/a", &[]),
            ("", &[]),
        ] {
            let Translation { rules: found, lost, .. } = translate(pattern, &apis());
            assert_eq!(rules, found, "{pattern}");
            assert!(lost.is_empty(), "{pattern}");
        }
    }

    fn lost(found: &Translation) -> Vec<&str> {
        found.lost.iter().map(|lost| &*lost.api).collect()
    }

    #[test]
    fn what_no_rule_can_say_is_lost_and_not_widened() {
        for pattern in [
            "/v1/key/create/*-app",
            "/v1/key/create/a?",
            "/v1/key/create/[ab]*",
            "/v1/key/create/\\*",
        ] {
            let found = translate(pattern, &apis());
            assert_eq!(
                (0, vec!["/v1/key/create/"]),
                (found.rules.len(), lost(&found)),
                "{pattern}"
            );
        }
        // One name is not all that begin so.
        let found = translate("/v1/k?y/[cl]*/a", &apis());
        assert_eq!(vec!["/v1/key/create/a"], found.rules);
        assert_eq!(vec!["/v1/key/list/"], lost(&found));
        // A part of it can be said.
        let mut apis = apis();
        apis.push(Api::new("/v1/a/*", true));
        let found = translate("/v1/*/?????", &apis);
        assert_eq!(vec!["/v1/log/audit"], found.rules);
        assert_eq!(vec!["/v1/a/"], lost(&found));
    }

    #[test]
    fn apis_that_are_gone_are_named() {
        assert_eq!(vec!["/v1/policy/write/"], translate("/v1/policy/*/*", &apis()).gone);
        assert_eq!(Translation::default(), translate("/v1/nothing", &apis()));
    }
}
