//! YAML as Kubernetes' clients write and read it: YAML 1.1 as go-yaml v2 resolves it (`yes`, `0644`,
//! `1_000`, `<<`), several documents in a text, and an emitter whose strings no such reader takes
//! for something else.

use std::fmt::Write;

use serde::de::DeserializeSeed;
use serde_json::{Map, Value};
use serde_saphyr::options::DuplicateKeyPolicy;

use super::typed::{Problems, Root};
use crate::api::object::Object;
use crate::api::schema::TypeRef;

/// How deep values nest: half of what JSON may, since the parser needs more of the stack.
const DEPTH_MAX: usize = 64;
/// How much aliases may add to a text.
const REPLAYED_MAX: usize = 100_000;

/// Why a document could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct YamlError {
    /// In the whole text, from 1.
    pub line: usize,
    /// Without the place.
    pub reason: String,
}

/// Reads one document; the last of duplicate fields counts.
pub fn value(text: &str) -> Result<Value, YamlError> {
    read(text, DuplicateKeyPolicy::LastWins, 1)
}

/// Splits a text into its documents, each with the line it starts at. Empty documents are left
/// out; one that cannot be read does not hide the others. Duplicate fields are an error here.
pub fn documents(text: &str) -> Vec<(usize, Result<Value, YamlError>)> {
    let mut found = Vec::new();
    for (line, part) in split(text) {
        let blank = |l: &str| l.trim().is_empty() || l.trim_start().starts_with('#');
        let skipped = part.lines().take_while(|l| blank(l)).count();
        if part.lines().nth(skipped).is_none() {
            continue;
        }
        match read(part, DuplicateKeyPolicy::Error, line) {
            Ok(Value::Null) => {}
            result => found.push((line + skipped, result)),
        }
    }
    found
}

/// Writes a document, fields in the order of their names.
pub fn to_string(value: &Value) -> String {
    let mut out = String::new();
    emit(&mut out, value, 0);
    if !out.ends_with('\n') {
        out.push('\n');
    }
    out
}

/// Reads an object along its type.
pub(super) fn typed(
    body: &[u8],
    ty: TypeRef<'_>,
    problems: &mut Problems,
) -> Result<Object, String> {
    if body.trim_ascii().is_empty() {
        return Err("yaml: no document".to_owned());
    }
    let options = options(DuplicateKeyPolicy::PassThrough);
    let read = |from: serde_saphyr::Deserializer<'_, '_>| Root::new(ty, problems).deserialize(from);
    serde_saphyr::with_deserializer_from_slice_with_options(body, options, read)
        .map_err(|error| format!("yaml: {}", error.render()))
}

fn options(duplicates: DuplicateKeyPolicy) -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: DEPTH_MAX },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: REPLAYED_MAX },
        duplicate_keys: duplicates,
        legacy_octal_numbers: true,
        with_snippet: false,
    }
}

fn read(text: &str, duplicates: DuplicateKeyPolicy, first: usize) -> Result<Value, YamlError> {
    if text.trim_start().starts_with('{') {
        // JSON, whose tabs YAML would refuse.
        if let Ok(value) = serde_json::from_str(text) {
            return Ok(value);
        }
    }
    serde_saphyr::from_str_with_options(text, options(duplicates)).map_err(|error| {
        let line = error.location().map_or(1, |at| at.line());
        YamlError {
            line: first + usize::try_from(line).unwrap_or(1).saturating_sub(1),
            reason: error.render(),
        }
    })
}

/// The documents with the line each begins at.
fn split(text: &str) -> Vec<(usize, &str)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut parts = Vec::new();
    let (mut start, mut start_line, mut at) = (0, 1, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        if is_separator(line) {
            parts.push((start_line, &text[start..at]));
            start = at + line.len();
            start_line = number + 2;
        }
        at += line.len();
    }
    parts.push((start_line, &text[start..]));
    parts
}

