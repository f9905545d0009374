//! Whom the server lets in, for how long, and with which certificate of its own it starts at all.

use std::{
    fs,
    time::{Duration, Instant},
};

use crate::common::{
    Authority, Client, Config, Connection, Identity, OpenSsl, Profile, Server, WHILE_IT_ENDS,
    certificates::pem, client::request, quickly, server::Refusal, stored_key,
};
use rcgen::{ExtendedKeyUsagePurpose, KeyPair};
use rustix::process::Signal;
use rustls::HandshakeKind;

/// A server that trusts clients of `authority` only.
fn start_trusting(authority: &Authority, change: impl FnOnce(&mut Config)) -> Server {
    start_trusting_all(authority, &[], change)
}

/// A server that trusts clients of `authority`, and `others` as they are.
fn start_trusting_all(
    authority: &Authority,
    others: &[&Identity],
    change: impl FnOnce(&mut Config),
) -> Server {
    Server::start(|config| {
        config.root_identity = authority.issue("root", &Profile::client());
        config.root = config.root_identity.id.clone();
        config.auth = "on";
        let trusted: String = std::iter::once(&authority.identity)
            .chain(others.iter().copied())
            .map(Identity::certificate_pem)
            .collect();
        let file = config.file("authorities.pem", &trusted);
        config.environment.push(("SSL_CERT_FILE".to_owned(), file.display().to_string()));
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
    server.logs_error(&format!("http: TLS handshake error from 127.0.0.1:{port}: {why}"));
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
        authority.issue("with authority", &Profile::client()).followed_by(&authority.identity),
        intermediate.issue("below", &Profile::client()).followed_by(&intermediate.identity),
    ];
    let server = start_trusting(&authority, |config| {
        let identities: Vec<_> = accepted.iter().collect();
        config.policy("all", &["/v1/key/generate/*"], &identities);
    });
    for identity in &accepted {
        let client = server.client(identity);
        client.post("/v1/key/generate/my-key", "{}").is_json_success();
        client.post("/v1/key/encrypt/my-key", "{}").is_failure(403, "prohibited by policy");
    }
    // Nothing but what the policy did not allow.
    let errors = server.stderr();
    assert!(errors.lines().all(|line| line.contains(" called ")), "{errors}");
}

#[test]
fn a_certificate_for_any_usage_is_accepted() {
    let authority = Authority::new("authority");
    let server = start_trusting(&authority, |_| {});
    let profile = Profile { usages: vec![ExtendedKeyUsagePurpose::Any], ..Profile::client() };
    let any = authority.issue("any usage", &profile);
    let answer = server.client(&any).try_request("GET", "/version", b"");
    assert_eq!(Some(200), answer.ok().map(|answer| answer.status), "{}", server.stderr());
}

#[test]
fn keys_of_all_types_identify() {
    let authority = Authority::new("authority");
    let server = start_trusting(&authority, |_| {});
    let algorithms =
        [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384];
    for (before, algorithm) in algorithms.into_iter().enumerate() {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let identity = authority.issue_for(key, "client", &Profile::client());
        server.client(&identity).get("/version").is_json_success();
        let audit = server.audit(before + 1);
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
    is_kept_out(&server, &stranger.issue("client", &Profile::client()), &unknown);
    // An authority of the same name is not the same.
    let double = Authority::new("authority");
    let forged = double.issue("root", &Profile::client());
    is_kept_out(&server, &forged, X509);
    is_kept_out(&server, &forged.followed_by(&double.identity), X509);
    // Without the certificate between it and the trusted one there is no chain.
    let intermediate = authority.intermediate("intermediate");
    is_kept_out(&server, &intermediate.issue("client", &Profile::client()), &unknown);
    // The certificate of a client is no authority.
    let client = authority.issue("client", &Profile::client());
    is_kept_out(&server, &Identity::new("self-signed").followed_by(&client), &unknown);
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
    is_kept_out(&server, &authority.issue("old", &Profile::client().valid_for(-60)), &reason);
    let early = Profile { valid_since: -600, ..Profile::client() };
    is_kept_out(&server, &authority.issue("early", &early), &reason);
}

#[test]
fn a_client_without_certificate_is_refused_in_any_case() {
    let authority = Authority::new("authority");
    let server = start_trusting(&authority, |_| {});
    assert!(server.anonymous().try_request("GET", "/version", b"").is_err());
    server.logs_error(": tls: client didn't provide a certificate");
}

#[test]
fn without_checks_every_certificate_identifies() {
    let authority = Authority::new("authority");
    let early = Profile { valid_since: -600, ..Profile::client() };
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
        config.environment.push(("SSL_CERT_DIR".to_owned(), directory));
    });
    server.root().get("/version").is_json_success();
    is_kept_out(&server, &Identity::new("self-signed"), X509);
}

