//! Every way in which a request can fail, with the status and the text that clients get for it.
//!
//! The texts are wire protocol: SDKs compare them. Errors become answers here and nowhere else.

use std::borrow::Cow;

use serde::Serialize;

use crate::{
    crypto::ciphertext::OpenError,
    http::{Malformed, Method, reply::Reply},
    keystore,
    policy::Refusal,
};

/// Why a request was not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No route serves the path.
    NoSuchPath,
    /// The path is not in its shortest form; this one is.
    Moved(String),
    /// The route wants another method.
    MethodNotAllowed(Method),
    /// The path does not match the pattern of its route.
    PathMismatch(&'static str),
    /// No policy, no identity, or no matching path.
    Prohibited,
    /// The client's certificate has expired, or is not trusted any more, since it connected.
    Distrusted,
    /// The client showed more than one certificate that is not an authority's.
    TooManyIdentities,
    /// A TLS proxy forwarded no certificate.
    NoClientCertificate,
    /// There is more than one client certificate, in the handshake or from a TLS proxy.
    TooManyClientCertificates,
    /// What a TLS proxy forwarded is no certificate.
    InvalidClientCertificate,
    /// A TLS proxy forwarded a certificate that is not trusted.
    UntrustedClientCertificate,
    /// The body is not the JSON that the route wants, too large, or cut off.
    InvalidJson,
    /// The argument can't be the name of a key.
    InvalidKeyName,
    /// The argument can't be the name of a policy.
    InvalidPolicyName,
    /// There is no such policy.
    PolicyNotFound,
    /// The identity can't be assigned or forgotten.
    Identity(Refusal),
    /// A pattern that takes too long to match.
    PatternTooHard,
    /// An imported key that has not exactly 32 bytes.
    InvalidKey,
    /// The ciphertext can't be opened.
    Ciphertext(OpenError),
    /// The name is taken.
    KeyExists,
    /// There is no such key.
    KeyNotFound,
    /// The key store is sealed.
    Sealed,
    /// The key store failed to do this: `create`, `access`, `delete` or `list`.
    KeyStore(Task),
    /// It took too long.
    Timeout,
    /// The audit line of an answer with a key could not be written, and has to be.
    NotAudited,
    /// More requests wait for the key store than it can serve.
    Overloaded,
    /// The server itself failed.
    Internal(&'static str),
    /// The request can't be understood.
    Malformed(Malformed),
}

/// What the key store was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Storing a new key.
    Create,
    /// Reading a key.
    Access,
    /// Deleting a key.
    Delete,
    /// Listing the names.
    List,
}

impl Failure {
    /// What went wrong in the key store while it did `task`.
    pub fn from_key_store(error: &keystore::Error, task: Task) -> Self {
        match error {
            keystore::Error::Exists => Self::KeyExists,
            keystore::Error::NotFound => Self::KeyNotFound,
            keystore::Error::Sealed => Self::Sealed,
            keystore::Error::Unavailable { .. } => Self::KeyStore(task),
        }
    }

    /// Status and text.
    fn answer(&self) -> (u16, Cow<'static, str>) {
        match self {
            Self::NoSuchPath => (404, "404 page not found\n".into()),
            Self::Moved(_) => (301, "".into()),
            Self::MethodNotAllowed(_) => (405, "Method Not Allowed".into()),
            Self::PathMismatch(pattern) => {
                (400, format!("request URL path does not match API pattern: {pattern}").into())
            }
            Self::Prohibited => (403, "prohibited by policy".into()),
            Self::Distrusted => {
                (403, "client certificate has expired or is no longer trusted".into())
            }
            Self::TooManyIdentities => {
                (400, "too many identities: more than one certificate is present".into())
            }
            Self::NoClientCertificate => (400, "no client certificate is present".into()),
            Self::TooManyClientCertificates => {
                (400, "too many client certificates are present".into())
            }
            Self::InvalidClientCertificate => (400, "invalid client certificate".into()),
            Self::UntrustedClientCertificate => (403, "".into()),
            Self::InvalidJson => (400, "invalid json".into()),
            Self::InvalidKeyName => (400, "invalid key name".into()),
            Self::InvalidPolicyName => (400, "invalid policy name".into()),
            Self::PolicyNotFound | Self::Identity(Refusal::NoPolicy) => {
                (404, "policy does not exist".into())
            }
            Self::Identity(Refusal::NoIdentity) => (400, "identity is unknown".into()),
            Self::Identity(Refusal::Root) => (400, "identity is root".into()),
            Self::Identity(Refusal::Proxy) => {
                (400, "identity is a TLS proxy, which can't have a policy".into())
            }
            Self::Identity(Refusal::Caller) => {
                (403, "identity cannot assign policy to itself".into())
            }
            Self::PatternTooHard => (400, "pattern takes too long to match".into()),
            Self::InvalidKey => (400, "invalid key".into()),
            Self::Ciphertext(OpenError::UnsupportedAlgorithm) => {
                (422, OpenError::UnsupportedAlgorithm.to_string().into())
            }
            Self::Ciphertext(error) => (400, error.to_string().into()),
            Self::KeyExists => (400, "key does already exist".into()),
            Self::KeyNotFound => (404, "key does not exist".into()),
            Self::Sealed => (403, "key store is sealed".into()),
            Self::KeyStore(Task::Create) => (502, "bad gateway: failed to create key".into()),
            Self::KeyStore(Task::Access) => (502, "bad gateway: failed to access key".into()),
            Self::KeyStore(Task::Delete) => (502, "bad gateway: failed to delete key".into()),
            Self::KeyStore(Task::List) => (502, "bad gateway: failed to list keys".into()),
            Self::Timeout => (503, "timeout".into()),
            Self::NotAudited => (503, "audit log is not available".into()),
            Self::Overloaded => (503, "too many requests wait for the key store".into()),
            Self::Internal(text) => (500, (*text).into()),
            Self::Malformed(Malformed { status, reason }) => (*status, (*reason).into()),
        }
    }

    /// The answer that the client gets.
    pub fn reply(&self) -> Reply {
        #[derive(Serialize)]
        struct Message<'a> {
            message: &'a str,
        }
        let (status, message) = self.answer();
        let mut reply = Reply { status, ..Reply::empty() };
        match self {
            Self::Moved(path) => reply.header = Some(("Location", path.clone())),
            Self::NoSuchPath => {
                reply.content_type = Some("text/plain; charset=utf-8");
                reply.body = message.into_owned().into_bytes();
            }
            _ => {
                if let Self::MethodNotAllowed(expected) = self {
                    reply.header = Some(("Accept", expected.name().to_owned()));
                }
                reply.content_type = Some("application/json; charset=utf-8");
                reply.body = serde_json::to_vec(&Message { message: &message })
                    .unwrap_or_else(|_| b"{}".to_vec());
            }
        }
        reply
    }
}