fn is_separator(line: &str) -> bool {
    let rest = line.strip_prefix("---").or(line.strip_prefix("..."));
    rest.is_some_and(|rest| {
        let bare = rest.trim();
        bare.is_empty() || rest.starts_with([' ', '\t']) && bare.starts_with('#')
    })
}

fn emit(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(map) if !map.is_empty() => emit_map(out, map, indent),
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                pad(out, indent);
                out.push_str("- ");
                emit_item(out, item, indent + 2);
            }
        }
        scalar => emit_scalar(out, scalar, indent),
    }
}

fn emit_map(out: &mut String, map: &Map<String, Value>, indent: usize) {
    for (key, value) in map {
        pad(out, indent);
        emit_key(out, key);
        emit_field(out, value, indent);
    }
}

/// An item after its dash: the first field of a map stands beside the dash.
fn emit_item(out: &mut String, item: &Value, indent: usize) {
    match item {
        Value::Object(map) if !map.is_empty() => {
            let mut text = String::new();
            emit_map(&mut text, map, indent);
            out.push_str(&text[indent..]);
        }
        Value::Array(items) if !items.is_empty() => {
            let mut text = String::new();
            emit(&mut text, item, indent);
            out.push_str(&text[indent..]);
        }
        scalar => {
            emit_scalar(out, scalar, indent - 2);
            out.push('\n');
        }
    }
}

fn emit_field(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            out.push_str(":\n");
            emit_map(out, map, indent + 2);
        }
        Value::Array(items) if !items.is_empty() => {
            out.push_str(":\n");
            emit(out, value, indent);
        }
        scalar => {
            out.push_str(": ");
            emit_scalar(out, scalar, indent);
            out.push('\n');
        }
    }
}

fn emit_key(out: &mut String, key: &str) {
    if is_plain(key) {
        out.push_str(key);
    } else {
        quote(out, key);
    }
}

fn emit_scalar(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::String(text) if text.contains('\n') && is_literal(text) => {
            literal(out, text, indent)
        }
        Value::String(text) if is_plain(text) => out.push_str(text),
        Value::String(text) => quote(out, text),
        Value::Array(_) => out.push_str("[]"),
        Value::Object(_) => out.push_str("{}"),
        // Numbers, booleans and null are written as JSON writes them.
        other => out.push_str(&other.to_string()),
    }
}

/// Double quotes with JSON's escapes, which are YAML's as well.
fn quote(out: &mut String, text: &str) {
    out.push_str(&Value::from(text).to_string());
}

/// A block of lines as they are.
fn literal(out: &mut String, text: &str, indent: usize) {
    let body = text.trim_end_matches('\n');
    let ends = text.len() - body.len();
    out.push_str(match ends {
        0 => "|-",
        1 => "|",
        _ => "|+",
    });
    let lines = if ends > 1 {
        &text[..text.len() - 1]
    } else {
        body
    };
    for line in lines.split('\n') {
        out.push('\n');
        if !line.is_empty() {
            pad(out, indent + 2);
            out.push_str(line);
        }
    }
}

/// Whether a text of several lines can stand as a block: no line that would be read otherwise.
fn is_literal(text: &str) -> bool {
    !text.starts_with([' ', '\n', '\t'])
        && !text.trim_end_matches('\n').is_empty()
        && text
            .chars()
            .all(|c| c == '\n' || c == '\t' || !c.is_control())
        && !text.contains(['\u{2028}', '\u{2029}', '\u{feff}', '\u{85}'])
}

/// Whether a text needs no quotes: it reads as nothing but a text under any YAML version.
fn is_plain(text: &str) -> bool {
    const WORDS: &[&str] = &[
        "y", "n", "yes", "no", "on", "off", "true", "false", "null", "~", "nan", "inf",
    ];
    let Some(first) = text.chars().next() else {
        return false;
    };
    let inner = |c: char| c.is_ascii_alphanumeric() || "-_./+@ ()=%$^;<>?!*&|\\'\"~".contains(c);
    let colon_ok = !text.contains(':')
        || text
            .split(':')
            .skip(1)
            .all(|rest| !rest.is_empty() && !rest.starts_with(' '));
    (first.is_ascii_alphabetic() || first == '/' || first == '_')
        && !text.ends_with(' ')
        && colon_ok
        && text.chars().all(|c| inner(c) || c == ':' || c == ',')
        && !WORDS.iter().any(|word| text.eq_ignore_ascii_case(word))
}

