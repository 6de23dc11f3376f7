//! Addresses of this node's pods: one file an address, named after it, holding who has it.
//!
//! After a crash the files say what was given out, so no address is given twice and what no pod
//! has any more can be found. The folder is on a memory file system: a reboot frees everything.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnet::Ipv4Net;

use crate::agent::seam::HostPort;
use crate::util::fs::write_atomic;

/// A pod's place on the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its address.
    pub address: Ipv4Addr,
    /// Ports of the host that lead to it.
    pub ports: Vec<HostPort>,
}

/// The addresses given out, by pod.
#[derive(Debug)]
pub struct Addresses {
    folder: PathBuf,
    leases: BTreeMap<String, Lease>,
    used: BTreeSet<Ipv4Addr>,
    last: Option<Ipv4Addr>,
}

impl Addresses {
    /// Reads what was given out before. A file that does not parse is removed with a warning: its
    /// pod gets a new address.
    pub fn open(folder: PathBuf) -> io::Result<Self> {
        std::fs::create_dir_all(&folder)?;
        let mut leases = BTreeMap::new();
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            match read_lease(&path) {
                Some((uid, lease)) => {
                    leases.insert(uid, lease);
                }
                None => {
                    tracing::warn!(path = %path.display(), "not an address record, removing it");
                    std::fs::remove_file(&path)?;
                }
            }
        }
        let used: BTreeSet<_> = leases.values().map(|lease| lease.address).collect();
        let last = used.last().copied();
        Ok(Self {
            folder,
            leases,
            used,
            last,
        })
    }

    /// The lease of `uid`, new or the one it has. Addresses are given in a circle, so that one
    /// that was freed is not given again at once.
    ///
    /// Errors: the net is full, or the record cannot be written.
    pub fn allocate(&mut self, uid: &str, net: Ipv4Net, ports: &[HostPort]) -> io::Result<Lease> {
        if let Some(lease) = self
            .leases
            .get(uid)
            .filter(|lease| net.contains(&lease.address))
        {
            return Ok(lease.clone());
        }
        self.free(uid)?;
        let address = next_free(net, self.last, &self.used).ok_or_else(|| {
            io::Error::other(format!(
                "no free address in `{net}`: {} are in use",
                self.used.len()
            ))
        })?;
        let lease = Lease {
            address,
            ports: ports.to_vec(),
        };
        let ports: Vec<_> = ports.iter().map(port_to_json).collect();
        let record = serde_json::json!({"uid": uid, "ports": ports}).to_string();
        write_atomic(
            &self.folder.join(address.to_string()),
            record.as_bytes(),
            0o600,
        )?;
        self.used.insert(address);
        self.last = Some(address);
        self.leases.insert(uid.to_owned(), lease.clone());
        Ok(lease)
    }

    /// Takes the address of `uid` back.
    pub fn free(&mut self, uid: &str) -> io::Result<Option<Lease>> {
        let Some(lease) = self.leases.remove(uid) else {
            return Ok(None);
        };
        self.used.remove(&lease.address);
        match std::fs::remove_file(self.folder.join(lease.address.to_string())) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(Some(lease)),
        }
    }

    /// Every pod with its lease.
    pub fn leases(&self) -> &BTreeMap<String, Lease> {
        &self.leases
    }
}

/// The first address after `last`, around the net, that is not used, not the net's own, not its
/// broadcast address and not the gateway (the net's first).
fn next_free(net: Ipv4Net, last: Option<Ipv4Addr>, used: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
    let first = u32::from(net.network()) + 2;
    let end = u32::from(net.broadcast());
    let start = last.map_or(first, |last| u32::from(last) + 1);
    let start = if (first..end).contains(&start) {
        start
    } else {
        first
    };
    (start..end)
        .chain(first..start)
        .map(Ipv4Addr::from)
        .find(|address| !used.contains(address))
}

fn read_lease(path: &std::path::Path) -> Option<(String, Lease)> {
    let address = path.file_name()?.to_str()?.parse().ok()?;
    let record: serde_json::Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    let ports = record
        .get("ports")?
        .as_array()?
        .iter()
        .filter_map(port_from_json)
        .collect();
    Some((
        record.get("uid")?.as_str()?.to_owned(),
        Lease { address, ports },
    ))
}

fn port_to_json(port: &HostPort) -> serde_json::Value {
    serde_json::json!({
        "hostIP": port.host_ip, "hostPort": port.host_port,
        "containerPort": port.container_port, "protocol": port.protocol,
    })
}

fn port_from_json(value: &serde_json::Value) -> Option<HostPort> {
    let number = |field: &str| u16::try_from(value.get(field)?.as_u64()?).ok();
    Some(HostPort {
        host_ip: value.get("hostIP")?.as_str().and_then(|ip| ip.parse().ok()),
        host_port: number("hostPort")?,
        container_port: number("containerPort")?,
        protocol: value.get("protocol")?.as_str()?.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net() -> Ipv4Net {
        "10.244.1.0/29".parse().unwrap()
    }

    #[test]
    fn addresses_go_round_and_survive_reopening() {
        let folder = tempfile::tempdir().unwrap();
        let mut addresses = Addresses::open(folder.path().into()).unwrap();
        let port = HostPort {
            host_ip: None,
            host_port: 80,
            container_port: 8080,
            protocol: "TCP".into(),
        };
        let first = addresses.allocate("a", net(), &[port]).unwrap();
        assert_eq!(first.address.to_string(), "10.244.1.2");
        assert_eq!(addresses.allocate("a", net(), &[]).unwrap(), first);
        addresses.free("a").unwrap();
        assert_eq!(
            addresses
                .allocate("b", net(), &[])
                .unwrap()
                .address
                .to_string(),
            "10.244.1.3"
        );
        let mut again = Addresses::open(folder.path().into()).unwrap();
        assert_eq!(again.leases(), addresses.leases());
        assert_eq!(
            again.allocate("c", net(), &[]).unwrap().address.to_string(),
            "10.244.1.4"
        );
    }

    #[test]
    fn a_full_net_is_an_error_that_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let mut addresses = Addresses::open(folder.path().into()).unwrap();
        for uid in ["a", "b", "c", "d", "e"] {
            addresses.allocate(uid, net(), &[]).unwrap();
        }
        let error = addresses.allocate("f", net(), &[]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no free address in `10.244.1.0/29`: 5 are in use"
        );
        addresses.free("c").unwrap();
        assert_eq!(
            addresses
                .allocate("f", net(), &[])
                .unwrap()
                .address
                .to_string(),
            "10.244.1.4"
        );
    }
}
