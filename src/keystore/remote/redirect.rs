//! Where a standby server redirects to, and where not to follow.

use percent_encoding::percent_decode_str;
use ureq::http::Uri;

/// `url` at the server that `location` names, or why not there. A standby redirects to the same path and
/// query at another server; anything else, such as a login page, must not get the token and the key.
pub(crate) fn redirected(url: &str, location: &str) -> Result<String, &'static str> {
    const NO_URL: &str = "it is not the URL of a server";
    let (from, to) = (url.parse::<Uri>(), location.parse::<Uri>());
    let (Ok(from), Ok(to)) = (from, to) else {
        return Err(NO_URL);
    };
    let (Some(scheme), Some(authority)) = (to.scheme_str(), to.authority()) else {
        return Err(NO_URL);
    };
    if authority.host().is_empty() || authority.as_str().contains('@') {
        return Err(NO_URL);
    }
    if !(scheme == "https" || scheme == "http" && from.scheme_str() == Some("http")) {
        return Err("only https is");
    }
    // The server has taken the path apart and put it together again, with escapes of its own.
    let segments = |uri: &Uri| -> Vec<Vec<u8>> {
        let segments = uri.path().split('/');
        segments.map(|segment| percent_decode_str(segment).collect()).collect()
    };
    if segments(&from) != segments(&to) || from.query() != to.query() {
        return Err("a standby server sends to the same path and query");
    }
    let path = from.path_and_query().map_or("", |path| path.as_str());
    Ok(format!("{scheme}://{authority}{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::escape;

    #[test]
    fn redirects_lead_to_the_same_path_and_query_at_another_server() {
        let from = "https://a:8200/v1/kv/x%2B%20y?list=true";
        for (location, to) in [
            (
                "https://b:8200/v1/kv/x%2B%20y?list=true",
                Some("https://b:8200/v1/kv/x%2B%20y?list=true"),
            ),
            // Go writes some characters as they are.
            ("https://b/v1/kv/x+%20y?list=true", Some("https://b/v1/kv/x%2B%20y?list=true")),
            ("https://b:8200/v1/kv/x%2B%20z?list=true", None),
            ("https://b:8200/v1/kv/x%2B%20y", None),
            ("https://b:8200/v1/kv/x%2B%20y?list=true&next=1", None),
            ("https://b:8200/v1%2Fkv/x%2B%20y?list=true", None),
            ("https://b:8200/v1/kv/x%2B%20y/?list=true", None),
            ("https://b:8200/?next=/v1/kv/x%2B%20y?list=true", None),
            ("https://b:8200/", None),
            ("https://c@b:8200/v1/kv/x%2B%20y?list=true", None),
            ("http://b:8200/v1/kv/x%2B%20y?list=true", None),
            ("//b/v1/kv/x%2B%20y?list=true", None),
            ("/v1/kv/x%2B%20y?list=true", None),
            ("ftp://b/v1/kv/x%2B%20y?list=true", None),
            ("https:///v1/kv/x%2B%20y?list=true", None),
            ("x", None),
            ("", None),
            ("\u{fffd}", None),
        ] {
            assert_eq!(to, redirected(from, location).ok().as_deref(), "{location:?}");
        }
        // What a standby of OpenBao 2.7.2 really sends.
        let name = escape::segment("a+b \u{e9}%2F:@&=$,;!*()'");
        let from = format!("https://a:8200/v1/kv/{name}");
        let to = "https://127.0.0.1:30131/v1/kv/a+b%20%C3%A9%252F:@&=$,;%21%2A%28%29%27";
        let expected = format!("https://127.0.0.1:30131/v1/kv/{name}");
        assert_eq!(Ok(expected), redirected(&from, to));
        for to in ["http://b/v1/x", "https://b/v1/x"] {
            assert_eq!(Ok(to), redirected("http://a/v1/x", to).as_deref());
        }
    }
}
