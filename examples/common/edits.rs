//! Edits of codes and latents: a picture each, the originals above what comes out.

use flowgrad::models::VqVae;
use flowgrad::nn::Mode;
use flowgrad::quantize::edit::{self, Axis, Half, Region};
use flowgrad::{Gpu, Graph, Params, Tensor};

use super::{CommonArgs, Images, Outcome, picture};

/// Writes `edit_{name}.png` for every edit of the first of `images`, `[N, 1, H, W]` of
/// -0.5..0.5. Where an edit takes two, the second is the next image.
pub fn draw(
    args: &CommonArgs,
    gpu: &Gpu,
    params: &Params,
    model: &VqVae,
    images: &[f32],
) -> Outcome {
    let [height, width] = model.image_shape();
    let shown = (images.len() / (height * width)).min(10);
    let x = &images[..shown * height * width];
    let shape = [shown, 1, height, width];
    let graph = Graph::new();
    let latents = model.encode(&graph.input("x", shape), Mode::Eval);
    let quantized = model.quantizer.forward(&latents, Mode::Eval);
    let edits = edits(
        &quantized.indices,
        &quantized.quantized,
        model.quantizer.config().codes,
    );
    let decoded: Vec<Tensor> = (edits.iter())
        .map(|(_, edited)| match edited.dtype() {
            flowgrad::DType::U32 => model.quantizer.lookup(edited),
            _ => edited.clone(),
        })
        .map(|latents| model.decode(&latents, Mode::Eval))
        .collect();
    let wanted: Vec<&Tensor> = decoded.iter().collect();
    let mut program = graph.compile_pure(gpu, params, &wanted)?;
    let out = program.run(&[("x", x.into())])?;
    let pixels = |v: &[f32]| -> Vec<f32> { v.iter().map(|p| p + 0.5).collect() };
    let originals = pixels(x);
    let scale = (160 / height).clamp(2, 12);
    for (i, (name, _)) in edits.iter().enumerate() {
        let made = pixels(&out.f32(i)?);
        let picture = picture::above(
            &Images::new(&originals, shape)?,
            &Images::new(&made, shape)?,
            1,
            shown,
            scale,
        );
        picture::save(&picture, &args.out_file(format!("edit_{name}.png"))?)?;
    }
    Ok(())
}

/// Every edit by name: codes are looked up afterwards, latents are decoded as they are.
fn edits(codes: &Tensor, latents: &Tensor, book: usize) -> Vec<(&'static str, Tensor)> {
    let [rows, columns] = [codes.dim(-2), codes.dim(-1)];
    // Every other place, like a chessboard.
    let mask: Vec<f32> = (0..rows * columns)
        .map(|i| ((i / columns + i % columns) % 2) as f32)
        .collect();
    let mask = codes.graph().constant([rows, columns], &mask);
    let middle = Region {
        at: [rows / 4, columns / 4],
        size: [rows.div_ceil(2), columns.div_ceil(2)],
    };
    let next = codes.roll(0, -1);
    let next_latents = latents.roll(0, -1);
    vec![
        ("shift_rows", edit::shift(codes, 1, 0)),
        ("shift_columns", edit::shift(codes, 0, 1)),
        ("rotate90", edit::rotate90(codes, 1)),
        ("flip_rows", edit::flip(codes, Axis::Rows)),
        ("flip_columns", edit::flip(codes, Axis::Columns)),
        ("invert_codes", edit::invert(codes, book)),
        ("invert_latents", edit::invert(latents, book)),
        ("splice_halves", edit::splice(codes, &next, Half::Left)),
        ("splice_mask", edit::splice_by_mask(codes, &next, &mask)),
        (
            "transplant",
            edit::transplant(&next, codes, middle, middle.at),
        ),
        ("interpolate_codes", edit::interpolate(codes, &next, 0.5)),
        (
            "interpolate_latents",
            edit::interpolate(latents, &next_latents, 0.5),
        ),
    ]
}
