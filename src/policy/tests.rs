use super::*;

/// Root is `root`, `gate` is a TLS proxy, and `app` may create keys that start with `app-`.
fn builder() -> Builder {
    let mut builder = Policies::builder("root", &["gate".into()]);
    builder.define(&"apps".into(), Arc::new(policy(&["/v1/key/create/app-*"])));
    builder.assign(&"apps".into(), "app").unwrap();
    builder
}

#[test]
fn root_may_do_everything() {
    assert!(builder().build().allows("root", "/v1/policy/write/apps"));
}

#[test]
fn an_identity_may_do_what_its_policy_allows_and_nothing_else() {
    let policies = builder().build();
    assert!(policies.allows("app", "/v1/key/create/app-1"));
    assert!(!policies.allows("app", "/v1/key/create/other"));
    assert!(!policies.allows("app", "/v1/key/create/app-1/x"));
    assert!(!policies.allows("app", "/v1/key/delete/app-1"));
}

#[test]
fn only_a_rule_denies_and_root_is_denied_nothing() {
    let mut builder = builder();
    let strict = Policy { deny: vec![Rule::prefix("/v1/key/*")], ..policy(&["/v1/key/list/*"]) };
    for (name, assigned) in [("strict", "strict"), ("none", "nobody")] {
        let policy = if name == "none" { Policy::default() } else { strict.clone() };
        builder.define(&name.into(), Arc::new(policy));
        builder.assign(&name.into(), assigned).unwrap();
    }
    let policies = builder.build();
    assert!(policies.denies("strict", "/v1/key/list/a"));
    assert!(!policies.denies("strict", "/version"));
    for identity in ["app", "nobody", "stranger", "", "root"] {
        assert!(!policies.denies(identity, "/v1/key/list/a"), "{identity}");
    }
}

#[test]
fn root_and_proxies_are_those_of_the_configuration_and_all_policies_are_listed() {
    let policies = builder().build();
    assert_eq!("root", policies.root());
    assert!(policies.is_proxy("gate") && policies.has_proxies());
    assert!(!Policies::builder("root", &[]).build().has_proxies());
    let listed: Vec<_> = policies.iter().collect();
    assert_eq!([("apps", policies.get("apps").unwrap())], *listed);
}

#[test]
fn unknown_and_empty_identities_may_do_nothing() {
    let policies = builder().build();
    for identity in ["stranger", "", "gate", "APP", "Root", "roo", "roots", "ap"] {
        assert!(!policies.allows(identity, "/v1/key/create/app-1"), "{identity}");
    }
    let no_root = Policies::builder("", &[]).build();
    assert!(!no_root.allows("", "/version"));
    assert!(!Policies::default().is_root(""));
}

#[test]
fn a_policy_without_paths_allows_nothing() {
    let mut builder = builder();
    builder.define(&"none".into(), Arc::default());
    builder.assign(&"none".into(), "nobody").unwrap();
    let policies = builder.build();
    assert_eq!(Some("none"), policies.policy_name_of("nobody"));
    assert!(!policies.allows("nobody", "/v1/key/create/app-1"));
    assert!(!policies.allows("nobody", ""));
}

#[test]
fn what_a_policy_denies_is_not_allowed_whatever_else_it_allows() {
    let rules = |rules: &[&str]| rules.iter().map(|rule| Rule::prefix(rule)).collect::<Vec<_>>();
    let policy = Policy {
        allow: rules(&["/v1/key/*", "/v1/key/delete/mine", "/version", ""]),
        deny: rules(&["/v1/key/delete/*", "/v1/key/create/root", ""]),
    };
    for path in ["/v1/key/create/app", "/v1/key/create/root-1", "/v1/key/a/b/c", "/version"] {
        assert!(policy.allows(path), "{path}");
    }
    for path in ["/v1/key/delete/mine", "/v1/key/create/root", "/v1/log/error", "/v1/key", ""] {
        assert!(!policy.allows(path), "{path}");
    }
    let deny = policy.deny;
    assert!(!Policy { allow: Vec::new(), deny }.allows("/v1/key/create/app"));
}

#[test]
fn a_rule_that_takes_too_long_to_find_out_denies() {
    let long = "a".repeat(60_000);
    let pattern = "*".to_owned() + &"a".repeat(30_000) + "b";
    let mut policy = Policy { allow: vec![Rule::prefix("a*")], deny: Vec::new() };
    assert!(policy.allows(&long));
    policy.deny = vec![Rule::glob(&pattern).unwrap()];
    assert!(!policy.allows(&long));
    assert!(policy.allows("aaa"));
}

#[test]
fn an_assignment_to_a_missing_policy_allows_nothing() {
    let mut builder = builder();
    builder.assign(&"gone".into(), "nobody").unwrap();
    assert!(!builder.build().allows("nobody", "/v1/key/create/app-1"));
}

#[test]
fn defining_a_policy_again_keeps_its_paths() {
    let mut builder = builder();
    builder.define(&"apps".into(), Arc::default());
    assert!(builder.build().allows("app", "/v1/key/create/app-1"));
}

#[test]
fn one_identity_cannot_have_two_policies() {
    for policy in ["apps", "b"] {
        assert_eq!(
            format!(
                "cannot assign policy \"{policy}\" to identity \"app\": \
                 this identity already has a policy"
            ),
            builder().assign(&policy.into(), "app").unwrap_err().to_string()
        );
    }
}

