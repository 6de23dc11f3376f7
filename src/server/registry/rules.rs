//! How the objects of a resource are defaulted, prepared, validated and printed: by the row of a
//! built-in kind or by the definition of a custom one, asked in one way.

use std::borrow::Cow;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::api::custom::Custom;
use crate::api::kinds::KindDef;
use crate::api::object::Object;
use crate::api::status::FieldError;
use crate::api::table;
use crate::api::validation::meta;

/// Reads the selectable fields of an object (`KindDef::fields`).
pub type FieldsOf = fn(&Object) -> Vec<(&'static str, String)>;

/// Where the behaviour of a resource comes from.
#[derive(Clone, Debug)]
pub enum Rules {
    /// A row of the table of built-in kinds.
    Builtin(&'static KindDef),
    /// A version of a CustomResourceDefinition.
    Custom(Arc<Custom>),
}

impl Rules {
    /// The row of a built-in kind.
    pub fn builtin(&self) -> Option<&'static KindDef> {
        match self {
            Rules::Builtin(kind) => Some(kind),
            Rules::Custom(_) => None,
        }
    }

    /// The version of a custom kind.
    pub fn custom(&self) -> Option<&Arc<Custom>> {
        match self {
            Rules::Builtin(_) => None,
            Rules::Custom(custom) => Some(custom),
        }
    }

    /// Fills in defaults.
    pub fn default(&self, object: &mut Object) {
        match self {
            Rules::Builtin(kind) => (kind.default)(object),
            Rules::Custom(custom) => custom.default(object),
        }
    }

    /// Clears what a new object may not bring along.
    pub fn prepare_create(&self, object: &mut Object) {
        match self {
            Rules::Builtin(kind) => (kind.prepare_create)(object),
            Rules::Custom(custom) => custom.prepare_create(object),
        }
    }

    /// Puts back what an update of the main resource may not change.
    pub fn prepare_update(&self, new: &mut Object, old: &Object) {
        match self {
            Rules::Builtin(kind) => (kind.prepare_update)(new, old),
            Rules::Custom(custom) => custom.prepare_update(new, old),
        }
    }

    /// Puts back everything but the status.
    pub fn prepare_status(&self, new: &mut Object, old: &Object) {
        match self {
            Rules::Builtin(kind) => (kind.prepare_status)(new, old),
            Rules::Custom(custom) => custom.prepare_status(new, old),
        }
    }

    /// Whether `metadata.generation` is kept.
    pub fn has_generation(&self) -> bool {
        match self {
            Rules::Builtin(kind) => kind.has_generation,
            Rules::Custom(_) => true,
        }
    }

    /// Whether an update is a new generation.
    pub fn is_new_generation(&self, new: &Object, old: &Object) -> bool {
        match self {
            Rules::Builtin(_) => new.0.get("spec") != old.0.get("spec"),
            Rules::Custom(custom) => custom.is_new_generation(new, old),
        }
    }

    /// All that is wrong with a new object, its metadata included.
    pub fn validate(&self, object: &Object) -> Vec<FieldError> {
        match self {
            Rules::Builtin(kind) => {
                let mut wrong = meta::validate_create(object, kind);
                wrong.extend((kind.validate)(object));
                wrong
            }
            Rules::Custom(custom) => custom.validate(object),
        }
    }

    /// All that is wrong with an update beyond its metadata.
    pub fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        match self {
            Rules::Builtin(kind) => (kind.validate_update)(new, old),
            Rules::Custom(custom) => custom.validate_update(new, old),
        }
    }

    /// All that is wrong with a new status.
    pub fn validate_status(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        match self {
            Rules::Builtin(kind) => (kind.validate_status)(new, old),
            Rules::Custom(custom) => custom.validate_update(new, old),
        }
    }

    /// How the selectable fields are read when an object comes into the cache. Those of custom
    /// objects change with their definition and are read when they are asked for.
    pub fn fields_of(&self) -> Option<FieldsOf> {
        self.builtin().map(|kind| kind.fields)
    }

    /// Labels and values of the selectable fields beyond name and namespace.
    pub fn fields(&self, object: &Object) -> Vec<(Cow<'static, str>, String)> {
        match self {
            Rules::Builtin(kind) => {
                let fields = (kind.fields)(object).into_iter();
                fields.map(|(label, value)| (label.into(), value)).collect()
            }
            Rules::Custom(custom) => {
                let fields = custom.fields(object).into_iter();
                fields.map(|(label, value)| (label.into(), value)).collect()
            }
        }
    }

    /// The columns of a Table.
    pub fn columns(&self) -> Value {
        match self {
            Rules::Builtin(kind) => table::columns(kind.columns),
            Rules::Custom(custom) => custom.columns.definitions.clone(),
        }
    }

    /// The cells of a row.
    pub fn cells(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        match self {
            Rules::Builtin(kind) => (kind.cells)(object, now),
            Rules::Custom(custom) => {
                let whole = Value::Object(object.0.clone());
                custom.columns.cells(&whole, now)
            }
        }
    }

    /// Brings a stored object into this version. Custom objects that a webhook converts come
    /// converted already.
    pub fn from_storage(&self, object: &mut Object) {
        match self {
            Rules::Builtin(kind) => (kind.from_storage)(object),
            Rules::Custom(custom) => custom.coerce(object),
        }
    }

    /// Brings an object of this version into the stored form.
    pub fn to_storage(&self, object: &mut Object) {
        if let Rules::Builtin(kind) = self {
            (kind.to_storage)(object);
        }
    }

    /// Default grace of a delete, for a kind that ends gracefully.
    pub fn graceful(&self) -> Option<fn(&Object) -> i64> {
        self.builtin().and_then(|kind| kind.graceful)
    }
}
