//! Safetensors files of named tensors: how weights travel to and from PyTorch.
//!
//! Names and shapes are those of the reference PyTorch `state_dict`, so a file written here loads
//! there and the other way round. Reading trusts nothing: the header's length is checked against
//! the file's before anything is allocated, and the header's offsets and shapes against the bytes
//! that are there before a tensor is copied out.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::parameters::Parameter;
use anyhow::{Context, Result, bail, ensure};
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorView};

/// Bytes of the little-endian header length that opens a safetensors file.
const LENGTH_BYTES: u64 = 8;
/// The format's own cap on a header.
const HEADER_LIMIT: u64 = 100_000_000;
/// PyTorch's batch-norm step counter: an integer that no computation here reads.
const STEP_COUNTER: &str = "num_batches_tracked";

/// A named f32 tensor, row-major, in PyTorch's layout (convolutions `[out, in/groups, kh, kw]`).
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    /// Name as in the PyTorch `state_dict`.
    pub name: String,
    /// Sizes, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
    /// The elements, as many as the product of `shape`.
    pub data: Vec<f32>,
}

/// A named i64 tensor, row-major: class labels beside the images of a probe file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedIntegers {
    /// Name within the file.
    pub name: String,
    /// Sizes, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
    /// The elements, as many as the product of `shape`.
    pub data: Vec<i64>,
}

/// The f32 tensors and the string metadata of a safetensors file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StateDict {
    /// The tensors, by name.
    pub tensors: Vec<NamedTensor>,
    /// The header's `__metadata__`.
    pub metadata: BTreeMap<String, String>,
}

/// Everything that a search or a training needs to continue, but its settings.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Parameters and running statistics under PyTorch's names.
    pub weights: Vec<NamedTensor>,
    /// PyTorch's step counters of batch norm, which nothing here reads back.
    pub integers: Vec<NamedIntegers>,
    /// Optimiser vectors, in θ's layout.
    pub optimizer: Vec<NamedTensor>,
    /// Counters.
    pub state: serde_json::Value,
}

/// θ as tensors under PyTorch's names and shapes.
pub fn state_tensors(parameters: &[Parameter], theta: &[f32]) -> Vec<NamedTensor> {
    let tensor = |p: &Parameter| NamedTensor {
        name: p.name.clone(),
        shape: p.shape.clone(),
        data: p.to_torch(theta),
    };
    parameters.iter().map(tensor).collect()
}

/// Fills θ from tensors under PyTorch's names.
///
/// # Errors
/// A tensor that is missing or has another shape: the message names the first.
pub fn load_tensors(
    parameters: &[Parameter],
    tensors: &[NamedTensor],
    theta: &mut [f32],
) -> Result<()> {
    let by_name: HashMap<_, _> = tensors.iter().map(|t| (t.name.as_str(), t)).collect();
    for parameter in parameters {
        let data = find_tensor(&by_name, &parameter.name, &parameter.shape)?;
        parameter.from_torch(data, theta);
    }
    Ok(())
}

/// The elements of a tensor of a stated name and shape.
///
/// # Errors
/// None of that name, or one of another shape.
pub fn find_tensor<'a>(
    by_name: &HashMap<&str, &'a NamedTensor>,
    name: &str,
    shape: &[usize],
) -> Result<&'a [f32]> {
    let found = by_name.get(name).with_context(|| {
        format!(
            "checkpoint: tensor `{name}` is missing; it belongs to another space, genotype, \
             --channels or --cells"
        )
    })?;
    ensure!(
        found.shape == shape,
        "checkpoint: tensor `{name}`: expected shape {shape:?}, found {:?}; it belongs to another \
         space, genotype, --channels or --cells",
        found.shape
    );
    Ok(&found.data)
}

