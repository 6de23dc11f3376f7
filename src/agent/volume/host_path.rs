//! Paths of the host in a pod: the checks their type asks for
//! (kubernetes `pkg/volume/hostpath`).

use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

/// Makes or checks `path` as `kind` says.
///
/// Errors: a text as the kubelet shows it.
pub(crate) fn prepare(path: &Path, kind: &str) -> Result<(), String> {
    let found = fs::metadata(path).ok();
    let shown = path.display();
    let wrong = |what: &str| Err(format!("hostPath type check failed: {shown} is not {what}"));
    let failed = |error: std::io::Error| format!("make {shown}: {error}");
    match kind {
        "" => {
            // Nobody says what it is to be; a bind needs something, so it is a folder.
            if found.is_none() {
                fs::create_dir_all(path).map_err(failed)?;
            }
            Ok(())
        }
        "DirectoryOrCreate" if found.is_none() => {
            fs::create_dir_all(path).map_err(failed)?;
            fs::set_permissions(path, Permissions::from_mode(0o755)).map_err(failed)
        }
        "FileOrCreate" if found.is_none() => {
            let made = OpenOptions::new().create(true).append(true).open(path);
            made.map_err(failed)?;
            fs::set_permissions(path, Permissions::from_mode(0o644)).map_err(failed)
        }
        "Directory" | "DirectoryOrCreate" => match found {
            Some(found) if found.is_dir() => Ok(()),
            _ => wrong("a directory"),
        },
        "File" | "FileOrCreate" => match found {
            Some(found) if found.is_file() => Ok(()),
            _ => wrong("a file"),
        },
        "Socket" => match found {
            Some(found) if found.file_type().is_socket() => Ok(()),
            _ => wrong("a socket file"),
        },
        "CharDevice" => match found {
            Some(found) if found.file_type().is_char_device() => Ok(()),
            _ => wrong("a character device"),
        },
        "BlockDevice" => match found {
            Some(found) if found.file_type().is_block_device() => Ok(()),
            _ => wrong("a block device"),
        },
        other => Err(format!("{other} is an invalid volume type")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_make_or_check_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        assert!(
            prepare(&at("none"), "Directory")
                .unwrap_err()
                .ends_with("is not a directory")
        );
        assert!(prepare(&at("d/e"), "DirectoryOrCreate").is_ok());
        assert!(prepare(&at("d/e"), "Directory").is_ok());
        assert!(
            prepare(&at("d/e"), "File")
                .unwrap_err()
                .ends_with("is not a file")
        );
        assert!(prepare(&at("f"), "FileOrCreate").is_ok());
        assert!(
            prepare(&at("f"), "Socket")
                .unwrap_err()
                .ends_with("is not a socket file")
        );
        assert!(prepare(&at("g"), "").is_ok() && at("g").is_dir());
        assert!(prepare(Path::new("/dev/null"), "CharDevice").is_ok());
    }
}
