//! Requests, whatever version of HTTP they come in: heads, and the reasons to refuse them.

use super::target;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Patch,
    Options,
    Trace,
    Connect,
    /// Any other token.
    Other,
}

impl Method {
    /// The method with this exact, case-sensitive name.
    pub fn parse(name: &str) -> Self {
        match name {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "DELETE" => Self::Delete,
            "PATCH" => Self::Patch,
            "OPTIONS" => Self::Options,
            "TRACE" => Self::Trace,
            "CONNECT" => Self::Connect,
            _ => Self::Other,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Patch => "PATCH",
            Self::Options => "OPTIONS",
            Self::Trace => "TRACE",
            Self::Connect => "CONNECT",
            Self::Other => "OTHER",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// 400, 417, 431, 501 or 505.
    pub status: u16,
    /// The mistake, for the client.
    pub reason: &'static str,
}

impl Malformed {
    pub const EXPECTATION: Self = Self { status: 417, reason: "unsupported expectation" };
    pub const TOO_LONG: Self = Self { status: 431, reason: "request head over 64 KiB" };

    pub const fn bad_request(reason: &'static str) -> Self {
        Self { status: 400, reason }
    }
}

/// The reason to refuse a request, and the path that it seems to be for.
pub type Refused = (Malformed, String);

/// The only value of `Expect` that the server supports, without case.
pub const CONTINUE: &[u8] = b"100-continue";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    None,
    /// `Content-Length`, in bytes.
    Length(u64),
    /// `Transfer-Encoding: chunked`, or the end of an HTTP/2 stream.
    Chunked,
}

/// A request head with a single meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub method: Method,
    /// The path, percent-decoded but not cleaned.
    pub path: String,
    pub query: Option<String>,
    pub is_http11: bool,
    pub keep_alive: bool,
    pub framing: Framing,
    pub has_content_type: bool,
    pub expects_continue: bool,
    /// The values of the header to keep: all of them, in their order.
    pub kept: Vec<Vec<u8>>,
}

impl Head {
    /// Whether the client says nothing of a body: none is announced, nor its type.
    pub fn announces_no_body(&self) -> bool {
        matches!(self.framing, Framing::None | Framing::Length(0)) && !self.has_content_type
    }

    /// The head of a request for `target` without body or further headers, on a connection that stays open.
    ///
    /// # Errors
    /// [`Malformed`] if `target` is neither in origin form nor in absolute form, or its path is not UTF-8.
    pub fn new(method: Method, target: &str) -> Result<Self, Malformed> {
        let (path, query) = target::split(target).map_err(Malformed::bad_request)?;
        Ok(Self {
            method,
            path,
            query,
            is_http11: true,
            keep_alive: true,
            framing: Framing::None,
            has_content_type: false,
            expects_continue: false,
            kept: Vec::new(),
        })
    }
}
