//! Flat vectors of f32 (θ, gradients, directions, moments of an optimiser) on whichever device runs.
//!
//! A [`Vector`] owns its elements where its device computes; a [`Slice`] or [`SliceMut`] borrows part
//! of one. The floors above hand them from the tape to the optimiser to the hypergradient without a
//! copy; only what people or files see is read back ([`Slice::to_vec`]).

use super::cuda::{Buffer, Gpu};
use super::{Device, Later};
use std::ops::Range;
use std::sync::Arc;

/// A flat vector on a device.
pub struct Vector(Storage);

enum Storage {
    Host(Vec<f32>),
    Cuda {
        gpu: Arc<Gpu>,
        buffer: Buffer,
        len: usize,
    },
}

/// Part of a vector on a GPU.
#[derive(Clone, Copy)]
pub struct Part<'a> {
    /// Whose memory.
    pub gpu: &'a Arc<Gpu>,
    /// First element.
    pub address: u64,
    /// Elements.
    pub len: usize,
}

/// Part of a vector, to read.
#[derive(Clone, Copy)]
pub enum Slice<'a> {
    /// On the host.
    Host(&'a [f32]),
    /// On a GPU.
    Cuda(Part<'a>),
}

/// Part of a vector, to write.
pub enum SliceMut<'a> {
    /// On the host.
    Host(&'a mut [f32]),
    /// On a GPU.
    Cuda(Part<'a>),
}

impl Vector {
    /// `len` zeros on `device`.
    ///
    /// # Errors
    /// Device memory that ran out.
    pub fn zeros(device: &Device, len: usize) -> anyhow::Result<Vector> {
        Ok(Vector(match device {
            Device::Cpu => Storage::Host(vec![0.0; len]),
            Device::Cuda(gpu) => Storage::Cuda {
                buffer: gpu.buffer(4 * len)?,
                gpu: Arc::clone(gpu),
                len,
            },
        }))
    }

    /// `values` on `device`.
    ///
    /// # Errors
    /// Device memory that ran out.
    pub fn new(device: &Device, values: Vec<f32>) -> anyhow::Result<Vector> {
        if matches!(device, Device::Cpu) {
            return Ok(Vector(Storage::Host(values)));
        }
        let mut vector = Vector::zeros(device, values.len())?;
        vector.slice_mut().write(&values)?;
        Ok(vector)
    }

    /// An empty vector, to grow by [`Vector::fit`].
    pub const fn empty() -> Vector {
        Vector(Storage::Host(Vec::new()))
    }

    /// Makes it as long as `like`, on its device, zeroed where it was not so already.
    ///
    /// # Errors
    /// Device memory that ran out.
    pub fn fit(&mut self, like: Slice) -> anyhow::Result<()> {
        if self.len() != like.len() {
            *self = Vector::zeros(&like.device(), like.len())?;
        }
        Ok(())
    }

    /// Elements.
    pub fn len(&self) -> usize {
        match &self.0 {
            Storage::Host(values) => values.len(),
            Storage::Cuda { len, .. } => *len,
        }
    }

    /// True for a vector of nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of it, to read.
    pub fn slice(&self) -> Slice<'_> {
        match &self.0 {
            Storage::Host(values) => Slice::Host(values),
            Storage::Cuda { gpu, buffer, len } => Slice::Cuda(Part {
                gpu,
                address: buffer.address(),
                len: *len,
            }),
        }
    }

    /// All of it, to write.
    pub fn slice_mut(&mut self) -> SliceMut<'_> {
        match &mut self.0 {
            Storage::Host(values) => SliceMut::Host(values),
            Storage::Cuda { gpu, buffer, len } => SliceMut::Cuda(Part {
                gpu,
                address: buffer.address(),
                len: *len,
            }),
        }
    }

    /// Elements `range`, to read.
    pub fn part(&self, range: Range<usize>) -> Slice<'_> {
        self.slice().part(range)
    }

    /// Elements `range`, to write.
    pub fn part_mut(&mut self, range: Range<usize>) -> SliceMut<'_> {
        self.slice_mut().part(range)
    }

    /// The elements on the host, if that is where they are.
    pub fn host_mut(&mut self) -> Option<&mut [f32]> {
        match &mut self.0 {
            Storage::Host(values) => Some(values),
            Storage::Cuda { .. } => None,
        }
    }
}

fn within(part: Part<'_>, range: Range<usize>) -> Part<'_> {
    assert!(range.start <= range.end && range.end <= part.len, "a part");
    Part {
        address: part.address + 4 * range.start as u64,
        len: range.len(),
        ..part
    }
}

impl<'a> Slice<'a> {
    /// Elements.
    pub fn len(&self) -> usize {
        match self {
            Slice::Host(values) => values.len(),
            Slice::Cuda(part) => part.len,
        }
    }

    /// True for a part of nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Elements `range` of it.
    #[must_use]
    pub fn part(self, range: Range<usize>) -> Slice<'a> {
        match self {
            Slice::Host(values) => Slice::Host(&values[range]),
            Slice::Cuda(part) => Slice::Cuda(within(part, range)),
        }
    }

    /// Where it is.
    pub fn device(&self) -> Device {
        match self {
            Slice::Host(_) => Device::Cpu,
            Slice::Cuda(part) => Device::Cuda(Arc::clone(part.gpu)),
        }
    }

    /// Copies the elements to the host; as many.
    ///
    /// # Errors
    /// The device's.
    pub fn copy_to(&self, to: &mut [f32]) -> anyhow::Result<()> {
        assert_eq!(to.len(), self.len(), "vectors of one length");
        match self {
            Slice::Host(values) => to.copy_from_slice(values),
            Slice::Cuda(part) => part.gpu.read(part.address, to)?,
        }
        Ok(())
    }

    /// Notes the elements as they are when the launches so far are done; none where they are on the host
    /// already.
    ///
    /// # Errors
    /// The device's.
    pub fn note(&self) -> anyhow::Result<Option<Later<Vec<f32>>>> {
        let Slice::Cuda(part) = self else {
            return Ok(None);
        };
        let floats = |bytes: &[u8]| bytemuck::pod_collect_to_vec::<u8, f32>(bytes);
        part.gpu.note(part.address, 4 * part.len, floats).map(Some)
    }

    /// A copy of the elements on the host.
    ///
    /// # Errors
    /// The device's.
    pub fn to_vec(&self) -> anyhow::Result<Vec<f32>> {
        let mut values = vec![0.0; self.len()];
        self.copy_to(&mut values)?;
        Ok(values)
    }
}

