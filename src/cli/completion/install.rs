//! `kes --auto-completion`: a line in the start file of the user's shell.

use std::{
    env,
    fs::{self, OpenOptions},
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
};

use crate::cli::{
    output::{Result, print},
    pair::sync_entry,
};

/// Shells, their start files below the home directory, and the lines for them.
const SHELLS: [(&str, &str, &str); 3] = [
    ("bash", ".bashrc", "command -v kes >/dev/null && source <(kes completion bash)"),
    (
        "zsh",
        ".zshrc",
        "(( $+commands[kes] )) && { (( $+functions[compdef] )) || { autoload -Uz compinit && compinit }; \
         source <(kes completion zsh) }",
    ),
    ("fish", ".config/fish/config.fish", "type -q kes; and kes completion fish | source"),
];

/// Has the shell of the environment complete kes from its next start on.
pub fn install() -> Result<()> {
    let shell = env::var_os("SHELL").map(PathBuf::from).unwrap_or_default();
    let name = shell.file_name().unwrap_or_default();
    let Some((name, file, line)) = SHELLS.into_iter().find(|(known, ..)| name == *known) else {
        return Err(format!(
            "SHELL is {shell:?}, and kes completes for bash, zsh and fish: see 'kes completion --help'"
        )
        .into());
    };
    let home = env::var_os("HOME").filter(|home| !home.is_empty());
    let path = PathBuf::from(home.ok_or("HOME is not set")?).join(file);
    match has(&path, line).and_then(|has| if has { Ok(true) } else { add(&path, line) }) {
        Ok(true) => print(&format!("{} has the completion for {name} already\n", path.display())),
        Ok(false) => print(&format!(
            "Added the completion for {name} to {}: it works in new shells\n",
            path.display()
        )),
        Err(e) => Err(format!("failed to add the completion to {path:?}: {e}").into()),
    }
}

fn has(path: &Path, line: &str) -> std::io::Result<bool> {
    match fs::read(path) {
        Ok(text) => Ok(String::from_utf8_lossy(&text).lines().any(|known| known == line)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// Appends `line`; what is there stays, also if its last line has no end.
fn add(path: &Path, line: &str) -> std::io::Result<bool> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let is_open = fs::read(path).is_ok_and(|text| text.last().is_some_and(|last| *last != b'\n'));
    let start = if is_open { "\n" } else { "" };
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    file.write_all(format!("{start}{line}\n").as_bytes())?;
    file.sync_all()?;
    sync_entry(path)?;
    Ok(false)
}
