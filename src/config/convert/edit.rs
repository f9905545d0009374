//! Changes to the text of a file that leave all else in it, comments too, as it is. Knows nothing of what
//! fields mean.

use zeroize::Zeroizing;

use crate::config::tree::{Entry, Extent, Node, Value};

/// Changes, which are made all at once.
pub(super) struct Edits<'a> {
    text: &'a str,
    /// What is put in the place of an extent of the text, in the order of the calls.
    changes: Vec<(Extent, String)>,
    /// What comes behind the last line.
    end: String,
}

/// The way to a field, and what it holds.
pub(super) type Setting<'a> = (&'a [&'a str], &'a str);

impl<'a> Edits<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, changes: Vec::new(), end: String::new() }
    }

    /// Whether a name or a value at `extent` is in quotes, as all are in JSON.
    fn is_quoted(&self, extent: Extent) -> bool {
        self.text[extent.start as usize..].starts_with('"')
    }

    /// Whether an alias stands for the value at `extent`.
    pub(super) fn is_alias(&self, extent: Extent) -> bool {
        self.text[extent.start as usize..].starts_with('*')
    }

    /// `text` in quotes if `model` is, or if it needs them.
    fn spelled(&self, text: &str, model: Extent) -> String {
        match self.is_quoted(model) {
            true => quoted(text),
            false => plain(text),
        }
    }

    pub(super) fn replace(&mut self, extent: Extent, text: impl Into<String>) {
        self.changes.push((self.whole(extent), text.into()));
    }

    /// All of a value: what lines below a `>` or `|` say begins with that, and ends with the last of them.
    fn whole(&self, extent: Extent) -> Extent {
        let text = &self.text[extent.start as usize..extent.end as usize];
        let trimmed = text.trim_end();
        if trimmed.is_empty() || trimmed.len() == text.len() {
            return extent;
        }
        let before = self.text[..extent.start as usize].trim_end();
        let line = before.rfind('\n').map_or(0, |at| at + 1);
        let is_mark = |(at, _): &(usize, &str)| {
            let rest =
                before[line + at + 1..].trim_start_matches(|c: char| "+-0123456789".contains(c));
            rest.is_empty() || rest.trim_start().starts_with('#')
        };
        let mark = before[line..].match_indices(['>', '|']).find(is_mark);
        let start = mark.map_or(extent.start, |(at, _)| (line + at) as u32);
        Extent { start, end: extent.start + trimmed.len() as u32 }
    }

    pub(super) fn insert(&mut self, at: usize, text: impl Into<String>) {
        let at = at as u32;
        self.replace(Extent { start: at, end: at }, text);
    }

    /// Another name for a field.
    pub(super) fn rename(&mut self, entry: &Entry, name: &str) {
        self.replace(entry.span, self.spelled(name, entry.span));
    }

    /// Another text for a value.
    pub(super) fn set_text(&mut self, node: &Node, text: &str) {
        self.replace(node.span, self.spelled(text, node.span));
    }

    /// Makes `entry` of the map `parent` the field `inner` of a new map called `outer`.
    pub(super) fn wrap(&mut self, parent: &Node, entry: &Entry, [outer, inner]: [&str; 2]) {
        let names = [outer, inner].map(|name| self.spelled(name, entry.span));
        let [outer, inner] = names;
        if parent.is_flow {
            self.replace(entry.span, format!("{outer}: {{ {inner}"));
            self.insert(entry.node.span.end as usize, " }");
            return;
        }
        let indent = " ".repeat(entry.position.column as usize - 1);
        self.replace(entry.span, format!("{outer}:\n{indent}  {inner}"));
        if entry.node.position.line != entry.position.line {
            // What is below would not be deep enough.
            let value = entry.node.text().map_or("", |text| text);
            self.replace(entry.node.span, format!(" {}", quoted(value)));
        }
    }

    /// Sets a field of `top`, the map of the whole file, with a comment where there may be one. `way` leads
    /// there, through maps that may not be there yet.
    pub(super) fn set(&mut self, top: &Node, (way, value): Setting<'_>, comment: &str) {
        let mut parent: (Option<&Entry>, &Node) = (None, top);
        for (depth, name) in way.iter().enumerate() {
            let found = parent.1.entries().iter().find(|entry| *entry.name == **name);
            let Some(entry) = found else {
                return self.add(top, parent, &way[depth..], value, comment);
            };
            match &entry.node.value {
                Value::Map(_) if depth + 1 < way.len() => parent = (Some(entry), &entry.node),
                Value::Text(_) if depth + 1 == way.len() => {
                    return self.replace(entry.node.span, self.spelled(value, entry.node.span));
                }
                _ => {
                    // It is there, and holds nothing.
                    let inner = self.nested(top, &way[depth + 1..], value);
                    return self.fill(entry, &inner);
                }
            }
        }
    }

    /// `value` in the maps with the names on the `way`, in one line.
    fn nested(&self, top: &Node, way: &[&str], value: &str) -> String {
        let is_json = self.is_json(top);
        let spell = |text: &str| if is_json { quoted(text) } else { plain(text) };
        let value = match value.starts_with('{') {
            true => value.to_owned(),
            false => spell(value),
        };
        way.iter().rev().fold(value, |inner, name| format!("{{ {}: {inner} }}", spell(name)))
    }

    pub(super) fn is_json(&self, top: &Node) -> bool {
        top.is_flow && top.entries().first().is_some_and(|entry| self.is_quoted(entry.span))
    }

    /// Gives a field that holds nothing a value.
    fn fill(&mut self, entry: &Entry, value: &str) {
        let name_end = entry.span.end as usize;
        let written = &self.text[entry.node.span.start as usize..entry.node.span.end as usize];
        if entry.node.span.start as usize > name_end && !matches!(written, "" | ":") {
            return self.replace(entry.node.span, value);
        }
        let colon = self.text[name_end..].find(':').map_or(name_end, |at| name_end + at + 1);
        self.insert(colon, format!(" {value}"));
    }

    /// Adds a field to a map that does not have it.
    fn add(
        &mut self,
        top: &Node,
        (name, map): (Option<&Entry>, &Node),
        way: &[&str],
        value: &str,
        comment: &str,
    ) {
        let Some(first) = map.entries().first() else {
            let inner = self.nested(top, way, value);
            return self.replace(map.span, inner);
        };
        if map.is_flow {
            let inner = self.nested(top, &way[1..], value);
            let field = self.spelled(way[0], first.span);
            return self.insert(first.span.start as usize, format!("{field}: {inner}, "));
        }
        let indent = match name {
            Some(_) => " ".repeat(first.position.column as usize - 1),
            None => self.margin(first),
        };
        let mut lines = String::new();
        if !comment.is_empty() {
            lines += &format!("{indent}# {comment}\n");
        }
        let mut deeper = indent.clone();
        for (depth, name) in way.iter().enumerate() {
            let value = if depth + 1 == way.len() {
                format!(" {}", self.nested(top, &[], value))
            } else {
                String::new()
            };
            lines += &format!("{deeper}{name}:{value}\n");
            deeper += "  ";
        }
        let before = &self.text[..first.span.start as usize];
        let is_alone = before.ends_with(&format!("\n{indent}"));
        match name {
            // Behind the line of the map's name, if its first field is not there.
            Some(name) if name.position.line < first.position.line && is_alone => {
                let start = name.span.start as usize;
                let end =
                    self.text[start..].find('\n').map_or(self.text.len(), |at| start + at + 1);
                self.insert(end, lines);
            }
            Some(_) => {
                let lines = format!("{}\n{indent}", lines.trim());
                self.insert(first.span.start as usize, lines);
            }
            None => self.end += &lines,
        }
    }

    /// The blanks that the line of `entry` begins with.
    fn margin(&self, entry: &Entry) -> String {
        let before = &self.text[..entry.span.start as usize];
        let line = before.rsplit('\n').next().unwrap_or_default();
        line.chars().take_while(|c| *c == ' ').collect()
    }

    /// Puts a field in front of all others of the file.
    pub(super) fn begin(&mut self, top: &Node, name: &str, value: &str) {
        let Some(first) = top.entries().first() else { return };
        if top.is_flow {
            let [name, value] = [name, value].map(|text| self.spelled(text, first.span));
            return self.insert(first.span.start as usize, format!("{name}: {value}, "));
        }
        let indent = self.margin(first);
        // Behind directives and the line that ends them.
        let head = &self.text[..first.span.start as usize];
        let start = head.rfind("---").map_or(0, |at| {
            let line = &self.text[at..];
            line.find('\n').map_or(self.text.len(), |end| at + end + 1)
        });
        let is_above = start <= first.span.start as usize;
        let at = if is_above { start } else { first.span.start as usize };
        self.insert(at, format!("{indent}{name}: {value}\n"));
    }

    /// Puts texts in the place of an item of a list; a comment instead if there are none.
    pub(super) fn replace_item(&mut self, list: &Node, index: usize, texts: &[String], why: &str) {
        let item = &list.items()[index];
        let spelled: Vec<_> = texts.iter().map(|text| self.spelled(text, item.span)).collect();
        if list.is_flow {
            return match spelled.is_empty() {
                true => self.replace(self.item_in_brackets(item), ""),
                false => self.replace(item.span, spelled.join(", ")),
            };
        }
        if spelled.is_empty() {
            return self.comment_out(item.span, why);
        }
        let before = &self.text[..self.whole(item.span).start as usize];
        let dash = before.rfind('-').unwrap_or(before.len());
        let line = before[..dash].rfind('\n').map_or(0, |at| at + 1);
        let indent: String = before[line.min(dash)..dash].chars().map(|_| ' ').collect();
        self.replace(item.span, spelled.join(&format!("\n{indent}- ")));
    }

    /// Takes an item of any kind out of a list.
    pub(super) fn remove_item(&mut self, list: &Node, index: usize, why: &str) {
        let item = &list.items()[index];
        if list.is_flow || matches!(item.value, Value::Text(_)) {
            return self.replace_item(list, index, &[], why);
        }
        // A map of one field, as the names of keys are.
        let value = item.entries().last().map_or(item.span, |entry| entry.node.span);
        let end = if item.is_flow { item.span.end } else { self.whole(value).end };
        self.comment_out(Extent { start: item.span.start, end }, why);
    }

    /// Makes a comment of each line of an item of a list without brackets.
    fn comment_out(&mut self, item: Extent, why: &str) {
        let Extent { start, end } = self.whole(item);
        let (start, end) = (start as usize, end as usize);
        let dash = self.text[..start].rfind('-').unwrap_or(start);
        self.insert(dash, "# ");
        for (at, _) in self.text[dash..end].match_indices('\n') {
            self.insert(dash + at + 1, "# ");
        }
        let rest = &self.text[end..];
        let line_end = rest.find('\n').map_or(rest.len(), |at| rest[..at].trim_end().len());
        self.insert(end + line_end, format!("  # {why}"));
    }

    /// An item between brackets, with the comma behind or, if it is the last, nothing else: a list may end
    /// with a comma.
    fn item_in_brackets(&self, item: &Node) -> Extent {
        let after = &self.text[item.span.end as usize..];
        let more = after.len() - after.trim_start().len();
        let comma = u32::from(after[more..].starts_with(','));
        let more = if comma == 1 { more as u32 } else { 0 };
        Extent { start: item.span.start, end: item.span.end + more + comma }
    }

    /// The text with all changes. One that is made twice, as a value may be in two places, counts once.
    pub(super) fn apply(mut self) -> Zeroizing<String> {
        self.changes.sort_by_cached_key(|(at, _)| (u64::from(at.start), u64::from(at.end)));
        self.changes.dedup_by(|a, b| a == b && a.0.start < a.0.end);
        let mut out = Zeroizing::new(String::with_capacity(self.text.len() * 2 + 1024));
        let mut at = 0;
        for (extent, text) in &self.changes {
            let start = extent.start as usize;
            if start < at {
                continue;
            }
            out.push_str(&self.text[at..start]);
            out.push_str(text);
            at = extent.end as usize;
        }
        let rest = &self.text[at..];
        // What ends the document stays the end.
        let end = rest.rfind("\n...").map_or(rest.len(), |end| end + 1);
        out.push_str(&rest[..end]);
        if !self.end.is_empty() && !out.ends_with('\n') {
            out.push('\n');
        }
        out.push_str(&self.end);
        out.push_str(&rest[end..]);
        out
    }
}

pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// `text` as YAML has it, in quotes if it could be anything else.
fn plain(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/_.-*".contains(c);
    let is_safe = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/');
    match is_safe && text.chars().all(is_plain) {
        true => text.to_owned(),
        false => quoted(text),
    }
}
