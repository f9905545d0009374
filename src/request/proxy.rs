//! The client that sent a request: the peer of the connection or, if that is a TLS proxy, the client whose
//! certificate the proxy forwards in a header. In the newest generation it forwards the client's address, for
//! the audit log. From other clients, the header is ignored.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use rustls_pki_types::{CertificateDer, UnixTime, pem::PemObject as _};

use super::client::Client;
use crate::{
    api::{failure::Failure, state::State},
    base::clock,
    http::{request::Head, target},
    tls::words,
};

/// The longest forwarded certificate, in bytes as it stands in the header.
const MAX_CERTIFICATE: usize = 16 * 1024;

/// The certificate that a proxy forwarded last on a connection, since most are forwarded again.
#[derive(Clone)]
pub struct Forwarded {
    header: Vec<u8>,
    chain: [CertificateDer<'static>; 1],
    client: Client,
}

/// The header in which `client` forwards something, if it is a proxy.
pub fn header_of(state: &State, client: &Client) -> Option<Arc<str>> {
    let forwards = || is_proxy(state, client) || forwards_addresses(state, client);
    state.proxy_header.as_ref().filter(|_| forwards()).cloned()
}

/// Whether a request over the connection to `client`, with the certificate that was forwarded for it if
/// there was one, would still be from the same client at `now`.
pub fn still_speaks_for(
    state: &State,
    client: &Client,
    forwarded: &mut Option<Box<Forwarded>>,
    now: UnixTime,
) -> bool {
    match forwarded {
        Some(last) => {
            is_proxy(state, client) && last.client.is_still_trusted(state, &last.chain, now)
        }
        None => !is_proxy(state, client),
    }
}

/// The client that sent `head` over the connection to `client`; `last` was forwarded there before.
/// `complain` gets the reason why a certificate is not trusted.
///
/// # Errors
/// Why the request can't be served. It then counts as a request by `client`.
pub fn sender<'a>(
    state: &State,
    client: &'a Client,
    head: &Head,
    last: &'a mut Option<Box<Forwarded>>,
    complain: impl FnOnce(&str),
) -> Result<&'a Client, Failure> {
    if state.policies.has_proxies() && client.several_identities().is_some() {
        return Err(Failure::TooManyClientCertificates);
    }
    if !is_proxy(state, client) {
        *last = None;
        return Ok(client);
    }
    let header = match head.kept.as_slice() {
        [] => return Err(Failure::NoClientCertificate),
        [header] => header,
        _ => return Err(Failure::TooManyClientCertificates),
    };
    let now = clock::unix();
    let known = last.take().and_then(|mut last| last.serves(header, state, now).then_some(last));
    let forwarded = match known {
        Some(forwarded) => forwarded,
        None => Box::new(Forwarded::read(header, state, now, complain)?),
    };
    Ok(&last.insert(forwarded).client)
}

/// The address of the client that sent `head` over the connection to `client` at `peer`. Of a list in the
/// header, only the last address is the proxy's own word; its client may have sent the others. `peer` if
/// there is none.
pub fn address(state: &State, client: &Client, head: &Head, peer: IpAddr) -> IpAddr {
    let forwarded = head.kept.last().filter(|_| forwards_addresses(state, client));
    forwarded.and_then(|list| last_address(list)).unwrap_or(peer)
}

/// The last address in a list, with or without a port.
fn last_address(list: &[u8]) -> Option<IpAddr> {
    let last = str::from_utf8(list).ok()?.rsplit(',').next()?.trim();
    let with_port = || last.parse().map(|address: SocketAddr| address.ip());
    last.trim_matches(['[', ']']).parse().or_else(|_| with_port()).ok()
}

fn forwards_addresses(state: &State, client: &Client) -> bool {
    state.address_proxies.contains(&**client.identity())
}

fn is_proxy(state: &State, client: &Client) -> bool {
    state.policies.has_proxies() && state.policies.is_proxy(client.identity())
}

impl Forwarded {
    fn read(
        header: &[u8],
        state: &State,
        now: UnixTime,
        complain: impl FnOnce(&str),
    ) -> Result<Self, Failure> {
        let chain = [certificate(header).ok_or(Failure::InvalidClientCertificate)?];
        let client = Client::new(&chain, state.trust_generation)
            .map_err(|_| Failure::InvalidClientCertificate)?;
        if state.trust.is_checked()
            && let Err(e) = state.trust.verify(&chain, now)
        {
            complain(&words::of_client(&e));
            return Err(Failure::UntrustedClientCertificate);
        }
        Ok(Self { header: header.to_vec(), chain, client })
    }

    /// Whether this is what `header` says, and trusted at `now`.
    fn serves(&mut self, header: &[u8], state: &State, now: UnixTime) -> bool {
        self.header == header && self.client.is_still_trusted(state, &self.chain, now)
    }
}

/// The one certificate in `header`: PEM text, escaped as in a query.
pub fn certificate(header: &[u8]) -> Option<CertificateDer<'static>> {
    if header.len() > MAX_CERTIFICATE {
        return None;
    }
    let text = String::from_utf8(target::unescape(header)?).ok()?;
    let mut blocks = text.match_indices("-----BEGIN ");
    let (start, _) = blocks.next()?;
    // With two certificates it is not clear which is meant, and other blocks are no certificates.
    if blocks.next().is_some() || !text[start..].starts_with("-----BEGIN CERTIFICATE-----") {
        return None;
    }
    CertificateDer::from_pem_slice(text.as_bytes()).ok()
}
