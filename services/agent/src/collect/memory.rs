//! The host's memory.

use sysinfo::{MemoryRefreshKind, System};

use super::collector::{CollectError, Collector, Readings};

/// Total and free memory of the host, in bytes. Memory that the system uses for caches is not free.
#[derive(Default)]
pub(super) struct Memory(Option<System>);

impl Collector for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn collect(&mut self, readings: &mut Readings) -> Result<(), CollectError> {
        let system = match &mut self.0 {
            Some(system) => system,
            None => self.0.insert(System::new()?),
        };
        system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
        // A refresh reports no errors. When the memory cannot be read the total is 0.
        if system.total_memory() == 0 {
            return Err(CollectError::Missing { path: "/proc/meminfo".into(), wanted: "how much memory there is" });
        }
        readings.count("TotalMemory", system.total_memory());
        readings.count("FreeMemory", system.free_memory());
        Ok(())
    }
}
