//! The key exchange groups that are spoken here, and the names that they have.

use std::sync::Arc;

use rustls::crypto::{
    CryptoProvider, SupportedKxGroup,
    ring::{default_provider, kx_group},
};

use super::hybrid::X25519MlKem768;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    X25519MlKem768,
    X25519,
    P256,
    P384,
}

impl Group {
    /// All groups, the best first.
    pub const ALL: [Self; 4] = [Self::X25519MlKem768, Self::X25519, Self::P256, Self::P384];

    /// Its names: ours, then those that Go and OpenSSL have beside it.
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::X25519MlKem768 => &["X25519MLKEM768"],
            Self::X25519 => &["X25519"],
            Self::P256 => &["P-256", "P256", "CurveP256", "secp256r1", "prime256v1"],
            Self::P384 => &["P-384", "P384", "CurveP384", "secp384r1"],
        }
    }

    /// The group that is called `name`, in upper or lower case.
    pub fn parse(name: &str) -> Option<Self> {
        let has_name = |group: &Self| {
            let mut names = group.names().iter();
            names.any(|own| own.eq_ignore_ascii_case(name))
        };
        Self::ALL.into_iter().find(has_name)
    }

    fn exchange(self) -> &'static dyn SupportedKxGroup {
        match self {
            Self::X25519MlKem768 => &X25519MlKem768,
            Self::X25519 => kx_group::X25519,
            Self::P256 => kx_group::SECP256R1,
            Self::P384 => kx_group::SECP384R1,
        }
    }

    pub fn of(exchange: &dyn SupportedKxGroup) -> Option<Self> {
        Self::ALL.into_iter().find(|group| group.exchange().name() == exchange.name())
    }
}

/// The cryptography behind all TLS in this program, with all groups.
pub fn provider() -> Arc<CryptoProvider> {
    provider_with(&Group::ALL)
}

pub fn provider_with(groups: &[Group]) -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        kx_groups: groups.iter().map(|group| group.exchange()).collect(),
        ..default_provider()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_means_one_group_in_any_case() {
        for group in Group::ALL {
            for name in group.names() {
                assert_eq!(Some(group), Group::parse(name));
                assert_eq!(Some(group), Group::parse(&name.to_lowercase()));
            }
        }
        for name in ["", "P-521", "MLKEM768", "SecP256r1MLKEM768", "X25519 "] {
            assert_eq!(None, Group::parse(name), "{name:?}");
        }
    }
}
