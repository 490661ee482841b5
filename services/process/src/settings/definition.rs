//! The definition of a service's settings: reading them from variables and flags, the help text and the table.

use std::ffi::OsString;
use std::fmt::Write as _;

use clap::{Arg, Args, Command};
use serde::de::DeserializeOwned;

use super::SettingsError;
use super::args::{self, Flag, Parsed};
use super::field::{Given, Origin, is_secret, is_switch};
use super::removed::RemovedSetting;
use crate::output::{print_error_line, print_line};
use crate::telemetry;

/// One field of the declaration.
#[derive(Debug)]
pub struct FieldInfo {
    name: &'static str,
    /// The doc comment, on one line.
    meaning: String,
    default: Option<&'static str>,
    switch: bool,
    secret: bool,
}

impl FieldInfo {
    /// A field of type `T`; the default as an operator would write it.
    pub fn new<T: 'static>(name: &'static str, default: Option<&'static str>) -> Self {
        Self { name, meaning: String::new(), default, switch: is_switch::<T>(), secret: is_secret::<T>() }
    }

    fn variable(&self) -> String {
        self.name.to_ascii_uppercase()
    }
}

/// The settings of a service, without their values.
#[derive(Debug)]
pub struct Definition {
    command: Command,
    fields: Vec<FieldInfo>,
    removed: Vec<RemovedSetting>,
}

impl Definition {
    /// `R` is the struct whose clap derive names the flags.
    pub fn new<R: Args>(about: &'static str, mut fields: Vec<FieldInfo>, removed: Vec<RemovedSetting>) -> Self {
        let about = about.lines().map(str::trim).collect::<Vec<_>>().join(" ");
        let mut command = R::augment_args(Command::new("")).about(about.trim().to_owned()).no_binary_name(true);
        for field in &mut fields {
            command = command.mut_arg(field.name, |arg| described(arg, field));
        }
        Self { command: command.after_help(after_help(&removed)), fields, removed }
    }

    /// The settings' variables that are set and not empty; an error when a removed variable is set.
    pub fn variables<R: DeserializeOwned>(&self, variables: Vec<(OsString, OsString)>) -> Result<R, SettingsError> {
        let mut known = Vec::new();
        let mut other = Vec::new();
        for (name, value) in variables.into_iter().filter(|(_, value)| !value.is_empty()) {
            // A name that is not UTF-8 is not the name of a setting.
            let Ok(name) = name.into_string() else { continue };
            if let Some(removed) = self.removed.iter().find(|removed| removed.variable() == name) {
                return Err(SettingsError::Invalid(removed.variable_error()));
            }
            let ours = self.fields.iter().any(|field| field.variable() == name);
            if !ours && !telemetry::VARIABLES.iter().any(|variable| variable.name == name) {
                continue;
            }
            let value =
                value.into_string().map_err(|_| SettingsError::Invalid(format!("the variable {name} is not valid UTF-8: set it again")))?;
            if ours { known.push((name, value)) } else { other.push((name, value)) }
        }
        telemetry::check(&other).map_err(SettingsError::Invalid)?;
        envy::from_iter(known).map_err(|_| SettingsError::Invalid("the variables could not be read".to_owned()))
    }

    /// The flags that are given; [`SettingsError::Help`] when help was asked for.
    pub fn flags<R: Args>(&self, program: &str, arguments: Vec<OsString>) -> Result<R, SettingsError> {
        let given = match args::parse(&self.known_flags(), &self.removed, arguments).map_err(SettingsError::Invalid)? {
            Parsed::Help => return Err(SettingsError::Help(self.help(program))),
            Parsed::Flags(given) => given.into_iter().map(|(long, value)| format!("--{long}={value}")),
        };
        self.command
            .clone()
            .try_get_matches_from(given)
            .and_then(|matches| R::from_arg_matches(&matches))
            .map_err(|_| SettingsError::Invalid("the flags could not be read: see -h for every flag".to_owned()))
    }

    /// The text that was given for a field: the variable takes precedence over the flag.
    pub fn given(&self, field: &str, from_variable: Option<String>, from_flag: Option<String>) -> Given {
        let variable = field.to_ascii_uppercase();
        let from_variable = from_variable.map(|value| (value, Origin::Variable(variable.clone())));
        let value = from_variable.or_else(|| from_flag.map(|value| (value, Origin::Flag(self.flag(field)))));
        Given { value, variable }
    }

