//! The variables of a container: of the image, of services, from objects, and its own
//! (kubernetes `pkg/kubelet/kubelet_pods.go`, `pkg/kubelet/envvars`). Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, Pod, Service};

use crate::agent::volume::fields::{self, Place};
use crate::agent::volume::objects::Found;

use super::expand::expand;

/// What variables are read from.
#[derive(Clone, Debug)]
pub(crate) struct Sources<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) place: &'a Place,
    /// The ConfigMaps and Secrets the pod refers to.
    pub(crate) found: &'a Found,
    /// Services of the pod's namespace, and `default/kubernetes`.
    pub(crate) services: &'a [Arc<Service>],
}

/// The variables of a container, without the image's.
///
/// Errors: a text as the kubelet shows it; something that is referred to and not optional is not
/// there.
pub(crate) fn variables(
    container: &Container,
    sources: &Sources<'_>,
) -> Result<BTreeMap<String, String>, String> {
    let mut services = service_variables(sources);
    let mut own = from_objects(container, sources)?;
    for variable in container.env.iter().flatten() {
        let value = value(container, variable, sources, (&own, &services))?;
        if let Some(value) = value {
            services.remove(&variable.name);
            own.insert(variable.name.clone(), value);
        }
    }
    for (name, value) in services {
        own.entry(name).or_insert(value);
    }
    Ok(own)
}

/// The names in the pod that need its addresses make a container wait for them.
pub(crate) fn needs_addresses(container: &Container) -> bool {
    container.env.iter().flatten().any(|variable| {
        let from = variable.value_from.as_ref();
        from.and_then(|from| from.field_ref.as_ref())
            .is_some_and(|field| fields::needs_addresses(&field.field_path))
    })
}

type Known<'a> = (&'a BTreeMap<String, String>, &'a BTreeMap<String, String>);

fn value(
    container: &Container,
    variable: &EnvVar,
    sources: &Sources<'_>,
    (own, services): Known<'_>,
) -> Result<Option<String>, String> {
    let text = variable.value.as_deref().unwrap_or_default();
    let Some(from) = variable.value_from.as_ref().filter(|_| text.is_empty()) else {
        let lookup = |name: &str| own.get(name).or_else(|| services.get(name)).cloned();
        return Ok(Some(expand(text, lookup)));
    };
    referred(container, from, sources)
}

fn referred(
    container: &Container,
    from: &EnvVarSource,
    sources: &Sources<'_>,
) -> Result<Option<String>, String> {
    let namespace = sources.pod.metadata.namespace.as_deref();
    let namespace = namespace.unwrap_or_default();
    if let Some(field) = &from.field_ref {
        return fields::field(sources.pod, sources.place, &field.field_path).map(Some);
    }
    if let Some(selector) = &from.resource_field_ref {
        let place = sources.place;
        return fields::resource(sources.pod, Some(container), selector, place).map(Some);
    }
    if let Some(key) = &from.config_map_key_ref {
        let optional = key.optional == Some(true);
        let Some(map) = sources.found.config_map(&key.name) else {
            return missing(optional, "configmap", &key.name);
        };
        let value = map.data.as_ref().and_then(|data| data.get(&key.key));
        return match value {
            Some(value) => Ok(Some(value.clone())),
            None if optional => Ok(None),
            None => Err(no_key(&key.key, "ConfigMap", namespace, &key.name)),
        };
    }
    if let Some(key) = &from.secret_key_ref {
        let optional = key.optional == Some(true);
        let Some(secret) = sources.found.secret(&key.name) else {
            return missing(optional, "secret", &key.name);
        };
        let value = secret.data.as_ref().and_then(|data| data.get(&key.key));
        return match value {
            Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            None if optional => Ok(None),
            None => Err(no_key(&key.key, "Secret", namespace, &key.name)),
        };
    }
    Ok(Some(String::new()))
}

fn missing<T>(optional: bool, kind: &str, name: &str) -> Result<Option<T>, String> {
    if optional {
        return Ok(None);
    }
    Err(format!("{kind} \"{name}\" not found"))
}

fn no_key(key: &str, kind: &str, namespace: &str, name: &str) -> String {
    format!("couldn't find key {key} in {kind} {namespace}/{name}")
}

