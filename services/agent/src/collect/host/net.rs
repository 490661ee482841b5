//! The protocols and sockets of the host's network namespace, from /proc/net: netstat, sockstat, udp_queues, arp.

use std::path::PathBuf;

use super::output::{Name, Output};
use super::reader::{Reader, lines};
use super::{CollectError, HostCollector, HostPaths, missing};

/// Counters of protocols: what node_exporter takes of netstat, snmp and snmp6 by default.
pub(super) struct Netstat(PathBuf);

impl Netstat {
    pub(super) fn new(paths: &HostPaths) -> Self {
        Self(paths.net())
    }
}

impl HostCollector for Netstat {
    fn name(&self) -> &'static str {
        "netstat"
    }

    fn collect(&mut self, reader: &mut Reader, output: &mut Output) -> Result<(), CollectError> {
        for file in ["netstat", "snmp"] {
            // A line with the names of a protocol's counters is followed by one with the values.
            let mut names = None;
            for line in lines(reader.required(&self.0.join(file))?) {
                let Some(now) = line.split_once(':') else { continue };
                let Some((protocol, fields)) = names.take() else {
                    names = Some(now);
                    continue;
                };
                if protocol != now.0 {
                    names = Some(now);
                    continue;
                }
                for (field, value) in fields.split_ascii_whitespace().zip(now.1.split_ascii_whitespace()) {
                    report(output, protocol, field, value);
                }
            }
        }
        // Not there where IPv6 is off.
        if let Ok(text) = reader.read(&self.0.join("snmp6")) {
            for line in lines(text) {
                let mut words = line.split_ascii_whitespace();
                let (Some(field), Some(value)) = (words.next(), words.next()) else { continue };
                if let Some(six) = field.find('6') {
                    let (protocol, field) = field.split_at(six + 1);
                    report(output, protocol, field, value);
                }
            }
        }
        Ok(())
    }
}

fn report(output: &mut Output, protocol: &str, field: &str, value: &str) {
    if let Some(value) = value.parse().ok().filter(|_| is_reported(protocol, field)) {
        let name = format!("{protocol}_{field}");
        output.gauge(Name("node_netstat_", &name, ""), &[], value);
    }
}

fn is_reported(protocol: &str, field: &str) -> bool {
    match (protocol, field) {
        (_, "InErrors" | "InErrs")
        | ("Ip", "Forwarding")
        | ("Ip6" | "IpExt", "InOctets" | "OutOctets")
        | ("Icmp" | "Icmp6", "InMsgs" | "OutMsgs")
        | ("TcpExt", "TCPSynRetrans" | "TCPTimeouts" | "TCPOFOQueue" | "TCPRcvQDrop")
        | ("Tcp", "ActiveOpens" | "InSegs" | "OutSegs" | "OutRsts" | "PassiveOpens" | "RetransSegs" | "CurrEstab")
        | ("Udp" | "Udp6", "InDatagrams" | "OutDatagrams" | "NoPorts" | "RcvbufErrors" | "SndbufErrors") => true,
        ("TcpExt", field) => field.starts_with("Listen") || field.starts_with("Syncookies"),
        _ => false,
    }
}

/// Sockets by protocol.
pub(super) struct Sockstat(PathBuf);

impl Sockstat {
    pub(super) fn new(paths: &HostPaths) -> Self {
        Self(paths.net())
    }
}

impl HostCollector for Sockstat {
    fn name(&self) -> &'static str {
        "sockstat"
    }

    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    fn collect(&mut self, reader: &mut Reader, output: &mut Output) -> Result<(), CollectError> {
        let page_bytes = rustix::param::page_size() as f64;
        let mut found = false;
        for file in ["sockstat", "sockstat6"] {
            let Ok(text) = reader.read(&self.0.join(file)) else { continue };
            for line in lines(text) {
                let Some((protocol, fields)) = line.split_once(':') else { continue };
                let mut words = fields.split_ascii_whitespace();
                while let (Some(field), Some(value)) = (words.next(), words.next()) {
                    let Ok(value) = value.parse::<f64>() else { continue };
                    found = true;
                    output.gauge(Name("node_sockstat_", &format!("{protocol}_{field}"), ""), &[], value);
                    // Memory is counted in pages.
                    if field == "mem" {
                        output.gauge(Name("node_sockstat_", protocol, "_mem_bytes"), &[], value * page_bytes);
                    }
                }
            }
        }
        if found { Ok(()) } else { Err(missing(&self.0.join("sockstat"), "any socket")) }
    }
}

/// Bytes in the queues of all UDP sockets.
pub(super) struct UdpQueues(PathBuf);

impl UdpQueues {
    pub(super) fn new(paths: &HostPaths) -> Self {
        Self(paths.net())
    }
}

impl HostCollector for UdpQueues {
    fn name(&self) -> &'static str {
        "udp_queues"
    }

    fn collect(&mut self, reader: &mut Reader, output: &mut Output) -> Result<(), CollectError> {
        let mut found = false;
        for (file, ip) in [("udp", "v4"), ("udp6", "v6")] {
            let Ok(text) = reader.read(&self.0.join(file)) else { continue };
            found = true;
            let (mut sent, mut received) = (0_u64, 0_u64);
            for (to_send, to_read) in lines(text).skip(1).filter_map(queues) {
                sent = sent.saturating_add(to_send);
                received = received.saturating_add(to_read);
            }
            output.count("node_udp_queues", &[("ip", ip), ("queue", "tx")], sent);
            output.count("node_udp_queues", &[("ip", ip), ("queue", "rx")], received);
        }
        if found { Ok(()) } else { Err(missing(&self.0, "udp or udp6")) }
    }
}

fn queues(line: &str) -> Option<(u64, u64)> {
    let (sent, received) = line.split_ascii_whitespace().nth(4)?.split_once(':')?;
    Some((u64::from_str_radix(sent, 16).ok()?, u64::from_str_radix(received, 16).ok()?))
}

/// Entries of the ARP table by device.
pub(super) struct Arp(PathBuf);

impl Arp {
    pub(super) fn new(paths: &HostPaths) -> Self {
        Self(paths.net().join("arp"))
    }
}

impl HostCollector for Arp {
    fn name(&self) -> &'static str {
        "arp"
    }

    fn collect(&mut self, reader: &mut Reader, output: &mut Output) -> Result<(), CollectError> {
        let mut devices: Vec<(&str, u64)> = Vec::new();
        for device in lines(reader.required(&self.0)?).skip(1).filter_map(|line| line.split_ascii_whitespace().nth(5)) {
            match devices.iter_mut().find(|(known, _)| *known == device) {
                Some((_, entries)) => *entries += 1,
                None => devices.push((device, 1)),
            }
        }
        devices.retain(|(device, _)| !crate::collect::devices::is_of_containers(device));
        for (device, entries) in devices {
            output.count("node_arp_entries", &[("device", device)], entries);
        }
        Ok(())
    }
}
