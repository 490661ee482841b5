//! Reads and writes of disks, from /proc/diskstats.

use std::path::PathBuf;

use super::output::Output;
use super::reader::{Reader, lines};
use super::{CollectError, HostCollector, HostPaths};

/// The columns behind the device's name: metric, and what a unit of the column is of the metric's.
#[rustfmt::skip]
const COLUMNS: [(&str, f64); 17] = [
    ("node_disk_reads_completed_total", 1.0),
    ("node_disk_reads_merged_total", 1.0),
    ("node_disk_read_bytes_total", SECTOR_BYTES),
    ("node_disk_read_time_seconds_total", 0.001),
    ("node_disk_writes_completed_total", 1.0),
    ("node_disk_writes_merged_total", 1.0),
    ("node_disk_written_bytes_total", SECTOR_BYTES),
    ("node_disk_write_time_seconds_total", 0.001),
    ("node_disk_io_now", 1.0),
    ("node_disk_io_time_seconds_total", 0.001),
    ("node_disk_io_time_weighted_seconds_total", 0.001),
    ("node_disk_discards_completed_total", 1.0),
    ("node_disk_discards_merged_total", 1.0),
    ("node_disk_discarded_sectors_total", 1.0),
    ("node_disk_discard_time_seconds_total", 0.001),
    ("node_disk_flush_requests_total", 1.0),
    ("node_disk_flush_requests_time_seconds_total", 0.001),
];

/// A sector of /proc/diskstats, whatever the disk's sectors are.
const SECTOR_BYTES: f64 = 512.0;

pub(super) struct Diskstats {
    file: PathBuf,
    /// /sys/block.
    block: PathBuf,
    /// What udev knows of the devices, where the host's root is visible.
    udev: Option<PathBuf>,
}

impl Diskstats {
    pub(super) fn new(paths: &HostPaths) -> Self {
        let udev = paths.root.as_ref().map(|root| root.join("run/udev/data"));
        Self { file: paths.proc.join("diskstats"), block: paths.sys.join("block"), udev }
    }
}

impl HostCollector for Diskstats {
    fn name(&self) -> &'static str {
        "diskstats"
    }

    fn collect(&mut self, reader: &mut Reader, output: &mut Output) -> Result<(), CollectError> {
        let mut devices = Vec::new();
        for line in lines(reader.required(&self.file)?) {
            let mut words = line.split_ascii_whitespace();
            let (Some(major), Some(minor), Some(device)) = (words.next(), words.next(), words.next()) else { continue };
            if is_left_out(device) {
                continue;
            }
            // Kernels before 4.18 have no discards, those before 5.5 no flushes.
            for ((name, unit), value) in COLUMNS.iter().zip(words.map_while(|word| word.parse::<f64>().ok())) {
                // A quotient is the number that is next to the exact value; a product with 0.001 is not always.
                let value = if *unit < 1.0 { value / 1000.0 } else { value * unit };
                output.gauge(*name, &[("device", device)], value);
            }
            devices.push((device.to_owned(), major.to_owned(), minor.to_owned()));
        }
        for (device, major, minor) in devices {
            self.report_device(reader, output, &device, &major, &minor);
        }
        Ok(())
    }
}

impl Diskstats {
    fn report_device(&self, reader: &mut Reader, output: &mut Output, device: &str, major: &str, minor: &str) {
        // The slash of a name such as `cciss/c0d0` is a `!` in /sys.
        let rotational = reader.text(&self.block.join(device.replace('/', "!")).join("queue/rotational")).unwrap_or("0").to_owned();
        let udev = self.udev.as_ref().and_then(|udev| reader.read(&udev.join(format!("b{major}:{minor}"))).ok()).unwrap_or_default();
        let property = |wanted: &str| {
            let property =
                |line: &'_ str| line.strip_prefix("E:").and_then(|line| line.split_once('=')).is_some_and(|(name, _)| name == wanted);
            lines(udev).find(|line| property(line)).and_then(|line| line.split_once('=')).map_or("", |(_, value)| value)
        };
        let serial = ["SCSI_IDENT_SERIAL", "ID_SERIAL_SHORT", "ID_SERIAL"].into_iter().map(property).find(|serial| !serial.is_empty());
        let labels = [
            ("device", device),
            ("major", major),
            ("minor", minor),
            ("model", property("ID_MODEL")),
            ("path", property("ID_PATH")),
            ("revision", property("ID_REVISION")),
            ("rotational", &rotational),
            ("serial", serial.unwrap_or_default()),
            ("wwn", property("ID_WWN")),
        ];
        output.gauge("node_disk_info", &labels, 1.0);
    }
}

/// Whether a device is one that node_exporter leaves out by default: memory, loop devices, floppies, and partitions.
fn is_left_out(device: &str) -> bool {
    let without_number = device.trim_end_matches(|c: char| c.is_ascii_digit());
    if without_number.len() == device.len() {
        return false;
    }
    if matches!(without_number, "ram" | "zram" | "loop" | "fd") {
        return true;
    }
    let is_letter = |rest: &str| rest.len() == 1 && rest.bytes().all(|byte| byte.is_ascii_lowercase());
    if ["hd", "sd", "vd", "xvd"].iter().any(|kind| without_number.strip_prefix(kind).is_some_and(is_letter)) {
        return true;
    }
    // nvme0n1p2
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let namespace = without_number.strip_prefix("nvme").and_then(|rest| rest.strip_suffix('p')).and_then(|rest| rest.split_once('n'));
    namespace.is_some_and(|(controller, namespace)| is_number(controller) && is_number(namespace))
}

#[cfg(test)]
mod tests {
    use super::is_left_out;

    #[test]
    fn partitions_and_memory_are_left_out() {
        for device in "ram0 zram0 loop12 fd0 sda1 vdb12 xvda1 hda3 nvme0n1p2 nvme10n2p11".split(' ') {
            assert!(is_left_out(device), "{device}");
        }
        for device in
            "sda vda xvda nvme0n1 nvme1c1n1 dm-0 md127 sr0 mmcblk0 mmcblk0p1 zd16 nbd0 rbd1 sdaa sdaa1 cciss/c0d0 drbd0".split(' ')
        {
            assert!(!is_left_out(device), "{device}");
        }
    }
}
