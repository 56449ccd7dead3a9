//! Blocks for AVX-512 with VNNI: 64 codes to a register, two blocks side by side, four products to an instruction.
//!
//! `vpdpbusd` adds four products of an unsigned and a signed byte to an i32, so nothing saturates. Four products of codes up
//! to 63 fit an i16, which lets `vpdpwssd` multiply them by the stored scale and add them up over a panel (for the bounds see
//! the AVX2 file). Q8_0's codes are signed: 128 is added to the activations instead, and 128 times the sum of the codes taken
//! away again.
//!
//! Lane `j` of a running sum takes columns `4j .. 4j + 4` of every pair of blocks, in order.

use super::avx2::{prefetch, scales_and_minima, small_codes};
use super::{BASE, BLOCK, Panel, QuantizedKernels, bounds};
use crate::dense::DenseType;
use crate::encode;
use crate::float::avx2_rows::{half_at, load_bytes};
use std::arch::x86_64::*;

pub(crate) static KERNELS: QuantizedKernels =
    QuantizedKernels { products, encode: encode::avx512, bounds: bounds::avx512 };

/// Tokens that share one unpacking of the codes.
const TOKENS: usize = 4;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn products(dtype: DenseType, rows: &[u8], row_bytes: usize, x: &[&[Panel]], out: &mut [f32]) {
    match dtype {
        DenseType::Q4_0 => typed::<2, 18>(rows, row_bytes, x, out),
        DenseType::Q4_1 => typed::<3, 20>(rows, row_bytes, x, out),
        DenseType::Q5_0 => typed::<4, 22>(rows, row_bytes, x, out),
        DenseType::Q5_1 => typed::<5, 24>(rows, row_bytes, x, out),
        DenseType::Q8_0 => typed::<6, 34>(rows, row_bytes, x, out),
        DenseType::Q4K => typed::<7, 144>(rows, row_bytes, x, out),
        DenseType::Q5K => typed::<8, 176>(rows, row_bytes, x, out),
        DenseType::Q6K => typed::<9, 210>(rows, row_bytes, x, out),
        DenseType::F32 | DenseType::F16 | DenseType::Bf16 => unreachable!("{} has no blocks", dtype.name()),
    }
}

