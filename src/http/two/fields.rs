//! The fields of a header block, checked (RFC 9113 8.2 and 8.3), and the request that they make.

use super::hpack::{Broken, Decoder, OVERHEAD};
use crate::http::{
    request::{CONTINUE, Framing, Head, Malformed, Method, Refused},
    target::seeming_path,
};

/// A header block as it is sent, and its fields as RFC 9113 6.5.2 counts them, in bytes.
pub const MAX_HEADERS: usize = 64 * 1024;

#[derive(Default)]
pub struct Fields {
    method: Option<Method>,
    path: Option<String>,
    has_scheme: bool,
    authority: Option<String>,
    has_host: bool,
    /// There are no pseudo-fields, as in trailers.
    pub is_trailer: bool,
    pub length: Option<u64>,
    expects_continue: bool,
    has_content_type: bool,
    expects_more: bool,
    kept: Vec<Vec<u8>>,
    size: usize,
    has_regular: bool,
    pub is_malformed: bool,
}

/// Reads a header block, and keeps the values of the field `kept`.
pub fn read(decoder: &mut Decoder, block: &[u8], kept: Option<&str>) -> Result<Fields, Broken> {
    let mut fields = Fields { is_trailer: true, ..Fields::default() };
    decoder.decode(block, |name, value| {
        fields.is_malformed = fields.is_malformed || fields.add(name, value, kept).is_none();
        if fields.is_malformed && name == b":path" && fields.path.is_none() {
            fields.path = Some(seeming_path(value));
        }
    })?;
    Ok(fields)
}

impl Fields {
    /// Adds a field. `None` if that makes the block malformed.
    fn add(&mut self, name: &[u8], value: &[u8], kept: Option<&str>) -> Option<()> {
        self.size += name.len() + value.len() + OVERHEAD;
        if self.size > MAX_HEADERS {
            // The request is refused, whatever else it says.
            return Some(());
        }
        let is_text = |byte: &u8| !matches!(byte, 0 | b'\r' | b'\n');
        let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
        if !value.iter().all(is_text) || blank(value.first()) || blank(value.last()) {
            return None;
        }
        if let [b':', pseudo @ ..] = name {
            self.is_trailer = false;
            if self.has_regular {
                return None;
            }
            return self.add_pseudo(pseudo, value);
        }
        self.has_regular = true;
        if !is_token(name) || name.iter().any(u8::is_ascii_uppercase) {
            return None;
        }
        if kept.is_some_and(|kept| kept.as_bytes().eq_ignore_ascii_case(name)) {
            self.kept.push(value.to_vec());
        }
        match name {
            // RFC 9113 8.2.2: fields of the connection are malformed.
            b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding"
            | b"upgrade" => None,
            b"te" if !value.eq_ignore_ascii_case(b"trailers") => None,
            b"content-length" => {
                let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
                let length = std::str::from_utf8(value).ok().filter(|_| is_number)?;
                let length = length.parse().ok()?;
                let is_same = self.length.is_none_or(|known| known == length);
                self.length = Some(length);
                is_same.then_some(())
            }
            b"content-type" => {
                self.has_content_type = true;
                Some(())
            }
            b"expect" => {
                self.expects_continue = true;
                self.expects_more |= !value.eq_ignore_ascii_case(CONTINUE);
                Some(())
            }
            // A proxy in front of the server may have routed by the other one (RFC 9113 8.3.1).
            b"host" => {
                let is_new = !std::mem::replace(&mut self.has_host, true);
                let authority = self.authority.as_deref().map(str::as_bytes);
                let is_same = authority.is_none_or(|known| known.eq_ignore_ascii_case(value));
                (is_new && is_same).then_some(())
            }
            _ => Some(()),
        }
    }

    fn add_pseudo(&mut self, name: &[u8], value: &[u8]) -> Option<()> {
        let text = std::str::from_utf8(value).ok()?;
        let is_new = match name {
            b"method" => self.method.replace(Method::parse(text)).is_none() && is_token(value),
            b"path" => self.path.replace(text.to_owned()).is_none(),
            b"scheme" => !std::mem::replace(&mut self.has_scheme, true),
            b"authority" => self.authority.replace(text.to_owned()).is_none(),
            _ => false,
        };
        is_new.then_some(())
    }

