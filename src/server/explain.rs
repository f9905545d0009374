//! The error log says why a request was prohibited by policy, and what would allow it.

use super::{Server, failure::Failure};
use crate::{log::Cause, policy::Policies};

impl Server {
    /// The failure of a request that `policies` do not allow.
    pub(super) fn prohibit(&self, policies: &Policies, identity: &str, path: &str) -> Failure {
        self.explain(identity, path, || policies.why(identity, path).to_string())
    }

    /// The failure of a request over a connection whose certificate is not accepted any more.
    pub(super) fn distrust(&self, identity: &str, path: &str) -> Failure {
        self.explain(identity, path, || {
            "refused: the certificate has expired or is no longer trusted".to_owned()
        })
    }

    fn explain(&self, identity: &str, path: &str, why: impl FnOnce() -> String) -> Failure {
        self.log.error_from_outside(Cause::Refusal, || {
            format!("identity {identity:?} called {path:?}: {}", why())
        });
        Failure::Prohibited
    }
}
