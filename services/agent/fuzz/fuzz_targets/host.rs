//! Whatever a file of /proc or /sys has, or a file of metrics, the collectors of the host end with gauges that a server reads.
#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use golectra_agent::collect::fuzzing::gauges;
use golectra_protocol::json;
use libfuzzer_sys::fuzz_target;

/// The files and what they have while another one is fuzzed. The first byte of an input says which one it is.
const FILES: [(&str, &str); 41] = [
    ("proc/stat", ""),
    ("proc/loadavg", ""),
    ("proc/meminfo", ""),
    ("proc/vmstat", ""),
    ("proc/pressure/cpu", ""),
    ("proc/pressure/irq", ""),
    ("proc/diskstats", "   8       0 sda 1 2 3 4 5 6 7 8 9 10 11\n"),
    ("proc/sys/fs/file-nr", ""),
    ("proc/sys/kernel/random/entropy_avail", ""),
    ("proc/schedstat", ""),
    ("proc/net/softnet_stat", ""),
    ("proc/net/dev", ""),
    ("proc/net/netstat", ""),
    ("proc/net/snmp", ""),
    ("proc/net/snmp6", ""),
    ("proc/net/sockstat", ""),
    ("proc/net/sockstat6", ""),
    ("proc/net/udp", ""),
    ("proc/net/arp", ""),
    ("etc/os-release", ""),
    ("run/udev/data/b8:0", ""),
    ("sys/class/net/eth0/flags", ""),
    ("sys/class/net/eth0/speed", ""),
    ("sys/class/net/eth0/operstate", ""),
    ("sys/class/hwmon/hwmon0/name", ""),
    ("sys/class/hwmon/hwmon0/temp1_input", "1000\n"),
    ("sys/class/hwmon/hwmon0/temp1_label", ""),
    ("sys/class/thermal/thermal_zone0/type", ""),
    ("sys/class/thermal/thermal_zone0/temp", "1000\n"),
    ("sys/class/thermal/cooling_device0/cur_state", ""),
    ("sys/class/power_supply/BAT0/capacity", ""),
    ("sys/class/power_supply/BAT0/model_name", ""),
    ("sys/devices/system/cpu/isolated", ""),
    ("sys/devices/system/cpu/online", "0\n"),
    ("sys/devices/system/cpu/present", "0-1\n"),
    ("sys/devices/system/cpu/cpu0/topology/core_id", "0\n"),
    ("sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "1000\n"),
    ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "b\n"),
    ("sys/devices/system/cpu/cpu0/cpufreq/scaling_available_governors", "a b\n"),
    ("sys/devices/system/clocksource/clocksource0/available_clocksource", ""),
    ("text/a.prom", ""),
];

/// The machine, in memory.
static MACHINE: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = tempfile::Builder::new().prefix("golectra-fuzz-").tempdir_in("/dev/shm").expect("a folder").keep();
    for (path, contents) in FILES {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, contents).expect("a file");
    }
    folder
});

fuzz_target!(|input: &[u8]| {
    let Some((which, contents)) = input.split_first() else { return };
    let (path, otherwise) = FILES[usize::from(*which) % FILES.len()];
    let path = MACHINE.join(path);
    fs::write(&path, contents).expect("a file");
    for gauge in gauges(&MACHINE) {
        json::decode_metric(gauge.as_bytes()).expect("a server reads it");
    }
    fs::write(&path, otherwise).expect("a file");
});
