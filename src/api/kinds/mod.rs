//! The built-in kinds: one file a kind, one row a kind in [`all`].
//!
//! A row holds everything about a kind that is data or a pure function. What several API versions
//! of one resource share (Events live in two groups) is stored once, in the form of the row whose
//! `storage` the others name.

mod admissionregistration;
mod api_service;
mod apiextensions;
mod apps;
mod authentication;
mod authorization;
mod batch;
mod cells;
pub(crate) mod certificates;
mod coordination;
mod core;
mod defaults;
mod discovery;
mod events;
mod flowcontrol;
mod networking;
mod policy;
mod prepare;
mod rbac;
mod rows;
mod runtime_class;
mod scheduling;
mod storage;

use jiff::Timestamp;
use serde_json::Value;

use super::gvk::Scope;
use super::name;
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

/// One built-in kind. Every function is pure and takes objects in the row's own version (not the
/// stored one, where they differ), but `fields` and `cells` read both forms.
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
    /// versions of one resource and the first of them in the table is the stored form. Empty for
    /// the kinds that are only asked and answered (TokenReview …).
    pub storage: &'static str,
    /// Columns of `kubectl get`.
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
    /// Whether `metadata.generation` counts changes of `spec` (of everything but `metadata` for a
    /// kind without one).
    pub has_generation: bool,
    /// Whether a PUT of an object that is not there creates it (`AllowCreateOnUpdate`).
    pub creates_on_update: bool,
    /// Whether a PUT may leave `resourceVersion` out (`AllowUnconditionalUpdate`); else:
    /// `metadata.resourceVersion: Invalid value: 0: must be specified for an update`.
    pub unconditional_update: bool,
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

impl KindDef {
    /// What a row is built on: a namespaced kind with all verbs, that prints name and age, names
    /// its objects by DNS subdomains, and has no rules of its own.
    pub const BASE: Self = Self {
        group: "",
        version: "v1",
        kind: "",
        plural: "",
        singular: "",
        short_names: &[],
        categories: &[],
        scope: Scope::Namespaced,
        verbs: rows::ALL_VERBS,
        subresources: &[],
        schema: "",
        storage: "",
        columns: rows::NAME_AGE,
        cells: cells::name_age,
        fields: |_| Vec::new(),
        default: |_| {},
        prepare_create: |_| {},
        prepare_update: |_, _| {},
        prepare_status: prepare::only_status,
        has_generation: false,
        creates_on_update: false,
        unconditional_update: true,
        validate: |_| Vec::new(),
        validate_update: |_, _| Vec::new(),
        validate_status: |_, _| Vec::new(),
        validate_name: subdomain_name,
        to_storage: |_| {},
        from_storage: |_| {},
        graceful: None,
    };

    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        super::gvk::api_version(self.group, self.version)
    }

    /// Whether the path `name` below an object is served.
    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources.iter().find(|sub| sub.name == name)
    }
}

/// Every built-in kind, in the order discovery lists them.
pub fn all() -> &'static [KindDef] {
    static ALL: &[KindDef] = &[
        core::binding::DEF,
        core::config_map::DEF,
        core::endpoints::DEF,
        core::event::DEF,
        core::limit_range::DEF,
        core::namespace::DEF,
        core::node::DEF,
        core::persistent_volume::DEF,
        core::persistent_volume_claim::DEF,
        core::pod::DEF,
        core::pod_template::DEF,
        core::replication_controller::DEF,
        core::resource_quota::DEF,
        core::secret::DEF,
        core::service_account::DEF,
        core::service::DEF,
        apps::controller_revision::DEF,
        apps::daemon_set::DEF,
        apps::deployment::DEF,
        apps::replica_set::DEF,
        apps::stateful_set::DEF,
        batch::cron_job::DEF,
        batch::job::DEF,
        policy::POD_DISRUPTION_BUDGET,
        events::event::DEF,
        authentication::SELF_SUBJECT_REVIEW,
        authentication::TOKEN_REVIEW,
        authorization::LOCAL_SUBJECT_ACCESS_REVIEW,
        authorization::SELF_SUBJECT_ACCESS_REVIEW,
        authorization::SELF_SUBJECT_RULES_REVIEW,
        authorization::SUBJECT_ACCESS_REVIEW,
        rbac::binding::CLUSTER_ROLE_BINDING,
        rbac::role::CLUSTER_ROLE,
        rbac::binding::ROLE_BINDING,
        rbac::role::ROLE,
        scheduling::PRIORITY_CLASS,
        coordination::lease::DEF,
        discovery::endpoint_slice::DEF,
        networking::ingress_class::DEF,
        networking::ingress::DEF,
        networking::ip_address::DEF,
        networking::network_policy::DEF,
        networking::service_cidr::DEF,
        storage::csi_driver::DEF,
        storage::csi_node::DEF,
        storage::capacity::DEF,
        storage::class::STORAGE,
        storage::attachment::DEF,
        storage::class::VOLUME_ATTRIBUTES,
        runtime_class::DEF,
        api_service::DEF,
        certificates::SIGNING_REQUEST,
        flowcontrol::flow_schema::DEF,
        flowcontrol::priority_level::DEF,
        admissionregistration::policy::MUTATING,
        admissionregistration::binding::MUTATING,
        admissionregistration::webhook::MUTATING,
        admissionregistration::policy::VALIDATING,
        admissionregistration::binding::VALIDATING,
        admissionregistration::webhook::VALIDATING,
        apiextensions::custom_resource_definition::DEF,
    ];
    ALL
}

