//! The key layout: `/registry/<storage>/<namespace>/<name>`, without the namespace for
//! cluster-scoped objects. What follows the storage is called the *local key*; its order is the
//! order of lists.
//!
//! Addresses and ports that are handed out lie beside the objects, in `/registry/-alloc/`, so that
//! they are written in one transaction with the Service that has them.

use bytes::Bytes;

use crate::store::KeyRange;

/// What every key begins with.
pub const ROOT: &str = "/registry/";

/// The storage folder of allocations; not a resource.
pub const ALLOC: &str = "-alloc";

/// `namespace/name`, or `name` where there is no namespace.
pub fn local(namespace: &str, name: &str) -> String {
    if namespace.is_empty() {
        return name.to_owned();
    }
    let mut key = String::with_capacity(namespace.len() + name.len() + 1);
    key.push_str(namespace);
    key.push('/');
    key.push_str(name);
    key
}

/// The key of one object.
pub fn object(storage: &str, local: &str) -> Bytes {
    let mut key = String::with_capacity(ROOT.len() + storage.len() + local.len() + 1);
    key.push_str(ROOT);
    key.push_str(storage);
    key.push('/');
    key.push_str(local);
    key.into()
}

/// The key of an allocation, for instance `("ip", "10.96.0.10")`.
pub fn allocation(pool: &str, item: &str) -> Bytes {
    format!("{ROOT}{ALLOC}/{pool}/{item}").into()
}

/// The key of the cluster's identity; it is no object, and lies outside of [`ROOT`].
pub fn identity() -> Bytes {
    Bytes::from_static(b"/orch/identity")
}

/// The keys of all allocations.
pub fn allocations() -> KeyRange {
    KeyRange::prefix(format!("{ROOT}{ALLOC}/"))
}

/// The keys of all objects of a resource, or of those in one namespace; from behind the local key
/// `after` on, where given.
pub fn collection(storage: &str, namespace: &str, after: Option<&str>) -> KeyRange {
    let mut prefix = format!("{ROOT}{storage}/");
    if !namespace.is_empty() {
        prefix.push_str(namespace);
        prefix.push('/');
    }
    let mut range = KeyRange::prefix(prefix);
    if let Some(after) = after {
        // The smallest key above `after` is `after` with a zero byte behind it.
        let mut start = object(storage, after).to_vec();
        start.push(0);
        range.start = range.start.max(start.into());
    }
    range
}

/// Storage and local key of a key of this layout.
pub fn parse(key: &[u8]) -> Option<(&str, &str)> {
    let text = std::str::from_utf8(key).ok()?;
    text.strip_prefix(ROOT)?.split_once('/')
}

/// Namespace and name of a local key.
pub fn split_local(local: &str) -> (&str, &str) {
    local.split_once('/').unwrap_or(("", local))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_back() {
        let key = object("pods", &local("default", "web"));
        assert_eq!(&key[..], b"/registry/pods/default/web");
        let (storage, rest) = parse(&key).unwrap();
        assert_eq!((storage, split_local(rest)), ("pods", ("default", "web")));
        assert_eq!(split_local(&local("", "node-1")), ("", "node-1"));
    }

    #[test]
    fn a_namespace_does_not_reach_into_one_with_a_longer_name() {
        let range = collection("pods", "a", None);
        assert!(range.contains(&object("pods", "a/x")));
        assert!(!range.contains(&object("pods", "a-b/x")));
        assert!(!range.contains(&object("pods", "ab/x")));
    }

    #[test]
    fn a_range_goes_on_behind_a_key() {
        let range = collection("pods", "", Some("a/x"));
        assert!(!range.contains(&object("pods", "a/x")));
        assert!(range.contains(&object("pods", "a/x1")) && range.contains(&object("pods", "b/a")));
    }
}
