//! JSONPath as Kubernetes has it (`k8s.io/client-go/util/jsonpath`), for printer columns: fields,
//! indexes, slices, `*`, `..`, unions and filters. A path that does not lead anywhere finds
//! nothing.

use std::cmp::Ordering;

use serde_json::Value;

/// A parsed path.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    All,
    /// Every value below.
    Deep,
    Slice {
        from: Option<i64>,
        to: Option<i64>,
        by: i64,
    },
    Index(i64),
    Union(Vec<Step>),
    Filter(Operand, Option<(Op, Operand)>),
}

#[derive(Clone, Debug, PartialEq)]
enum Operand {
    Path(Vec<Step>),
    Literal(Value),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Op {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl JsonPath {
    /// Reads a path such as `.status.conditions[?(@.type=="Ready")].status`.
    ///
    /// Errors: why it is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parser = Parser { rest: text.trim() };
        let bare = parser
            .rest
            .strip_prefix('{')
            .and_then(|rest| rest.strip_suffix('}'));
        parser.rest = bare.unwrap_or(parser.rest);
        parser.rest = parser.rest.strip_prefix('$').unwrap_or(parser.rest);
        let steps = parser.steps()?;
        if !parser.rest.is_empty() {
            return Err(format!("unexpected `{}` in `{text}`", parser.rest));
        }
        Ok(Self(steps))
    }

    /// Everything it leads to.
    pub fn find<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        walk(&self.0, vec![value])
    }

    /// The names of the fields, where it is made of nothing else.
    pub fn fields(&self) -> Option<Vec<&str>> {
        fn name(step: &Step) -> Option<&str> {
            match step {
                Step::Field(name) => Some(name),
                _ => None,
            }
        }
        self.0.iter().map(name).collect()
    }
}

fn walk<'v>(steps: &[Step], mut found: Vec<&'v Value>) -> Vec<&'v Value> {
    for step in steps {
        found = found
            .into_iter()
            .flat_map(|value| take(step, value))
            .collect();
    }
    found
}

fn take<'v>(step: &Step, value: &'v Value) -> Vec<&'v Value> {
    match step {
        Step::Field(name) => value.get(name).into_iter().collect(),
        Step::All => children(value),
        Step::Deep => {
            let below = children(value)
                .into_iter()
                .flat_map(|child| take(step, child));
            std::iter::once(value).chain(below).collect()
        }
        Step::Index(index) => {
            let list = value.as_array().map_or(&[][..], Vec::as_slice);
            at(list.len(), *index)
                .and_then(|at| list.get(at))
                .into_iter()
                .collect()
        }
        Step::Slice { from, to, by } => {
            let list = value.as_array().map_or(&[][..], Vec::as_slice);
            let edge = |edge: i64| at(list.len(), edge).unwrap_or(0).min(list.len());
            let (from, to) = (from.map_or(0, edge), to.map_or(list.len(), edge));
            let by = usize::try_from(*by).unwrap_or(1).max(1);
            list.get(from..to.max(from))
                .into_iter()
                .flatten()
                .step_by(by)
                .collect()
        }
        Step::Union(steps) => steps.iter().flat_map(|step| take(step, value)).collect(),
        Step::Filter(left, compared) => {
            let holds = |item: &&Value| holds(left, compared.as_ref(), item);
            children(value).into_iter().filter(holds).collect()
        }
    }
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(list) => list.iter().collect(),
        Value::Object(map) => map.values().collect(),
        _ => Vec::new(),
    }
}

/// The place an index means; negative ones count from the end.
fn at(len: usize, index: i64) -> Option<usize> {
    let from_end = i64::try_from(len).ok()?.checked_add(index)?;
    usize::try_from(if index < 0 { from_end } else { index }).ok()
}

