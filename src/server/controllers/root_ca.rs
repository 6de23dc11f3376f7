//! Keeps the cluster authority's certificate in the ConfigMap `kube-root-ca.crt` of every
//! namespace, where pods find it.
//!
//! Writes: those ConfigMaps, back to what they should be when somebody changes them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::api::{meta, object::ObjectKey};
use crate::client::controller::{Action, Reconcile};
use crate::client::{Cache, Client, ListParams, Queue, Result};

use super::{Setup, shared::namespaces};

const WORKERS: usize = 2;
const NAME: &str = "kube-root-ca.crt";
const FIELD: &str = "ca.crt";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

struct RootCa {
    namespaces: Cache<Namespace>,
    maps: Cache<ConfigMap>,
    client: Client,
    ca_pem: String,
}

pub(super) fn start(setup: &Setup) {
    let namespaces = setup.informers.cache::<Namespace>();
    let only_ours = ListParams::fields(&format!("metadata.name={NAME}"));
    let maps = setup.informers.cache_where::<ConfigMap>(&only_ours);
    let queue = Queue::new();
    namespaces::on_change(&namespaces, &queue);
    let changed = queue.clone();
    maps.on_change(move |change| changed.add(ObjectKey::cluster(&change.key().namespace)));
    let controller = RootCa {
        namespaces: namespaces.clone(),
        maps: maps.clone(),
        client: setup.client.clone(),
        ca_pem: setup.ca_pem.clone(),
    };
    setup.run(controller, queue, WORKERS, async move {
        namespaces.synced().await;
        maps.synced().await;
    });
}

impl Reconcile for RootCa {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        "root_ca"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action> {
        if self
            .namespaces
            .get(key)
            .is_none_or(|n| meta::is_terminating(&n.metadata))
        {
            return Ok(Action::Done);
        }
        let wanted = BTreeMap::from([(FIELD.to_owned(), self.ca_pem.clone())]);
        let there = self.maps.get(&ObjectKey::new(&key.name, NAME));
        let api = self.client.namespaced::<ConfigMap>(&key.name);
        let written = match there {
            Some(map) if map.data.as_ref() == Some(&wanted) => return Ok(Action::Done),
            Some(map) => {
                let map = ConfigMap {
                    data: Some(wanted),
                    ..(*map).clone()
                };
                api.replace(NAME, &map).await
            }
            None => api.create(&new_map(wanted)).await,
        };
        match written {
            Err(error) if !namespaces::is_settled(&error) => Err(error),
            _ => Ok(Action::Done),
        }
    }
}

fn new_map(data: BTreeMap<String, String>) -> ConfigMap {
    let description = (
        "kubernetes.io/description".to_owned(),
        DESCRIPTION.to_owned(),
    );
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            annotations: Some([description].into()),
            ..ObjectMeta::default()
        },
        data: Some(data),
        ..ConfigMap::default()
    }
}