#[test]
fn without_authorities_there_is_no_start() {
    let refusal = refusal(|config| {
        config.auth = "on";
        let file = config.file("empty.pem", "");
        config.environment.push(("SSL_CERT_FILE".to_owned(), file.display().to_string()));
    });
    assert!(refusal.stderr.contains("no trusted certificate authority"), "{refusal:?}");
}

// certificates that are themselves trusted

/// Asserts that `identity` is identified, in full handshakes and in resumed ones.
#[track_caller]
fn is_let_in(server: &Server, identity: &Identity) {
    let before = server.audit(0).len();
    let client = server.client(identity).resuming();
    resume(&client).request("GET", "/version", "").is_json_success();
    let audit = server.audit(before + 2);
    for event in &audit[before..] {
        assert_eq!(identity.id, event["request"]["identity"]);
    }
}

#[test]
fn a_client_whose_certificate_is_itself_trusted_is_accepted() {
    let Some(openssl) = OpenSsl::find() else {
        return;
    };
    const CLIENT_AUTH: &str = "-addext extendedKeyUsage=clientAuth";
    let accepted = [
        openssl.self_signed("authority", "-subj /CN=app"),
        openssl.self_signed("client", &format!("-subj /CN=app {CLIENT_AUTH}")),
        openssl.self_signed("leaf", "-subj /CN=app -addext basicConstraints=critical,CA:FALSE"),
        openssl.self_signed("any", "-subj /CN=app -addext extendedKeyUsage=anyExtendedKeyUsage"),
        openssl.self_signed("signs", "-subj /CN=app -addext keyUsage=digitalSignature,keyCertSign"),
        Identity::new("made by kes"),
    ];
    let authority = Authority::new("authority");
    let server = start_trusting_all(&authority, &accepted.each_ref(), |_| {});
    for identity in &accepted {
        is_let_in(&server, identity);
    }
    let twice = accepted[0].clone().followed_by(&accepted[0]);
    is_let_in(&server, &twice);
    assert_eq!("", server.stderr());
}

#[test]
fn a_trusted_certificate_is_refused_out_of_its_time_or_for_another_use() {
    let Some(openssl) = OpenSsl::find() else {
        return;
    };
    let authority_of = |profile: Profile| {
        let profile = Profile { is_ca: true, ..profile };
        Identity::self_signed("app", &profile)
    };
    let early = Profile { valid_since: -600, ..Profile::client() };
    const LEAF: &str = "-subj /CN=app -addext basicConstraints=critical,CA:FALSE";
    let refused = [
        (authority_of(Profile::client().valid_for(-60)), "expired: renew it"),
        (authority_of(early.clone()), "not yet valid: make a new one"),
        (authority_of(Profile::server()), "it needs the extended key usage clientAuth"),
        (Identity::self_signed("app", &Profile::client().valid_for(-60)), "expired: renew it"),
        (Identity::self_signed("app", &early), "not yet valid: make a new one"),
        (
            Identity::self_signed("app", &Profile::server()),
            "it needs the extended key usage clientAuth",
        ),
        (
            openssl.self_signed("web", "-subj /CN=app -addext extendedKeyUsage=serverAuth"),
            "it needs the extended key usage clientAuth",
        ),
        (
            openssl.self_signed(
                "issuer",
                "-subj /CN=app -addext keyUsage=critical,keyCertSign,cRLSign",
            ),
            "it needs the key usage digitalSignature",
        ),
        (
            openssl.self_signed("unknown", &format!("{LEAF} -addext 1.2.3.4=critical,DER:0500")),
            "breaks a rule",
        ),
    ];
    let authority = Authority::new("authority");
    let trusted: Vec<_> = refused.iter().map(|(identity, _)| identity).collect();
    let server = start_trusting_all(&authority, &trusted, |_| {});
    for (identity, why) in &refused {
        is_kept_out(&server, identity, X509);
        server.logs_error(why);
    }
    // The root of this server is none of them.
    server.root().get("/version").is_json_success();
}

