//! TLS proxies: whom they may speak for, and what others can't make the server believe.

use std::{fs, time::Instant};

use crate::common::{
    Authority, Connection, Http2, Identity, OpenSsl, PATIENCE, Profile, Response, Server,
    certificates::pem, stored_key, wait_for,
};

/// The header of the tests as the configuration has it.
const HEADER: &str = "X-Tls-Client-Cert";

const GENERATE: &str = "/v1/key/generate/my-key";

/// An authority, a proxy, an application with a policy for [`GENERATE`], and root.
struct Scene {
    authority: Authority,
    proxy: Identity,
    app: Identity,
    server: Server,
}

/// `auth`: whether certificates, also forwarded ones, must be issued by the authority.
fn scene(auth: &'static str) -> Scene {
    scene_trusting(auth, &[])
}

/// The same, and `others` are trusted as they are.
fn scene_trusting(auth: &'static str, others: &[&Identity]) -> Scene {
    let authority = Authority::new("authority");
    let issue = |name| authority.issue(name, &Profile::client());
    let (proxy, app, root) = (issue("proxy"), issue("app"), issue("root"));
    let server = Server::start(|config| {
        config.root = root.id.clone();
        config.root_identity = root;
        config.auth = auth;
        let trusted: String = std::iter::once(&authority.identity)
            .chain(others.iter().copied())
            .map(Identity::certificate_pem)
            .collect();
        let file = config.file("authorities.pem", &trusted);
        config.environment.push(("SSL_CERT_FILE".to_owned(), file.display().to_string()));
        config.policy("app", &["/v1/key/generate/*"], &[&app]);
        config.proxies(&[&proxy], Some(HEADER));
        fs::write(config.keys().join("my-key"), stored_key(&[1; 32])).unwrap();
    });
    Scene { authority, proxy, app, server }
}

impl Scene {
    fn proxy(&self) -> Connection {
        self.server.client(&self.proxy).connect()
    }
}

/// The certificate of `identity` as nginx's `$ssl_client_escaped_cert` has it.
fn escaped(identity: &Identity) -> String {
    escape(&pem("CERTIFICATE", &identity.chain[0]))
}

