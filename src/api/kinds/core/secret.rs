//! Secret: bytes that not everybody may read.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;

use crate::api::kinds::{Column, KindDef, cells, rows};
use crate::api::object::{Object, child_mut};
use crate::api::status::FieldError;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, common, entries, text};

pub(crate) const DEF: KindDef = KindDef {
    kind: "Secret",
    plural: "secrets",
    singular: "secret",
    schema: "core.v1.Secret",
    storage: "secrets",
    columns: COLUMNS,
    cells: row,
    fields,
    default,
    prepare_update,
    validate,
    validate_update,
    ..KindDef::BASE
};

const COLUMNS: &[Column] = &[
    rows::NAME,
    rows::string(
        "Type",
        "Used to facilitate programmatic handling of secret data. More info: \
         https://kubernetes.io/docs/concepts/configuration/secret/#secret-types",
    ),
    rows::string(
        "Data",
        "Data contains the secret data. Each key must consist of alphanumeric characters, '-', \
         '_' or '.'. The serialized form of the secret data is a base64 encoded string, \
         representing the arbitrary (possibly non-string) data value here. Described in \
         https://tools.ietf.org/html/rfc4648#section-4",
    ),
    rows::AGE,
];

fn row(secret: &Object, now: Timestamp) -> Vec<Value> {
    vec![
        cells::name(secret),
        secret.text_at(&["type"]).into(),
        cells::count(secret.field("data")).into(),
        cells::age(secret, now),
    ]
}

fn fields(secret: &Object) -> Vec<(&'static str, String)> {
    vec![("type", secret.text_at(&["type"]).to_owned())]
}

/// `stringData` is for writing only: it becomes `data`.
fn default(secret: &mut Object) {
    if let Some(Value::Object(plain)) = secret.0.remove("stringData") {
        let data = child_mut(&mut secret.0, "data");
        for (key, value) in plain {
            data.insert(key, STANDARD.encode(text(&value)).into());
        }
    }
    crate::api::kinds::defaults::text(&mut secret.0, "type", "Opaque");
}

/// An update that does not say the type means the one there is. (Defaults have said `Opaque` by
/// then; a change from another type to that is refused with the same words either way.)
fn prepare_update(new: &mut Object, old: &Object) {
    if text(new.field("type")).is_empty() {
        new.0.insert("type".to_owned(), old.field("type").clone());
    }
}

fn validate(secret: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let data = secret.field("data");
    let path = Path::root("data");
    common::data_keys(&mut errors, data, &path);
    let lengths = entries(data).map(|(_, value)| common::decoded_len(text(value)));
    if lengths.sum::<usize>() > common::DATA_MAX {
        errors.too_long(&path, common::DATA_MAX);
    }
    let mut need = |key: &str| {
        if data.get(key).is_none() {
            errors.required(&path.key(key), "");
        }
    };
    match secret.text_at(&["type"]) {
        "kubernetes.io/service-account-token" => {
            const ANNOTATION: &str = "kubernetes.io/service-account.name";
            if text(&secret.field("metadata")["annotations"][ANNOTATION]).is_empty() {
                let path = Path::root("metadata.annotations");
                errors.required(&path.key(ANNOTATION), "");
            }
        }
        "kubernetes.io/dockercfg" => docker_config(&mut errors, data, ".dockercfg"),
        "kubernetes.io/dockerconfigjson" => docker_config(&mut errors, data, ".dockerconfigjson"),
        "kubernetes.io/basic-auth" if data.get("username").or(data.get("password")).is_none() => {
            need("username");
            need("password");
        }
        "kubernetes.io/ssh-auth" => need("ssh-privatekey"),
        "kubernetes.io/tls" => {
            need("tls.crt");
            need("tls.key");
        }
        _ => {}
    }
    errors.into_vec()
}

fn docker_config(errors: &mut Errors, data: &Value, key: &str) {
    let path = Path::root("data");
    let path = path.key(key);
    let Some(value) = data.get(key).and_then(Value::as_str) else {
        errors.required(&path, "");
        return;
    };
    let json = STANDARD.decode(value).unwrap_or_default();
    let parsed = serde_json::from_slice::<serde_json::Map<String, Value>>(&json);
    if let Err(error) = parsed {
        errors.invalid(&path, "<secret contents redacted>", &error.to_string());
    }
}

fn validate_update(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    errors.immutable(&Path::root("type"), new.field("type"), old.field("type"));
    common::immutable_data(&mut errors, new, old, &["data"]);
    errors.extend(validate(new));
    errors.into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn secret(value: Value) -> Object {
        let mut secret = Object::from_value(value).unwrap();
        default(&mut secret);
        secret
    }

    #[test]
    fn plain_texts_become_data() {
        let secret = secret(json!({"data": {"a": "eA==", "b": "eA=="}, "stringData": {"b": "yy"}}));
        let expected = json!({"type": "Opaque", "data": {"a": "eA==", "b": "eXk="}});
        assert_eq!(secret.into_value(), expected);
    }

    #[test]
    fn types_need_their_keys_and_stay() {
        let texts = |errors: Vec<FieldError>| -> Vec<String> {
            errors.iter().map(ToString::to_string).collect()
        };
        let tls = secret(json!({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}}));
        assert_eq!(texts(validate(&tls)), ["data[tls.key]: Required value"]);
        let token = secret(json!({"type": "kubernetes.io/service-account-token"}));
        assert_eq!(
            texts(validate(&token)),
            ["metadata.annotations[kubernetes.io/service-account.name]: Required value"]
        );
        let opaque = secret(json!({}));
        assert_eq!(
            texts(validate_update(&opaque, &tls)),
            ["type: Invalid value: \"Opaque\": field is immutable"]
        );
    }
}
