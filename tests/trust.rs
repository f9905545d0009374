//! Whom the server lets in, for how long, and with which certificate of its own it starts at all.

#![allow(clippy::unwrap_used)]

mod common;

use std::{
    fs,
    time::{Duration, Instant},
};

use common::{
    Authority, Client, Config, Identity, Profile, Server, certificates::pem, client::request,
    server::Refusal, stored_key,
};
use rcgen::{ExtendedKeyUsagePurpose, KeyPair};
use rustix::process::Signal;
use rustls::HandshakeKind;

/// A server that trusts clients of `authority` only.
fn start_trusting(authority: &Authority, change: impl FnOnce(&mut Config)) -> Server {
    Server::start(|config| {
        config.root_identity = authority.issue("root", &Profile::client());
        config.root = config.root_identity.id.clone();
        config.auth = "on";
        let file = config.file("authorities.pem", &authority.identity.certificate_pem());
        config
            .environment
            .push(("SSL_CERT_FILE".to_owned(), file.display().to_string()));
        fs::write(config.keys().join("my-key"), stored_key(&[1; 32])).unwrap();
        change(config);
    })
}

/// Asserts that `identity` gets no answer and the error log says why.
#[track_caller]
fn is_kept_out(server: &Server, identity: &Identity, why: &str) {
    let mut connection = match server.client(identity).try_connect() {
        Ok(connection) => connection,
        Err(_) => return server.logs_error(why),
    };
    let port = connection.socket().local_addr().unwrap().port();
    let _ = connection.try_send(&request("POST", "/v1/key/create/forbidden", b""));
    if let Ok(answer) = connection.try_response(false) {
        panic!("{why}: {answer:?}");
    }
    server.logs_error(&format!(
        "http: TLS handshake error from 127.0.0.1:{port}: {why}"
    ));
    assert!(!server.keys().join("forbidden").exists());
}

const X509: &str = "tls: failed to verify client certificate: x509: ";

#[test]
fn certificates_of_a_trusted_authority_are_accepted() {
    let authority = Authority::new("authority");
    let intermediate = authority.intermediate("intermediate");
    let usages = |usages: &[ExtendedKeyUsagePurpose]| Profile {
        usages: usages.to_vec(),
        ..Profile::client()
    };
    use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    let accepted = [
        authority.issue("client", &Profile::client()),
        authority.issue("no usage", &Profile::without_usage()),
        authority.issue("both usages", &usages(&[ServerAuth, ClientAuth])),
        authority
            .issue("with authority", &Profile::client())
            .followed_by(&authority.identity),
        intermediate
            .issue("below", &Profile::client())
            .followed_by(&intermediate.identity),
    ];
    let server = start_trusting(&authority, |config| {
        let identities: Vec<_> = accepted.iter().collect();
        config.policy("all", &["/v1/key/generate/*"], &identities);
    });
    for identity in &accepted {
        let client = server.client(identity);
        client
            .post("/v1/key/generate/my-key", "{}")
            .is_json_success();
        client
            .post("/v1/key/encrypt/my-key", "{}")
            .is_failure(403, "prohibited by policy");
    }
    // Nothing but what the policy did not allow.
    let errors = server.stderr();
    assert!(
        errors.lines().all(|line| line.contains(" called ")),
        "{errors}"
    );
}

#[test]
fn a_certificate_for_any_usage_is_accepted() {
    let authority = Authority::new("authority");
    let server = start_trusting(&authority, |_| {});
    let profile = Profile {
        usages: vec![ExtendedKeyUsagePurpose::Any],
        ..Profile::client()
    };
    let any = authority.issue("any usage", &profile);
    let answer = server.client(&any).try_request("GET", "/version", b"");
    assert_eq!(
        Some(200),
        answer.ok().map(|answer| answer.status),
        "{}",
        server.stderr()
    );
}

#[test]
fn keys_of_all_types_identify() {
    let authority = Authority::new("authority");
    let server = start_trusting(&authority, |_| {});
    for algorithm in [
        &rcgen::PKCS_ED25519,
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
    ] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let identity = authority.issue_for(key, "client", &Profile::client());
        server.client(&identity).get("/version").is_json_success();
        let audit = server.audit(1);
        assert_eq!(identity.id, audit.last().unwrap()["request"]["identity"]);
    }
}