/// The bytes of a safetensors file.
///
/// With at most one metadata entry the bytes depend on the arguments alone (the format's writer
/// orders several entries at random).
///
/// # Errors
///
/// A name used twice, or a tensor whose element count is not the product of its shape.
pub fn encode(
    tensors: &[NamedTensor],
    integers: &[NamedIntegers],
    metadata: &[(&str, &str)],
) -> Result<Vec<u8>> {
    let mut views = BTreeMap::new();
    let floats = tensors.iter().map(|t| {
        (
            &t.name,
            &t.shape,
            Dtype::F32,
            t.data.len(),
            bytemuck::cast_slice(&t.data),
        )
    });
    let labels = integers.iter().map(|t| {
        (
            &t.name,
            &t.shape,
            Dtype::I64,
            t.data.len(),
            bytemuck::cast_slice(&t.data),
        )
    });
    for (name, shape, dtype, len, bytes) in floats.chain(labels) {
        ensure!(
            element_count(shape) == Some(len),
            "tensor `{name}`: expected as many elements as its shape {shape:?} says, found {len}"
        );
        let view = TensorView::new(dtype, shape.clone(), bytes)
            .with_context(|| format!("tensor `{name}` of shape {shape:?}"))?;
        ensure!(
            views.insert(name.as_str(), view).is_none(),
            "tensor `{name}`: expected every name once, found it twice"
        );
    }
    let metadata: HashMap<String, String> = metadata
        .iter()
        .map(|(key, value)| (key.to_string(), value.to_string()))
        .collect();
    let metadata = (!metadata.is_empty()).then_some(metadata);
    safetensors::serialize(views, metadata).context("cannot lay the tensors out as safetensors")
}

/// Reads the f32 tensors and metadata of a safetensors file.
///
/// PyTorch's integer `num_batches_tracked` counters are passed over; any other tensor that is not
/// f32 is an error.
///
/// # Errors
///
/// A file that cannot be read, is no safetensors file, whose header lies about its contents, or
/// that holds a tensor of another type; the message names the file and the tensor.
pub fn read(path: &Path) -> Result<StateDict> {
    let shown = path.display();
    let mut file = File::open(path).with_context(|| {
        format!("{shown}: expected a safetensors file, but it cannot be opened")
    })?;
    let about = file
        .metadata()
        .with_context(|| format!("{shown}: cannot be examined"))?;
    ensure!(
        about.is_file(),
        "{shown}: expected a safetensors file, found something that is no file"
    );
    let bytes = read_checked(&mut file, about.len())
        .with_context(|| format!("{shown}: expected a safetensors file"))?;
    decode(&bytes).with_context(|| format!("{shown}: expected a safetensors file of f32 tensors"))
}

/// The header first, checked against the file's length; then, and only then, the rest.
fn read_checked(file: &mut File, length: u64) -> Result<Vec<u8>> {
    ensure!(
        length >= LENGTH_BYTES,
        "found {length} bytes, which is too short for a header"
    );
    let mut opening = [0u8; LENGTH_BYTES as usize];
    file.read_exact(&mut opening)
        .context("the header length cannot be read")?;
    let header = u64::from_le_bytes(opening);
    ensure!(
        header <= HEADER_LIMIT.min(length - LENGTH_BYTES),
        "found a header that claims {header} bytes in a file of {length}"
    );
    let mut bytes = opening.to_vec();
    file.by_ref()
        .take(header)
        .read_to_end(&mut bytes)
        .context("the header cannot be read")?;
    let parsed: Metadata = serde_json::from_slice(&bytes[LENGTH_BYTES as usize..])
        .context("found a header that is not safetensors JSON or contradicts itself")?;
    let promised = parsed.data_len() as u64;
    let present = length - LENGTH_BYTES - header;
    ensure!(
        promised == present,
        "found {present} bytes of tensors where the header promises {promised}"
    );
    file.take(promised)
        .read_to_end(&mut bytes)
        .context("the tensors cannot be read")?;
    Ok(bytes)
}

/// Tensors and metadata of the bytes of a safetensors file; see [`read`].
///
/// # Errors
///
/// Bytes that are no safetensors file, or a tensor that is not f32.
pub fn decode(bytes: &[u8]) -> Result<StateDict> {
    let (_, header) = SafeTensors::read_metadata(bytes).context("found a broken header")?;
    let file = SafeTensors::deserialize(bytes).context("found a broken header")?;
    let mut tensors = Vec::with_capacity(file.len());
    for name in header.offset_keys() {
        let view = file
            .tensor(&name)
            .with_context(|| format!("tensor `{name}`"))?;
        if name.ends_with(STEP_COUNTER) {
            continue;
        }
        if view.dtype() != Dtype::F32 {
            bail!(
                "tensor `{name}`: expected F32, found {:?}; convert it with `.float()` before saving",
                view.dtype()
            );
        }
        // The bytes may start anywhere in the buffer, so they are decoded, not cast.
        let data = view
            .data()
            .as_chunks::<4>()
            .0
            .iter()
            .map(|chunk| f32::from_le_bytes(*chunk))
            .collect();
        tensors.push(NamedTensor {
            name,
            shape: view.shape().to_vec(),
            data,
        });
    }
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let metadata = header
        .metadata()
        .clone()
        .unwrap_or_default()
        .into_iter()
        .collect();
    Ok(StateDict { tensors, metadata })
}

