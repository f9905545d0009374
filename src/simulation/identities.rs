//! The two clients of simulated servers: their certificates, and what they may do. The same in all runs.

use std::sync::{Arc, OnceLock};

use rustls_pki_types::CertificateDer;

use crate::{
    api::state::{self, State},
    policy::{Policies, Policy, Rule},
};

pub struct Prepared {
    pub chains: [Vec<CertificateDer<'static>>; 2],
    identities: [String; 2],
    /// The state of a server that lets both call its key API.
    pub state: State,
}

pub fn prepared() -> &'static Prepared {
    static PREPARED: OnceLock<Prepared> = OnceLock::new();
    PREPARED.get_or_init(|| {
        let chains = [(); 2].map(|()| {
            let key = rcgen::KeyPair::generate().unwrap();
            let params = rcgen::CertificateParams::new(vec![]).unwrap();
            vec![params.self_signed(&key).unwrap().der().clone()]
        });
        let identities =
            chains.each_ref().map(|chain| crate::identity::of_certificate(&chain[0]).unwrap());
        let policies = policies(&identities, [true, true]);
        Prepared { state: State { policies, ..state::for_tests().0 }, chains, identities }
    })
}

fn policies(identities: &[String; 2], may: [bool; 2]) -> Policies {
    let mut builder = Policies::builder("disabled", &[]);
    let keys = Policy { allow: vec![Rule::prefix("/v1/key/*")], deny: Vec::new() };
    let name: Arc<str> = "keys".into();
    builder.define(&name, Arc::new(keys));
    for (identity, _) in identities.iter().zip(may).filter(|(_, may)| *may) {
        builder.assign(&name, identity).unwrap();
    }
    builder.build()
}

impl Prepared {
    /// The policies that leave `client` without rights.
    pub fn without(&self, client: u32) -> Policies {
        policies(&self.identities, [client != 0, client != 1])
    }

    /// The client that has this identity; none of them is 2.
    pub fn client(&self, identity: &str) -> u32 {
        self.identities.iter().position(|own| own == identity).unwrap_or(2) as u32
    }
}

/// The client that has this connection.
pub fn client_of(connection: u32) -> u32 {
    connection % 2
}

/// Its certificates.
pub fn chain_of(connection: u32) -> &'static [CertificateDer<'static>] {
    &prepared().chains[client_of(connection) as usize]
}
