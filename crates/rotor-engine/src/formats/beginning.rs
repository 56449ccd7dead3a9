//! What the beginning of a model's file already tells, while the rest is still to come.
//!
//! A download of several gigabytes need not end before it shows that the model cannot be run: architecture, types and shapes
//! stand in the header. The beginning is opened as if the rest were there and zero; only a complaint about something that is
//! not supported counts then, because every other may come from the zeros.

use super::options::OpenOptions;
use super::source::Source;
use crate::error::FormatError;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

/// What the beginning of a file tells.
#[derive(Debug)]
pub enum Beginning {
    /// The header is complete, and the model is of a kind that is supported.
    Supported,
    /// The header may not be complete yet.
    Undecided,
    /// The model is of a kind that is not supported.
    Unsupported(FormatError),
}

/// Looks at a GGUF file of which only the beginning, at `path`, is there; the whole will have `size` bytes.
///
/// # Errors
///
/// [`FormatError::Io`] where the beginning cannot be read or set up for opening.
pub fn check_beginning(path: &Path, size: u64) -> Result<Beginning, FormatError> {
    let failed = |action| move |source| FormatError::Io { action, path: path.to_path_buf(), source };
    let mut whole = tempfile::NamedTempFile::new().map_err(failed("copy the beginning of"))?;
    let (mut beginning, mut buffer) = (File::open(path).map_err(failed("read"))?, vec![0; 1 << 20]);
    loop {
        match beginning.read(&mut buffer).map_err(failed("read"))? {
            0 => break,
            count => whole.write_all(&buffer[..count]).map_err(failed("copy the beginning of"))?,
        }
    }
    // The hole behind it takes no room on the disk.
    whole.as_file().set_len(size).map_err(failed("copy the beginning of"))?;
    let unsupported = match Source::open(whole.path(), &OpenOptions::default()) {
        Ok(_) => return Ok(Beginning::Supported),
        Err(FormatError::InFile { source, .. }) => *source,
        Err(error) => error,
    };
    let decided = matches!(unsupported, FormatError::Unsupported { .. });
    Ok(if decided { Beginning::Unsupported(unsupported) } else { Beginning::Undecided })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synth::{Preset, SynthOptions};

    #[test]
    fn a_header_tells_before_the_weights_are_there() {
        let folder = tempfile::tempdir().unwrap();
        let (path, beginning) = (folder.path().join("tiny.gguf"), folder.path().join("beginning"));
        crate::synth::synthesize(Preset::Tiny, &path, &SynthOptions::default(), &mut |_, _| {}).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let check = |bytes: &[u8]| {
            std::fs::write(&beginning, bytes).unwrap();
            check_beginning(&beginning, whole.len() as u64).unwrap()
        };
        assert!(matches!(check(&whole[..1000]), Beginning::Undecided));
        assert!(matches!(check(&whole[..whole.len() / 2]), Beginning::Supported));

        // The same file of an architecture that nobody knows.
        let name = b"bitnet-b1.58";
        let at = whole.windows(name.len()).position(|window| window == name).unwrap();
        let mut other = whole[..whole.len() / 2].to_vec();
        other[at..at + name.len()].copy_from_slice(b"bitnet-c2.00");
        match check(&other) {
            Beginning::Unsupported(error) => assert!(error.to_string().contains("bitnet-c2.00"), "{error}"),
            found => panic!("{found:?}"),
        }
    }
}
