//! Answers, whatever version of HTTP they are sent in.

/// The value of the header that announces the trailers `Status` and `Error`.
pub const TRAILER: &str = "Status, Error";

pub struct Reply {
    pub status: u16,
    pub content_type: Option<&'static str>,
    /// Whether browsers must believe `content_type`: adds `X-Content-Type-Options`.
    pub is_nosniff: bool,
    pub header: Option<(&'static str, String)>,
    pub body: Vec<u8>,
    pub announces_trailers: bool,
    /// Whether the body is sent without its length, with trailers that say that it is complete.
    pub is_stream: bool,
    /// Whether the body is sent as it comes about, without length or trailers.
    pub is_open: bool,
}

impl Reply {
    pub fn empty() -> Self {
        Self {
            status: 200,
            content_type: None,
            is_nosniff: false,
            header: None,
            body: Vec::new(),
            announces_trailers: true,
            is_stream: false,
            is_open: false,
        }
    }

    pub fn json(body: Vec<u8>) -> Self {
        Self { content_type: Some("application/json"), body, ..Self::empty() }
    }

    /// Status 200 with lines of JSON, complete when the trailer `Status` says 200.
    pub fn json_lines(body: Vec<u8>) -> Self {
        Self { content_type: Some("application/x-ndjson"), body, is_stream: true, ..Self::empty() }
    }

    /// Status 200 with lines of JSON to come, until either side ends the answer.
    pub fn open_stream() -> Self {
        Self {
            content_type: Some("application/x-ndjson"),
            announces_trailers: false,
            is_open: true,
            ..Self::empty()
        }
    }
}

/// Writes `number` in decimal digits to the end of `space`. The formatting of the standard library costs
/// more than the rest of a head.
pub fn decimal(mut number: usize, space: &mut [u8; 20]) -> &[u8] {
    let mut at = space.len();
    loop {
        at -= 1;
        // One decimal digit always fits.
        space[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &space[at..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_in_decimal() {
        for number in [0, 7, 10, 200, 1_048_576, usize::MAX] {
            assert_eq!(number.to_string().as_bytes(), decimal(number, &mut [0; 20]));
        }
    }
}
