//! `CONNECT`: what is opened elsewhere (exec, attach, port-forward, proxies) passes admission here,
//! with its options as the object (`k8s.io/apiserver/pkg/endpoints/handlers.ConnectResource`).

use serde_json::{Value, json};

use super::Rest;
use crate::api::object::Object;
use crate::api::status::ApiError;
use crate::server::admission::{Attributes, Notes, Operation};
use crate::server::request::{RequestInfo, User};

/// Options that are said several times.
const LISTS: &[&str] = &["command", "ports"];
const FLAGS: &[&str] = &["stdin", "stdout", "stderr", "tty"];

impl Rest {
    /// Asks admission about a stream or proxy; a log is only read.
    pub async fn connect(
        &self,
        info: &RequestInfo,
        user: &User,
        query: &str,
    ) -> Result<(), ApiError> {
        let core = &*self.core;
        let table = core.registry.snapshot();
        let def = table.find(&info.group, &info.version, &info.resource);
        let Some(def) = def.filter(|_| info.subresource != "log") else {
            return Ok(());
        };
        let sub = def.subresource(&info.subresource);
        let sub = sub.ok_or_else(ApiError::no_such_path)?;
        let (notes, mut options) = (Notes::default(), options(&sub.gvk.kind, info, query));
        let namespace = match def.is_namespaced() {
            true => info.namespace.as_str(),
            false => "",
        };
        let attributes = Attributes {
            operation: Operation::Connect,
            def,
            namespace,
            name: &info.name,
            subresource: &info.subresource,
            user,
            old: None,
            dry_run: false,
            info,
            query: "",
            delete: None,
            notes: &notes,
        };
        core.admission.mutate(&attributes, &mut options).await?;
        core.admission.validate(&attributes, Some(&options)).await
    }
}

/// The query as an object of its kind.
fn options(kind: &str, info: &RequestInfo, query: &str) -> Object {
    let mut options = json!({"kind": kind, "apiVersion": "v1"});
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let name = &*name;
        if LISTS.contains(&name) {
            let value: Value = match value.parse::<i64>() {
                Ok(port) if name == "ports" => port.into(),
                _ => value.into_owned().into(),
            };
            match &mut options[name] {
                Value::Array(list) => list.push(value),
                slot => *slot = json!([value]),
            }
        } else if FLAGS.contains(&name) {
            options[name] = (!matches!(&*value, "false" | "0")).into();
        } else {
            options[name] = value.into_owned().into();
        }
    }
    if info.subresource == "proxy" && !info.rest.is_empty() {
        options["path"] = info.rest.as_str().into();
    }
    Object::from_value(options).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_an_object_of_options() {
        let info = RequestInfo::default();
        let query = "container=a&command=sh&command=-c&stdin=true&tty=false";
        assert_eq!(
            options("PodExecOptions", &info, query).into_value(),
            json!({
                "kind": "PodExecOptions", "apiVersion": "v1", "container": "a",
                "command": ["sh", "-c"], "stdin": true, "tty": false,
            })
        );
    }
}
