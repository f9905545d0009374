//! Rules about the source, as tests: modules import downwards only, and the README tells the truth
//! about the API and the dependencies.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::server::routes::{Access, Argument, ROUTES};

/// The layers from the lowest to the highest; modules of one layer do not know each other.
const LAYERS: &[&[&str]] = &[
    &["base"],
    &["crypto", "identity"],
    &["tls", "policy"],
    &["web"],
    &["keystore"],
    &["cache", "http", "log", "metrics"],
    &["config"],
    &["io"],
    &["server", "client"],
    &["cli"],
];

fn layer(module: &str) -> usize {
    LAYERS
        .iter()
        .position(|layer| layer.contains(&module))
        .unwrap_or_else(|| panic!("module {module} stands in no layer"))
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// The modules after each `crate::` in `text`, also in `use crate::{a, b::c}`.
fn imports(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            found.push(rest.to_owned());
            continue;
        };
        let (mut depth, mut start) = (0, 0);
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => {
                    found.push(group[start..at].to_owned());
                    break;
                }
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    found.push(group[start..at].to_owned());
                    start = at + 1;
                }
                _ => {}
            }
        }
    }
    let word = |text: String| -> String {
        text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    found.into_iter().map(word).filter(|name| !name.is_empty()).collect()
}

#[test]
fn modules_import_from_lower_layers_only() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for file in rust_files(&source) {
        let relative = file.strip_prefix(&source).unwrap().with_extension("");
        let module = relative.components().next().unwrap().as_os_str().to_str().unwrap().to_owned();
        if ["lib", "main", "tidy"].contains(&module.as_str()) {
            continue;
        }
        for imported in imports(&fs::read_to_string(&file).unwrap()) {
            assert!(
                imported == module || layer(&imported) < layer(&module),
                "{} imports {imported}, which is not below {module}",
                relative.display()
            );
        }
    }
}

fn readme() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap()
}

#[test]
fn the_api_table_of_the_readme_is_the_table_of_routes() {
    let rows: Vec<String> = ROUTES
        .iter()
        .map(|route| {
            let argument = match route.argument {
                Argument::None => "",
                Argument::KeyName | Argument::PolicyName => "<name>",
                Argument::PolicyAndIdentity => "<policy>/<identity>",
                Argument::Identity => "<identity>",
                Argument::Pattern => "<pattern>",
            };
            let access = match route.access {
                Access::Anyone => "any certificate",
                Access::Policy => "policy",
            };
            let body = match route.max_body {
                0 => "-".to_owned(),
                bytes => format!("{} KiB", bytes / 1024),
            };
            let (method, path) = (route.method.name(), route.path);
            let timeout = match route.timeout.as_secs() {
                0 => "-".to_owned(),
                seconds => format!("{seconds} s"),
            };
            format!("| `{method}` | `{path}{argument}` | {body} | {timeout} | {access} |")
        })
        .collect();
    let readme = readme();
    let in_readme: Vec<&str> = readme
        .lines()
        .skip_while(|line| !line.starts_with("| Method | Path |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .collect();
    assert_eq!(
        rows,
        in_readme,
        "the API table of the README wants these rows:\n{}",
        rows.join("\n")
    );
}

#[test]
fn every_dependency_has_a_reason_in_the_readme() {
    let manifest =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    let readme = readme();
    let dependencies = manifest
        .lines()
        .skip_while(|line| *line != "[dependencies]")
        .skip(1)
        .take_while(|line| !line.is_empty());
    for line in dependencies {
        let name = line.split_whitespace().next().unwrap();
        assert!(readme.contains(&format!("`{name}`")), "the README gives no reason for {name}");
    }
}
