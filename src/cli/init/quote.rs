//! Words for a shell and for YAML.

/// `word` as one word of a shell.
pub(crate) fn shell(word: &str) -> String {
    match is_plain(word) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

/// `text` as a value in YAML. JSON texts are values of YAML, too.
pub(crate) fn yaml(text: &str) -> String {
    match is_plain(text) && text.starts_with(|c: char| c == '/' || c.is_ascii_alphanumeric()) {
        true => text.to_owned(),
        false => serde_json::Value::from(text).to_string(),
    }
}

fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-:,@%+".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_a_shell_or_yaml_would_read_more_into_them() {
        for (text, in_shell, in_yaml) in [
            ("/etc/kes/a.key", "/etc/kes/a.key", "/etc/kes/a.key"),
            ("https://h:8200", "https://h:8200", "https://h:8200"),
            ("/a b/$c", "'/a b/$c'", "\"/a b/$c\""),
            ("/it's #1", "'/it'\\''s #1'", "\"/it's #1\""),
            ("", "''", "\"\""),
            ("[::]:7373", "'[::]:7373'", "\"[::]:7373\""),
        ] {
            assert_eq!((in_shell, in_yaml), (&*shell(text), &*yaml(text)));
        }
    }
}
