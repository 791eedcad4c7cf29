//! Executable graphs: a graph put in order once, updated in place, launched into streams.
//!
//! Nodes run one after the other, but branches that no edge orders count as unordered: each branch is a
//! lane of its own, so a missing edge is found like a missing event.

use std::collections::HashMap;
use std::ffi::c_char;
use std::sync::Arc;
use std::time::Instant;

use super::copy::box_with;
use super::entry::{Handle, Outcome, call_host, entries, put, put_if_wanted, take};
use super::errors::Code;
use super::graph::{kind_of, number_of};
use super::graph_nodes::{any_work, fill_work, host_work, kernel_work, kernel_work_2};
use super::order::Clock;
use super::state::{Driver, Guard, current, lock};
use super::stream::submit;
use super::types::{
    GraphNodeParams, HostNodeParams, InstantiateParams, KernelNodeParams, KernelNodeParams2,
    Memcpy3d, MemsetNodeParams, UpdateResultInfo,
};
use super::work::{Place, Work};

/// A `CUgraphExec`.
pub struct Exec {
    nodes: Arc<Vec<Step>>,
    flags: u64,
    /// The number of the graph it was made from.
    number: u64,
}

/// A node of an executable graph.
#[derive(Clone)]
struct Step {
    /// The graph's node, by which callers name it.
    node: Handle,
    work: Work,
    /// Positions of the steps it comes after.
    dependencies: Vec<usize>,
    enabled: bool,
    /// The steps of a child graph.
    child: Vec<Step>,
}

impl Exec {
    /// Whether an allocation node of it owns `address`.
    pub fn allocates(&self, address: u64) -> bool {
        allocates(&self.nodes, address)
    }
}

fn allocates(steps: &[Step], address: u64) -> bool {
    steps.iter().any(|step| {
        matches!(step.work, Work::Allocate { address: a, .. } if a == address)
            || allocates(&step.child, address)
    })
}

/// `CUDA_GRAPH_INSTANTIATE_FLAG_…`.
const AUTO_FREE: u64 = 1;
const DEVICE_LAUNCH: u64 = 4;
const FLAGS: u64 = 0xf;

/// `CUgraphExecUpdateResult`.
const UPDATE_ERROR: u32 = 1;
const TOPOLOGY_CHANGED: u32 = 2;
const KIND_CHANGED: u32 = 3;

