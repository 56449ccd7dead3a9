//! Texts as vectors: hidden states after the final norm, pooled.

use crate::batch::{BatchOptions, RequestId};
use crate::config::Pooling;
use crate::engine::Engine;
use crate::request::{EmbedRequest, Event, GenerateError};
use rotor_kernels::attention::KvType;
use std::collections::HashMap;
use std::ops::ControlFlow;

impl Engine {
    /// How the model's file says that hidden states are pooled; the mean where it does not.
    pub fn pooling(&self) -> Pooling {
        self.model().config().pooling.unwrap_or(Pooling::Mean)
    }

    /// A vector of length 1, `[hidden]`, for each text, given as its ids. Texts share steps as they come, whatever their
    /// lengths, and nothing is padded: a text's vector is the same alone and among others. `done` hears how many are done, and
    /// may break off, which leaves the others out.
    ///
    /// # Errors
    /// If a text has no tokens, ids outside the vocabulary, or more tokens than there is memory for; and where a number is not
    /// finite.
    pub fn embed(
        &self,
        texts: Vec<Vec<u32>>,
        pooling: Pooling,
        done: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Vec<Vec<f32>>, GenerateError> {
        let longest = texts.iter().map(Vec::len).max().unwrap_or(0).max(1);
        // Keys and values are kept as they are: a text is there for a moment, and rounding them would show in the vectors.
        let mut batch = self.batch(BatchOptions { kv: KvType::F32, ..BatchOptions::new(longest) });
        let mut vectors = vec![Vec::new(); texts.len()];
        let mut places: HashMap<RequestId, usize> = HashMap::with_capacity(texts.len());
        for (place, tokens) in texts.into_iter().enumerate() {
            let id = batch.add_embedding(EmbedRequest { tokens, pooling, normalize: true })?;
            places.insert(id, place);
        }
        while !places.is_empty() {
            for (id, event) in batch.step(self.model()) {
                match event {
                    Event::Embedding(vector) => {
                        if let Some(&bad) = vector.iter().find(|value| !value.is_finite()) {
                            return Err(GenerateError::NotFinite(bad));
                        }
                        if let Some(place) = places.remove(&id) {
                            vectors[place] = vector;
                        }
                    }
                    Event::Failed { error, .. } => return Err(error),
                    Event::Prompt { .. } | Event::Token(_) | Event::Finished(_) => {}
                }
            }
            if done(vectors.len() - places.len()).is_break() {
                break;
            }
        }
        Ok(vectors)
    }
}
