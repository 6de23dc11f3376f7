//! The only caller of nftables. One table a concern; each change is one atomic transaction.

use std::io;
use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Applies a ruleset text as one transaction: all of it or nothing.
///
/// Errors: nftables' own message with the first lines of the text it refused.
pub async fn apply(ruleset: &str) -> io::Result<()> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| io::Error::new(e.kind(), format!("run `nft` (package nftables): {e}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(ruleset.as_bytes()).await?;
    }
    let output = child.wait_with_output().await?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: Vec<_> = said.lines().take(3).collect();
    Err(io::Error::other(format!(
        "nft refused the ruleset: {}",
        said.join(" | ")
    )))
}

/// Text that makes `table` anew with `body`, whatever was in it before.
pub fn replace_table(family: &str, table: &str, body: &str) -> String {
    format!(
        "table {family} {table}\ndelete table {family} {table}\ntable {family} {table} {{\n{body}}}\n"
    )
}

/// Text that removes `table`, there or not.
pub fn delete_table(family: &str, table: &str) -> String {
    format!("table {family} {table}\ndelete table {family} {table}\n")
}