    /// The head of a request, or the reason to refuse it, and the announced length of its body. Fails with
    /// the path that a malformed one seems to be for.
    pub fn request(
        self,
        is_complete: bool,
    ) -> Result<(Result<Head, Refused>, Option<u64>), String> {
        let path = self.path.unwrap_or_default();
        let seeming_path = || seeming_path(path.as_bytes());
        if self.is_malformed || (is_complete && self.length.is_some_and(|length| length > 0)) {
            return Err(seeming_path());
        }
        if self.size > MAX_HEADERS {
            return Ok((Err((Malformed::TOO_LONG, seeming_path())), None));
        }
        // RFC 9113 8.3.1: a path is not in the absolute form of HTTP/1.1, which proxies may not expect.
        let has_path = path.starts_with('/') || path == "*";
        let Some(method) = self.method.filter(|_| self.has_scheme && has_path) else {
            return Err(seeming_path());
        };
        if self.expects_more {
            return Ok((Err((Malformed::EXPECTATION, seeming_path())), self.length));
        }
        let head = Head::new(method, &path).map(|head| Head {
            framing: match (is_complete, self.length) {
                (true, _) => Framing::None,
                (false, Some(length)) => Framing::Length(length),
                (false, None) => Framing::Chunked,
            },
            has_content_type: self.has_content_type,
            expects_continue: self.expects_continue && !is_complete,
            kept: self.kept,
            ..head
        });
        Ok((head.map_err(|malformed| (malformed, seeming_path())), self.length))
    }
}

/// Whether `text` is a token (RFC 9110 5.6.2).
fn is_token(text: &[u8]) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !text.is_empty() && text.iter().all(is_part)
}

#[cfg(test)]
mod tests {
    use super::{super::hpack::put_field, *};

    /// The outcome of a request with this method and these fields.
    fn fate(method: &str, more: &[(&str, &str)]) -> String {
        let mut block = Vec::new();
        let first = [(":method", method), (":scheme", "https"), (":path", "/a")];
        for (name, value) in first.iter().chain(more) {
            put_field(&mut block, name, value.as_bytes());
        }
        let fields = read(&mut Decoder::default(), &block, None).unwrap();
        match fields.request(true) {
            Ok((Ok(head), _)) => format!("{:?} {}", head.method, head.path),
            Ok((Err((refusal, _)), _)) => refusal.status.to_string(),
            Err(_) => "malformed".to_owned(),
        }
    }

    #[test]
    fn a_method_is_a_token() {
        for method in ["GET", "get", "PURGE", "M-SEARCH", "!#$%&'*+-.^_`|~09az"] {
            assert!(fate(method, &[]).ends_with("/a"), "{method:?}");
        }
        for method in ["", "GE T", "GET ", "GET/", "G\u{e9}T", "GET\x7f", "(GET)"] {
            assert_eq!("malformed", fate(method, &[]), "{method:?}");
        }
    }

    #[test]
    fn a_host_names_the_same_authority() {
        let authority = |value| (":authority", value);
        for fields in [
            vec![authority("kes:7373")],
            vec![authority("kes:7373"), ("host", "kes:7373")],
            vec![authority("Kes:7373"), ("a", "b"), ("host", "kES:7373")],
            vec![("host", "kes:7373")],
        ] {
            assert_eq!("Get /a", fate("GET", &fields), "{fields:?}");
        }
        for fields in [
            vec![authority("kes"), ("host", "other")],
            vec![authority("kes"), ("host", "kes:7373")],
            vec![authority("kes"), ("host", "")],
            vec![authority(""), ("host", "kes")],
            vec![authority("kes"), ("host", "kes"), ("host", "kes")],
            vec![("host", "kes"), ("host", "kes")],
        ] {
            assert_eq!("malformed", fate("GET", &fields), "{fields:?}");
        }
    }

