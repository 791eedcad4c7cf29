//! A search as the work of a run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::Result;

use super::{Entry, Observer, Work};
use crate::network::state_dict::Snapshot;
use crate::run::config::RunConfig;
use crate::run::directory::RunDir;
use crate::run::log::{History, Line};
use crate::run::{atomic, report};
use crate::search::record::{EpochRecord, RoundRecord};
use crate::search::{Search, SearchError};

/// How a sitting of a search ended.
pub type Outcome = super::Outcome<EpochRecord>;

/// Starts a search in `out`; see [`super::start`].
///
/// # Errors
///
/// As there.
pub fn start(
    config: &RunConfig,
    out: &Path,
    observer: &mut dyn Observer<Search>,
    stop: &AtomicBool,
) -> Result<Outcome> {
    let text = config.to_toml()?;
    let work = || Search::new(config.search.clone());
    super::start(work, (&text, config.checkpoint_every), out, observer, stop)
}

/// Goes on with the search in `path`; `device` replaces the run's own. See [`super::resume`].
///
/// # Errors
///
/// As there.
pub fn resume(
    path: &Path,
    device: Option<String>,
    observer: &mut dyn Observer<Search>,
    stop: &AtomicBool,
) -> Result<Outcome> {
    let work = |dir: &RunDir| {
        let mut config = RunConfig::read(&dir.config_file())?;
        if let Some(device) = device {
            config.search.device = device;
        }
        Ok((Search::new(config.search)?, config.checkpoint_every))
    };
    super::resume(path, work, observer, stop)
}

impl Work for Search {
    type Round = RoundRecord;
    type Epoch = EpochRecord;

    fn rounds_per_epoch(&self) -> u64 {
        Search::rounds_per_epoch(self)
    }

    fn rounds_total(&self) -> u64 {
        Search::rounds_total(self)
    }

    fn device(&self) -> String {
        self.device_line().to_owned()
    }

    fn rounds_done(&self) -> u64 {
        Search::rounds_done(self)
    }

    fn round(&mut self) -> Result<Option<RoundRecord>> {
        Search::start_round(self)
    }

    fn settle(&mut self) -> Result<Option<RoundRecord>> {
        Search::settle_round(self)
    }

    fn finish_epoch(&mut self) -> Result<EpochRecord> {
        Search::finish_epoch(self)
    }

    fn finished(&self) -> bool {
        Search::finished(self)
    }

    fn snapshot(&self) -> Result<Snapshot> {
        Search::snapshot(self)
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<()> {
        Search::restore(self, snapshot)
    }

    fn round_entry(record: &RoundRecord) -> Option<Entry<'_>> {
        Some(Entry {
            line: Line::Round(record.clone()),
            scalars: round_scalars(record),
        })
    }

    fn epoch_entry(record: &EpochRecord) -> Entry<'_> {
        Entry {
            line: Line::Epoch(record.clone()),
            scalars: [
                ("epoch/loss_val", record.loss_val),
                ("epoch/accuracy_val", record.accuracy_val),
            ]
            .into_iter()
            .chain(own_scalars(&record.strategy))
            .collect(),
        }
    }

    fn set_seconds(record: &mut EpochRecord, seconds: f64) {
        record.seconds = seconds;
    }

    /// The genotype in both forms, and the report.
    fn write_results(&self, dir: &RunDir, record: &EpochRecord) -> Result<()> {
        let genotype = self.genotype();
        let mut json = serde_json::to_vec_pretty(&genotype)?;
        json.push(b'\n');
        atomic::write(&dir.file("genotype.json"), &json)?;
        let text = format!("{}\n", record.genotype);
        atomic::write(&dir.file("genotype.txt"), text.as_bytes())?;
        report::write(dir.path()).map(|_| ())
    }

    fn last_epoch(history: History) -> Option<EpochRecord> {
        history.epochs.into_iter().next_back()
    }

    /// The last norms of the series.
    fn astray(error: &anyhow::Error, last: Option<&RoundRecord>) -> Option<String> {
        let SearchError::NotFinite { .. } = error.downcast_ref()?;
        Some(match last {
            Some(record) if !record.neumann_norms.is_empty() => {
                format!("; last ‖v_k‖ {:.4?}", record.neumann_norms)
            }
            _ => String::new(),
        })
    }
}

/// What TensorBoard plots of a strategy's own numbers.
fn own_scalars(numbers: &BTreeMap<String, f64>) -> impl Iterator<Item = (&str, f64)> {
    numbers.iter().map(|(name, &value)| (name.as_str(), value))
}

/// What TensorBoard plots of a round.
fn round_scalars(record: &RoundRecord) -> Vec<(&str, f64)> {
    let mut scalars = vec![
        ("loss/train", record.loss_train),
        ("accuracy/train", record.accuracy_train),
        ("lr", record.lr),
        ("seconds_per_round", record.seconds),
    ];
    let optional = [
        ("loss/val", record.loss_val),
        ("accuracy/val", record.accuracy_val),
        ("grad_norm", record.grad_norm),
        ("neumann/gamma", record.gamma),
        ("neumann/norm_first", record.neumann_norms.first().copied()),
        ("neumann/norm_last", record.neumann_norms.last().copied()),
        ("neumann/correction_ratio", record.correction_ratio),
        ("es/loss", record.es_loss),
    ];
    scalars.extend(
        optional
            .into_iter()
            .filter_map(|(tag, value)| Some((tag, value?))),
    );
    scalars.extend(own_scalars(&record.strategy));
    scalars
}

/// Where a run goes when `--out` is not given: `runs/<space>-<strategy>-<data>-s<seed>`.
pub fn default_out(config: &RunConfig) -> PathBuf {
    let settings = &config.search;
    let data = settings.data.split(':').next().unwrap_or_default();
    PathBuf::from("runs").join(format!(
        "{}-{}-{data}-s{}",
        settings.space,
        super::word(&settings.strategy),
        settings.seed
    ))
}
