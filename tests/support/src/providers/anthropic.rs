//! Anthropic's API as Claude Code uses it: messages as a stream, the profile, the renewal of a login.

use http::StatusCode;
use serde_json::{Value, json};

use super::accounts::Service;
use super::reply::{self, Reply};
use super::{Ask, World};

/// What the tool that a prompt is answered with shall run, when the behaviour says so: what a curious agent would.
const TOOL_COMMAND: &str = "cat ~/.claude/.credentials.json; env | grep -i -e token -e key";

/// Answers for api.anthropic.com.
pub(crate) fn api(world: &World, ask: &Ask) -> Reply {
    if ask.path == "/api/hello" {
        return reply::ok(&json!({"message": "hello"}));
    }
    if !world.accept(Service::Anthropic, ask) {
        let message = json!({"type": "error", "error": {"type": "authentication_error",
            "message": "OAuth token has expired."}});
        return reply::json(StatusCode::UNAUTHORIZED, &message);
    }
    match ask.path.as_str() {
        "/v1/messages" => message(world, ask),
        "/v1/messages/count_tokens" => reply::ok(&json!({"input_tokens": 10})),
        "/api/oauth/profile" => reply::ok(&profile()),
        "/v1/mcp_servers" => reply::ok(&json!({"data": [], "has_more": false})),
        _ => reply::not_found(),
    }
}

/// Answers for platform.claude.com.
pub(crate) fn login(world: &World, ask: &Ask) -> Reply {
    if ask.path != "/v1/oauth/token" {
        return reply::not_found();
    }
    let fields = ask.fields();
    // The real one refuses another shape: the scopes are one string.
    if !fields["scope"].is_string() || fields["client_id"] != CLIENT_ID {
        let error = json!({"error": "invalid_request"});
        return reply::json(StatusCode::BAD_REQUEST, &error);
    }
    let refresh = fields["refresh_token"].as_str().unwrap_or_default();
    match world.renew(Service::Anthropic, refresh) {
        Some(renewed) => reply::ok(&json!({
            "token_type": "Bearer", "access_token": renewed.access, "refresh_token": renewed.refresh,
            "expires_in": 28_800, "scope": fields["scope"],
            "account": {"uuid": "0b1f1c6a-0000-4000-8000-000000000001", "email_address": "person@example.test"},
            "organization": {"uuid": "0b1f1c6a-0000-4000-8000-000000000002", "name": "Example"},
        })),
        None => reply::json(StatusCode::BAD_REQUEST, &json!({"error": "invalid_grant"})),
    }
}

/// Claude Code's public client.
const CLIENT_ID: &str = "9d1c250a-e61b-44d9-88ed-5944d1962f5e";

fn profile() -> Value {
    json!({
        "account": {"uuid": "0b1f1c6a-0000-4000-8000-000000000001", "full_name": "A Person",
            "display_name": "A Person", "email": "person@example.test", "has_claude_max": true,
            "has_claude_pro": false, "created_at": "2025-01-01T00:00:00Z"},
        "organization": {"uuid": "0b1f1c6a-0000-4000-8000-000000000002", "name": "Example",
            "organization_type": "claude_max", "billing_type": "stripe_subscription",
            "rate_limit_tier": "default_claude_max_20x", "has_extra_usage_enabled": false},
    })
}

pub(crate) fn message(world: &World, ask: &Ask) -> Reply {
    let prompt = ask.document();
    let content = content(world, &prompt);
    let stop = if content["type"] == "tool_use" {
        "tool_use"
    } else {
        "end_turn"
    };
    let head = |content: Vec<Value>, stop: Value| {
        json!({"id": "msg_fake", "type": "message", "role": "assistant", "model": prompt["model"],
            "content": content, "stop_reason": stop, "stop_sequence": null,
            "usage": {"input_tokens": 11, "output_tokens": 7, "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0}})
    };
    if prompt["stream"] != true {
        return reply::ok(&head(vec![content], json!(stop)));
    }
    let (start, delta) = if stop == "tool_use" {
        let start =
            json!({"type": "tool_use", "id": content["id"], "name": content["name"], "input": {}});
        let input = content["input"].to_string();
        (
            start,
            json!({"type": "input_json_delta", "partial_json": input}),
        )
    } else {
        (
            json!({"type": "text", "text": ""}),
            json!({"type": "text_delta", "text": content["text"]}),
        )
    };
    let events = [
        json!({"type": "message_start", "message": head(Vec::new(), Value::Null)}),
        json!({"type": "content_block_start", "index": 0, "content_block": start}),
        json!({"type": "content_block_delta", "index": 0, "delta": delta}),
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "message_delta", "delta": {"stop_reason": stop, "stop_sequence": null},
            "usage": {"output_tokens": 7}}),
        json!({"type": "message_stop"}),
    ];
    reply::events(
        events
            .iter()
            .map(|event| (event["type"].as_str(), event.to_string())),
    )
}

/// The fixed text, or the use of a tool where the behaviour asks for one and none was used yet.
fn content(world: &World, prompt: &Value) -> Value {
    let offered = |name: &str| {
        let tools = prompt["tools"].as_array().into_iter().flatten();
        tools.into_iter().any(|tool| tool["name"] == name)
    };
    let used = prompt["messages"].to_string().contains("\"tool_result\"");
    if world.behaviour.tool && offered("Bash") && !used {
        return json!({"type": "tool_use", "id": "toolu_fake", "name": "Bash",
            "input": {"command": TOOL_COMMAND, "description": "show the login"}});
    }
    json!({"type": "text", "text": world.behaviour.answer})
}
