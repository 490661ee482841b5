//! The build banner: the first lines that a service prints on stdout.

use std::io::{self, Write};

/// What stands for a variable that was not set.
pub const UNKNOWN: &str = "N/A";

/// The build's version, date and commit, taken from the environment at compile time; [`UNKNOWN`] for a variable that was not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Build {
    /// `BUILD_VERSION`, such as `v1.2.3`.
    pub version: &'static str,
    /// `BUILD_DATE`, such as `2026-01-31T12:00:00Z`.
    pub date: &'static str,
    /// `BUILD_COMMIT`, such as `3f2c1ab`.
    pub commit: &'static str,
}

/// This build.
pub const BUILD: Build = Build {
    version: known(option_env!("BUILD_VERSION")),
    date: known(option_env!("BUILD_DATE")),
    commit: known(option_env!("BUILD_COMMIT")),
};

const fn known(value: Option<&'static str>) -> &'static str {
    match value {
        Some(value) if !value.is_empty() => value,
        _ => UNKNOWN,
    }
}

/// Prints the banner on stdout. Errors are ignored: a service runs with a closed stdout too.
pub fn print() {
    let mut out = io::stdout().lock();
    let _ = write_to(&mut out, &BUILD).and_then(|()| out.flush());
}

fn write_to(out: &mut impl Write, build: &Build) -> io::Result<()> {
    writeln!(out, "Build version: {}\nBuild date: {}\nBuild commit: {}", build.version, build.date, build.commit)
}

#[cfg(test)]
mod tests {
    use super::{Build, known, write_to};

    #[test]
    fn unset_and_empty_are_not_available() {
        assert_eq!((known(None), known(Some("")), known(Some("v1"))), ("N/A", "N/A", "v1"));
    }

    #[test]
    fn three_lines_in_the_original_order() {
        let mut out = Vec::new();
        write_to(&mut out, &Build { version: "v1", date: "today", commit: "abc" }).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "Build version: v1\nBuild date: today\nBuild commit: abc\n");
    }
}
