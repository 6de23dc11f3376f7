//! Flags of a node → what is true of this machine: name, address, containerd, labels, taints.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};

use super::args::NodeArgs;
use super::{Failure, usage};
use crate::api::{name, quantity::Quantity};
use crate::util::net;

/// Where a distribution's containerd listens.
const CONTAINERD: &str = "/run/containerd/containerd.sock";

/// What `--eviction-hard` may name.
const SIGNALS: &[&str] = &[
    "memory.available",
    "nodefs.available",
    "nodefs.inodesFree",
    "imagefs.available",
    "imagefs.inodesFree",
    "pid.available",
];

/// Which containerd runs the node's containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Containerd {
    /// One that runs already.
    At(PathBuf),
    /// One that orch runs.
    Managed,
}

/// A taint the node is registered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Taint {
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) effect: String,
}

/// The node's own facts, checked.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) name: String,
    pub(crate) address: Ipv4Addr,
    pub(crate) labels: Vec<(String, String)>,
    pub(crate) taints: Vec<Taint>,
    pub(crate) containerd: Containerd,
    /// Signal and threshold, for instance `memory.available` and `100Mi`.
    pub(crate) eviction_hard: BTreeMap<String, String>,
}

/// Checks the flags and looks at the machine where they say nothing.
pub(crate) fn facts(args: &NodeArgs) -> Result<Facts, Failure> {
    if args.image_gc_low_threshold > args.image_gc_high_threshold {
        return Err(usage(anyhow!(
            "invalid value `{}` for `--image-gc-low-threshold`: at most `--image-gc-high-threshold` ({}) is expected",
            args.image_gc_low_threshold,
            args.image_gc_high_threshold
        )));
    }
    if !args.cgroup_root.starts_with('/') {
        return Err(usage(anyhow!(
            "invalid value `{}` for `--cgroup-root`: a path from `/` is expected",
            args.cgroup_root
        )));
    }
    let labels = args
        .node_label
        .iter()
        .map(|text| label(text))
        .collect::<Result<_, _>>()?;
    let taints = args
        .node_taint
        .iter()
        .map(|text| taint(text))
        .collect::<Result<_, _>>()?;
    Ok(Facts {
        name: node_name(args.node_name.as_deref())?,
        address: node_address(args.node_ip.as_deref())?,
        labels,
        taints,
        containerd: containerd(args.containerd.as_deref()),
        eviction_hard: eviction_hard(&args.eviction_hard)?,
    })
}

/// An IPv4 address given by `flag`.
pub(crate) fn ipv4(flag: &str, text: &str) -> Result<Ipv4Addr, Failure> {
    text.parse().map_err(|_| {
        usage(anyhow!(
            "invalid value `{text}` for `--{flag}`: an IPv4 address is expected"
        ))
    })
}

/// The address given by `flag`, or the machine's own.
pub(crate) fn address_or_own(flag: &str, given: Option<&str>) -> Result<Ipv4Addr, Failure> {
    match given {
        Some(text) => ipv4(flag, text),
        None => Ok(net::default_address().context("find this machine's address")?),
    }
}

fn node_address(given: Option<&str>) -> Result<Ipv4Addr, Failure> {
    address_or_own("node-ip", given)
}

fn node_name(given: Option<&str>) -> Result<String, Failure> {
    let name = match given {
        Some(name) => name.to_owned(),
        None => nix::unistd::gethostname()
            .context("read the host name")?
            .to_string_lossy()
            .to_lowercase(),
    };
    match name::dns1123_subdomain(&name).is_empty() {
        true => Ok(name),
        false => Err(usage(anyhow!(
            "invalid node name `{name}`: lower-case letters, digits, `-` and `.` are expected; set `--node-name`"
        ))),
    }
}

fn label(text: &str) -> Result<(String, String), Failure> {
    let pair = text.split_once('=').filter(|(key, value)| {
        name::qualified_name(key).is_empty() && name::label_value(value).is_empty()
    });
    let pair = pair.map(|(key, value)| (key.to_owned(), value.to_owned()));
    pair.ok_or_else(|| {
        usage(anyhow!(
            "invalid value `{text}` for `--node-label`: `key=value` as of a label is expected"
        ))
    })
}

fn taint(text: &str) -> Result<Taint, Failure> {
    let parsed = text.rsplit_once(':').and_then(|(pair, effect)| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let known = ["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect);
        (known && name::qualified_name(key).is_empty() && name::label_value(value).is_empty()).then(
            || Taint {
                key: key.to_owned(),
                value: value.to_owned(),
                effect: effect.to_owned(),
            },
        )
    });
    parsed.ok_or_else(|| {
        usage(anyhow!(
            "invalid value `{text}` for `--node-taint`: `key=value:Effect` with NoSchedule, PreferNoSchedule or NoExecute is expected"
        ))
    })
}

/// `signal<value` pairs with commas between.
fn eviction_hard(text: &str) -> Result<BTreeMap<String, String>, Failure> {
    let pair = |part: &str| {
        let (signal, value) = part.split_once('<')?;
        let is_percent = value
            .strip_suffix('%')
            .is_some_and(|p| p.parse::<f64>().is_ok());
        let is_value = is_percent || value.parse::<Quantity>().is_ok();
        (SIGNALS.contains(&signal) && is_value).then(|| (signal.to_owned(), value.to_owned()))
    };
    let parts = text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty());
    parts
        .map(|part| {
            pair(part).ok_or_else(|| {
                usage(anyhow!(
                    "invalid value `{part}` for `--eviction-hard`: `signal<value` with one of {} and a quantity or percentage is expected",
                    SIGNALS.join(", ")
                ))
            })
        })
        .collect()
}

fn containerd(given: Option<&str>) -> Containerd {
    match given {
        Some("managed") => Containerd::Managed,
        Some(path) => Containerd::At(PathBuf::from(path)),
        None if UnixStream::connect(CONTAINERD).is_ok() => {
            Containerd::At(Path::new(CONTAINERD).to_owned())
        }
        None => Containerd::Managed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_taints_are_checked() {
        assert!(matches!(label("a.b/c=d"), Ok((key, value)) if key == "a.b/c" && value == "d"));
        assert!(label("novalue").is_err() && label("a b=c").is_err());
        let found = taint("key=value:NoExecute");
        assert!(matches!(found, Ok(t) if t.effect == "NoExecute" && t.value == "value"));
        assert!(matches!(taint("key:NoSchedule"), Ok(t) if t.value.is_empty()));
        assert!(taint("key=value:Never").is_err());
    }
}
