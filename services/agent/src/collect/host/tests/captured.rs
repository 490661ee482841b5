//! Whole machines, whose files are in `testdata`: `debian-4.19.txt` is x86 with cgroup v1, `hidepid`, a processor that is offline and no PSI;
//! `aarch64-6.1.txt` is a small board; `virtual-6.18.txt` is a virtual machine without sensors.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::*;

impl Machine {
    /// A machine whose files stand in one text, each below a line with its path.
    fn captured(text: &str) -> Self {
        let machine = Self::with(&[]);
        for part in text.split("==> ").skip(1) {
            let (path, contents) = part.split_once(" <==\n").unwrap();
            machine.write(path, contents.as_bytes());
        }
        machine
    }

    /// All that is reported of it, by series as the text format has them, without `job` and without how long the collectors took.
    fn everything(&self) -> BTreeMap<String, f64> {
        let settings = HostSettings {
            paths: self.paths(),
            node_name: "node-1".into(),
            max_series: 10_000,
            textfile_folders: vec![],
            filter: Arc::default(),
        };
        let mut series = BTreeMap::new();
        for group in &mut all(&settings) {
            let mut readings = Readings::default();
            group.collect(&mut readings).unwrap();
            assert_eq!(readings.skipped_counts().collect::<Vec<_>>(), []);
            for gauge in &readings.gauges {
                let text = output::testing::text(gauge);
                let (id, _) = text.rsplit_once(' ').unwrap();
                assert!(series.insert(id.to_owned(), gauge.value).is_none(), "{id} is there twice");
            }
        }
        series.retain(|id, _| !id.starts_with("node_scrape_collector_duration_seconds"));
        series
    }
}

/// Checks lines of the text format.
fn assert_has(series: &BTreeMap<String, f64>, lines: &str) {
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (id, value) = line.rsplit_once(' ').unwrap();
        assert_eq!(series.get(id).copied(), Some(value.parse().unwrap()), "{id}");
    }
}

fn count(series: &BTreeMap<String, f64>, start: &str) -> usize {
    series.keys().filter(|id| id.starts_with(start)).count()
}

/// The collectors that had nothing or not all to report, but for the one of filesystems, which reads the mounts of the test itself.
fn failed(series: &BTreeMap<String, f64>) -> Vec<&str> {
    fn collector(id: &str) -> Option<&str> {
        id.strip_prefix("node_scrape_collector_success{collector=\"")?.strip_suffix("\"}")
    }
    let failed = series.iter().filter(|(_, value)| **value < 1.0);
    failed.filter_map(|(id, _)| collector(id)).filter(|name| *name != "filesystem").collect()
}

