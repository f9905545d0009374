//! The section of a directory of keys.

use std::{fs, io, os::unix::fs::PermissionsExt as _, path::PathBuf, sync::Arc};

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
        Err(e) => {
            let message = format!("can't look at {path:?}: {e}");
            // Of links themselves.
            let there = path.ancestors().find(|path| path.symlink_metadata().is_ok());
            match (e.kind(), there.filter(|there| !there.is_dir())) {
                // The server may run as another user, who has the right.
                (io::ErrorKind::PermissionDenied, _) => look.warn(PATH, message, ""),
                (_, Some(there)) if there.exists() => {
                    look.refuse(PATH, format!("{there:?} is not a directory"), "");
                }
                (_, Some(there)) => {
                    look.refuse(PATH, format!("{there:?} is a link that leads nowhere"), "");
                }
                (io::ErrorKind::NotFound, None) => {} // the server makes it
                (_, None) => look.refuse(PATH, message, ""),
            }
        }
    }
}
