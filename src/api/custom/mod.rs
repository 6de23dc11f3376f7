//! One version of a custom resource, compiled from its definition: everything the verbs ask of a
//! kind, for kinds that are not built in.

mod columns;
mod decode;
mod types;

use serde_json::{Map, Value};

use super::gvk::{GroupVersionKind, Scope};
use super::jsonpath::JsonPath;
use super::name;
use super::object::Object;
use super::schema::structural::Structural;
use super::schema::{Schemas, TypeRef, default, prune, validate};
use super::status::FieldError;
use super::validation::meta;

use columns::Columns;

/// One version of a custom resource.
#[derive(Debug)]
pub struct Custom {
    /// Of its objects.
    pub kind: GroupVersionKind,
    /// Whether objects live in a namespace.
    pub scope: Scope,
    /// The schema its objects are held to.
    pub schema: Structural,
    /// The schema as it is published.
    pub published: Value,
    /// What `kubectl get` prints.
    pub columns: Columns,
    /// Whether `status` has a path of its own.
    pub has_status: bool,
    /// Where a Scale's fields are; `None`: there is no such path.
    pub scale: Option<ScalePaths>,
    /// `clientConfig` of the webhook that converts between versions; `None`: only `apiVersion`
    /// differs.
    pub webhook: Option<Value>,
    /// What clients of a deprecated version are told.
    pub deprecation: Option<String>,
    selectable: Vec<(String, JsonPath)>,
    merged: Schemas,
    envelope: Schemas,
}

/// Where the fields of a `Scale` are in an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScalePaths {
    /// Of `spec.replicas`.
    pub spec: Vec<String>,
    /// Of `status.replicas`.
    pub status: Vec<String>,
    /// Of `status.selector`, a text.
    pub selector: Option<Vec<String>>,
}

impl Custom {
    /// The version `version` of a definition; `None` where it has none of that name.
    pub fn compile(definition: &Value, version: &str) -> Option<Self> {
        let spec = &definition["spec"];
        let written = spec["versions"]
            .as_array()?
            .iter()
            .find(|of| of["name"] == version)?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let kind = GroupVersionKind::new(
            &text(&spec["group"]),
            version,
            &text(&spec["names"]["kind"]),
        );
        let props = &written["schema"]["openAPIV3Schema"];
        let mut schema = Structural::compile(props);
        schema.preserve |= spec["preserveUnknownFields"] == true;
        let subresources = &written["subresources"];
        let selectable = written["selectableFields"].as_array().into_iter().flatten();
        let selectable = selectable.filter_map(|field| {
            let path = field["jsonPath"].as_str()?;
            let label = path.trim_start_matches('.').to_owned();
            Some((label, JsonPath::parse(path).ok()?))
        });
        Some(Self {
            scope: match spec["scope"] == "Namespaced" {
                true => Scope::Namespaced,
                false => Scope::Cluster,
            },
            published: props.clone(),
            columns: Columns::compile(&written["additionalPrinterColumns"]),
            has_status: subresources["status"].is_object(),
            scale: ScalePaths::of(&subresources["scale"]),
            webhook: (spec["conversion"]["strategy"] == "Webhook")
                .then(|| spec["conversion"]["webhook"]["clientConfig"].clone()),
            deprecation: (written["deprecated"] == true).then(|| {
                let said = written["deprecationWarning"].as_str().map(str::to_owned);
                said.unwrap_or_else(|| {
                    format!("{} {} is deprecated", kind.api_version(), kind.kind)
                })
            }),
            selectable: selectable.collect(),
            merged: types::merged(&kind, &schema),
            envelope: types::envelope(&kind),
            schema,
            kind,
        })
    }

