//! Graphs: nodes and the edges between them.

use std::collections::HashMap;
use std::ffi::c_char;
use std::fmt::Write as _;

use super::capture::handles;
use super::entry::{Handle, Outcome, entries, put, say, text};
use super::errors::Code;
use super::state::{Driver, Guard, lock};
use super::types::EdgeData;
use super::work::Work;

/// A `CUgraph`.
pub struct Graph {
    /// Its nodes in the order in which they were added.
    pub nodes: Vec<Handle>,
    /// Its number in findings.
    pub number: u64,
}

/// A `CUgraphNode`.
pub struct Node {
    /// The graph it belongs to.
    pub graph: Handle,
    /// What it does.
    pub work: Work,
    /// The nodes it comes after, each once.
    pub dependencies: Vec<Handle>,
    /// The node it is a clone of.
    pub original: Option<Handle>,
    /// Attributes that change nothing here, kept for whoever asks.
    pub attributes: HashMap<u32, [u32; 16]>,
    /// One pointer a kernel parameter, for who asks for a kernel node's parameters.
    pub pointers: Vec<usize>,
}

entries! {
    fn cuGraphCreate(graph: *mut Handle, flags: u32) {
        let mut driver = lock()?;
        if graph.is_null() || flags != 0 {
            return Err(Code::INVALID_VALUE);
        }
        let handle = driver.new_graph();
        put(graph, handle)
    }

    fn cuGraphDestroy(graph: Handle) {
        let mut driver = lock()?;
        driver.graphs.get(graph).map_err(|_| Code::INVALID_VALUE)?;
        driver.drop_graph(graph);
        Ok(())
    }

    fn cuGraphClone(clone: *mut Handle, graph: Handle) {
        let mut driver = lock()?;
        if clone.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        let handle = driver.clone_graph(graph)?;
        put(clone, handle)
    }

    fn cuGraphGetId(graph: Handle, number: *mut u32) {
        let driver = lock()?;
        put(number, driver.graph(graph)?.number as u32)
    }

    fn cuGraphNodeFindInClone(node: *mut Handle, original: Handle, clone: Handle) {
        let driver = lock()?;
        let mut nodes = driver.graph(clone)?.nodes.iter();
        let is_clone = |node: &&Handle| {
            driver.nodes.get(**node).is_ok_and(|node| node.original == Some(original))
        };
        put(node, *nodes.find(is_clone).ok_or(Code::INVALID_VALUE)?)
    }

    fn cuGraphNodeGetType(node: Handle, kind: *mut u32) {
        let driver = lock()?;
        put(kind, kind_of(&driver.node(node)?.work))
    }

    fn cuGraphNodeGetContainingGraph(node: Handle, graph: *mut Handle) {
        let driver = lock()?;
        put(graph, driver.node(node)?.graph)
    }

    fn cuGraphNodeGetLocalId(node: Handle, number: *mut u32) {
        let driver = lock()?;
        let graph = driver.graph(driver.node(node)?.graph)?;
        let position = graph.nodes.iter().position(|&other| other == node);
        put(number, position.ok_or(Code::INVALID_VALUE)? as u32)
    }

    fn cuGraphGetNodes(graph: Handle, nodes: *mut Handle, count: *mut usize) {
        let driver = lock()?;
        put_list(&driver.graph(graph)?.nodes, nodes, count)
    }

    fn cuGraphGetRootNodes(graph: Handle, nodes: *mut Handle, count: *mut usize) {
        let driver = lock()?;
        let is_root = |node: &Handle| driver.nodes.get(*node).is_ok_and(|n| n.dependencies.is_empty());
        let roots: Vec<Handle> = driver.graph(graph)?.nodes.iter().copied().filter(is_root).collect();
        put_list(&roots, nodes, count)
    }

    fn cuGraphGetEdges(graph: Handle, from: *mut Handle, to: *mut Handle, count: *mut usize) {
        edges(graph, from, to, std::ptr::null_mut(), count)
    }

    fn cuGraphGetEdges_v2(
        graph: Handle,
        from: *mut Handle,
        to: *mut Handle,
        data: *mut EdgeData,
        count: *mut usize,
    ) {
        edges(graph, from, to, data, count)
    }

    fn cuGraphNodeGetDependencies(node: Handle, nodes: *mut Handle, count: *mut usize) {
        let driver = lock()?;
        put_list(&driver.node(node)?.dependencies, nodes, count)
    }

    fn cuGraphNodeGetDependencies_v2(
        node: Handle,
        nodes: *mut Handle,
        data: *mut EdgeData,
        count: *mut usize,
    ) {
        let driver = lock()?;
        let found = &driver.node(node)?.dependencies;
        put_edge_data(data, count, found.len())?;
        put_list(found, nodes, count)
    }

    fn cuGraphNodeGetDependentNodes(node: Handle, nodes: *mut Handle, count: *mut usize) {
        let driver = lock()?;
        put_list(&driver.dependents(node)?, nodes, count)
    }

    fn cuGraphNodeGetDependentNodes_v2(
        node: Handle,
        nodes: *mut Handle,
        data: *mut EdgeData,
        count: *mut usize,
    ) {
        let driver = lock()?;
        let found = driver.dependents(node)?;
        put_edge_data(data, count, found.len())?;
        put_list(&found, nodes, count)
    }

    fn cuGraphAddDependencies(graph: Handle, from: *const Handle, to: *const Handle, count: usize) {
        add_edges(graph, &handles(from, count)?, &handles(to, count)?)
    }

    fn cuGraphAddDependencies_v2(
        graph: Handle,
        from: *const Handle,
        to: *const Handle,
        data: *const EdgeData,
        count: usize,
    ) {
        plain_edges(data, count)?;
        add_edges(graph, &handles(from, count)?, &handles(to, count)?)
    }

    fn cuGraphRemoveDependencies(graph: Handle, from: *const Handle, to: *const Handle, count: usize) {
        remove_edges(graph, &handles(from, count)?, &handles(to, count)?)
    }

    fn cuGraphRemoveDependencies_v2(
        graph: Handle,
        from: *const Handle,
        to: *const Handle,
        _data: *const EdgeData,
        count: usize,
    ) {
        remove_edges(graph, &handles(from, count)?, &handles(to, count)?)
    }

    fn cuGraphDestroyNode(node: Handle) {
        let mut driver = lock()?;
        let graph = driver.node(node)?.graph;
        let owner = driver.graphs.get_mut(graph).map_err(|_| Code::INVALID_VALUE)?;
        owner.nodes.retain(|&other| other != node);
        let rest = owner.nodes.clone();
        for other in rest {
            driver.nodes.get_mut(other)?.dependencies.retain(|&dependency| dependency != node);
        }
        driver.drop_node(node);
        Ok(())
    }

    fn cuGraphDebugDotPrint(graph: Handle, path: *const c_char, _flags: u32) {
        let driver = lock()?;
        let (dot, path) = (driver.dot(graph)?, text(path)?);
        std::fs::write(&path, dot).map_err(|reason| {
            say(&format!("{path}: {reason}; the graph could not be written there"));
            Code::OPERATING_SYSTEM
        })
    }
}

