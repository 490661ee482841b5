//! Converts a setting's text to its value. An error says where the text came from and what was expected.

use std::any::{Any, TypeId};
use std::fmt::Display;
use std::num::{IntErrorKind, ParseFloatError, ParseIntError};
use std::str::FromStr;

use super::{Secret, SettingsError, WebhookKey};

/// The text that was given for one field.
#[derive(Debug)]
pub struct Given {
    /// The text and where it came from; None when neither the variable nor the flag was given.
    pub(super) value: Option<(String, Origin)>,
    /// The variable's name, for errors about a default.
    pub(super) variable: String,
}

/// Where a value came from, as error messages name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    Variable(String),
    Flag(String),
    Default(String),
}

impl Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Variable(name) => write!(f, "the variable {name}"),
            Self::Flag(name) => write!(f, "the flag {name}"),
            Self::Default(name) => write!(f, "the default of {name}"),
        }
    }
}

/// The value of a field that has a default.
pub fn required<T>(given: Given, default: &'static str) -> Result<T, SettingsError>
where
    T: FromStr<Err: Display + 'static> + 'static,
{
    let (text, origin) = given.value.unwrap_or_else(|| (default.to_owned(), Origin::Default(given.variable)));
    value(&text, &origin)
}

/// A field that may be left out; implemented by `Option` only.
pub trait OptionalField: Sized {
    /// The value; None when none was given.
    fn optional(given: Given) -> Result<Self, SettingsError>;
}

impl<T> OptionalField for Option<T>
where
    T: FromStr<Err: Display + 'static> + 'static,
{
    fn optional(given: Given) -> Result<Self, SettingsError> {
        given.value.map(|(text, origin)| value(&text, &origin)).transpose()
    }
}

fn value<T>(text: &str, origin: &Origin) -> Result<T, SettingsError>
where
    T: FromStr<Err: Display + 'static> + 'static,
{
    let go_spelling = if TypeId::of::<T>() == TypeId::of::<bool>() { go_bool(text) } else { Some(text) };
    let expected = match go_spelling.map(str::parse) {
        Some(Ok(value)) => return Ok(value),
        Some(Err(error)) => expected(&error),
        None => "expected true or false".to_owned(),
    };
    let shown = if is_secret::<T>() { String::new() } else { format!(" {text:?}") };
    Err(SettingsError::Invalid(format!("invalid value{shown} in {origin}: {expected}")))
}

/// Go's strconv.ParseBool.
fn go_bool(text: &str) -> Option<&'static str> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some("true"),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some("false"),
        _ => None,
    }
}

/// The standard library's number errors describe the digits; these say what to write instead.
fn expected<E: Display + 'static>(error: &E) -> String {
    let any: &dyn Any = error;
    if let Some(error) = any.downcast_ref::<ParseIntError>() {
        return match error.kind() {
            IntErrorKind::PosOverflow => "expected a smaller whole number",
            IntErrorKind::NegOverflow => "expected a larger whole number",
            IntErrorKind::Zero => "expected a whole number above 0",
            _ => "expected a whole number",
        }
        .to_owned();
    }
    if any.is::<ParseFloatError>() {
        return "expected a number".to_owned();
    }
    error.to_string()
}

/// Whether a field's value must not be shown.
pub(super) fn is_secret<T: 'static>() -> bool {
    let secrets = [TypeId::of::<Secret>(), TypeId::of::<Option<Secret>>(), TypeId::of::<WebhookKey>(), TypeId::of::<Option<WebhookKey>>()];
    secrets.contains(&TypeId::of::<T>())
}

/// Whether a flag may stand without a value.
pub(super) fn is_switch<T: 'static>() -> bool {
    [TypeId::of::<bool>(), TypeId::of::<Option<bool>>()].contains(&TypeId::of::<T>())
}
