//! Paths and what can be done at them.

use serde_json::{Map, Value, json};

use super::schemas::{kind_extension, list_reference, reference};
use super::{Form, Part, Served};
use crate::api::gvk::GroupVersionKind;
use crate::api::schema::{TypeRef, builtin};

/// Media types of patches. The last is not for custom resources: nothing says how their lists would
/// merge, and `kubectl apply` sends the patch that is promised here.
const PATCHES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/apply-patch+yaml",
    "application/strategic-merge-patch+json",
];

/// Subresources that open a stream.
const STREAMS: &[&str] = &["attach", "exec", "portforward", "proxy"];

/// Query parameters of lists: name, type, description.
pub(super) const LIST_PARAMETERS: &[(&str, &str, &str)] = &[
    (
        "allowWatchBookmarks",
        "boolean",
        "Ask for events of type BOOKMARK in a watch.",
    ),
    (
        "continue",
        "string",
        "Where the list before this one ended.",
    ),
    ("fieldSelector", "string", "Only objects with these fields."),
    ("labelSelector", "string", "Only objects with these labels."),
    ("limit", "integer", "At most this many objects."),
    (
        "resourceVersion",
        "string",
        "The version to list or to watch from.",
    ),
    (
        "resourceVersionMatch",
        "string",
        "How `resourceVersion` is meant in a list.",
    ),
    (
        "sendInitialEvents",
        "boolean",
        "Begin a watch with what is there.",
    ),
    ("timeoutSeconds", "integer", "When the request ends."),
    ("watch", "boolean", "Send changes as they happen."),
];

const DRY_RUN: (&str, &str, &str) = ("dryRun", "string", "`All`: do everything but store.");
const FIELD_MANAGER: (&str, &str, &str) = (
    "fieldManager",
    "string",
    "Who is recorded as the owner of the fields written.",
);
const FIELD_VALIDATION: (&str, &str, &str) = (
    "fieldValidation",
    "string",
    "What becomes of unknown and duplicate fields: `Ignore`, `Warn` or `Strict`.",
);
const FORCE: (&str, &str, &str) = (
    "force",
    "boolean",
    "Take fields that others own; only for apply patches.",
);
const DELETE_PARAMETERS: &[(&str, &str, &str)] = &[
    DRY_RUN,
    (
        "gracePeriodSeconds",
        "integer",
        "How long the object may take to end.",
    ),
    (
        "propagationPolicy",
        "string",
        "`Orphan`, `Background` or `Foreground`.",
    ),
];
const WRITE_PARAMETERS: &[(&str, &str, &str)] = &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION];
const PATCH_PARAMETERS: &[(&str, &str, &str)] = &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION, FORCE];

/// All paths of these resources.
pub(super) fn paths(served: &[Served<'_>], form: Form) -> Map<String, Value> {
    let mut paths = Map::new();
    for one in served {
        add(one, form, &mut paths);
    }
    paths
}

fn add(served: &Served<'_>, form: Form, paths: &mut Map<String, Value>) {
    let prefix = match served.kind.group.as_str() {
        "" => format!("/api/{}", served.kind.version),
        group => format!("/apis/{group}/{}", served.kind.version),
    };
    let plural = served.plural;
    let make = Make { served, form };
    let everywhere = format!("{prefix}/{plural}");
    let collection = if served.namespaced {
        let all = make.operation("list", "get", Where::AllNamespaces);
        if let Some(all) = all {
            paths.insert(everywhere, make.item(vec![("get", all)], &[]));
        }
        format!("{prefix}/namespaces/{{namespace}}/{plural}")
    } else {
        everywhere
    };
    let scope: &[&str] = if served.namespaced {
        &["namespace"]
    } else {
        &[]
    };
    let on_collection = [
        ("list", "get"),
        ("create", "post"),
        ("deletecollection", "delete"),
    ];
    let found = make.operations(&on_collection, Where::Collection);
    if !found.is_empty() {
        paths.insert(collection.clone(), make.item(found, scope));
    }
    let named: Vec<&str> = scope.iter().copied().chain(["name"]).collect();
    let on_object = [
        ("get", "get"),
        ("update", "put"),
        ("patch", "patch"),
        ("delete", "delete"),
    ];
    let object = format!("{collection}/{{name}}");
    let found = make.operations(&on_object, Where::Object);
    if !found.is_empty() {
        paths.insert(object.clone(), make.item(found, &named));
    }
    let on_part = [
        ("get", "get"),
        ("create", "post"),
        ("update", "put"),
        ("patch", "patch"),
        ("delete", "delete"),
    ];
    for part in &served.subresources {
        let found = make.operations(&on_part, Where::Part(part));
        if !found.is_empty() {
            let path = format!("{object}/{}", part.name);
            paths.insert(path, make.item(found, &named));
        }
    }
}

#[derive(Clone, Copy)]
enum Where<'p> {
    AllNamespaces,
    Collection,
    Object,
    Part(&'p Part<'p>),
}

