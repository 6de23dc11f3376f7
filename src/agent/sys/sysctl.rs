//! Kernel settings below `/proc/sys`, of the network namespace the calling thread is in.

use std::io;
use std::path::PathBuf;

/// Sets `name` (dotted, for instance `net.ipv4.ip_forward`; a slash keeps a dot in an interface
/// name) to `value`, unless it has that value already.
pub fn set(name: &str, value: &str) -> io::Result<()> {
    let path = path_of(name);
    if std::fs::read_to_string(&path).is_ok_and(|now| now.trim() == value) {
        return Ok(());
    }
    std::fs::write(&path, value)
        .map_err(|error| io::Error::new(error.kind(), format!("set sysctl `{name}`: {error}")))
}

fn path_of(name: &str) -> PathBuf {
    let path = if name.contains('/') {
        name.to_owned()
    } else {
        name.replace('.', "/")
    };
    PathBuf::from("/proc/sys").join(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_separate_unless_there_is_a_slash() {
        assert_eq!(
            path_of("net.ipv4.ip_forward"),
            PathBuf::from("/proc/sys/net/ipv4/ip_forward")
        );
        assert_eq!(
            path_of("net/ipv4/conf/eth0.1/rp_filter"),
            PathBuf::from("/proc/sys/net/ipv4/conf/eth0.1/rp_filter")
        );
    }
}
