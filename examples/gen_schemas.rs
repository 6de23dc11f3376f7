//! Writes `src/api/schema/builtin.json.zst`: what the program knows of the types of Kubernetes.
//!
//! Three sources are merged: the JSON schemas of the `k8s-openapi` crate (fields, types, formats,
//! descriptions, required fields), `src/api/schema/list_types.tsv` (list types, map keys, patch
//! strategies) and `src/api/schema/kinds.tsv` (which type is which kind). What none of the three
//! says stands in the constants below.
//!
//! The file is two zstd frames with one line of JSON each: the structure, which the program keeps
//! in memory, and the descriptions, which it reads only to make an OpenAPI document.
//!
//! Run with `cargo run --features schema-gen --example gen_schemas`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;

use anyhow::{Context, Result, bail};
use k8s_openapi::schemars::SchemaGenerator;
use k8s_openapi::{api, apiextensions_apiserver, apimachinery, kube_aggregator};
use serde_json::{Map, Value, json};

/// Where the asset lies, from the project's root.
const ASSET: &str = "src/api/schema/builtin.json.zst";

/// Defaults that upstream marks in its API types and that the crate does not carry. They take
/// part in the keys of lists.
const DEFAULTS: &[(&str, &str, &str)] = &[
    ("core.v1.ContainerPort", "protocol", "TCP"),
    ("core.v1.ServicePort", "protocol", "TCP"),
];

/// Fields that are structs by value in Go, so that they are there (empty) in every object, beyond
/// `metadata`, `spec` and `status` of kinds and templates.
const BY_VALUE: &[(&str, &str)] = &[
    ("apps.v1.DaemonSetSpec", "updateStrategy"),
    ("apps.v1.DeploymentSpec", "strategy"),
    ("apps.v1.StatefulSetSpec", "updateStrategy"),
    ("core.v1.Container", "resources"),
    ("core.v1.ContainerStatus", "lastState"),
    ("core.v1.ContainerStatus", "state"),
    ("core.v1.EphemeralContainer", "resources"),
    ("core.v1.Event", "source"),
    ("core.v1.NodeStatus", "daemonEndpoints"),
    ("core.v1.NodeStatus", "nodeInfo"),
    ("core.v1.NodeDaemonEndpoints", "kubeletEndpoint"),
    ("core.v1.PersistentVolumeClaimSpec", "resources"),
    ("core.v1.ServiceStatus", "loadBalancer"),
    ("events.v1.Event", "deprecatedSource"),
    ("events.v1.Event", "regarding"),
    ("networking.v1.IngressStatus", "loadBalancer"),
];

/// Types outside the kinds whose `metadata` and `spec` are there in every object.
const TEMPLATES: &[&str] = &[
    "batch.v1.JobTemplateSpec",
    "core.v1.PersistentVolumeClaimTemplate",
    "core.v1.PodTemplateSpec",
    "resource.v1.ResourceClaimTemplateSpec",
];

/// Types that are no struct, and the letter they have in the table.
const LETTERS: &[(&str, &str)] = &[
    ("apimachinery.pkg.api.resource.Quantity", "q"),
    ("apimachinery.pkg.apis.meta.v1.Time", "t"),
    ("apimachinery.pkg.apis.meta.v1.MicroTime", "m"),
    ("apimachinery.pkg.apis.meta.v1.FieldsV1", "a"),
    ("apimachinery.pkg.apis.meta.v1.Patch", "a"),
    ("apimachinery.pkg.runtime.RawExtension", "a"),
    ("apimachinery.pkg.util.intstr.IntOrString", "x"),
    (
        "apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON",
        "a",
    ),
];

macro_rules! definitions {
    ($($kind:ty,)*) => {{
        let mut generator = SchemaGenerator::default();
        $(generator.subschema_for::<$kind>();)*
        generator.take_definitions(true)
    }};
}

fn main() -> Result<()> {
    let definitions = all_definitions();
    let facts = Facts::read()?;
    let mut table = Table::default();
    for (name, schema) in &definitions {
        if LETTERS.iter().any(|(full, _)| *full == bare(name)) || schema.get("oneOf").is_some() {
            continue;
        }
        table.add(short(name), schema, &definitions, &facts)?;
    }
    table.add_lists(&facts);
    let (lean, docs) = table.lines();
    let mut out = zstd::encode_all(lean.as_bytes(), 19)?;
    out.extend(zstd::encode_all(docs.as_bytes(), 19)?);
    fs::write(ASSET, &out).with_context(|| format!("write {ASSET}"))?;
    writeln!(
        std::io::stderr(),
        "{} types, structure {} bytes, descriptions {} bytes, file {} bytes",
        table.types.len(),
        lean.len(),
        docs.len(),
        out.len()
    )?;
    Ok(())
}

