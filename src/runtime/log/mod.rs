//! Container log files: how the log program is told what to do, and how others talk to it.
//!
//! Containerd's shim starts orch's own executable beside each container and gives it the ends of
//! the container's output (`binary://`). It lives as long as the container, whatever happens to
//! the agent: a restart or an upgrade leaves no hole. It also hands the output to whoever attaches,
//! by a socket in the container's folder that it removes when everything is written.

mod attach;
mod files;
mod lines;
mod program;

use std::path::{Path, PathBuf};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};

pub use attach::{AttachFrame, connect, is_alive, is_drained};
pub use files::{ROTATED_MARK, rotated_files};
pub use program::main;

/// The first argument with which orch's executable is the log program.
pub const SUBCOMMAND: &str = "log-driver";

/// What the log program is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogArgs {
    /// The file to write; its folder exists.
    pub log: PathBuf,
    /// The container's folder: socket and lock are made there.
    pub attach: PathBuf,
    /// Folder of the FIFOs `stdout` and `stderr`, where the shim hands no descriptors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fifos: Option<PathBuf>,
}

impl LogArgs {
    /// Arguments for the executable.
    pub fn command(&self) -> [String; 2] {
        [SUBCOMMAND.to_owned(), self.json()]
    }

    /// As containerd wants it. Of several query keys the shim would take any order, so there is
    /// one, which becomes the same two arguments as [`LogArgs::command`].
    pub fn uri(&self, program: &Path) -> String {
        let path = utf8_percent_encode(&program.to_string_lossy(), NON_ALPHANUMERIC).to_string();
        format!(
            "binary://{}?{SUBCOMMAND}={}",
            path.replace("%2F", "/"),
            utf8_percent_encode(&self.json(), NON_ALPHANUMERIC)
        )
    }

    fn json(&self) -> String {
        // Paths that are not text cannot be in a URI either.
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uri_carries_everything_in_one_key() {
        let args = LogArgs {
            log: PathBuf::from("/var/log/pods/a b/0.log"),
            attach: PathBuf::from("/x"),
            fifos: None,
        };
        let uri = args.uri(Path::new("/usr/local/bin/orch"));
        assert!(
            uri.starts_with("binary:///usr/local/bin/orch?log-driver=%7B%22log%22"),
            "{uri}"
        );
        assert!(!uri.contains(['&', ' ', '"']), "{uri}");
    }
}
