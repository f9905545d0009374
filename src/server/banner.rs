//! The start-up text of `kes server`.

use std::{
    io::{self, IsTerminal as _, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use crate::{base::generation::Generation, log::AuditMode};

/// Columns that one endpoint takes.
const ENDPOINT_WIDTH: usize = 30;

/// Where the start-up text goes: to stdout or, if that has audit lines, to stderr.
pub struct StartText {
    /// None if nothing is to be said.
    to: Option<Box<dyn Write>>,
    is_terminal: bool,
}

impl StartText {
    /// The text of a server with this audit log, which says nothing if it `is_quiet`.
    pub fn new(audit: AuditMode, is_quiet: bool) -> Self {
        let (to, is_terminal): (Box<dyn Write>, _) = match audit {
            AuditMode::Off => (Box::new(io::stdout()), io::stdout().is_terminal()),
            _ => (Box::new(io::stderr()), io::stderr().is_terminal()),
        };
        Self { to: (!is_quiet).then_some(to), is_terminal }
    }

    pub fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// Whether labels have colours.
    pub fn is_coloured(&self) -> bool {
        self.is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
    }
}

impl Write for StartText {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.to.as_mut().map_or(Ok(bytes.len()), |to| to.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.as_mut().map_or(Ok(()), |to| to.flush())
    }
}

pub struct Banner<'a> {
    /// Where the server listens.
    pub address: SocketAddr,
    /// The root identity as configured, which is called admin in the newest generation.
    pub root: &'a str,
    /// The identity of the server's own certificate.
    pub identity: &'a str,
    pub generation: Generation,
    /// Whether only trusted certificates may connect.
    pub checks_certificates: bool,
    /// `Filesystem: /abs/path`.
    pub key_store: &'a str,
    /// Blue labels, for a terminal.
    pub is_coloured: bool,
}

impl Banner<'_> {
    /// Writes the banner.
    ///
    /// # Errors
    /// If `out` can't be written to.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let (on, off) = if self.is_coloured { ("\x1b[34m", "\x1b[0m") } else { ("", "") };
        let label = |name: &str| format!("{on}{name:<10}{off}");
        let port = self.address.port();
        let endpoints: Vec<_> = self
            .addresses()
            .iter()
            .map(|ip| format!("https://{}", SocketAddr::new(*ip, port)))
            .collect();
        for (row, pair) in endpoints.chunks(2).enumerate() {
            let start = if row == 0 { label("Endpoint:") } else { " ".repeat(10) };
            let line: String = pair.iter().map(|e| format!("{e:<ENDPOINT_WIDTH$}")).collect();
            writeln!(out, "{start}{}", line.trim_end())?;
        }
        let is_identity = self.root.len() == 64
            && self.root.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
        let root = if is_identity { self.root } else { "_     [ disabled ]" };
        let name = if self.generation.is_newest() { "Admin:" } else { "Root:" };
        writeln!(out, "\n{}{root}", label(name))?;
        let auth = match self.checks_certificates {
            true => "on    [ only clients with trusted certificates can connect ]",
            false => "off   [ any client can connect but policies still apply ]",
        };
        writeln!(out, "{}{auth}", label("Auth:"))?;
        writeln!(out, "\n{}{}", label("Keys:"), self.key_store)?;
        let ip = match self.address.ip() {
            ip if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            ip => ip,
        };
        writeln!(
            out,
            "\n{}export KES_SERVER=https://{}\n\
             \x20         export KES_SERVER_IDENTITY={}\n\
             \x20         export KES_CLIENT_KEY=<client-private-key>   // e.g. $HOME/root.key\n\
             \x20         export KES_CLIENT_CERT=<client-certificate>  // e.g. $HOME/root.cert\n\
             \x20         kes --help",
            label("CLI:"),
            SocketAddr::new(ip, port),
            self.identity,
        )?;
        if self.generation.is_newest() {
            writeln!(out, "\n=> Server is up and running...")?;
        }
        out.flush()
    }

    /// The addresses that clients can use: for an unspecified one, all IPv4 addresses of the host.
    fn addresses(&self) -> Vec<IpAddr> {
        let ip = self.address.ip();
        if !ip.is_unspecified() {
            return vec![ip];
        }
        let mut all = local_addresses();
        all.retain(IpAddr::is_ipv4);
        if all.is_empty() {
            all.push(IpAddr::V4(Ipv4Addr::LOCALHOST));
        }
        all
    }
}

/// The addresses of this machine; none if the system does not tell.
pub fn local_addresses() -> Vec<IpAddr> {
    if_addrs::get_if_addrs().unwrap_or_default().iter().map(if_addrs::Interface::ip).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_banner_tells_where_who_and_what() {
        let banner = Banner {
            address: "127.0.0.1:7373".parse().expect("an address"),
            root: "disabled",
            identity: "bce1366e",
            generation: Generation::V0_14,
            checks_certificates: false,
            key_store: "Filesystem: /keys",
            is_coloured: false,
        };
        let mut out = Vec::new();
        banner.write(&mut out).expect("writing to memory");
        assert_eq!(
            "Endpoint: https://127.0.0.1:7373\n\n\
             Root:     _     [ disabled ]\n\
             Auth:     off   [ any client can connect but policies still apply ]\n\n\
             Keys:     Filesystem: /keys\n\n\
             CLI:      export KES_SERVER=https://127.0.0.1:7373\n\
             \x20         export KES_SERVER_IDENTITY=bce1366e\n\
             \x20         export KES_CLIENT_KEY=<client-private-key>   // e.g. $HOME/root.key\n\
             \x20         export KES_CLIENT_CERT=<client-certificate>  // e.g. $HOME/root.cert\n\
             \x20         kes --help\n",
            String::from_utf8(out).expect("it is text")
        );
    }
}