/// One field as the table holds it.
struct Field {
    shape: String,
    patch: String,
    merge_key: String,
    required: bool,
    by_value: bool,
    default: Option<Value>,
    description: String,
}

/// One type as the table holds it.
struct Type {
    atomic: bool,
    description: String,
    fields: BTreeMap<String, Field>,
    kinds: Vec<[String; 3]>,
}

#[derive(Default)]
struct Table {
    types: BTreeMap<String, Type>,
}

/// What the two tables of facts say.
#[derive(Default)]
struct Facts {
    /// `(type, field)` to the columns after them.
    lists: BTreeMap<(String, String), Vec<String>>,
    /// Type to its group, version and kind.
    kinds: BTreeMap<String, [String; 3]>,
}

impl Facts {
    fn read() -> Result<Self> {
        let mut facts = Facts::default();
        for row in rows("src/api/schema/list_types.tsv", 8)? {
            facts
                .lists
                .insert((row[0].clone(), row[1].clone()), row[2..].to_vec());
        }
        for row in rows("src/api/schema/kinds.tsv", 4)? {
            let [name, group, version, kind] = row.try_into().expect("rows have four cells");
            facts.kinds.insert(name, [group, version, kind]);
        }
        Ok(facts)
    }

    fn cell(&self, name: &str, field: &str, column: usize) -> &str {
        let row = self.lists.get(&(name.to_owned(), field.to_owned()));
        row.map_or("", |row| row[column].as_str())
    }
}

impl Table {
    fn add(
        &mut self,
        name: String,
        schema: &Value,
        definitions: &Map<String, Value>,
        facts: &Facts,
    ) -> Result<()> {
        let mut fields = BTreeMap::new();
        let required = texts(&schema["required"]);
        let kind = facts.kinds.get(&name);
        let whole = kind.is_some() || TEMPLATES.contains(&name.as_str());
        for (field, of) in schema["properties"].as_object().into_iter().flatten() {
            let place = Place {
                name: &name,
                field,
                facts,
            };
            let shape = shape(of, definitions, Some(&place))
                .with_context(|| format!("`{name}` field `{field}`"))?;
            let composite = shape.starts_with(['#', '!', '[', '{']);
            let in_every = whole && matches!(field.as_str(), "metadata" | "spec" | "status");
            let required = required.contains(field.as_str()) && !(kind.is_some() && in_every);
            let listed = BY_VALUE.contains(&(name.as_str(), field));
            let default = DEFAULTS.iter().find(|d| d.0 == name && d.1 == field);
            fields.insert(
                field.clone(),
                Field {
                    by_value: listed || composite && (required || in_every),
                    patch: facts.cell(&name, field, 2).to_owned(),
                    merge_key: facts.cell(&name, field, 3).to_owned(),
                    required,
                    shape,
                    default: default.map(|d| d.2.into()),
                    description: text(&of["description"]),
                },
            );
        }
        let made = Type {
            atomic: facts.cell(&name, ".", 4) == "atomic",
            description: text(&schema["description"]),
            fields,
            kinds: kind.cloned().into_iter().collect(),
        };
        self.types.insert(name, made);
        Ok(())
    }

    /// The `…List` kinds, which the crate has as one generic type.
    fn add_lists(&mut self, facts: &Facts) {
        for (name, gvk) in &facts.kinds {
            let Some(item) = name.strip_suffix("List") else {
                continue;
            };
            if self.types.contains_key(name) || !self.types.contains_key(item) {
                continue;
            }
            let field = |shape: &str, required: bool, description: &str| Field {
                shape: shape.to_owned(),
                patch: String::new(),
                merge_key: String::new(),
                required,
                by_value: shape.len() > 1,
                default: None,
                description: description.to_owned(),
            };
            let one = &self.types[item].fields;
            let kind = item.rsplit('.').next().unwrap_or(item);
            let fields = BTreeMap::from([
                (
                    "apiVersion".into(),
                    field("s", false, &one["apiVersion"].description),
                ),
                ("kind".into(), field("s", false, &one["kind"].description)),
                (
                    "metadata".into(),
                    field("#meta.v1.ListMeta", false, "Standard list metadata."),
                ),
                (
                    "items".into(),
                    field(&format!("[#{item}"), true, &format!("List of {kind}s.")),
                ),
            ]);
            let description = format!("{kind}List is a list of {kind}s.");
            let kinds = vec![gvk.clone()];
            self.types.insert(
                name.clone(),
                Type {
                    atomic: false,
                    description,
                    fields,
                    kinds,
                },
            );
        }
    }

