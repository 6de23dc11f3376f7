//! Kinds of the group `rbac.authorization.k8s.io`.

pub(super) mod binding;
pub(super) mod role;

use crate::api::name;

const GROUP: &str = "rbac.authorization.k8s.io";

fn segment_name(name: &str, is_prefix: bool) -> Vec<String> {
    if is_prefix {
        name::path_segment_prefix(name)
    } else {
        name::path_segment(name)
    }
}
