//! Plots with axes and labels, and words on pictures.

use std::path::Path;
use std::sync::Once;

use image::RgbImage;
use plotters::prelude::*;
use plotters::style::register_font;

use super::Outcome;

/// Shipped, so that plots look the same everywhere and need no font of the
/// system. Its licence lies beside it.
static FONT: &[u8] = include_bytes!("../assets/DejaVuSans-ascii.ttf");

const SIZE: (u32, u32) = (960, 560);
const COLOURS: [RGBColor; 10] = [
    RGBColor(31, 90, 180),
    RGBColor(214, 96, 30),
    RGBColor(40, 140, 70),
    RGBColor(150, 60, 150),
    RGBColor(110, 110, 110),
    RGBColor(190, 30, 60),
    RGBColor(60, 180, 200),
    RGBColor(230, 170, 20),
    RGBColor(120, 80, 40),
    RGBColor(230, 130, 190),
];

/// Makes the font known to the plotting library, once in a program.
fn ready_font() {
    static READY: Once = Once::new();
    READY.call_once(|| {
        for style in [FontStyle::Normal, FontStyle::Bold] {
            // The font is part of the program: that it parses is a fact of the
            // build, and without it only words would be missing.
            let _ = register_font("sans-serif", style, FONT);
        }
    });
}

/// A named line of a plot: x and y.
pub type Series<'a> = (&'a str, Vec<(f64, f64)>);

/// Draws losses over steps into `file`: every value pale, a running mean over
/// it. The loss axis is logarithmic where the values span more than a decade.
pub fn losses(file: &Path, title: &str, series: &[Series<'_>]) -> Outcome {
    lines(file, title, "step", "loss", series)
}

/// Draws lines into `file`, with labels on both axes.
pub fn lines(file: &Path, title: &str, x: &str, y: &str, series: &[Series<'_>]) -> Outcome {
    let points: Vec<(f64, f64)> = series
        .iter()
        .flat_map(|(_, points)| points.iter().copied())
        .filter(|(x, y)| x.is_finite() && y.is_finite())
        .collect();
    let low_high = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| {
            (low.min(v), high.max(v))
        })
    };
    let (y_low, y_high) = low_high(&mut points.iter().map(|p| p.1));
    let log = y_low > 0.0 && y_high / y_low > 10.0;
    let scaled = |v: f64| if log { v.log10() } else { v };
    let (x_low, x_high) = padded(low_high(&mut points.iter().map(|p| p.0)), 0.0);
    let (y_low, y_high) = padded((scaled(y_low), scaled(y_high)), 0.05);

    ready_font();
    let mut buffer = vec![255; (SIZE.0 * SIZE.1 * 3) as usize];
    let told = |e: &dyn std::fmt::Display| format!("{}: cannot be drawn: {e}", file.display());
    {
        let root = BitMapBackend::with_buffer(&mut buffer, SIZE).into_drawing_area();
        root.fill(&WHITE).map_err(|e| told(&e))?;
        let mut chart = ChartBuilder::on(&root)
            .caption(title, ("sans-serif", 22))
            .margin(14)
            .x_label_area_size(46)
            .y_label_area_size(78)
            .build_cartesian_2d(x_low..x_high, y_low..y_high)
            .map_err(|e| told(&e))?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .bold_line_style(BLACK.mix(0.12))
            .x_desc(x)
            .y_desc(y)
            .x_label_formatter(&|v| number(*v))
            .y_label_formatter(&|v| number(if log { 10f64.powf(*v) } else { *v }))
            .axis_desc_style(("sans-serif", 17))
            .label_style(("sans-serif", 14))
            .draw()
            .map_err(|e| told(&e))?;
        for (i, (name, points)) in series.iter().enumerate() {
            let colour = COLOURS[i % COLOURS.len()];
            let pale = if points.len() > 50 { 0.25 } else { 1.0 };
            // A line ends where a value is not finite, and begins anew after it.
            for piece in points.split(|p| !scaled(p.1).is_finite()) {
                let piece = piece.iter().map(|p| (p.0, scaled(p.1)));
                chart
                    .draw_series(LineSeries::new(piece, colour.mix(pale)))
                    .map_err(|e| told(&e))?;
            }
            let mean = running_mean(points, (points.len() / 40).max(1));
            chart
                .draw_series(LineSeries::new(
                    mean.into_iter().map(|p| (p.0, scaled(p.1))),
                    colour.stroke_width(2),
                ))
                .map_err(|e| told(&e))?
                .label(*name)
                .legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 22, y)], colour.stroke_width(2))
                });
        }
        if series.len() > 1 {
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::UpperRight)
                .background_style(WHITE.mix(0.85))
                .border_style(BLACK.mix(0.3))
                .label_font(("sans-serif", 15))
                .draw()
                .map_err(|e| told(&e))?;
        }
        root.present().map_err(|e| told(&e))?;
    }
    let picture = RgbImage::from_raw(SIZE.0, SIZE.1, buffer)
        .ok_or_else(|| format!("{}: a buffer of the wrong size", file.display()))?;
    super::picture::save(&picture, file)
}

