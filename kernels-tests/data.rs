//! Data files that are good, damaged and hostile; batches.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use flowgrad::Error;
use flowgrad::data::{
    Batches, ImageSet, MAX_IDX_BYTES, Order, Split, parse_cifar10, parse_idx, read_idx,
};
use proptest::prelude::*;

use crate::params::Folder;

fn idx(dims: &[u32], data: &[u8]) -> Vec<u8> {
    let mut file = vec![0, 0, 8, dims.len() as u8];
    file.extend(dims.iter().flat_map(|d| d.to_be_bytes()));
    file.extend(data);
    file
}

fn zipped(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("zipped");
    encoder.finish().expect("zipped")
}

fn refused(bytes: &[u8], words: &str) {
    match parse_idx("test", bytes) {
        Err(Error::Data { detail, .. }) => assert!(detail.contains(words), "{detail}"),
        other => panic!("expected `{words}`, got {other:?}"),
    }
}

#[test]
fn bad_idx_files_are_errors() {
    let good = idx(&[2, 3], &[1, 2, 3, 4, 5, 6]);
    for bytes in [good.clone(), zipped(&good)] {
        let parsed = parse_idx("test", &bytes[..]).expect("good");
        assert_eq!((parsed.dims, parsed.data.len()), (vec![2, 3], 6));
    }
    refused(&[], "header is incomplete");
    refused(&good[..3], "header is incomplete");
    refused(&good[..10], "extents are incomplete");
    refused(&good[..good.len() - 1], "truncated");
    refused(&[&good[..], &[0]].concat(), "bytes follow");
    refused(b"PK\x03\x04 something else", "not an IDX file");
    refused(&[0, 0, 0x0d, 1, 0, 0, 0, 0], "element type");
    refused(&[0, 0, 8, 0], "rank 0");
    refused(&[0, 0, 8, 200], "rank 200");
    refused(&idx(&[3, 0], &[]), "empty");
    refused(&idx(&[u32::MAX; 4], &[]), "exceed the limit");
    // As large as allowed by the header, but nothing there: no such allocation.
    refused(&idx(&[MAX_IDX_BYTES as u32], &[1]), "truncated");
    let mut cut = zipped(&good);
    cut.truncate(cut.len() - 9);
    assert!(parse_idx("test", &cut[..]).is_err());
    let mut checksum = zipped(&good);
    let at = checksum.len() - 8;
    checksum[at] ^= 1;
    assert!(parse_idx("test", &checksum[..]).is_err());
    // A bomb: a megabyte of zeros behind the promised elements is never inflated.
    refused(&zipped(&idx(&[4], &vec![0; 1 << 20])), "bytes follow");
}

/// Zeros without end, and a count of those that were taken.
struct Zeros<'a>(&'a std::cell::Cell<usize>);

impl std::io::Read for Zeros<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        out.fill(0);
        self.0.set(self.0.get() + out.len());
        Ok(out.len())
    }
}

#[test]
fn no_reader_takes_more_than_is_promised() {
    let taken = std::cell::Cell::new(0);
    let head = idx(&[10, 4], &[]);
    let endless = std::io::Read::chain(&head[..], Zeros(&taken));
    assert!(parse_idx("test", endless).is_err());
    assert_eq!(taken.replace(0), 41);
    // CIFAR has no header, but no more images than CIFAR.
    let error = parse_cifar10("test", Zeros(&taken)).expect_err("endless");
    assert!(error.to_string().contains("more than 65536"), "{error}");
    assert!(taken.get() < 65_540 * 3073, "{}", taken.get());
    // Several files that each have as many as may be.
    let folder = Folder::new();
    for i in 1..4 {
        let name = folder.file(&format!("data_batch_{i}.bin.gz"));
        std::fs::write(name, zipped(&vec![0; 3073 * 30_000])).expect("written");
    }
    let error = ImageSet::cifar10(folder.file(""), Split::Train).expect_err("too many");
    assert!(error.to_string().contains("data_batch_3"), "{error}");
    // A label that is none ends the reading at once.
    taken.set(0);
    let bad = std::io::Read::chain(&[10u8][..], Zeros(&taken));
    assert!(parse_cifar10("test", bad).is_err());
    assert!(taken.get() < 8192, "{}", taken.get());
    // A header that promises more than its file can hold, however well it is packed.
    for bytes in [
        idx(&[1 << 20], &[0; 99]),
        zipped(&idx(&[1 << 20], &[0; 99])),
    ] {
        let path = folder.file("idx");
        std::fs::write(&path, bytes).expect("written");
        let error = read_idx(&path).expect_err("truncated").to_string();
        assert!(error.contains("there are at most"), "{error}");
    }
}

