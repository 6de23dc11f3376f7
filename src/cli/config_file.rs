//! Configuration files: every flag is also a key of `--config FILE` and of the drop-ins beside it
//! (`FILE.d/*.yaml`, in order). A flag wins over the environment, the environment over the files,
//! a later file over an earlier one.
//!
//! The files are turned into arguments in front of nothing: keys that a flag or a variable already
//! sets are left out, all others become `--key=value`. So there is one parser, with one set of
//! messages, for all three.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Command};
use serde_json::Value;

/// Used where it exists and `--config` is not given.
const DEFAULT: &str = "/etc/orch/config.yaml";

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("read configuration file `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// It is not YAML.
    #[error("configuration file `{}` is not YAML: {why}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The parser's text, with the line.
        why: String,
    },
    /// A key is no flag, or its value does not fit.
    #[error("configuration file `{}`: {why}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with which key, and what would be right.
        why: String,
    },
}

/// The arguments that the files add to `matches`, which were parsed from `command`.
pub fn arguments(command: &Command, matches: &ArgMatches) -> Result<Vec<OsString>, Error> {
    let mut settings: Vec<(PathBuf, String, Value)> = Vec::new();
    for path in files(matches.get_one::<PathBuf>("config"))? {
        for (key, value) in read(&path)? {
            settings.retain(|(_, earlier, _)| *earlier != key);
            settings.push((path.clone(), key, value));
        }
    }
    let mut arguments = Vec::new();
    for (path, key, value) in settings {
        let wrong = |why: String| Error::Key {
            path: path.clone(),
            why,
        };
        add(command, matches, (&key, &value), &mut arguments).map_err(wrong)?;
    }
    Ok(arguments)
}

/// The main file, where there is one, and its drop-ins in order of their names.
fn files(given: Option<&PathBuf>) -> Result<Vec<PathBuf>, Error> {
    let main = given.cloned().unwrap_or_else(|| PathBuf::from(DEFAULT));
    let folder = PathBuf::from(format!("{}.d", main.display()));
    let mut files: Vec<PathBuf> = match std::fs::read_dir(&folder) {
        Ok(entries) => entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|p| is_yaml(p))
            .collect(),
        Err(_) => Vec::new(),
    };
    files.sort();
    if given.is_some() || main.exists() {
        files.insert(0, main);
    }
    Ok(files)
}

fn is_yaml(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "yaml" || extension == "yml")
}

fn read(path: &Path) -> Result<serde_json::Map<String, Value>, Error> {
    let source = std::fs::read_to_string(path);
    let text = source.map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })?;
    let syntax = |why: String| Error::Syntax {
        path: path.to_owned(),
        why,
    };
    match serde_yaml::from_str(&text).map_err(|error| syntax(error.to_string()))? {
        Value::Null => Ok(serde_json::Map::new()),
        Value::Object(map) => Ok(map),
        _ => Err(syntax(
            "expected a mapping of flag names to values".to_owned(),
        )),
    }
}

fn add(
    command: &Command,
    matches: &ArgMatches,
    (key, value): (&str, &Value),
    arguments: &mut Vec<OsString>,
) -> Result<(), String> {
    let argument = command
        .get_arguments()
        .find(|a| a.get_long() == Some(key) && key != "config");
    let Some(argument) = argument else {
        let mut known: Vec<_> = command
            .get_arguments()
            .filter_map(|a| a.get_long())
            .collect();
        known.sort_unstable();
        return Err(format!(
            "unknown key `{key}`; the keys are {}",
            known.join(", ")
        ));
    };
    let set = matches.value_source(argument.get_id().as_str());
    if matches!(
        set,
        Some(ValueSource::CommandLine | ValueSource::EnvVariable)
    ) {
        return Ok(());
    }
    if matches!(argument.get_action(), ArgAction::SetTrue) {
        return match value {
            Value::Bool(true) => {
                arguments.push(format!("--{key}").into());
                Ok(())
            }
            Value::Bool(false) => Ok(()),
            other => Err(format!(
                "invalid value `{other}` for `{key}`: true or false is expected"
            )),
        };
    }
    let values = match value {
        Value::Array(values) if matches!(argument.get_action(), ArgAction::Append) => &values[..],
        single => std::slice::from_ref(single),
    };
    for value in values {
        arguments.push(format!("--{key}={}", scalar(key, value)?).into());
    }
    Ok(())
}

fn scalar(key: &str, value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(flag) => Ok(flag.to_string()),
        other => Err(format!(
            "invalid value `{other}` for `{key}`: a text or number is expected"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Arg, value_parser};

    fn command() -> Command {
        Command::new("orch")
            .arg(
                Arg::new("config")
                    .long("config")
                    .value_parser(value_parser!(PathBuf)),
            )
            .arg(Arg::new("port").long("port"))
            .arg(Arg::new("san").long("san").action(ArgAction::Append))
            .arg(Arg::new("quiet").long("quiet").action(ArgAction::SetTrue))
    }

    fn parsed(content: &str, drop_in: &str, flags: &[&str]) -> Result<Vec<String>, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("c.yaml");
        std::fs::write(&file, content).unwrap();
        std::fs::create_dir(folder.path().join("c.yaml.d")).unwrap();
        std::fs::write(folder.path().join("c.yaml.d/1.yaml"), drop_in).unwrap();
        let config = format!("--config={}", file.display());
        let words = ["orch", &config].into_iter().chain(flags.iter().copied());
        let matches = command().get_matches_from(words);
        let found = arguments(&command(), &matches).map_err(|error| error.to_string())?;
        Ok(found
            .into_iter()
            .map(|word| word.into_string().unwrap())
            .collect())
    }

    #[test]
    fn flags_win_over_files_and_later_files_over_earlier_ones() {
        let found = parsed("port: 1\nsan: [a, b]\nquiet: true", "port: 2", &["--san=c"]).unwrap();
        assert_eq!(found, ["--quiet", "--port=2"]);
    }

    #[test]
    fn an_unknown_key_is_named_with_what_there_is() {
        let error = parsed("prot: 1", "", &[]).unwrap_err();
        assert!(
            error.contains("unknown key `prot`; the keys are config, port, quiet, san"),
            "{error}"
        );
        let error = parsed("quiet: 7", "", &[]).unwrap_err();
        assert!(
            error.contains("invalid value `7` for `quiet`: true or false"),
            "{error}"
        );
    }
}
