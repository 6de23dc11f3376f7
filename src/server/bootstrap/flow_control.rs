//! Stores the FlowSchemas and PriorityLevelConfigurations there are from the start
//! (`pkg/registry/flowcontrol/ensurer`): mandatory ones are brought back to what they should be,
//! suggested ones as long as their annotation says so.

use futures_util::stream::{self, StreamExt, TryStreamExt};
use serde_json::Value;

use super::{Plan, WRITES_AT_A_TIME, carry_out, covers};
use crate::api::gvk::GroupVersionResource;
use crate::api::object::Object;
use crate::client::{Client, ListParams, Result};

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const AUTOUPDATE: &str = "apf.kubernetes.io/autoupdate-spec";
const MANDATORY: [&str; 2] = ["exempt", "catch-all"];

pub(super) async fn ensure(client: &Client, defaults: &[Value]) -> Result<()> {
    // Levels first: schemas name them.
    for (kind, resource) in [
        ("PriorityLevelConfiguration", "prioritylevelconfigurations"),
        ("FlowSchema", "flowschemas"),
    ] {
        let api = client.dynamic(&GroupVersionResource::new(GROUP, "v1", resource), "");
        let kept = api.list(&ListParams::default()).await?.items;
        let of_kind = defaults.iter().filter(|object| object["kind"] == kind);
        let wanted = of_kind.filter_map(|object| Object::from_value(object.clone()));
        let plans = wanted.filter_map(|wanted| {
            let kept = kept.iter().find(|kept| kept.name() == wanted.name());
            plan(kept, wanted)
        });
        stream::iter(plans.collect::<Vec<_>>())
            .map(|plan| carry_out(&api, plan))
            .buffer_unordered(WRITES_AT_A_TIME)
            .try_collect::<Vec<()>>()
            .await?;
    }
    Ok(())
}

fn plan(kept: Option<&Object>, wanted: Object) -> Option<Plan> {
    let Some(kept) = kept else {
        return Some(Plan::Create(wanted));
    };
    let updates = kept.text_at(&["metadata", "annotations", AUTOUPDATE]) == "true";
    let is_ours = updates || MANDATORY.contains(&wanted.name());
    if !is_ours || covers(kept.field("spec"), wanted.field("spec")) {
        return None;
    }
    let mut new = kept.clone();
    new.0
        .insert("spec".to_owned(), wanted.field("spec").clone());
    Some(Plan::Replace(new))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn suggested_ones_are_left_to_whoever_says_so() {
        let object = |name: &str, auto: &str, precedence: i64| {
            let annotations = json!({AUTOUPDATE: auto});
            Object::from_value(
                json!({"metadata": {"name": name, "annotations": annotations},
                "spec": {"matchingPrecedence": precedence}}),
            )
            .unwrap()
        };
        let wanted = |name: &str| object(name, "true", 7);
        let created = plan(None, wanted("a"));
        assert_eq!(created, Some(Plan::Create(wanted("a"))));
        assert_eq!(plan(Some(&object("a", "false", 1)), wanted("a")), None);
        assert_eq!(plan(Some(&wanted("a")), wanted("a")), None);
        let back = plan(Some(&object("a", "true", 1)), wanted("a"));
        assert_eq!(back, Some(Plan::Replace(wanted("a"))));
        let back = plan(Some(&object("exempt", "false", 1)), wanted("exempt"));
        assert_eq!(back, Some(Plan::Replace(object("exempt", "false", 7))));
    }
}
