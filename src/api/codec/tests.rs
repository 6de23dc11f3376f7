//! Decoding against the built-in types, with upstream's texts.

use serde_json::json;

use super::*;
use crate::api::schema::builtin;

fn read(ty: &str, body: &str, mode: Mode) -> Result<(Object, Vec<String>), ApiError> {
    let expect = Expect {
        ty: builtin().get(ty).unwrap(),
        mode,
        bytes_max: 10_000,
    };
    decode(body.as_bytes(), MediaType::Json, &expect)
}

fn message(ty: &str, body: &Value) -> String {
    read(ty, &body.to_string(), Mode::Strict)
        .unwrap_err()
        .message
}

#[test]
fn unknown_and_duplicate_fields_are_dropped_and_told() {
    let body = r#"{"spec":{"replicas":1,"replcas":2,"template":{"spec":{"containers":[
        {"name":"a","imag":"x"}]}},"replicas":3},"status":null}"#;
    let (object, warnings) = read("apps.v1.Deployment", body, Mode::Warn).unwrap();
    assert_eq!(
        warnings,
        [
            "unknown field \"spec.replcas\"",
            "unknown field \"spec.template.spec.containers[0].imag\"",
            "duplicate field \"spec.replicas\"",
        ]
    );
    assert_eq!(object.api_version(), "apps/v1");
    assert_eq!(object.at(&["spec", "replicas"]), Some(&json!(3)));
    assert!(object.at(&["spec", "replcas"]).is_none());
    assert!(object.at(&["status"]).is_none());
    let (_, none) = read("apps.v1.Deployment", body, Mode::Ignore).unwrap();
    assert!(none.is_empty());
    let error = read("apps.v1.Deployment", body, Mode::Strict).unwrap_err();
    assert_eq!(error.code, 400);
    assert_eq!(
        error.message,
        "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: \
         unknown field \"spec.replcas\", unknown field \"spec.template.spec.containers[0].imag\", \
         duplicate field \"spec.replicas\""
    );
}

#[test]
fn wrong_types_name_the_struct_and_the_path() {
    let replicas = message("apps.v1.Deployment", &json!({"spec": {"replicas": "3"}}));
    assert_eq!(
        replicas,
        "Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot unmarshal \
         string into Go struct field DeploymentSpec.spec.replicas of type int32"
    );
    let value = message("core.v1.ConfigMap", &json!({"data": {"a": 1}}));
    assert!(value.ends_with(
        "json: cannot unmarshal number into Go struct field ConfigMap.data.a of type string"
    ));
    let image = json!({"spec": {"containers": [{"image": ["x"]}]}});
    assert!(message("core.v1.Pod", &image).ends_with(
        "json: cannot unmarshal array into Go struct field Container.spec.containers.image of \
         type string"
    ));
    let whole = message("core.v1.Pod", &json!({"spec": "x"}));
    assert!(whole.ends_with("string into Go struct field Pod.spec of type v1.PodSpec"));
    let big = message(
        "apps.v1.Deployment",
        &json!({"spec": {"replicas": 3_000_000_000u64}}),
    );
    assert!(big.contains("cannot unmarshal number 3000000000 into"));
    let secret = message("core.v1.Secret", &json!({"data": {"a": "%%%%"}}));
    assert!(secret.ends_with(": illegal base64 data at input byte 0"));
}

#[test]
fn nulls_are_absent_and_values_take_their_one_form() {
    let body = json!({
        "metadata": {"name": "a", "creationTimestamp": null, "labels": {"x": null},
            "deletionTimestamp": "2024-01-01T01:00:00+01:00"},
        "spec": {"containers": [{"name": "c", "livenessProbe": {"httpGet": {"port": 80}}}, null],
            "volumes": null},
    });
    let (pod, warnings) = read("core.v1.Pod", &body.to_string(), Mode::Strict).unwrap();
    assert!(warnings.is_empty());
    let expected = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "a", "labels": {"x": ""}, "deletionTimestamp": "2024-01-01T00:00:00Z"},
        "spec": {"containers": [{"name": "c", "livenessProbe": {"httpGet": {"port": 80}}}, {}]},
    });
    assert_eq!(pod.into_value(), expected);
}

#[test]
fn the_kind_in_the_body_must_be_the_one_of_the_path() {
    let version = message(
        "apps.v1.Deployment",
        &json!({"apiVersion": "v1", "kind": "Deployment"}),
    );
    assert_eq!(
        version,
        "the API version in the data (v1) does not match the expected API version (apps/v1)"
    );
    let kind = message(
        "apps.v1.Deployment",
        &json!({"apiVersion": "v1", "kind": "Pod"}),
    );
    assert!(kind.starts_with("Pod in version \"v1\" cannot be handled as a Deployment: "));
    let options = read(
        "meta.v1.DeleteOptions",
        r#"{"gracePeriodSeconds":0}"#,
        Mode::Strict,
    );
    assert_eq!(
        options.unwrap().0.into_value(),
        json!({"gracePeriodSeconds": 0})
    );
}

