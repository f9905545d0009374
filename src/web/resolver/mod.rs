//! Looks up the addresses of a host name: in the hosts file, then with DNS (RFC 1035).
//!
//! Replaces the C library's lookup, which loads shared libraries at run time, has no deadline and takes
//! 120 KB. Answers are not authenticated: servers prove their identity in TLS.

mod exchange;
pub mod message;
mod search;
pub mod settings;
#[cfg(test)]
mod tests;

use std::{
    env, fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use ureq::{
    Timeout,
    config::Config,
    http::Uri,
    unversioned::{resolver::ResolvedSocketAddrs, transport::NextTimeout},
};

pub use self::search::Error;
use self::{exchange::connected, search::Memory, settings::Settings};
use crate::base::deadline::Deadline;

/// The longest lookup without a deadline.
const LONGEST: Duration = Duration::from_secs(60);

/// The most addresses that the HTTP client tries.
const MAX_ADDRESSES: usize = 16;

static MEMORY: Memory = Memory::new();

/// Where names are looked up.
#[derive(Clone, Debug)]
pub struct Resolver {
    hosts: PathBuf,
    settings: PathBuf,
    /// The port of name servers.
    port: u16,
    /// Options that are set beside those of the file.
    options: String,
    memory: &'static Memory,
}

impl Default for Resolver {
    fn default() -> Self {
        Self {
            hosts: "/etc/hosts".into(),
            settings: "/etc/resolv.conf".into(),
            port: 53,
            options: env::var("RES_OPTIONS").unwrap_or_default(),
            memory: &MEMORY,
        }
    }
}

impl Resolver {
    /// The addresses of `host`, a name or an address, those that can be reached first. At least one.
    ///
    /// # Errors
    /// [`Error`] says why there is none.
    pub fn lookup(&self, host: &str, deadline: Deadline) -> Result<Vec<IpAddr>, Error> {
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        if let Ok(address) = bare.unwrap_or(host).parse() {
            return Ok(vec![address]);
        }
        let mut found = in_hosts(&text(&self.hosts), host);
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        if found.is_empty() && (name == "localhost" || name.ends_with(".localhost")) {
            found = vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()]; // RFC 6761 6.3
        }
        if found.is_empty() {
            found = Settings::parse(&text(&self.settings), &self.options, self.port).find(
                host,
                self.memory,
                deadline,
            )?;
        }
        // In the order of RFC 6724, as far as it matters: what no route leads to comes last.
        let has_route = |address: &IpAddr| connected((*address, 53).into()).is_ok();
        let (near, far): (Vec<_>, Vec<_>) = found.into_iter().partition(has_route);
        let in_order = |addresses: Vec<IpAddr>| {
            let (six, four): (Vec<_>, Vec<_>) = addresses.into_iter().partition(IpAddr::is_ipv6);
            [six, four]
        };
        Ok([in_order(near), in_order(far)].concat().concat())
    }
}

impl ureq::unversioned::resolver::Resolver for Resolver {
    fn resolve(
        &self,
        uri: &Uri,
        _: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().ok_or(ureq::Error::HostNotFound)?;
        let port = uri.port_u16().unwrap_or(match uri.scheme_str() {
            Some("http") => 80,
            _ => 443,
        });
        let deadline = Deadline::after(Instant::now(), LONGEST.min(*timeout.after));
        let addresses = self.lookup(host, deadline).map_err(|e| match e {
            Error::NotFound => ureq::Error::HostNotFound,
            Error::Timeout => ureq::Error::Timeout(Timeout::Resolve),
            // Of another kind, lest a name server that refuses is taken for a host that does.
            Error::Unavailable(e) => {
                let why = format!("the host name can't be looked up with DNS: {e}");
                ureq::Error::Io(io::Error::other(why))
            }
        })?;
        let mut found = self.empty();
        for address in addresses.into_iter().take(MAX_ADDRESSES) {
            found.push(SocketAddr::new(address, port));
        }
        Ok(found)
    }
}

/// The text of a file; none if it can't be read. A comment in another encoding hides nothing.
fn text(file: &Path) -> String {
    String::from_utf8_lossy(&fs::read(file).unwrap_or_default()).into_owned()
}

/// The addresses of `host` in the text of a hosts file.
fn in_hosts(text: &str, host: &str) -> Vec<IpAddr> {
    let host = host.trim_end_matches('.');
    let mut found = Vec::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or("").split_whitespace();
        let Some(Ok(address)) = words.next().map(str::parse) else {
            continue;
        };
        if words.any(|name| name.eq_ignore_ascii_case(host)) && !found.contains(&address) {
            found.push(address);
        }
    }
    found
}
