//! Certificates with every flaw that bytes can have, over real handshakes: one line for each, with the end of
//! the connection where nothing is checked (`--auth off`), and where an authority is trusted (`--auth on`).
//!
//! They are put together here, byte by byte, since no library makes most of them.

use std::io;

use rcgen::{KeyPair, PublicKeyData as _, SigningKey as _};
use rustls_pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};

use crate::common::{
    Authority, Config, Identity, Profile, Server,
    certificates::pem,
    client::{is_end, request},
    hex,
};

// DER

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let length = match length {
        0..0x80 => vec![length as u8],
        0x80..0x100 => vec![0x81, length as u8],
        0x100..0x1_0000 => vec![0x82, (length >> 8) as u8, length as u8],
        _ => vec![0x83, (length >> 16) as u8, (length >> 8) as u8, length as u8],
    };
    [&[tag], &length[..], content].concat()
}

fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    der(0x30, &parts.concat())
}

/// A distinguished name with one common name.
fn name(text: &str) -> Vec<u8> {
    let attribute = sequence(&[&der(6, &[85, 4, 3]), &der(12, text.as_bytes())]);
    sequence(&[&der(0x31, &attribute)])
}

fn extension(id: &[u8], is_critical: bool, value: &[u8]) -> Vec<u8> {
    let critical = if is_critical { der(1, &[0xff]) } else { Vec::new() };
    sequence(&[&der(6, id), &critical, &der(4, value)])
}

const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
const ECDSA_SHA1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1];
const RSA_MD5: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 4];
const CLIENT: u8 = 2;
const SERVER: u8 = 1;

fn usages(usages: &[u8]) -> Vec<u8> {
    let ids: Vec<u8> =
        usages.iter().flat_map(|usage| der(6, &[43, 6, 1, 5, 5, 7, 3, *usage])).collect();
    extension(&[85, 29, 37], false, &der(0x30, &ids))
}

fn basic_constraints(is_ca: bool, path_length: Option<u8>) -> Vec<u8> {
    let ca = if is_ca { der(1, &[0xff]) } else { Vec::new() };
    let length = path_length.map(|length| der(2, &[length])).unwrap_or_default();
    extension(&[85, 29, 19], true, &sequence(&[&ca, &length]))
}

fn dns_name(name: &str) -> Vec<u8> {
    extension(&[85, 29, 17], false, &sequence(&[&der(0x82, name.as_bytes())]))
}

fn key_usage(bits: u8) -> Vec<u8> {
    extension(&[85, 29, 15], true, &der(3, &[0, bits]))
}

/// An extension that nobody knows.
fn unknown(is_critical: bool, size: usize) -> Vec<u8> {
    extension(&[42, 3, 4], is_critical, &vec![0; size])
}

