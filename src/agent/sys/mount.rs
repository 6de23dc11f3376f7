//! Mounts of the host: tmpfs, binds, and taking them away again.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

const NONE: Option<&str> = None;

/// Whether something is mounted at `path` itself. A bind of the same file system is not seen.
pub fn is_mounted(path: &Path) -> bool {
    let (Ok(own), Some(Ok(parent))) = (path.metadata(), path.parent().map(Path::metadata)) else {
        return false;
    };
    own.dev() != parent.dev()
}

/// Mounts a tmpfs at `path` (made where missing), `size_bytes` large at most where given.
pub fn tmpfs(path: &Path, mode: u32, size_bytes: Option<u64>) -> io::Result<()> {
    std::fs::create_dir_all(path)?;
    if is_mounted(path) {
        return Ok(());
    }
    let mut options = format!("mode={mode:o}");
    if let Some(size) = size_bytes {
        options.push_str(&format!(",size={size}"));
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(
        Some("tmpfs"),
        path,
        Some("tmpfs"),
        flags,
        Some(options.as_str()),
    )?;
    Ok(())
}

/// Binds the open file or folder `source` to `target`, which must be of the same sort.
pub fn bind_open(source: &File, target: &Path) -> io::Result<()> {
    let from = path_of(source);
    mount(
        Some(&from),
        target,
        NONE,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        NONE,
    )?;
    Ok(())
}

/// A path that means the open file, whatever happens to its name.
pub fn path_of(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Unmounts `path`, also while it is in use. What is not mounted is well.
pub fn unmount(path: &Path) -> io::Result<()> {
    match umount2(path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Unmounts everything below `path` and at it, the innermost first.
pub fn unmount_below(path: &Path) -> io::Result<()> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    for point in below(&table, path).into_iter().rev() {
        unmount(&point)?;
    }
    Ok(())
}

/// Mount points at or below `path`, in the order they were mounted.
fn below(table: &str, path: &Path) -> Vec<PathBuf> {
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    points
        .map(|point| PathBuf::from(unescaped(point)))
        .filter(|point| point.starts_with(path))
        .collect()
}

/// Spaces, tabs, line ends and backslashes are octal in the mount table.
fn unescaped(text: &str) -> String {
    text.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}

/// Opens `below` inside `root` without ever leaving it, whatever links say.
pub fn open_inside(root: &Path, below: &Path) -> io::Result<File> {
    let root = File::open(root)?;
    if below.as_os_str().is_empty() || below == Path::new(".") {
        return Ok(root);
    }
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let opened = openat2(root.as_fd(), below, how)?;
    Ok(File::from(opened))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mounts_below_are_found_and_names_are_read() {
        let table = "1 0 8:1 / / rw - ext4 x rw\n\
            2 1 0:2 / /a/b rw - tmpfs tmpfs rw\n\
            3 1 0:3 / /a/b/c\\040d rw - tmpfs tmpfs rw\n\
            4 1 0:4 / /a/bc rw - tmpfs tmpfs rw\n";
        let found = below(table, Path::new("/a/b"));
        assert_eq!(found, [Path::new("/a/b"), Path::new("/a/b/c d")]);
    }

    #[test]
    fn links_do_not_lead_out_of_a_volume() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("volume");
        std::fs::create_dir_all(root.join("in")).unwrap();
        std::os::unix::fs::symlink("/etc", root.join("out")).unwrap();
        std::os::unix::fs::symlink("in", root.join("link")).unwrap();
        assert!(open_inside(&root, Path::new("link")).is_ok());
        assert!(open_inside(&root, Path::new("out")).is_err());
        assert!(open_inside(&root, Path::new("../volume/in")).is_err());
    }
}
