//! The built-in kinds: one file a kind, one row a kind in [`all`].
//!
//! A row holds everything about a kind that is data or a pure function. What several API versions
//! of one resource share (Events live in two groups) is stored once, in the form of the row whose
//! `storage` the others name.

use jiff::Timestamp;
use serde_json::Value;

use super::gvk::Scope;
use super::object::Object;
use super::status::FieldError;

/// A column of `kubectl get` (`metav1.TableColumnDefinition`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// As printed in upper case by clients.
    pub name: &'static str,
    /// `string`, `integer`, `date`, `boolean` or `number`.
    pub kind: &'static str,
    /// `name` for the first column, else empty.
    pub format: &'static str,
    /// What `kubectl explain` like tools show.
    pub description: &'static str,
    /// 0 is always shown; above, only with `-o wide`.
    pub priority: i32,
}

/// A path below an object with rules of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subresource {
    /// For instance `status`.
    pub name: &'static str,
    /// Kind of the bodies: the resource's own for `status`, `autoscaling/v1 Scale` for `scale`.
    pub group: &'static str,
    /// See `group`.
    pub version: &'static str,
    /// See `group`.
    pub kind: &'static str,
    /// As discovery lists them.
    pub verbs: &'static [&'static str],
}

/// One built-in kind. Every function is pure; absent behaviour is one of the `no_…` functions of
/// this module.
#[derive(Clone, Copy, Debug)]
pub struct KindDef {
    /// Empty for the core group.
    pub group: &'static str,
    /// For instance `v1`.
    pub version: &'static str,
    /// For instance `Pod`.
    pub kind: &'static str,
    /// For instance `pods`.
    pub plural: &'static str,
    /// For instance `pod`.
    pub singular: &'static str,
    /// For instance `po`.
    pub short_names: &'static [&'static str],
    /// For instance `all`.
    pub categories: &'static [&'static str],
    /// Whether objects live in a namespace.
    pub scope: Scope,
    /// Verbs in discovery; the REST layer serves exactly these.
    pub verbs: &'static [&'static str],
    /// Paths below an object.
    pub subresources: &'static [Subresource],
    /// Row of the builtin schema table, for instance `core.v1.Pod`.
    pub schema: &'static str,
    /// Folder of the store, for instance `pods` or `deployments.apps`; rows that share one are
    /// versions of one resource and the first of them in the table is the stored form.
    pub storage: &'static str,
    /// Columns of `kubectl get`, the first of them the name.
    pub columns: &'static [Column],
    /// The cells of one row, in the order of `columns`.
    pub cells: fn(&Object, Timestamp) -> Vec<Value>,
    /// Values of the field selectors beyond `metadata.name` and `metadata.namespace`: label
    /// (for instance `spec.nodeName`) and value. Always the same labels, also where the value is
    /// empty.
    pub fields: fn(&Object) -> Vec<(&'static str, String)>,
    /// Fills in what upstream's defaulting fills in.
    pub default: fn(&mut Object),
    /// On create: clears what a client may not set (`status` …).
    pub prepare_create: fn(&mut Object),
    /// On update of the main resource: `(new, old)`; puts back what this path may not change
    /// (`status` …). The REST layer then raises `metadata.generation` where `spec` differs and
    /// `has_generation` holds.
    pub prepare_update: fn(&mut Object, &Object),
    /// On update of `status`: `(new, old)`; puts back everything but `status`.
    pub prepare_status: fn(&mut Object, &Object),
    /// Whether `metadata.generation` counts changes of `spec`.
    pub has_generation: bool,
    /// All that is wrong with a new object, beyond `metadata` (checked for all kinds alike).
    pub validate: fn(&Object) -> Vec<FieldError>,
    /// All that is wrong with `(new, old)`, including what `validate` finds.
    pub validate_update: fn(&Object, &Object) -> Vec<FieldError>,
    /// All that is wrong with a new status: `(new, old)`.
    pub validate_status: fn(&Object, &Object) -> Vec<FieldError>,
    /// What is wrong with a name of this kind, as upstream words it; `(name, is_prefix)`.
    pub validate_name: fn(&str, bool) -> Vec<String>,
    /// For the versions that are not the stored form: `(object)` to and from it.
    pub to_storage: fn(&mut Object),
    /// See `to_storage`.
    pub from_storage: fn(&mut Object),
    /// Default grace of a delete in seconds, for a kind that ends gracefully (Pod); `None`: gone
    /// at once.
    pub graceful: Option<fn(&Object) -> i64>,
}
