//! The reference vectors in `kernels-tests/vectors/`: inputs and exact answers
//! that were computed by other people's libraries in float64. Every case runs on
//! the GPU and through the float64 interpreter; an unknown op fails.

mod codes;
mod families;
mod flows;
pub mod ledger;
mod losses;
mod matrices;
mod measures;
mod tolerance;

use std::collections::HashMap;

use flowgrad::graph::{Array, Feed, evaluate};
use flowgrad::{Graph, Shape, Tensor, tape};
use ledger::Ledger;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::Value;

use crate::support::{Data, run_gpu};

/// One case of a vector file.
pub struct VectorCase<'a> {
    pub family: &'a str,
    pub name: String,
    pub op: String,
    pub params: Value,
    info: Value,
    file: &'a SafeTensors<'a>,
    ledger: &'a Ledger,
}

/// The inputs of a case as tensors of its graph.
pub struct Inputs {
    pub graph: Graph,
    tensors: HashMap<String, Tensor>,
}

impl Inputs {
    /// The input `name`.
    pub fn get(&self, name: &str) -> &Tensor {
        self.find(name).unwrap_or_else(|| panic!("no input {name}"))
    }

    /// The input `name`, if the case has one.
    pub fn find(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }
}

/// Named outputs of a case.
pub type Outputs = Vec<(&'static str, Tensor)>;

fn words<const N: usize>(view: &TensorView<'_>) -> Vec<[u8; N]> {
    let chunks = view.data().chunks_exact(N);
    chunks.filter_map(|c| c.try_into().ok()).collect()
}

impl VectorCase<'_> {
    fn names(&self, key: &str) -> Vec<String> {
        let list = self.info[key].as_array().into_iter().flatten();
        list.filter_map(|v| v.as_str().map(String::from)).collect()
    }

    fn pairs(&self, key: &str) -> Vec<(String, String)> {
        let map = self.info[key].as_object().into_iter().flatten();
        map.map(|(k, v)| (k.clone(), v.as_str().expect("a name").into()))
            .collect()
    }

    fn view(&self, tensor: &str) -> TensorView<'_> {
        let key = format!("case/{}/{tensor}", self.name);
        self.ledger.read(&key);
        self.file
            .tensor(&key)
            .unwrap_or_else(|e| panic!("{key}: {e}"))
    }

    /// An input or an upstream gradient. Integers become u32; negative ones
    /// (`ignore_index` -100) wrap around, here and in the parameters.
    pub fn data(&self, tensor: &str) -> Data {
        let view = self.view(tensor);
        let shape = view.shape().to_vec();
        match view.dtype() {
            Dtype::F32 => {
                let values: Vec<f32> = words(&view).into_iter().map(f32::from_le_bytes).collect();
                Data::values(shape, &values)
            }
            Dtype::I64 => {
                let values = words(&view).into_iter().map(i64::from_le_bytes);
                Data::u32(shape, &values.map(|v| v as i32 as u32).collect::<Vec<_>>())
            }
            other => panic!("{}: {tensor} is {other:?}", self.name),
        }
    }

    /// An expected output or gradient, and whether it is an integer.
    pub fn expected(&self, tensor: &str) -> (Array, bool) {
        let view = self.view(tensor);
        let shape = Shape::from(view.shape());
        let data: Vec<f64> = match view.dtype() {
            Dtype::F64 => words(&view).into_iter().map(f64::from_le_bytes).collect(),
            Dtype::I64 => words(&view)
                .into_iter()
                .map(|w| i64::from_le_bytes(w) as f64)
                .collect(),
            other => panic!("{}: {tensor} is {other:?}", self.name),
        };
        let integer = view.dtype() == Dtype::I64;
        (Array::new(shape, data).expect("a whole tensor"), integer)
    }

    /// The recorded largest error of a plain float32 evaluation.
    pub fn f32_err(&self, tensor: &str) -> f64 {
        self.info["f32_err"][tensor].as_f64().unwrap_or(0.0)
    }

    pub fn double(&self, key: &str) -> f64 {
        let v = self.params[key].as_f64();
        v.unwrap_or_else(|| panic!("{}: no parameter {key}", self.name))
    }

    pub fn float(&self, key: &str) -> f32 {
        self.double(key) as f32
    }

    pub fn int(&self, key: &str) -> i64 {
        let v = self.params[key].as_i64();
        v.unwrap_or_else(|| panic!("{}: no parameter {key}", self.name))
    }

    pub fn flag(&self, key: &str) -> bool {
        let v = self.params[key].as_bool();
        v.unwrap_or_else(|| panic!("{}: no parameter {key}", self.name))
    }

    pub fn text(&self, key: &str) -> &str {
        let v = self.params[key].as_str();
        v.unwrap_or_else(|| panic!("{}: no parameter {key}", self.name))
    }

    pub fn list(&self, key: &str) -> Vec<i64> {
        let list = self.params[key].as_array();
        let list = list.unwrap_or_else(|| panic!("{}: no parameter {key}", self.name));
        list.iter().filter_map(Value::as_i64).collect()
    }

    pub fn sizes<const N: usize>(&self, key: &str) -> [usize; N] {
        let list: Vec<usize> = self.list(key).iter().map(|v| *v as usize).collect();
        list.try_into()
            .unwrap_or_else(|v| panic!("{}: {key} is {v:?}", self.name))
    }
}