    /// The two lines of the asset.
    fn lines(&self) -> (String, String) {
        let numbers: BTreeMap<_, _> = self
            .types
            .keys()
            .enumerate()
            .map(|(i, n)| (n.as_str(), i))
            .collect();
        let mut lean = Vec::new();
        let mut docs = Vec::new();
        for (name, of) in &self.types {
            let fields: Vec<_> = of.fields.iter().map(|(n, f)| f.row(n, &numbers)).collect();
            let mut row = json!({"n": name, "f": fields});
            if of.atomic {
                row["a"] = true.into();
            }
            if !of.kinds.is_empty() {
                row["k"] = json!(of.kinds);
            }
            lean.push(row);
            let texts: Vec<_> = of.fields.values().map(|f| f.description.as_str()).collect();
            docs.push(json!([of.description, texts]));
        }
        (
            format!("{}\n", Value::Array(lean)),
            format!("{}\n", Value::Array(docs)),
        )
    }
}

impl Field {
    /// `[name, shape]`, and an object of the rest where there is some.
    fn row(&self, name: &str, numbers: &BTreeMap<&str, usize>) -> Value {
        let mut more = Map::new();
        let mut put = |key: &str, value: Value| {
            if value != json!("") && value != json!(false) {
                more.insert(key.to_owned(), value);
            }
        };
        put("p", self.patch.as_str().into());
        put("m", self.merge_key.as_str().into());
        put("r", self.required.into());
        put("v", self.by_value.into());
        if let Some(default) = &self.default {
            put("d", default.clone());
        }
        let shape = numbered(&self.shape, numbers);
        if more.is_empty() {
            json!([name, shape])
        } else {
            json!([name, shape, more])
        }
    }
}

/// A field of a type, whose facts decide about lists and maps.
struct Place<'a> {
    name: &'a str,
    field: &'a str,
    facts: &'a Facts,
}

/// The text form of a type: a letter; `#type` (`!#type` where it is atomic as a whole);
/// `[item`, `[=item`, `[:key,key:item` for atomic lists, sets and maps; `{value`, `!{value`;
/// `(one|other)`.
fn shape(of: &Value, all: &Map<String, Value>, place: Option<&Place<'_>>) -> Result<String> {
    let map_type = place.map_or("", |p| p.facts.cell(p.name, p.field, 4));
    if let Some(target) = of["$ref"].as_str() {
        return reference(target, map_type, all, place);
    }
    if let Some(choices) = of["oneOf"].as_array() {
        let choices: Result<Vec<_>> = choices.iter().map(|c| shape(c, all, None)).collect();
        return Ok(format!("({})", choices?.join("|")));
    }
    let format = of["format"].as_str().unwrap_or_default();
    Ok(match (of["type"].as_str().unwrap_or_default(), format) {
        ("string", "byte") => "y".into(),
        ("string", "date-time") => "t".into(),
        ("string", _) => "s".into(),
        ("boolean", _) => "b".into(),
        ("integer", "int32") => "i".into(),
        ("integer", _) => "l".into(),
        ("number", _) => "d".into(),
        ("array", _) => {
            let inner = place.map(|p| Place {
                name: "",
                field: "",
                facts: p.facts,
            });
            format!(
                "[{}{}",
                list_kind(place),
                shape(&of["items"], all, inner.as_ref())?
            )
        }
        ("object", _) if of["additionalProperties"].is_object() => {
            let inner = place.map(|p| Place {
                name: "",
                field: "",
                facts: p.facts,
            });
            let values = shape(&of["additionalProperties"], all, inner.as_ref())?;
            format!("{}{{{values}", if map_type == "atomic" { "!" } else { "" })
        }
        ("object", _) => "a".into(),
        ("", _) if of["x-kubernetes-int-or-string"] == true => "x".into(),
        (other, format) => bail!("no shape for type `{other}` format `{format}`"),
    })
}

