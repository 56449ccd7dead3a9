//! `quantization_config`: which linears are ternary, how they are stored, and which way their scale goes.
//! docs/formats.md, "Hugging Face packed U8".

use super::json::Object;
use crate::error::FormatError;

/// How the seven projections are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    /// As ordinary numbers, used as they are.
    Dense,
    /// As float master weights, to be quantised.
    Master,
    /// As packed trits; the stored scale divides (`bitlinear`) or multiplies (`autobitlinear`).
    Packed { divides: bool },
    /// As MLX's packs of 2 bits, with a scale to so many columns.
    Mlx { group_cols: usize },
}

/// The parsed `quantization_config`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Quantization {
    pub(super) scheme: Scheme,
    /// Whether every converted linear has an RMSNorm of its own.
    pub(super) use_rms_norm: bool,
    /// Modules that stay as they are.
    skipped: Vec<String>,
}

impl Quantization {
    /// Without a `quantization_config`, a BitNet model holds master weights (1bitLLM) and any other is an ordinary one.
    pub(super) fn read(file: &Object<'_>, master_weights: bool) -> Result<Self, FormatError> {
        if let Some(mlx) = file.object("quantization")? {
            return Ok(Self { scheme: mlx_scheme(&mlx)?, use_rms_norm: false, skipped: Vec::new() });
        }
        let Some(object) = file.object("quantization_config")? else {
            let scheme = if master_weights { Scheme::Master } else { Scheme::Dense };
            return Ok(Self { scheme, use_rms_norm: false, skipped: vec!["lm_head".into()] });
        };
        match object.str("quant_method")? {
            Some("bitnet") => {}
            other => {
                let what = format!("quant_method {:?}", other.unwrap_or("(absent)"));
                return Err(FormatError::unsupported(what, "known is bitnet"));
            }
        }
        let skipped = match object.strings("modules_to_not_convert")? {
            Some(skipped) => skipped.into_iter().map(str::to_owned).collect(),
            None => vec!["lm_head".into()],
        };
        Ok(Self { scheme: scheme(&object)?, use_rms_norm: object.bool("use_rms_norm")?.unwrap_or(false), skipped })
    }

    /// Whether a module stays as it is: one of the listed names is a run of its path's parts.
    pub(super) fn skips(&self, module: &str) -> bool {
        let module = format!(".{module}.");
        self.skipped.iter().any(|name| !name.is_empty() && module.contains(&format!(".{name}.")))
    }
}

/// What MLX writes: `{"group_size": 128, "bits": 2, "mode": "affine"}`.
fn mlx_scheme(object: &Object<'_>) -> Result<Scheme, FormatError> {
    let refuse = |what: String| Err(FormatError::unsupported(what, "of MLX's packs those of 2 bits, affine, are read"));
    match object.str("mode")? {
        None | Some("affine") => {}
        Some(other) => return refuse(format!("quantization.mode {other:?}")),
    }
    match object.usize("bits")? {
        Some(2) => {}
        other => {
            return refuse(format!("quantization.bits {}", other.map_or("(absent)".into(), |bits| bits.to_string())));
        }
    }
    match object.usize("group_size")? {
        Some(group_cols) if group_cols > 0 => Ok(Scheme::Mlx { group_cols }),
        other => Err(FormatError::invalid("quantization.group_size", "columns of a group", format!("{other:?}"))),
    }
}

fn scheme(object: &Object<'_>) -> Result<Scheme, FormatError> {
    let online = match object.str("quantization_mode")?.unwrap_or("offline") {
        "online" => true,
        "offline" => false,
        other => {
            return Err(FormatError::unsupported(
                format!("quantization_mode {other:?}"),
                "known are online and offline",
            ));
        }
    };
    match object.str("linear_class")?.unwrap_or("bitlinear") {
        "autobitlinear" if online => Ok(Scheme::Master),
        "autobitlinear" => Ok(Scheme::Packed { divides: false }),
        "bitlinear" if online => {
            Err(FormatError::unsupported("quantization_mode online with bitlinear", "that class holds packed weights"))
        }
        "bitlinear" => Ok(Scheme::Packed { divides: true }),
        other => {
            Err(FormatError::unsupported(format!("linear_class {other:?}"), "known are bitlinear and autobitlinear"))
        }
    }
}
