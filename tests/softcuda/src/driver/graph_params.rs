//! Reading and changing what a node does.

use super::copy::box_with;
use super::entry::{Handle, Outcome, entries, put, take};
use super::errors::Code;
use super::graph::kind_of;
use super::graph_nodes::{any_work, fill_work, host_work, kernel_work, kernel_work_2};
use super::state::{Guard, current, lock};
use super::types::{
    GraphNodeParams, HostNodeParams, KernelNodeParams, KernelNodeParams2, MemAllocNodeParams,
    Memcpy3d, MemsetNodeParams,
};
use super::work::{Copy, Work};

entries! {
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
    let rows = |slice: u64, pitch: u64| slice.checked_div(pitch).map_or(0, |rows| rows as usize);
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
