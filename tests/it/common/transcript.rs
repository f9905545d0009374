//! Recorded sessions, as `testdata/transcripts/README.md` describes the format.

/// A recorded connection: what the client sent, and what came back.
pub struct Exchange {
    pub number: usize,
    pub title: String,
    /// The name of the client whose certificate was shown; `None` if the title says nothing.
    pub client: Option<String>,
    /// The bytes that were sent, whole.
    pub request: Vec<u8>,
    /// The answers up to the end of the recording, interim ones too.
    pub answers: Vec<Answer>,
    pub end: End,
}

/// How a connection went on after the answers.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    Open,
    Closed,
    /// The handshake was refused with this alert.
    Refused(String),
    /// The server closed by itself after so many seconds, or was still waiting then.
    After {
        seconds: f64,
        closed: bool,
    },
}

#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub protocol: String,
    pub status: u16,
    pub phrase: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    /// Whether the recording has only the beginning of the body.
    pub is_cut: bool,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

impl Exchange {
    pub fn method(&self) -> &str {
        self.line().0
    }

    pub fn path(&self) -> &str {
        self.line().1
    }

    fn line(&self) -> (&str, &str) {
        let end = self.request.iter().position(|byte| *byte == b'\r').unwrap_or(0);
        let line = std::str::from_utf8(&self.request[..end]).unwrap();
        let mut words = line.split(' ');
        (words.next().unwrap_or(""), words.next().unwrap_or(""))
    }

    /// Whether it was the server's turn to end the connection.
    pub fn is_about_time(&self) -> bool {
        matches!(self.end, End::After { .. })
    }
}

/// All exchanges of a recording.
pub fn parse(text: &str) -> Vec<Exchange> {
    let mut exchanges = Vec::new();
    let mut blocks = text.split("\n=== ");
    let head = blocks.next().unwrap();
    assert!(head.lines().all(|line| line.starts_with('#') || line.is_empty()), "{head}");
    for block in blocks {
        let exchange = exchange(block);
        assert_eq!(exchanges.len() + 1, exchange.number, "{}", exchange.title);
        exchanges.push(exchange);
    }
    exchanges
}

fn exchange(block: &str) -> Exchange {
    let (head, rest) = block.split_once('\n').unwrap();
    let (number, title) = head.split_once(". ").unwrap();
    let (title, client) = match title.split_once("   (client certificate: ") {
        Some((title, name)) => (title, Some(name.strip_suffix(')').unwrap().to_owned())),
        None => (title, None),
    };
    let (mut sent, mut received, mut end) = (Vec::new(), Vec::new(), None);
    for line in rest.lines() {
        let kept =
            |mark| line.strip_prefix(mark).map(|rest: &str| rest.strip_prefix(' ').unwrap_or(rest));
        if let Some(line) = kept('>') {
            sent.push(line);
        } else if let Some(line) = kept('<') {
            received.push(line);
        } else if line.starts_with('[') {
            end = Some(parse_end(line));
        } else {
            assert!(line.is_empty() || line.starts_with('#'), "{number}: {line}");
        }
    }
    let request = request(title, &sent);
    let is_head = request.starts_with(b"HEAD ");
    Exchange {
        number: number.parse().unwrap(),
        title: title.to_owned(),
        client,
        request,
        answers: answers(&received.join("\n"), is_head),
        end: end.unwrap_or_else(|| panic!("{number}: no end")),
    }
}

fn parse_end(line: &str) -> End {
    let seconds = || line.rsplit(' ').nth(1).unwrap().parse().unwrap();
    match line {
        "[connection stays open]" => End::Open,
        "[connection closed by server]" => End::Closed,
        _ if line.starts_with("[closed by server] after ") => {
            End::After { seconds: seconds(), closed: true }
        }
        _ if line.starts_with("[TimeoutError] after ") => {
            End::After { seconds: seconds(), closed: false }
        }
        _ => {
            let (_, alert) = line.split_once("ALERT_").unwrap_or_else(|| panic!("{line}"));
            let words = alert.split(']').next().unwrap().split('_');
            let camel = words.map(|word| word[..1].to_owned() + &word[1..].to_lowercase());
            End::Refused(camel.collect())
        }
    }
}

const CUT: &str = "… [";

/// `text` and, if it was cut, the length of the message that it is the end of.
fn cut(text: &str) -> (&str, Option<usize>) {
    let marked = text.strip_suffix(" bytes in all]").and_then(|text| text.rsplit_once(CUT));
    match marked {
        Some((text, length)) => (text, Some(length.parse().unwrap())),
        None => (text, None),
    }
}

