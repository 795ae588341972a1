// e^x for x up to 0 (and some way above) for every float of a cell: 2^(k + f) with a whole
// k and |f| <= 1/2. Shorter than exp_f32, as what is far below 1 need not be right to the
// last digit: within (2 + |x|) / 2 ulp, and 0 where the result would be below 2^-125.
#import cell

fn exp_below(x: Cell) -> Cell {
    let t = x * 1.442695;
    let low = t < Cell(-126.0);
    let k = round(select(t, Cell(-126.0), low));
    let f = t - k;
    let p = 1.0 + f * (0.6931472 + f * (0.24022651 + f * (0.05550357 + f * (0.009618083
        + f * (0.0013390863 + f * 0.00015453163)))));
    let power = bitcast<Cell>((Bits(k) + 127) * 8388608);
    return select(p * power, Cell(), low);
}
