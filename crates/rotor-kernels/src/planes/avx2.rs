//! 32 bytes at a time: nibbles through byte shuffles, the highest bit of bytes through `vpmovmskb`. What is left of a slice
//! goes the scalar way.

use super::{PlaneKernels, Strided, scalar};
use std::arch::x86_64::*;

pub(crate) const KERNELS: PlaneKernels =
    PlaneKernels { split_codes, join_planes, pack_trits, unpack_trits, count_trits, unstride };

#[inline]
#[target_feature(enable = "avx2")]
fn load(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: 32 readable bytes; the load needs no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn store(value: __m256i, bytes: &mut [u8; 32]) {
    // SAFETY: 32 writable bytes; the store needs no alignment.
    unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), value) };
}

/// The same 16 entries for both halves of a byte shuffle.
#[inline]
#[target_feature(enable = "avx2")]
fn table(entries: &'static [u8; 16]) -> __m256i {
    // SAFETY: 16 readable bytes; the load needs no alignment.
    _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(entries.as_ptr().cast()) })
}

/// The entries, shifted to the left.
const fn shifted(entries: [u8; 16], by: u32) -> [u8; 16] {
    let mut shifted = entries;
    let mut at = 0;
    while at < 16 {
        shifted[at] = entries[at] << by;
        at += 1;
    }
    shifted
}

/// What two codes are in planes: the low bits of both in bits 0 and 1, their high bits in bits 4 and 5. Code 11 is nothing.
static SPLIT: [u8; 16] = {
    const ONE: [u8; 4] = [0, 1, 0x10, 0];
    let mut entries = [0; 16];
    let mut nibble = 0;
    while nibble < 16 {
        entries[nibble] = ONE[nibble & 3] | ONE[nibble >> 2] << 1;
        nibble += 1;
    }
    entries
};
static SPLIT_HIGH: [u8; 16] = shifted(SPLIT, 2);

/// Four bits, each followed by a zero.
static SPREAD: [u8; 16] = {
    let mut entries = [0; 16];
    let mut nibble = 0;
    while nibble < 16 {
        let bits = nibble as u8;
        entries[nibble] = bits & 1 | (bits & 2) << 1 | (bits & 4) << 2 | (bits & 8) << 3;
        nibble += 1;
    }
    entries
};
static SPREAD_HIGH: [u8; 16] = shifted(SPREAD, 1);

#[target_feature(enable = "avx2")]
fn split_codes(codes: &[u8], bit0: &mut [u8], bit1: &mut [u8]) -> bool {
    let nibble = _mm256_set1_epi8(15);
    let (low, high) = (table(&SPLIT), table(&SPLIT_HIGH));
    // Two nibbles of a plane, the second of which is the higher.
    let weights = _mm256_set1_epi16(1 | 16 << 8);
    let mut wrong = _mm256_setzero_si256();
    let (pairs, rest) = codes.as_chunks::<64>();
    let (whole0, rest0) = bit0.as_chunks_mut::<32>();
    let (whole1, rest1) = bit1.as_chunks_mut::<32>();
    for ((codes, bit0), bit1) in pairs.iter().zip(whole0).zip(whole1) {
        let mut minus = [_mm256_setzero_si256(); 2];
        let mut plus = minus;
        for (half, codes) in codes.as_chunks().0.iter().enumerate() {
            let codes = load(codes);
            wrong = _mm256_or_si256(wrong, _mm256_and_si256(codes, _mm256_srli_epi16::<1>(codes)));
            let first = _mm256_shuffle_epi8(low, _mm256_and_si256(codes, nibble));
            let second = _mm256_shuffle_epi8(high, _mm256_and_si256(_mm256_srli_epi16::<4>(codes), nibble));
            let both = _mm256_or_si256(first, second);
            minus[half] = _mm256_maddubs_epi16(_mm256_and_si256(both, nibble), weights);
            plus[half] = _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16::<4>(both), nibble), weights);
        }
        store(_mm256_permute4x64_epi64::<0xd8>(_mm256_packus_epi16(plus[0], plus[1])), bit0);
        store(_mm256_permute4x64_epi64::<0xd8>(_mm256_packus_epi16(minus[0], minus[1])), bit1);
    }
    let wrong = _mm256_testz_si256(wrong, _mm256_set1_epi8(0x55)) == 0;
    scalar::split_codes(rest, rest0, rest1) | wrong
}

