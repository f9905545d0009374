//! Who may call what, and what the logs say of it: clients with and without certificates, and behind proxies.

mod proxies;

use std::{
    collections::HashSet,
    fs,
    io::{PipeReader, Read as _},
    net::IpAddr,
    path::Path,
};

use rustls_pki_types::{UnixTime, pem::PemObject as _};

use super::*;
use crate::{
    api::failure::Failure,
    base::generation::Generation,
    config::{ApiOptions, Limits},
    http::request::Malformed,
    log::MAX_LINE,
    policy::{Policy, Rule},
    request::{
        client::Client,
        proxy::{self, Forwarded},
    },
    tls::{ClientTrust, Group, self_signed},
};

/// A certificate and its identity.
struct Certified {
    chain: Vec<CertificateDer<'static>>,
    pem: String,
    identity: String,
}

impl Certified {
    fn new(name: &str) -> Self {
        let (usage, addresses) = (self_signed::Usage::Client, Vec::new());
        let holder =
            self_signed::Holder { name, usage, addresses, validity: Duration::from_secs(3600) };
        let (_, pem) = self_signed::generate(holder, self_signed::KeyKind::Ed25519).unwrap();
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let identity = crate::identity::of_certificate(&der).unwrap();
        Self { chain: vec![der], pem, identity }
    }

    /// As a TLS proxy forwards it.
    fn escaped(&self) -> Vec<u8> {
        escaped(&self.pem)
    }
}

