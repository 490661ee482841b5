//! The original's metrics.

use super::{MetricGroup, MetricInfo};

const fn zero(name: &'static str) -> MetricInfo {
    MetricInfo::gauge("runtime", name, "", &[], "Of a garbage collector or of Go's allocator: always 0.")
}

const fn runtime(name: &'static str, unit: &'static str, help: &'static str) -> MetricInfo {
    MetricInfo::gauge("runtime", name, unit, &[], help)
}

#[rustfmt::skip]
pub(super) static GROUP: MetricGroup = MetricGroup {
    title: "The agent and its host, as the original names them",
    about: "What the original Golectra sends, under its names and without a label `job`. Values that only a garbage collector or Go's own allocator has \
            are 0.",
    job: None,
    metrics: &[
        runtime("Alloc", "bytes", "Bytes of live objects of the agent."),
        zero("BuckHashSys"),
        runtime("Frees", "", "Objects that the agent freed since it started."),
        zero("GCCPUFraction"),
        zero("GCSys"),
        runtime("HeapAlloc", "bytes", "Bytes of live objects of the agent."),
        runtime("HeapIdle", "bytes", "Bytes of the heap that hold no object."),
        runtime("HeapInuse", "bytes", "Bytes of the heap that hold objects."),
        runtime("HeapObjects", "", "Live objects of the agent."),
        runtime("HeapReleased", "bytes", "Bytes of the heap that are not in memory."),
        runtime("HeapSys", "bytes", "Bytes of the heap that the C library has from the system."),
        zero("LastGC"),
        zero("Lookups"),
        zero("MCacheInuse"),
        zero("MCacheSys"),
        zero("MSpanInuse"),
        zero("MSpanSys"),
        runtime("Mallocs", "", "Objects that the agent allocated since it started."),
        zero("NextGC"),
        zero("NumForcedGC"),
        zero("NumGC"),
        zero("OtherSys"),
        zero("PauseTotalNs"),
        runtime("StackInuse", "bytes", "The stack of the agent's main thread."),
        runtime("StackSys", "bytes", "The stack of the agent's main thread."),
        runtime("Sys", "bytes", "The agent's address space."),
        runtime("TotalAlloc", "bytes", "Bytes that the agent allocated since it started."),
        runtime("RandomValue", "", "A random number from 0 to 1, new with each poll."),
        MetricInfo::counter("schedule", "PollCount", "", &[], "Polls of the agent."),
        MetricInfo::gauge("memory", "TotalMemory", "bytes", &[], "Memory of the host."),
        MetricInfo::gauge("memory", "FreeMemory", "bytes", &[], "Memory of the host that nothing uses, caches included."),
        MetricInfo::gauge("cpu", "CPUutilization*", "percent", &[], "Time that processor * spent working since the poll before.").with_fields(&[
            "1",
        ]),
    ],
};
