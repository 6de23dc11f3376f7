//! Expressions of webhooks and policies: compiled once, evaluated over a request
//! (`k8s.io/apiserver/pkg/admission/plugin/cel`).
//!
//! DEVIATION: the interpreter has no cost budget and no types. What bounds an expression is its
//! length and the size of the objects; a mistake of types shows when it is evaluated.

mod authorizer;
mod conditions;
mod source;
mod value;

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use kube_cel::KubeCelExt;
use kube_cel::cel::context::VariableResolver;
use kube_cel::cel::parser::{Expression as Ast, Parser};
use kube_cel::cel::{Context, ExecutionError, Value};
use serde_json::Value as Json;

use crate::server::authz::Authz;
use crate::server::request::{RequestInfo, User};

use authorizer::Authorizer;

pub(super) use conditions::Conditions;

/// Longer expressions are refused: nothing a person writes is.
const SOURCE_BYTES_MAX: usize = 64 << 10;

/// All functions; made once.
static ROOT: LazyLock<Context<'static>> = LazyLock::new(|| {
    let mut context = Context::default().with_all();
    authorizer::register(&mut context);
    context
});

/// One expression.
#[derive(Debug)]
pub(super) struct Expression {
    pub(super) source: String,
    program: Result<Ast, String>,
}

/// What an expression gave.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Outcome {
    Bool(bool),
    Text(String),
    Null,
    Json(Json),
    /// Something else, by the name of its type.
    Other(String),
}

/// The variables of one evaluation.
pub(super) struct Scope {
    fixed: BTreeMap<&'static str, Value>,
    variables: BTreeMap<String, Value>,
    /// Variables that could not be evaluated, and why.
    broken: BTreeMap<String, String>,
}

impl Expression {
    pub(super) fn compile(source: &str) -> Self {
        let program = if source.len() > SOURCE_BYTES_MAX {
            Err("expression is too long".to_owned())
        } else {
            source::rewrite(source).and_then(|text| {
                let parser = Parser::default().enable_optional_syntax(true);
                parser.parse(&text).map_err(|error| error.to_string())
            })
        };
        Self {
            source: source.to_owned(),
            program: program.map_err(|why| format!("compilation error: {why}")),
        }
    }

    fn value(&self, scope: &Scope) -> Result<Value, String> {
        let program = self.program.as_ref().map_err(Clone::clone)?;
        let mut context = ROOT.new_inner_scope();
        context.set_variable_resolver(scope);
        context.resolve(program).map_err(|error| {
            if let ExecutionError::NoSuchKey(name) = &error
                && let Some(why) = scope.broken.get(name.as_str())
            {
                return format!("composited variable \"{name}\" fails to evaluate: {why}");
            }
            format!(
                "expression '{}' resulted in error: {}",
                self.source,
                say(&error)
            )
        })
    }

    pub(super) fn evaluate(&self, scope: &Scope) -> Result<Outcome, String> {
        Ok(match self.value(scope)? {
            Value::Bool(flag) => Outcome::Bool(flag),
            Value::String(text) => Outcome::Text(text.to_string()),
            Value::Null => Outcome::Null,
            value @ (Value::Map(_) | Value::List(_)) => match value::to_json(&value) {
                Ok(json) => Outcome::Json(json),
                Err(why) => {
                    let source = &self.source;
                    return Err(format!("expression '{source}' resulted in error: {why}"));
                }
            },
            other => Outcome::Other(value::type_name(&other)),
        })
    }
}

/// Errors in upstream's words.
fn say(error: &ExecutionError) -> String {
    match error {
        ExecutionError::NoSuchKey(key) => format!("no such key: {key}"),
        ExecutionError::NoSuchOverload => "no such overload".to_owned(),
        ExecutionError::UndeclaredReference(name) => format!("undeclared reference to '{name}'"),
        ExecutionError::DivisionByZero(_) => "division by zero".to_owned(),
        ExecutionError::RemainderByZero(_) => "modulus by zero".to_owned(),
        ExecutionError::FunctionError { message, .. } => message.clone(),
        ExecutionError::IndexOutOfBounds(at) => match at {
            Value::Int(at) => format!("index out of bounds: {at}"),
            _ => "index out of bounds".to_owned(),
        },
        other => other.to_string(),
    }
}

impl Scope {
    /// `object`, `oldObject` (null where there is none) and `request`.
    pub(super) fn new(object: &Json, old: &Json, request: &Json) -> Self {
        let fixed = [("object", object), ("oldObject", old), ("request", request)];
        let fixed = fixed.map(|(name, json)| (name, value::from_json(json)));
        Self {
            fixed: BTreeMap::from(fixed),
            variables: BTreeMap::new(),
            broken: BTreeMap::new(),
        }
    }

