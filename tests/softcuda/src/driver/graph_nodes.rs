//! Making nodes of each kind.

use std::ffi::c_void;

use super::capture::handles;
use super::copy::{box_with, fill_of};
use super::entry::{Handle, Outcome, entries, put, take};
use super::errors::Code;
use super::graph::plain_edges;
use super::launch::Shape;
use super::state::{Driver, Guard, Kind, current, lock};
use super::types::{
    EdgeData, GraphNodeParams, HostNodeParams, KernelNodeParams, KernelNodeParams2,
    MemAllocNodeParams, Memcpy3d, MemsetNodeParams,
};
use super::work::{HostWork, KernelWork, Work};

entries! {
    fn cuGraphAddKernelNode(
        node: *mut Handle,
        graph: Handle,
        dependencies: *const Handle,
        count: usize,
        parameters: *const KernelNodeParams,
    ) {
        add_kernel(node, graph, dependencies, count, parameters)
    }

    fn cuGraphAddKernelNode_v2(
        node: *mut Handle,
        graph: Handle,
        dependencies: *const Handle,
        count: usize,
        parameters: *const KernelNodeParams2,
    ) {
        let (driver, context) = current()?;
        let work = kernel_work_2(&driver, context, &take(parameters)?)?;
        add(driver, node, graph, dependencies, count, Work::Kernel(work))
    }

    fn cuGraphAddMemcpyNode(
        node: *mut Handle,
        graph: Handle,
        dependencies: *const Handle,
        count: usize,
        parameters: *const Memcpy3d,
        _context: Handle,
    ) {
        let (driver, _) = current()?;
        let copy = box_with(&driver, &take(parameters)?)?;
        add(driver, node, graph, dependencies, count, Work::Copy(copy))
    }

    fn cuGraphAddMemsetNode(
        node: *mut Handle,
        graph: Handle,
        dependencies: *const Handle,
        count: usize,
        parameters: *const MemsetNodeParams,
        _context: Handle,
    ) {
        let (driver, _) = current()?;
        let work = fill_work(&take(parameters)?);
        add(driver, node, graph, dependencies, count, work)
    }

    fn cuGraphAddHostNode(
        node: *mut Handle,
        graph: Handle,
        dependencies: *const Handle,
        count: usize,
        parameters: *const HostNodeParams,
    ) {
        let work = host_work(&take(parameters)?)?;
        add(lock()?, node, graph, dependencies, count, work)
    }

    fn cuGraphAddChildGraphNode(
        node: *mut Handle,
        graph: Handle,
        dependencies: *const Handle,
        count: usize,
        child: Handle,
    ) {
        let mut driver = lock()?;
        let copy = driver.clone_graph(child)?;
        add(driver, node, graph, dependencies, count, Work::Child(copy))
    }

    fn cuGraphAddEmptyNode(node: *mut Handle, graph: Handle, dependencies: *const Handle, count: usize) {
        add(lock()?, node, graph, dependencies, count, Work::Empty)
    }

    fn cuGraphAddEventRecordNode(
        node: *mut Handle,
        graph: Handle,
        dependencies: *const Handle,
        count: usize,
        event: Handle,
    ) {
        add(lock()?, node, graph, dependencies, count, Work::Record(event))
    }

    fn cuGraphAddEventWaitNode(
        node: *mut Handle,
        graph: Handle,
        dependencies: *const Handle,
        count: usize,
        event: Handle,
    ) {
        add(lock()?, node, graph, dependencies, count, Work::Wait(event))
    }

    fn cuGraphAddMemAllocNode(
        node: *mut Handle,
        graph: Handle,
        dependencies: *const Handle,
        count: usize,
        parameters: *mut MemAllocNodeParams,
    ) {
        let (driver, context) = current()?;
        let mut asked = take(parameters.cast_const())?;
        add_allocation(driver, context, node, graph, dependencies, count, &mut asked)?;
        put(parameters, asked)
    }

    fn cuGraphAddMemFreeNode(
        node: *mut Handle,
        graph: Handle,
        dependencies: *const Handle,
        count: usize,
        address: u64,
    ) {
        let driver = lock()?;
        free_work(&driver, address)?;
        add(driver, node, graph, dependencies, count, Work::Free(address))
    }

    fn cuGraphAddNode(
        node: *mut Handle,
        graph: Handle,
        dependencies: *const Handle,
        count: usize,
        parameters: *mut GraphNodeParams,
    ) {
        add_any(node, graph, dependencies, std::ptr::null(), count, parameters)
    }

    fn cuGraphAddNode_v2(
        node: *mut Handle,
        graph: Handle,
        dependencies: *const Handle,
        data: *const EdgeData,
        count: usize,
        parameters: *mut GraphNodeParams,
    ) {
        add_any(node, graph, dependencies, data, count, parameters)
    }

    fn cuGraphAddNode_v3(
        node: *mut Handle,
        graph: Handle,
        dependencies: *const Handle,
        data: *const EdgeData,
        count: usize,
        parameters: *mut GraphNodeParams,
    ) {
        add_any(node, graph, dependencies, data, count, parameters)
    }
}

/// # Safety
/// `node` must be null or writable, `dependencies` null or hold `count` handles.
unsafe fn add(
    mut driver: Guard,
    node: *mut Handle,
    graph: Handle,
    dependencies: *const Handle,
    count: usize,
    work: Work,
) -> Outcome {
    if node.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    driver.check_work(&work)?;
    // SAFETY: this function's contract.
    let dependencies = unsafe { handles(dependencies, count)? };
    let handle = driver.new_node(graph, dependencies, work)?;
    // SAFETY: not null; writable by the contract.
    unsafe { put(node, handle) }
}