/// `CUgraphNodeType` of a piece of work.
pub fn kind_of(work: &Work) -> u32 {
    match work {
        Work::Kernel(_) => 0,
        Work::Copy(_) => 1,
        Work::Fill(_) => 2,
        Work::Host(_) => 3,
        Work::Child(_) | Work::Graph(_) => 4,
        Work::Empty => 5,
        Work::Wait(_) => 6,
        Work::Record(_) => 7,
        Work::Allocate { .. } => 10,
        Work::Free(_) => 11,
    }
}

/// Writes a list as the graph queries do: all of it where there is room, else its length alone; room that
/// is left over becomes null.
///
/// # Safety
/// `target` must be null or have room for `*count` handles; `count` null or valid.
unsafe fn put_list(list: &[Handle], target: *mut Handle, count: *mut usize) -> Outcome {
    if count.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    if !target.is_null() {
        // SAFETY: this function's contract.
        let room = unsafe { count.read_unaligned() };
        for index in 0..room {
            let handle = list.get(index).copied().unwrap_or(0);
            // SAFETY: `index < room`.
            unsafe { target.add(index).write_unaligned(handle) };
        }
    }
    // SAFETY: not null.
    unsafe { count.write_unaligned(list.len()) };
    Ok(())
}

/// Plain edges for each of `len`, within the room of `*count`.
///
/// # Safety
/// As [`put_list`].
unsafe fn put_edge_data(data: *mut EdgeData, count: *const usize, len: usize) -> Outcome {
    if count.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    if !data.is_null() {
        // SAFETY: this function's contract.
        let room = unsafe { count.read_unaligned() };
        for index in 0..room.min(len) {
            // SAFETY: `index < room`.
            unsafe { data.add(index).write_unaligned(EdgeData::default()) };
        }
    }
    Ok(())
}

