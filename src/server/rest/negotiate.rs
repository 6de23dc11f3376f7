//! Which form of an answer a client asks for by `Accept`: the object itself, a `Table` or its
//! metadata only; JSON, YAML or, for built-in kinds, protobuf
//! (`k8s.io/apiserver/pkg/endpoints/handlers/negotiation`).
//!
//! Deliberately not here: CBOR, which is off by default upstream. Clients name JSON behind it.

use http::HeaderMap;
use http::header::{ACCEPT, USER_AGENT};

use crate::api::status::ApiError;
use crate::api::table::Include;

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// Which encodings a resource has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encodings {
    /// Also protobuf: the kinds upstream is built with.
    All,
    /// JSON and YAML: custom resources.
    Text,
}

impl Encodings {
    /// As messages list them.
    pub(super) fn names(self) -> &'static [&'static str] {
        match self {
            Self::All => &["application/json", "application/yaml", PROTOBUF],
            Self::Text => &["application/json", "application/yaml"],
        }
    }
}

/// How bytes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Json,
    /// JSON for human eyes.
    Pretty,
    Yaml,
    Protobuf,
}

/// What is written; the text is the version of `meta.k8s.io`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// The objects themselves.
    Object,
    /// Columns and rows.
    Table(&'static str),
    /// `metadata` alone.
    Metadata(&'static str),
}

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Output {
    pub(super) encoding: Encoding,
    pub(super) form: Form,
    pub(super) include: Include,
}

/// Reads `Accept`, `includeObject` and `pretty`. `served` is asked only where that matters.
pub(super) fn output(
    headers: &HeaderMap,
    query: &str,
    served: impl FnOnce() -> Encodings,
) -> Result<Output, ApiError> {
    let accept = headers.get(ACCEPT).and_then(|v| v.to_str().ok());
    let accept = accept.unwrap_or_default();
    let (encoding, form) = if accept.is_empty() || accept == "application/json" {
        (Encoding::Json, Form::Object)
    } else {
        let served = served();
        by_preference(accept)
            .into_iter()
            .find_map(|text| clause(text, served))
            .ok_or_else(|| ApiError::not_acceptable(served.names()))?
    };
    let encoding = match encoding {
        Encoding::Json if is_pretty(headers, query) => Encoding::Pretty,
        encoding => encoding,
    };
    let include = match form {
        Form::Table(_) => include(query)?,
        _ => Include::default(),
    };
    Ok(Output {
        encoding,
        form,
        include,
    })
}

/// The clauses, the best first; those of equal quality as they were written.
fn by_preference(accept: &str) -> Vec<&str> {
    let mut clauses: Vec<(f32, &str)> = accept
        .split(',')
        .map(|clause| {
            let quality = clause.split(';').find_map(|p| p.trim().strip_prefix("q="));
            let quality = quality.and_then(|q| q.parse().ok()).unwrap_or(1.0);
            (quality, clause.trim())
        })
        .collect();
    clauses.sort_by(|a, b| b.0.total_cmp(&a.0));
    clauses.into_iter().map(|(_, clause)| clause).collect()
}

/// `None`: not something that is served.
fn clause(clause: &str, served: Encodings) -> Option<(Encoding, Form)> {
    let mut parts = clause.split(';').map(str::trim);
    let encoding = match parts.next()? {
        "*/*" | "application/*" | "application/json" => Encoding::Json,
        "application/yaml" => Encoding::Yaml,
        PROTOBUF if served == Encodings::All => Encoding::Protobuf,
        _ => return None,
    };
    let (mut kind, mut group, mut version) = ("", "", "");
    for part in parts {
        match part.split_once('=') {
            Some(("as", value)) => kind = value,
            Some(("g", value)) => group = value,
            Some(("v", value)) => version = value,
            _ => {}
        }
    }
    if kind.is_empty() {
        return Some((encoding, Form::Object));
    }
    let version = match (group, version) {
        ("meta.k8s.io", "v1") => "v1",
        ("meta.k8s.io", "v1beta1") => "v1beta1",
        _ => return None,
    };
    match kind {
        // A Table has no protobuf form (`RequestScope.AllowsMediaTypeTransform`).
        "Table" if encoding != Encoding::Protobuf => Some((encoding, Form::Table(version))),
        "PartialObjectMetadata" | "PartialObjectMetadataList" => {
            Some((encoding, Form::Metadata(version)))
        }
        _ => None,
    }
}

fn include(query: &str) -> Result<Include, ApiError> {
    let wanted = parameter(query, "includeObject").unwrap_or_default();
    Include::parse(&wanted).ok_or_else(|| {
        ApiError::bad_request(format!("unrecognized includeObject value: {wanted:?}"))
    })
}

/// As upstream: asked for, or somebody looks at it with a browser or `curl`.
fn is_pretty(headers: &HeaderMap, query: &str) -> bool {
    if let Some(pretty) = parameter(query, "pretty") {
        return pretty != "0" && pretty != "false";
    }
    let agent = headers.get(USER_AGENT).and_then(|v| v.to_str().ok());
    let agent = agent.unwrap_or_default();
    ["curl", "Wget", "Mozilla/5.0"]
        .iter()
        .any(|human| agent.starts_with(human))
}

fn parameter(query: &str, name: &str) -> Option<String> {
    // Most queries have neither parameter: do not take them apart for it.
    if !query.contains(name) {
        return None;
    }
    form_urlencoded::parse(query.as_bytes())
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepting(accept: &str, served: Encodings) -> Option<(Encoding, Form)> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept.parse().unwrap());
        let output = output(&headers, "", || served).ok()?;
        Some((output.encoding, output.form))
    }

    fn of(accept: &str) -> Option<(Encoding, Form)> {
        accepting(accept, Encodings::Text)
    }

    #[test]
    fn builtin_kinds_are_served_in_protobuf_where_that_comes_first() {
        let of = |accept| accepting(accept, Encodings::All);
        let typed = "application/vnd.kubernetes.protobuf,application/json";
        assert_eq!(of(typed), Some((Encoding::Protobuf, Form::Object)));
        let table = "application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1,\
            application/json;as=Table;g=meta.k8s.io;v=v1";
        assert_eq!(of(table), Some((Encoding::Json, Form::Table("v1"))));
        let metadata = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;\
            g=meta.k8s.io;v=v1";
        let metadata = of(metadata);
        assert_eq!(metadata, Some((Encoding::Protobuf, Form::Metadata("v1"))));
        assert_eq!(of("*/*").unwrap().0, Encoding::Json);
    }

    #[test]
    fn kubectl_gets_a_table_and_others_what_they_can_read() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,\
            application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(of(kubectl), Some((Encoding::Json, Form::Table("v1"))));
        let metadata = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;\
            g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
        assert_eq!(of(metadata), Some((Encoding::Json, Form::Metadata("v1"))));
        let typed = "application/vnd.kubernetes.protobuf,application/json";
        assert_eq!(of(typed), Some((Encoding::Json, Form::Object)));
        assert_eq!(
            of("application/yaml;q=0.5, text/html, */*;q=0.1")
                .unwrap()
                .0,
            Encoding::Yaml
        );
        assert_eq!(of("application/vnd.kubernetes.protobuf"), None);
        assert_eq!(of("application/json;as=Table;g=other;v=v1"), None);
    }

    #[test]
    fn people_get_readable_json_unless_they_say_no() {
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, "curl/8.1".parse().unwrap());
        let of = |query| output(&headers, query, || Encodings::Text).unwrap();
        assert_eq!(of("").encoding, Encoding::Pretty);
        let plain = of("pretty=false");
        assert_eq!(plain.encoding, Encoding::Json);
    }
}