fn pad(out: &mut String, indent: usize) {
    // Writing to a String cannot fail.
    write!(out, "{:indent$}", "").ok();
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn scalars_resolve_as_go_yaml_resolves_them() {
        let text = "mode: 0644\non: yes\nn: 1_000\ntext: '0644'\nversion: 1.10\nat: 2024-01-02\n";
        let expected = json!({
            "mode": 420, "on": true, "n": 1000, "text": "0644", "version": 1.1, "at": "2024-01-02",
        });
        assert_eq!(value(text).unwrap(), expected);
        let merged = value("a: &a {x: 1}\nb:\n  <<: *a\n  y: 2\n").unwrap();
        assert_eq!(merged["b"], json!({"x": 1, "y": 2}));
    }

    #[test]
    fn a_bad_document_is_told_with_its_line_and_hides_no_other() {
        let text = "# only a comment\n---\na: 1\n---\n\n# c\nb: [1\n--- # next\nc: 3\n---\n";
        let found = documents(text);
        assert_eq!(found.len(), 3);
        assert_eq!(found[0], (3, Ok(json!({"a": 1}))));
        assert_eq!(found[1].0, 7);
        let error = found[1].1.as_ref().unwrap_err();
        assert!((7..=8).contains(&error.line), "{error}");
        assert_eq!(found[2], (9, Ok(json!({"c": 3}))));
        let twice = documents("x: 1\ny:\n  z: 1\n  z: 2\n");
        let error = twice[0].1.as_ref().unwrap_err();
        assert_eq!(error.line, 4, "{error}");
        assert_eq!(documents("{\n\t\"a\": 1\n}\n"), [(1, Ok(json!({"a": 1})))]);
    }

    #[test]
    fn depth_and_aliases_have_limits() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(value(&nested(50)).is_ok());
        assert!(value(&nested(1000)).is_err());
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..9 {
            let below = format!("*a{}, ", level - 1).repeat(9);
            bomb.push_str(&format!("a{level}: &a{level} [{below}]\n"));
        }
        assert!(value(&bomb).is_err());
    }

    #[test]
    fn what_is_written_reads_back_the_same() {
        let texts = [
            "yes",
            "0644",
            "1_000",
            "1e3",
            "null",
            "~",
            "",
            " x",
            "x ",
            "a: b",
            "a:b",
            "#c",
            "a #c",
            "- a",
            "nginx:1.25",
            "0x1f",
            ".5",
            "-1",
            "2024-01-01",
            "l1\nl2",
            "l1\nl2\n",
            "l1\n\n",
            " l1\nl2",
            "tab\tx",
            "ü",
            "{a}",
            "[a]",
            "'q'",
            "\"q\"",
            "a\\b",
            "!tag",
            "&a",
            "*a",
            "%a",
            "@a",
            "`a",
            "|",
            ">",
            "?",
            ":",
            "a:",
            "key: |\n  x\n",
            "12:30:45",
            "NO",
            "Off",
            "+1",
            "1.",
            "=",
            "<<",
            "\u{7}",
            "a, b",
            "x\r\ny",
        ];
        for text in texts {
            let nested = json!({"k": text, text: [text, {"a": text, "b": [[text]]}, []], "e": {}});
            let written = to_string(&nested);
            let read = value(&written).unwrap_or_else(|e| panic!("{text:?}: {e}\n{written}"));
            assert_eq!(read, nested, "{text:?}\n{written}");
        }
        let numbers = json!({"a": 1, "b": -1.5, "c": true, "d": null, "e": [1, [2, 3]]});
        assert_eq!(value(&to_string(&numbers)).unwrap(), numbers);
        assert_eq!(to_string(&json!("x")), "x\n");
    }
}