/// Only edges without data exist here; programmatic ones are refused.
///
/// # Safety
/// `data` must be null or hold `count` elements.
pub(super) unsafe fn plain_edges(data: *const EdgeData, count: usize) -> Outcome {
    if data.is_null() {
        return Ok(());
    }
    for index in 0..count {
        // SAFETY: this function's contract.
        if unsafe { data.add(index).read_unaligned() } != EdgeData::default() {
            return super::unsupported::refuse("a graph edge with data (programmatic launch)");
        }
    }
    Ok(())
}

/// # Safety
/// As [`put_list`], for all three arrays.
unsafe fn edges(
    graph: Handle,
    from: *mut Handle,
    to: *mut Handle,
    data: *mut EdgeData,
    count: *mut usize,
) -> Outcome {
    let driver = lock()?;
    if count.is_null() || from.is_null() != to.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    let mut edges = Vec::new();
    for &node in &driver.graph(graph)?.nodes {
        edges.extend(
            driver
                .node(node)?
                .dependencies
                .iter()
                .map(|&dependency| (dependency, node)),
        );
    }
    let (sources, targets): (Vec<Handle>, Vec<Handle>) = edges.into_iter().unzip();
    // SAFETY: this function's contract; `count` is read before it is written by the last.
    unsafe {
        put_edge_data(data, count, sources.len())?;
        let mut room = count.read_unaligned();
        put_list(&sources, from, &mut room)?;
        put_list(&targets, to, count)
    }
}

fn add_edges(graph: Handle, from: &[Handle], to: &[Handle]) -> Outcome {
    let mut driver = lock()?;
    for (&from, &to) in from.iter().zip(to) {
        let both = [from, to].map(|node| driver.node(node).is_ok_and(|node| node.graph == graph));
        if both != [true; 2] || from == to || driver.node(to)?.dependencies.contains(&from) {
            return Err(Code::INVALID_VALUE);
        }
        driver.nodes.get_mut(to)?.dependencies.push(from);
    }
    Ok(())
}

fn remove_edges(graph: Handle, from: &[Handle], to: &[Handle]) -> Outcome {
    let mut driver = lock()?;
    for (&from, &to) in from.iter().zip(to) {
        let node = driver.nodes.get_mut(to).map_err(|_| Code::INVALID_VALUE)?;
        let before = node.dependencies.len();
        node.dependencies.retain(|&dependency| dependency != from);
        if node.graph != graph || node.dependencies.len() == before {
            return Err(Code::INVALID_VALUE);
        }
    }
    Ok(())
}

impl Driver {
    /// A graph by its handle; graph functions answer `INVALID_VALUE` to a stale one.
    pub fn graph(&self, graph: Handle) -> Result<&Graph, Code> {
        self.graphs.get(graph).map_err(|_| Code::INVALID_VALUE)
    }

    /// A node by its handle, `INVALID_VALUE` likewise.
    pub fn node(&self, node: Handle) -> Result<&Node, Code> {
        self.nodes.get(node).map_err(|_| Code::INVALID_VALUE)
    }

    /// A new, empty graph.
    pub fn new_graph(&mut self) -> Handle {
        let number = self.number();
        self.graphs.add(Graph {
            nodes: Vec::new(),
            number,
        })
    }

    /// A new node of a graph.
    pub fn new_node(
        &mut self,
        graph: Handle,
        mut dependencies: Vec<Handle>,
        work: Work,
    ) -> Result<Handle, Code> {
        self.graph(graph)?;
        dependencies.sort_unstable();
        dependencies.dedup();
        for &dependency in &dependencies {
            if self.node(dependency)?.graph != graph {
                return Err(Code::INVALID_VALUE);
            }
        }
        let node = self.nodes.add(Node {
            graph,
            work,
            dependencies,
            original: None,
            attributes: HashMap::new(),
            pointers: Vec::new(),
        });
        self.graphs.get_mut(graph)?.nodes.push(node);
        Ok(node)
    }

