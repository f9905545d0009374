//! Both ends of TLS, with each other.

use std::{path::PathBuf, sync::Arc};

use rustls::{
    AlertDescription, ClientConnection, Error as TlsError, HandshakeKind, ProtocolVersion,
    ServerConnection, sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::*;
use crate::{base::generation::Generation, identity};

/// Files that are gone with the test.
pub(super) struct Files(pub(super) PathBuf);

impl Files {
    pub(super) fn new() -> Self {
        let random = getrandom::u64().unwrap();
        let directory = std::env::temp_dir().join(format!("kes-tls-{random:016x}"));
        std::fs::create_dir(&directory).unwrap();
        Self(directory)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A self-signed certificate of a client, or of the server `localhost`, and its PEM text.
fn certificate(is_server: bool, seconds: u64) -> (Arc<CertifiedKey>, String) {
    let addresses = if is_server { vec![self_signed::dns("localhost").unwrap()] } else { vec![] };
    let validity = std::time::Duration::from_secs(seconds);
    let usage = if is_server { self_signed::Usage::Server } else { self_signed::Usage::Client };
    let holder = self_signed::Holder { name: "test", usage, addresses, validity };
    let (key, cert) = self_signed::generate(holder, self_signed::KeyKind::Ed25519).unwrap();
    let files = Files::new();
    let paths = (files.write("cert", &cert), files.write("key", &key));
    (load_client_certificate(&paths.0, &paths.1, None).unwrap(), cert)
}

fn server(certificate: &Arc<CertifiedKey>, trust: ClientTrust, tls: ServerTls) -> ServerConnection {
    let config = server_config(certificate.clone(), Arc::new(trust), &Group::ALL, tls).unwrap();
    ServerConnection::new(config).unwrap()
}

fn client(tls: &ClientTls, host: &'static str) -> ClientConnection {
    let host = ServerName::try_from(host).unwrap();
    ClientConnection::new(tls.config.clone(), host).unwrap()
}

/// Passes on what both ends say until neither has anything to say; the errors of client and server.
fn shake(
    client: &mut ClientConnection,
    server: &mut ServerConnection,
) -> [Result<(), TlsError>; 2] {
    let mut ends = [Ok(()), Ok(())];
    let mut wire = Vec::new();
    while client.wants_write() || server.wants_write() {
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut rest = &wire[..];
        while !rest.is_empty() && ends[1].is_ok() {
            server.read_tls(&mut rest).unwrap();
            ends[1] = server.process_new_packets().map(|_| ());
        }
        wire.clear();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut rest = &wire[..];
        while !rest.is_empty() && ends[0].is_ok() {
            client.read_tls(&mut rest).unwrap();
            ends[0] = client.process_new_packets().map(|_| ());
        }
        wire.clear();
    }
    ends
}

/// A client of any server that speaks nothing newer than `version`.
fn client_of_version(
    version: &'static rustls::SupportedProtocolVersion,
    certificate: Option<&Arc<CertifiedKey>>,
) -> ClientConnection {
    let newest = client_config(&ServerTrust::Anything, None).unwrap();
    let verifier = newest.verifier();
    let config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let config = match certificate {
        Some(certificate) => config.with_client_cert_resolver(Arc::new(
            rustls::sign::SingleCertAndKey::from(certificate.clone()),
        )),
        None => config.with_no_client_auth(),
    };
    ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap()
}

const NEWEST: ServerTls =
    ServerTls { versions: Generation::Newest, client_certificate: ClientCertificate::Required };

#[test]
fn the_newest_generation_speaks_two_versions_of_tls_and_0_14_one() {
    let (certified, _) = certificate(true, 60);
    let (own, _) = certificate(false, 60);
    for (tls, version, wanted) in [
        (NEWEST, &rustls::version::TLS13, Some(ProtocolVersion::TLSv1_3)),
        (NEWEST, &rustls::version::TLS12, Some(ProtocolVersion::TLSv1_2)),
        (ServerTls::default(), &rustls::version::TLS13, Some(ProtocolVersion::TLSv1_3)),
        (ServerTls::default(), &rustls::version::TLS12, None),
    ] {
        let mut server = server(&certified, ClientTrust::any(), tls);
        let mut client = client_of_version(version, Some(&own));
        let ends = shake(&mut client, &mut server);
        assert_eq!(wanted.is_some(), ends == [Ok(()), Ok(())], "{tls:?}: {ends:?}");
        if wanted.is_some() {
            assert_eq!(wanted, server.protocol_version());
            assert_eq!(own.cert, server.peer_certificates().unwrap());
        }
    }
}

#[test]
fn a_client_certificate_is_required_unless_it_is_optional() {
    let (certified, _) = certificate(true, 60);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut required = server(&certified, ClientTrust::any(), NEWEST);
        let [_, refused] = shake(&mut client_of_version(version, None), &mut required);
        assert_eq!(Err(TlsError::NoCertificatesPresented), refused);

        let tls = ServerTls { client_certificate: ClientCertificate::Optional, ..NEWEST };
        let mut optional = server(&certified, ClientTrust::any(), tls);
        let ends = shake(&mut client_of_version(version, None), &mut optional);
        assert_eq!([Ok(()), Ok(())], ends);
        assert_eq!(None, optional.peer_certificates());
    }
}

#[test]
fn an_optional_certificate_is_checked_all_the_same() {
    let (certified, _) = certificate(true, 60);
    let [(trusted, text), (stranger, _)] = [(); 2].map(|()| certificate(false, 60));
    let files = Files::new();
    let path = files.write("ca.pem", &text);
    let tls = ServerTls { client_certificate: ClientCertificate::Optional, ..NEWEST };
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for (own, is_accepted) in [(&trusted, true), (&stranger, false)] {
            let mut server = server(&certified, ClientTrust::with(&path).unwrap(), tls);
            let [_, end] = shake(&mut client_of_version(version, Some(own)), &mut server);
            assert_eq!(is_accepted, end.is_ok(), "{end:?}");
        }
    }
}

#[test]
fn a_stolen_certificate_without_its_key_is_refused() {
    let (certified, _) = certificate(true, 60);
    let [(own, _), (stolen, _)] = [(); 2].map(|()| certificate(false, 60));
    let thief = Arc::new(CertifiedKey::new(stolen.cert.clone(), own.key.clone()));
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut server = server(&certified, ClientTrust::any(), NEWEST);
        let [_, end] = shake(&mut client_of_version(version, Some(&thief)), &mut server);
        let wrong = rustls::CertificateError::BadSignature;
        assert_eq!(Err(TlsError::InvalidCertificate(wrong)), end);
    }
}

