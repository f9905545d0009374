//! Calls that can be made by more than one path. A rule that denies one of the paths denies the call, or a
//! client would only have to write it otherwise; what is allowed is the path as it was called.

use std::borrow::Cow;

use super::{
    key::CONTINUED,
    routes::{self, Argument},
};
use crate::base::generation::Generation;

/// Paths with the path of the same call; where both end with a slash, any argument may follow. Files that
/// KES of the newest generation has read know nothing of the older ones, and the other way round.
const SAME: [(&str, &str); 11] = [
    // Not the other way round: to deny it is to want ciphertexts one by one.
    ("/v1/key/bulk/decrypt/", "/v1/key/decrypt/"),
    ("/v1/log/audit/trace", "/v1/log/audit"),
    ("/v1/log/audit", "/v1/log/audit/trace"),
    ("/v1/log/error", "/v1/log/error/trace"),
    ("/v1/log/error", "/v1/log/log/error/trace"),
    ("/v1/log/error/trace", "/v1/log/error"),
    ("/v1/log/error/trace", "/v1/log/log/error/trace"),
    ("/v1/log/log/error/trace", "/v1/log/error"),
    ("/v1/log/log/error/trace", "/v1/log/error/trace"),
    ("/v1/identity/delete/", "/v1/identity/forget/"),
    ("/v1/identity/forget/", "/v1/identity/delete/"),
];

/// The path by which rules decide about a call of `path`: another one of the same call if that is denied, or
/// else `path` as the API has it.
pub fn decisive(path: &str, generation: Generation, denies: impl Fn(&str) -> bool) -> Cow<'_, str> {
    let Some(route) = routes::find(path, generation) else {
        return path.into();
    };
    let slashed = route.slashed(path);
    let mut others = others(&slashed, route.path, route.argument);
    match others.find(|other| denies(other)).map(Cow::into_owned) {
        Some(denied) => denied.into(),
        None => {
            drop(others);
            slashed
        }
    }
}

/// The other paths of the call that `path` makes at the API with the path `api`.
fn others<'a>(
    path: &'a str,
    api: &'a str,
    argument: Argument,
) -> impl Iterator<Item = Cow<'a, str>> {
    let names = path.strip_prefix(api).unwrap_or_default();
    let lists = (argument == Argument::Pattern).then(|| lists(api, names)).into_iter().flatten();
    let same = SAME.iter().filter(move |(own, _)| *own == api);
    let same = same.map(move |(_, other)| Cow::Owned(format!("{other}{names}")));
    let assigns = argument == Argument::PolicyAndIdentity;
    let policy = names.split_once('/').filter(|_| assigns).map(|(policy, _)| policy);
    same.chain(lists).chain(policy.map(|policy| format!("/v1/policy/assign/{policy}").into()))
}

/// The paths of the list that `pattern`, or a page that continues a list, asks for.
fn lists<'a>(api: &'a str, pattern: &str) -> impl Iterator<Item = Cow<'a, str>> {
    let start = pattern.split_once(CONTINUED).map(|(start, _)| start);
    let start = start.unwrap_or_else(|| pattern.strip_suffix('*').unwrap_or(pattern));
    let all = start.is_empty().then(|| api.trim_end_matches('/').into());
    [format!("{api}{start}"), format!("{api}{start}*")].map(Cow::Owned).into_iter().chain(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_denied_by_each_of_its_paths() {
        for (path, others) in [
            ("/v1/key/bulk/decrypt/a", &["/v1/key/decrypt/a"][..]),
            ("/v1/key/decrypt/a", &[]),
            ("/v1/log/audit", &["/v1/log/audit/trace"]),
            ("/v1/log/audit/trace", &["/v1/log/audit"]),
            ("/v1/log/error", &["/v1/log/error/trace", "/v1/log/log/error/trace"]),
            ("/v1/log/error/trace", &["/v1/log/error", "/v1/log/log/error/trace"]),
            ("/v1/log/log/error/trace", &["/v1/log/error", "/v1/log/error/trace"]),
            ("/v1/identity/delete/a", &["/v1/identity/forget/a"]),
            ("/v1/identity/forget/a", &["/v1/identity/delete/a"]),
            ("/v1/identity/assign/p/a", &["/v1/policy/assign/p"]),
            ("/v1/key/list", &["/v1/key/list", "/v1/key/list/", "/v1/key/list/*"]),
            ("/v1/policy/list/*", &["/v1/policy/list", "/v1/policy/list/"]),
            ("/v1/key/list/**-", &["/v1/key/list", "/v1/key/list/", "/v1/key/list/*"]),
            ("/v1/key/list/a", &["/v1/key/list/a*"]),
            ("/v1/key/list/a**ab", &["/v1/key/list/a", "/v1/key/list/a*"]),
            ("/v1/identity/list/a*", &["/v1/identity/list/a"]),
            ("/v1/key/create/a", &[]),
        ] {
            for other in others {
                let found = decisive(path, Generation::V0_14, |denied| denied == *other);
                assert_eq!(*other, found, "{path}");
            }
            let unknown = decisive(path, Generation::V0_14, |other| {
                !others.contains(&other) && other.trim_end_matches(['/', '*']) != path
            });
            assert_eq!(path, unknown.trim_end_matches('/'), "{path}");
        }
    }
}
