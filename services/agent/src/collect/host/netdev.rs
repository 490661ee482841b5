//! Traffic of the host's network devices, from /proc/net/dev, and their properties, from /sys/class/net.
//!
//! Devices of containers are left out: there is one for each pod, with a new name each time.

use std::path::PathBuf;

use super::output::{Name, Output};
use super::reader::Reader;
use super::{CollectError, HostCollector, HostPaths, missing};
use crate::collect::devices::is_of_containers;

/// The columns of /proc/net/dev behind the device's name.
const COLUMNS: [&str; 16] = [
    "receive_bytes",
    "receive_packets",
    "receive_errs",
    "receive_drop",
    "receive_fifo",
    "receive_frame",
    "receive_compressed",
    "receive_multicast",
    "transmit_bytes",
    "transmit_packets",
    "transmit_errs",
    "transmit_drop",
    "transmit_fifo",
    "transmit_colls",
    "transmit_carrier",
    "transmit_compressed",
];

pub(super) struct Netdev(PathBuf);

impl Netdev {
    pub(super) fn new(paths: &HostPaths) -> Self {
        Self(paths.net().join("dev"))
    }
}

impl HostCollector for Netdev {
    fn name(&self) -> &'static str {
        "netdev"
    }

    fn collect(&mut self, reader: &mut Reader, output: &mut Output) -> Result<(), CollectError> {
        let mut found = false;
        // Lines of bytes, because the name of a device may be anything but white space and slashes; one that is not UTF-8 cannot be a label.
        for line in reader.required(&self.0)?.split(|byte| *byte == b'\n') {
            // The name ends at the last colon, because it may contain one. The two headings have none.
            let Some(colon) = line.iter().rposition(|byte| *byte == b':') else { continue };
            let Ok(device) = std::str::from_utf8(line[..colon].trim_ascii()) else { continue };
            if is_of_containers(device) {
                continue;
            }
            let counters = std::str::from_utf8(&line[colon + 1..]).unwrap_or_default();
            let counters: Vec<f64> = counters.split_ascii_whitespace().map_while(|counter| counter.parse().ok()).collect();
            if counters.len() < COLUMNS.len() {
                continue;
            }
            found = true;
            for (name, value) in COLUMNS.iter().zip(counters) {
                output.gauge(Name("node_network_", name, "_total"), &[("device", device)], value);
            }
        }
        if found { Ok(()) } else { Err(missing(&self.0, "any device of the host")) }
    }
}

/// Files of /sys/class/net/DEVICE with a number, and the end of the metric's name.
const PROPERTIES: [(&str, &str); 17] = [
    ("addr_assign_type", "address_assign_type"),
    ("carrier", "carrier"),
    ("carrier_changes", "carrier_changes_total"),
    ("carrier_up_count", "carrier_up_changes_total"),
    ("carrier_down_count", "carrier_down_changes_total"),
    ("dev_id", "device_id"),
    ("dormant", "dormant"),
    ("flags", "flags"),
    ("ifindex", "iface_id"),
    ("iflink", "iface_link"),
    ("link_mode", "iface_link_mode"),
    ("mtu", "mtu_bytes"),
    ("name_assign_type", "name_assign_type"),
    ("netdev_group", "net_dev_group"),
    ("type", "protocol_type"),
    ("tx_queue_len", "transmit_queue_length"),
    ("statistics/rx_nohandler", "receive_nohandler_total"),
];

/// The flag of a device that an administrator has put up.
const FLAG_UP: u64 = 1;

pub(super) struct Netclass(PathBuf);

impl Netclass {
    pub(super) fn new(paths: &HostPaths) -> Self {
        Self(paths.sys.join("class/net"))
    }
}

impl HostCollector for Netclass {
    fn name(&self) -> &'static str {
        "netclass"
    }

    fn collect(&mut self, reader: &mut Reader, output: &mut Output) -> Result<(), CollectError> {
        let mut devices = super::reader::names(&self.0)?;
        // The folder has files as well, such as `bonding_masters`.
        devices.retain(|device| !is_of_containers(device) && self.0.join(device).is_dir());
        for device in &devices {
            let folder = self.0.join(device);
            let labels = [("device", device.as_str())];
            let mut flags = 0;
            for (file, name) in PROPERTIES {
                // Some cannot be read while the device is down.
                let Some(value) = reader.text(&folder.join(file)).and_then(number) else { continue };
                if file == "flags" {
                    flags = value;
                }
                output.count(Name("node_network_", name, ""), &labels, value);
            }
            // In megabits a second; -1 where it is not known, which node_exporter shows as well.
            if let Some(megabits) = reader.number(&folder.join("speed")) {
                output.gauge("node_network_speed_bytes", &labels, megabits * 1e6 / 8.0);
            }
            let [address, broadcast, duplex, alias, state] = ["address", "broadcast", "duplex", "ifalias", "operstate"]
                .map(|file| reader.text(&folder.join(file)).unwrap_or_default().to_owned());
            output.gauge("node_network_up", &labels, f64::from(u8::from(state == "up")));
            let admin_state = if flags & FLAG_UP == 0 { "down" } else { "up" };
            let info = [
                ("address", address.as_str()),
                ("adminstate", admin_state),
                ("broadcast", &broadcast),
                ("device", device),
                ("duplex", &duplex),
                ("ifalias", &alias),
                ("operstate", &state),
            ];
            output.gauge("node_network_info", &info, 1.0);
        }
        if devices.is_empty() { Err(missing(&self.0, "any device of the host")) } else { Ok(()) }
    }
}

/// A decimal number, or a hexadecimal one behind `0x`.
fn number(text: &str) -> Option<u64> {
    text.strip_prefix("0x").map_or_else(|| text.parse().ok(), |hexadecimal| u64::from_str_radix(hexadecimal, 16).ok())
}
