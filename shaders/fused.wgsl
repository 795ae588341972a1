// A chain of pointwise ops, element by element: the frame that src/plan/fused.rs
// fills in. Grid: flat, one invocation per element.
#import grid
${IMPORTS}
struct Args {
    n: u32,
}
#args

${DECLARATIONS}
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let i = flat_index(group, groups, local, 64u);
    if (i >= args.n) {
        return;
    }
${BODY}
}
