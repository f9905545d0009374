//! HTTP without sockets: bytes in, request heads and bodies out; replies in, bytes out.
//!
//! Knows nothing of TLS, routes or keys. Whatever is ambiguous about where a request ends is
//! refused, so that nothing in front of the server can be made to disagree with it.

pub mod body;
pub mod head;
pub mod reply;
pub mod two;

/// A request method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `GET`
    Get,
    /// `HEAD`
    Head,
    /// `POST`
    Post,
    /// `PUT`
    Put,
    /// `DELETE`
    Delete,
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
            _ => Self::Other,
        }
    }

    /// The name as it stands in a request.
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Other => "OTHER",
        }
    }
}

/// A request that can't be understood; the connection is closed after the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// 400, 417, 431, 501 or 505.
    pub status: u16,
    /// What was wrong, for the client.
    pub reason: &'static str,
}

/// A request that can't be understood, and the path that it seems to be for.
pub type Refused = (Malformed, String);

impl Malformed {
    /// Status 400 with `reason`.
    pub const fn bad_request(reason: &'static str) -> Self {
        Self { status: 400, reason }
    }
}