#[test]
fn certificates_that_nobody_vouches_for_are_refused() {
    let authority = Authority::new("authority");
    let server = start_trusting(&authority, |_| {});
    let unknown = format!("{X509}certificate signed by unknown authority");
    is_kept_out(&server, &Identity::new("self-signed"), &unknown);
    let stranger = Authority::new("stranger");
    is_kept_out(
        &server,
        &stranger.issue("client", &Profile::client()),
        &unknown,
    );
    // An authority of the same name is not the same.
    let double = Authority::new("authority");
    let forged = double.issue("root", &Profile::client());
    is_kept_out(&server, &forged, X509);
    is_kept_out(&server, &forged.followed_by(&double.identity), X509);
    // Without the certificate between it and the trusted one there is no chain.
    let intermediate = authority.intermediate("intermediate");
    is_kept_out(
        &server,
        &intermediate.issue("client", &Profile::client()),
        &unknown,
    );
    // The certificate of a client is no authority.
    let client = authority.issue("client", &Profile::client());
    is_kept_out(
        &server,
        &Identity::new("self-signed").followed_by(&client),
        &unknown,
    );
    server.root().get("/version").is_json_success();
    assert_eq!(1, server.audit(1).len());
}

#[test]
fn certificates_for_servers_only_are_refused() {
    let authority = Authority::new("authority");
    let server = start_trusting(&authority, |_| {});
    let identity = authority.issue("server", &Profile::server());
    is_kept_out(
        &server,
        &identity,
        &format!("{X509}certificate specifies an incompatible key usage"),
    );
}

#[test]
fn certificates_out_of_their_time_are_refused() {
    let authority = Authority::new("authority");
    let server = start_trusting(&authority, |_| {});
    let reason = format!("{X509}certificate has expired or is not yet valid");
    is_kept_out(
        &server,
        &authority.issue("old", &Profile::client().valid_for(-60)),
        &reason,
    );
    let early = Profile {
        valid_since: -600,
        ..Profile::client()
    };
    is_kept_out(&server, &authority.issue("early", &early), &reason);
}

#[test]
fn a_client_without_certificate_is_refused_in_any_case() {
    let authority = Authority::new("authority");
    let server = start_trusting(&authority, |_| {});
    assert!(
        server
            .anonymous()
            .try_request("GET", "/version", b"")
            .is_err()
    );
    server.logs_error(": tls: client didn't provide a certificate");
}

#[test]
fn without_checks_every_certificate_identifies() {
    let authority = Authority::new("authority");
    let early = Profile {
        valid_since: -600,
        ..Profile::client()
    };
    let accepted = [
        Identity::new("self-signed"),
        Identity::self_signed("expired", &Profile::client().valid_for(-60)),
        Identity::self_signed("early", &early),
        Identity::self_signed("server", &Profile::server()),
        authority.issue("issued", &Profile::client()),
        authority.identity.clone(),
    ];
    let server = Server::start(|config| {
        let identities: Vec<_> = accepted.iter().collect();
        config.policy("all", &["/v1/key/create/*"], &identities);
    });
    for (number, identity) in accepted.iter().enumerate() {
        let path = format!("/v1/key/create/key-{number}");
        server.client(identity).post(&path, "").is_empty_success();
    }
    assert_eq!("", server.stderr());
}

#[test]
fn the_directory_of_authorities_is_honoured() {
    let authority = Authority::new("authority");
    let server = Server::start(|config| {
        config.root_identity = authority.issue("root", &Profile::client());
        config.root = config.root_identity.id.clone();
        config.auth = "on";
        // OpenSSL names these files after a hash of the subject.
        let file = config.file("01234567.0", &authority.identity.certificate_pem());
        let directory = file.parent().unwrap().display().to_string();
        config
            .environment
            .push(("SSL_CERT_DIR".to_owned(), directory));
    });
    server.root().get("/version").is_json_success();
    is_kept_out(&server, &Identity::new("self-signed"), X509);
}

