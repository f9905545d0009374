//! What `kes init` prints: what is written, and what the server, its clients and Vault need next.

use std::{fmt::Write as _, net::SocketAddr, path::Path};

use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::{
    pairs::{Client, Pair},
    quote::shell,
    vault::{Place, Vault},
};
use crate::cli::output::{Paint, Style};

pub(crate) struct Report<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) config: &'a Path,
    pub(crate) server: &'a Pair,
    /// The day on which its certificate expires.
    pub(crate) expires: &'a str,
    /// Where it is for this machine, and its host for others.
    pub(crate) local: SocketAddr,
    pub(crate) outer: &'a str,
    pub(crate) admin: &'a Client,
    pub(crate) minio: &'a Client,
    /// With the files for policy and secrets.
    pub(crate) vault: Option<(&'a Vault, &'a Place, &'a Path, &'a Path)>,
    pub(crate) is_system: bool,
    /// The user of the service is not there.
    pub(crate) lacks_user: bool,
}

/// A part of the report: the member of the JSON, the title and what follows that, and lines. Those of an
/// environment are variables with their values.
struct Part {
    key: &'static str,
    title: &'static str,
    note: &'static str,
    variables: Vec<(&'static str, String)>,
    lines: Vec<String>,
}

impl Report<'_> {
    /// An object whose members are lists of lines, objects for environments, and the identities of clients.
    /// `written` are paths, and `certificate` is what the certificate of the server says.
    pub(crate) fn as_json(&self) -> Zeroizing<String> {
        let mut all = Map::new();
        for part in self.parts() {
            let value = match part.variables.is_empty() {
                true if part.title.is_empty() => Value::from(part.lines.concat()),
                true => Value::from(part.lines),
                false => {
                    let members = part.variables.into_iter();
                    Value::from_iter(members.map(|(name, value)| (name, Value::from(value))))
                }
            };
            all.insert(part.key.to_owned(), value);
        }
        let files = self.files().into_iter().map(|(path, _)| path.to_string_lossy().into_owned());
        all.insert("written".to_owned(), files.collect());
        let certificate = json!({ "expires": self.expires, "names": self.server.names });
        all.insert("certificate".to_owned(), certificate);
        Zeroizing::new(format!("{}\n", Value::Object(all)))
    }

    pub(crate) fn as_text(&self) -> Zeroizing<String> {
        let style = Style::of_stdout();
        let mut text = Zeroizing::new(String::new());
        for part in self.parts() {
            if part.title.is_empty() || part.lines.is_empty() && part.variables.is_empty() {
                continue;
            }
            let _ = writeln!(text, "\n{}{}\n", style.paint(Paint::Bold, part.title), part.note);
            for (name, value) in &part.variables {
                let _ = writeln!(text, "  export {name}={}", shell(value));
            }
            for line in &part.lines {
                let _ = writeln!(text, "  {line}");
            }
        }
        text
    }

    /// The files that the server and its clients have now, with a word about each.
    fn files(&self) -> Vec<(&Path, String)> {
        let was_there = if self.server.is_old() { ", which was there" } else { "" };
        let of_cert = format!(", until {}, for {}", self.expires, self.server.names.join(", "));
        let mut files = vec![
            (self.config, String::new()),
            (&self.server.key, was_there.to_owned()),
            (&self.server.cert, of_cert),
        ];
        for client in [self.admin, self.minio] {
            if let Client::Files(pair) = client {
                files.extend([&pair.key, &pair.cert].map(|path| (path.as_path(), String::new())));
            }
        }
        files.extend(self.vault.map(|(_, _, policy, _)| (policy, String::new())));
        files
    }

