//! The proxy on the way to a server, as the environment names it and as Go programs read it.

use std::{
    env,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ureq::{Proxy, ProxyProtocol, http::Uri};

/// The proxy on the way to `server`: none to this machine itself. Says what is wrong with `HTTPS_PROXY`,
/// which may hold a password and is not shown.
pub fn from_env(server: &Uri) -> Result<Option<Proxy>, String> {
    on_way(server).map_err(|why| format!("invalid HTTPS_PROXY: {why}"))
}

fn on_way(server: &Uri) -> Result<Option<Proxy>, &'static str> {
    let first_of = |names: [&str; 2]| {
        let mut values = names.into_iter().filter_map(|name| env::var(name).ok());
        values.find(|value| !value.is_empty())
    };
    let Some(proxy) = first_of(["HTTPS_PROXY", "https_proxy"]) else {
        return Ok(None);
    };
    let host = server.host().unwrap_or_default();
    let host = host.trim_matches(['[', ']']).to_ascii_lowercase();
    let exceptions = first_of(["NO_PROXY", "no_proxy"]).unwrap_or_default();
    if is_direct(&host, server.port_u16().unwrap_or(443), &exceptions) {
        return Ok(None);
    }
    let proxy = Proxy::new(&proxy).map_err(|_| "it must look like http://host:3128")?;
    match proxy.protocol() {
        ProxyProtocol::Http => Ok(Some(proxy)),
        // Who vouches for the server must not have to vouch for the proxy, nor the other way round.
        ProxyProtocol::Https => Err("a proxy is reached without TLS: it must start with http://"),
        _ => Err("it must start with http://"),
    }
}

/// Whether `host`, in lower case and without brackets, is this machine.
pub(crate) fn is_this_machine(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Where this machine asks what listens at `ip`, which may be all of its addresses.
pub(crate) fn to_loopback(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}

/// Whether no proxy is used for `host`. `exceptions` are host names (with their subdomains, or only
/// these after a leading dot), addresses and networks, all but the latter with or without port.
fn is_direct(host: &str, port: u16, exceptions: &str) -> bool {
    if is_this_machine(host) {
        return true;
    }
    let address = host.parse::<IpAddr>().ok();
    exceptions.split(',').any(|exception| {
        let exception = exception.trim().to_ascii_lowercase();
        if exception == "*" {
            return true;
        }
        if let (Some(address), Some((network, bits))) = (address, exception.split_once('/')) {
            return is_in_network(address, network, bits);
        }
        let name = match exception.rsplit_once(':') {
            Some((_, text)) if exception.parse::<IpAddr>().is_err() && text.parse() != Ok(port) => {
                return false;
            }
            Some((name, _)) if exception.parse::<IpAddr>().is_err() => name,
            _ => &exception,
        };
        let name = name.trim_matches(['[', ']']);
        let name = name.strip_prefix('*').unwrap_or(name);
        match host.strip_suffix(name) {
            _ if name.is_empty() => false,
            Some("") => true,
            Some(before) => address.is_none() && (name.starts_with('.') || before.ends_with('.')),
            None => false,
        }
    })
}

fn is_in_network(address: IpAddr, network: &str, bits: &str) -> bool {
    let (Ok(network), Ok(bits)) = (network.parse::<IpAddr>(), bits.parse::<u32>()) else {
        return false;
    };
    // Both as numbers whose first bit is the highest one.
    let (a, b, width) = match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            (u128::from(a.to_bits()) << 96, u128::from(b.to_bits()) << 96, 32)
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits(), b.to_bits(), 128),
        _ => return false,
    };
    bits <= width && (bits == 0 || (a ^ b) >> (128 - bits) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_hosts_are_reached_without_a_proxy() {
        let exceptions = "example.com, .inner.test,10.0.0.0/8,fd00::/8,192.168.1.2,odd.test:7373";
        for host in [
            "localhost",
            "127.0.0.1",
            "::1",
            "example.com",
            "kes.example.com",
            "a.inner.test",
            "10.1.2.3",
            "fd00::1",
            "192.168.1.2",
            "odd.test",
        ] {
            assert!(is_direct(host, 7373, exceptions), "{host}");
            assert!(is_direct(host, 7373, "*"), "{host}");
        }
        for host in ["badexample.com", "inner.test", "11.1.2.3", "fe00::1", "192.168.1.3", "com"] {
            assert!(!is_direct(host, 7373, exceptions), "{host}");
            assert!(!is_direct(host, 7373, ""), "{host}");
        }
        assert!(!is_direct("odd.test", 443, exceptions));
    }
}
