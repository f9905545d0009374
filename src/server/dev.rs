//! `kes server --dev`: a server to try things out with. Its keys are in memory, and the certificate and
//! the API key of its admin are made anew at each start.

use std::{
    fmt,
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use rustls::sign::CertifiedKey;

use crate::{
    base::generation::Generation,
    cache::Expiry,
    config::{self, Auth, Config, Flags, Loaded, Material, Origin},
    tls::{
        self, ApiKey, ClientTrust,
        self_signed::{self, Holder, KeyKind, Usage},
    },
};

use super::{
    banner::{UP, local_addresses},
    options::Error,
};

/// What is listened on without `--addr`: other machines can't connect.
const ADDRESS: &str = "127.0.0.1:7373";
/// In the place of the files of the certificate.
const MEMORY: &str = "(memory)";
/// How long the certificate is valid.
const VALIDITY: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// Settings and certificates for a server that listens on `addr` or, without it, on loopback, and the API
/// key of its admin.
pub fn settings(addr: Option<&str>) -> Result<(Config, Material, ApiKey), Error> {
    let admin = ApiKey::generate().map_err(|e| failed(&e))?;
    let flags = Flags {
        addr: Some(addr.unwrap_or(ADDRESS).to_owned()),
        root: Some(admin.identity()),
        auth: Some(Auth::Off),
        // They are not looked at.
        key: Some(MEMORY.to_owned()),
        cert: Some(MEMORY.to_owned()),
    };
    let config = config::load(Origin::Flags, &flags, &[]).and_then(Loaded::accept);
    let config = Config {
        generation: Generation::Newest,
        texts: Generation::Newest,
        cache: Expiry {
            any: Some(Duration::from_secs(300)),
            unused: Some(Duration::from_secs(30)),
            offline: None,
        },
        ..config.map_err(Error::Config)?
    };
    let material = material(&config)?;
    Ok((config, material, admin))
}

/// Tells what to do in another terminal.
pub fn tell(
    address: SocketAddr,
    certificate: &CertifiedKey,
    admin: &ApiKey,
    out: &mut impl Write,
) -> io::Result<()> {
    let ip = match address.ip() {
        ip if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        ip => ip,
    };
    writeln!(
        out,
        "This server is for trying things out: its keys are in memory, and gone when it ends.\n\
         In another terminal:\n\n\
         export KES_SERVER=https://{}\n\
         export KES_SERVER_IDENTITY={}\n\
         export KES_API_KEY={}\n\
         kes key create my-key\n\
         kes key dek my-key\n\n\
         {UP}",
        SocketAddr::new(ip, address.port()),
        tls::server_identity(certificate),
        *admin.text(),
    )?;
    out.flush()
}

/// A self-signed certificate for all addresses of this machine.
fn material(config: &Config) -> Result<Material, Error> {
    let mut addresses: Vec<_> = self_signed::dns("localhost").into_iter().collect();
    for ip in local_addresses().into_iter().chain([config.address.ip()]) {
        if let Some(ip) = self_signed::ip(&ip.to_string())
            && !addresses.contains(&ip)
        {
            addresses.push(ip);
        }
    }
    let holder =
        Holder { name: "kes server --dev", usage: Usage::Server, addresses, validity: VALIDITY };
    let certificate = self_signed::certified(holder, KeyKind::P256).map_err(|e| failed(&e))?;
    let trust = Arc::new(ClientTrust::any());
    let tls = tls::server_config(
        certificate.clone(),
        trust.clone(),
        &config.tls_groups,
        config.server_tls(),
    )?;
    Ok(Material { certificate, trust, tls })
}

fn failed(error: &dyn fmt::Display) -> Error {
    Error::System(io::Error::other(error.to_string()))
}
