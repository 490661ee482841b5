//! Settings: each service declares one struct, which is filled from variables, then flags, then defaults.
//!
//! The declaration is the single source of the variable's name, the flag, the default, the help text and the table in
//! docs/settings.md, so that they always agree.

mod args;
pub(crate) mod definition;
pub(crate) mod field;
pub(crate) mod removed;

mod bytes;
mod interval;
mod listen_address;
mod retention;
pub(crate) mod secret;

pub use bytes::{BodyBytes, BodyBytesError, Bytes, BytesError};
pub use interval::{Interval, PositiveInterval};
pub use listen_address::ListenAddress;
pub use retention::Retention;
pub use secret::{Secret, WebhookKey};

/// Why the settings can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// Help was asked for; the text names every flag, variable and default. The process prints it and exits 0.
    #[error("{0}")]
    Help(String),
    /// One sentence: what is wrong, in which variable or flag, and what is expected. Never a secret's value.
    #[error("{0}")]
    Invalid(String),
}

/// Declares a service's settings.
///
/// A field's upper-cased name is its variable, its kebab-cased name its flag. The type is anything with `FromStr`
/// whose error displays as what was expected; `bool` takes Go's spellings. A field has a default, written as an
/// operator would write it, or is an `Option`. `#[arg(short = 'a')]` gives it a letter as well.
///
/// After the struct, the declaration may list settings that earlier versions had, each with the fields that replace it:
/// `removed { history_retention => [dedup_window, retention_raw] }`. A removed variable or flag that is still set is an error
/// that names its successors: ignoring it would silently change what the operator asked for.
/// The struct gets `load(program)`, which exits the process on help or a bad value, `parse(args, env)`, which has no side
/// effects, and `markdown()`, the table for docs/settings.md.
///
/// ```
/// golectra_process::settings! {
///     /// An example of a service.
///     pub struct Settings {
///         /// Where to listen: host:port, :port or port.
///         #[arg(short = 'a', long)]
///         pub address: golectra_process::ListenAddress = ":8080",
///         /// Shared key; without it nothing is signed.
///         #[arg(short = 'k', long)]
///         pub key: Option<golectra_process::Secret>,
///     }
/// }
///
/// let settings = Settings::parse(["-a=:9090"], [("KEY", "from the environment")]).unwrap();
/// assert_eq!(settings.address.to_string(), ":9090");
/// assert_eq!(settings.key.unwrap().expose(), "from the environment");
/// ```
#[macro_export]
macro_rules! settings {
    (
        $(#[doc = $about:literal])*
        $vis:vis struct $name:ident {
            $(
                $(#[doc = $doc:literal])*
                $(#[arg($($arg:tt)*)])?
                $field_vis:vis $field:ident : $ty:ty $(= $default:literal)?
            ),* $(,)?
        }
        $(removed { $($removed:ident => [$($successor:ident),+ $(,)?]),+ $(,)? })?
    ) => {
        $(#[doc = $about])*
        #[derive(Clone, Debug)]
        $vis struct $name {
            $($(#[doc = $doc])* $field_vis $field: $ty,)*
        }

        const _: () = {
            // The derive macros refer to their crate by this path, so that services need not depend on it themselves.
            use $crate::__private::clap;

            /// The values of one source as text: filled once by envy from the variables and once by clap from the flags.
            #[derive(clap::Args, $crate::__private::serde::Deserialize)]
            #[serde(crate = "golectra_process::__private::serde")]
            struct Raw {
                $(
                    $(#[doc = $doc])*
                    #[arg(long)]
                    $(#[arg($($arg)*)])?
                    // clap recognises an optional flag only by this spelling.
                    $field: Option<::std::string::String>,
                )*
            }

            #[allow(dead_code, reason = "a service calls load; tests call the rest")]
            impl $name {
                /// The settings of this process. Prints help and exits 0 when asked to; says what is wrong in one
                /// sentence on stderr and exits 2 when a value is bad.
                $vis fn load(program: &str) -> Self {
                    Self::load_from(program, ::std::env::args_os().skip(1))
                }

                /// Like `load`, with other arguments than the process's, such as those of a subcommand.
                $vis fn load_from(program: &str, arguments: impl ::std::iter::Iterator<Item = ::std::ffi::OsString>) -> Self {
                    let variables = ::std::env::vars_os().collect();
                    Self::parse_as(program, arguments.collect(), variables)
                        .unwrap_or_else(|error| $crate::__private::exit_with(program, &error))
                }

                /// The settings that result from these arguments (without the program's name) and variables.
                $vis fn parse<A, E, K, V>(args: A, env: E) -> ::std::result::Result<Self, $crate::SettingsError>
                where
                    A: ::std::iter::IntoIterator<Item: ::std::convert::Into<::std::ffi::OsString>>,
                    E: ::std::iter::IntoIterator<Item = (K, V)>,
                    K: ::std::convert::Into<::std::ffi::OsString>,
                    V: ::std::convert::Into<::std::ffi::OsString>,
                {
                    Self::parse_as(
                        env!("CARGO_PKG_NAME"),
                        args.into_iter().map(::std::convert::Into::into).collect(),
                        env.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
                    )
                }

                /// A Markdown table of every setting: flag, variable, default, meaning.
                $vis fn markdown() -> ::std::string::String {
                    Self::definition().markdown()
                }

                fn definition() -> $crate::__private::Definition {
                    $crate::__private::Definition::new::<Raw>(
                        concat!($($about, "\n"),*),
                        ::std::vec![$($crate::__private::FieldInfo::new::<$ty>(
                            stringify!($field),
                            $crate::__settings_default!($($default)?),
                        )),*],
                        ::std::vec![$($($crate::__private::RemovedSetting::new(
                            stringify!($removed),
                            &[$(stringify!($successor)),+],
                        )),+)?],
                    )
                }

                $($(
                    /// Fails to compile when a successor is not a setting.
                    fn $removed(&self) {
                        $(let _ = &self.$successor;)+
                    }
                )+)?

                fn parse_as(
                    program: &str,
                    arguments: ::std::vec::Vec<::std::ffi::OsString>,
                    variables: ::std::vec::Vec<(::std::ffi::OsString, ::std::ffi::OsString)>,
                ) -> ::std::result::Result<Self, $crate::SettingsError> {
                    let definition = Self::definition();
                    // Flags come first: -h prints the help even if a variable is invalid.
                    let from_flags: Raw = definition.flags(program, arguments)?;
                    let from_variables: Raw = definition.variables(variables)?;
                    ::std::result::Result::Ok(Self {
                        $($field: $crate::__settings_value!(
                            $ty,
                            definition.given(stringify!($field), from_variables.$field, from_flags.$field)
                            $(, $default)?
                        )?,)*
                    })
                }
            }
        };
    };
}

/// The default as an `Option`.
#[doc(hidden)]
#[macro_export]
macro_rules! __settings_default {
    () => {
        ::std::option::Option::None
    };
    ($default:literal) => {
        ::std::option::Option::Some($default)
    };
}

/// A field's value: always present for a field with a default, an `Option` otherwise.
#[doc(hidden)]
#[macro_export]
macro_rules! __settings_value {
    ($ty:ty, $given:expr) => {
        <$ty as $crate::__private::OptionalField>::optional($given)
    };
    ($ty:ty, $given:expr, $default:literal) => {
        $crate::__private::required::<$ty>($given, $default)
    };
}

#[cfg(test)]
mod tests;
