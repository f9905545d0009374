//! What people read when the two ends of a connection do not fit: in the error log of the server, of
//! a key store, and on the command line. No word of a library, and what to do.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    process::{Command, Stdio},
};

use crate::common::{Authority, Identity, OpenSsl, Profile, Server, Site, TempDir};

/// Asserts that the text has `expected`, and nothing that only programmers know.
#[track_caller]
fn is_said(text: &str, expected: &str) {
    assert!(text.contains(expected), "{expected:?} is not in {text}");
    for word in [
        "InvalidContentType",
        "VersionsExtension",
        "NotOffered",
        "CertificateRequired",
        "PublicKeyContext",
        "AlertReceived",
        "UnknownIssuer",
        "HandshakeFailure",
        "ProtocolVersion",
        "Broken pipe",
        "os error",
        "corrupt message",
        "received fatal alert",
        "peer is incompatible",
        "UnknownCA",
        "BadCertificate",
    ] {
        assert!(!text.contains(word), "{word:?} is in {text}");
    }
}

// the server

/// What `openssl s_client` says to the server.
fn s_client(server: &Server, directory: &OpenSsl, arguments: &str) {
    let words: Vec<_> = arguments.split_whitespace().collect();
    let mut child = Command::new("openssl")
        .args(["s_client", "-connect", &server.address.to_string()])
        .args(words)
        .current_dir(directory.file("."))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _ = child.stdin.take().unwrap().write_all(b"GET /version HTTP/1.0\r\n\r\n");
    child.wait().unwrap();
}

#[test]
fn a_client_that_speaks_plain_http_is_told_apart() {
    let server = Server::start(|_| {});
    let mut socket = TcpStream::connect(server.address).unwrap();
    socket.write_all(b"GET /version HTTP/1.1\r\nHost: kes\r\n\r\n").unwrap();
    let _ = socket.read_to_end(&mut Vec::new());
    server.logs_error("tls: client does not speak TLS: does it use http:// instead of https://?");
    is_said(&server.stderr(), "http:// instead of https://");
}

#[test]
fn a_client_with_an_old_version_is_told_apart() {
    let Some(openssl) = OpenSsl::find() else {
        return;
    };
    for old in ["-tls1_2", "-tls1_1 -cipher DEFAULT@SECLEVEL=0"] {
        let server = Server::start(|_| {});
        s_client(&server, &openssl, old);
        server.logs_error("tls: client is not compatible: it does not offer TLS 1.3");
        is_said(&server.stderr(), "which it needs here");
    }
}

#[test]
fn a_client_whose_kind_of_key_does_not_work_reads_which_do() {
    let Some(openssl) = OpenSsl::find() else {
        return;
    };
    for (name, kind) in [
        ("p521", "-newkey ec -pkeyopt ec_paramgen_curve:P-521"),
        ("pss", "-newkey rsa-pss -pkeyopt rsa_keygen_bits:2048"),
        ("ed448", "-newkey ed448"),
    ] {
        openssl.run(&format!(
            "req -x509 {kind} -nodes -keyout {name}.key -out {name}.crt -days 2 -subj /CN={name}"
        ));
        let server = Server::start(|_| {});
        s_client(&server, &openssl, &format!("-cert {name}.crt -key {name}.key"));
        server.logs_error(
            "tls: client didn't provide a certificate: it has none, or one with a kind of key",
        );
        is_said(
            &server.stderr(),
            "P-256, P-384, Ed25519 and RSA (2048 to 8192 bits) do, P-521 and RSA-PSS do not",
        );
    }
}

#[test]
fn a_client_that_does_not_trust_the_server_is_told_apart() {
    let Some(openssl) = OpenSsl::find() else {
        return;
    };
    openssl.self_signed("other", "-subj /CN=other");
    let server = Server::start(|_| {});
    s_client(&server, &openssl, "-CAfile other.crt -verify_return_error");
    server.logs_error("remote error: tls: ");
    is_said(&server.stderr(), "client does not trust the certificate of this server");
}

#[test]
fn the_command_line_says_to_the_server_that_it_does_not_trust_it() {
    let server = Server::start(|_| {});
    let other = Authority::new("other");
    let text = on_the_command_line(server.address.port(), &other.identity);
    is_said(&text, "its certificate is not trusted");
    server.logs_error("remote error: tls: unknown certificate authority: client does not trust");
}

#[test]
fn a_client_that_goes_in_the_middle_of_a_handshake_is_told_apart() {
    let server = Server::start(|_| {});
    let mut socket = TcpStream::connect(server.address).unwrap();
    socket.write_all(b"\x16\x03\x01\x02\x00").unwrap();
    drop(socket);
    server.logs_error("client closed the connection before the handshake was over");
}

#[test]
fn an_untrusted_certificate_of_another_kind_than_its_issuer_is_one_of_an_unknown_authority() {
    let Some(openssl) = OpenSsl::find() else {
        return;
    };
    let trusted = openssl.self_signed("trusted", "-subj /CN=app");
    openssl.run(
        "req -x509 -newkey ed25519 -nodes -keyout own.key -out own.crt -days 2 -subj /CN=app \
         -addext basicConstraints=critical,CA:FALSE -addext subjectAltName=IP:127.0.0.1",
    );
    let own = openssl.identity("own");
    let server = Server::start(|config| {
        config.auth = "on";
        let file = config.file("trusted.pem", &trusted.certificate_pem());
        let file = file.display().to_string();
        config.environment.push(("SSL_CERT_FILE".to_owned(), file));
    });
    assert!(server.client(&own).try_request("GET", "/version", b"").is_err());
    let unknown = "x509: certificate signed by unknown authority: put that authority, or the \
                   certificate itself, into SSL_CERT_FILE or SSL_CERT_DIR and reload";
    server.logs_error(unknown);
    is_said(&server.stderr(), unknown);
    // The same at the other ends.
    let site = Site::tls(&own, None);
    let unknown = "its certificate is not trusted: set SSL_CERT_FILE to its authority, or to the \
                   certificate itself; or use -k";
    is_said(&on_the_command_line(site.port, &trusted), unknown);
    let unknown = "its certificate is not trusted: set vault.tls.ca to its authority, or to the \
                   certificate itself";
    is_said(&of_a_key_store(&vault(site.port), &trusted), unknown);
}

