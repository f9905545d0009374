//! What is given to a server: its configuration file, the flags beside it, and the environment for
//! the variables in it. A field is looked up by its path in the table of `fields`.

use std::{borrow::Cow, fmt, path::PathBuf, time::Duration};

use super::{
    expand::{Env, Expansion, is_credential},
    fields::{Field, Table},
    findings::{At, Findings, Severity, Subject},
    tree::{self, Node, Value},
    types::{Auth, Flags, Format},
};
use crate::base::duration;

/// A file, as far as it can be read, and what goes with it.
pub(super) struct Source {
    /// Where the file is; none if there are flags alone.
    pub(super) path: Option<PathBuf>,
    pub(super) file: Node,
    pub(super) format: Format,
    pub(super) flags: Flags,
    pub(super) env: Env,
    pub(super) table: Table,
}

impl Source {
    /// Reads `text`, the content of the file at `path`.
    pub(super) fn read(
        path: Option<PathBuf>,
        text: &str,
        flags: Flags,
        env: Env,
        table: Table,
        findings: &mut Findings,
    ) -> Self {
        let (mut file, fault) = tree::parse(text);
        if let Some(fault) = fault {
            findings.refuse_text(Some(fault.position), fault.reason, "");
        }
        let format = format(&file, findings).unwrap_or_else(|| {
            findings.is_whole = false;
            file = Node::default();
            Format::KeyStore
        });
        let mut source = Self { path, file, format, flags, env, table };
        if format.is_newest() {
            source.drop_flags(findings);
        }
        source
    }

    /// In the newest format, flags are not in the place of fields, but for the address.
    fn drop_flags(&mut self, findings: &mut Findings) {
        for (flag, field) in
            [("--root", "admin.identity"), ("--key", "tls.key"), ("--cert", "tls.cert")]
        {
            if self.flags.get(flag).is_some() {
                ignored(findings, flag, field, "");
            }
        }
        if let Some(auth) = self.flags.auth {
            let is_weaker = auth == Auth::On && !self.text("tls.auth").eq_ignore_ascii_case("on");
            let effect = match is_weaker {
                true => ", and client certificates are not verified",
                false => "",
            };
            ignored(findings, "--auth", "tls.auth", effect);
        }
        let addr = self.flags.addr.take();
        self.flags = Flags { addr, ..Flags::default() };
    }

    /// The value of a field, unless the file does not have it.
    pub(super) fn find(&self, path: &str) -> Option<&Node> {
        self.file.find(&self.spelled(path))
    }

    /// `path` as the format of the file spells it.
    pub(super) fn spelled<'p>(&self, path: &'p str) -> Cow<'p, str> {
        match (self.format, path.strip_prefix("keystore")) {
            (Format::Keys, Some(rest)) => format!("keys{rest}").into(),
            _ => path.into(),
        }
    }

    /// Where a field is. A field that a flag wins over has no place.
    pub(super) fn at(&self, path: &str) -> At {
        let flag = self.table.find(path).and_then(|field| self.flags.get(field.flag));
        let node = self.find(path).filter(|_| flag.is_none());
        At::new(self.spelled(path), node.map(|node| node.position))
    }

    /// Where a field is missing: the flag that there might be if there is no file.
    pub(super) fn at_missing(&self, path: &str) -> At {
        match &self.path {
            Some(_) => self.at(path),
            None => At::new(self.table.at(path).flag, None),
        }
    }

    /// What the flag or the file says, and where; nothing if that is empty.
    fn given(&self, field: &Field) -> Option<(String, At)> {
        if let Some(text) = self.flags.get(field.flag) {
            return Some((text.to_owned(), At::new(field.flag, None)));
        }
        let text = self.filled_in(field, self.find(field.path)?.text()?).unwrap_or_default();
        (!text.is_empty()).then(|| (text, self.at(field.path)))
    }

    /// The value of a field that the file has as `written`: with its variables replaced or, if it is a secret
    /// and a credential, what the file of that has.
    ///
    /// # Errors
    /// If that file can't be read, or is empty.
    pub(super) fn filled_in(&self, field: &Field, written: &str) -> Result<String, String> {
        let text = self.expansion(field.expansion).expand(written, self.env).text;
        if !field.is_secret() || !is_credential(written) {
            return Ok(text);
        }
        let failed =
            |why: &dyn fmt::Display| format!("failed to read the credential {text}: {why}");
        let mut secret = std::fs::read_to_string(&text).map_err(|e| failed(&e))?;
        secret.truncate(secret.trim_end_matches(['\r', '\n']).len());
        if secret.is_empty() { Err(failed(&"it is empty")) } else { Ok(secret) }
    }

    /// What the flag or the file says, or the default of the field.
    pub(super) fn text(&self, path: &str) -> String {
        let field = self.table.at(path);
        let default = || field.default_in(self.format).to_owned();
        self.given(field).map_or_else(default, |(text, _)| text)
    }

    /// Whether flag or file fill in the field.
    pub(super) fn is_set(&self, path: &str) -> bool {
        self.given(self.table.at(path)).is_some()
    }

    /// As [`Source::text`]; nothing if that is empty.
    pub(super) fn filled(&self, path: &str) -> Option<String> {
        Some(self.text(path)).filter(|text| !text.is_empty())
    }

    /// The items of the list at a path such as `keys[].name`, but those that variables leave empty.
    pub(super) fn items(&self, path: &'static str) -> impl Iterator<Item = (At, String)> + use<'_> {
        let (list, rest) = path.split_once("[]").unwrap_or((path, ""));
        let items = self.find(list).map_or(&[][..], Node::items);
        items.iter().enumerate().filter_map(move |(index, item)| {
            let node = match rest.strip_prefix('.') {
                Some(inner) => item.find(inner),
                None => Some(item),
            };
            let written = node.and_then(Node::text).map_or("", |text| text);
            let text = self.expansion(Expansion::Whole).expand(written, self.env).text;
            let at = At::new(format!("{list}[{index}]{rest}"), node.map(|node| node.position));
            (written.is_empty() || !text.is_empty()).then_some((at, text))
        })
    }

    pub(super) fn value(&self, node: &Node, expansion: Expansion) -> String {
        self.expansion(expansion).expand(node.text().map_or("", |text| text), self.env).text
    }

    /// What becomes of variables in the format of the file.
    pub(super) fn expansion(&self, expansion: Expansion) -> Expansion {
        match expansion {
            Expansion::Never => Expansion::Never,
            _ if self.format.is_newest() => Expansion::Name,
            other => other,
        }
    }
}

