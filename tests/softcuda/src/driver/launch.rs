//! Launches: their shape against the limits of device and kernel, their parameters, their attributes.

use std::ffi::c_void;
use std::sync::Arc;

use super::entry::{Handle, Outcome, entries, say, take};
use super::errors::Code;
use super::state::{Driver, current};
use super::stream::submit;
use super::types::{LaunchAttribute, LaunchConfig};
use super::work::{KernelWork, Work};
use crate::target::{BLOCK_LIMITS, GRID_LIMITS};
use crate::{Kernel, Launch, Target};

entries! {
    fn cuLaunchKernel(
        function: Handle,
        grid_x: u32,
        grid_y: u32,
        grid_z: u32,
        block_x: u32,
        block_y: u32,
        block_z: u32,
        shared: u32,
        stream: Handle,
        parameters: *mut *mut c_void,
        extra: *mut *mut c_void,
    ) [cuLaunchKernel_ptsz] {
        let shape = Shape::new([grid_x, grid_y, grid_z], [block_x, block_y, block_z], shared);
        launch(function, &shape, stream, parameters, extra)
    }

    fn cuLaunchCooperativeKernel(
        function: Handle,
        grid_x: u32,
        grid_y: u32,
        grid_z: u32,
        block_x: u32,
        block_y: u32,
        block_z: u32,
        shared: u32,
        stream: Handle,
        parameters: *mut *mut c_void,
    ) [cuLaunchCooperativeKernel_ptsz] {
        let shape = Shape {
            cooperative: true,
            ..Shape::new([grid_x, grid_y, grid_z], [block_x, block_y, block_z], shared)
        };
        launch(function, &shape, stream, parameters, std::ptr::null_mut())
    }

    fn cuLaunchKernelEx(
        config: *const LaunchConfig,
        function: Handle,
        parameters: *mut *mut c_void,
        extra: *mut *mut c_void,
    ) [cuLaunchKernelEx_ptsz] {
        let config = take(config)?;
        let mut shape = Shape::new(config.grid, config.block, config.shared_mem_bytes);
        if config.attribute_count > 0 && config.attributes.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        let mut event = None;
        for index in 0..config.attribute_count as usize {
            let attribute = config.attributes.add(index).read_unaligned();
            event = shape.apply(&attribute)?.or(event);
        }
        launch(function, &shape, config.stream, parameters, extra)?;
        let Some(event) = event else { return Ok(()) };
        let (driver, context) = current()?;
        submit(driver, context, config.stream, Work::Record(event))
    }
}

/// The shape of a launch, before it is held against any limit.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) grid: [u32; 3],
    pub(super) block: [u32; 3],
    pub(super) cluster: [u32; 3],
    pub(super) shared: u32,
    pub(super) cooperative: bool,
}

impl Shape {
    pub(super) fn new(grid: [u32; 3], block: [u32; 3], shared: u32) -> Shape {
        Shape {
            grid,
            block,
            cluster: [1; 3],
            shared,
            cooperative: false,
        }
    }

    /// Takes in a launch attribute; an event to record when the launch is done, if it is that.
    fn apply(&mut self, attribute: &LaunchAttribute) -> Result<Option<Handle>, Code> {
        match attribute.id {
            2 => self.cooperative = attribute.value[0] != 0,
            4 => self.cluster = [attribute.value[0], attribute.value[1], attribute.value[2]],
            // The event of a programmatic or completed launch: a pointer in the union's first 8 bytes.
            7 | 12 => {
                let [low, high] = [attribute.value[0] as usize, attribute.value[1] as usize];
                return Ok(Some(low | high << 32));
            }
            // Hints: cache windows, policies, priorities, serialisation, carveout. No meaning here.
            0 | 1 | 3 | 5 | 6 | 8..=11 | 14 | 16..=18 => {}
            13 => {
                super::unsupported::refuse("cuLaunchKernelEx with a device-updatable node")?;
            }
            _ => return Err(Code::INVALID_VALUE),
        }
        Ok(None)
    }
}

