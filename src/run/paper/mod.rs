//! The paper's tables, and beside each row what was measured here.
//!
//! [`tables`] holds the rows as printed, [`measured`] reads run directories, [`page`] renders the
//! two side by side as text, CSV or an HTML page. Nothing is filled in that no run has measured.

pub mod measured;
pub mod page;
pub mod tables;

use anyhow::Result;

use crate::network::derived::{Derived, Design, Part};
use crate::space::Genotype;
pub use measured::{Measured, Runs};

/// A table of the paper.
#[derive(Clone, Copy, Debug)]
pub struct PaperTable {
    /// Its number.
    pub number: usize,
    /// Its caption.
    pub title: &'static str,
    /// What the numbers were measured on.
    pub dataset: Dataset,
    /// Headings of its three columns of numbers.
    pub headings: [&'static str; 3],
    /// Its rows.
    pub rows: &'static [Row],
}

/// A row as printed.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The algorithm.
    pub algorithm: &'static str,
    /// Its three numbers.
    pub printed: [&'static str; 3],
    /// The search space.
    pub space: &'static str,
    /// The search method.
    pub method: &'static str,
    /// Names of that algorithm here.
    pub strategies: &'static [&'static str],
}

impl Row {
    /// The name of the row's space on the command line.
    pub fn space_name(&self) -> &'static str {
        match self.space {
            "DARTS" => "darts",
            "NASNet" => "nasnet",
            _ => "nb201",
        }
    }
}

/// The data sets of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dataset {
    /// CIFAR-10.
    Cifar10,
    /// CIFAR-100.
    Cifar100,
    /// ImageNet; with NAS-Bench-201 its ImageNet16-120.
    ImageNet,
}

impl Dataset {
    /// The data set of a data SPEC; for folders and packs, by the word ImageNet in their path.
    pub fn of_spec(spec: &str) -> Option<Dataset> {
        let (kind, path) = spec.split_once(':')?;
        match kind {
            "cifar10" => Some(Dataset::Cifar10),
            "cifar100" => Some(Dataset::Cifar100),
            _ => path
                .to_ascii_lowercase()
                .contains("imagenet")
                .then_some(Dataset::ImageNet),
        }
    }

    /// The data set that a column of a tabular benchmark names, if it names one.
    pub fn of_column(name: &str) -> Option<Dataset> {
        let plain = name.to_ascii_lowercase().replace(['-', '_'], "");
        // CIFAR-100 first: its name begins with the other's.
        let known = [Dataset::Cifar100, Dataset::Cifar10, Dataset::ImageNet];
        known
            .into_iter()
            .find(|dataset| plain.contains(dataset.word()))
    }

    /// The word that tells it in the name of a column.
    fn word(self) -> &'static str {
        match self {
            Dataset::Cifar10 => "cifar10",
            Dataset::Cifar100 => "cifar100",
            Dataset::ImageNet => "imagenet",
        }
    }

    /// Its name.
    fn name(self) -> &'static str {
        match self {
            Dataset::Cifar10 => "CIFAR-10",
            Dataset::Cifar100 => "CIFAR-100",
            Dataset::ImageNet => "ImageNet",
        }
    }

    /// Parameters of the network that the paper trains on it from a genotype.
    ///
    /// # Errors
    /// A genotype whose network cannot be described.
    pub fn parameters(self, genotype: &Genotype) -> Result<u64> {
        let nb201 = matches!(genotype, Genotype::Nb201(_));
        let imagenet = self == Dataset::ImageNet && !nb201;
        let classes = match self {
            Dataset::Cifar10 => 10,
            Dataset::Cifar100 => 100,
            // NAS-Bench-201 takes 120 classes of 16 × 16 pixels.
            Dataset::ImageNet if nb201 => 120,
            Dataset::ImageNet => 1000,
        };
        let design = Design {
            classes,
            ..Design::published(genotype, imagenet)
        };
        Ok(Derived::new(genotype, &design)?.parameter_count(Part::Body))
    }
}

/// The table of a number from 1 to 6.
pub fn table(number: usize) -> Option<&'static PaperTable> {
    tables::TABLES.iter().find(|table| table.number == number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_stand_as_printed() {
        let counts: Vec<usize> = tables::TABLES
            .iter()
            .map(|table| table.rows.len())
            .collect();
        assert_eq!(counts, [12, 9, 11, 8, 8, 8]);
        let last = |number| table(number).unwrap().rows.last().unwrap().printed;
        assert_eq!(last(1), ["3.98", "2.37", "3.8"]);
        assert_eq!(last(3), ["24.3", "7.3", "3.8"]);
        assert_eq!(last(6), ["40.66", "41.02", "1.3"]);
        assert_eq!(table(1).unwrap().rows[0].algorithm, "RandomNAS [39] *");
        assert!(table(0).is_none() && table(7).is_none());
    }

    #[test]
    fn data_sets_are_told_by_spec_and_by_column() {
        assert_eq!(Dataset::of_spec("cifar10:data"), Some(Dataset::Cifar10));
        assert_eq!(
            Dataset::of_spec("pack:/d/ImageNet.pack"),
            Some(Dataset::ImageNet)
        );
        assert_eq!(Dataset::of_spec("folder:flowers"), None);
        assert_eq!(Dataset::of_spec("digits"), None);
        assert_eq!(
            Dataset::of_column("cifar100_test_200"),
            Some(Dataset::Cifar100)
        );
        assert_eq!(Dataset::of_column("CIFAR-10 test"), Some(Dataset::Cifar10));
        assert_eq!(
            Dataset::of_column("ImageNet16-120-test"),
            Some(Dataset::ImageNet)
        );
        assert_eq!(Dataset::of_column("test"), None);
    }
}