/// The bytes behind the lines of a request: the recording has its line ends as such, leaves out the empty
/// lines at its end, and cuts what is very long.
fn request(title: &str, lines: &[&str]) -> Vec<u8> {
    if lines == ["(nothing)"] {
        return Vec::new();
    }
    let lines: Vec<_> =
        lines.iter().map(|line| line.strip_suffix(" (no TLS)").unwrap_or(line)).collect();
    let text = lines.join("\r\n");
    let (start, length) = cut(&text);
    let mut bytes = start.as_bytes().to_vec();
    let (head, body) = start.split_once("\r\n\r\n").unwrap_or((start, ""));
    let has = |header: &str| head.contains(&format!("\r\n{header}: "));
    let is_chunked = has("Transfer-Encoding");
    if title == "timeout: half a request header" {
        return bytes;
    }
    if body.is_empty() && length.is_none() {
        return [&bytes[..], b"\r\n\r\n"].concat();
    }
    // What stands behind what was cut.
    let mut end = match body.as_bytes().first() {
        _ if length.is_none() => "",
        None => "",
        Some(b'{') if body.contains('[') => "\"]}",
        Some(b'{') => "\"}",
        Some(_) => "\"}\r\n0",
    }
    .to_owned();
    if is_chunked || !has("Content-Length") {
        end.push_str("\r\n\r\n");
    }
    if let Some(length) = length {
        // All of these repeat one or four characters.
        while bytes.len() + end.len() < length {
            bytes.push(bytes[bytes.len() - 4]);
        }
    }
    bytes.extend(end.as_bytes());
    bytes
}

/// The answers in what a server sent.
pub fn answers(text: &str, is_head: bool) -> Vec<Answer> {
    let (mut text, length) = cut(text);
    let mut answers = Vec::new();
    while !text.is_empty() {
        let mut answer;
        (answer, text) = one_answer(text, is_head, length.is_some());
        answer.is_cut = length.is_some();
        answers.push(answer);
    }
    answers
}

fn one_answer(text: &str, is_head: bool, is_cut: bool) -> (Answer, &str) {
    let (head, mut rest) = text.split_once("\n\n").unwrap_or((text, ""));
    let mut lines = head.lines();
    let first = lines.next().unwrap();
    let mut words = first.splitn(3, ' ');
    let mut answer = Answer {
        protocol: words.next().unwrap().to_owned(),
        status: words.next().unwrap_or_else(|| panic!("{first}")).parse().unwrap(),
        phrase: words.next().unwrap_or_default().to_owned(),
        headers: lines.map(header).collect(),
        ..Answer::default()
    };
    if is_head || answer.status < 200 {
        return (answer, rest);
    }
    if answer.header("Transfer-Encoding") == Some("chunked") {
        loop {
            let (size, after) = rest.split_once('\n').unwrap_or((rest, ""));
            rest = after;
            // A stream that goes on has no last chunk.
            let Ok(size) = usize::from_str_radix(size, 16) else { break };
            if size == 0 {
                break;
            }
            let count = size.min(rest.len());
            answer.body.extend(&rest.as_bytes()[..count]);
            if !is_cut {
                assert!(size - count < 3, "{first}: a chunk of {size}, {count} recorded");
                // The recording leaves out line ends at its own end.
                answer.body.extend(&b"\n\n"[..size - count]);
            }
            rest = rest[count..].strip_prefix('\n').unwrap_or(&rest[count..]);
        }
        let (trailers, after) = rest.split_once("\n\n").unwrap_or((rest, ""));
        let is_next = trailers.starts_with("HTTP/") || trailers.starts_with('\n');
        if !is_next {
            answer.trailers =
                trailers.lines().filter(|line| !line.is_empty()).map(header).collect();
            rest = after;
        }
        return (answer, rest.trim_start_matches('\n'));
    }
    let length = answer.header("Content-Length").map(|length| length.parse::<usize>().unwrap());
    let count = length.unwrap_or(rest.len()).min(rest.len());
    answer.body.extend(&rest.as_bytes()[..count]);
    // The recording leaves out line ends at its own end.
    if let Some(length) = length.filter(|_| !is_cut) {
        assert!(length - count < 3, "{first}: {length} bytes announced, {count} recorded");
        answer.body.resize(length, b'\n');
    }
    (answer, &rest[count..])
}

fn header(line: &str) -> (String, String) {
    let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("{line:?}"));
    (name.to_owned(), value.trim().to_owned())
}