/// Says that a flag is ignored.
fn ignored(findings: &mut Findings, flag: &str, field: &str, effect: &str) {
    findings.warn(
        At::new(flag, None),
        format_args!("{flag} is ignored beside a file with \"admin\" or \"version\"{effect}"),
        format_args!("set \"{field}\" in the file"),
    );
}

/// The format of a file; none if it is not one that is read here.
fn format(file: &Node, findings: &mut Findings) -> Option<Format> {
    if !matches!(file.value, Value::Null | Value::Map(_)) {
        let reason = "expected a map of fields such as \"root: disabled\"";
        findings.refuse_text(Some(file.position), reason, "");
        return None;
    }
    if ["admin", "version"].iter().any(|marker| file.get(marker).is_some()) {
        return Some(Format::Newest);
    }
    let keys = file.get("keys");
    let is_store = keys.is_some_and(|keys| matches!(keys.value, Value::Map(_)));
    match (keys, file.get("keystore")) {
        (Some(keys), Some(store)) if is_store && !store.is_null() => {
            findings.refuse(
                At::new("keys", Some(keys.position)),
                "the file mixes two formats",
                "beside \"keystore\", \"keys\" is a list of key names such as \"- name: my-key\"",
            );
            Some(Format::KeyStore)
        }
        (Some(_), _) if is_store => Some(Format::Keys),
        // A section without content, which must not become the key store in memory.
        (Some(keys), None) if keys.is_null() => Some(Format::Keys),
        _ => Some(Format::KeyStore),
    }
}

/// Takes values from a [`Source`], and notes what is wrong with them.
pub(super) struct Reader<'a> {
    pub(super) source: &'a Source,
    pub(super) findings: &'a mut Findings,
}

impl Reader<'_> {
    /// What `parse` makes of a field. In the place of what is wrong or missing is the default, if
    /// there is one.
    pub(super) fn read<T>(&mut self, path: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let field = self.source.table.at(path);
        if let Some((text, at)) = self.source.given(field) {
            match parse(&text) {
                Some(value) => return Some(value),
                None => self.refuse(path, at, &text),
            }
        }
        let default = field.default_in(self.source.format);
        Some(default).filter(|default| !default.is_empty()).and_then(parse)
    }

    /// The text of a field that flag or file must fill in.
    pub(super) fn required(&mut self, path: &str) -> Option<String> {
        let text = self.source.filled(path);
        if text.is_none() {
            let Field { wrong, advice, flag, .. } = self.source.table.at(path);
            let by_file = format!("set \"{path}\"");
            let advice = match flag.is_empty() || !self.source.format.is_newest() {
                true => advice,
                false => &*by_file,
            };
            self.findings.miss(self.source.at_missing(path), wrong, advice);
        }
        text
    }

    /// Notes that `text` is not what the field holds.
    pub(super) fn refuse(&mut self, path: &str, at: At, text: &str) {
        let field = self.source.table.at(path);
        self.findings.refuse(at, field.wrong.replace("{}", text), field.advice);
    }

    /// As [`Reader::read`], of a field with a default.
    pub(super) fn get<T>(&mut self, path: &str, parse: impl Fn(&str) -> Option<T>) -> T {
        self.read(path, parse).expect("the defaults of the table are right")
    }

    /// A length of time; the default, or none, if it is missing or zero.
    pub(super) fn duration(&mut self, path: &str) -> Option<Duration> {
        let field = self.source.table.at(path);
        if let Some((text, at)) = self.source.given(field)
            && let Some(duration) = self.parse_duration(&text, at)
        {
            return Some(duration);
        }
        duration::parse_non_negative(field.default_in(self.source.format)).ok()
    }

    /// The length of time that `text` says; none if that is zero, or wrong.
    pub(super) fn parse_duration(&mut self, text: &str, at: At) -> Option<Duration> {
        match duration::parse_non_negative(text) {
            Ok(duration) => Some(duration).filter(|duration| !duration.is_zero()),
            Err(error) => {
                let advice = match error.mistake {
                    duration::Mistake::Negative => "write 0 or more, such as 5m",
                    _ => "write numbers with units, such as 30s, 5m or 1h30m",
                };
                let kind = (Severity::Error, Subject::Unreadable);
                self.findings.add(kind, at, error, advice);
                None
            }
        }
    }

    /// As [`Reader::duration`], of a field with a default.
    pub(super) fn time(&mut self, field: &str) -> Duration {
        self.duration(field).expect("the defaults of the table are right")
    }
}
