//! Mutated files for every parser. A parser may refuse an input; it may not panic, take
//! memory beyond what the input can be worth, or think for seconds.
//!
//! The tests run a few seconds. `FUZZ_INPUTS=1000000 cargo test --config
//! profile.dev.opt-level=2 --test fuzz -- --nocapture --test-threads 1` runs that many
//! inputs of each parser, with other ones by `FUZZ_SEED`; overflow checks stay on. What
//! fails is printed, and fails again: inputs are a function of parser, seed and number.

mod mutate;
mod parsers;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use mutate::Mutator;
use parsers::Parser;

/// Inputs of each parser, unless `FUZZ_INPUTS` says otherwise.
const INPUTS: u64 = 1500;

/// An input may take this long, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(5);

/// Inputs that are mutated further at most.
const POOL: usize = 400;

/// Counts what a thread holds. A process of its own, because an allocator is for all.
struct Counting;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

fn count(add: usize, take: usize) {
    // Threads that end free memory when these are gone.
    let _ = HELD.try_with(|held| {
        held.set((held.get() + add).saturating_sub(take));
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(held.get())));
    });
}

// SAFETY: everything is done by the system's allocator; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(0, layout.size());
        unsafe { System.dealloc(at, layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Old and new are there at once where the block moves.
        count(size, 0);
        count(0, layout.size());
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn number(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).unwrap_or_default();
    text.parse().unwrap_or(default)
}

/// The words of an outcome without its numbers: inputs with a new one are worth more
/// mutations.
fn shape(outcome: &str) -> String {
    let words = outcome.split(|c: char| !c.is_ascii_alphabetic());
    // Shorter ones may be bytes in hexadecimal.
    let words: Vec<&str> = words.filter(|w| w.len() > 3).take(20).collect();
    words.join(" ")
}

fn fuzz(mut parser: Parser) {
    let inputs = number("FUZZ_INPUTS", INPUTS);
    let seed = number("FUZZ_SEED", 0);
    let start = Instant::now();
    let mut mutator = Mutator::new(parser.name, seed, parser.words);
    let mut pool = parser.seeds.clone();
    let mut outcomes: HashSet<String> = HashSet::new();
    let (mut accepted, mut largest, mut slowest) = (0u64, 0, Duration::ZERO);
    for input in 0..inputs {
        // The files themselves first: they are good, and must stay so.
        let bytes = match pool
            .get(input as usize)
            .filter(|_| (input as usize) < parser.seeds.len())
        {
            Some(good) => good.clone(),
            None => mutator.next(&pool, parser.seeds.len()),
        };
        let fail = |what: String| -> ! {
            let hex: String = bytes
                .iter()
                .take(4096)
                .map(|b| format!("{b:02x}"))
                .collect();
            panic!(
                "{}, seed {seed}, input {input}: {what}\n{} bytes: {hex}",
                parser.name,
                bytes.len()
            );
        };
        let before = HELD.get();
        PEAK.set(before);
        let begin = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| (parser.parse)(&bytes)));
        let peak = PEAK.get() - before;
        let mut took = begin.elapsed();
        // Another process may have had the core: twice in a row is no chance.
        if took > PATIENCE && outcome.is_ok() {
            let begin = Instant::now();
            let _ = (parser.parse)(&bytes);
            took = took.min(begin.elapsed());
        }
        let Ok(outcome) = outcome else {
            fail("a panic".into());
        };
        let most = (parser.memory)(bytes.len());
        if peak > most {
            fail(format!("{peak} bytes were allocated, {most} are too many"));
        }
        if took > PATIENCE {
            fail(format!("{took:?} passed"));
        }
        (largest, slowest) = (peak.max(largest), took.max(slowest));
        let outcome = match outcome {
            Ok(()) => {
                accepted += 1;
                String::new()
            }
            Err(e) if (input as usize) < parser.seeds.len() => {
                fail(format!("a good file was refused: {e}"))
            }
            Err(e) => shape(&e),
        };
        if pool.len() < POOL && outcomes.insert(outcome) {
            pool.push(bytes);
        }
    }
    println!(
        "{}: {inputs} inputs in {:.1} s, {accepted} accepted, {} kinds of answer, at most {largest} bytes and {:.1} ms, no panic",
        parser.name,
        start.elapsed().as_secs_f64(),
        outcomes.len(),
        slowest.as_secs_f64() * 1e3,
    );
}

macro_rules! parsers {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            fuzz(parsers::$name());
        }
    )*};
}

parsers! {
    weights
    weights_into_parameters
    checkpoints
    glow_weights
    idx
    idx_gzipped
    cifar
    cifar_gzipped
    tuning
    shaders
}

/// The fuzzer sees what it is there to see.
#[test]
fn faults_are_found() {
    let found = |parse: fn(&[u8]) -> Result<(), String>| {
        let parser = Parser {
            name: "faulty",
            seeds: vec![b"good 0001 file".to_vec()],
            words: &[],
            parse: Box::new(parse),
            memory: |len| 4096 + 64 * len,
        };
        catch_unwind(AssertUnwindSafe(|| fuzz(parser))).is_err()
    };
    assert!(!found(|_| Ok(())));
    assert!(!found(|bytes| match bytes.starts_with(b"good") {
        true => Ok(()),
        false => Err("not good".into()),
    }));
    assert!(found(|bytes| {
        assert!(!bytes.contains(&0xff));
        Ok(())
    }));
    assert!(found(|bytes| {
        let size = if bytes.len() > 20 { 1 << 20 } else { 10 };
        drop(std::hint::black_box(vec![1u8; size]));
        Ok(())
    }));
}
