//! From the products of a quantised copy to bounds of the products of the matrix itself; sketch.rs has the formulas.
//!
//! The code is the same on every ISA, compiled for each, and without fused multiply-adds: the bounds of given products have the
//! same bits everywhere.

/// Columns whose errors are known, and rows that stand side by side in the table of these errors.
pub(crate) const KNOWN: usize = 16;

/// What is known of consecutive rows of a matrix and its copy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowErrors<'a> {
    /// Errors of the known columns, upper halves of f32: sixteen rows, one known column after the other. Whole sixteens.
    pub errors: &'a [u16],
    /// What multiplies [`TokenFactors::rest`], for each row.
    pub lost: &'a [f32],
    /// What multiplies [`TokenFactors::rounding`].
    pub size: &'a [f32],
}

/// What is known of a token's activations.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct TokenFactors {
    /// Activations of the known columns.
    pub known: [f32; KNOWN],
    /// Length of the others.
    pub rest: f32,
    /// What quantisation and every rounding lose of a row of length one.
    pub rounding: f32,
    /// What underflow loses of any row.
    pub underflow: f32,
}

/// Adds what the known columns lack to the copy's products, `middles`, and makes upper bounds of them. Returns the largest of
/// both.
pub(crate) type Bounds =
    unsafe fn(rows: RowErrors<'_>, token: &TokenFactors, middles: &mut [f32], uppers: &mut [f32]) -> [f32; 2];

/// For any CPU.
pub(crate) fn plain(rows: RowErrors<'_>, token: &TokenFactors, middles: &mut [f32], uppers: &mut [f32]) -> [f32; 2] {
    bounds(rows, token, middles, uppers)
}

/// With vectors of eight lanes.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
pub(crate) fn avx2(rows: RowErrors<'_>, token: &TokenFactors, middles: &mut [f32], uppers: &mut [f32]) -> [f32; 2] {
    bounds(rows, token, middles, uppers)
}

/// With vectors of sixteen lanes.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(crate) fn avx512(rows: RowErrors<'_>, token: &TokenFactors, middles: &mut [f32], uppers: &mut [f32]) -> [f32; 2] {
    bounds(rows, token, middles, uppers)
}

/// Inlined into the functions above, and so compiled for their ISAs.
#[inline(always)]
fn bounds(rows: RowErrors<'_>, token: &TokenFactors, middles: &mut [f32], uppers: &mut [f32]) -> [f32; 2] {
    let mut highest = [[f32::NEG_INFINITY; KNOWN]; 2];
    let mut errors = rows.errors.as_chunks::<{ KNOWN * KNOWN }>().0.iter();
    let ((middles, middles_tail), (uppers, uppers_tail)) =
        (middles.as_chunks_mut::<KNOWN>(), uppers.as_chunks_mut::<KNOWN>());
    let ((lost, lost_tail), (size, size_tail)) = (rows.lost.as_chunks::<KNOWN>(), rows.size.as_chunks::<KNOWN>());
    let sixteens = middles.iter_mut().zip(uppers).zip(lost.iter().zip(size)).zip(errors.by_ref());
    for (((middles, uppers), (lost, size)), errors) in sixteens {
        sixteen(errors, lost, size, token, middles, uppers);
        for lane in 0..KNOWN {
            highest[0][lane] = highest[0][lane].max(middles[lane]);
            highest[1][lane] = highest[1][lane].max(uppers[lane]);
        }
    }
    if let Some(errors) = errors.next().filter(|_| !middles_tail.is_empty()) {
        let rows = middles_tail.len();
        let (mut middles, mut uppers, mut lost, mut size) = ([0.0; KNOWN], [0.0; KNOWN], [0.0; KNOWN], [0.0; KNOWN]);
        middles[..rows].copy_from_slice(middles_tail);
        lost[..rows].copy_from_slice(lost_tail);
        size[..rows].copy_from_slice(size_tail);
        sixteen(errors, &lost, &size, token, &mut middles, &mut uppers);
        middles_tail.copy_from_slice(&middles[..rows]);
        uppers_tail.copy_from_slice(&uppers[..rows]);
        for lane in 0..rows {
            highest[0][lane] = highest[0][lane].max(middles[lane]);
            highest[1][lane] = highest[1][lane].max(uppers[lane]);
        }
    }
    highest.map(|lanes| lanes.into_iter().fold(f32::NEG_INFINITY, f32::max))
}

/// The bounds of sixteen rows.
#[inline(always)]
fn sixteen(
    errors: &[u16; KNOWN * KNOWN],
    lost: &[f32; KNOWN],
    size: &[f32; KNOWN],
    token: &TokenFactors,
    middles: &mut [f32; KNOWN],
    uppers: &mut [f32; KNOWN],
) {
    for (known, errors) in token.known.iter().zip(errors.as_chunks::<KNOWN>().0) {
        for (middle, error) in middles.iter_mut().zip(errors) {
            *middle += f32::from_bits(u32::from(*error) << 16) * known;
        }
    }
    for lane in 0..KNOWN {
        let radius = lost[lane] * token.rest + (size[lane] * token.rounding + token.underflow);
        uppers[lane] = middles[lane] + radius;
    }
}
