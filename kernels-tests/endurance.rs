//! A long run neither grows in memory nor slows down. A process of its own, because
//! what is measured is the memory of the whole process.

use std::time::{Duration, Instant};

use flowgrad::models::VqVae;
use flowgrad::nn::Mode;
use flowgrad::optim::{Adam, Optimizer};
use flowgrad::{Gpu, Graph, Params};

/// Resident bytes of this process, where the system tells.
fn resident() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * 4096)
}

#[test]
fn three_thousand_steps_neither_grow_nor_slow_down() {
    let gpu = Gpu::new().unwrap();
    let params = Params::new(3);
    let model = VqVae::digits(&params).unwrap();
    let graph = Graph::new();
    let out = model.forward(&graph.input("x", [1, 1, 8, 8]), Mode::Train);
    let optimizer = Optimizer::new(&params, Adam::default()).unwrap();
    optimizer.minimize(&out.loss).unwrap();
    let mut program = graph.compile(&gpu, &params, &[&out.loss]).unwrap();
    let image: Vec<f32> = (0..64).map(|i| (i as f32 * 0.7).sin() * 0.5).collect();

    const CHUNK: u64 = 500;
    let mut chunks: Vec<(Duration, Option<u64>)> = Vec::new();
    for chunk in 0..6 {
        let start = Instant::now();
        for step in chunk * CHUNK..(chunk + 1) * CHUNK {
            program.set_scalars(&optimizer.inputs(step)).unwrap();
            match step % 10 {
                0 => {
                    let out = program.run(&[("x", (&image).into())]).unwrap();
                    out.check_finite(&["the loss"]).unwrap();
                }
                _ => program.step(&[("x", (&image).into())]).unwrap(),
            }
        }
        gpu.wait().unwrap();
        chunks.push((start.elapsed(), resident()));
    }
    assert_eq!(program.runs(), 3000);
    // The first chunk still warms up.
    if let (Some(early), Some(late)) = (chunks[1].1, chunks[5].1) {
        let grown = late.saturating_sub(early);
        assert!(
            grown < 4 << 20,
            "{grown} bytes more after 2,000 further steps: {chunks:?}"
        );
    }
    // Other work on the machine may slow one chunk down, but not all of the later ones.
    let later = chunks[3..].iter().map(|c| c.0).min().unwrap();
    assert!(later < chunks[1].0.max(chunks[2].0) * 3 / 2, "{chunks:?}");
}
