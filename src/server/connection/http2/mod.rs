//! HTTP/2 on a connection: many requests at once, each with a stream of its own.
//!
//! The protocol itself is the crate `h2`, polled by whichever worker drives the connection: bytes go
//! in and come out through a [`Pipe`], and nothing here ever waits or wakes. What a client can make
//! the server hold is bounded by the settings below, what it can make it do by the [`Meter`].

mod meter;
mod pipe;
mod streams;

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Instant,
};

use h2::{
    Reason, RecvStream,
    server::{Builder, Handshake, SendResponse},
};

use self::{
    meter::{Flood, Meter},
    pipe::{Payload, Pipe},
    streams::{State, Stream},
};
use super::{
    Connection, IDLE_TIMEOUT, Inner, READ_TIMEOUT, Stage, Step, Wait,
    answering::{Admitted, Pending},
    streaming::Streaming,
};
use crate::{
    http::{
        Method,
        head::{Framing, Head},
    },
    metrics::Event,
    server::{Server, failure::Failure},
};

/// Requests at the same time on one connection. Go clients open another one when that is not enough.
const MAX_STREAMS: u32 = 250;
/// The headers of a request, in bytes as RFC 9113 6.5.2 counts them.
const MAX_HEADERS: u32 = 64 * 1024;
/// Bytes of bodies that may be under way unread: on a connection, and on a stream.
const CONNECTION_WINDOW: u32 = 1 << 20;
const STREAM_WINDOW: u32 = 64 * 1024;
/// Bodies and answers that a connection may hold, in bytes. More requests are not begun before.
const MAX_HELD: usize = 4 << 20;
/// Bytes of answers to one stream that `h2` may keep for the client to make room for.
const SEND_BUFFER: usize = 256 * 1024;

/// What a connection keeps of HTTP/2.
pub(super) struct Http2 {
    link: Link,
    pipe: Pipe,
    meter: Meter,
    /// The requests that are not over, in the order of their arrival.
    streams: Vec<Stream>,
    /// What they hold, in bytes.
    held: usize,
    opened: Instant,
    is_draining: bool,
}

enum Link {
    Opening(Handshake<Pipe, Payload>),
    Open(h2::server::Connection<Pipe, Payload>),
}

/// How a connection goes on.
#[derive(PartialEq, Eq)]
enum End {
    /// It does.
    No,
    /// It is over; what there is to say is in the pipe.
    Yes,
}

/// Nobody is woken: whoever has something for a connection arms its socket.
fn context() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