/// The parts of a certificate.
struct Parts {
    version: Vec<u8>,
    /// With its tag.
    serial: Vec<u8>,
    algorithm: &'static [u8],
    /// The algorithm outside of what is signed.
    outer: &'static [u8],
    issuer: Vec<u8>,
    validity: [(u8, &'static str); 2],
    subject: Vec<u8>,
    extensions: Vec<Vec<u8>>,
}

impl Parts {
    fn new(subject: &str, issuer: &str) -> Self {
        Self {
            version: der(0xa0, &[2, 1, 2]),
            serial: der(2, &[7]),
            algorithm: ECDSA_SHA256,
            outer: ECDSA_SHA256,
            issuer: name(issuer),
            validity: [(23, "200101000000Z"), (23, "480101000000Z")],
            subject: name(subject),
            extensions: vec![basic_constraints(false, None), usages(&[CLIENT])],
        }
    }

    fn sign(&self, key: &KeyPair, issuer: &KeyPair) -> Vec<u8> {
        let [from, to] = self.validity.map(|(tag, text)| der(tag, text.as_bytes()));
        let extensions = match self.extensions.len() {
            0 => Vec::new(),
            _ => der(0xa3, &der(0x30, &self.extensions.concat())),
        };
        let signed = sequence(&[
            &self.version,
            &self.serial,
            &sequence(&[&der(6, self.algorithm)]),
            &self.issuer,
            &sequence(&[&from, &to]),
            &self.subject,
            &key.subject_public_key_info(),
            &extensions,
        ]);
        let signature = issuer.sign(&signed).unwrap();
        let outer = sequence(&[&der(6, self.outer)]);
        sequence(&[&signed, &outer, &der(3, &[&[0], &signature[..]].concat())])
    }
}

fn identity(chain: Vec<Vec<u8>>, key: &KeyPair) -> Identity {
    let chain = chain.into_iter().map(CertificateDer::from).collect();
    let id = hex(&Sha256::digest(key.subject_public_key_info()));
    Identity::from_der(chain, key.serialize_der(), id)
}

/// Authorities below one another; the first is the one that is trusted.
struct Tower(Vec<(String, KeyPair, Vec<u8>)>);

impl Tower {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut parts = Parts::new("root", "root");
        parts.extensions = vec![basic_constraints(true, None), key_usage(4)];
        let certificate = parts.sign(&key, &key);
        Self(vec![("root".to_owned(), key, certificate)])
    }

    /// The same root with one more authority at the end.
    fn add(&mut self, change: impl FnOnce(&mut Parts)) -> &mut Self {
        let (issuer, issuer_key, _) = self.0.last().unwrap();
        let subject = format!("authority {}", self.0.len());
        let mut parts = Parts::new(&subject, issuer);
        parts.extensions = vec![basic_constraints(true, None), key_usage(4)];
        change(&mut parts);
        let key = KeyPair::generate().unwrap();
        let certificate = parts.sign(&key, issuer_key);
        self.0.push((subject, key, certificate));
        self
    }

    /// A client of the last authority, with the certificates up to the root, and the authorities between forgotten.
    fn client(&mut self, change: impl FnOnce(&mut Parts)) -> Identity {
        let key = KeyPair::generate().unwrap();
        let (issuer, issuer_key, _) = self.0.last().unwrap();
        let mut parts = Parts::new("client", issuer);
        change(&mut parts);
        let mut chain = vec![parts.sign(&key, issuer_key)];
        chain.extend(self.0[1..].iter().rev().map(|(.., certificate)| certificate.clone()));
        self.0.truncate(1);
        identity(chain, &key)
    }
}

// the end of a connection

/// The status of the answer, or the alert.
fn ending(server: &Server, client: &Identity) -> String {
    let alert = |e: io::Error| match e.get_ref().and_then(|e| e.downcast_ref()) {
        Some(rustls::Error::AlertReceived(alert)) => format!("{alert:?}"),
        _ if is_end(&e) => "closed".to_owned(),
        _ => format!("{e:?}"),
    };
    let answer = server.client(client).try_connect().and_then(|mut connection| {
        // It may be refused before it has sent this.
        let _ = connection.try_send(&request("GET", "/v1/key/list/*", b""));
        connection.try_response(false)
    });
    answer.map_or_else(alert, |answer| answer.status.to_string())
}

/// Servers of both generations, each without checks and with them: only of those who `root` vouches for.
fn servers(root: &[u8]) -> Vec<(bool, Server)> {
    let start = |is_newest, is_checked| {
        Server::start(|config: &mut Config| {
            let authority = Authority::new("of the admin");
            config.root_identity = authority.issue("admin", &Profile::client());
            config.root = config.root_identity.id.clone();
            let trusted = authority.identity.certificate_pem() + &pem("CERTIFICATE", root);
            let file = config.file("authorities.pem", &trusted);
            config.environment.push(("SSL_CERT_FILE".to_owned(), file.display().to_string()));
            config.auth = if is_checked { "on" } else { "off" };
            if is_newest {
                let directory = file.parent().unwrap().display();
                config.text = format!(
                    "version: v1\naddress: @ADDRESS@\nadmin: {{identity: {}}}\n\
                     tls: {{key: {directory}/server.key, cert: {directory}/server.crt, auth: {}}}\n\
                     keystore: {{fs: {{path: {directory}/keys}}}}\n",
                    config.root, config.auth
                );
                config.auth = "";
            }
        })
    };
    let both =
        |is_checked| [false, true].map(|is_newest| (is_checked, start(is_newest, is_checked)));
    [false, true].into_iter().flat_map(both).collect()
}

/// Of a certificate: its name, how it ends without checks and with checks.
type Row = (&'static str, &'static str, &'static str, Identity);

#[test]
fn every_certificate_ends_as_the_table_says() {
    let mut tower = Tower::new();
    let root = tower.0[0].2.clone();
    let mut rows: Vec<Row> = Vec::new();
    let mut row = |name, off, on, identity| rows.push((name, off, on, identity));
    let t = &mut tower;

    const NO_POLICY: &str = "403";
    const EXPIRED: &str = "CertificateExpired";
    row("nothing wrong", NO_POLICY, NO_POLICY, t.client(|_| {}));
    // time
    row("expired", NO_POLICY, EXPIRED, t.client(|p| p.validity[1] = (23, "210101000000Z")));
    row("not yet valid", NO_POLICY, EXPIRED, t.client(|p| p.validity[0] = (23, "470101000000Z")));
    row(
        "ends before it begins",
        NO_POLICY,
        "CertificateUnknown",
        t.client(|p| p.validity.reverse()),
    );
    row(
        "until the year 9999",
        NO_POLICY,
        NO_POLICY,
        t.client(|p| p.validity[1] = (24, "99991231235959Z")),
    );
    row(
        "a day that there is not",
        "closed",
        "BadCertificate",
        t.client(|p| p.validity[1] = (23, "480230000000Z")),
    );
    row(
        "a time without its zone",
        "closed",
        "BadCertificate",
        t.client(|p| p.validity[1] = (23, "480101000000")),
    );
    // usage
    let usage = |t: &mut Tower, list: &[u8]| t.client(|p| p.extensions[1] = usages(list));
    row("for servers only", NO_POLICY, "UnsupportedCertificate", usage(t, &[SERVER]));
    row("for servers and clients", NO_POLICY, NO_POLICY, usage(t, &[SERVER, CLIENT]));
    row("for no usage", NO_POLICY, "UnsupportedCertificate", usage(t, &[]));
    row("no word on usage", NO_POLICY, NO_POLICY, t.client(|p| drop(p.extensions.pop())));
    row("no extensions", NO_POLICY, NO_POLICY, t.client(|p| p.extensions.clear()));
    row(
        "an authority",
        NO_POLICY,
        "CertificateUnknown",
        t.client(|p| p.extensions[0] = basic_constraints(true, None)),
    );
    // extensions
    row(
        "an unknown extension",
        NO_POLICY,
        NO_POLICY,
        t.client(|p| p.extensions.push(unknown(false, 8))),
    );
    row(
        "an unknown critical extension",
        NO_POLICY,
        "CertificateUnknown",
        t.client(|p| p.extensions.push(unknown(true, 8))),
    );
    row(
        "an extension of 40 KB",
        NO_POLICY,
        NO_POLICY,
        t.client(|p| p.extensions.push(unknown(false, 40_000))),
    );
    row(
        "an extension of 70 KB",
        "closed",
        "closed",
        t.client(|p| p.extensions.push(unknown(false, 70_000))),
    );
    row(
        "1000 extensions",
        NO_POLICY,
        NO_POLICY,
        t.client(|p| {
            p.extensions.extend((0..1000_u16).map(|n| {
                extension(&[42, 3, 0x81 + (n >> 7) as u8, (n & 127) as u8], false, &[5, 0])
            }))
        }),
    );
    row(
        "usages twice",
        NO_POLICY,
        "CertificateUnknown",
        t.client(|p| p.extensions.push(usages(&[SERVER]))),
    );
    row(
        "an unknown extension twice",
        NO_POLICY,
        NO_POLICY,
        t.client(|p| {
            p.extensions.push(unknown(false, 8));
            p.extensions.push(unknown(false, 8));
        }),
    );
    // numbers and names
    row("serial number 0", NO_POLICY, NO_POLICY, t.client(|p| p.serial = der(2, &[0])));
    row("a negative serial number", NO_POLICY, NO_POLICY, t.client(|p| p.serial = der(2, &[0x80])));
    row(
        "a serial number of 20 bytes",
        NO_POLICY,
        NO_POLICY,
        t.client(|p| p.serial = der(2, &[0x7f; 20])),
    );
    row(
        "a serial number of 200 bytes",
        NO_POLICY,
        NO_POLICY,
        t.client(|p| p.serial = der(2, &[0x7f; 200])),
    );
    row(
        "a serial number without bytes",
        NO_POLICY,
        NO_POLICY,
        t.client(|p| p.serial = der(2, &[])),
    );
    row(
        "a serial number with too long a length",
        "BadCertificate",
        "BadCertificate",
        t.client(|p| p.serial = vec![2, 0x81, 1, 7]),
    );
    row(
        "a serial number that begins with 0",
        NO_POLICY,
        NO_POLICY,
        t.client(|p| p.serial = der(2, &[0, 7])),
    );
    row("no subject", NO_POLICY, NO_POLICY, t.client(|p| p.subject = sequence(&[])));
    row(
        "a subject of 20 KB",
        NO_POLICY,
        NO_POLICY,
        t.client(|p| p.subject = name(&"x".repeat(20_000))),
    );
    row(
        "a subject that is no name",
        NO_POLICY,
        NO_POLICY,
        t.client(|p| p.subject = der(0x30, &[2, 1, 7])),
    );
    // versions and signatures
    row(
        "version 1",
        NO_POLICY,
        NO_POLICY,
        t.client(|p| {
            p.version.clear();
            p.extensions.clear();
        }),
    );
    row(
        "version 1 with extensions",
        NO_POLICY,
        "CertificateUnknown",
        t.client(|p| p.version.clear()),
    );
    row(
        "version 2",
        NO_POLICY,
        "CertificateUnknown",
        t.client(|p| p.version = der(0xa0, &[2, 1, 1])),
    );
    row(
        "version 9",
        NO_POLICY,
        "CertificateUnknown",
        t.client(|p| p.version = der(0xa0, &[2, 1, 8])),
    );
    row(
        "signed with SHA-1",
        NO_POLICY,
        "CertificateUnknown",
        t.client(|p| (p.algorithm, p.outer) = (ECDSA_SHA1, ECDSA_SHA1)),
    );
    row(
        "signed with MD5",
        NO_POLICY,
        "CertificateUnknown",
        t.client(|p| (p.algorithm, p.outer) = (RSA_MD5, RSA_MD5)),
    );
    row(
        "two words on the signature",
        NO_POLICY,
        "CertificateUnknown",
        t.client(|p| p.outer = ECDSA_SHA1),
    );
    // chains
    row("six authorities between", NO_POLICY, NO_POLICY, {
        for _ in 0..5 {
            t.add(|_| {});
        }
        t.client(|_| {})
    });
    row("ten authorities between", NO_POLICY, "CertificateUnknown", {
        for _ in 0..10 {
            t.add(|_| {});
        }
        t.client(|_| {})
    });
    row(
        "an authority between that has expired",
        NO_POLICY,
        EXPIRED,
        t.add(|p| p.validity[1] = (23, "210101000000Z")).client(|_| {}),
    );
    row(
        "an authority between that is none",
        "400",
        "UnknownCA",
        t.add(|p| p.extensions[0] = basic_constraints(false, None)).client(|_| {}),
    );
    row(
        "an authority between that may not sign",
        NO_POLICY,
        "UnknownCA",
        t.add(|p| p.extensions[1] = key_usage(0x80)).client(|_| {}),
    );
    row(
        "an authority between for servers",
        NO_POLICY,
        "UnsupportedCertificate",
        t.add(|p| p.extensions.push(usages(&[SERVER]))).client(|_| {}),
    );
    row(
        "one authority too many for the first",
        NO_POLICY,
        "CertificateUnknown",
        t.add(|p| p.extensions[0] = basic_constraints(true, Some(0))).add(|_| {}).client(|_| {}),
    );
    let constrained = |p: &mut Parts| {
        let permitted = der(0xa0, &sequence(&[&der(0x82, b"example.com")]));
        p.extensions.push(extension(&[85, 29, 30], true, &sequence(&[&permitted])));
    };
    row(
        "a name that its authority may vouch for",
        NO_POLICY,
        NO_POLICY,
        t.add(constrained).client(|p| p.extensions.push(dns_name("a.example.com"))),
    );
    row(
        "a name that its authority may not vouch for",
        NO_POLICY,
        "CertificateUnknown",
        t.add(constrained).client(|p| p.extensions.push(dns_name("example.org"))),
    );
    let mut crowd = t.client(|_| {});
    let others: Vec<_> = (0..99).map(|_| CertificateDer::from(root.clone())).collect();
    crowd.chain.extend(others);
    row("100 certificates, all but one of authorities", NO_POLICY, NO_POLICY, crowd);
    let mut crowd = t.client(|_| {});
    for _ in 0..99 {
        let other = t.client(|_| {});
        crowd.chain.extend(other.chain);
    }
    row("100 certificates of clients", "400", "400", crowd);
    // bytes
    let changed = |t: &mut Tower, change: &dyn Fn(&mut Vec<u8>)| {
        let mut identity = t.client(|_| {});
        let mut bytes = identity.chain[0].to_vec();
        change(&mut bytes);
        identity.chain[0] = bytes.into();
        identity
    };
    row(
        "a changed signature",
        NO_POLICY,
        "UnknownCA",
        changed(t, &|b| *b.last_mut().unwrap() ^= 1),
    );
    row("a byte behind it", "BadCertificate", "BadCertificate", changed(t, &|b| b.push(0)));
    row("cut off", "BadCertificate", "BadCertificate", changed(t, &|b| b.truncate(b.len() - 1)));
    row(
        "without an end",
        "BadCertificate",
        "BadCertificate",
        changed(t, &|b| {
            b[1] = 0x80;
            b.drain(2..4);
            b.extend([0, 0]);
        }),
    );
    row("nothing", "BadCertificate", "BadCertificate", changed(t, &|b| b.clear()));
    row("zeros", "BadCertificate", "BadCertificate", changed(t, &|b| b.fill(0)));
    let key = KeyPair::generate().unwrap();
    let own = Parts::new("own", "own").sign(&key, &key);
    row("self-signed", NO_POLICY, "UnknownCA", identity(vec![own], &key));
    let stolen = t.client(|_| {});
    row(
        "somebody else's",
        "DecryptError",
        "DecryptError",
        identity(vec![stolen.chain[0].to_vec()], &KeyPair::generate().unwrap()),
    );

    let servers = servers(&root);
    let mut wrong = Vec::new();
    for (name, off, on, identity) in &rows {
        for (is_checked, server) in &servers {
            let found = ending(server, identity);
            let expected = if *is_checked { on } else { off };
            if found != *expected {
                wrong
                    .push(format!("{name} (checked: {is_checked}): {found} instead of {expected}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for (_, server) in &servers {
        assert_eq!(200, server.root().get("/v1/key/list/*").status);
        assert!(!server.stderr().contains("panic"));
    }
}

/// In a certificate, an element that says that it has so many bytes.
#[test]
fn a_length_that_is_not_true_takes_no_memory() {
    const CLAIM: [u8; 5] = [0x84, 0x0b, 0, 0, 0]; // 176 MiB
    let server = Server::start(|config| config.auth = "off");
    let key = KeyPair::generate().unwrap();
    let mut parts = Parts::new("client", "client");
    parts.subject = sequence(&[&der(
        0x31,
        &sequence(&[&der(6, &[85, 4, 3]), &[&[12], &CLAIM[..]].concat()[..]]),
    )]);
    let leaf = parts.sign(&key, &key);
    let mut parts = Parts::new("other", "other");
    parts.extensions = vec![sequence(&[&der(6, &[85, 29, 19]), &[&[4], &CLAIM[..]].concat()[..]])];
    let other = parts.sign(&key, &key);
    let whole = Parts::new("client", "client").sign(&key, &key);
    for (expected, chain) in [("403", vec![leaf]), ("400", vec![whole, other])] {
        assert_eq!(expected, ending(&server, &identity(chain, &key)));
    }
    let peak = server.peak_memory();
    assert!(peak < 100 << 10, "{peak} KiB");
}