/// The product of the sizes, or none where it does not fit.
fn element_count(shape: &[usize]) -> Option<usize> {
    shape
        .iter()
        .try_fold(1usize, |product, &size| product.checked_mul(size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Vec<NamedTensor> {
        let tensor = |name: &str, shape: &[usize]| NamedTensor {
            name: name.into(),
            shape: shape.to_vec(),
            data: (0..shape.iter().product::<usize>())
                .map(|i| i as f32 * 0.5 - 1.0)
                .collect(),
        };
        vec![
            tensor("alphas_normal", &[2, 3]),
            tensor("stem.0.weight", &[2, 1, 3, 3]),
        ]
    }

    fn written(bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    #[test]
    fn tensors_and_metadata_survive_a_round_trip() {
        let bytes = encode(&sample(), &[], &[("ndarts", "{}")]).unwrap();
        let back = read(written(&bytes).path()).unwrap();
        assert_eq!(back.tensors, sample());
        assert_eq!(back.metadata["ndarts"], "{}");
    }

    #[test]
    fn the_same_tensors_make_the_same_bytes() {
        let once = encode(&sample(), &[], &[("ndarts", "state")]).unwrap();
        assert_eq!(
            once,
            encode(&sample(), &[], &[("ndarts", "state")]).unwrap()
        );
    }

    #[test]
    fn a_name_used_twice_or_a_wrong_count_is_refused() {
        let mut tensors = sample();
        tensors[1].name = tensors[0].name.clone();
        assert!(
            encode(&tensors, &[], &[])
                .unwrap_err()
                .to_string()
                .contains("twice")
        );
        let mut tensors = sample();
        tensors[0].data.pop();
        assert!(encode(&tensors, &[], &[]).is_err());
    }

    #[test]
    fn integers_are_refused_by_name_but_batch_norm_counters_are_passed_over() {
        let integer = |name: &str| NamedIntegers {
            name: name.into(),
            shape: vec![],
            data: vec![7],
        };
        let bytes = encode(&sample(), &[integer("target")], &[]).unwrap();
        let message = format!("{:#}", read(written(&bytes).path()).unwrap_err());
        assert!(
            message.contains("`target`") && message.contains("I64"),
            "{message}"
        );
        let bytes = encode(&sample(), &[integer("bn.num_batches_tracked")], &[]).unwrap();
        assert_eq!(decode(&bytes).unwrap().tensors, sample());
    }

    #[test]
    fn a_header_that_claims_more_than_the_file_is_refused_before_allocating() {
        let mut bytes = u64::MAX.to_le_bytes().to_vec();
        bytes.extend_from_slice(b"{}");
        let message = format!("{:#}", read(written(&bytes).path()).unwrap_err());
        assert!(
            message.contains("claims 18446744073709551615 bytes in a file of 10"),
            "{message}"
        );
        let lie = br#"{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,8]}}"#;
        let mut bytes = (lie.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(lie);
        bytes.extend_from_slice(&[0; 8]);
        assert!(read(written(&bytes).path()).is_err());
    }

    proptest! {
        #[test]
        fn mutated_files_are_refused_or_read_but_never_panic(
            cut in 0usize..400, at in 0usize..400, value: u8
        ) {
            let mut bytes = encode(&sample(), &[], &[("ndarts", "{}")]).unwrap();
            let at = at % bytes.len();
            bytes[at] = value;
            bytes.truncate(bytes.len() - cut % bytes.len());
            let _ = read(written(&bytes).path());
            let _ = decode(&bytes);
        }
    }
}
