//! Who a request is from: the other end of the connection, or whom a TLS proxy there speaks for
//! (`auth.md` 7).
//!
//! A proxy forwards the certificate of its client in a header. What others send in it is ignored.

use rustls_pki_types::{CertificateDer, UnixTime, pem::PemObject as _};

use super::{State, failure::Failure, peer::Peer};
use crate::{
    http::head::{self, Head},
    tls::words,
};

/// The longest forwarded certificate, in bytes as it stands in the header.
const MAX_CERTIFICATE: usize = 16 * 1024;

/// The certificate that a proxy forwarded last on a connection. A proxy hardly ever changes between
/// clients on one connection, so that most requests find theirs here.
#[derive(Clone)]
pub(super) struct Forwarded {
    header: Vec<u8>,
    chain: [CertificateDer<'static>; 1],
    peer: Peer,
}

/// Who a request is from.
pub(super) struct Client<'a> {
    /// The client; the proxy if its client can't be told.
    pub(super) peer: &'a Peer,
    refusal: Option<Failure>,
}

impl State {
    /// The header in which `peer` forwards certificates, if it is a proxy.
    pub(super) fn forwards_in(&self, peer: &Peer) -> Option<&str> {
        let header = self.proxy_header.as_deref()?;
        self.is_proxy(peer).then_some(header)
    }

    /// Whether a request over the connection to `peer`, with the certificate that was forwarded for
    /// it if one was, would still be from the same client at `now`.
    pub(super) fn still_speaks_for(
        &self,
        peer: &Peer,
        forwarded: &mut Option<Box<Forwarded>>,
        now: UnixTime,
    ) -> bool {
        match forwarded {
            Some(last) => self.is_proxy(peer) && last.peer.is_still_trusted(self, &last.chain, now),
            None => !self.is_proxy(peer),
        }
    }

    fn is_proxy(&self, peer: &Peer) -> bool {
        self.policies.has_proxies() && self.policies.is_proxy(peer.identity())
    }
}

impl<'a> Client<'a> {
    /// Who sent `head` over the connection to `peer`; `last` is what was forwarded there before.
    /// `complain` hears why a certificate is not trusted.
    pub(super) fn new(
        state: &State,
        peer: &'a Peer,
        head: &Head,
        last: &'a mut Option<Box<Forwarded>>,
        complain: impl FnOnce(&str),
    ) -> Self {
        let refused = |failure| Self { peer, refusal: Some(failure) };
        if state.policies.has_proxies() && peer.several_identities().is_some() {
            return refused(Failure::TooManyClientCertificates);
        }
        if !state.is_proxy(peer) {
            *last = None;
            return Self { peer, refusal: None };
        }
        let header = match head.kept.as_slice() {
            [] => return refused(Failure::NoClientCertificate),
            [header] => header,
            _ => return refused(Failure::TooManyClientCertificates),
        };
        let now = UnixTime::now();
        let known =
            last.take().and_then(|mut last| last.serves(header, state, now).then_some(last));
        let forwarded = match known {
            Some(forwarded) => forwarded,
            None => match Forwarded::read(header, state, now, complain) {
                Ok(forwarded) => Box::new(forwarded),
                Err(failure) => return refused(failure),
            },
        };
        Self { peer: &last.insert(forwarded).peer, refusal: None }
    }

    /// Whether the client can be told and may be served at all.
    pub(super) fn check(&self) -> Result<(), Failure> {
        self.refusal.clone().map_or(Ok(()), Err)
    }
}

impl Forwarded {
    fn read(
        header: &[u8],
        state: &State,
        now: UnixTime,
        complain: impl FnOnce(&str),
    ) -> Result<Self, Failure> {
        let chain = [certificate(header).ok_or(Failure::InvalidClientCertificate)?];
        let peer = Peer::new(&chain, state.trust_generation)
            .map_err(|_| Failure::InvalidClientCertificate)?;
        if state.trust.is_checked()
            && let Err(e) = state.trust.verify(&chain, now)
        {
            complain(&words::of_client(&e));
            return Err(Failure::UntrustedClientCertificate);
        }
        Ok(Self { header: header.to_vec(), chain, peer })
    }

    /// Whether this is what `header` says, and trusted at `now`.
    fn serves(&mut self, header: &[u8], state: &State, now: UnixTime) -> bool {
        self.header == header && self.peer.is_still_trusted(state, &self.chain, now)
    }
}

/// The one certificate in `header`: PEM text, escaped as in a query.
fn certificate(header: &[u8]) -> Option<CertificateDer<'static>> {
    if header.len() > MAX_CERTIFICATE {
        return None;
    }
    let text = String::from_utf8(head::unescape(header)?).ok()?;
    let mut blocks = text.match_indices("-----BEGIN ");
    let (start, _) = blocks.next()?;
    // Who has two certificates is not for us to guess, and blocks of other kinds are no certificates.
    if blocks.next().is_some() || !text[start..].starts_with("-----BEGIN CERTIFICATE-----") {
        return None;
    }
    CertificateDer::from_pem_slice(text.as_bytes()).ok()
}
