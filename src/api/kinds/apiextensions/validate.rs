//! What is wrong with a definition
//! (`apiextensions-apiserver/pkg/apis/apiextensions/validation/validation.go`).

use serde_json::Value;

use crate::api::jsonpath::JsonPath;
use crate::api::name;
use crate::api::object::Object;
use crate::api::schema::check;
use crate::api::status::FieldError;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, list, text};

const SPEC: Path<'static> = Path::root("spec");
const APPROVAL: &str = "api-approved.kubernetes.io";
const COLUMN_TYPES: [&str; 5] = ["integer", "number", "string", "boolean", "date"];
const SELECTABLE_MAX: usize = 8;

pub(super) fn new(object: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let spec = object.field("spec");
    let required = format!(
        "{}.{}",
        text(&spec["names"]["plural"]),
        text(&spec["group"])
    );
    if object.name() != required {
        let why = "must be spec.names.plural+\".\"+spec.group";
        errors.invalid(&Path::root("metadata").field("name"), object.name(), why);
    }
    whole_spec(&mut errors, spec, None);
    approval(&mut errors, object);
    errors.into_vec()
}

pub(super) fn update(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let (spec, was) = (new.field("spec"), old.field("spec"));
    whole_spec(&mut errors, spec, Some(was));
    errors.immutable(&SPEC.field("group"), &spec["group"], &was["group"]);
    let names = SPEC.field("names");
    let plural = names.field("plural");
    errors.immutable(&plural, &spec["names"]["plural"], &was["names"]["plural"]);
    if is_established(old) {
        errors.immutable(&SPEC.field("scope"), &spec["scope"], &was["scope"]);
        let kind = names.field("kind");
        errors.immutable(&kind, &spec["names"]["kind"], &was["names"]["kind"]);
    }
    stored_versions(&mut errors, new);
    errors.into_vec()
}

pub(super) fn status(new: &Object, _old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    stored_versions(&mut errors, new);
    errors.into_vec()
}

fn is_established(object: &Object) -> bool {
    let conditions = object
        .at(&["status", "conditions"])
        .and_then(Value::as_array);
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|of| of["type"] == "Established" && of["status"] == "True")
}

fn stored_versions(errors: &mut Errors, object: &Object) {
    let root = Path::root("status");
    let path = root.field("storedVersions");
    let stored = list(&object.field("status")["storedVersions"]);
    let versions = list(&object.field("spec")["versions"]);
    if stored.is_empty() {
        let why = "must have at least one stored version";
        errors.invalid(&path, Value::Array(Vec::new()), why);
        return;
    }
    for (index, name) in stored.iter().enumerate() {
        if !versions.iter().any(|version| version["name"] == *name) {
            let why = "missing from spec.versions; v1 was previously a storage version, and must \
                       remain in spec.versions until a storage migration ensures no data remains \
                       persisted in v1 and removes v1 from status.storedVersions";
            let why = why.replace("v1", text(name));
            errors.invalid(&path.index(index), name.clone(), &why);
        }
    }
    let storage = versions.iter().find(|version| version["storage"] == true);
    if let Some(storage) = storage.filter(|version| !stored.contains(&version["name"])) {
        let why = format!("must have the storage version {}", text(&storage["name"]));
        errors.invalid(&path, Value::from(stored), &why);
    }
}

fn approval(errors: &mut Errors, object: &Object) {
    let group = text(&object.field("spec")["group"]);
    let is_protected = ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|of| group == *of || group.ends_with(&format!(".{of}")));
    if !is_protected {
        return;
    }
    let meta = Path::root("metadata");
    let path = meta.field("annotations");
    let said = text(&object.field("metadata")["annotations"][APPROVAL]);
    if said.is_empty() {
        errors.required(
            &path.key(APPROVAL),
            "protected groups must have approval annotation \"api-approved.kubernetes.io\", see \
             https://github.com/kubernetes/enhancements/pull/1111",
        );
    } else if !said.starts_with("https://") && !said.starts_with("unapproved") {
        let why = "protected groups must have approval annotation \"api-approved.kubernetes.io\" \
                   with either a URL or a reason starting with \"unapproved\", see \
                   https://github.com/kubernetes/enhancements/pull/1111";
        errors.invalid(&path.key(APPROVAL), said, why);
    }
}

fn whole_spec(errors: &mut Errors, spec: &Value, old: Option<&Value>) {
    let group = text(&spec["group"]);
    let path = SPEC.field("group");
    match name::dns1123_subdomain(group) {
        _ if group.is_empty() => errors.required(&path, ""),
        wrong if !wrong.is_empty() => errors.invalid(&path, group, &wrong.join(",")),
        _ if !group.contains('.') => {
            errors.invalid(&path, group, "should be a domain with at least one dot");
        }
        _ => {}
    }
    errors.one_of(
        &SPEC.field("scope"),
        &spec["scope"],
        &["Cluster", "Namespaced"],
    );
    if spec["preserveUnknownFields"] == true
        && old.is_none_or(|o| o["preserveUnknownFields"] != true)
    {
        let why = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in \
                   spec.versions[*].schema instead";
        errors.invalid(&SPEC.field("preserveUnknownFields"), true, why);
    }
    versions(errors, spec, old);
    names(errors, &spec["names"]);
    conversion(errors, &spec["conversion"]);
}