    /// `authorizer`, which asks for `user`; `resource` is what is being written.
    pub(super) fn set_authorizer(
        &mut self,
        authz: &Arc<Authz>,
        user: &User,
        resource: RequestInfo,
    ) {
        let authorizer = Authorizer::new(Arc::clone(authz), user.clone());
        self.fixed
            .insert("authorizer", authorizer.variable(resource));
    }

    /// `params` or `namespaceObject`.
    pub(super) fn set(&mut self, name: &'static str, json: &Json) {
        self.fixed.insert(name, value::from_json(json));
    }

    /// `object`, after it changed.
    pub(super) fn set_object(&mut self, object: &Json) {
        self.set("object", object);
    }

    /// `variables.NAME`; what it uses must have been set before.
    pub(super) fn set_variable(&mut self, name: &str, expression: &Expression) {
        match expression.value(self) {
            Ok(value) => {
                self.variables.insert(name.to_owned(), value);
            }
            Err(why) => {
                self.broken.insert(name.to_owned(), why);
            }
        }
    }

    /// Forgets all variables.
    pub(super) fn clear_variables(&mut self) {
        self.variables.clear();
        self.broken.clear();
    }
}

impl VariableResolver for Scope {
    fn resolve(&self, variable: &str) -> Option<Value> {
        if variable == "variables" {
            let all = self.variables.iter();
            return Some(value::map(
                all.map(|(name, value)| (name.clone(), value.clone())),
            ));
        }
        self.fixed.get(variable).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn scope() -> Scope {
        let object = json!({
            "metadata": {"name": "web", "namespace": "default", "labels": {"app.kubernetes.io/name": "web"}},
            "spec": {"replicas": 3, "template": {"containers": [{"name": "a", "image": "x:1"}]}},
        });
        let request =
            json!({"operation": "CREATE", "userInfo": {"username": "me", "groups": ["g"]}});
        let mut scope = Scope::new(&object, &Json::Null, &request);
        scope.set("params", &json!({"maxReplicas": 2}));
        scope
    }

    fn eval(source: &str) -> Result<Outcome, String> {
        Expression::compile(source).evaluate(&scope())
    }

    #[test]
    fn what_policies_say_is_evaluated() {
        let truths = [
            "object.spec.replicas <= 5",
            "object.spec.replicas > params.maxReplicas",
            "oldObject == null",
            "object.metadata.namespace == 'default'",
            "request.operation in ['CREATE', 'UPDATE']",
            "'g' in request.userInfo.groups",
            "object.metadata.labels['app.kubernetes.io/name'].startsWith('we')",
            "has(object.spec.replicas) && !has(object.spec.nothing)",
            "object.spec.template.containers.all(c, c.image.matches('^x:'))",
            "object.?spec.?nothing.orValue(7) == 7",
            "object.?spec.?replicas.orValue(7) == 3",
            "object.metadata.?annotations[?'x'].orValue('none') == 'none'",
            "quantity('1Gi').isGreaterThan(quantity('1Mi'))",
            "object.spec.template.containers.map(c, c.name).exists(n, n == 'a')",
            "size(object.spec.template.containers) == 1",
        ];
        for source in truths {
            assert_eq!(eval(source), Ok(Outcome::Bool(true)), "{source}");
        }
        assert_eq!(
            eval("'replicas ' + string(object.spec.replicas)"),
            Ok(Outcome::Text("replicas 3".to_owned()))
        );
        assert_eq!(
            eval("Object{spec: Object.spec{replicas: object.spec.replicas + 1}}"),
            Ok(Outcome::Json(json!({"spec": {"replicas": 4}})))
        );
        assert_eq!(
            eval("object.spec.missing == 1").unwrap_err(),
            "expression 'object.spec.missing == 1' resulted in error: no such key: missing"
        );
        assert!(
            eval("object.")
                .unwrap_err()
                .starts_with("compilation error: ")
        );
    }

    #[test]
    fn variables_build_on_each_other_and_broken_ones_only_matter_when_used() {
        let mut scope = scope();
        scope.set_variable("replicas", &Expression::compile("object.spec.replicas"));
        scope.set_variable("twice", &Expression::compile("variables.replicas * 2"));
        scope.set_variable("broken", &Expression::compile("object.nothing"));
        let eval = |source: &str| Expression::compile(source).evaluate(&scope);
        assert_eq!(eval("variables.twice == 6"), Ok(Outcome::Bool(true)));
        assert_eq!(eval("true || variables.broken"), Ok(Outcome::Bool(true)));
        assert_eq!(
            eval("variables.broken == 1").unwrap_err(),
            "composited variable \"broken\" fails to evaluate: expression 'object.nothing' \
             resulted in error: no such key: nothing"
        );
    }
}
