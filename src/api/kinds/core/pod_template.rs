//! PodTemplate: the description of a pod to copy.

use jiff::Timestamp;
use serde_json::Value;

use crate::api::kinds::{Column, KindDef, cells, rows};
use crate::api::object::Object;
use crate::api::status::FieldError;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, pod_spec};

pub(crate) const DEF: KindDef = KindDef {
    kind: "PodTemplate",
    plural: "podtemplates",
    singular: "podtemplate",
    schema: "core.v1.PodTemplate",
    storage: "podtemplates",
    columns: COLUMNS,
    cells: row,
    has_generation: true,
    default: |template| super::pod::default::template(&mut template.0),
    validate,
    validate_update: |new, _| validate(new),
    ..KindDef::BASE
};

const COLUMNS: &[Column] = &[
    rows::NAME,
    rows::string("Containers", "Names of each container in the template."),
    rows::string(
        "Images",
        "Images referenced by each container in the template.",
    ),
    rows::string("Pod Labels", "The labels for the pod template."),
];

fn row(template: &Object, _now: Timestamp) -> Vec<Value> {
    let pod = template.field("template");
    let [names, images] = cells::containers(&pod["spec"]);
    let labels = cells::labels(&pod["metadata"]["labels"]);
    vec![cells::name(template), names, images, labels]
}

fn validate(template: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let path = Path::root("template");
    pod_spec::validate_template(&mut errors, template.field("template"), &path);
    errors.into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_template_is_that_of_a_pod() {
        let value = json!({"template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "x:1"}]}}});
        let mut template = Object::from_value(value).unwrap();
        (DEF.default)(&mut template);
        assert!(validate(&template).is_empty());
        assert_eq!(
            row(&template, Timestamp::UNIX_EPOCH)[1..],
            [json!("c"), json!("x:1"), json!("a=b")]
        );
    }
}