fn escape(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// A request with these header lines, each without its end.
fn ask(connection: &mut Connection, path: &str, headers: &[String]) -> Response {
    let (method, body) = match path {
        GENERATE => ("POST", "{}"),
        path if path.starts_with("/v1/key/create/") => ("POST", ""),
        _ => ("GET", ""),
    };
    let lines: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    let length = body.len();
    connection.send(format!(
        "{method} {path} HTTP/1.1\r\nHost: kes\r\n{lines}Content-Length: {length}\r\n\r\n{body}"
    ));
    connection.response()
}

fn forward(connection: &mut Connection, path: &str, identity: &Identity) -> Response {
    ask(connection, path, &[format!("{HEADER}: {}", escaped(identity))])
}

#[test]
fn a_proxy_speaks_for_its_clients() {
    for auth in ["on", "off"] {
        let scene = scene(auth);
        let (root, app) = (&scene.server.root_identity, &scene.app);
        let stranger = scene.authority.issue("stranger", &Profile::client());
        let mut proxy = scene.proxy();
        forward(&mut proxy, GENERATE, app).is_json_success();
        forward(&mut proxy, GENERATE, app).is_json_success();
        forward(&mut proxy, "/v1/key/create/a", app).is_failure(403, "prohibited by policy");
        forward(&mut proxy, "/v1/key/create/a", root).is_empty_success();
        forward(&mut proxy, GENERATE, &stranger).is_failure(403, "prohibited by policy");
        forward(&mut proxy, "/version", &stranger).is_json_success();
        assert_eq!(404, forward(&mut proxy, "/nowhere", app).status);
        // The proxy has no policy that it could lend.
        forward(&mut proxy, GENERATE, &scene.proxy).is_failure(403, "prohibited by policy");
        let audit = scene.server.audit(8);
        let identities: Vec<_> =
            audit.iter().map(|event| event["request"]["identity"].as_str().unwrap()).collect();
        let expected = [app, app, app, root, &stranger, &stranger, app, &scene.proxy];
        assert_eq!(expected.map(|identity| identity.id.as_str()), *identities);
    }
}

#[test]
fn others_speak_for_themselves_whatever_they_send() {
    let scene = scene("on");
    let mut app = scene.server.client(&scene.app).connect();
    let root = &scene.server.root_identity;
    forward(&mut app, GENERATE, root).is_json_success();
    forward(&mut app, "/v1/key/create/a", root).is_failure(403, "prohibited by policy");
    ask(&mut app, "/v1/key/create/a", &[]).is_failure(403, "prohibited by policy");
    for header in [HEADER, "x-tls-client-cert"] {
        let twice = [format!("{header}: garbage%"), format!("{header}: ")];
        ask(&mut app, GENERATE, &twice).is_json_success();
    }
    let audit = scene.server.audit(5);
    assert!(audit.iter().all(|event| event["request"]["identity"] == scene.app.id), "{audit:?}");
    assert!(!scene.server.keys().join("a").exists());
}

#[test]
fn a_proxy_without_a_client_gets_nothing() {
    let scene = scene("on");
    let mut proxy = scene.proxy();
    let other = format!("X-Client-Cert: {}", escaped(&scene.app));
    for headers in [&[][..], &[other]] {
        for path in ["/version", "/nowhere", GENERATE, "/v1/key/create/a"] {
            ask(&mut proxy, path, headers).is_failure(400, "no client certificate is present");
        }
    }
    let audit = scene.server.audit(8);
    assert!(audit.iter().all(|event| event["request"]["identity"] == scene.proxy.id), "{audit:?}");
    // The method and the pattern of the path come first.
    let answer = proxy.request("PUT", "/version", "");
    answer.is_failure(405, "Method Not Allowed");
    let answer = proxy.request("POST", "/v1/key/create/a/b", "");
    let text = "request URL path does not match API pattern: /v1/key/create/*";
    answer.is_failure(400, text);
}

#[test]
fn two_certificates_are_one_too_many() {
    let scene = scene("off");
    let line = format!("{HEADER}: {}", escaped(&scene.app));
    let mut proxy = scene.proxy();
    for second in [line.clone(), line.to_lowercase(), format!("{HEADER}:")] {
        let twice = [line.clone(), second];
        for path in [GENERATE, "/version", "/nowhere"] {
            ask(&mut proxy, path, &twice)
                .is_failure(400, "too many client certificates are present");
        }
    }
    // The same in the handshake, for a proxy and for others.
    for identity in [&scene.proxy, &scene.app] {
        let two = identity.clone().followed_by(&Identity::new("another"));
        let mut connection = scene.server.client(&two).connect();
        for path in [GENERATE, "/version", "/nowhere"] {
            ask(&mut connection, path, std::slice::from_ref(&line))
                .is_failure(400, "too many client certificates are present");
        }
    }
    forward(&mut proxy, GENERATE, &scene.app).is_json_success();
}

#[test]
fn what_is_no_certificate_is_refused() {
    let scene = scene("off");
    let mut proxy = scene.proxy();
    let der = &scene.app.chain[0];
    let certificate = pem("CERTIFICATE", der);
    let good = escape(&certificate);
    let bad = [
        String::new(),
        "garbage".to_owned(),
        "%".to_owned(),
        good.clone() + "%0",
        good.clone() + "%zz",
        good[..good.len() / 2].to_owned(),
        escape(&pem("CERTIFICATE", &der[..der.len() - 1])),
        escape(&pem("CERTIFICATE", &[])),
        escape(&pem("TRUSTED CERTIFICATE", der)),
        escape(&pem("PRIVATE KEY", der)),
        escape(&scene.app.key_pem()),
        escape(&(scene.app.key_pem() + &certificate)),
        escape(&(certificate.clone() + &certificate)),
        escape(&certificate.replace("-----END", "-----and")),
        escape(&certificate.replacen('M', "!", 3)),
        "%ff%fe".to_owned(),
        escape(&("x".repeat(17 * 1024) + &certificate)),
    ];
    for value in &bad {
        for path in [GENERATE, "/version", "/nowhere"] {
            let line = format!("{HEADER}: {value}");
            ask(&mut proxy, path, &[line]).is_failure(400, "invalid client certificate");
        }
    }
    // Over the limit of all heads.
    let mut large = scene.proxy();
    large.send(format!("GET /version HTTP/1.1\r\nHost: x\r\n{HEADER}: {}", "a".repeat(70_000)));
    assert_eq!(431, large.response().status);
    forward(&mut proxy, GENERATE, &scene.app).is_json_success();
}

#[test]
fn the_ways_in_which_proxies_write_a_certificate_are_understood() {
    let scene = scene("on");
    let mut proxy = scene.proxy();
    let text = pem("CERTIFICATE", &scene.app.chain[0]);
    let all_bytes: String = text.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let plus = text.replace('%', "%25").replace('+', "%2B");
    let plus = plus.replace(' ', "+").replace('\n', "%0A");
    let values = [
        escape(&text),
        all_bytes,
        plus,
        escape(&text.replace('\n', "\r\n")),
        escape(&format!("subject=app\n{text}\n\n")),
    ];
    for header in [HEADER, "x-tls-client-cert", "X-TLS-CLIENT-CERT"] {
        for value in &values {
            ask(&mut proxy, GENERATE, &[format!("{header}: {value}")]).is_json_success();
        }
    }
}

#[test]
fn forwarded_certificates_are_verified_as_those_of_clients() {
    let scene = scene("on");
    let mut proxy = scene.proxy();
    let issue = |profile| scene.authority.issue("client", &profile);
    let early = Profile { valid_since: -600, ..Profile::client() };
    let refused = [
        (Identity::new("self-signed"), "signed by unknown authority"),
        (Authority::new("authority").issue("root", &Profile::client()), "x509: "),
        (issue(Profile::client().valid_for(-60)), "expired"),
        (issue(early), "not yet valid"),
        (issue(Profile::server()), "incompatible key usage"),
    ];
    // The log tells of ten in a second.
    for (identity, reason) in &refused {
        for path in [GENERATE, "/version"] {
            forward(&mut proxy, path, identity).is_failure(403, "");
        }
        scene.server.logs_error(reason);
    }
    for (identity, _) in &refused {
        forward(&mut proxy, "/nowhere", identity).is_failure(403, "");
    }
    scene.server.logs_error("http: client certificate forwarded by TLS proxy 127.0.0.1:");
    for profile in [Profile::client(), Profile::without_usage()] {
        forward(&mut proxy, "/version", &issue(profile)).is_json_success();
    }
    // The connection of the proxy goes on for its other clients.
    forward(&mut proxy, GENERATE, &scene.app).is_json_success();
}

#[test]
fn certificates_that_do_not_count_do_not_fill_the_log() {
    let scene = scene("on");
    let (mut proxy, stranger) = (scene.proxy(), Identity::new("stranger"));
    let begin = Instant::now();
    for _ in 0..300 {
        forward(&mut proxy, GENERATE, &stranger).is_failure(403, "");
    }
    let text = "http: client certificate forwarded by TLS proxy 127.0.0.1:";
    let what = "certificates of TLS proxies' clients were refused";
    scene.server.limits_errors(300, text, what, 10, begin);
}

#[test]
fn without_checks_every_forwarded_certificate_identifies() {
    let scene = scene("off");
    let mut proxy = scene.proxy();
    for identity in [
        Identity::new("self-signed"),
        Identity::self_signed("expired", &Profile::client().valid_for(-60)),
        Identity::self_signed("server", &Profile::server()),
    ] {
        forward(&mut proxy, "/version", &identity).is_json_success();
        forward(&mut proxy, GENERATE, &identity).is_failure(403, "prohibited by policy");
    }
}

#[test]
fn a_certificate_that_expires_is_refused_on_an_open_connection() {
    let scene = scene("on");
    let short = scene.authority.issue("short", &Profile::client().short());
    let mut proxy = scene.proxy();
    forward(&mut proxy, "/version", &short).is_json_success();
    let ended = wait_for(PATIENCE, || {
        let answer = forward(&mut proxy, "/version", &short);
        (answer.status != 200).then_some(answer)
    });
    ended.unwrap().is_failure(403, "");
    forward(&mut proxy, "/version", &scene.app).is_json_success();
}

#[test]
fn a_log_stream_ends_with_the_forwarded_certificate() {
    let scene = scene("on");
    let root = &scene.server.root_identity;
    let short = scene.authority.issue_again(root, &Profile::client().short());
    assert_eq!(scene.server.root_identity.id, short.id);
    let mut open = [&short, &scene.server.root_identity].map(|identity| {
        let mut proxy = scene.proxy();
        let line = format!("{HEADER}: {}", escaped(identity));
        proxy.send(format!("GET /v1/log/error/trace HTTP/1.1\r\nHost: kes\r\n{line}\r\n\r\n"));
        assert_eq!(200, proxy.try_response(true).unwrap().status);
        proxy
    });
    let end = String::from_utf8(open[0].rest()).unwrap();
    assert!(end.ends_with("0\r\n\r\n"), "{end:?}");
    // The other one goes on.
    let mut proxy = scene.proxy();
    forward(&mut proxy, "/version", &Identity::new("self-signed")).is_failure(403, "");
    assert!(!open[1].chunk().unwrap().is_empty());
}

#[test]
fn without_a_header_name_proxies_are_refused_and_the_start_says_so() {
    let proxy = Identity::new("proxy");
    let server = Server::start(|config| config.proxies(&[&proxy], None));
    server.logs_error("Warning: TLS proxies are listed, but not the header");
    let client = server.client(&proxy);
    client.get("/version").is_failure(400, "no client certificate is present");
    server.root().get("/version").is_json_success();
}

#[test]
fn without_proxies_the_header_means_nothing() {
    let app = Identity::new("app");
    let server = Server::start(|config| config.proxies(&[], Some(HEADER)));
    let mut connection = server.client(&app).connect();
    forward(&mut connection, "/v1/key/create/a", &server.root_identity)
        .is_failure(403, "prohibited by policy");
    server.logs_error(&app.id);
    assert_eq!(1, server.stderr().lines().count());
}

#[test]
fn forwarded_certificates_that_openssl_makes_are_judged_as_in_handshakes() {
    let Some(openssl) = OpenSsl::find() else {
        return;
    };
    let trusted = openssl.self_signed("trusted", "-subj /CN=app");
    let ca = openssl.self_signed("ca", "-subj /CN=ca");
    let version_1 = openssl.version_1("app", "-CA ca.crt -CAkey ca.key");
    let own = openssl.version_1("own", "-signkey own.key");
    let double = openssl.self_signed("double", "-subj /CN=app");
    let mut forged = version_1.clone();
    let mut der = forged.chain[0].to_vec();
    *der.last_mut().unwrap() ^= 1;
    forged.chain[0] = der.into();
    let audit = |scene: &Scene, count: usize| {
        let last = scene.server.audit(count).pop().unwrap();
        last["request"]["identity"].as_str().unwrap().to_owned()
    };
    let scene_on = scene_trusting("on", &[&trusted, &ca]);
    let mut proxy = scene_on.proxy();
    for (number, identity) in [&trusted, &version_1].into_iter().enumerate() {
        forward(&mut proxy, "/version", identity).is_json_success();
        assert_eq!(identity.id, audit(&scene_on, number + 1));
    }
    for (identity, why) in [
        (&own, "certificate signed by unknown authority"),
        (&forged, "certificate signed by unknown authority"),
        (&double, "certificate is one of a certificate authority"),
    ] {
        forward(&mut proxy, "/version", identity).is_failure(403, "");
        let from = "http: client certificate forwarded by TLS proxy 127.0.0.1:";
        scene_on.server.logs_error(from);
        scene_on.server.logs_error(&format!("x509: {why}"));
    }
    let scene_off = scene("off");
    let mut proxy = scene_off.proxy();
    for (number, identity) in [&trusted, &version_1, &own, &double].into_iter().enumerate() {
        forward(&mut proxy, "/version", identity).is_json_success();
        assert_eq!(identity.id, audit(&scene_off, number + 1));
    }
}

/// In the newest generation, a proxy acts by its own policy.
#[test]
fn audit_lines_have_the_address_that_a_proxy_forwards_and_no_other_client() {
    let (proxy, app) = (Identity::new("proxy"), Identity::new("app"));
    let server = Server::start(|config| {
        config.is_newest = true;
        config.policy("app", &["/v1/key/generate/*"], &[&proxy, &app]);
        config.proxies(&[&proxy], Some("X-Forwarded-For"));
        fs::write(config.keys().join("my-key"), stored_key(&[1; 32])).unwrap();
    });
    let generate = |identity, lines: &[&str]| {
        let lines: Vec<_> = lines.iter().map(|line| format!("X-Forwarded-For: {line}")).collect();
        assert_eq!(200, ask(&mut server.client(identity).connect(), GENERATE, &lines).status);
    };
    let mut expected = Vec::new();
    for (address, lines) in [
        ("192.0.2.7", &["192.0.2.7"][..]),
        // The client itself has sent the others.
        ("192.0.2.7", &["10.9.9.9, 192.0.2.7"]),
        ("192.0.2.7", &["10.9.9.9", "192.0.2.7"]),
        ("192.0.2.7", &["192.0.2.7:61000"]),
        ("2001:db8::7", &["10.9.9.9 ,2001:db8::7"]),
        ("2001:db8::7", &["[2001:db8::7]:61000"]),
        ("192.0.2.7", &["::ffff:192.0.2.7"]),
        ("127.0.0.1", &[]),
        ("127.0.0.1", &[""]),
        ("127.0.0.1", &["192.0.2.7, unknown"]),
        ("127.0.0.1", &["192.0.2.7, \"},\"x"]),
    ] {
        generate(&proxy, lines);
        expected.push((proxy.id.clone(), address));
    }
    let mut http2 = Http2::open(&server.client(&proxy));
    for (address, lines) in [("192.0.2.8", &["10.9.9.9", "192.0.2.8"][..]), ("127.0.0.1", &[])] {
        let headers: Vec<_> = lines.iter().map(|line| ("x-forwarded-for", *line)).collect();
        let stream = http2.ask_with("PUT", GENERATE, &headers, "{}");
        assert_eq!(200, http2.answer(stream).status);
        expected.push((proxy.id.clone(), address));
    }
    generate(&app, &["192.0.2.7"]);
    expected.push((app.id.clone(), "127.0.0.1"));

    let audit = server.audit(expected.len());
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let found: Vec<_> = audit
        .iter()
        .map(|event| &event["request"])
        .map(|request| (text(&request["identity"]), text(&request["ip"])))
        .collect();
    let expected: Vec<_> =
        expected.into_iter().map(|(identity, address)| (identity, address.to_owned())).collect();
    assert_eq!(expected, found);
}
