//! The two hashes that hubs name contents by.

use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::fmt;
use std::io::{self, Read};

/// Bytes read at once while hashing.
const BLOCK: usize = 1 << 20;

/// The hash of a file's contents, in lower-case hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Hash {
    /// Of a large file: SHA-256, 64 digits.
    Sha256(String),
    /// Of a small file: the SHA-1 of git's blob object, 40 digits.
    GitBlob(String),
}

impl Hash {
    /// A hash by its number of digits; `None` for anything else, because it becomes a file's name.
    pub fn parse(text: &str) -> Option<Hash> {
        let hexadecimal = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        match text.len() {
            64 if hexadecimal => Some(Hash::Sha256(text.into())),
            40 if hexadecimal => Some(Hash::GitBlob(text.into())),
            _ => None,
        }
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        match self {
            Hash::Sha256(digits) | Hash::GitBlob(digits) => digits,
        }
    }

    /// What the hash is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Hash::Sha256(_) => "SHA-256",
            Hash::GitBlob(_) => "git object id",
        }
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Computes a hash of the kind that is expected.
#[derive(Clone)]
pub(crate) enum Hasher {
    Sha256(Sha256),
    GitBlob(Sha1),
}

impl Hasher {
    /// `size` is part of what git hashes.
    pub(crate) fn new(expected: &Hash, size: u64) -> Hasher {
        match expected {
            Hash::Sha256(_) => Hasher::Sha256(Sha256::new()),
            Hash::GitBlob(_) => Hasher::GitBlob(Sha1::new_with_prefix(format!("blob {size}\0"))),
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(hasher) => hasher.update(bytes),
            Hasher::GitBlob(hasher) => hasher.update(bytes),
        }
    }

    pub(crate) fn finish(self) -> Hash {
        let hexadecimal = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self {
            Hasher::Sha256(hasher) => Hash::Sha256(hexadecimal(&hasher.finalize())),
            Hasher::GitBlob(hasher) => Hash::GitBlob(hexadecimal(&hasher.finalize())),
        }
    }

    /// Hashes up to `limit` bytes, telling how many have been read; returns their number.
    pub(crate) fn update_from(
        &mut self,
        reader: impl Read,
        limit: u64,
        progress: &mut dyn FnMut(u64),
    ) -> io::Result<u64> {
        let (mut reader, mut buffer, mut done) = (reader.take(limit), vec![0; BLOCK], 0);
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return Ok(done),
                Ok(count) => {
                    self.update(&buffer[..count]);
                    done += count as u64;
                    progress(done);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// The hash of a whole file, of the kind that is expected, telling how many bytes have been read.
///
/// # Errors
///
/// Those of the system.
pub fn hash_file(path: &std::path::Path, expected: &Hash, progress: &mut dyn FnMut(u64)) -> io::Result<Hash> {
    let file = std::fs::File::open(path)?;
    let mut hasher = Hasher::new(expected, file.metadata()?.len());
    hasher.update_from(file, u64::MAX, progress)?;
    Ok(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        let of = |expected: &Hash, bytes: &[u8]| {
            let mut hasher = Hasher::new(expected, bytes.len() as u64);
            hasher.update(bytes);
            hasher.finish()
        };
        let sha = Hash::parse("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad").unwrap();
        assert_eq!(of(&sha, b"abc"), sha);
        // What `git hash-object` prints for the five bytes and for none.
        let git = Hash::parse("ce013625030ba8dba906f756967f9e9ca394464a").unwrap();
        assert_eq!(of(&git, b"hello\n"), git);
        assert_eq!(of(&git, b"").as_str(), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
    }

    #[test]
    fn only_hexadecimal_of_the_right_length_is_a_hash() {
        for bad in ["", "../../evil", &"a".repeat(63), &"A".repeat(64), &"g".repeat(40), &"\u{1}".repeat(40)] {
            assert_eq!(Hash::parse(bad), None, "{bad:?}");
        }
    }
}
