//! How many registers a thread of a function needs: an estimate, for when `ptxas` isn't at hand.
//!
//! The text order of the instructions stands for time. A register lives from its first to its last mention; one
//! that lives into a loop lives to the loop's end. The estimate is the widest sum of lives.

use super::inst::{Function, Inst, NONE, Op, Vote};

/// The slots, not predicates, that an instruction mentions.
fn mentioned(inst: &Inst, lists: &[u32], out: &mut Vec<u32>) {
    out.clear();
    let mut list = |start: u32, count: usize| {
        let start = start as usize;
        if let Some(slots) = lists.get(start..start + count) {
            out.extend_from_slice(slots);
        }
    };
    match inst.op {
        Op::Pack { .. } => {
            list(inst.d, inst.imm as usize);
            out.push(inst.dst);
        }
        Op::Unpack { .. } => {
            list(inst.d, inst.imm as usize);
            out.push(inst.a);
        }
        Op::Load(access) | Op::Store(access) | Op::Atom(_, access) if inst.d != NONE => {
            list(inst.d, usize::from(access.count));
            out.push(inst.a);
        }
        Op::Load(_) | Op::Store(_) | Op::Atom(..) | Op::CpAsync { .. } => {
            out.extend([inst.dst, inst.a, inst.b, inst.c]);
        }
        Op::Mma(_) => list(inst.d, (inst.dst + inst.a + inst.b + inst.c) as usize),
        Op::LdMatrix { .. } | Op::StMatrix { .. } => {
            list(inst.d, inst.b as usize);
            out.push(inst.a);
        }
        Op::WmmaLoad(_) | Op::WmmaStore(_) => {
            list(inst.d, inst.c as usize);
            out.extend([inst.a, inst.b]);
        }
        Op::Setp(..) => out.extend([inst.a, inst.b]),
        Op::Set(..) | Op::Select(_) => out.extend([inst.dst, inst.a, inst.b]),
        Op::Testp(..) | Op::IsSpace { .. } | Op::BranchTable => out.push(inst.a),
        Op::Shuffle(_) => out.extend([inst.dst, inst.a, inst.b, inst.c, inst.d]),
        Op::Vote(Vote::Ballot) => out.push(inst.dst),
        Op::Match { .. } | Op::Redux(..) => out.extend([inst.dst, inst.a]),
        Op::PredBool(_)
        | Op::PredMov
        | Op::Vote(_)
        | Op::Branch
        | Op::Join
        | Op::Call
        | Op::Barrier { .. }
        | Op::Mbarrier { .. } => {}
        _ => out.extend([inst.dst, inst.a, inst.b, inst.c, inst.d]),
    }
    out.retain(|slot| *slot != NONE);
}

/// The estimate for one function, in 32-bit registers.
pub(super) fn estimate(function: &Function) -> u32 {
    let slots = function.slots as usize;
    let mut lives: Vec<Option<(u32, u32)>> = vec![None; slots];
    let mut fixed = vec![false; slots];
    for &(slot, _, _) in &function.constants {
        fixed[slot as usize] = true;
    }
    for &(slot, _, _) in &function.specials {
        fixed[slot as usize] = true;
    }
    let mut mentions = Vec::new();
    let mut loops = Vec::new();
    for (pc, inst) in function.code.iter().enumerate() {
        let pc = pc as u32;
        mentioned(inst, &function.lists, &mut mentions);
        for &slot in &mentions {
            if let Some(life) = lives.get_mut(slot as usize)
                && !fixed[slot as usize]
            {
                *life = Some(life.map_or((pc, pc), |(first, _)| (first, pc)));
            }
        }
        if inst.op == Op::Branch && inst.imm <= i64::from(pc) {
            loops.push((inst.imm as u32, pc));
        }
    }
    // Inner loops first, so that what they prolong reaches the outer ones.
    loops.sort_unstable_by_key(|(start, end)| end - start);
    let mut changes = vec![0i32; function.code.len() + 2];
    // A slot that starts a 64-bit register is followed by one that is never mentioned.
    let is_start = |slot: usize| lives[slot].is_some();
    for slot in 0..slots {
        let Some((first, mut last)) = lives[slot] else {
            continue;
        };
        for &(start, end) in &loops {
            if first < start && last >= start && last < end {
                last = end;
            }
        }
        let mut width = 1;
        while width < 4 && slot + width < slots && !is_start(slot + width) && !fixed[slot + width] {
            width += 1;
        }
        let width = if width == 3 { 2 } else { width };
        changes[first as usize] += width as i32;
        changes[last as usize + 1] -= width as i32;
    }
    let (mut now, mut most) = (0, 0);
    for change in changes {
        now += change;
        most = now.max(most);
    }
    most as u32
}
