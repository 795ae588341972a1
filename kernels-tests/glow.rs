//! Glow: sizes, conventions, round trips, weights by name, classes, deep stacks.

use flowgrad::flow::{Batch, Context, Memory};
use flowgrad::models::{
    Glow, GlowConfig, GlowConvention, Mixing, Nice, NiceConfig, RealNvp, RealNvpConfig,
};
use flowgrad::optim::{Adam, Optimizer};
use flowgrad::params::Precision;
use flowgrad::{Error, Graph, Params, Value, tape};

use crate::flow::{check_bijector, floats, scatter};
use crate::params::Folder;
use crate::support::{Data, gpu};

/// A Glow so small that a test takes no time.
fn tiny(convention: GlowConvention) -> GlowConfig {
    GlowConfig {
        image: [1, 4, 8],
        depth: 2,
        hidden: 5,
        convention,
        ..GlowConfig::digits()
    }
}

#[test]
fn all_conventions_invert_and_sample_consistently() {
    let conventions = [
        GlowConvention::House,
        GlowConvention::Rosinality,
        GlowConvention::OpenAi,
    ];
    for (i, convention) in conventions.into_iter().enumerate() {
        let params = Params::new(1);
        let config = GlowConfig {
            affine: i != 1,
            ..tiny(convention)
        };
        let glow = Glow::new(&params, config).expect("a model");
        let data = Data::f32([3, 1, 4, 8], 5);
        let batch = Batch::new(floats(&data), [3, 1, 4, 8]);
        scatter(&params, 9, -0.15, 0.15);
        glow.flow
            .initialize(gpu(), &params, &batch)
            .expect("first values");
        glow.flow
            .check_finite(gpu(), &params, &batch)
            .expect("finite values");
        let error = glow.flow.reconstruction_error(gpu(), &params, &batch);
        assert!(error.expect("a run") < 1e-5, "{convention:?}");
        // What a sample is worth while it is drawn, and afterwards.
        let graph = Graph::new();
        let cx = Context::eval();
        let (x, drawn) = glow.flow.sample_with_log_prob(&graph, 4, 0.8, &cx);
        let again = glow.flow.log_prob(&x, &cx);
        let mut program = graph
            .compile(gpu(), &params, &[&drawn, &again])
            .expect("a program");
        let got = program.run(&[]).expect("a run");
        let [drawn, again] = [0, 1].map(|i| got.f32(i).expect("floats"));
        for (a, b) in drawn.iter().zip(&again) {
            assert!((a - b).abs() < 1e-3, "{convention:?}: {a} {b}");
        }
    }
}

/// Losses of a few training steps with the given memory.
fn losses(memory: Memory) -> (Vec<f32>, u64) {
    let params = Params::new(4);
    let config = GlowConfig {
        memory,
        ..tiny(GlowConvention::House)
    };
    let glow = Glow::new(&params, config).expect("a model");
    let pixels = Data::below([8, 1, 4, 8], 3, 17).array().to_f32();
    glow.initialize(gpu(), &params, &pixels, None, false)
        .expect("first values");
    let graph = Graph::new();
    let x = graph.input("x", [8, 1, 4, 8]);
    let loss = glow.loss(&x, false, &Context::train());
    let adam = Optimizer::new(&params, Adam::default()).expect("an optimiser");
    adam.minimize(&loss).expect("a step");
    let mut program = graph.compile(gpu(), &params, &[&loss]).expect("a program");
    let losses = (0..6).map(|step| {
        program.set_scalars(&adam.inputs(step)).expect("scalars");
        let out = program.run(&[("x", (&pixels).into())]).expect("a run");
        out.scalar(0).expect("a loss")
    });
    (losses.collect(), program.plan().memory().temporary)
}

#[test]
fn training_is_the_same_with_rebuilt_activations() {
    let (stored, most) = losses(Memory::Store);
    let (rebuilt, least) = losses(Memory::Rebuild);
    assert!(stored[5] < stored[0], "{stored:?}");
    assert!(least < most, "{least} of {most}");
    for (a, b) in stored.iter().zip(&rebuilt) {
        assert!((a - b).abs() < 1e-5 * a.abs(), "{stored:?} {rebuilt:?}");
    }
}

