//! Who is at the other end of a connection.

use std::sync::Arc;

use rustls::Error as TlsError;
use rustls_pki_types::{CertificateDer, UnixTime};

use super::State;
use crate::{identity, words};

/// Who is at the other end, found once per handshake.
#[derive(Clone)]
pub(super) struct Peer {
    identity: Arc<str>,
    several: bool,
    not_after: UnixTime,
    /// The generation of trust under which the certificate was accepted.
    trust: u64,
}

impl Peer {
    /// Who showed `chain`, which was accepted under this generation of trust.
    ///
    /// # Errors
    /// Why the certificate can't be read.
    pub(super) fn new(chain: &[CertificateDer<'_>], trust: u64) -> Result<Self, String> {
        let Some((leaf, others)) = chain.split_first() else {
            return Err(words::of_client(&TlsError::NoCertificatesPresented));
        };
        // Only the first certificate's key is proven by the handshake, so only it can identify.
        let wrong = |e: identity::Error| format!("tls: invalid client certificate: {e}");
        let several = others
            .iter()
            .any(|other| other != leaf && !identity::completes(other, chain));
        Ok(Self {
            identity: match several {
                true => "".into(),
                false => identity::of_certificate(leaf).map_err(wrong)?.into(),
            },
            several,
            not_after: identity::not_after(leaf).map_err(wrong)?,
            trust,
        })
    }

    /// The identity; empty if there are several.
    pub(super) fn identity(&self) -> &Arc<str> {
        &self.identity
    }

    /// Whether the client showed more than one certificate that is not an authority's.
    pub(super) fn has_several_identities(&self) -> bool {
        self.several
    }

    /// Whether `chain`, which this connection was opened with, would be accepted at `now`.
    pub(super) fn is_still_trusted(
        &mut self,
        state: &State,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> bool {
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
