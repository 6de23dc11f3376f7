//! Readings and arithmetic of workloads: template hashes, how far a rollout may go.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

use super::int_or_string::{Error, Round, scaled};

/// The label that tells the pods of one version of a workload from those of another.
pub const TEMPLATE_HASH_LABEL: &str = "pod-template-hash";

/// A name for a pod template, for the label above and the replica set's name. Equal templates have
/// equal hashes whatever the order of their fields; `collisions` gives another one where the name
/// is taken by something else.
///
/// DEVIATION: upstream hashes a dump of Go structs, which nothing else can reproduce; the form of
/// the hash is the same.
pub fn template_hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    hash(
        &serde_json::to_value(template).unwrap_or(Value::Null),
        collisions,
    )
}

/// As [`template_hash`] of any value.
pub fn hash(value: &Value, collisions: Option<i32>) -> String {
    let mut hash = fnv32a(0x811c_9dc5, &canonical(value));
    if let Some(count) = collisions {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&count.to_le_bytes());
        hash = fnv32a(hash, &bytes);
    }
    safe_encode(&hash.to_string())
}

/// `k8s.io/apimachinery/pkg/util/rand.SafeEncodeString`: without vowels and look-alikes.
pub fn safe_encode(text: &str) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    text.bytes()
        .map(|c| char::from(ALPHABET[usize::from(c) % ALPHABET.len()]))
        .collect()
}

fn fnv32a(seed: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(seed, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

/// The bytes of a value that are the same where it means the same.
pub fn canonical(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_canonical(value, &mut bytes);
    bytes
}

/// JSON with sorted keys, without nulls and empty objects and lists, which mean the same as
/// absent fields.
fn write_canonical(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<_> = map.iter().filter(|(_, v)| !is_nothing(v)).collect();
            keys.sort_by_key(|(key, _)| key.as_str());
            out.push(b'{');
            for (key, value) in keys {
                out.extend_from_slice(key.as_bytes());
                out.push(b':');
                write_canonical(value, out);
                out.push(b',');
            }
            out.push(b'}');
        }
        Value::Array(items) => {
            out.push(b'[');
            for item in items {
                write_canonical(item, out);
                out.push(b',');
            }
            out.push(b']');
        }
        other => out.extend_from_slice(other.to_string().as_bytes()),
    }
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        // An emptyDir or a securityContext of `{}` says something only where it is the choice of
        // a union, and there the other fields differ too.
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// How many pods more than wanted and how many fewer a rolling update may have; never both 0, as
/// upstream's `ResolveFenceposts`.
pub fn fenceposts(
    max_surge: Option<&IntOrString>,
    max_unavailable: Option<&IntOrString>,
    wanted: i64,
) -> Result<(i64, i64), Error> {
    let zero = IntOrString::Int(0);
    let surge = scaled(max_surge.unwrap_or(&zero), wanted, Round::Up)?;
    let unavailable = scaled(max_unavailable.unwrap_or(&zero), wanted, Round::Down)?;
    if surge == 0 && unavailable == 0 {
        return Ok((0, 1));
    }
    Ok((surge, unavailable))
}

/// Whether a deployment replaces pods bit by bit.
pub fn is_rolling(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.strategy.as_ref();
    let kind = strategy.and_then(|strategy| strategy.type_.as_deref());
    kind.unwrap_or("RollingUpdate") == "RollingUpdate"
}

/// How many pods a deployment wants.
pub fn wanted_replicas(deployment: &Deployment) -> i64 {
    let replicas = deployment.spec.replicas;
    i64::from(replicas.unwrap_or(1))
}

/// How many pods more than wanted a deployment may have during a rollout.
pub fn max_surge(deployment: &Deployment) -> i64 {
    posts(deployment).0
}

/// How many pods fewer than wanted a deployment may have during a rollout.
pub fn max_unavailable(deployment: &Deployment) -> i64 {
    let wanted = wanted_replicas(deployment);
    if wanted == 0 {
        return 0;
    }
    posts(deployment).1.min(wanted)
}

fn posts(deployment: &Deployment) -> (i64, i64) {
    if !is_rolling(deployment) {
        return (0, 0);
    }
    let strategy = deployment.spec.strategy.as_ref();
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let surge = rolling.and_then(|r| r.max_surge.as_ref());
    let unavailable = rolling.and_then(|r| r.max_unavailable.as_ref());
    // Validation has refused what is not a percentage.
    fenceposts(surge, unavailable, wanted_replicas(deployment)).unwrap_or((0, 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_hash_is_of_what_the_template_says() {
        let template = |value| serde_json::from_value::<PodTemplateSpec>(value).unwrap();
        let a = template(json!({"spec": {"containers": [{"name": "a", "image": "x"}]}}));
        let same =
            template(json!({"spec": {"containers": [{"image": "x", "name": "a", "args": []}]}}));
        let other = template(json!({"spec": {"containers": [{"name": "a", "image": "y"}]}}));
        assert_eq!(template_hash(&a, None), template_hash(&same, None));
        assert_ne!(template_hash(&a, None), template_hash(&other, None));
        assert_ne!(template_hash(&a, None), template_hash(&a, Some(1)));
        assert_eq!(safe_encode("0123456789"), "456789bcdf");
    }

    #[test]
    fn a_rollout_can_always_move() {
        let percent = |text: &str| IntOrString::String(text.to_owned());
        let posts =
            |surge, unavailable, wanted| fenceposts(Some(&surge), Some(&unavailable), wanted);
        assert_eq!(posts(percent("25%"), percent("25%"), 10), Ok((3, 2)));
        assert_eq!(posts(percent("25%"), percent("25%"), 1), Ok((1, 0)));
        assert_eq!(posts(percent("0%"), percent("10%"), 5), Ok((0, 1)));
        assert_eq!(fenceposts(None, None, 5), Ok((0, 1)));
        let deployment: Deployment = serde_json::from_value(json!({
            "spec": {"replicas": 2, "selector": {}, "template": {},
                     "strategy": {"rollingUpdate": {"maxUnavailable": 5, "maxSurge": 0}}}
        }))
        .unwrap();
        assert_eq!(
            (max_surge(&deployment), max_unavailable(&deployment)),
            (0, 2)
        );
    }
}
