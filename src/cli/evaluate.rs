//! `ndarts evaluate`: a trained network on a test set, and its export.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;

use super::flags;
use super::{End, Threads, genotype, say};
use crate::data::Dataset;
use crate::network::derived::{Design, Recording};
use crate::network::state_dict;
use crate::run::checkpoint::WEIGHTS;
use crate::run::config::{self, TrainConfig};
use crate::run::evaluation::Judged;
use crate::run::{BadUsage, atomic, report};
use crate::space::Genotype;
use crate::train::evaluation::{Evaluation, evaluate};
use crate::train::export::{self, Format, Normalisation};
use crate::train::model::{AUXILIARY, Model};
use crate::train::parse_device;

/// Images a batch where none are stated.
const BATCH: usize = 96;

/// Judge a trained network on the test part of a data set, by its running statistics.
///
/// Of a run directory that `ndarts train` made, everything is known; a checkpoint by itself (the
/// official code's `state_dict` as safetensors) needs --genotype and --data, and --channels and
/// --cells where they are not the published ones. An auxiliary head in it is passed over.
#[derive(Args)]
#[command(
    after_help = "Example:\n  ndarts evaluate runs/darts-v2 --export darts-v2.onnx\n  ndarts evaluate weights.safetensors --genotype DARTS_V2 --data cifar10:cifar-10-batches-bin"
)]
pub struct Command {
    /// A safetensors file, or the directory of a training
    #[arg(value_name = "CHECKPOINT|RUN_DIR")]
    checkpoint: PathBuf,
    /// Images: `digits`, `cifar10:DIR`, `cifar100:DIR`, `folder:DIR` or `pack:FILE` [default: the
    /// run's]
    #[arg(long, value_name = "SPEC")]
    data: Option<String>,
    /// Genotype of a checkpoint that is of no run: a text, a name, a file
    #[arg(long, value_name = "GENOTYPE")]
    genotype: Option<String>,
    /// Channels of the first stage [default: the run's, or the published number]
    #[arg(long, value_name = "C", value_parser = flags::whole, allow_negative_numbers = true)]
    channels: Option<usize>,
    /// Cells; NAS-Bench-201: of each stage [default: the run's, or the published number]
    #[arg(long, value_name = "L", value_parser = flags::whole, allow_negative_numbers = true)]
    cells: Option<usize>,
    /// The ImageNet network of DARTS
    #[arg(long)]
    imagenet: bool,
    /// Side of the square images, pixels; 0 keeps the data's own [default: the run's, or 0]
    #[arg(long, value_name = "PIXELS", value_parser = flags::whole, allow_negative_numbers = true)]
    image_size: Option<usize>,
    /// Side of the squares that images are scaled to first, of which the centre is judged; 0 turns it off
    /// [default: the run's; with --imagenet: 256; else 0]
    #[arg(long, value_name = "PIXELS", value_parser = flags::whole, allow_negative_numbers = true)]
    resize: Option<usize>,
    /// Images a batch: speed alone [default: 96]
    #[arg(long, value_name = "B", value_parser = flags::whole, allow_negative_numbers = true)]
    batch: Option<usize>,
    /// Normalisation: mean of each channel, pixels in 0..1 [default: the run's, or computed]
    #[arg(long, value_name = "M,…", value_parser = flags::number, value_delimiter = ',', allow_negative_numbers = true)]
    mean: Option<Vec<f32>>,
    /// Normalisation: standard deviation of each channel [default: the run's, or computed]
    #[arg(long, value_name = "S,…", value_parser = flags::number, value_delimiter = ',', allow_negative_numbers = true)]
    std: Option<Vec<f32>>,
    /// Where to compute: `cpu` alone in this build
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: String,
    /// Write the network to FILE.safetensors or FILE.onnx
    #[arg(long, value_name = "FILE")]
    export: Option<PathBuf>,
    /// Write a page with the confusion matrix
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// Write the input images and the logits of the first batch: what a check of an export needs
    #[arg(long, value_name = "FILE.safetensors")]
    logits: Option<PathBuf>,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    threads: Threads,
}

