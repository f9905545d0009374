//! A client, as its certificate shows it.

use std::sync::Arc;

use rustls::Error as TlsError;
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::{api::state::State, identity, tls::words};

/// A client: the peer of a connection, or the client that a TLS proxy speaks for.
#[derive(Clone)]
pub struct Client {
    identity: Arc<str>,
    /// The certificates that identify different clients, in words.
    several: Option<Arc<str>>,
    not_after: UnixTime,
    /// The generation of trust under which the certificate was accepted.
    trust: u64,
}

impl Client {
    /// The client that showed `chain`, which was accepted under this generation of trust.
    ///
    /// # Errors
    /// Why the certificate can't be read.
    pub fn new(chain: &[CertificateDer<'_>], trust: u64) -> Result<Self, String> {
        let Some((leaf, others)) = chain.split_first() else {
            return Err(words::of_client(&TlsError::NoCertificatesPresented));
        };
        // Only the first certificate's key is proven by the handshake, so only it can identify.
        let wrong = |e: identity::Error| format!("tls: invalid client certificate: {e}");
        let mut numbered = (2..).zip(others);
        let is_other = |(_, other): &(i32, &CertificateDer<'_>)| {
            *other != leaf && !identity::completes(other, chain)
        };
        let several = numbered.find(is_other).map(|(number, other)| {
            let (first, other) = (describe(leaf), describe(other));
            format!("certificate 1 ({first}) and certificate {number} ({other})").into()
        });
        Ok(Self {
            identity: match several {
                Some(_) => "".into(),
                None => identity::of_certificate(leaf).map_err(wrong)?.into(),
            },
            several,
            not_after: identity::not_after(leaf).map_err(wrong)?,
            trust,
        })
    }

    /// A client that showed no certificate, under this generation of trust.
    pub fn without_certificate(trust: u64) -> Self {
        let not_after = UnixTime::since_unix_epoch(std::time::Duration::MAX);
        Self { identity: "".into(), several: None, not_after, trust }
    }

    /// Whether it showed a certificate.
    pub fn has_certificate(&self) -> bool {
        !self.identity.is_empty() || self.several.is_some()
    }

    /// The identity; empty if there are several, or no certificate.
    pub fn identity(&self) -> &Arc<str> {
        &self.identity
    }

    /// The certificates, in words, if the client showed more than one that is not an authority's.
    pub fn several_identities(&self) -> Option<&str> {
        self.several.as_deref()
    }

    /// Whether `chain`, with which the client was accepted, would be accepted at `now`.
    pub fn is_still_trusted(
        &mut self,
        state: &State,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> bool {
        if !self.has_certificate() {
            return state.takes_clients_without_certificate();
        }
        if !state.trust.is_checked() {
            return true;
        }
        if self.not_after.as_secs() < now.as_secs() {
            return false;
        }
        if self.trust != state.trust_generation {
            if state.trust.verify(chain, now).is_err() {
                return false;
            }
            self.trust = state.trust_generation;
        }
        true
    }
}

/// The subject of a certificate, for the error log.
fn describe(der: &[u8]) -> String {
    /// The longest part of a name that is logged, in characters.
    const MAX_SUBJECT: usize = 100;
    let subject = identity::subject(der).map_or_else(
        |_| "subject unreadable".to_owned(),
        |subject| format!("{:?}", subject.chars().take(MAX_SUBJECT).collect::<String>()),
    );
    match identity::of_certificate(der) {
        Ok(identity) => format!("{subject}, identity {identity}"),
        Err(_) => subject,
    }
}
