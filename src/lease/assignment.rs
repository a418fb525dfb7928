//! Which worker should have which shard?
//!
//! This module is pure. Every worker computes the same plan from what it sees, and carries out its own part of it: it
//! claims free and expired shards, and requests shards from workers that have too many. There is no leader.
//!
//! Each worker gets the same number of shards of each stream, or one more. The extra shards are assigned so that over
//! all streams, too, no worker has two more than another. Among all plans that do so, the one with the fewest moves is
//! chosen. Ties are broken by a hash of names alone, so a plan that has been carried out in part is still the plan.

use std::collections::VecDeque;

/// A worker that takes shards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member<'a> {
    pub(crate) name: &'a str,
    /// Whether this is another program. It keeps the shards that it has, up to its quota, and is assigned no others.
    pub(crate) foreign: bool,
    /// For each stream, by index, whether the worker takes shards of it.
    pub(crate) streams: Vec<bool>,
}

/// A shard that may be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Share<'a> {
    pub(crate) stream: usize,
    pub(crate) name: &'a str,
    /// The worker that has the shard, or that has requested it and will get it: an index into the members.
    pub(crate) owner: Option<usize>,
}

/// Returns which worker should have each of the shards, as an index into the members; `None` where no worker takes the
/// stream.
///
/// All workers must pass `members` and `shards` in the same order: sorted by name.
pub(crate) fn plan(members: &[Member<'_>], streams: &[&str], shards: &[Share<'_>]) -> Vec<Option<usize>> {
    let mut plan: Vec<Option<usize>> = vec![None; shards.len()];
    let mut open: Vec<usize> = Vec::new();
    let mut quota = vec![vec![0_usize; members.len()]; streams.len()];
    for (at, _) in streams.iter().enumerate() {
        let takers = members.iter().filter(|member| member.streams[at]).count();
        let all = shards.iter().filter(|shard| shard.stream == at).count();
        // Other programs keep what they hold, up to their quota.
        for (who, member) in members.iter().enumerate() {
            if member.foreign {
                quota[at][who] = if takers == 0 { 0 } else { all.div_ceil(takers) };
            }
        }
    }
    for (at, shard) in shards.iter().enumerate() {
        match shard.owner {
            Some(who) if members[who].foreign && quota[shard.stream][who] > 0 => {
                quota[shard.stream][who] -= 1;
                plan[at] = Some(who);
            }
            _ => open.push(at),
        }
    }
    let ours: Vec<usize> = (0..members.len()).filter(|who| !members[*who].foreign).collect();
    let together = ours.windows(2).all(|pair| members[pair[0]].streams == members[pair[1]].streams);
    let all_streams: Vec<usize> = (0..streams.len()).collect();
    // Workers that read different streams are compared within each stream only.
    let groups = if together { vec![all_streams] } else { all_streams.iter().map(|at| vec![*at]).collect() };
    for group in groups {
        let takers: Vec<usize> =
            ours.iter().copied().filter(|who| group.iter().all(|at| members[*who].streams[*at])).collect();
        let group: Vec<usize> =
            group.into_iter().filter(|at| open.iter().any(|one| shards[*one].stream == *at)).collect();
        if !takers.is_empty() {
            assign_group(members, streams, shards, &group, &takers, &open, &mut plan);
        }
    }
    plan
}

