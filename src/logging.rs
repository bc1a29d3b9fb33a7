//! Where structured lines go.
//!
//! Everybody logs through `tracing` with the fields `component agentId intentId processId connectionId`; here
//! it is decided who hears of it and in which shape. Lines are handed to a writer thread over a short queue:
//! a reactor never waits for a disk or for whoever reads our stderr. When that queue is full a line is dropped
//! and counted, never waited for. The writer thread sleeps until there is a line: no ticks.

use crate::config::{LogConfig, LogFormat, Rotate};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_appender::rolling::{RollingFileAppender, Rotation};
use tracing_subscriber::EnvFilter;

/// Lines that may wait for the writer thread. Small, because the queue is allocated whole.
const QUEUE_LINES: usize = 512;

/// Why logging could not begin.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoggingError {
    /// The file's name has no folder or no last part.
    #[error("{} is not a file's name", path.display())]
    NotAFile { path: PathBuf },
    /// The file can't be opened.
    #[error("the log file {} can't be written: {message}", path.display())]
    Open { path: PathBuf, message: String },
    /// The filter does not read; a checked configuration has none of these.
    #[error("the log filter does not read: {message}")]
    Filter { message: String },
    /// Somebody else began logging in this process.
    #[error("logging has begun already")]
    Twice,
}

/// Keeps the writer thread; dropping it writes out what is queued, so it lives as long as `main`.
pub(crate) struct Logging {
    _writer: WorkerGuard,
    dropped: ErrorCounter,
}

impl Logging {
    /// Lines lost to a full queue.
    pub(crate) fn dropped_lines(&self) -> usize {
        self.dropped.dropped_lines()
    }
}

/// Begins logging, once in a process.
pub(crate) fn begin(config: &LogConfig) -> Result<Logging, LoggingError> {
    let colour = config.file.is_none() && config.format == LogFormat::Text && io::stderr().is_terminal();
    let (queue, writer) = match &config.file {
        Some(path) => queued(open(path, config.rotate, config.keep)?),
        None => queued(io::stderr()),
    };
    let dropped = queue.error_counter();
    let filter = EnvFilter::builder()
        .parse(directives(&config.level))
        .map_err(|error| LoggingError::Filter { message: error.to_string() })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(queue).with_ansi(colour);
    let begun = match config.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_span_list(false).try_init(),
    };
    begun.map_err(|_| LoggingError::Twice)?;
    Ok(Logging { _writer: writer, dropped })
}

fn queued<W: Write + Send + 'static>(target: W) -> (NonBlocking, WorkerGuard) {
    NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(QUEUE_LINES)
        .thread_name("kairo-log")
        .finish(target)
}

/// A file that is begun afresh by the calendar; its name gets the date before the ending.
fn open(path: &Path, rotate: Rotate, keep: u16) -> Result<RollingFileAppender, LoggingError> {
    let not_a_file = || LoggingError::NotAFile { path: path.to_path_buf() };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).ok_or_else(not_a_file)?;
    let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(not_a_file)?;
    let (stem, ending) = match rotate {
        Rotate::Never => (name, None),
        Rotate::Hourly | Rotate::Daily => match name.rsplit_once('.') {
            Some((stem, ending)) if !stem.is_empty() => (stem, Some(ending)),
            _ => (name, None),
        },
    };
    let rotation = match rotate {
        Rotate::Never => Rotation::NEVER,
        Rotate::Hourly => Rotation::HOURLY,
        Rotate::Daily => Rotation::DAILY,
    };
    let builder = RollingFileAppender::builder().rotation(rotation).filename_prefix(stem);
    let builder = match rotate {
        Rotate::Never => builder,
        Rotate::Hourly | Rotate::Daily => builder.max_log_files(usize::from(keep)),
    };
    let builder = match ending {
        Some(ending) => builder.filename_suffix(ending),
        None => builder,
    };
    builder
        .build(folder)
        .map_err(|error| LoggingError::Open { path: path.to_path_buf(), message: error.to_string() })
}

/// What was asked for; the store of the log, which tells of its housekeeping, speaks only of what is wrong unless it is named.
fn directives(level: &str) -> String {
    ["fjall", "lsm_tree"].iter().fold(level.to_owned(), |all, store| match level.contains(store) {
        true => all,
        false => format!("{store}=warn,{all}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_never_rotates_has_exactly_the_name_it_was_given() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = open(&folder.path().join("kairo.log"), Rotate::Never, 7).unwrap();
        file.write_all(b"line\n").unwrap();
        file.flush().unwrap();
        assert_eq!(std::fs::read_to_string(folder.path().join("kairo.log")).unwrap(), "line\n");
    }

    #[test]
    fn a_rotated_file_carries_the_date_between_stem_and_ending() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = open(&folder.path().join("kairo.log"), Rotate::Daily, 7).unwrap();
        file.write_all(b"line\n").unwrap();
        let names: Vec<String> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(names.len(), 1);
        assert!(names[0].starts_with("kairo.2") && names[0].ends_with(".log"), "{names:?}");
    }

    #[test]
    fn a_folder_that_can_not_be_made_is_named_in_the_error() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), b"").unwrap();
        let below_a_file = folder.path().join("file/kairo.log");
        let error = open(&below_a_file, Rotate::Daily, 7).unwrap_err().to_string();
        assert!(error.contains("file/kairo.log"), "{error}");
    }

    #[test]
    fn a_full_queue_drops_lines_and_counts_them() {
        /// A target that takes one line and then never returns until it is let go.
        struct Stuck(std::sync::mpsc::Receiver<()>);
        impl Write for Stuck {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let _ = self.0.recv();
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (let_go, gate) = std::sync::mpsc::channel();
        let (mut queue, writer) = queued(Stuck(gate));
        for _ in 0..QUEUE_LINES + 10 {
            queue.write_all(b"line\n").unwrap();
        }
        assert!(queue.error_counter().dropped_lines() >= 9);
        drop(let_go);
        drop(writer);
    }
}