proptest! {
    #[test]
    fn idx_round_trips(dims in prop::collection::vec(1u32..6, 1..5), gz in any::<bool>()) {
        let n: u32 = dims.iter().product();
        let data: Vec<u8> = (0..n).map(|i| i as u8).collect();
        let bytes = idx(&dims, &data);
        let bytes = if gz { zipped(&bytes) } else { bytes };
        let parsed = parse_idx("test", &bytes[..]).expect("good");
        prop_assert_eq!(parsed.data, data);
        prop_assert_eq!(parsed.dims, dims.iter().map(|d| *d as usize).collect::<Vec<_>>());
    }

    #[test]
    fn any_bytes_parse_or_err(bytes in prop::collection::vec(any::<u8>(), 0..200), gz in any::<bool>(), honest in any::<bool>()) {
        let mut file = if honest { vec![0, 0, 8] } else { vec![] };
        file.extend(bytes);
        if gz {
            // Both a valid stream around garbage, and a garbage stream.
            let _ = parse_idx("test", &zipped(&file)[..]);
            file.splice(0..0, [0x1f, 0x8b]);
        }
        match parse_idx("test", &file[..]) {
            Ok(parsed) => prop_assert_eq!(parsed.data.len(), parsed.dims.iter().product::<usize>()),
            Err(e) => prop_assert!(matches!(e, Error::Data { .. }), "{e:?}"),
        }
    }

    #[test]
    fn any_bytes_are_images_or_an_error(bytes in prop::collection::vec(0u8..12, 0..4), records in 0usize..3, gz in any::<bool>()) {
        let mut file = vec![1; 3073 * records];
        file.extend(bytes);
        let file = if gz { zipped(&file) } else { file };
        match parse_cifar10("test", &file[..]) {
            Ok(set) => prop_assert_eq!(set.len(), records),
            Err(e) => prop_assert!(matches!(e, Error::Data { .. }), "{e:?}"),
        }
    }

    #[test]
    fn an_epoch_has_every_item_once(len in 1usize..300, batch in 1usize..50, seed in any::<u64>(), epoch in 0u64..5) {
        let mut batches = Batches::new(len, batch, Order::Shuffled { seed }, false).expect("batches");
        let mut seen: Vec<usize> = batches.epoch(epoch).flatten().collect();
        seen.sort_unstable();
        prop_assert_eq!(seen, (0..len).collect::<Vec<_>>());
    }
}

#[test]
fn batches_are_a_function_of_their_number() {
    let order = Order::Shuffled { seed: 5 };
    let mut batches = Batches::new(100, 30, order, true).expect("batches");
    assert_eq!(batches.per_epoch(), 3);
    let run: Vec<_> = (0..9).map(|i| batches.batch(i)).collect();
    assert!(run.iter().all(|b| b.len() == 30));
    assert_ne!(run[0], run[3], "the next epoch has another order");
    let mut resumed = Batches::new(100, 30, order, true).expect("batches");
    for i in [8, 2, 5, 0] {
        assert_eq!(resumed.batch(i), run[i as usize]);
    }
    let mut other = Batches::new(100, 30, Order::Shuffled { seed: 6 }, true).expect("batches");
    assert_ne!(other.batch(0), run[0]);
    let mut file = Batches::new(7, 3, Order::File, false).expect("batches");
    assert_eq!(
        file.epoch(2).collect::<Vec<_>>(),
        [vec![0, 1, 2], vec![3, 4, 5], vec![6]]
    );
    assert!(Batches::new(7, 0, Order::File, false).is_err());
    assert!(Batches::new(0, 3, Order::File, false).is_err());
    assert!(Batches::new(7, 8, Order::File, true).is_err());
}