fn names(errors: &mut Errors, names: &Value) {
    let path = SPEC.field("names");
    for field in ["plural", "singular", "kind", "listKind"] {
        let (said, at) = (text(&names[field]), path.field(field));
        if said.is_empty() {
            errors.required(&at, "");
            continue;
        }
        let wrong = name::dns1035_label(&said.to_lowercase());
        if wrong.is_empty() {
            let is_lower = said.chars().all(|c| !c.is_uppercase());
            if !is_lower && matches!(field, "plural" | "singular") {
                errors.invalid(&at, said, &name::dns1035_label(said).join(","));
            }
            continue;
        }
        let wrong = wrong.join(",");
        let why = match field {
            "kind" | "listKind" => {
                format!("may have mixed case, but should otherwise match: {wrong}")
            }
            _ => wrong,
        };
        errors.invalid(&at, said, &why);
    }
    if !text(&names["kind"]).is_empty() && names["kind"] == names["listKind"] {
        let why = "kind and listKind may not be the same";
        errors.invalid(&path.field("listKind"), names["listKind"].clone(), why);
    }
    for field in ["shortNames", "categories"] {
        for (index, said) in list(&names[field]).iter().enumerate() {
            let wrong = name::dns1035_label(text(said));
            if !wrong.is_empty() {
                let at = path.field(field);
                errors.invalid(&at.index(index), said.clone(), &wrong.join(","));
            }
        }
    }
}

fn versions(errors: &mut Errors, spec: &Value, old: Option<&Value>) {
    let path = SPEC.field("versions");
    let versions = list(&spec["versions"]);
    let mut seen: Vec<&Value> = Vec::new();
    let mut is_unique = true;
    let first = versions.first().map(|version| &version["schema"]);
    let is_same = versions
        .iter()
        .all(|version| Some(&version["schema"]) == first);
    for (index, version) in versions.iter().enumerate() {
        let at = path.index(index);
        is_unique &= !seen.contains(&&version["name"]);
        seen.push(&version["name"]);
        let said = text(&version["name"]);
        let wrong = name::dns1035_label(said);
        if !wrong.is_empty() {
            errors.invalid(&at.field("name"), said, &wrong.join(","));
        }
        let was = old.and_then(|old| list(&old["versions"]).iter().find(|v| v["name"] == said));
        if was.is_some_and(|was| was == version) {
            continue;
        }
        // What all versions share has a place of its own upstream.
        let prefix = match is_same {
            true => "spec.validation.openAPIV3Schema".to_owned(),
            false => format!("{at}.schema.openAPIV3Schema"),
        };
        if !is_same || index == 0 {
            schema(errors, version, &prefix, &at);
        }
        columns(
            errors,
            &version["additionalPrinterColumns"],
            &at.field("additionalPrinterColumns"),
        );
        subresources(errors, &version["subresources"], &at.field("subresources"));
        selectable(errors, version, &at.field("selectableFields"));
    }
    if !is_unique {
        errors.invalid(
            &path,
            spec["versions"].clone(),
            "must contain unique version names",
        );
    }
    if versions
        .iter()
        .filter(|version| version["storage"] == true)
        .count()
        != 1
    {
        let why = "must have exactly one version marked as storage version";
        errors.invalid(&path, spec["versions"].clone(), why);
    }
}

fn schema(errors: &mut Errors, version: &Value, prefix: &str, at: &Path<'_>) {
    let props = &version["schema"]["openAPIV3Schema"];
    if props.is_null() {
        let schema = at.field("schema");
        errors.required(&schema.field("openAPIV3Schema"), "schemas are required");
        return;
    }
    errors.extend(check::check(props, prefix));
}

