//! Names for things that clients send back.

const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A name that nobody has met: `prefix` and 24 random letters.
pub(crate) fn unique(prefix: &str) -> String {
    let letter = |_| char::from(LETTERS[fastrand::usize(..LETTERS.len())]);
    format!("{prefix}{}", (0..24).map(letter).collect::<String>())
}