    fn parts(&self) -> Vec<Part> {
        let path = |path: &Path| shell(&path.to_string_lossy());
        let Pair { key, cert, identity, .. } = self.server;
        let has_api_key = matches!(self.admin, Client::Key(..));
        let (config, key, cert_word) = (path(self.config), path(key), path(cert));

        let written: Vec<_> =
            self.files().into_iter().map(|(file, word)| path(file) + &word).collect();
        let (mut notes, mut commands) = (Vec::new(), Vec::new());
        let mut start = start(self.config, self.is_system);
        if let Some((vault, place, policy, secrets)) = self.vault {
            notes.clone_from(&place.notes);
            commands =
                place.commands(vault, policy, secrets, self.is_system.then_some(self.config));
            if !self.is_system {
                start = format!("(set -a; . {}; exec {start})", path(secrets));
            }
        }
        let (mut access, mut once) = (String::new(), "");
        if self.lacks_user {
            access = format!("chgrp kes {} {config} {key}\n", path(self.folder));
            once = ", once there is a user kes";
        }
        if self.is_system && self.server.is_old() {
            access += &format!("chgrp kes {key} && chmod 640 {key}");
        }

        let local = format!("https://{}", self.local);
        let mut environment =
            vec![("KES_SERVER", local), ("KES_SERVER_IDENTITY", identity.clone())];
        let host = match self.outer.contains(':') {
            true => format!("[{}]", self.outer),
            false => self.outer.to_owned(),
        };
        let mut minio = vec![
            ("MINIO_KMS_KES_ENDPOINT", format!("https://{host}:{}", self.local.port())),
            ("MINIO_KMS_KES_CAPATH", cert.to_string_lossy().into_owned()),
            ("MINIO_KMS_KES_KEY_NAME", "minio-default-key".to_owned()),
        ];
        credentials(
            self.admin,
            ["KES_API_KEY", "KES_CLIENT_KEY", "KES_CLIENT_CERT"],
            &mut environment,
        );
        let names = ["MINIO_KMS_KES_API_KEY", "MINIO_KMS_KES_KEY_FILE", "MINIO_KMS_KES_CERT_FILE"];
        credentials(self.minio, names, &mut minio);

        let (make, files) = match self.admin {
            Client::Key(..) => (
                "printf %s \"$KES_API_KEY\" | kes identity new --api-key - --key admin.key --cert admin.crt\n",
                "--key admin.key --cert admin.crt".to_owned(),
            ),
            Client::Files(pair) => {
                ("", format!("--key {} --cert {}", path(&pair.key), path(&pair.cert)))
            }
        };
        let curl = format!("{make}curl --cacert {cert_word} {files} \"$KES_SERVER/v1/status\"");
        let note = |with_key, with_files| if has_api_key { with_key } else { with_files };

        let part = |key, title, note, text: &str| Part {
            key,
            title,
            note,
            variables: Vec::new(),
            lines: text.lines().map(str::to_owned).collect(),
        };
        vec![
            part(
                "written",
                "Written",
                ": configuration, private key and certificate",
                &written.join("\n"),
            ),
            Part { lines: notes, ..part("vault", "Vault", "", "") },
            Part {
                lines: commands,
                ..part(
                    "vault_commands",
                    "Let the server use it",
                    ", as someone who may make policies and roles there",
                    "",
                )
            },
            part("access", "Let the server read its files", once, &access),
            part("start", "Start it", "", &start),
            Part {
                variables: environment,
                ..part(
                    "environment",
                    "Command line",
                    note(", as admin; the API key is not shown again", ", as admin"),
                    "kes key create my-key\nkes key dek my-key",
                )
            },
            part(
                "curl",
                "curl",
                note(", which needs files, so the first line makes them of the API key", ""),
                &curl,
            ),
            Part {
                variables: minio,
                ..part("minio_environment", "MinIO", "; it has to be able to read the files", "")
            },
            part("admin", "", "", self.admin.identity()),
            part("minio", "", "", self.minio.identity()),
        ]
    }
}

/// The command that starts the server of this configuration file.
pub(crate) fn start(config: &Path, is_system: bool) -> String {
    match is_system {
        true => "systemctl enable --now kes".to_owned(),
        false => format!("kes server --config {}", shell(&config.to_string_lossy())),
    }
}

/// Adds what `client` shows, under the names for an API key, or for a private key and a certificate.
fn credentials(
    client: &Client,
    names: [&'static str; 3],
    variables: &mut Vec<(&'static str, String)>,
) {
    match client {
        Client::Key(key, _) => variables.push((names[0], key.to_string())),
        Client::Files(pair) => {
            for (name, path) in [(names[1], &pair.key), (names[2], &pair.cert)] {
                variables.push((name, path.to_string_lossy().into_owned()));
            }
        }
    }
}