/// What is to be judged, on what.
struct Task {
    weights: PathBuf,
    genotype: Genotype,
    channels: usize,
    cells: usize,
    imagenet: bool,
    data: String,
    image_size: usize,
    resize: usize,
    mean: Vec<f32>,
    std: Vec<f32>,
}

/// The answer of `--json`.
#[derive(Serialize)]
struct Answer<'a> {
    checkpoint: String,
    data: &'a str,
    genotype: String,
    #[serde(flatten)]
    evaluation: &'a Evaluation,
}

impl Command {
    pub(super) fn run(self) -> Result<End> {
        let format = self
            .export
            .as_deref()
            .map(Format::of)
            .transpose()
            .map_err(|error| BadUsage(error.to_string()))?;
        super::train::check_device(&self.device)?;
        let batch = self.batch.unwrap_or(BATCH);
        if !(1..=65_536).contains(&batch) {
            bail!(BadUsage(format!(
                "--batch: expected 1 to 65536, found {batch}"
            )));
        }
        super::start_threads(self.threads.threads)?;
        let task = self.task()?;
        let data = Dataset::open_resized(
            &task.data,
            [task.resize, task.image_size],
            &task.mean,
            &task.std,
        )?;
        if data.test.is_empty() {
            bail!(
                "--data {}: expected images in the test part, found none",
                task.data
            );
        }
        let mut model = self.model(&task, &data, batch.min(data.test.len()))?;
        let found = evaluate(&mut model, &*data.test, data.mean, data.std)?;
        if let (Some(path), Some(format)) = (&self.export, format) {
            let normalisation = Normalisation {
                mean: data.mean,
                std: data.std,
            };
            let genotype = task.genotype.to_string();
            let bytes = export::encode(&model, format, &genotype, &normalisation)?;
            atomic::write(path, &bytes).context("--export")?;
        }
        if let Some(path) = &self.logits {
            write_logits(path, &mut model, &data).context("--logits")?;
        }
        self.tell(&task, &data, found)?;
        Ok(End::Done)
    }

    fn task(&self) -> Result<Task> {
        let target = &self.checkpoint;
        let task = if target.is_dir() {
            self.of_run(target)?
        } else {
            self.of_file(target)?
        };
        Ok(Task {
            channels: self.channels.unwrap_or(task.channels),
            cells: self.cells.unwrap_or(task.cells),
            data: self.data.clone().unwrap_or(task.data),
            image_size: self.image_size.unwrap_or(task.image_size),
            resize: self.resize.unwrap_or(task.resize),
            mean: self.mean.clone().unwrap_or(task.mean),
            std: self.std.clone().unwrap_or(task.std),
            ..task
        })
    }

    fn of_run(&self, dir: &Path) -> Result<Task> {
        let settings = dir.join("config.toml");
        if !config::is_training(&settings) {
            bail!(BadUsage(format!(
                "CHECKPOINT: expected a directory that `ndarts train` made, found {}",
                dir.display()
            )));
        }
        if self.genotype.is_some() || self.imagenet {
            bail!(BadUsage(
                "--genotype, --imagenet: expected neither beside a run directory, which states them"
                    .into()
            ));
        }
        let train = TrainConfig::read(&settings)?.train;
        Ok(Task {
            weights: dir.join("checkpoint").join(WEIGHTS),
            genotype: train.genotype.parse()?,
            channels: train.channels,
            cells: train.cells,
            imagenet: train.imagenet,
            data: train.data,
            image_size: train.image_size,
            resize: train.resize,
            mean: train.mean,
            std: train.std,
        })
    }