#[test]
fn root_cannot_have_a_policy() {
    assert_eq!(
        "cannot assign policy \"apps\" to identity \"root\": this identity already has a policy",
        builder().assign(&"apps".into(), "root").unwrap_err().to_string()
    );
}

#[test]
fn a_tls_proxy_cannot_have_a_policy() {
    assert_eq!(
        "cannot assign policy \"apps\" to TLS proxy \"gate\"",
        builder().assign(&"apps".into(), "gate").unwrap_err().to_string()
    );
}

#[test]
fn empty_identities_are_ignored() {
    let mut builder = builder();
    builder.assign(&"apps".into(), "").unwrap();
    builder.assign(&"apps".into(), "").unwrap();
    assert_eq!(1, builder.build().assigned().count());
}

/// A policy with these paths.
fn policy(paths: &[&str]) -> Policy {
    let allow = paths.iter().map(|path| Rule::glob(path).unwrap());
    Policy { allow: allow.collect(), deny: Vec::new() }
}

fn assignments(policies: &Policies) -> Vec<(&str, &str)> {
    let mut assigned: Vec<_> = policies.assigned().collect();
    assigned.sort_unstable();
    assigned
}

#[test]
fn changing_a_clone_leaves_the_original_alone() {
    let original = builder().build();
    let mut changed = original.clone();
    changed.write("apps", policy(&["/v1/key/delete/*"]));
    assert!(changed.allows("app", "/v1/key/delete/a"));
    assert!(!changed.allows("app", "/v1/key/create/app-1"));
    assert!(!original.allows("app", "/v1/key/delete/a"));
    assert!(original.allows("app", "/v1/key/create/app-1"));
}

#[test]
fn deleting_a_policy_removes_its_assignments_and_no_others() {
    let mut policies = builder().build();
    policies.write("other", policy(&["/*"]));
    policies.assign("b", "other", "root").unwrap();
    policies.delete("apps");
    policies.delete("apps");
    assert_eq!(None, policies.get("apps"));
    assert_eq!([("b", "other")], *assignments(&policies));
    policies.write("apps", policy(&["/*"]));
    assert!(!policies.allows("app", "/x"));
}

#[test]
fn assigning_moves_an_identity_and_forgetting_takes_its_policy_away() {
    let mut policies = builder().build();
    policies.write("other", policy(&["/other"]));
    policies.assign("app", "other", "root").unwrap();
    assert!(policies.allows("app", "/other"));
    assert!(!policies.allows("app", "/v1/key/create/app-1"));
    policies.forget("app").unwrap();
    policies.forget("app").unwrap();
    assert!(!policies.allows("app", "/other"));
}

#[test]
fn assignments_are_refused_in_their_order() {
    let mut policies = builder().build();
    let mut assign = |identity, policy, caller| policies.assign(identity, policy, caller);
    assert_eq!(Err(Refusal::NoIdentity), assign("", "gone", ""));
    assert_eq!(Err(Refusal::Root), assign("root", "gone", "root"));
    assert_eq!(Err(Refusal::Proxy), assign("gate", "gone", "gate"));
    assert_eq!(Err(Refusal::Caller), assign("app", "gone", "app"));
    assert_eq!(Err(Refusal::NoPolicy), assign("b", "gone", "app"));
    assert_eq!(Err(Refusal::NoIdentity), policies.forget(""));
    assert_eq!(Err(Refusal::Root), policies.forget("root"));
    assert_eq!([("app", "apps")], *assignments(&policies));
}

#[test]
fn a_reload_keeps_what_calls_have_made_unless_the_file_says_otherwise() {
    let mut before = builder().build();
    before.write("made", policy(&["/made"]));
    before.write("taken", policy(&["/made"]));
    before.write("apps", policy(&["/made"]));
    for (identity, policy) in [
        ("a", "made"),
        ("b", "made"),
        ("new-root", "made"),
        ("new-gate", "made"),
        ("c", "taken"),
        ("d", "apps"),
    ] {
        before.assign(identity, policy, "root").unwrap();
    }

    let mut file = Policies::builder("new-root", &["new-gate".into()]);
    file.define(&"taken".into(), Arc::new(policy(&["/file"])));
    file.assign(&"taken".into(), "b").unwrap();
    let mut after = file.build();
    after.keep_calls_of(&before);

    assert!(after.allows("a", "/made"));
    assert!(after.allows("b", "/file") && !after.allows("b", "/made"));
    assert!(after.allows("c", "/file") && !after.allows("c", "/made"));
    // The policy was changed by a call, so it stays although the file has it no more; its
    // assignment in the old file goes with the old file.
    assert!(after.allows("d", "/made"));
    assert_eq!(
        [("a", "made"), ("b", "taken"), ("c", "taken"), ("d", "apps")],
        *assignments(&after)
    );
}

#[test]
fn a_reload_forgets_assignments_to_policies_that_only_the_old_file_had() {
    let mut before = builder().build();
    before.assign("b", "apps", "root").unwrap();
    let mut after = Policies::builder("root", &[]).build();
    after.keep_calls_of(&before);
    assert_eq!(0, after.assigned().count());
    assert_eq!(0, after.iter().count());
}
