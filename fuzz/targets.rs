//! One function for each parser that reads what strangers send. No input may panic, hang or take
//! more than its share; what is read must be written and read again to the same.
//!
//! `cargo fuzz` calls them without end (`fuzz/fuzz_targets`), `tests/api/parsers.rs` for a moment in
//! every test run, over the corpus and mutations of it.

use orch::api::apply;
use orch::api::codec::{self, Expect, MediaType, Mode};
use orch::api::patch::{self, PatchType};
use orch::api::quantity::Quantity;
use orch::api::schema::{self, TypeRef};
use orch::api::selector::{field, label};
use orch::server::audit::policy::Policy;
use orch::server::http::route;
use orch::server::storage::seal::Sealing;
use serde_json::{Value, json};

/// Name (that of the corpus folder) and function.
pub(crate) type Target = (&'static str, fn(&[u8]));

/// Every target.
pub(crate) const TARGETS: &[Target] = &[
    ("json_body", json_body),
    ("yaml_body", yaml_body),
    ("protobuf_body", protobuf_body),
    ("json_patch", json_patch),
    ("merge_patch", merge_patch),
    ("strategic_patch", strategic_patch),
    ("apply_patch", apply_patch),
    ("label_selector", label_selector),
    ("field_selector", field_selector),
    ("quantity", quantity),
    ("yaml_documents", yaml_documents),
    ("request_line", request_line),
    ("configuration", configuration),
];

const BYTES_MAX: usize = 3 << 20;

fn pod() -> TypeRef<'static> {
    let named = schema::builtin().get("core.v1.Pod");
    named.expect("the type of Pods is built in")
}

fn body(data: &[u8], media: MediaType) {
    for mode in [Mode::Strict, Mode::Ignore] {
        let expect = Expect {
            ty: pod(),
            mode,
            bytes_max: BYTES_MAX,
        };
        let Ok((object, _)) = codec::decode(data, media, &expect) else {
            continue;
        };
        let text = serde_json::to_vec(&object.0).expect("an object can be written");
        let again = codec::decode(&text, MediaType::Json, &expect);
        assert_eq!(again.expect("what was written is read").0, object);
    }
}

fn json_body(data: &[u8]) {
    body(data, MediaType::Json);
}

fn yaml_body(data: &[u8]) {
    body(data, MediaType::Yaml);
}

fn protobuf_body(data: &[u8]) {
    body(data, MediaType::Protobuf);
}

fn live() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "a", "namespace": "default", "labels": {"k": "v"}, "finalizers": ["x/y"]},
        "spec": {"containers": [
            {"name": "a", "image": "b", "env": [{"name": "c", "value": "d"}],
                "ports": [{"containerPort": 80, "protocol": "TCP"}]}],
            "tolerations": [{"key": "a"}], "volumes": [{"name": "v", "emptyDir": {}}]},
    })
}

fn patched(kind: PatchType, data: &[u8]) {
    // What comes out is checked by whoever asked; here it only has to come out.
    let _ = patch::apply(kind, live(), data, pod());
}

fn json_patch(data: &[u8]) {
    patched(PatchType::Json, data);
}

fn merge_patch(data: &[u8]) {
    patched(PatchType::Merge, data);
}

fn strategic_patch(data: &[u8]) {
    patched(PatchType::Strategic, data);
}

fn apply_patch(data: &[u8]) {
    let _ = apply::read(data, pod(), Mode::Warn);
}

fn text(data: &[u8]) -> &str {
    std::str::from_utf8(data).unwrap_or_default()
}

fn label_selector(data: &[u8]) {
    if let Ok(selector) = label::Selector::parse(text(data)) {
        let printed = selector.to_string();
        let again = label::Selector::parse(&printed).expect("what was printed is read");
        assert_eq!(again.to_string(), printed);
    }
}

fn field_selector(data: &[u8]) {
    if let Ok(selector) = field::Selector::parse(text(data)) {
        selector.matches(|_| Some("value"));
    }
}

fn quantity(data: &[u8]) {
    if let Ok(quantity) = text(data).parse::<Quantity>() {
        let printed = quantity.to_string();
        let again: Quantity = printed.parse().expect("what was printed is read");
        assert_eq!(again.nano(), quantity.nano(), "{printed}");
    }
}

fn yaml_documents(data: &[u8]) {
    for (_, document) in codec::yaml::documents(text(data)) {
        if let Ok(value) = document {
            codec::yaml::to_string(&value);
        }
    }
}

fn request_line(data: &[u8]) {
    let (path, query) = text(data).split_once('?').unwrap_or((text(data), ""));
    for method in [http::Method::GET, http::Method::POST, http::Method::DELETE] {
        route::request_info(&method, path, query);
    }
}

fn configuration(data: &[u8]) {
    let _ = (Policy::read(text(data)), Sealing::read(text(data)));
}

/// Runs the target `name`; for `fuzz/fuzz_targets`.
pub(crate) fn run(name: &str, data: &[u8]) {
    let found = TARGETS.iter().find(|(own, _)| *own == name);
    found.expect("a target of this name").1(data);
}