#[target_feature(enable = "avx2")]
fn join_planes(bit0: &[u8], bit1: &[u8], codes: &mut [u8]) -> bool {
    let nibble = _mm256_set1_epi8(15);
    let (low_bits, high_bits) = (table(&SPREAD), table(&SPREAD_HIGH));
    let mut wrong = _mm256_setzero_si256();
    let (whole0, rest0) = bit0.as_chunks::<32>();
    let (whole1, rest1) = bit1.as_chunks::<32>();
    let (pairs, rest) = codes.as_chunks_mut::<64>();
    for ((codes, plus), minus) in pairs.iter_mut().zip(whole0).zip(whole1) {
        let (plus, minus) = (load(plus), load(minus));
        let both = _mm256_and_si256(plus, minus);
        wrong = _mm256_or_si256(wrong, both);
        let (plus, minus) = (_mm256_andnot_si256(both, plus), _mm256_andnot_si256(both, minus));
        let code = |plus, minus| {
            let plus = _mm256_shuffle_epi8(high_bits, _mm256_and_si256(plus, nibble));
            _mm256_or_si256(plus, _mm256_shuffle_epi8(low_bits, _mm256_and_si256(minus, nibble)))
        };
        let first = code(plus, minus);
        let second = code(_mm256_srli_epi16::<4>(plus), _mm256_srli_epi16::<4>(minus));
        let (a, b) = (_mm256_unpacklo_epi8(first, second), _mm256_unpackhi_epi8(first, second));
        let halves = codes.as_chunks_mut().0;
        store(_mm256_permute2x128_si256::<0x20>(a, b), &mut halves[0]);
        store(_mm256_permute2x128_si256::<0x31>(a, b), &mut halves[1]);
    }
    let wrong = _mm256_testz_si256(wrong, wrong) == 0;
    scalar::join_planes(rest0, rest1, rest) | wrong
}

#[target_feature(enable = "avx2")]
fn pack_trits(trits: &[i8], bit0: &mut [u8], bit1: &mut [u8]) -> bool {
    let (zero, one) = (_mm256_setzero_si256(), _mm256_set1_epi8(1));
    let mut sound = _mm256_set1_epi8(-1);
    let (whole, rest) = trits.as_chunks::<32>();
    let (whole0, rest0) = bit0.as_chunks_mut::<4>();
    let (whole1, rest1) = bit1.as_chunks_mut::<4>();
    for ((trits, bit0), bit1) in whole.iter().zip(whole0).zip(whole1) {
        // SAFETY: 32 readable bytes; the load needs no alignment.
        let trits = unsafe { _mm256_loadu_si256(trits.as_ptr().cast()) };
        let (plus, minus) = (_mm256_cmpeq_epi8(trits, one), _mm256_cmpeq_epi8(trits, _mm256_set1_epi8(-1)));
        let any = _mm256_or_si256(_mm256_or_si256(plus, minus), _mm256_cmpeq_epi8(trits, zero));
        sound = _mm256_and_si256(sound, any);
        *bit0 = _mm256_movemask_epi8(plus).to_le_bytes();
        *bit1 = _mm256_movemask_epi8(minus).to_le_bytes();
    }
    let wrong = _mm256_movemask_epi8(sound) != -1;
    scalar::pack_trits(rest, rest0, rest1) | wrong
}

#[target_feature(enable = "avx2")]
fn unpack_trits(bit0: &[u8], bit1: &[u8], trits: &mut [i8]) -> bool {
    let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64.cast_signed());
    let byte = _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
    let mut wrong = 0;
    let (whole0, rest0) = bit0.as_chunks::<4>();
    let (whole1, rest1) = bit1.as_chunks::<4>();
    let (whole, rest) = trits.as_chunks_mut::<32>();
    for ((trits, plus), minus) in whole.iter_mut().zip(whole0).zip(whole1) {
        let (plus, minus) = (i32::from_le_bytes(*plus), i32::from_le_bytes(*minus));
        let both = plus & minus;
        wrong |= both;
        let mask = |bits: i32| {
            let spread = _mm256_shuffle_epi8(_mm256_set1_epi32(bits & !both), byte);
            _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), bit)
        };
        let values = _mm256_sub_epi8(mask(minus), mask(plus));
        // SAFETY: 32 writable bytes; the store needs no alignment.
        unsafe { _mm256_storeu_si256(trits.as_mut_ptr().cast(), values) };
    }
    scalar::unpack_trits(rest0, rest1, rest) | (wrong != 0)
}

