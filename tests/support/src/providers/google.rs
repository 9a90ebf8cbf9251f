//! Google as the Gemini CLI uses it: Code Assist with a login, the public API with a key, the renewal of a login.

use http::StatusCode;
use serde_json::{Value, json};

use super::accounts::Service;
use super::reply::{self, Reply};
use super::{Ask, World};

/// Answers for cloudcode-pa.googleapis.com, generativelanguage.googleapis.com and the Vertex hosts.
pub(crate) fn api(world: &World, ask: &Ask) -> Reply {
    if !world.accept(Service::Google, ask) {
        let error = json!({"error": {"code": 401, "status": "UNAUTHENTICATED",
            "message": "Request had invalid authentication credentials."}});
        return reply::json(StatusCode::UNAUTHORIZED, &error);
    }
    let wrapped = ask.host.starts_with("cloudcode-pa.");
    let method = ask.path.rsplit(':').next().unwrap_or_default();
    let tier = json!({"id": "standard-tier", "name": "Standard", "isDefault": true});
    let text = text(world, &ask.document());
    let generated = || {
        let candidate = json!({"content": {"role": "model", "parts": [{"text": text}]},
            "finishReason": "STOP", "index": 0});
        let usage =
            json!({"promptTokenCount": 11, "candidatesTokenCount": 7, "totalTokenCount": 18});
        let document = json!({"candidates": [candidate], "usageMetadata": usage, "modelVersion": "gemini-fake"});
        if wrapped {
            json!({"response": document, "traceId": "fake"})
        } else {
            document
        }
    };
    match method {
        "loadCodeAssist" => reply::ok(&json!({"currentTier": tier, "allowedTiers": [tier],
            "cloudaicompanionProject": "fake-project", "gcpManaged": false})),
        "onboardUser" => reply::ok(&json!({"name": "operations/fake", "done": true,
            "response": {"cloudaicompanionProject": {"id": "fake-project", "name": "fake"}}})),
        "streamGenerateContent" => reply::events([(None, generated().to_string())]),
        "generateContent" => reply::ok(&generated()),
        "countTokens" => reply::ok(&json!({"totalTokens": 11})),
        _ => reply::not_found(),
    }
}

/// The fixed text; where the client asks for a document, the one by which it chooses a model.
fn text(world: &World, prompt: &Value) -> String {
    let request = prompt.get("request").unwrap_or(prompt);
    if request["generationConfig"]["responseMimeType"] == "application/json" {
        return json!({"complexity_reasoning": "a greeting", "complexity_score": 1,
            "reasoning": "a greeting", "model_choice": "flash"})
        .to_string();
    }
    world.behaviour.answer.clone()
}

/// Answers for oauth2.googleapis.com and www.googleapis.com.
pub(crate) fn login(world: &World, ask: &Ask) -> Reply {
    let error = |name: &str| json!({"error": name, "error_description": "fake"});
    let known = || world.accept(Service::Google, ask);
    match ask.path.as_str() {
        "/token" => {
            let fields = ask.fields();
            let refresh = fields["refresh_token"].as_str().unwrap_or_default();
            match world.renew(Service::Google, refresh) {
                // Google's do not rotate, but may.
                Some(renewed) => {
                    reply::ok(&json!({"access_token": renewed.access, "expires_in": 3599,
                    "refresh_token": renewed.refresh, "token_type": "Bearer",
                    "scope": "https://www.googleapis.com/auth/cloud-platform"}))
                }
                None => reply::json(StatusCode::BAD_REQUEST, &error("invalid_grant")),
            }
        }
        "/tokeninfo" if known() => {
            reply::ok(&json!({"aud": "fake", "email": "person@example.test",
            "expires_in": 3000, "scope": "https://www.googleapis.com/auth/cloud-platform"}))
        }
        "/oauth2/v2/userinfo" if known() => {
            reply::ok(&json!({"id": "1", "email": "person@example.test", "name": "A Person"}))
        }
        "/tokeninfo" | "/oauth2/v2/userinfo" => {
            reply::json(StatusCode::UNAUTHORIZED, &error("invalid_token"))
        }
        _ => reply::not_found(),
    }
}

/// The catalogue of models that OpenCode asks for.
pub(crate) fn model_catalogue() -> Reply {
    let model = |id: &str| {
        json!({"id": id, "name": id, "attachment": false, "reasoning": false, "temperature": true,
            "tool_call": true, "cost": {"input": 1, "output": 1}, "limit": {"context": 200_000, "output": 8192},
            "modalities": {"input": ["text"], "output": ["text"]}, "open_weights": false,
            "release_date": "2025-01-01", "last_updated": "2025-01-01"})
    };
    let provider = |id: &str, (variable, package): (&str, &str), api: Value, models: &[&str]| {
        let models: serde_json::Map<String, Value> = models
            .iter()
            .map(|id| ((*id).to_owned(), model(id)))
            .collect();
        json!({"id": id, "name": id, "env": [variable], "npm": package, "api": api, "models": models})
    };
    reply::ok(&json!({
        "anthropic": provider("anthropic", ("ANTHROPIC_API_KEY", "@ai-sdk/anthropic"), Value::Null,
            &["claude-sonnet-4-5", "claude-haiku-4-5"]),
        "openai": provider("openai", ("OPENAI_API_KEY", "@ai-sdk/openai"), Value::Null,
            &["gpt-5.2", "gpt-5.2-codex", "gpt-5.3-codex", "gpt-5.4"]),
        "zai": provider("zai", ("ZHIPU_API_KEY", "@ai-sdk/openai-compatible"),
            json!("https://api.z.ai/api/paas/v4"), &["glm-4.6"]),
    }))
}
