//! What to do about a call that no path of a policy matches: the path that would allow it, or what is
//! wrong with the call, so that no policy helps.

use crate::{
    api::{
        key,
        routes::{self, Argument, Route},
    },
    base::{
        generation::Generation,
        glob,
        name::{self, Unsafe},
    },
};

/// A path that is longer than this when it is quoted, in bytes, is not advised.
const MAX_ADVISED: usize = 512;

/// What to do about a refused call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Add this pattern to the policy: it allows the call and, but for lists and overlong names, no
    /// other.
    Add(String),
    /// No policy helps, because of this.
    Mend(String),
}

impl Advice {
    /// The advice for a refused call of `path` in `generation`.
    pub fn for_call(path: &str, generation: Generation) -> Self {
        let no_api = || Self::Mend("no API has this path".to_owned());
        let Some(route) = routes::find(path, generation) else { return no_api() };
        let path = &*route.slashed(path);
        if generation == Generation::V0_14 && !route.matches(path) {
            return no_api();
        }
        match missing(route, path.strip_prefix(route.path).unwrap_or_default(), generation) {
            Some(missing) => Self::Mend(missing),
            None if generation == Generation::Newest => Self::Add(path.to_owned()),
            None => Self::Add(pattern(route, path)),
        }
    }
}

/// The pattern that allows calls of `path`, which `route` serves.
fn pattern(route: &Route, path: &str) -> String {
    let exact = match route.argument {
        // Most patterns match their own text, and a policy that allows the list `my-*` allows `my-a*`, too.
        Argument::Pattern if !path.contains(['?', '[', '\\']) && path != route.path => {
            path.to_owned()
        }
        Argument::Pattern => route.pattern.to_owned(),
        _ => glob::escape(path),
    };
    match quoted(&exact).len() <= MAX_ADVISED {
        true => exact,
        false => route.pattern.to_owned(),
    }
}

/// What the `names` behind the path of `route` lack, as a sentence about the request.
fn missing(route: &Route, names: &str, generation: Generation) -> Option<String> {
    let is_newest = generation == Generation::Newest;
    let check = |what, name| match name::check(name) {
        Err(Unsafe::Empty) => Some(format!("the request names no {what}")),
        Err(why) => Some(format!("the name of the {what} {why}")),
        Ok(()) if is_newest && !name::is_plain(name) => {
            Some(format!("the name of the {what} can't be one ({})", name::PLAIN))
        }
        Ok(()) => None,
    };
    let check_identity = |identity: &str| match identity {
        "" => Some("the request names no identity".to_owned()),
        _ if is_newest && !name::is_plain(identity) => {
            Some(format!("the identity can't be one ({})", name::PLAIN))
        }
        _ => None,
    };
    match route.argument {
        Argument::Pattern if is_newest => {
            let goes_on = route.path == routes::KEY_LIST && key::continued(names).is_some();
            let start = names.strip_suffix('*').unwrap_or(names);
            (!goes_on && !name::is_plain_start(start))
                .then(|| format!("no names begin so ({})", name::PLAIN))
        }
        Argument::None | Argument::Pattern => None,
        Argument::KeyName => check("key", names),
        Argument::PolicyName => check("policy", names),
        Argument::Identity => check_identity(names),
        Argument::PolicyAndIdentity => {
            let (policy, identity) = names.split_once('/').unwrap_or((names, ""));
            check("policy", policy).or_else(|| check_identity(identity))
        }
    }
}

/// `text` in double quotes, as JSON and YAML both read it, without a character that a terminal would
/// not show or YAML not take.
pub fn quoted(text: &str) -> String {
    let json = serde_json::Value::from(text).to_string();
    let mut quoted = String::with_capacity(json.len());
    for c in json.chars() {
        match u16::try_from(u32::from(c)) {
            Ok(code) if !matches!(c, ' '..='~') && !c.is_alphanumeric() => {
                quoted.push_str(&format!("\\u{code:04x}"));
            }
            _ => quoted.push(c),
        }
    }
    quoted
}

#[cfg(test)]
mod tests {
    use granit_parser::Event;