/// Draws points of the plane into `file`, one colour for each series.
pub fn scatter(file: &Path, title: &str, series: &[Series<'_>]) -> Outcome {
    let finite = |p: &&(f64, f64)| p.0.is_finite() && p.1.is_finite();
    let reach = series
        .iter()
        .flat_map(|(_, points)| points.iter().filter(finite))
        .fold(1e-9f64, |m, p| m.max(p.0.abs()).max(p.1.abs()))
        * 1.1;
    ready_font();
    let size = (SIZE.1, SIZE.1);
    let mut buffer = vec![255; (size.0 * size.1 * 3) as usize];
    let told = |e: &dyn std::fmt::Display| format!("{}: cannot be drawn: {e}", file.display());
    {
        let root = BitMapBackend::with_buffer(&mut buffer, size).into_drawing_area();
        root.fill(&WHITE).map_err(|e| told(&e))?;
        let mut chart = ChartBuilder::on(&root)
            .caption(title, ("sans-serif", 22))
            .margin(14)
            .x_label_area_size(40)
            .y_label_area_size(52)
            .build_cartesian_2d(-reach..reach, -reach..reach)
            .map_err(|e| told(&e))?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .bold_line_style(BLACK.mix(0.12))
            .label_style(("sans-serif", 14))
            .draw()
            .map_err(|e| told(&e))?;
        for (i, (name, points)) in series.iter().enumerate() {
            let colour = COLOURS[i % COLOURS.len()];
            let dots = points
                .iter()
                .filter(finite)
                .map(|p| Circle::new(*p, 3, colour.filled()));
            chart
                .draw_series(dots)
                .map_err(|e| told(&e))?
                .label(*name)
                .legend(move |(x, y)| Circle::new((x + 10, y), 4, colour.filled()));
        }
        chart
            .configure_series_labels()
            .background_style(WHITE.mix(0.85))
            .border_style(BLACK.mix(0.3))
            .label_font(("sans-serif", 15))
            .draw()
            .map_err(|e| told(&e))?;
        root.present().map_err(|e| told(&e))?;
    }
    let picture = RgbImage::from_raw(size.0, size.1, buffer)
        .ok_or_else(|| format!("{}: a buffer of the wrong size", file.display()))?;
    super::picture::save(&picture, file)
}

/// A picture with a line of words above it.
pub fn captioned(picture: &RgbImage, words: &str) -> Outcome<RgbImage> {
    const BAND: u32 = 34;
    ready_font();
    let (width, height) = (picture.width().max(240), picture.height() + BAND);
    let mut buffer = vec![255; (width * height * 3) as usize];
    {
        let root = BitMapBackend::with_buffer(&mut buffer, (width, height)).into_drawing_area();
        let style = ("sans-serif", 17).into_font().color(&BLACK);
        root.draw(&Text::new(words.to_string(), (8, 8), style))
            .and_then(|()| root.present())
            .map_err(|e| format!("a caption cannot be drawn: {e}"))?;
    }
    let mut whole =
        RgbImage::from_raw(width, height, buffer).ok_or("a caption of the wrong size")?;
    image::imageops::replace(&mut whole, picture, 0, BAND as i64);
    Ok(whole)
}

/// A range that is neither empty nor infinite, wider by `part` on both sides.
fn padded((low, high): (f64, f64), part: f64) -> (f64, f64) {
    if !low.is_finite() || !high.is_finite() {
        return (0.0, 1.0);
    }
    if high - low < 1e-12 * low.abs().max(1e-6) {
        return (low - 0.5, high + 0.5);
    }
    let more = (high - low) * part;
    (low - more, high + more)
}

/// The mean over the finite values in windows that end at each point.
fn running_mean(points: &[(f64, f64)], window: usize) -> Vec<(f64, f64)> {
    (0..points.len())
        .filter_map(|end| {
            let part = &points[(end + 1).saturating_sub(window)..=end];
            let finite: Vec<f64> = part.iter().map(|p| p.1).filter(|y| y.is_finite()).collect();
            let mean = finite.iter().sum::<f64>() / finite.len() as f64;
            (!finite.is_empty()).then_some((points[end].0, mean))
        })
        .collect()
}

/// A number in three digits, without zeros behind the point.
fn number(v: f64) -> String {
    if v != 0.0 && (v.abs() < 1e-3 || v.abs() >= 1e6) {
        return format!("{v:.1e}");
    }
    let places = (2 - v.abs().max(1e-9).log10().floor() as i32).clamp(0, 4) as usize;
    let text = format!("{v:.places$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').into(),
        false => text,
    }
}