#[test]
fn without_authorities_there_is_no_start() {
    let refusal = refusal(|config| {
        config.auth = "on";
        let file = config.file("empty.pem", "");
        config
            .environment
            .push(("SSL_CERT_FILE".to_owned(), file.display().to_string()));
    });
    assert!(
        refusal.stderr.contains("no trusted certificate authority"),
        "{refusal:?}"
    );
}

// resumption

/// Two connections, the second of which resumes the first.
fn resume(client: &Client) -> common::Connection {
    let mut first = client.connect();
    assert_eq!(Some(HandshakeKind::Full), first.handshake_kind());
    first.request("GET", "/version", "").is_json_success();
    let second = client.connect();
    assert_eq!(Some(HandshakeKind::Resumed), second.handshake_kind());
    second
}

#[test]
fn a_client_that_resumes_is_identified() {
    let authority = Authority::new("authority");
    let app = authority.issue("app", &Profile::client());
    for auth in ["on", "off"] {
        let server = start_trusting(&authority, |config| {
            config.auth = auth;
            config.policy("app", &["/v1/key/generate/*"], &[&app]);
        });
        let client = server.client(&app).resuming();
        let mut resumed = resume(&client);
        resumed
            .request("POST", "/v1/key/generate/my-key", "{}")
            .is_json_success();
        resumed
            .request("POST", "/v1/key/encrypt/my-key", "{}")
            .is_failure(403, "prohibited by policy");
        drop(resumed);
        // The ticket of a resumed session is as good.
        let mut again = client.connect();
        assert_eq!(Some(HandshakeKind::Resumed), again.handshake_kind());
        again
            .request("POST", "/v1/key/generate/my-key", "{}")
            .is_json_success();
        let audit = server.audit(4);
        assert_eq!(4, audit.len());
        assert!(
            audit
                .iter()
                .all(|event| event["request"]["identity"] == app.id),
            "{audit:?}"
        );
    }
}

#[test]
fn two_leaf_certificates_stay_too_many_when_they_resume() {
    let server = Server::start(|_| {});
    let two = server
        .root_identity
        .clone()
        .followed_by(&Identity::new("another"));
    resume(&server.client(&two).resuming())
        .request("POST", "/v1/key/create/a", "")
        .is_failure(
            400,
            "too many identities: more than one certificate is present",
        );
}

#[test]
fn a_session_ends_with_its_certificate() {
    let authority = Authority::new("authority");
    let server = start_trusting(&authority, |_| {});
    let start = Instant::now();
    let short = authority.issue("short", &Profile::client().valid_for(4));
    let client = server.client(&short).resuming();
    let mut open = client.connect();
    open.request("GET", "/version", "").is_json_success();
    let mut resumed = resume_more(&client);
    resumed.request("GET", "/version", "").is_json_success();
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "too slow to show anything"
    );

    std::thread::sleep(Duration::from_millis(5500).saturating_sub(start.elapsed()));
    for connection in [&mut open, &mut resumed] {
        let answer = connection.request("GET", "/version", "");
        answer.is_failure(
            403,
            "client certificate has expired or is no longer trusted",
        );
        assert_eq!(Some("close"), answer.header("Connection"));
        assert!(connection.is_closed());
    }
    let mut late = client.connect();
    assert_eq!(Some(HandshakeKind::Resumed), late.handshake_kind());
    let _ = late.try_send(&request("POST", "/v1/key/create/forbidden", b""));
    assert!(late.try_response(false).is_err());
    server.logs_error(&format!(
        "{X509}certificate has expired or is not yet valid"
    ));
    is_kept_out(&server, &short, &format!("{X509}certificate has expired"));
    assert!(!server.keys().join("forbidden").exists());
}

fn resume_more(client: &Client) -> common::Connection {
    let connection = client.connect();
    assert_eq!(Some(HandshakeKind::Resumed), connection.handshake_kind());
    connection
}

