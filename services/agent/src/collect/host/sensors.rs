//! Temperatures and frequencies, from /sys. Reading a sensor may take a while, so sensors have a thread of their own, and so have frequencies.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::output::{Name, Output};
use super::reader::{Reader, names};
use super::{CollectError, HostCollector, HostPaths, missing};

/// The most entries of a folder of /sys that are looked at.
const MAX_ENTRIES: usize = 4096;

/// Frequencies of processors.
pub(super) struct Cpufreq(PathBuf);

/// Files of cpuN/cpufreq, in kHz, and their metrics. The first can be read by root only.
const FREQUENCIES: [(&str, &str); 6] = [
    ("cpuinfo_cur_freq", "node_cpu_frequency_hertz"),
    ("cpuinfo_min_freq", "node_cpu_frequency_min_hertz"),
    ("cpuinfo_max_freq", "node_cpu_frequency_max_hertz"),
    ("scaling_cur_freq", "node_cpu_scaling_frequency_hertz"),
    ("scaling_min_freq", "node_cpu_scaling_frequency_min_hertz"),
    ("scaling_max_freq", "node_cpu_scaling_frequency_max_hertz"),
];

impl Cpufreq {
    pub(super) fn new(paths: &HostPaths) -> Self {
        Self(paths.sys.join("devices/system/cpu"))
    }
}

impl HostCollector for Cpufreq {
    fn name(&self) -> &'static str {
        "cpufreq"
    }

    fn collect(&mut self, reader: &mut Reader, output: &mut Output) -> Result<(), CollectError> {
        let cpus = names(&self.0)?;
        for name in output.first(&cpus, MAX_ENTRIES, "entries of the processors' folder") {
            let Some(cpu) = name.strip_prefix("cpu").filter(|cpu| is_number(cpu)) else { continue };
            let folder = self.0.join(name).join("cpufreq");
            if !folder.exists() {
                continue;
            }
            for (file, metric) in FREQUENCIES {
                if let Some(kilohertz) = reader.number(&folder.join(file)) {
                    output.gauge(metric, &[("cpu", cpu)], kilohertz * 1000.0);
                }
            }
            let governor = reader.text(&folder.join("scaling_governor")).unwrap_or_default().to_owned();
            for available in reader.text(&folder.join("scaling_available_governors")).unwrap_or_default().split_ascii_whitespace() {
                let is_used = f64::from(u8::from(available == governor));
                output.gauge("node_cpu_scaling_governor", &[("cpu", cpu), ("governor", available)], is_used);
            }
        }
        Ok(())
    }
}

/// Thermal zones and what cools them.
pub(super) struct Thermal(PathBuf);

impl Thermal {
    pub(super) fn new(paths: &HostPaths) -> Self {
        Self(paths.sys.join("class/thermal"))
    }
}