#[test]
fn x86_with_kernel_4_19() {
    let series = Machine::captured(include_str!("../testdata/debian-4.19.txt")).everything();
    assert_has(
        &series,
        r#"
        node_cpu_seconds_total{cpu="0",mode="user"} 29470.77
        node_cpu_seconds_total{cpu="2",mode="idle"} 633448.04
        node_cpu_seconds_total{cpu="1",mode="steal"} 1.71
        node_cpu_online{cpu="2"} 1
        node_cpu_online{cpu="3"} 0
        node_cpu_core_throttles_total{core="0",package="0"} 17
        node_cpu_package_throttles_total{package="0"} 19
        node_intr_total 2891023441
        node_boot_time_seconds 1731916800
        node_procs_blocked 1
        node_load15 0.25
        node_memory_MemAvailable_bytes 6076530688
        node_memory_Active_anon_bytes 1233010688
        node_memory_HugePages_Total 16
        node_memory_Hugepagesize_bytes 2097152
        node_memory_NFS_Unstable_bytes 0
        node_memory_DirectMap1G_bytes 2147483648
        node_vmstat_pgpgin 51204412
        node_vmstat_pswpout 4096
        node_vmstat_pgmajfault 30441
        node_vmstat_oom_kill 3
        node_disk_read_bytes_total{device="sda"} 26216658944
        node_disk_io_time_seconds_total{device="sda"} 2120.441
        node_disk_io_time_weighted_seconds_total{device="sda"} 9532.485
        node_disk_discarded_sectors_total{device="sda"} 240880
        node_disk_discard_time_seconds_total{device="sda"} 5.12
        node_disk_io_now{device="dm-0"} 2
        node_disk_reads_completed_total{device="sr0"} 0
        node_disk_info{device="sda",major="8",minor="0",rotational="1"} 1
        node_schedstat_running_seconds_total{cpu="2"} 35012.044120441
        node_schedstat_waiting_seconds_total{cpu="0"} 1204.41204412
        node_softnet_dropped_total{cpu="1"} 2
        node_softnet_received_rps_total{cpu="1"} 4
        node_network_receive_bytes_total{device="ens3"} 9120441204
        node_network_transmit_drop_total{device="ens3"} 3
        node_netstat_TcpExt_ListenDrops 9
        node_netstat_TcpExt_SyncookiesFailed 12
        node_netstat_Tcp_RetransSegs 4120
        node_netstat_Udp_RcvbufErrors 7
        node_netstat_Ip6_OutOctets 110441
        node_netstat_IpExt_InOctets 9240882408
        node_sockstat_TCP_tw 12
        node_sockstat_sockets_used 312
        node_filefd_maximum 810441
        node_entropy_available_bits 3204
        node_os_version{id="debian",name="Debian GNU/Linux"} 10
        "#,
    );
    assert_eq!(count(&series, "node_memory_"), 48, "all lines of meminfo");
    assert_eq!(count(&series, "node_vmstat_"), 7);
    assert_eq!(count(&series, "node_cpu_seconds_total"), 3 * 8, "the one that is offline has no times");
    assert_eq!(count(&series, "node_softnet_"), 3 * 6, "the length of the backlog is known since 5.10");
    assert_eq!(count(&series, "node_disk_flush"), 0, "flushes are counted since 5.5");
    assert_eq!(count(&series, "node_disk_info"), 3, "neither partitions nor loop devices");
    // Written with PSI off, without sensors, batteries and tables of addresses.
    assert_eq!(failed(&series), ["arp", "hwmon", "powersupplyclass", "pressure", "thermal_zone", "udp_queues"]);
}

#[test]
fn aarch64_with_kernel_6_1() {
    let series = Machine::captured(include_str!("../testdata/aarch64-6.1.txt")).everything();
    assert_has(
        &series,
        r#"
        node_cpu_seconds_total{cpu="1",mode="softirq"} 1.12
        node_cpu_online{cpu="1"} 1
        node_cpu_frequency_min_hertz{cpu="0"} 600000000
        node_cpu_scaling_frequency_hertz{cpu="0"} 700000000
        node_cpu_scaling_governor{cpu="0",governor="ondemand"} 1
        node_cpu_scaling_governor{cpu="0",governor="schedutil"} 0
        node_memory_MemTotal_bytes 3975491584
        node_memory_KReclaimable_bytes 93392896
        node_memory_ShadowCallStack_bytes 1056768
        node_memory_CmaFree_bytes 513232896
        node_memory_VmallocTotal_bytes 263872053248
        node_vmstat_pgfault 81204412
        node_vmstat_oom_kill 0
        node_disk_flush_requests_total{device="mmcblk0"} 120
        node_disk_flush_requests_time_seconds_total{device="nvme0n1"} 0.5
        node_disk_written_bytes_total{device="mmcblk0p2"} 2109664768
        node_disk_discarded_sectors_total{device="nvme0n1"} 960000
        node_pressure_cpu_waiting_seconds_total 812.04412
        node_pressure_io_stalled_seconds_total 91.204412
        node_pressure_memory_stalled_seconds_total 0
        node_softnet_backlog_len{cpu="1"} 5
        node_filefd_maximum 9223372036854775807
        node_thermal_zone_temp{type="cpu-thermal",zone="0"} 47.225
        node_hwmon_temp_celsius{chip="cpu_thermal",sensor="temp1"} 47.225
        node_hwmon_in_lcrit_alarm_volts{chip="rpi_volt",sensor="in0"} 0
        node_os_version{id="debian",name="Debian GNU/Linux"} 12
        "#,
    );
    assert_eq!(count(&series, "node_memory_DirectMap"), 0, "x86 alone tells how the kernel maps the memory");
    assert_eq!(count(&series, "node_cpu_core_throttles"), 0);
    assert_eq!(count(&series, "node_pressure_irq"), 0);
    assert_eq!(count(&series, "node_disk_info"), 4, "partitions of cards are devices to node_exporter, those of NVMe are not");
    let has_clock = |id: &String| id.starts_with("node_time_clocksource_available_info") && id.contains("arch_sys_counter");
    assert!(series.keys().any(has_clock));
}

