//! A configuration file as a tree in which each value knows its place. It is read once: settings,
//! errors and warnings all come from it.
//!
//! Only this file knows the YAML parser, and it knows nothing of fields. Time and memory are bounded
//! by the size of the text: values that aliases repeat are shared, not copied, and what would be
//! much larger written out is refused.

use std::{collections::HashSet, slice, sync::Arc};

use granit_parser::{
    ErrorKind, Event, Marker, Parser, ScalarStyle, ScanError, Span, StrInput, StructureStyle, Tag,
};
use zeroize::Zeroizing;

use super::{findings::Position, types::MAX_FILE};

/// How deep values may be nested. Formats of configuration files need ten levels.
const MAX_DEPTH: usize = 64;

/// So many bytes of a text that an alias repeats count as one value.
const BYTES_PER_VALUE: usize = 32;

const TOO_DEEP: &str = "values are nested too deeply; close brackets, and indent less";

const TOO_MANY: &str = "aliases repeat too many values; write the values out";

impl Default for Node {
    /// What an empty file has.
    fn default() -> Self {
        let position = Position { line: 1, column: 1 };
        Self { position, span: Extent::default(), is_flow: false, value: Value::Null }
    }
}

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) position: Position,
    /// Where it is in the text. The end of a list or map without brackets means nothing.
    pub(super) span: Extent,
    /// Whether it is a list or map in brackets.
    pub(super) is_flow: bool,
    pub(super) value: Value,
}

/// Where something begins and ends in the text, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) start: u32,
    pub(super) end: u32,
}

impl Extent {
    fn of(span: Span) -> Self {
        let offset = |at: Marker| at.byte_offset().and_then(|at| u32::try_from(at).ok());
        let (start, end) = (offset(span.start), offset(span.end));
        Self { start: start.unwrap_or_default(), end: end.unwrap_or_default() }
    }
}

/// What a value is. A clone shares its parts.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// A single value, as it is written: `0012`, `on` and `1e3` stay what they are.
    Text(Arc<str>),
    List(Arc<[Node]>),
    /// Fields in the order of the file; a name may be there twice.
    Map(Arc<[Entry]>),
}

/// A field of a map.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) name: Arc<str>,
    /// Where the name is.
    pub(super) position: Position,
    pub(super) span: Extent,
    pub(super) node: Node,
}

/// What keeps a text from being read as YAML.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) position: Position,
    pub(super) reason: String,
}

impl Node {
    /// The text of a single value.
    pub(super) fn text(&self) -> Option<&Arc<str>> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The items, if this is a list.
    pub(super) fn items(&self) -> &[Self] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    /// The fields, if this is a map.
    pub(super) fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The value of the first field with this name.
    pub(super) fn get(&self, name: &str) -> Option<&Self> {
        let mut entries = self.entries().iter();
        let entry = entries.find(|entry| *entry.name == *name)?;
        Some(&entry.node)
    }

    /// The value of a field from its dotted name, such as `tls.key`.
    pub(super) fn find(&self, field: &str) -> Option<&Self> {
        field.split('.').try_fold(self, |node, name| node.get(name))
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// What to call a value of this kind.
    pub(super) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Text(text) if text.parse::<serde_json::Number>().is_ok() => "a number",
            Value::Text(text) if matches!(&**text, "true" | "false") => "true or false",
            Value::Text(_) => "a string",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }
}

/// Reads the one document in `text`; [`Value::Null`] if there is none. After a fault, what is right
/// elsewhere is read all the same: it may be all that matters, as to a health check.
pub(super) fn parse(text: &str) -> (Node, Option<Fault>) {
    match read(text) {
        Ok((document, _)) => (document, None),
        Err(fault) => {
            let rest = without_field(text, fault.position);
            (read(&rest).unwrap_or_default().0, Some(fault))
        }
    }
}

/// `text` with the line at `position` and the deeper ones below it made empty, so that all others
/// keep their places.
fn without_field(text: &str, position: Position) -> Zeroizing<String> {
    let indent = |line: &str| line.len() - line.trim_start_matches(' ').len();
    let mut rest = Zeroizing::new(String::with_capacity(text.len()));
    let mut cut_at = None;
    for (number, line) in (1..).zip(text.split_inclusive('\n')) {
        let is_blank = line.trim().is_empty();
        if number == position.line {
            cut_at = Some(indent(line));
        } else if cut_at.is_some_and(|depth| !is_blank && indent(line) <= depth) {
            cut_at = None;
        }
        rest.push_str(match cut_at {
            Some(_) if line.ends_with('\n') => "\n",
            Some(_) => "",
            None => line,
        });
    }
    rest
}

