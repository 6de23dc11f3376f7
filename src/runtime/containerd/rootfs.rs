//! Reads `/etc/passwd` and `/etc/group` of an image from its snapshot.
//!
//! A snapshot of one layer is a folder and is read where it is. Otherwise the layers are mounted
//! read-only for a moment. Symbolic links in the image are followed inside it, never out of it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use containerd_client::types::Mount;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;

use crate::runtime::spec::UserDb;

/// A passwd file larger than this is cut.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Reads both files through `mounts`, using a folder below `scratch` where a mount is needed.
pub(super) async fn read_users(scratch: &Path, mounts: &[Mount]) -> io::Result<UserDb> {
    let Some(only) = mounts.first().cloned() else {
        return Ok(UserDb::default());
    };
    let scratch = scratch.join(uuid::Uuid::new_v4().to_string());
    tokio::task::spawn_blocking(move || read_mount(&scratch, &only))
        .await
        .map_err(io::Error::other)?
}

fn read_mount(scratch: &Path, snapshot: &Mount) -> io::Result<UserDb> {
    if snapshot.r#type == "bind" {
        return read_below(Path::new(&snapshot.source));
    }
    let layers = lower_layers(snapshot);
    if let [only] = layers.as_slice() {
        return read_below(only);
    }
    fs::create_dir_all(scratch)?;
    let read = mounted(scratch, snapshot, &layers);
    // Whether it could be read is the answer; what stays behind is empty.
    let _ = fs::remove_dir_all(scratch);
    read
}

fn mounted(scratch: &Path, snapshot: &Mount, layers: &[PathBuf]) -> io::Result<UserDb> {
    let target = scratch.join("root");
    fs::create_dir(&target)?;
    let options = if layers.is_empty() {
        snapshot
            .options
            .iter()
            .filter(|o| *o != "rw" && *o != "ro")
            .cloned()
            .collect::<Vec<_>>()
            .join(",")
    } else {
        overlay_options(scratch, layers)?
    };
    mount(
        Some(snapshot.source.as_str()),
        &target,
        Some(snapshot.r#type.as_str()),
        MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        Some(options.as_str()),
    )?;
    let read = read_below(&target);
    umount2(&target, MntFlags::MNT_DETACH)?;
    read
}

/// Mount options may not be longer than a page: short links stand for the layers' long paths.
fn overlay_options(scratch: &Path, layers: &[PathBuf]) -> io::Result<String> {
    let mut lower = Vec::with_capacity(layers.len());
    for (number, layer) in layers.iter().enumerate() {
        let link = scratch.join(number.to_string());
        std::os::unix::fs::symlink(layer, &link)?;
        lower.push(link.to_string_lossy().into_owned());
    }
    Ok(format!("lowerdir={}", lower.join(":")))
}

/// The layers of an overlay, uppermost first; a view has no writable one.
fn lower_layers(snapshot: &Mount) -> Vec<PathBuf> {
    if snapshot.r#type != "overlay" {
        return Vec::new();
    }
    snapshot
        .options
        .iter()
        .find_map(|option| option.strip_prefix("lowerdir="))
        .map(|layers| layers.split(':').map(PathBuf::from).collect())
        .unwrap_or_default()
}

fn read_below(root: &Path) -> io::Result<UserDb> {
    let root = open(
        root,
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )?;
    let passwd = read_file(&root, "etc/passwd")?;
    let group = read_file(&root, "etc/group")?;
    Ok(UserDb::parse(&passwd, &group))
}

/// Empty where there is no such file.
fn read_file(root: &impl AsFd, name: &str) -> io::Result<String> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = match openat2(root, name, how) {
        Ok(file) => File::from(file),
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Ok(String::new()),
        Err(error) => return Err(error.into()),
    };
    if !file.metadata()?.is_file() {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_inside_the_image_only() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::create_dir_all(root.join("usr/share")).unwrap();
        fs::write(root.join("usr/share/passwd"), "web:x:5:6::/:\n").unwrap();
        fs::write(folder.path().join("secret"), "out:x:7:8::/:\n").unwrap();
        std::os::unix::fs::symlink("/usr/share/passwd", root.join("etc/passwd")).unwrap();
        std::os::unix::fs::symlink("../../secret", root.join("etc/group")).unwrap();
        let snapshot = Mount {
            r#type: "bind".to_owned(),
            source: root.to_string_lossy().into_owned(),
            ..Mount::default()
        };
        let users = read_mount(&folder.path().join("scratch"), &snapshot).unwrap();
        assert_eq!(users, UserDb::parse("web:x:5:6::/:\n", ""));
    }
}