/// `TYPE` is the type's index in [`DenseType::ALL`], `BYTES` the size of its blocks: constants inside.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn typed<const TYPE: usize, const BYTES: usize>(rows: &[u8], row_bytes: usize, x: &[&[Panel]], out: &mut [f32]) {
    for (row, out) in rows.chunks_exact(row_bytes).zip(out.chunks_exact_mut(x.len())) {
        let row = row.as_chunks::<BYTES>().0;
        let ((fours, rest), (outs, out_rest)) = (x.as_chunks::<TOKENS>(), out.as_chunks_mut::<TOKENS>());
        for (x, out) in fours.iter().zip(outs) {
            *out = dot::<TYPE, BYTES, TOKENS>(row, x);
        }
        match *rest {
            [a] => out_rest.copy_from_slice(&dot::<TYPE, BYTES, 1>(row, &[a])),
            [a, b] => out_rest.copy_from_slice(&dot::<TYPE, BYTES, 2>(row, &[a, b])),
            [a, b, c] => out_rest.copy_from_slice(&dot::<TYPE, BYTES, 3>(row, &[a, b, c])),
            _ => {}
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn dot<const TYPE: usize, const BYTES: usize, const T: usize>(row: &[[u8; BYTES]], x: &[&[Panel]; T]) -> [f32; T] {
    let mut sums = [_mm512_setzero_ps(); T];
    let mut minima = [0.0; T];
    if DenseType::ALL[TYPE].block_len() == BLOCK {
        for (index, blocks) in row.chunks(8).enumerate() {
            let panels = super::panels(x, index);
            let mut parts = [_mm512_setzero_ps(); T];
            for (pair, blocks) in blocks.chunks(2).enumerate() {
                prefetch(&blocks[0]);
                small_pair::<TYPE, BYTES, T>(blocks, &panels, pair, &mut parts, &mut minima);
            }
            for ((sum, part), panel) in sums.iter_mut().zip(parts).zip(panels) {
                *sum = _mm512_fmadd_ps(_mm512_set1_ps(panel.scale), part, *sum);
            }
        }
    } else {
        for (index, block) in row.iter().enumerate() {
            let panels = super::panels(x, index);
            for line in block.chunks(64) {
                prefetch(line);
            }
            match DenseType::ALL[TYPE] {
                DenseType::Q6K => q6_k(block, &panels, &mut sums),
                _ => q45_k::<TYPE, T>(block, &panels, &mut sums),
            }
        }
    }
    for (minimum, sum) in minima.iter_mut().zip(sums) {
        *minimum += _mm512_reduce_add_ps(sum);
    }
    minima
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn load_digits(digits: &[[i8; BLOCK]; 8], pair: usize) -> __m512i {
    // SAFETY: 64 readable bytes; the load needs no alignment.
    unsafe { _mm512_loadu_si512(digits.as_chunks::<2>().0[pair].as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn both(low: __m256i, high: __m256i) -> __m512i {
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
}

/// `low` in the lanes of the first block, `high` in those of the second.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn spread(low: f32, high: f32) -> __m512 {
    _mm512_mask_blend_ps(0xff00, _mm512_set1_ps(low), _mm512_set1_ps(high))
}

/// Sums of products of codes with the two digits of a token's activations.
type Digits = [__m512i; 2];

/// Adds 64 codes, times `stored` (an integer scale in the lower half of every i32), times each token's pair of blocks.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn add_codes<const T: usize>(
    codes: __m512i,
    stored: __m512i,
    panels: &[&Panel; T],
    pair: usize,
    sums: &mut [Digits; T],
) {
    for (sums, panel) in sums.iter_mut().zip(panels) {
        for (sum, digits) in sums.iter_mut().zip([&panel.high, &panel.low]) {
            let fours = _mm512_dpbusd_epi32(_mm512_setzero_si512(), codes, load_digits(digits, pair));
            *sum = _mm512_dpwssd_epi32(*sum, fours, stored);
        }
    }
}

/// Both digits' sums as one.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn joined([high, low]: Digits) -> __m512 {
    _mm512_fmadd_ps(_mm512_cvtepi32_ps(high), _mm512_set1_ps(f32::from(BASE)), _mm512_cvtepi32_ps(low))
}

/// Adds a super-block's sums, times `d`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn add_scaled<const T: usize>(d: f32, products: [Digits; T], panels: &[&Panel; T], sums: &mut [__m512; T]) {
    for ((sum, products), panel) in sums.iter_mut().zip(products).zip(panels) {
        *sum = _mm512_fmadd_ps(_mm512_set1_ps(d * panel.scale), joined(products), *sum);
    }
}

/// Two blocks of 32 (or, at the end of a row, one) with an f16 scale and, but for Q8_0, a minimum.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn small_pair<const TYPE: usize, const BYTES: usize, const T: usize>(
    blocks: &[[u8; BYTES]],
    panels: &[&Panel; T],
    pair: usize,
    sums: &mut [__m512; T],
    minima: &mut [f32; T],
) {
    let last = [0; BYTES];
    let (first, second) = (&blocks[0], blocks.get(1).unwrap_or(&last));
    let (d, e) = (half_at(first, 0), half_at(second, 0));
    let a = spread(d, e);
    if let DenseType::Q8_0 = DenseType::ALL[TYPE] {
        let codes = both(load_bytes(&first[2..]), load_bytes(&second[2..]));
        let bias = _mm512_set1_epi8(-128);
        let extra = _mm512_dpbusd_epi32(_mm512_setzero_si512(), bias, codes);
        let less = _mm512_sub_epi32(_mm512_setzero_si512(), extra);
        for (sum, panel) in sums.iter_mut().zip(panels) {
            let products = [&panel.high, &panel.low]
                .map(|digits| _mm512_dpbusd_epi32(less, _mm512_xor_si512(load_digits(digits, pair), bias), codes));
            *sum = _mm512_fmadd_ps(a, joined(products), *sum);
        }
        return;
    }
    let ((low, m), (high, n)) = (small_codes::<TYPE>(first, d), small_codes::<TYPE>(second, e));
    let codes = both(low, high);
    for ((sum, minimum), panel) in sums.iter_mut().zip(minima).zip(panels) {
        let products = [&panel.high, &panel.low]
            .map(|digits| _mm512_dpbusd_epi32(_mm512_setzero_si512(), codes, load_digits(digits, pair)));
        *sum = _mm512_fmadd_ps(a, joined(products), *sum);
        *minimum = m.mul_add(panel.sums[2 * pair], *minimum);
        *minimum = n.mul_add(panel.sums[2 * pair + 1], *minimum);
    }
}

/// Lanes 0 to 7 take `2 pair`, lanes 8 to 15 the next.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn pick_blocks(pair: usize) -> __m512i {
    let (low, high) = (2 * pair as i32, 2 * pair as i32 + 1);
    _mm512_mask_blend_epi32(0xff00, _mm512_set1_epi32(low), _mm512_set1_epi32(high))
}