impl<'a> SliceMut<'a> {
    /// Elements.
    pub fn len(&self) -> usize {
        match self {
            SliceMut::Host(values) => values.len(),
            SliceMut::Cuda(part) => part.len,
        }
    }

    /// True for a part of nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Elements `range` of it.
    #[must_use]
    pub fn part(self, range: Range<usize>) -> SliceMut<'a> {
        match self {
            SliceMut::Host(values) => SliceMut::Host(&mut values[range]),
            SliceMut::Cuda(part) => SliceMut::Cuda(within(part, range)),
        }
    }

    /// The same elements for a shorter time.
    pub fn reborrow(&mut self) -> SliceMut<'_> {
        match self {
            SliceMut::Host(values) => SliceMut::Host(values),
            SliceMut::Cuda(part) => SliceMut::Cuda(*part),
        }
    }

    /// The same elements, to read.
    pub fn as_slice(&self) -> Slice<'_> {
        match self {
            SliceMut::Host(values) => Slice::Host(values),
            SliceMut::Cuda(part) => Slice::Cuda(*part),
        }
    }

    /// Copies `values` from the host; as many.
    ///
    /// # Errors
    /// The device's.
    pub fn write(&mut self, values: &[f32]) -> anyhow::Result<()> {
        assert_eq!(values.len(), self.len(), "vectors of one length");
        match self {
            SliceMut::Host(to) => to.copy_from_slice(values),
            SliceMut::Cuda(part) => {
                part.gpu.write(part.address, values)?;
                // `values` may change when this returns.
                part.gpu.wait()?;
            }
        }
        Ok(())
    }

    /// Copies `from`, on the same device and as long.
    ///
    /// # Errors
    /// The device's.
    pub fn copy_from(&mut self, from: Slice) -> anyhow::Result<()> {
        assert_eq!(from.len(), self.len(), "vectors of one length");
        match (self, from) {
            (SliceMut::Host(to), Slice::Host(from)) => to.copy_from_slice(from),
            (SliceMut::Cuda(to), Slice::Cuda(from)) => {
                to.gpu.copy(to.address, from.address, 4 * to.len)?;
            }
            _ => unreachable!("vectors of one device"),
        }
        Ok(())
    }

    /// Sets all to zero.
    ///
    /// # Errors
    /// The device's.
    pub fn zero(&mut self) -> anyhow::Result<()> {
        match self {
            SliceMut::Host(to) => to.fill(0.0),
            SliceMut::Cuda(part) => part.gpu.zero(part.address, 4 * part.len)?,
        }
        Ok(())
    }
}

impl<'a> From<&'a Vector> for Slice<'a> {
    fn from(vector: &'a Vector) -> Slice<'a> {
        vector.slice()
    }
}

impl<'a> From<&'a [f32]> for Slice<'a> {
    fn from(values: &'a [f32]) -> Slice<'a> {
        Slice::Host(values)
    }
}

impl<'a> From<&'a Vec<f32>> for Slice<'a> {
    fn from(values: &'a Vec<f32>) -> Slice<'a> {
        Slice::Host(values)
    }
}

impl<'a, const N: usize> From<&'a [f32; N]> for Slice<'a> {
    fn from(values: &'a [f32; N]) -> Slice<'a> {
        Slice::Host(values)
    }
}

impl<'a> From<&'a mut Vector> for SliceMut<'a> {
    fn from(vector: &'a mut Vector) -> SliceMut<'a> {
        vector.slice_mut()
    }
}

impl<'a> From<&'a mut [f32]> for SliceMut<'a> {
    fn from(values: &'a mut [f32]) -> SliceMut<'a> {
        SliceMut::Host(values)
    }
}

impl<'a> From<&'a mut Vec<f32>> for SliceMut<'a> {
    fn from(values: &'a mut Vec<f32>) -> SliceMut<'a> {
        SliceMut::Host(values)
    }
}

impl<'a, const N: usize> From<&'a mut [f32; N]> for SliceMut<'a> {
    fn from(values: &'a mut [f32; N]) -> SliceMut<'a> {
        SliceMut::Host(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_host_vector_are_its_elements() {
        let mut vector = Vector::new(&Device::Cpu, vec![1.0, 2.0, 3.0, 4.0]).unwrap();
        vector.part_mut(1..3).write(&[7.0, 8.0]).unwrap();
        vector.part_mut(0..1).zero().unwrap();
        assert_eq!(vector.slice().to_vec().unwrap(), [0.0, 7.0, 8.0, 4.0]);
        let other = Vector::zeros(&Device::Cpu, 2).unwrap();
        vector.part_mut(2..4).copy_from(other.slice()).unwrap();
        assert_eq!(vector.part(1..4).to_vec().unwrap(), [7.0, 0.0, 0.0]);
    }
}
