// A chain of pointwise ops over EACH (1, 8 or 16) neighbouring elements: the frame that
// src/plan/fused.rs fills in. n is a multiple of EACH.
// Grid: flat, one invocation per EACH elements.
#import grid
#import wide
${IMPORTS}
struct Args {
    n: u32,
${SCALARS}}
#args

${DECLARATIONS}
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_index(group, groups, local, 64u);
    if (index >= args.n / ${EACH}u) {
        return;
    }
#repeat e EACH
    let i_${e} = index * ${EACH}u + ${e}u;
#end
${LOADS}
#repeat e EACH
${BODY}
#end
${STORES}
}
