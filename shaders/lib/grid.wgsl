// Flat indices in grids that were folded into two dimensions.

// The invocation's number, for workgroups of WX invocations along x.
fn flat_index(group: vec3u, groups: vec3u, local: u32, wx: u32) -> u32 {
    return (group.y * groups.x + group.x) * wx + local;
}

// The workgroup's number.
fn flat_group(group: vec3u, groups: vec3u) -> u32 {
    return group.y * groups.x + group.x;
}
