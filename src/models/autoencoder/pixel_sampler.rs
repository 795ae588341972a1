//! Ancestral sampling of a PixelCNN on the GPU.
//!
//! What a masked layer gives at a place depends on places before it, which never change
//! again once they are drawn. So one run of the step program computes every layer at one
//! place only, from what earlier runs left in states (Ramachandran et al. 2017, arXiv
//! 1704.06001), draws the number, writes it and goes on to the next place: drawing a whole
//! grid costs about as much as one forward pass. Runs share submissions, and nothing comes
//! back to the host before the last place.

use super::pixelcnn::{Masked, PixelCnn, PixelCnnConfig};
use crate::exec::Program;
use crate::ops::{Activation, Categorical};
use crate::{Error, Gpu, Graph, Init, Param, Params, Result, Tensor, Value};

/// Places in one submission: some drivers end those that take seconds.
const PLACES: usize = 64;

/// Draws grids of a [`PixelCnn`], `count` at a time.
pub struct PixelSampler {
    config: PixelCnnConfig,
    count: usize,
    states: Params,
    codes: Param,
    prepare: Program,
    step: Program,
    read: Program,
}

/// A grid with a border of `pad` places above, left and right, where nothing is seen.
#[derive(Clone, Copy)]
struct Padded {
    grid: [usize; 2],
    pad: usize,
}

impl Padded {
    fn rows(self) -> usize {
        (self.grid[0] + self.pad) * self.stride()
    }

    fn stride(self) -> usize {
        self.grid[1] + 2 * self.pad
    }

    fn at(self, row: usize, col: usize) -> usize {
        (row + self.pad) * self.stride() + col + self.pad
    }

    /// From a place to the taps of a kernel of extent `2 pad + 1` that come before it.
    fn before(self) -> Vec<f32> {
        let side = 2 * self.pad + 1;
        let taps = 0..side * self.pad + self.pad;
        let offset = |tap: usize| {
            let (row, col) = ((tap / side) as f32, (tap % side) as f32);
            let pad = self.pad as f32;
            (row - pad) * self.stride() as f32 + col - pad
        };
        taps.map(offset).collect()
    }
}

/// What the steps keep between runs.
struct Kept {
    /// The number of places drawn so far, `[1]`.
    at: Param,
    /// `[places * colours, count]`
    codes: Param,
    /// What goes into each layer that looks at other places, `[places, count * inputs]`.
    inputs: Vec<Option<Param>>,
    /// Masked weights in the order in which steps want them.
    weights: Vec<Param>,
}

impl PixelSampler {
    /// The programs for `count` grids at a time. `params` is the set of `model`, whose
    /// weights are read anew with every [`PixelSampler::sample`]. Errors: a `count` of 0,
    /// what [`Tensor::categorical`] refuses (a temperature of 0 among it), limits of the
    /// device.
    pub fn new(
        gpu: &Gpu,
        model: &PixelCnn,
        params: &Params,
        count: usize,
        options: &Categorical,
    ) -> Result<Self> {
        if count == 0 {
            let detail = "count is 0; there must be 1 grid or more";
            return Err(Error::argument("PixelSampler", detail));
        }
        let config = *model.config();
        let states = Params::new(params.seed());
        let kept = Kept::new(&states, model, count)?;
        let sets = [params, &states];
        let graph = Graph::new();
        let start = kept.prepare(&graph, model);
        let prepare = graph.compile(gpu, &sets, &[&start])?;
        let graph = Graph::new();
        let drawn = kept.step(&graph, model, count, options);
        let step = graph.compile(gpu, &sets, &[&drawn])?;
        let graph = Graph::new();
        let codes = grids(&graph, &kept.codes, &config, count);
        let read = graph.compile_pure(gpu, &states, &[&codes])?;
        Ok(PixelSampler {
            config,
            count,
            codes: kept.codes,
            states,
            prepare,
            step,
            read,
        })
    }

    /// Draws `count` grids of the labels' classes: numbers of the shape of
    /// [`PixelCnnConfig::shape`]. Others with every call, by the random state of
    /// [`PixelSampler::set_random_state`]. Errors: labels that are missing, too many, of no
    /// class, or given to a prior that knows none.
    pub fn sample(&mut self, labels: Option<&[u32]>) -> Result<Vec<u32>> {
        self.draw(labels)?;
        self.read.run(&[])?.u32(0)
    }

    /// The same, leaving the numbers where [`PixelSampler::codes`] reads them.
    pub fn draw(&mut self, labels: Option<&[u32]>) -> Result<()> {
        self.check_labels(labels)?;
        self.prepare.step(&[])?;
        if let Some(labels) = labels {
            self.step.set_inputs(&[("labels", Value::U32(labels))])?;
        }
        let mut left = self.config.len();
        while left > 0 {
            let now = left.min(PLACES);
            self.step.step_times(&[], now as u32)?;
            left -= now;
        }
        Ok(())
    }