fn columns(errors: &mut Errors, columns: &Value, path: &Path<'_>) {
    for (index, column) in list(columns).iter().enumerate() {
        let at = path.index(index);
        if text(&column["name"]).is_empty() {
            errors.required(&at.field("name"), "");
        }
        match text(&column["type"]) {
            "" => {
                let why = format!("must be one of {}", COLUMN_TYPES.join(","));
                errors.required(&at.field("type"), &why);
            }
            kind if !COLUMN_TYPES.contains(&kind) => {
                let why = format!("must be one of {}", COLUMN_TYPES.join(","));
                errors.invalid(&at.field("type"), kind, &why);
            }
            _ => {}
        }
        let format = text(&column["format"]);
        const FORMATS: [&str; 8] = [
            "int32",
            "int64",
            "float",
            "double",
            "byte",
            "date",
            "date-time",
            "password",
        ];
        if !format.is_empty() && !FORMATS.contains(&format) {
            let why = format!("must be one of {}", FORMATS.join(","));
            errors.invalid(&at.field("format"), format, &why);
        }
        let json_path = text(&column["jsonPath"]);
        match JsonPath::parse(json_path) {
            _ if json_path.is_empty() => errors.required(&at.field("jsonPath"), ""),
            Err(why) => errors.invalid(&at.field("jsonPath"), json_path, &why),
            Ok(_) => {}
        }
    }
}

fn subresources(errors: &mut Errors, subresources: &Value, path: &Path<'_>) {
    let scale = &subresources["scale"];
    if !scale.is_object() {
        return;
    }
    let at = path.field("scale");
    let prefixes: [(&str, &[&str], bool); 3] = [
        ("specReplicasPath", &[".spec."], true),
        ("statusReplicasPath", &[".status."], true),
        ("labelSelectorPath", &[".spec.", ".status."], false),
    ];
    for (field, allowed, is_required) in prefixes {
        let said = text(&scale[field]);
        let at = at.field(field);
        if said.is_empty() {
            if is_required {
                errors.required(&at, "");
            }
            continue;
        }
        let is_simple = JsonPath::parse(said).is_ok_and(|path| path.fields().is_some());
        if !is_simple || said.contains('[') {
            errors.invalid(
                &at,
                said,
                "should be a simple json path without array notation",
            );
        } else if !allowed.iter().any(|prefix| said.starts_with(prefix)) {
            let why = match allowed {
                [one] => format!("should be a json path under {}", one.trim_end_matches('.')),
                _ => "should be a json path under either .spec or .status".to_owned(),
            };
            errors.invalid(&at, said, &why);
        }
    }
}

fn selectable(errors: &mut Errors, version: &Value, path: &Path<'_>) {
    let fields = list(&version["selectableFields"]);
    if fields.len() > SELECTABLE_MAX {
        errors.push(FieldError::too_many(path, fields.len(), SELECTABLE_MAX));
    }
    for (index, field) in fields.iter().enumerate() {
        let said = text(&field["jsonPath"]);
        let at = path.index(index);
        let at = at.field("jsonPath");
        if said.is_empty() {
            errors.required(&at, "");
            continue;
        }
        let parsed = JsonPath::parse(said);
        let names = parsed.as_ref().ok().and_then(JsonPath::fields);
        let Some(names) = names else {
            errors.invalid(&at, said, "is an invalid path: must be a simple json path");
            continue;
        };
        if names.first() == Some(&"metadata") {
            errors.invalid(&at, said, "must not point to fields in metadata");
            continue;
        }
        let mut place = &version["schema"]["openAPIV3Schema"];
        for name in names {
            place = &place["properties"][name];
        }
        if place.is_null() {
            let why = format!("is an invalid path: does not refer to a valid field: {said}");
            errors.invalid(&at, said, &why);
        } else if !matches!(
            place["type"].as_str(),
            Some("string" | "boolean" | "integer")
        ) {
            let why = "must point to a field of type string, boolean or integer. Enum string \
                       fields and strings with formats are allowed.";
            errors.invalid(&at, said, why);
        }
        if fields[..index]
            .iter()
            .any(|other| other["jsonPath"] == said)
        {
            errors.duplicate(&at, said);
        }
    }
}

fn conversion(errors: &mut Errors, conversion: &Value) {
    if conversion.is_null() {
        return;
    }
    let path = SPEC.field("conversion");
    errors.one_of(
        &path.field("strategy"),
        &conversion["strategy"],
        &["None", "Webhook"],
    );
    let webhook = &conversion["webhook"];
    let is_webhook = conversion["strategy"] == "Webhook";
    let config_path = path.field("webhookClientConfig");
    let config = &webhook["clientConfig"];
    if !is_webhook {
        if !webhook.is_null() {
            let why = "should not be set when strategy is not set to Webhook";
            errors.forbidden(&config_path, why);
        }
        return;
    }
    match (config["url"].is_string(), config["service"].is_object()) {
        _ if config.is_null() => {
            errors.required(&config_path, "required when strategy is set to Webhook");
        }
        (true, false) => url(errors, text(&config["url"]), &config_path.field("url")),
        (false, true) => service(errors, &config["service"], &config_path.field("service")),
        _ => errors.required(&config_path, "exactly one of url or service is required"),
    }
    let reviews = list(&webhook["conversionReviewVersions"]);
    let at = path.field("conversionReviewVersions");
    if reviews.is_empty() {
        errors.required(&at, "");
    } else if !reviews.iter().any(|v| v == "v1") {
        // DEVIATION: upstream speaks `v1beta1` reviews too.
        errors.invalid(
            &at,
            webhook["conversionReviewVersions"].clone(),
            "must include at least one of v1",
        );
    }
}