#[test]
fn a_certificate_like_a_trusted_one_is_another_one() {
    let Some(openssl) = OpenSsl::find() else {
        return;
    };
    let trusted = openssl.self_signed("trusted", "-subj /CN=app");
    let leaf =
        openssl.self_signed("leaf", "-subj /CN=leaf -addext basicConstraints=critical,CA:FALSE");
    // Of another kind of key as well, which libraries have a word of their own for.
    let ed25519 = |name: &str, subject: &str| {
        openssl.run(&format!(
            "req -x509 -newkey ed25519 -nodes -keyout {name}.key -out {name}.crt -days 2 \
             -subj {subject} -addext basicConstraints=critical,CA:FALSE"
        ));
        openssl.identity(name)
    };
    let authority = Authority::new("authority");
    let server = start_trusting_all(&authority, &[&trusted, &leaf], |_| {});
    // The same subject with another key, and with the same key.
    let is_authority = format!("{X509}certificate is one of a certificate authority");
    let double = openssl.self_signed("double", "-subj /CN=app");
    is_kept_out(&server, &double, &is_authority);
    let double = double.followed_by(&trusted);
    is_kept_out(&server, &double, &is_authority);
    openssl.run("req -x509 -new -key trusted.key -out again.crt -days 2 -subj /CN=app");
    fs::copy(openssl.file("trusted.key"), openssl.file("again.key")).unwrap();
    is_kept_out(&server, &openssl.identity("again"), &is_authority);
    let unknown = format!("{X509}certificate signed by unknown authority");
    is_kept_out(&server, &ed25519("other", "/CN=app"), &unknown);
    is_kept_out(&server, &ed25519("third", "/CN=leaf"), &unknown);
    let other =
        openssl.self_signed("fourth", "-subj /CN=app -addext basicConstraints=critical,CA:FALSE");
    is_kept_out(&server, &other, &unknown);
    // With what is trusted behind it, it is still the first one that counts.
    is_kept_out(&server, &other.followed_by(&trusted), &unknown);
    is_let_in(&server, &trusted);
}

#[test]
fn a_trusted_client_vouches_for_others_only_if_it_is_an_authority() {
    let Some(openssl) = OpenSsl::find() else {
        return;
    };
    let leaf =
        openssl.self_signed("leaf", "-subj /CN=leaf -addext basicConstraints=critical,CA:FALSE");
    let no_signer = openssl
        .self_signed("no_signer", "-subj /CN=no_signer -addext keyUsage=critical,digitalSignature");
    let authority = openssl.self_signed("authority", "-subj /CN=authority");
    let issued = |name: &str, by: &str| {
        openssl.request(name, &format!("-subj /CN={name}"));
        fs::write(openssl.file("leaf.ext"), "basicConstraints=critical,CA:FALSE").unwrap();
        openssl.run(&format!(
            "x509 -req -in {name}.csr -CA {by}.crt -CAkey {by}.key -set_serial 9 -days 2 \
             -extfile leaf.ext -out {name}.crt"
        ));
        openssl.identity(name)
    };
    let other = Authority::new("other");
    let server = start_trusting_all(&other, &[&leaf, &no_signer, &authority], |_| {});
    let unknown = format!("{X509}certificate signed by unknown authority");
    for (name, by) in [("a", &leaf), ("b", &no_signer)] {
        let issuer = if name == "a" { "leaf" } else { "no_signer" };
        let identity = issued(name, issuer);
        is_kept_out(&server, &identity, &unknown);
        is_kept_out(&server, &identity.followed_by(by), &unknown);
        let version_1 = openssl
            .version_1(&format!("{name}1"), &format!("-CA {issuer}.crt -CAkey {issuer}.key"));
        is_kept_out(&server, &version_1, &unknown);
        is_let_in(&server, by);
    }
    is_let_in(&server, &issued("c", "authority"));
    is_let_in(&server, &authority);
}

