//! Making nodes of each kind, and reading and changing what they do.

use std::ffi::c_void;

use super::capture::handles;
use super::copy::{box_with, fill_of};
use super::entry::{Handle, Outcome, entries, put, take};
use super::errors::Code;
use super::graph::{kind_of, plain_edges};
use super::launch::Shape;
use super::state::{Driver, Guard, Kind, current, lock};
use super::types::{
    EdgeData, GraphNodeParams, HostNodeParams, KernelNodeParams, KernelNodeParams2,
    MemAllocNodeParams, Memcpy3d, MemsetNodeParams,
};
use super::work::{Copy, HostWork, KernelWork, Work};

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

    fn cuGraphKernelNodeGetParams(node: Handle, parameters: *mut KernelNodeParams) {
        let mut driver = lock()?;
        let found = kernel_parameters(&mut driver, node)?;
        put(parameters, found)
    }

    fn cuGraphKernelNodeGetParams_v2(node: Handle, parameters: *mut KernelNodeParams2) {
        let mut driver = lock()?;
        let base = kernel_parameters(&mut driver, node)?;
        put(parameters, KernelNodeParams2 { base, kern: 0, ctx: 0 })
    }

    fn cuGraphKernelNodeSetParams(node: Handle, parameters: *const KernelNodeParams) {
        let (driver, context) = current()?;
        let work = kernel_work(&driver, context, &take(parameters)?)?;
        set(driver, node, Work::Kernel(work))
    }

    fn cuGraphKernelNodeSetParams_v2(node: Handle, parameters: *const KernelNodeParams2) {
        let (driver, context) = current()?;
        let work = kernel_work_2(&driver, context, &take(parameters)?)?;
        set(driver, node, Work::Kernel(work))
    }

    fn cuGraphKernelNodeGetAttribute(node: Handle, attribute: u32, value: *mut [u32; 16]) {
        let driver = lock()?;
        let found = driver.node(node)?;
        let Work::Kernel(kernel) = &found.work else { return Err(Code::INVALID_VALUE) };
        let mut answer = found.attributes.get(&attribute).copied().unwrap_or([0; 16]);
        match attribute {
            2 => answer[0] = u32::from(kernel.launch.cooperative),
            4 => answer[..3].copy_from_slice(&kernel.launch.cluster),
            1..=18 => {}
            _ => return Err(Code::INVALID_VALUE),
        }
        put(value, answer)
    }

    fn cuGraphKernelNodeSetAttribute(node: Handle, attribute: u32, value: *const [u32; 16]) {
        let mut driver = lock()?;
        let value = take(value)?;
        let found = driver.nodes.get_mut(node).map_err(|_| Code::INVALID_VALUE)?;
        let Work::Kernel(kernel) = &mut found.work else { return Err(Code::INVALID_VALUE) };
        match attribute {
            2 => kernel.launch.cooperative = value[0] != 0,
            4 => kernel.launch.cluster = [value[0], value[1], value[2]],
            1..=18 => drop(found.attributes.insert(attribute, value)),
            _ => return Err(Code::INVALID_VALUE),
        }
        Ok(())
    }

    fn cuGraphKernelNodeCopyAttributes(target: Handle, source: Handle) {
        let mut driver = lock()?;
        let Work::Kernel(from) = driver.node(source)?.work.clone() else { return Err(Code::INVALID_VALUE) };
        let attributes = driver.node(source)?.attributes.clone();
        let to = driver.nodes.get_mut(target).map_err(|_| Code::INVALID_VALUE)?;
        let Work::Kernel(kernel) = &mut to.work else { return Err(Code::INVALID_VALUE) };
        kernel.launch.cooperative = from.launch.cooperative;
        kernel.launch.cluster = from.launch.cluster;
        to.attributes = attributes;
        Ok(())
    }

    fn cuGraphMemcpyNodeGetParams(node: Handle, parameters: *mut Memcpy3d) {
        let driver = lock()?;
        let Work::Copy(copy) = &driver.node(node)?.work else { return Err(Code::INVALID_VALUE) };
        put(parameters, copy_parameters(copy))
    }

    fn cuGraphMemcpyNodeSetParams(node: Handle, parameters: *const Memcpy3d) {
        let driver = lock()?;
        let copy = box_with(&driver, &take(parameters)?)?;
        set(driver, node, Work::Copy(copy))
    }

    fn cuGraphMemsetNodeGetParams(node: Handle, parameters: *mut MemsetNodeParams) {
        let driver = lock()?;
        let Work::Fill(fill) = driver.node(node)?.work else { return Err(Code::INVALID_VALUE) };
        put(parameters, MemsetNodeParams {
            dst: fill.address,
            pitch: fill.pitch as usize,
            value: fill.value,
            element_size: fill.element as u32,
            width: fill.width as usize,
            height: fill.height as usize,
        })
    }

    fn cuGraphMemsetNodeSetParams(node: Handle, parameters: *const MemsetNodeParams) {
        set(lock()?, node, fill_work(&take(parameters)?))
    }

    fn cuGraphHostNodeGetParams(node: Handle, parameters: *mut HostNodeParams) {
        let driver = lock()?;
        let Work::Host(host) = driver.node(node)?.work else { return Err(Code::INVALID_VALUE) };
        put(parameters, HostNodeParams { function: Some(host.function), user_data: host.data })
    }

    fn cuGraphHostNodeSetParams(node: Handle, parameters: *const HostNodeParams) {
        let work = host_work(&take(parameters)?)?;
        set(lock()?, node, work)
    }

    fn cuGraphChildGraphNodeGetGraph(node: Handle, graph: *mut Handle) {
        let driver = lock()?;
        let Work::Child(child) = driver.node(node)?.work else { return Err(Code::INVALID_VALUE) };
        put(graph, child)
    }

    fn cuGraphEventRecordNodeGetEvent(node: Handle, event: *mut Handle) {
        let driver = lock()?;
        let Work::Record(found) = driver.node(node)?.work else { return Err(Code::INVALID_VALUE) };
        put(event, found)
    }

    fn cuGraphEventRecordNodeSetEvent(node: Handle, event: Handle) {
        set(lock()?, node, Work::Record(event))
    }

    fn cuGraphEventWaitNodeGetEvent(node: Handle, event: *mut Handle) {
        let driver = lock()?;
        let Work::Wait(found) = driver.node(node)?.work else { return Err(Code::INVALID_VALUE) };
        put(event, found)
    }

    fn cuGraphEventWaitNodeSetEvent(node: Handle, event: Handle) {
        set(lock()?, node, Work::Wait(event))
    }

    fn cuGraphMemAllocNodeGetParams(node: Handle, parameters: *mut MemAllocNodeParams) {
        let driver = lock()?;
        let Work::Allocate { address, bytes } = driver.node(node)?.work else {
            return Err(Code::INVALID_VALUE);
        };
        let location = super::types::MemLocation { kind: 1, id: 0 };
        put(parameters, MemAllocNodeParams {
            pool: super::types::MemPoolProps {
                alloc_type: 1,
                handle_types: 0,
                location,
                security: 0,
                max_size: 0,
                usage: 0,
                reserved: [0; 54],
            },
            access: 0,
            access_count: 0,
            bytes: bytes as usize,
            address,
        })
    }

    fn cuGraphMemFreeNodeGetParams(node: Handle, address: *mut u64) {
        let driver = lock()?;
        let Work::Free(found) = driver.node(node)?.work else { return Err(Code::INVALID_VALUE) };
        put(address, found)
    }

    fn cuGraphNodeSetParams(node: Handle, parameters: *const GraphNodeParams) {
        set_any(node, parameters)
    }

    fn cuGraphNodeSetParams_v2(node: Handle, parameters: *const GraphNodeParams) {
        set_any(node, parameters)
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
/// As [`any_work`].
unsafe fn set_any(node: Handle, parameters: *const GraphNodeParams) -> Outcome {
    let (driver, context) = current()?;
    // SAFETY: this function's contract.
    let work = unsafe { any_work(&driver, context, &take(parameters)?)? };
    set(driver, node, work)
}

/// Gives a node new work of its own kind.
fn set(mut driver: Guard, node: Handle, work: Work) -> Outcome {
    driver.check_work(&work)?;
    if kind_of(&driver.node(node)?.work) != kind_of(&work) || matches!(work, Work::Child(_)) {
        return Err(Code::INVALID_VALUE);
    }
    driver.nodes.get_mut(node)?.work = work;
    Ok(())
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

/// A kernel node's parameters; the pointers in them live until the node changes.
fn kernel_parameters(driver: &mut Guard, node: Handle) -> Result<KernelNodeParams, Code> {
    let node = driver
        .nodes
        .get_mut(node)
        .map_err(|_| Code::INVALID_VALUE)?;
    let Work::Kernel(work) = &node.work else {
        return Err(Code::INVALID_VALUE);
    };
    let values = work.launch.params.as_ptr() as usize;
    node.pointers = work
        .kernel
        .params
        .iter()
        .map(|p| values + p.offset as usize)
        .collect();
    Ok(KernelNodeParams {
        func: work.function,
        grid: work.launch.grid,
        block: work.launch.block,
        shared_mem_bytes: work.launch.dynamic_shared,
        kernel_params: node.pointers.as_mut_ptr().cast(),
        extra: std::ptr::null_mut(),
    })
}

/// The structure that describes a copy: positions are folded into the addresses.
fn copy_parameters(copy: &Copy) -> Memcpy3d {
    let kind = |device| if device { 2 } else { 1 };
    let host = |address, device| if device { 0 } else { address as usize };
    let device = |address, device| if device { address } else { 0 };
    let rows = |slice: u64, pitch: u64| {
        if pitch == 0 {
            0
        } else {
            (slice / pitch) as usize
        }
    };
    Memcpy3d {
        src_x_in_bytes: 0,
        src_y: 0,
        src_z: 0,
        src_lod: 0,
        src_memory_type: kind(copy.from.device),
        src_host: host(copy.from.address, copy.from.device),
        src_device: device(copy.from.address, copy.from.device),
        src_array: 0,
        reserved0: 0,
        src_pitch: copy.from.pitch as usize,
        src_height: rows(copy.from.slice, copy.from.pitch),
        dst_x_in_bytes: 0,
        dst_y: 0,
        dst_z: 0,
        dst_lod: 0,
        dst_memory_type: kind(copy.to.device),
        dst_host: host(copy.to.address, copy.to.device),
        dst_device: device(copy.to.address, copy.to.device),
        dst_array: 0,
        reserved1: 0,
        dst_pitch: copy.to.pitch as usize,
        dst_height: rows(copy.to.slice, copy.to.pitch),
        width_in_bytes: copy.width as usize,
        height: copy.height as usize,
        depth: copy.depth as usize,
    }
}
