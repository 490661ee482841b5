//! Batteries and mains, from /sys/class/power_supply.

use std::path::PathBuf;

use super::output::{Name, Output};
use super::reader::{Reader, names};
use super::{CollectError, HostCollector, HostPaths};

/// The most supplies.
const MAX_SUPPLIES: usize = 64;

/// Files with a number, sorted, the ends of their metrics' names, and by what the number is divided: the kernel counts in microvolts, microamperes and
/// microwatts and in tenths of a degree.
#[rustfmt::skip]
const FILES: [(&str, &str, f64); 49] = [
    ("authentic", "authentic", 1.0),
    ("calibrate", "calibrate", 1.0),
    ("capacity", "capacity", 1.0),
    ("capacity_alert_max", "capacity_alert_max", 1.0),
    ("capacity_alert_min", "capacity_alert_min", 1.0),
    ("charge_control_limit", "charge_control_limit", 1e6),
    ("charge_control_limit_max", "charge_control_limit_max", 1e6),
    ("charge_counter", "charge_counter", 1e6),
    ("charge_empty", "charge_empty", 1e6),
    ("charge_empty_design", "charge_empty_design", 1e6),
    ("charge_full", "charge_full", 1e6),
    ("charge_full_design", "charge_full_design", 1e6),
    ("charge_now", "charge_ampere", 1e6),
    ("charge_term_current", "charge_term_current", 1e6),
    ("constant_charge_current", "constant_charge_current", 1e6),
    ("constant_charge_current_max", "constant_charge_current_max", 1e6),
    ("constant_charge_voltage", "constant_charge_voltage", 1e6),
    ("constant_charge_voltage_max", "constant_charge_voltage_max", 1e6),
    ("current_boot", "current_boot", 1e6),
    ("current_max", "current_max", 1e6),
    ("current_now", "current_ampere", 1e6),
    ("cycle_count", "cyclecount", 1.0),
    ("energy_empty", "energy_empty", 1e6),
    ("energy_empty_design", "energy_empty_design", 1e6),
    ("energy_full", "energy_full", 1e6),
    ("energy_full_design", "energy_full_design", 1e6),
    ("energy_now", "energy_watthour", 1e6),
    ("input_current_limit", "input_current_limit", 1e6),
    ("online", "online", 1.0),
    ("power_now", "power_watt", 1e6),
    ("precharge_current", "precharge_current", 1e6),
    ("present", "present", 1.0),
    ("temp", "temp_celsius", 10.0),
    ("temp_alert_max", "temp_alert_max_celsius", 10.0),
    ("temp_alert_min", "temp_alert_min_celsius", 10.0),
    ("temp_ambient", "temp_ambient_celsius", 10.0),
    ("temp_ambient_max", "temp_ambient_max_celsius", 10.0),
    ("temp_ambient_min", "temp_ambient_min_celsius", 10.0),
    ("temp_max", "temp_max_celsius", 10.0),
    ("temp_min", "temp_min_celsius", 10.0),
    ("time_to_empty_now", "time_to_empty_seconds", 1.0),
    ("time_to_full_now", "time_to_full_seconds", 1.0),
    ("voltage_boot", "voltage_boot", 1e6),
    ("voltage_max", "voltage_max", 1e6),
    ("voltage_max_design", "voltage_max_design", 1e6),
    ("voltage_min", "voltage_min", 1e6),
    ("voltage_min_design", "voltage_min_design", 1e6),
    ("voltage_now", "voltage_volt", 1e6),
    ("voltage_ocv", "voltage_ocv", 1e6),
];

/// Files with a text, which are labels of `node_power_supply_info`.
const TEXTS: [&str; 11] = [
    "capacity_level",
    "charge_type",
    "health",
    "manufacturer",
    "model_name",
    "scope",
    "serial_number",
    "status",
    "technology",
    "type",
    "usb_type",
];

pub(super) struct PowerSupply(PathBuf);

impl PowerSupply {
    pub(super) fn new(paths: &HostPaths) -> Self {
        Self(paths.sys.join("class/power_supply"))
    }
}

impl HostCollector for PowerSupply {
    fn name(&self) -> &'static str {
        "powersupplyclass"
    }

    fn collect(&mut self, reader: &mut Reader, output: &mut Output) -> Result<(), CollectError> {
        let supplies = names(&self.0)?;
        for supply in output.first(&supplies, MAX_SUPPLIES, "power supplies") {
            let folder = self.0.join(supply);
            for file in names(&folder).unwrap_or_default() {
                let Ok(at) = FILES.binary_search_by_key(&file.as_str(), |(file, ..)| file) else { continue };
                // A battery that is being changed has files that cannot be read.
                if let Some(value) = reader.number(&folder.join(&file)) {
                    let (_, metric, divisor) = FILES[at];
                    output.gauge(Name("node_power_supply_", metric, ""), &[("power_supply", supply)], value / divisor);
                }
            }
            let texts = TEXTS.map(|file| (file, reader.text(&folder.join(file)).unwrap_or_default().to_owned()));
            let mut labels: Vec<(&str, &str)> = texts.iter().map(|(file, text)| (*file, text.as_str())).collect();
            labels.push(("power_supply", supply));
            output.gauge("node_power_supply_info", &labels, 1.0);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::FILES;

    #[test]
    fn the_files_are_sorted() {
        assert!(FILES.is_sorted_by(|one, next| one.0 < next.0));
    }
}
