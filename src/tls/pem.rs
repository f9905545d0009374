//! PEM text, with the headers that RFC 1421 knows and RFC 7468 has dropped.

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// A block of PEM text.
pub(super) struct Block<'a> {
    /// What it holds, such as `PRIVATE KEY`.
    pub(super) label: &'a str,
    /// The lines before the empty line, if there is one.
    headers: Vec<(&'a str, &'a str)>,
    /// Its bytes.
    pub(super) body: Vec<u8>,
}

impl<'a> Block<'a> {
    /// The first block whose label ends like `label`; `None` also if it is malformed.
    pub(super) fn find(text: &'a [u8], label: &str) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let mut lines = text.lines().map(str::trim);
        let found = lines.find_map(|line| {
            let found = line.strip_prefix("-----BEGIN ")?.strip_suffix("-----")?;
            found.ends_with(label).then_some(found)
        })?;
        let mut headers = Vec::new();
        let mut base64 = String::new();
        for line in lines {
            if let Some(end) = line.strip_prefix("-----END ") {
                let body = (end.strip_suffix("-----") == Some(found))
                    .then(|| STANDARD.decode(base64.as_bytes()).ok())??;
                return Some(Self { label: found, headers, body });
            }
            match line.split_once(':') {
                Some((name, value)) => headers.push((name, value.trim())),
                None => base64.push_str(line),
            }
        }
        None
    }

    /// The value of a header.
    pub(super) fn header(&self, name: &str) -> Option<&'a str> {
        self.headers.iter().find(|(own, _)| *own == name).map(|(_, value)| *value)
    }
}

/// `der` as PEM text.
pub fn write(label: &str, der: &[u8]) -> String {
    write_with(label, "", der)
}

/// The same with headers, which end with an empty line.
pub(super) fn write_with(label: &str, headers: &str, der: &[u8]) -> String {
    let lines = der.chunks(48).map(|line| STANDARD.encode(line) + "\n").collect::<String>();
    format!("-----BEGIN {label}-----\n{headers}{lines}-----END {label}-----\n")
}
