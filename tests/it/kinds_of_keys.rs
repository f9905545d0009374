//! Certificates with keys of all kinds, made by OpenSSL, over real handshakes.

use std::io::Write as _;

use crate::common::{OpenSsl, Server};

/// Kinds of keys, and the two words of `openssl` that make one.
const KEYS: [(&str, &str, &str); 14] = [
    ("Ed25519", "403", "-newkey ed25519"),
    ("P-256", "403", "-newkey ec -pkeyopt ec_paramgen_curve:P-256"),
    ("P-384", "403", "-newkey ec -pkeyopt ec_paramgen_curve:P-384"),
    ("RSA of 2048 bits", "403", "-newkey rsa:2048"),
    ("RSA of 3072 bits", "403", "-newkey rsa:3072"),
    ("RSA of 512 bits", "", "-newkey rsa:512"),
    ("RSA of 1024 bits", "", "-newkey rsa:1024"),
    ("RSA-PSS", "", "-newkey rsa-pss -pkeyopt rsa_keygen_bits:2048"),
    ("P-192", "", "-newkey ec -pkeyopt ec_paramgen_curve:prime192v1"),
    ("P-224", "", "-newkey ec -pkeyopt ec_paramgen_curve:P-224"),
    ("P-521", "", "-newkey ec -pkeyopt ec_paramgen_curve:P-521"),
    ("secp256k1", "", "-newkey ec -pkeyopt ec_paramgen_curve:secp256k1"),
    ("brainpool", "", "-newkey ec -pkeyopt ec_paramgen_curve:brainpoolP256r1"),
    ("Ed448", "", "-newkey ed448"),
];

#[test]
fn only_strong_keys_of_known_kinds_identify() {
    let Some(openssl) = OpenSsl::find() else {
        return;
    };
    let server = Server::start(|_| {});
    let ask = |name: &str, version: &str| {
        let file = |suffix: &str| openssl.file(&format!("{name}.{suffix}"));
        let mut command = std::process::Command::new("openssl")
            .args(["s_client", "-ign_eof", "-quiet", version, "-cipher", "DEFAULT@SECLEVEL=0"])
            .args(["-connect", &server.address.to_string()])
            .arg("-cert")
            .arg(file("crt"))
            .arg("-key")
            .arg(file("key"))
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let ask = b"GET /v1/key/list/* HTTP/1.1\r\nHost: kes\r\nConnection: close\r\n\r\n";
        // It may have ended already.
        let _ = command.stdin.take().unwrap().write_all(ask);
        let answer = command.wait_with_output().unwrap().stdout;
        let answer = String::from_utf8_lossy(&answer);
        answer.strip_prefix("HTTP/1.1 ").map_or(String::new(), |line| line[..3].to_owned())
    };
    for (number, (kind, expected, words)) in KEYS.into_iter().enumerate() {
        let name = format!("key{number}");
        openssl.run(&format!(
            "req -x509 {words} -nodes -keyout {name}.key -out {name}.crt -days 2 -subj /CN=key"
        ));
        assert_eq!(expected, ask(&name, "-tls1_3"), "{kind}");
        assert_eq!("", ask(&name, "-tls1_2"), "{kind}");
    }
    // DSA has parameters.
    openssl.run("dsaparam -out dsa.pem 1024");
    openssl.run(
        "req -x509 -newkey dsa:dsa.pem -nodes -keyout dsa.key -out dsa.crt -days 2 -subj /CN=d",
    );
    assert_eq!("", ask("dsa", "-tls1_3"), "DSA");
    server.root().get("/version").is_json_success();
}
