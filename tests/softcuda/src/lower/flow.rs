//! Control flow: basic blocks, immediate post-dominators, and from them the places where the lanes that
//! a branch splits meet again.

use super::inst::{ALWAYS, Function, NONE, Op};

/// Successors of each block; block `n` stands for the end of the function.
fn successors(function: &Function, starts: &[u32], block_of: &[u32]) -> Vec<Vec<u32>> {
    let end = starts.len() as u32;
    let code = &function.code;
    let block_at = |pc: u32| block_of.get(pc as usize).copied().unwrap_or(end);
    let mut all = Vec::with_capacity(starts.len());
    for (block, &start) in starts.iter().enumerate() {
        let next = starts.get(block + 1).copied().unwrap_or(code.len() as u32);
        let last = &code[next as usize - 1];
        let guarded = last.guard != ALWAYS;
        let mut list = match last.op {
            Op::Branch => vec![block_at(last.imm as u32)],
            Op::BranchTable => function.lists[last.d as usize..(last.d + last.b) as usize]
                .iter()
                .map(|&pc| block_at(pc))
                .collect(),
            Op::Ret | Op::Exit | Op::Trap => vec![end],
            _ => vec![block_at(next)],
        };
        if guarded && matches!(last.op, Op::Branch | Op::BranchTable) {
            list.push(block_at(next));
        }
        // A guarded exit in the middle of a block takes lanes away, it doesn't move any elsewhere.
        if guarded && matches!(last.op, Op::Ret | Op::Exit | Op::Trap) {
            list = vec![block_at(next)];
        }
        let _ = start;
        list.sort_unstable();
        list.dedup();
        all.push(list);
    }
    all
}

/// Immediate post-dominator of each block (Cooper, Harvey, Kennedy: "A Simple, Fast Dominance
/// Algorithm", on the reversed graph). `n` is the end; blocks that never reach it have [`NONE`].
fn post_dominators(successors: &[Vec<u32>]) -> Vec<u32> {
    let n = successors.len();
    let mut predecessors = vec![Vec::new(); n + 1];
    for (block, list) in successors.iter().enumerate() {
        for &to in list {
            predecessors[to as usize].push(block as u32);
        }
    }
    // Post-order of the reversed graph from the end.
    let mut order = vec![NONE; n + 1];
    let mut sequence = Vec::with_capacity(n + 1);
    let mut stack = vec![(n as u32, 0usize)];
    let mut seen = vec![false; n + 1];
    seen[n] = true;
    while let Some((node, child)) = stack.pop() {
        if let Some(&next) = predecessors[node as usize].get(child) {
            stack.push((node, child + 1));
            if !std::mem::replace(&mut seen[next as usize], true) {
                stack.push((next, 0));
            }
        } else {
            order[node as usize] = sequence.len() as u32;
            sequence.push(node);
        }
    }
    let mut idom = vec![NONE; n + 1];
    idom[n] = n as u32;
    let mut changed = true;
    while changed {
        changed = false;
        for &node in sequence.iter().rev().skip(1) {
            let mut new = NONE;
            for &to in &successors[node as usize] {
                if idom[to as usize] == NONE {
                    continue;
                }
                new = if new == NONE {
                    to
                } else {
                    meet(&idom, &order, new, to)
                };
            }
            if new != NONE && idom[node as usize] != new {
                idom[node as usize] = new;
                changed = true;
            }
        }
    }
    idom
}

fn meet(idom: &[u32], order: &[u32], mut a: u32, mut b: u32) -> u32 {
    while a != b {
        while order[a as usize] < order[b as usize] {
            a = idom[a as usize];
        }
        while order[b as usize] < order[a as usize] {
            b = idom[b as usize];
        }
    }
    a
}

/// A branch to an exit is an exit: early returns don't wait for the rest of the warp.
fn exit_at_once(function: &mut Function) {
    for pc in 0..function.code.len() {
        if function.code[pc].op != Op::Branch {
            continue;
        }
        let mut target = function.code[pc].imm as usize;
        while function
            .code
            .get(target)
            .is_some_and(|inst| inst.op == Op::Join)
        {
            target += 1;
        }
        if function
            .code
            .get(target)
            .is_some_and(|i| i.op == Op::Exit && i.guard == ALWAYS)
        {
            function.code[pc].op = Op::Exit;
        }
    }
}

/// Gives each branch the place where its lanes meet, and keeps only the joins that are such places.
pub(super) fn reconverge(function: &mut Function) {
    exit_at_once(function);
    let length = function.code.len();
    let mut leader = vec![false; length + 1];
    leader[0] = true;
    for (pc, inst) in function.code.iter().enumerate() {
        match inst.op {
            Op::Join => leader[pc] = true,
            Op::Branch | Op::BranchTable | Op::Ret | Op::Exit | Op::Trap => {
                leader[pc + 1] = true;
            }
            _ => {}
        }
    }
    let starts: Vec<u32> = (0..length as u32)
        .filter(|&pc| leader[pc as usize])
        .collect();
    let mut block_of = vec![0u32; length];
    let mut block = 0;
    for pc in 0..length {
        if leader[pc] && pc > 0 {
            block += 1;
        }
        block_of[pc] = block;
    }
    let successors = successors(function, &starts, &block_of);
    let idom = post_dominators(&successors);
    let mut needed = vec![false; length];
    for pc in 0..length {
        let inst = &mut function.code[pc];
        let divergent = inst.op == Op::BranchTable || inst.op == Op::Branch && inst.guard != ALWAYS;
        if !divergent {
            continue;
        }
        let meet = idom[block_of[pc] as usize];
        let place = starts.get(meet as usize).copied().unwrap_or(NONE);
        // Every block that a branch can lead to starts with a join.
        let place = if place != NONE && function.code[place as usize].op == Op::Join {
            needed[place as usize] = true;
            place
        } else {
            NONE
        };
        let inst = &mut function.code[pc];
        if inst.op == Op::Branch {
            inst.d = place
        } else {
            inst.c = place
        }
    }
    compact(function, &needed);
}

/// Removes the joins that aren't needed and renumbers targets.
fn compact(function: &mut Function, needed: &[bool]) {
    let mut new = Vec::with_capacity(function.code.len() + 1);
    let mut kept = 0u32;
    for (pc, inst) in function.code.iter().enumerate() {
        new.push(kept);
        if inst.op != Op::Join || needed[pc] {
            kept += 1;
        }
    }
    new.push(kept);
    let code = std::mem::take(&mut function.code);
    let lines = std::mem::take(&mut function.lines);
    for (pc, (inst, line)) in code.into_iter().zip(lines).enumerate() {
        let keep = inst.op != Op::Join || needed[pc];
        if !keep {
            continue;
        }
        let mut inst = inst;
        match inst.op {
            Op::Branch => {
                inst.imm = i64::from(new[inst.imm as usize]);
                if inst.d != NONE {
                    inst.d = new[inst.d as usize];
                }
            }
            Op::BranchTable => {
                for target in &mut function.lists[inst.d as usize..(inst.d + inst.b) as usize] {
                    *target = new[*target as usize];
                }
                if inst.c != NONE {
                    inst.c = new[inst.c as usize];
                }
            }
            _ => {}
        }
        function.code.push(inst);
        function.lines.push(line);
    }
}