entries! {
    fn cuGraphInstantiate(
        exec: *mut Handle,
        graph: Handle,
        _error: *mut Handle,
        log: *mut c_char,
        room: usize,
    ) {
        if room > 0 {
            put_if_wanted(log, 0);
        }
        instantiate(exec, graph, 0)
    }

    fn cuGraphInstantiate_v2(
        exec: *mut Handle,
        graph: Handle,
        _error: *mut Handle,
        log: *mut c_char,
        room: usize,
    ) {
        if room > 0 {
            put_if_wanted(log, 0);
        }
        instantiate(exec, graph, 0)
    }

    fn cuGraphInstantiateWithFlags(exec: *mut Handle, graph: Handle, flags: u64) {
        instantiate(exec, graph, flags)
    }

    fn cuGraphInstantiateWithParams(exec: *mut Handle, graph: Handle, parameters: *mut InstantiateParams) [cuGraphInstantiateWithParams_ptsz] {
        let mut asked = take(parameters.cast_const())?;
        let outcome = instantiate(exec, graph, asked.flags);
        asked.error_node = 0;
        // CUDA_GRAPH_INSTANTIATE_SUCCESS, _ERROR.
        asked.result = u32::from(outcome.is_err());
        put(parameters, asked)?;
        outcome
    }

    fn cuGraphExecGetFlags(exec: Handle, flags: *mut u64) {
        let driver = lock()?;
        put(flags, driver.exec(exec)?.flags)
    }

    fn cuGraphExecGetId(exec: Handle, number: *mut u32) {
        let driver = lock()?;
        put(number, driver.exec(exec)?.number as u32)
    }

    fn cuGraphExecDestroy(exec: Handle) {
        let mut driver = lock()?;
        let gone = driver.execs.remove(exec).map_err(|_| Code::INVALID_VALUE)?;
        for step in gone.nodes.iter() {
            if let Work::Allocate { address, .. } = step.work {
                driver.orphan(address);
            }
        }
        Ok(())
    }

    fn cuGraphUpload(exec: Handle, stream: Handle) [cuGraphUpload_ptsz] {
        let (mut driver, context) = current()?;
        driver.exec(exec)?;
        driver.stream(context, stream).map(drop)
    }

    fn cuGraphLaunch(exec: Handle, stream: Handle) [cuGraphLaunch_ptsz] {
        let (driver, context) = current()?;
        driver.exec(exec)?;
        submit(driver, context, stream, Work::Graph(exec))
    }

    fn cuGraphExecUpdate(exec: Handle, graph: Handle, node: *mut Handle, result: *mut u32) {
        let info = update(exec, graph)?;
        put_if_wanted(node, info.error_node);
        put(result, info.result)?;
        if info.result == 0 { Ok(()) } else { Err(Code::GRAPH_EXEC_UPDATE_FAILURE) }
    }

    fn cuGraphExecUpdate_v2(exec: Handle, graph: Handle, result: *mut UpdateResultInfo) {
        let info = update(exec, graph)?;
        put(result, info)?;
        if info.result == 0 { Ok(()) } else { Err(Code::GRAPH_EXEC_UPDATE_FAILURE) }
    }

    fn cuGraphExecKernelNodeSetParams(exec: Handle, node: Handle, parameters: *const KernelNodeParams) {
        let (driver, context) = current()?;
        let work = kernel_work(&driver, context, &take(parameters)?)?;
        set(driver, exec, node, Work::Kernel(work))
    }

    fn cuGraphExecKernelNodeSetParams_v2(
        exec: Handle,
        node: Handle,
        parameters: *const KernelNodeParams2,
    ) {
        let (driver, context) = current()?;
        let work = kernel_work_2(&driver, context, &take(parameters)?)?;
        set(driver, exec, node, Work::Kernel(work))
    }

    fn cuGraphExecMemcpyNodeSetParams(
        exec: Handle,
        node: Handle,
        parameters: *const Memcpy3d,
        _context: Handle,
    ) {
        let (driver, _) = current()?;
        let copy = box_with(&driver, &take(parameters)?)?;
        set(driver, exec, node, Work::Copy(copy))
    }

    fn cuGraphExecMemsetNodeSetParams(
        exec: Handle,
        node: Handle,
        parameters: *const MemsetNodeParams,
        _context: Handle,
    ) {
        let (driver, _) = current()?;
        set(driver, exec, node, fill_work(&take(parameters)?))
    }

    fn cuGraphExecHostNodeSetParams(exec: Handle, node: Handle, parameters: *const HostNodeParams) {
        let work = host_work(&take(parameters)?)?;
        set(lock()?, exec, node, work)
    }

    fn cuGraphExecEventRecordNodeSetEvent(exec: Handle, node: Handle, event: Handle) {
        set(lock()?, exec, node, Work::Record(event))
    }

    fn cuGraphExecEventWaitNodeSetEvent(exec: Handle, node: Handle, event: Handle) {
        set(lock()?, exec, node, Work::Wait(event))
    }

    fn cuGraphExecChildGraphNodeSetParams(exec: Handle, node: Handle, child: Handle) {
        let mut driver = lock()?;
        let steps = driver.steps(child)?;
        let step = driver.step(exec, node)?;
        if step.child.len() != steps.len() {
            return Err(Code::INVALID_VALUE);
        }
        step.child = steps;
        Ok(())
    }

    fn cuGraphExecNodeSetParams(exec: Handle, node: Handle, parameters: *const GraphNodeParams) {
        let (driver, context) = current()?;
        let work = any_work(&driver, context, &take(parameters)?)?;
        set(driver, exec, node, work)
    }

    fn cuGraphNodeGetEnabled(exec: Handle, node: Handle, enabled: *mut u32) {
        let mut driver = lock()?;
        let step = driver.step(exec, node)?;
        put(enabled, u32::from(step.enabled))
    }

    fn cuGraphNodeSetEnabled(exec: Handle, node: Handle, enabled: u32) {
        let mut driver = lock()?;
        let step = driver.step(exec, node)?;
        if !matches!(step.work, Work::Kernel(_) | Work::Copy(_) | Work::Fill(_)) {
            return Err(Code::INVALID_VALUE);
        }
        step.enabled = enabled != 0;
        Ok(())
    }
}

