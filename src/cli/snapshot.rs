//! `orch snapshot`: the datastore at one revision, to and from a file.
//!
//! What a server sends is written as it comes, under another name, and gets its own only after all
//! of it was checked: a file that exists is whole.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use http::Method;
use http_body_util::BodyExt;

use super::args::{SnapshotArgs, SnapshotVerb, TargetArgs};
use super::{Failure, output, target};
use crate::client::{Call, Client};
use crate::store::snapshot::{self, Info};
use crate::util::clock::Clock;

/// Where a running server gives its datastore to an administrator.
const PATH: &str = "/orch/v1/snapshot";

/// Runs the command.
pub(crate) fn run(args: SnapshotArgs) -> Result<(), Failure> {
    let SnapshotArgs { verb, data_dir } = args;
    match verb {
        SnapshotVerb::Save { file, target } => save(&data_dir, file, &target),
        SnapshotVerb::List { folder } => {
            list(&folder.unwrap_or_else(|| data_dir.join("server/snapshots")))
        }
        SnapshotVerb::Restore { file } => restore(&file, &data_dir),
    }
}

fn save(data_dir: &Path, file: Option<PathBuf>, args: &TargetArgs) -> Result<(), Failure> {
    let name = format!(
        "{}.orchsnap",
        Clock::system().now().strftime("%Y%m%dT%H%M%SZ")
    );
    let file = file.unwrap_or_else(|| data_dir.join("server/snapshots").join(name));
    let part = Part::create(&file)?;
    let part = target::with_client(args, |client| async move { receive(&client, part).await })?;
    let info = part.finish()?;
    output::line(format_args!(
        "saved {} keys at revision {} to {}",
        info.keys,
        info.revision.0,
        file.display()
    ));
    Ok(())
}

async fn receive(client: &Client, mut part: Part) -> Result<Part, Failure> {
    let mut body = client.open(Call::new(Method::GET, PATH)).await?;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| anyhow!(error).context("receive the snapshot"))?;
        if let Some(bytes) = frame.data_ref() {
            let written = part.file.write_all(bytes);
            written.with_context(|| format!("write `{}`", part.path.display()))?;
        }
    }
    Ok(part)
}

/// A file on its way; removed unless it is finished.
struct Part {
    file: File,
    path: PathBuf,
    target: PathBuf,
}

impl Part {
    fn create(target: &Path) -> anyhow::Result<Self> {
        let folder = target.parent().unwrap_or(Path::new(""));
        std::fs::create_dir_all(folder).with_context(|| format!("make `{}`", folder.display()))?;
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let path = target.with_file_name(format!(".{name}.{}.part", std::process::id()));
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("write `{}`", path.display()))?;
        Ok(Self {
            file,
            path,
            target: target.to_owned(),
        })
    }

    fn finish(self) -> anyhow::Result<Info> {
        let info = snapshot::inspect(&self.path).context("the snapshot is not whole")?;
        self.file
            .sync_all()
            .and_then(|()| std::fs::rename(&self.path, &self.target))
            .with_context(|| format!("write `{}`", self.target.display()))?;
        Ok(info)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Gone when it was renamed; otherwise it is only in the way.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn list(folder: &Path) -> Result<(), Failure> {
    let header = ["FILE", "TAKEN", "REVISION", "KEYS"]
        .map(str::to_owned)
        .to_vec();
    let mut rows = vec![header];
    let mut files: Vec<PathBuf> = match std::fs::read_dir(folder) {
        Ok(entries) => entries
            .flatten()
            .filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'))
            .map(|entry| entry.path())
            .collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            return Err(anyhow!(error)
                .context(format!("read `{}`", folder.display()))
                .into());
        }
    };
    files.sort();
    for file in files.iter().filter(|file| file.is_file()) {
        let name = file.display().to_string();
        rows.push(match snapshot::inspect(file) {
            Ok(info) => vec![
                name,
                made(&info),
                info.revision.0.to_string(),
                info.keys.to_string(),
            ],
            Err(error) => vec![name, crate::util::errors::chain(&error)],
        });
    }
    output::line(output::table(&rows).trim_end());
    Ok(())
}

fn restore(file: &Path, data_dir: &Path) -> Result<(), Failure> {
    let target = data_dir.join("server/db");
    let aside = set_aside(&target)?;
    match snapshot::restore(file, &target) {
        Ok(info) => {
            output::line(format_args!(
                "restored {} keys at revision {} into {}",
                info.keys,
                info.revision.0,
                target.display()
            ));
            if let Some(aside) = aside {
                output::hint(format_args!(
                    "the datastore before is kept at {}",
                    aside.display()
                ));
            }
            Ok(())
        }
        Err(error) => {
            if let Some(aside) = aside {
                std::fs::rename(&aside, &target)
                    .with_context(|| format!("put `{}` back", aside.display()))?;
            }
            Err(error.into())
        }
    }
}

fn made(info: &Info) -> String {
    let millis = i64::try_from(info.made_ms).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(millis)
        .map(|at| at.to_string())
        .unwrap_or_default()
}

/// Moves the datastore that is there out of the way, unless a server uses it.
fn set_aside(folder: &Path) -> Result<Option<PathBuf>, Failure> {
    if !folder.exists() {
        return Ok(None);
    }
    // Opening takes the lock: a running server is found out here, and nothing is changed.
    let config = crate::store::mvcc::Config::new(folder);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let tried = runtime.block_on(async {
        let opened = crate::store::mvcc::Mvcc::open(&config)?;
        opened.close().await
    });
    match tried {
        Ok(()) => {}
        Err(error @ crate::store::Error::Locked { .. }) => {
            return Err(anyhow!(error).context("stop the server first").into());
        }
        // A damaged datastore is a good reason to restore one.
        Err(_) => {}
    }
    let stamp = Clock::system().now().strftime("%Y%m%dT%H%M%SZ");
    let aside = folder.with_file_name(format!("db-before-{stamp}"));
    std::fs::rename(folder, &aside)
        .with_context(|| format!("move `{}` aside", folder.display()))?;
    Ok(Some(aside))
}
