//! SPEC: how the command line names a data set.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Result, bail};

/// Where a data set lies and how it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spec {
    /// `digits`: the bundled UCI optical digits, 8×8.
    Digits,
    /// `cifar10:DIR`: the official binary files of CIFAR-10.
    Cifar10(PathBuf),
    /// `cifar100:DIR`: the official binary files of CIFAR-100, fine labels.
    Cifar100(PathBuf),
    /// `folder:DIR`: `train/` and `test/` with a folder of JPEG or PNG images for each class.
    Folder(PathBuf),
    /// `pack:FILE`: written by `ndarts data import`.
    Pack(PathBuf),
}

const KNOWN: &str = "`digits`, `cifar10:DIR`, `cifar100:DIR`, `folder:DIR`, `pack:FILE`";

impl FromStr for Spec {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Spec> {
        let (kind, path) = match text.split_once(':') {
            Some((kind, path)) => (kind, Some(path)),
            None => (text, None),
        };
        let spec: fn(PathBuf) -> Spec = match kind {
            "digits" => match path {
                None => return Ok(Spec::Digits),
                Some(_) => bail!("--data SPEC: expected `digits` without a path, found `{text}`"),
            },
            "cifar10" => Spec::Cifar10,
            "cifar100" => Spec::Cifar100,
            "folder" => Spec::Folder,
            "pack" => Spec::Pack,
            _ => bail!("--data SPEC: expected one of {KNOWN}, found `{text}`"),
        };
        match path {
            Some(path) if !path.is_empty() => Ok(spec(PathBuf::from(path))),
            _ => bail!(
                "--data SPEC: expected a path after `{kind}:`, found `{text}`; write `{kind}:PATH`"
            ),
        }
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Spec::Digits => write!(f, "digits"),
            Spec::Cifar10(path) => write!(f, "cifar10:{}", path.display()),
            Spec::Cifar100(path) => write!(f, "cifar100:{}", path.display()),
            Spec::Folder(path) => write!(f, "folder:{}", path.display()),
            Spec::Pack(path) => write!(f, "pack:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs_print_as_they_are_written() {
        for text in [
            "digits",
            "cifar10:/a",
            "cifar100:b/c",
            "folder:x:y",
            "pack:p.pack",
        ] {
            assert_eq!(text.parse::<Spec>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn an_unknown_spec_lists_the_known_ones() {
        let error = "mnist:/x".parse::<Spec>().unwrap_err().to_string();
        assert!(
            error.contains(KNOWN) && error.contains("`mnist:/x`"),
            "{error}"
        );
    }

    #[test]
    fn a_spec_without_its_path_says_what_to_write() {
        for text in ["cifar10", "pack:"] {
            let error = text.parse::<Spec>().unwrap_err().to_string();
            assert!(error.contains(":PATH`"), "{error}");
        }
        assert!("digits:here".parse::<Spec>().is_err());
    }
}
