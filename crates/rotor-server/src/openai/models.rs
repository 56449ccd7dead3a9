//! `GET /v1/models`: one list for OpenAI's clients, Anthropic's, and the page.

use crate::app::App;
use crate::error::ApiError;
use crate::models::{ModelSource, ModelSpec, State as ModelState};
use axum::extract::{Path, State};
use serde_json::{Value, json};
use std::sync::Arc;

/// The models of this server.
#[utoipa::path(
    get, path = "/v1/models", tag = "openai",
    responses((status = 200, description = "All models", body = Object), crate::openapi::Errors),
)]
pub(crate) async fn list_models(State(app): State<Arc<App>>) -> axum::Json<Value> {
    let data: Vec<_> = app.models.list().map(|(spec, state)| describe(&app, spec, &state)).collect();
    let id = |model: Option<&Value>| model.map_or(Value::Null, |model| model["id"].clone());
    let (first, last) = (id(data.first()), id(data.last()));
    axum::Json(json!({ "object": "list", "data": data, "has_more": false, "first_id": first, "last_id": last }))
}

/// One model. Its name may contain slashes.
#[utoipa::path(
    get, path = "/v1/models/{*id}", tag = "openai", params(("id" = String, Path, description = "Name of the model")),
    responses((status = 200, description = "The model", body = Object), crate::openapi::Errors),
)]
pub(crate) async fn get_model(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<axum::Json<Value>, ApiError> {
    let (spec, state) = app.models.find(&id)?;
    Ok(axum::Json(describe(&app, spec, &state)))
}

fn describe(app: &App, spec: &ModelSpec, state: &ModelState) -> Value {
    let loaded = match state {
        ModelState::Loaded(loaded) => Some(loaded),
        _ => None,
    };
    let status = match state {
        ModelState::Unloaded => json!({ "value": "unloaded" }),
        ModelState::Loading { progress } => json!({ "value": "loading", "progress": progress }),
        ModelState::Loaded(_) => json!({ "value": "loaded" }),
        ModelState::Failed(message) => json!({ "value": "failed", "message": message }),
    };
    let mut model = json!({
        "id": spec.id, "object": "model", "type": "model", "display_name": spec.id, "owned_by": "rotor",
        "created": app.models.created, "created_at": rfc3339(app.models.created),
        "builtin": spec.source == ModelSource::BuiltIn, "status": status,
        "architecture": { "input_modalities": ["text"], "output_modalities": ["text"] },
        // An unloaded model is taken to chat until it is known not to.
        "chat_template": loaded.is_none_or(|loaded| loaded.engine().chat_template().is_ok()),
        "thinking": loaded.is_some_and(|loaded| {
            loaded.engine().chat_template().is_ok_and(|template| template.source().contains("enable_thinking"))
        }),
    });
    if let Some(loaded) = loaded {
        let config = loaded.engine().model().config();
        model["meta"] = json!({
            "architecture": loaded.facts.architecture, "n_vocab": config.vocab_size,
            "n_ctx_train": config.max_position_embeddings, "n_embd": config.hidden_size,
            "n_params": loaded.facts.parameters, "size": loaded.facts.file_bytes,
        });
    }
    model
}

/// A Unix time as RFC 3339 writes it (days to a date by Hinnant's `civil_from_days`).
fn rfc3339(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    #[test]
    fn dates() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_764_500_000, "2025-11-30T10:53:20Z"),
            (4_102_444_799, "2099-12-31T23:59:59Z"),
        ] {
            assert_eq!(super::rfc3339(seconds), text);
        }
    }
}
