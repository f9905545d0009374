//! What flags and environment say about the server, the client's certificate and the servers it trusts.
//!
//! Each setting has the variable of KES 0.14, those of newer versions and those of object servers; a flag
//! wins over all of them.

use std::{env, ffi::OsString, path::Path, sync::Arc};

use rustls::sign::CertifiedKey;
use ureq::http::{Uri, uri::Authority};

use super::{args::Args, certificate::is_identity, password};
use crate::tls::{self, ApiKey, ServerTrust};

/// Variables with the same meaning: the first that is set, and not empty, counts.
type Names = [&'static str; 3];
const SERVER: Names = ["MINIO_KES_SERVER", "KES_SERVER", "MINIO_KMS_KES_ENDPOINT"];
const API_KEY: Names = ["MINIO_KES_API_KEY", "KES_API_KEY", "MINIO_KMS_KES_API_KEY"];
const KEY_FILE: Names = ["MINIO_KES_KEY_FILE", "KES_CLIENT_KEY", "MINIO_KES_CLIENT_KEY"];
const CERT_FILE: Names = ["MINIO_KES_CERT_FILE", "KES_CLIENT_CERT", "MINIO_KES_CLIENT_CERT"];
pub(crate) const CA: [&str; 2] = ["KES_CA_FILE", "MINIO_KMS_KES_CAPATH"];
pub(crate) const SERVER_IDENTITY: &str = "KES_SERVER_IDENTITY";

/// The servers to ask.
pub(crate) struct Servers {
    /// URLs without a trailing slash; at least one.
    pub(crate) urls: Vec<String>,
    /// The flag or variable that names them; `None` if nothing does.
    pub(crate) named: Option<&'static str>,
    /// One of them is written as `http://`, which other clients would take at its word.
    pub(crate) has_http: bool,
}

/// The servers that `--server` or the environment names.
///
/// # Errors
/// Which is no URL of a server.
pub(crate) fn servers(args: &Args) -> Result<Servers, String> {
    let (named, list) = match (args.value("server"), first(SERVER)) {
        (Some(list), _) => (Some("--server"), list.to_owned()),
        (None, Some((name, list))) => (Some(name), list.to_string_lossy().into_owned()),
        (None, None) => (None, "127.0.0.1:7373".to_owned()),
    };
    let name = named.unwrap_or_default();
    let items = list.split(',').map(str::trim).filter(|item| !item.is_empty());
    let urls: Vec<_> = items.map(|item| url(name, item)).collect::<Result<_, _>>()?;
    match urls.is_empty() {
        true => Err(format!("invalid {name} {list:?}: it must look like https://host:7373")),
        false => Ok(Servers { urls, named, has_http: list.contains("http://") }),
    }
}

/// The URL of the server `text`, which the flag or variable `name` has.
fn url(name: &str, text: &str) -> Result<String, String> {
    let invalid = |why| Err(format!("invalid {name} {text:?}: {why}"));
    let url = match text.split_once("://") {
        None => format!("https://{text}"),
        Some(("https", _)) => text.to_owned(),
        // As newer versions take it: nothing is ever sent without TLS.
        Some(("http", place)) => format!("https://{place}"),
        Some(_) => return invalid("it must start with https://"),
    };
    let url = url.trim_end_matches('/').to_owned();
    match url.parse::<Uri>() {
        Ok(uri) if !has_good_port(&uri) => invalid("the port must be a number from 1 to 65535"),
        Ok(uri) if uri.host().is_some_and(|host| !host.is_empty()) && uri.path() == "/" => Ok(url),
        _ => invalid("it must look like https://host:7373"),
    }
}

/// Whether `uri` names a port that there can be, or none.
fn has_good_port(uri: &Uri) -> bool {
    let has_none = |authority: &Authority| authority.as_str().ends_with(authority.host());
    uri.port_u16().map_or_else(|| uri.authority().is_none_or(has_none), |port| port > 0)
}

/// Which servers are trusted.
///
/// # Errors
/// If flags exclude each other, or the identity is none.
pub(crate) fn trust(args: &Args) -> Result<ServerTrust, String> {
    let identity = |name: &str, text: &str| {
        let text = text.trim().to_ascii_lowercase();
        match is_identity(&text) {
            true => Ok(ServerTrust::Identity(text)),
            false => Err(format!(
                "invalid {name} {text:?}: it must be the 64 digits 0-9 a-f that the server prints when \
                 it starts"
            )),
        }
    };
    let is_insecure = args.is_set("insecure");
    match (args.value("server-identity"), args.value("ca")) {
        (Some(_), _) | (_, Some(_)) if is_insecure => {
            Err("-k trusts every server: leave out --server-identity and --ca, or -k".to_owned())
        }
        (Some(text), _) => identity("--server-identity", text),
        (None, Some(file)) => Ok(ServerTrust::Files(file.into())),
        (None, None) if is_insecure => Ok(ServerTrust::Anything),
        (None, None) => match (first([SERVER_IDENTITY]), first(CA)) {
            (Some((name, text)), _) => identity(name, &text.to_string_lossy()),
            (None, Some((_, file))) => Ok(ServerTrust::Files(file.into())),
            (None, None) => Ok(ServerTrust::System),
        },
    }
}

/// Whether a flag or variable says who the client is.
pub(crate) fn has_client(args: &Args) -> bool {
    let names = [API_KEY, KEY_FILE, CERT_FILE];
    args.value("api-key").is_some() || names.into_iter().any(|names| first(names).is_some())
}

/// The certificate to show, with its private key.
pub(crate) struct Shown {
    pub(crate) certificate: Arc<CertifiedKey>,
    /// What to do if a server does not like it.
    pub(crate) advice: &'static str,
}

/// The certificate of the API key, or in the files, that flags and variables name. The password of a private
/// key is asked for if `may_ask`.
///
/// # Errors
/// What is missing, excludes each other, or can't be read.
pub(crate) fn certificate(args: &Args, may_ask: bool) -> Result<Shown, String> {
    let (key, cert) = (first(KEY_FILE), first(CERT_FILE));
    let api_key = match args.value("api-key") {
        Some(text) => Some(("--api-key", text.to_owned())),
        None => match (first(API_KEY), &key, &cert) {
            (None, _, _) => None,
            (Some((name, _)), Some((other, _)), _) => return Err(both(name, "private key", other)),
            (Some((name, _)), None, Some((other, _))) => {
                return Err(both(name, "certificate", other));
            }
            (Some((name, text)), None, None) => Some((name, text.to_string_lossy().into_owned())),
        },
    };
    if let Some((name, text)) = api_key {
        let key = ApiKey::parse(&text).map_err(|e| format!("{e}: check {name}"))?;
        let certificate = key.certificate().map_err(|e| e.to_string())?;
        let advice = "check KES_API_KEY, and the server, which takes API keys only with --auth off, or with \
                      \"tls.auth: off\" in its file";
        return Ok(Shown { certificate, advice });
    }
    let advice = "check KES_CLIENT_CERT and KES_CLIENT_KEY";
    match (key, cert) {
        (Some((_, key)), Some((_, cert))) => {
            let failed =
                |why: &str| format!("failed to load TLS private key or certificate: {why}");
            // A file that can't be read is reported with both.
            let is_encrypted = std::fs::read(&key).is_ok_and(|text| tls::is_encrypted(&text));
            let password =
                is_encrypted.then(|| password::of_key(Path::new(&key), may_ask)).transpose();
            let password = password.map_err(|why| failed(&why))?;
            let certificate =
                tls::load_client_certificate(cert.as_ref(), key.as_ref(), password.as_ref())
                    .map_err(|e| failed(&e.to_string()))?;
            Ok(Shown { certificate, advice })
        }
        (Some((name, _)), None) if is_of_newer_versions(name) => {
            Err(missing("certificate file", CERT_FILE[0]))
        }
        (None, Some((name, _))) if is_of_newer_versions(name) => {
            Err(missing("private key file", KEY_FILE[0]))
        }
        (None, None) if first(SERVER).is_some_and(|(name, _)| is_of_newer_versions(name)) => {
            Err(missing("API key", API_KEY[0]))
        }
        (None, Some(_)) => Err(format!(
            "no TLS private key. Environment variable 'KES_CLIENT_KEY' is {}",
            absence("KES_CLIENT_KEY")
        )),
        (key, None) => {
            let mut text = format!(
                "no TLS client certificate. Environment variable 'KES_CLIENT_CERT' is {}",
                absence("KES_CLIENT_CERT")
            );
            if key.is_none() {
                text += &format!(
                    ", and 'KES_CLIENT_KEY' for the private key is {}: they name two files, which \
                     'kes tool identity new' makes\nOr set KES_API_KEY to an API key, which \
                     'kes identity new' makes",
                    absence("KES_CLIENT_KEY")
                );
            }
            Err(text)
        }
    }
}

fn both(api_key: &str, what: &str, file: &str) -> String {
    format!("API key and {what} file cannot be used at the same time: unset {api_key} or {file}")
}

fn missing(what: &str, name: &str) -> String {
    format!("no {what} specified. Consider setting {name}")
}

fn is_of_newer_versions(name: &str) -> bool {
    name.starts_with("MINIO_")
}

/// The first of these variables that is set, and its value, which is not empty.
fn first<const N: usize>(names: [&'static str; N]) -> Option<(&'static str, OsString)> {
    let mut values = names.into_iter().filter_map(|name| Some((name, env::var_os(name)?)));
    values.find(|(_, value)| !value.to_string_lossy().trim().is_empty())
}

/// How the variable `name`, which has no value, is missing.
fn absence(name: &str) -> &'static str {
    if env::var_os(name).is_some() { "empty" } else { "not set" }
}