fn escaped(text: &str) -> Vec<u8> {
    let escape = |byte: u8| match byte.is_ascii_alphanumeric() {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect::<String>().into_bytes()
}

/// Trusts these certificates.
fn trust(certificates: &[&Certified]) -> Arc<ClientTrust> {
    let name = format!("kes-request-{:016x}.pem", getrandom::u64().unwrap());
    let path = std::env::temp_dir().join(name);
    let pem: String = certificates.iter().map(|certified| certified.pem.as_str()).collect();
    fs::write(&path, pem).unwrap();
    let trust = ClientTrust::with(Path::new(&path));
    fs::remove_file(&path).unwrap();
    Arc::new(trust.unwrap())
}

/// `root` may do all; `app` may create and list keys, but for those whose name begins with `no`.
fn policies(root: &str, proxies: &[&str], app: &str, name: &str) -> Policies {
    let proxies: Vec<_> = proxies.iter().map(ToString::to_string).collect();
    let mut builder = Policies::builder(root, &proxies);
    let rule = |path| Rule::glob(path).unwrap();
    let allow = vec![rule("/v1/key/create/*"), rule("/v1/key/list/*")];
    let policy = Policy { allow, deny: vec![rule("/v1/key/create/no*")] };
    builder.define(&name.into(), policy.into());
    builder.assign(&name.into(), app).unwrap();
    builder.build()
}

/// No client needs a certificate for this.
fn open_to_all(path: &str) -> Vec<(String, ApiOptions)> {
    vec![(path.to_owned(), ApiOptions { skip_auth: true, timeout: None })]
}

struct Server {
    core: &'static Core,
    /// The lines of audit and error events.
    outputs: [PipeReader; 2],
}

impl Server {
    fn new(state: State) -> Self {
        let [(audit, stdout), (errors, stderr)] = [(); 2].map(|()| std::io::pipe().unwrap());
        let settings = Settings { audit: AuditMode::On, error: true };
        let log = Box::leak(Box::new(Log::start_on(settings, true, stdout, stderr).unwrap()));
        let store = Arc::new(Mem::default());
        let core = Core::start(state, Expiry::default(), store, log, 1).unwrap();
        Self { core, outputs: [audit, errors] }
    }

    fn session(&self) -> Box<dyn Session> {
        Api(self.core).open("127.0.0.1:1".parse().unwrap()).unwrap().1
    }

    fn connect(&self, chain: &[CertificateDer<'static>]) -> Box<dyn Session> {
        let mut session = self.session();
        session.established(&Handshake { chain, is_resumed: false, group: None }).unwrap();
        session
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let Ok(()) = self.core.change_state(|state| {
            change(state);
            Ok::<(), std::convert::Infallible>(())
        });
    }

    /// What becomes of the head of a request on a new connection.
    fn fate(&self, chain: &[CertificateDer<'static>], method: Method, target: &str) -> String {
        let head = Head::new(method, target).unwrap();
        fate(self.connect(chain).begin(head, chain, Instant::now()))
    }

    /// The number that the metrics have under this name.
    fn count(&self, name: &str) -> u64 {
        let page = self.core.metrics.page([], 0, false, Instant::now());
        let number = page.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        number.unwrap().parse().unwrap()
    }

    /// All lines of audit and error events, the latter without their time.
    fn end(self) -> [Vec<String>; 2] {
        self.core.log.finish(PATIENCE);
        let [audit, errors] = self.outputs.map(|mut output| {
            let mut text = String::new();
            output.read_to_string(&mut text).unwrap();
            text.lines().map(str::to_owned).collect::<Vec<_>>()
        });
        let without_time = |line: &String| line.splitn(3, ' ').nth(2).unwrap().to_owned();
        [audit, errors.iter().map(without_time).collect()]
    }
}

/// `admitted`, or the status and where the client is sent or what it is told.
fn fate(begun: Begun) -> String {
    let Begun::Answer(reply, _) = begun else {
        return "admitted".to_owned();
    };
    let body: Option<serde_json::Value> = serde_json::from_slice(&reply.body).ok();
    let text = match (&reply.header, &body) {
        (Some(("Location", path)), _) => path,
        (_, Some(body)) => body["message"].as_str().unwrap(),
        _ => text(&reply).trim_end(),
    };
    format!("{} {text}", reply.status)
}

const BOTH: [Generation; 2] = [Generation::V0_14, Generation::Newest];

#[test]
fn a_request_is_admitted_or_refused_by_path_method_client_and_policy() {
    let [root, app, other] = ["root", "app", "other"].map(Certified::new);
    let several = [root.chain.clone(), app.chain.clone()].concat();
    let (root_, app_) = (&*root.chain, &*app.chain);
    let (get, post) = (Method::Get, Method::Post);
    let same = |fate| [fate, fate];
    let is_admitted = same("admitted");
    let prohibited = ["403 prohibited by policy", "403 not authorized: insufficient permissions"];
    let rows: &[(&[CertificateDer<'static>], Method, &str, [&str; 2])] = &[
        (root_, get, "/nothing", same("404 404 page not found")),
        (root_, get, "/v1/sys/a", same("501 not implemented: this API is not served")),
        (
            root_,
            get,
            "/v1/key/create/a",
            ["405 Method Not Allowed", "405 received method 'GET' expected 'PUT'"],
        ),
        (
            root_,
            post,
            "/v1/key/create/a/b",
            ["400 request URL path does not match API pattern: /v1/key/create/*", "admitted"],
        ),
        (root_, post, "/v1/key/create", is_admitted),
        (root_, post, "/v1/policy/write/a", ["admitted", "404 404 page not found"]),
        (app_, post, "/v1/key/create/a", is_admitted),
        (app_, post, "/v1/key/create/no-one", prohibited),
        (app_, post, "/v1/key/generate/a", prohibited),
        (app_, get, "/v1/key/list", is_admitted),
        (&other.chain, post, "/v1/key/create/a", prohibited),
        (&other.chain, get, "/version", is_admitted),
        (&other.chain, get, "/v1/identity/self/describe", is_admitted),
        (&other.chain, get, "/v1/ready", is_admitted),
        (&[], get, "/v1/ready", is_admitted),
        (&[], get, "/v1/status", same("400 tls: client certificate is required")),
        (&several, get, "/version", is_admitted),
        (
            &several,
            get,
            "/v1/identity/self/describe",
            [
                "400 too many identities: more than one certificate is present",
                "400 tls: received more than one client certificate",
            ],
        ),
        // A path is shortened, but not to another name.
        (root_, get, "//version", ["301 /version", "307 /version"]),
        (root_, get, "/v1/../version?a=%20b", ["301 /version?a=%20b", "307 /version?a=%20b"]),
        (
            root_,
            get,
            "//a%20%25%22%3c%3e%3f%23%5cb",
            ["301 /a%20%25%22%3C%3E%3F%23%5Cb", "307 /a%20%25%22%3C%3E%3F%23%5Cb"],
        ),
        (root_, post, "/v1/key/create/..", is_admitted),
        (root_, post, "/v1/key/create/.", is_admitted),
        (root_, post, "/v1/key/create/../b", ["301 /v1/key/b", "307 /v1/key/b"]),
        (root_, post, "/v1/key/create//b", ["301 /v1/key/create/b", "307 /v1/key/create/b"]),
        (root_, get, "/v1/key/list/..", ["301 /v1/key", "307 /v1/key"]),
        (root_, post, "/v1/identity/assign/a/..", ["admitted", "307 /v1/identity/assign"]),
    ];
    for (at, generation) in BOTH.into_iter().enumerate() {
        let server = Server::new(State {
            policies: policies(&root.identity, &[], &app.identity, "apps"),
            apis: open_to_all("/v1/ready"),
            generation,
            texts: generation,
            ..state::for_tests().0
        });
        for (chain, method, target, fates) in rows {
            let found = server.fate(chain, *method, target);
            assert_eq!(fates[at], found, "{generation:?} {target}");
        }
        server.end();
    }
}

#[test]
fn generations_count_what_they_see_or_what_they_admit() {
    let [root, app] = ["root", "app"].map(Certified::new);
    for (method, target, is_counted) in [
        (Method::Get, "/nothing", [true, false]),
        (Method::Get, "//version", [false, false]),
        (Method::Get, "/version", [true, false]),
        (Method::Get, "/v1/metrics", [false, false]),
        (Method::Get, "/v1/identity/self/describe", [true, true]),
        (Method::Post, "/v1/key/create/a", [true, true]),
        (Method::Post, "/v1/key/generate/a", [true, false]),
    ] {
        for (generation, is_counted) in BOTH.into_iter().zip(is_counted) {
            let policies = policies(&root.identity, &[], &app.identity, "apps");
            let server = Server::new(State { policies, generation, ..state::for_tests().0 });
            server.fate(&app.chain, method, target);
            let names = ["success", "error", "failure", "active"];
            let count: u64 =
                names.iter().map(|n| server.count(&format!("kes_http_request_{n}"))).sum();
            assert_eq!(u64::from(is_counted), count, "{generation:?} {target}");
            // A redirect leaves no line.
            let lines = server.end()[0].len();
            assert_eq!(usize::from(target != "//version"), lines, "{generation:?} {target}");
        }
    }
}

#[test]
fn limits_are_for_those_with_rights_and_not_for_questions_about_the_server() {
    let [root, app, other] = ["root", "app", "other"].map(Certified::new);
    let server = Server::new(State {
        policies: policies(&root.identity, &[], &app.identity, "apps"),
        limits: Limits { concurrent: Some(1), ..Limits::default() },
        ..state::for_tests().0
    });
    let create = |who: &Certified| server.fate(&who.chain, Method::Post, "/v1/key/create/a");
    let hold = |who: &Certified| {
        let head = Head::new(Method::Post, "/v1/key/create/a").unwrap();
        server.connect(&who.chain).begin(head, &who.chain, Instant::now())
    };
    let under_way = [hold(&root), hold(&app), hold(&other)];
    assert_eq!("429 too many requests of this identity", create(&root));
    assert_eq!("429 too many requests of this identity", create(&app));
    assert_eq!("403 prohibited by policy", create(&other));
    assert_eq!("admitted", server.fate(&root.chain, Method::Get, "/v1/status"));
    assert_eq!(2, server.count("kes_http_request_limited"));
    drop(under_way);
    assert_eq!("admitted", create(&root));
    let line = format!(
        "identity {:?} has reached limits.concurrent: a request was answered 429",
        root.identity
    );
    assert!(server.end()[1].contains(&line));
}

#[test]
fn the_error_log_says_why_a_request_was_refused_and_what_would_allow_it() {
    let [root, app, other] = ["root", "app", "other"].map(Certified::new);
    let long_name = "p".repeat(3000);
    for name in ["apps", &*long_name] {
        let state = State {
            policies: policies(&root.identity, &[], &app.identity, name),
            ..state::for_tests().0
        };
        let server = Server::new(state);
        let long = format!("/v1/key/generate/{}", "a".repeat(3000));
        let several = [app.chain.clone(), other.chain.clone()].concat();
        for (chain, path) in [
            (&app.chain, "/v1/key/generate/a"),
            (&app.chain, "/v1/key/generate/"),
            (&app.chain, "/v1/key/create/no-one"),
            (&app.chain, &long),
            (&other.chain, "/v1/key/create/a"),
            (&several, "/v1/key/create/a"),
        ] {
            server.fate(chain, Method::Post, path);
        }
        let [audit, errors] = server.end();
        assert_eq!((6, 6), (audit.len(), errors.len()), "{errors:?}");
        assert!(errors.iter().all(|line| line.len() <= MAX_LINE));
        let advice = [
            "; to allow it, add the path \"/v1/key/generate/a\"",
            "; the request names no key",
            "",
            "; the name of the key is longer than 255 bytes",
        ];
        for (line, advice) in errors.iter().zip(advice) {
            assert!(line.ends_with(advice), "{line}");
        }
        if name == long_name {
            continue;
        }
        let (app, other) = (&app.identity, &other.identity);
        let caller = format!("identity \"{app}\" called");
        let no_path = "refused: no path of policy \"apps\" matches, the nearest is";
        assert!(errors[3].starts_with(&format!("{caller} \"/v1/key/generate/aaaaaaa")));
        assert!(errors[3].contains(&format!("aaa...: {no_path}")));
        let generate = |end| format!("{caller} \"/v1/key/generate/{end}\": {no_path}");
        assert!(errors[0].starts_with(&generate("a")), "{}", errors[0]);
        assert!(errors[1].starts_with(&generate("")), "{}", errors[1]);
        for (line, wanted) in [
            (
                2,
                format!(
                    "{caller} \"/v1/key/create/no-one\": refused: policy \"apps\" denies the path \
                     \"/v1/key/create/no*\""
                ),
            ),
            (
                4,
                format!(
                    "identity \"{other}\" called \"/v1/key/create/a\": refused: the identity is \
                     assigned to no policy"
                ),
            ),
            (
                5,
                format!(
                    "a client called \"/v1/key/create/a\": refused: too many identities: certificate 1 \
                     (\"CN=app\", identity {app}) and certificate 2 (\"CN=other\", identity {other}) are \
                     both no authority's; a client sends its own certificate and those of its \
                     authorities only"
                ),
            ),
        ] {
            assert_eq!(wanted, errors[line]);
        }
    }
}

#[test]
fn a_client_is_trusted_until_its_certificate_expires_or_the_trust_changes() {
    let [root, other] = ["root", "other"].map(Certified::new);
    let checked = |trusted, trust_generation| State {
        trust: trust(&[trusted]),
        trust_generation,
        ..state::for_tests().0
    };
    let end = crate::identity::not_after(&root.chain[0]).unwrap();
    let behind = UnixTime::since_unix_epoch(Duration::from_secs(end.as_secs() + 1));
    let mut client = Client::new(&root.chain, 0).unwrap();
    let mut is_trusted = |state: &State, now| client.is_still_trusted(state, &root.chain, now);
    let state = checked(&root, 0);
    assert!(is_trusted(&state, end));
    assert!(!is_trusted(&state, behind));
    assert!(is_trusted(&state::for_tests().0, behind), "nothing is checked");
    assert!(!is_trusted(&checked(&other, 1), end));
    assert!(is_trusted(&checked(&root, 1), end));
    // Each trust is asked once.
    assert!(is_trusted(&checked(&other, 1), end));

    let mut nobody = Client::without_certificate(0);
    assert!(!nobody.has_certificate() && nobody.several_identities().is_none());
    let apis = open_to_all("/v1/ready");
    assert!(!nobody.is_still_trusted(&state, &[], end));
    assert!(nobody.is_still_trusted(&State { apis, ..state }, &[], end));
    assert!(Client::new(&[], 0).is_err());
    let junk = Client::new(&[vec![0; 9].into()], 0).map(|_| ()).unwrap_err();
    assert!(junk.starts_with("tls: invalid client certificate: "), "{junk}");
}

#[test]
fn a_connection_is_accepted_counted_and_refused_when_its_client_is_not_trusted_any_more() {
    let [root, other] = ["root", "other"].map(Certified::new);
    let server = Server::new(State {
        trust: trust(&[&root]),
        policies: policies(&root.identity, &[], "app", "apps"),
        ..state::for_tests().0
    });
    let shake = |chain: &[CertificateDer<'static>], is_resumed, group| {
        server.session().established(&Handshake { chain, is_resumed, group }).is_ok()
    };
    assert!(shake(&root.chain, false, Some(Group::P256)));
    assert!(shake(&root.chain, true, None));
    assert!(!shake(&other.chain, true, None), "a resumed session brings what it had");
    assert!(!shake(&[], false, None));
    let names = ["full", "resumed", "failed", "p256", "x25519"];
    let counts = names.map(|name| server.count(&format!("kes_tls_handshake_{name}")));
    assert_eq!([1, 1, 2, 1, 0], counts);

    let create = || Head::new(Method::Post, "/v1/key/create/a").unwrap();
    let mut unknown = server.session();
    let begun = unknown.begin(create(), &root.chain, Instant::now());
    assert!(matches!(begun, Begun::Answer(Reply { status: 500, .. }, true)));
    assert_eq!(None, unknown.kept_header());
    let mut session = server.connect(&root.chain);
    for session in [&mut unknown, &mut session] {
        let reply = session.malformed(Malformed::TOO_LONG, "/long".to_owned(), Instant::now());
        assert_eq!(431, reply.status);
    }
    assert_eq!("admitted", fate(session.begin(create(), &root.chain, Instant::now())));
    server.change(|state| (state.trust, state.trust_generation) = (trust(&[&other]), 1));
    let begun = session.begin(create(), &root.chain, Instant::now());
    assert!(matches!(begun, Begun::Answer(Reply { status: 403, .. }, true)));

    let api = Api(server.core);
    assert!(api.idle_timeout() > Duration::from_secs(90), "Go clients keep theirs for so long");
    assert!(std::ptr::eq(&server.core.metrics.connections, api.connections()));
    assert_eq!("connections (limits.connections)", api.refuse());
    assert_eq!(1, server.count("kes_connections_refused"));

    let [audit, errors] = server.end();
    let wanted = [("/long", 431), ("/v1/key/create/a", 400), ("/v1/key/create/a", 403)];
    assert_eq!(wanted.len(), audit.len(), "{audit:?}");
    for (line, (path, status)) in audit.iter().zip(wanted) {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(path, line["request"]["path"]);
        assert_eq!(root.identity, *line["request"]["identity"].as_str().unwrap());
        assert_eq!(status, line["response"]["code"]);
    }
    assert!(errors[0].starts_with("http: TLS handshake error from 127.0.0.1:1: "), "{errors:?}");
    let distrusted = format!(
        "identity {:?} called \"/v1/key/create/a\": refused: the certificate has expired or is no longer \
         trusted",
        root.identity
    );
    assert_eq!([distrusted], errors[2..]);
}

#[test]
fn a_log_stream_ends_with_any_right_of_its_client() {
    let [root, app, peer] = ["root", "app", "peer"].map(Certified::new);
    let server = || {
        Server::new(State {
            trust: trust(&[&root, &app, &peer]),
            policies: policies(&root.identity, &[&peer.identity], &app.identity, "apps"),
            proxy_header: Some("x-cert".into()),
            apis: open_to_all("/v1/log/error"),
            ..state::for_tests().0
        })
    };
    let wake = || -> Waker { Arc::<Wakes>::default().into() };
    type Change = fn(&mut State, [&Certified; 3]);
    let nothing: Change = |_, _| {};
    let no_trust: Change = |state, [_, app, peer]| {
        (state.trust, state.trust_generation) = (trust(&[app, peer]), 1);
    };
    let no_policies: Change = |state, [_, _, peer]| {
        state.policies = policies("", &[&peer.identity], "app", "apps");
    };
    let other_proxies: Change = |state, [root, ..]| {
        state.policies = policies(&root.identity, &[&root.identity], "app", "apps");
    };
    let closed: Change = |state, _| state.apis.clear();
    // The certificate of the connection, the forwarded one, the path, the change, and whether it goes on.
    let audit = "/v1/log/audit";
    for (of, forwards, path, change, goes_on) in [
        (&root, false, audit, nothing, true),
        (&root, false, audit, closed, true),
        (&root, false, audit, no_trust, false),
        (&root, false, audit, no_policies, false),
        (&root, false, audit, other_proxies, false),
        (&peer, true, audit, nothing, true),
        (&peer, true, audit, no_trust, false),
        (&peer, true, audit, no_policies, false),
        (&peer, true, audit, other_proxies, false),
        (&app, false, "/v1/log/error", nothing, true),
        (&app, false, "/v1/log/error", no_trust, true),
        (&app, false, "/v1/log/error", closed, false),
    ] {
        let server = server();
        let kept = forwards.then(|| root.escaped()).into_iter().collect();
        let head = Head { kept, ..Head::new(Method::Get, path).unwrap() };
        let Begun::Request(mut request, _) =
            server.connect(&of.chain).begin(head, &of.chain, Instant::now())
        else {
            panic!("{path} is refused")
        };
        assert!(matches!(request.run(Some(b""), Instant::now(), &wake), Progress::Lines));
        assert!(request.may_go_on(&of.chain));
        server.change(|state| change(state, [&root, &app, &peer]));
        assert_eq!(goes_on, request.may_go_on(&of.chain));
        while let Lines::Block(_) = request.next_lines() {}
        assert_eq!(goes_on, matches!(request.next_lines(), Lines::Nothing));
        // If its client does not take what it has, that counts once.
        request.count_drop();
        request.count_drop();
        assert_eq!(1, server.core.log.subscribers_dropped());
        drop(request);
        server.end();
    }
}
