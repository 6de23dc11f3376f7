//! The rules of the house that no lint knows: who may import whom, file headers and lengths, and
//! markers that must not be left behind.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test binary")]

use std::fs;
use std::path::{Path, PathBuf};

/// Longest file.
const LINES_MAX: usize = 800;

/// Who may import what, the longest fitting name first. `*` allows everything of the crate.
const IMPORTS: &[(&str, &str)] = &[
    ("main", "cli"),
    ("lib", ""),
    ("cli", "*"),
    ("util", "util"),
    ("api", "api"),
    ("store", "store util"),
    ("runtime", "runtime util"),
    ("client", "client api util"),
    ("server::request", "api server::request"),
    ("server::config", "api util server::config"),
    ("server::pki", "util server::pki"),
    ("server::registry", "api server::request server::registry"),
    (
        "server::storage",
        "api store util server::storage server::registry",
    ),
    (
        "server::cacher",
        "api store util server::storage server::cacher server::registry",
    ),
    ("server::audit", "api util server::request server::audit"),
    (
        "server::authn",
        "api util server::request server::cacher server::pki server::storage server::authn",
    ),
    (
        "server::authz",
        "api util server::request server::cacher server::storage server::authz",
    ),
    (
        "server::alloc",
        "api store util server::storage server::cacher server::alloc",
    ),
    (
        "server::admission",
        "api client store util server::request server::registry server::storage server::cacher \
         server::authz server::webhook server::admission",
    ),
    (
        "server::rest",
        "api client store util server::request server::registry server::storage server::cacher \
         server::admission server::alloc server::authz server::webhook server::rest",
    ),
    (
        "server::review",
        "api client util server::request server::authn server::authz server::review",
    ),
    (
        "server::discovery",
        "api client server::registry server::discovery",
    ),
    (
        "server::openapi",
        "api client util server::registry server::openapi",
    ),
    (
        "server::join",
        "api client util server::request server::cacher server::pki server::authn server::join",
    ),
    ("server::streams", "api client util server::streams"),
    (
        "server::proxy",
        "api client util server::request server::cacher server::streams server::http \
         server::webhook server::proxy",
    ),
    (
        "server::http",
        "api client util server::request server::registry server::rest server::discovery \
         server::openapi server::review server::join server::snapshot server::scheduler \
         server::authn server::authz server::cacher server::audit server::http",
    ),
    ("server::webhook", "api util server::cacher server::webhook"),
    (
        "server::crd",
        "api client util server::registry server::cacher server::crd",
    ),
    ("server::bootstrap", "api client util server::bootstrap"),
    ("server::manifests", "api client util server::manifests"),
    ("server::scheduler", "api client util server::scheduler"),
    ("server::controllers", "api client util server::controllers"),
    ("server", "api client store util server"),
    ("agent::seam", "agent::seam"),
    ("agent::sys", "util agent::sys agent::seam agent::network"),
    ("agent::nft", "util agent::nft"),
    (
        "agent::network",
        "client util agent::sys agent::nft agent::seam agent::network",
    ),
    (
        "agent::proxy",
        "client util agent::nft agent::sys agent::proxy",
    ),
    ("agent::dns", "api client util agent::sys agent::dns"),
    ("agent::config", "util agent::config"),
    ("agent::volume", "api client util agent::sys agent::volume"),
    ("agent::image", "api client runtime util agent::image"),
    ("agent::probe", "api runtime util agent::probe"),
    ("agent::pleg", "runtime util agent::pleg"),
    ("agent::checkpoint", "util agent::checkpoint"),
    (
        "agent::node",
        "api client runtime util agent::config agent::seam agent::sys agent::node",
    ),
    (
        "agent::pod",
        "api client runtime util agent::config agent::seam agent::sys agent::volume agent::image \
         agent::probe agent::pleg agent::checkpoint agent::pod",
    ),
    (
        "agent::http",
        "api client runtime util agent::seam agent::pod agent::sys agent::http",
    ),
    ("agent::tunnel", "client util agent::http agent::tunnel"),
    (
        "agent::servers",
        "api client util agent::http agent::tunnel agent::servers",
    ),
    ("agent", "api client runtime util agent"),
];

fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    collect(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut found,
    );
    collect(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests"),
        &mut found,
    );
    found.sort();
    found
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// `server::http::route` for `src/server/http/route.rs`; `None` for tests.
fn module_of(path: &Path) -> Option<String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let below = path.strip_prefix(source).ok()?.with_extension("");
    let parts: Vec<_> = below.iter().map(|part| part.to_str().unwrap()).collect();
    let parts = if parts.last() == Some(&"mod") {
        &parts[..parts.len() - 1]
    } else {
        &parts[..]
    };
    Some(parts.join("::"))
}

fn covers(rule: &str, module: &str) -> bool {
    module == rule
        || module
            .strip_prefix(rule)
            .is_some_and(|rest| rest.starts_with("::"))
}

fn allowed(module: &str) -> &'static str {
    let rules = IMPORTS.iter().filter(|(rule, _)| covers(rule, module));
    let best = rules.max_by_key(|(rule, _)| rule.len());
    best.unwrap_or_else(|| panic!("no import rule for `{module}`: add one to tests/tidy.rs"))
        .1
}

/// Every module path named after `crate::` in code, groups in braces opened up one level deep.
fn imports(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        // `$crate::` and `other_crate::` are something else.
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            found.extend(group_members(group));
        } else {
            found.push(path_of(rest));
        }
    }
    found
}

fn group_members(group: &str) -> Vec<String> {
    let mut depth = 1;
    let mut members = vec![String::new()];
    for character in group.chars() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => members.push(String::new()),
            _ => {}
        }
        if depth == 0 {
            break;
        }
        if let Some(last) = members.last_mut().filter(|_| character != ',') {
            last.push(character);
        }
    }
    members
        .iter()
        .map(|member| path_of(member.trim()))
        .filter(|path| !path.is_empty())
        .collect()
}

fn path_of(text: &str) -> String {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
    text[..end.unwrap_or(text.len())]
        .trim_end_matches(':')
        .to_owned()
}

fn without_comments(text: &str) -> String {
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn modules_import_only_what_they_may() {
    let mut wrong = Vec::new();
    for path in sources() {
        let Some(module) = module_of(&path) else {
            continue;
        };
        let may = allowed(&module);
        // Tests may build what they test from more parts than it knows.
        if may == "*" || module.contains("tests") {
            continue;
        }
        let text = without_comments(&fs::read_to_string(&path).unwrap());
        let code = text
            .split("#[cfg(test)]\nmod tests {")
            .next()
            .unwrap_or_default();
        for import in imports(code) {
            if !may.split_whitespace().any(|rule| covers(rule, &import)) {
                wrong.push(format!("{module} imports crate::{import} (may: {may})"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_has_a_header_and_an_end() {
    let mut wrong = Vec::new();
    for path in sources() {
        let text = fs::read_to_string(&path).unwrap();
        let lines = text.lines().count();
        if !text.starts_with("//!") {
            wrong.push(format!("{}: opens without a //! header", path.display()));
        }
        if lines > LINES_MAX {
            wrong.push(format!(
                "{}: {lines} lines, at most {LINES_MAX}",
                path.display()
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nothing_is_left_half_done() {
    let markers = [
        "todo!(",
        "unimplemented!(",
        "dbg!(",
        "FIXME",
        "XXX",
        "#[ignore",
    ];
    let kinds = [
        "correctness",
        "security",
        "robustness",
        "performance",
        "coverage",
    ];
    let mut wrong = Vec::new();
    for path in sources()
        .into_iter()
        .filter(|path| !path.ends_with("tidy.rs"))
    {
        for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            let bare = line.contains("TODO")
                && !kinds
                    .iter()
                    .any(|kind| line.contains(&format!("TODO({kind})")));
            if bare || markers.iter().any(|marker| line.contains(marker)) {
                wrong.push(format!(
                    "{}:{}: {}",
                    path.display(),
                    number + 1,
                    line.trim()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn imports_are_found_in_groups_and_alone() {
    let code = "use crate::{api::x, util::{a, b}};\nlet y = crate::client::Api::new();";
    assert_eq!(imports(code), ["api::x", "util", "client::Api::new"]);
}
