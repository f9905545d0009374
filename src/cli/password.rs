//! Passwords that a person types, which the terminal does not show.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::ffi::OsStringExt as _,
    path::Path,
};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use super::output::complain;
use crate::base::secret::Secret;

/// Longer ones are no passwords, in bytes.
const MAX: usize = 1024;

/// Variables with the password of the private key, for scripts: ours, and the one of object servers.
const VARIABLES: [&str; 2] = ["KES_CLIENT_KEY_PASSWORD", "MINIO_KMS_KES_KEY_PASSWORD"];
const PROMPT: &str = "Enter password for private key: ";

/// The password of the private key in `file`, from the environment or, if `may_ask`, from a person.
///
/// # Errors
/// Why there is none.
pub(crate) fn of_key(file: &Path, may_ask: bool) -> Result<Secret, String> {
    let known = from_environment();
    let asked = || if may_ask { ask(PROMPT) } else { Err("it can't be asked for now".to_owned()) };
    known.map_or_else(asked, Ok).map_err(|why| {
        format!("private key {file:?} has a password: {why}: set {} to it", VARIABLES[0])
    })
}

/// The password for a new private key, from the environment or, typed twice, from a person.
///
/// # Errors
/// Why there is none.
pub(crate) fn for_new_key() -> Result<Secret, String> {
    if let Some(password) = from_environment() {
        return Ok(password);
    }
    let password =
        ask(PROMPT).map_err(|why| format!("no password: {why}: set {} to it", VARIABLES[0]))?;
    match ask("Confirm password for private key: ")? == password {
        _ if password.is_empty() => Err("the password is empty".to_owned()),
        true => Ok(password),
        false => Err("passwords don't match".to_owned()),
    }
}

fn from_environment() -> Option<Secret> {
    let values = VARIABLES.iter().filter_map(std::env::var_os);
    let mut passwords = values.map(|value| Secret::new(value.into_vec()));
    passwords.find(|password| !password.is_empty())
}

/// Asks for a password with `prompt` on standard error. It is read from the terminal of the process, so that
/// standard input is free for data.
fn ask(prompt: &str) -> Result<Secret, String> {
    let terminal = File::open("/dev/tty").map_err(|_| "there is no terminal to ask on")?;
    complain(prompt);
    let typed = Silence::on(&terminal).and_then(|_silence| read(&terminal));
    complain("\n");
    match typed {
        Ok(Some(password)) => Ok(password),
        Ok(None) => Err("none was typed".to_owned()),
        Err(e) => Err(format!("failed to read it: {e}")),
    }
}

/// Keys one by one until Enter; `None` if its user gave up.
fn read(mut terminal: &File) -> io::Result<Option<Secret>> {
    let mut typed = Vec::with_capacity(MAX);
    let mut key = [0];
    loop {
        let count = terminal.read(&mut key)?;
        match key[0] {
            _ if count == 0 => return Ok(None),
            b'\r' | b'\n' => return Ok(Some(Secret::new(typed))),
            // Ctrl-C and Ctrl-\, which send no signals now, and Ctrl-D.
            3 | 4 | 0x1c => return Ok(None),
            // Ctrl-U
            0x15 => typed.clear(),
            // Backspace removes a character, which may have several bytes.
            8 | 0x7f => while typed.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {},
            byte if typed.len() < MAX => typed.push(byte),
            _ => return Err(io::Error::other("it is too long")),
        }
    }
}

/// A terminal that shows nothing that is typed, until this is dropped.
struct Silence<'a>(&'a File, Termios);

impl<'a> Silence<'a> {
    fn on(terminal: &'a File) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut modes = before.clone();
        // Signals, too: one that ends the process would leave the terminal like this.
        modes.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        tcsetattr(terminal, OptionalActions::Flush, &modes)?;
        Ok(Self(terminal, before))
    }
}

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        let _ = tcsetattr(self.0, OptionalActions::Flush, &self.1);
    }
}
