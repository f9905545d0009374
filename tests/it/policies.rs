//! Policies and identities that change while the server runs, over real TLS: every endpoint and rule
//! (`auth.md` 4 and 5), what the error log says of refusals, and many who change and use at once.

use std::{
    fs,
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::common::{
    Client, Config, Connection, Identity, PATIENCE, Server, client::request, stored_key, wait_for,
};
use granit_parser::Event;
use serde_json::{Value, json};

/// Everything under `/v1/policy/` and `/v1/identity/`.
const ADMINISTRATION: [&str; 3] = ["/v1/policy/*/*", "/v1/identity/*/*", "/v1/identity/*/*/*"];

/// A server with `my-key` and a policy `apps` of `app`, which may use keys that start with `my-`.
fn start(app: &Identity) -> Server {
    Server::start(|config| {
        put_key(config, "my-key");
        config.policy("apps", &["/v1/key/generate/my-*"], &[app]);
    })
}

fn put_key(config: &Config, name: &str) {
    fs::write(config.keys().join(name), stored_key(&[0x5a; 32])).unwrap();
}

fn generate(connection: &mut Connection, key: &str) -> u16 {
    let answer = connection.request("POST", &format!("/v1/key/generate/{key}"), "{}");
    if answer.status != 200 {
        answer.is_failure(403, "prohibited by policy");
    }
    answer.status
}

fn write(client: &Client, policy: &str, paths: &[&str]) {
    let body = json!({ "paths": paths }).to_string();
    client.post(&format!("/v1/policy/write/{policy}"), body).is_empty_success();
}

fn assign(client: &Client, policy: &str, identity: &Identity) {
    client.post(&format!("/v1/identity/assign/{policy}/{}", identity.id), "").is_empty_success();
}

/// The paths of a policy.
fn paths(client: &Client, policy: &str) -> Value {
    let answer = client.get(&format!("/v1/policy/read/{policy}"));
    answer.is_json_success();
    answer.json()["paths"].clone()
}

/// The error events so far.
fn errors(server: &Server) -> Vec<String> {
    let text = server.stderr();
    let message = |line| serde_json::from_str::<Value>(line).unwrap()["message"].clone();
    text.lines().map(|line| message(line).as_str().unwrap().to_owned()).collect()
}

// policies

#[test]
fn a_written_policy_is_read_back_as_it_was_written() {
    let server = start(&Identity::new("app"));
    let root = server.root();
    write(&root, "mine", &["/v1/key/*/b", "/v1/key/*/a", "/\u{e9}[^a]\\*"]);
    let answer = root.get("/v1/policy/read/mine");
    answer.is_json_success();
    assert_eq!(
        "{\"paths\":[\"/v1/key/*/b\",\"/v1/key/*/a\",\"/\u{e9}[^a]\\\\*\"]}\n",
        answer.text()
    );
    write(&root, "mine", &["/other"]);
    assert_eq!(json!(["/other"]), paths(&root, "mine"));
    root.put("/v1/policy/write/mine", "{}").is_empty_success();
    assert_eq!("{\"paths\":[]}\n", root.get("/v1/policy/read/mine").text());
    assert_eq!(json!(["/v1/key/generate/my-*"]), paths(&root, "apps"));
}

#[test]
fn policies_are_read_as_the_clients_write_them() {
    let server = start(&Identity::new("app"));
    let mut connection = server.root().connect();
    for (body, wanted) in [
        ("{}", json!([])),
        ("null", json!([])),
        (r#"{"paths":null}"#, json!([])),
        (r#"{"PATHS":["/a"]} and more"#, json!(["/a"])),
        (r#"{"paths":["/a",null]}"#, json!(["/a", ""])),
        (r#" {"paths":["\u002fa"]}"#, json!(["/a"])),
    ] {
        connection.request("POST", "/v1/policy/write/p", body).is_empty_success();
        assert_eq!(wanted, paths(&server.root(), "p"), "{body}");
    }
}

#[test]
fn a_policy_may_allow_and_deny_as_those_of_2022() {
    let app = Identity::new("app");
    let server = start(&app);
    let mut root = server.root().connect();
    let body = json!({ "allow": ["/v1/key/generate/*"], "deny": ["/v1/key/generate/other-*"] });
    root.request("POST", "/v1/policy/write/apps", body.to_string()).is_empty_success();
    let answer = root.request("GET", "/v1/policy/read/apps", "");
    let wanted = json!({ "paths": ["/v1/key/generate/*"], "deny": ["/v1/key/generate/other-*"] });
    assert_eq!(wanted, serde_json::from_str::<Value>(answer.text()).unwrap());
    let mut connection = server.client(&app).connect();
    assert_eq!(200, generate(&mut connection, "my-key"));
    assert_eq!(403, generate(&mut connection, "other-key"));
}

#[test]
fn what_is_no_policy_is_refused_and_changes_nothing() {
    let server = start(&Identity::new("app"));
    let mut connection = server.root().connect();
    for body in [
        "",
        "{",
        "[]",
        "\"/a\"",
        r#"{"paths":"/a"}"#,
        r#"{"paths":[1]}"#,
        r#"{"paths":[["/a"]]}"#,
        r#"{"paths":["/a"],"identities":[]}"#,
        r#"{"allow":["/a"],"paths":["/a"]}"#,
        r#"{"allow":"/a"}"#,
        r#"{"allow":["/a"],"identities":[]}"#,
        r#"{"paths":["/a"],"Paths":["/b"]}"#,
        r#"{"paths":["/a","/["]}"#,
        r#"{"paths":["/[]"]}"#,
        r#"{"paths":["/\\"]}"#,
    ] {
        connection.request("POST", "/v1/policy/write/apps", body).is_failure(400, "invalid json");
    }
    assert_eq!(json!(["/v1/key/generate/my-*"]), paths(&server.root(), "apps"));
}

#[test]
fn a_policy_of_one_mebibyte_is_taken_and_no_larger_one() {
    let server = start(&Identity::new("app"));
    let body = |size: usize| {
        let start = r#"{"paths":["/a"]}"#;
        format!("{}{start}", " ".repeat(size - start.len()))
    };
    let root = server.root();
    root.post("/v1/policy/write/p", body(1 << 20)).is_empty_success();
    root.post("/v1/policy/write/q", body((1 << 20) + 1)).is_failure(400, "invalid json");
    root.get("/v1/policy/read/q").is_failure(404, "policy does not exist");
}

#[test]
fn policies_are_listed_sorted_and_by_pattern() {
    let server = start(&Identity::new("app"));
    let root = server.root();
    for name in ["b", "a", "b c", "\u{e9}"] {
        write(&root, &name.replace(' ', "%20").replace('\u{e9}', "%C3%A9"), &[]);
    }
    for (pattern, wanted) in [
        ("*", "[\"a\",\"apps\",\"b\",\"b c\",\"\u{e9}\"]\n"),
        ("", "[\"a\",\"apps\",\"b\",\"b c\",\"\u{e9}\"]\n"),
        ("a*", "[\"a\",\"apps\"]\n"),
        ("%3F", "[\"a\",\"b\",\"\u{e9}\"]\n"),
        ("none", "[]\n"),
        ("[", "[]\n"),
    ] {
        let path = format!("/v1/policy/list/{pattern}");
        for method in ["GET", "POST", "PUT"] {
            let answer = root.request(method, &path, "");
            answer.is_json_success();
            assert_eq!(wanted, answer.text(), "{method} {pattern}");
        }
    }
}

#[test]
fn a_deleted_policy_takes_its_assignments_along() {
    let app = Identity::new("app");
    let server = start(&app);
    let root = server.root();
    let mut connection = server.client(&app).connect();
    assert_eq!(200, generate(&mut connection, "my-key"));
    for _ in 0..2 {
        root.delete("/v1/policy/delete/apps").is_empty_success();
        assert_eq!(403, generate(&mut connection, "my-key"));
    }
    root.get("/v1/policy/read/apps").is_failure(404, "policy does not exist");
    assert_eq!("{}\n", root.get("/v1/identity/list/*").text());
    // A policy of the same name is another one.
    write(&root, "apps", &["/v1/key/generate/my-*"]);
    assert_eq!(403, generate(&mut connection, "my-key"));
    assign(&root, "apps", &app);
    assert_eq!(200, generate(&mut connection, "my-key"));
}

#[test]
fn a_rewritten_policy_keeps_its_identities() {
    let app = Identity::new("app");
    let server = start(&app);
    let root = server.root();
    let mut connection = server.client(&app).connect();
    for (path, status) in [
        ("/v1/key/generate/other", 403),
        ("/v1/key/*/my-key", 200),
        ("v1/key/*/my-key", 403),
        ("/v1/key/*", 403),
        ("/v1/*/*/*", 200),
    ] {
        write(&root, "apps", &[path]);
        assert_eq!(status, generate(&mut connection, "my-key"), "{path}");
    }
}

#[test]
fn names_of_policies_are_single_safe_elements() {
    let server = start(&Identity::new("app"));
    let mut connection = server.root().connect();
    let long = "a".repeat(256);
    for (method, api) in [("POST", "write"), ("GET", "read"), ("DELETE", "delete")] {
        for name in ["", ".", "..", "%2E", "%5C", "a%0Ab", "%00", &long] {
            let path = format!("/v1/policy/{api}/{name}");
            connection.request(method, &path, "{}").is_failure(400, "invalid policy name");
        }
        let without_slash = format!("/v1/policy/{api}");
        connection.request(method, &without_slash, "{}").is_failure(400, "invalid policy name");
        let pattern = format!("/v1/policy/{api}/*");
        connection
            .request(method, &format!("/v1/policy/{api}/a%2Fb"), "{}")
            .is_failure(400, &format!("request URL path does not match API pattern: {pattern}"));
    }
    for name in ["..", ".", "%5C", &long] {
        connection
            .request("POST", &format!("/v1/identity/assign/{name}/x"), "")
            .is_failure(400, "invalid policy name");
    }
    assert_eq!("[\"apps\"]\n", server.root().get("/v1/policy/list/").text());
}

#[test]
fn a_wrong_method_is_told_the_right_one() {
    let server = start(&Identity::new("app"));
    let mut connection = server.root().connect();
    for (expected, path) in [
        ("POST", "/v1/policy/write/a"),
        ("GET", "/v1/policy/read/a"),
        ("GET", "/v1/policy/list/*"),
        ("DELETE", "/v1/policy/delete/apps"),
        ("POST", "/v1/identity/assign/apps/x"),
        ("GET", "/v1/identity/list/*"),
        ("DELETE", "/v1/identity/forget/x"),
    ] {
        for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS"] {
            let is_post = expected == "POST" || path == "/v1/policy/list/*";
            if method == expected || (is_post && ["POST", "PUT"].contains(&method)) {
                continue;
            }
            let answer = connection.request(method, path, "");
            answer.is_failure(405, "Method Not Allowed");
            assert_eq!(Some(expected), answer.header("Accept"), "{method} {path}");
        }
    }
}

// identities

#[test]
fn an_assigned_identity_may_do_what_its_policy_says_at_once() {
    let app = Identity::new("app");
    let new = Identity::new("new");
    let server = start(&app);
    let root = server.root();
    let mut connection = server.client(&new).connect();
    assert_eq!(403, generate(&mut connection, "my-key"));
    assign(&root, "apps", &new);
    assert_eq!(200, generate(&mut connection, "my-key"));
    root.delete(&format!("/v1/identity/forget/{}", new.id)).is_empty_success();
    assert_eq!(403, generate(&mut connection, "my-key"));
    // Nothing to forget is no failure, and others are not touched.
    root.delete(&format!("/v1/identity/forget/{}", new.id)).is_empty_success();
    assert_eq!(200, generate(&mut server.client(&app).connect(), "my-key"));
}

#[test]
fn an_identity_has_one_policy_and_assigning_replaces_it() {
    let app = Identity::new("app");
    let server = start(&app);
    let root = server.root();
    let mut connection = server.client(&app).connect();
    write(&root, "none", &["/v1/key/generate/other"]);
    root.put(&format!("/v1/identity/assign/none/{}", app.id), "ignored").is_empty_success();
    assert_eq!(403, generate(&mut connection, "my-key"));
    assert_eq!(format!("{{\"{}\":\"none\"}}\n", app.id), root.get("/v1/identity/list/").text());
}

#[test]
fn identities_are_listed_sorted_and_by_pattern() {
    let app = Identity::new("app");
    let server = start(&app);
    let root = server.root();
    root.delete(&format!("/v1/identity/forget/{}", app.id)).is_empty_success();
    write(&root, "p\"q", &[]);
    for (policy, identity) in [("apps", "b2"), ("p%22q", "b1"), ("apps", "a%20b")] {
        root.post(&format!("/v1/identity/assign/{policy}/{identity}"), "").is_empty_success();
    }
    for (pattern, wanted) in [
        ("*", "{\"a b\":\"apps\",\"b1\":\"p\\\"q\",\"b2\":\"apps\"}\n"),
        ("b%3F", "{\"b1\":\"p\\\"q\",\"b2\":\"apps\"}\n"),
        ("b2", "{\"b2\":\"apps\"}\n"),
        ("none", "{}\n"),
        ("[", "{}\n"),
    ] {
        let answer = root.get(&format!("/v1/identity/list/{pattern}"));
        answer.is_json_success();
        assert_eq!(wanted, answer.text(), "{pattern}");
    }
}

#[test]
fn assignments_are_refused_with_the_first_reason_that_applies() {
    let gate = Identity::new("gate");
    let admin = Identity::new("admin");
    let server = Server::start(|config| {
        config.policy("admins", &ADMINISTRATION, &[&admin]);
        config.proxies(&[&gate], Some("X-Client-Cert"));
    });
    let root_id = &server.root_identity.id;
    let clients = [server.root(), server.client(&admin)];
    for client in &clients {
        for policy in ["admins", "gone"] {
            client
                .post(&format!("/v1/identity/assign/{policy}/"), "")
                .is_failure(400, "identity is unknown");
            client
                .post(&format!("/v1/identity/assign/{policy}/{root_id}"), "")
                .is_failure(400, "identity is root");
            client
                .post(&format!("/v1/identity/assign/{policy}/{}", gate.id), "")
                .is_failure(400, "identity is a TLS proxy, which can't have a policy");
        }
        client.post("/v1/identity/assign/gone/x", "").is_failure(404, "policy does not exist");
        client.delete("/v1/identity/forget/").is_failure(400, "identity is unknown");
        client
            .delete(&format!("/v1/identity/forget/{root_id}"))
            .is_failure(400, "identity is root");
        let mismatch = "request URL path does not match API pattern: /v1/identity/assign/*/*";
        for path in ["admins", "admins/a/b", "admins/a/"] {
            client.post(&format!("/v1/identity/assign/{path}"), "").is_failure(400, mismatch);
        }
    }
    for policy in ["admins", "gone"] {
        clients[1]
            .post(&format!("/v1/identity/assign/{policy}/{}", admin.id), "")
            .is_failure(403, "identity cannot assign policy to itself");
    }
    // It may give up its own rights, though.
    clients[1].delete(&format!("/v1/identity/forget/{}", admin.id)).is_empty_success();
    clients[1].get("/v1/identity/list/*").is_failure(403, "prohibited by policy");
}

#[test]
fn root_is_not_listed_and_can_do_everything_without_a_policy() {
    let server = start(&Identity::new("app"));
    let root = server.root();
    let list: Value = root.get("/v1/identity/list/*").json();
    assert_eq!(1, list.as_object().unwrap().len());
    assert_eq!(None, list.get(&server.root_identity.id));
}

#[test]
fn each_administrative_call_needs_its_own_path_in_a_policy() {
    let admin = Identity::new("admin");
    let paths = [
        ("POST", "/v1/policy/write/p", "{}"),
        ("GET", "/v1/policy/read/p", ""),
        ("GET", "/v1/policy/list/*", ""),
        ("POST", "/v1/identity/assign/p/x", ""),
        ("GET", "/v1/identity/list/*", ""),
        ("DELETE", "/v1/identity/forget/x", ""),
        ("DELETE", "/v1/policy/delete/p", ""),
    ];
    let server = Server::start(|config| config.policy("admins", &[], &[&admin]));
    let root = server.root();
    let mut connection = server.client(&admin).connect();
    for (_, allowed, _) in paths {
        write(&root, "admins", &[&allowed.replace('*', "\\*")]);
        write(&root, "p", &[]);
        for (method, path, body) in paths {
            let answer = connection.request(method, path, body);
            match path == allowed {
                true => assert_eq!(200, answer.status, "{path}"),
                false => answer.is_failure(403, "prohibited by policy"),
            }
        }
    }
}

#[test]
fn who_loses_a_right_while_sending_the_body_does_not_use_it_any_more() {
    let admin = Identity::new("admin");
    let server = Server::start(|config| config.policy("admins", &ADMINISTRATION, &[&admin]));
    let root = server.root();
    let mut connection = server.client(&admin).connect();
    let bytes = request("POST", "/v1/policy/write/evil", br#"{"paths":["/*"]}"#);
    let (head, tail) = bytes.split_at(bytes.len() - 1);
    connection.send(head);
    // The server has admitted the request by its head.
    server.reads_all_of(&connection);
    std::thread::sleep(Duration::from_millis(50));
    root.delete(&format!("/v1/identity/forget/{}", admin.id)).is_empty_success();
    connection.send(tail);
    connection.response().is_failure(403, "prohibited by policy");
    root.get("/v1/policy/read/evil").is_failure(404, "policy does not exist");
}

// the error log

#[test]
fn the_error_log_explains_each_refusal() {
    let app = Identity::new("app");
    let stranger = Identity::new("stranger");
    let server = start(&app);
    server
        .client(&app)
        .post("/v1/key/generate/other", "{}")
        .is_failure(403, "prohibited by policy");
    server.client(&stranger).get("/v1/policy/list/*%0A").is_failure(403, "prohibited by policy");
    let wanted = [
        format!(
            "identity \"{}\" called \"/v1/key/generate/other\": refused: no path of policy \
             \"apps\" matches, the nearest is \"/v1/key/generate/my-*\"; to allow it, add the path \
             \"/v1/key/generate/other\"",
            app.id
        ),
        format!(
            "identity \"{}\" called \"/v1/policy/list/*\\n\": refused: the identity is assigned to \
             no policy",
            stranger.id
        ),
    ];
    wait_for(PATIENCE, || (errors(&server).len() >= 2).then_some(()));
    let errors = errors(&server);
    assert_eq!(2, errors.len(), "{errors:?}");
    for (error, wanted) in errors.iter().zip(wanted) {
        // After the date and the time.
        assert_eq!(Some(wanted.as_str()), error.get(20..));
    }
}

/// The one line that explains a refused call, which may have to be repeated: there are at most so many a
/// second.
fn explanation(server: &Server, client: &Client, method: &str, path: &str) -> String {
    let before = errors(server).len();
    let found = wait_for(PATIENCE, || {
        client.request(method, path, "{}").is_failure(403, "prohibited by policy");
        let line =
            || errors(server).get(before..)?.iter().find(|e| e.contains(" called ")).cloned();
        wait_for(Duration::from_secs(3), line)
    });
    found.unwrap_or_else(|| panic!("{path} is not explained"))
}

#[test]
fn the_path_that_the_error_log_advises_allows_the_call() {
    let app = Identity::new("app");
    let server = Server::start(|config| config.policy("apps", &["/version"], &[&app]));
    let (root, client) = (server.root(), server.client(&app));
    let long = "%2A".repeat(255);
    for (method, path, advised) in [
        ("GET", "/v1/key/list/*", "\"/v1/key/list/*\""),
        ("GET", "/v1/key/list", "\"/v1/key/list/*\""),
        ("GET", "/v1/key/list/my-*", "\"/v1/key/list/my-*\""),
        ("GET", "/v1/policy/list/%5Ba-z%5D", "\"/v1/policy/list/*\""),
        ("GET", "/v1/identity/list/%5C*", "\"/v1/identity/list/*\""),
        ("POST", "/v1/key/create/*", "\"/v1/key/create/[*]\""),
        ("POST", "/v1/key/import/a%22b", "\"/v1/key/import/a\\\"b\""),
        ("DELETE", "/v1/key/delete/%5B%3F", "\"/v1/key/delete/[[][?]\""),
        ("POST", "/v1/key/generate/a:%20%23b", "\"/v1/key/generate/a: #b\""),
        ("POST", "/v1/key/encrypt/%C3%A9", "\"/v1/key/encrypt/\u{e9}\""),
        ("POST", "/v1/key/decrypt/%E2%80%AE", "\"/v1/key/decrypt/\\u202e\""),
        ("POST", &format!("/v1/key/create/{long}"), "\"/v1/key/create/*\""),
        ("POST", "/v1/policy/write/%7Ba,b%7D", "\"/v1/policy/write/{a,b}\""),
        ("GET", "/v1/policy/read/%F0%9F%94%91", "\"/v1/policy/read/\u{1f511}\""),
        ("DELETE", "/v1/policy/delete/'a'", "\"/v1/policy/delete/'a'\""),
        ("POST", "/v1/identity/assign/a*/%5C", "\"/v1/identity/assign/a[*]/\\\\\\\\\""),
        ("DELETE", "/v1/identity/forget/%01%7F", "\"/v1/identity/forget/\\u0001\\u007f\""),
        ("GET", "/v1/log/audit/trace", "\"/v1/log/audit/trace\""),
        ("GET", "/v1/metrics", "\"/v1/metrics\""),
    ] {
        write(&root, "apps", &["/none"]);
        let line = explanation(&server, &client, method, path);
        let found = line.split_once("; to allow it, add the path ").map(|(_, path)| path);
        assert_eq!(Some(advised), found, "{line}");
        // As it is shown, in the JSON of the API and in the YAML of the file.
        let policy = format!("{{\"paths\":[{advised}]}}");
        let text: String = serde_json::from_str(advised).unwrap();
        let yaml = format!("paths:\n- {advised}\n");
        let mut events = granit_parser::Parser::new_from_str(&yaml);
        let is_there = |event| matches!(event, Ok((Event::Scalar(found, ..), _)) if *found == text);
        assert!(events.any(is_there), "{yaml}");
        root.post("/v1/policy/write/apps", policy).is_empty_success();
        if path.ends_with("/trace") {
            continue; // answered for ever
        }
        let status = client.request(method, path, "{}").status;
        assert_ne!(403, status, "{path}");
    }
}

#[test]
fn the_error_log_says_what_a_refused_call_lacks() {
    let app = Identity::new("app");
    let server = start(&app);
    let client = server.client(&app);
    for (method, path, why) in [
        ("POST", "/v1/key/create/", "the request names no key"),
        ("POST", "/v1/key/generate", "the request names no key"),
        ("DELETE", "/v1/policy/delete/", "the request names no policy"),
        ("DELETE", "/v1/identity/forget", "the request names no identity"),
        ("POST", "/v1/key/create/a%5Cb", "the name of the key contains '\\'"),
    ] {
        let line = explanation(&server, &client, method, path);
        let wanted = format!("the nearest is \"/v1/key/generate/my-*\"; {why}");
        assert!(line.ends_with(&wanted), "{line}");
    }
    let stranger = server.client(&Identity::new("stranger"));
    let line = explanation(&server, &stranger, "POST", "/v1/key/create/");
    let wanted = "the identity is assigned to no policy; the request names no key";
    assert!(line.ends_with(wanted), "{line}");
    // However long the path is, there is room for the reason.
    let path = format!("/v1/key/create/{}", "a".repeat(4000));
    let line = explanation(&server, &client, "POST", &path);
    assert!(line.len() < 4000, "{line}");
    let wanted = "\"/v1/key/generate/my-*\"; the name of the key is longer than 255 bytes";
    assert!(line.ends_with(wanted), "{line}");
}

#[test]
fn the_certificates_that_are_too_many_are_named() {
    let server = start(&Identity::new("app"));
    let another = Identity::new("another");
    let two = server.root_identity.clone().followed_by(&another);
    let message = "too many identities: more than one certificate is present";
    server.client(&two).post("/v1/key/create/a", "").is_failure(400, message);
    let named =
        |name: &str, identity: &Identity| format!("(\"CN={name}\", identity {})", identity.id);
    let wanted = format!(
        "a client called \"/v1/key/create/a\": refused: too many identities: certificate 1 {} and \
         certificate 2 {} are both no authority's; a client sends its own certificate and those of its \
         authorities only",
        named("root", &server.root_identity),
        named("another", &another),
    );
    let logged = wait_for(PATIENCE, || errors(&server).first().cloned());
    assert_eq!(Some(wanted.as_str()), logged.as_deref().and_then(|line| line.get(20..)));
}

#[test]
fn certificates_that_are_too_many_beside_proxies_are_named_too() {
    let gate = Identity::new("gate");
    let server = Server::start(|config| config.proxies(&[&gate], Some("X-Client-Cert")));
    let two = gate.clone().followed_by(&Identity::new("another"));
    for path in ["/v1/key/create/a", "/version", "/none"] {
        let before = errors(&server).len();
        server.client(&two).post(path, "").is_failure(
            if path == "/version" { 405 } else { 400 },
            match path {
                "/version" => "Method Not Allowed",
                _ => "too many client certificates are present",
            },
        );
        if path == "/version" {
            continue;
        }
        let logged = wait_for(PATIENCE, || errors(&server).get(before).cloned());
        let logged = logged.unwrap_or_else(|| panic!("{path} is not explained"));
        assert!(logged.contains("certificate 1 (\"CN=gate\", identity "), "{logged}");
        assert!(logged.contains("and certificate 2 (\"CN=another\", identity "), "{logged}");
    }
}

#[test]
fn a_client_that_is_refused_again_and_again_does_not_fill_the_log() {
    const REFUSED: u64 = 1500;
    let server = start(&Identity::new("app"));
    let begin = Instant::now();
    let mut connection = server.client(&Identity::new("stranger")).connect();
    for _ in 0..REFUSED {
        assert_eq!(403, generate(&mut connection, "my-key"));
    }
    let what = "requests were prohibited by policy";
    server.limits_errors(REFUSED, " called ", what, 10, begin);
}

// many at once

/// What a reader may do: use the key `a`, the key `b`, or nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Right {
    None,
    A,
    B,
}

impl Right {
    fn allows(self, key: &str) -> bool {
        match self {
            Self::None => false,
            Self::A => key == "a",
            Self::B => key == "b",
        }
    }
}

/// Something that happened between two instants.
struct During<T> {
    from: Instant,
    until: Instant,
    what: T,
}

fn during<T>(action: impl FnOnce() -> T) -> During<T> {
    let from = Instant::now();
    let what = action();
    During { from, until: Instant::now(), what }
}

/// Sets the flag when it is dropped, even in a panic: a thread that waits for it must not wait for ever.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Changes the right of one identity `rounds` times around, in every way there is.
struct Writer<'a> {
    connection: Connection,
    /// A connection of the identity that was opened before any change.
    victim: Connection,
    number: usize,
    identity: &'a Identity,
    changes: Vec<During<Right>>,
}

impl Writer<'_> {
    fn call(&mut self, method: &str, path: &str, body: &str, right: Right) {
        let done = during(|| self.connection.request(method, path, body));
        done.what.is_empty_success();
        self.changes.push(During { from: done.from, until: done.until, what: right });
        // The very next request of an open connection sees it.
        for key in ["a", "b"] {
            let status = generate(&mut self.victim, key);
            assert_eq!(right.allows(key), status == 200, "{method} {path}: {key}");
        }
    }

    fn run(mut self, rounds: usize) -> Vec<During<Right>> {
        let (number, id) = (self.number, &self.identity.id);
        let policy = |name: &str| format!("/v1/policy/write/{name}-{number}");
        let assigned = |name: &str, id: &str| format!("/v1/identity/assign/{name}-{number}/{id}");
        let forget = format!("/v1/identity/forget/{id}");
        let delete = format!("/v1/policy/delete/a-{number}");
        let only = |key: &str| json!({ "paths": [format!("/v1/key/generate/{key}")] }).to_string();
        for _ in 0..rounds {
            self.call("POST", &policy("a"), &only("a"), Right::None);
            self.call("POST", &assigned("a", id), "", Right::A);
            self.call("POST", &policy("b"), &only("b"), Right::A);
            self.call("POST", &assigned("b", id), "", Right::B);
            self.call("DELETE", &forget, "", Right::None);
            self.call("POST", &assigned("a", id), "", Right::A);
            self.call("POST", &policy("a"), "{}", Right::None);
            for part in 0..4 {
                let fellow = format!("fellow-{number}-{part}");
                self.call("POST", &assigned("a", &fellow), "", Right::None);
            }
            self.call("POST", &policy("a"), &only("a"), Right::A);
            self.call("DELETE", &delete, "", Right::None);
        }
        self.changes
    }
}

/// Whether one order of all changes and uses explains each answer: a use sees a change that did not
/// begin after it ended, none that another had replaced before it began, and none older than what an
/// earlier use saw.
fn check_history(changes: &[During<Right>], uses: &[During<(&'static str, u16)>]) {
    // Before the first change there is no right.
    let right = |at: usize| at.checked_sub(1).map_or(Right::None, |at| changes[at].what);
    let mut seen = 0;
    for one in uses {
        let (key, status) = one.what;
        let complete = changes.partition_point(|change| change.until < one.from);
        let begun = changes.partition_point(|change| change.from < one.until);
        let explained =
            (complete.max(seen)..=begun).find(|at| right(*at).allows(key) == (status == 200));
        let Some(at) = explained else {
            let rights: Vec<_> = (complete..=begun).map(right).collect();
            panic!("{status} for {key} is none of {rights:?}, or older than what was seen");
        };
        seen = at;
    }
}

#[test]
fn every_answer_is_explained_by_some_order_of_all_changes() {
    const PAIRS: usize = 8;
    const ROUNDS: usize = 12;
    let admin = Identity::new("admin");
    let readers: Vec<_> =
        (0..PAIRS).map(|number| Identity::new(&format!("reader-{number}"))).collect();
    let server = Server::start(|config| {
        for key in ["a", "b"] {
            put_key(config, key);
        }
        config.audit = "off";
        config.policy("admins", &ADMINISTRATION, &[&admin]);
    });
    let is_over = AtomicBool::new(false);
    let barrier = Barrier::new(2 * PAIRS + 1);
    let wait = || {
        barrier.wait();
    };
    std::thread::scope(|scope| {
        let uses: Vec<_> = readers
            .iter()
            .map(|reader| {
                let mut connection = server.client(reader).connect();
                let (is_over, wait) = (&is_over, &wait);
                scope.spawn(move || {
                    let mut uses = Vec::new();
                    wait();
                    while !is_over.load(Ordering::Relaxed) {
                        for key in ["a", "b"] {
                            let one = during(|| generate(&mut connection, key));
                            uses.push(During {
                                from: one.from,
                                until: one.until,
                                what: (key, one.what),
                            });
                        }
                    }
                    uses
                })
            })
            .collect();
        let changes: Vec<_> = readers
            .iter()
            .enumerate()
            .map(|(number, identity)| {
                // Half of the writers are root, the others have a policy that lets them.
                let by = [server.root(), server.client(&admin)][number % 2].clone();
                let writer = Writer {
                    connection: by.connect(),
                    victim: server.client(identity).connect(),
                    number,
                    identity,
                    changes: Vec::new(),
                };
                let wait = &wait;
                scope.spawn(move || {
                    wait();
                    writer.run(ROUNDS)
                })
            })
            .collect();
        let end = SetOnDrop(&is_over);
        // The fellows are assigned one after the other and go with their policy all at once: what
        // is listed is always the first few of them.
        let mut connection = server.root().connect();
        wait();
        while !changes.iter().all(|writer| writer.is_finished()) {
            let list = connection.request("GET", "/v1/identity/list/fellow-*", "");
            list.is_json_success();
            let list = list.json();
            for number in 0..PAIRS {
                let is_listed = |part| list.get(format!("fellow-{number}-{part}")).is_some();
                let listed: Vec<bool> = (0..4).map(is_listed).collect();
                assert!(listed.is_sorted_by(|a, b| a >= b), "{listed:?}");
            }
        }
        drop(end);
        let changes: Vec<_> = changes.into_iter().map(|w| w.join().unwrap()).collect();
        for (changes, uses) in changes.iter().zip(uses) {
            let uses = uses.join().unwrap();
            assert!(uses.iter().any(|one| one.what.1 == 200), "nothing was used");
            check_history(changes, &uses);
        }
    });
    // Nothing is lost and nothing is left over.
    let root = server.root();
    let mut wanted: Vec<_> = (0..PAIRS).map(|number| format!("b-{number}")).collect();
    wanted.insert(0, "admins".to_owned());
    assert_eq!(json!(wanted), root.get("/v1/policy/list/*").json());
    assert_eq!(json!({ admin.id.as_str(): "admins" }), root.get("/v1/identity/list/*").json());
}

#[test]
fn changes_stay_quick_with_thousands_of_policies() {
    let app = Identity::new("app");
    let server = start(&app);
    let mut connection = server.root().connect();
    for number in 0..3000 {
        connection
            .request("POST", &format!("/v1/policy/write/p-{number}"), "{}")
            .is_empty_success();
        connection
            .request("POST", &format!("/v1/identity/assign/p-{number}/{number}"), "")
            .is_empty_success();
    }
    let count = |path| server.root().get(path).json();
    assert_eq!(3001, count("/v1/policy/list/*").as_array().unwrap().len());
    assert_eq!(3001, count("/v1/identity/list/*").as_object().unwrap().len());
    assert_eq!(200, generate(&mut server.client(&app).connect(), "my-key"));
}

#[test]
fn a_pattern_that_is_hard_to_match_holds_up_nobody() {
    let app = Identity::new("app");
    let server = start(&app);
    let root = server.root();
    // Followed naively, each of these takes the product of both lengths.
    let hard = ["a", "?"].map(|letter| format!("/v1/key/generate/*{}b", letter.repeat(30_000)));
    write(&root, "apps", &hard.each_ref().map(String::as_str));
    let path = format!("/v1/key/generate/{}", "a".repeat(60_000));
    let app = server.client(&app);
    let before = server.cpu_time();
    for _ in 0..4 {
        app.post(&path, "{}").is_failure(403, "prohibited by policy");
    }
    // Of a processor, which does not depend on what else this machine does.
    let took = server.cpu_time() - before;
    assert!(took < Duration::from_secs(5), "{took:?}");
    root.get("/version").is_json_success();

    // Names can be long, too.
    for number in 0..50 {
        let identity = format!("{number}{}", "a".repeat(60_000));
        root.post(&format!("/v1/identity/assign/apps/{identity}"), "").is_empty_success();
    }
    root.get(&format!("/v1/identity/list/*{}b", "a".repeat(4000)))
        .is_failure(400, "pattern takes too long to match");
    assert_eq!(51, root.get("/v1/identity/list/*").json().as_object().unwrap().len());
}

#[test]
fn a_missing_argument_is_the_same_for_all_who_may_call() {
    let app = Identity::new("app");
    let server = Server::start(|config| config.policy("apps", &ADMINISTRATION, &[&app]));
    for client in [server.root(), server.client(&app)] {
        for path in ["/v1/identity/forget", "/v1/identity/forget/"] {
            client.delete(path).is_failure(400, "identity is unknown");
        }
        for path in ["/v1/policy/delete", "/v1/policy/delete/"] {
            client.delete(path).is_failure(400, "invalid policy name");
        }
    }
}