    /// A field's flag as the help text shows it.
    fn flag(&self, field: &str) -> String {
        let arg = self.command.get_arguments().find(|arg| arg.get_id() == field);
        let long = arg.and_then(Arg::get_long).unwrap_or(field);
        arg.and_then(Arg::get_short).map_or_else(|| format!("--{long}"), |short| format!("-{short}, --{long}"))
    }

    fn known_flags(&self) -> Vec<Flag> {
        let known = |field: &FieldInfo| {
            let arg = self.command.get_arguments().find(|arg| arg.get_id() == field.name)?;
            Some(Flag { long: arg.get_long()?.to_owned(), short: arg.get_short(), switch: field.switch, secret: field.secret })
        };
        self.fields.iter().filter_map(known).collect()
    }

    fn help(&self, program: &str) -> String {
        let usage = format!("{program} [FLAGS]");
        self.command.clone().override_usage(usage).render_long_help().to_string()
    }

    /// A Markdown table: flag, variable, default, meaning.
    pub fn markdown(&self) -> String {
        let mut table = String::from("| Flag | Variable | Default | Meaning |\n|---|---|---|---|\n");
        for field in &self.fields {
            let flag = self.flag(field.name).replace(", ", "`, `");
            let default = field.default.filter(|default| !default.is_empty());
            let default = default.map_or_else(String::new, |default| format!("`{default}`"));
            row(&mut table, &format!("`{flag}`"), &field.variable(), &default, &field.meaning);
        }
        for variable in telemetry::VARIABLES {
            let default = variable.default.map_or_else(String::new, |default| format!("`{default}`"));
            row(&mut table, "", variable.name, &default, variable.meaning);
        }
        table
    }
}

fn row(table: &mut String, flag: &str, variable: &str, default: &str, meaning: &str) {
    let meaning = meaning.replace('|', "\\|");
    // Writing to a string does not fail.
    let _ = writeln!(table, "| {flag} | `{variable}` | {default} | {meaning} |");
}

/// The field's doc comment as one line of complete sentences; clap drops the last full stop of a short one.
fn meaning(arg: &Arg) -> String {
    let text = arg.get_long_help().or_else(|| arg.get_help()).map(ToString::to_string).unwrap_or_default();
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if !line.is_empty() && !line.ends_with('.') {
        line.push('.');
    }
    line
}

/// Adds to a flag's help what clap's derive does not know.
fn described(arg: Arg, field: &mut FieldInfo) -> Arg {
    let default = field.default.map(|default| format!(" [default: {default}]")).unwrap_or_default();
    field.meaning = meaning(&arg);
    let help = format!("{} [env: {}]{default}", field.meaning, field.variable());
    let arg = arg.long_help(None).help(help);
    if field.switch {
        return arg.value_name("true|false").num_args(0..=1).require_equals(true);
    }
    arg.value_name("VALUE").allow_hyphen_values(true)
}

fn after_help(removed: &[RemovedSetting]) -> String {
    let mut text = String::from("A variable wins over its flag, a flag over its default; an empty variable counts as unset.\n");
    text.push_str("Variables without a flag:\n");
    for variable in telemetry::VARIABLES {
        let default = variable.default.map(|default| format!(" [default: {default}]")).unwrap_or_default();
        let _ = writeln!(text, "  {}  {}{default}", variable.name, variable.meaning);
    }
    if !removed.is_empty() {
        text.push_str("Removed settings, with which the program does not start:\n");
        for setting in removed {
            let _ = writeln!(text, "  {}", setting.help());
        }
    }
    text
}

/// Ends the process: help on stdout with code 0, anything else as one sentence on stderr with code 2.
pub fn exit_with(program: &str, error: &SettingsError) -> ! {
    let sentence = match error {
        SettingsError::Help(text) => match print_line(text.trim_end()) {
            Ok(()) => std::process::exit(0),
            Err(error) => format!("the help could not be printed: {error}"),
        },
        SettingsError::Invalid(sentence) => sentence.clone(),
    };
    print_error_line(&format!("{program}: {sentence}"));
    std::process::exit(2);
}
