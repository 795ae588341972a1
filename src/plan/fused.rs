//! The generated dispatch of a fused pointwise unit.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use super::units::{UnitId, Units, View, is_scalar_input};
use crate::device::DeviceProfile;
use crate::graph::{Access, Dispatch, Kind, Pointwise, ValueId};
use crate::{DType, Error, Result, Shape};

const SHADER: &str = include_str!("../../shaders/pointwise/fused.wgsl");

/// What a binding of a fused dispatch refers to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Target {
    Value(ValueId),
    /// The scalar inputs at the head of the input buffer.
    Scalars,
}

/// A generated dispatch.
pub(super) struct Fused {
    pub dispatch: Dispatch,
    pub targets: Vec<(Target, Access)>,
    pub walk: Walk,
    pub label: String,
}

/// What of a binding an invocation touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// The elements that it computes: chunks can be dispatched one after the other.
    Along,
    /// The same whichever those are.
    Same,
    /// Elements found from their place in the whole: nothing can be cut.
    Placed,
}

/// How a dispatch goes over its elements.
pub(super) struct Walk {
    /// Of every binding.
    pub reach: Vec<Reach>,
    /// Elements of one invocation.
    pub each: usize,
}

/// How one operand is read at element `i` of the unit's shape.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Load {
    Flat,
    First,
    At(At),
}

/// An index as an expression of `i`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct At {
    text: String,
    /// Every 8 or 16 elements from a multiple of that on read the same one; or just 1.
    same: usize,
    /// They read 8 from a multiple of 8 on.
    run: bool,
}

impl Load {
    /// Whether 8 neighbours are read as one.
    fn is_run(&self) -> bool {
        matches!(self, Load::Flat | Load::At(At { run: true, .. }))
    }

    /// The index of the element `e` of an invocation.
    fn index(&self, e: &str) -> String {
        match self {
            Load::First => "0".into(),
            Load::Flat => format!("i_{e}"),
            // No other letters than `i` and the `u` of literals.
            Load::At(at) => at.text.replace('i', &format!("i_{e}")),
        }
    }
}

/// Merges neighbouring axes that are walked as one.
fn collapse(dims: &[usize], strides: &[usize]) -> (Vec<usize>, Vec<usize>) {
    let mut out: Vec<(usize, usize)> = Vec::new();
    for (d, s) in dims.iter().zip(strides).filter(|(d, _)| **d > 1) {
        match out.last_mut() {
            Some((pd, ps)) if *ps == s * d => {
                *pd *= d;
                *ps = *s;
            }
            _ => out.push((*d, *s)),
        }
    }
    out.into_iter().unzip()
}

fn load(input: &Shape, unit: &Shape) -> Load {
    if input.numel() == 1 {
        return Load::First;
    }
    let (dims, strides) = collapse(unit.dims(), &input.broadcast_strides(unit));
    if strides == [1] && dims[0] == unit.numel() {
        return Load::Flat;
    }
    let mut terms = Vec::new();
    let (mut same, mut run) = (16, true);
    let mut divisor = 1;
    let total = unit.numel();
    for (d, s) in dims.iter().zip(&strides).rev() {
        if *s > 0 {
            while divisor % same != 0 {
                same = if same == 16 { 8 } else { 1 };
            }
            run &= match divisor {
                1 => *s == 1 && d % 8 == 0,
                _ => divisor % 8 == 0 && s % 8 == 0,
            };
            let index = match divisor {
                1 => "i".to_string(),
                _ => format!("(i / {divisor}u)"),
            };
            // The outermost index needs no remainder.
            let index = match divisor * d == total {
                true => index,
                false => format!("({index} % {d}u)"),
            };
            terms.push(if *s == 1 {
                index
            } else {
                format!("{index} * {s}u")
            });
        }
        divisor *= d;
    }
    Load::At(At {
        text: terms.join(" + "),
        same,
        // Otherwise the innermost axis is not among them.
        run: run && same == 1,
    })
}