    fn of_file(&self, path: &Path) -> Result<Task> {
        let (Some(genotype), Some(data)) = (&self.genotype, &self.data) else {
            bail!(BadUsage(format!(
                "CHECKPOINT: expected --genotype and --data beside a checkpoint that is of no run, \
                 found {} without {}",
                path.display(),
                if self.genotype.is_none() {
                    "--genotype"
                } else {
                    "--data"
                }
            )));
        };
        let genotype = genotype::read(genotype)?;
        let published = Design::published(&genotype, self.imagenet);
        Ok(Task {
            weights: path.to_path_buf(),
            channels: published.channels,
            cells: published.cells,
            imagenet: self.imagenet,
            genotype,
            data: data.clone(),
            image_size: if self.imagenet {
                published.image_size
            } else {
                0
            },
            resize: if self.imagenet {
                super::train::IMAGENET_RESIZE
            } else {
                0
            },
            mean: Vec::new(),
            std: Vec::new(),
        })
    }

    fn model(&self, task: &Task, data: &Dataset, batch: usize) -> Result<Model> {
        let [height, width] = data.test.size();
        if height != width {
            bail!("--image-size: expected square images, found {height}x{width}; state a size");
        }
        let design = Design {
            channels: task.channels,
            cells: task.cells,
            classes: data.classes.len(),
            image_size: height,
            imagenet: task.imagenet,
            auxiliary: false,
        };
        let recording = Recording {
            batch,
            drop_path: false,
            auxiliary_weight: 0.0,
            smoothing: 0.0,
        };
        let device = parse_device(&self.device)?;
        let mut model = Model::new(&task.genotype, &design, &recording, device, 0)
            .map_err(|error| BadUsage(format!("{error:#}")))?;
        let mut tensors = state_dict::read(&task.weights)?.tensors;
        tensors.retain(|tensor| !tensor.name.starts_with(AUXILIARY));
        model
            .load(&tensors)
            .with_context(|| format!("{}", task.weights.display()))?;
        Ok(model)
    }

    fn tell(&self, task: &Task, data: &Dataset, found: Evaluation) -> Result<()> {
        let checkpoint = self.checkpoint.display().to_string();
        if let Some(path) = &self.report {
            let judged = Judged {
                classes: data.classes.clone(),
                evaluation: found.clone(),
            };
            let page = report::evaluation_page(&checkpoint, &task.data, &judged);
            atomic::write(path, page.as_bytes()).context("--report")?;
        }
        if self.json {
            let answer = Answer {
                checkpoint,
                data: &task.data,
                genotype: task.genotype.to_string(),
                evaluation: &found,
            };
            let line = serde_json::to_string(&answer).context("the answer cannot be formed")?;
            say(&format!("{line}\n"));
        } else {
            say(&format!(
                "images  {}\ntop-1   {:.2} %\ntop-5   {:.2} %\nloss    {:.4}\n",
                found.images,
                100.0 * found.top1,
                100.0 * found.top5,
                found.loss
            ));
        }
        Ok(())
    }
}

/// `images` `[N, 3, H, W]`, normalised, and `logits` `[N, classes]` of the first test images.
fn write_logits(path: &Path, model: &mut Model, data: &Dataset) -> Result<()> {
    let indices: Vec<u32> = (0..model.batch() as u32).collect();
    let batch = crate::data::evaluation_batch(&*data.test, &indices, data.mean, data.std);
    let logits = model.infer(&batch)?;
    let (count, [height, width]) = (indices.len(), data.test.size());
    let pixels = height * width;
    let mut images = vec![0.0; batch.images.len()];
    for (i, pixel) in batch.images.chunks_exact(3).enumerate() {
        let (image, place) = (i / pixels, i % pixels);
        for (channel, &value) in pixel.iter().enumerate() {
            images[(3 * image + channel) * pixels + place] = value;
        }
    }
    let tensor = |name: &str, shape: Vec<usize>, data| state_dict::NamedTensor {
        name: name.into(),
        shape,
        data,
    };
    let tensors = [
        tensor("images", vec![count, 3, height, width], images),
        tensor("logits", vec![count, model.classes()], logits),
    ];
    atomic::write(path, &state_dict::encode(&tensors, &[], &[])?)
}