impl Http2 {
    /// A connection whose handshake has just ended.
    pub(super) fn new(now: Instant) -> Self {
        let pipe = Pipe::default();
        let handshake = Builder::new()
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEADERS)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .initial_window_size(STREAM_WINDOW)
            .max_send_buffer_size(SEND_BUFFER)
            // All requests may be given up before any of them was looked at: a busy server reads
            // them and their resets at once. How many may be given up is the meter's.
            .max_pending_accept_reset_streams(MAX_STREAMS as usize)
            .handshake(pipe.clone());
        Self {
            link: Link::Opening(handshake),
            pipe,
            meter: Meter::new(now),
            streams: Vec::new(),
            held: 0,
            opened: now,
            is_draining: false,
        }
    }

    /// Whether no request is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.streams.is_empty()
    }

    /// The request with this number, if its answer is waited for.
    pub(super) fn pending(&mut self, request: u64) -> Option<&mut Pending> {
        match &mut self.stream(request)?.state {
            State::Waiting(pending) => Some(pending),
            _ => None,
        }
    }

    /// The log stream that is the answer to the request with this number.
    pub(super) fn streaming(&mut self, request: u64) -> Option<&mut Streaming> {
        match &mut self.stream(request)?.state {
            State::Streaming(following) => Some(&mut following.streaming),
            _ => None,
        }
    }

    fn stream(&mut self, request: u64) -> Option<&mut Stream> {
        self.streams
            .iter_mut()
            .find(|stream| stream.request == request)
    }

    /// Ends the log stream that is the answer to the request with this number. If not `is_complete`,
    /// the client sees that some is missing.
    pub(super) fn end_stream(&mut self, request: u64, is_complete: bool) {
        if let Some(stream) = self.stream(request) {
            match (&mut stream.state, is_complete) {
                (State::Streaming(following), true) => following.has_ended = true,
                _ => stream.send_away(),
            }
        }
    }

    /// Ends what is under way where nobody will hear the answers.
    pub(super) fn abandon(self) {
        self.streams.into_iter().for_each(Stream::abandon);
    }

    /// When the sweeper must look.
    pub(super) fn deadline(&self, now: Instant) -> Instant {
        let at = match (&self.link, self.meter.incomplete_since()) {
            (Link::Opening(_), _) => self.opened + READ_TIMEOUT,
            (Link::Open(_), Some(since)) => since + READ_TIMEOUT,
            (Link::Open(_), None) => now + IDLE_TIMEOUT,
        };
        let streams = self.streams.iter().map(|stream| stream.deadline);
        streams.fold(at, Instant::min)
    }

    /// Says why the connection is closed; what is under way is not answered.
    fn hang_up(&mut self, reason: Reason) {
        if let Link::Open(link) = &mut self.link {
            link.abrupt_shutdown(reason);
            let _ = link.poll_closed(&mut context());
        }
    }

    /// Closes on a client that asks for too much, or does not take what it asked for.
    fn calm(&mut self, server: &Server) -> End {
        server.metrics.count(Event::Http2Flood);
        self.hang_up(Reason::ENHANCE_YOUR_CALM);
        End::Yes
    }

    /// Asks for no more requests.
    fn drain(&mut self) {
        if let Link::Open(link) = &mut self.link
            && !std::mem::replace(&mut self.is_draining, true)
        {
            link.graceful_shutdown();
        }
    }

    /// Does what can be done with what has come in and what has been answered.
    fn drive(&mut self, inner: &mut Inner, connection: &Arc<Connection>, server: &Server) -> End {
        let cx = &mut context();
        if let Link::Opening(handshake) = &mut self.link {
            match Pin::new(handshake).poll(cx) {
                Poll::Pending => return End::No,
                Poll::Ready(Ok(link)) => self.link = Link::Open(link),
                Poll::Ready(Err(_)) => return End::Yes,
            }
        }
        if server.is_draining() {
            self.drain();
        }
        loop {
            while let Link::Open(link) = &mut self.link {
                let next = match self.held < MAX_HELD {
                    true => link.poll_accept(cx),
                    false => link.poll_closed(cx).map(|closed| closed.err().map(Err)),
                };
                match next {
                    Poll::Pending => break,
                    Poll::Ready(Some(Ok((request, respond)))) => {
                        self.begin(request, respond, inner, connection, server);
                    }
                    Poll::Ready(Some(Err(error))) => {
                        if error.is_library() && error.reason() == Some(Reason::ENHANCE_YOUR_CALM) {
                            server.metrics.count(Event::Http2Flood);
                        }
                        return End::Yes;
                    }
                    Poll::Ready(None) => return End::Yes,
                }
            }
            if !self.advance_streams(inner, connection, server) {
                return End::No;
            }
        }
    }

    /// Takes a new request as far as it gets now.
    fn begin(
        &mut self,
        request: http::Request<RecvStream>,
        respond: SendResponse<Payload>,
        inner: &mut Inner,
        connection: &Arc<Connection>,
        server: &Server,
    ) {
        let (parts, source) = request.into_parts();
        let admitted = server.with_state(|state| {
            let kept = inner.peer.as_ref().and_then(|peer| state.forwards_in(peer));
            let mut head = head(&parts, kept).map_err(Failure::Malformed)?;
            let admitted = inner.admit(&mut head, state, connection, server);
            let admitted = admitted.ok_or(Failure::Internal("the client is not known"))?;
            Ok::<_, Failure>((head, admitted))
        });
        let is_head = parts.method == http::Method::HEAD;
        let mut stream = Stream::new(inner.requests, is_head, respond, source, inner.now);
        match admitted {
            Ok((head, Admitted::Granted(exchange, max_body))) => {
                stream.open(exchange, max_body, &head);
            }
            Ok((_, Admitted::Answered(reply, is_last))) => {
                if is_last {
                    self.drain();
                }
                stream.reply(reply, inner.now);
            }
            // What is no request is not audited.
            Err(failure) => stream.reply(failure.reply(), inner.now),
        }
        let may_read = self.held < MAX_HELD;
        while stream.advance(may_read, inner, connection, server) {}
        if !stream.is_over() {
            self.held += stream.held();
            self.streams.push(stream);
        }
    }

    /// Takes the streams as far as they get. Whether any of them got further.
    fn advance_streams(
        &mut self,
        inner: &mut Inner,
        connection: &Arc<Connection>,
        server: &Server,
    ) -> bool {
        if self.streams.is_empty() {
            return false;
        }
        if self.meter.has_reset() {
            self.streams
                .extract_if(.., Stream::was_reset)
                .for_each(Stream::abandon);
        }
        let (mut has_moved, mut held, mut is_first) = (false, 0, true);
        for stream in &mut self.streams {
            // The oldest body comes in whatever the others hold, so that there is an end to it.
            let is_body = matches!(stream.state, State::Body(_));
            let may_read = self.held < MAX_HELD || (is_body && std::mem::take(&mut is_first));
            while stream.advance(may_read, inner, connection, server) {
                has_moved = true;
            }
            held += stream.held();
        }
        self.held = held;
        self.streams.retain(|stream| !stream.is_over());
        has_moved
    }
}