/// # Safety
/// `exec` must be null or writable.
unsafe fn instantiate(exec: *mut Handle, graph: Handle, flags: u64) -> Outcome {
    let mut driver = lock()?;
    if exec.is_null()
        || flags & !FLAGS != 0
        || flags & (AUTO_FREE | DEVICE_LAUNCH) == AUTO_FREE | DEVICE_LAUNCH
    {
        return Err(Code::INVALID_VALUE);
    }
    if flags & DEVICE_LAUNCH != 0 {
        return super::unsupported::refuse("cuGraphInstantiate for launches from the device");
    }
    let nodes = Arc::new(driver.steps(graph)?);
    let number = number_of(&driver, graph);
    let handle = driver.execs.add(Exec {
        nodes,
        flags,
        number,
    });
    // SAFETY: not null; writable by the contract.
    unsafe { put(exec, handle) }
}

/// Gives an executable graph the work of another graph of the same shape.
fn update(exec: Handle, graph: Handle) -> Result<UpdateResultInfo, Code> {
    let mut driver = lock()?;
    let new = driver.steps(graph)?;
    let old = Arc::clone(&driver.exec(exec)?.nodes);
    let info = |result, node: Option<&Step>| {
        let error_node = node.map_or(0, |step| step.node);
        Ok(UpdateResultInfo {
            result,
            error_node,
            error_from_node: 0,
        })
    };
    if old.len() != new.len() {
        return info(TOPOLOGY_CHANGED, None);
    }
    for (old, new) in old.iter().zip(&new) {
        if kind_of(&old.work) != kind_of(&new.work) {
            return info(KIND_CHANGED, Some(new));
        }
        if old.dependencies != new.dependencies || old.child.len() != new.child.len() {
            return info(TOPOLOGY_CHANGED, Some(new));
        }
        if matches!(new.work, Work::Allocate { .. } | Work::Free(_)) {
            return info(UPDATE_ERROR, Some(new));
        }
    }
    let steps = old.iter().zip(new).map(|(old, new)| Step {
        // Callers go on naming the nodes of the graph it was made from.
        node: old.node,
        enabled: old.enabled,
        ..new
    });
    let steps = Arc::new(steps.collect());
    driver.execs.get_mut(exec)?.nodes = steps;
    info(0, None)
}

/// Gives one node of an executable graph new work of its own kind.
fn set(mut driver: Guard, exec: Handle, node: Handle, work: Work) -> Outcome {
    driver.check_work(&work)?;
    let step = driver.step(exec, node)?;
    if kind_of(&step.work) != kind_of(&work) || matches!(work, Work::Child(_)) {
        return Err(Code::INVALID_VALUE);
    }
    step.work = work;
    Ok(())
}

/// Launches an executable graph into a stream; what follows in the stream comes after all of it.
pub(super) fn run(driver: Guard, stream: Handle, exec: Handle) -> Result<Guard, Code> {
    let steps = Arc::clone(&driver.exec(exec)?.nodes);
    let name = format!(
        "{}, graph {}",
        driver.stream_name(stream),
        driver.exec(exec)?.number
    );
    let (context, lane, base) = {
        let stream = driver.streams.get(stream)?;
        (stream.context, stream.lane, stream.clock.clone())
    };
    let (mut driver, clock) = run_steps(driver, context, &steps, lane, &base, &name)?;
    driver.streams.get_mut(stream)?.clock.join(&clock);
    Ok(driver)
}

