//! Metrics that other programs write into files, such as jobs of cron: `*.prom` in the folders of `TEXTFILE_DIRS`, in Prometheus's text format, as
//! node_exporter's textfile collector reads them. Files that are to be read whole must be put there by renaming.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use golectra_process::LogLimiter;
use golectra_protocol::exposition::{Exposition, Format, Sample};
use golectra_protocol::{IdParts, catalog};

use super::output::Output;
use super::reader::{Reader, names};
use super::{CollectError, HostCollector};
use crate::collect::kubelet::{Finding, State};

/// The most files of all folders together.
const MAX_FILES: usize = 200;

/// The longest file.
const MAX_BYTES: u64 = 1 << 20;

/// Labels that a series gets here; one that a file has is renamed, as a scrape with `honor_labels: false` renames it.
const OWN_LABELS: [&str; 2] = ["instance", "job"];

static FAILURES: LogLimiter<PathBuf> = LogLimiter::new();

pub(super) struct Textfile {
    folders: Vec<PathBuf>,
}

impl Textfile {
    pub(super) fn of(folders: &[PathBuf]) -> Self {
        Self { folders: folders.to_vec() }
    }
}

impl HostCollector for Textfile {
    fn name(&self) -> &'static str {
        "textfile"
    }

    /// A file or folder that cannot be read is left out as a whole and told by `node_textfile_scrape_error`, as with node_exporter.
    fn collect(&mut self, _reader: &mut Reader, output: &mut Output) -> Result<(), CollectError> {
        let (mut failed, mut files, mut seen) = (false, 0, HashSet::new());
        for folder in &self.folders {
            let names = names(folder).unwrap_or_else(|error| {
                failed = true;
                log(folder.clone(), error.to_string());
                Vec::new()
            });
            for name in names.iter().filter(|name| Path::new(name).extension().is_some_and(|extension| extension == "prom")) {
                let path = folder.join(name);
                files += 1;
                let read = if files > MAX_FILES { Err(format!("there are more than {MAX_FILES} files")) } else { read(&path) };
                match read {
                    Ok((text, modified)) => match samples(&text) {
                        Ok(samples) => {
                            report(&samples, &mut seen, output);
                            output.gauge("node_textfile_mtime_seconds", &[("file", &path.to_string_lossy())], modified);
                        }
                        Err(error) => {
                            failed = true;
                            log(path, error);
                        }
                    },
                    Err(error) => {
                        failed = true;
                        log(path, error);
                    }
                }
            }
        }
        output.gauge("node_textfile_scrape_error", &[], f64::from(u8::from(failed)));
        Ok(())
    }
}

/// What `doctor` says of a folder of `TEXTFILE_DIRS`: how many files and samples it has, and each file that cannot be read.
pub fn findings(folder: &Path) -> Vec<Finding> {
    let names = match names(folder) {
        Ok(names) => names,
        Err(error) => {
            let text = format!("{error}; create the folder and let the agent's user read it, or take it out of TEXTFILE_DIRS");
            return vec![Finding::new(State::Missing, "textfile", text)];
        }
    };
    let (mut files, mut count, mut findings) = (0, 0, Vec::new());
    for name in names.iter().filter(|name| Path::new(name).extension().is_some_and(|extension| extension == "prom")) {
        let path = folder.join(name);
        match read(&path).and_then(|(text, _)| Ok(samples(&text)?.len())) {
            Ok(found) => {
                files += 1;
                count += found;
            }
            Err(error) => {
                let text = format!("{} cannot be read: {error}; none of its metrics is reported until the file is right", path.display());
                findings.push(Finding::new(State::Missing, "textfile", text));
            }
        }
    }
    let text = match files {
        0 => format!("{} can be read and has no file *.prom that can be reported", folder.display()),
        _ => format!("{} can be read: {files} files with {count} samples", folder.display()),
    };
    findings.insert(0, Finding::new(if files == 0 { State::Note } else { State::Works }, "textfile", text));
    if files + findings.len() - 1 > MAX_FILES {
        let text = format!("{} has more than {MAX_FILES} files *.prom: those beyond are not reported", folder.display());
        findings.push(Finding::new(State::Missing, "textfile", text));
    }
    findings
}

/// A series and its value.
type ReadSample<'a> = (IdParts<'a>, f64);

/// The contents of a file, and when it was modified.
fn read(path: &Path) -> Result<(Vec<u8>, f64), String> {
    let text = |error: std::io::Error| error.to_string();
    // Opening a pipe would wait for its writer.
    if !fs::metadata(path).map_err(text)?.is_file() {
        return Err("it is not a regular file".into());
    }
    let file = File::open(path).map_err(text)?;
    let modified = file.metadata().and_then(|metadata| metadata.modified()).map_err(text)?;
    let mut contents = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut contents).map_err(text)?;
    if contents.len() as u64 > MAX_BYTES {
        return Err(format!("it is larger than {MAX_BYTES} bytes"));
    }
    Ok((contents, modified.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()))
}

/// All samples of a file, or what is wrong with it.
fn samples(text: &[u8]) -> Result<Vec<ReadSample<'_>>, String> {
    let exposition = Exposition::new(text, Format::Text).map_err(|error| error.to_string())?;
    let mut samples = Vec::new();
    for sample in exposition {
        let Sample { series, value } = sample.map_err(|error| error.to_string())?;
        samples.push((series.parts().map_err(|reason| reason.to_string())?, value));
    }
    Ok(samples)
}

fn report(samples: &[ReadSample<'_>], seen: &mut HashSet<String>, output: &mut Output) {
    for (parts, value) in samples {
        let keys: Vec<Cow<'_, str>> = parts
            .labels
            .iter()
            .map(|(key, _)| if OWN_LABELS.contains(&key.as_ref()) { format!("exported_{key}").into() } else { Cow::Borrowed(key.as_ref()) })
            .collect();
        let labels: Vec<(&str, &str)> = keys.iter().zip(&parts.labels).map(|(key, (_, value))| (key.as_ref(), value.as_ref())).collect();
        // A series of the host itself, or one that another file has, would be there twice in a report.
        let is_taken = catalog::find(&parts.name).is_some_and(|(group, _)| group.job == Some(catalog::NODE_JOB));
        if is_taken || !seen.insert(format!("{}{labels:?}", parts.name)) {
            output.duplicate(&parts.name);
        } else {
            output.gauge(parts.name.as_ref(), &labels, *value);
        }
    }
}

fn log(path: PathBuf, error: String) {
    FAILURES.log(path.clone(), move |count| {
        tracing::warn!(count, path = %path.display(), error, "a file of TEXTFILE_DIRS cannot be read: its metrics are missing");
    });
}