/// The head of a request, in the terms of HTTP/1.1.
fn head(parts: &http::request::Parts, kept: Option<&str>) -> Result<Head, crate::http::Malformed> {
    let target = parts
        .uri
        .path_and_query()
        .map_or("", |target| target.as_str());
    let mut head = Head::new(Method::parse(parts.method.as_str()), target)?;
    let headers = &parts.headers;
    if let Some(name) = kept {
        let values = headers.get_all(name).iter();
        head.kept = values.map(|value| value.as_bytes().to_vec()).collect();
    }
    // `h2` has compared the length with the data, or will.
    if let Some(length) = headers.get(http::header::CONTENT_LENGTH) {
        let length = length.to_str().ok().and_then(|length| length.parse().ok());
        head.framing = length.map_or(Framing::None, Framing::Length);
    }
    head.expects_continue = headers
        .get(http::header::EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    Ok(head)
}

impl Inner {
    /// One step of the protocol with the bytes that are there.
    pub(super) fn speak_http2(&mut self, connection: &Arc<Connection>, server: &Server) -> Step {
        // Out of the way, so that it and what it is part of can both be changed.
        let Stage::Http2(mut http2) = std::mem::replace(&mut self.stage, Stage::Closed) else {
            return Step::NeedsInput;
        };
        let metered = http2.meter.read(&self.input, self.now);
        http2.pipe.ends().receive(&mut self.input, self.is_eof);
        let end = match metered {
            Ok(()) => http2.drive(self, connection, server),
            Err(Flood) => http2.calm(server),
        };
        let has_more = http2.pipe.ends().send(&mut self.output);
        if http2.is_idle() {
            http2.pipe.ends().rest();
            http2.streams = Vec::new();
        }
        connection.set_deadline(server, http2.deadline(self.now));
        let is_over = end == End::Yes || (http2.is_draining && http2.is_idle() && !has_more);
        self.stage = Stage::Http2(http2);
        if is_over {
            self.is_closing = true;
        }
        match is_over || has_more {
            true => Step::Progress,
            false => Step::NeedsInput,
        }
    }

    /// Lets a worker see what was left for it, unless the socket has to take something first.
    pub(super) fn wake(&self, connection: &Connection, server: &Server) {
        if !self.is_stalled {
            server.arm(connection, &self.socket, Wait::Writable);
        }
    }

    /// What the sweeper does: ends what takes too long, or the whole connection. A turn must follow.
    pub(super) fn expire_http2(&mut self, server: &Server, now: Instant) {
        self.now = now;
        let Stage::Http2(mut http2) = std::mem::replace(&mut self.stage, Stage::Closed) else {
            return;
        };
        let mut does_not_read = false;
        for stream in &mut http2.streams {
            if now >= stream.deadline {
                does_not_read |= !stream.expire(self, server);
            }
        }
        let is_over = match &http2.link {
            _ if does_not_read => http2.calm(server) == End::Yes,
            Link::Opening(_) => true,
            Link::Open(_) if http2.meter.incomplete_since().is_some() => {
                let is_late = now >= http2.deadline(now);
                if is_late {
                    http2.hang_up(Reason::PROTOCOL_ERROR);
                }
                is_late
            }
            Link::Open(_) => {
                // Idle for too long: the client hears that it is no accident.
                if http2.is_idle() {
                    http2.hang_up(Reason::NO_ERROR);
                }
                http2.is_idle()
            }
        };
        http2.pipe.ends().send(&mut self.output);
        self.is_closing |= is_over;
        self.stage = Stage::Http2(http2);
    }
}