/// The row of a resource.
pub fn by_resource(group: &str, version: &str, plural: &str) -> Option<&'static KindDef> {
    let is_it =
        |row: &&KindDef| row.plural == plural && row.group == group && row.version == version;
    all().iter().find(is_it)
}

/// The row of a kind.
pub fn by_kind(group: &str, version: &str, kind: &str) -> Option<&'static KindDef> {
    let is_it = |row: &&KindDef| row.kind == kind && row.group == group && row.version == version;
    all().iter().find(is_it)
}

/// Names like `example.com`; `is_prefix` for a `generateName`.
fn subdomain_name(name: &str, is_prefix: bool) -> Vec<String> {
    checked_as(name::dns1123_subdomain, name, is_prefix)
}

/// Names like `my-name`.
fn label_name(name: &str, is_prefix: bool) -> Vec<String> {
    checked_as(name::dns1123_label, name, is_prefix)
}

/// Names like `my-name` that do not start with a digit.
fn service_name(name: &str, is_prefix: bool) -> Vec<String> {
    checked_as(name::dns1035_label, name, is_prefix)
}

fn checked_as(check: fn(&str) -> Vec<String>, name: &str, is_prefix: bool) -> Vec<String> {
    if is_prefix {
        check(&name::mask_trailing_dash(name))
    } else {
        check(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_row_is_complete_and_its_own() {
        let mut seen = BTreeSet::new();
        let now = Timestamp::UNIX_EPOCH;
        for row in all() {
            assert!(
                seen.insert((row.group, row.version, row.plural)),
                "{}",
                row.kind
            );
            assert_eq!(row.singular, row.kind.to_lowercase());
            assert!(
                !row.schema.is_empty() && !row.verbs.is_empty(),
                "{}",
                row.kind
            );
            let mut object = Object::default();
            assert_eq!(
                (row.cells)(&object, now).len(),
                row.columns.len(),
                "{}",
                row.kind
            );
            // Rubbish must not make any of the functions panic.
            (row.default)(&mut object);
            (row.prepare_create)(&mut object);
            for fields in [
                vec!["spec"],
                vec!["spec", "status"],
                vec!["status", "data", "metadata"],
            ] {
                let pairs = fields.iter().map(|f| ((*f).to_owned(), Value::from(7)));
                let mut odd = Object(pairs.collect());
                (row.default)(&mut odd);
                (row.validate)(&odd);
                (row.validate_update)(&odd, &object);
                (row.validate_status)(&odd, &object);
                (row.fields)(&odd);
                (row.cells)(&odd, now);
                (row.prepare_update)(&mut odd, &object);
            }
        }
    }

    #[test]
    fn rows_are_found_by_resource_and_kind() {
        assert_eq!(
            by_resource("apps", "v1", "deployments").unwrap().kind,
            "Deployment"
        );
        assert_eq!(by_kind("", "v1", "Pod").unwrap().plural, "pods");
        assert!(by_resource("", "v1", "nonsense").is_none());
        assert!(
            by_kind("", "v1", "Pod")
                .unwrap()
                .subresource("log")
                .is_some()
        );
    }
}
