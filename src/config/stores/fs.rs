//! The section of a directory of keys.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Store, field};
use crate::config::files::Look;

pub(super) const PATH: &str = "keystore.fs.path";

pub(super) const STORE: Store = Store {
    name: "FS",
    fields: &[field(PATH, "directory", "directory of keys; made with mode 0700 if missing").unset(
        "with `root` keys are in memory, and gone at exit; with `admin` a key store is required",
    )],
    read: Some(|reader| Some(Arc::new(PathBuf::from(reader.source.text(PATH))))),
    look,
};

/// Looks at a directory without changing it, unlike the server, which makes it.
fn look(look: &mut Look<'_>) {
    let path = PathBuf::from(look.source.text(PATH));
    let path = std::path::absolute(&path).unwrap_or(path);
    match fs::metadata(&path) {
        Ok(found) if !found.is_dir() => {
            look.refuse(PATH, format!("{path:?} is not a directory"), "");
        }
        Ok(found) if found.permissions().mode() & 0o007 != 0 => {
            let message = format!("directory of keys {path:?} is open to every user");
            look.warn(PATH, message, "run 'chmod 700' on it");
        }
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let mut parents = path.ancestors().skip(1);
            let exists = |parent: &&Path| parent.exists();
            if let Some(parent) = parents.find(exists).filter(|parent| !parent.is_dir()) {
                look.refuse(PATH, format!("{parent:?} is not a directory"), "");
            }
        }
        Err(e) => {
            // The server may run as another user, who has the right.
            let message = format!("can't look at {path:?}: {e}");
            look.warn(PATH, message, "");
        }
    }
}
