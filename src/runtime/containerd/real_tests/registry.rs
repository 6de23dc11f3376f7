//! Debian's docker-registry for one test.

use std::fs;
use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::rig::eventually;
use crate::runtime::containerd::content;

/// A real registry on a free port of this machine, ended with the test.
pub(super) struct LocalRegistry {
    pub(super) child: tokio::process::Child,
    pub(super) address: String,
}

impl LocalRegistry {
    pub(super) async fn start(folder: &Path) -> Option<Self> {
        if !Path::new("/usr/bin/docker-registry").exists() {
            println!("not run: needs docker-registry");
            return None;
        }
        let free = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let address = free.to_string();
        let text = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}/registry}}}}\nhttp: {{addr: \"{address}\"}}\n",
            folder.display()
        );
        let config = folder.join("registry.yml");
        fs::write(&config, text).unwrap();
        let child = tokio::process::Command::new("/usr/bin/docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let registry = Self { child, address };
        eventually("the registry listens", || {
            std::net::TcpStream::connect(&registry.address).is_ok()
        })
        .await;
        Some(registry)
    }

    pub(super) async fn request(&self, line: &str, headers: &str, body: &[u8]) -> String {
        let mut stream = tokio::net::TcpStream::connect(&self.address).await.unwrap();
        let head = format!(
            "{line} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n",
            self.address,
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Puts the image of an archive made by [`write_image`] there.
    pub(super) async fn push(&self, archive: &Path, repository: &str, tag: &str) {
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(
            fs::File::open(archive).unwrap(),
        ));
        let mut blobs = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().to_string_lossy().into_owned();
            let mut data = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut data).unwrap();
            if name.starts_with("blobs/") {
                blobs.push(data);
            }
        }
        let manifest = blobs.pop().unwrap();
        for blob in blobs {
            let begun = self
                .request(&format!("POST /v2/{repository}/blobs/uploads/"), "", b"")
                .await;
            let location = begun
                .lines()
                .find_map(|l| l.strip_prefix("Location: "))
                .unwrap();
            let path = location.split_once(&self.address).unwrap().1.trim();
            let digest = content::digest_of(&blob);
            let kind = "Content-Type: application/octet-stream\r\n";
            let done = self
                .request(&format!("PUT {path}&digest={digest}"), kind, &blob)
                .await;
            assert!(done.starts_with("HTTP/1.1 201"), "{done}");
        }
        let kind = "Content-Type: application/vnd.oci.image.manifest.v1+json\r\n";
        let done = self
            .request(
                &format!("PUT /v2/{repository}/manifests/{tag}"),
                kind,
                &manifest,
            )
            .await;
        assert!(done.starts_with("HTTP/1.1 201"), "{done}");
    }
}
