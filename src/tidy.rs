//! Rules about the source, as tests: modules import downwards only, and the documentation tells the
//! truth about the API and the dependencies.

mod imports;
mod pages;

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::api::routes::{Access, Argument, ROUTES, Route, Served};

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

/// The row of a route.
fn row(route: &Route) -> String {
    let argument = match route.argument {
        Argument::None => "",
        Argument::KeyName | Argument::PolicyName => "<name>",
        Argument::PolicyAndIdentity => "<policy>/<identity>",
        Argument::Identity => "<identity>",
        Argument::Pattern => "<pattern>",
    };
    let access = match route.access {
        Access::Anyone => "any client",
        Access::Certificate => "any certificate",
        Access::Policy => "policy",
    };
    let (generations, served) = match route.served {
        Served::Both => (2, "both"),
        Served::V0_14 => (1, "0.14"),
    };
    // One value where the generations agree.
    let join = |mut values: Vec<String>| {
        values.truncate(generations);
        values.dedup();
        values.join(" / ")
    };
    let body = join(
        route
            .max_body
            .map(|bytes| match bytes {
                0 => "-".to_owned(),
                bytes if bytes % 1024 == 0 => format!("{} KiB", bytes / 1024),
                bytes => format!("{} kB", bytes / 1000),
            })
            .to_vec(),
    );
    let timeout = join(
        route
            .timeout
            .map(|timeout| match timeout.as_secs() {
                0 => "-".to_owned(),
                seconds => format!("{seconds} s"),
            })
            .to_vec(),
    );
    let (method, path) = (route.method.name(), route.path);
    format!("| `{method}` | `{path}{argument}` | {served} | {body} | {timeout} | {access} |")
}

#[test]
fn the_api_table_of_the_documentation_is_the_table_of_routes() {
    let rows: Vec<String> = ROUTES.iter().map(row).collect();
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
    let table: Vec<&str> = page
        .lines()
        .skip_while(|line| !line.starts_with("| Crate | For |"))
        .take_while(|line| line.starts_with('|'))
        .collect();
    for line in dependencies {
        let name = format!("`{}`", line.split_whitespace().next().unwrap());
        let has_reason = table.iter().any(|row| row.split('|').nth(1).unwrap().contains(&name));
        assert!(has_reason, "docs/architecture.md gives no reason for {name}");
    }
}

/// All pages, with their names.
fn pages() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    [root.to_owned(), root.join("docs")]
        .iter()
        .flat_map(|folder| fs::read_dir(folder).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .map(|path| path.strip_prefix(root).unwrap().to_str().unwrap().to_owned())
        .map(|name| (name.clone(), text_of(&name)))
        .collect()
}

/// The headings of a page, as links name them.
fn anchors(page: &str) -> Vec<String> {
    let name = |heading: &str| {
        let kept = |c: &char| c.is_alphanumeric() || [' ', '-', '_'].contains(c);
        heading.to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")
    };
    let headings = page.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| name(line.trim_start_matches('#').trim())).collect()
}

#[test]
fn links_between_pages_lead_somewhere() {
    let pages = pages();
    for (name, text) in &pages {
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("https://") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let folder = Path::new(name).parent().unwrap();
            let target = match file.strip_prefix("../") {
                _ if file.is_empty() => name.clone(),
                Some(above) => above.to_owned(),
                None => folder.join(file).to_str().unwrap().to_owned(),
            };
            let page = pages.iter().find(|(name, _)| *name == target);
            let leads = match page {
                Some((_, page)) => anchor.is_empty() || anchors(page).iter().any(|it| it == anchor),
                None => Path::new(env!("CARGO_MANIFEST_DIR")).join(&target).exists(),
            };
            assert!(leads, "{name}: the link {link} leads nowhere");
        }
    }
}

#[test]
fn files_that_pages_name_exist() {
    for (page, text) in pages() {
        for quoted in text.split('`').skip(1).step_by(2) {
            let is_path = ["src/", "tests/", "scripts/it/"].iter().any(|it| quoted.starts_with(it));
            let has_gap = quoted.contains(|c: char| c.is_whitespace() || "*{<".contains(c));
            if is_path && !has_gap && !quoted.contains("NAME") {
                let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(quoted);
                assert!(path.exists(), "{page}: there is no {quoted}");
            }
        }
    }
}

#[test]
fn the_readme_fits_on_250_lines() {
    assert!(text_of("README.md").lines().count() <= 250);
}

#[test]
fn the_path_of_a_key_names_files_and_functions_that_exist() {
    let page = text_of("docs/architecture.md");
    let section = page.split("## The path of a key's name").nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let is_hop = |line: &&str| line.starts_with(|c: char| c.is_ascii_digit());
    let hops: Vec<_> = section.lines().filter(is_hop).collect();
    assert!(hops.len() > 20);
    for hop in hops {
        let [_, file, _, function, ..] = hop.split('`').collect::<Vec<_>>()[..] else {
            panic!("no file and function: {hop}");
        };
        let text = text_of(&format!("src/{file}"));
        let is_there = [format!("fn {function}("), format!("fn {function}<")];
        assert!(is_there.iter().any(|it| text.contains(it)), "src/{file} has no {function}");
    }
}
