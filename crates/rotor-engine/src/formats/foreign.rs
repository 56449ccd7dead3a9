//! What a file is that is no model: the things that lie under a model's name when a download, a clone or a conversion went
//! another way than its owner thinks, each with what to do about it.

use crate::error::FormatError;

/// Bytes from the beginning of a file that are looked at.
pub(super) const LOOKED_AT: usize = 4096;
/// Characters of a text that are shown.
const SHOWN: usize = 60;
/// The UTF-8 byte order mark that some editors put in front of a text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// How a file begins that Git LFS left in place of another one.
const LFS_POINTER: &[u8] = b"version https://git-lfs";

/// How files of one kind begin, what they are, and what to do.
type Kind = (&'static [u8], &'static str, &'static str);

const UNPACK: &str = "unpack it and name the model inside";
const OLD_GGML: &str = "no program writes or reads that any more: get the model as GGUF";
const TO_SAFETENSORS: &str = "it has to be converted to safetensors first, by the library that wrote it";
const PROGRAM: &str = "name a .gguf file, a .safetensors file or a folder in Hugging Face layout";

const KINDS: &[Kind] = &[
    (
        LFS_POINTER,
        "a Git LFS pointer, which stands for a file that was not fetched,",
        "run `git lfs pull` in its folder, or download the file itself",
    ),
    (b"lmgg", "a GGML file of 2023, older than GGUF,", OLD_GGML),
    (b"fmgg", "a GGML file of 2023, older than GGUF,", OLD_GGML),
    (b"tjgg", "a GGML file of 2023, older than GGUF,", OLD_GGML),
    (b"algg", "a GGML adapter of 2023, older than GGUF,", OLD_GGML),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file of weights", TO_SAFETENSORS),
    (b"\x93NUMPY", "a NumPy array", TO_SAFETENSORS),
    (b"\x1f\x8b", "a gzip archive", UNPACK),
    (b"BZh", "a bzip2 archive", UNPACK),
    (b"\xfd7zXZ\0", "an xz archive", UNPACK),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (b"Rar!", "a RAR archive", UNPACK),
    (b"%PDF", "a PDF document", PROGRAM),
    (b"\x7fELF", "a program", PROGRAM),
    (b"MZ", "a program", PROGRAM),
    (b"\n\x0e\n\x05<unk>", "a SentencePiece vocabulary", PROGRAM),
];

/// Bytes without the byte order mark in front of them, if there is one.
pub(super) fn without_byte_order_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes)
}

/// The error for a file that begins with `bytes` and is to be a model: [`FormatError::NotAModel`] where it is something that
/// is known, `None` where nothing tells.
pub(super) fn recognised(bytes: &[u8]) -> Option<FormatError> {
    let found = |what: &str, advice: &str| Some(FormatError::NotAModel { what: what.into(), advice: advice.into() });
    if bytes.is_empty() {
        return found("an empty file", "download it again");
    }
    let beginning = &bytes[..bytes.len().min(LOOKED_AT)];
    if let Some((_, what, advice)) = KINDS.iter().find(|(magic, ..)| beginning.starts_with(magic)) {
        return found(what, advice);
    }
    if beginning.starts_with(b"PK\x03\x04") || matches!(beginning, [0x80, 2..=5, ..]) {
        // A checkpoint of PyTorch is a pickle, or a zip archive with one inside.
        let is_pickle = beginning[0] == 0x80 || beginning.windows(8).any(|window| window == b"data.pkl");
        return if is_pickle { found("a PyTorch checkpoint", TO_SAFETENSORS) } else { found("a zip archive", UNPACK) };
    }
    if beginning.get(257..262) == Some(b"ustar") {
        return found("a tar archive", UNPACK);
    }
    if beginning.iter().all(|&byte| byte == 0) {
        return found("a file of zeros", "its place was reserved and the file was never written: download it again");
    }
    text(without_byte_order_mark(beginning))
}

