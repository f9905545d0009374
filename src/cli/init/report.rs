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
    /// The files, in the order in which they are written.
    pub(crate) written: Vec<&'a Path>,
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

/// Variables of the environment.
type Variables = Vec<(&'static str, String)>;

impl Report<'_> {
    pub(crate) fn as_json(&self) -> Zeroizing<String> {
        let object = |variables: Variables| -> Map<String, Value> {
            variables.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect()
        };
        let client = |client: &Client| match client {
            Client::Key(key, identity) => json!({ "identity": identity, "api_key": **key }),
            Client::Files(pair) => {
                json!({ "identity": pair.identity, "key": pair.key, "cert": pair.cert })
            }
        };
        let Pair { key, cert, identity, names, .. } = self.server;
        let vault = self.vault.map(|(vault, place, policy, secrets)| {
            json!({
                "url": vault.url,
                "engine": place.engine,
                "version": if place.is_old { "v1" } else { "v2" },
                "prefix": place.prefix,
                "approle": place.approle,
                "notes": place.notes,
                "policy": policy,
                "secrets": secrets,
                "commands": self.vault_commands(),
            })
        });
        let all = json!({
            "folder": self.folder,
            "config": self.config,
            "written": self.written,
            "start": self.start(),
            "server": {
                "endpoint": format!("https://{}", self.local),
                "identity": identity,
                "key": key,
                "cert": cert,
                "names": names,
                "expires": self.expires,
            },
            "admin": client(self.admin),
            "minio": client(self.minio),
            "environment": object(self.environment()),
            "minio_environment": object(self.minio_environment()),
            "curl": self.curl(),
            "vault": vault,
        });
        Zeroizing::new(format!("{all}\n"))
    }

    pub(crate) fn as_text(&self) -> Zeroizing<String> {
        let style = Style::of_stdout();
        let mut text = Zeroizing::new(String::new());
        let mut put = |title: &str, note: &str, lines: &[String]| {
            let _ = writeln!(text, "\n{}{note}\n", style.paint(Paint::Bold, title));
            for line in lines {
                let _ = writeln!(text, "  {line}");
            }
        };
        let exports = |variables: Variables| -> Vec<String> {
            let export = |(name, value): (_, String)| format!("export {name}={}", shell(&value));
            variables.into_iter().map(export).collect()
        };
        put("Written", &format!(" to {}", self.folder.display()), &self.files());
        if let Some((_, place, ..)) = self.vault {
            put("Vault", "", &place.notes);
            let note = ", as someone who may make policies and roles there";
            put("Let the server use it", note, &self.vault_commands());
        }
        let lines = self.access();
        if !lines.is_empty() {
            put("Let the server read its files", ", once there is a user kes", &lines);
        }
        put("Start it", "", &self.start());
        let mut lines = exports(self.environment());
        lines.extend(["kes key create my-key", "kes key dek my-key"].map(str::to_owned));
        let note = match self.admin {
            Client::Key(..) => ", as admin; the API key is not shown again",
            Client::Files(_) => ", as admin",
        };
        put("Command line", note, &lines);
        let note = match self.admin {
            Client::Key(..) => ", which needs files, so the first line makes them of the API key",
            Client::Files(_) => "",
        };
        put("curl", note, &self.curl());
        let note = match self.admin {
            Client::Key(..) => {
                ", with an API key of its own; it has to be able to read the certificate"
            }
            Client::Files(_) => {
                ", with a certificate of its own; it has to be able to read the files"
            }
        };
        put("MinIO", note, &exports(self.minio_environment()));
        text
    }

    /// What is in the folder now, in a line each.
    fn files(&self) -> Vec<String> {
        let Pair { key, cert, names, .. } = self.server;
        let names = names.join(", ");
        let mut files = vec![
            (self.config, "configuration; its comments say what to change, and why".to_owned()),
            (key, "private key of the server".to_owned()),
            (cert, format!("its certificate until {}, for {names}", self.expires)),
        ];
        for (client, name) in [(self.admin, "admin"), (self.minio, "MinIO")] {
            if let Client::Files(pair) = client {
                files.push((&pair.key, format!("private key of {name}")));
                files.push((&pair.cert, "its certificate".to_owned()));
            }
        }
        if let Some((_, _, policy, _)) = self.vault {
            files.push((policy, "what the server may do in Vault".to_owned()));
        }
        let line = |(path, what): (&Path, String)| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let was_there = if self.written.contains(&path) { "" } else { " (was there)" };
            format!("{name:<17}  {what}{was_there}")
        };
        files.into_iter().map(line).collect()
    }

    /// What lets the service read what it could not.
    fn access(&self) -> Vec<String> {
        let path = |path: &Path| shell(&path.to_string_lossy());
        let key = path(&self.server.key);
        let mut lines = Vec::new();
        if self.lacks_user {
            lines.push(format!("chgrp kes {} {} {key}", path(self.folder), path(self.config)));
        }
        if self.is_system && !self.written.contains(&&*self.server.key) {
            lines.push(format!("chgrp kes {key} && chmod 640 {key}"));
        }
        lines
    }

    /// For the command line.
    fn environment(&self) -> Variables {
        let mut variables = vec![
            ("KES_SERVER", format!("https://{}", self.local)),
            ("KES_SERVER_IDENTITY", self.server.identity.clone()),
        ];
        let names = ["KES_API_KEY", "KES_CLIENT_KEY", "KES_CLIENT_CERT"];
        variables.extend(credentials(self.admin, names));
        variables
    }

    fn minio_environment(&self) -> Variables {
        let host = match self.outer.contains(':') {
            true => format!("[{}]", self.outer),
            false => self.outer.to_owned(),
        };
        let mut variables = vec![
            ("MINIO_KMS_KES_ENDPOINT", format!("https://{host}:{}", self.local.port())),
            ("MINIO_KMS_KES_CAPATH", self.server.cert.to_string_lossy().into_owned()),
        ];
        let names = ["MINIO_KMS_KES_API_KEY", "MINIO_KMS_KES_KEY_FILE", "MINIO_KMS_KES_CERT_FILE"];
        variables.extend(credentials(self.minio, names));
        variables.push(("MINIO_KMS_KES_KEY_NAME", "minio-default-key".to_owned()));
        variables
    }

    fn curl(&self) -> Vec<String> {
        let path = |path: &Path| shell(&path.to_string_lossy());
        let (files, make) = match self.admin {
            Client::Key(..) => {
                let files = ["admin.key".to_owned(), "admin.crt".to_owned()];
                let make = "printf %s \"$KES_API_KEY\" | kes identity new --api-key - --key admin.key --cert \
                            admin.crt";
                (files, Some(make.to_owned()))
            }
            Client::Files(pair) => ([path(&pair.key), path(&pair.cert)], None),
        };
        let ask = format!(
            "curl --cacert {} --key {} --cert {} \"$KES_SERVER/v1/status\"",
            path(&self.server.cert),
            files[0],
            files[1]
        );
        make.into_iter().chain([ask]).collect()
    }

    fn vault_commands(&self) -> Vec<String> {
        let commands = self.vault.map(|(vault, place, policy, secrets)| {
            place.commands(vault, &policy.to_string_lossy(), &secrets.to_string_lossy())
        });
        commands.unwrap_or_default()
    }

    fn start(&self) -> Vec<String> {
        let path = |path: &Path| shell(&path.to_string_lossy());
        let secrets = self.vault.map(|(_, _, _, secrets)| path(secrets));
        let server = format!("kes server --config {}", path(self.config));
        match (self.is_system, secrets) {
            (false, None) => vec![server],
            (false, Some(secrets)) => vec![format!("(set -a; . {secrets}; exec {server})")],
            (true, None) => vec!["systemctl enable --now kes".to_owned()],
            (true, Some(secrets)) => vec![
                "mkdir -p /etc/systemd/system/kes.service.d".to_owned(),
                format!(
                    "printf '[Service]\\nEnvironmentFile=%s\\n' {secrets} \
                     >/etc/systemd/system/kes.service.d/vault.conf"
                ),
                "systemctl daemon-reload".to_owned(),
                "systemctl enable --now kes".to_owned(),
            ],
        }
    }
}

/// What `client` shows, under the names for an API key, or for a private key and a certificate.
fn credentials(client: &Client, names: [&'static str; 3]) -> Variables {
    let path = |path: &Path| path.to_string_lossy().into_owned();
    match client {
        Client::Key(key, _) => vec![(names[0], key.to_string())],
        Client::Files(pair) => vec![(names[1], path(&pair.key)), (names[2], path(&pair.cert))],
    }
}
