//! `golectra-server export`: writes history to a file or to standard output without serving.

use std::error::Error;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
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
use crate::store::memory::{MemoryStore, OpenError};
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
        None => MemoryStore::open_to_read(&settings.file_storage_path, Lifetimes::default(), Clock::System).map_err(unopened)?,
    };
    let mut output = Output::open(&settings)?;
    let budget = MemoryBudget::new(MEMORY_BYTES);
    let mut taken = request.after.clone();
    let written = async {
        let mut export = Export::open(history, budget, settings.query_timeout.duration(), request).await?;
        let ran = export.run(&mut output).await;
        taken = export.taken;
        ran?;
        output.finish()
    };
    let written = written.await;
    written.map_err(|error| output.cut_off(&error, taken.as_ref()).into())
}

/// Why the files of a memory store can't be exported. What a server is advised to do with them would lose what is to be exported.
fn unopened(error: OpenError) -> String {
    match error {
        OpenError::Unreadable { path, source } if source.kind() == ErrorKind::NotFound => format!(
            "there is no snapshot at {}: set FILE_STORAGE_PATH to that of the server; while the server runs use /api/v1/export",
            path.display()
        ),
        OpenError::Unreadable { path, source } => {
            format!(
                "the snapshot file {} can't be read ({source}): fix that, or set FILE_STORAGE_PATH to that of the server",
                path.display()
            )
        }
        OpenError::Damaged { path, reason } => {
            format!("the snapshot file {} is damaged ({reason}): repair it, or put a backup in its place", path.display())
        }
        OpenError::Journal { path, source } => format!("the journal {} can't be read ({source}): fix that", path.display()),
        OpenError::History { path, source } => format!("the history in {} can't be read ({source}): fix that", path.display()),
        OpenError::InUse { path } => {
            format!("a golectra-server uses the snapshot file (it holds {}): use its /api/v1/export, or stop it", path.display())
        }
        other => other.to_string(),
    }
}

/// Where the export is written.
struct Output {
    target: Target,
    /// Whether it may end with a part of a piece.
    is_torn: bool,
    /// Whether the disk may not have all of what was written.
    is_unsynced: bool,
}

/// A file, or standard output.
enum Target {
    File {
        file: File,
        /// Its length up to the end of the last whole piece.
        good_bytes: u64,
        /// Its path, if this export has created it.
        made: Option<PathBuf>,
    },
    Stdout(io::Stdout),
}

impl Output {
    fn open(settings: &ExportSettings) -> Result<Self, Box<dyn Error>> {
        let target = match &settings.export_output {
            Some(path) => Target::open(path, settings.export_after.is_some())?,
            None => Target::Stdout(io::stdout()),
        };
        Ok(Self { target, is_torn: false, is_unsynced: false })
    }

    fn write(&mut self, piece: &[u8]) -> Result<(), ExportError> {
        let written = match &mut self.target {
            Target::File { file, good_bytes, .. } => {
                let written = file.write_all(piece);
                if written.is_ok() {
                    *good_bytes += piece.len() as u64;
                } else {
                    // A full disk may take a part of a piece. It is cut off, so that the file ends where the export is to go on.
                    self.is_torn = file.set_len(*good_bytes).is_err();
                }
                written
            }
            Target::Stdout(stdout) => {
                let written = stdout.write_all(piece).and_then(|()| stdout.flush());
                self.is_torn = written.is_err();
                written
            }
        };
        written.map_err(|error| ExportError::Gone(format!("the output can't be written ({error})")))
    }

    /// Brings it to the disk.
    fn finish(&mut self) -> Result<(), ExportError> {
        let synced = match &self.target {
            Target::File { file, .. } => file.sync_all(),
            Target::Stdout(_) => Ok(()),
        };
        self.is_unsynced = synced.is_err();
        synced.map_err(|error| ExportError::Gone(format!("the file can't be brought to the disk ({error})")))
    }

    /// Says after an error where to go on. A file of which nothing was exported is removed.
    fn cut_off(&self, error: &ExportError, taken: Option<&Position>) -> String {
        if self.is_unsynced {
            // Which part is lost is not known, and a second sync would succeed although it is lost.
            return format!("{error}: all of it was written, and some of it may be lost; remove the file and export again");
        }
        if self.is_torn {
            return format!(
                "{error}: the export is not whole and may end within a line; remove that part of a line and go on with --after=ID@UNIX_MILLISECONDS, the id and the last time of the last whole line"
            );
        }
        let Some(position) = taken else {
            self.target.remove_empty();
            return format!("{error}: nothing was exported");
        };
        format!("{error}: the export is not whole; go on with --after={position}")
    }
}