/// A super-block of Q4_K or Q5_K: `d * (sum of scales) - dmin * (sum of minima)`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn q45_k<const TYPE: usize, const T: usize>(block: &[u8], panels: &[&Panel; T], sums: &mut [__m512; T]) {
    let (scales, minima) = scales_and_minima(&block[4..16]);
    let widen = |bytes: u64| _mm512_cvtepu8_epi32(_mm_cvtsi64_si128(bytes.cast_signed()));
    let (scales, minima) = (widen(scales), widen(minima));
    let is_q5 = matches!(DenseType::ALL[TYPE], DenseType::Q5K);
    let nibbles = &block[if is_q5 { 48 } else { 16 }..][..128];
    let high = if is_q5 { load_bytes(&block[16..]) } else { _mm256_setzero_si256() };
    let high = both(high, high);
    // The second block of a pair is in the high nibbles.
    let down = _mm512_mask_blend_epi16(0xffff_0000, _mm512_setzero_si512(), _mm512_set1_epi16(4));
    let mut products = [[_mm512_setzero_si512(); 2]; T];
    for (pair, bytes) in nibbles.as_chunks::<32>().0.iter().enumerate() {
        let bytes = load_bytes(bytes);
        let mut codes = _mm512_and_si512(_mm512_srlv_epi16(both(bytes, bytes), down), _mm512_set1_epi8(15));
        if is_q5 {
            // Block b's fifth bits are bit b of these bytes.
            let bit = 1i8 << (2 * pair);
            let bits = both(_mm256_set1_epi8(bit), _mm256_set1_epi8(bit << 1));
            let set = _mm512_test_epi8_mask(high, bits);
            codes = _mm512_mask_add_epi8(codes, set, codes, _mm512_set1_epi8(16));
        }
        add_codes(codes, _mm512_permutexvar_epi32(pick_blocks(pair), scales), panels, pair, &mut products);
    }
    add_scaled(half_at(block, 0), products, panels, sums);
    let minima = _mm512_mul_ps(_mm512_cvtepi32_ps(minima), _mm512_set1_ps(half_at(block, 2)));
    for (sum, panel) in sums.iter_mut().zip(panels) {
        // Eight minima, in the lower eight lanes.
        // SAFETY: 32 readable bytes; the load needs no alignment.
        let block_sums = _mm512_zextps256_ps512(unsafe { _mm256_loadu_ps(panel.sums.as_ptr()) });
        *sum = _mm512_fnmadd_ps(minima, block_sums, *sum);
    }
}

/// A super-block of Q6_K: `d * scale * (code - 32)`, 16 codes to a scale.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn q6_k<const T: usize>(block: &[u8], panels: &[&Panel; T], sums: &mut [__m512; T]) {
    // SAFETY: 16 readable bytes; the load needs no alignment.
    let scales = _mm512_cvtepi8_epi32(unsafe { _mm_loadu_si128(block[192..208].as_ptr().cast()) });
    let d = half_at(block, 208);
    let minima = _mm512_mul_ps(_mm512_cvtepi32_ps(scales), _mm512_set1_ps(-32.0 * d));
    for (sum, panel) in sums.iter_mut().zip(panels) {
        // SAFETY: 64 readable bytes; the load needs no alignment.
        *sum = _mm512_fmadd_ps(minima, unsafe { _mm512_loadu_ps(panel.half_sums.as_ptr()) }, *sum);
    }
    // Only the lower half of an i32 is to multiply.
    let stored = _mm512_and_si512(scales, _mm512_set1_epi32(0xffff));
    let mut products = [[_mm512_setzero_si512(); 2]; T];
    let first = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    // The high bits of a pair's first block lie two below those of its second.
    let up = _mm512_mask_blend_epi16(0xffff_0000, _mm512_set1_epi16(4), _mm512_set1_epi16(2));
    let down = _mm512_mask_blend_epi16(0xffff_0000, _mm512_setzero_si512(), _mm512_set1_epi16(2));
    let (low_mask, high_mask) = (_mm512_set1_epi8(15), _mm512_set1_epi8(48));
    for half in 0..2 {
        // SAFETY: 64 readable bytes; the load needs no alignment.
        let low = unsafe { _mm512_loadu_si512(block[64 * half..][..64].as_ptr().cast()) };
        let high = load_bytes(&block[128 + 32 * half..]);
        let high = both(high, high);
        let pairs = [(low, _mm512_sllv_epi16(high, up)), (_mm512_srli_epi16::<4>(low), _mm512_srlv_epi16(high, down))];
        for (i, (low, high)) in pairs.into_iter().enumerate() {
            let codes = _mm512_or_si512(_mm512_and_si512(low, low_mask), _mm512_and_si512(high, high_mask));
            let pair = 2 * half + i;
            let pick = _mm512_add_epi32(first, _mm512_set1_epi32(4 * pair as i32));
            add_codes(codes, _mm512_permutexvar_epi32(pick, stored), panels, pair, &mut products);
        }
    }
    add_scaled(d, products, panels, sums);
}