fn reference(
    target: &str,
    map_type: &str,
    all: &Map<String, Value>,
    place: Option<&Place<'_>>,
) -> Result<String> {
    let full = target.trim_start_matches("#/$defs/");
    if let Some((_, letter)) = LETTERS.iter().find(|(name, _)| *name == bare(full)) {
        return Ok((*letter).to_owned());
    }
    let of = all
        .get(full)
        .with_context(|| format!("no definition `{full}`"))?;
    if of.get("oneOf").is_some() {
        return shape(of, all, None);
    }
    let name = short(full);
    let facts = place.map(|p| p.facts);
    let own = facts.is_some_and(|f| f.cell(&name, ".", 4) == "atomic");
    let atomic = map_type == "atomic" || own && map_type != "granular";
    Ok(format!("{}#{name}", if atomic { "!" } else { "" }))
}

fn list_kind(place: Option<&Place<'_>>) -> String {
    let Some(place) = place else {
        return String::new();
    };
    match place.facts.cell(place.name, place.field, 0) {
        "set" => "=".into(),
        "map" => {
            let mut keys: Vec<_> = place
                .facts
                .cell(place.name, place.field, 1)
                .split(',')
                .collect();
            keys.sort_unstable();
            format!(":{}:", keys.join(","))
        }
        _ => String::new(),
    }
}

/// Puts numbers of types in place of their names.
fn numbered(shape: &str, numbers: &BTreeMap<&str, usize>) -> String {
    let mut out = String::new();
    let mut parts = shape.split('#');
    out.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let end = part.find(['|', ')']).unwrap_or(part.len());
        let number = numbers.get(&part[..end]).copied().unwrap_or(usize::MAX);
        out.push_str(&format!("#{number}{}", &part[end..]));
    }
    out
}

/// `io.k8s.api.core.v1.Pod` to `core.v1.Pod`.
fn short(full: &str) -> String {
    let parts: Vec<_> = full.rsplit('.').take(3).collect();
    parts.into_iter().rev().collect::<Vec<_>>().join(".")
}