#[target_feature(enable = "avx2")]
fn count_trits(trits: &[i8], wanted: i8) -> u64 {
    let (zero, wanted_everywhere) = (_mm256_setzero_si256(), _mm256_set1_epi8(wanted));
    let mut sums = zero;
    let (whole, rest) = trits.as_chunks::<32>();
    // Counters of a byte, added up before any can overflow.
    for run in whole.chunks(255) {
        let mut counters = zero;
        for trits in run {
            // SAFETY: 32 readable bytes; the load needs no alignment.
            let trits = unsafe { _mm256_loadu_si256(trits.as_ptr().cast()) };
            counters = _mm256_sub_epi8(counters, _mm256_cmpeq_epi8(trits, wanted_everywhere));
        }
        sums = _mm256_add_epi64(sums, _mm256_sad_epu8(counters, zero));
    }
    let halves = _mm_add_epi64(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
    let sum = _mm_cvtsi128_si64(halves) + _mm_extract_epi64::<1>(halves);
    sum.cast_unsigned() + scalar::count_trits(rest, wanted)
}

/// The highest bits of 32 bytes at once, slot after slot.
#[target_feature(enable = "avx2")]
fn unstride(layout: Strided, packed: &[u8], bit0: &mut [u8], bit1: &mut [u8]) -> bool {
    match layout {
        Strided::High32 => unstride_blocks(packed, bit0, bit1, |slots| slots),
        Strided::Low32 => unstride_blocks(packed, bit0, bit1, |[a, b, c, d]| [d, c, b, a]),
        Strided::High16 => unstride_half_blocks(packed, bit0, bit1),
    }
}

/// `order` puts the bits of slots 7:6, 5:4, 3:2 and 1:0 in the order of the weights.
#[inline]
#[target_feature(enable = "avx2")]
fn unstride_blocks(packed: &[u8], bit0: &mut [u8], bit1: &mut [u8], order: impl Fn([u32; 4]) -> [u32; 4]) -> bool {
    let mut wrong = _mm256_setzero_si256();
    let out = bit0.as_chunks_mut::<16>().0.iter_mut().zip(bit1.as_chunks_mut::<16>().0);
    for (packed, (bit0, bit1)) in packed.as_chunks().0.iter().zip(out) {
        let codes = load(packed);
        // The low bit of every code, brought over its high bit.
        let low = _mm256_add_epi8(codes, codes);
        wrong = _mm256_or_si256(wrong, _mm256_and_si256(codes, low));
        put_words(bit0, order(slots(_mm256_andnot_si256(low, codes))));
        put_words(bit1, order(slots(_mm256_or_si256(codes, low))).map(|neither| !neither));
    }
    _mm256_testz_si256(wrong, _mm256_set1_epi8(0xaa_u8.cast_signed())) == 0
}

/// The highest bits of bytes shifted by 0, 2, 4 and 6 places. Words are shifted, which brings in a neighbour's bits below.
#[inline]
#[target_feature(enable = "avx2")]
fn slots(bits: __m256i) -> [u32; 4] {
    let mask = |bits| _mm256_movemask_epi8(bits).cast_unsigned();
    [
        mask(bits),
        mask(_mm256_slli_epi16::<2>(bits)),
        mask(_mm256_slli_epi16::<4>(bits)),
        mask(_mm256_slli_epi16::<6>(bits)),
    ]
}

/// Blocks of 16 bytes, each in both halves of a register, whose high half is a slot ahead: a mask is 32 weights in order.
#[inline]
#[target_feature(enable = "avx2")]
fn unstride_half_blocks(packed: &[u8], bit0: &mut [u8], bit1: &mut [u8]) -> bool {
    let ahead = _mm256_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2);
    let mask = |bits| _mm256_movemask_epi8(bits).cast_unsigned();
    let pair = |bits| {
        let bits = _mm256_sllv_epi32(bits, ahead);
        [mask(bits), mask(_mm256_slli_epi16::<4>(bits))]
    };
    let mut wrong = _mm256_setzero_si256();
    let out = bit0.as_chunks_mut::<8>().0.iter_mut().zip(bit1.as_chunks_mut::<8>().0);
    for (packed, (bit0, bit1)) in packed.as_chunks::<16>().0.iter().zip(out) {
        // SAFETY: 16 readable bytes; the load needs no alignment.
        let codes = _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(packed.as_ptr().cast()) });
        let low = _mm256_add_epi8(codes, codes);
        wrong = _mm256_or_si256(wrong, _mm256_and_si256(codes, low));
        put_words(bit0, pair(_mm256_andnot_si256(low, codes)));
        put_words(bit1, pair(_mm256_or_si256(codes, low)).map(|neither| !neither));
    }
    _mm256_testz_si256(wrong, _mm256_set1_epi8(0xaa_u8.cast_signed())) == 0
}

/// 32 bits after the other.
#[inline]
fn put_words<const WORDS: usize>(bytes: &mut [u8], words: [u32; WORDS]) {
    bytes.as_chunks_mut().0.iter_mut().zip(words).for_each(|(bytes, word)| *bytes = word.to_le_bytes());
}
