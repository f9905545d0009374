//! Environment variables in values of the configuration file.
//!
//! The rules are those of Go's `os.ExpandEnv`, applied to values of the form `${...}` only, so that
//! a `$` in a password or a path stays what it is.

/// Looks up an environment variable by name.
pub(super) type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// `value` with its variables replaced if it starts with `${` and ends with `}` (apart from blanks).
pub(super) fn expand(value: String, env: Env<'_>) -> String {
    if is_expanded(&value) {
        expand_always(value.trim(), env)
    } else {
        value
    }
}

/// Whether variables are replaced in `value`.
pub(super) fn is_expanded(value: &str) -> bool {
    let trimmed = value.trim();
    trimmed.starts_with("${") && trimmed.ends_with('}')
}

/// `value` with all `$name` and `${name}` replaced; a variable that is not set is empty.
pub(super) fn expand_always(value: &str, env: Env<'_>) -> String {
    let mut expanded = String::new();
    let mut rest = value;
    while let Some((before, after)) = rest.split_once('$') {
        expanded += before;
        let (name, after) = split_name(after);
        match name {
            Some(name) => expanded += &env(name).unwrap_or_default(),
            None => expanded.push('$'),
        }
        rest = after;
    }
    expanded + rest
}

/// The variable's name after a `$`, and what follows. No name means that the `$` is only that; a
/// malformed `${` or `${}` has the empty name, which is never set.
fn split_name(text: &str) -> (Option<&str>, &str) {
    if let Some(inner) = text.strip_prefix('{') {
        return match inner.split_once('}') {
            Some((name, after)) => (Some(name), after),
            None => (Some(""), inner),
        };
    }
    let special = |c: char| c.is_ascii_digit() || "*#$@!?-".contains(c);
    let end = if text.starts_with(special) {
        1
    } else {
        text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(text.len())
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
            assert_eq!(expanded, expand(value.into(), &env), "{value:?}");
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
            assert_eq!(expanded, expand_always(value, &env), "{value:?}");
        }
    }

    #[test]
    fn values_of_variables_are_not_expanded_again() {
        let env = |_: &str| Some("${A}".to_owned());
        assert_eq!("${A}", expand("${A}".into(), &env));
    }
}
