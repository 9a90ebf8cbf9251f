//! OpenAI as Codex and OpenCode use it: accounts, models, responses by SSE and WebSocket, the renewal of a login; and the
//! older form of chat completions, which many providers speak.

use http::StatusCode;
use serde_json::{Value, json};

use super::accounts::{ACCOUNT_ID, IN_ONE_HOUR, Service, signed};
use super::reply::{self, Reply};
use super::{Ask, World};

/// Answers for chatgpt.com and api.openai.com.
pub(crate) fn api(world: &World, ask: &Ask) -> Reply {
    if !world.accept(Service::OpenAi, ask) {
        return unauthorized();
    }
    let path = ask.path.trim_start_matches("/backend-api");
    match path {
        "/wham/accounts/check" => reply::ok(&json!({
            "accounts": [{"id": ACCOUNT_ID, "plan_type": "pro", "name": null, "structure": "personal",
                "workspace_backend_origin": "NO_CONSTRAINT", "account_routing_override": "NO_CONSTRAINT"}],
            "account_ordering": [ACCOUNT_ID], "default_account_id": ACCOUNT_ID,
        })),
        "/codex/models" => reply::ok(&json!({"models": []})),
        "/v1/models" => reply::ok(&json!({"object": "list", "data": []})),
        "/codex/responses" | "/v1/responses" => {
            let events = response(&world.behaviour.answer, &ask.document());
            reply::events(
                events
                    .iter()
                    .map(|event| (event["type"].as_str(), event.to_string())),
            )
        }
        _ => reply::not_found(),
    }
}

/// What a token that is not good is answered.
pub(crate) fn unauthorized() -> Reply {
    let error = json!({"error": {"message": "Provided authentication token is expired.", "type": null,
        "code": "token_expired", "param": null}, "status": 401});
    reply::json(StatusCode::UNAUTHORIZED, &error)
}

/// Answers for auth.openai.com.
pub(crate) fn login(world: &World, ask: &Ask) -> Reply {
    if ask.path != "/oauth/token" {
        return reply::not_found();
    }
    let fields = ask.fields();
    let refresh = fields["refresh_token"].as_str().unwrap_or_default();
    if fields["client_id"] != CLIENT_ID || fields["grant_type"] != "refresh_token" {
        let error = json!({"error": {"code": "invalid_request"}});
        return reply::json(StatusCode::BAD_REQUEST, &error);
    }
    match world.renew(Service::OpenAi, refresh) {
        Some(renewed) => reply::ok(&json!({
            "access_token": renewed.access, "refresh_token": renewed.refresh, "token_type": "bearer",
            "id_token": signed("id-token-of-the-renewed-login", IN_ONE_HOUR), "expires_in": IN_ONE_HOUR,
        })),
        None => {
            let error = json!({"error": {"code": "refresh_token_reused", "message": "used"}});
            reply::json(StatusCode::UNAUTHORIZED, &error)
        }
    }
}

/// Codex's public client, which OpenCode uses too.
const CLIENT_ID: &str = "app_EMoamEEZ73f0CkXaXp7hrann";

/// The events of one response.
pub(crate) fn response(answer: &str, prompt: &Value) -> Vec<Value> {
    let warm_up = prompt["generate"] == false;
    let head = |status: &str, output: Vec<Value>, usage: Value| {
        json!({"id": "resp_fake", "object": "response", "created_at": 1_760_000_000, "status": status,
            "model": prompt["model"], "output": output, "incomplete_details": null, "error": null,
            "service_tier": "default", "usage": usage})
    };
    let usage = json!({"input_tokens": 11, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 18});
    let part = |text: &str| json!({"type": "output_text", "text": text, "annotations": []});
    let item = |status: &str, content: Vec<Value>| json!({"type": "message", "id": "msg_fake", "role": "assistant", "status": status, "content": content});
    let done = item("completed", vec![part(answer)]);
    let mut events = vec![
        json!({"type": "response.created", "response": head("in_progress", Vec::new(), Value::Null)}),
    ];
    if !warm_up {
        let at = |kind: &str, more: Value| {
            let mut event =
                json!({"type": kind, "item_id": "msg_fake", "output_index": 0, "content_index": 0});
            let more = more.as_object().into_iter().flatten();
            event
                .as_object_mut()
                .expect("an event is an object")
                .extend(more.map(|(name, value)| (name.clone(), value.clone())));
            event
        };
        events.extend([
            at(
                "response.output_item.added",
                json!({"item": item("in_progress", Vec::new())}),
            ),
            at("response.content_part.added", json!({"part": part("")})),
            at(
                "response.output_text.delta",
                json!({"delta": answer, "logprobs": []}),
            ),
            at(
                "response.output_text.done",
                json!({"text": answer, "logprobs": []}),
            ),
            at("response.content_part.done", json!({"part": part(answer)})),
            at("response.output_item.done", json!({"item": done})),
        ]);
    }
    let output = if warm_up { Vec::new() } else { vec![done] };
    events
        .push(json!({"type": "response.completed", "response": head("completed", output, usage)}));
    for (number, event) in events.iter_mut().enumerate() {
        event["sequence_number"] = json!(number);
    }
    events
}

/// A chat completion, as a stream or whole.
pub(crate) fn chat_completion(answer: &str, ask: &Ask) -> Reply {
    let prompt = ask.document();
    let usage = json!({"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18});
    let whole = |kind: &str, choice: Value, usage: Value| {
        json!({"id": "chatcmpl-fake", "object": kind, "created": 1_760_000_000, "model": prompt["model"],
            "choices": [choice], "usage": usage})
    };
    if prompt["stream"] != true {
        let message = json!({"role": "assistant", "content": answer});
        let choice = json!({"index": 0, "message": message, "finish_reason": "stop"});
        return reply::ok(&whole("chat.completion", choice, usage));
    }
    let chunk = |delta: Value, finish: Value, usage: Value| {
        let choice = json!({"index": 0, "delta": delta, "finish_reason": finish});
        (
            None,
            whole("chat.completion.chunk", choice, usage).to_string(),
        )
    };
    reply::events([
        chunk(
            json!({"role": "assistant", "content": answer}),
            Value::Null,
            Value::Null,
        ),
        chunk(json!({}), json!("stop"), usage),
        (None, "[DONE]".to_owned()),
    ])
}

/// Answers for api.z.ai.
pub(crate) fn zai(world: &World, ask: &Ask) -> Reply {
    if !world.accept(Service::Zai, ask) {
        let error = json!({"error": {"code": "1000", "message": "Authentication Failed"}});
        return reply::json(StatusCode::UNAUTHORIZED, &error);
    }
    if ask.path.ends_with("/chat/completions") {
        return chat_completion(&world.behaviour.answer, ask);
    }
    reply::not_found()
}