#[test]
fn the_message_about_an_authority_has_a_command_that_helps() {
    let Some(openssl) = OpenSsl::find() else {
        return;
    };
    let authority = Authority::new("authority");
    let server = start_trusting(&authority, |_| {});
    let identity = openssl.self_signed("app", "-subj /CN=app");
    is_kept_out(
        &server,
        &identity,
        &format!("{X509}certificate is one of a certificate authority"),
    );
    openssl.run(&OpenSsl::command_in(&server.stderr(), "openssl req -x509 -newkey"));
    let made = openssl.identity("client");
    let server = start_trusting_all(&authority, &[&made], |_| {});
    is_let_in(&server, &made);
    let server = start_trusting_all(&authority, &[&identity], |_| {});
    is_let_in(&server, &identity);
}

// X.509 version 1

/// A certificate whose bytes differ from those of `identity` at `at`, counted from the end.
fn forged(identity: &Identity, at: usize) -> Identity {
    let mut forged = identity.clone();
    let mut der = forged.chain[0].to_vec();
    let at = der.len() - at;
    der[at] ^= 1;
    forged.chain[0] = der.into();
    forged
}

#[test]
fn certificates_of_version_1_identify_where_nothing_is_checked() {
    let Some(openssl) = OpenSsl::find() else {
        return;
    };
    openssl.self_signed("ca", "-subj /CN=ca");
    let root = openssl.version_1("root1", "-signkey root1.key");
    let by_root = openssl.version_1("below", "-CA root1.crt -CAkey root1.key");
    let server = Server::start(|_| {});
    for identity in [
        openssl.version_1("app", "-CA ca.crt -CAkey ca.key"),
        // A root of version 1 is no second identity.
        by_root.clone().followed_by(&root),
        by_root.clone(),
        root.clone(),
        forged(&by_root, 1),
    ] {
        is_let_in(&server, &identity);
    }
    assert_eq!("", server.stderr());
    // But any other certificate is.
    let other = openssl.version_1("other", "-signkey other.key");
    let same_name = openssl.version_1("root1", "-signkey root1.key");
    for two in [
        by_root.followed_by(&other),
        other.clone().followed_by(&root),
        root.followed_by(&same_name),
    ] {
        server
            .client(&two)
            .post("/v1/key/create/a", "")
            .is_failure(400, "too many identities: more than one certificate is present");
    }
}

#[test]
fn who_does_not_hold_the_key_of_a_certificate_of_version_1_is_refused() {
    let Some(openssl) = OpenSsl::find() else {
        return;
    };
    let victim = openssl.version_1("victim", "-signkey victim.key");
    let thief = openssl.version_1("thief", "-signkey thief.key");
    for auth in ["on", "off"] {
        let server = start_trusting_all(&Authority::new("authority"), &[&victim], |config| {
            config.auth = auth;
        });
        let mut stolen = thief.clone();
        stolen.chain.clone_from(&victim.chain);
        is_kept_out(
            &server,
            &stolen,
            &format!("{X509}client does not hold the private key of its certificate"),
        );
        is_let_in(&server, &victim);
    }
}

