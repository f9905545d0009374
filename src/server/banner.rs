//! What `kes server` prints when it starts and when it ends.

use std::{
    io::{self, IsTerminal as _, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::BorrowedFd,
    stdio,
};

use crate::{
    api::status::architecture,
    base::generation::Generation,
    identity::is_identity,
    log::{self, AuditMode},
};

/// Columns that one endpoint takes.
const ENDPOINT_WIDTH: usize = 30;
/// The end of the start-up text in the newest generation.
pub const UP: &str = "=> Server is up and running...";
const DOWN: &str = "=> Stopping server... Goodbye.";

/// Where the texts go: to stdout or, if that has audit lines, to stderr.
pub struct StartText {
    descriptor: BorrowedFd<'static>,
    /// None if nothing is to be said.
    to: Option<Box<dyn Write>>,
    is_terminal: bool,
}

impl StartText {
    /// The text of a server with this audit log, which says nothing if it `is_quiet`.
    pub fn new(audit: AuditMode, is_quiet: bool) -> Self {
        let (to, descriptor): (Box<dyn Write>, _) = match audit {
            AuditMode::Off => (Box::new(io::stdout()), stdio::stdout()),
            _ => (Box::new(io::stderr()), stdio::stderr()),
        };
        Self { descriptor, to: (!is_quiet).then_some(to), is_terminal: descriptor.is_terminal() }
    }

    pub fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// Whether labels have colours.
    pub fn is_coloured(&self) -> bool {
        self.is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
    }

    /// The last line of a server of the newest generation. A reader that has stopped reading does not keep it
    /// from ending.
    pub fn say_goodbye(&mut self) {
        let mut ready = [PollFd::from_borrowed_fd(self.descriptor, PollFlags::OUT)];
        if matches!(poll(&mut ready, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(1)) {
            let _ = writeln!(self, "{DOWN}");
        }
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
    pub logs: log::Settings,
    /// Whether no memory is swapped out.
    pub locks_memory: bool,
    /// Blue labels, for a terminal.
    pub is_coloured: bool,
}

impl Banner<'_> {
    /// Writes the banner, in the form that servers of the generation have.
    ///
    /// # Errors
    /// If `out` can't be written to.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        match self.generation {
            Generation::V0_14 => self.write_older(out)?,
            Generation::Newest => self.write_newest(out)?,
        }
        out.flush()
    }

    fn write_older(&self, out: &mut impl Write) -> io::Result<()> {
        for (row, pair) in self.endpoints().chunks(2).enumerate() {
            let start = if row == 0 { self.label("Endpoint:", 10) } else { " ".repeat(10) };
            let line: String = pair.iter().map(|e| format!("{e:<ENDPOINT_WIDTH$}")).collect();
            writeln!(out, "{start}{}", line.trim_end())?;
        }
        writeln!(out, "\n{}{}", self.label("Root:", 10), self.root())?;
        writeln!(out, "{}{}", self.label("Auth:", 10), self.auth())?;
        writeln!(out, "\n{}{}\n", self.label("Keys:", 10), self.key_store)?;
        for (row, line) in self.client().iter().enumerate() {
            writeln!(out, "{}{line}", self.label(if row == 0 { "CLI:" } else { "" }, 10))?;
        }
        Ok(())
    }

    fn write_newest(&self, out: &mut impl Write) -> io::Result<()> {
        let one = |text: &str| vec![text.to_owned()];
        let audit = match self.logs.audit {
            AuditMode::Off => "off",
            AuditMode::Changes => "stdout [ changes only ]",
            AuditMode::On => "stdout",
            AuditMode::Required => "stdout [ required ]",
        };
        let error = if self.logs.error { "stderr" } else { "off" };
        let rows = [
            ("Version", one(env!("CARGO_PKG_VERSION"))),
            ("Runtime", vec![format!("{}/{}", std::env::consts::OS, architecture())]),
            ("License", one(env!("CARGO_PKG_LICENSE"))),
            ("KMS", one(self.key_store)),
            ("API", self.endpoints()),
            ("Docs", one("kes man")),
            ("Admin", one(self.root())),
            ("Auth", one(self.auth())),
            ("Logs", vec![format!("error: {error}"), format!("audit: {audit}")]),
            ("MLock", one(if self.locks_memory { "on" } else { "off" })),
            ("CLI", self.client()),
        ];
        for (name, lines) in rows {
            for (row, line) in lines.iter().enumerate() {
                writeln!(out, "{}{line}", self.label(if row == 0 { name } else { "" }, 12))?;
            }
        }
        writeln!(out, "\n{UP}")
    }

    /// A label in blue if there are colours, which takes this many columns.
    fn label(&self, name: &str, width: usize) -> String {
        let (on, off) = match self.is_coloured && !name.is_empty() {
            true => ("\x1b[34m", "\x1b[0m"),
            false => ("", ""),
        };
        format!("{on}{name:<width$}{off}")
    }

    fn root(&self) -> &str {
        if is_identity(self.root) { self.root } else { "_     [ disabled ]" }
    }

    fn auth(&self) -> &'static str {
        match self.checks_certificates {
            true => "on    [ only clients with trusted certificates can connect ]",
            false => "off   [ any client can connect but policies still apply ]",
        }
    }

    /// What a client of this server sets.
    fn client(&self) -> Vec<String> {
        let ip = match self.address.ip() {
            ip if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            ip => ip,
        };
        let mut lines = vec![
            format!("export KES_SERVER=https://{}", SocketAddr::new(ip, self.address.port())),
            format!("export KES_SERVER_IDENTITY={}", self.identity),
        ];
        // The certificate of an API key is in no trust store.
        let credentials: &[&str] = match (self.generation, self.checks_certificates) {
            (Generation::Newest, false) => &["export KES_API_KEY=<api-key>  // kes:v1:..."],
            _ => &[
                "export KES_CLIENT_KEY=<client-private-key>   // e.g. $HOME/root.key",
                "export KES_CLIENT_CERT=<client-certificate>  // e.g. $HOME/root.cert",
            ],
        };
        lines.extend(credentials.iter().chain(&["kes --help"]).map(|line| (*line).to_owned()));
        lines
    }

    /// The URLs that clients can use: for an unspecified address, all IPv4 addresses of the host.
    fn endpoints(&self) -> Vec<String> {
        let url = |ip| format!("https://{}", SocketAddr::new(ip, self.address.port()));
        self.addresses().into_iter().map(url).collect()
    }

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
            logs: log::Settings::default(),
            locks_memory: false,
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
