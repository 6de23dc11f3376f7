//! What rows of the table are made of: verbs, columns, subresources.

use super::{Column, Subresource};

pub(super) const ALL_VERBS: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];

/// Of the kinds that are only asked and answered.
pub(super) const CREATE: &[&str] = &["create"];

const ITEM_VERBS: &[&str] = &["get", "patch", "update"];
const CONNECT_VERBS: &[&str] = &["create", "get"];
const PROXY_VERBS: &[&str] = &["create", "delete", "get", "patch", "update"];

const NAME_TEXT: &str = "Name must be unique within a namespace. Is required when creating \
    resources, although some resources may allow a client to request the generation of an \
    appropriate name automatically. Name is primarily intended for creation idempotence and \
    configuration definition. Cannot be updated. More info: \
    https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names";

const AGE_TEXT: &str = "CreationTimestamp is a timestamp representing the server time when this \
    object was created. It is not guaranteed to be set in happens-before order across separate \
    operations. Clients may not set this value. It is represented in RFC3339 form and is in \
    UTC.\n\nPopulated by the system. Read-only. Null for lists. More info: \
    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

pub(super) const NAME: Column = Column {
    name: "Name",
    kind: "string",
    format: "name",
    description: NAME_TEXT,
    priority: 0,
};

pub(super) const AGE: Column = string("Age", AGE_TEXT);

pub(super) const NAME_AGE: &[Column] = &[NAME, AGE];

/// What is printed of a kind that upstream has no columns for.
pub(super) const NAME_CREATED: &[Column] = &[
    NAME,
    Column {
        kind: "date",
        ..string("Created At", AGE_TEXT)
    },
];

/// A column of texts.
pub(super) const fn string(name: &'static str, description: &'static str) -> Column {
    Column {
        name,
        kind: "string",
        format: "",
        description,
        priority: 0,
    }
}

/// A column of numbers.
pub(super) const fn integer(name: &'static str, description: &'static str) -> Column {
    Column {
        kind: "integer",
        ..string(name, description)
    }
}

/// A column of texts that only `-o wide` shows.
pub(super) const fn wide(name: &'static str, description: &'static str) -> Column {
    Column {
        priority: 1,
        ..string(name, description)
    }
}

/// The resource's own object under another path (`status`, `resize`).
pub(super) const fn item(
    name: &'static str,
    (group, version, kind): (&'static str, &'static str, &'static str),
) -> Subresource {
    Subresource {
        name,
        group,
        version,
        kind,
        verbs: ITEM_VERBS,
    }
}

/// A stream (`exec`, `attach`, `portforward`), with its options' kind.
pub(super) const fn connect(name: &'static str, kind: &'static str) -> Subresource {
    Subresource {
        name,
        group: "",
        version: "v1",
        kind,
        verbs: CONNECT_VERBS,
    }
}

/// `proxy`, with its options' kind.
pub(super) const fn proxy(kind: &'static str) -> Subresource {
    Subresource {
        verbs: PROXY_VERBS,
        ..connect("proxy", kind)
    }
}

/// A path that takes an object of another kind (`binding`, `token`).
pub(super) const fn posted(
    name: &'static str,
    (group, version, kind): (&'static str, &'static str, &'static str),
) -> Subresource {
    Subresource {
        name,
        group,
        version,
        kind,
        verbs: CREATE,
    }
}

pub(super) const SCALE: Subresource = item("scale", ("autoscaling", "v1", "Scale"));
