//! The variable `authorizer`: expressions ask what a user may do
//! (`k8s.io/apiserver/pkg/cel/library/authz.go`).

use std::fmt;
use std::sync::Arc;

use kube_cel::cel::extractors::{Arguments, This};
use kube_cel::cel::objects::Opaque;
use kube_cel::cel::{Context, ExecutionError, ResolveResult, Value};

use crate::server::authz::{Attributes, Authz, Verdict};
use crate::server::request::{RequestInfo, User};

use super::value;

/// The field of the map `authorizer` that has the authorizer itself.
const SELF: &str = "\u{0}authorizer";

/// Asks for one user.
#[derive(Clone)]
pub(super) struct Authorizer {
    authz: Arc<Authz>,
    user: Arc<User>,
}

/// What is asked about, being put together.
#[derive(Clone)]
struct Check {
    authorizer: Authorizer,
    info: RequestInfo,
    field_selector: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Decision {
    allowed: bool,
    reason: String,
}

macro_rules! opaque {
    ($type:ty, $name:literal) => {
        impl PartialEq for $type {
            fn eq(&self, other: &Self) -> bool {
                std::ptr::eq(self, other)
            }
        }

        impl Eq for $type {}

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($name)
            }
        }

        impl Opaque for $type {
            fn runtime_type_name(&self) -> &str {
                $name
            }
        }
    };
}

opaque!(Authorizer, "kubernetes.authorization.Authorizer");
opaque!(Check, "kubernetes.authorization.Check");

impl Opaque for Decision {
    fn runtime_type_name(&self) -> &str {
        "kubernetes.authorization.Decision"
    }
}

impl Authorizer {
    pub(super) fn new(authz: Arc<Authz>, user: User) -> Self {
        Self {
            authz,
            user: Arc::new(user),
        }
    }

    /// The variable; `resource` is what `authorizer.requestResource` asks about.
    pub(super) fn variable(&self, resource: RequestInfo) -> Value {
        value::map([
            (SELF.to_owned(), Value::Opaque(Arc::new(self.clone()))),
            ("requestResource".to_owned(), self.check(resource)),
        ])
    }

    fn check(&self, info: RequestInfo) -> Value {
        Value::Opaque(Arc::new(Check {
            authorizer: self.clone(),
            info,
            field_selector: String::new(),
        }))
    }

    fn of(value: &Value) -> Option<Self> {
        let found = match value {
            Value::Map(map) => {
                let key = kube_cel::cel::objects::Key::String(Arc::new(SELF.to_owned()));
                map.map.get(&key)?
            }
            other => other,
        };
        let Value::Opaque(opaque) = found else {
            return None;
        };
        opaque.downcast_ref::<Authorizer>().cloned()
    }
}

impl Check {
    fn ask(&self, verb: &str) -> Decision {
        let info = RequestInfo {
            verb: verb.to_owned(),
            ..self.info.clone()
        };
        let asked = Attributes {
            user: &self.authorizer.user,
            info: &info,
            field_selector: &self.field_selector,
        };
        let (allowed, reason) = match self.authorizer.authz.authorize(&asked) {
            Verdict::Allowed(reason) => (true, reason),
            Verdict::NotAllowed(reason) => (false, reason),
        };
        Decision { allowed, reason }
    }
}