#[test]
fn certificates_of_version_1_are_accepted_if_their_issuer_is_trusted() {
    let Some(openssl) = OpenSsl::find() else {
        return;
    };
    let mut accepted = Vec::new();
    let ca = openssl.self_signed("ca", "-subj /CN=ca");
    accepted.push(openssl.version_1("by_p256", "-CA ca.crt -CAkey ca.key"));
    for (name, kind) in [
        ("rsa", "-newkey rsa:2048"),
        ("ed25519", "-newkey ed25519"),
        ("p384", "-newkey ec -pkeyopt ec_paramgen_curve:P-384"),
    ] {
        openssl.run(&format!(
            "req -x509 {kind} -nodes -keyout {name}.key -out {name}.crt -days 2 -subj /CN={name}"
        ));
        accepted.push(
            openssl.version_1(&format!("by_{name}"), &format!("-CA {name}.crt -CAkey {name}.key")),
        );
    }
    let issuers = ["rsa", "ed25519", "p384"].map(|name| openssl.identity(name));
    let root = openssl.version_1("root1", "-signkey root1.key");
    accepted.push(openssl.version_1("by_root", "-CA root1.crt -CAkey root1.key"));
    accepted.push(openssl.identity("by_root").followed_by(&root));
    accepted.push(root.clone());
    let mut trusted: Vec<_> = issuers.iter().collect();
    trusted.extend([&ca, &root]);
    let server = start_trusting_all(&Authority::new("other"), &trusted, |_| {});
    for identity in &accepted {
        is_let_in(&server, identity);
    }
    assert_eq!("", server.stderr());
    // What the issuer did not sign: another serial number, signature, key.
    let (version_1, first) = (&accepted[0], accepted[0].chain[0].len());
    let serial = version_1.chain[0].windows(3).position(|b| b == [2, 1, 7]).unwrap() + 2;
    let unknown = format!("{X509}certificate signed by unknown authority");
    is_kept_out(&server, &forged(version_1, 1), &unknown);
    is_kept_out(&server, &forged(version_1, first - serial), &unknown);
    for identity in &accepted[1..4] {
        is_kept_out(&server, &forged(identity, 1), &unknown);
    }
}

