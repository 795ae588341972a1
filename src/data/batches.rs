//! Which images go into which batch.

use crate::rng::Stream;
use crate::{Error, Result};

/// The order of an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// As in the file.
    File,
    /// Shuffled anew every epoch; a pure function of seed and epoch.
    Shuffled {
        /// The seed.
        seed: u64,
    },
}

/// Draws batches of indices `0..len`, epoch after epoch.
///
/// Its whole state is the batch number, so that training resumes exactly:
/// [`Batches::batch`] is a pure function of it.
#[derive(Debug, Clone)]
pub struct Batches {
    len: usize,
    batch: usize,
    order: Order,
    drop_last: bool,
    /// The permutation of the epoch last asked for.
    cached: Option<(u64, Vec<u32>)>,
}

impl Batches {
    /// Batches of `batch` out of `len` items; `drop_last` leaves out the smaller
    /// batch at the end of an epoch. Errors: nothing to draw.
    pub fn new(len: usize, batch: usize, order: Order, drop_last: bool) -> Result<Self> {
        let batches = Batches {
            len,
            batch,
            order,
            drop_last,
            cached: None,
        };
        if batch == 0 || len > u32::MAX as usize || batches.per_epoch() == 0 {
            return Err(Error::argument(
                "Batches",
                format!("batches of {batch} out of {len} items give no batch"),
            ));
        }
        Ok(batches)
    }

    /// Batches in an epoch.
    pub fn per_epoch(&self) -> usize {
        match (self.batch, self.drop_last) {
            (0, _) => 0,
            (batch, true) => self.len / batch,
            (batch, false) => self.len.div_ceil(batch),
        }
    }

    /// The epoch that batch number `number` belongs to, from 0.
    pub fn epoch_of(&self, number: u64) -> u64 {
        number / self.per_epoch().max(1) as u64
    }

    /// The items of batch `number`, counted from 0 over all epochs.
    pub fn batch(&mut self, number: u64) -> Vec<usize> {
        let epoch = self.epoch_of(number);
        let within = (number % self.per_epoch().max(1) as u64) as usize;
        let range = within * self.batch..self.len.min((within + 1) * self.batch);
        let Order::Shuffled { seed } = self.order else {
            return range.collect();
        };
        let len = self.len;
        let current = self.cached.take().filter(|(e, _)| *e == epoch);
        let (_, order) = self
            .cached
            .insert(current.unwrap_or_else(|| (epoch, shuffled(seed, epoch, len))));
        order[range].iter().map(|i| *i as usize).collect()
    }

    /// The batches of one epoch, in order.
    pub fn epoch(&mut self, epoch: u64) -> impl Iterator<Item = Vec<usize>> + '_ {
        let per_epoch = self.per_epoch() as u64;
        (0..per_epoch).map(move |i| self.batch(epoch * per_epoch + i))
    }
}

/// Fisher-Yates.
fn shuffled(seed: u64, epoch: u64, len: usize) -> Vec<u32> {
    let stream = Stream::numbered(seed, epoch);
    let mut order: Vec<u32> = (0..len as u32).collect();
    for i in (1..len).rev() {
        order.swap(i, stream.below(i as u64, i + 1));
    }
    order
}