/// The error where the bytes are a text.
fn text(bytes: &[u8]) -> Option<FormatError> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        // The last character may be cut.
        Err(error) if error.error_len().is_none() => std::str::from_utf8(&bytes[..error.valid_up_to()]).ok()?,
        Err(_) => return None,
    };
    if text.chars().any(|c| c.is_control() && !c.is_whitespace()) {
        return None;
    }
    let shown = preview(text);
    let lower = text.trim_start().to_ascii_lowercase();
    let found = |what: String, advice: &str| Some(FormatError::NotAModel { what, advice: advice.into() });
    if ["<!doctype html", "<html", "<head", "<?xml"].iter().any(|begin| lower.starts_with(begin)) {
        let advice = "download the file and not the page about it (the link has /resolve/ where the page's has /blob/)";
        return found("a web page".into(), advice);
    }
    if lower.starts_with('{') || lower.starts_with('[') {
        let advice = if lower.contains("\"model_type\"") || lower.contains("\"architectures\"") {
            "name the folder it is in"
        } else {
            "a server may have sent it in place of the file: download the file again"
        };
        return found(format!("a JSON text ({shown})"), advice);
    }
    found(format!("a text ({shown})"), PROGRAM)
}

/// The beginning of a text, on one line.
fn preview(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let cut: String = line.chars().take(SHOWN).collect();
    if cut.len() < line.len() { cut + "..." } else { cut }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(bytes: &[u8]) -> String {
        recognised(bytes).map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn a_file_that_is_no_model_is_called_what_it_is() {
        let tar = [vec![b'm'; 257], b"ustar\0".to_vec()].concat();
        let cases: [(&[u8], &str); 22] = [
            (b"", "an empty file is not a model: download it again"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "a Git LFS pointer, "),
            (b"<!DOCTYPE html><html>", "a web page is not a model: download the file"),
            (b"\xef\xbb\xbf \n<HTML>", "a web page is not a model: "),
            (b"{\"error\": \"not\n found\"}", "a JSON text ({\"error\": \"not found\"}) is not a model: "),
            (b"\xef\xbb\xbf[1]", "a JSON text ([1]) is not a model: "),
            (b"PK\x03\x04....archive/data.pkl", "a PyTorch checkpoint is not a model: it has to be converted"),
            (b"\x80\x02}q\x01", "a PyTorch checkpoint is not a model: "),
            (b"PK\x03\x04........model.gguf", "a zip archive is not a model: unpack it"),
            (b"lmgg\x01\0\0\0", "a GGML file of 2023, older than GGUF, is not a model: "),
            (b"tjgg\x03\0\0\0", "a GGML file of 2023, older than GGUF, is not a model: "),
            (b"algg\x01\0\0\0", "a GGML adapter of 2023, older than GGUF, is not a model: "),
            (b"\x1f\x8b\x08", "a gzip archive is not a model: unpack"),
            (&tar, "a tar archive is not a model: unpack"),
            (b"\x89HDF\r\n\x1a\n\0", "an HDF5 file of weights is not a model: "),
            (b"\x93NUMPY\x01", "a NumPy array is not a model: "),
            (&[0; 64], "a file of zeros is not a model: "),
            (b"%PDF-1.7", "a PDF document is not a model: "),
            (b"\n\x0e\n\x05<unk>\x15", "a SentencePiece vocabulary is not a model: "),
            ("Hä?".as_bytes(), "a text (Hä?) is not a model: "),
            (b"GGUX\x03\0\0\0", ""),
            (b"\xff\xfe\xfd\xfc", ""),
        ];
        for (bytes, expected) in cases {
            let told = told(bytes);
            assert!(told.starts_with(expected) && told.is_empty() == expected.is_empty(), "{told:?}, not {expected:?}");
        }
    }

    #[test]
    fn a_long_text_is_cut_and_a_character_may_be() {
        let told = told(&"aé".repeat(LOOKED_AT).into_bytes());
        assert!(told.starts_with("a text (aéaé") && told.contains("...) is not a model"), "{told}");
    }
}