#[test]
fn certificates_of_version_1_are_refused_out_of_their_time_or_without_a_trusted_issuer() {
    let Some(openssl) = OpenSsl::find() else {
        return;
    };
    let ca = openssl.self_signed("ca", "-subj /CN=ca");
    let root = openssl.version_1("root1", "-signkey root1.key");
    let server = start_trusting_all(&Authority::new("other"), &[&ca, &root], |_| {});
    let unknown = format!("{X509}certificate signed by unknown authority");
    let dated = |name: &str, by: &str, dates: &str| {
        fs::write(openssl.file("index"), "").unwrap();
        let policy = "[ca]\ndatabase=index\nnew_certs_dir=.\ndefault_md=default\npolicy=any\n\
                      rand_serial=yes\nunique_subject=no\n[any]\ncommonName=supplied\n";
        fs::write(openssl.file("ca.cnf"), policy).unwrap();
        openssl.request(name, &format!("-subj /CN={name}"));
        openssl.run(&format!(
            "ca -batch -notext -config ca.cnf -name ca -cert {by}.crt -keyfile {by}.key -in {name}.csr \
             -out {name}.crt {dates}"
        ));
        let text = openssl.run(&format!("x509 -in {name}.crt -noout -text"));
        assert!(String::from_utf8_lossy(&text).contains("Version: 1 (0x0)"));
        openssl.identity(name)
    };
    for by in ["ca", "root1"] {
        let late =
            dated(&format!("late_{by}"), by, "-startdate 20200101000000Z -enddate 20200102000000Z");
        is_kept_out(
            &server,
            &late,
            &format!("{X509}certificate has expired or is not yet valid: expired"),
        );
        let early = dated(
            &format!("early_{by}"),
            by,
            "-startdate 20990101000000Z -enddate 20990102000000Z",
        );
        is_kept_out(
            &server,
            &early,
            &format!("{X509}certificate has expired or is not yet valid: not yet"),
        );
        let now =
            dated(&format!("now_{by}"), by, "-startdate 20200101000000Z -enddate 20990102000000Z");
        is_let_in(&server, &now);
    }
    // Nobody vouches for it: itself, an untrusted authority, one of the same name with another key.
    is_kept_out(&server, &openssl.version_1("own", "-signkey own.key"), &unknown);
    let stranger = openssl.self_signed("stranger", "-subj /CN=stranger");
    let by_stranger = openssl.version_1("a", "-CA stranger.crt -CAkey stranger.key");
    is_kept_out(&server, &by_stranger, &unknown);
    is_kept_out(&server, &by_stranger.followed_by(&stranger), &unknown);
    let double = openssl.self_signed("double", "-subj /CN=ca");
    let by_double = openssl.version_1("b", "-CA double.crt -CAkey double.key");
    is_kept_out(&server, &by_double, &unknown);
    is_kept_out(&server, &by_double.followed_by(&double), &unknown);
    is_kept_out(&server, &openssl.identity("b").followed_by(&ca), &unknown);
    // The log takes a number of them a second.
    let next_second = || std::thread::sleep(Duration::from_millis(1100));
    next_second();
    // A certificate of version 1 that a trusted authority issued is no authority, whatever it issues.
    let between = openssl.version_1("between", "-CA ca.crt -CAkey ca.key");
    let below = openssl.version_1("c", "-CA between.crt -CAkey between.key");
    is_kept_out(&server, &below, &unknown);
    is_kept_out(&server, &below.followed_by(&between), &unknown);
    fs::write(openssl.file("leaf.ext"), "basicConstraints=critical,CA:FALSE").unwrap();
    openssl.request("d", "-subj /CN=d");
    openssl.run(
        "x509 -req -in d.csr -CA between.crt -CAkey between.key -set_serial 9 -days 2 \
         -extfile leaf.ext -out d.crt",
    );
    is_kept_out(&server, &openssl.identity("d").followed_by(&between), &unknown);
    // A true authority in between would be one, but it must be in the store.
    fs::write(openssl.file("ca.ext"), "basicConstraints=critical,CA:TRUE").unwrap();
    openssl.request("middle", "-subj /CN=middle");
    openssl.run(
        "x509 -req -in middle.csr -CA ca.crt -CAkey ca.key -set_serial 9 -days 2 -extfile ca.ext \
         -out middle.crt",
    );
    let middle = openssl.identity("middle");
    let version_1 = openssl.version_1("e", "-CA middle.crt -CAkey middle.key").followed_by(&middle);
    is_kept_out(&server, &version_1, &unknown);
    server.logs_error(
        "it is of X.509 version 1, so the certificate that issued it must itself be in",
    );
    next_second();
    // Signed with an algorithm that should not be trusted any more.
    openssl.request("f", "-subj /CN=f");
    openssl
        .run("x509 -req -in f.csr -CA ca.crt -CAkey ca.key -set_serial 9 -days 2 -sha1 -out f.crt");
    is_kept_out(
        &server,
        &openssl.identity("f"),
        &format!("{X509}certificate, or one of its chain, is signed in a way"),
    );
}

#[test]
fn an_authority_with_constraints_on_names_vouches_for_no_certificate_of_version_1() {
    let Some(openssl) = OpenSsl::find() else {
        return;
    };
    let ca =
        openssl.self_signed("ca", "-subj /CN=ca -addext nameConstraints=permitted;DNS:example.com");
    let server = start_trusting_all(&Authority::new("other"), &[&ca], |_| {});
    let version_1 = openssl.version_1("app", "-CA ca.crt -CAkey ca.key");
    is_kept_out(&server, &version_1, &format!("{X509}certificate signed by unknown authority"));
}

// resumption

