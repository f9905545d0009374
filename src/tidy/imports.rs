//! Which file may import from which: modules stand in layers, and below `src` the files and folders
//! of a folder import from each other in one direction.
//!
//! A folder counts as one node among its siblings. A `mod.rs` is the folder itself: it may import
//! from what is in the folder, and the other way round. Tests keep to the layers only.

use std::{
    collections::{BTreeMap, BTreeSet},
    iter::Peekable,
    path::Path,
};

/// The layers from the lowest to the highest; modules of one layer do not import from each other.
const LAYERS: &[&[&str]] = &[
    &["base"],
    &["crypto", "identity"],
    &["tls", "policy"],
    &["web"],
    &["keystore"],
    &["cache", "http", "log", "metrics"],
    &["config"],
    &["io", "api"],
    &["request"],
    &["server"],
    &["cli"],
    &["fuzzing", "simulation"],
];

/// `crate::a::b` as `["a", "b"]`.
type Module = Vec<String>;

/// What imports from what in a folder, with one import for which that holds.
type Arrows = BTreeMap<(String, String), (Module, Module)>;

#[test]
fn modules_import_from_lower_layers_only() {
    let sources = sources();
    let layer = |module: &str| {
        let position = LAYERS.iter().position(|layer| layer.contains(&module));
        position.unwrap_or_else(|| panic!("module {module} stands in no layer"))
    };
    for (from, to) in imports(&sources, true) {
        let is_below = from[0] == to[0] || layer(&to[0]) < layer(&from[0]);
        assert!(is_below, "{} imports {}, which is not below it", from.join("::"), to.join("::"));
    }
}

#[test]
fn no_file_imports_in_a_circle() {
    let lines: Vec<_> = circles(&sources())
        .iter()
        .flat_map(|(folder, arrows)| arrows.iter().map(move |arrow| format!("{folder}: {arrow}")))
        .collect();
    assert!(lines.is_empty(), "arrows that are part of a circle:\n{}", lines.join("\n"));
}

/// All files of `src` but the two roots and these checks: the module of each, and its text.
fn sources() -> BTreeMap<Module, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    super::rust_files(&root)
        .into_iter()
        .map(|file| {
            let relative = file.strip_prefix(&root).unwrap();
            (module_of(relative.to_str().unwrap()), std::fs::read_to_string(&file).unwrap())
        })
        .filter(|(module, _)| !["lib", "main", "tidy"].contains(&module[0].as_str()))
        .collect()
}

/// The module that `file`, such as `http/two/mod.rs`, holds.
fn module_of(file: &str) -> Module {
    let stem = file.trim_end_matches(".rs");
    stem.strip_suffix("/mod").unwrap_or(stem).split('/').map(str::to_owned).collect()
}

/// For each folder with circles between what is in it: the imports that are part of one.
fn circles(sources: &BTreeMap<Module, String>) -> BTreeMap<String, Vec<String>> {
    let mut folders: BTreeMap<Module, Arrows> = BTreeMap::new();
    for (from, to) in imports(sources, false) {
        let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
        // One of them is the `mod.rs` of a folder that the other is in.
        if common == 0 || common == from.len() || common == to.len() {
            continue;
        }
        let arrow = (from[common].clone(), to[common].clone());
        folders.entry(from[..common].to_vec()).or_default().entry(arrow).or_insert((from, to));
    }
    let mut found = BTreeMap::new();
    for (folder, arrows) in folders {
        let in_circles: Vec<_> = arrows
            .iter()
            .filter(|((from, to), _)| reaches(to, from, &arrows))
            .map(|(_, (from, to))| format!("{} imports {}", from.join("::"), to.join("::")))
            .collect();
        if !in_circles.is_empty() {
            found.insert(folder.join("/"), in_circles);
        }
    }
    found
}

fn reaches(from: &str, to: &str, arrows: &Arrows) -> bool {
    let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
    while let Some(node) = open.pop() {
        if node == to {
            return true;
        }
        if seen.insert(node) {
            open.extend(arrows.keys().filter(|(tail, _)| tail == node).map(|(_, head)| &**head));
        }
    }
    false
}

