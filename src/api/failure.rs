//! Every way in which a request can fail, with the status and the text that clients get for it.
//!
//! The texts are wire protocol: SDKs compare them, each generation with its own. Errors become answers here
//! and nowhere else.

use std::borrow::Cow;

use super::object::Object;
use crate::{
    base::generation::Generation,
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
    /// Another generation served the path.
    NotServed,
    /// The path is not in its shortest form; this one is.
    Moved(String),
    /// The route wants another method, named last.
    MethodNotAllowed(Method, &'static str),
    /// The path does not match the pattern of its route.
    PathMismatch(&'static str),
    /// No policy, no identity, or no matching path.
    Prohibited,
    /// The client's certificate has expired, or is not trusted any more, since it connected.
    Distrusted,
    /// The client showed no certificate, and this API wants one.
    NoCertificate,
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
    /// The same for an import.
    InvalidImport,
    /// More ciphertexts at once than can be decrypted.
    TooManyCiphertexts,
    /// The argument can't be what it has to be.
    InvalidName(Named, Box<str>),
    /// There is no such policy.
    PolicyNotFound,
    /// The identity is neither the administrator's nor assigned to a policy.
    IdentityNotFound,
    /// The identity can't be assigned or forgotten.
    Identity(Refusal),
    /// A pattern that takes too long to match.
    PatternTooHard,
    /// An imported key, for this algorithm, that has not exactly 32 bytes.
    InvalidKey(&'static str),
    /// An imported key for an algorithm that is not known.
    UnknownAlgorithm(Box<str>),
    /// The ciphertext can't be opened.
    Ciphertext(OpenError),
    /// The key has no part for HMACs.
    NoHmac,
    /// The name is taken.
    KeyExists,
    /// There is no such key.
    KeyNotFound,
    /// The key store is sealed.
    Sealed,
    /// The key store failed to do this: `create`, `access`, `delete` or `list`.
    KeyStore(Task),
    /// The key store can't be reached.
    Unreachable,
    /// The key store can't serve.
    Unavailable,
    /// It took too long.
    Timeout,
    /// The audit line of an answer with a key could not be written, and has to be.
    NotAudited,
    /// The identity has reached the limit of its requests.
    Limited,
    /// More requests wait for the key store than it can serve.
    Overloaded,
    /// The server itself failed.
    Internal(&'static str),
    /// The request can't be understood.
    Malformed(Malformed),
}

/// What an argument has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// The name of a key.
    Key,
    /// The name of a policy.
    Policy,
    /// An identity.
    Identity,
    /// A pattern of names.
    Pattern,
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

type Answer = (u16, Cow<'static, str>);

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

    /// Status and text in the words of a generation.
    fn answer(&self, texts: Generation) -> Answer {
        let is_old = texts == Generation::V0_14;
        // The same status with the text of 0.14 and the newest.
        let two = |status, old: &'static str, new: &'static str| -> Answer {
            (status, if is_old { old } else { new }.into())
        };
        let one = |status, text: &'static str| -> Answer { (status, text.into()) };
        match self {
            Self::NoSuchPath => one(404, "404 page not found\n"),
            Self::NotServed => one(501, "not implemented: this API is not served"),
            Self::Moved(_) => one(0, ""),
            Self::MethodNotAllowed(..) if is_old => one(405, "Method Not Allowed"),
            Self::MethodNotAllowed(received, expected) => {
                let received = received.name();
                (405, format!("received method '{received}' expected '{expected}'").into())
            }
            Self::PathMismatch(pattern) => {
                (400, format!("request URL path does not match API pattern: {pattern}").into())
            }
            Self::Prohibited => {
                two(403, "prohibited by policy", "not authorized: insufficient permissions")
            }
            Self::Distrusted => one(403, "client certificate has expired or is no longer trusted"),
            Self::NoCertificate => one(400, "tls: client certificate is required"),
            Self::TooManyIdentities => two(
                400,
                "too many identities: more than one certificate is present",
                "tls: received more than one client certificate",
            ),
            Self::NoClientCertificate => one(400, "no client certificate is present"),
            Self::TooManyClientCertificates => one(400, "too many client certificates are present"),
            Self::InvalidClientCertificate => one(400, "invalid client certificate"),
            Self::UntrustedClientCertificate => one(403, ""),
            Self::InvalidJson => two(400, "invalid json", "invalid request body"),
            Self::InvalidImport => two(400, "invalid json", "invalid import key request body"),
            Self::TooManyCiphertexts => one(400, "too many ciphertexts"),
            Self::InvalidName(Named::Key, _) if is_old => one(400, "invalid key name"),
            Self::InvalidName(Named::Policy, _) if is_old => one(400, "invalid policy name"),
            Self::InvalidName(Named::Identity, _) if is_old => one(400, "identity is unknown"),
            Self::InvalidName(named, name) => {
                let (what, mistake) = match named {
                    Named::Key => ("key name", "contains invalid characters"),
                    Named::Policy => ("policy name", "contains invalid characters"),
                    Named::Identity => ("identity", "contains invalid characters"),
                    Named::Pattern => ("listing pattern", "is invalid"),
                };
                (400, format!("{what} '{name}' is empty, too long or {mistake}").into())
            }
            Self::PolicyNotFound | Self::Identity(Refusal::NoPolicy) => {
                one(404, "policy does not exist")
            }
            Self::IdentityNotFound => one(404, "identity does not exist"),
            Self::Identity(Refusal::NoIdentity) => one(400, "identity is unknown"),
            Self::Identity(Refusal::Root) => one(400, "identity is root"),
            Self::Identity(Refusal::Proxy) => {
                one(400, "identity is a TLS proxy, which can't have a policy")
            }
            Self::Identity(Refusal::Caller) => one(403, "identity cannot assign policy to itself"),
            Self::PatternTooHard => one(400, "pattern takes too long to match"),
            Self::InvalidKey(_) if is_old => one(400, "invalid key"),
            Self::InvalidKey(algorithm) => {
                (406, format!("invalid key size for '{algorithm}'").into())
            }
            Self::UnknownAlgorithm(name) => {
                (406, format!("algorithm '{name}' is not supported").into())
            }
            Self::Ciphertext(OpenError::UnsupportedAlgorithm) if is_old => {
                (422, OpenError::UnsupportedAlgorithm.to_string().into())
            }
            Self::Ciphertext(error @ (OpenError::IvSize(_) | OpenError::NonceSize(_)))
                if is_old =>
            {
                (400, error.to_string().into())
            }
            // The text of the newest generation, which contains that of 0.14: newer SDKs recognise it, and
            // those of 0.14 compare with neither.
            Self::Ciphertext(_) => one(400, "decryption failed: ciphertext is not authentic"),
            // Object servers that derive credentials from an HMAC only do without if they read 501.
            Self::NoHmac => one(501, "key does not support HMAC"),
            Self::KeyExists => two(400, "key does already exist", "key already exists"),
            Self::KeyNotFound => one(404, "key does not exist"),
            // In newer SDKs 403 is a matter of policies, and 502 a reason to ask another server.
            Self::Sealed => (if is_old { 403 } else { 502 }, "key store is sealed".into()),
            Self::KeyStore(Task::Create) => {
                two(502, "bad gateway: failed to create key", "failed to create key")
            }
            Self::KeyStore(Task::Access) => {
                two(502, "bad gateway: failed to access key", "failed to read key")
            }
            Self::KeyStore(Task::Delete) => {
                two(502, "bad gateway: failed to delete key", "failed to delete key")
            }
            Self::KeyStore(Task::List) => {
                two(502, "bad gateway: failed to list keys", "failed to list keys")
            }
            Self::Unreachable => one(504, "key store is not reachable"),
            Self::Unavailable => one(502, "key store is unavailable"),
            Self::Timeout => one(503, "timeout"),
            Self::NotAudited => one(503, "audit log is not available"),
            Self::Limited => one(429, "too many requests of this identity"),
            Self::Overloaded => one(503, "too many requests wait for the key store"),
            Self::Internal(text) => one(500, text),
            Self::Malformed(Malformed { status, reason }) => one(*status, reason),
        }
    }

    /// The answer that the client gets: in the words of `texts`, in the form of `generation`.
    pub fn reply(&self, texts: Generation, generation: Generation) -> Reply {
        let is_old = generation == Generation::V0_14;
        let (status, message) = self.answer(texts);
        let mut reply = Reply { status, announces_trailers: is_old, ..Reply::empty() };
        match self {
            Self::Moved(path) => {
                reply.status = if is_old { 301 } else { 307 };
                reply.header = Some(("Location", path.clone()));
            }
            Self::NoSuchPath => {
                reply.content_type = Some("text/plain; charset=utf-8");
                reply.is_nosniff = true;
                reply.body = message.into_owned().into_bytes();
            }
            _ => {
                reply.header = match self {
                    Self::MethodNotAllowed(_, expected) => Some(("Accept", (*expected).to_owned())),
                    // In seconds: no limit of requests a second refuses for longer.
                    Self::Limited => Some(("Retry-After", "1".to_owned())),
                    _ => None,
                };
                reply.is_nosniff = is_old;
                reply.content_type = Some(match generation {
                    Generation::V0_14 => "application/json; charset=utf-8",
                    Generation::Newest => "application/json",
                });
                reply.body = Object::new().text("message", &message).into_json().into_bytes();
                if !is_old {
                    // The newest generation writes it so.
                    reply.body.insert(reply.body.len() - 1, b'\n');
                }
            }
        }
        reply
    }
}
