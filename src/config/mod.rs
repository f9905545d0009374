//! The settings of the server, from flags and the configuration file.
//!
//! A [`Config`] can't hold a bad value: whoever has one need not check it again. Knows nothing of
//! sockets, and opens no key store.
//!
//! A file is read once, into a `tree` of values and their places, and kept to the table of `fields`.
//! `load` and `stores` say what the values mean, `check` and `material` what looks wrong.

mod check;
mod error;
mod expand;
mod fields;
mod load;
mod material;
mod review;
mod stores;
#[cfg(test)]
mod tests;
mod tree;
mod types;

use std::{
    fs,
    io::{self, Read as _},
    net::SocketAddr,
    path::Path,
};

use zeroize::Zeroizing;

pub use error::{Error, Place, Position, Problem};
pub use material::Material;
pub use review::{Finding, Review, Severity};
pub use types::{
    Auth, Cache, Config, DEFAULT_ADDRESS, DEFAULT_PORT, Flags, KeyStoreConfig, MAX_FILE, Proxy,
};

/// The address that `text` stands for: `IP`, `IP:PORT`, `:PORT`, `[IPv6]` or `[IPv6]:PORT`.
pub fn parse_address(text: &str) -> Option<SocketAddr> {
    load::parse_address(text)
}

impl Config {
    /// Reads the file at `path`; `flags` that are given win over it.
    ///
    /// # Errors
    /// If the file can't be read, or a setting is wrong or missing.
    pub fn from_file(path: &Path, flags: &Flags) -> Result<Self, Error> {
        let text = read(path)?;
        load::load(Some((path, &text)), flags, &from_environment).accept()
    }

    /// Takes all settings from `flags` and defaults.
    ///
    /// # Errors
    /// If a setting is wrong or missing.
    pub fn from_flags(flags: &Flags) -> Result<Self, Error> {
        load::load(None, flags, &from_environment).accept()
    }
}

/// The environment variable called `name`, if it is set and text.
fn from_environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// What editors on other systems put in front of UTF-8 text.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// The text of the file at `path`, which is wiped after use as it may hold credentials.
fn read(path: &Path) -> Result<Zeroizing<String>, Error> {
    read_from(path, fs::File::open(path))
}

/// As [`read`], from a file that is open, or from something else that is called `path`.
fn read_from(path: &Path, source: io::Result<impl io::Read>) -> Result<Zeroizing<String>, Error> {
    let file = path.to_owned();
    let mut bytes = Zeroizing::new(Vec::new());
    let done = source.and_then(|source| source.take(MAX_FILE + 1).read_to_end(&mut bytes));
    if let Err(source) = done {
        return Err(Error::Read { file, source });
    }
    if bytes.len() as u64 > MAX_FILE {
        let source = io::Error::new(io::ErrorKind::FileTooLarge, "larger than 1 MiB");
        return Err(Error::Read { file, source });
    }
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&bytes);
    match str::from_utf8(bytes) {
        Ok(text) => Ok(Zeroizing::new(text.into())),
        Err(error) => {
            let before = &bytes[..error.valid_up_to()];
            let start = before.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
            Err(Error::Syntax {
                file,
                position: Some(Position::after(
                    before.iter().filter(|b| **b == b'\n').count(),
                    String::from_utf8_lossy(&before[start..]).chars().count(),
                )),
                reason: "not UTF-8 text; save the file as UTF-8".into(),
            })
        }
    }
}
