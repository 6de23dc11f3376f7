//! The plugins, one file each; which are used is `super::profile`'s to say.

pub(crate) mod balanced;
pub(crate) mod image_locality;
pub(crate) mod least_allocated;
pub(crate) mod node_affinity;
pub(crate) mod node_name;
pub(crate) mod pod_affinity;
pub(crate) mod ports;
pub(crate) mod resources_fit;
pub(crate) mod spread;
pub(crate) mod taints;
pub(crate) mod unschedulable;
pub(crate) mod volumes;