#[test]
fn classes_condition_and_unknown_ones_are_errors() {
    let params = Params::new(4);
    let config = GlowConfig {
        classes: Some(3),
        memory: Memory::Rebuild,
        ..tiny(GlowConvention::House)
    };
    let glow = Glow::new(&params, config).expect("a model");
    scatter(&params, 3, -0.2, 0.2);
    let noise = Data::below([3, 1, 4, 8], 3, 17).array().to_f32();
    glow.initialize(gpu(), &params, &noise, Some(&[0, 1, 2]), true)
        .expect("first values");
    let unknown = glow.initialize(gpu(), &params, &noise, Some(&[0, 1, 3]), true);
    assert!(unknown.is_err());
    let graph = Graph::new();
    let x = graph.input("x", [3, 1, 4, 8]);
    let labels = graph.input_u32("class", [3]);
    let cx = Context::eval().with_condition(&labels);
    let log_prob = glow.log_prob(&x, false, &cx);
    let embedding = params.find("blocks.1.prior.class_embedding").expect("it");
    let grads = tape::backward(&log_prob.sum(&[], false), &[&embedding.on(&graph)]);
    let grad = grads.expect("a gradient").swap_remove(0);
    let mut program = graph
        .compile_pure(gpu(), &params, &[&log_prob, &grad])
        .expect("a program");
    let pixels = [3.0; 96];
    let mut run = |labels: &[u32]| {
        let inputs = [("x", Value::F32(&pixels)), ("class", Value::U32(labels))];
        let out = program.run(&inputs).expect("a run");
        (out.f32(0).expect("floats"), out.f32(1).expect("floats"))
    };
    let (by_class, grad) = run(&[0, 2, 2]);
    assert!((by_class[0] - by_class[1]).abs() > 1e-3, "{by_class:?}");
    assert_eq!(by_class[1], by_class[2]);
    let per_class: Vec<f32> = grad
        .chunks(grad.len() / 3)
        .map(|g| g.iter().map(|v| v.abs()).sum())
        .collect();
    assert!(per_class[0] > 0.0 && per_class[1] == 0.0 && per_class[2] > 0.0);
    assert!(glow.check_classes(&[0, 2]).is_ok());
    let error = glow.check_classes(&[0, 3]).expect_err("unknown");
    assert!(error.to_string().contains("class 3 of image 1"), "{error}");
    let without = Graph::new();
    let x = without.input("x", [3, 1, 4, 8]);
    assert!(glow.log_prob(&x, false, &Context::eval()).check().is_err());
}

#[test]
fn what_does_not_fit_is_an_error() {
    let small = || tiny(GlowConvention::House);
    let fails = |config: GlowConfig| Glow::new(&Params::new(0), config).err().expect("an error");
    let error = fails(GlowConfig {
        image: [1, 28, 30],
        ..small()
    });
    assert!(error.to_string().contains("divisible by 4"), "{error}");
    fails(GlowConfig {
        levels: 0,
        ..small()
    });
    fails(GlowConfig { bins: 1, ..small() });
    fails(GlowConfig {
        classes: Some(0),
        ..small()
    });
    let params = Params::new(0);
    let glow = Glow::new(&params, small()).expect("a model");
    let graph = Graph::new();
    let colour = graph.input("x", [2, 3, 4, 8]);
    let wrong = glow.log_prob(&colour, false, &Context::eval());
    assert!(matches!(wrong.check(), Err(Error::Shape { .. })));
    for temperature in [0.0, -1.0, f32::NAN] {
        let graph = Graph::new();
        let sample = glow.sample(&graph, 2, temperature, &Context::eval());
        let error = sample.check().expect_err("no such temperature");
        assert!(error.to_string().contains("temperature"), "{error}");
    }
    let graph = Graph::new();
    let z = graph.input("z", [2, 31]);
    assert!(glow.flow.decode(&z, &Context::eval()).out.check().is_err());
}

#[test]
fn weights_load_by_name_and_those_of_another_depth_do_not() {
    let folder = Folder::new();
    let conventions = [GlowConvention::House, GlowConvention::Rosinality];
    for convention in conventions {
        let file = folder.file(&format!("{convention:?}.safetensors"));
        let params = Params::new(5);
        let glow = Glow::new(&params, tiny(convention)).expect("a model");
        scatter(&params, 11, 0.1, 0.3);
        params.save(&file, Precision::F32).expect("saved");
        let others = Params::new(6);
        let other = Glow::new(&others, tiny(convention)).expect("a model");
        other.load(&others, &file).expect("loaded");
        for param in params.all() {
            let there = others.get(param.name()).expect("the same names");
            assert_eq!(param.get().expect("values"), there, "{}", param.name());
        }
        let deeper = GlowConfig {
            depth: 3,
            ..tiny(convention)
        };
        let deep = Params::new(6);
        let error = Glow::new(&deep, deeper)
            .expect("a model")
            .load(&deep, &file);
        let error = error.expect_err("another depth").to_string();
        assert!(error.contains("2 levels of 2 steps"), "{error}");
        assert!(error.contains("2 levels of 3 steps"), "{error}");
        let wider = GlowConfig {
            hidden: 6,
            ..tiny(convention)
        };
        let wide = Params::new(6);
        let before = wide.clone();
        let error = Glow::new(&wide, wider).expect("a model").load(&wide, &file);
        assert!(matches!(error, Err(Error::Weights { .. })));
        let first = before.get("blocks.0.flows.0.actnorm.loc").expect("it");
        assert!(first.iter().all(|v| *v == 0.0), "nothing was loaded");
        drop(glow);
    }
}

