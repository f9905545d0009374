//! What configuration files mean, and what is said about wrong ones: the common parts.

mod convert;
mod credentials;
mod key_stores;
mod newest;
mod rejected;
mod settings;

use std::{path::Path, sync::Arc};

use super::*;
use crate::keystore::{Settings, mem};

/// A file of `testdata/configurations/older.txt`, filled in.
fn older(name: &str) -> String {
    let all = include_str!("../../../testdata/configurations/older.txt");
    let (_, rest) = all.split_once(&format!("\n=== {name}\n")).expect(name);
    let text = rest.split("\n=== ").next().expect("the file");
    let options = ["flags:", "lines end with:", "no line end:", "refused:"];
    let lines = text.split_inclusive('\n');
    let lines = lines.skip_while(|line| options.iter().any(|option| line.starts_with(option)));
    let end = if text.starts_with("lines end with: CR LF") { "\r\n" } else { "\n" };
    let mut file = lines.collect::<String>().replace('\n', end);
    if text.contains("no line end:") {
        file.truncate(file.trim_end().len());
    }
    [
        ("@ADDRESS@", "127.0.0.1:7000"),
        ("@ADMIN@", "boss"),
        ("@APP@", "app-1"),
        ("@PROXY@", "gate"),
        ("@KEY@", "a.key"),
        ("@CERT@", "a.crt"),
        ("@KEYS@", "/keys"),
        ("@VAULT@", "https://v"),
        ("@VAULT_CA@", "/v.ca"),
        ("@ROLE_ID@", "i"),
        ("@SECRET_ID@", "s"),
    ]
    .iter()
    .fold(file, |text, (name, value)| text.replace(name, value))
}

/// What flags alone mean.
fn load_flags(flags: &Flags) -> Result<Config, Error> {
    super::load(Origin::Flags, flags, &[]).unwrap().accept()
}

/// Flags that leave nothing required to the file.
fn flags() -> Flags {
    Flags {
        root: Some("disabled".into()),
        key: Some("server.key".into()),
        cert: Some("server.crt".into()),
        ..Flags::default()
    }
}

/// The environment of the tests.
fn env(name: &str) -> Option<String> {
    let value = match name {
        "PORT" => "7000",
        "ROOT" => "boss",
        "ID" => "app-1",
        "GROUP" => "P-256",
        "DIR" => "/keys",
        "TIME" => "90s",
        "SWITCH" => "on",
        "SECRET" => "hush",
        _ => return None,
    };
    Some(value.into())
}

/// What `text` in `kes.yml` means with the given flags.
fn load_with(text: &str, flags: &Flags) -> Result<Config, Error> {
    let loaded = load_text(Some(Path::new("kes.yml")), text, flags, &[], env).accept();
    if loaded.as_ref().is_ok_and(|config| !config.generation.is_newest()) {
        convert::assert_converts(text, flags);
    }
    loaded
}

fn load(text: &str) -> Config {
    load_with(text, &flags()).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The error message about `text` in `kes.yml`.
fn error(text: &str) -> String {
    let error = load_with(text, &flags()).expect_err(text);
    error.to_string()
}

#[track_caller]
fn assert_starts(message: &str, start: &str) {
    assert!(message.starts_with(start), "\n{message}\n{start}");
}

fn key_store(text: &str) -> Arc<dyn Settings> {
    load(text).key_store
}

fn in_memory() -> Arc<dyn Settings> {
    Arc::new(mem::Settings)
}

fn in_files(path: &str) -> Arc<dyn Settings> {
    Arc::new(PathBuf::from(path))
}

/// To write the table into the page: `KES_WRITE_DOCS=1 cargo test the_reference`.
#[test]
fn the_reference_is_the_table_of_fields() {
    let reference = table().reference();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let page = fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once("<!-- fields -->\n").unwrap();
    let (table, after) = rest.split_once("<!-- /fields -->").unwrap();
    if std::env::var_os("KES_WRITE_DOCS").is_some() && reference != table {
        let page = format!("{before}<!-- fields -->\n{reference}<!-- /fields -->{after}");
        return fs::write(&path, page).unwrap();
    }
    assert_eq!(reference, table, "KES_WRITE_DOCS=1 cargo test the_reference writes the page");
}
