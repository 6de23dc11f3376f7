//! Device nodes of the host that a container is given.

use std::path::PathBuf;

use super::oci::{DeviceRule, LinuxDevice};

/// A device node as found on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    pub path: PathBuf,
    /// Block rather than character.
    pub block: bool,
    pub major: u64,
    pub minor: u64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

impl Device {
    fn kind(&self) -> String {
        if self.block { "b" } else { "c" }.to_owned()
    }
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(-1)
}

pub(super) fn node(device: &Device) -> LinuxDevice {
    LinuxDevice {
        path: device.path.to_string_lossy().into_owned(),
        kind: device.kind(),
        major: number(device.major),
        minor: number(device.minor),
        file_mode: device.mode & 0o7777,
        uid: device.uid,
        gid: device.gid,
    }
}

pub(super) fn rule(device: &Device) -> DeviceRule {
    DeviceRule {
        allow: true,
        kind: Some(device.kind()),
        major: Some(number(device.major)),
        minor: Some(number(device.minor)),
        access: "rwm".to_owned(),
    }
}
