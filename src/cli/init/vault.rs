//! What a Vault or OpenBao has mounted, and what a server needs to have there: the policy, and the commands
//! that make policy and role.

use std::{
    env,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use ureq::http::Uri;

use super::quote::shell;
use crate::{
    cli::output::{Result, harmless},
    keystore::remote::clean,
    tls::{self, ServerTrust, words::Hints},
    web::{
        agent::{self, Agent, Call, Options},
        errors,
    },
};

/// Vault has to answer within this time.
const TIMEOUT: Duration = Duration::from_secs(5);
/// More than this is not read of an answer, in bytes.
const MAX_ANSWER: u64 = 16 << 20;
/// The name of the engine that is made for a server, of its policy and its role, and of its part of an engine
/// that others use too.
const NAME: &str = "kes";
/// Variables of the environment with what the server logs in with, and what the service has of the secret.
pub(crate) const ROLE_ID: &str = "KES_VAULT_ROLE_ID";
pub(crate) const SECRET_ID: &str = "KES_VAULT_SECRET_ID}";
pub(crate) const CREDENTIAL: &str = "CREDENTIALS_DIRECTORY}/kes.vault-secret";

/// Where a Vault is, and as whom to ask it.
pub(crate) struct Vault {
    pub(crate) url: String,
    /// What to trust instead of the authorities of the system.
    pub(crate) ca: Option<PathBuf>,
    pub(crate) namespace: Option<String>,
    token: Option<String>,
}

/// What a server uses of it.
#[derive(Default)]
pub(crate) struct Place {
    pub(crate) engine: String,
    /// It is of version 1 and not of 2.
    pub(crate) is_old: bool,
    /// The path of the keys in the engine; empty in one of their own.
    pub(crate) prefix: &'static str,
    /// Where AppRole is mounted.
    pub(crate) approle: String,
    has_engine: bool,
    has_approle: bool,
    /// What was found out, or assumed, in one line each.
    pub(crate) notes: Vec<String>,
}

/// The variable `name` of `bao` or, if that is not set, of `vault`.
fn variable(name: &str) -> Option<String> {
    let values = ["BAO", "VAULT"].map(|start| env::var(format!("{start}_{name}")).ok());
    values.into_iter().flatten().find(|value| !value.is_empty())
}

/// An http or https URL of a server, without slashes at its end.
pub(crate) fn url(text: &str) -> std::result::Result<String, String> {
    let text = text.trim_end_matches('/');
    let uri = text.parse::<Uri>().ok();
    let is_url = uri.as_ref().is_some_and(|uri| {
        let is_web = ["http", "https"].map(Some).contains(&uri.scheme_str());
        is_web && uri.host().is_some_and(|host| !host.is_empty()) && uri.path() == "/"
    });
    match is_url && !text.contains(['@', '?', '#']) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "{text:?} is not the URL of a Vault or OpenBao: write it as https://vault.example.com:8200"
        )),
    }
}

impl Vault {
    pub(crate) fn new(url: String, ca: Option<&str>) -> Result<Self> {
        let ca = ca.map(str::to_owned).or_else(|| variable("CACERT").or(variable("CAPATH")));
        let ca = ca.map(|ca| {
            let failed = |why| format!("failed to find the authorities of Vault {ca:?}: {why}");
            std::fs::canonicalize(&ca).map_err(|e| failed(e.to_string()))
        });
        Ok(Self {
            url,
            ca: ca.transpose()?,
            namespace: variable("NAMESPACE"),
            token: variable("TOKEN"),
        })
    }

