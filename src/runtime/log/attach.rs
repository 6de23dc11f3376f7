//! The output of a container for those who attach to it, by a socket in its folder.
//!
//! Frames are `[0 or 1: standard error][length, 4 bytes, big-endian][bytes]`. Socket paths may have
//! at most 107 characters, so both sides reach the folder through `/proc/self/fd`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use tokio::io::AsyncReadExt;

const SOCKET: &str = "attach.sock";
const LOCK: &str = "logger.lock";

/// Clients one container may have; more are refused.
const CLIENTS_MAX: usize = 16;

/// A client that takes nothing for this long is dropped: the container must not be held up.
const CLIENT_PATIENCE: Duration = Duration::from_secs(1);

/// Nothing larger is ever sent.
const FRAME_BYTES_MAX: usize = 1 << 20;

/// Output of a container.
#[derive(Debug, PartialEq, Eq)]
pub struct AttachFrame {
    /// Standard error rather than standard output.
    pub is_stderr: bool,
    /// As written.
    pub data: Vec<u8>,
}

impl AttachFrame {
    /// The next frame; `None` at the end.
    pub async fn read(from: &mut tokio::net::UnixStream) -> io::Result<Option<Self>> {
        let mut head = [0_u8; 5];
        match from.read_exact(&mut head).await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        };
        let [stream, length @ ..] = head;
        let length = u32::from_be_bytes(length) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut data = vec![0; length];
        from.read_exact(&mut data).await?;
        Ok(Some(Self {
            is_stderr: stream == 1,
            data,
        }))
    }
}

fn short(folder: &File, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()))
}

/// Connects to the log program of the container with this folder.
pub async fn connect(folder: &Path) -> io::Result<tokio::net::UnixStream> {
    let folder = File::open(folder)?;
    tokio::net::UnixStream::connect(short(&folder, SOCKET)).await
}

/// Whether everything the container wrote is in its log file.
pub fn is_drained(folder: &Path) -> bool {
    // A log program that was killed leaves its socket.
    !folder.join(SOCKET).exists() || !is_alive(folder)
}

/// Whether a log program runs for the container with this folder.
pub fn is_alive(folder: &Path) -> bool {
    lock(folder).is_err()
}

/// Held by the log program while it runs.
pub(super) fn lock(folder: &Path) -> io::Result<Flock<File>> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(folder.join(LOCK))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno.into())
}

/// The log program's side.
pub(super) struct Clients {
    folder: PathBuf,
    listener: UnixListener,
    clients: Vec<UnixStream>,
}

impl Clients {
    pub(super) fn listen(folder: &Path) -> io::Result<Self> {
        let path = folder.join(SOCKET);
        // Left by a log program that was killed.
        let _ = fs::remove_file(&path);
        let opened = File::open(folder)?;
        let listener = UnixListener::bind(short(&opened, SOCKET))?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            folder: folder.to_owned(),
            listener,
            clients: Vec::new(),
        })
    }

    pub(super) fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Takes everybody who waits.
    pub(super) fn accept(&mut self) {
        while let Ok((client, _)) = self.listener.accept() {
            let usable = client.set_nonblocking(false).is_ok()
                && client.set_write_timeout(Some(CLIENT_PATIENCE)).is_ok();
            if usable && self.clients.len() < CLIENTS_MAX {
                self.clients.push(client);
            }
        }
    }

    pub(super) fn send(&mut self, is_stderr: bool, data: &[u8]) {
        if self.clients.is_empty() {
            return;
        }
        let length = u32::try_from(data.len()).unwrap_or(0);
        let mut frame = Vec::with_capacity(data.len() + 5);
        frame.push(u8::from(is_stderr));
        frame.extend_from_slice(&length.to_be_bytes());
        frame.extend_from_slice(data);
        self.clients
            .retain_mut(|client| client.write_all(&frame).is_ok());
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        // Gone with the container's folder otherwise.
        let _ = fs::remove_file(self.folder.join(SOCKET));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_arrive_as_sent_from_a_folder_with_a_long_name() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("x".repeat(150));
        fs::create_dir(&folder).unwrap();
        assert!(is_drained(&folder));
        let _held = lock(&folder).unwrap();
        let mut clients = Clients::listen(&folder).unwrap();
        let mut client = connect(&folder).await.unwrap();
        clients.accept();
        clients.send(true, b"oops");
        assert!(!is_drained(&folder));
        drop(clients);
        let frame = AttachFrame::read(&mut client).await.unwrap().unwrap();
        assert_eq!(
            (frame.is_stderr, frame.data.as_slice()),
            (true, b"oops".as_slice())
        );
        assert_eq!(AttachFrame::read(&mut client).await.unwrap(), None);
        assert!(is_drained(&folder));
    }

    #[test]
    fn a_running_log_program_is_seen_by_its_lock() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!is_alive(folder.path()));
        let _held = lock(folder.path()).unwrap();
        assert!(is_alive(folder.path()));
    }
}