/// Where one wanted tensor of a case stands in the file.
struct Wanted {
    tensor: Tensor,
    name: String,
    role: tolerance::Role,
}

fn run_case(case: &VectorCase<'_>) -> Vec<String> {
    if let Some(values) = measures::on_host(case) {
        return measures::compare(case, &values);
    }
    let graph = Graph::new();
    let mut data: Vec<(String, Data)> = Vec::new();
    let mut tensors = HashMap::new();
    for name in case.names("inputs") {
        let value = case.data(&name);
        tensors.insert(name.clone(), value.input(&graph, &name));
        data.push((name, value));
    }
    let inputs = Inputs { graph, tensors };
    let outputs: HashMap<&str, Tensor> = families::build(case, &inputs).into_iter().collect();
    if let Err(e) = inputs.graph.check() {
        return vec![format!("{}: {e}", case.name)];
    }
    let mut wanted = Vec::new();
    for name in case.names("outputs") {
        let Some(tensor) = outputs.get(name.as_str()) else {
            if families::is_informative(&case.op, &name) {
                continue;
            }
            return vec![format!("{}: no output {name} was built", case.name)];
        };
        wanted.push(Wanted {
            tensor: tensor.clone(),
            name,
            role: tolerance::Role::Output,
        });
    }
    let upstream = case.pairs("upstream");
    if !upstream.is_empty() {
        let mut seeds = Vec::new();
        for (output, name) in &upstream {
            let value = case.data(name);
            let key = format!("upstream {name}");
            seeds.push((
                outputs[output.as_str()].clone(),
                value.input(&inputs.graph, &key),
            ));
            data.push((key, value));
        }
        let grads = case.pairs("grads");
        let wrt: Vec<&Tensor> = grads.iter().map(|(input, _)| inputs.get(input)).collect();
        let tensors = match tape::backward_from(&seeds, &wrt) {
            Ok(tensors) => tensors,
            Err(e) => return vec![format!("{}: backward: {e}", case.name)],
        };
        for ((input, name), tensor) in grads.into_iter().zip(tensors) {
            wanted.push(Wanted {
                tensor,
                name,
                role: tolerance::Role::Gradient { of: input },
            });
        }
    }
    let tensors: Vec<&Tensor> = wanted.iter().map(|w| &w.tensor).collect();
    let feed = Feed {
        inputs: data.iter().map(|(n, d)| (n.clone(), d.array())).collect(),
        ..Feed::default()
    };
    let exact = match evaluate(&tensors, &feed) {
        Ok(values) => values,
        Err(e) => return vec![format!("{}: interpreter: {e}", case.name)],
    };
    let mut failures = Vec::new();
    for (w, got) in wanted.iter().zip(&exact) {
        let (expected, integer) = case.expected(&w.name);
        let scale = expected.data.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        let allowed = if integer {
            0.0
        } else {
            tolerance::float64(case) * scale + 1e-9 * tolerance::floor(case, &w.name)
        };
        compare(
            case,
            w,
            "interpreter",
            &got.data,
            &expected,
            &mut failures,
            |_| allowed,
        );
    }
    let values = match run_gpu(&data, &tensors) {
        Ok(values) => values,
        Err(e) => return vec![format!("{}: GPU: {e}", case.name)],
    };
    for (w, got) in wanted.iter().zip(values) {
        let (expected, integer) = case.expected(&w.name);
        let got = got.array();
        let limit = tolerance::Limit::new(case, &w.name, &w.role, &expected);
        let allowed = |i| if integer { 0.0 } else { limit.allowed(i) };
        compare(case, w, "GPU", &got.data, &expected, &mut failures, allowed);
    }
    failures
}

