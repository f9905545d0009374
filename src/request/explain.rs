//! Why a request was refused, in the error log, and what would allow it.

use super::advice::{Advice, quoted};
use crate::{
    api::{failure::Failure, spellings, state::State},
    log::{Cause, Log, MAX_LINE, cut},
    policy::Verdict,
};

/// The failure of a request that the policies do not allow.
pub fn prohibited(log: &Log, state: &State, identity: &str, path: &str) -> Failure {
    explain(log, &caller(identity), path, || {
        let denies = |other: &str| state.policies.denies(identity, other);
        let decisive = spellings::decisive(path, state.generation, denies);
        let verdict = state.policies.why(identity, &decisive);
        let advice = match (&verdict, Advice::for_call(path, state.generation)) {
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
pub fn distrusted(log: &Log, identity: &str, path: &str) -> Failure {
    explain(log, &caller(identity), path, || {
        let why = "refused: the certificate has expired or is no longer trusted";
        (why.to_owned(), String::new())
    });
    Failure::Distrusted
}

/// Logs which certificates, described in `several`, left no single identity.
pub fn several(log: &Log, several: &str, path: &str) {
    explain(log, "a client", path, || {
        let why = format!("refused: too many identities: {several} are both no authority's");
        let advice = "; a client sends its own certificate and those of its authorities only";
        (why, advice.to_owned())
    });
}

/// Logs that `caller` called `path`, and what `why` says of it: the reason, and advice.
fn explain(log: &Log, caller: &str, path: &str, why: impl FnOnce() -> (String, String)) {
    log.error_from_outside(Cause::Refusal, || {
        let (reason, advice) = why();
        // A long path is cut to leave room for the reason; advice is only useful as a whole.
        let path = cut(format!("{path:?}"), MAX_LINE / 2);
        let line = format!("{caller} called {path}: {reason}");
        cut(line, MAX_LINE - advice.len()) + &advice
    });
}

fn caller(identity: &str) -> String {
    format!("identity {identity:?}")
}
