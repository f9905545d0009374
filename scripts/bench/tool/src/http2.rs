//! Connections that speak HTTP/2, opened and then left alone.
//!
//! One thread of an async runtime answers what the server sends of its own accord (settings,
//! pings), as any client does while it is idle.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ::http::Request;
use h2::client::SendRequest;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::args::Args;
use crate::hold::Held;
use crate::{Result, tls};

const PATIENCE: Duration = Duration::from_secs(10);

/// The connections held.
pub(crate) struct Http2 {
    runtime: Runtime,
    uri: String,
    connections: Vec<SendRequest<&'static [u8]>>,
}

impl Http2 {
    /// Opens `--connections` of them, one after the other. The inner error is why there is not even
    /// one, which with most servers is that they offer no HTTP/2.
    pub(crate) fn open(args: &Args) -> Result<Result<Http2>> {
        let addr: SocketAddr = args.text("addr")?.parse()?;
        let config = tls::Client::new(args)?.http2();
        let count = args.number("connections", 8)?;
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let uri = format!("https://{addr}/version");
        let opened = runtime.block_on(async {
            let mut connections = vec![open(addr, &config, &uri).await?];
            for _ in 1..count {
                if let Ok(connection) = open(addr, &config, &uri).await {
                    connections.push(connection);
                }
            }
            Result::Ok(connections)
        });
        Ok(opened.map(|connections| Http2 { runtime, uri, connections }))
    }
}

impl Held for Http2 {
    fn count(&self) -> usize {
        self.connections.len()
    }

    fn broken(&mut self) -> usize {
        self.runtime.block_on(async {
            let mut broken = 0;
            for connection in &mut self.connections {
                broken += usize::from(ask(connection, &self.uri).await.is_err());
            }
            broken
        })
    }
}

async fn open(addr: SocketAddr, config: &Arc<ClientConfig>, uri: &str) -> Result<SendRequest<&'static [u8]>> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::from(addr.ip());
    let stream = timeout(PATIENCE, TlsConnector::from(Arc::clone(config)).connect(name, stream)).await??;
    if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        return Err("the server chose no protocol".into());
    }
    let (mut connection, driver) = h2::client::Builder::new().handshake(stream).await?;
    tokio::spawn(driver); // its end shows as a request that fails
    ask(&mut connection, uri).await?;
    Ok(connection)
}

/// One request, up to the end of a 200.
async fn ask(connection: &mut SendRequest<&'static [u8]>, uri: &str) -> Result<()> {
    timeout(PATIENCE, async {
        let mut ready = connection.clone().ready().await?;
        let (answer, _) = ready.send_request(Request::get(uri).body(())?, true)?;
        let answer = answer.await?;
        if answer.status() != 200 {
            return Err(format!("/version: {}", answer.status()).into());
        }
        let mut body = answer.into_body();
        while let Some(data) = body.data().await {
            let length = data?.len();
            body.flow_control().release_capacity(length)?;
        }
        Ok(())
    })
    .await?
}