/// Notes the element that misses its allowance by the largest factor.
fn compare(
    case: &VectorCase<'_>,
    wanted: &Wanted,
    who: &str,
    got: &[f64],
    expected: &Array,
    failures: &mut Vec<String>,
    allowed: impl Fn(usize) -> f64,
) {
    let what = format!("{} ({}), {who}", case.name, wanted.name);
    if wanted.tensor.shape() != &expected.shape {
        let (a, b) = (wanted.tensor.shape(), &expected.shape);
        failures.push(format!("{what}: shape {a:?}, expected {b:?}"));
        return;
    }
    let mut worst: Option<(f64, usize)> = None;
    for (i, (g, e)) in got.iter().zip(&expected.data).enumerate() {
        let error = (g - e).abs();
        if error.is_nan() || error > allowed(i) {
            let factor = if error.is_nan() {
                f64::INFINITY
            } else {
                error / allowed(i)
            };
            if worst.is_none_or(|(f, _)| factor > f) {
                worst = Some((factor, i));
            }
        }
    }
    if let Some((factor, i)) = worst {
        failures.push(format!(
            "{what}: element {i} is {:e}, expected {:e}, allowed error {:e}, missed by a factor {factor:.1}",
            got[i],
            expected.data[i],
            allowed(i)
        ));
    }
}

fn run_family(family: &str) {
    let bytes = ledger::open(family);
    let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let ledger = Ledger::new(family, &bytes);
    let mut failures = Vec::new();
    for (name, info) in &ledger.cases {
        let case = VectorCase {
            family,
            op: info["op"].as_str().expect("an op").into(),
            params: info["params"].clone(),
            name: name.clone(),
            info: info.clone(),
            file: &file,
            ledger: &ledger,
        };
        failures.extend(run_case(&case));
    }
    assert!(
        failures.is_empty(),
        "{family}: {} failures in {} cases\n{}",
        failures.len(),
        ledger.cases.len(),
        failures.join("\n")
    );
    ledger.close(|key| {
        let (case, tensor) = key.rsplit_once('/').expect("a name in a case");
        let case = case.strip_prefix("case/");
        let of = ledger.cases.iter().find(|(name, _)| case == Some(name));
        of.is_some_and(|(_, info)| {
            families::is_informative(info["op"].as_str().expect("an op"), tensor)
        })
    });
}

macro_rules! families {
    ($($name:ident),*) => {
        const FAMILIES: &[&str] = &[$(stringify!($name)),*];
        $(
        #[test]
        fn $name() {
            run_family(stringify!($name));
        }
        )*
    };
}

families!(
    matmul,
    conv,
    masked_conv,
    pool,
    pointwise,
    reduce,
    norm,
    loss,
    vq,
    flow,
    linalg,
    attention,
    spectral,
    metrics
);

/// Every file of the table is in the folder and has its test, those above or `optim.rs`;
/// each asserts the number of its cases, and that it read them all.
#[test]
fn every_file_is_read() {
    let folder = format!("{}/kernels-tests/vectors", env!("CARGO_MANIFEST_DIR"));
    let names = std::fs::read_dir(folder).expect("the folder").map(|entry| {
        let name = entry.expect("an entry").file_name();
        name.into_string().expect("a name in UTF-8")
    });
    let mut found: Vec<String> = names
        .filter_map(|n| n.strip_suffix(".safetensors").map(String::from))
        .collect();
    let mut read: Vec<&str> = FAMILIES.iter().copied().chain(["optim"]).collect();
    found.sort();
    read.sort();
    let table: Vec<&str> = ledger::CASES.iter().map(|(name, _)| *name).collect();
    assert_eq!(found, table);
    assert_eq!(read, table);
    assert_eq!(ledger::CASES.iter().map(|(_, n)| n).sum::<usize>(), 683);
}
