//! The HTTP client of key stores and of the command line alike: names from our resolver, TLS from our
//! `tls`.
//!
//! An [`Agent`] keeps connections, follows no redirect, and returns every status as an answer. Retries,
//! and the meaning of answers, are up to the caller; [`errors`](super::errors) words what goes wrong.

use std::{io::Read as _, sync::Arc, time::Duration};

use rustls::ClientConfig;
use ureq::{
    AsSendBody, Body, Error, Proxy,
    config::Config,
    http::{Request, Response, request},
    unversioned::transport::{ConnectProxyConnector, Connector as _, TcpConnector},
};

use super::{resolver::Resolver, transport::TlsConnector};

/// Connections kept for later: one for each key store thread, the token and the status.
const MAX_IDLE: usize = 12;
/// An idle connection is closed after this time; servers do so after a minute or more.
const MAX_IDLE_AGE: Duration = Duration::from_secs(30);

#[derive(Clone)]
pub struct Options {
    /// `None`: only http URLs can be asked.
    pub tls: Option<Arc<ClientConfig>>,
    pub proxy: Option<Proxy>,
    pub connect_timeout: Duration,
    /// From the end of the request to the head of the answer; only [`Call::timeout`] if `None`.
    pub response_timeout: Option<Duration>,
}

#[derive(Clone, Copy)]
pub struct Call<'a> {
    pub method: &'a str,
    /// The whole URL; names in it are [escaped](super::escape::segment).
    pub url: &'a str,
    pub headers: &'a [(&'a str, &'a str)],
    /// JSON.
    pub body: Option<&'a [u8]>,
    /// For everything from the lookup of the host to the end of the answer; none for one without end.
    pub timeout: Option<Duration>,
}

/// A client with its idle connections, which clones share.
#[derive(Clone)]
pub struct Agent {
    options: Options,
    agent: ureq::Agent,
}

impl Agent {
    pub fn new(options: Options) -> Self {
        let config = Config::builder()
            .proxy(options.proxy.clone())
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(options.connect_timeout))
            .timeout_recv_response(options.response_timeout)
            .max_idle_connections(MAX_IDLE)
            .max_idle_connections_per_host(MAX_IDLE)
            .max_idle_age(MAX_IDLE_AGE)
            .user_agent(concat!("kes/", env!("CARGO_PKG_VERSION")))
            .build();
        let connector = ().chain(ConnectProxyConnector::default()).chain(TcpConnector::default());
        let agent = match &options.tls {
            Some(tls) => {
                let connector = connector.chain(TlsConnector(tls.clone()));
                ureq::Agent::with_parts(config, connector, Resolver::default())
            }
            None => ureq::Agent::with_parts(config, connector, Resolver::default()),
        };
        Self { options, agent }
    }

    /// The same client without its connections.
    pub fn renewed(&self) -> Self {
        Self::new(self.options.clone())
    }

    pub fn send(&self, call: Call<'_>) -> Result<Response<Body>, Error> {
        let mut request = Request::builder().method(call.method).uri(call.url);
        for (name, value) in call.headers {
            request = request.header(*name, *value);
        }
        match call.body {
            Some(body) => {
                let request = request.header("Content-Type", "application/json");
                self.run(request, body, call.timeout)
            }
            None => self.run(request, (), call.timeout),
        }
    }

    fn run(
        &self,
        request: request::Builder,
        body: impl AsSendBody,
        timeout: Option<Duration>,
    ) -> Result<Response<Body>, Error> {
        let request = self.agent.configure_request(request.body(body)?);
        self.agent.run(request.timeout_global(timeout).build())
    }
}

/// The rest of an answer; fails if it has more than `limit` bytes.
pub fn read(answer: &mut Response<Body>, limit: u64) -> Result<Vec<u8>, Error> {
    let mut body = Vec::new();
    answer.body_mut().with_config().limit(limit).reader().read_to_end(&mut body)?;
    Ok(body)
}