    fn check_labels(&self, labels: Option<&[u32]>) -> Result<()> {
        let wrong = |detail: String| Err(Error::argument("PixelSampler", detail));
        match (labels, self.config.classes) {
            (None, None) => Ok(()),
            (None, Some(n)) => wrong(format!("the prior draws from {n} classes; give labels")),
            (Some(_), None) => wrong("the prior knows no classes; give no labels".into()),
            (Some(labels), Some(_)) if labels.len() != self.count => {
                wrong(format!("{} labels for {} grids", labels.len(), self.count))
            }
            (Some(labels), Some(n)) => match labels.iter().find(|l| **l as usize >= n) {
                Some(label) => wrong(format!("label {label} is out of range for {n} classes")),
                None => Ok(()),
            },
        }
    }

    /// The numbers last drawn, for a program of your own that decodes them where they lie:
    /// u32 of the shape of [`PixelCnnConfig::shape`]. To be compiled with
    /// [`PixelSampler::states`] among the parameter sets.
    #[track_caller]
    pub fn codes(&self, graph: &Graph) -> Tensor {
        grids(graph, &self.codes, &self.config, self.count)
    }

    /// The parameter set that [`PixelSampler::codes`] belongs to.
    pub fn states(&self) -> &Params {
        &self.states
    }

    /// Seed and step of the next draw: each place takes one step.
    pub fn set_random_state(&mut self, seed: u64, step: u32) {
        self.step.set_random_state(seed, step);
    }

    /// The program of one place.
    pub fn program(&self) -> &Program {
        &self.step
    }
}

impl Kept {
    fn new(states: &Params, model: &PixelCnn, count: usize) -> Result<Self> {
        let config = model.config();
        let (mut inputs, mut weights) = (Vec::new(), Vec::new());
        for (i, layer) in model.layers().into_iter().enumerate() {
            let [outputs, channels, side, _] = extents(layer);
            let looks = i > 0 && side > 1;
            let kept = looks.then(|| {
                let rows = config.padded(side).rows();
                let name = format!("inputs.{i}");
                states.add_state(&name, [rows, count * channels], Init::Zeros)
            });
            inputs.push(kept.transpose()?);
            let taps = taps(config, i, side);
            let shape = match i {
                0 => [taps * channels, outputs],
                _ => [outputs, taps * channels],
            };
            weights.push(match taps {
                // A single place with a single colour sees nothing at all.
                0 => states.add_state(&format!("weights.{i}"), [1, outputs], Init::Zeros)?,
                _ => states.add_state(&format!("weights.{i}"), shape, Init::Zeros)?,
            });
        }
        let rows = config.padded(config.kernel).rows() * config.colours;
        Ok(Kept {
            at: states.add_state("at", [1], Init::Zeros)?,
            codes: states.add_state("codes", [rows, count], Init::Zeros)?,
            inputs,
            weights,
        })
    }

    /// Back to the first place, with the weights of now.
    fn prepare(&self, graph: &Graph, model: &PixelCnn) -> Tensor {
        for (i, (layer, to)) in model.layers().into_iter().zip(&self.weights).enumerate() {
            let [outputs, channels, side, _] = extents(layer);
            let taps = taps(model.config(), i, side);
            if taps == 0 {
                continue;
            }
            let weight = layer
                .conv
                .masked_weight(graph)
                .reshape([outputs, channels, side * side])
                .slice(2, 0, taps);
            // The first layer's are rows to look up by tap and number.
            let packed = match i {
                0 => weight.permute(&[2, 1, 0]),
                _ => weight.permute(&[0, 2, 1]),
            };
            graph.assign(&to.on(graph), &packed.reshape(to.shape()));
        }
        for state in self.inputs.iter().flatten() {
            graph.assign(&state.on(graph), &graph.full(state.shape(), 0.0));
        }
        // A number behind all rows of the first layer's weights: it looks up zeros.
        let nothing = self.weights[0].shape().dims()[0] as f32;
        let codes = self.codes.on(graph);
        graph.assign(&codes, &graph.full(codes.shape(), nothing));
        let start = graph.full([1], 0.0);
        graph.assign(&self.at.on(graph), &start);
        start
    }

