//! What a file says of single APIs: which need no certificate, and how long answers may take.

use super::{
    expand::Expansion,
    findings::{At, cut},
    policies::closest,
    settings::{ApiOptions, Apis},
    source::Reader,
    tree::Node,
};
use crate::base::glob::Pattern;

const SKIP_AUTH: &str = "api.*.skip_auth";

/// Those that tell nothing that has to be kept from strangers.
const HARMLESS: [&str; 5] = ["/version", "/v1/status", "/v1/metrics", "/v1/ready", "/v1/api"];

impl Reader<'_> {
    /// The options of all APIs in the file, by path. `endpoints` are the patterns of all API paths; without
    /// any, it is not checked whether there is such an API.
    pub(super) fn apis(&mut self, endpoints: &[Pattern]) -> Apis {
        let source = self.source;
        let mut apis = Vec::new();
        let entries = source.find("api").map_or(&[][..], Node::entries);
        // Beside `texts`, older formats have nothing there.
        for entry in entries.iter().filter(|_| source.format.is_newest()) {
            let path = &*entry.name;
            if path == "texts" || entry.node.is_null() {
                continue;
            }
            self.check_api(
                path,
                At::new(format!("api.{}", cut(path)), Some(entry.position)),
                endpoints,
            );
            let given = |field: &str| {
                let node = entry.node.get(field)?;
                let at = At::new(format!("api.{}.{field}", cut(path)), Some(node.position));
                Some((source.value(node, Expansion::Whole), at))
                    .filter(|(text, _)| !text.is_empty())
            };
            let mut options = ApiOptions::default();
            if let Some((text, at)) = given("skip_auth") {
                match parse_bool(&text) {
                    Some(skip_auth) => options.skip_auth = skip_auth,
                    None => self.refuse(SKIP_AUTH, at.clone(), &text),
                }
                if options.skip_auth && !HARMLESS.contains(&path.trim_end_matches('/')) {
                    self.findings.warn(
                        at,
                        "anyone can call this API, without a certificate",
                        "leave out skip_auth, and give the clients a policy",
                    );
                }
            }
            if let Some((text, at)) = given("timeout") {
                options.timeout = self.parse_duration(&text, at);
            }
            apis.push((path.to_owned(), options));
        }
        apis
    }

    /// Warns of a path that is not that of an API, with or without the slash before its argument.
    fn check_api(&mut self, path: &str, at: At, endpoints: &[Pattern]) {
        let mut fixed = endpoints.iter().filter_map(|it| it.as_str().split('*').next());
        let is_known = |fixed: &str| path == fixed || fixed.strip_suffix('/') == Some(path);
        if !endpoints.is_empty() && !fixed.clone().any(is_known) {
            let advice = match fixed.find(|fixed| fixed.ends_with('/') && path.starts_with(fixed)) {
                Some(fixed) => format!("did you mean \"{fixed}\", without an argument?"),
                None => closest(&cut(path), endpoints),
            };
            let message = format_args!("there is no API \"{}\", so this means nothing", cut(path));
            self.findings.warn(at, message, advice);
        }
    }
}

/// What YAML has ever taken for true or false.
fn parse_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "y" => Some(true),
        "false" | "no" | "off" | "n" => Some(false),
        _ => None,
    }
}
