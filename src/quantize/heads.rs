//! Several heads: groups of channels that are quantised each on its own.

use super::output::{Quantized, Quantizer, books_of, check_books};
use super::rows::Rows;
use crate::nn::Mode;
use crate::{Error, Result, Tensor};

/// Splits the channels into groups of equal width, one code each (product quantisation):
/// with `K` codes a head, `H` heads tell `K^H` vectors apart. Over [`super::Residual`]
/// this is grouped residual quantisation.
///
/// Losses are means over the heads, as those of one quantiser are means over channels.
/// `indices` have the heads at the end, one after the other with all their books;
/// `counts` are `[books, K]`, of a shared codebook what it gives itself.
pub struct Heads<Q> {
    /// One for each head, or one for all.
    quantizers: Vec<Q>,
    heads: usize,
}

impl<Q: Quantizer> Heads<Q> {
    /// Each head has a quantiser of its own. Error: none is given, or they differ in
    /// width, codes or books.
    pub fn separate(quantizers: Vec<Q>) -> Result<Self> {
        let of = |q: &Q| (q.width(), q.codes(), q.books());
        if quantizers.is_empty() || quantizers.iter().any(|q| of(q) != of(&quantizers[0])) {
            let found: Vec<_> = quantizers.iter().map(of).collect();
            return Err(Error::argument(
                "Heads",
                format!(
                    "heads must be one or more, alike in (width, codes, books), they are {found:?}"
                ),
            ));
        }
        Ok(Heads {
            heads: quantizers.len(),
            quantizers,
        })
    }

    /// All heads share one quantiser. Error: no heads.
    pub fn shared(quantizer: Q, heads: usize) -> Result<Self> {
        if heads == 0 {
            return Err(Error::argument("Heads", "0 heads; give at least one"));
        }
        Ok(Heads {
            quantizers: vec![quantizer],
            heads,
        })
    }

    /// The quantisers: one for each head, or the shared one.
    pub fn quantizers(&self) -> &[Q] {
        &self.quantizers
    }

    fn is_shared(&self) -> bool {
        self.quantizers.len() < self.heads
    }

    /// All heads of a vector as vectors of their own.
    #[track_caller]
    fn forward_shared(&self, rows: &Rows, mode: Mode) -> Quantized {
        let quantizer = &self.quantizers[0];
        let (heads, width) = (self.heads, quantizer.width());
        let all = rows.count() * heads;
        let valid = rows.valid.as_ref().map(|v| {
            let column = v.reshape([rows.count(), 1]);
            column.broadcast_to([rows.count(), heads]).reshape([all])
        });
        let vectors = rows.rows.reshape([all, width]);
        let out = quantizer.forward_masked(&vectors, valid.as_ref(), mode);
        if out.quantized.check().is_err() {
            return out;
        }
        let codes = out.quantized.reshape([rows.count(), heads * width]);
        let mut places = rows.places().to_vec();
        places.push(heads * quantizer.books());
        Quantized {
            quantized: rows.restore(&codes),
            indices: out.indices.reshape(places),
            ..out
        }
    }
}

impl<Q: Quantizer> Quantizer for Heads<Q> {
    fn width(&self) -> usize {
        self.heads * self.quantizers[0].width()
    }

    fn codes(&self) -> usize {
        self.quantizers[0].codes()
    }

    fn books(&self) -> usize {
        self.heads * self.quantizers[0].books()
    }

    #[track_caller]
    fn forward_masked(&self, x: &Tensor, valid: Option<&Tensor>, mode: Mode) -> Quantized {
        let rows = match Rows::new("Heads", x, self.width(), valid) {
            Ok(rows) => rows,
            Err(e) => return Quantized::poisoned(x.graph(), e),
        };
        if self.heads == 1 {
            return self.quantizers[0].forward_masked(x, valid, mode);
        }
        if self.is_shared() {
            return self.forward_shared(&rows, mode);
        }
        let each = self.quantizers[0].width();
        let parts: Vec<Quantized> = (self.quantizers.iter().enumerate())
            .map(|(h, q)| q.forward_masked(&x.slice(1, h * each, each), valid, mode))
            .collect();
        let codes: Vec<&Tensor> = parts.iter().map(|p| &p.quantized).collect();
        let codes = Tensor::concat(&codes, 1);
        Quantized::joined(&parts, codes, 1.0 / self.heads as f32)
    }

    #[track_caller]
    fn decode(&self, indices: &Tensor) -> Tensor {
        if self.heads == 1 {
            return self.quantizers[0].decode(indices);
        }
        if let Err(e) = check_books("Heads::decode", indices, self.books()) {
            return indices.graph().poisoned(e);
        }
        let books = self.quantizers[0].books();
        let parts: Vec<Tensor> = (0..self.heads)
            .map(|h| {
                let quantizer = &self.quantizers[h.min(self.quantizers.len() - 1)];
                quantizer.decode(&books_of(indices, h * books, books))
            })
            .collect();
        Tensor::concat(&parts.iter().collect::<Vec<_>>(), 1)
    }

    fn start_from(&self, rows: &[f32], seed: u64) -> Result<()> {
        if self.is_shared() || self.heads == 1 {
            return self.quantizers[0].start_from(rows, seed);
        }
        let each = self.quantizers[0].width();
        for (h, quantizer) in self.quantizers.iter().enumerate() {
            let part: Vec<f32> = (rows.chunks(self.width()))
                .flat_map(|row| row.iter().skip(h * each).take(each).copied())
                .collect();
            quantizer.start_from(&part, seed.wrapping_add(h as u64))?;
        }
        Ok(())
    }
}