    /// Draws the numbers of one place, `[count]`.
    fn step(&self, graph: &Graph, model: &PixelCnn, count: usize, options: &Categorical) -> Tensor {
        let config = model.config();
        let labels = config.classes.map(|_| graph.input_u32("labels", [count]));
        let at = self.at.on(graph);
        let place = places(graph, config).gather_rows(&at.to_u32());
        let place = |k: usize| place.slice(1, k, 1).reshape([1]);
        let (wide, narrow, colour) = (place(0), place(1), place(2).to_u32());
        let layers = model.layers();
        let bias = |i: usize| {
            let layer = layers[i];
            let bias = layer.conv.bias().on(graph);
            match (&layer.class, &labels) {
                (Some(table), Some(labels)) => table.on(graph).gather_rows(labels).add(&bias),
                _ => bias,
            }
        };

        // One-hot numbers times weights are rows of the weights.
        let colours = config.colours;
        let [width, channels, side, _] = extents(layers[0]);
        let seen = taps(config, 0, side);
        let first = match seen {
            0 => graph.full([count, width], 0.0),
            _ => {
                let mut offsets = config.padded(side).before();
                offsets.resize(seen, 0.0);
                let rows = offsets
                    .iter()
                    .flat_map(|o| (0..colours).map(move |c| o * colours as f32 + c as f32));
                let rows = graph.constant([seen * colours], &rows.collect::<Vec<_>>());
                let rows = rows.add(&wide.mul_scalar(colours as f32)).to_u32();
                let numbers = self.codes.on(graph).gather_rows(&rows);
                let starts = (0..seen * colours).map(|i| (i * channels / colours) as f32);
                let starts = starts.collect::<Vec<_>>();
                let starts = graph.constant([seen * colours, 1], &starts);
                let rows = numbers.add(&starts).to_u32();
                let table = self.weights[0].on(graph);
                table.gather_rows(&rows).sum(&[0], false)
            }
        };
        let first = first.add(&bias(0));

        let logits = model.network(&first, |i, layer, x| {
            let [outputs, channels, side, _] = extents(layer);
            let weight = self.weights[i].on(graph);
            if i + 1 == layers.len() && colours > 1 {
                // Of the colour whose turn it is.
                let levels = config.levels;
                let weight = weight.reshape([colours, levels * channels]);
                let weight = weight.gather_rows(&colour).reshape([levels, channels]);
                let bias = bias(i).reshape([colours, levels]).gather_rows(&colour);
                return x.linear(&weight, Some(&bias.reshape([levels])), Activation::None);
            }
            let x = match &self.inputs[i] {
                None => x.clone(),
                Some(kept) => {
                    let kept = kept.on(graph);
                    let offsets = config.padded(side).before();
                    let seen = offsets.len();
                    let rows = graph.constant([seen], &offsets).add(&narrow).to_u32();
                    let before = kept.gather_rows(&rows).reshape([seen, count, channels]);
                    let here = x.reshape([count, 1, channels]);
                    let all = Tensor::concat(&[&before.permute(&[1, 0, 2]), &here], 1);
                    let now = x.reshape([1, count * channels]);
                    graph.assign_rows(&kept, &narrow.to_u32(), &now);
                    all.reshape([count, (seen + 1) * channels])
                }
            };
            let y = x.linear(&weight, None, Activation::None);
            y.reshape([count, outputs]).add(&bias(i))
        });
        let drawn = logits.categorical(options);
        let row = wide.mul_scalar(colours as f32).add(&place(2)).to_u32();
        let numbers = drawn.to_f32().reshape([1, count]);
        graph.assign_rows(&self.codes.on(graph), &row, &numbers);
        graph.assign(&at, &at.add_scalar(1.0));
        drawn
    }
}

impl PixelCnnConfig {
    fn padded(&self, side: usize) -> Padded {
        Padded {
            grid: self.grid,
            pad: side / 2,
        }
    }
}

fn extents(layer: &Masked) -> [usize; 4] {
    let dims = layer.conv.weight().shape().dims();
    std::array::from_fn(|i| dims[i])
}

/// Taps of layer `i` that see anything: those before the centre, and the centre where its
/// mask lets something through.
fn taps(config: &PixelCnnConfig, i: usize, side: usize) -> usize {
    side * side / 2 + usize::from(i > 0 || config.colours > 1)
}

/// Of every place in the order in which they are drawn: where it lies in the padded grid of
/// numbers, in that of the 3x3 layers, and its colour; `[numbers, 3]`.
fn places(graph: &Graph, config: &PixelCnnConfig) -> Tensor {
    let [height, width] = config.grid;
    let (wide, narrow) = (config.padded(config.kernel), config.padded(3));
    let mut table = Vec::with_capacity(3 * config.len());
    for (row, col) in (0..height).flat_map(|r| (0..width).map(move |c| (r, c))) {
        for colour in 0..config.colours {
            let [wide, narrow] = [wide, narrow].map(|p| p.at(row, col) as f32);
            table.extend([wide, narrow, colour as f32]);
        }
    }
    graph.constant([config.len(), 3], &table)
}

/// The drawn numbers without their border.
fn grids(graph: &Graph, codes: &Param, config: &PixelCnnConfig, count: usize) -> Tensor {
    let [height, width] = config.grid;
    let padded = config.padded(config.kernel);
    let mut rows = Vec::with_capacity(config.len());
    for colour in 0..config.colours {
        for (row, col) in (0..height).flat_map(|r| (0..width).map(move |c| (r, c))) {
            rows.push((padded.at(row, col) * config.colours + colour) as u32);
        }
    }
    let rows = graph.constant_u32([rows.len()], &rows);
    let numbers = codes.on(graph).gather_rows(&rows).transpose(0, 1);
    numbers.to_u32().reshape(config.shape(count))
}
