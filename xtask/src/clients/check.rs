//! What must be so after a run: the answer, the real token at the fakes and nowhere else.

use agent_vm_test_support::canary::Canary;
use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::case::{Case, Seen, Special};
use super::outcome::Outcome;
use super::run::{ANSWER, Places};
use super::watch::Watch;

/// Checks everything; what is wrong is added to the outcome.
///
/// # Errors
/// When what the run left cannot be read.
pub(crate) fn all(
    case: &Case,
    places: &Places,
    (requests, watch, marker): (&[Value], &Watch, &Canary),
    outcome: &mut Outcome,
) -> Result<()> {
    let stdout = fs_err::read_to_string(places.said.join("stdout")).unwrap_or_default();
    if !stdout.contains(ANSWER) {
        outcome
            .problems
            .push("the answer was not printed".to_owned());
    }
    for seen in &case.seen {
        if !requests.iter().any(|request| is(seen, request, case)) {
            let Seen {
                host, path, header, ..
            } = seen;
            outcome.problems.push(format!(
                "no request to {host}{path} had the real token in {header}"
            ));
        }
    }
    at_the_fakes(case, requests, outcome);
    in_the_guest(case, places, watch, outcome)?;
    for (found, place) in [
        (
            watch.search(marker).is_empty(),
            "environment of the processes",
        ),
        (marker.search_tree(&places.project)?.is_empty(), "project"),
    ] {
        if found {
            outcome.problems.push(format!(
                "the search does not find the marker in the {place}"
            ));
        }
    }
    special(case, places, requests, outcome)
}

/// Whether this request is the one, with a token of the case where it belongs.
fn is(seen: &Seen, request: &Value, case: &Case) -> bool {
    let Some(value) = request["headers"][seen.header].as_str() else {
        return false;
    };
    let place = request["sni"] == seen.host
        && request["path"]
            .as_str()
            .is_some_and(|path| path.starts_with(seen.path));
    let token = case.logins.iter().any(|login| {
        let value = if seen.scheme == "Basic" {
            basic(value).unwrap_or_default()
        } else {
            value
                .strip_prefix(seen.scheme)
                .unwrap_or_default()
                .to_owned()
        };
        // A renewed token contains what is searched for of the first one.
        value.contains(login.canary.token())
    });
    place
        && token
        && request["status"]
            .as_u64()
            .is_some_and(|status| status < 400)
}

fn basic(value: &str) -> Option<String> {
    let encoded = value.strip_prefix("Basic ")?;
    String::from_utf8(STANDARD.decode(encoded).ok()?).ok()
}

/// No real token in any other place of a request than the header it belongs in, or the renewal's body.
fn at_the_fakes(case: &Case, requests: &[Value], outcome: &mut Outcome) {
    for request in requests {
        let mut rest = request.clone();
        let mut carried = false;
        if let Some(headers) = rest["headers"].as_object_mut() {
            for header in ["authorization", "x-api-key", "x-goog-api-key"] {
                let value = headers.remove(header);
                let value = value.as_ref().and_then(Value::as_str).unwrap_or_default();
                carried |= case.canaries().any(|canary| canary.is_in(value));
            }
        }
        if is_renewal(request) {
            rest["body"] = Value::Null;
        }
        outcome.with_token += usize::from(carried);
        if case
            .canaries()
            .any(|canary| canary.is_in(&rest.to_string()))
        {
            outcome.problems.push(format!(
                "a real token is in the wrong place of {} {}",
                request["sni"], request["path"]
            ));
        }
    }
}

/// Whether a login was to be renewed by this request.
fn is_renewal(request: &Value) -> bool {
    let place = (request["sni"].as_str(), request["path"].as_str());
    matches!(
        place,
        (Some("platform.claude.com"), Some("/v1/oauth/token"))
            | (Some("auth.openai.com"), Some("/oauth/token"))
            | (Some("oauth2.googleapis.com"), Some("/token"))
    )
}

fn in_the_guest(case: &Case, places: &Places, watch: &Watch, outcome: &mut Outcome) -> Result<()> {
    for canary in case.canaries() {
        let mut found = Vec::new();
        for tree in [&places.guest, &places.project, &places.said] {
            found.extend(
                canary
                    .search_tree(tree)?
                    .into_iter()
                    .map(|sighting| sighting.place),
            );
        }
        // The launcher's own: audit log, session, usage.
        for own in [".local/state", ".cache", ".local/share/agent-vm"] {
            let own = places.host.join(own);
            if own.is_dir() {
                found.extend(
                    canary
                        .search_tree(&own)?
                        .into_iter()
                        .map(|sighting| sighting.place),
                );
            }
        }
        found.extend(watch.search(canary));
        found.dedup();
        if !found.is_empty() {
            outcome
                .problems
                .push(format!("the real token was found in {}", found.join(", ")));
        }
    }
    Ok(())
}

fn special(case: &Case, places: &Places, requests: &[Value], outcome: &mut Outcome) -> Result<()> {
    match case.special {
        Special::None => {}
        Special::NoWebSocket => {
            if !requests.iter().any(|request| request["status"] == 426) {
                outcome
                    .problems
                    .push("no WebSocket was asked for".to_owned());
            }
        }
        Special::Tool => {
            let carried = requests
                .iter()
                .filter_map(|request| request["body"].as_str());
            let results = carried.filter(|body| body.contains("tool_result"));
            if !results
                .into_iter()
                .any(|body| body.contains("sk-ant-oat01-"))
            {
                outcome
                    .problems
                    .push("no prompt carried the login that the tool showed".to_owned());
            }
        }
        Special::NotRenewed => {
            if requests.iter().any(is_renewal) {
                outcome.problems.push("the issuer was asked".to_owned());
            }
        }
        Special::Renewed(path) => renewed(case, places, (path, requests), outcome)?,
    }
    Ok(())
}

/// The login of this file was renewed once, is used, and is in the file.
fn renewed(
    case: &Case,
    places: &Places,
    (path, requests): (&str, &[Value]),
    outcome: &mut Outcome,
) -> Result<()> {
    let renewals: Vec<_> = requests
        .iter()
        .filter(|request| is_renewal(request))
        .collect();
    if renewals.len() != 1 || renewals[0]["status"] != 200 {
        outcome
            .problems
            .push(format!("{} renewals", renewals.len()));
    }
    let next = |canary: &Canary| format!("{}Next", canary.token());
    let uses = |request: &&Value| {
        let value = request["headers"]["authorization"].as_str();
        let mut logins = case.logins.iter();
        logins.any(|login| value.is_some_and(|value| value.ends_with(&next(&login.canary))))
    };
    if !requests.iter().filter(uses).any(|request| {
        request["status"]
            .as_u64()
            .is_some_and(|status| status < 400)
    }) {
        outcome
            .problems
            .push("nothing was asked with the new login".to_owned());
    }
    let file = fs_err::read_to_string(places.host.join(path))?;
    if !case.canaries().all(|canary| file.contains(&next(canary))) {
        outcome
            .problems
            .push(format!("~/{path} does not hold the new login"));
    }
    Ok(())
}