/// The pairs of files of which the first imports from the second; without tests if `tests` is off.
fn imports(sources: &BTreeMap<Module, String>, tests: bool) -> BTreeSet<(Module, Module)> {
    let scanned: BTreeMap<&Module, Scan> = sources
        .iter()
        .filter(|(module, _)| tests || !module.iter().any(|part| part == "tests"))
        .map(|(module, text)| (module, Scan::of(module, text, tests)))
        .collect();
    let mut pairs = BTreeSet::new();
    for (module, scan) in &scanned {
        for path in &scan.paths {
            if let Some(target) = resolve(path, &scanned, 8) {
                pairs.insert(((*module).clone(), target));
            }
        }
    }
    pairs.retain(|(from, to)| from != to);
    pairs
}

/// The file that has what `path` names: re-exports lead on to where the thing itself is.
fn resolve(path: &Module, scanned: &BTreeMap<&Module, Scan>, steps: usize) -> Option<Module> {
    let known = (1..=path.len()).rev().find(|&end| scanned.contains_key(&path[..end].to_vec()))?;
    let module = path[..known].to_vec();
    let Some(name) = path.get(known).filter(|_| steps > 0) else { return Some(module) };
    let Some(alias) = scanned[&module].names.get(name) else { return Some(module) };
    let target: Module = alias.iter().chain(&path[known + 1..]).cloned().collect();
    resolve(&target, scanned, steps - 1).or(Some(module))
}

/// What a file imports.
#[derive(Default)]
struct Scan {
    /// The full path of all that it names.
    paths: Vec<Module>,
    /// The names that `use` brings into the file itself, and what they stand for.
    names: BTreeMap<String, Module>,
}

impl Scan {
    fn of(module: &Module, text: &str, tests: bool) -> Self {
        let mut scan = Self::default();
        let tokens = tokens(text);
        // The module that is open, and how deep in braces it began.
        let mut inside: Vec<(String, usize)> = Vec::new();
        let (mut at, mut depth) = (0, 0);
        while let Some(token) = tokens.get(at) {
            let here = || -> Module {
                module.iter().chain(inside.iter().map(|(name, _)| name)).cloned().collect()
            };
            let rest = &tokens[at..];
            match token.as_str() {
                "#" if !tests && starts(rest, "# [ cfg ( test ) ]") => {
                    at += end_of_item(rest);
                    continue;
                }
                "{" => depth += 1,
                "}" => {
                    depth -= 1;
                    inside.pop_if(|(_, began)| *began == depth);
                }
                "mod" if rest.get(2).is_some_and(|token| token == "{") => {
                    inside.push((rest[1].clone(), depth));
                }
                // A visibility is no import: `pub(in crate::server)`.
                "pub" if starts(rest, "pub ( in") => {
                    at += rest.iter().position(|token| token == ")").unwrap_or(0);
                }
                // Not `impl Trait + use<>`.
                "use" if !starts(rest, "use <") => {
                    let end = rest.iter().position(|token| token == ";").unwrap_or(rest.len());
                    let mut tree = rest[1..end].iter().peekable();
                    for (path, name) in leaves(&mut tree) {
                        let Some(path) = absolute(&here(), path) else { continue };
                        scan.paths.push(path.clone());
                        if inside.is_empty() {
                            scan.names.insert(name, path);
                        }
                    }
                    at += end;
                    continue;
                }
                _ if rest.get(1).is_some_and(|token| token == "::")
                    && (at == 0 || tokens[at - 1] != "::") =>
                {
                    let words = rest.iter().step_by(2).zip(rest[1..].iter().step_by(2));
                    let mut path: Module = words
                        .take_while(|(word, next)| is_word(word) && *next == "::")
                        .map(|(word, _)| word.clone())
                        .collect();
                    path.extend(rest.get(2 * path.len()).filter(|word| is_word(word)).cloned());
                    scan.paths.extend(absolute(&here(), path));
                }
                _ => {}
            }
            at += 1;
        }
        scan
    }
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

fn starts(tokens: &[String], with: &str) -> bool {
    with.split(' ').enumerate().all(|(at, word)| tokens.get(at).is_some_and(|token| token == word))
}

/// Where the item ends that begins with attributes at the start of `tokens`.
fn end_of_item(tokens: &[String]) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate() {
        match token.as_str() {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" if depth == 0 => return at,
            "}" if depth == 1 => return at + 1,
            "}" | ")" | "]" => depth -= 1,
            ";" | "," if depth == 0 => return at + 1,
            _ => {}
        }
    }
    tokens.len()
}