    /// What there is to use. `engine` is the one to use, if it is given.
    ///
    /// # Errors
    /// Why the engine can't be used, or what is wrong with the files of authorities. A Vault that does not tell
    /// what it has leads to a note.
    pub(crate) fn look(&self, engine: Option<&str>) -> Result<Place> {
        let mut place = Place { approle: "approle".to_owned(), ..Place::default() };
        let agent = self.agent()?;
        let url = &self.url;
        match self.ask(&agent, "seal-status") {
            Ok(status) => {
                let version = status["version"].as_str().unwrap_or("of an unknown version");
                let sealed = if status["sealed"] == true { ", which is sealed" } else { "" };
                place.notes.push(harmless(&format!("{url} answers: version {version}{sealed}")));
            }
            Err(why) => place.notes.push(harmless(&format!("{url} does not answer: {why}"))),
        }
        let mounts = match &self.token {
            None => Err("without a token in BAO_TOKEN or VAULT_TOKEN it does not tell".to_owned()),
            // All that the token may use.
            Some(_) => self.ask(&agent, "internal/ui/mounts"),
        };
        match mounts {
            Ok(mounts) => {
                let none = Mounts::new();
                let members = |name| mounts["data"][name].as_object().unwrap_or(&none);
                place.choose(members("secret"), engine)?;
                let mut methods = members("auth").iter().filter(|(path, _)| is_printable(path));
                if let Some((path, _)) = methods.find(|(_, method)| method["type"] == "approle") {
                    place.approle = path.trim_end_matches('/').to_owned();
                    place.has_approle = true;
                }
            }
            Err(why) => {
                place.engine = engine.unwrap_or(NAME).trim_matches('/').to_owned();
                place.notes.push(harmless(&format!(
                    "what is mounted there is not known: {why}. Assumed: an engine {:?} that is still \
                     to be made, and AppRole at approle/, too; leave out the commands for what is there",
                    place.engine
                )));
            }
        }
        Ok(place)
    }

    fn agent(&self) -> Result<Agent> {
        let trust = self.ca.clone().map_or(ServerTrust::System, ServerTrust::Files);
        Ok(Agent::new(Options {
            tls: Some(tls::client_config(&trust, None)?.config),
            proxy: None,
            connect_timeout: TIMEOUT,
            response_timeout: None,
        }))
    }

    /// The answer to `GET /v1/sys/<path>`, if its status is 200.
    fn ask(&self, agent: &Agent, path: &str) -> std::result::Result<Value, String> {
        let hints = Hints {
            trust: "--vault-ca or BAO_CACERT",
            endpoint: "the URL",
            certificate: "",
            or_skip: "",
        };
        let why = |e| errors::reason(&e, &hints, TIMEOUT);
        let mut headers = vec![("X-Vault-Request", "true")];
        headers.extend(self.token.as_deref().map(|token| ("X-Vault-Token", token)));
        headers.extend(self.namespace.as_deref().map(|name| ("X-Vault-Namespace", name)));
        let url = format!("{}/v1/sys/{path}", self.url);
        let call = Call {
            method: "GET",
            url: &url,
            headers: &headers,
            body: None,
            timeout: Some(TIMEOUT),
        };
        let mut answer = agent.send(call).map_err(why)?;
        let body = agent::read(&mut answer, MAX_ANSWER).map_err(why)?;
        match (answer.status().as_u16(), serde_json::from_slice::<Value>(&body)) {
            (200, Ok(value)) => Ok(value),
            (403, _) => Err(format!("the token may not read sys/{path}")),
            (status, _) => {
                let said = clean(&String::from_utf8_lossy(&body));
                Err(format!("GET {url} was answered with status {status}: {said}"))
            }
        }
    }
}

/// Whether a path that Vault has named can be shown on a terminal, as a part of commands to copy.
fn is_printable(path: &str) -> bool {
    harmless(path) == path
}

/// What is left of an id that Vault gives, as it gets into a file that a shell reads, or into a command.
const ID_ALONE: &str = "tr -cd '[:alnum:]._-'";

type Mounts = serde_json::Map<String, Value>;

impl Place {
    /// Chooses the engine that is `wanted` or else `kes`, one of version 2, any, or a new one, in this order.
    fn choose(&mut self, engines: &Mounts, wanted: Option<&str>) -> Result<()> {
        let is_kv = |mount: &Value| ["kv", "generic"].map(Value::from).contains(&mount["type"]);
        let is_old = |mount: &Value| mount["options"]["version"] != "2";
        let kvs = || engines.iter().filter(|(path, mount)| is_kv(mount) && is_printable(path));
        let name = wanted.unwrap_or(NAME).trim_matches('/');
        let named = engines.get(&format!("{name}/"));
        if let Some(other) = named.filter(|mount| wanted.is_some() && !is_kv(mount)) {
            let kind = &other["type"];
            return Err(format!("the engine at {name:?} is of type {kind}, not kv").into());
        }
        let chosen = match named.filter(|mount| is_kv(mount)) {
            Some(mount) => Some((name, mount)),
            None if wanted.is_some() => None,
            None => kvs()
                .find(|(_, mount)| !is_old(mount))
                .or_else(|| kvs().next())
                .map(|(path, mount)| (path.trim_end_matches('/'), mount)),
        };
        let (name, note) = match chosen {
            None => (name, format!("no key-value engine is at {name}/; a command below makes it")),
            Some((name, mount)) => {
                (self.has_engine, self.is_old) = (true, is_old(mount));
                // Others may keep something there.
                self.prefix = if name == NAME { "" } else { NAME };
                let version = if self.is_old { 1 } else { 2 };
                (name, format!("a key-value engine of version {version} is at {name}/"))
            }
        };
        self.engine = name.to_owned();
        self.notes.push(format!("{note}; keys go to {}", self.folder("")));
        Ok(())
    }

