//! `golectra-server export`: writes history to a file or to standard output without serving.

use std::error::Error;
use std::fs::File;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;

use bytes::Bytes;
use golectra_process::output::print_error_line;
use golectra_process::{install_crypto, telemetry};
use golectra_promql::MemoryBudget;

use crate::assemble::Refused;
use crate::clock::Clock;
use crate::config::ExportSettings;
use crate::history::export::{Export, ExportError, ExportRequest, Position, Sink};
use crate::history::query::matchers;
use crate::store::history::TimeRange;
use crate::store::memory::MemoryStore;
use crate::store::postgres::PostgresStore;
use crate::store::{History, Lifetimes};

/// What the list of series and a page may take in memory.
const MEMORY_BYTES: usize = 128 << 20;

/// The program's name in messages.
const PROGRAM: &str = "golectra-server export";

/// No sample is later.
const LAST_MS: i64 = i64::MAX;

/// Runs the export of the command line.
pub fn main() -> ExitCode {
    let settings = ExportSettings::load_from(PROGRAM, std::env::args_os().skip(2));
    let telemetry = telemetry::init("golectra-server");
    install_crypto();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let exported = runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(export(settings)));
    telemetry.shutdown();
    match exported {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_error_line(&format!("{PROGRAM}: {error}"));
            // The same exit code as for a bad value.
            if error.is::<Refused>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

async fn export(settings: ExportSettings) -> Result<(), Box<dyn Error>> {
    let selectors: Vec<String> = settings.export_match.iter().flat_map(|text| text.lines()).map(str::to_owned).collect();
    let start_ms = settings.export_start.map_or(0, |time| time.millis().max(0));
    let range = TimeRange { start_ms, end_ms: settings.export_end.map_or(LAST_MS, crate::config::ExportTime::millis) };
    let (after, format) = (settings.export_after.clone(), settings.export_format);
    let any = matchers(&selectors).map_err(|error| Refused::because(&error))?;
    let request = ExportRequest { any, range, after, format };
    let history: Arc<dyn History> = match &settings.database_dsn {
        Some(dsn) => PostgresStore::open_to_read(dsn, settings.query_timeout.duration()).map_err(|error| Refused::because(&error))?,
        None => MemoryStore::open_to_read(&settings.file_storage_path, Lifetimes::default(), Clock::System)?,
    };
    let mut sink = Output::open(&settings)?;
    let budget = MemoryBudget::new(MEMORY_BYTES);
    let mut export = Export::open(history, budget, settings.query_timeout.duration(), request).await?;
    let written = export.run(&mut sink).await.and_then(|()| sink.finish());
    written.map_err(|error| cut_off(&error, export.taken.as_ref()).into())
}

/// Says where to go on.
fn cut_off(error: &ExportError, taken: Option<&Position>) -> String {
    match taken {
        Some(position) => format!("{error}: the export is not whole; go on with --after={position}"),
        None => format!("{error}: nothing was exported"),
    }
}

/// Where the export is written.
enum Output {
    File(File),
    Stdout(io::Stdout),
}

impl Output {
    fn open(settings: &ExportSettings) -> Result<Self, Box<dyn Error>> {
        let Some(path) = &settings.export_output else { return Ok(Self::Stdout(io::stdout())) };
        let resumed = settings.export_after.is_some();
        let opened = File::options().append(true).create(resumed).create_new(!resumed).open(path);
        let file = opened.map_err(|error| {
            let hint = if resumed { "" } else { "; a file that is there is only appended to, with --after" };
            format!("the file {} can't be written ({error}){hint}", path.display())
        })?;
        Ok(Self::File(file))
    }

    fn write(&mut self, piece: &[u8]) -> Result<(), ExportError> {
        let written = match self {
            Self::File(file) => file.write_all(piece),
            Self::Stdout(stdout) => stdout.write_all(piece).and_then(|()| stdout.flush()),
        };
        written.map_err(|error| ExportError::Gone(format!("the output can't be written ({error})")))
    }

    /// Brings it to the disk.
    fn finish(&mut self) -> Result<(), ExportError> {
        let synced = match self {
            Self::File(file) => file.sync_all(),
            Self::Stdout(_) => Ok(()),
        };
        synced.map_err(|error| ExportError::Gone(format!("the file can't be brought to the disk ({error})")))
    }
}

impl Sink for Output {
    async fn offer(&mut self, piece: Bytes) -> Result<Option<Bytes>, ExportError> {
        self.write(&piece).map(|()| None)
    }

    async fn send(&mut self, piece: Bytes) -> Result<(), ExportError> {
        self.write(&piece)
    }
}
