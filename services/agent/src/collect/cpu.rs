//! How busy each of the host's processors is.

use sysinfo::System;

use super::collector::{CollectError, Collector, Readings};

/// Time each processor spent working since the poll before, in percent.
#[derive(Default)]
pub(super) struct Cpu {
    system: Option<System>,
    polled: bool,
}

impl Collector for Cpu {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn collect(&mut self, readings: &mut Readings) -> Result<(), CollectError> {
        let system = match &mut self.system {
            Some(system) => system,
            None => self.system.insert(System::new()?),
        };
        system.refresh_cpu_usage();
        // A refresh reports no errors. When the processors cannot be read there are none.
        if system.cpus().is_empty() {
            return Err(CollectError::Missing { path: "/proc/stat".into(), wanted: "which processors there are" });
        }
        // The first poll has nothing to compare with, and a 0 would look like an idle host.
        if std::mem::replace(&mut self.polled, true) {
            for (cpu, number) in system.cpus().iter().zip(1_usize..) {
                readings.gauge(&format!("CPUutilization{number}"), f64::from(cpu.usage()));
            }
        }
        Ok(())
    }
}