fn holds(left: &Operand, compared: Option<&(Op, Operand)>, item: &Value) -> bool {
    let first = |operand: &Operand| match operand {
        Operand::Literal(value) => Some(value.clone()),
        Operand::Path(steps) => walk(steps, vec![item])
            .first()
            .map(|value| (*value).clone()),
    };
    let Some((op, right)) = compared else {
        return first(left).is_some();
    };
    let (Some(left), Some(right)) = (first(left), first(right)) else {
        return false;
    };
    let order = compare(&left, &right);
    match op {
        Op::Equal => left == right || order == Some(Ordering::Equal),
        Op::NotEqual => left != right && order != Some(Ordering::Equal),
        Op::Less => order == Some(Ordering::Less),
        Op::LessOrEqual => matches!(order, Some(Ordering::Less | Ordering::Equal)),
        Op::Greater => order == Some(Ordering::Greater),
        Op::GreaterOrEqual => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
    }
}

fn compare(left: &Value, right: &Value) -> Option<Ordering> {
    match (left, right) {
        (Value::Number(a), Value::Number(b)) => a.as_f64()?.partial_cmp(&b.as_f64()?),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        _ => None,
    }
}

struct Parser<'t> {
    rest: &'t str,
}

impl Parser<'_> {
    fn eat(&mut self, text: &str) -> bool {
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn steps(&mut self) -> Result<Vec<Step>, String> {
        let mut steps = Vec::new();
        loop {
            if self.eat("..") {
                steps.push(Step::Deep);
                if !self.rest.starts_with(['[', '*']) {
                    steps.push(Step::Field(self.name()?));
                }
            } else if self.eat(".") {
                if self.eat("*") {
                    steps.push(Step::All);
                } else if !self.rest.starts_with('[') {
                    steps.push(Step::Field(self.name()?));
                }
            } else if self.eat("[") {
                steps.push(self.bracket()?);
            } else if self.eat("*") {
                steps.push(Step::All);
            } else {
                return Ok(steps);
            }
        }
    }

    /// A field's name; a backslash takes the next character as it is.
    fn name(&mut self) -> Result<String, String> {
        let mut name = String::new();
        let mut chars = self.rest.char_indices();
        let mut end = self.rest.len();
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => name.extend(chars.next().map(|(_, c)| c)),
                '.' | '[' | ']' | ' ' | ')' | '=' | '!' | '<' | '>' | ',' | '}' => {
                    end = at;
                    break;
                }
                c => name.push(c),
            }
        }
        self.rest = &self.rest[end..];
        if name.is_empty() {
            return Err(format!("a field is missing before `{}`", self.rest));
        }
        Ok(name)
    }

    fn bracket(&mut self) -> Result<Step, String> {
        if self.eat("?(") {
            let step = self.filter()?;
            return self.closed(step);
        }
        let end = self.closing()?;
        let inside = &self.rest[..end];
        let mut parts: Vec<Step> = Vec::new();
        for part in split_unquoted(inside) {
            parts.push(part_of(part.trim())?);
        }
        self.rest = &self.rest[end + 1..];
        Ok(match parts.len() {
            1 => parts.remove(0),
            _ => Step::Union(parts),
        })
    }

    /// Where the bracket ends, outside of quotes.
    fn closing(&self) -> Result<usize, String> {
        let mut quote = None;
        for (at, c) in self.rest.char_indices() {
            match (quote, c) {
                (None, ']') => return Ok(at),
                (None, '\'' | '"') => quote = Some(c),
                (Some(open), c) if open == c => quote = None,
                _ => {}
            }
        }
        Err("unterminated array".to_owned())
    }

    fn closed(&mut self, step: Step) -> Result<Step, String> {
        if self.eat(")]") {
            return Ok(step);
        }
        Err("unterminated filter".to_owned())
    }

    fn filter(&mut self) -> Result<Step, String> {
        let left = self.operand()?;
        self.rest = self.rest.trim_start();
        let ops = [
            ("==", Op::Equal),
            ("!=", Op::NotEqual),
            ("<=", Op::LessOrEqual),
            (">=", Op::GreaterOrEqual),
            ("<", Op::Less),
            (">", Op::Greater),
        ];
        for (text, op) in ops {
            if self.eat(text) {
                let right = self.operand()?;
                self.rest = self.rest.trim_start();
                return Ok(Step::Filter(left, Some((op, right))));
            }
        }
        Ok(Step::Filter(left, None))
    }

    fn operand(&mut self) -> Result<Operand, String> {
        self.rest = self.rest.trim_start();
        if self.eat("@") {
            return self.steps().map(Operand::Path);
        }
        for quote in ['"', '\''] {
            if let Some(rest) = self.rest.strip_prefix(quote) {
                let end = rest.find(quote).ok_or("unterminated quoted string")?;
                let text = rest[..end].to_owned();
                self.rest = &rest[end + 1..];
                return Ok(Operand::Literal(text.into()));
            }
        }
        let end = self
            .rest
            .find([' ', ')', '=', '!', '<', '>'])
            .unwrap_or(self.rest.len());
        let word = &self.rest[..end];
        let value = serde_json::from_str(word).map_err(|_| format!("`{word}` is no value"))?;
        self.rest = &self.rest[end..];
        Ok(Operand::Literal(value))
    }
}