/// The paths of a `use` tree, and the name that each gets.
fn leaves<'a>(tree: &mut Peekable<impl Iterator<Item = &'a String>>) -> Vec<(Module, String)> {
    let mut path = Module::new();
    while let Some(token) = tree.next_if(|token| ![",", "}"].contains(&token.as_str())) {
        match token.as_str() {
            "::" => {}
            "{" => {
                let mut found = Vec::new();
                while tree.peek().is_some_and(|token| *token != "}") {
                    for (rest, name) in leaves(tree) {
                        let whole: Module = path.iter().cloned().chain(rest).collect();
                        found.push(match whole.last().map(String::as_str) {
                            // `a::{self}` is `a`.
                            Some("self") if whole.len() > 1 => {
                                let path = whole[..whole.len() - 1].to_vec();
                                let is_renamed = name != "self";
                                let name =
                                    if is_renamed { name } else { path.last().unwrap().clone() };
                                (path, name)
                            }
                            _ => (whole, name),
                        });
                    }
                    tree.next_if(|token| *token == ",");
                }
                tree.next();
                return found;
            }
            "as" => {
                let name = tree.next().cloned().unwrap_or_default();
                return vec![(path, name)];
            }
            _ => path.push(token.clone()),
        }
    }
    let name = path.last().cloned().unwrap_or_default();
    vec![(path, name)]
}

/// `path` as it is seen from `here`, without `crate`; `None` for the root of the crate. What begins
/// with another name is looked for in `here`: it may be a child or an imported name.
fn absolute(here: &Module, path: Module) -> Option<Module> {
    let mut full = match path.first()?.as_str() {
        "crate" => Module::new(),
        _ => here.clone(),
    };
    for part in path {
        match part.as_str() {
            "crate" | "self" => {}
            "super" => drop(full.pop()),
            _ => full.push(part),
        }
    }
    (!full.is_empty()).then_some(full)
}

/// Words, `::` and single signs of `text`, without comments and what is in quotes.
fn tokens(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let next = |n: usize| rest.chars().nth(n);
        let len = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            'r' | 'b' if raw_string(rest).is_some() => raw_string(rest).unwrap_or(1),
            '"' => quoted(rest),
            // A letter in quotes, not a lifetime.
            '\'' if next(1) == Some('\\') => 4 + rest[3..].find('\'').unwrap_or(0),
            '\'' if next(2) == Some('\'') => 2 + next(1).map_or(1, char::len_utf8),
            ':' if rest.starts_with("::") => {
                found.push("::".to_owned());
                2
            }
            _ if first.is_alphanumeric() || first == '_' => {
                let is_part = |c: char| c.is_alphanumeric() || c == '_';
                let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
                found.push(rest[..end].to_owned());
                end
            }
            _ => {
                if !first.is_whitespace() {
                    found.push(first.to_string());
                }
                first.len_utf8()
            }
        };
        rest = &rest[len..];
    }
    found
}