/// Runs steps that all come after `base`. The first branch continues on `lane`; each further one opens a
/// lane of its own. Returns what work that waits for all of it is ordered after.
fn run_steps(
    mut driver: Guard,
    context: Handle,
    steps: &[Step],
    lane: usize,
    base: &Clock,
    name: &str,
) -> Result<(Guard, Clock), Code> {
    let mut clocks: Vec<(usize, Clock)> = Vec::with_capacity(steps.len());
    let mut tips: HashMap<usize, usize> = HashMap::new();
    let mut opened = Vec::new();
    let mut all = base.clone();
    for (index, step) in steps.iter().enumerate() {
        let mut clock = base.clone();
        for &dependency in &step.dependencies {
            clock.join(&clocks[dependency].1);
        }
        let continued = step.dependencies.iter().map(|&d| clocks[d].0).find(|lane| {
            step.dependencies
                .iter()
                .any(|&d| clocks[d].0 == *lane && tips.get(lane) == Some(&d))
        });
        let lane = match continued {
            Some(lane) => lane,
            None if tips.is_empty() => lane,
            None => {
                opened.push(driver.order.open_lane());
                opened[opened.len() - 1]
            }
        };
        driver.order.begin(lane, &mut clock);
        if step.enabled {
            let place = Place {
                context,
                lane,
                clock: &clock,
                name,
            };
            match &step.work {
                Work::Host(host) => {
                    drop(driver);
                    // SAFETY: the program vouched for both when it made the node.
                    unsafe { call_host(host.function, host.data) };
                    driver = lock()?;
                }
                Work::Record(event) => {
                    if let Ok(event) = driver.events.get_mut(*event) {
                        event.recorded = Some((Instant::now(), clock.clone()));
                        event.captured = None;
                    }
                }
                Work::Wait(event) => {
                    let event = driver.events.get(*event).ok();
                    if let Some((_, recorded)) = event.and_then(|event| event.recorded.as_ref()) {
                        clock.join(recorded);
                    }
                }
                Work::Child(_) => {
                    let after;
                    (driver, after) = run_steps(driver, context, &step.child, lane, &clock, name)?;
                    clock = after;
                }
                work => driver.perform(&place, work),
            }
        }
        if driver.healthy(context).is_err() {
            break;
        }
        all.join(&clock);
        tips.insert(lane, index);
        clocks.push((lane, clock));
    }
    for lane in opened {
        driver.order.close_lane(lane);
    }
    Ok((driver, all))
}

impl Driver {
    /// An executable graph by its handle; `INVALID_VALUE` for a stale one.
    pub fn exec(&self, exec: Handle) -> Result<&Exec, Code> {
        self.execs.get(exec).map_err(|_| Code::INVALID_VALUE)
    }

    fn step(&mut self, exec: Handle, node: Handle) -> Result<&mut Step, Code> {
        let exec = self.execs.get_mut(exec).map_err(|_| Code::INVALID_VALUE)?;
        let steps = Arc::make_mut(&mut exec.nodes);
        steps
            .iter_mut()
            .find(|step| step.node == node)
            .ok_or(Code::INVALID_VALUE)
    }

    /// A graph's nodes in an order that its edges allow: that of their making, as far as possible.
    ///
    /// # Errors
    /// `INVALID_VALUE` where the edges form a circle.
    fn steps(&self, graph: Handle) -> Result<Vec<Step>, Code> {
        let mut open = self.graph(graph)?.nodes.clone();
        let mut places: HashMap<Handle, usize> = HashMap::with_capacity(open.len());
        let mut steps = Vec::with_capacity(open.len());
        while !open.is_empty() {
            let before = open.len();
            let mut later = Vec::new();
            for handle in open {
                let node = self.node(handle)?;
                let dependencies: Option<Vec<usize>> = node
                    .dependencies
                    .iter()
                    .map(|dependency| places.get(dependency).copied())
                    .collect();
                let Some(dependencies) = dependencies else {
                    later.push(handle);
                    continue;
                };
                places.insert(handle, steps.len());
                let child = match node.work {
                    Work::Child(child) => self.steps(child)?,
                    _ => Vec::new(),
                };
                let work = node.work.clone();
                steps.push(Step {
                    node: handle,
                    work,
                    dependencies,
                    enabled: true,
                    child,
                });
            }
            if later.len() == before {
                return Err(Code::INVALID_VALUE);
            }
            open = later;
        }
        Ok(steps)
    }

    /// A graph with the work of an executable one, for a capture that launches it.
    pub fn graph_of_exec(&mut self, exec: Handle) -> Result<Handle, Code> {
        let steps = Arc::clone(&self.exec(exec)?.nodes);
        self.graph_of_steps(&steps)
    }

    fn graph_of_steps(&mut self, steps: &[Step]) -> Result<Handle, Code> {
        let graph = self.new_graph();
        let mut nodes: Vec<Handle> = Vec::with_capacity(steps.len());
        for step in steps {
            let dependencies = step
                .dependencies
                .iter()
                .map(|&place| nodes[place])
                .collect();
            let work = match &step.work {
                _ if !step.enabled => Work::Empty,
                Work::Child(_) => Work::Child(self.graph_of_steps(&step.child)?),
                work => work.clone(),
            };
            nodes.push(self.new_node(graph, dependencies, work)?);
        }
        Ok(graph)
    }
}
