//! Hyper-parameters as GGUF keys, in the order of the published files.

use super::gguf::GgufHeader;
use super::gguf_keys::GgufKeys;
use crate::config::Config;
use crate::config::fields::FIELDS;

/// Adds every hyper-parameter's keys, those under `architecture` and rotor's own. `tokenizer` is `tokenizer.ggml.model`.
pub fn put_config_keys(header: &mut GgufHeader, architecture: &str, config: &Config, tokenizer: Option<&str>) {
    let mut keys = GgufKeys { header, architecture, tokenizer };
    for field in FIELDS {
        (field.put_gguf)(config, &mut keys);
    }
}
