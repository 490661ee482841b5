//! Metrics of the panels.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGauge, Registry};

use super::int;
use crate::http::ui::PanelBook;

/// The metrics of PANELS_DIR, read at each scrape.
pub struct PanelMetrics {
    panels: PanelBook,
    refused: IntGauge,
}

impl PanelMetrics {
    /// Registers the metrics of these panels.
    pub fn register(registry: &Registry, panels: PanelBook) -> prometheus::Result<()> {
        let refused = IntGauge::new("golectra_panel_files_refused", "Files of PANELS_DIR of which something can't be used.")?;
        registry.register(Box::new(Self { panels, refused }))
    }
}

impl Collector for PanelMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.refused.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.refused.set(int(self.panels.current().refused_files() as u64));
        self.refused.collect()
    }
}
