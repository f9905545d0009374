//! Environment variables in values of the configuration file.
//!
//! The rules of the formats with a `root` are those of Go's `os.ExpandEnv`, applied to values of the form
//! `${...}` only, so that a `$` in a password or a path stays what it is. In the newest format such a value
//! is the name of one variable. Which variables are not set is said, as a value must not become empty by
//! mistake.

/// Looks up an environment variable by name.
pub(super) type Env = fn(&str) -> Option<String>;

/// What becomes of variables in the value of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expansion {
    /// They are replaced if the value starts with `${` and ends with `}`, apart from blanks.
    Whole,
    /// They are replaced wherever they are, and blanks around the value go.
    Parts,
    /// The value is replaced if it starts with `${` and ends with `}`, apart from blanks. All that is between
    /// is the name of one variable.
    Name,
    /// They stay what they are.
    Never,
}

/// A value with its variables replaced.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Expanded {
    pub(super) text: String,
    /// The variables that are not set, or empty.
    pub(super) unset: Vec<String>,
}

impl Expansion {
    /// Whether variables in `value` are replaced.
    pub(super) fn applies_to(self, value: &str) -> bool {
        match self {
            Self::Whole | Self::Name => {
                let trimmed = value.trim();
                trimmed.starts_with("${") && trimmed.ends_with('}') || is_credential(value)
            }
            Self::Parts => value.contains('$'),
            Self::Never => false,
        }
    }

    /// `value` with its variables replaced where that is done.
    pub(super) fn expand(self, value: &str, env: Env) -> Expanded {
        let value = if self == Self::Parts { value.trim() } else { value };
        match self.applies_to(value) {
            true if self == Self::Name && !is_credential(value) => named(value.trim(), env),
            true => replace(value.trim(), env),
            false => Expanded { text: value.to_owned(), ..Expanded::default() },
        }
    }

    /// Where a variable in `value`, which this does not apply to, stays what it is, and what to do.
    pub(super) fn unreplaced(self, value: &str) -> Option<(&'static str, &'static str)> {
        let is_name = |name: &str| {
            !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_')
        };
        let mut after = value.split("${").skip(1);
        let has_variable =
            after.any(|after| after.split_once('}').is_some_and(|(name, _)| is_name(name)));
        has_variable.then_some(match self {
            Self::Never => ("in the paths of a policy", "write the path out"),
            _ => (
                "in the middle of a value",
                "write a value that is ${NAME} as a whole, or write it out",
            ),
        })
    }
}

/// Whether `value` is one of the files that the service manager has made for the server alone, such as
/// `${CREDENTIALS_DIRECTORY}/vault-secret`.
pub(super) fn is_credential(value: &str) -> bool {
    let name = value.trim().strip_prefix("${CREDENTIALS_DIRECTORY}/");
    name.is_some_and(|name| !name.is_empty() && !name.contains(['/', '$', '}']))
}

/// The value of the variable that `value`, such as `${name}`, is.
fn named(value: &str, env: Env) -> Expanded {
    let name = value.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
    let name = name.unwrap_or_default().trim();
    match env(name).filter(|value| !value.is_empty()) {
        Some(text) => Expanded { text, unset: Vec::new() },
        None => Expanded { text: String::new(), unset: vec![name.to_owned()] },
    }
}

/// `value` with all `$name` and `${name}` replaced; a variable that is not set is empty.
fn replace(value: &str, env: Env) -> Expanded {
    let mut expanded = Expanded::default();
    // Each `${` behind the last bracket would be searched for one up to the end of the value.
    let last_bracket = value.rfind('}');
    let mut rest = value;
    while let Some((before, after)) = rest.split_once('$') {
        expanded.text += before;
        let is_closed = last_bracket.is_some_and(|last| value.len() - after.len() <= last);
        let (name, after) = split_name(after, is_closed);
        match name {
            Some(name) => match env(name).filter(|value| !value.is_empty()) {
                Some(value) => expanded.text += &value,
                None => expanded.unset.push(name.to_owned()),
            },
            None => expanded.text.push('$'),
        }
        rest = after;
    }
    expanded.text += rest;
    expanded
}

/// The variable's name after a `$`, and what follows; `is_closed` if there is a `}`. No name means that
/// the `$` is only that; a malformed `${` or `${}` has the empty name, which is never set.
fn split_name(text: &str, is_closed: bool) -> (Option<&str>, &str) {
    if let Some(inner) = text.strip_prefix('{') {
        return match is_closed.then(|| inner.split_once('}')).flatten() {
            Some((name, after)) => (Some(name), after),
            None => (Some(""), inner),
        };
    }
    let special = |c: char| c.is_ascii_digit() || "*#$@!?-".contains(c);
    let end = if text.starts_with(special) {
        1
    } else {
        text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len())
    };
    let (name, after) = text.split_at(end);
    ((!name.is_empty()).then_some(name), after)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "A" => Some("1".into()),
            "B_2" => Some("two".into()),
            "" => None,
            "x y" => Some("odd".into()),
            _ => None,
        }
    }

    #[test]
    fn only_values_of_the_whole_form_are_expanded() {
        for (value, expanded) in [
            ("${A}", "1"),
            ("  ${B_2} ", "two"),
            ("${A}/$B_2/${A}", "1/two/1"),
            ("${x y}", "odd"),
            ("${UNSET}", ""),
            ("${}", ""),
            ("a${A}", "a${A}"),
            ("${A}b", "${A}b"),
            ("$A", "$A"),
            (" a ", " a "),
            ("${", "${"),
            ("", ""),
        ] {
            let found = Expansion::Whole.expand(value, env);
            assert_eq!(expanded, found.text, "{value:?}");
            assert_eq!(value.to_owned(), Expansion::Never.expand(value, env).text);
        }
    }

    #[test]
    fn names_end_where_the_shell_ends_them() {
        for (value, expanded) in [
            ("a$A", "a1"),
            ("$A-$B_2.", "1-two."),
            ("$", "$"),
            ("$ A", "$ A"),
            ("$1A", "A"),
            ("$$A", "A"),
            ("${A", "A"),
            ("ü$ü", "ü$ü"),
        ] {
            let found = Expansion::Parts.expand(value, env);
            assert_eq!(expanded, found.text, "{value:?}");
        }
    }

    #[test]
    fn values_of_variables_are_not_expanded_again() {
        let env = |_: &str| Some("${A}".to_owned());
        assert_eq!("${A}", Expansion::Whole.expand("${A}", env).text);
    }

    #[test]
    fn variables_that_are_not_set_are_named() {
        let env = |name: &str| match name {
            "EMPTY" => Some(String::new()),
            name => env(name),
        };
        for (value, unset) in [
            ("${A}", &[][..]),
            ("${NONE}", &["NONE"]),
            ("${A}$NONE/${EMPTY}", &["NONE", "EMPTY"]),
            ("${}", &[""]),
            ("x${NONE}", &[]),
        ] {
            let found = Expansion::Whole.expand(value, env);
            assert_eq!(unset, found.unset, "{value:?}");
        }
        assert_eq!(["N"], *Expansion::Parts.expand("x$N", env).unset);
    }
}
