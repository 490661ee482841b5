//! What the host is and runs: uname, os-release, clock.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use super::output::Output;
use super::reader::{Reader, lines};
use super::{CollectError, HostCollector, HostPaths, missing};

/// The kernel, by uname.
pub(super) struct Uname {
    node_name: String,
}

impl Uname {
    /// In a container the kernel's name of the host is the container's, so that the agent's own is given.
    pub(super) fn of(node_name: &str) -> Self {
        Self { node_name: node_name.to_owned() }
    }
}

impl HostCollector for Uname {
    fn name(&self) -> &'static str {
        "uname"
    }

    fn collect(&mut self, _: &mut Reader, output: &mut Output) -> Result<(), CollectError> {
        let uname = rustix::system::uname();
        let [domain, machine, release, system, version] =
            [uname.domainname(), uname.machine(), uname.release(), uname.sysname(), uname.version()].map(|text| text.to_string_lossy());
        let labels = [
            ("domainname", domain.as_ref()),
            ("machine", &machine),
            ("nodename", &self.node_name),
            ("release", &release),
            ("sysname", &system),
            ("version", &version),
        ];
        output.gauge("node_uname_info", &labels, 1.0);
        Ok(())
    }
}

/// The labels of node_os_info and the fields of os-release that they are from.
const OS_FIELDS: [(&str, &str); 12] = [
    ("build_id", "BUILD_ID"),
    ("id", "ID"),
    ("id_like", "ID_LIKE"),
    ("image_id", "IMAGE_ID"),
    ("image_version", "IMAGE_VERSION"),
    ("name", "NAME"),
    ("pretty_name", "PRETTY_NAME"),
    ("variant", "VARIANT"),
    ("variant_id", "VARIANT_ID"),
    ("version", "VERSION"),
    ("version_codename", "VERSION_CODENAME"),
    ("version_id", "VERSION_ID"),
];

/// The distribution, from os-release below the host's root.
pub(super) struct Os(PathBuf);

impl Os {
    pub(super) fn under(root: PathBuf) -> Self {
        Self(root)
    }
}

impl HostCollector for Os {
    fn name(&self) -> &'static str {
        "os"
    }

    fn collect(&mut self, reader: &mut Reader, output: &mut Output) -> Result<(), CollectError> {
        let file = [self.0.join("etc/os-release"), self.0.join("usr/lib/os-release")].into_iter().find(|file| file.exists());
        let file = file.ok_or_else(|| missing(&self.0, "etc/os-release or usr/lib/os-release"))?;
        let fields: Vec<(String, String)> = lines(reader.required(&file)?).filter_map(os_field).collect();
        let value = |wanted: &str| fields.iter().rev().find(|(field, _)| field == wanted).map_or("", |(_, value)| value.as_str());
        output.gauge("node_os_info", &OS_FIELDS.map(|(label, field)| (label, value(field))), 1.0);
        // `22.04.3` is 22.04.
        let mut dots = 0;
        let version: String = value("VERSION_ID")
            .chars()
            .take_while(|c| {
                dots += u32::from(*c == '.');
                c.is_ascii_digit() || (*c == '.' && dots == 1)
            })
            .collect();
        if let Ok(version) = version.parse() {
            output.gauge("node_os_version", &[("id", value("ID")), ("id_like", value("ID_LIKE")), ("name", value("NAME"))], version);
        }
        Ok(())
    }
}

/// `NAME="value"` as a shell reads it.
fn os_field(line: &str) -> Option<(String, String)> {
    let (field, value) = line.trim().split_once('=')?;
    let quote = value.chars().next().filter(|quote| matches!(quote, '"' | '\''));
    let value = quote.map_or(value, |quote| value[1..].strip_suffix(quote).unwrap_or(&value[1..]));
    let mut plain = String::with_capacity(value.len());
    let mut characters = value.chars();
    while let Some(c) = characters.next() {
        plain.push(if c == '\\' && quote != Some('\'') { characters.next().unwrap_or(c) } else { c });
    }
    Some((field.to_owned(), plain))
}

/// The time and the sources of the clock.
pub(super) struct Time {
    sources: PathBuf,
}

impl Time {
    pub(super) fn new(paths: &HostPaths) -> Self {
        Self { sources: paths.sys.join("devices/system/clocksource") }
    }
}

impl HostCollector for Time {
    fn name(&self) -> &'static str {
        "time"
    }

    fn collect(&mut self, reader: &mut Reader, output: &mut Output) -> Result<(), CollectError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        output.gauge("node_time_seconds", &[], now.as_secs_f64());
        for (file, name) in [
            ("available_clocksource", "node_time_clocksource_available_info"),
            ("current_clocksource", "node_time_clocksource_current_info"),
        ] {
            let sources = reader.text(&self.sources.join("clocksource0").join(file)).unwrap_or_default();
            for source in sources.split_ascii_whitespace() {
                output.gauge(name, &[("clocksource", source), ("device", "0")], 1.0);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::os_field;

    #[test]
    fn os_release_is_read_as_a_shell_would() {
        for (line, value) in [
            ("NAME=Fedora", "Fedora"),
            ("NAME=\"Debian GNU/Linux\"", "Debian GNU/Linux"),
            ("NAME='a \\ b'", "a \\ b"),
            ("NAME=\"a \\\"quoted\\\" \\$x\"", "a \"quoted\" $x"),
            ("NAME=", ""),
            ("NAME=\"open", "open"),
        ] {
            assert_eq!(os_field(line), Some(("NAME".to_owned(), value.to_owned())), "{line}");
        }
        assert_eq!(os_field("# a comment"), None);
    }
}
