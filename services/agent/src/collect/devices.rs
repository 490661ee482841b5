//! Which network devices of a node belong to its containers.
//!
//! Container networks give the node one end of a virtual cable for each pod, besides bridges and tunnels. They carry what a
//! device of the node carries as well, there are dozens of them, and the names of the cables are new with every pod. The
//! kernel's list has names only, so they are told apart by name.

/// Names that belong to containers.
const NAMES: &[&str] = &[
    "lo",
    // The virtual switch of Weave Net, the mirror device of Kube-OVN, WireGuard of Calico.
    "datapath",
    "mirror0",
    "wg-v6.cali",
    // The kernel creates these with the modules of its tunnels.
    "erspan0",
    "gre0",
    "gretap0",
    "ip6gre0",
    "ip6tnl0",
    "ip6_vti0",
    "ip_vti0",
    "sit0",
    "teql0",
];

/// Beginnings of names that belong to containers.
#[rustfmt::skip]
const PREFIXES: &[&str] = &[
    // The plugins of the CNI project, Flannel, Weave Net.
    "veth", "cni", "flannel", "weave", "ifb", "dummy", "tap", "macvtap",
    // Docker, Podman, nerdctl, libvirt, LXC, virtual machines in pods.
    "docker", "br-", "podman", "nerdctl", "virbr", "vnet", "lxc", "lxdbr", "incusbr", "k6t",
    // Calico; AWS VPC CNI, Azure CNI, GKE.
    "cali", "tunl", "vxlan", "wireguard.cali", "bpfin.cali", "bpfout.cali", "egress.calico", "eni", "vlan.eth.", "azv", "azure", "gke",
    // Cilium, whose pods have `lxc` as well.
    "cilium",
    // OVN-Kubernetes, Kube-OVN, Antrea, OpenShift SDN.
    "ovn", "ovs", "genev", "antrea",
    // kube-proxy, kube-router, the DNS cache of nodes.
    "kube-", "nodelocaldns",
];

/// The shortest device name that is a container's id alone.
const ID_DIGITS: usize = 12;

/// The shortest beginning of a container's id before another part of a device name.
const SHORT_ID_DIGITS: usize = 4;

/// Antrea and others: so many digits of a hash behind a dash.
const HASH_DIGITS: usize = 6;

/// The digits of a hash in the names of the AWS plugin for pods with security groups of their own.
const AWS_HASH_DIGITS: usize = 11;

/// Whether a device belongs to a container or to the network between containers.
pub(super) fn is_of_containers(name: &str) -> bool {
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix)) || has_an_id(name)
}

/// Whether a name consists of a container's id or ends with a hash.
fn has_an_id(name: &str) -> bool {
    // `0a1b2c3d4e5f6a7` of OVN-Kubernetes.
    if name.len() >= ID_DIGITS && is_hex(name) {
        return true;
    }
    // `0a1b2c3d4e5f_h`, `0a1b2c3d_net1_h` of Kube-OVN and `0a1b2c3d4e5f_12` of OVN-Kubernetes.
    if let Some((id, rest)) = name.split_once('_')
        && id.len() >= SHORT_ID_DIGITS
        && is_hex(id)
        && (rest == "h" || rest.ends_with("_h") || rest.bytes().all(|byte| byte.is_ascii_digit()))
    {
        return true;
    }
    // `coredns--8b9b4a` of Antrea.
    let antrea = name.rsplit_once('-').is_some_and(|(_, hash)| hash.len() == HASH_DIGITS && is_hex(hash));
    antrea || name.strip_prefix("vlan").is_some_and(|hash| hash.len() == AWS_HASH_DIGITS && is_hex(hash))
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::is_of_containers;

    #[test]
    fn devices_of_common_container_networks_are_left_out() {
        for (network, names) in [
            ("CNI plugins", "lo veth1a2b3c4d cni0 cni-podman0 ifb0 dummy0 tap0a1b2c3d-4e"),
            ("Docker, Podman, libvirt, LXC", "docker0 docker_gwbridge br-0a1b2c3d4e5f podman0 virbr0 virbr0-nic vnet3 lxcbr0 lxdbr0"),
            ("AWS VPC CNI", "eni0a1b2c3d4e5 enif51b7e2c9d3 vlan0a1b2c3d4e5 vlan.eth.1 dummyeni0a1b2c"),
            ("Azure CNI", "azv0a1b2c3d4e5 azveth12345 azure0"),
            ("GKE", "gke0a1b2c3d4e5 veth0a1b2c3d"),
            ("Calico", "cali0a1b2c3d4e5 tunl0 vxlan.calico vxlan-v6.calico wireguard.cali wg-v6.cali bpfin.cali bpfout.cali egress.calico"),
            ("Cilium", "lxc0a1b2c3d4e5f lxc_health cilium_host cilium_net cilium_vxlan cilium_geneve cilium_wg0"),
            ("Flannel", "flannel.1 flannel-v6.1 flannel-wg cni0"),
            ("Weave Net", "weave vethwe-bridge vxlan-6784 datapath"),
            ("OVN-Kubernetes", "0a1b2c3d4e5f6a7 0a1b2c3d4e5f_12 ovn-k8s-mp0 ovn-k8s-gw0 br-int br-ex br-local genev_sys_6081 ovs-system"),
            ("Kube-OVN", "0a1b2c3d4e5f_h 0a1b2c3d_net1_h ovn0 mirror0 br-int"),
            ("OpenShift SDN", "vxlan_sys_4789 ovs-system"),
            ("Antrea", "coredns--8b9b4a nginx-5f-1a2b3c antrea-gw0 antrea-tun0 antrea-egress0"),
            ("kube-proxy, kube-router", "kube-ipvs0 kube-bridge kube-dummy-if nodelocaldns"),
            ("the kernel's tunnels", "sit0 ip6tnl0 gre0 gretap0 erspan0 ip_vti0 ip6_vti0 ip6gre0 teql0 tunl0"),
        ] {
            for name in names.split(' ') {
                assert!(is_of_containers(name), "{network}: {name}");
            }
        }
    }

    #[test]
    fn devices_of_the_node_are_reported() {
        for name in
            "eth0 eth10 ens5 ens192 eno1 enp0s31f6 enp3s0f1np1 enP2p1s0 enx0a1b2c3d4e5f enc600 em1 p1p1 wlan0 wlp2s0 wwan0 usb0 ib0 \
            ibp5s0 bond0 bond0.100 team0 eth0.100 vlan100 vlan4094 lan0 lan-2 wan wg0 tun0 ppp0 br0 vmbr0 hsn0 mgmt0 loop0 eth0:1"
                .split_whitespace()
        {
            assert!(!is_of_containers(name), "{name}");
        }
    }
}
