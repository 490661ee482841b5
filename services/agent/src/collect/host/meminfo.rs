//! Memory, from /proc/meminfo.

use std::path::PathBuf;

use super::output::{Name, Output};
use super::reader::{Reader, lines};
use super::{CollectError, HostCollector, HostPaths, missing};

pub(super) struct Meminfo(PathBuf);

impl Meminfo {
    pub(super) fn new(paths: &HostPaths) -> Self {
        Self(paths.proc.join("meminfo"))
    }
}

impl HostCollector for Meminfo {
    fn name(&self) -> &'static str {
        "meminfo"
    }

    fn collect(&mut self, reader: &mut Reader, output: &mut Output) -> Result<(), CollectError> {
        let mut found = false;
        for (field, value, is_kibibytes) in lines(reader.required(&self.0)?).filter_map(parse) {
            found = true;
            // `Active(anon)` is `Active_anon`.
            let (field, part) = field.split_once('(').map_or((field, ""), |(field, part)| (field, part.trim_end_matches(')')));
            let field = if part.is_empty() { std::borrow::Cow::Borrowed(field) } else { format!("{field}_{part}").into() };
            if is_kibibytes {
                output.gauge(Name("node_memory_", &field, "_bytes"), &[], value * 1024.0);
            } else {
                output.gauge(Name("node_memory_", &field, ""), &[], value);
            }
        }
        if found { Ok(()) } else { Err(missing(&self.0, "how much memory there is")) }
    }
}

/// Field, number, and whether the number is in KiB.
fn parse(line: &str) -> Option<(&str, f64, bool)> {
    let (field, rest) = line.split_once(':')?;
    let mut words = rest.split_ascii_whitespace();
    let value = words.next()?.parse().ok()?;
    Some((field, value, words.next() == Some("kB")))
}
