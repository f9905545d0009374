//! A client that follows a log stream.

use std::{collections::VecDeque, io};

use serde_json::Value;

use super::{Client, Connection, Response};

/// A subscriber.
pub struct Follower {
    pub head: Response,
    connection: Connection,
    lines: VecDeque<String>,
}

impl Follower {
    /// Subscribes, and returns when the head of the answer is there.
    #[track_caller]
    pub fn start(client: &Client, path: &str) -> Self {
        let mut connection = client.connect();
        connection.send(format!("GET {path} HTTP/1.1\r\nHost: kes\r\n\r\n"));
        let head = connection.try_response(true).unwrap();
        assert_eq!(200, head.status, "{head:?}");
        Self { head, connection, lines: VecDeque::new() }
    }

    /// The next line, or `None` if the stream has come to its proper end.
    pub fn try_line(&mut self) -> io::Result<Option<String>> {
        while self.lines.is_empty() {
            let chunk = self.connection.chunk()?;
            if chunk.is_empty() {
                return Ok(None);
            }
            let text = String::from_utf8(chunk).map_err(io::Error::other)?;
            assert!(text.ends_with('\n'), "a chunk has whole lines: {text:?}");
            self.lines.extend(text.lines().map(str::to_owned));
        }
        Ok(self.lines.pop_front())
    }

    /// The next event.
    #[track_caller]
    pub fn event(&mut self) -> Value {
        let line = self.try_line().unwrap().expect("the stream goes on");
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line:?}: {e}"))
    }

    /// The lines up to and with the first that contains `text`.
    #[track_caller]
    pub fn until(&mut self, text: &str) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let line = self.try_line().unwrap().expect("the stream goes on");
            let is_last = line.contains(text);
            lines.push(line);
            if is_last {
                return lines;
            }
        }
    }

    /// All lines up to the proper end.
    pub fn rest(&mut self) -> io::Result<Vec<String>> {
        let mut lines = Vec::new();
        while let Some(line) = self.try_line()? {
            lines.push(line);
        }
        Ok(lines)
    }

    pub fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }
}
