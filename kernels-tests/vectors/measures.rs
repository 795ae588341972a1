//! Metrics: of scores and of features on the host, of images by tensors.

use flowgrad::metrics::{Detection, Gaussian, mean_squared_error, psnr, ssim};

use super::{Inputs, Outputs, VectorCase, families};

/// The outputs of a case that no graph computes.
pub fn on_host(case: &VectorCase<'_>) -> Option<Vec<(&'static str, Vec<f64>)>> {
    if case.family != "metrics" {
        return None;
    }
    let numbers = |name: &str| case.data(name).array().data;
    let floats = |name: &str| -> Vec<f32> { numbers(name).iter().map(|v| *v as f32).collect() };
    match case.op.as_str() {
        "detection_metrics" => {
            let positive: Vec<bool> = numbers("labels").iter().map(|l| *l == 1.0).collect();
            let d = Detection::new(&floats("scores"), &positive).expect("metrics");
            Some(vec![
                ("auroc", vec![d.auroc]),
                ("fpr95", vec![d.fpr95]),
                ("ap", vec![d.ap]),
                ("ap_out", vec![d.ap_out]),
                ("aupr_in", vec![d.aupr_in]),
                ("aupr_out", vec![d.aupr_out]),
            ])
        }
        "frechet_gaussian" => {
            let gaussian = |i: u32| {
                let [mean, covariance] = ["mu", "cov"].map(|n| numbers(&format!("{n}{i}")));
                Gaussian::new(mean, covariance).expect("a Gaussian")
            };
            let y = gaussian(1).frechet(&gaussian(2)).expect("a distance");
            Some(vec![("y", vec![y])])
        }
        "frechet_features" => {
            assert_eq!(case.int("ddof"), 1);
            let gaussian = |name: &str| {
                let width = case.data(name).shape()[1];
                Gaussian::of(&floats(name), width).expect("a Gaussian")
            };
            let (a, b) = (gaussian("x1"), gaussian("x2"));
            Some(vec![
                ("mu1", a.mean().to_vec()),
                ("cov1", a.covariance().to_vec()),
                ("mu2", b.mean().to_vec()),
                ("cov2", b.covariance().to_vec()),
                ("y", vec![a.frechet(&b).expect("a distance")]),
            ])
        }
        _ => None,
    }
}

/// Both are float64: counts and moments to a few roundings. Roots of eigenvalues that are
/// zero turn `1e-16` of the largest one into `1e-8`, here and in what is expected.
pub fn compare(case: &VectorCase<'_>, values: &[(&'static str, Vec<f64>)]) -> Vec<String> {
    let mut failures = Vec::new();
    for name in case.names("outputs") {
        let Some((_, got)) = values.iter().find(|(n, _)| *n == name) else {
            failures.push(format!("{}: no output {name}", case.name));
            continue;
        };
        let (expected, _) = case.expected(&name);
        let scale = expected.data.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        let allowed = match case.op.as_str() {
            "detection_metrics" => 1e-12,
            _ if name == "y" => 1e-7 * scale.max(1.0),
            _ => 1e-12 * scale,
        };
        assert_eq!(got.len(), expected.data.len(), "{} {name}", case.name);
        for (i, (g, e)) in got.iter().zip(&expected.data).enumerate() {
            let error = (g - e).abs();
            if error.is_nan() || error > allowed {
                failures.push(format!(
                    "{} ({name}): element {i} is {g:e}, expected {e:e}",
                    case.name
                ));
            }
        }
    }
    failures
}

/// Images.
pub fn build(case: &VectorCase<'_>, x: &Inputs) -> Outputs {
    let (a, b) = (x.get("a"), x.get("b"));
    let range = case.float("data_range");
    match case.op.as_str() {
        "psnr" => vec![("mse", mean_squared_error(a, b)), ("y", psnr(a, b, range))],
        "ssim" => vec![("y", ssim(a, b, range))],
        _ => families::unknown(case),
    }
}