#[test]
fn a_session_of_an_expired_certificate_goes_on_where_nothing_is_checked() {
    let server = Server::start(|_| {});
    let expired = Identity::self_signed("expired", &Profile::client().valid_for(-60));
    let mut resumed = resume(&server.client(&expired).resuming());
    resumed.request("GET", "/version", "").is_json_success();
}

#[test]
fn a_restarted_server_knows_no_old_sessions() {
    let authority = Authority::new("authority");
    let first = start_trusting(&authority, |_| {});
    let client = first.root().resuming();
    drop(resume(&client));
    let address = first.address;
    let certificate = first.certificate.clone();
    let root = first.root_identity.clone();
    drop(first);
    // The authority is no longer trusted.
    let other = Authority::new("other");
    let Ok(second) = Server::try_start(|config| {
        config.address = address.to_string();
        config.key = certificate.key_pem();
        config.certificate = certificate.certificate_pem();
        config.server_identity = certificate;
        config.root_identity = other.issue("new root", &Profile::client());
        config.root = root.id.clone();
        config.auth = "on";
        let file = config.file("authorities.pem", &other.identity.certificate_pem());
        config
            .environment
            .push(("SSL_CERT_FILE".to_owned(), file.display().to_string()));
    }) else {
        return; // Somebody else has the port now.
    };
    let mut connection = client.connect();
    assert_eq!(Some(HandshakeKind::Full), connection.handshake_kind());
    let _ = connection.try_send(&request("POST", "/v1/key/create/forbidden", b""));
    assert!(connection.try_response(false).is_err());
    second.logs_error(&format!("{X509}certificate signed by unknown authority"));
    assert!(second.key_files().is_empty());
}

// start and end

fn refusal(change: impl FnOnce(&mut Config)) -> Refusal {
    match Server::try_start(change) {
        Ok(server) => panic!("it starts: {} {}", server.stdout(), server.stderr()),
        Err(refusal) => {
            assert_eq!(Some(1), refusal.code, "{refusal:?}");
            assert!(refusal.stderr.starts_with("Error: "), "{refusal:?}");
            assert_eq!("", refusal.stdout);
            refusal
        }
    }
}

#[track_caller]
fn refuses_to_start(file: &str, why: &str, change: impl FnOnce(&mut Config)) {
    let refusal = refusal(change);
    assert!(
        refusal.stderr.contains(file),
        "{file} is not named: {}",
        refusal.stderr
    );
    assert!(
        refusal.stderr.contains(why),
        "{why:?} is not said: {}",
        refusal.stderr
    );
    assert!(!refusal.stderr.contains("panic"), "{}", refusal.stderr);
}

#[test]
fn flaws_of_the_server_certificate_are_named() {
    let other = Identity::new("other");
    refuses_to_start("server.crt", "failed to read", |config| {
        config.certificate.clear()
    });
    refuses_to_start("server.crt", "invalid certificate", |config| {
        config.certificate = "this is no certificate".to_owned();
    });
    refuses_to_start("server.crt", "invalid certificate", |config| {
        config.certificate = pem("CERTIFICATE", b"this is no certificate");
    });
    refuses_to_start("server.crt", "invalid certificate", |config| {
        config.certificate.truncate(config.certificate.len() / 2);
    });
    refuses_to_start("server.crt", "invalid certificate", |config| {
        config.certificate = config.key.clone();
    });
    refuses_to_start("server.crt", "expired", |config| {
        let expired = Identity::self_signed("server", &Profile::server().valid_for(-60));
        (config.certificate, config.key) = (expired.certificate_pem(), expired.key_pem());
    });
    for file in ["server.crt", "server.key"] {
        refuses_to_start(file, "does not belong to", |config| {
            config.key = other.key_pem()
        });
    }
}

