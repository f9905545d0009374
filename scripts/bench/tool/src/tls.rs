//! TLS settings of both ends, and throw-away certificates.

use std::path::Path;
use std::sync::Arc;

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, PKCS_ED25519, PublicKeyData};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, Tls12Resumption};
use rustls::crypto::{CryptoProvider, ring as provider, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::Result;
use crate::args::Args;

/// Writes `server.{key,crt}` and `client.{key,crt}` into `--dir`; prints the client's identity,
/// which is the SHA-256 of its public key (SPKI) in hex.
pub(crate) fn certs(args: &Args) -> Result<()> {
    let dir = Path::new(args.text("dir")?);
    for (name, usage) in
        [("server", ExtendedKeyUsagePurpose::ServerAuth), ("client", ExtendedKeyUsagePurpose::ClientAuth)]
    {
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![usage];
        std::fs::write(dir.join(format!("{name}.key")), key.serialize_pem())?;
        std::fs::write(dir.join(format!("{name}.crt")), params.self_signed(&key)?.pem())?;
        if name == "client" {
            let digest = ring::digest::digest(&ring::digest::SHA256, &key.subject_public_key_info());
            println!("{}", digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        }
    }
    Ok(())
}

/// The floor's side: TLS 1.3 only, a client certificate required, one stateless ticket.
pub(crate) fn server(cert: &str, key: &str) -> Result<Arc<ServerConfig>> {
    let (certs, key) = read(cert, key)?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(Anyone(provider::default_provider())))
        .with_single_cert(certs, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.ticketer = provider::Ticketer::new()?;
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

/// Makes client settings; each call with `resume` starts with an empty store of tickets.
#[derive(Debug)]
pub(crate) struct Client {
    base: ClientConfig,
}

impl Client {
    /// Reads `--client-cert` and `--client-key`.
    pub(crate) fn new(args: &Args) -> Result<Client> {
        let (certs, key) = read(args.text("client-cert")?, args.text("client-key")?)?;
        let mut base = ClientConfig::builder_with_provider(Arc::new(provider::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone(provider::default_provider())))
            .with_client_auth_cert(certs, key)?;
        base.alpn_protocols = vec![b"http/1.1".to_vec()];
        base.resumption = Resumption::disabled();
        Ok(Client { base })
    }

    /// Settings for one connection slot.
    pub(crate) fn config(&self, resume: bool) -> Arc<ClientConfig> {
        let mut config = self.base.clone();
        if resume {
            config.resumption =
                Resumption::in_memory_sessions(16).tls12_resumption(Tls12Resumption::Disabled);
        }
        Arc::new(config)
    }

    /// Settings for connections that speak HTTP/2 and nothing else.
    pub(crate) fn http2(&self) -> Arc<ClientConfig> {
        let mut config = self.base.clone();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(config)
    }
}

fn read(cert: &str, key: &str) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let certs = CertificateDer::pem_file_iter(cert).map_err(|error| format!("{cert}: {error}"))?;
    let certs = certs.collect::<std::result::Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| format!("{key}: {error}"))?;
    Ok((certs, key))
}

/// Takes any certificate. As a server it verifies the signature of the handshake, which is work
/// that the product does too; as a client it does not, since only the server is measured.
#[derive(Debug)]
struct Anyone(CryptoProvider);

impl ClientCertVerifier for Anyone {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> std::result::Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, Error> {
        Err(CertificateError::BadSignature.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> std::result::Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, Error> {
        Err(CertificateError::BadSignature.into())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