    /// A copy of a graph, child graphs included. Allocations stay the original's.
    pub fn clone_graph(&mut self, graph: Handle) -> Result<Handle, Code> {
        let nodes = self.graph(graph)?.nodes.clone();
        let clone = self.new_graph();
        let mut clones = HashMap::new();
        for &node in &nodes {
            let work = match self.node(node)?.work.clone() {
                Work::Child(child) => Work::Child(self.clone_graph(child)?),
                work => work,
            };
            let copy = self.new_node(clone, Vec::new(), work)?;
            clones.insert(node, copy);
        }
        for &node in &nodes {
            let dependencies: Vec<Handle> = self
                .node(node)?
                .dependencies
                .iter()
                .map(|d| clones[d])
                .collect();
            let attributes = self.node(node)?.attributes.clone();
            let copy = self.nodes.get_mut(clones[&node])?;
            copy.dependencies = dependencies;
            copy.attributes = attributes;
            copy.original = Some(node);
        }
        Ok(clone)
    }

    /// Ends a graph and what it owns.
    pub fn drop_graph(&mut self, graph: Handle) {
        if let Ok(graph) = self.graphs.remove(graph) {
            for node in graph.nodes {
                self.drop_node(node);
            }
        }
    }

    fn drop_node(&mut self, node: Handle) {
        let Ok(node) = self.nodes.remove(node) else {
            return;
        };
        match node.work {
            Work::Child(child) => self.drop_graph(child),
            // Executable graphs made from this one still use the memory, unless they are gone.
            Work::Allocate { address, .. } => self.orphan(address),
            _ => {}
        }
    }

    /// Frees a graph's memory once no executable graph uses it.
    pub fn orphan(&mut self, address: u64) {
        let used = self.execs.iter().any(|(_, exec)| exec.allocates(address))
            || self.nodes.iter().any(
                |(_, node)| matches!(node.work, Work::Allocate { address: a, .. } if a == address),
            );
        if !used {
            self.release_block(address);
        }
    }

    fn dependents(&self, node: Handle) -> Result<Vec<Handle>, Code> {
        let graph = self.graph(self.node(node)?.graph)?;
        let depends = |other: &Handle| {
            self.nodes
                .get(*other)
                .is_ok_and(|other| other.dependencies.contains(&node))
        };
        Ok(graph.nodes.iter().copied().filter(depends).collect())
    }

    /// The graph in Graphviz's language.
    fn dot(&self, graph: Handle) -> Result<String, Code> {
        let mut dot = String::from("digraph dot {\n");
        for (index, &handle) in self.graph(graph)?.nodes.iter().enumerate() {
            let node = self.node(handle)?;
            let label = match &node.work {
                Work::Kernel(kernel) => format!("KERNEL {}", kernel.kernel.name),
                Work::Copy(copy) => format!("MEMCPY {}", copy.width * copy.height * copy.depth),
                Work::Fill(fill) => format!("MEMSET {}", fill.width * fill.height * fill.element),
                Work::Host(_) => "HOST".to_owned(),
                Work::Child(_) | Work::Graph(_) => "GRAPH".to_owned(),
                Work::Empty => "EMPTY".to_owned(),
                Work::Wait(_) => "EVENT_WAIT".to_owned(),
                Work::Record(_) => "EVENT_RECORD".to_owned(),
                Work::Allocate { bytes, .. } => format!("MEM_ALLOC {bytes}"),
                Work::Free(_) => "MEM_FREE".to_owned(),
            };
            // Writing to a string cannot fail.
            writeln!(dot, "\"{handle:#x}\" [label=\"{index}\\n{label}\"];").ok();
            for dependency in &node.dependencies {
                writeln!(dot, "\"{dependency:#x}\" -> \"{handle:#x}\";").ok();
            }
        }
        dot.push_str("}\n");
        Ok(dot)
    }
}

/// The number of the graph, for findings.
pub(super) fn number_of(driver: &Guard, graph: Handle) -> u64 {
    driver.graphs.get(graph).map_or(0, |graph| graph.number)
}