/// How long the string in quotes is that `text` begins with.
fn quoted(text: &str) -> usize {
    let mut is_escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// How long the raw string is that `text` begins with, if it begins with one.
fn raw_string(text: &str) -> Option<usize> {
    let hashed = text.trim_start_matches('b').strip_prefix('r')?;
    let hashes = hashed.len() - hashed.trim_start_matches('#').len();
    let body = hashed[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(text.len() - body.len() + body.find(&end)? + end.len())
}

fn circles_of(files: &[(&str, &str)]) -> Vec<String> {
    let sources = files.iter().map(|(file, text)| (module_of(file), (*text).to_owned())).collect();
    circles(&sources).into_values().flatten().collect()
}

#[test]
fn planted_circles_are_found() {
    let circles: &[(&str, &[(&str, &str)])] = &[
        ("crate", &[("x/a.rs", "use crate::x::b::B;"), ("x/b.rs", "fn b() -> crate::x::a::A {}")]),
        ("super", &[("x/a.rs", "use super::b;"), ("x/b.rs", "fn b(_: &super::a::A) {}")]),
        (
            "nested trees",
            &[
                (
                    "x/a.rs",
                    "pub(crate) use crate::{y::{self, Z}, x::{c::{D}, b::{self as other}}};",
                ),
                ("x/b.rs", "use super::{super::x::a::{A}, c};"),
            ],
        ),
        (
            "self",
            &[
                ("x/a.rs", "mod inner { fn a() { self::super::super::b::go() } }"),
                ("x/b.rs", "use super::a;"),
            ],
        ),
        (
            "three files",
            &[
                ("x/a.rs", "use super::b;"),
                ("x/b.rs", "use super::c;"),
                ("x/c.rs", "use super::a;"),
            ],
        ),
        (
            "folders, by different files",
            &[
                ("x/a/one.rs", "use super::super::b::one;"),
                ("x/b/one.rs", ""),
                ("x/b/two.rs", "use crate::x::a::two;"),
                ("x/a/two.rs", ""),
            ],
        ),
        (
            "re-exports of a child by its name",
            &[
                ("x/mod.rs", "mod a; mod b; use b::B;"),
                ("x/a.rs", "use super::B;"),
                ("x/b.rs", "use super::a::A;"),
            ],
        ),
        (
            "re-exports",
            &[
                ("x/mod.rs", "mod a; mod b; pub use self::b::B as C;"),
                ("x/a.rs", "use super::C;"),
                ("x/b.rs", "use super::a::A;"),
            ],
        ),
    ];
    for (what, files) in circles {
        assert!(circles_of(files).len() >= 2, "{what}: {:?}", circles_of(files));
    }
}

#[test]
fn what_is_no_circle_is_not_found() {
    let clean: &[(&str, &[(&str, &str)])] = &[
        (
            "one direction",
            &[
                ("x/a.rs", "use super::{b, c::C};"),
                ("x/b.rs", "use super::c;"),
                ("x/c.rs", "use crate::y;"),
            ],
        ),
        (
            "the folder's own mod.rs",
            &[("x/mod.rs", "mod a; use self::a::A; struct M;"), ("x/a.rs", "use super::M;")],
        ),
        (
            "comments, quotes and visibility",
            &[
                ("x/a.rs", "use super::b;"),
                (
                    "x/b.rs",
                    r##"
                    // super::a::A
                    /* super::a */ const A: &str = "\" super::a"; const B: &str = r#"super::a""#;
                    const C: char = '"'; pub(in crate::x::a) struct Q<'a>(&'a str, char);
                    "##,
                ),
            ],
        ),
        (
            "tests",
            &[
                ("x/a.rs", "use super::b;"),
                (
                    "x/b.rs",
                    "#[cfg(test)] use super::a; #[cfg(test)] mod tests { use super::super::a::A; }",
                ),
                ("x/b/tests.rs", "use super::super::a;"),
            ],
        ),
    ];
    for (what, files) in clean {
        assert_eq!(Vec::<String>::new(), circles_of(files), "{what}");
    }
}

#[test]
fn an_import_from_above_is_seen_in_tests_too() {
    let file =
        (module_of("http/one.rs"), "#[cfg(test)] mod tests { use crate::server::S; }".into());
    let above = (module_of("server.rs"), String::new());
    assert_eq!(1, imports(&[file, above].into(), true).len());
}