/// Where "<<" first adds fields of another map; the text of these is elsewhere.
pub(super) fn merge(text: &str) -> Option<Position> {
    read(text).ok()?.1
}

fn read(text: &str) -> Result<(Node, Option<Position>), Fault> {
    let options = granit_parser::options! {
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
        block_scalar_eof_without_line_feed: true,
    };
    let mut reader = Reader {
        parser: Parser::new_from_str_with_options(text, options),
        anchors: Vec::new(),
        items: Vec::new(),
        entries: Vec::new(),
        merge: None,
        // Without aliases each value takes a byte of the file at least. With them, a small file may have
        // as many as the largest without.
        values_left: MAX_FILE as usize + 1,
    };
    let mut document = None;
    loop {
        let (event, span) = reader.next()?;
        match event {
            Event::StreamEnd => break,
            event if !event.is_node() => {}
            _ if document.is_some() => {
                let reason =
                    "more than one YAML document; keep one and remove the \"---\" after it";
                return Err(fault(span.start, reason));
            }
            event => document = Some(reader.node(event, span, 0)?.0),
        }
    }
    Ok((document.unwrap_or_default(), reader.merge))
}

/// Puts a tree together from the events of the parser.
struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    /// Values with an anchor, and how many values each is, by the parser's numbers.
    anchors: Vec<Option<(Node, usize)>>,
    /// Items and fields of the lists and maps that are not complete yet, the innermost ones last.
    items: Vec<Node>,
    entries: Vec<Entry>,
    /// Where the first "<<" is.
    merge: Option<Position>,
    /// How many values the document may still have, written out.
    values_left: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), Fault> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(refused(&error)),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    /// Reads the value that starts with `event`, and says how many values it is.
    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<(Node, usize), Fault> {
        if depth > MAX_DEPTH {
            return Err(fault(span.start, TOO_DEEP));
        }
        let mut extent = Extent::of(span);
        let mut is_flow = false;
        let (value, weight, anchor) = match event {
            Event::Alias(anchor) => {
                // An anchor counts from the end of its value on, so nothing holds itself.
                let Some((node, weight)) = self.anchors.get(anchor).cloned().flatten() else {
                    return Err(fault(span.start, "the value refers to itself; write it out"));
                };
                self.count(weight, span)?;
                return Ok((Node { span: extent, ..node }, weight));
            }
            Event::Scalar(text, style, anchor, tag) => {
                let weight = 1 + text.len() / BYTES_PER_VALUE;
                self.count(weight, span)?;
                (scalar(&text, style, tag.as_deref(), span)?, weight, anchor)
            }
            Event::SequenceStart(style, anchor, tag) => {
                check_tag(tag.as_deref(), span)?;
                self.count(1, span)?;
                let (items, weight, end) = self.list(depth)?;
                (is_flow, extent.end) = (style == StructureStyle::Flow, end);
                (Value::List(items), 1 + weight, anchor)
            }
            Event::MappingStart(style, anchor, tag) => {
                check_tag(tag.as_deref(), span)?;
                self.count(1, span)?;
                let (entries, weight, end) = self.map(depth)?;
                (is_flow, extent.end) = (style == StructureStyle::Flow, end);
                (Value::Map(entries), 1 + weight, anchor)
            }
            _ => return Err(fault(span.start, "a value is missing")),
        };
        let node = Node { position: position(span.start), span: extent, is_flow, value };
        if anchor != 0 {
            let count = self.anchors.len().max(anchor + 1);
            self.anchors.resize(count, None);
            self.anchors[anchor] = Some((node.clone(), weight));
        }
        Ok((node, weight))
    }

    /// The items, how many values they are, and where the list ends.
    fn list(&mut self, depth: usize) -> Result<(Arc<[Node]>, usize, u32), Fault> {
        let (start, mut total) = (self.items.len(), 0);
        let end = loop {
            let (event, span) = self.next()?;
            match event {
                Event::SequenceEnd => break Extent::of(span).end,
                event if !event.is_node() => {}
                event => {
                    let (item, weight) = self.node(event, span, depth + 1)?;
                    self.items.push(item);
                    total += weight;
                }
            }
        };
        Ok((self.items.drain(start..).collect(), total, end))
    }

    /// The fields, how many values they are, and where the map ends.
    fn map(&mut self, depth: usize) -> Result<(Arc<[Entry]>, usize, u32), Fault> {
        let (start, mut total) = (self.entries.len(), 0);
        let (mut name, mut is_merge, mut merged) = (None, false, Vec::new());
        let end = loop {
            let (event, span) = self.next()?;
            let is_empty = span.start == span.end;
            match event {
                Event::MappingEnd => break Extent::of(span).end,
                event if !event.is_node() => {}
                event => {
                    if name.is_none() {
                        is_merge = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, ..) if text == "<<");
                    }
                    let (mut node, weight) = self.node(event, span, depth + 1)?;
                    match name.take() {
                        None => {
                            // A name is no value.
                            self.values_left += weight;
                            name = Some((field_name(&node)?, node.position, node.span));
                        }
                        Some((_, position, _)) if is_merge => {
                            total += weight;
                            self.merge.get_or_insert(position);
                            merged.push(node);
                        }
                        Some((name, position, span)) => {
                            total += weight;
                            if is_empty && node.is_null() {
                                // It is said to be at the colon, and would be behind it.
                                node.position.column += 1;
                            }
                            self.entries.push(Entry { name, position, span, node });
                        }
                    }
                }
            }
        };
        self.add_merged(start, &merged)?;
        Ok((self.entries.drain(start..).collect(), total, end))
    }

    /// Adds the fields of the maps that "<<" names to those from `start` on, unless these have them already.
    fn add_merged(&mut self, start: usize, merged: &[Node]) -> Result<(), Fault> {
        if merged.is_empty() {
            return Ok(());
        }
        let mut own = self.entries.split_off(start);
        let mut added = Vec::new();
        let mut names: HashSet<&str> = own.iter().map(|it| &*it.name).collect();
        let maps = merged.iter().flat_map(|node| match &node.value {
            Value::List(items) => items,
            _ => slice::from_ref(node),
        });
        for map in maps {
            let Value::Map(entries) = &map.value else {
                let reason = format!("expected a map after \"<<\", found {}", map.kind());
                return Err(Fault { position: map.position, reason });
            };
            added.extend(entries.iter().filter(|entry| names.insert(&entry.name)).cloned());
        }
        self.entries.append(&mut own);
        self.entries.append(&mut added);
        Ok(())
    }

    fn count(&mut self, values: usize, span: Span) -> Result<(), Fault> {
        let left = self.values_left.checked_sub(values);
        self.values_left = left.ok_or_else(|| fault(span.start, TOO_MANY))?;
        Ok(())
    }
}