    use super::*;
    use crate::{
        api::routes::ROUTES,
        policy::{Policies, Policy, Rule, Verdict},
    };

    const OLD: Generation = Generation::V0_14;

    /// Names that mean something to a glob, to YAML, to JSON, to a terminal or to a path.
    const NASTY: &[&str] = &[
        "a",
        "*",
        "?",
        "[",
        "]",
        "[a-z]*",
        "[^a]",
        "a-*",
        "my-[",
        "a?b",
        "-",
        "- a",
        "a: b",
        "a #b",
        "#",
        "&a",
        "!a",
        "%41",
        "{a}",
        "a,b",
        "'a'",
        "\"a\"",
        "${HOME}",
        "$",
        "a\\",
        "\\*",
        "\\\\",
        "a\u{85}b",
        "\u{7f}",
        "\u{1}\n\t",
        "\u{e9}",
        "e\u{301}",
        "\u{feff}a",
        "\u{2028}",
        "\u{202e}evil",
        "\u{1f511}",
        "\u{10ffff}",
        "\u{ffff}",
        "true",
        "~",
        " a ",
        "",
        ".",
        "..",
    ];

    /// Every call of every route with the nasty names, and with long ones.
    fn calls() -> Vec<(&'static Route, String)> {
        let long = [250, 255, 256, 300, 4000].map(|count| "*".repeat(count));
        let names: Vec<&str> = NASTY.iter().copied().chain(long.iter().map(|n| &**n)).collect();
        let mut calls = Vec::new();
        for route in ROUTES {
            match route.argument {
                Argument::None => calls.push((route, route.path.to_owned())),
                Argument::PolicyAndIdentity => {
                    for (at, name) in names.iter().enumerate() {
                        let other = names[names.len() - 1 - at];
                        for names in
                            [format!("{name}/a"), format!("a/{name}"), format!("{name}/{other}")]
                        {
                            calls.push((route, format!("{}{names}", route.path)));
                        }
                    }
                }
                _ => {
                    calls.extend(names.iter().map(|name| (route, format!("{}{name}", route.path))));
                    calls.push((route, route.path.trim_end_matches('/').to_owned()));
                }
            }
        }
        calls
    }

    /// What a policy with these paths says to a call.
    fn verdict(policy: &str, path: &str) -> bool {
        let mut builder = Policies::builder("root", &[]);
        let apps = "apps".into();
        let allow = vec![Rule::glob(policy).expect(policy)];
        builder.define(&apps, Policy { allow, deny: Vec::new() }.into());
        builder.assign(&apps, "app").expect("it has none");
        matches!(builder.build().why("app", path), Verdict::Allowed { .. })
    }

    #[test]
    fn an_advised_path_allows_the_call_as_json_and_as_yaml() {
        let mut advised = 0;
        for (route, path) in calls() {
            let Advice::Add(pattern) = Advice::for_call(&path, OLD) else {
                continue;
            };
            advised += 1;
            let shown = quoted(&pattern);
            assert!(shown.len() <= MAX_ADVISED, "{shown}");
            let json: String = serde_json::from_str(&shown).expect(&shown);
            assert_eq!(pattern, json);
            let is_yaml = granit_parser::Parser::new_from_str(&shown)
                .any(|event| matches!(event, Ok((Event::Scalar(text, ..), _)) if *text == pattern));
            assert!(is_yaml, "{shown}");
            assert!(verdict(&pattern, &route.slashed(&path)), "{path:?}: {pattern:?}");
        }
        assert!(advised > 500, "{advised}");
    }

