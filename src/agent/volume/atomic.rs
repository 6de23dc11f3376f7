//! Folders of files that a container sees change all at once
//! (kubernetes `pkg/volume/util/atomic_writer.go`).
//!
//! The files lie in `..TIME`, `..data` is a link to that folder, and each name at the top is a
//! link to `..data/NAME`. A new set is written beside the old one, then `..data` is renamed over.
//! A crash between two steps leaves the old set in place and at most one folder too many, which
//! the next write removes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Component, Path};

use jiff::Timestamp;

const DATA: &str = "..data";
const DATA_NEXT: &str = "..data_tmp";

/// A file to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileContent {
    pub(crate) bytes: Vec<u8>,
    pub(crate) mode: u32,
    /// Owner other than root.
    pub(crate) user: Option<u32>,
}

/// Files by their path below the volume.
pub(crate) type Files = BTreeMap<String, FileContent>;

/// Makes `folder` hold exactly `files`. `false`: it did so before.
pub(crate) fn write(
    folder: &Path,
    files: &Files,
    group: Option<u32>,
    now: Timestamp,
) -> io::Result<bool> {
    for path in files.keys() {
        check(path)?;
    }
    fs::create_dir_all(folder)?;
    let data = folder.join(DATA);
    let old = fs::read_link(&data).ok();
    if old.is_some() && holds(&data, files)? {
        return Ok(false);
    }
    let stamp = now.strftime("..%Y_%m_%d_%H_%M_%S.%9f").to_string();
    let fresh = folder.join(&stamp);
    fs::create_dir(&fresh)?;
    fs::set_permissions(&fresh, Permissions::from_mode(0o755))?;
    for (path, file) in files {
        put(&fresh, path, file, group)?;
    }
    own(&fresh, None, group, Some(0o2755))?;
    let next = folder.join(DATA_NEXT);
    // It exists only after a crash between the next two steps.
    let _ = fs::remove_file(&next);
    symlink(&stamp, &next)?;
    fs::rename(&next, &data)?;
    link_names(folder, files)?;
    remove_leftovers(folder, &stamp)?;
    Ok(true)
}

/// A path that stays inside and does not look like ours.
fn check(path: &str) -> io::Result<()> {
    let plain = Path::new(path)
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    if path.is_empty() || path.starts_with("..") || !plain {
        let text = format!("invalid path `{path}`: must be relative and not contain `..`");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    Ok(())
}

/// Whether what is visible is what is wanted.
fn holds(data: &Path, files: &Files) -> io::Result<bool> {
    for (path, file) in files {
        let at = data.join(path);
        let is_same = fs::read(&at).is_ok_and(|bytes| bytes == file.bytes)
            && fs::metadata(&at).is_ok_and(|m| m.permissions().mode() & file.mode == file.mode);
        if !is_same {
            return Ok(false);
        }
    }
    Ok(count(data)? == files.len())
}

fn count(folder: &Path) -> io::Result<usize> {
    let mut files = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        files += if entry.file_type()?.is_dir() {
            count(&entry.path())?
        } else {
            1
        };
    }
    Ok(files)
}

fn put(fresh: &Path, path: &str, file: &FileContent, group: Option<u32>) -> io::Result<()> {
    let at = fresh.join(path);
    if let Some(parent) = at.parent().filter(|parent| *parent != fresh) {
        fs::create_dir_all(parent)?;
        for folder in parent.ancestors().take_while(|folder| *folder != fresh) {
            own(folder, None, group, Some(0o2755))?;
        }
    }
    fs::write(&at, &file.bytes)?;
    // Group members may read what is given to a group, as SetVolumeOwnership does.
    let mode = if group.is_some() {
        file.mode | 0o440
    } else {
        file.mode
    };
    own(&at, file.user, group, None)?;
    fs::set_permissions(&at, Permissions::from_mode(mode))
}

fn own(path: &Path, user: Option<u32>, group: Option<u32>, mode: Option<u32>) -> io::Result<()> {
    if user.is_some() || group.is_some() {
        chown(path, user, group)?;
    }
    match mode {
        Some(mode) if group.is_some() => fs::set_permissions(path, Permissions::from_mode(mode)),
        _ => Ok(()),
    }
}

/// Links for the names at the top, and no others.
fn link_names(folder: &Path, files: &Files) -> io::Result<()> {
    let names: BTreeSet<&str> = files
        .keys()
        .filter_map(|path| path.split('/').next())
        .collect();
    for name in &names {
        let at = folder.join(name);
        if fs::symlink_metadata(&at).is_err() {
            symlink(Path::new(DATA).join(name), at)?;
        }
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !names.contains(&*name) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn remove_leftovers(folder: &Path, keep: &str) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("..") && entry.file_type()?.is_dir() && name != keep {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str)]) -> Files {
        let made = |(path, text): &(&str, &str)| {
            let content = FileContent {
                bytes: text.as_bytes().to_vec(),
                mode: 0o644,
                user: None,
            };
            ((*path).to_owned(), content)
        };
        list.iter().map(made).collect()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn files_appear_change_and_go_together() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        assert!(write(root, &files(&[("a", "1"), ("d/b", "2")]), None, at(1)).unwrap());
        assert_eq!(fs::read_to_string(root.join("a")).unwrap(), "1");
        assert_eq!(fs::read_to_string(root.join("d/b")).unwrap(), "2");
        let first = fs::read_link(root.join(DATA)).unwrap();
        assert!(!write(root, &files(&[("a", "1"), ("d/b", "2")]), None, at(2)).unwrap());
        assert!(write(root, &files(&[("a", "9")]), None, at(3)).unwrap());
        assert_eq!(fs::read_to_string(root.join("a")).unwrap(), "9");
        assert!(fs::symlink_metadata(root.join("d")).is_err());
        assert!(!root.join(first).exists());
        assert_eq!(
            fs::read_link(root.join("a")).unwrap(),
            Path::new("..data/a")
        );
    }

    #[test]
    fn an_empty_set_is_a_folder_with_nothing_in_it() {
        let folder = tempfile::tempdir().unwrap();
        assert!(write(folder.path(), &Files::new(), None, at(1)).unwrap());
        assert!(!write(folder.path(), &Files::new(), None, at(2)).unwrap());
    }

    #[test]
    fn paths_that_lead_out_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        for path in ["../x", "/x", "a/../../x", "..data", ""] {
            let result = write(folder.path(), &files(&[(path, "")]), None, at(1));
            assert!(result.is_err(), "{path}");
        }
    }
}