/// # Safety
/// `parameters` and `extra` as `cuLaunchKernel` wants them for this function.
unsafe fn launch(
    function: Handle,
    shape: &Shape,
    stream: Handle,
    parameters: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Outcome {
    let (driver, context) = current()?;
    // SAFETY: this function's contract.
    let work = unsafe { driver.kernel_work(context, function, shape, parameters, extra)? };
    submit(driver, context, stream, Work::Kernel(work))
}

impl Driver {
    /// A launch made of what a caller passes, checked.
    ///
    /// # Errors
    /// `INVALID_VALUE`, `LAUNCH_OUT_OF_RESOURCES`, … with a sentence on standard error.
    ///
    /// # Safety
    /// `parameters` and `extra` as `cuLaunchKernel` wants them for this function.
    pub(super) unsafe fn kernel_work(
        &self,
        context: Handle,
        function: Handle,
        shape: &Shape,
        parameters: *mut *mut c_void,
        extra: *mut *mut c_void,
    ) -> Result<KernelWork, Code> {
        let found = self.functions.get(function)?;
        let owner = self
            .modules
            .get(found.module)
            .map_or(0, |module| module.context);
        if owner != 0 && owner != context {
            return Err(Code::INVALID_HANDLE);
        }
        let non_portable = found
            .attributes
            .get(&14)
            .is_some_and(|&allowed| allowed != 0);
        let limits = Limits {
            dynamic_shared: found.max_dynamic_shared,
            non_portable,
        };
        // `__cluster_dims__` holds for launches that don't say.
        let mut shape = shape.clone();
        if shape.cluster == [1; 3] {
            shape.cluster = found.kernel.required_cluster.unwrap_or([1; 3]);
        }
        check(&self.settings.target, &found.kernel, &shape, &limits).map_err(
            |(code, sentence)| {
                say(&format!("launch of `{}`: {sentence}", found.kernel.name));
                code
            },
        )?;
        Ok(KernelWork {
            function,
            kernel: Arc::clone(&found.kernel),
            launch: Launch {
                grid: shape.grid,
                block: shape.block,
                cluster: shape.cluster,
                dynamic_shared: shape.shared,
                // SAFETY: this function's contract.
                params: unsafe { parameter_block(&found.kernel, parameters, extra)? },
                cooperative: shape.cooperative,
            },
        })
    }
}

/// Limits that attributes of the function set.
struct Limits {
    dynamic_shared: u32,
    non_portable: bool,
}

/// Holds a launch against what device and kernel allow.
fn check(
    target: &Target,
    kernel: &Kernel,
    shape: &Shape,
    limits: &Limits,
) -> Result<(), (Code, String)> {
    let refuse = |code, sentence: String| Err((code, sentence));
    let Shape {
        grid,
        block,
        shared,
        ..
    } = *shape;
    for (axis, name) in ["x", "y", "z"].iter().enumerate() {
        if !(1..=GRID_LIMITS[axis]).contains(&grid[axis]) {
            let most = GRID_LIMITS[axis];
            return refuse(
                Code::INVALID_VALUE,
                format!(
                    "{} blocks along {name}; a grid has from 1 to {most}",
                    grid[axis]
                ),
            );
        }
        if !(1..=BLOCK_LIMITS[axis]).contains(&block[axis]) {
            let most = BLOCK_LIMITS[axis];
            return refuse(
                Code::INVALID_VALUE,
                format!(
                    "{} threads along {name}; a block has from 1 to {most}",
                    block[axis]
                ),
            );
        }
    }
    let threads = block.iter().product::<u32>();
    if threads > kernel.max_threads {
        let most = kernel.max_threads;
        return refuse(
            Code::INVALID_VALUE,
            format!("blocks of {threads} threads; this kernel's have at most {most}"),
        );
    }
    if let Some(required) = kernel.required_block
        && required != block
    {
        return refuse(
            Code::INVALID_VALUE,
            format!("blocks of {block:?} threads; the kernel requires {required:?}"),
        );
    }
    if shared > limits.dynamic_shared {
        return refuse(
            Code::INVALID_VALUE,
            format!(
                "{shared} bytes of dynamic shared memory; without \
                 CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES it has {} ({} static, {} at most on sm_{})",
                limits.dynamic_shared,
                kernel.static_shared,
                target.shared_per_block_optin,
                target.sm
            ),
        );
    }
    let resident = target.occupancy(threads, kernel.registers, kernel.static_shared + shared);
    if resident == 0 {
        return refuse(
            Code::LAUNCH_OUT_OF_RESOURCES,
            format!(
                "blocks of {threads} threads with {} registers each and {} bytes of shared memory; none fits \
                 on a multiprocessor of sm_{}",
                kernel.registers,
                kernel.static_shared + shared,
                target.sm
            ),
        );
    }
    if let Some(required) = kernel.required_cluster
        && required != shape.cluster
    {
        return refuse(
            Code::INVALID_CLUSTER_SIZE,
            format!(
                "clusters of {:?} blocks; the kernel requires {required:?}",
                shape.cluster
            ),
        );
    }
    check_cluster(target, shape, limits)?;
    let blocks = grid.iter().map(|&n| u64::from(n)).product::<u64>();
    let room = u64::from(resident) * u64::from(target.multiprocessors);
    if shape.cooperative && blocks > room {
        return refuse(
            Code::COOPERATIVE_LAUNCH_TOO_LARGE,
            format!("a cooperative grid of {blocks} blocks; {room} are resident at once"),
        );
    }
    Ok(())
}

fn check_cluster(target: &Target, shape: &Shape, limits: &Limits) -> Result<(), (Code, String)> {
    if shape.cluster == [1; 3] {
        return Ok(());
    }
    let size = shape.cluster.iter().map(|&n| u64::from(n)).product::<u64>();
    let most = if limits.non_portable { 16 } else { 8 };
    let divides = shape
        .grid
        .iter()
        .zip(&shape.cluster)
        .all(|(&grid, &side)| side > 0 && grid % side == 0);
    if target.sm < 90 || size > most || !divides {
        return Err((
            Code::INVALID_CLUSTER_SIZE,
            format!(
                "clusters of {:?} blocks; they exist from sm_90 on, have at most {most} blocks, and divide \
                 the grid, here {:?} on sm_{}",
                shape.cluster, shape.grid, target.sm
            ),
        ));
    }
    Ok(())
}

/// `CU_LAUNCH_PARAM_END`, `_BUFFER_POINTER`, `_BUFFER_SIZE`: the keys of `extra`.
const END: usize = 0;
const BUFFER_POINTER: usize = 1;
const BUFFER_SIZE: usize = 2;

/// The parameter block: from one pointer a parameter, or from a packed buffer.
///
/// # Safety
/// `parameters` must be null or hold a pointer to each parameter's value; `extra` null or a list of keys
/// and values that ends.
unsafe fn parameter_block(
    kernel: &Kernel,
    parameters: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Result<Vec<u8>, Code> {
    let size = kernel
        .params
        .iter()
        .map(|p| p.offset as usize + p.size as usize)
        .max()
        .unwrap_or(0);
    let mut block = vec![0; size];
    if !parameters.is_null() && !extra.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    if !extra.is_null() {
        // SAFETY: this function's contract.
        let (buffer, length) = unsafe { packed_buffer(extra)? };
        // A packed buffer may lack the padding at its end, and may have some of its own.
        let last = kernel
            .params
            .last()
            .map_or(0, |p| p.offset as usize + p.size as usize);
        if buffer.is_null() || length < last {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: the buffer holds `length >= last` bytes, and the block `size >= last`.
        unsafe { std::ptr::copy_nonoverlapping(buffer, block.as_mut_ptr(), last) };
        return Ok(block);
    }
    if parameters.is_null() && size > 0 {
        return Err(Code::INVALID_VALUE);
    }
    for (index, parameter) in kernel.params.iter().enumerate() {
        // SAFETY: there is a pointer for each parameter, by the contract.
        let value = unsafe { parameters.add(index).read_unaligned() };
        if value.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        let (offset, bytes) = (parameter.offset as usize, parameter.size as usize);
        // SAFETY: the value has the parameter's size, by the contract; the block has room by `size`.
        unsafe {
            std::ptr::copy_nonoverlapping(
                value.cast::<u8>(),
                block.as_mut_ptr().add(offset),
                bytes,
            );
        }
    }
    Ok(block)
}

/// Pointer and length of a packed buffer.
///
/// # Safety
/// `extra` must be a list of keys and values that ends.
unsafe fn packed_buffer(extra: *mut *mut c_void) -> Result<(*const u8, usize), Code> {
    let (mut buffer, mut length) = (std::ptr::null(), 0);
    // There are two keys; a list that is longer than that says something twice.
    for pair in 0..3 {
        // SAFETY: the list ends at END, which is looked at before what follows it.
        let key = unsafe { extra.add(2 * pair).read_unaligned() } as usize;
        if key == END {
            return Ok((buffer, length));
        }
        // SAFETY: a key other than END has a value after it.
        let value = unsafe { extra.add(2 * pair + 1).read_unaligned() };
        match key {
            BUFFER_POINTER => buffer = value.cast_const().cast(),
            BUFFER_SIZE if !value.is_null() => {
                // SAFETY: the value of this key points to a size_t.
                length = unsafe { value.cast::<usize>().read_unaligned() };
            }
            _ => return Err(Code::INVALID_VALUE),
        }
    }
    Err(Code::INVALID_VALUE)
}
