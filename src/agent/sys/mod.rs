//! System calls and child processes of the node: the only place of the agent that makes them.

pub mod cgroup;
pub mod mount;
pub mod netlink;
pub mod netns;
pub mod process;
pub mod sysctl;