/// # Safety
/// As [`add`], and as `cuLaunchKernel` for the parameters.
unsafe fn add_kernel(
    node: *mut Handle,
    graph: Handle,
    dependencies: *const Handle,
    count: usize,
    parameters: *const KernelNodeParams,
) -> Outcome {
    let (driver, context) = current()?;
    // SAFETY: this function's contract.
    unsafe {
        let work = kernel_work(&driver, context, &take(parameters)?)?;
        add(driver, node, graph, dependencies, count, Work::Kernel(work))
    }
}

/// # Safety
/// As [`add`].
#[allow(clippy::too_many_arguments)] // a node's four, the lock, the context and what is asked
unsafe fn add_allocation(
    mut driver: Guard,
    context: Handle,
    node: *mut Handle,
    graph: Handle,
    dependencies: *const Handle,
    count: usize,
    asked: &mut MemAllocNodeParams,
) -> Outcome {
    if node.is_null()
        || asked.bytes == 0
        || asked.pool.alloc_type != 1
        || asked.pool.location.kind != 1
    {
        return Err(Code::INVALID_VALUE);
    }
    driver.graph(graph)?;
    asked.address = driver.allocate_block(
        context,
        asked.bytes,
        Kind::Graph,
        0,
        "cuGraphAddMemAllocNode",
    )?;
    let work = Work::Allocate {
        address: asked.address,
        bytes: asked.bytes as u64,
    };
    // SAFETY: this function's contract.
    unsafe { add(driver, node, graph, dependencies, count, work) }
}

/// # Safety
/// As [`add`]; `parameters` must be null or hold what its type says.
unsafe fn add_any(
    node: *mut Handle,
    graph: Handle,
    dependencies: *const Handle,
    data: *const EdgeData,
    count: usize,
    parameters: *mut GraphNodeParams,
) -> Outcome {
    // SAFETY: this function's contract.
    let mut asked = unsafe {
        plain_edges(data, count)?;
        take(parameters.cast_const())?
    };
    let payload = &raw mut asked.payload;
    if asked.kind == 10 {
        let (driver, context) = current()?;
        // SAFETY: the payload of this kind, in a buffer as large as any; then the caller's own.
        unsafe {
            let inner = &mut *payload.cast::<MemAllocNodeParams>();
            add_allocation(driver, context, node, graph, dependencies, count, inner)?;
            return put(parameters, asked);
        }
    }
    let (mut driver, context) = current()?;
    // SAFETY: this function's contract.
    unsafe {
        let mut work = any_work(&driver, context, &asked)?;
        if let Work::Child(child) = work {
            work = Work::Child(driver.clone_graph(child)?);
        }
        add(driver, node, graph, dependencies, count, work)
    }
}

/// What generic node parameters say.
///
/// # Safety
/// The payload must be what the kind says.
pub(super) unsafe fn any_work(
    driver: &Guard,
    context: Handle,
    asked: &GraphNodeParams,
) -> Result<Work, Code> {
    let payload: *const c_void = (&raw const asked.payload).cast();
    // SAFETY: each cast is to the kind's own payload, all no larger than the buffer.
    unsafe {
        Ok(match asked.kind {
            0 => Work::Kernel(kernel_work_2(driver, context, &*payload.cast())?),
            // Flags and a context come before the copy itself.
            1 => Work::Copy(box_with(driver, &*payload.byte_add(16).cast())?),
            2 => fill_work(&*payload.cast()),
            3 => host_work(&*payload.cast())?,
            4 => Work::Child(*payload.cast::<Handle>()),
            5 => Work::Empty,
            6 => Work::Wait(*payload.cast::<Handle>()),
            7 => Work::Record(*payload.cast::<Handle>()),
            11 => {
                let address = *payload.cast::<u64>();
                free_work(driver, address)?;
                Work::Free(address)
            }
            _ => {
                super::unsupported::refuse("a graph node of this kind")?;
                return Err(Code::NOT_SUPPORTED);
            }
        })
    }
}

/// # Safety
/// The parameter arrays must be as `cuLaunchKernel` wants them.
pub(super) unsafe fn kernel_work(
    driver: &Driver,
    context: Handle,
    p: &KernelNodeParams,
) -> Result<KernelWork, Code> {
    let shape = Shape::new(p.grid, p.block, p.shared_mem_bytes);
    // SAFETY: this function's contract.
    unsafe { driver.kernel_work(context, p.func, &shape, p.kernel_params, p.extra) }
}

/// # Safety
/// As [`kernel_work`].
pub(super) unsafe fn kernel_work_2(
    driver: &Driver,
    context: Handle,
    p: &KernelNodeParams2,
) -> Result<KernelWork, Code> {
    // Function and kernel handles are one kind here; a node names one of them.
    let func = if p.base.func != 0 {
        p.base.func
    } else {
        p.kern
    };
    // SAFETY: this function's contract.
    unsafe { kernel_work(driver, context, &KernelNodeParams { func, ..p.base }) }
}

pub(super) fn fill_work(p: &MemsetNodeParams) -> Work {
    Work::Fill(fill_of(
        p.dst,
        p.pitch,
        p.value,
        p.element_size.into(),
        p.width,
        p.height,
    ))
}

pub(super) fn host_work(p: &HostNodeParams) -> Result<Work, Code> {
    let function = p.function.ok_or(Code::INVALID_VALUE)?;
    Ok(Work::Host(HostWork {
        function,
        data: p.user_data,
    }))
}

/// A free node frees what an allocation node allocated.
fn free_work(driver: &Guard, address: u64) -> Outcome {
    match driver.blocks.get(&address) {
        Some(block) if matches!(block.kind, Kind::Graph | Kind::Pool(_)) => Ok(()),
        _ => Err(Code::INVALID_VALUE),
    }
}
