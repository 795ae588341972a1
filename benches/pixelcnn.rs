//! Drawing 64 grids of 7x7 codes: place by place from kept activations, all on the GPU,
//! against one whole forward pass and one round trip for each place. The keras.io prior of
//! 64 codes. Not criterion: both take long.

use std::time::Instant;

use flowgrad::models::{PixelCnn, PixelCnnConfig, PixelSampler};
use flowgrad::nn::Mode;
use flowgrad::ops::Categorical;
use flowgrad::{Gpu, Graph, Params, Result, Value};

const GRIDS: usize = 64;

fn main() -> Result<()> {
    let gpu = Gpu::new()?;
    let config = PixelCnnConfig::keras([7, 7], 64);
    let params = Params::new(0);
    let prior = PixelCnn::new(&params, config)?;
    let options = Categorical::default();
    let mut sampler = PixelSampler::new(&gpu, &prior, &params, GRIDS, &options)?;

    let graph = Graph::new();
    let codes = graph.input_u32("codes", config.shape(GRIDS));
    let logits = prior.logits(&codes, None, Mode::Eval);
    let drawn = logits.permute(&[0, 2, 3, 1]).categorical(&options);
    let mut whole = graph.compile_pure(&gpu, &params, &[&drawn])?;
    let mut place_by_place = || -> Result<f64> {
        let mut grids = vec![0; GRIDS * config.len()];
        let began = Instant::now();
        for place in 0..config.len() {
            let drawn = whole.run(&[("codes", Value::U32(&grids))])?.u32(0)?;
            for grid in 0..GRIDS {
                let at = grid * config.len() + place;
                grids[at] = drawn[at];
            }
        }
        Ok(began.elapsed().as_secs_f64())
    };
    let mut kept = || -> Result<f64> {
        let began = Instant::now();
        sampler.sample(None)?;
        Ok(began.elapsed().as_secs_f64())
    };
    println!("{}", gpu.summary());
    println!("{GRIDS} grids of 7x7, seconds: whole passes, kept activations, ratio");
    for _ in 0..3 {
        let (slow, fast) = (place_by_place()?, kept()?);
        println!("{slow:.3}  {fast:.3}  {:.1}", slow / fast);
    }
    Ok(())
}