impl Target {
    fn open(path: &Path, resumed: bool) -> Result<Self, Box<dyn Error>> {
        let opened = File::options().append(true).create(resumed).create_new(!resumed).open(path);
        let opened = opened.and_then(|file| Ok((file.metadata()?.len(), file)));
        let (good_bytes, file) = opened.map_err(|error| {
            let hint = if resumed { "" } else { "; a file that is there is only appended to, with --after" };
            format!("the file {} can't be written ({error}){hint}", path.display())
        })?;
        if good_bytes > 0 && !ends_with_a_line(path).map_err(|error| format!("the file {} can't be read ({error})", path.display()))? {
            return Err(format!(
                "the file {} ends within a line: remove that part of a line and go on with --after=ID@UNIX_MILLISECONDS, the id and the last time of the last whole line",
                path.display()
            )
            .into());
        }
        Ok(Self::File { file, good_bytes, made: (!resumed).then(|| path.to_owned()) })
    }

    /// Removes a new file without any content, so that the next attempt can create it.
    fn remove_empty(&self) {
        if let Self::File { good_bytes: 0, made: Some(path), .. } = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Whether the last byte of a file that is not empty ends a line.
fn ends_with_a_line(path: &Path) -> io::Result<bool> {
    let (mut file, mut last) = (File::open(path)?, [0_u8]);
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

impl Sink for Output {
    async fn offer(&mut self, piece: Bytes) -> Result<Option<Bytes>, ExportError> {
        self.write(&piece).map(|()| None)
    }

    async fn send(&mut self, piece: Bytes) -> Result<(), ExportError> {
        self.write(&piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(arguments: &[&str]) -> Output {
        Output::open(&ExportSettings::parse(arguments.iter().copied(), [] as [(&str, &str); 0]).unwrap()).unwrap()
    }

    fn taken() -> Position {
        "n/1@5".parse().unwrap()
    }

    #[test]
    fn files_that_can_not_be_read_are_no_reason_to_lose_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.json");
        let said = || unopened(MemoryStore::open_to_read(&path, Lifetimes::default(), Clock::System).err().unwrap());
        let missing = said();
        assert!(missing.starts_with("there is no snapshot at") && missing.contains("FILE_STORAGE_PATH"), "{missing}");
        std::fs::write(&path, "[{").unwrap();
        let damaged = said();
        assert!(damaged.contains("is damaged"), "{damaged}");
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        let folder = said();
        assert!(folder.contains("can't be read"), "{folder}");
        for text in [missing, damaged, folder] {
            assert!(text.contains("m.json") && !text.contains("RESTORE"), "{text}");
        }
    }

    #[test]
    fn what_the_disk_may_have_lost_is_to_be_exported_again() {
        // It takes all and can't be synced.
        let mut output = output(&["--output=/dev/null", "--after=n/1@4"]);
        output.write(b"line\n").unwrap();
        let error = output.finish().unwrap_err();
        let said = output.cut_off(&error, Some(&taken()));
        assert!(said.contains("the file can't be brought to the disk") && said.ends_with("remove the file and export again"), "{said}");
    }

    #[test]
    fn where_a_part_of_a_piece_stays_the_last_whole_line_says_where_to_go_on() {
        // It takes nothing and can't be cut.
        let mut output = output(&["--output=/dev/full", "--after=n/1@4"]);
        let error = output.write(b"line\n").unwrap_err();
        let said = output.cut_off(&error, Some(&taken()));
        assert!(said.contains("may end within a line") && !said.contains("n/1@5"), "{said}");
    }

    #[test]
    fn a_file_that_ends_within_a_line_is_not_appended_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let flag = format!("--output={}", path.display());
        let settings = ExportSettings::parse([flag.as_str(), "--after=n/1@4"], [] as [(&str, &str); 0]).unwrap();
        for (text, ends_within) in [("", false), ("line\n", false), ("line\npart", true)] {
            std::fs::write(&path, text).unwrap();
            let refused = Output::open(&settings).err().map(|error| error.to_string());
            assert_eq!(refused.as_ref().is_some_and(|error| error.contains("ends within a line")), ends_within, "{text:?}: {refused:?}");
            assert_eq!(refused.is_some(), ends_within, "{refused:?}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn a_file_of_which_nothing_was_exported_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let flag = format!("--output={}", path.display());
        let error = ExportError::Gone("no".into());
        for _ in 0..2 {
            let said = output(&[flag.as_str()]).cut_off(&error, None);
            assert!(said.ends_with("nothing was exported") && !path.exists(), "{said}");
        }
        let mut begun = output(&[flag.as_str()]);
        begun.write(b"line\n").unwrap();
        let said = begun.cut_off(&error, Some(&taken()));
        assert!(said.ends_with("go on with --after=n/1@5"), "{said}");
        drop(begun);
        output(&[flag.as_str(), "--after=n/1@5"]).cut_off(&error, None);
        assert_eq!(std::fs::read(&path).unwrap(), b"line\n", "one that was there stays");
    }
}
