//! GitHub: the REST and GraphQL bits `gh` asks for, Copilot, and git over HTTPS by git's own back end.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::{Value, json};

use super::accounts::Service;
use super::openai::{chat_completion, response};
use super::reply::{self, Reply};
use super::{Ask, World};

/// GitHub's own mark on every answer; clients look for it.
const REQUEST_ID: &str = "x-github-request-id";

/// Answers for api.github.com.
pub(crate) fn api(world: &World, ask: &Ask) -> Reply {
    let accepted = world.accept(Service::GitHub, ask);
    let answered = match ask.path.as_str() {
        _ if !accepted => {
            let error = json!({"message": "Bad credentials", "status": "401"});
            reply::json(StatusCode::UNAUTHORIZED, &error)
        }
        "/user" => reply::ok(&user()),
        "/graphql" => reply::ok(&json!({"data": {"viewer": {"login": LOGIN}}})),
        "/copilot_internal/user" => reply::ok(&copilot_user()),
        _ => reply::json(
            StatusCode::NOT_FOUND,
            &json!({"message": "Not Found", "status": "404"}),
        ),
    };
    reply::with(answered, REQUEST_ID, "FAKE:1:2:3")
}

/// The login of the one user.
pub const LOGIN: &str = "canary-user";

fn user() -> Value {
    json!({"login": LOGIN, "id": 1, "type": "User", "name": "A Person", "email": null})
}

fn copilot_user() -> Value {
    let quota = |id: &str| {
        json!({"quota_id": id, "entitlement": 300, "remaining": 300, "quota_remaining": 300.0,
            "percent_remaining": 100.0, "unlimited": true, "overage_count": 0, "overage_permitted": false})
    };
    json!({
        "login": LOGIN, "access_type_sku": "monthly_subscriber", "analytics_tracking_id": "fake",
        "assigned_date": null, "can_signup_for_limited": false, "chat_enabled": true,
        "cli_enabled": true, "is_mcp_enabled": true, "copilot_plan": "individual", "organization_list": [],
        "organization_login_list": [],
        "endpoints": {"api": "https://api.individual.githubcopilot.com",
            "origin-tracker": "https://origin-tracker.individual.githubcopilot.com",
            "proxy": "https://proxy.individual.githubcopilot.com",
            "telemetry": "https://telemetry.individual.githubcopilot.com"},
        "quota_reset_date": "2030-01-01", "quota_reset_date_utc": "2030-01-01T00:00:00.000Z",
        "quota_snapshots": {"chat": quota("chat"), "completions": quota("completions"),
            "premium_interactions": quota("premium_interactions")},
    })
}

/// Answers for api.individual.githubcopilot.com.
pub(crate) fn copilot(world: &World, ask: &Ask) -> Reply {
    if !world.accept(Service::GitHub, ask) {
        let error = json!({"error": {"message": "unauthorized"}});
        return reply::with(
            reply::json(StatusCode::UNAUTHORIZED, &error),
            REQUEST_ID,
            "FAKE:1:2:4",
        );
    }
    let answered = match ask.path.as_str() {
        "/models" => {
            let models = ["gpt-5-mini", "gpt-4.1", "claude-sonnet-4.5"].map(model);
            reply::ok(&json!({"object": "list", "data": models}))
        }
        "/chat/completions" => chat_completion(&world.behaviour.answer, ask),
        "/responses" => {
            let events = response(&world.behaviour.answer, &ask.document());
            reply::events(
                events
                    .iter()
                    .map(|event| (event["type"].as_str(), event.to_string())),
            )
        }
        "/v1/messages" => super::anthropic::message(world, ask),
        _ => reply::not_found(),
    };
    reply::with(answered, REQUEST_ID, "FAKE:1:2:5")
}

fn model(id: &str) -> Value {
    json!({"id": id, "name": id, "object": "model", "vendor": "fake", "version": id, "preview": false,
        "model_picker_enabled": true, "is_chat_default": id == "gpt-5-mini", "is_chat_fallback": id == "gpt-4.1",
        "policy": {"state": "enabled", "terms": ""},
        "billing": {"is_premium": false, "multiplier": 0},
        "supported_endpoints": ["/chat/completions"],
        "capabilities": {"family": id, "object": "model_capabilities", "tokenizer": "o200k_base", "type": "chat",
            "limits": {"max_context_window_tokens": 128_000, "max_output_tokens": 16_000,
                "max_prompt_tokens": 128_000},
            "supports": {"parallel_tool_calls": true, "streaming": true, "structured_outputs": true,
                "tool_calls": true, "vision": false}}})
}

/// Whether this request may read and write the repositories; otherwise what says that a login is needed.
pub(crate) fn git_login(world: &World, ask: &Ask) -> Option<Reply> {
    if world.accept(Service::GitHub, ask) {
        return None;
    }
    let asked = reply::bytes(
        StatusCode::UNAUTHORIZED,
        "text/plain",
        "no anonymous access\n",
    );
    Some(reply::with(
        asked,
        "www-authenticate",
        "Basic realm=\"GitHub\"",
    ))
}

/// Answers a request of git for a repository below `root` (gitprotocol-http(5)) by `git http-backend`. Blocks.
pub(crate) fn git(root: &Path, ask: &Ask) -> Reply {
    match backend(root, ask) {
        Ok(answer) => answer,
        Err(error) => {
            let text = format!("{error:#}\n");
            reply::bytes(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", text)
        }
    }
}

fn backend(root: &Path, ask: &Ask) -> Result<Reply> {
    let header = |name: &str| {
        let value = ask.headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let mut command = Command::new("git");
    command
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "safe.directory")
        .env("GIT_CONFIG_VALUE_0", "*")
        .env("REMOTE_USER", LOGIN)
        .env("REMOTE_ADDR", "127.0.0.1")
        .env("REQUEST_METHOD", ask.method.as_str())
        .env("PATH_INFO", &ask.path)
        .env("QUERY_STRING", &ask.query)
        .env("CONTENT_TYPE", header("content-type"))
        .env("CONTENT_LENGTH", ask.body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("GIT_PROTOCOL", header("git-protocol"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.spawn().context("cannot start git")?;
    let mut stdin = child.stdin.take().context("standard input is a pipe")?;
    let body = ask.body.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&body));
    let output = child.wait_with_output()?;
    let _written = writer.join();
    from_cgi(&output.stdout)
}

/// An answer in the form of RFC 3875.
fn from_cgi(output: &[u8]) -> Result<Reply> {
    let end = memchr::memmem::find(output, b"\r\n\r\n").context("git gave no head")?;
    let head = std::str::from_utf8(&output[..end])?;
    let body = output[end + 4..].to_vec();
    let mut answer = reply::bytes(StatusCode::OK, "application/octet-stream", body);
    for line in head.lines() {
        let (name, value) = line.split_once(':').context("a header has a colon")?;
        let value = value.trim();
        if name.eq_ignore_ascii_case("status") {
            let code = value.split(' ').next().unwrap_or_default();
            *answer.status_mut() = code.parse()?;
        } else {
            let name: HeaderName = name.parse()?;
            answer
                .headers_mut()
                .insert(name, HeaderValue::from_str(value)?);
        }
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_form_of_common_gateways() {
        let answer = from_cgi(b"Status: 404 Not Found\r\nX-A: b c\r\n\r\nbody").unwrap();
        assert_eq!(answer.status(), StatusCode::NOT_FOUND);
        assert_eq!(answer.headers()["x-a"], "b c");
        assert!(from_cgi(b"nothing").is_err());
    }
}
