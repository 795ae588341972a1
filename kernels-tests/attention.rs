//! Attention: what a query may see, and how well landmarks approximate.

use flowgrad::device::DeviceClass;
use flowgrad::graph::{Feed, evaluate};
use flowgrad::nn::Nystrom;
use flowgrad::{Graph, Tensor, tape};

use crate::support::{
    Data, Tol, assert_close, build_case, check_gpu, check_op, gpu, run_as, run_gpu,
};

fn inputs(t: usize, s: usize) -> [Data; 3] {
    [
        Data::f32([2, t, 5], 1),
        Data::f32([2, s, 5], 2),
        Data::f32([2, s, 3], 3),
    ]
}

#[test]
fn attention_and_its_gradients() {
    // Queries, keys, width of these and of values: one, whole tiles and one more, more
    // columns than a workgroup has.
    for (t, s, d, e) in [
        (1, 1, 1, 1),
        (65, 33, 12, 8),
        (31, 70, 3, 20),
        (17, 64, 68, 260),
    ] {
        for causal in [false, true] {
            let inputs = [
                Data::f32([2, t, d], 4),
                Data::f32([2, s, d], 5),
                Data::f32([2, s, e], 6),
            ];
            let name = format!("attention {t}x{s}x{d}x{e}, causal {causal}");
            let build = |_: &Graph, x: &[Tensor]| vec![x[0].attention(&x[1], &x[2], 0.3, causal)];
            let case = build_case(&name, &inputs, build, true);
            let expected = case.reference();
            check_gpu(&case, &expected, &Tol::rel(1e-5));
            // What GPUs run, through workgroup memory.
            let got = run_as(DeviceClass::Discrete, &case.inputs, &case.wanted()).expect("a run");
            for (i, (data, expected)) in got.iter().zip(&expected).enumerate() {
                let Data::F32 { values, .. } = data else {
                    panic!("integers")
                };
                assert_close(
                    &format!("{} by tiles", case.describe(i)),
                    values,
                    expected,
                    1e-5,
                );
            }
        }
    }
    for causal in [false, true] {
        check_op(
            &format!("attention, causal {causal}"),
            &inputs(6, 9),
            |_, x| vec![x[0].attention(&x[1], &x[2], 0.4, causal)],
            Tol::rel(8e-6),
        );
    }
    check_op(
        "nystrom",
        &inputs(8, 12),
        |_, x| {
            let y = x[0].nystrom_attention(&x[1], &x[2], 0.4, Nystrom::new(4));
            vec![y.out]
        },
        Tol::rel(2e-5),
    );
}

#[test]
fn a_causal_query_sees_no_later_key() {
    let graph = Graph::new();
    let data = inputs(7, 7);
    let names = ["q", "k", "v"];
    let t: Vec<Tensor> = data
        .iter()
        .zip(names)
        .map(|(d, n)| d.input(&graph, n))
        .collect();
    let y = t[0].attention(&t[1], &t[2], 1.0, true);
    let run = |k: &Data, v: &Data| {
        let values = [&data[0], k, v].map(Data::clone);
        let named: Vec<_> = names.iter().map(|n| n.to_string()).zip(values).collect();
        run_gpu(&named, &[&y])
            .expect("a run")
            .swap_remove(0)
            .array()
    };
    let base = run(&data[1], &data[2]);
    // Rows from 4 on of keys and values are other ones, and huge.
    let change = |d: &Data| {
        let Data::F32 { shape, values } = d else {
            unreachable!()
        };
        let width = shape[2];
        let later = |i: usize| (i / width) % 7 >= 4;
        let values: Vec<f32> = values
            .iter()
            .enumerate()
            .map(|(i, v)| if later(i) { 1e6 * v } else { *v })
            .collect();
        Data::values(shape.clone(), &values)
    };
    let changed = run(&change(&data[1]), &change(&data[2]));
    for i in 0..base.numel() {
        let row = (i / 3) % 7;
        let same = base.data[i] == changed.data[i];
        assert_eq!(
            same,
            row < 4,
            "row {row}: {} {}",
            base.data[i],
            changed.data[i]
        );
    }
}

#[test]
fn as_many_landmarks_as_rows_are_exact() {
    // Peaked scores: the landmarks' attention to each other is then well conditioned.
    let (graph, n) = (Graph::new(), 6);
    let unit: Vec<f32> = (0..n * n)
        .map(|i| if i / n == i % n { 4.0 } else { 0.0 })
        .collect();
    let (x, v) = (graph.constant([n, n], &unit), graph.input("v", [n, 2]));
    let near = x.nystrom_attention(&x, &v, 0.25, Nystrom::new(n)).out;
    let exact = x.attention(&x, &v, 0.25, false);
    let values = Data::f32([n, 2], 4);
    let feed = Feed {
        inputs: [("v".to_string(), values.array())].into(),
        ..Feed::default()
    };
    let expected = evaluate(&[&exact], &feed).expect("values").swap_remove(0);
    let got = run_gpu(&[("v".into(), values)], &[&near]).expect("a run");
    let Data::F32 { values, .. } = &got[0] else {
        panic!("integers")
    };
    assert_close("as many landmarks as rows", values, &expected, 1e-5);
}

#[test]
fn memory_is_linear_in_the_rows() {
    let temporaries = |n: usize, landmarks: Option<usize>| {
        let graph = Graph::new();
        let [q, k, v] = ["q", "k", "v"].map(|name| graph.input(name, [n, 8]));
        let y = match landmarks {
            Some(m) => q.nystrom_attention(&k, &v, 0.3, Nystrom::new(m)).out,
            None => q.attention(&k, &v, 0.3, false),
        };
        let loss = y.square().sum(&[], false);
        let grads = tape::backward(&loss, &[&q, &k, &v]).expect("gradients");
        let plan = graph
            .plan(
                gpu().profile(),
                &[],
                &grads.iter().collect::<Vec<_>>(),
                &Default::default(),
            )
            .expect("a plan");
        plan.memory().temporary
    };
    assert!(temporaries(1024, None) < 5 * temporaries(256, None));
    assert!(temporaries(1024, Some(4)) < 5 * temporaries(256, Some(4)));
}

#[test]
fn wrong_shapes_are_errors() {
    let graph = Graph::new();
    let [q, k, v] = [[6, 4], [9, 4], [9, 2]].map(|s| graph.input(&format!("{s:?}"), s));
    let refused = |y: &Tensor, part: &str| {
        let error = y.check().expect_err("an error").to_string();
        assert!(error.contains(part), "{error}");
    };
    refused(&q.attention(&v, &k, 1.0, false), "keys [.., S, d]");
    refused(&q.attention(&k, &q, 1.0, false), "[9, 4]");
    let flat = graph.input("flat", [4]);
    refused(&flat.attention(&k, &v, 1.0, false), "queries");
    for m in [0, 2, 4] {
        let y = q.nystrom_attention(&k, &v, 1.0, Nystrom::new(m));
        refused(&y.pinv, "do not divide 6 queries and 9 keys");
    }
    refused(&k.pinv_iterate(6), "square");
}