#[test]
fn flaws_of_the_private_key_are_named_and_the_key_is_not_shown() {
    refuses_to_start("server.key", "failed to read", |config| config.key.clear());
    for key in [
        "this is no key".to_owned(),
        pem("PRIVATE KEY", b"this is no key"),
    ] {
        refuses_to_start("server.key", "invalid private key", |config| {
            config.key = key
        });
    }
    refuses_to_start("server.key", "invalid private key", |config| {
        config.key = config.certificate.clone();
    });
    let half = Identity::new("server").key_pem()[..120].to_owned();
    let text = half.lines().nth(1).unwrap().to_owned();
    let refusal = refusal(|config| config.key = half);
    assert!(refusal.stderr.contains("server.key"), "{refusal:?}");
    assert!(!refusal.stderr.contains(&text[..20]), "{refusal:?}");
    for key in [
        pem("ENCRYPTED PRIVATE KEY", &[1; 200]),
        pem("EC PRIVATE KEY", &[1; 200]).replace(
            "-----\nA",
            "-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00112233445566778899AABBCCDDEEFF\n\nA",
        ),
    ] {
        refuses_to_start("server.key", "password", |config| config.key = key);
    }
}

#[test]
fn a_private_key_that_everybody_can_read_is_worth_a_warning() {
    let server = Server::start(|config| {
        use std::os::unix::fs::PermissionsExt as _;
        let file = config.file("server.key", &config.key);
        fs::set_permissions(file, fs::Permissions::from_mode(0o644)).unwrap();
    });
    server.root().get("/version").is_json_success();
    server.logs_error("server.key");
    assert!(
        server.stderr().to_lowercase().contains("warning"),
        "{}",
        server.stderr()
    );
    assert_eq!("", Server::start(|_| {}).stderr());
}

#[test]
fn a_port_in_use_is_named() {
    let first = Server::start(|_| {});
    let address = first.address.to_string();
    let refusal = refusal(|config| config.address.clone_from(&address));
    assert!(refusal.stderr.contains(&address), "{refusal:?}");
    assert!(refusal.stderr.contains("in use"), "{refusal:?}");
    first.root().get("/version").is_json_success();
}

#[test]
fn a_signal_lets_running_requests_finish_and_exits_with_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = Server::start(|_| {});
        let mut idle = server.root().connect();
        idle.request("GET", "/version", "").is_json_success();
        let mut busy = server.root().connect();
        let bytes = request("POST", "/v1/key/import/a", stored_key(&[1; 32]).as_bytes());
        busy.send(&bytes[..bytes.len() - 5]);
        std::thread::sleep(Duration::from_millis(100));
        let start = Instant::now();
        server.signal(signal);
        assert!(idle.is_closed());
        assert!(
            start.elapsed() < Duration::from_millis(500),
            "idle connections are not closed"
        );
        assert!(
            server.root().try_connect().is_err(),
            "new clients are still served"
        );
        busy.send(&bytes[bytes.len() - 5..]);
        let answer = busy.response();
        answer.is_empty_success();
        assert_eq!(Some("close"), answer.header("Connection"));
        assert!(busy.is_closed());
        assert_eq!(Some(0), server.wait_for_exit().code());
        assert!(start.elapsed() < Duration::from_secs(2));
        assert_eq!(2, server.audit(2).len());
        assert_eq!(["a"], *server.key_files());
        assert_eq!("", server.stderr());
    }
}

#[test]
fn a_client_that_never_finishes_does_not_keep_the_server_up() {
    let mut server = Server::start(|_| {});
    let mut busy = server.root().connect();
    busy.send("POST /v1/key/import/a HTTP/1.1\r\nHost: kes\r\nContent-Length: 9\r\n\r\n");
    std::thread::sleep(Duration::from_millis(100));
    let start = Instant::now();
    server.signal(Signal::TERM);
    assert_eq!(Some(0), server.wait_for_exit().code());
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(1, server.audit(1).len());
}

#[test]
fn a_second_signal_ends_the_server_at_once() {
    let mut server = Server::start(|_| {});
    let mut busy = server.root().connect();
    busy.send("POST /v1/key/import/a HTTP/1.1\r\nHost: kes\r\nContent-Length: 9\r\n\r\n");
    std::thread::sleep(Duration::from_millis(100));
    server.signal(Signal::TERM);
    std::thread::sleep(Duration::from_millis(100));
    let start = Instant::now();
    server.signal(Signal::TERM);
    server.wait_for_exit();
    assert!(
        start.elapsed() < Duration::from_millis(400),
        "{:?}",
        start.elapsed()
    );
}
