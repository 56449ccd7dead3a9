//! Hyper-parameters from `config.json`, in the key styles of transformers before and since version 5.

use super::json::Object;
use crate::architectures::{Architecture, SWITCHED_OFF, refusal};
use crate::config::fields::FIELDS;
use crate::config::{Activation, Config};
use crate::error::FormatError;

/// The hyper-parameters, checked; `hidden_act` overrides the file.
pub(super) fn config(file: &Object<'_>, hidden_act: Option<Activation>) -> Result<Config, FormatError> {
    let architecture = architecture(file)?;
    refuse_other_graphs(file)?;
    let name = file.str("_name_or_path")?.filter(|name| !name.is_empty()).map(str::to_owned);
    let mut config = Config { name, ..Config::new(architecture) };
    for field in FIELDS {
        match hidden_act {
            Some(given) if field.name == "hidden_act" => config.hidden_act = given,
            _ => (field.read_json)(file, &mut config)?,
        }
    }
    config.checked()
}

/// `architectures`, or `model_type` where that is absent: the 1bitLLM models have model_type "llama".
fn architecture(file: &Object<'_>) -> Result<Architecture, FormatError> {
    let class = file.strings("architectures")?.and_then(|classes| classes.first().copied());
    let model_type = file.str("model_type")?;
    let known = match (class, model_type) {
        (Some(class), _) => Architecture::from_class(class),
        (None, Some(model_type)) => Architecture::from_model_type(model_type),
        (None, None) => return Err(FormatError::missing(format!("architectures in {}", file.what))),
    };
    known.ok_or_else(|| refusal(class.or(model_type).unwrap_or_default()))
}

/// Features that a file of a known class may ask for and that no graph here has.
fn refuse_other_graphs(file: &Object<'_>) -> Result<(), FormatError> {
    for (key, why) in SWITCHED_OFF {
        if let Some(value) = file.get(key)
            && !(value == false || value.as_f64() == Some(0.0))
        {
            return Err(FormatError::unsupported(format!("{key} in {}", file.what), why));
        }
    }
    Ok(())
}
