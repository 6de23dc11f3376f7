//! Files → objects. Reads the folder and decides nothing.

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::shown;
use crate::api::{codec::yaml, object::Object};

/// The largest file that is read; a larger one is a complaint.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// The most files that are read; further ones are a complaint.
const FILES_MAX: usize = 4096;
/// How deep folders are followed.
const DEPTH_MAX: usize = 8;

/// Everything the folder says.
#[derive(Debug, Default)]
pub(super) struct Read {
    /// In path order, then in order of the file.
    pub(super) documents: Vec<Document>,
    /// Files of which something could not be read.
    pub(super) broken: Vec<String>,
    /// What is wrong, and where.
    pub(super) complaints: Vec<Complaint>,
}

/// One object of a file.
#[derive(Debug)]
pub(super) struct Document {
    /// The file, below the folder.
    pub(super) file: String,
    /// Where it begins.
    pub(super) line: usize,
    /// What it says.
    pub(super) object: Object,
}

/// Something wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Complaint {
    file: String,
    line: usize,
    reason: String,
}

impl Complaint {
    /// `line` is 0 where it is of the whole file.
    pub(super) fn new(file: &str, line: usize, reason: &str) -> Self {
        Self {
            file: file.to_owned(),
            line,
            reason: reason.to_owned(),
        }
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.reason),
            line => write!(f, "{}:{line}: {}", self.file, self.reason),
        }
    }
}

/// Reads every manifest below `folder`.
pub(super) fn folder(folder: &Path) -> Read {
    let mut read = Read::default();
    let mut files = Vec::new();
    collect(folder, folder, 0, (&mut files, &mut read));
    files.sort();
    for path in files.iter().skip(FILES_MAX) {
        read.refuse(
            &shown(path),
            0,
            &format!("more than {FILES_MAX} files: this one is not read"),
        );
    }
    for path in files.iter().take(FILES_MAX) {
        read.file(folder, path);
    }
    read
}

fn collect(
    root: &Path,
    folder: &Path,
    depth: usize,
    (files, read): (&mut Vec<PathBuf>, &mut Read),
) {
    let below = |path: &Path| path.strip_prefix(root).unwrap_or(path).to_owned();
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => return read.refuse(&shown(&below(folder)), 0, &error.to_string()),
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        if is_hidden(&path) {
            continue;
        }
        if path.is_dir() {
            if depth < DEPTH_MAX {
                collect(root, &path, depth + 1, (files, read));
            } else {
                read.refuse(&shown(&below(&path)), 0, "too deep a folder: not read");
            }
        } else if is_manifest(&path) && !is_skipped(&path) {
            files.push(below(&path));
        }
    }
}

fn is_hidden(path: &Path) -> bool {
    path.file_name()
        .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."))
}

fn is_manifest(path: &Path) -> bool {
    path.extension()
        .is_some_and(|e| e == "yaml" || e == "yml" || e == "json")
}

/// `web.yaml.skip` beside `web.yaml` leaves it out, as in k3s.
fn is_skipped(path: &Path) -> bool {
    let mut skip = path.as_os_str().to_owned();
    skip.push(".skip");
    Path::new(&skip).exists()
}

impl Read {
    fn refuse(&mut self, file: &str, line: usize, reason: &str) {
        self.broken.push(file.to_owned());
        self.complaints.push(Complaint::new(file, line, reason));
    }

    fn file(&mut self, folder: &Path, path: &Path) {
        let file = shown(path);
        let text = match text_of(&folder.join(path)) {
            Ok(text) => text,
            Err(error) => return self.refuse(&file, 0, &error),
        };
        for (line, document) in yaml::documents(&text) {
            match document {
                Ok(value) => self.value(&file, line, value),
                Err(error) => self.refuse(&file, error.line.max(line), &error.reason),
            }
        }
    }

    fn value(&mut self, file: &str, line: usize, value: Value) {
        if value.is_null() {
            return;
        }
        let Some(object) = Object::from_value(value) else {
            return self.refuse(
                file,
                line,
                "expected an object with `apiVersion` and `kind`",
            );
        };
        if object.kind().ends_with("List") && object.0.get("items").is_some_and(Value::is_array) {
            let items = object.0.get("items").and_then(Value::as_array).cloned();
            for item in items.unwrap_or_default() {
                self.value(file, line, item);
            }
            return;
        }
        let missing = [
            ("apiVersion", object.api_version()),
            ("kind", object.kind()),
            ("metadata.name", object.name()),
        ];
        match missing.iter().find(|(_, value)| value.is_empty()) {
            Some((field, _)) => self.refuse(file, line, &format!("`{field}` is missing")),
            None => self.documents.push(Document {
                file: file.to_owned(),
                line,
                object,
            }),
        }
    }
}

fn text_of(path: &Path) -> Result<String, String> {
    let size = std::fs::metadata(path)
        .map_err(|error| error.to_string())?
        .len();
    if size > FILE_BYTES_MAX {
        return Err(format!("{size} bytes: at most {FILE_BYTES_MAX} are read"));
    }
    std::fs::read_to_string(path).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    const GOOD: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n";

    fn read(files: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        let read = super::folder(folder.path());
        let found = read
            .documents
            .iter()
            .map(|d| format!("{}:{}:{}", d.file, d.line, d.object.name()));
        (
            found.collect(),
            read.complaints.iter().map(ToString::to_string).collect(),
        )
    }

    #[test]
    fn only_manifests_are_read_in_path_order() {
        let (found, complaints) = read(&[
            ("b.yaml", GOOD),
            ("a/x.yml", GOOD),
            (".hidden.yaml", GOOD),
            ("c.txt", GOOD),
            ("d.yaml", GOOD),
            ("d.yaml.skip", ""),
        ]);
        assert_eq!(found, ["a/x.yml:1:a", "b.yaml:1:a"]);
        assert!(complaints.is_empty(), "{complaints:?}");
    }

    #[test]
    fn a_bad_document_does_not_hide_the_good_ones_beside_it() {
        let text =
            format!("{GOOD}---\nkind: ConfigMap\nmetadata: {{name: b}}\n---\na: [\n---\n{GOOD}");
        let (found, complaints) = read(&[("x.yaml", &text)]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(complaints.len(), 2, "{complaints:?}");
        assert_eq!(complaints[0], "x.yaml:5: `apiVersion` is missing");
        assert!(complaints[1].starts_with("x.yaml:"), "{complaints:?}");
    }

    #[test]
    fn lists_are_unrolled() {
        let list = r#"{"apiVersion":"v1","kind":"List","items":[
            {"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}},
            {"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"b"}}]}"#;
        assert_eq!(read(&[("l.json", list)]).0, ["l.json:1:a", "l.json:1:b"]);
    }
}
