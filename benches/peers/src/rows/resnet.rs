//! ResNet-18 with the CIFAR stem, inference on 32x32 images. Ours has its batch norms
//! folded into the convolutions when it is compiled, which burn does not offer; burn's are
//! evaluated as they are, from the same weights and statistics.

use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor, module, ops::ConvOptions};
use flowgrad::models::{ResNet, ResNetConfig};
use flowgrad::nn::{Layer, Mode};
use flowgrad::ops::fold_batch_norms;
use flowgrad::{Graph, Params, Value};

use crate::row::{Data, Row};
use crate::{ours::Ours, peer, peer::Peer};

pub fn rows() -> Vec<Row> {
    [1, 16].map(row).into()
}

fn row(batch: usize) -> Row {
    let mut row = Row::new(format!("resnet-18 b{batch}"), move |gpu, device| {
        let params = Params::new(3);
        let net = ResNet::new(&params, ResNetConfig::resnet18_cifar())?;
        let images = Data::random(1, &[batch, 3, 32, 32]);
        // What training leaves behind is not what a fresh network has.
        for (i, param) in params.all().into_iter().enumerate() {
            if param.name().contains("running_") {
                let mut values = Data::random(i as u64, param.shape().dims())
                    .scaled(0.2)
                    .values;
                if param.name().ends_with("var") {
                    values.iter_mut().for_each(|v| *v += 1.0);
                }
                param.set(&values)?;
            }
        }
        let graph = Graph::new();
        let x = graph.input("images", images.shape.as_slice());
        let logits = net.forward(&x, Mode::Eval);
        let folded = fold_batch_norms(&[&logits])?;
        let mut program = graph.compile_frozen(gpu, &params, &[&folded[0]])?;
        program.set_inputs(&[("images", Value::F32(&images.values))])?;
        let ours = Ours::of(gpu, program);

        let theirs = Net::new(&params, device)?;
        let x = peer::tensor::<4>(&images, device);
        let peer = Peer::new(device, move || vec![Box::new(theirs.forward(x.clone()))]);
        Ok((ours, peer))
    });
    row.tolerance = 1e-4;
    row
}

/// A convolution and its batch norm: kernel, scale, shift, mean, variance.
struct Unit {
    weight: Tensor<4>,
    norm: [Tensor<1>; 4],
    stride: usize,
}

impl Unit {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let pad = self.weight.dims()[2] / 2;
        let options = ConvOptions::new([self.stride; 2], [pad; 2], [1, 1], 1);
        let y = module::conv2d(x, self.weight.clone(), None, options);
        let [gamma, beta, mean, var] = self.norm.clone();
        module::batch_norm(y, gamma, beta, mean, var, 1e-5)
    }
}

struct Net {
    stem: Unit,
    blocks: Vec<(Unit, Unit, Option<Unit>)>,
    head: (Tensor<2>, Tensor<1>),
}

impl Net {
    fn new(params: &Params, device: &Device) -> flowgrad::Result<Self> {
        let data = |name: &str| -> flowgrad::Result<Data> {
            let param = params.find(name)?;
            Ok(Data {
                shape: param.shape().dims().to_vec(),
                values: param.get()?,
            })
        };
        let unit = |conv: &str, norm: &str, stride: usize| -> flowgrad::Result<Unit> {
            let vector = |what: &str| -> flowgrad::Result<Tensor<1>> {
                Ok(peer::tensor(&data(&format!("{norm}.{what}"))?, device))
            };
            Ok(Unit {
                weight: peer::tensor(&data(&format!("{conv}.weight"))?, device),
                norm: [
                    vector("weight")?,
                    vector("bias")?,
                    vector("running_mean")?,
                    vector("running_var")?,
                ],
                stride,
            })
        };
        let mut blocks = Vec::new();
        for stage in 1..=4 {
            for i in 0..2 {
                let stride = if stage > 1 && i == 0 { 2 } else { 1 };
                let at = |what: &str| format!("layer{stage}.{i}.{what}");
                let down = match stride {
                    1 => None,
                    _ => Some(unit(&at("downsample.0"), &at("downsample.1"), 2)?),
                };
                blocks.push((
                    unit(&at("conv1"), &at("bn1"), stride)?,
                    unit(&at("conv2"), &at("bn2"), 1)?,
                    down,
                ));
            }
        }
        Ok(Net {
            stem: unit("conv1", "bn1", 1)?,
            blocks,
            head: (
                peer::tensor::<2>(&data("fc.weight")?, device).transpose(),
                peer::tensor(&data("fc.bias")?, device),
            ),
        })
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let mut y = relu(self.stem.forward(x));
        for (first, second, down) in &self.blocks {
            let h = second.forward(relu(first.forward(y.clone())));
            let past = match down {
                Some(unit) => unit.forward(y),
                None => y,
            };
            y = relu(h + past);
        }
        let [n, c, h, w] = y.dims();
        let features = y.reshape([n, c, h * w]).mean_dim(2).reshape([n, c]);
        let (weight, bias) = &self.head;
        features.matmul(weight.clone()) + bias.clone().unsqueeze()
    }
}