impl HostCollector for Thermal {
    fn name(&self) -> &'static str {
        "thermal_zone"
    }

    fn collect(&mut self, reader: &mut Reader, output: &mut Output) -> Result<(), CollectError> {
        let zones = names(&self.0)?;
        for name in output.first(&zones, MAX_ENTRIES, "thermal zones and cooling devices") {
            let folder = self.0.join(name);
            let kind = reader.text(&folder.join("type")).unwrap_or_default().to_owned();
            if let Some(zone) = name.strip_prefix("thermal_zone") {
                if let Some(millidegrees) = reader.number(&folder.join("temp")) {
                    output.gauge("node_thermal_zone_temp", &[("type", &kind), ("zone", zone)], millidegrees / 1000.0);
                }
            } else if let Some(device) = name.strip_prefix("cooling_device") {
                for (file, metric) in [("cur_state", "node_cooling_device_cur_state"), ("max_state", "node_cooling_device_max_state")] {
                    if let Some(state) = reader.number(&folder.join(file)) {
                        output.gauge(metric, &[("name", device), ("type", &kind)], state);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Chips with sensors.
pub(super) struct Hwmon(PathBuf);

/// Kinds of sensors of which every file is reported.
const KINDS: [&str; 11] = ["in", "cpu", "fan", "pwm", "temp", "curr", "power", "energy", "humidity", "intrusion", "beep_enable"];

impl Hwmon {
    pub(super) fn new(paths: &HostPaths) -> Self {
        Self(paths.sys.join("class/hwmon"))
    }
}

impl HostCollector for Hwmon {
    fn name(&self) -> &'static str {
        "hwmon"
    }

    fn collect(&mut self, reader: &mut Reader, output: &mut Output) -> Result<(), CollectError> {
        let chips = names(&self.0)?;
        for name in output.first(&chips, MAX_ENTRIES, "chips with sensors") {
            chip(&self.0.join(name), reader, output);
        }
        if chips.is_empty() { Err(missing(&self.0, "any chip")) } else { Ok(()) }
    }
}

fn chip(folder: &Path, reader: &mut Reader, output: &mut Output) {
    let readable_name = reader.text(&folder.join("name")).map(cleaned).unwrap_or_default();
    let Some(chip) = chip_name(folder, &readable_name) else { return };
    if !readable_name.is_empty() {
        output.gauge("node_hwmon_chip_names", &[("chip", &chip), ("chip_name", &readable_name)], 1.0);
    }
    // By kind and number, the files of each sensor. Old drivers have them in the folder of the device.
    let mut sensors: BTreeMap<(String, String), BTreeMap<String, String>> = BTreeMap::new();
    for folder in [folder.to_owned(), folder.join("device")] {
        let files = names(&folder).unwrap_or_default();
        for file in output.first(&files, MAX_ENTRIES, "files of a chip") {
            let Some((kind, number, element)) = sensor_file(file) else { continue };
            if let Some(value) = reader.text(&folder.join(file)) {
                let sensor = sensors.entry((kind.to_owned(), number.to_owned())).or_default();
                sensor.insert(element.to_owned(), value.to_owned());
            }
        }
    }
    for ((kind, number), elements) in &sensors {
        let sensor = format!("{kind}{}", if number.is_empty() { "0" } else { number });
        if let Some(label) = elements.get("label") {
            output.gauge("node_hwmon_sensor_label", &[("chip", &chip), ("label", label), ("sensor", &sensor)], 1.0);
        }
        for (element, text) in elements.iter().filter(|(element, _)| *element != "label") {
            let Ok(value) = text.parse::<f64>() else { continue };
            let (suffix, value) = unit(kind, element, value);
            let element = match element.as_str() {
                // What is measured has no name of its own, unless there is a file without one.
                "input" if !elements.contains_key("") => String::new(),
                "" => String::new(),
                element => format!("_{}", cleaned(element)),
            };
            output.gauge(Name("node_hwmon_", &format!("{kind}{element}{suffix}"), ""), &[("chip", &chip), ("sensor", &sensor)], value);
        }
    }
}

/// The chip by the path of its device, which is the same after each start of the machine; else by its own name, else by its number.
fn chip_name(folder: &Path, readable_name: &str) -> Option<String> {
    let part = |path: Option<&Path>| path.and_then(Path::file_name).and_then(|name| name.to_str()).map(cleaned).unwrap_or_default();
    if let Ok(device) = folder.join("device").canonicalize() {
        let (kind, name) = (part(device.parent()), part(Some(&device)));
        if !name.is_empty() {
            return Some(if kind.is_empty() { name } else { format!("{kind}_{name}") });
        }
    }
    if !readable_name.is_empty() {
        return Some(readable_name.to_owned());
    }
    Some(part(Some(folder))).filter(|name| !name.is_empty())
}

/// Kind, number and element of a name such as `temp1_input`.
fn sensor_file(file: &str) -> Option<(&str, &str, &str)> {
    let kind = KINDS.iter().filter(|kind| file.starts_with(**kind)).max_by_key(|kind| kind.len())?;
    let rest = &file[kind.len()..];
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (number, element) = rest.split_at(digits);
    match element.strip_prefix('_') {
        Some(element) if !element.is_empty() => Some((kind, number, element)),
        None if element.is_empty() => Some((kind, number, "")),
        _ => None,
    }
}

/// The end of a metric's name with its unit, and the value in it.
fn unit(kind: &str, element: &str, value: f64) -> (&'static str, f64) {
    match (kind, element) {
        (_, "fault" | "alarm") | ("temp", "type") => ("", value),
        (_, "beep") => ("_enabled", value),
        ("beep_enable", _) => ("d", value),
        ("in" | "cpu", _) => ("_volts", value / 1000.0),
        ("temp", _) => ("_celsius", value / 1000.0),
        ("curr", _) => ("_amps", value / 1000.0),
        ("energy", _) => ("_joule_total", value / 1e6),
        ("power", "accuracy") | ("humidity", _) => ("", value / 1e6),
        ("power", "average_interval" | "average_interval_min" | "average_interval_max") => ("_seconds", value / 1000.0),
        ("power", _) => ("_watt", value / 1e6),
        ("fan", "input" | "min" | "max" | "target") => ("_rpm", value),
        _ => ("", value),
    }
}

/// Small letters, digits and underscores.
fn cleaned(name: &str) -> String {
    let allowed = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, ':' | '_') { c } else { '_' };
    name.to_lowercase().chars().map(allowed).collect::<String>().trim_matches('_').to_owned()
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::{cleaned, sensor_file};

    #[test]
    fn names_of_sensor_files() {
        for (file, expected) in [
            ("temp1_input", Some(("temp", "1", "input"))),
            ("in0_max", Some(("in", "0", "max"))),
            ("intrusion0_alarm", Some(("intrusion", "0", "alarm"))),
            ("pwm2", Some(("pwm", "2", ""))),
            ("beep_enable", Some(("beep_enable", "", ""))),
            ("name", None),
            ("temp", Some(("temp", "", ""))),
            ("temperature", None),
            ("fan1_", None),
        ] {
            assert_eq!(sensor_file(file), expected, "{file}");
        }
        assert_eq!(cleaned("Core 0 (°C)"), "core_0___c");
    }
}