/// What a single value is. The values that YAML takes for nothing are that only without quotes.
fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>, span: Span) -> Result<Value, Fault> {
    check_tag(tag, span)?;
    let is_nothing = match tag {
        Some(tag) => tag.suffix() == "null",
        None => style == ScalarStyle::Plain && matches!(text, "" | "~" | "null" | "Null" | "NULL"),
    };
    Ok(match is_nothing {
        true => Value::Null,
        // A tag without a value.
        false if style == ScalarStyle::Plain && span.start == span.end => Value::Text("".into()),
        false => Value::Text(text.into()),
    })
}

/// Refuses tags but those of plain values, lists and maps.
fn check_tag(tag: Option<&Tag>, span: Span) -> Result<(), Fault> {
    match tag {
        Some(tag) if !tag.is_yaml_core_schema() => {
            let reason = "a tag such as \"!x\" means nothing here; remove it, or put quotes around \
                          a value that starts with \"!\"";
            Err(fault(span.start, reason))
        }
        _ => Ok(()),
    }
}

fn field_name(node: &Node) -> Result<Arc<str>, Fault> {
    match node.text() {
        Some(name) => Ok(name.clone()),
        None => Err(Fault {
            position: node.position,
            reason: format!("expected the name of a field, found {}", node.kind()),
        }),
    }
}

fn fault(at: Marker, reason: &str) -> Fault {
    Fault { position: position(at), reason: reason.to_owned() }
}

fn position(at: Marker) -> Position {
    Position::after(at.line() - 1, at.col())
}

