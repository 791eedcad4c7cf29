//! `ndarts data`: packs of images, and what a data set holds.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};

use super::progress::Counter;
use super::{End, flags, say};
use crate::data::Summary;
use crate::data::pack::{self, ImportOptions};
use crate::run::BadUsage;

/// Make a pack of a folder of images, or describe a data set.
#[derive(Args)]
#[command(arg_required_else_help = true)]
pub struct Command {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    Import(Import),
    Info(Info),
}

/// Write the images of a folder to a pack: one file, memory-mapped when read.
///
/// The folder has train/ and test/, each with a folder of JPEG or PNG images for each class.
#[derive(Args)]
#[command(after_help = "Example:\n  ndarts data import flowers -o flowers.pack --image-size 64")]
struct Import {
    /// The folder
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// Pack to write; must not exist, unless with --overwrite. What is unfinished lies in FILE.part, and is gone on with
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
    /// Replace the pack, if there is one
    #[arg(long)]
    overwrite: bool,
    /// Leave out images that cannot be decoded, and list them
    #[arg(long)]
    skip_bad: bool,
    #[command(flatten)]
    size: ImageSize,
}

/// Describe a data set: images, classes, size, mean and deviation of the pixels.
#[derive(Args)]
#[command(after_help = "Example:\n  ndarts data info cifar10:cifar-10-batches-bin")]
struct Info {
    /// Images: `digits`, `cifar10:DIR`, `cifar100:DIR`, `folder:DIR` or `pack:FILE`
    #[arg(value_name = "SPEC")]
    spec: String,
    #[command(flatten)]
    size: ImageSize,
}

#[derive(Args)]
struct ImageSize {
    /// Side of the square images, pixels, resized and cropped to; 0 keeps their own [default: 0]
    #[arg(long, value_name = "PIXELS", value_parser = flags::whole, allow_negative_numbers = true)]
    image_size: Option<usize>,
}

impl Import {
    fn run(self) -> Result<Summary> {
        let images = Counter::new("images");
        let progress = |done, all| images.show(done, all);
        let options = ImportOptions {
            overwrite: self.overwrite,
            skip_bad: self.skip_bad,
            progress: Some(&progress),
        };
        let side = self.size.image_size.unwrap_or(0);
        let imported = pack::import(&self.folder, &self.out, side, &options);
        images.close();
        let imported = imported?;
        if imported.resumed > 0 {
            eprintln!(
                "went on where an import had ended, {} images in",
                imported.resumed
            );
        }
        if !imported.skipped.is_empty() {
            eprintln!("left out {} images:", imported.skipped.len());
            for why in &imported.skipped {
                eprintln!("  {why}");
            }
        }
        Ok(imported.summary)
    }
}

impl Command {
    pub(super) fn run(self) -> Result<End> {
        let summary = match self.action {
            Action::Import(import) => import.run()?,
            Action::Info(Info { spec, size }) => {
                let spec: crate::data::Spec = spec
                    .parse()
                    .map_err(|error| BadUsage(format!("{error:#}")))?;
                crate::data::info(&spec.to_string(), size.image_size.unwrap_or(0))?
            }
        };
        say(&format!("{}\n", summary.to_string().trim_end()));
        Ok(End::Done)
    }
}