#[test]
fn a_virtual_machine_with_kernel_6_18() {
    let series = Machine::captured(include_str!("../testdata/virtual-6.18.txt")).everything();
    assert_eq!(count(&series, "node_cpu_seconds_total"), 2 * 8);
    assert_eq!(count(&series, "node_cpu_frequency"), 0);
    assert_eq!(count(&series, "node_disk_info"), 1, "neither loop devices nor compressed memory");
    assert_eq!(count(&series, "node_pressure_"), 5);
    assert_eq!(count(&series, "node_vmstat_"), 7);
    assert_eq!(count(&series, "node_softnet_backlog_len"), 2);
    for name in ["Balloon", "Zswapped", "SecPageTables", "FilePmdMapped"] {
        assert_eq!(count(&series, &format!("node_memory_{name}_bytes")), 1, "{name}");
    }
    // Its kernel is built without statistics of the scheduler.
    assert!(failed(&series).contains(&"schedstat"));
}

/// Every fourth of 256 processors is offline; 40 disks; both grow the files beyond what the reader keeps.
#[test]
fn a_machine_with_256_processors_and_40_disks() {
    let mut stat = String::from("cpu  1024 0 512 8192 16 0 8 0 0 0\n");
    let mut softnet = String::new();
    for cpu in (0..256).filter(|cpu| cpu % 4 != 3) {
        let _ = writeln!(stat, "cpu{cpu} {} 0 512 8192 16 0 8 0 0 0", 1000 + cpu);
        let columns = "00000000 ".repeat(11);
        let _ = writeln!(softnet, "{cpu:08x} {columns}{cpu:08x} 00000000 00000000");
    }
    let _ = writeln!(stat, "intr 777 {}\nctxt 5\nbtime 1795600800\nprocesses 6\nprocs_running 7\nprocs_blocked 8", "12345 ".repeat(9000));
    let mut disks = String::new();
    for disk in 0..40 {
        let _ = writeln!(disks, " 259 {:7} nvme{disk}n1 {disk} 0 1 2 3 4 5 6 0 8 9 0 0 0 0 0 0", disk * 5);
        for partition in 1..=4 {
            let _ = writeln!(disks, " 259 {:7} nvme{disk}n1p{partition} 1 0 1 2 3 4 5 6 0 8 9 0 0 0 0 0 0", disk * 5 + partition);
        }
    }
    let machine = Machine::with(&[
        ("proc/stat", stat.as_bytes()),
        ("proc/net/softnet_stat", softnet.as_bytes()),
        ("proc/diskstats", disks.as_bytes()),
        ("sys/devices/system/cpu/present", b"0-255\n"),
    ]);
    let online: Vec<String> = (0..64).map(|four| format!("{}-{}", four * 4, four * 4 + 2)).collect();
    machine.write("sys/devices/system/cpu/online", (online.join(",") + "\n").as_bytes());
    let series = machine.everything();
    assert_has(
        &series,
        r#"
        node_cpu_seconds_total{cpu="254",mode="user"} 12.54
        node_cpu_online{cpu="254"} 1
        node_cpu_online{cpu="255"} 0
        node_softnet_processed_total{cpu="254"} 254
        node_intr_total 777
        node_forks_total 6
        node_disk_reads_completed_total{device="nvme39n1"} 39
        "#,
    );
    assert_eq!(count(&series, "node_cpu_seconds_total"), 192 * 8);
    assert_eq!(count(&series, "node_cpu_online"), 256);
    assert_eq!(count(&series, "node_disk_io_now"), 40);
}
