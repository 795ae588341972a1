// Flat indices in grids that were folded into two dimensions.

#if DEALT
// Software adapters give every thread of theirs the same number of workgroups beforehand
// and wait for the slowest. Here subgroups of DEALT lanes take the next number when they
// start, and there are more of them than numbers that mean work, so a thread that came late
// or is slow takes fewer. The subgroups of a grid are a power of two, so any run of as many
// tickets gives every number once, also where the counter overflows. Every power has a
// counter of its own: there a run begins with number 0, and what means work comes first.
@group(0) @binding(${TICKETS}) var<storage, read_write> tickets: array<atomic<u32>, 32>;

fn flat_index(group: vec3u, groups: vec3u, local: u32, wx: u32) -> u32 {
    let subgroups = groups.x * groups.y * (wx / ${DEALT}u);
    let lane = local % ${DEALT}u;
    var ticket = 0u;
    if (lane == 0u) {
        ticket = atomicAdd(&tickets[firstTrailingBit(subgroups)], 1u);
    }
    return (subgroupShuffle(ticket, 0u) & (subgroups - 1u)) * ${DEALT}u + lane;
}
#else
// The invocation's number, for workgroups of WX invocations along x.
fn flat_index(group: vec3u, groups: vec3u, local: u32, wx: u32) -> u32 {
    return (group.y * groups.x + group.x) * wx + local;
}

// The workgroup's number.
fn flat_group(group: vec3u, groups: vec3u) -> u32 {
    return group.y * groups.x + group.x;
}
#endif
