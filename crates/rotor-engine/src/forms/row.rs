//! What decoding a row may meet.

use crate::error::FormatError;

/// What the decoders write for a code that stands for no trit, so that one check serves every form.
pub(super) const INVALID: i8 = 2;

/// Why a row cannot be decoded.
pub(super) enum RowError {
    /// The bytes end before the row.
    Truncated,
    /// The row holds something that is no trit, which the decoder itself has found.
    Invalid,
    /// Anything else, as it is to be told.
    Other(FormatError),
}
