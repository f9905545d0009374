//! Rules about the source, as tests: modules import downwards only, and the documentation tells the
//! truth about the API and the dependencies.

mod imports;

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::server::routes::{Access, Argument, ROUTES};

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

fn text_of(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

#[test]
fn the_api_table_of_the_documentation_is_the_table_of_routes() {
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
    let page = text_of("docs/api.md");
    let in_page: Vec<&str> = page
        .lines()
        .skip_while(|line| !line.starts_with("| Method | Path |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .collect();
    assert_eq!(
        rows,
        in_page,
        "the API table of docs/api.md wants these rows:\n{}",
        rows.join("\n")
    );
}

#[test]
fn every_dependency_has_a_reason_in_the_documentation() {
    let manifest = text_of("Cargo.toml");
    let page = text_of("docs/architecture.md");
    let dependencies = manifest
        .lines()
        .skip_while(|line| *line != "[dependencies]")
        .skip(1)
        .take_while(|line| !line.is_empty());
    for line in dependencies {
        let name = line.split_whitespace().next().unwrap();
        assert!(
            page.contains(&format!("`{name}`")),
            "docs/architecture.md gives no reason for {name}"
        );
    }
}