#[test]
fn rubbish_is_a_bad_request_and_never_a_panic() {
    for body in [
        "", "null", "[]", "7", "{", "{\"a\"", "\u{0}", "{} x", "\"x\"",
    ] {
        let error = read("core.v1.Pod", body, Mode::Warn).unwrap_err();
        assert_eq!((error.code, error.reason), (400, "BadRequest"), "{body}");
    }
    let deep = format!("{{\"metadata\":{}", "[".repeat(100_000));
    let error = decode(
        deep.as_bytes(),
        MediaType::Json,
        &Expect {
            ty: builtin().get("core.v1.Pod").unwrap(),
            mode: Mode::Warn,
            bytes_max: 1_000_000,
        },
    );
    assert_eq!(error.unwrap_err().code, 400);
    assert_eq!(
        read("core.v1.Pod", &" ".repeat(10_001), Mode::Warn)
            .unwrap_err()
            .code,
        413
    );
}

#[test]
fn yaml_is_read_along_the_type_as_well() {
    let body = "spec:\n  template:\n    spec:\n      volumes:\n      - name: a\n        secret: \
                {defaultMode: 0644}\n  replicas: 2\n  foo: 1\n  replicas: 3\n";
    let expect = Expect {
        ty: builtin().get("apps.v1.Deployment").unwrap(),
        mode: Mode::Warn,
        bytes_max: 1000,
    };
    let (object, warnings) = decode(body.as_bytes(), MediaType::Yaml, &expect).unwrap();
    let mode = object.0["spec"]["template"]["spec"]["volumes"][0]["secret"]["defaultMode"].clone();
    assert_eq!(
        (mode, object.0["spec"]["replicas"].clone()),
        (json!(420), json!(3))
    );
    assert_eq!(
        warnings,
        [
            "unknown field \"spec.foo\"",
            "duplicate field \"spec.replicas\""
        ]
    );
    let bad = decode(b"a: [", MediaType::Yaml, &expect).unwrap_err();
    assert_eq!(bad.code, 400);
}

#[test]
fn choices_of_types_follow_the_value() {
    let body = json!({"spec": {"versions": [{"schema": {"openAPIV3Schema": {
        "properties": {"a": {"items": {"type": "string", "bogus": 1}, "additionalProperties": false}},
    }}}]}});
    let ty = "apiextensions.v1.CustomResourceDefinition";
    let (crd, warnings) = read(ty, &body.to_string(), Mode::Warn).unwrap();
    assert_eq!(warnings.len(), 1);
    let schema = &crd.0["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let expected = json!({"items": {"type": "string"}, "additionalProperties": false});
    assert_eq!(schema["properties"]["a"], expected);
}

#[test]
fn a_patched_object_is_refused_in_the_words_for_patches() {
    let ty = builtin().get("core.v1.ConfigMap").unwrap();
    let patched = |object: Value, duplicates: &[&str]| Patched {
        shown: object.to_string(),
        duplicates: duplicates.iter().map(|text| (*text).to_owned()).collect(),
        object,
    };
    let wrong = patched(json!({"data": {"a": 1}}), &[]);
    let error = check_patched(wrong, ty, Mode::Ignore).unwrap_err();
    assert_eq!(error.code, 422);
    assert!(
        error
            .message
            .starts_with(" \"\" is invalid: patch: Invalid value: \"{\\\"data\\\""),
        "{}",
        error.message
    );
    let twice = || {
        let object = json!({"x": 1, "data": {"a": "b"}});
        patched(object, &["duplicate field \"data.a\""])
    };
    let (kept, warnings) = check_patched(twice(), ty, Mode::Warn).unwrap();
    assert_eq!(kept.into_value(), json!({"data": {"a": "b"}}));
    assert_eq!(
        warnings,
        ["duplicate field \"data.a\"", "unknown field \"x\""]
    );
    assert!(
        check_patched(twice(), ty, Mode::Ignore)
            .unwrap()
            .1
            .is_empty()
    );
    let refused = check_patched(twice(), ty, Mode::Strict).unwrap_err();
    let all = "strict decoding error: duplicate field \"data.a\", unknown field \"x\"";
    assert!(refused.message.ends_with(all), "{}", refused.message);
}
