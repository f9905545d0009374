//! The settings in `resolv.conf` and the environment variable `RES_OPTIONS` (resolv.conf(5)).

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, SocketAddrV6},
    time::Duration,
};

/// The most name servers that are asked, as in the C library, and the most domains that are tried, as
/// in Kubernetes.
pub const MAX_SERVERS: usize = 3;
const MAX_DOMAINS: usize = 32;

#[derive(Debug, PartialEq)]
pub struct Settings {
    pub servers: Vec<SocketAddr>,
    domains: Vec<String>,
    /// Names with fewer dots are tried in the domains first.
    pub dots: usize,
    pub timeout: Duration,
    pub attempts: u32,
    /// `rotate`: any server may be asked first.
    pub rotates: bool,
    /// `use-vc`
    pub uses_tcp: bool,
    /// `single-request`: one question after the other, for servers that lose the second one.
    pub is_one_by_one: bool,
}

impl Settings {
    /// Reads the text of a `resolv.conf`, then `options` of the environment; what is unknown in them
    /// is ignored.
    pub fn parse(text: &str, options: &str, port: u16) -> Self {
        let mut settings = Self {
            servers: Vec::new(),
            domains: Vec::new(),
            dots: 1,
            timeout: Duration::from_secs(5),
            attempts: 2,
            rotates: false,
            uses_tcp: false,
            is_one_by_one: false,
        };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let server = words.next().and_then(|word| name_server(word, port));
                    settings.servers.extend(server);
                }
                Some("domain" | "search") => {
                    settings.domains = words
                        .take(MAX_DOMAINS)
                        .map(|domain| domain.trim_matches('.').to_owned())
                        .collect();
                }
                Some("options") => words.for_each(|word| settings.set(word)),
                _ => {}
            }
        }
        options.split_whitespace().for_each(|word| settings.set(word));
        if settings.servers.is_empty() {
            settings.servers = vec![(Ipv4Addr::LOCALHOST, port).into()];
        }
        settings.servers.truncate(MAX_SERVERS);
        settings
    }

    fn set(&mut self, option: &str) {
        let (name, value) = option.split_once(':').unwrap_or((option, ""));
        match (name, value.parse::<u32>()) {
            ("ndots", Ok(value)) => self.dots = value.min(15) as usize,
            ("timeout", Ok(value)) => self.timeout = Duration::from_secs(value.clamp(1, 30).into()),
            ("attempts", Ok(value)) => self.attempts = value.clamp(1, 5),
            ("rotate", _) => self.rotates = true,
            ("use-vc", _) => self.uses_tcp = true,
            ("single-request", _) => self.is_one_by_one = true,
            _ => {}
        }
    }

    /// The full names that `host` may mean, in the order to try them.
    pub fn names(&self, host: &str) -> Vec<String> {
        if let Some(full) = host.strip_suffix('.') {
            return vec![full.to_owned()];
        }
        let mut names: Vec<_> =
            self.domains.iter().map(|domain| format!("{host}.{domain}")).collect();
        match host.matches('.').count() >= self.dots {
            true => names.insert(0, host.to_owned()),
            false => names.push(host.to_owned()),
        }
        names
    }
}

/// The name server of this address; one that is only known on a link has that behind a `%`.
fn name_server(text: &str, port: u16) -> Option<SocketAddr> {
    let Some((address, link)) = text.split_once('%') else {
        return Some(SocketAddr::new(text.parse().ok()?, port));
    };
    let number = link.parse().ok().or_else(|| {
        let file = fs::read_to_string(format!("/sys/class/net/{link}/ifindex"));
        file.ok()?.trim().parse().ok()
    })?;
    Some(SocketAddrV6::new(address.parse().ok()?, port, 0, number).into())
}
