//! `kes config check`: what it finds, where, and that it agrees with what a server says.
use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    process::{Command, Output},
};

use crate::common::{Identity, Profile, TempDir};
use serde_json::Value;

/// A folder with a certificate of the server that is valid for a long time.
struct Scene(TempDir);

impl Scene {
    fn new() -> Self {
        let scene = Self(TempDir::new());
        scene.certificate("server", "8760h");
        scene
    }

    fn certificate(&self, name: &str, validity: &str) {
        let (key, cert) = (format!("{name}.key"), format!("{name}.crt"));
        let new = ["tool", "identity", "new", "--server", "--time", validity];
        let output = self.kes(&[&new[..], &["--key", &key, "--cert", &cert]].concat());
        assert!(output.status.success());
    }

    /// A certificate that is not made by the command.
    fn other_certificate(&self, name: &str, profile: &Profile) {
        let identity = Identity::self_signed(name, profile);
        let file = |kind| self.0.path().join(format!("{name}.{kind}"));
        fs::write(file("key"), identity.key_pem()).unwrap();
        fs::set_permissions(file("key"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(file("crt"), identity.certificate_pem()).unwrap();
    }

    fn kes(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_kes"))
            .args(args)
            .current_dir(self.0.path())
            .env_clear()
            .output()
            .unwrap()
    }

    /// The exit code and the lines about `text` in `kes.yml`, the last one left out.
    fn check(&self, text: &str, flags: &[&str]) -> (i32, Vec<String>) {
        fs::write(self.0.path().join("kes.yml"), text).unwrap();
        let args = ["config", "check", "kes.yml", "--auth", "off"];
        let output = self.kes(&[&args[..], flags].concat());
        let mut lines: Vec<_> = out(&output).lines().map(str::to_owned).collect();
        lines.pop();
        (output.status.code().unwrap(), lines)
    }
}

fn out(output: &Output) -> String {
    assert_eq!("", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

const DAY: i64 = 24 * 60 * 60;
const TLS: &str = "tls: { key: server.key, cert: server.crt }\n";
const STORE: &str = "keystore: { fs: { path: keys } }\n";

#[test]
fn a_sound_file_has_nothing_to_it_and_nothing_is_made() {
    let scene = Scene::new();
    let identity = "01".repeat(32);
    let text = format!(
        "root: disabled\n{TLS}{STORE}policy:\n  app:\n    paths: [/v1/key/*/app-*, /version]\n    \
         identities: [{identity}, _]\n"
    );
    assert_eq!((0, vec![]), scene.check(&text, &[]));
    let args = ["config", "check", "kes.yml", "--auth=off", "--strict"];
    assert_eq!("kes.yml: ok\n", out(&scene.kes(&args)));
    assert!(!scene.0.path().join("keys").exists());
}

#[test]
fn a_certificate_for_no_host_is_a_warning_in_the_newest_format() {
    let scene = Scene::new();
    let text = format!("admin: {{ identity: disabled }}\n{TLS}{STORE}");
    let (code, lines) = scene.check(&text, &[]);
    let warning = ": warning: tls.cert: the certificate names no host or IP address";
    assert!(code == 0 && lines.iter().any(|line| line.contains(warning)), "{lines:#?}");
}

#[test]
fn one_run_finds_all_errors_with_their_places() {
    let scene = Scene::new();
    let (code, lines) = scene.check(
        &format!(
            "address: nowhere\nroot: off\nrot: x\n{TLS}{STORE}policy:\n  a:\n    paths:\n    - /v1/key/[\n    \
             - /version\n    - /v1/key/list/]\n    identity: [x]\n    identities: [_, _]\n  b:\n    \
             paths: /version\n    identities: [_]\nlog: {{ error: yes, audit: no }}\ncache:\n  \
             expiry: {{ any: 1d, unused: -1s }}\n"
        ),
        &[],
    );
    let places: Vec<_> = lines
        .iter()
        .filter(|line| line.contains(": error: "))
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    let expected = [
        "kes.yml:1:10:",  // address
        "kes.yml:3:1:",   // unknown field
        "kes.yml:9:7:",   // pattern
        "kes.yml:12:5:",  // unknown field
        "kes.yml:13:21:", // assigned twice
        "kes.yml:15:12:", // not a list
        "kes.yml:16:18:", // assigned twice
        "kes.yml:17:15:",
        "kes.yml:17:27:",
        "kes.yml:19:18:",
        "kes.yml:19:30:",
    ];
    assert_eq!((78, &expected[..]), (code, &places[..]), "{lines:#?}");
}

#[test]
fn a_directory_in_the_place_of_a_key_is_an_error_beside_that_of_the_certificate() {
    let scene = Scene::new();
    let text = format!("root: _\ntls: {{ key: ., cert: none.crt }}\n{STORE}");
    let (code, lines) = scene.check(&text, &[]);
    let found = [
        "kes.yml:2:13: error: tls.key: failed to read private key file \".\"",
        "kes.yml:2:22: error: tls.cert: failed to read certificate file \"none.crt\"",
    ];
    assert_eq!((78, 2), (code, lines.len()), "{lines:#?}");
    for (line, found) in lines.iter().zip(found) {
        assert!(line.starts_with(found), "{found:?} is not in {lines:#?}");
    }
}

#[test]
fn what_a_server_says_is_among_the_findings() {
    let scene = Scene::new();
    scene.certificate("other", "8760h");
    let dir = scene.0.path();
    fs::write(dir.join("file"), "").unwrap();
    for (text, field) in [
        (format!("{TLS}{STORE}"), "root"),
        (format!("root: _\n{STORE}"), "tls.key"),
        (format!("root: _\n{TLS}{STORE}x: 1\n"), "kes.yml:4:1"),
        (format!("root: _\n{TLS}{STORE}root: _\n"), "kes.yml:4:1"),
        (format!("\troot: _\n{TLS}"), "kes.yml:2:1"),
        (format!("admin: _\n{TLS}"), "kes.yml:1:8: error: admin"),
        (
            "root: _\ntls: { key: none.key, cert: server.crt }\n".to_owned(),
            "kes.yml:2:13: error: tls.key",
        ),
        (
            "root: _\ntls: { key: server.key, cert: none.crt }\n".to_owned(),
            "kes.yml:2:31: error: tls.cert",
        ),
        (
            "root: _\ntls: { key: other.key, cert: server.crt }\n".to_owned(),
            "kes.yml:2:30: error: tls.cert",
        ),
        (
            "root: _\ntls: { key: server.key, cert: server.key }\n".to_owned(),
            "kes.yml:2:31: error: tls.cert",
        ),
        (
            format!("root: _\n{TLS}keys: {{ fs: {{ path: file }} }}\n"),
            "kes.yml:3:21: error: keys.fs.path",
        ),
        (
            format!("root: a\n{TLS}policy: {{ p: {{ identities: [a] }} }}\n"),
            "kes.yml:3:29: error: policy.p.identities[0]",
        ),
    ] {
        let (code, lines) = scene.check(&text, &[]);
        let server = scene.kes(&["server", "--config", "kes.yml", "--auth", "off"]);
        assert_eq!((78, Some(1)), (code, server.status.code()), "{text}");
        // What the server adds is the place, which the check has at the start of the line.
        let told = String::from_utf8(server.stderr).unwrap();
        let told = told.trim_start_matches("Error: ");
        let told = told.trim_start_matches("failed to read config file: ");
        let message = match told.strip_prefix("kes.yml line ") {
            Some(told) => told.split_once(": ").unwrap().1,
            None => told.split(" (kes.yml").next().unwrap(),
        };
        let message = message.trim();
        assert!(
            lines.iter().any(|line| line.contains(field) && line.contains(message)),
            "{message:?} is not in {lines:#?}"
        );
    }
}

#[test]
fn oddities_are_warnings_unless_told_otherwise() {
    let scene = Scene::new();
    scene.other_certificate(
        "soon",
        &Profile { valid_since: 20 * DAY, ..Profile::server().valid_for(4 * DAY + 3600) },
    );
    let key = scene.0.path().join("soon.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let text = "\
root: ABCDEF0123456789ABCDEF0123456789ABCDEF0123456789ABCDEF0123456789
tls:
  key: soon.key
  cert: soon.crt
  groups: [P-256, X25519, secp256r1]
  proxy:
    identities: [_, _]
policy:
  app:
    paths: [/v1/key/crate/*, v1/key/list/*, /v1/key/*, /version, /version]
    identities: [all, 0123]
  empty: {}
cache: { expiry: { any: 1m, unused: 2m } }
keys: [{ name: a }, { name: a }]
";
    let (code, lines) = scene.check(text, &[]);
    assert_eq!(0, code);
    let expected = [
        "kes.yml: warning: keystore: no key store: ",
        "kes.yml:1:7: warning: root: \"ABCDEF",
        "kes.yml:3:8: warning: tls.key: private key \"soon.key\" can be read by every user",
        "kes.yml:4:9: warning: tls.cert: the certificate expires in 4 days",
        "kes.yml:5:27: warning: tls.groups[2]: key exchange group \"secp256r1\" is listed twice",
        "kes.yml:7:17: warning: tls.proxy.identities: ",
        "kes.yml:7:21: warning: tls.proxy.identities[1]: TLS proxy \"_\" is listed twice",
        "kes.yml:10:13: warning: policy.app.paths[0]: \"/v1/key/crate/*\" matches no API (did you \
         mean \"/v1/key/create/*\"?)",
        "kes.yml:10:30: warning: policy.app.paths[1]: \"v1/key/list/*\" matches no API (did you \
         mean \"/v1/key/list/*\"?)",
        "kes.yml:10:45: warning: policy.app.paths[2]: \"/v1/key/*\" matches no API",
        "kes.yml:10:66: warning: policy.app.paths[4]: \"/version\" is listed twice",
        "kes.yml:11:18: warning: policy.app.identities[0]: \"all\" is no identity, so no client",
        "kes.yml:11:23: warning: policy.app.identities[1]: \"0123\" is no identity",
        "kes.yml:12:10: warning: policy.empty: policy \"empty\" allows nothing",
        "kes.yml:13:37: warning: cache.expiry.unused: longer than",
        "kes.yml:14:29: warning: keys[1].name: key \"a\" is listed twice",
    ];
    for (line, start) in lines.iter().zip(expected) {
        assert!(line.starts_with(start), "{line:?} is not {start:?}");
    }
    assert_eq!(expected.len(), lines.len(), "{lines:#?}");
    assert_eq!(78, scene.check(text, &["--strict"]).0);
}

#[test]
fn a_number_of_connections_is_looked_at() {
    let scene = Scene::new();
    let check = |number: &str| {
        let text = format!("root: _\n{TLS}{STORE}limits: {{ connections: {number} }}\n");
        scene.check(&text, &[])
    };
    for fine in ["1", "16", "'16'", "", "''"] {
        assert_eq!((0, vec![]), check(fine), "{fine}");
    }
    for wrong in ["0", "-1", "+1", "1.5", "10k", "many", "99999999999999999999"] {
        let (code, lines) = check(wrong);
        let start = format!(
            "kes.yml:4:24: error: limits.connections: invalid number of connections: \"{wrong}\" (write \
             a whole number of at least 1"
        );
        assert!(code == 78 && lines[0].starts_with(&start), "{lines:#?}");
    }
    // No process may open so many files.
    let (code, lines) = check("4000000000");
    let start =
        "kes.yml:4:24: warning: limits.connections: 4000000000 connections are more than the ";
    assert!(code == 0 && lines[0].starts_with(start), "{lines:#?}");
}

#[test]
fn limits_of_requests_that_allow_none_or_limit_nothing_are_looked_at() {
    let scene = Scene::new();
    for field in ["requests_per_second", "concurrent"] {
        let check = |number: &str| {
            let text = format!("root: _\n{TLS}{STORE}limits: {{ {field}: {number} }}\n");
            scene.check(&text, &[])
        };
        for fine in ["1", "1000000", "''"] {
            assert_eq!((0, vec![]), check(fine), "{fine}");
        }
        for wrong in ["0", "-1", "none"] {
            let (code, lines) = check(wrong);
            let says = format!(": error: limits.{field}: invalid number of ");
            assert!(code == 78 && lines[0].contains(&says), "{lines:#?}");
        }
        let (code, lines) = check("1000001");
        let says = format!(": warning: limits.{field}: no client comes near this number");
        assert!(code == 0 && lines[0].contains(&says), "{lines:#?}");
    }
}

#[test]
fn a_wrong_key_store_is_not_said_to_be_none() {
    let scene = Scene::new();
    for (section, start) in [
        ("keystore:", "kes.yml:3:10: error: keystore.fs.path: no key store"),
        ("keystore: { fs: { path: '' } }", "kes.yml:3:25: error: keystore.fs.path: no key"),
        (
            "keystore: { fs: { path: '${NO}' } }",
            "kes.yml:3:25: error: keystore.fs.path: environment variable ${NO} is empty or not set",
        ),
        (
            "keys: { fs: { path: '${NO}' } }",
            "kes.yml:3:21: error: keys.fs.path: environment variable ${NO} is empty or not set",
        ),
        ("keys: { fs: }", "kes.yml:3:12: error: keys.fs.path: no key store"),
        (
            "keystore: { fs: { path: keys }, vault: { endpoint: 'https://v' } }",
            "kes.yml:3:52: error: keystore.vault.endpoint: ambiguous",
        ),
        (
            "keystore: { vault: { endpoint: 'https://v' } }",
            "kes.yml:3:20: error: keystore.vault: failed to connect to Vault",
        ),
        (
            "keystore:\n  fss: { path: keys }",
            "kes.yml:4:3: error: keystore: unknown field `fss`, expected one of `required`, `fs`, \
             `vault`, `gemalto`, `generic`, `aws`, `gcp`, `azure`, `fortanix`, `entrust`, `kes` (did \
             you mean `fs`?)",
        ),
    ] {
        let (code, lines) = scene.check(&format!("root: _\n{TLS}{section}\n"), &[]);
        assert_eq!((78, 1), (code, lines.len()), "{lines:#?}");
        assert!(lines[0].starts_with(start), "{lines:#?}");
    }
}

#[test]
fn a_path_that_matches_no_api_is_put_right_with_its_own_end() {
    let scene = Scene::new();
    for (path, expected) in [
        ("/v1/keys/create/my-*", "did you mean \"/v1/key/create/my-*\"?"),
        ("/v1/keys/decrypt/my-*", "did you mean \"/v1/key/decrypt/my-*\"?"),
        ("v1/key/import/a", "did you mean \"/v1/key/import/a\"?"),
        ("/v2/key/generate/a", "did you mean \"/v1/key/generate/a\"?"),
        ("/v1/identity/asign/p/q*", "did you mean \"/v1/identity/assign/p/q*\"?"),
        ("/v1/policy/reed/", "did you mean \"/v1/policy/read/*\"?"),
        ("/v1/key/delete", "did you mean \"/v1/key/delete/*\"?"),
        ("/v1/metric", "did you mean \"/v1/metrics\"?"),
        ("/nothing", "docs/api.md lists the paths"),
    ] {
        let policy = format!("policy: {{ p: {{ paths: ['{path}'] }} }}\n");
        let (code, lines) = scene.check(&format!("root: _\n{TLS}{STORE}{policy}"), &[]);
        assert_eq!((0, 1), (code, lines.len()), "{lines:?}");
        let expected = format!("\"{path}\" matches no API ({expected}");
        assert!(lines[0].contains(&expected), "{lines:?}");
    }
}

#[test]
fn a_certificate_that_is_renewed_often_is_no_news_until_it_was_not() {
    let scene = Scene::new();
    let text = |name| format!("root: _\ntls: {{ key: {name}.key, cert: {name}.crt }}\n{STORE}");
    for (name, lived, left, warning) in [
        ("week", 0, 7, None),
        ("half", 3, 4, None),
        ("late", 6, 1, Some("expires in 1 day")),
        ("year", 330, 29, Some("expires in 29 days")),
        ("fine", 330, 31, None),
    ] {
        scene.other_certificate(
            name,
            &Profile { valid_since: lived * DAY, ..Profile::server().valid_for(left * DAY + 3600) },
        );
        let (_, lines) = scene.check(&text(name), &[]);
        assert_eq!(warning.is_some(), !lines.is_empty(), "{name}: {lines:?}");
        assert!(warning.is_none_or(|text| lines[0].contains(text)), "{lines:?}");
    }
}

#[test]
fn a_certificate_that_clients_refuse_is_a_warning() {
    let scene = Scene::new();
    let text = format!("root: _\ntls: {{ key: a.key, cert: a.crt }}\n{STORE}");
    scene.other_certificate("a", &Profile::client().valid_for(100 * DAY));
    let (code, lines) = scene.check(&text, &[]);
    assert_eq!((0, 1), (code, lines.len()), "{lines:?}");
    let start = "kes.yml:2:26: warning: tls.cert: the certificate is not for servers";
    assert!(lines[0].starts_with(start), "{lines:?}");
    scene.other_certificate("a", &Profile::without_usage().valid_for(100 * DAY));
    assert_eq!((0, vec![]), scene.check(&text, &[]));
}

#[test]
fn variables_that_stay_what_they_are_are_warnings_without_the_value() {
    let scene = Scene::new();
    let paths = "['/v1/key/create/${APP}-*', '/v1/key/list/$*']";
    let (code, lines) = scene.check(
        &format!(
            "root: _\n{TLS}keystore: {{ fs: {{ path: '${{HOME}}/kk' }} }}\n\
             policy: {{ p: {{ paths: {paths} }} }}\nlog: {{ error: 'o${{N}}' }}\n\
             address: '${{IP}}${{PORT}}' # not ${{THIS}} one\n"
        ),
        &[],
    );
    let expected = [
        "kes.yml:3:25: warning: keystore.fs.path: a variable is not replaced in the middle",
        "kes.yml:4:24: warning: policy.p.paths[0]: a variable is not replaced in the path",
        "kes.yml:5:15: error: log.error: \"o\"",
        "kes.yml:5:15: warning: log.error: a part of the value is missing: environment variable ${N} is",
        "kes.yml:6:10: error: address: environment variables ${IP} and ${PORT} are empty or not set",
    ];
    assert_eq!((78, 5), (code, lines.len()), "{lines:#?}");
    for (line, start) in lines.iter().zip(expected) {
        assert!(line.starts_with(start), "{line:?} is not {start:?}");
    }
    assert!(!lines[0].contains("kk"), "{lines:?}");
}

#[test]
fn what_is_no_map_of_fields_has_its_place() {
    let scene = Scene::new();
    for (text, place) in [
        ("# nothing\n- root\n", "kes.yml:2:1: error: expected a map of"),
        ("root: _\n---\n\nroot: _\n", "kes.yml:4:1: error: more than one"),
        (
            "keystore: { fs: { path: k } }\nkeys: { name: x }\n",
            "kes.yml:2:7: error: keys: the file mixes two formats (beside \"keystore\", \"keys\" is a list",
        ),
        ("probe: { address: ':7373' }\n", "kes.yml:1:19: error: probe.address: the server can't"),
    ] {
        let (code, lines) = scene.check(text, &[]);
        let found = lines.iter().any(|line| line.starts_with(place));
        assert!(code == 78 && found, "{lines:#?}");
    }
}

#[test]
fn errors_beyond_the_first_hundred_are_counted() {
    let scene = Scene::new();
    let fields: String = (0..150).map(|number| format!("x{number}: 1\n")).collect();
    let (_, lines) = scene.check(&format!("root: _\n{TLS}{STORE}{fields}"), &[]);
    assert_eq!(101, lines.len());
    assert!(
        lines[100].contains("error: only 100 errors are shown; there are 50 more"),
        "{}",
        lines[100]
    );
}

#[test]
fn standard_input_can_be_checked() {
    let scene = Scene::new();
    let path = scene.0.path().join("kes.yml");
    let check = |text: String| {
        fs::write(&path, text).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_kes"))
            .args(["config", "check", "--auth", "off", "-"])
            .current_dir(scene.0.path())
            .stdin(fs::File::open(&path).unwrap())
            .output()
            .unwrap();
        (output.status.code().unwrap(), out(&output))
    };
    let sound = format!("root: _\n{TLS}{STORE}");
    assert_eq!((0, "<stdin>: ok\n".to_owned()), check(sound.clone()));
    let (code, text) = check(format!("{sound}x: 1\n"));
    assert!(code == 78 && text.starts_with("<stdin>:4:1: error: "), "{text}");
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_text() {
    let scene = Scene::new();
    let sound = format!("\u{feff}root: _\n{TLS}{STORE}");
    assert_eq!((0, vec![]), scene.check(&sound, &[]));
    let (code, lines) = scene.check(&format!("\u{feff}rot: _\nroot: _\n{TLS}{STORE}"), &[]);
    assert_eq!((78, 1), (code, lines.len()));
    assert!(lines[0].starts_with("kes.yml:1:1: error: "), "{lines:?}");
    // A server says the same; this one gets as far as to its address.
    let text = format!("\u{feff}address: 192.0.2.1:0\nroot: _\n{TLS}{STORE}");
    fs::write(scene.0.path().join("kes.yml"), text).unwrap();
    let server = scene.kes(&["server", "--config", "kes.yml", "--auth", "off"]);
    let told = String::from_utf8(server.stderr).unwrap();
    assert!(told.contains("listen tcp 192.0.2.1:0: "), "{told}");
}

#[test]
fn the_json_form_has_the_same_findings() {
    let scene = Scene::new();
    fs::write(scene.0.path().join("kes.yml"), format!("root: _\nx: 1\n{TLS}")).unwrap();
    let output = scene.kes(&["config", "check", "--json", "--auth=off", "kes.yml"]);
    let json: Value = serde_json::from_str(&out(&output)).unwrap();
    assert_eq!("kes.yml", json["file"]);
    let first = &json["findings"][0];
    assert_eq!(
        ("error", 2, 1),
        (
            first["severity"].as_str().unwrap(),
            first["line"].as_i64().unwrap(),
            first["column"].as_i64().unwrap()
        )
    );
    assert!(first["message"].as_str().unwrap().contains("unknown field `x`"));
}

#[test]
fn a_flag_stands_for_a_field() {
    let scene = Scene::new();
    let flags = ["--root", "_", "--key", "server.key", "--cert", "server.crt"];
    assert_eq!((0, vec![]), scene.check(STORE, &flags));
    let (code, lines) = scene.check(STORE, &["--root", "_", "--key", "none", "--cert=server.crt"]);
    assert_eq!((78, 1), (code, lines.len()));
    assert!(lines[0].starts_with("kes.yml: error: tls.key: failed to read private key file"));
}

#[test]
fn too_many_warnings_are_cut_short_and_that_is_told() {
    let scene = Scene::new();
    let text = |count: usize| {
        let paths = "    - /v1/nothing\n".repeat(count);
        format!("root: disabled\n{TLS}{STORE}policy:\n  app:\n    paths:\n{paths}")
    };
    let (code, lines) = scene.check(&text(200), &[]);
    assert_eq!((0, 200), (code, lines.len()));
    assert!(lines.iter().all(|line| !line.contains("more")));
    let (code, lines) = scene.check(&text(231), &[]);
    assert_eq!((0, 201), (code, lines.len()));
    let last = lines.last().unwrap();
    assert!(last.contains("warning: only 200 warnings are shown; there are 31 more"), "{last}");
}

#[test]
fn the_command_says_what_it_wants() {
    let scene = Scene::new();
    let error = |args: &[&str]| {
        let output = scene.kes(args);
        assert_eq!(Some(1), output.status.code());
        String::from_utf8(output.stderr).unwrap()
    };
    assert_eq!("Error: no configuration file specified\n", error(&["config", "check"]));
    assert_eq!("Error: too many arguments\n", error(&["config", "check", "a", "b"]));
    let output = scene.kes(&["config", "check", "no.yml"]);
    assert_eq!(Some(78), output.status.code());
    assert!(out(&output).starts_with("no.yml: error: No such file"));
}

/// Makes the files of a scene what a test wants them to be.
type Prepare = fn(&Scene);

/// What is wrong or looks so, how to make it so, and the text of a file that has it. `V` stands for a
/// Vault that nobody reaches, with these fields more.
const FOUND: &[(&str, Prepare, &str)] = &[
    (
        "warning: tls.key: private key \"server.key\" can be read by its group",
        |scene| scene.mode("server.key", 0o640),
        "",
    ),
    (
        "warning: keystore.fs.path: directory of keys \"KEYS\" is open to every user",
        |scene| {
            fs::create_dir(scene.0.path().join("keys")).unwrap();
            scene.mode("keys", 0o777);
        },
        "",
    ),
    (
        "warning: tls.cert: the certificate is not valid yet",
        |scene| {
            let profile = Profile::server().valid_for(100 * DAY);
            let valid_since = -3600;
            scene.other_certificate("server", &Profile { valid_since, ..profile });
        },
        "",
    ),
    (
        "warning: tls.cert: the certificate is not for servers",
        |scene| scene.other_certificate("server", &Profile::client().valid_for(100 * DAY)),
        "",
    ),
    ("warning: root: \"enable\" is no identity", |_| {}, "root: enable"),
    (
        "warning: policy.p.identities[0]: \"all\" is no identity",
        |_| {},
        "policy: { p: { paths: [/version], identities: [all] } }",
    ),
    (
        "warning: log.error: a part of the value is missing: environment variable ${NO} is empty or not",
        |_| {},
        "log: { error: 'on${NO}' }",
    ),
    (
        "warning: cache.expiry.any: \"cache.expiry.any\" is not set, so a key that is deleted",
        |_| {},
        "V",
    ),
    (
        "warning: keystore.vault.endpoint: the server adds the path of the API itself, behind \"/v1\"",
        |_| {},
        "V endpoint: 'http://127.0.0.1:1/v1'",
    ),
    (
        "warning: keystore.vault.endpoint: keys and the token go to Hashicorp Vault unencrypted",
        |_| {},
        "V endpoint: 'http://127.0.0.1.example.com:8200'",
    ),
    (
        "error: keystore.fs.path: \"KEYS\" is a link that leads nowhere",
        |scene| symlink("nowhere", scene.0.path().join("keys")).unwrap(),
        "F keys/below",
    ),
    (
        "error: keystore.fs.path: \"KEYS\" is a link that leads nowhere",
        |scene| symlink("keys", scene.0.path().join("keys")).unwrap(),
        "F keys",
    ),
    (
        "error: keystore.fs.path: \"HERE/server.crt\" is not a directory",
        |_| {},
        "F server.crt/below",
    ),
    ("error: keystore.fs.path: can't look at \"HERE/nnnnnnnn", |_| {}, "F LONG"),
    (
        "error: keystore.vault.tls.ca: failed to connect to Vault: invalid certificate authorities \"none.pem\": No such file",
        |_| {},
        "V tls: { ca: none.pem }",
    ),
    (
        "error: keystore.vault.tls.ca: failed to connect to Vault: invalid certificate authorities \"empty\": no PEM block",
        |scene| scene.file("empty", ""),
        "V tls: { ca: empty }",
    ),
    (
        "error: keystore.vault.tls.ca: failed to connect to Vault: invalid certificate authorities \"dir\": the directory has no",
        |scene| fs::create_dir(scene.0.path().join("dir")).unwrap(),
        "V tls: { ca: dir }",
    ),
    (
        "error: keystore.vault.tls.key: failed to connect to Vault: invalid private key file \"locked.key\": the key is protected by",
        |scene| {
            let block = "ENCRYPTED PRIVATE KEY-----\n";
            scene.file("locked.key", &format!("-----BEGIN {block}AAAA\n-----END {block}"));
        },
        "V tls: { key: locked.key, cert: server.crt }",
    ),
    (
        "error: keystore.vault.kubernetes.jwt: failed to connect to Vault: failed to read the file of vault.kubernetes.jwt: Is a directory",
        |scene| fs::create_dir(scene.0.path().join("token")).unwrap(),
        "K ./token",
    ),
    (
        "error: keystore.vault.kubernetes.jwt: failed to connect to Vault: failed to read the file of vault.kubernetes.jwt: Is a directory",
        |scene| fs::create_dir(scene.0.path().join("token")).unwrap(),
        "K token",
    ),
    (
        "error: keystore.vault.kubernetes.jwt: failed to connect to Vault: the file of vault.kubernetes.jwt is empty",
        |scene| scene.file("token", " \n"),
        "K ./token",
    ),
];

impl Scene {
    fn file(&self, name: &str, text: &str) {
        fs::write(self.0.path().join(name), text).unwrap();
        self.mode(name, 0o600);
    }

    fn mode(&self, name: &str, mode: u32) {
        let mode = fs::Permissions::from_mode(mode);
        fs::set_permissions(self.0.path().join(name), mode).unwrap();
    }

    /// A file of one of [`FOUND`], for a server that ends where it would listen.
    fn text(&self, text: &str) -> String {
        let login = "approle: { id: i, secret: s }";
        let (own, store) = match text.split_once(' ').unwrap_or((text, "")) {
            ("V", fields) if fields.starts_with("endpoint") => ("", format!("{fields}, {login}")),
            ("V", fields) => ("", format!("endpoint: 'http://127.0.0.1:1', {login}, {fields}")),
            ("F", path) => ("", path.replace("LONG", &"n".repeat(300))),
            ("K", jwt) => (
                "",
                format!("endpoint: 'http://127.0.0.1:1', kubernetes: {{ role: r, jwt: {jwt} }}"),
            ),
            _ => (text, String::new()),
        };
        let store = match store.as_str() {
            "" => STORE.to_owned(),
            path if text.starts_with("F ") => format!("keystore: {{ fs: {{ path: {path} }} }}\n"),
            fields => format!("keystore: {{ vault: {{ {fields} }} }}\n"),
        };
        let root = if own.starts_with("root") { "" } else { "root: _\n" };
        format!("address: 192.0.2.1:0\n{root}{TLS}{store}{own}\n")
    }
}

#[test]
fn the_check_and_the_start_of_a_server_find_the_same() {
    for (expected, prepare, text) in FOUND {
        let scene = Scene::new();
        let keys = scene.0.path().join("keys");
        let expected = expected.replace("KEYS", keys.to_str().unwrap());
        let expected = expected.replace("HERE", scene.0.path().to_str().unwrap());
        prepare(&scene);
        let is_error = expected.starts_with("error");
        let text = scene.text(text);
        let (code, lines) = scene.check(&text, &[]);
        assert_eq!(if is_error { 78 } else { 0 }, code, "{text}{lines:#?}");
        let found = lines.iter().find(|line| line.contains(&expected));
        let found = found.unwrap_or_else(|| panic!("{expected} is not in {lines:#?}\n{text}"));

        let server = scene.kes(&["server", "--config", "kes.yml", "--auth", "off"]);
        assert_eq!(Some(1), server.status.code());
        let said = String::from_utf8(server.stderr).unwrap();
        let mut words = expected.splitn(3, ": ");
        let (_, field, message) = (words.next(), words.next().unwrap(), words.next().unwrap());
        let start = if is_error { "Error: " } else { "Warning: " };
        let line = said.lines().find(|line| line.contains(message));
        let line = line.unwrap_or_else(|| panic!("{message} is not in {said}"));
        assert!(line.starts_with(start), "{line}");
        // The place comes from the check, if there is one.
        let place: Vec<_> = found.split(": ").next().unwrap().split(':').collect();
        if let [file, row, column] = place.as_slice() {
            let place = format!("({file} line {row} column {column}, field {field}");
            assert!(line.contains(&place), "{place} is not in {line}");
        }
    }
}

#[test]
fn a_key_with_a_password_in_a_file_of_0_14_has_two_ways_out() {
    let scene = Scene::new();
    let block = "ENCRYPTED PRIVATE KEY-----\n";
    scene.file("server.key", &format!("-----BEGIN {block}AAAA\n-----END {block}"));
    let (code, lines) = scene.check(&format!("root: _\n{TLS}{STORE}"), &[]);
    assert_eq!((78, 1), (code, lines.len()), "{lines:#?}");
    let advice = "password required (decrypt it with 'openssl pkey', or set \"tls.password\" in the newest format";
    assert!(lines[0].contains(advice), "{lines:#?}");
}

#[test]
fn nothing_is_said_about_what_templates_have_and_about_proxies_in_front_of_a_key_store() {
    let scene = Scene::new();
    let tls = "tls: { key: server.key, cert: server.crt, proxy: { identities: [], header: { cert: \
               X-Tls-Client-Cert } } }\n";
    let template = "keystore: { fs: { path: keys }, vault: { endpoint: \"\", engine: \"\", approle: { id: \
                    \"\", secret: \"\" }, tls: { key: \"\", cert: \"\", ca: \"\" } }, aws: { secretsmanager: { \
                    endpoint: \"\", region: \"\" } } }\n";
    let text = format!("root: disabled\n{tls}{template}");
    assert_eq!((0, vec![]), scene.check(&text, &["--strict"]));
    let vault = "keystore: { vault: { endpoint: 'https://gate/vault', approle: { id: a, secret: b } } }\n\
                 cache: { expiry: { any: 5m0s } }\n";
    let text = format!("root: disabled\n{TLS}{vault}");
    assert_eq!((0, vec![]), scene.check(&text, &["--strict"]));
}

#[test]
fn a_message_repeats_only_the_beginning_of_a_very_long_value() {
    let scene = Scene::new();
    let long = "x".repeat(400_000);
    let policy =
        format!("policy: {{ {long}: {{ paths: [{long}, '['], identities: [{long}] }} }}\n");
    for text in [
        format!("root: {long}\n{TLS}{STORE}{policy}"),
        format!("{long}: 1\n"),
        format!("log: {{ error: {long} }}\n"),
    ] {
        let (_, lines) = scene.check(&text, &[]);
        assert!(!lines.is_empty());
        for line in lines {
            assert!(line.len() < 4000, "{} bytes", line.len());
        }
    }
}
