//! Images from files: OCI layouts and `docker save` archives, as tar, gzip or zstd.
//!
//! The archive is read once from front to back: what looks like a blob goes straight into
//! containerd's content store under a lease, small JSON files are kept, and at the end `index.json`
//! or `manifest.json` says what is an image. What nothing refers to is collected afterwards.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Component, Path};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::content::JSON_BYTES_MAX;
use crate::runtime::{Error, Result};

/// A part of an archive on its way from the reading thread.
pub(super) enum Part {
    /// A file begins; its size.
    File(String, u64),
    /// More of it.
    Data(Bytes),
    /// A name for another file: name, target.
    Link(String, String),
    /// Reading failed.
    Failed(String),
}

/// Parts of this size are handed over; some at a time.
const PART_BYTES: usize = 1 << 20;

/// Parts waiting to be stored.
const PARTS_MAX: usize = 4;

/// Files kept in memory: an archive with more JSON than this is none.
const SMALL_FILES_MAX: usize = 4096;

/// Reads the archive on a thread of its own.
pub(super) fn read(path: &Path) -> mpsc::Receiver<Part> {
    let (sender, receiver) = mpsc::channel(PARTS_MAX);
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || {
        if let Err(error) = read_all(&path, &sender) {
            // Nobody left to tell: the import was given up.
            let _ = sender.blocking_send(Part::Failed(format!("{}: {error}", path.display())));
        }
    });
    receiver
}

fn read_all(path: &Path, to: &mpsc::Sender<Part>) -> io::Result<()> {
    let mut file = File::open(path)?;
    let mut magic = [0_u8; 4];
    let got = file.read(&mut magic)?;
    file.seek(SeekFrom::Start(0))?;
    match &magic[..got] {
        [0x1f, 0x8b, ..] => read_tar(flate2::read::MultiGzDecoder::new(file), to),
        [0x28, 0xb5, 0x2f, 0xfd] => read_tar(zstd::Decoder::new(file)?, to),
        _ => read_tar(io::BufReader::with_capacity(PART_BYTES, file), to),
    }
}

fn read_tar(source: impl Read, to: &mpsc::Sender<Part>) -> io::Result<()> {
    let gone = || io::Error::other("the import was given up");
    let mut archive = tar::Archive::new(source);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = plain_name(&entry.path()?);
        let kind = entry.header().entry_type();
        if kind.is_symlink() || kind.is_hard_link() {
            let Some(target) = entry.link_name()? else {
                continue;
            };
            let target = if kind.is_symlink() {
                let folder = Path::new(&name).parent().unwrap_or(Path::new(""));
                plain_name(&folder.join(target))
            } else {
                plain_name(&target)
            };
            to.blocking_send(Part::Link(name, target))
                .map_err(|_| gone())?;
            continue;
        }
        if !kind.is_file() {
            continue;
        }
        let size = entry.size();
        to.blocking_send(Part::File(name, size))
            .map_err(|_| gone())?;
        loop {
            let mut data = Vec::with_capacity(
                PART_BYTES
                    .min(usize::try_from(size).unwrap_or(PART_BYTES))
                    .max(1),
            );
            let limit = data.capacity() as u64;
            if (&mut entry).take(limit).read_to_end(&mut data)? == 0 {
                break;
            }
            to.blocking_send(Part::Data(data.into()))
                .map_err(|_| gone())?;
        }
    }
    Ok(())
}

/// `./a/../b` is `b`.
fn plain_name(path: &Path) -> String {
    let mut parts: Vec<String> = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part.to_string_lossy().into_owned()),
            Component::ParentDir => {
                parts.pop();
            }
            _ => {}
        }
    }
    parts.join("/")
}

/// What was found in an archive.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Digest by file name, of every file that was stored.
    pub digests: HashMap<String, String>,
    /// Size by digest.
    pub sizes: HashMap<String, u64>,
    /// Content of small files that may be JSON.
    pub small: HashMap<String, Vec<u8>>,
    /// Names for other files.
    pub links: HashMap<String, String>,
}

impl Found {
    /// The digest of a file, by way of links.
    pub(super) fn digest(&self, name: &str) -> Option<&String> {
        let mut name = name;
        for _ in 0..8 {
            if let Some(digest) = self.digests.get(name) {
                return Some(digest);
            }
            name = self.links.get(name)?;
        }
        None
    }

    pub(super) fn keep(&mut self, name: String, data: Vec<u8>) -> Result<()> {
        if self.small.len() >= SMALL_FILES_MAX {
            return Err(Error::Image(
                "too many small files for an image archive".to_owned(),
            ));
        }
        self.small.insert(name, data);
        Ok(())
    }
}

/// Whether a file is kept in memory beside being stored.
pub(super) fn is_small(name: &str, size: u64) -> bool {
    let blob = name.starts_with("blobs/");
    // Manifests and configurations among the blobs are small; layers rarely are, and a small
    // layer in memory does no harm.
    let limit = if blob { 1 << 20 } else { JSON_BYTES_MAX as u64 };
    size <= limit && (blob || name.ends_with(".json") || name == "oci-layout")
}

/// The digest that a file of an OCI layout has by its name.
pub(super) fn digest_by_name(name: &str) -> Option<String> {
    let rest = name.strip_prefix("blobs/")?;
    let (algorithm, value) = rest.split_once('/')?;
    let digest = format!("{algorithm}:{value}");
    crate::runtime::registry::reference::is_digest(&digest).then_some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_plain_and_give_digests() {
        assert_eq!(plain_name(Path::new("./a/../b//c")), "b/c");
        assert_eq!(plain_name(Path::new("../../etc/passwd")), "etc/passwd");
        let value = "0".repeat(64);
        assert_eq!(
            digest_by_name(&format!("blobs/sha256/{value}")),
            Some(format!("sha256:{value}"))
        );
        assert_eq!(digest_by_name("blobs/sha256/x"), None);
    }

    #[tokio::test]
    async fn a_compressed_archive_is_read_whole_and_a_broken_one_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tar.zst");
        let mut builder =
            tar::Builder::new(zstd::Encoder::new(File::create(&path).unwrap(), 1).unwrap());
        let mut header = tar::Header::new_gnu();
        let data = vec![7_u8; PART_BYTES + 5];
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        builder
            .append_data(&mut header, "./x/y", &data[..])
            .unwrap();
        builder.into_inner().unwrap().finish().unwrap();
        let mut parts = read(&path);
        let mut total = 0;
        while let Some(part) = parts.recv().await {
            match part {
                Part::File(name, size) => {
                    assert_eq!((name.as_str(), size), ("x/y", data.len() as u64))
                }
                Part::Data(part) => total += part.len(),
                Part::Link(..) | Part::Failed(_) => panic!("neither link nor failure"),
            }
        }
        assert_eq!(total, data.len());
        let broken = folder.path().join("broken.tar");
        std::fs::write(&broken, vec![b'x'; 2000]).unwrap();
        let mut parts = read(&broken);
        assert!(matches!(parts.recv().await, Some(Part::Failed(_))));
    }
}