    #[test]
    fn a_request_that_ends_with_its_head_has_no_body_and_awaits_none() {
        assert_eq!("Get /a", fate("GET", &[("content-length", "0")]));
        assert_eq!("malformed", fate("GET", &[("content-length", "1")]));
        for is_complete in [true, false] {
            let mut block = Vec::new();
            for (name, value) in [
                (":method", "PUT"),
                (":scheme", "https"),
                (":path", "/a"),
                ("expect", "100-continue"),
            ] {
                put_field(&mut block, name, value.as_bytes());
            }
            let fields = read(&mut Decoder::default(), &block, None).unwrap();
            let head = fields.request(is_complete).unwrap().0.unwrap();
            assert_eq!(!is_complete, head.expects_continue);
        }
    }

    #[test]
    fn a_malformed_request_is_for_the_path_that_it_seems_to_name() {
        let path = (":path", &b"/v1/\xff"[..]);
        let (method, wrong, other) =
            ((":method", &b"GET"[..]), ("X", &b"/x"[..]), ("y", &b"/y"[..]));
        for all in [
            [method, wrong, path],
            [method, path, wrong],
            [wrong, other, path],
            [path, wrong, other],
        ] {
            let mut block = Vec::new();
            for (name, value) in all {
                put_field(&mut block, name, value);
            }
            let fields = read(&mut Decoder::default(), &block, None).unwrap();
            assert!(fields.request(true).is_err_and(|path| path.starts_with("/v1/")), "{all:?}");
        }
    }

    #[test]
    fn fields_have_64_kib_as_http2_counts_them() {
        // The three of each request have 125 bytes, and the name and the overhead of this one 33.
        let value = "v".repeat(MAX_HEADERS - 125 - 33);
        assert_eq!("Get /a", fate("GET", &[("a", &value)]));
        assert_eq!("431", fate("GET", &[("a", &(value.clone() + "v"))]));
        assert_eq!("431", fate("GET", &[("a", &value), ("a", "")]));
        // The last that fits is still read, and nothing behind it.
        let wrong = format!(" {}", &value[1..]);
        assert_eq!("malformed", fate("GET", &[("a", &wrong)]));
        assert_eq!("431", fate("GET", &[("a", &value), ("Upper", "")]));
    }

    #[test]
    fn a_head_says_what_its_fields_say() {
        let head = |more: &[(&str, &str)]| {
            let mut block = Vec::new();
            let first = [(":method", "PUT"), (":scheme", "https"), (":path", "/a?b")];
            for (name, value) in first.iter().chain(more) {
                put_field(&mut block, name, value.as_bytes());
            }
            let fields = read(&mut Decoder::default(), &block, Some("X-Kept")).unwrap();
            fields.request(false).unwrap()
        };
        let (head_, length) = head(&[]);
        let plain = Head { framing: Framing::Chunked, ..Head::new(Method::Put, "/a?b").unwrap() };
        assert_eq!((Ok(plain.clone()), None), (head_, length));
        let (full, length) = head(&[
            ("x-kept", "1"),
            ("content-type", "text/plain"),
            ("content-length", "5"),
            ("expect", "100-continue"),
            ("x-kept", "2"),
            ("x-other", "3"),
            ("te", "Trailers"),
            ("content-length", "5"),
        ]);
        let wanted = Head {
            framing: Framing::Length(5),
            has_content_type: true,
            expects_continue: true,
            kept: vec![b"1".to_vec(), b"2".to_vec()],
            ..plain
        };
        assert_eq!((Ok(wanted), Some(5)), (full, length));
    }

    #[test]
    fn there_is_one_expectation_only() {
        let expect = |value| ("expect", value);
        let go_ahead = expect("100-Continue");
        assert_eq!("Get /a", fate("GET", &[go_ahead]));
        for fields in [
            vec![expect("a-miracle")],
            vec![expect("")],
            vec![go_ahead, expect("a-miracle")],
            vec![expect("a-miracle"), go_ahead],
        ] {
            assert_eq!("417", fate("GET", &fields), "{fields:?}");
        }
    }
}