#[test]
fn more_authorities_are_added_to_those_of_the_system() {
    let chains = [(); 3].map(|()| certificate(false, 60));
    let chain = |index: usize| -> &[CertificateDer<'_>] { &chains[index].0.cert };
    let files = Files::new();
    files.write("a.pem", &chains[0].1);
    files.write("b.pem", &chains[1].1);
    let trust = ClientTrust::with(&files.0).unwrap();
    assert!(trust.is_checked());
    assert_eq!(Ok(()), trust.verify(chain(0), UnixTime::now()));
    assert_eq!(Ok(()), trust.verify(chain(1), UnixTime::now()));
    assert!(trust.verify(chain(2), UnixTime::now()).is_err());
    let no_pem = files.write("c.pem", "no PEM");
    let error = ClientTrust::with(&no_pem).unwrap_err().to_string();
    assert!(error.contains("c.pem") && error.contains("no PEM block"), "{error}");
    assert!(ClientTrust::with(&files.0).is_err());
}

#[test]
fn a_server_of_the_identity_that_is_set_is_accepted_wherever_it_is() {
    // Not for this host, and it was valid for one second.
    let (certified, _) = certificate(true, 1);
    let set = ServerTrust::Identity(server_identity(&certified));
    let (own, _) = certificate(false, 60);
    let tls = client_config(&set, Some(own)).unwrap();
    let mut client = client(&tls, "elsewhere.example.com");
    let mut server = server(&certified, ClientTrust::any(), NEWEST);
    assert_eq!([Ok(()), Ok(())], shake(&mut client, &mut server));
    assert_eq!(Some(HandshakeKind::Full), client.handshake_kind());
    assert_eq!(Some(server_identity(&certified)), tls.server());
}

#[test]
fn a_server_of_another_identity_is_refused_and_its_own_is_told() {
    let [(certified, _), (other, _)] = [(); 2].map(|()| certificate(true, 60));
    let [found, wanted] = [&certified, &other].map(|certified| server_identity(certified));
    assert!(identity::is_identity(&found) && found != wanted);
    let tls = client_config(&ServerTrust::Identity(wanted.clone()), None).unwrap();
    let mut server = server(&certified, ClientTrust::any(), NEWEST);
    let [error, told] = shake(&mut client(&tls, "localhost"), &mut server);
    let error = error.unwrap_err();
    let refusal = verify::Refusal::Identity { wanted, found: found.clone() };
    assert_eq!(Some(&refusal), verify::refusal_in(&error));
    let alert = TlsError::AlertReceived(AlertDescription::CertificateUnknown);
    assert!(matches!(told, Err(e) if e == alert), "the server learns that it was refused");
    assert_eq!(Some(found), tls.server());
}

#[test]
fn a_server_that_shows_the_certificate_of_another_needs_its_key() {
    let [(thief, _), (stolen, _)] = [(); 2].map(|()| certificate(true, 60));
    let tls = client_config(&ServerTrust::Identity(server_identity(&stolen)), None).unwrap();
    let certified = Arc::new(CertifiedKey::new(stolen.cert.clone(), thief.key.clone()));
    for generation in [Generation::V0_14, Generation::Newest] {
        let demands = ServerTls { versions: generation, ..ServerTls::default() };
        let mut server = server(&certified, ClientTrust::any(), demands);
        let [error, _] = shake(&mut client(&tls, "localhost"), &mut server);
        let wrong = rustls::CertificateError::BadSignature;
        assert_eq!(Err(TlsError::InvalidCertificate(wrong)), error);
    }
}

#[test]
fn a_server_is_accepted_with_the_file_of_its_certificate_and_for_its_host_only() {
    let [(certified, text), (stranger, _)] = [(); 2].map(|()| certificate(true, 60));
    let files = Files::new();
    let tls = client_config(&ServerTrust::Files(files.write("ca.pem", &text)), None).unwrap();
    assert_eq!(None, tls.no_trust());
    for (certified, host, is_accepted) in [
        (&certified, "localhost", true),
        (&certified, "elsewhere.example.com", false),
        (&stranger, "localhost", false),
    ] {
        let tls = tls.clone();
        let mut server = server(
            certified,
            ClientTrust::any(),
            ServerTls { client_certificate: ClientCertificate::Optional, ..NEWEST },
        );
        let [end, _] = shake(&mut client(&tls, host), &mut server);
        assert_eq!(is_accepted, end.is_ok(), "{host}: {end:?}");
        if !is_accepted {
            assert_eq!(Some(server_identity(certified)), tls.server());
        }
    }
    assert!(client_config(&ServerTrust::Files(files.0.join("none")), None).is_err());
}

#[test]
fn an_api_key_is_a_client_certificate() {
    let (certified, _) = certificate(true, 60);
    let key = ApiKey::generate().unwrap();
    for versions in [Generation::V0_14, Generation::Newest] {
        let tls = ServerTls { versions, ..NEWEST };
        let mut server = server(&certified, ClientTrust::any(), tls);
        let trust = ServerTrust::Identity(server_identity(&certified));
        let tls = client_config(&trust, Some(key.certificate().unwrap())).unwrap();
        assert_eq!([Ok(()), Ok(())], shake(&mut client(&tls, "localhost"), &mut server));
        let leaf = &server.peer_certificates().unwrap()[0];
        assert_eq!(key.identity(), identity::of_certificate(leaf).unwrap());
    }
}