struct Make<'m> {
    served: &'m Served<'m>,
    form: Form,
}

impl Make<'_> {
    fn operations(
        &self,
        verbs: &[(&'static str, &'static str)],
        at: Where<'_>,
    ) -> Vec<(&'static str, Value)> {
        let made = |(verb, method): &(&'static str, &'static str)| {
            Some((*method, self.operation(verb, method, at)?))
        };
        verbs.iter().filter_map(made).collect()
    }

    /// A path with its operations and the parameters in its path.
    fn item(&self, operations: Vec<(&str, Value)>, named: &[&str]) -> Value {
        let mut item: Map<String, Value> = operations
            .into_iter()
            .map(|(method, operation)| (method.to_owned(), operation))
            .collect();
        let parameters: Vec<_> = named
            .iter()
            .map(|name| {
                let text = match *name {
                    "namespace" => "Namespace of the object.".to_owned(),
                    _ => format!("Name of the {}.", self.served.kind.kind),
                };
                self.parameter((name, "string", &text), "path")
            })
            .collect();
        if !parameters.is_empty() {
            item.insert("parameters".into(), parameters.into());
        }
        Value::Object(item)
    }

    /// What a verb does at a place; `None` where it is not served there.
    fn operation(&self, verb: &str, method: &str, at: Where<'_>) -> Option<Value> {
        let (verbs, kind) = match at {
            Where::Part(part) => (&part.verbs, &part.kind),
            _ => (&self.served.verbs, &self.served.kind),
        };
        if !verbs.contains(&verb) {
            return None;
        }
        let stream = matches!(at, Where::Part(part) if STREAMS.contains(&part.name));
        let ty = self.body_type(at);
        let action = match (verb, stream) {
            (_, true) => "connect",
            ("create", _) => "post",
            ("update", _) => "put",
            (verb, _) => verb,
        };
        let answer = match verb {
            "list" => list_reference(self.served, self.form),
            "delete" | "deletecollection" => reference(status(), self.form),
            _ if stream || is_log(at) => json!({"type": "string"}),
            _ => reference(ty, self.form),
        };
        let mut operation = json!({
            "description": describe(verb, &self.served.kind.kind, at),
            "operationId": self.operation_id(verb, at),
            "tags": [tag(&self.served.kind)],
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": kind_extension(kind),
        });
        let mut parameters = self.query(verb);
        if !stream {
            self.body(&mut operation, &mut parameters, method, ty);
        }
        if !parameters.is_empty() {
            operation["parameters"] = parameters.into();
        }
        self.responses(&mut operation, verb, answer);
        Some(operation)
    }

    fn body_type(&self, at: Where<'_>) -> Option<TypeRef<'_>> {
        match at {
            Where::Part(part) if part.kind != self.served.kind => builtin().kind(&part.kind),
            _ => self.served.schema,
        }
    }

    fn query(&self, verb: &str) -> Vec<Value> {
        let parameters = match verb {
            "list" | "deletecollection" => LIST_PARAMETERS,
            "create" | "update" => WRITE_PARAMETERS,
            "patch" => PATCH_PARAMETERS,
            "delete" => DELETE_PARAMETERS,
            _ => &[],
        };
        // The lists of v2 stand once in the document; the others inline, where clients look.
        if self.form == Form::V2 && parameters == LIST_PARAMETERS {
            let refer = |p: &(&str, &str, &str)| json!({"$ref": format!("#/parameters/{}", p.0)});
            return parameters.iter().map(refer).collect();
        }
        parameters
            .iter()
            .map(|parameter| self.parameter(*parameter, "query"))
            .collect()
    }

    fn parameter(&self, (name, kind, text): (&str, &str, &str), place: &str) -> Value {
        parameter((name, kind, text), place, self.form)
    }

    fn body(
        &self,
        operation: &mut Value,
        parameters: &mut Vec<Value>,
        method: &str,
        ty: Option<TypeRef<'_>>,
    ) {
        let (media, schema, required) = match method {
            "post" | "put" => (&["*/*"][..], reference(ty, self.form), true),
            "patch" => {
                let left_out = usize::from(self.served.custom.is_some());
                let media = &PATCHES[..PATCHES.len() - left_out];
                (media, json!({"type": "object"}), true)
            }
            "delete" => (&["*/*"][..], reference(delete_options(), self.form), false),
            _ => return,
        };
        match self.form {
            Form::V2 => {
                let mut body = json!({"name": "body", "in": "body", "schema": schema});
                if required {
                    body["required"] = true.into();
                }
                parameters.push(body);
                operation["consumes"] = json!(media);
            }
            Form::V3 => {
                let content: Map<String, Value> = media
                    .iter()
                    .map(|media| ((*media).to_owned(), json!({"schema": schema})))
                    .collect();
                let mut body = json!({"content": content});
                if required {
                    body["required"] = true.into();
                }
                operation["requestBody"] = body;
            }
        }
    }

    fn responses(&self, operation: &mut Value, verb: &str, answer: Value) {
        let ok = match self.form {
            Form::V2 => json!({"description": "OK", "schema": answer}),
            Form::V3 => json!({"description": "OK", "content": {
                "application/json": {"schema": answer},
                "application/yaml": {"schema": answer},
            }}),
        };
        let mut responses = json!({"401": {"description": "Unauthorized"}});
        if matches!(verb, "create" | "update" | "patch") {
            let mut created = ok.clone();
            created["description"] = "Created".into();
            responses["201"] = created;
        }
        responses["200"] = ok;
        operation["responses"] = responses;
        if self.form == Form::V2 {
            operation["produces"] = json!(["application/json", "application/yaml"]);
        }
    }

    /// As upstream names it: `readCoreV1NamespacedPod`.
    fn operation_id(&self, verb: &str, at: Where<'_>) -> String {
        let kind = &self.served.kind.kind;
        let collection = if verb == "deletecollection" {
            "Collection"
        } else {
            ""
        };
        let verb = match verb {
            "get" => "read",
            "update" => "replace",
            "deletecollection" => "delete",
            verb => verb,
        };
        let group = tag(&self.served.kind);
        let group: String = group.split('_').map(capital).collect();
        let scope = match (self.served.namespaced, at) {
            (true, Where::Collection | Where::Object | Where::Part(_)) => "Namespaced",
            _ => "",
        };
        let end = match at {
            Where::AllNamespaces => "ForAllNamespaces".to_owned(),
            Where::Part(part) => capital(part.name),
            _ => String::new(),
        };
        format!("{verb}{group}{collection}{scope}{kind}{end}")
    }
}

