//! The error log says why a request was prohibited by policy, and what would allow it.

use super::{
    Server,
    advice::{Advice, quoted},
    failure::Failure,
};
use crate::{
    log::{Cause, MAX_LINE, cut},
    policy::{Policies, Verdict},
};

impl Server {
    /// The failure of a request that `policies` do not allow.
    pub(super) fn prohibit(&self, policies: &Policies, identity: &str, path: &str) -> Failure {
        self.explain(&caller(identity), path, || {
            let verdict = policies.why(identity, path);
            let advice = match (&verdict, Advice::for_call(path)) {
                (Verdict::Refused { .. }, Advice::Add(pattern)) => {
                    format!("; to allow it, add the path {}", quoted(&pattern))
                }
                (_, Advice::Mend(why)) => format!("; {why}"),
                _ => String::new(),
            };
            (verdict.to_string(), advice)
        });
        Failure::Prohibited
    }

    /// The failure of a request over a connection whose certificate is not accepted any more.
    pub(super) fn distrust(&self, identity: &str, path: &str) -> Failure {
        self.explain(&caller(identity), path, || {
            let why = "refused: the certificate has expired or is no longer trusted";
            (why.to_owned(), String::new())
        });
        Failure::Distrusted
    }

    /// Tells which certificates, in the words of `several`, left no single identity.
    pub(super) fn explain_several(&self, several: &str, path: &str) {
        self.explain("a client", path, || {
            let why = format!("refused: too many identities: {several} are both no authority's");
            let advice = "; a client sends its own certificate and those of its authorities only";
            (why, advice.to_owned())
        });
    }

    /// Logs that `caller` called `path`, and what `why` says of it: the reason, and advice.
    fn explain(&self, caller: &str, path: &str, why: impl FnOnce() -> (String, String)) {
        self.log.error_from_outside(Cause::Refusal, || {
            let (reason, advice) = why();
            // The path is not all of it, so that there is room for the reason; a part of the advice would
            // be none.
            let path = cut(format!("{path:?}"), MAX_LINE / 2);
            let line = format!("{caller} called {path}: {reason}");
            cut(line, MAX_LINE - advice.len()) + &advice
        });
    }
}

fn caller(identity: &str) -> String {
    format!("identity {identity:?}")
}