    /// How objects are merged.
    pub fn merged(&self) -> Option<TypeRef<'_>> {
        self.merged.kind(&self.kind)
    }

    /// How objects are decoded: their metadata only; the rest is pruned and validated.
    pub fn envelope(&self) -> Option<TypeRef<'_>> {
        self.envelope.kind(&self.kind)
    }

    /// Labels and values of the selectable fields.
    pub fn fields(&self, object: &Object) -> Vec<(String, String)> {
        let whole = Value::Object(object.0.clone());
        let value = |path: &JsonPath| match path.find(&whole).first() {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        let fields = self.selectable.iter();
        fields
            .map(|(label, path)| (label.clone(), value(path)))
            .collect()
    }

    /// Takes out what the schema does not name, and says what that was.
    pub fn prune(&self, object: &mut Object) -> Vec<String> {
        prune::prune(&mut object.0, &self.schema)
    }

    /// Fills in the schema's defaults.
    pub fn default(&self, object: &mut Object) {
        default::default(&mut object.0, &self.schema);
        prune::prune_nulls(&mut object.0, &self.schema);
    }

    /// Brings what was stored under an earlier schema, or in another version, into this one.
    pub fn coerce(&self, object: &mut Object) {
        object
            .0
            .insert("apiVersion".into(), self.kind.api_version().into());
        object
            .0
            .insert("kind".into(), self.kind.kind.as_str().into());
        self.prune(object);
        self.default(object);
    }

    /// The status of a new object is not the client's.
    pub fn prepare_create(&self, object: &mut Object) {
        if self.has_status {
            object.0.remove("status");
        }
    }

    /// The status has a path of its own.
    pub fn prepare_update(&self, new: &mut Object, old: &Object) {
        if self.has_status {
            put(&mut new.0, "status", old.0.get("status").cloned());
        }
    }

    /// Nothing but the status, and the books of who wrote it.
    pub fn prepare_status(&self, new: &mut Object, old: &Object) {
        let status = new.0.remove("status");
        let managed = new.metadata_mut().remove("managedFields");
        *new = old.clone();
        put(new.metadata_mut(), "managedFields", managed);
        put(&mut new.0, "status", status);
    }

    /// Whether an update changes what is wanted.
    pub fn is_new_generation(&self, new: &Object, old: &Object) -> bool {
        let wanted = |object: &Object| {
            let mut wanted = object.0.clone();
            wanted.remove("metadata");
            if self.has_status {
                wanted.remove("status");
            }
            wanted
        };
        wanted(new) != wanted(old)
    }

    /// All that is wrong with a new object.
    pub fn validate(&self, object: &Object) -> Vec<FieldError> {
        let mut wrong = meta::validate_create_with(object, &self.meta_rules());
        wrong.extend(self.wrong_values(object, None));
        wrong
    }

    /// All that is wrong with an update; metadata is checked by the caller.
    pub fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        self.wrong_values(new, Some(old))
    }

    /// What of the rules for metadata depends on the kind.
    pub fn meta_rules(&self) -> meta::Rules {
        meta::Rules {
            is_namespaced: self.scope == Scope::Namespaced,
            validate_name: |name, is_prefix| match is_prefix {
                true => name::dns1123_subdomain(&name::mask_trailing_dash(name)),
                false => name::dns1123_subdomain(name),
            },
        }
    }

    fn wrong_values(&self, object: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let value = Value::Object(object.0.clone());
        let old = old.map(|old| Value::Object(old.0.clone()));
        let mut wrong = validate::validate(&value, old.as_ref(), &self.schema);
        let tolerates = |check: fn(&Value, &Structural) -> Vec<FieldError>| {
            // What was wrong already may stay so.
            old.as_ref()
                .is_some_and(|old| !check(old, &self.schema).is_empty())
        };
        for check in [
            validate::embedded as fn(&Value, &Structural) -> _,
            validate::lists,
        ] {
            let found = check(&value, &self.schema);
            if !found.is_empty() && !tolerates(check) {
                wrong.extend(found);
            }
        }
        wrong.extend(self.wrong_scale(object));
        wrong
    }

    /// Replicas that a Scale could not carry.
    fn wrong_scale(&self, object: &Object) -> Option<FieldError> {
        let scale = self.scale.as_ref()?;
        let path: Vec<&str> = scale.spec.iter().map(String::as_str).collect();
        let replicas = object.at(&path)?;
        let number = replicas.as_i64()?;
        let why = match () {
            () if number < 0 => "should be a non-negative integer",
            () if number > i64::from(i32::MAX) => "should be less than or equal to 2147483647",
            () => return None,
        };
        Some(FieldError::invalid(scale.spec.join("."), replicas, why))
    }
}

impl ScalePaths {
    fn of(written: &Value) -> Option<Self> {
        let path = |field: &str| -> Option<Vec<String>> {
            let path = JsonPath::parse(written[field].as_str()?).ok()?;
            let fields = path.fields()?;
            Some(fields.into_iter().map(str::to_owned).collect())
        };
        Some(Self {
            spec: path("specReplicasPath")?,
            status: path("statusReplicasPath")?,
            selector: path("labelSelectorPath"),
        })
    }
}

fn put(map: &mut Map<String, Value>, field: &str, value: Option<Value>) {
    match value {
        Some(value) => map.insert(field.to_owned(), value),
        None => map.remove(field),
    };
}

/// The name a kind's definition is published under: `com.example.v1.CronTab`.
pub fn definition_name(kind: &GroupVersionKind) -> String {
    let mut parts: Vec<&str> = kind.group.split('.').rev().collect();
    parts.push(&kind.version);
    parts.push(&kind.kind);
    parts.join(".")
}

#[cfg(test)]
mod tests;
