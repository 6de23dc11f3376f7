//! Fields that a patch names twice, as `sigs.k8s.io/json` reports them: `data.key`, `[0].path`.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// More are not reported (upstream's limit of strict errors).
const REPORTED_MAX: usize = 100;

/// One text for each field that is there twice.
pub(super) fn duplicates(body: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let mut reader = serde_json::Deserializer::from_slice(body);
    let scan = Scan {
        path: String::new(),
        found: &mut found,
    };
    // What is no JSON is refused by who applies the patch.
    let _: Result<(), _> = scan.deserialize(&mut reader);
    found
}

struct Scan<'f> {
    path: String,
    found: &'f mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Scan<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Scan<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let mut number = 0;
        loop {
            let item = Scan {
                path: format!("{}[{number}]", self.path),
                found: self.found,
            };
            if seq.next_element_seed(item)?.is_none() {
                return Ok(());
            }
            number += 1;
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            let path = match self.path.as_str() {
                "" => name.clone(),
                path => format!("{path}.{name}"),
            };
            if !seen.insert(name) && self.found.len() < REPORTED_MAX {
                self.found.push(format!("duplicate field \"{path}\""));
            }
            map.next_value_seed(Scan {
                path,
                found: self.found,
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_are_there_twice_are_named_by_path() {
        let body = br#"{"a":{"b":1,"b":2},"c":[{"d":1,"d":null}],"a":0}"#;
        assert_eq!(
            duplicates(body),
            [
                "duplicate field \"a.b\"",
                "duplicate field \"c[0].d\"",
                "duplicate field \"a\""
            ]
        );
        let operations = br#"[{"op":"add","path":"/x","path":"/y"}]"#;
        assert_eq!(duplicates(operations), ["duplicate field \"[0].path\""]);
        assert!(duplicates(b"{\"a\":").is_empty());
        assert!(duplicates(b"nothing").is_empty());
    }
}