/// Every key of the objects in `envFrom`; keys that cannot be names of variables are left out.
fn from_objects(
    container: &Container,
    sources: &Sources<'_>,
) -> Result<BTreeMap<String, String>, String> {
    let mut all = BTreeMap::new();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let mut add = |key: &str, value: String| {
            let name = format!("{prefix}{key}");
            if is_variable_name(&name) {
                all.insert(name, value);
            }
        };
        if let Some(reference) = &from.config_map_ref {
            let optional = reference.optional == Some(true);
            match sources.found.config_map(&reference.name) {
                Some(map) => {
                    for (key, value) in map.data.iter().flatten() {
                        add(key, value.clone());
                    }
                }
                None => {
                    missing::<()>(optional, "configmap", &reference.name)?;
                }
            }
        }
        if let Some(reference) = &from.secret_ref {
            let optional = reference.optional == Some(true);
            match sources.found.secret(&reference.name) {
                Some(secret) => {
                    for (key, value) in secret.data.iter().flatten() {
                        add(key, String::from_utf8_lossy(&value.0).into_owned());
                    }
                }
                None => {
                    missing::<()>(optional, "secret", &reference.name)?;
                }
            }
        }
    }
    Ok(all)
}

/// Printable ASCII without `=` (relaxed validation, KEP-4369).
fn is_variable_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=')
}

/// `NAME_SERVICE_HOST` and the rest, as docker links were.
fn service_variables(sources: &Sources<'_>) -> BTreeMap<String, String> {
    let spec = sources.pod.spec.as_ref();
    let links = spec.and_then(|spec| spec.enable_service_links) != Some(false);
    let own = sources.pod.metadata.namespace.as_deref();
    let mut all = BTreeMap::new();
    // Of two services of one name the pod's own namespace wins.
    let is_own = |service: &&Arc<Service>| service.metadata.namespace.as_deref() == own;
    let is_master = |service: &Service| {
        service.metadata.name.as_deref() == Some("kubernetes")
            && service.metadata.namespace.as_deref() == Some("default")
    };
    let masters = sources.services.iter().filter(|s| is_master(s));
    for service in masters {
        add_service(service, &mut all);
    }
    if links {
        for service in sources.services.iter().filter(is_own) {
            add_service(service, &mut all);
        }
    }
    all
}

fn add_service(service: &Service, all: &mut BTreeMap<String, String>) {
    let Some(spec) = &service.spec else { return };
    let address = spec.cluster_ip.as_deref().unwrap_or_default();
    let ports = spec.ports.as_deref().unwrap_or_default();
    if address.is_empty() || address == "None" || ports.is_empty() {
        return;
    }
    let name = variable_name(service.metadata.name.as_deref().unwrap_or_default());
    all.insert(format!("{name}_SERVICE_HOST"), address.to_owned());
    all.insert(format!("{name}_SERVICE_PORT"), ports[0].port.to_string());
    for port in ports {
        if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            let key = format!("{name}_SERVICE_PORT_{}", variable_name(port_name));
            all.insert(key, port.port.to_string());
        }
    }
    let host = if address.contains(':') {
        format!("[{address}]")
    } else {
        address.to_owned()
    };
    for (at, port) in ports.iter().enumerate() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let lower = protocol.to_ascii_lowercase();
        let url = format!("{lower}://{host}:{}", port.port);
        if at == 0 {
            all.insert(format!("{name}_PORT"), url.clone());
        }
        let prefix = format!(
            "{name}_PORT_{}_{}",
            port.port,
            protocol.to_ascii_uppercase()
        );
        all.insert(format!("{prefix}_PROTO"), lower);
        all.insert(format!("{prefix}_PORT"), port.port.to_string());
        all.insert(format!("{prefix}_ADDR"), address.to_owned());
        all.insert(prefix, url);
    }
}