fn url(errors: &mut Errors, url: &str, path: &Path<'_>) {
    let Some(rest) = url.strip_prefix("https://") else {
        let why = "'https' is the only allowed URL scheme; desired format: https://host[/path]";
        errors.invalid(path, url, why);
        return;
    };
    if rest.is_empty() || rest.starts_with('/') {
        let why = "host must be specified; desired format: https://host[/path]";
        errors.invalid(path, url, why);
    }
    for (mark, why) in [
        ('@', "user information is not permitted in the URL"),
        ('#', "fragments are not permitted in the URL"),
        ('?', "query parameters are not permitted in the URL"),
    ] {
        if rest.contains(mark) {
            errors.invalid(path, url, why);
        }
    }
}

fn service(errors: &mut Errors, service: &Value, path: &Path<'_>) {
    for (field, why) in [
        ("name", "service name is required"),
        ("namespace", "service namespace is required"),
    ] {
        if text(&service[field]).is_empty() {
            errors.required(&path.field(field), why);
        }
    }
    let said = text(&service["path"]);
    if !said.is_empty() && !said.starts_with('/') {
        errors.invalid(&path.field("path"), said, "must start with a '/'");
    }
    if let Some(port) = service["port"].as_i64() {
        for why in name::port_number(port) {
            let why = format!("port is not valid: {why}");
            errors.invalid(&path.field("port"), port, &why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn made() -> Value {
        json!({
            "metadata": {"name": "crontabs.stable.example.com"},
            "spec": {
                "group": "stable.example.com", "scope": "Namespaced",
                "names": {"plural": "crontabs", "singular": "crontab", "kind": "CronTab",
                    "listKind": "CronTabList", "shortNames": ["ct"]},
                "conversion": {"strategy": "None"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {
                    "openAPIV3Schema": {"type": "object", "properties": {
                        "spec": {"type": "object", "properties": {"image": {"type": "string"}}}}}}}],
            },
            "status": {"storedVersions": ["v1"]},
        })
    }

    fn said(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut of = made();
        change(&mut of);
        let found = new(&Object::from_value(of).unwrap());
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_wrong_with_a_definition_is_said_as_upstream_says_it() {
        assert_eq!(said(|_| {}), Vec::<String>::new());
        let name =
            "metadata.name: Invalid value: \"x\": must be spec.names.plural+\".\"+spec.group";
        assert_eq!(said(|of| of["metadata"]["name"] = "x".into()), [name]);
        assert_eq!(
            said(|of| of["spec"]["scope"] = "World".into()),
            [
                "spec.scope: Unsupported value: \"World\": supported values: \"Cluster\", \"Namespaced\""
            ]
        );
        assert_eq!(
            said(
                |of| of["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"] =
                    json!({})
            ),
            [
                "spec.validation.openAPIV3Schema.properties[spec].type: Required value: must not be \
              empty for specified object fields"
            ]
        );
        assert_eq!(
            said(|of| of["spec"]["versions"][0]["schema"] = Value::Null),
            ["spec.versions[0].schema.openAPIV3Schema: Required value: schemas are required"]
        );
        assert_eq!(
            said(
                |of| of["spec"]["versions"][0]["subresources"]["scale"] = json!({
                "specReplicasPath": ".status.x", "statusReplicasPath": ".status.x"})
            ),
            [
                "spec.versions[0].subresources.scale.specReplicasPath: Invalid value: \".status.x\": \
              should be a json path under .spec"
            ]
        );
        assert_eq!(
            said(|of| of["spec"]["versions"][0]["selectableFields"] =
                json!([{"jsonPath": ".spec.no"}])),
            [
                "spec.versions[0].selectableFields[0].jsonPath: Invalid value: \".spec.no\": is an \
              invalid path: does not refer to a valid field: .spec.no"
            ]
        );
        let two = said(|of| {
            let again = of["spec"]["versions"][0].clone();
            of["spec"]["versions"].as_array_mut().unwrap().push(again);
        });
        assert!(two[0].ends_with("must contain unique version names"));
        assert!(two[1].ends_with("must have exactly one version marked as storage version"));
    }

    #[test]
    fn what_objects_rest_on_does_not_change() {
        let old = Object::from_value(made()).unwrap();
        let mut changed = made();
        changed["spec"]["group"] = "other.example.com".into();
        changed["status"]["storedVersions"] = json!(["v0"]);
        let found = update(&Object::from_value(changed).unwrap(), &old);
        let fields: Vec<_> = found.iter().map(|error| error.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "spec.group",
                "status.storedVersions[0]",
                "status.storedVersions"
            ]
        );
    }
}