// the ends that ask

/// What `kes` says about something that listens at `port` and has a certificate of `authority`.
fn on_the_command_line(port: u16, authority: &Identity) -> String {
    run(port, authority, &["key", "list"])
}

fn run(port: u16, authority: &Identity, arguments: &[&str]) -> String {
    let directory = TempDir::new();
    let own = Identity::new("me");
    let write = |name: &str, text: String| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    // More than what fits into the buffers of a socket.
    let paths: Vec<_> = (0..40_000).map(|n| format!("/v1/key/create/{n}")).collect();
    write("big.json", serde_json::json!({ "paths": paths }).to_string());
    let output = Command::new(env!("CARGO_BIN_EXE_kes"))
        .args(arguments)
        .current_dir(directory.path())
        .env_clear()
        .env("KES_SERVER", format!("https://127.0.0.1:{port}"))
        .env("KES_CLIENT_KEY", write("me.key", own.key_pem()))
        .env("KES_CLIENT_CERT", write("me.crt", own.certificate_pem()))
        .env("SSL_CERT_FILE", write("ca.crt", authority.certificate_pem()))
        .output()
        .unwrap();
    assert_eq!(Some(1), output.status.code());
    String::from_utf8(output.stderr).unwrap()
}

fn vault(port: u16) -> String {
    format!(
        "vault: {{endpoint: 'https://127.0.0.1:{port}', approle: {{id: i, secret: s}}, \
         tls: {{ca: CA}}}}"
    )
}

fn keysecure(port: u16) -> String {
    format!(
        "gemalto: {{keysecure: {{endpoint: 'https://127.0.0.1:{port}', credentials: {{token: t}}, \
         tls: {{ca: CA}}}}}}"
    )
}

/// What a server says that does not start with this key store, whose `CA` is `authority`.
fn of_a_key_store(settings: &str, authority: &Identity) -> String {
    let started = Server::try_start(|config| {
        let ca = config.file("ca.crt", &authority.certificate_pem());
        config.key_store = settings.replace("CA", &format!("{ca:?}"));
    });
    started.err().expect("the server starts").stderr
}

#[test]
fn what_listens_instead_of_a_server_is_told_in_words() {
    let authority = Authority::new("authority").identity;
    for (says, sentence) in [
        (
            &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
            "it does not speak TLS: is it for http:// instead of https://, and is {} right?",
        ),
        (
            b"SSH-2.0-OpenSSH_9.2\r\n",
            "it does not speak TLS: is it for http:// instead of https://, and is {} right?",
        ),
        (
            b"\x15\x03\x01\x00\x02\x02\x46",
            "it refused the TLS connection (protocol version not supported): it speaks neither TLS 1.2 \
             nor 1.3",
        ),
        (
            b"\x15\x03\x01\x00\x02\x02\x28",
            "it refused the TLS connection (handshake failure): it has no version of TLS, cipher or kind \
             of key in common with us, or wants a client certificate",
        ),
        (
            b"\x15\x03\x01\x00\x02\x02\x70",
            "it refused the TLS connection (unrecognized name): it serves no host of that name: check {}",
        ),
        (b"\x15\x03\x01\x00\x02\x02\xfe", "it refused the TLS connection (alert 254)"),
        (b"\x16\x03\x03\x00\x04\xff\xff\xff\xff", "it breaks the rules of TLS"),
        (b"", "the connection was closed without an answer: is {} right?"),
    ] {
        let port = Site::saying(says).port;
        let text = on_the_command_line(port, &authority);
        // The command line looks closer at what speaks no TLS.
        let sentence_there = match sentence.starts_with("it does not speak TLS") {
            true => "no kes server",
            false => sentence,
        };
        is_said(&text, &sentence_there.replace("{}", "KES_SERVER"));
        for settings in [vault(port), keysecure(port)] {
            let text = of_a_key_store(&settings, &authority);
            is_said(&text, &sentence.replace("{}", "the endpoint"));
        }
    }
}

#[test]
fn a_server_that_wants_another_client_certificate_is_told_in_words() {
    let authority = Authority::new("authority");
    let own = authority.issue("site", &Profile::server());
    let site = Site::tls(&own, Some(&authority.identity));
    let unknown = "it refused the TLS connection (unknown certificate authority): it does not know who \
                   issued the client certificate: check KES_CLIENT_CERT and KES_CLIENT_KEY";
    is_said(&on_the_command_line(site.port, &authority.identity), unknown);
    // The connection is closed while the request is on its way.
    let upload = ["policy", "add", "big", "big.json"];
    is_said(&run(site.port, &authority.identity, &upload), unknown);
    is_said(
        &of_a_key_store(&vault(site.port), &authority.identity),
        "it refused the TLS connection (certificate required): it wants a client certificate: check \
         vault.tls.cert and vault.tls.key",
    );
    is_said(
        &of_a_key_store(&keysecure(site.port), &authority.identity),
        "it wants a client certificate: gemalto.keysecure has no field for one",
    );
}