fn split_unquoted(text: &str) -> Vec<&str> {
    let mut quote = None;
    let mut parts = Vec::new();
    let mut begin = 0;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (None, ',') => {
                parts.push(&text[begin..at]);
                begin = at + 1;
            }
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if open == c => quote = None,
            _ => {}
        }
    }
    parts.push(&text[begin..]);
    parts
}

fn part_of(text: &str) -> Result<Step, String> {
    if text == "*" {
        return Ok(Step::All);
    }
    for quote in ['\'', '"'] {
        if let Some(inner) = text
            .strip_prefix(quote)
            .and_then(|rest| rest.strip_suffix(quote))
        {
            return Ok(Step::Field(inner.replace('\\', "")));
        }
    }
    let wrong = || format!("invalid array index {text}");
    let number = |text: &str| match text.trim() {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| wrong()),
    };
    let mut edges = text.split(':').map(number);
    match (edges.next(), edges.next(), edges.next(), edges.next()) {
        (Some(Ok(Some(index))), None, ..) => Ok(Step::Index(index)),
        (Some(from), Some(to), by, None) => Ok(Step::Slice {
            from: from?,
            to: to?,
            by: by.transpose()?.flatten().unwrap_or(1),
        }),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_lead_where_kubectl_finds_them() {
        let value = json!({
            "spec": {"replicas": 3, "list": [1, 2, 3], "a.b": "dotted"},
            "status": {"conditions": [
                {"type": "Ready", "status": "True", "n": 1},
                {"type": "Other", "status": "False", "n": 5},
            ]},
        });
        for (path, expected) in [
            (".spec.replicas", json!([3])),
            ("{.spec.replicas}", json!([3])),
            (".spec.list[-1]", json!([3])),
            (".spec.list[0:2]", json!([1, 2])),
            (".spec.list[0,2]", json!([1, 3])),
            (".spec.list[*]", json!([1, 2, 3])),
            (".spec.a\\.b", json!(["dotted"])),
            (".spec['a.b']", json!(["dotted"])),
            (
                ".status.conditions[?(@.type==\"Ready\")].status",
                json!(["True"]),
            ),
            (
                ".status.conditions[?(@.type=='Ready')].status",
                json!(["True"]),
            ),
            (".status.conditions[?(@.n>2)].type", json!(["Other"])),
            (".status.conditions[?(@.missing)].type", json!([])),
            ("..status", json!([value["status"], "True", "False"])),
            (".spec.nothing.here", json!([])),
        ] {
            let found = JsonPath::parse(path).unwrap();
            assert_eq!(json!(found.find(&value)), expected, "{path}");
        }
        for wrong in [".a[", ".a[x]", ".a.", ".a[?(@.b==)]", ".a b"] {
            assert!(JsonPath::parse(wrong).is_err(), "{wrong}");
        }
        let fields = JsonPath::parse(".spec.a\\.b").unwrap();
        assert_eq!(fields.fields(), Some(vec!["spec", "a.b"]));
    }
}