#[test]
fn mnist_folders() {
    let folder = Folder::new();
    let write = |name: &str, bytes: Vec<u8>| {
        std::fs::write(folder.file(name), bytes).expect("written");
    };
    let root = folder.file("");
    assert!(matches!(
        ImageSet::mnist(&root, Split::Train),
        Err(Error::Data { .. })
    ));
    let pixels: Vec<u8> = (0..12).collect();
    write(
        "train-images-idx3-ubyte.gz",
        zipped(&idx(&[3, 2, 2], &pixels)),
    );
    write("train-labels-idx1-ubyte", idx(&[3], &[4, 0, 2]));
    let set = ImageSet::mnist(&root, Split::Train).expect("a set");
    assert_eq!(set.shape, [3, 1, 2, 2]);
    assert_eq!(set.classes(), 5);
    let picked = set.pixels(&[2, 0]).expect("pixels");
    assert_eq!(picked, [8.0, 9.0, 10.0, 11.0, 0.0, 1.0, 2.0, 3.0]);
    assert_eq!(set.labels(&[2, 0]).expect("labels"), [2, 4]);
    assert!(set.pixels(&[3]).is_err());
    assert!(set.image(usize::MAX).is_none());
    assert_eq!(set.take(1).len(), 1);
    write("train-labels-idx1-ubyte", idx(&[2], &[4, 0]));
    assert!(matches!(
        ImageSet::mnist(&root, Split::Train),
        Err(Error::Data { .. })
    ));
    // Colour: rank 4.
    write("t10k-images-idx4-ubyte", idx(&[1, 3, 1, 1], &[1, 2, 3]));
    write("t10k-labels-idx1-ubyte", idx(&[1], &[1]));
    let set = ImageSet::mnist(&root, Split::Test).expect("a set");
    assert_eq!(set.shape, [1, 3, 1, 1]);
    assert!(ImageSet::new([2, 1, 1, 1], vec![0], vec![0, 0]).is_err());
}

#[test]
fn cifar_folders() {
    let folder = Folder::new();
    let record = |label: u8, pixel: u8| [vec![label], vec![pixel; 3072]].concat();
    let write = |name: &str, bytes: Vec<u8>| {
        std::fs::write(folder.file(name), bytes).expect("written");
    };
    let root = folder.file("");
    let read = |split| ImageSet::cifar10(&root, split);
    assert!(matches!(read(Split::Train), Err(Error::Data { .. })));
    let two = [record(3, 7), record(9, 8)].concat();
    write("data_batch_2.bin.gz", zipped(&two));
    write("data_batch_1.bin", record(0, 5));
    let set = read(Split::Train).expect("a set");
    assert_eq!(set.shape, [3, 3, 32, 32]);
    assert_eq!(set.labels, [0, 3, 9]);
    assert!(set.image(1).is_some_and(|i| i.iter().all(|p| *p == 7)));
    let bad = [
        (two[..5000].to_vec(), "records"),
        (record(10, 0), "label 10"),
    ];
    for (bytes, words) in bad {
        write("test_batch.bin", bytes);
        let error = read(Split::Test).expect_err("damaged").to_string();
        assert!(
            error.contains(words) && error.contains("test_batch"),
            "{error}"
        );
    }
}

#[test]
fn images_are_padded_on_all_sides() {
    let set = ImageSet::new([2, 1, 1, 2], vec![1, 2, 3, 4], vec![0, 1]).expect("a set");
    let wide = set.padded(2, 5).expect("a set");
    assert_eq!(wide.shape, [2, 1, 2, 5]);
    let expected = [0, 1, 2, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(wide.image(0), Some(&expected[..]));
    assert!(set.padded(1, 1).is_err() && set.padded(usize::MAX, usize::MAX).is_err());
}
