//! The names and addresses of this machine, by which clients may know a server on it.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use rcgen::SanType;
use rustix::system::uname;

use crate::{
    base::deadline::Deadline, server::banner::local_addresses, tls::self_signed,
    web::resolver::Resolver,
};

/// Name servers are asked for no longer than this.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a certificate names, each once.
#[derive(Clone, Default)]
pub(crate) struct Names {
    pub(crate) dns: Vec<String>,
    pub(crate) ips: Vec<IpAddr>,
}

impl Names {
    /// The host name, short and full, `localhost`, and the addresses of loopback and of the interfaces.
    pub(crate) fn of_host() -> Self {
        let mut names = Self { dns: Vec::new(), ips: local_addresses() };
        names.ips.retain(|ip| !matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local()));
        names.ips.splice(..0, [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        let host = uname().nodename().to_string_lossy().to_ascii_lowercase();
        let short = host.split('.').next().unwrap_or_default().to_owned();
        let full = full_name(&short, &names.ips);
        names.dns.extend([short, host].into_iter().chain(full));
        // Some machines are called what no certificate can say.
        names.dns.retain(|name| self_signed::dns(name).is_some());
        names.dns.push("localhost".to_owned());
        names.tidy();
        names
    }

    /// Adds what is a name or an IP address.
    ///
    /// # Errors
    /// Why it is neither.
    pub(crate) fn add(&mut self, text: &str) -> Result<(), String> {
        match text.parse() {
            Ok(ip) => self.ips.push(ip),
            Err(_) if self_signed::dns(text).is_some() && !is_number(text) => {
                self.dns.push(text.to_ascii_lowercase());
            }
            Err(_) => {
                return Err(format!(
                    "{text:?} is neither a host name nor an IP address: write it without https:// and \
                     port, such as kes.example.com or 10.0.0.5"
                ));
            }
        }
        self.tidy();
        Ok(())
    }

    /// For a certificate.
    pub(crate) fn to_addresses(&self) -> Vec<SanType> {
        let dns = self.dns.iter().filter_map(|name| self_signed::dns(name));
        dns.chain(self.ips.iter().copied().map(SanType::IpAddress)).collect()
    }

    /// For a person.
    pub(crate) fn list(&self) -> Vec<String> {
        let ips = self.ips.iter().map(IpAddr::to_string);
        self.dns.iter().cloned().chain(ips).collect()
    }

    /// An address at which other machines can reach this one, if any is known.
    pub(crate) fn outer(&self) -> Option<IpAddr> {
        let outer = |ip: &&IpAddr| !ip.is_loopback();
        let four = self.ips.iter().filter(outer).find(|ip| ip.is_ipv4());
        four.or_else(|| self.ips.iter().find(outer)).copied()
    }

    fn tidy(&mut self) {
        once(&mut self.dns);
        once(&mut self.ips);
    }
}

/// Removes what comes again.
fn once<T: PartialEq>(list: &mut Vec<T>) {
    for at in (1..list.len()).rev() {
        if list[..at].contains(&list[at]) {
            list.remove(at);
        }
    }
}

/// Whether `text` can only be an IP address, and is none.
fn is_number(text: &str) -> bool {
    text.rsplit('.').next().is_some_and(|last| last.bytes().all(|c| c.is_ascii_digit()))
}

/// The full name of the machine `host`: as `/etc/hosts` has it, or in a domain of `resolv.conf` where it has
/// one of `own` addresses.
fn full_name(host: &str, own: &[IpAddr]) -> Option<String> {
    let read = |file| fs::read_to_string(file).unwrap_or_default();
    let is_full = |name: &&str| name.strip_prefix(host).is_some_and(|rest| rest.starts_with('.'));
    for line in read("/etc/hosts").lines() {
        let names = || line.split('#').next().unwrap_or_default().split_whitespace().skip(1);
        if names().any(|name| name == host)
            && let Some(full) = names().find(is_full)
        {
            return Some(full.to_owned());
        }
    }
    let deadline = Deadline::after(Instant::now(), PATIENCE);
    let settings = read("/etc/resolv.conf");
    let domains = settings.lines().filter_map(|line| {
        let (word, domains) = line.split_once(char::is_whitespace)?;
        ["search", "domain"].contains(&word).then(|| domains.split_whitespace())
    });
    let mut names = domains.flatten().map(|domain| format!("{host}.{}", domain.trim_matches('.')));
    names.find(|name| {
        let found = Resolver::default().lookup(&format!("{name}."), deadline);
        found.is_ok_and(|found| found.iter().any(|ip| own.contains(ip) && !ip.is_loopback()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_told_apart_and_kept_once() {
        let mut names = Names::default();
        for text in ["KES.example.com", "kes.example.com", "10.0.0.5", "*.example.com", "::1"] {
            names.add(text).unwrap();
        }
        assert_eq!(["kes.example.com", "*.example.com", "10.0.0.5", "::1"], *names.list());
        assert_eq!(Some("10.0.0.5".parse().unwrap()), names.outer());
        for text in
            ["", "a b", "https://kes", "kes:7373", "10.0.0.256", "1.2.3", "\u{fc}.com", "a..b"]
        {
            assert!(names.add(text).is_err(), "{text:?}");
        }
        assert_eq!(4, names.list().len());
    }
}
