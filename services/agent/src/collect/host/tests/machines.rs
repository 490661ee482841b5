//! Files as kernels from 4.19 to 6.x write them on machines of different kinds.

use std::fmt::Write as _;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::collect::Collectors;
use crate::metrics::AgentMetrics;

#[test]
fn processors_of_small_and_large_machines() {
    let one = Machine::with(&[(
        "proc/stat",
        b"cpu  10132153 290696 3084719 46828483 16683 0 25195 0 175628 0\ncpu0 10132153 290696 3084719 46828483 16683 0 25195 11 175628 7\n\
        intr 1462898 25 9 0\nctxt 115315\nbtime 1769041600\nprocesses 26442\nprocs_running 1\nprocs_blocked 2\nsoftirq 1 2 3\n",
    )]);
    let (texts, error) = collected(&mut cpu::Cpu::new(&one.paths()));
    assert_eq!((texts.len(), error), (10, None));
    assert_eq!(value(&texts, r#"node_cpu_seconds_total{cpu="0",mode="user"}"#), Some(101_321.53));
    assert_eq!(value(&texts, r#"node_cpu_seconds_total{cpu="0",mode="steal"}"#), Some(0.11));
    assert_eq!(value(&texts, r#"node_cpu_guest_seconds_total{cpu="0",mode="nice"}"#), Some(0.07));
    let (texts, _) = collected(&mut stat::Stat::new(&one.paths()));
    let expected =
        ["node_intr_total 1462898", "node_context_switches_total 115315", "node_boot_time_seconds 1769041600", "node_forks_total 26442"];
    assert_eq!(texts[..4], expected);
    assert_eq!(texts[4..], ["node_procs_running 1", "node_procs_blocked 2"]);

    // Every fourth of 256 is offline and has no line.
    let mut text = String::from("cpu  1 2 3 4 5 6 7 8 9 10\n");
    for cpu in (0..256).filter(|cpu| cpu % 4 != 3) {
        let _ = writeln!(text, "cpu{cpu} 1 2 3 4 5 6 7 8 9 10");
    }
    let _ = writeln!(text, "intr {}", "12345 ".repeat(20_000));
    let many = Machine::with(&[("proc/stat", text.as_bytes()), ("sys/devices/system/cpu/isolated", b"2,8-9\n")]);
    let (texts, error) = collected(&mut cpu::Cpu::new(&many.paths()));
    assert_eq!((texts.len(), error), (192 * 10 + 3, None));
    assert_eq!(value(&texts, r#"node_cpu_isolated{cpu="9"}"#), Some(1.0));
    assert!(value(&texts, r#"node_cpu_seconds_total{cpu="3",mode="user"}"#).is_none());
    assert_eq!(value(&collected(&mut stat::Stat::new(&many.paths())).0, "node_intr_total"), Some(12_345.0));
}

#[test]
fn times_of_processors_never_fall_unless_they_start_anew() {
    let machine = Machine::with(&[]);
    let mut cpu = cpu::Cpu::new(&machine.paths());
    let mut round = |lines: &str| {
        machine.write("proc/stat", lines.as_bytes());
        let (texts, error) = collected(&mut cpu);
        assert_eq!(error, None);
        let of = move |cpu: u32, mode: &str| value(&texts, &format!("node_cpu_seconds_total{{cpu=\"{cpu}\",mode=\"{mode}\"}}"));
        move |mode: &str| [0, 1].map(|cpu| of(cpu, mode))
    };
    let of = round("cpu0 100 0 100 5000 700 0 0 50 0 0\ncpu1 100 0 100 9000 0 0 0 0 0 0\n");
    assert_eq!(of("idle"), [Some(50.0), Some(90.0)]);
    // idle, iowait and steal of the first fall a little, and user grows.
    let of = round("cpu0 150 0 100 4990 698 0 0 49 0 0\ncpu1 100 0 100 9100 0 0 0 0 0 0\n");
    assert_eq!(of("user"), [Some(1.5), Some(1.0)]);
    assert_eq!(of("idle"), [Some(50.0), Some(91.0)], "it keeps what was reported");
    assert_eq!((of("iowait")[0], of("steal")[0]), (Some(7.0), Some(0.5)));
    let of = round("cpu0 150 0 100 5010 698 0 0 49 0 0\ncpu1 100 0 100 9100 0 0 0 0 0 0\n");
    assert_eq!((of("idle")[0], of("iowait")[0]), (Some(50.1), Some(7.0)), "until it has grown again");
    // The second was taken out and put in again.
    let of = round("cpu0 150 0 100 5010 698 0 0 49 0 0\ncpu1 1 0 1 8700 0 0 0 0 0 0\n");
    assert_eq!([of("user")[1], of("system")[1], of("idle")[1]], [Some(0.01), Some(0.01), Some(87.0)], "all of them start anew");
    assert_eq!(of("user")[0], Some(1.5));
    // The same, and the round between saw it offline.
    let of = round("cpu0 150 0 100 5010 698 0 0 49 0 0\n");
    assert_eq!(of("user"), [Some(1.5), None]);
    let of = round("cpu0 150 0 100 5010 698 0 0 49 0 0\ncpu1 0 0 0 8699 0 0 0 0 0 0\n");
    assert_eq!((of("user")[1], of("idle")[1]), (Some(0.0), Some(86.99)));
}

#[test]
fn memory_of_old_and_new_kernels() {
    let old = b"MemTotal:       16316128 kB\nActive(anon):     4 kB\nHugePages_Total:       3\nDirectMap4k:      1 kB\nbroken\nX: many kB\n\xff: 1 kB\n";
    let (texts, error) = collected(&mut meminfo::Meminfo::new(&Machine::with(&[("proc/meminfo", old)]).paths()));
    let expected = [
        "node_memory_MemTotal_bytes 16707715072",
        "node_memory_Active_anon_bytes 4096",
        "node_memory_HugePages_Total 3",
        "node_memory_DirectMap4k_bytes 1024",
    ];
    assert_eq!((texts.as_slice(), error), (expected.map(String::from).as_slice(), None));
    let (_, error) = collected(&mut meminfo::Meminfo::new(&Machine::with(&[("proc/meminfo", b"")]).paths()));
    assert!(error.unwrap().contains("meminfo does not contain"));

    let vm = b"nr_free_pages 1\npgpgin 12\npgpgout 13\npswpin 0\npgfault 5\npgmajfault 6\nthp_fault_alloc 9\noom_kill 2\noom_kill_x\n";
    let (texts, _) = collected(&mut vmstat::Vmstat::new(&Machine::with(&[("proc/vmstat", vm)]).paths()));
    let names: Vec<&str> = texts.iter().map(|text| text.split_once(' ').unwrap().0).collect();
    let expected = ["node_vmstat_pgpgin", "node_vmstat_pgpgout", "node_vmstat_pswpin", "node_vmstat_pgfault", "node_vmstat_pgmajfault"];
    assert_eq!((&names[..5], names[5]), (expected.as_slice(), "node_vmstat_oom_kill"));
}

#[test]
fn pressure_is_missing_on_old_kernels_and_has_interrupts_on_new_ones() {
    let (texts, error) = collected(&mut pressure::Pressure::new(&Machine::with(&[]).paths()));
    assert!(texts.is_empty() && error.unwrap().contains("the kernel does not have it"));
    let some = "some avg10=0.00 avg60=0.00 avg300=0.00 total=1500000\n";
    let both = some.to_owned() + "full avg10=0.00 avg60=0.00 avg300=0.00 total=500000\n";
    let machine = Machine::with(&[
        ("proc/pressure/cpu", both.as_bytes()),
        ("proc/pressure/io", both.as_bytes()),
        ("proc/pressure/memory", both.as_bytes()),
        ("proc/pressure/irq", b"full avg10=0.00 avg60=0.00 avg300=0.00 total=250000\n"),
    ]);
    let (texts, error) = collected(&mut pressure::Pressure::new(&machine.paths()));
    assert_eq!((texts.len(), error), (6, None));
    assert_eq!(value(&texts, "node_pressure_cpu_waiting_seconds_total"), Some(1.5));
    assert_eq!(value(&texts, "node_pressure_irq_stalled_seconds_total"), Some(0.25));
}

#[test]
fn disks_of_old_and_new_kernels() {
    // 4.17 has 11 columns, 4.18 four more, 5.5 two more.
    let machine = Machine::with(&[
        (
            "proc/diskstats",
            b"   8       0 sda 25354637 34367663 1003346126 18492372 28444756 11134226 505697032 63877960 0 9653880 82621804\n\
            \x20  8       1 sda1 1 2 3 4 5 6 7 8 9 10 11\n   7       0 loop0 1 0 0 0 0 0 0 0 0 0 0\nbroken line\n\n\
            \x20259      0 nvme0n1 47114 4 4643973 21650 1078320 43950 39451633 1011053 0 222766 1032546 1 2 3 4 5 6\n",
        ),
        ("sys/block/sda/queue/rotational", b"1\n"),
        ("run/udev/data/b259:0", b"S:disk/by-id/x\nE:ID_SERIAL=abc_123\nE:ID_SERIAL_SHORT=123\nE:ID_MODEL=A=B\nE:ID_WWN=eui.1\n"),
    ]);
    let (texts, error) = collected(&mut diskstats::Diskstats::new(&machine.paths()));
    assert_eq!((texts.len(), error), (11 + 17 + 2, None));
    assert_eq!(value(&texts, r#"node_disk_read_bytes_total{device="sda"}"#), Some(1_003_346_126.0 * 512.0));
    assert_eq!(value(&texts, r#"node_disk_io_time_seconds_total{device="nvme0n1"}"#), Some(222.766));
    assert_eq!(value(&texts, r#"node_disk_flush_requests_time_seconds_total{device="nvme0n1"}"#), Some(0.006));
    assert!(texts.contains(&r#"node_disk_info{device="sda",major="8",minor="0",rotational="1"} 1"#.to_owned()), "{texts:?}");
    let known = r#"node_disk_info{device="nvme0n1",major="259",minor="0",model="A=B",rotational="0",serial="123",wwn="eui.1"} 1"#;
    assert!(texts.contains(&known.to_owned()), "{texts:?}");

    let many: String =
        (0..40).fold(String::new(), |text, disk| text + &format!("8 {disk} sd{} 1 2 3 4 5 6 7 8 9 10 11\n", "a".repeat(disk + 1)));
    let (texts, _) = collected(&mut diskstats::Diskstats::new(&Machine::with(&[("proc/diskstats", many.as_bytes())]).paths()));
    assert_eq!(texts.len(), 40 * 12);
}

#[test]
fn processors_wait_and_take_packets() {
    let machine = Machine::with(&[
        (
            "proc/schedstat",
            b"version 15\ntimestamp 15819019232\ncpu0 0 0 0 0 0 0 2045936778163039 343796328169361 4767485306\ndomain0 ff 0 0\ncpu1 0 0\n",
        ),
        (
            "proc/net/softnet_stat",
            b"00008e78 00000001 00000002 00000000 00000000 00000000 00000000 00000000 00000003 00000004 00000005 00000006 00000007\n\
            0000000a 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000\nnot hexadecimal\n",
        ),
    ]);
    let (texts, error) = collected(&mut schedstat::Schedstat::new(&machine.paths()));
    assert_eq!((texts.len(), error), (3, None));
    assert_eq!(value(&texts, r#"node_schedstat_running_seconds_total{cpu="0"}"#), Some(2_045_936.778_163_039));
    let (texts, error) = collected(&mut softnet::Softnet::new(&machine.paths()));
    assert_eq!((texts.len(), error), (7 + 5, None));
    assert_eq!(value(&texts, r#"node_softnet_processed_total{cpu="7"}"#), Some(36_472.0), "the line says which processor it is");
    assert_eq!(value(&texts, r#"node_softnet_processed_total{cpu="1"}"#), Some(10.0));
}

#[test]
fn the_hosts_network_is_that_of_its_first_process() {
    let dev = |bytes: u32| {
        format!(
            "Inter-|   Receive  |  Transmit\n face |bytes packets|bytes packets\n  eth0: {bytes} 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n\
            eth0:1: 1 0 0 0 0 0 0 0 2 0 0 0 0 0 0 0\nveth12: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\neth9: gone\n"
        )
    };
    let machine = Machine::with(&[("proc/net/dev", dev(1).as_bytes())]);
    let bytes = |machine: &Machine| {
        let (texts, error) = collected(&mut netdev::Netdev::new(&machine.paths()));
        assert_eq!((texts.len(), error), (32, None));
        value(&texts, r#"node_network_receive_bytes_total{device="eth0"}"#)
    };
    assert_eq!(bytes(&machine), Some(1.0), "with hidepid the first process is hidden");
    machine.write("proc/1/net/dev", dev(100).as_bytes());
    assert_eq!(bytes(&machine), Some(100.0));
}

#[test]
fn protocols_and_sockets() {
    let machine = Machine::with(&[
        (
            "proc/net/netstat",
            b"TcpExt: SyncookiesSent ListenDrops TCPLoss\nTcpExt: 1 2 3\nIpExt: InOctets OutOctets\nIpExt: 4 5\nMPTcpExt: A\n",
        ),
        (
            "proc/net/snmp",
            b"Ip: Forwarding DefaultTTL\nIp: 1 64\nUdpLite: InDatagrams InErrors\nUdpLite: 9 6\nTcp: MaxConn CurrEstab\nTcp: -1 7\n",
        ),
        ("proc/net/snmp6", b"Ip6InOctets                     \t8\nIcmp6InErrors 9\nUdpLite6InErrors 10\nIp6OutRequests 1\nbroken\n"),
        ("proc/net/sockstat", b"sockets: used 229\nTCP: inuse 4 orphan 0 tw 4 alloc 17 mem 1\nFRAG: inuse 0 memory 0\nODD: inuse\n"),
        (
            "proc/net/udp",
            b"  sl  local_address\n 1: 00000000:0016 00000000:0000 07 0000000A:00000015 00:0 0\n 2: 0 0 07 00000001:00000001\n 3: x\n",
        ),
        (
            "proc/net/arp",
            b"IP address HW type\n192.0.2.1 0x1 0x2 00:11 * eth0\n192.0.2.2 0x1 0x2 00:12 * eth0\n10.0.0.1 0x1 0x2 00:12 * cali1\nshort\n",
        ),
    ]);
    let (texts, error) = collected(&mut net::Netstat::new(&machine.paths()));
    assert_eq!(error, None);
    let expected = "TcpExt_SyncookiesSent 1,TcpExt_ListenDrops 2,IpExt_InOctets 4,IpExt_OutOctets 5,Ip_Forwarding 1,UdpLite_InErrors 6,\
        Tcp_CurrEstab 7,Ip6_InOctets 8,Icmp6_InErrors 9,UdpLite6_InErrors 10";
    assert_eq!(texts.join(",").replace("node_netstat_", ""), expected);
    let (texts, error) = collected(&mut net::Sockstat::new(&machine.paths()));
    assert_eq!((texts.len(), error), (9, None));
    let page_bytes = f64::from(u32::try_from(rustix::param::page_size()).unwrap());
    assert_eq!(value(&texts, "node_sockstat_TCP_mem_bytes"), Some(page_bytes));
    let (texts, _) = collected(&mut net::UdpQueues::new(&machine.paths()));
    assert_eq!(texts, [r#"node_udp_queues{ip="v4",queue="tx"} 11"#, r#"node_udp_queues{ip="v4",queue="rx"} 22"#]);
    let (texts, _) = collected(&mut net::Arp::new(&machine.paths()));
    assert_eq!(texts, [r#"node_arp_entries{device="eth0"} 2"#]);
}

#[test]
fn properties_of_network_devices() {
    let machine = Machine::with(&[
        ("sys/class/net/eth0/address", b"02:42:ac:11:00:02\n"),
        ("sys/class/net/eth0/flags", b"0x1003\n"),
        ("sys/class/net/eth0/mtu", b"1500\n"),
        ("sys/class/net/eth0/speed", b"10000\n"),
        ("sys/class/net/eth0/operstate", b"up\n"),
        // More than 32 bits.
        ("sys/class/net/eth0/statistics/rx_nohandler", b"4294967301\n"),
        // A file beside the devices, where the module for bonds is loaded.
        ("sys/class/net/bonding_masters", b"bond0\n"),
        ("sys/class/net/wlan0/speed", b"-1\n"),
        ("sys/class/net/wlan0/operstate", b"down\n"),
        ("sys/class/net/veth0/mtu", b"1500\n"),
    ]);
    let (texts, error) = collected(&mut netdev::Netclass::new(&machine.paths()));
    assert_eq!(error, None);
    assert_eq!(value(&texts, r#"node_network_speed_bytes{device="eth0"}"#), Some(1.25e9));
    assert_eq!(value(&texts, r#"node_network_flags{device="eth0"}"#), Some(4099.0));
    assert_eq!(
        (value(&texts, r#"node_network_up{device="eth0"}"#), value(&texts, r#"node_network_up{device="wlan0"}"#)),
        (Some(1.0), Some(0.0))
    );
    assert!(texts.contains(&r#"node_network_info{address="02:42:ac:11:00:02",adminstate="up",device="eth0",operstate="up"} 1"#.to_owned()));
    assert_eq!(value(&texts, r#"node_network_receive_nohandler_total{device="eth0"}"#), Some(4_294_967_301.0));
    assert!(!texts.iter().any(|text| text.contains("veth0") || text.contains("bonding_masters")), "{texts:?}");
}

#[test]
fn sensors_of_servers_and_of_small_boards() {
    let (texts, error) = collected(&mut sensors::Cpufreq::new(&Machine::with(&[("sys/devices/system/cpu/online", b"0\n")]).paths()));
    assert!(texts.is_empty() && error.is_none(), "a machine without frequencies is not a failure");
    let machine = Machine::with(&[
        ("sys/devices/system/cpu/cpu3/cpufreq/scaling_cur_freq", b"1500000\n"),
        ("sys/devices/system/cpu/cpu3/cpufreq/scaling_governor", b"ondemand\n"),
        ("sys/devices/system/cpu/cpu3/cpufreq/scaling_available_governors", b"ondemand performance \n"),
        ("sys/devices/system/cpu/cpufreq/x", b""),
        ("sys/class/thermal/thermal_zone0/type", b"cpu-thermal\n"),
        ("sys/class/thermal/thermal_zone0/temp", b"48312\n"),
        ("sys/class/thermal/cooling_device1/type", b"Processor\n"),
        ("sys/class/thermal/cooling_device1/cur_state", b"2\n"),
        ("sys/class/hwmon/hwmon0/name", b"coretemp\n"),
        ("sys/class/hwmon/hwmon0/temp1_input", b"45500\n"),
        ("sys/class/hwmon/hwmon0/temp1_label", b"Core 0\n"),
        ("sys/class/hwmon/hwmon0/temp1_crit_alarm", b"0\n"),
        ("sys/class/hwmon/hwmon0/fan1_input", b"1200\n"),
        ("sys/class/hwmon/hwmon0/pwm1", b"128\n"),
        ("sys/class/hwmon/hwmon0/power1_average", b"12500000\n"),
        ("sys/class/hwmon/hwmon0/in0_input", b"damaged\n"),
    ]);
    let (texts, _) = collected(&mut sensors::Cpufreq::new(&machine.paths()));
    let expected = [
        r#"node_cpu_scaling_frequency_hertz{cpu="3"} 1500000000"#,
        r#"node_cpu_scaling_governor{cpu="3",governor="ondemand"} 1"#,
        r#"node_cpu_scaling_governor{cpu="3",governor="performance"} 0"#,
    ];
    assert_eq!(texts, expected);
    let (texts, _) = collected(&mut sensors::Thermal::new(&machine.paths()));
    assert_eq!(
        texts,
        [r#"node_cooling_device_cur_state{name="1",type="Processor"} 2"#, r#"node_thermal_zone_temp{type="cpu-thermal",zone="0"} 48.312"#]
    );
    let (texts, error) = collected(&mut sensors::Hwmon::new(&machine.paths()));
    let expected = [
        r#"node_hwmon_chip_names{chip="coretemp",chip_name="coretemp"} 1"#,
        r#"node_hwmon_fan_rpm{chip="coretemp",sensor="fan1"} 1200"#,
        r#"node_hwmon_power_average_watt{chip="coretemp",sensor="power1"} 12.5"#,
        r#"node_hwmon_pwm{chip="coretemp",sensor="pwm1"} 128"#,
        r#"node_hwmon_sensor_label{chip="coretemp",label="Core 0",sensor="temp1"} 1"#,
        r#"node_hwmon_temp_crit_alarm_celsius{chip="coretemp",sensor="temp1"} 0"#,
        r#"node_hwmon_temp_celsius{chip="coretemp",sensor="temp1"} 45.5"#,
    ];
    assert_eq!((texts.as_slice(), error), (expected.map(String::from).as_slice(), None));
}

/// What 400 processors have is more than a report takes.
#[tokio::test]
async fn a_machine_with_400_processors_reports_files_of_metrics_filesystems_and_network() {
    const MAX_SERIES: usize = 10_000;
    let (mut stat, mut schedstat, mut softnet) = (String::new(), String::from("version 15\n"), String::new());
    let machine = Machine::with(&[
        ("proc/loadavg", b"0.21 0.37 0.39 1/719 19737\n"),
        ("proc/net/dev", b"eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n"),
        ("sys/devices/system/cpu/present", b"0-399\n"),
        ("sys/devices/system/cpu/online", b"0-399\n"),
        ("text/backup.prom", b"backup_seconds 1.5\n"),
    ]);
    for cpu in 0..400 {
        let _ = writeln!(stat, "cpu{cpu} 1 2 3 4 5 6 7 8 9 10");
        let _ = writeln!(schedstat, "cpu{cpu} 0 0 0 0 0 0 1 2 3");
        let _ = writeln!(softnet, "{}{cpu:08x}", "00000001 ".repeat(12));
        let folder = format!("sys/devices/system/cpu/cpu{cpu}/cpufreq");
        machine.write(&format!("{folder}/scaling_cur_freq"), b"1500000\n");
        machine.write(&format!("{folder}/scaling_available_governors"), b"conservative ondemand userspace powersave performance\n");
    }
    for (file, contents) in [("proc/stat", stat), ("proc/schedstat", schedstat), ("proc/net/softnet_stat", softnet)] {
        machine.write(file, contents.as_bytes());
    }
    let textfile_folders = vec![machine.0.path().join("text")];
    let settings = HostSettings {
        paths: machine.paths(),
        node_name: "node-1".into(),
        max_series: MAX_SERIES,
        textfile_folders,
        filter: Arc::default(),
    };
    let metrics = Arc::new(AgentMetrics::new(&prometheus::Registry::new(), Duration::from_secs(2)).unwrap());
    let mut collectors = Collectors::start(all(&settings), metrics).unwrap().with_max_series(MAX_SERIES);
    // On a busy machine a collector may be late.
    let full = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            let sample = collectors.sample().await;
            if sample.gauges.len() == MAX_SERIES {
                return sample.gauges;
            }
        }
    });
    let gauges = full.await.expect("a full report");
    let count = |text: &str| gauges.iter().filter(|gauge| gauge.start.contains(text)).count();
    for series in [
        "backup_seconds",
        r#"node_scrape_collector_success{collector=\"textfile\""#,
        r#"node_scrape_collector_success{collector=\"filesystem\""#,
        "node_load1{",
        "node_network_receive_bytes_total",
    ] {
        assert_eq!(count(series), 1, "{series}");
    }
    assert_eq!((count("node_cpu_seconds_total"), count("node_softnet_processed_total")), (400 * 8, 400));
    assert!(count("node_cpu_scaling_governor") < 400 * 5, "what comes last is cut");
}

/// A file that grows without an end.
#[tokio::test]
async fn files_of_metrics_with_too_many_series_leave_the_others_in_the_report() {
    const MAX_SERIES: usize = 4000;
    let mut runaway = String::new();
    for run in 0..MAX_SERIES + 1000 {
        let _ = writeln!(runaway, "backup_seconds{{run=\"{run}\"}} 1");
    }
    let machine = Machine::with(&[
        ("proc/loadavg", b"0.21 0.37 0.39 1/719 19737\n"),
        ("proc/meminfo", b"MemTotal: 8000000 kB\n"),
        ("text/backup.prom", runaway.as_bytes()),
    ]);
    let settings = HostSettings {
        paths: machine.paths(),
        node_name: "node-1".into(),
        max_series: MAX_SERIES,
        textfile_folders: vec![machine.0.path().join("text")],
        filter: Arc::default(),
    };
    let metrics = Arc::new(AgentMetrics::new(&prometheus::Registry::new(), Duration::from_secs(2)).unwrap());
    let mut collectors = Collectors::start(all(&settings), metrics).unwrap().with_max_series(MAX_SERIES);
    let others = ["node_load1{", "node_memory_MemTotal_bytes", r#"node_scrape_collector_success{collector=\"filesystem\""#];
    // On a busy machine a collector may be late.
    let full = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            let gauges = collectors.sample().await.gauges;
            let has = |text: &str| gauges.iter().any(|gauge| gauge.start.contains(text));
            if gauges.len() == MAX_SERIES && others.iter().all(|series| has(series)) {
                return has("backup_seconds");
            }
        }
    });
    assert!(full.await.expect("a full report with all others"), "what there is room for is reported");
}

#[test]
fn batteries_and_mains() {
    let machine = Machine::with(&[
        ("sys/class/power_supply/AC/online", b"1\n"),
        ("sys/class/power_supply/AC/type", b"Mains\n"),
        ("sys/class/power_supply/BAT0/capacity", b"81\n"),
        ("sys/class/power_supply/BAT0/cycle_count", b"229\n"),
        ("sys/class/power_supply/BAT0/energy_now", b"49450000\n"),
        ("sys/class/power_supply/BAT0/power_now", b"not known\n"),
        ("sys/class/power_supply/BAT0/temp", b"314\n"),
        ("sys/class/power_supply/BAT0/voltage_now", b"12229000\n"),
        ("sys/class/power_supply/BAT0/status", b"Discharging\n"),
        ("sys/class/power_supply/BAT0/manufacturer", b"\xff\n"),
        ("sys/class/power_supply/BAT0/uevent", b"POWER_SUPPLY_NAME=BAT0\n"),
    ]);
    let (texts, error) = collected(&mut power_supply::PowerSupply::new(&machine.paths()));
    let expected = [
        r#"node_power_supply_online{power_supply="AC"} 1"#,
        r#"node_power_supply_info{power_supply="AC",type="Mains"} 1"#,
        r#"node_power_supply_capacity{power_supply="BAT0"} 81"#,
        r#"node_power_supply_cyclecount{power_supply="BAT0"} 229"#,
        r#"node_power_supply_energy_watthour{power_supply="BAT0"} 49.45"#,
        r#"node_power_supply_temp_celsius{power_supply="BAT0"} 31.4"#,
        r#"node_power_supply_voltage_volt{power_supply="BAT0"} 12.229"#,
        r#"node_power_supply_info{power_supply="BAT0",status="Discharging"} 1"#,
    ];
    assert_eq!((texts.as_slice(), error), (expected.map(String::from).as_slice(), None));
    assert!(collected(&mut power_supply::PowerSupply::new(&Machine::with(&[]).paths())).1.is_some());
}

#[test]
fn processors_that_are_offline_or_hot() {
    let machine = Machine::with(&[
        ("proc/stat", b"cpu0 1 2 3 4 5 6 7 8 9 10\ncpu2 1 2 3 4 5 6 7 8 9 10\n"),
        ("sys/devices/system/cpu/present", b"0-3\n"),
        ("sys/devices/system/cpu/online", b"0,2-2\n"),
        // An impossible list must not take for ever.
        ("sys/devices/system/cpu/isolated", b"0-4294967295\n"),
        ("sys/devices/system/cpu/cpu0/topology/physical_package_id", b"0\n"),
        ("sys/devices/system/cpu/cpu0/topology/core_id", b"4\n"),
        ("sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", b"5\n"),
        ("sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count", b"30\n"),
        // The other thread of that core.
        ("sys/devices/system/cpu/cpu1/topology/physical_package_id", b"0\n"),
        ("sys/devices/system/cpu/cpu1/topology/core_id", b"4\n"),
        ("sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count", b"5\n"),
        ("sys/devices/system/cpu/cpu1/thermal_throttle/package_throttle_count", b"30\n"),
        // One whose core alone counts.
        ("sys/devices/system/cpu/cpu2/topology/physical_package_id", b"1\n"),
        ("sys/devices/system/cpu/cpu2/topology/core_id", b"4\n"),
        ("sys/devices/system/cpu/cpu2/thermal_throttle/core_throttle_count", b"6\n"),
        ("sys/devices/system/cpu/cpufreq/x", b""),
    ]);
    let (texts, error) = collected(&mut cpu::Cpu::new(&machine.paths()));
    assert_eq!(error, None);
    let of = |name: &str| texts.iter().filter(|text| text.starts_with(name)).cloned().collect::<Vec<_>>();
    assert_eq!(of("node_cpu_isolated").len(), 8192);
    assert_eq!(
        of("node_cpu_online"),
        [1, 0, 1, 0].iter().enumerate().map(|(cpu, value)| format!("node_cpu_online{{cpu=\"{cpu}\"}} {value}")).collect::<Vec<_>>()
    );
    assert_eq!(
        of("node_cpu_core_throttles_total"),
        [r#"node_cpu_core_throttles_total{core="4",package="0"} 5"#, r#"node_cpu_core_throttles_total{core="4",package="1"} 6"#]
    );
    assert_eq!(of("node_cpu_package_throttles_total"), [r#"node_cpu_package_throttles_total{package="0"} 30"#]);
}

#[test]
fn the_system_by_its_files() {
    let machine = Machine::with(&[
        (
            "usr/lib/os-release",
            b"ID=ubuntu\nID_LIKE=debian\nNAME=\"Ubuntu\"\nVERSION_ID=\"22.04.3\"\nPRETTY_NAME=\"Ubuntu \xf0\x9f\x90\xa7\"\n",
        ),
        ("proc/sys/fs/file-nr", b"1024\t0\t1631329\n"),
        ("proc/sys/kernel/random/entropy_avail", b"256\n"),
        ("proc/loadavg", b"0.21 0.37 0.39 1/719 19737\n"),
        ("sys/devices/system/clocksource/clocksource0/available_clocksource", b"arch_sys_counter \n"),
    ]);
    let (texts, error) = collected(&mut system::Os::under(machine.0.path().to_owned()));
    let info = "node_os_info{id=\"ubuntu\",id_like=\"debian\",name=\"Ubuntu\",pretty_name=\"Ubuntu \u{1f427}\",version_id=\"22.04.3\"} 1";
    assert_eq!((texts[0].as_str(), error), (info, None));
    assert_eq!(texts[1], r#"node_os_version{id="ubuntu",id_like="debian",name="Ubuntu"} 22.04"#);
    assert_eq!(
        collected(&mut small::FileDescriptors::new(&machine.paths())).0,
        ["node_filefd_allocated 1024", "node_filefd_maximum 1631329"]
    );
    assert_eq!(collected(&mut small::Numbers::entropy(&machine.paths())).0, ["node_entropy_available_bits 256"]);
    assert!(collected(&mut small::Numbers::connections(&machine.paths())).1.unwrap().contains("the kernel tracks none"));
    assert_eq!(collected(&mut small::Selinux::new(&machine.paths())).0, ["node_selinux_enabled 0"]);
    assert_eq!(collected(&mut loadavg::LoadAverage::new(&machine.paths())).0, ["node_load1 0.21", "node_load5 0.37", "node_load15 0.39"]);
    assert!(collected(&mut system::Time::new(&machine.paths())).0[1].contains(r#"clocksource="arch_sys_counter""#));
    let (texts, _) = collected(&mut system::Uname::of("node-1"));
    assert!(texts[0].contains(r#"nodename="node-1""#) && texts[0].contains(r#"sysname="Linux""#), "{texts:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a file contains, a collector ends with readings or with an error.
    #[test]
    fn no_contents_make_a_collector_panic(contents in prop::collection::vec(any::<u8>(), 0..400), text in "(cpu[0-9]{0,3}|intr|eth0:|some|8|Tcp:|E:)?[ 0-9a-f:=.xe\n-]{0,200}") {
        for contents in [contents.as_slice(), text.as_bytes()] {
            let files = ["stat", "loadavg", "meminfo", "vmstat", "pressure/cpu", "diskstats", "sys/fs/file-nr", "schedstat", "net/softnet_stat", "net/dev",
                "net/netstat", "net/snmp", "net/snmp6", "net/sockstat", "net/udp", "net/arp"];
            let machine = Machine::with(&[("etc/os-release", contents), ("sys/class/net/eth0/flags", contents), ("sys/class/hwmon/hwmon0/temp1_input", contents)]);
            for file in files {
                machine.write(&format!("proc/{file}"), contents);
            }
            let settings = HostSettings { paths: machine.paths(), node_name: "node-1".into(), max_series: 1000, textfile_folders: vec![], filter: Arc::default() };
            for group in &mut all(&settings) {
                let mut readings = Readings::default();
                prop_assert!(group.collect(&mut readings).is_ok());
                for gauge in &readings.gauges {
                    prop_assert!(gauge.value.is_finite());
                    let json = format!("{}{}}}", gauge.start, gauge.value);
                    let metric = golectra_protocol::json::decode_metric(json.as_bytes());
                    prop_assert!(metric.is_ok(), "{}", json);
                }
            }
        }
    }
}

#[test]
fn files_of_metrics_are_read_whole_or_not_at_all() {
    let machine = Machine::with(&[
        ("text/b.prom", b"# TYPE backup_bytes gauge\nbackup_bytes{job=\"nightly\",disk=\"a\"} 5\nbackup_bytes{disk=\"a\",job=\"nightly\"} 6\nnode_load1 7\n"),
        ("text/a.prom", b"backup_seconds 1.5\n"),
        ("text/broken.prom", b"whole 1\nbroken{ 2\n"),
        ("text/ignored.txt", b"ignored 1\n"),
    ]);
    let folder = machine.0.path().join("text");
    let mut textfile = textfile::Textfile::of(std::slice::from_ref(&folder));
    let mut output = Output::new(1000, Arc::default());
    let mut round = || {
        let mut readings = Readings::default();
        textfile.collect(&mut Reader::default(), &mut output).unwrap();
        output.finish(&mut readings);
        let text = |gauge: &RenderedGauge| {
            let json = format!("{}{}}}", gauge.start, gauge.value);
            let metric = golectra_protocol::json::decode_metric(json.as_bytes()).unwrap();
            (metric.id.to_string(), gauge.value)
        };
        let skipped: u64 = readings.skipped_counts().map(|(_, count)| count).sum();
        (readings.gauges.iter().map(text).collect::<std::collections::BTreeMap<_, _>>(), skipped)
    };
    let (gauges, skipped) = round();
    let names: Vec<&str> = gauges.keys().map(|id| id.split('{').next().unwrap()).collect();
    let expected =
        ["backup_bytes", "backup_seconds", "node_textfile_mtime_seconds", "node_textfile_mtime_seconds", "node_textfile_scrape_error"];
    assert_eq!((names.as_slice(), skipped), (expected.as_slice(), 2), "the second of one series, and what is the host's own, are counted");
    assert_eq!(gauges[r#"backup_bytes{disk="a",exported_job="nightly",job="node-exporter"}"#].to_bits(), 5_f64.to_bits());
    assert_eq!(gauges[r#"node_textfile_scrape_error{job="node-exporter"}"#].to_bits(), 1_f64.to_bits());

    fs::remove_file(folder.join("broken.prom")).unwrap();
    assert_eq!(round().0[r#"node_textfile_scrape_error{job="node-exporter"}"#].to_bits(), 0_f64.to_bits());
    machine.write("text/large.prom", &vec![b'#'; (1 << 20) + 1]);
    fs::create_dir(folder.join("folder.prom")).unwrap();
    let (gauges, _) = round();
    assert_eq!(gauges[r#"node_textfile_scrape_error{job="node-exporter"}"#].to_bits(), 1_f64.to_bits());
    assert_eq!(gauges.len(), 5, "the other files are still read");
    fs::remove_dir_all(&folder).unwrap();
    assert_eq!(round().0.len(), 1, "a folder that is gone is an error alone");
}
