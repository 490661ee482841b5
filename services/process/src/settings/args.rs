//! Parses a command line like Go's `flag` package: one or two dashes mean the same, a value follows `=` or is the next argument
//! whatever it starts with, and a switch takes a value only after `=`.

use std::ffi::OsString;

use super::removed::RemovedSetting;

/// A flag the service knows.
#[derive(Debug, Clone)]
pub(super) struct Flag {
    pub(super) long: String,
    pub(super) short: Option<char>,
    /// A switch: given alone it means true.
    pub(super) switch: bool,
    /// Its value must not be shown.
    pub(super) secret: bool,
}

/// The result of parsing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    Help,
    /// Each flag given, by its long name, with its value, in order.
    Flags(Vec<(String, String)>),
}

/// Parses the arguments. The error is one sentence.
pub(super) fn parse(flags: &[Flag], removed: &[RemovedSetting], arguments: Vec<OsString>) -> Result<Parsed, String> {
    let mut given: Vec<(String, String)> = Vec::new();
    let mut rest = arguments.into_iter();
    while let Some(argument) = rest.next() {
        let argument = utf8(argument)?;
        if argument == "--" {
            return if rest.next().is_none() { Ok(Parsed::Flags(given)) } else { Err(stray(given.last())) };
        }
        let Some(body) = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-')).filter(|body| !body.is_empty()) else {
            // The argument may be the second half of an unquoted secret, so it is not repeated.
            return Err(stray(given.last()));
        };
        let (name, value) = body.split_once('=').map_or((body, None), |(name, value)| (name, Some(value.to_owned())));
        if name == "h" || name == "help" {
            return Ok(Parsed::Help);
        }
        let flag = find(flags, name).ok_or_else(|| unknown(flags, removed, name))?;
        let value = match value {
            Some(value) => value,
            None if flag.switch => "true".to_owned(),
            None => utf8(rest.next().ok_or_else(|| format!("the flag -{name} needs a value, as in -{name}=VALUE"))?)?,
        };
        if given.iter().any(|(long, _)| *long == flag.long) {
            return Err(format!("the flag --{} is given more than once: give it once", flag.long));
        }
        given.push((flag.long.clone(), value));
    }
    Ok(Parsed::Flags(given))
}

fn find<'a>(flags: &'a [Flag], name: &str) -> Option<&'a Flag> {
    let mut letters = name.chars();
    let letter = letters.next().filter(|_| letters.next().is_none());
    flags.iter().find(|flag| flag.long == name || (letter.is_some() && flag.short == letter))
}

fn unknown(flags: &[Flag], removed: &[RemovedSetting], name: &str) -> String {
    if let Some(removed) = removed.iter().find(|removed| removed.flag().strip_prefix("--") == Some(name)) {
        return removed.flag_error();
    }
    // `-kVALUE`: Go does not accept a value without `=` or a space, and the value may be a secret.
    let stuck = flags.iter().find(|flag| flag.secret && flag.short.is_some_and(|letter| name.starts_with(letter)));
    match stuck.and_then(|flag| flag.short) {
        Some(letter) => format!("unknown flag that starts with -{letter}: write -{letter}=VALUE, or see -h for every flag"),
        None => format!("unknown flag -{name}: see -h for every flag"),
    }
}

fn stray(after: Option<&(String, String)>) -> String {
    match after {
        Some((long, value)) if value == "true" => {
            format!("unexpected argument after --{long}: a switch takes its value as --{long}=false, or see -h for every flag")
        }
        Some((long, _)) => format!("unexpected argument after --{long}: quote a value with spaces, or see -h for every flag"),
        None => "unexpected argument: only flags are understood, see -h for every flag".to_owned(),
    }
}

fn utf8(argument: OsString) -> Result<String, String> {
    argument.into_string().map_err(|_| "an argument is not valid UTF-8: only UTF-8 is understood".to_owned())
}

#[cfg(test)]
mod tests {
    use super::{Flag, Parsed, RemovedSetting, parse};

    fn flags() -> Vec<Flag> {
        let flag = |long: &str, short, switch, secret| Flag { long: long.to_owned(), short, switch, secret };
        vec![
            flag("address", Some('a'), false, false),
            flag("key", Some('k'), false, true),
            flag("restore", Some('r'), true, false),
            flag("audit-file", None, false, false),
        ]
    }

    fn read(arguments: &[&str]) -> Result<Parsed, String> {
        let removed = [RemovedSetting::new("old_name", &["address", "audit_file"])];
        parse(&flags(), &removed, arguments.iter().map(Into::into).collect())
    }

    #[test]
    fn go_forms() {
        for (arguments, long, value) in [
            (&["-a=x"][..], "address", "x"),
            (&["--a=x"], "address", "x"),
            (&["-a", "x"], "address", "x"),
            (&["--a", "x"], "address", "x"),
            (&["-address=x"], "address", "x"),
            (&["--address", "x"], "address", "x"),
            (&["-a=x=y"], "address", "x=y"),
            (&["-a="], "address", ""),
            (&["-k", "-abc"], "key", "-abc"),
            (&["-k", "--"], "key", "--"),
            (&["-r"], "restore", "true"),
            (&["-r=false"], "restore", "false"),
            (&["--restore=1"], "restore", "1"),
            (&["-audit-file=x"], "audit-file", "x"),
            (&["--audit-file", "x"], "audit-file", "x"),
            (&["-a", "x", "--"], "address", "x"),
        ] {
            assert_eq!(read(arguments), Ok(Parsed::Flags(vec![(long.to_owned(), value.to_owned())])), "{arguments:?}");
        }
        for help in ["-h", "--h", "-help", "--help"] {
            assert_eq!(read(&["-a=x", help]), Ok(Parsed::Help));
        }
    }

    #[test]
    fn errors_do_not_contain_values() {
        for (arguments, part) in [
            (&["-x"][..], "unknown flag -x"),
            (&["--audit", "x"], "unknown flag -audit"),
            (&["-kswordfish"], "-k=VALUE"),
            (&["-k", "one", "swordfish"], "unexpected argument after --key"),
            (&["swordfish"], "unexpected argument"),
            (&["-"], "unexpected argument"),
            (&["--", "swordfish"], "unexpected argument"),
            (&["-a"], "-a needs a value"),
            (&["-r", "false"], "--restore=false"),
            (&["-k=swordfish", "--key=swordfish"], "more than once"),
            (&["--old-name=swordfish"], "the flag --old-name was removed: set --address and --audit-file instead"),
            (&["-old-name", "swordfish"], "the flag --old-name was removed"),
            (&["--old-name"], "the flag --old-name was removed"),
            (&["--old-names=1"], "unknown flag -old-names"),
        ] {
            let error = read(arguments).unwrap_err();
            assert!(error.contains(part) && !error.contains("swordfish") && !error.contains('\n'), "{arguments:?}: {error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn bytes_that_are_not_utf8_are_an_error() {
        use std::os::unix::ffi::OsStringExt as _;
        let bad = std::ffi::OsString::from_vec(vec![b'-', b'a', b'=', 0xff]);
        assert!(parse(&flags(), &[], vec![bad]).unwrap_err().contains("UTF-8"));
    }
}
