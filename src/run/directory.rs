//! A run directory: what lies where, who may make one, and who holds it.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

use super::{BadUsage, atomic};

/// Start of a TensorBoard event file's name; TensorBoard looks for it.
const EVENTS: &str = "events.out.tfevents.";

/// How long a run that another process holds is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// A run directory that this process holds: no other `ndarts` writes it meanwhile.
pub struct RunDir {
    path: PathBuf,
    /// Holds the lock, until dropped; the kernel drops it with the process, however that ends.
    _lock: File,
}

impl RunDir {
    /// Checks that a run may be made at `path`: nothing is there, or an empty directory.
    ///
    /// # Errors
    ///
    /// [`BadUsage`] where something is there already.
    pub fn check_free(path: &Path) -> Result<()> {
        let shown = path.display();
        if !path.exists() {
            return Ok(());
        }
        let listing = fs::read_dir(path).map_err(|error| {
            BadUsage(format!(
                "--out: expected a directory, found {shown}, which is none ({error})"
            ))
        })?;
        let mut kept = listing
            .flatten()
            .filter(|entry| !atomic::is_temporary(&entry.file_name()));
        if let Some(entry) = kept.next() {
            bail!(BadUsage(format!(
                "--out: expected a new or empty directory, found {shown}, which holds `{}`; go on \
                 with that run by `--resume {shown}`, or choose another directory",
                entry.file_name().to_string_lossy()
            )));
        }
        Ok(())
    }

    /// Makes the directory of a new run, with `config` as its `config.toml`.
    ///
    /// # Errors
    ///
    /// As [`RunDir::check_free`]; also a place that cannot be written.
    pub fn create(path: &Path, config: &str) -> Result<RunDir> {
        RunDir::check_free(path)?;
        let made = !path.exists();
        fs::create_dir_all(path).with_context(|| {
            format!(
                "--out: expected a place to make {} in, but it cannot be made",
                path.display()
            )
        })?;
        if let Err(error) = atomic::write(&path.join("config.toml"), config.as_bytes()) {
            if made {
                // Best effort: the failure to report is the write's.
                let _ = fs::remove_dir(path);
            }
            return Err(error.context(format!("--out: cannot start a run in {}", path.display())));
        }
        RunDir::open(path)
    }

    /// Opens the directory of an existing run.
    ///
    /// # Errors
    ///
    /// [`BadUsage`] where there is no run; an error where another process holds it.
    pub fn open(path: &Path) -> Result<RunDir> {
        let shown = path.display();
        let Ok(lock) = File::open(path.join("config.toml")) else {
            bail!(BadUsage(format!(
                "expected a run directory, found {shown} without a readable config.toml; name a \
                 directory that `ndarts search --out` or `ndarts train --out` made"
            )));
        };
        hold(&lock, path)?;
        atomic::sweep(path)?;
        let checkpoint = path.join("checkpoint");
        fs::create_dir_all(&checkpoint)
            .with_context(|| format!("{}: cannot be made", checkpoint.display()))?;
        atomic::sweep(&checkpoint)?;
        Ok(RunDir {
            path: path.to_path_buf(),
            _lock: lock,
        })
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file within.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The settings of the run.
    pub fn config_file(&self) -> PathBuf {
        self.file("config.toml")
    }

    /// The log.
    pub fn log_file(&self) -> PathBuf {
        self.file("log.jsonl")
    }

    /// The folder of the checkpoint.
    pub fn checkpoint(&self) -> PathBuf {
        self.file("checkpoint")
    }

    /// Removes log and event files: the leftovers of a run killed before its first checkpoint.
    ///
    /// # Errors
    ///
    /// A file cannot be removed.
    pub fn clear_records(&self) -> Result<()> {
        let listing = fs::read_dir(&self.path)
            .with_context(|| format!("{}: cannot be listed", self.path.display()))?;
        for entry in listing.flatten() {
            let name = entry.file_name();
            if name == "log.jsonl" || name.to_string_lossy().starts_with(EVENTS) {
                fs::remove_file(entry.path())
                    .with_context(|| format!("{}: cannot be removed", entry.path().display()))?;
            }
        }
        Ok(())
    }
}

/// Takes the lock, waiting a little: a process that was just killed holds it until the kernel has
/// finished its last write.
fn hold(lock: &File, path: &Path) -> Result<()> {
    let shown = path.display();
    let began = Instant::now();
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if began.elapsed() < PATIENCE => {
                thread::sleep(PATIENCE / 50);
            }
            Err(TryLockError::WouldBlock) => bail!(
                "{shown}: expected a run that nobody works on, but another ndarts process holds it; \
                 wait for it or stop it"
            ),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("{shown}: cannot be locked"));
            }
        }
    }
}

/// A name for the event file of a run that starts now.
pub fn new_events_name() -> String {
    format!("{EVENTS}{}.ndarts", unix_seconds())
}

/// Whether `name` is one that [`new_events_name`] gives: a plain file name, no path.
pub fn is_events_name(name: &str) -> bool {
    name.starts_with(EVENTS) && !name.contains(['/', '\\'])
}

/// Seconds since 1970.
pub fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::config::tests::sample;

    #[test]
    fn a_directory_with_something_in_it_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("thesis.txt"), "mine").unwrap();
        let error = RunDir::create(folder.path(), &sample().to_toml().unwrap())
            .err()
            .unwrap();
        assert!(error.is::<BadUsage>());
        assert!(error.to_string().contains("thesis.txt"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_run_that_another_holds_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("run");
        let held = RunDir::create(&out, &sample().to_toml().unwrap()).unwrap();
        assert!(
            RunDir::open(&out)
                .err()
                .unwrap()
                .to_string()
                .contains("another ndarts process")
        );
        drop(held);
        RunDir::open(&out).unwrap();
    }

    #[test]
    fn a_directory_that_is_no_run_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = RunDir::open(folder.path()).err().unwrap();
        assert!(error.is::<BadUsage>() && error.to_string().contains("config.toml"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