    #[test]
    fn what_a_terminal_would_not_show_is_escaped_and_all_else_is_as_it_was() {
        for (text, shown) in [
            ("/v1/key/create/a-_.~*", r#""/v1/key/create/a-_.~*""#),
            ("a \"b\" \\", r#""a \"b\" \\""#),
            ("\u{e9}\u{1f511}", "\"\u{e9}\u{1f511}\""),
            ("\u{7f}\u{2028}\u{202e}", r#""\u007f\u2028\u202e""#),
        ] {
            assert_eq!(shown, quoted(text));
        }
    }

    #[test]
    fn a_path_that_is_too_long_to_be_copied_is_advised_as_the_pattern_of_its_api() {
        for (stars, is_exact) in [(165, true), (166, false)] {
            let path = format!("/v1/key/create/{}", "*".repeat(stars));
            let Advice::Add(pattern) = Advice::for_call(&path, OLD) else {
                panic!("{path}");
            };
            assert_eq!(is_exact, pattern != "/v1/key/create/*", "{pattern}");
        }
    }

    #[test]
    fn an_advised_path_allows_no_other_call() {
        for (route, path) in calls() {
            let Advice::Add(pattern) = Advice::for_call(&path, OLD) else {
                continue;
            };
            if route.argument == Argument::Pattern || pattern == route.pattern {
                continue;
            }
            assert!(!verdict(&pattern, &format!("{path}x")), "{path:?}: {pattern:?}");
            let other = path.replace(['*', '?'], "x");
            assert_eq!(other == path, verdict(&pattern, &other), "{path:?}: {pattern:?}");
        }
    }

    #[test]
    fn a_call_that_no_policy_helps_gets_no_pattern() {
        for (path, advice) in [
            ("/v1/key/create/", "the request names no key"),
            ("/v1/key/create", "the request names no key"),
            ("/v1/key/generate/..", "the name of the key means a directory"),
            ("/v1/key/delete/a\\b", "the name of the key contains '\\'"),
            ("/v1/key/delete/a\nb", "the name of the key contains a control character"),
            ("/v1/policy/read/", "the request names no policy"),
            ("/v1/identity/assign//a", "the request names no policy"),
            ("/v1/identity/assign/a/", "the request names no identity"),
            ("/v1/identity/forget/", "the request names no identity"),
            ("/v1/key/create/a/b", "no API has this path"),
            ("/v1/key/crate/a", "no API has this path"),
        ] {
            assert_eq!(Advice::Mend(advice.to_owned()), Advice::for_call(path, OLD), "{path}");
        }
        let long = format!("/v1/key/create/{}", "a".repeat(256));
        let advice = "the name of the key is longer than 255 bytes".to_owned();
        assert_eq!(Advice::Mend(advice), Advice::for_call(&long, OLD));
    }

    #[test]
    fn lists_are_advised_as_they_are_written() {
        for (path, pattern) in [
            ("/v1/key/list", "/v1/key/list/*"),
            ("/v1/key/list/", "/v1/key/list/*"),
            ("/v1/key/list/*", "/v1/key/list/*"),
            ("/v1/key/list/my-*", "/v1/key/list/my-*"),
            ("/v1/policy/list/[ab]", "/v1/policy/list/*"),
            ("/v1/identity/list/a?", "/v1/identity/list/*"),
        ] {
            assert_eq!(Advice::Add(pattern.to_owned()), Advice::for_call(path, OLD), "{path}");
        }
    }

    #[test]
    fn in_the_newest_generation_the_path_itself_is_advised() {
        let advice = |path| Advice::for_call(path, Generation::Newest);
        for (path, pattern) in [
            ("/v1/key/create/my-key", "/v1/key/create/my-key"),
            ("/v1/key/list", "/v1/key/list/"),
            ("/v1/key/list/my-*", "/v1/key/list/my-*"),
            ("/v1/key/list/my-**my-key", "/v1/key/list/my-**my-key"),
            ("/v1/identity/describe/a-1", "/v1/identity/describe/a-1"),
            ("/v1/status", "/v1/status"),
        ] {
            assert_eq!(Advice::Add(pattern.to_owned()), advice(path), "{path}");
        }
        for path in [
            "/v1/key/create/",
            "/v1/key/create/a.b",
            "/v1/key/create/a*",
            "/v1/policy/write/a",
            "/v1/identity/describe/a.b",
            "/v1/key/list/my.app*",
            "/v1/key/list/*-app",
            "/v1/key/list/my-**other",
            "/v1/policy/list/my-**my-policy",
        ] {
            assert!(matches!(advice(path), Advice::Mend(_)), "{path}");
        }
    }
}
