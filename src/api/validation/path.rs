//! Where in an object a value is, kept on the stack and printed only when there is an error.

use std::fmt;

/// A path of fields, list positions and map keys.
#[derive(Clone, Copy, Debug)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Path<'a> {
    /// A field of the object itself; with dots for one further down (`metadata.labels`).
    pub const fn root(field: &'a str) -> Self {
        Self {
            parent: None,
            step: Step::Field(field),
        }
    }

    /// A field of what is here.
    pub const fn field(&'a self, field: &'a str) -> Path<'a> {
        self.then(Step::Field(field))
    }

    /// An item of the list that is here.
    pub const fn index(&'a self, index: usize) -> Path<'a> {
        self.then(Step::Index(index))
    }

    /// A value of the map that is here.
    pub const fn key(&'a self, key: &'a str) -> Path<'a> {
        self.then(Step::Key(key))
    }

    const fn then(&'a self, step: Step<'a>) -> Path<'a> {
        Path {
            parent: Some(self),
            step,
        }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.step {
            // Upstream prints the path of the whole object so.
            Step::Field("") => f.write_str("[]"),
            Step::Field(field) if self.parent.is_some() => write!(f, ".{field}"),
            Step::Field(field) => f.write_str(field),
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) => write!(f, "[{key}]"),
        }
    }
}

impl From<&Path<'_>> for String {
    fn from(path: &Path<'_>) -> Self {
        path.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_print_as_upstream() {
        let spec = Path::root("spec");
        let path = spec.field("containers").index(0).to_string();
        assert_eq!(path, "spec.containers[0]");
        assert_eq!(
            spec.field("limits").key("cpu").to_string(),
            "spec.limits[cpu]"
        );
        assert_eq!(Path::root("").to_string(), "[]");
    }
}