/// Says what to do about what the parser refuses.
fn refused(error: &ScanError) -> Fault {
    use ErrorKind as E;
    let reason = match error.kind() {
        E::TabNotAllowed
        | E::TabInBlockIndentation
        | E::TabInIndentation
        | E::TabAtBlockScalarStart
        | E::TabInPlainScalar => "a tab; indent with spaces, not with tabs",
        E::InvalidIndentation
        | E::ExpectedDocumentStart
        | E::ExpectedBlockMappingKey
        | E::ExpectedBlockSequenceEntry
        | E::InvalidBlockScalarIndent
        | E::InvalidQuotedScalarIndent
        | E::InvalidFlowScalarIndent => {
            "the indentation is wrong; the fields of a map, and the items of a list, start in \
             the same column, after spaces and not after tabs"
        }
        E::MappingValueNotAllowed
        | E::InvalidColonPlacement
        | E::InvalidMappingValueWhitespace
        | E::MappingKeyNotAllowed
        | E::FlowMappingValueAdjacentCollection => {
            "\": \" is not allowed here; start each field on a line of its own, in the column of its \
             neighbours, and put quotes around a value with \": \" in it"
        }
        E::SimpleKeyExpected | E::InvalidSimpleKey | E::UnexpectedEndOfPlainScalar => {
            "a field without \": \" and a value, such as \"root: disabled\""
        }
        E::UnclosedQuotedScalar | E::DocumentIndicatorInQuotedScalar => {
            "the quote that opens here is never closed"
        }
        E::InvalidTrailingSingleQuotedScalar | E::InvalidTrailingDoubleQuotedScalar => {
            "text after the closing quote; put all of the value inside the quotes"
        }
        E::UnclosedFlowCollection { open } => {
            let reason = format!("the \"{open}\" that opens here is never closed");
            return fault(*error.marker(), &reason);
        }
        E::MisplacedFlowCollectionEnd | E::MismatchedFlowCollectionEnd { .. } => {
            "a closing bracket that does not belong to the last opening one"
        }
        E::ExpectedFlowMappingSeparator
        | E::ExpectedFlowSequenceSeparator
        | E::UnexpectedEofFlowSequence
        | E::UnexpectedEofFlowMapping
        | E::UnexpectedEofImplicitFlowMapping => "a comma or a closing bracket is missing",
        E::BlockSequenceEntryNotAllowed
        | E::BlockEntryInFlowCollection
        | E::InvalidBlockEntryWhitespace
        | E::PlainScalarStartsWithDashFlowIndicator => {
            "\"- \" is not allowed here; start each item of a list on a line of its own"
        }
        E::UnexpectedCharacter { character } if character.is_control() => {
            "a control character; remove it"
        }
        E::UnexpectedCharacter { character } => {
            let reason = format!("no value starts with \"{character}\"; put quotes around it");
            return fault(*error.marker(), &reason);
        }
        E::UnknownAnchor => "unknown anchor; put quotes around a value that starts with \"*\"",
        E::RecursionLimitExceeded => TOO_DEEP,
        E::UnknownQuotedScalarEscape
        | E::InvalidQuotedScalarHexEscape
        | E::InvalidLowSurrogateHexEscape
        | E::InvalidLowSurrogate
        | E::MissingLowSurrogate
        | E::UnpairedLowSurrogate
        | E::InvalidUnicodeEscape => {
            "an escape that stands for no character; write \"\\\\\" for a backslash, or use single quotes"
        }
        E::ExpectedTagBang
        | E::InvalidTagTerminator
        | E::MissingTagUri
        | E::UnclosedVerbatimTag
        | E::InvalidTagEscape
        | E::UndeclaredTagHandle
        | E::InvalidGlobalTagCharacter => {
            "a tag means nothing here; remove it, or put quotes around a value that starts with \"!\""
        }
        E::MissingAnchorOrAliasName => {
            "an anchor without a name; put quotes around a value that starts with \"&\" or \"*\""
        }
        E::CommentNotSeparated | E::CommentInterceptedScalar | E::ExpectedWhitespace => {
            "a blank is missing, as before a comment; or put quotes around the value"
        }
        E::InvalidBlockScalarHeader | E::ZeroBlockScalarIndent => {
            "put quotes around a value that starts with \"|\" or \">\""
        }
        E::BomInsideDocument => "a byte order mark inside the file; remove it",
        _ => "this is no YAML; a line that starts with \"%\" or \"...\" may be the reason",
    };
    fault(*error.marker(), reason)
}