fn bare(full: &str) -> &str {
    full.trim_start_matches("io.k8s.")
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn texts(value: &Value) -> BTreeSet<&str> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

fn rows(path: &str, cells: usize) -> Result<Vec<Vec<String>>> {
    let text = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    let mut rows = Vec::new();
    for line in text.lines().skip(1) {
        let row: Vec<_> = line.split('\t').map(str::to_owned).collect();
        if row.len() != cells {
            bail!("{path}: {} cells instead of {cells} in `{line}`", row.len());
        }
        rows.push(row);
    }
    Ok(rows)
}

#[expect(clippy::too_many_lines, reason = "a list with a line a kind")]
fn all_definitions() -> Map<String, Value> {
    definitions![
        api::admissionregistration::v1::MutatingAdmissionPolicy,
        api::admissionregistration::v1::MutatingAdmissionPolicyBinding,
        api::admissionregistration::v1::MutatingWebhookConfiguration,
        api::admissionregistration::v1::ValidatingAdmissionPolicy,
        api::admissionregistration::v1::ValidatingAdmissionPolicyBinding,
        api::admissionregistration::v1::ValidatingWebhookConfiguration,
        api::admissionregistration::v1alpha1::MutatingAdmissionPolicy,
        api::admissionregistration::v1alpha1::MutatingAdmissionPolicyBinding,
        api::admissionregistration::v1beta1::MutatingAdmissionPolicy,
        api::admissionregistration::v1beta1::MutatingAdmissionPolicyBinding,
        apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
        kube_aggregator::pkg::apis::apiregistration::v1::APIService,
        api::apiserverinternal::v1alpha1::StorageVersion,
        api::apps::v1::ControllerRevision,
        api::apps::v1::DaemonSet,
        api::apps::v1::Deployment,
        api::apps::v1::ReplicaSet,
        api::apps::v1::StatefulSet,
        api::authentication::v1::SelfSubjectReview,
        api::authentication::v1::TokenRequest,
        api::authentication::v1::TokenReview,
        api::authorization::v1::LocalSubjectAccessReview,
        api::authorization::v1::SelfSubjectAccessReview,
        api::authorization::v1::SelfSubjectRulesReview,
        api::authorization::v1::SubjectAccessReview,
        api::autoscaling::v1::HorizontalPodAutoscaler,
        api::autoscaling::v1::Scale,
        api::autoscaling::v2::HorizontalPodAutoscaler,
        api::batch::v1::CronJob,
        api::batch::v1::Job,
        api::certificates::v1::CertificateSigningRequest,
        api::certificates::v1::ClusterTrustBundle,
        api::certificates::v1::PodCertificateRequest,
        api::certificates::v1beta1::ClusterTrustBundle,
        api::certificates::v1beta1::PodCertificateRequest,
        api::coordination::v1::Lease,
        api::coordination::v1alpha2::LeaseCandidate,
        api::coordination::v1beta1::LeaseCandidate,
        api::core::v1::Binding,
        api::core::v1::ComponentStatus,
        api::core::v1::ConfigMap,
        api::core::v1::Endpoints,
        api::core::v1::Event,
        api::core::v1::LimitRange,
        api::core::v1::Namespace,
        api::core::v1::Node,
        api::core::v1::PersistentVolume,
        api::core::v1::PersistentVolumeClaim,
        api::core::v1::Pod,
        api::core::v1::PodTemplate,
        api::core::v1::ReplicationController,
        api::core::v1::ResourceQuota,
        api::core::v1::Secret,
        api::core::v1::Service,
        api::core::v1::ServiceAccount,
        api::discovery::v1::EndpointSlice,
        api::events::v1::Event,
        api::flowcontrol::v1::FlowSchema,
        api::flowcontrol::v1::PriorityLevelConfiguration,
        api::lifecycle::v1alpha1::Eviction,
        api::lifecycle::v1alpha1::EvictionRequest,
        api::networking::v1::IPAddress,
        api::networking::v1::Ingress,
        api::networking::v1::IngressClass,
        api::networking::v1::NetworkPolicy,
        api::networking::v1::ServiceCIDR,
        api::node::v1::RuntimeClass,
        api::policy::v1::Eviction,
        api::policy::v1::PodDisruptionBudget,
        api::rbac::v1::ClusterRole,
        api::rbac::v1::ClusterRoleBinding,
        api::rbac::v1::Role,
        api::rbac::v1::RoleBinding,
        api::resource::v1::DeviceClass,
        api::resource::v1::DeviceTaintRule,
        api::resource::v1::ResourceClaim,
        api::resource::v1::ResourceClaimTemplate,
        api::resource::v1::ResourceSlice,
        api::resource::v1alpha3::DeviceTaintRule,
        api::resource::v1alpha3::ResourcePoolStatusRequest,
        api::resource::v1beta1::DeviceClass,
        api::resource::v1beta1::ResourceClaim,
        api::resource::v1beta1::ResourceClaimTemplate,
        api::resource::v1beta1::ResourceSlice,
        api::resource::v1beta2::DeviceClass,
        api::resource::v1beta2::DeviceTaintRule,
        api::resource::v1beta2::ResourceClaim,
        api::resource::v1beta2::ResourceClaimTemplate,
        api::resource::v1beta2::ResourceSlice,
        api::scheduling::v1::PriorityClass,
        api::scheduling::v1alpha3::CompositePodGroup,
        api::scheduling::v1alpha3::PodGroup,
        api::scheduling::v1alpha3::Workload,
        api::scheduling::v1beta1::PodGroup,
        api::scheduling::v1beta1::Workload,
        api::storage::v1::CSIDriver,
        api::storage::v1::CSINode,
        api::storage::v1::CSIStorageCapacity,
        api::storage::v1::StorageClass,
        api::storage::v1::VolumeAttachment,
        api::storage::v1::VolumeAttributesClass,
        api::storagemigration::v1::StorageVersionMigration,
        api::storagemigration::v1beta1::StorageVersionMigration,
        apimachinery::pkg::apis::meta::v1::APIGroup,
        apimachinery::pkg::apis::meta::v1::APIGroupList,
        apimachinery::pkg::apis::meta::v1::APIResourceList,
        apimachinery::pkg::apis::meta::v1::APIVersions,
        apimachinery::pkg::apis::meta::v1::Condition,
        apimachinery::pkg::apis::meta::v1::DeleteOptions,
        apimachinery::pkg::apis::meta::v1::ListMeta,
        apimachinery::pkg::apis::meta::v1::Status,
    ]
}