/// Adds the functions.
pub(super) fn register(context: &mut Context<'_>) {
    context.add_function(
        "path",
        |This(this): This<Value>, args: Arguments| -> ResolveResult {
            let path = argument("path", &args, 0)?;
            if path.is_empty() {
                return fail("path", "path must not be empty");
            }
            let info = RequestInfo {
                path,
                ..RequestInfo::default()
            };
            Ok(authorizer("path", &this)?.check(info))
        },
    );
    context.add_function(
        "group",
        |This(this): This<Value>, args: Arguments| -> ResolveResult {
            let info = RequestInfo {
                is_resource: true,
                group: argument("group", &args, 0)?,
                version: "*".to_owned(),
                ..RequestInfo::default()
            };
            Ok(authorizer("group", &this)?.check(info))
        },
    );
    context.add_function("serviceAccount", service_account);
    context.add_function("resource", |This(this): This<Value>, args: Arguments| {
        change("resource", &this, &args, |check, text| {
            check.info.resource = text
        })
    });
    context.add_function("subresource", |This(this): This<Value>, args: Arguments| {
        change("subresource", &this, &args, |check, text| {
            check.info.subresource = text
        })
    });
    context.add_function("namespace", |This(this): This<Value>, args: Arguments| {
        change("namespace", &this, &args, |check, text| {
            check.info.namespace = text
        })
    });
    context.add_function("name", |This(this): This<Value>, args: Arguments| {
        change("name", &this, &args, |check, text| check.info.name = text)
    });
    context.add_function(
        "fieldSelector",
        |This(this): This<Value>, args: Arguments| {
            change("fieldSelector", &this, &args, |check, text| {
                check.field_selector = text
            })
        },
    );
    // RBAC does not look at labels.
    context.add_function(
        "labelSelector",
        |This(this): This<Value>, args: Arguments| change("labelSelector", &this, &args, |_, _| {}),
    );
    register_decision(context);
}

fn register_decision(context: &mut Context<'_>) {
    context.add_function(
        "check",
        |This(this): This<Value>, args: Arguments| -> ResolveResult {
            let verb = argument("check", &args, 0)?;
            let check = opaque::<Check>("check", &this)?;
            Ok(Value::Opaque(Arc::new(check.ask(&verb))))
        },
    );
    context.add_function("allowed", |This(this): This<Value>| -> ResolveResult {
        Ok(Value::Bool(opaque::<Decision>("allowed", &this)?.allowed))
    });
    context.add_function("reason", |This(this): This<Value>| -> ResolveResult {
        Ok(value::text(opaque::<Decision>("reason", &this)?.reason))
    });
    context.add_function("errored", |This(this): This<Value>| -> ResolveResult {
        opaque::<Decision>("errored", &this)?;
        Ok(Value::Bool(false))
    });
    context.add_function("error", |This(this): This<Value>| -> ResolveResult {
        opaque::<Decision>("error", &this)?;
        Ok(value::text(""))
    });
}

fn service_account(This(this): This<Value>, args: Arguments) -> ResolveResult {
    let authorizer = authorizer("serviceAccount", &this)?;
    let namespace = argument("serviceAccount", &args, 0)?;
    let name = argument("serviceAccount", &args, 1)?;
    let user = User {
        name: format!("system:serviceaccount:{namespace}:{name}"),
        groups: vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
            "system:authenticated".to_owned(),
        ],
        ..User::default()
    };
    Ok(Value::Opaque(Arc::new(Authorizer::new(
        authorizer.authz,
        user,
    ))))
}

fn fail<T>(function: &str, why: &str) -> Result<T, ExecutionError> {
    Err(ExecutionError::function_error(function, why))
}

fn argument(function: &str, args: &Arguments, at: usize) -> Result<String, ExecutionError> {
    match args.0.get(at) {
        Some(Value::String(text)) => Ok(text.to_string()),
        _ => Err(ExecutionError::function_error(function, "no such overload")),
    }
}

fn authorizer(function: &str, value: &Value) -> Result<Authorizer, ExecutionError> {
    let no_overload = || ExecutionError::function_error(function, "no such overload");
    Authorizer::of(value).ok_or_else(no_overload)
}

fn opaque<T: Clone + 'static>(function: &str, value: &Value) -> Result<T, ExecutionError> {
    if let Value::Opaque(opaque) = value
        && let Some(found) = opaque.downcast_ref::<T>()
    {
        return Ok(found.clone());
    }
    fail(function, "no such overload")
}

fn change(
    function: &str,
    this: &Value,
    args: &Arguments,
    set: impl FnOnce(&mut Check, String),
) -> ResolveResult {
    let mut check = opaque::<Check>(function, this)?;
    set(&mut check, argument(function, args, 0)?);
    Ok(Value::Opaque(Arc::new(check)))
}