/// Two connections, the second of which resumes the first.
fn resume(client: &Client) -> crate::common::Connection {
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
        resumed.request("POST", "/v1/key/generate/my-key", "{}").is_json_success();
        resumed
            .request("POST", "/v1/key/encrypt/my-key", "{}")
            .is_failure(403, "prohibited by policy");
        drop(resumed);
        // The ticket of a resumed session is as good.
        let mut again = client.connect();
        assert_eq!(Some(HandshakeKind::Resumed), again.handshake_kind());
        again.request("POST", "/v1/key/generate/my-key", "{}").is_json_success();
        let audit = server.audit(4);
        assert_eq!(4, audit.len());
        assert!(audit.iter().all(|event| event["request"]["identity"] == app.id), "{audit:?}");
    }
}

#[test]
fn two_leaf_certificates_stay_too_many_when_they_resume() {
    let server = Server::start(|_| {});
    let two = server.root_identity.clone().followed_by(&Identity::new("another"));
    resume(&server.client(&two).resuming())
        .request("POST", "/v1/key/create/a", "")
        .is_failure(400, "too many identities: more than one certificate is present");
}

#[test]
fn a_session_ends_with_its_certificate() {
    const LIFE: Duration = Duration::from_secs(6);
    let authority = Authority::new("authority");
    let server = start_trusting(&authority, |_| {});
    quickly(LIFE - Duration::from_secs(1), |clock| {
        clock.start();
        let short = authority.issue("short", &Profile::client().valid_for(LIFE.as_secs() as i64));
        let client = server.client(&short).resuming();
        let mut open = client.connect();
        open.request("GET", "/version", "").is_json_success();
        let mut resumed = resume_more(&client);
        resumed.request("GET", "/version", "").is_json_success();

        std::thread::sleep((LIFE + Duration::from_millis(1500)).saturating_sub(clock.elapsed()));
        clock.stop();
        for connection in [&mut open, &mut resumed] {
            let answer = connection.request("GET", "/version", "");
            answer.is_failure(403, "client certificate has expired or is no longer trusted");
            assert_eq!(Some("close"), answer.header("Connection"));
            assert!(connection.is_closed());
        }
        let mut late = client.connect();
        assert_eq!(Some(HandshakeKind::Resumed), late.handshake_kind());
        let _ = late.try_send(&request("POST", "/v1/key/create/forbidden", b""));
        assert!(late.try_response(false).is_err());
        server.logs_error(&format!("{X509}certificate has expired or is not yet valid"));
        is_kept_out(&server, &short, &format!("{X509}certificate has expired"));
        assert!(!server.keys().join("forbidden").exists());
    });
}

fn resume_more(client: &Client) -> Connection {
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
        config.environment.push(("SSL_CERT_FILE".to_owned(), file.display().to_string()));
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
    assert!(refusal.stderr.contains(file), "{file} is not named: {}", refusal.stderr);
    assert!(refusal.stderr.contains(why), "{why:?} is not said: {}", refusal.stderr);
    assert!(!refusal.stderr.contains("panic"), "{}", refusal.stderr);
}

#[test]
fn flaws_of_the_server_certificate_are_named() {
    let other = Identity::new("other");
    refuses_to_start("server.crt", "failed to read", |config| config.certificate.clear());
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
        refuses_to_start(file, "does not belong to", |config| config.key = other.key_pem());
    }
}