/// Assigns the open shards of these streams to these members.
fn assign_group(
    members: &[Member<'_>],
    streams: &[&str],
    shards: &[Share<'_>],
    group: &[usize],
    takers: &[usize],
    open: &[usize],
    plan: &mut [Option<usize>],
) {
    let checkpoint = |who: usize| takers.iter().position(|taker| *taker == who);
    // How many open shards each taker has of each stream.
    let mut has = vec![vec![0_usize; takers.len()]; group.len()];
    let mut total = vec![0_usize; group.len()];
    for at in open {
        let Some(row) = group.iter().position(|stream| *stream == shards[*at].stream) else { continue };
        total[row] += 1;
        if let Some(taker) = shards[*at].owner.and_then(checkpoint) {
            has[row][taker] += 1;
        }
    }
    let extras: Vec<usize> = total.iter().map(|all| all % takers.len()).collect();
    let preferences: Vec<Vec<i64>> = group
        .iter()
        .enumerate()
        .map(|(row, stream)| {
            let base = total[row] / takers.len();
            let preference = |(at, taker): (usize, &usize)| {
                let keeps = if has[row][at] > base { KEEPS } else { 0 };
                keeps + i64::from(hash(&[streams[*stream], members[*taker].name]) & 0xffff)
            };
            takers.iter().enumerate().map(preference).collect()
        })
        .collect();
    let gets_more = assign_extras(&extras, takers.len(), &preferences);
    for (row, stream) in group.iter().enumerate() {
        let base = total[row] / takers.len();
        let mut left: Vec<usize> = (0..takers.len()).map(|taker| base + usize::from(gets_more[row][taker])).collect();
        let mut moving = Vec::new();
        // A worker that has a shard keeps it, up to the number that it should have.
        for at in open.iter().copied().filter(|at| shards[*at].stream == *stream) {
            match shards[at].owner.and_then(checkpoint) {
                Some(taker) if left[taker] > 0 => {
                    left[taker] -= 1;
                    plan[at] = Some(takers[taker]);
                }
                _ => moving.push(at),
            }
        }
        let mut receivers = (0..takers.len()).flat_map(|taker| std::iter::repeat_n(taker, left[taker]));
        for at in moving {
            plan[at] = receivers.next().map(|taker| takers[taker]);
        }
    }
}

/// The weight of keeping a shard where it is, which exceeds every tie-break.
const KEEPS: i64 = 1 << 24;
/// The weight of a fair total for every worker, which exceeds all other weights.
const FAIR: i64 = 1 << 40;

/// Assigns `extras[s]` extra shards of each stream to different takers, so that the totals differ by at most one and
/// the sum of the fulfilled `preferences` is as large as possible. It is a flow of least cost.
fn assign_extras(extras: &[usize], takers: usize, preferences: &[Vec<i64>]) -> Vec<Vec<bool>> {
    let all: usize = extras.iter().sum();
    let (least, more) = (all / takers, all % takers);
    let (source, sink) = (extras.len() + takers, extras.len() + takers + 1);
    let mut flow = Flow::new(sink + 1);
    for (stream, count) in extras.iter().enumerate() {
        flow.edge(source, stream, *count, 0);
        for (taker, preference) in preferences[stream].iter().enumerate() {
            flow.edge(stream, extras.len() + taker, 1, -preference);
        }
    }
    for taker in 0..takers {
        flow.edge(extras.len() + taker, sink, least, -FAIR);
        if more > 0 {
            flow.edge(extras.len() + taker, sink, 1, 0);
        }
    }
    while flow.push(source, sink) {}
    let mut assigned = vec![vec![false; takers]; extras.len()];
    for edge in &flow.edges {
        if edge.from < extras.len() && edge.used > 0 && edge.to < source {
            assigned[edge.from][edge.to - extras.len()] = true;
        }
    }
    assigned
}

/// A flow network and the flow in it.
struct Flow {
    /// Each edge is followed by its reverse.
    edges: Vec<Edge>,
    out: Vec<Vec<usize>>,
}

struct Edge {
    from: usize,
    to: usize,
    room: usize,
    used: usize,
    cost: i64,
}

impl Flow {
    fn new(nodes: usize) -> Self {
        Self { edges: Vec::new(), out: vec![Vec::new(); nodes] }
    }

    fn edge(&mut self, from: usize, to: usize, room: usize, cost: i64) {
        for (from, to, room, cost) in [(from, to, room, cost), (to, from, 0, -cost)] {
            self.out[from].push(self.edges.len());
            self.edges.push(Edge { from, to, room, used: 0, cost });
        }
    }

    /// Sends one more unit from source to sink along the cheapest path. Returns whether there was one.
    fn push(&mut self, source: usize, sink: usize) -> bool {
        let mut cost = vec![i64::MAX; self.out.len()];
        let mut by: Vec<Option<usize>> = vec![None; self.out.len()];
        let mut waiting = VecDeque::from([source]);
        let mut waits = vec![false; self.out.len()];
        cost[source] = 0;
        while let Some(node) = waiting.pop_front() {
            waits[node] = false;
            for at in &self.out[node] {
                let edge = &self.edges[*at];
                if edge.room > 0 && cost[node] + edge.cost < cost[edge.to] {
                    cost[edge.to] = cost[node] + edge.cost;
                    by[edge.to] = Some(*at);
                    if !waits[edge.to] {
                        waits[edge.to] = true;
                        waiting.push_back(edge.to);
                    }
                }
            }
        }
        let mut node = sink;
        if by[sink].is_none() {
            return false;
        }
        while let Some(at) = by[node] {
            self.edges[at].room -= 1;
            self.edges[at].used += 1;
            self.edges[at ^ 1].room += 1;
            self.edges[at ^ 1].used = self.edges[at ^ 1].used.saturating_sub(1);
            node = self.edges[at].from;
        }
        true
    }
}

/// FNV-1a over some names. The result is the same for all workers, however they were built.
fn hash(names: &[&str]) -> u32 {
    let bytes = names.iter().flat_map(|name| name.bytes().chain([0]));
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    (hash ^ (hash >> 32)) as u32
}
