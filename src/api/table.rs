//! `Table` and `PartialObjectMetadata` (`meta.k8s.io`), written straight to bytes from cells and
//! the JSON of the objects.

use serde_json::{Value, json};

use super::kinds::Column;

/// What a row carries beside its cells (`includeObject`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Include {
    /// Nothing.
    None,
    /// `PartialObjectMetadata`.
    #[default]
    Metadata,
    /// The whole object.
    Object,
}

impl Include {
    /// From the query parameter; `None` where it is something else.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Metadata" => Some(Self::Metadata),
            "None" => Some(Self::None),
            "Object" => Some(Self::Object),
            _ => None,
        }
    }
}

/// The `metadata` of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListMeta {
    /// The revision the list is of.
    pub resource_version: String,
    /// Where the next page begins; empty for the last one.
    pub continue_token: String,
    /// How many objects are on later pages.
    pub remaining: Option<u64>,
}

impl ListMeta {
    /// As JSON, without what is absent.
    pub fn to_json(&self) -> Value {
        let mut meta = json!({"resourceVersion": self.resource_version});
        if !self.continue_token.is_empty() {
            meta["continue"] = self.continue_token.as_str().into();
        }
        if let Some(remaining) = self.remaining {
            meta["remainingItemCount"] = remaining.into();
        }
        meta
    }
}

/// A `Table` being written.
#[derive(Debug)]
pub struct TableWriter {
    bytes: Vec<u8>,
    is_empty: bool,
}

impl TableWriter {
    /// Begins a table. `version` is `v1` or `v1beta1`; `columns` is `None` for the events of a
    /// watch after the first, which leave the columns out.
    pub fn new(version: &str, meta: &ListMeta, columns: Option<Value>) -> Self {
        let columns = columns.unwrap_or_else(|| Value::Array(Vec::new()));
        let mut head = json!({
            "kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"),
            "metadata": meta.to_json(), "columnDefinitions": columns,
        })
        .to_string();
        head.pop();
        head.push_str(",\"rows\":[");
        Self {
            bytes: head.into_bytes(),
            is_empty: true,
        }
    }

    /// Adds a row; `object` is the JSON of what the row carries, empty for nothing.
    pub fn push(&mut self, cells: &[Value], object: &[u8]) {
        if !self.is_empty {
            self.bytes.push(b',');
        }
        self.is_empty = false;
        self.bytes.extend_from_slice(b"{\"cells\":[");
        for (index, cell) in cells.iter().enumerate() {
            if index > 0 {
                self.bytes.push(b',');
            }
            serde_json::to_writer(&mut self.bytes, cell)
                .expect("a JSON value is always written to memory");
        }
        self.bytes.extend_from_slice(b"],\"object\":");
        let object = if object.is_empty() { b"null" } else { object };
        self.bytes.extend_from_slice(object);
        self.bytes.push(b'}');
    }

    /// Ends the table.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.extend_from_slice(b"]}");
        self.bytes
    }
}

/// The columns of a built-in kind, as a Table has them.
pub fn columns(columns: &[Column]) -> Value {
    columns.iter().map(column).collect()
}

fn column(column: &Column) -> Value {
    json!({
        "name": column.name, "type": column.kind, "format": column.format,
        "description": column.description, "priority": column.priority,
    })
}

/// A `PartialObjectMetadata` around the JSON of an object's `metadata`.
pub fn partial_metadata(version: &str, metadata: &[u8]) -> Vec<u8> {
    let head = format!(
        "{{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/{version}\",\"metadata\":"
    );
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(metadata);
    bytes.push(b'}');
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kinds;

    #[test]
    fn a_table_is_json_with_its_rows() {
        let meta = ListMeta {
            resource_version: "9".into(),
            ..ListMeta::default()
        };
        let columns = columns(kinds::by_kind("", "v1", "ConfigMap").unwrap().columns);
        let mut table = TableWriter::new("v1", &meta, Some(columns));
        let object = partial_metadata("v1", br#"{"name":"a"}"#);
        table.push(&["a".into(), 2.into(), "5s".into()], &object);
        table.push(&["b".into(), 0.into(), "6s".into()], &[]);
        let table: Value = serde_json::from_slice(&table.finish()).unwrap();
        assert_eq!(table["columnDefinitions"][0]["format"], "name");
        assert_eq!(table["rows"][0]["object"]["metadata"]["name"], "a");
        assert_eq!(table["rows"][1]["cells"][2], "6s");
        assert_eq!(table["rows"][1]["object"], Value::Null);
        assert_eq!(table["metadata"]["resourceVersion"], "9");
    }
}
