//! A rule of a policy: the paths that it means, in the language of either generation.

use crate::base::glob::{Effort, Pattern, SyntaxError};

/// The request paths that are allowed or denied. Remembers how it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Those that a pattern matches, whose `*` does not cross a `/` (KES up to 0.14, and those of 2022).
    Glob(Pattern),
    /// Those that begin like this text, up to the `*` at its end (the newest generation).
    Prefix(Box<str>),
    /// This one; none if it is empty (the newest generation).
    Exact(Box<str>),
}

impl Rule {
    /// The rule that `text` is as a glob pattern.
    ///
    /// # Errors
    /// If it is malformed.
    pub fn glob(text: &str) -> Result<Self, SyntaxError> {
        Pattern::parse(text).map(Self::Glob)
    }

    /// The rule that `text` is in the newest generation: a `*` at its end stands for anything, also for text
    /// with a `/`; other characters stand for themselves.
    pub fn prefix(text: &str) -> Self {
        match text.ends_with('*') {
            true => Self::Prefix(text.into()),
            false => Self::Exact(text.into()),
        }
    }

    /// The rule as it was written.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Glob(pattern) => pattern.as_str(),
            Self::Prefix(text) | Self::Exact(text) => text,
        }
    }

    /// Whether `path` (decoded, without query) is one of the paths; `false` also if that takes more than
    /// `effort`.
    pub fn matches(&self, path: &str, effort: &mut Effort) -> bool {
        match self {
            Self::Glob(pattern) => pattern.matches(path, effort),
            Self::Prefix(_) => path.starts_with(self.beginning()),
            Self::Exact(text) => !text.is_empty() && **text == *path,
        }
    }

    /// The length of the longest start of `path`, in bytes, that a start of the rule covers, as far as
    /// `effort` goes.
    pub(super) fn reach(&self, path: &str, effort: &mut Effort) -> usize {
        match self {
            Self::Glob(pattern) => pattern.reach(path, effort),
            Self::Prefix(_) | Self::Exact(_) => {
                let pairs = self.beginning().bytes().zip(path.bytes());
                pairs.take_while(|(rule, path)| rule == path).count()
            }
        }
    }

    /// The text that paths begin with or, of an exact rule, consist of.
    fn beginning(&self) -> &str {
        let text = self.as_str();
        text.strip_suffix('*').unwrap_or(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(rule: &Rule, path: &str) -> bool {
        rule.matches(path, &mut { Effort::ONE_NAME })
    }

    #[test]
    fn a_star_at_the_end_is_anything_and_everything_else_is_itself() {
        for (text, paths, others) in [
            (
                "/v1/key/*",
                &["/v1/key/", "/v1/key/create/a", "/v1/key/*"][..],
                &["/v1/key", "/"][..],
            ),
            ("*", &["", "/", "/v1/key/create/a"], &[]),
            ("/v1/key/create/my-app*", &["/v1/key/create/my-app-1"], &["/v1/key/create/my-"]),
            ("/version", &["/version"], &["/version/", "/versio", ""]),
            ("/v1/*/a", &["/v1/*/a"], &["/v1/key/a", "/v1//a"]),
            ("/v1/key/**", &["/v1/key/*", "/v1/key/*a"], &["/v1/key/a"]),
            ("/v1/ke?/a", &["/v1/ke?/a"], &["/v1/key/a"]),
            ("/v1/[kj]ey/*", &["/v1/[kj]ey/a"], &["/v1/key/a"]),
            ("", &[], &["", "/"]),
        ] {
            let rule = Rule::prefix(text);
            assert_eq!(text, rule.as_str());
            for path in paths {
                assert!(matches(&rule, path), "{text:?} {path:?}");
            }
            for path in others {
                assert!(!matches(&rule, path), "{text:?} {path:?}");
            }
        }
    }

    #[test]
    fn a_glob_is_a_pattern() {
        let rule = Rule::glob("/v1/key/*").unwrap();
        assert!(matches(&rule, "/v1/key/a") && !matches(&rule, "/v1/key/create/a"));
        assert_eq!("/v1/key/*", rule.as_str());
        assert!(Rule::glob("/v1/[").is_err());
    }

    #[test]
    fn a_rule_reaches_as_far_as_the_path_is_like_it() {
        for (text, path, reach) in [
            ("/v1/key/*", "/v1/key/create/a", 8),
            ("/v1/key/*", "/v1/log/audit", 4),
            ("/version", "/version/", 8),
            ("", "/a", 0),
        ] {
            assert_eq!(
                reach,
                Rule::prefix(text).reach(path, &mut { Effort::ONE_NAME }),
                "{text:?}"
            );
        }
    }
}