#[test]
fn flaws_of_the_private_key_are_named_and_the_key_is_not_shown() {
    refuses_to_start("server.key", "failed to read", |config| config.key.clear());
    for key in ["this is no key".to_owned(), pem("PRIVATE KEY", b"this is no key")] {
        refuses_to_start("server.key", "invalid private key", |config| config.key = key);
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
    assert!(server.stderr().to_lowercase().contains("warning"), "{}", server.stderr());
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
        quickly(WHILE_IT_ENDS, |clock| {
            let mut server = Server::start(|_| {});
            let mut idle = server.root().connect();
            idle.request("GET", "/version", "").is_json_success();
            let mut busy = server.root().connect();
            let bytes = request("POST", "/v1/key/import/a", stored_key(&[1; 32]).as_bytes());
            busy.send(&bytes[..bytes.len() - 5]);
            server.reads_all_of(&busy);
            clock.start();
            server.signal(signal);
            // Idle connections are closed although others are busy.
            assert!(idle.is_closed());
            assert!(server.root().try_connect().is_err(), "new clients are still served");
            busy.send(&bytes[bytes.len() - 5..]);
            let answer = busy.response();
            answer.is_empty_success();
            assert_eq!(Some("close"), answer.header("Connection"));
            assert!(busy.is_closed());
            clock.stop();
            assert_eq!(Some(0), server.wait_for_exit().code());
            assert_eq!(2, server.audit(2).len());
            assert_eq!(["a"], *server.key_files());
            assert_eq!("", server.stderr());
        });
    }
}

/// A server with a request whose body does not come.
fn kept_waiting() -> (Server, Connection) {
    let server = Server::start(|_| {});
    let mut busy = server.root().connect();
    busy.send("POST /v1/key/import/a HTTP/1.1\r\nHost: kes\r\nContent-Length: 9\r\n\r\n");
    server.reads_all_of(&busy);
    (server, busy)
}

#[test]
fn a_client_that_never_finishes_does_not_keep_the_server_up() {
    let (mut server, _busy) = kept_waiting();
    let start = Instant::now();
    server.signal(Signal::TERM);
    assert_eq!(Some(0), server.wait_for_exit().code());
    // Before the deadline of the body, which is 5 seconds.
    assert!(start.elapsed() < Duration::from_millis(4500), "{:?}", start.elapsed());
    assert_eq!(1, server.audit(1).len());
}

#[test]
fn a_second_signal_ends_the_server_at_once() {
    // With one signal it takes 800 milliseconds, so one quick end is enough to show the difference.
    let quick = (0..10).any(|_| {
        let (mut server, _busy) = kept_waiting();
        let start = Instant::now();
        server.signal(Signal::TERM);
        std::thread::sleep(Duration::from_millis(100));
        server.signal(Signal::TERM);
        server.wait_for_exit();
        start.elapsed() < WHILE_IT_ENDS
    });
    assert!(quick, "it never ends before its time");
}

#[test]
fn a_half_written_system_store_is_told_at_the_start_and_not_taken_up_by_a_reload() {
    let authorities = [Authority::new("first"), Authority::new("second")];
    let [first, second] = authorities.each_ref().map(|one| one.identity.certificate_pem());
    let (whole, half) = (first.clone() + &second, first + &second[..second.len() / 2]);
    let start = |store: &str| {
        Server::start(|config| {
            config.auth = "on";
            config.root_identity = authorities[0].issue("root", &Profile::client());
            config.root = config.root_identity.id.clone();
            let file = config.file("authorities.pem", store);
            config.environment.push(("SSL_CERT_FILE".to_owned(), file.display().to_string()));
        })
    };
    let reload = |server: &Server, store: &str, outcome: &str| {
        fs::write(server.file("authorities.pem"), store).unwrap();
        server.signal(Signal::HUP);
        server.logs_error(outcome);
    };
    let flaw = "parts of the certificate store of the system can't be read: ";
    let done = "the configuration is reloaded";

    let server = start(&whole);
    let client = server.client(&authorities[1].issue("client", &Profile::client()));
    assert_eq!(403, client.get("/v1/metrics").status);
    assert!(!server.stderr().contains(flaw));
    reload(&server, &half, "the certificate store of the system can't be read as before: ");
    assert!(!server.stderr().contains(done));
    assert_eq!(403, client.get("/v1/metrics").status, "it is trusted as before");
    reload(&server, &whole, done);

    // One that was broken before keeps nobody from a reload.
    let server = start(&half);
    server.logs_error(flaw);
    reload(&server, &half, done);
}
