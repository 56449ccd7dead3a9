//! Keys and tensors of a file become hyper-parameters and a graph.

use super::graph::{Form, Graph};
use super::i2s_layout::{self, Detection};
use super::metadata::{Metadata, Value};
use super::model_file::Contents;
use super::options::OpenOptions;
use super::table::TensorTable;
use super::{gguf, hf, keys};
use crate::config::Config;
use crate::config::activations::{JSON_KEY, KEY, Traits, of_family};
use crate::config::values::HIDDEN_ACT_KEY;
use crate::error::FormatError;
use crate::forms::{I2sLayout, TernaryForm};

/// What binding finds in a file: hyper-parameters, the place of every tensor of the graph, and what is odd.
pub(super) struct Bound {
    pub(super) config: Config,
    pub(super) graph: Graph,
    pub(super) i2s_layout: I2sLayout,
    pub(super) activations_reason: &'static str,
    pub(super) warnings: Vec<String>,
}

impl Bound {
    /// Decides how finely the inputs of ternary linears are kept, where the file does not say, and notes it among the
    /// model's keys, so that whatever it is converted to says it.
    fn choose_activations(&mut self, contents: &mut Contents) -> Result<(), FormatError> {
        let linears = self.graph.linears.values().map(|linear| linear.matrix.form);
        let forms: Vec<_> = linears.chain(self.graph.matrices.values().map(|matrix| matrix.form)).collect();
        let ternary = || {
            forms.iter().filter_map(|form| match form {
                Form::Ternary { form, .. } => Some(*form),
                Form::Dense(_) => None,
            })
        };
        if ternary().next().is_none() {
            self.config.activations = None;
            return Ok(());
        }
        let (activations, reason) = match self.config.activations {
            Some(declared) => (declared, "the file says so"),
            None => {
                let norms_in_linears = self.graph.linears.values().any(|linear| linear.input_norm.is_some());
                let int8_forms = ternary()
                    .any(|form| matches!(form, TernaryForm::I2S(_) | TernaryForm::Tl1(_) | TernaryForm::Tl2(_)));
                let weight_only_forms =
                    ternary().any(|form| matches!(form, TernaryForm::Mlx | TernaryForm::Unpacked(_)));
                let traits = Traits { norms_in_linears, int8_forms, weight_only_forms, ..Traits::default() };
                contents.with_traits(traits, of_family)?
            }
        };
        (self.config.activations, self.activations_reason) = (Some(activations), reason);
        match contents {
            Contents::Gguf(metadata) => metadata.set(KEY, Value::String(activations.name().into())),
            Contents::HuggingFace(folder) => {
                folder.config.insert(JSON_KEY.into(), activations.name().into());
            }
        }
        Ok(())
    }
}

/// Binds the keys and tensors of a file. What is given in place of what the file says, or told by the kind of its tensors,
/// is noted among its keys.
pub(super) fn bind(contents: &mut Contents, table: &TensorTable, options: &OpenOptions) -> Result<Bound, FormatError> {
    let mut bound = match contents {
        Contents::Gguf(metadata) => bind_gguf(metadata, table, options)?,
        Contents::HuggingFace(folder) => bind_folder(folder, table, options)?,
    };
    bound.choose_activations(contents)?;
    Ok(bound)
}

/// Binds the keys and tensors of a GGUF. An activation function that is given takes the place of the file's.
fn bind_gguf(metadata: &mut Metadata, table: &TensorTable, options: &OpenOptions) -> Result<Bound, FormatError> {
    let (config, mut warnings) = gguf::config(metadata, table, options.hidden_act)?;
    let architecture = metadata.str("general.architecture")?.unwrap_or_default();
    warnings.extend(keys::check_gguf(metadata, architecture, config.architecture.info())?);
    let (graph, graph_warnings) = gguf::graph(table, &config, &options.kernel_config)?;
    warnings.extend(graph_warnings);
    if let Some(given) = options.hidden_act {
        metadata.set(HIDDEN_ACT_KEY, Value::String(given.name().into()));
    }
    let named = i2s_layout::named(metadata)?;
    let i2s_layout = match options.i2s_layout.or(named) {
        Some(known) => known,
        None => match i2s_layout::detect(table, &graph) {
            Detection::Found(layout) => layout,
            Detection::Unclear { doubtful } => {
                let doubt = "the weights fit the I2_S layout 64/16 a little better than 128/32, which is assumed";
                warnings.extend(doubtful.then(|| doubt.to_owned()));
                i2s_layout::DEFAULT
            }
        },
    };
    Ok(Bound { config, graph, i2s_layout, activations_reason: "", warnings })
}

/// Binds the configuration and tensors of a folder. An activation function that is given takes the place of the file's.
fn bind_folder(folder: &mut hf::Folder, table: &TensorTable, options: &OpenOptions) -> Result<Bound, FormatError> {
    let (config, graph, warnings) = hf::bind(folder, table, options)?;
    if let Some(given) = options.hidden_act {
        folder.config.insert("hidden_act".into(), given.name().into());
    }
    let i2s_layout = options.i2s_layout.unwrap_or(i2s_layout::DEFAULT);
    Ok(Bound { config, graph, i2s_layout, activations_reason: "", warnings })
}

impl Contents {
    /// Completes the traits of a model's family by what its keys say.
    fn with_traits<R>(&self, traits: Traits<'_>, choose: impl FnOnce(Traits<'_>) -> R) -> Result<R, FormatError> {
        match self {
            Contents::Gguf(metadata) => {
                let architecture = metadata.str("general.architecture")?.unwrap_or_default();
                let is_name = |key: &str| {
                    let base_model = key.starts_with("general.base_model.") && key.ends_with(".name");
                    base_model || matches!(key, "general.name" | "general.basename")
                };
                let names = metadata.iter().filter(|(key, _)| is_name(key)).filter_map(|(_, value)| value.as_str());
                let names = names.collect::<Vec<_>>().join("\n");
                let (is_bitnet, is_llama_gguf) = (architecture.starts_with("bitnet"), architecture == "llama");
                Ok(choose(Traits { is_bitnet, is_llama_gguf, names: &names, ..traits }))
            }
            // Other checkpoints have ternary linears only where their configuration says BitNet.
            Contents::HuggingFace(_) => Ok(choose(Traits { is_bitnet: !traits.weight_only_forms, ..traits })),
        }
    }
}