/// A parameter that is no body.
pub(super) fn parameter((name, kind, text): (&str, &str, &str), place: &str, form: Form) -> Value {
    let mut made = json!({"name": name, "in": place, "description": text});
    match form {
        Form::V2 => {
            made["type"] = kind.into();
            made["uniqueItems"] = true.into();
        }
        Form::V3 => made["schema"] = json!({"type": kind, "uniqueItems": true}),
    }
    if place == "path" {
        made["required"] = true.into();
    }
    made
}

fn status() -> Option<TypeRef<'static>> {
    builtin().get("meta.v1.Status")
}

fn delete_options() -> Option<TypeRef<'static>> {
    builtin().get("meta.v1.DeleteOptions")
}

fn is_log(at: Where<'_>) -> bool {
    matches!(at, Where::Part(part) if part.name == "log")
}

fn describe(verb: &str, kind: &str, at: Where<'_>) -> String {
    let doing = match verb {
        "list" => "list or watch objects of kind",
        "create" => "create a",
        "get" => "read the specified",
        "update" => "replace the specified",
        "patch" => "partially update the specified",
        "delete" => "delete a",
        _ => "delete collection of",
    };
    match at {
        Where::Part(part) => format!("{doing} {} of {kind}", part.name),
        _ => format!("{doing} {kind}"),
    }
}

/// `core_v1`, `apps_v1`, `rbacAuthorization_v1`.
fn tag(kind: &GroupVersionKind) -> String {
    let group = kind.group.trim_end_matches(".k8s.io");
    let mut words = group.split(['.', '-']);
    let first = words
        .next()
        .filter(|word| !word.is_empty())
        .unwrap_or("core");
    let rest: String = words.map(capital).collect();
    format!("{first}{rest}_{}", kind.version)
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().chain(chars).collect(),
        None => String::new(),
    }
}