#[test]
fn the_published_model_has_its_number_of_parameters() {
    let count = |config: GlowConfig| {
        let params = Params::new(0);
        Glow::new(&params, config).expect("a model");
        params.count()
    };
    assert_eq!(count(GlowConfig::cifar10()), 44_603_604);
    // 66.86 million.
    assert_eq!(count(GlowConfig::imagenet32()), 66_861_588);
    let others = [
        GlowConfig::imagenet64(),
        GlowConfig::celeba256(),
        GlowConfig::cifar10_by_class(),
    ];
    for config in others {
        Glow::new(&Params::new(0), config).expect("a model");
    }
    // The port's last level has factors whatever was asked for.
    let params = Params::new(0);
    let config = GlowConfig {
        mixing: Mixing::Full,
        ..tiny(GlowConvention::Rosinality)
    };
    Glow::new(&params, config).expect("a model");
    let has = |name: &str| params.find(name).is_ok();
    assert!(has("blocks.0.flows.1.invconv.weight") && has("blocks.1.flows.1.invconv.w_l"));
}

#[test]
fn ninety_six_steps_invert() {
    let params = Params::new(2);
    let config = GlowConfig {
        levels: 3,
        depth: 32,
        hidden: 4,
        memory: Memory::Rebuild,
        ..GlowConfig::digits()
    };
    let glow = Glow::new(&params, config).expect("a model");
    let data = Data::uniform([4, 1, 8, 8], 5, -0.5, 0.5);
    let batch = Batch::new(floats(&data), [4, 1, 8, 8]);
    glow.flow
        .initialize(gpu(), &params, &batch)
        .expect("first values");
    let error = glow.flow.reconstruction_error(gpu(), &params, &batch);
    assert!(error.expect("a run") < 1e-4);
}

#[test]
fn nice_and_realnvp_invert_sample_and_agree_with_their_jacobian() {
    let image = [1, 4, 4];
    let nice = |params: &Params| {
        let config = NiceConfig {
            image,
            hidden: 6,
            ..NiceConfig::digits()
        };
        Nice::new(params, config).expect("a model")
    };
    let realnvp = |params: &Params| {
        let config = RealNvpConfig {
            image,
            hidden: 3,
            ..RealNvpConfig::digits()
        };
        RealNvp::new(params, config).expect("a model")
    };
    // Values of pixels in 0..1, of which RealNVP takes the logit.
    let data = Data::uniform([2, 1, 4, 4], 5, -0.45, 0.45);
    for which in 0..3 {
        let params = Params::new(1);
        let chain = match which {
            0 => nice(&params).flow.chain.clone(),
            1 => realnvp(&params).flow.chain.clone(),
            _ => {
                let config = GlowConfig {
                    image,
                    ..tiny(GlowConvention::House)
                };
                let glow = Glow::new(&params, config).expect("a model");
                glow.flow.chain.clone()
            }
        };
        scatter(&params, 9, -0.3, 0.3);
        let name = ["nice", "realnvp", "glow"][which];
        check_bijector(name, &params, chain, &data, 1e-5);
    }
    let params = Params::new(1);
    let model = realnvp(&params);
    let graph = Graph::new();
    let x = model.sample(&graph, 3, 0.7, &Context::eval());
    let mut program = graph.compile(gpu(), &params, &[&x]).expect("a program");
    let x = program.run(&[]).expect("a run").f32(0).expect("floats");
    assert!(x.len() == 48 && x.iter().all(|v| (0.0..=1.0).contains(v)));
    let params = Params::new(0);
    let two = NiceConfig {
        couplings: 2,
        ..NiceConfig::digits()
    };
    assert!(Nice::new(&params, two).is_err());
    let odd = RealNvpConfig {
        image: [1, 7, 8],
        ..RealNvpConfig::digits()
    };
    let error = RealNvp::new(&params, odd).err().expect("an odd height");
    assert!(error.to_string().contains("divisible by 2"), "{error}");
}