/// Whether the unit reads `value` only element by element, in order.
pub(super) fn reads_flat(view: &View<'_>, units: &Units, unit: UnitId, value: ValueId) -> bool {
    let shape = unit_shape(view, units, unit);
    units.units[unit].nodes.iter().all(|i| {
        view.nodes[*i].inputs.iter().all(|v| {
            view.root(*v) != value
                || (load(view.shape(*v), shape) == Load::Flat || shape.numel() == 1)
        })
    })
}

pub(super) fn unit_shape<'a>(view: &View<'a>, units: &Units, unit: UnitId) -> &'a Shape {
    &view.nodes[units.units[unit].nodes[0]].outputs[0].shape
}

/// Writes the text of a unit. `in_place` maps outputs to the inputs they overwrite.
pub(super) fn generate(
    view: &View<'_>,
    units: &Units,
    unit: UnitId,
    outputs: &[ValueId],
    in_place: &HashMap<ValueId, ValueId>,
    scalar_slot: &HashMap<ValueId, u64>,
    profile: &DeviceProfile,
) -> Result<Fused> {
    let shape = unit_shape(view, units, unit);
    let n = shape.numel();
    let inputs = units.inputs(view, unit);
    let overwritten: Vec<ValueId> = outputs
        .iter()
        .filter_map(|o| in_place.get(o).copied())
        .collect();

    // Bindings: shared scalars, plain inputs, then outputs (with what they overwrite).
    let mut targets: Vec<(Target, Access)> = Vec::new();
    let mut reach = Vec::new();
    if inputs.iter().any(|v| is_scalar_input(view, *v)) {
        targets.push((Target::Scalars, Access::Read));
        reach.push(Reach::Same);
    }
    for input in &inputs {
        if !is_scalar_input(view, *input) && !overwritten.contains(input) {
            targets.push((Target::Value(*input), Access::Read));
            let elements = view.shape(*input).numel();
            reach.push(match reads_flat(view, units, unit, *input) {
                true if elements == n => Reach::Along,
                _ if elements == 1 => Reach::Same,
                _ => Reach::Placed,
            });
        }
    }
    for output in outputs {
        let access = match in_place.contains_key(output) {
            true => Access::ReadWrite,
            false => Access::Write,
        };
        targets.push((Target::Value(*output), access));
        reach.push(Reach::Along);
    }
    let binding_of = |value: ValueId| -> Option<usize> {
        let owner = outputs
            .iter()
            .find(|o| in_place.get(o) == Some(&value))
            .copied()
            .unwrap_or(value);
        targets.iter().position(|(t, _)| *t == Target::Value(owner))
    };

    let dtype = |v: &ValueId| view.node(*v).outputs[v.output as usize].dtype;
    let whole_words = targets
        .iter()
        .all(|(t, _)| !matches!(t, Target::Value(v) if dtype(v) == DType::F16));
    // Bindings that are written, or read in runs only, are arrays of 8 floats.
    let mut wide: Vec<bool> = targets
        .iter()
        .map(|(t, _)| matches!(t, Target::Value(_)))
        .collect();
    let mut shared = Vec::new();
    for i in &units.units[unit].nodes {
        for raw in &view.nodes[*i].inputs {
            if let Some(binding) = binding_of(view.root(*raw)) {
                let how = load(view.shape(*raw), shape);
                wide[binding] &= how.is_run();
                if let Load::At(At { same: 8.., .. }) = &how {
                    shared.push(how);
                }
            }
        }
    }
    let by_16 = |how: &Load| matches!(how, Load::At(At { same: 16, .. }));
    let share_16 = !shared.is_empty() && shared.iter().all(by_16);
    let written = |(t, wide): (&(Target, Access), &bool)| t.1 == Access::Read || *wide;
    let each = match whole_words && targets.iter().zip(&wide).all(written) {
        // Where there is enough to do, what 16 share is read once for all of them.
        true if profile.elements_each(n) == 8
            && share_16
            && n >= 1 << 16
            && n.is_multiple_of(16) =>
        {
            16
        }
        true => profile.elements_each(n),
        false => 1,
    };
    if each == 1 {
        wide.fill(false);
    }

    let mut declarations = String::new();
    for (k, (target, access)) in targets.iter().enumerate() {
        let mode = if *access == Access::Read {
            "read"
        } else {
            "read_write"
        };
        let ty = match target {
            Target::Value(_) if wide[k] => "Oct",
            Target::Value(v) => dtype(v).wgsl(),
            Target::Scalars => "f32",
        };
        declarations +=
            &format!("@group(0) @binding({k}) var<storage, {mode}> b{k}: array<{ty}>;\n");
    }

    // What the elements of an invocation share stands in `loads`; names of what each has
    // of its own end in `_${e}`.
    let (mut loads, mut body) = (String::new(), String::new());
    let mut imports: Vec<&str> = Vec::new();
    let mut names: HashMap<ValueId, String> = HashMap::new();
    let mut loaded: HashMap<(ValueId, Load), String> = HashMap::new();
    let mut scalars = Scalars {
        args: vec![n as u32],
    };
    let mut flops = 0;
    let mut labels: Vec<&str> = Vec::new();
    for i in &units.units[unit].nodes {
        let node = &view.nodes[*i];
        let Kind::Pointwise(op) = node.op.kind() else {
            return Err(Error::Graph(format!("{} is not pointwise", node.op.name())));
        };
        let mut args: Vec<String> = Vec::new();
        for raw in &node.inputs {
            let root = view.root(*raw);
            let name = if let Some(name) = names.get(&root) {
                name.clone()
            } else if let Some(fill) = view.fill(root) {
                for import in fill.imports() {
                    if !imports.contains(import) {
                        imports.push(import);
                    }
                }
                let own = scalars.names(fill);
                let own: Vec<&str> = own.iter().map(String::as_str).collect();
                // By a `let`: an expression of literals would be folded by the compiler,
                // which refuses what gives infinity (1 / 0).
                let name = format!("c{}", names.len());
                loads += &format!("    let {name} = {};\n", fill.wgsl(&own));
                names.insert(root, name.clone());
                name
            } else {
                let how = load(view.shape(*raw), shape);
                match loaded.get(&(root, how.clone())) {
                    Some(name) => name.clone(),
                    None => {
                        let x = format!("x{}", loaded.len());
                        let (binding, index) = match is_scalar_input(view, root) {
                            true => (0, format!("{}u", scalar_slot.get(&root).unwrap_or(&0) / 4)),
                            false => {
                                let Some(binding) = binding_of(root) else {
                                    return Err(Error::Graph(
                                        "a fused operand has no binding".into(),
                                    ));
                                };
                                (binding, how.index("0"))
                            }
                        };
                        let shared = match &how {
                            Load::First => true,
                            Load::Flat => false,
                            Load::At(at) => at.same > 1,
                        };
                        let name = if wide[binding] {
                            let ty = dtype(&root).wgsl();
                            for k in 0..each / 8 {
                                let index = how.index(&(8 * k).to_string());
                                loads += &format!(
                                    "    let {x}_{k} = b{binding}[({index}) / 8u];\n    \
                                     let {x}_{k}_0 = bitcast<vec4<{ty}>>(evens({x}_{k}));\n    \
                                     let {x}_{k}_1 = bitcast<vec4<{ty}>>(odds({x}_{k}));\n"
                                );
                            }
                            format!("{x}_${{e / 8}}_${{e % 2}}[${{e % 8 / 2}}]")
                        } else if shared || is_scalar_input(view, root) {
                            loads += &format!("    let {x} = b{binding}[{index}];\n");
                            x
                        } else {
                            let index = how.index("${e}");
                            body += &format!("    let {x}_${{e}} = b{binding}[{index}];\n");
                            format!("{x}_${{e}}")
                        };
                        loaded.insert((root, how), name.clone());
                        name
                    }
                }
            };
            args.push(name);
        }
        args.extend(scalars.names(op));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let value = ValueId {
            node: crate::graph::NodeId(*i as u32),
            output: 0,
        };
        let name = format!("v{}_${{e}}", names.len());
        body += &format!("    let {name} = {};\n", op.wgsl(&args));
        names.insert(value, name);
        for import in op.imports() {
            if !imports.contains(import) {
                imports.push(import);
            }
        }
        flops += op.flops() * n as u64;
        labels.push(node.op.name());
    }
    let mut stores = String::new();
    for output in outputs {
        let Some(k) = targets
            .iter()
            .position(|(t, _)| *t == Target::Value(*output))
        else {
            return Err(Error::Graph("a fused result has no binding".into()));
        };
        let value = |e: usize| names[output].replace("${e}", &e.to_string());
        let four = |first: usize| {
            let values: Vec<String> = (0..4).map(|e| value(first + 2 * e)).collect();
            format!(
                "bitcast<vec4f>(vec4<{}>({}))",
                dtype(output).wgsl(),
                values.join(", ")
            )
        };
        match wide[k] {
            true => {
                for o in 0..each / 8 {
                    let (even, odd) = (four(8 * o), four(8 * o + 1));
                    stores += &format!("    b{k}[i_0 / 8u + {o}u] = oct({even}, {odd});\n");
                }
            }
            false => stores += &format!("    b{k}[i_0] = {};\n", value(0)),
        }
    }

    let imports: String = imports.iter().map(|i| format!("#import {i}\n")).collect();
    // Imports are directives, so they must stand in the text before it is expanded.
    let source = SHADER
        .replace("${IMPORTS}", &imports)
        .replace("${SCALARS}", &scalars.fields())
        .replace("${DECLARATIONS}", &declarations)
        .replace("${LOADS}", &loads)
        .replace("${BODY}", &body)
        .replace("${STORES}", &stores);
    let dispatch = Dispatch {
        kernel: "fused".into(),
        variant: String::new(),
        source: Arc::from(source),
        defines: vec![
            ("WIDE".into(), u32::from(profile.reads_pairs()).to_string()),
            ("EACH".into(), each.to_string()),
        ],
        bindings: Vec::new(),
        arg_names: scalars.arg_names(),
        args: scalars.args,
        grid: [1, 1, 1],
        flops,
        bytes: 0,
        trips: 1,
        dealt: false,
    };
    let label = match labels.len() {
        1 => labels[0].to_string(),
        _ => format!("fused {}", labels.join(" ")),
    };
    Ok(Fused {
        dispatch,
        targets,
        walk: Walk { reach, each },
        label,
    })
}

/// The words of `Args`: the number of elements, then the numbers of the ops in the order
/// in which they are met. Equal ones are not merged: the text would depend on them, and
/// every learning rate or temperature would be a pipeline of its own.
struct Scalars {
    args: Vec<u32>,
}

impl Scalars {
    /// Takes in an op's numbers; how the text calls them.
    fn names(&mut self, op: &dyn Pointwise) -> Vec<String> {
        let first = self.args.len();
        self.args.extend(op.scalars().iter().map(|v| v.to_bits()));
        let all = first..self.args.len();
        all.map(|k| format!("args.s{k}")).collect()
    }

    /// What the words are called in `struct Args`.
    fn arg_names(&self) -> Vec<Cow<'static, str>> {
        let scalars = (1..self.args.len()).map(|k| format!("s{k}").into());
        [Cow::Borrowed("n")].into_iter().chain(scalars).collect()
    }

    fn fields(&self) -> String {
        let names = self.arg_names().into_iter().skip(1);
        names.map(|name| format!("    {name}: f32,\n")).collect()
    }
}