fn variable_name(name: &str) -> String {
    name.replace('-', "_").to_ascii_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{ConfigMap, Secret};
    use serde_json::{Value, json};

    struct World {
        pod: Pod,
        place: Place,
        found: Found,
        services: Vec<Arc<Service>>,
    }

    fn world() -> World {
        let service = |name: &str, namespace: &str, address: &str, ports: Value| {
            let value = json!({"metadata": {"name": name, "namespace": namespace},
                "spec": {"clusterIP": address, "ports": ports}});
            Arc::new(serde_json::from_value::<Service>(value).unwrap())
        };
        let map: ConfigMap =
            serde_json::from_value(json!({"data": {"a": "1", "b": "2", "bad=": "x"}})).unwrap();
        let secret: Secret = serde_json::from_value(json!({"data": {"k": "c2VjcmV0"}})).unwrap();
        let mut found = Found::default();
        found.config_maps.insert("cm".into(), Arc::new(map));
        found.secrets.insert("s".into(), Arc::new(secret));
        World {
            pod: serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"},
                "spec": {"containers": []}}))
            .unwrap(),
            place: Place::default(),
            found,
            services: vec![
                service(
                    "kubernetes",
                    "default",
                    "10.96.0.1",
                    json!([{"name": "https", "port": 443}]),
                ),
                service("web-app", "n", "10.96.0.9", json!([{"port": 80}])),
                service("other", "default", "10.96.0.7", json!([{"port": 1}])),
                service("headless", "n", "None", json!([{"port": 1}])),
            ],
        }
    }

    fn run(world: &World, container: Value) -> Result<BTreeMap<String, String>, String> {
        let mut value = json!({"name": "c"});
        for (key, field) in container.as_object().unwrap() {
            value[key] = field.clone();
        }
        let container: Container = serde_json::from_value(value).unwrap();
        let sources = Sources {
            pod: &world.pod,
            place: &world.place,
            found: &world.found,
            services: &world.services,
        };
        variables(&container, &sources)
    }

    #[test]
    fn services_give_variables_as_docker_links_did() {
        let got = run(&world(), json!({})).unwrap();
        let expect = [
            ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
            ("KUBERNETES_SERVICE_PORT", "443"),
            ("KUBERNETES_SERVICE_PORT_HTTPS", "443"),
            ("KUBERNETES_PORT", "tcp://10.96.0.1:443"),
            ("KUBERNETES_PORT_443_TCP_ADDR", "10.96.0.1"),
            ("WEB_APP_SERVICE_HOST", "10.96.0.9"),
            ("WEB_APP_PORT_80_TCP", "tcp://10.96.0.9:80"),
            ("WEB_APP_PORT_80_TCP_PROTO", "tcp"),
        ];
        for (name, value) in expect {
            assert_eq!(got.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert!(
            !got.keys()
                .any(|k| k.starts_with("OTHER") || k.starts_with("HEADLESS"))
        );
    }

    #[test]
    fn without_service_links_only_the_api_is_named() {
        let mut world = world();
        world.pod.spec.as_mut().unwrap().enable_service_links = Some(false);
        let got = run(&world, json!({})).unwrap();
        assert!(got.contains_key("KUBERNETES_SERVICE_HOST"));
        assert!(!got.contains_key("WEB_APP_SERVICE_HOST"));
    }

    #[test]
    fn own_variables_see_earlier_ones_and_win_over_objects() {
        let got = run(
            &world(),
            json!({
                "envFrom": [{"configMapRef": {"name": "cm"}}, {"prefix": "P_",
                    "secretRef": {"name": "s"}}],
                "env": [{"name": "b", "value": "own"},
                    {"name": "C", "value": "$(a)-$(b)-$(WEB_APP_SERVICE_HOST)-$(LATER)"},
                    {"name": "LATER", "value": "x"}]}),
        )
        .unwrap();
        assert_eq!(got["a"], "1");
        assert_eq!(got["b"], "own");
        assert_eq!(got["P_k"], "secret");
        assert_eq!(got["C"], "1-own-10.96.0.9-$(LATER)");
        assert!(!got.contains_key("bad="));
    }

    #[test]
    fn what_is_missing_and_not_optional_is_an_error() {
        let key = |kind: &str, name: &str, key: &str, optional: bool| {
            json!({"env": [{"name": "X", "valueFrom":
                {kind: {"name": name, "key": key, "optional": optional}}}]})
        };
        let world = world();
        let error = |value: Value| run(&world, value).unwrap_err();
        assert_eq!(
            error(key("configMapKeyRef", "none", "a", false)),
            "configmap \"none\" not found"
        );
        assert_eq!(
            error(key("configMapKeyRef", "cm", "z", false)),
            "couldn't find key z in ConfigMap n/cm"
        );
        assert_eq!(
            error(key("secretKeyRef", "none", "a", false)),
            "secret \"none\" not found"
        );
        for value in [
            key("configMapKeyRef", "none", "a", true),
            key("secretKeyRef", "s", "z", true),
        ] {
            assert!(!run(&world, value).unwrap().contains_key("X"));
        }
    }
}
