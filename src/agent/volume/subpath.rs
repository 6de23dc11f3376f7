//! Part of a volume as a mount: bound from an open file, so that a link which a container swaps in
//! cannot lead out of the volume (kubernetes `pkg/volume/util/subpath`).

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Component, Path};

use crate::agent::sys::mount;

/// Binds `below` of the volume at `root` to `target` and makes what is missing of it.
pub(crate) fn bind(root: &Path, below: &str, target: &Path) -> io::Result<()> {
    let below = Path::new(below);
    let plain = below
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !plain {
        let text = format!(
            "subPath `{}` must be relative and not contain `..`",
            below.display()
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    if mount::open_inside(root, below).is_err() {
        make(root, below)?;
    }
    let source = mount::open_inside(root, below)?;
    mount::unmount(target)?;
    if source.metadata()?.is_dir() {
        fs::create_dir_all(target)?;
    } else {
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        OpenOptions::new().create(true).append(true).open(target)?;
    }
    mount::bind_open(&source, target)
}

/// Makes the folders of `below` one by one, each opened inside the volume.
fn make(root: &Path, below: &Path) -> io::Result<()> {
    let mode = fs::metadata(root)?.permissions();
    let mut done = std::path::PathBuf::new();
    for part in below.components() {
        let parent = mount::open_inside(root, &done)?;
        done.push(part);
        if mount::open_inside(root, &done).is_ok() {
            continue;
        }
        let parent = mount::path_of(&parent).join(part);
        fs::create_dir(&parent)?;
        fs::set_permissions(&parent, mode.clone())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_folders_are_made_inside_only() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("volume");
        fs::create_dir(&root).unwrap();
        make(&root, Path::new("a/b")).unwrap();
        assert!(root.join("a/b").is_dir());
        std::os::unix::fs::symlink(folder.path(), root.join("out")).unwrap();
        assert!(make(&root, Path::new("out/x")).is_err());
        assert!(!folder.path().join("x").exists());
        let target = folder.path().join("t");
        assert!(bind(&root, "../x", &target).is_err());
    }
}
