//! The devices of the node's root and image filesystems.
//!
//! The kubelet's summary does not name them. But the kubelet and the container runtime mount files of their own folders into
//! each container, and the list of mounts names the devices of those.

use super::summary::{Device, Devices};

const MOUNTS: &str = "/proc/self/mountinfo";

/// Files from the folder of the kubelet, which is on the filesystem that it calls the node's.
const OF_KUBELET: [&str; 2] = ["/etc/hosts", "/dev/termination-log"];

/// Files from the folder of the runtime, which is on the filesystem of its images. CRI-O has them in memory.
const OF_RUNTIME: [&str; 2] = ["/etc/hostname", "/etc/resolv.conf"];

/// A filesystem in memory, which holds neither the kubelet's folder nor images.
const IN_MEMORY: &str = "tmpfs";

/// The devices; empty where they cannot be told, as outside of a container.
pub(super) fn devices() -> Devices {
    std::fs::read(MOUNTS).map(|text| parse(&String::from_utf8_lossy(&text))).unwrap_or_default()
}

pub(super) fn parse(mounts: &str) -> Devices {
    let on_disk = |line: &str, point: &str| device_at(line, point).filter(|device| device.kind != IN_MEMORY);
    let device_of = |points: &[&str]| points.iter().find_map(|point| mounts.lines().find_map(|line| on_disk(line, point)));
    Devices { root: device_of(&OF_KUBELET).unwrap_or_default(), image: device_of(&OF_RUNTIME).unwrap_or_default() }
}

/// The device of a line like `36 35 98:0 /var/lib/x /etc/hosts rw - ext4 /dev/sda1 rw` if it is of this mount.
fn device_at(line: &str, point: &str) -> Option<Device> {
    let (mount, filesystem) = line.split_once(" - ")?;
    if mount.split(' ').nth(4)? != point {
        return None;
    }
    let mut filesystem = filesystem.split(' ');
    let kind = filesystem.next()?.to_owned();
    Some(Device { name: filesystem.next()?.to_owned(), kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_devices_behind_the_files_of_a_container() {
        let mounts = "\
            500 400 0:55 / / ro,relatime - overlay overlay ro,lowerdir=/a\n\
            501 500 8:1 /var/lib/kubelet/pods/1/etc-hosts /etc/hosts rw,relatime - ext4 /dev/sda1 rw\n\
            502 500 8:17 /io.containerd.grpc.v1.cri/sandboxes/2/hostname /etc/hostname ro,relatime master:1 - xfs /dev/sdb1 rw\n\
            damaged\n";
        let device = |name: &str, kind: &str| Device { name: name.into(), kind: kind.into() };
        assert_eq!(parse(mounts), Devices { root: device("/dev/sda1", "ext4"), image: device("/dev/sdb1", "xfs") });
        assert_eq!(parse("20 1 8:1 / / rw - ext4 /dev/sda1 rw\n"), Devices::default());
        devices();
    }

    #[test]
    fn files_that_cri_o_has_in_memory_do_not_tell_the_device_of_images() {
        let of_kubelet = "501 500 8:1 /var/lib/kubelet/pods/1/etc-hosts /etc/hosts rw,relatime - ext4 /dev/sda1 rw\n";
        let of_runtime = |point: &str, kind: &str, device: &str| {
            format!("502 500 0:25 /containers/storage/overlay-containers/2/userdata{point} {point} rw,nosuid - {kind} {device} rw\n")
        };
        let (in_memory, on_disk) = (of_runtime("/etc/hostname", "tmpfs", "tmpfs"), of_runtime("/etc/resolv.conf", "xfs", "/dev/sdb1"));
        let root = Device { name: "/dev/sda1".into(), kind: "ext4".into() };
        let other_in_memory = of_runtime("/etc/resolv.conf", "tmpfs", "tmpfs");
        let expected = Devices { root: root.clone(), image: Device::default() };
        assert_eq!(parse(&format!("{of_kubelet}{in_memory}{other_in_memory}")), expected);
        let expected = Devices { root, image: Device { name: "/dev/sdb1".into(), kind: "xfs".into() } };
        assert_eq!(parse(&format!("{of_kubelet}{in_memory}{on_disk}")), expected);
    }
}
