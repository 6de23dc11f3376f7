//! Network, IPC and UTS namespaces that outlive the agent: made on a thread of their own and kept
//! alive by bind mounts of their files, without a process that holds them (no pause container).
//!
//! Namespaces are a property of a thread, so nothing here ever runs on a thread of the async
//! runtime: each step gets a new thread, which ends with it.

use std::fs::{self, File};
use std::future::Future;
use std::io;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use tokio::sync::oneshot;

use super::sysctl;
use crate::agent::seam::PinnedNamespaces;

/// File names below a pod's folder and the kernel's names of the namespaces.
const KINDS: [(&str, &str); 3] = [("net", "net"), ("ipc", "ipc"), ("uts", "uts")];

/// Makes the three namespaces with `hostname` and `sysctls`, loopback up, and pins them below
/// `folder`. What is pinned already is kept as it is.
pub async fn pin(
    folder: &Path,
    hostname: &str,
    sysctls: &[(String, String)],
) -> io::Result<PinnedNamespaces> {
    let pins = pins_below(folder);
    let (folder, hostname, sysctls) = (folder.to_owned(), hostname.to_owned(), sysctls.to_vec());
    on_thread(move || make_pins(&folder, &hostname, &sysctls)).await?;
    Ok(pins)
}

/// Removes the pins below `folder`; the namespaces end with the last process in them.
pub async fn unpin(folder: &Path) -> io::Result<()> {
    let folder = folder.to_owned();
    on_thread(move || remove_pins(&folder)).await
}

/// Runs `work` on a thread inside the network namespace bound at `network`, with a small async
/// runtime so that netlink can be spoken there.
pub async fn within<T, F, W>(network: &Path, work: W) -> io::Result<T>
where
    T: Send + 'static,
    F: Future<Output = io::Result<T>>,
    W: FnOnce() -> F + Send + 'static,
{
    let network = network.to_owned();
    on_thread(move || {
        setns(File::open(&network)?, CloneFlags::CLONE_NEWNET)?;
        run_here(work())
    })
    .await
}

/// Whether `path` is a pinned namespace (and not an empty file left by a crash).
pub fn is_pinned(path: &Path) -> bool {
    nix::sys::statfs::statfs(path)
        .is_ok_and(|stat| stat.filesystem_type() == nix::sys::statfs::NSFS_MAGIC)
}

fn pins_below(folder: &Path) -> PinnedNamespaces {
    PinnedNamespaces {
        network: folder.join("net"),
        ipc: folder.join("ipc"),
        uts: folder.join("uts"),
    }
}

fn make_pins(folder: &Path, hostname: &str, sysctls: &[(String, String)]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    if KINDS.iter().all(|(name, _)| is_pinned(&folder.join(name))) {
        return Ok(());
    }
    remove_pins(folder)?;
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS)?;
    nix::unistd::sethostname(hostname)?;
    for (name, value) in sysctls {
        sysctl::set(name, value)?;
    }
    run_here(async { super::netlink::Netlink::here()?.set_up("lo").await })?;
    for (name, kind) in KINDS {
        let target = folder.join(name);
        File::create(&target)?;
        let source = format!("/proc/thread-self/ns/{kind}");
        mount(
            Some(source.as_str()),
            &target,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )?;
    }
    Ok(())
}

fn remove_pins(folder: &Path) -> io::Result<()> {
    for (name, _) in KINDS {
        let target = folder.join(name);
        while is_pinned(&target) {
            umount2(&target, MntFlags::MNT_DETACH)?;
        }
        match fs::remove_file(&target) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn run_here<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

async fn on_thread<T, W>(work: W) -> io::Result<T>
where
    T: Send + 'static,
    W: FnOnce() -> io::Result<T> + Send + 'static,
{
    let (answer, answered) = oneshot::channel();
    std::thread::Builder::new()
        .name("netns".into())
        .stack_size(256 << 10)
        .spawn(move || {
            // The asker may be gone (agent stopping); the work is done all the same.
            let _ = answer.send(work());
        })?;
    answered
        .await
        .map_err(|_| io::Error::other("the namespace thread ended without an answer"))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pins_outlive_their_thread_and_hold_the_host_name() {
        let folder = tempfile::tempdir().unwrap();
        let pins = pin(folder.path(), "web-0", &[]).await.unwrap();
        assert!(is_pinned(&pins.network) && is_pinned(&pins.uts));
        let again = pin(folder.path(), "other", &[]).await.unwrap();
        let uts = again.uts.clone();
        let name = on_thread(move || {
            setns(File::open(&uts)?, CloneFlags::CLONE_NEWUTS)?;
            Ok(nix::unistd::gethostname()?)
        });
        assert_eq!(name.await.unwrap(), "web-0");
        unpin(folder.path()).await.unwrap();
        assert!(!is_pinned(&pins.network));
        unpin(folder.path()).await.unwrap();
    }

    #[tokio::test]
    async fn loopback_is_up_inside() {
        let folder = tempfile::tempdir().unwrap();
        let pins = pin(folder.path(), "a", &[]).await.unwrap();
        let port = within(&pins.network, || async {
            Ok(std::net::TcpListener::bind("127.0.0.1:0")?
                .local_addr()?
                .port())
        });
        assert_ne!(port.await.unwrap(), 0);
        unpin(folder.path()).await.unwrap();
    }
}