#[test]
fn the_first_layer_with_a_bad_value_is_named() {
    let params = Params::new(4);
    let glow = Glow::new(&params, tiny(GlowConvention::House)).expect("a model");
    let data = Data::f32([2, 1, 4, 8], 5);
    let batch = Batch::new(floats(&data), [2, 1, 4, 8]);
    let check = || glow.flow.check_finite(gpu(), &params, &batch);
    check().expect("all is well");
    // e^200 is no float32; what comes behind is not finite either.
    let set = |name: &str, value: f32| {
        let param = params.find(name).expect("a parameter");
        let values = vec![value; param.shape().numel()];
        param.set(&values).expect("values");
    };
    set("blocks.1.flows.1.actnorm.log_scale", 200.0);
    let error = check().expect_err("infinite").to_string();
    assert!(
        error.contains("level 1.0 steps.2 step.0 actnorm"),
        "{error}"
    );
    set("blocks.0.prior.conv.bias", -300.0);
    let error = check().expect_err("infinite").to_string();
    assert!(error.contains("level 0 split"), "{error}");
}

#[test]
fn vanishing_scales_and_nearly_singular_weights_stay_finite() {
    for (minimum_scale, worst) in [(0.0, f32::INFINITY), (1e-2, 1e-3)] {
        let params = Params::new(4);
        let config = GlowConfig {
            minimum_scale,
            memory: Memory::Rebuild,
            ..tiny(GlowConvention::House)
        };
        let glow = Glow::new(&params, config).expect("a model");
        let set = |name: &str, change: &dyn Fn(usize, f32) -> f32| {
            let param = params.find(name).expect("a parameter");
            let values = param.get().expect("values").into_iter().enumerate();
            param
                .set(&values.map(|(i, v)| change(i, v)).collect::<Vec<_>>())
                .expect("values");
        };
        // sigmoid(-22 + 2) for all raw scales of one coupling.
        set("blocks.0.flows.0.coupling.net.4.conv.bias", &|i, _| {
            if i < 2 { -22.0 } else { 0.0 }
        });
        if minimum_scale == 0.0 {
            set("blocks.0.flows.1.invconv.w_s", &|i, v| {
                if i == 0 { -20.0 } else { v }
            });
        }
        let data = Data::f32([2, 1, 4, 8], 5);
        let batch = Batch::new(floats(&data), [2, 1, 4, 8]);
        glow.flow
            .check_finite(gpu(), &params, &batch)
            .expect("finite values");
        let error = glow.flow.reconstruction_error(gpu(), &params, &batch);
        let error = error.expect("finite, if not exact");
        assert!(error <= worst, "{error}");
        let graph = Graph::new();
        let x = graph.input("x", [2, 1, 4, 8]);
        let loss = glow.flow.log_prob(&x, &Context::train()).sum(&[], false);
        let weights: Vec<_> = params.trainable().iter().map(|p| p.on(&graph)).collect();
        let grads = tape::backward(&loss, &weights.iter().collect::<Vec<_>>());
        let grads = grads.expect("gradients");
        let mut program = graph
            .compile(gpu(), &params, &grads.iter().collect::<Vec<_>>())
            .expect("a program");
        let out = program.run(&[("x", Value::F32(floats(&data)))]);
        let names: Vec<String> = params.trainable().iter().map(|p| p.name().into()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        out.expect("a run").check_finite(&names).expect("gradients");
    }
}

/// What a plan of a training step of the whole model keeps, without running it.
#[test]
fn memory_of_a_glow_does_not_grow_with_depth() {
    let peak = |depth: usize| {
        let params = Params::new(4);
        let config = GlowConfig {
            image: [1, 16, 16],
            depth,
            hidden: 8,
            memory: Memory::Rebuild,
            ..GlowConfig::digits()
        };
        let glow = Glow::new(&params, config).expect("a model");
        let graph = Graph::new();
        let x = graph.input("x", [8, 1, 16, 16]);
        let loss = glow.loss(&x, false, &Context::train());
        let adam = Optimizer::new(&params, Adam::default()).expect("an optimiser");
        adam.minimize(&loss).expect("a step");
        let arenas = [flowgrad::exec::arena_map(&params)];
        let options = flowgrad::plan::PlanOptions::default();
        let plan = graph.plan(gpu().profile(), &arenas, &[&loss], &options);
        plan.expect("a plan").memory().temporary
    };
    let (shallow, deep) = (peak(4), peak(32));
    assert!(deep as f64 <= 1.15 * shallow as f64, "{deep} of {shallow}");
}