    /// The path of the keys, in the part `kind` of an engine of version 2.
    fn folder(&self, kind: &str) -> String {
        let kind = if self.is_old { "" } else { kind };
        let parts = [&*self.engine, kind, self.prefix];
        parts.iter().filter(|part| !part.is_empty()).map(|part| format!("{part}/")).collect()
    }

    /// The policy, as a file for `bao policy write`.
    pub(crate) fn policy(&self) -> String {
        let rights =
            |path: &str, rights: &str| format!("path {path:?} {{ capabilities = [{rights}] }}\n");
        let (data, metadata) = (self.folder("data"), self.folder("metadata"));
        let mut text = "\
# What kes may do in Vault or OpenBao. Without \"update\", so that nobody who takes over the server can replace
# a key, which would make all that it has encrypted unreadable. \"delete\" is for 'kes key delete' alone.\n"
            .to_owned();
        text += &match self.is_old {
            true => rights(&format!("{data}*"), r#""create", "read", "delete", "list""#),
            false => {
                rights(&format!("{data}*"), r#""create", "read""#)
                    + &rights(&format!("{metadata}*"), r#""read", "delete", "list""#)
            }
        };
        text + &rights(metadata.trim_end_matches('/'), r#""list""#)
    }

    /// The commands that make what is missing, with the policy in the file `policy`; they put id and secret into
    /// the file `secrets` for the environment or, of a service, the id into its file `config` and the secret
    /// into the file `secrets`.
    pub(crate) fn commands(
        &self,
        vault: &Vault,
        policy: &Path,
        secrets: &Path,
        config: Option<&Path>,
    ) -> Vec<String> {
        let path = |path: &Path| shell(&path.to_string_lossy());
        let is_there = |program: &str| {
            let path = env::var_os("PATH").unwrap_or_default();
            env::split_paths(&path).any(|folder| folder.join(program).is_file())
        };
        // They are the same command line.
        let (bao, start) = match is_there("vault") && !is_there("bao") {
            true => ("vault", "VAULT"),
            false => ("bao", "BAO"),
        };
        let mut export = format!("export {start}_ADDR={}", shell(&vault.url));
        if let Some(ca) = &vault.ca {
            let what = if ca.is_dir() { "CAPATH" } else { "CACERT" };
            export += &format!(" {start}_{what}={}", shell(&ca.to_string_lossy()));
        }
        if let Some(namespace) = &vault.namespace {
            export += &format!(" {start}_NAMESPACE={}", shell(namespace));
        }
        let role = format!("auth/{}/role/{NAME}", self.approle);
        let [role_id, secret_id] =
            ["role-id", "secret-id"].map(|id| shell(&format!("{role}/{id}")));
        let mut commands = vec![export];
        if !self.has_engine {
            commands
                .push(format!("{bao} secrets enable -path={} -version=2 kv", shell(&self.engine)));
        }
        commands.push(format!("{bao} policy write {NAME} {}", path(policy)));
        if !self.has_approle {
            commands.push(format!("{bao} auth enable approle"));
        }
        commands.push(format!("{bao} write {} token_policies={NAME} token_ttl=20m", shell(&role)));
        let id = format!("$({bao} read -field=role_id {role_id} | {ID_ALONE})");
        let secret = format!("{bao} write -f -field=secret_id {secret_id}");
        let file = path(secrets);
        match config {
            None => commands.push(format!(
                "(umask 077; printf '{ROLE_ID}=%s\\nKES_VAULT_SECRET_ID=%s\\n' \"{id}\" \"$({secret} | {ID_ALONE})\" >{file})"
            )),
            Some(config) => {
                let folder = path(secrets.parent().unwrap_or(secrets));
                commands.push(format!("sed -i \"s/\\${{{ROLE_ID}}}/{id}/\" {}", path(config)));
                commands.push(format!("mkdir -p -m 700 {folder}"));
                commands.push(format!("(umask 077; {secret} >{file})"));
            }
        }
        commands
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use serde_json::json;

    use super::*;

    #[test]
    fn the_engine_is_the_wanted_one_its_own_or_the_newest() {
        let two = json!({ "type": "kv", "options": { "version": "2" } });
        let one = json!({ "type": "kv", "options": null });
        let other = json!({ "type": "transit", "options": null });
        for (mounts, wanted, folder) in [
            (json!({ "a/": one, "b/": two, "kes/": one }), None, "kes/"),
            (json!({ "a/": one, "b/": two, "kes/": one }), Some("a/"), "a/kes/"),
            (json!({ "a/": one, "b/": two, "c/": two }), None, "b/data/kes/"),
            (json!({ "a/": one, "t/": other }), None, "a/kes/"),
            (json!({ "t/": other }), None, "kes/data/"),
            (json!({ "kes/": other, "b/": two }), None, "b/data/kes/"),
            (json!({ "b/": two }), Some("new"), "new/data/"),
            // Names that would control the terminal of the operator.
            (json!({ "a\u{1b}]0;x\u{7}/": two, "b\u{202e}/": two, "c/": one }), None, "c/kes/"),
        ] {
            let mut place = Place::default();
            assert!(place.choose(mounts.as_object().unwrap(), wanted).is_ok());
            assert_eq!(folder, place.folder("data"), "{mounts} {wanted:?}");
        }
        let mounts = json!({ "t/": other });
        assert!(Place::default().choose(mounts.as_object().unwrap(), Some("t")).is_err());
    }

    /// Runs the printed commands with a Vault that gives `id` as every id; returns the files that they made.
    fn run_commands(id: &str, is_system: bool) -> [String; 2] {
        let name = format!("kes-commands-{}", std::process::id());
        let folder = env::temp_dir().join(name);
        let file = |name: &str| folder.join(name);
        let (config, secrets) = (file("config.yaml"), file("secrets/file"));
        fs::create_dir_all(&folder).unwrap();
        fs::write(&config, format!("id: ${{{ROLE_ID}}}\n")).unwrap();
        fs::create_dir(file("secrets")).unwrap();
        let vault =
            Vault { url: "https://v:8200".to_owned(), ca: None, namespace: None, token: None };
        let place = Place { engine: "kes".to_owned(), ..Place::default() };
        let config_file = is_system.then_some(&*config);
        let mut script = format!("cd {}\n", shell(&folder.to_string_lossy()));
        script += "bao() { printf '%s\\n' \"$ID\"; }; vault() { bao; }\n";
        script += &place.commands(&vault, &file("policy.hcl"), &secrets, config_file).join("\n");
        if !is_system {
            script += &format!("\n. {}", shell(&secrets.to_string_lossy()));
        }
        let output = Command::new("sh").args(["-ec", &script]).env("ID", id).output().unwrap();
        assert!(!file("hacked").exists(), "{id}");
        assert!(output.status.success(), "{output:?}");
        let made = [config, secrets].map(|file| fs::read_to_string(file).unwrap());
        fs::remove_dir_all(&folder).unwrap();
        made
    }

    #[test]
    fn no_id_of_a_vault_is_a_command() {
        let id = "0e3c5d51-9a1c-1d26-3f2b-bb8a5d0c8d8d";
        let [config, secrets] = run_commands(id, true);
        assert_eq!((format!("id: {id}\n"), id), (config, secrets.trim_end()));
        let [_, secrets] = run_commands(id, false);
        assert_eq!(format!("{ROLE_ID}={id}\nKES_VAULT_SECRET_ID={id}\n"), secrets);
        for id in
            ["x/;s/.*/touch hacked/e;s/", "$(touch hacked)", "x; touch hacked", "x\ntouch hacked"]
        {
            run_commands(id, true);
            run_commands(id, false);
        }
    }

    #[test]
    fn urls_are_those_of_a_server() {
        assert_eq!(Ok("https://v:8200".to_owned()), url("https://v:8200/"));
        for text in
            ["v:8200", "https://", "ftp://v", "https://v/ui", "https://u:p@v", "https://v?x"]
        {
            assert!(url(text).is_err(), "{text}");
        }
    }
}
