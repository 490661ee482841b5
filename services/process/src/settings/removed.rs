//! Settings that earlier versions had and this one does not.

/// A setting that no longer exists, and the settings that replace it.
#[derive(Debug, Clone, Copy)]
pub struct RemovedSetting {
    name: &'static str,
    successors: &'static [&'static str],
}

impl RemovedSetting {
    /// The names of the fields, which give the variables and flags their names.
    pub const fn new(name: &'static str, successors: &'static [&'static str]) -> Self {
        Self { name, successors }
    }

    pub(super) fn variable(&self) -> String {
        variable(self.name)
    }

    pub(super) fn flag(&self) -> String {
        flag(self.name)
    }

    /// The error for a variable that is still set.
    pub(super) fn variable_error(&self) -> String {
        format!("the variable {} was removed: {}", self.variable(), self.advice(variable))
    }

    /// The error for a flag that is still given.
    pub(super) fn flag_error(&self) -> String {
        format!("the flag {} was removed: {}", self.flag(), self.advice(flag))
    }

    /// A line of the help text.
    pub(super) fn help(&self) -> String {
        format!("{}, {}  Removed: {}.", self.variable(), self.flag(), self.advice(variable))
    }

    fn advice(&self, spell: fn(&str) -> String) -> String {
        let successors: Vec<_> = self.successors.iter().map(|name| spell(name)).collect();
        format!("set {} instead", successors.join(" and "))
    }
}

fn variable(name: &str) -> String {
    name.to_ascii_uppercase()
}

fn flag(name: &str) -> String {
    format!("--{}", name.replace('_', "-"))
}
